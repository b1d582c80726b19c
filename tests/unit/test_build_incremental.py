"""The build steps: run again when something they read has changed, and only then."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest

from realm_build import incremental
from realm_build.incremental import Step, is_current, parse_depfile, run_steps
from realm_build.paths import BuildError

# Stands for a compiler: joins its inputs, and says in a depfile that it also read header.h.
FAKE_COMPILER = """
import sys
out, dep, *inputs = sys.argv[1:]
open(out, "w").write("".join(open(name).read() for name in inputs))
open(dep, "w").write(out + ": " + " ".join(inputs) + " \\\\\\n header.h\\n")
"""


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(incremental, "ROOT", tmp_path)
    (tmp_path / "cc.py").write_text(FAKE_COMPILER)
    (tmp_path / "a.c").write_text("a")
    (tmp_path / "header.h").write_text("h")
    return tmp_path


def compile_step(root: Path, *flags: str) -> Step:
    command = (sys.executable, "cc.py", "out/a.o", "out/a.d", "a.c", *flags)
    return Step("cc a.c", root / "out/a.o", command, (root / "a.c",), depfile=root / "out/a.d")


def test_runs_once_and_then_not_again(root: Path) -> None:
    assert run_steps([compile_step(root)]) == 1
    assert (root / "out/a.o").read_text() == "a"
    assert run_steps([compile_step(root)]) == 0


def test_a_touched_file_is_not_a_changed_file(root: Path) -> None:
    run_steps([compile_step(root)])
    (root / "a.c").write_text("a")
    assert is_current(compile_step(root))


@pytest.mark.parametrize("name", ["a.c", "header.h"])
def test_changed_source_or_header_runs_it_again(root: Path, name: str) -> None:
    run_steps([compile_step(root)])
    (root / name).write_text("changed")
    assert run_steps([compile_step(root)]) == 1
    assert run_steps([compile_step(root)]) == 0


def test_missing_header_or_output_runs_it_again(root: Path) -> None:
    run_steps([compile_step(root)])
    (root / "header.h").unlink()
    assert not is_current(compile_step(root))
    (root / "header.h").write_text("h")
    assert is_current(compile_step(root))
    (root / "out/a.o").unlink()
    assert not is_current(compile_step(root))


def test_other_flags_another_compiler_or_another_input_run_it_again(root: Path) -> None:
    run_steps([compile_step(root)])
    step = compile_step(root)
    assert not is_current(compile_step(root, "header.h"))
    assert not is_current(Step(step.label, step.output, step.command, step.inputs, "zig 9", step.depfile))
    assert not is_current(Step(step.label, step.output, step.command, (root / "b.c",), depfile=step.depfile))


def test_a_damaged_stamp_runs_it_again(root: Path) -> None:
    run_steps([compile_step(root)])
    (root / "out/a.o.stamp").write_text("{")
    assert not is_current(compile_step(root))


def test_a_failure_is_reported_and_leaves_the_step_stale(root: Path) -> None:
    run_steps([compile_step(root)])
    failing = Step("bad", root / "out/a.o", (sys.executable, "-c", "print('why'); raise SystemExit(1)"), ())
    with pytest.raises(BuildError, match="why"):
        run_steps([failing, compile_step(root, "header.h")])
    assert not is_current(failing)


def test_depfile_with_continuations_spaces_and_phony_targets() -> None:
    text = "out/a.o: core/a.c \\\n  core/my\\ header.h core/b.h\n\ncore/b.h:\n"
    assert parse_depfile(text) == [Path("core/a.c"), Path("core/my header.h"), Path("core/b.h")]


def test_failed_command_is_quoted_for_a_shell(root: Path) -> None:
    command = (sys.executable, "-c", "raise SystemExit(3)")
    with pytest.raises(BuildError) as caught:
        run_steps([Step("bad", root / "x", command, ())])
    assert shlex.join(command) in str(caught.value)
