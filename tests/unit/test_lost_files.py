"""Model files that are cut short while they are mapped: typed errors, and the process goes on.

The requests run in a process of their own, once with Python's faulthandler enabled before the model is
loaded, once after, once not at all; wasmtime, which has signal handlers of its own, runs the guests there.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from realm._library import ffi

from tests.unit.core_api import Context, CoreError, Runtime, check

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "demo_model" / "realm-demo.gguf"
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows keeps mapped files whole")

PROGRAM = """
import faulthandler, os, sys, threading
from realm import Realm, RealmError, Runtime
from tests.unit.wat_guests import TRAP, guest

path, enabled = sys.argv[1:]
if enabled == "before":
    faulthandler.enable()

def code(action):
    try:
        action()
    except RealmError as error:
        return error.code
    return "none"

def trap():
    with Runtime() as runtime:
        return code(lambda: runtime.load_wasm(guest(poll=TRAP)).run("x"))

with Realm() as whole, Realm(path) as cut, Realm(path) as other:
    assert trap() == "guest-trap"
    if enabled == "after":
        faulthandler.enable()
    long = dict(max_tokens=100000, ignore_end=True, temperature=0)
    streams = [realm.stream("The capital", **{**long, "max_tokens": 400}) for realm in (cut, other)]
    for stream in streams:
        next(stream)
    os.truncate(path, int(os.path.getsize(path) / 3))
    codes = {code(lambda stream=stream: list(stream)) for stream in streams}
    assert codes == {"io"}, codes
    found = []
    ask = lambda: found.append(code(lambda: cut.generate("The")))
    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == ["io"] * 4, found
    assert code(lambda: cut.logits([1, 2, 3])) == "io"
    if enabled != "after":  # put above wasmtime's handlers, faulthandler makes every trap fatal
        assert trap() == "guest-trap"
    answer = whole.chat([{"role": "user", "content": "What is the capital of France?"}], temperature=0)
    assert answer.text == "The capital of France is Paris.", answer
    assert code(lambda: Realm(path)) == "invalid-gguf"
print("alive")
"""


@pytest.mark.parametrize("enabled", ["never", "before", "after"])
def test_requests_on_a_file_cut_short_fail_and_the_process_lives(tmp_path: Path, enabled: str) -> None:
    path = shutil.copy(DEMO, tmp_path / "model.gguf")
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'host_python'}{os.pathsep}{ROOT}"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(path), enabled],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0 and done.stdout == "alive\n", done.stdout + done.stderr


@pytest.mark.parametrize("stages", [0, 1, 2])
@pytest.mark.parametrize("kept", [0.0, 0.02, 0.5])
def test_a_file_cut_short_while_it_loads_is_refused(tmp_path: Path, stages: int, kept: float) -> None:
    path = Path(shutil.copy(DEMO, tmp_path / "model.gguf"))
    with Runtime(threads=1) as rt:
        loader, progress, model = ffi.new("realm_loader **"), ffi.new("float *"), ffi.new("realm_model **")
        check(rt.lib.realm_loader_begin(rt.handle, str(path).encode(), ffi.NULL, loader, rt.err), rt.err)
        for _ in range(stages):
            check(rt.lib.realm_loader_step(loader[0], progress, rt.err), rt.err)
        os.truncate(path, int(path.stat().st_size * kept))
        status = 0
        while status == 0 and progress[0] < 1.0:
            status = rt.lib.realm_loader_step(loader[0], progress, rt.err)
        if status != 0:
            rt.lib.realm_loader_abandon(loader[0])
            with pytest.raises(CoreError, match="^io: .*load it again"):
                check(status, rt.err)
        else:  # nothing of what is gone was needed yet: the first step finds out
            check(rt.lib.realm_loader_finish(loader[0], model, rt.err), rt.err)
            ctx = Context(rt, model[0])
            with pytest.raises(CoreError, match="^io: "):
                ctx.forward_logits(ctx.open(), [1, 2, 3])
            ctx.close()
            rt.close_model(model[0])


def test_tensors_of_a_file_cut_short_fail(tmp_path: Path) -> None:
    path = Path(shutil.copy(DEMO, tmp_path / "model.gguf"))
    with Runtime(threads=1) as rt:
        model = rt.load(path)
        ctx = Context(rt, model)
        weight, ones = ctx.weight("output_norm.weight"), ctx.tensor(np.ones((1, 1), dtype=np.float32))
        assert np.any(ctx.read(weight))
        os.truncate(path, 0)
        with pytest.raises(CoreError, match="^io: "):
            ctx.read(weight)
        with pytest.raises(CoreError, match="^io: "):
            ctx.product(ones, weight, transposed=False)
        ctx.close()
        rt.close_model(model)
