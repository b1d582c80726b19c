"""Realm and its process: signals, forks, leaks over many realms, the module cache, and the examples."""

from __future__ import annotations

import gc
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from realm import Realm, Runtime

from tests.unit.long_model import long_model
from tests.unit.wat_guests import TRAP, guest

ROOT = Path(__file__).parents[2]
VECTORS = ROOT / "tests" / "vectors"
CHAIN = VECTORS / "model-chain.gguf"
DEMO = ROOT / "demo_model" / "realm-demo.gguf"
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{ROOT / 'host_python'}{os.pathsep}{ROOT}"}
posix = pytest.mark.skipif(sys.platform == "win32", reason="POSIX only")
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def python(program: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={**ENVIRONMENT, **variables},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@posix
def test_ctrl_c_interrupts_a_blocking_call(tmp_path: Path) -> None:
    program = f"""
import signal, sys
from realm import Realm
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs begin with it ignored
with Realm({str(long_model(tmp_path))!r}) as realm:
    print("ready", flush=True)
    try:
        realm.generate("a", max_tokens=90000, ignore_end=True)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
    print(len(realm.generate("a", max_tokens=3, ignore_end=True).tokens))
"""
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            time.sleep(0.3)
            process.send_signal(signal.SIGINT)
            out, _ = process.communicate(timeout=20)
        finally:
            process.kill()  # or leaving the block would wait for it
    assert out == "interrupted\n3\n"
    assert process.returncode == 0


@posix
def test_a_forked_child_gets_a_clear_error_and_can_start_anew() -> None:
    program = f"""
import os, sys
from realm import Realm, RealmError
realm = Realm({str(CHAIN)!r})
text = realm.generate("1", temperature=0).text
child = os.fork()
if child == 0:
    for call in (lambda: realm.generate("1"), lambda: realm.model.tokenize("1"), lambda: realm.logits([1])):
        try:
            call()
        except RealmError as problem:
            assert problem.code == "closed" and "fork" in problem.message, problem
        else:
            os._exit(1)
    realm.close()
    with Realm({str(CHAIN)!r}) as fresh:
        ok = fresh.generate("1", temperature=0).text == text
    os._exit(0 if ok else 2)
status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
assert realm.generate("1", temperature=0).text == text
realm.close()
sys.exit(status)
"""
    done = python(program)
    assert done.returncode == 0, done.stderr


def resident() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@linux
def test_many_realms_leave_nothing_behind() -> None:
    with Realm(CHAIN) as keep:
        engine = keep._engine

        def round_of(count: int) -> None:
            for _ in range(count):
                with Realm(keep.model) as realm:
                    realm.generate("1", temperature=0, max_tokens=4)
                    next(realm.stream("1", temperature=0))

        round_of(100)
        before, tags = resident(), engine._next_tag
        round_of(400)
        assert resident() - before < 4 << 20
        assert engine._next_tag == tags
        assert not engine.run(lambda: [tag for tag in engine._guests if tag != keep._guest.tag])


@linux
def test_guests_that_die_leave_nothing_behind() -> None:
    def round_of(runtime: Runtime, count: int) -> None:
        for _ in range(count):
            loaded = runtime.load_wasm(module)
            with pytest.raises(Exception, match="trapped|unreachable"):
                loaded.run()
            loaded.close()
            runtime._guests.clear()

    module = guest(poll=TRAP)
    with Runtime() as runtime:
        round_of(runtime, 100)
        before = resident()
        round_of(runtime, 300)
        assert resident() - before < 4 << 20


@linux
def test_idle_realms_are_small() -> None:
    """Under 64 KiB of memory each; a limit of mappings would show here too."""
    with Realm(CHAIN) as keep:
        keep.generate("1", temperature=0)
        warm = [Realm(keep.model) for _ in range(50)]
        before = resident()
        realms = [Realm(keep.model) for _ in range(1000)]
        each = (resident() - before) / len(realms)
        assert realms[-1].generate("1", temperature=0, max_tokens=2).text == " one two"
        for realm in warm + realms:
            realm.close()
    assert each < 64 << 10


@posix
def test_the_module_cache_is_private_and_checked(tmp_path: Path) -> None:
    program = f"""
from realm import Realm
with Realm({str(CHAIN)!r}) as realm:
    print(realm.generate("1", temperature=0).text)
"""
    folder = tmp_path / "cache"
    assert python(program, REALM_CACHE_DIR=str(folder)).returncode == 0
    [cached] = list(folder.iterdir())
    assert stat.S_IMODE(cached.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    first = cached.stat().st_mtime_ns
    assert python(program, REALM_CACHE_DIR=str(folder)).returncode == 0
    assert cached.stat().st_mtime_ns == first

    cached.write_bytes(b"garbage")  # broken: compiled again and replaced
    done = python(program, REALM_CACHE_DIR=str(folder))
    assert done.stdout == " one two, three. fourEND five\n"
    assert cached.stat().st_size > 1000

    cached.write_bytes(b"evil")
    cached.chmod(0o666)  # somebody else could have written it: not read
    folder.chmod(0o777)
    assert python(program, REALM_CACHE_DIR=str(folder)).stdout == " one two, three. fourEND five\n"
    assert cached.read_bytes() == b"evil"


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    program = f"from realm import Realm; Realm({str(CHAIN)!r}).generate('1'); print('fine')"
    assert python(program, REALM_CACHE_DIR=str(blocked / "sub")).stdout == "fine\n"


def test_the_process_ends_with_requests_still_running(tmp_path: Path) -> None:
    model = str(long_model(tmp_path))
    program = f"""
from realm import Realm
realm = Realm({model!r})
stream = realm.stream("a", max_tokens=90000, ignore_end=True)
next(stream)
print("leaving")
"""
    done = python(program)
    assert (done.returncode, done.stdout, done.stderr) == (0, "leaving\n", "")


@pytest.mark.skipif(not DEMO.exists(), reason="the demo model is not there")
@pytest.mark.parametrize("name", ["paris", "streaming", "local_chat", "own_guest"])
def test_examples(name: str) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "python" / f"{name}.py")],
        cwd=ROOT,
        env=ENVIRONMENT,
        input="What is the capital of France?\n",
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert ("likeliest: Paris" if name == "own_guest" else "is Paris.") in done.stdout
