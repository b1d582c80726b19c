"""Fuzzing: every `tests/fuzz/fuzz_NAME.c` against its corpus, under sanitizers, for a bounded time.

A harness defines LLVMFuzzerTestOneInput and, if it likes, LLVMFuzzerCustomMutator; a `// sources:` line
as in `ctest` names what it is linked with. With clang it runs under libFuzzer (as root clang is installed
by apt); elsewhere `tests/fuzz/standalone_main.c` drives it, blindly, under gcc's sanitizers or zig's.
What crashes is kept in `tests/fuzz/crashes/NAME/` and replayed by every later run.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from . import bootstrap
from .ctest import build_program, environment
from .paths import BUILD, ROOT, BuildError, relative, sources
from .toolchain import Compiler, has_clang, sanitizing_compiler

FUZZ = ROOT / "tests" / "fuzz"
INPUT_TIMEOUT_SECONDS = 10  # for one input: hostile bytes must not cost more than this under sanitizers
MEMORY_LIMIT_MIB = 2048


def main(seconds: int, names: Sequence[str] | None) -> int:
    passed, failed = run(seconds, names)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


def run(seconds: int, names: Sequence[str] | None = None) -> tuple[int, int]:
    """Replays what is kept and fuzzes; the time is shared by the targets. Returns passed and failed."""
    harnesses = find_harnesses(names)
    if not harnesses:
        return 0, 0
    compiler, driver = choose_driver()
    verdicts = [
        fuzz_one(compiler, driver, harness, max(1, seconds // len(harnesses))) for harness in harnesses
    ]
    return verdicts.count(True), verdicts.count(False)


def find_harnesses(names: Sequence[str] | None) -> list[Path]:
    found = {path.stem.removeprefix("fuzz_"): path for path in sources("tests/fuzz/fuzz_*.c")}
    unknown = set(names or []) - set(found)
    if unknown:
        raise BuildError(f"no fuzz target {', '.join(sorted(unknown))}; there are: {', '.join(found)}")
    return [path for name, path in found.items() if not names or name in names]


# ---- the driver: libFuzzer where clang is, else our own ----


def install_clang() -> None:
    """As root on Debian; elsewhere the tests go on with what is there."""
    if has_clang() or not bootstrap.is_root():
        return
    try:
        bootstrap.install_packages({"clang": "tests in C", "libclang-rt-14-dev": "its sanitizers, libFuzzer"})
    except BuildError as error:
        print(f"[fuzz] no clang here, going on without libFuzzer\n{error}", flush=True)
    has_clang.cache_clear()


def choose_driver() -> tuple[Compiler, str]:
    install_clang()
    if has_clang():
        return sanitizing_compiler("fuzzer"), "libfuzzer"
    return sanitizing_compiler(), "standalone"


def build_harness(compiler: Compiler, driver: str, harness: Path) -> Path:
    if driver == "standalone":
        return build_program(compiler, harness, FUZZ / "standalone_main.c")
    return build_program(compiler, harness, link_flags=("-fsanitize=fuzzer",))


# ---- one target ----


def fuzz_one(compiler: Compiler, driver: str, harness: Path, seconds: int) -> bool:
    name = harness.stem.removeprefix("fuzz_")
    try:
        program = build_harness(compiler, driver, harness)
    except BuildError as error:
        print(f"[fuzz] {name}: does not compile\n{error}", flush=True)
        return False
    kept = sources(f"tests/fuzz/crashes/{name}/*", f"tests/fuzz/corpus/{name}/*")
    replayed = replay(program, kept, name)
    print(
        f"[fuzz] {name}: {seconds} s with {driver} and {compiler.sanitizers}, {len(kept)} inputs kept",
        flush=True,
    )
    return replayed and explore(program, driver, name, seconds)


def replay(program: Path, files: Sequence[Path], name: str) -> bool:
    """Runs the kept inputs once each, all in one process."""
    if not files:
        return True
    return run_quietly([str(program), *map(str, files)], f"{name}: replay of kept inputs")


def explore(program: Path, driver: str, name: str, seconds: int) -> bool:
    crashes = FUZZ / "crashes" / name
    found = BUILD / "fuzz" / name  # inputs that reached new code: useful for a next run, not worth committing
    found.mkdir(parents=True, exist_ok=True)
    crashes.mkdir(parents=True, exist_ok=True)
    folders = [str(found), *([str(FUZZ / "corpus" / name)] if (FUZZ / "corpus" / name).is_dir() else [])]
    if driver == "libfuzzer":
        options = [
            f"-max_total_time={seconds}", f"-timeout={INPUT_TIMEOUT_SECONDS}",
            f"-rss_limit_mb={MEMORY_LIMIT_MIB}", f"-artifact_prefix={crashes}/", "-print_final_stats=1",
        ]  # fmt: skip
    else:
        options = [f"--seconds={seconds}", f"--timeout={INPUT_TIMEOUT_SECONDS}", f"--artifacts={crashes}/"]
    passed = run_quietly(
        [str(program), *options, *folders], f"{name}: fuzzing", log=found.parent / f"{name}.log"
    )
    if crashes.exists() and not any(crashes.iterdir()):
        crashes.rmdir()
    return passed


def run_quietly(command: Sequence[str], what: str, log: Path | None = None) -> bool:
    """Shows the end of the output only when the command fails."""
    done = subprocess.run(
        command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env=environment(), check=False,
    )  # fmt: skip
    if log:
        log.write_bytes(done.stdout)
    if done.returncode != 0:
        print(f"[fuzz] {what} FAILED\n{done.stdout.decode(errors='replace')[-3000:]}", flush=True)
    elif log:
        print(f"[fuzz] {what}: {last_statistics(done.stdout)} ({relative(log)})", flush=True)
    return done.returncode == 0


def last_statistics(output: bytes) -> str:
    """The drivers end with a line `stat::number_of_executed_units: N`."""
    for line in output.decode(errors="replace").splitlines():
        if "number_of_executed_units" in line:
            return f"{line.split(':')[-1].strip()} runs, nothing found"
    return "nothing found"
