"""The command line of the build tool: `python3 -m realm_build COMMAND`.

Every command first makes sure of the virtual environment in build/venv (see bootstrap) and then runs in
it, so this module imports the commands only inside their functions.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys

from . import bootstrap
from .paths import ROOT, BuildError

QUESTION = "What is the capital of France?"


def main(arguments: list[str]) -> int:
    options = parser().parse_args(name_benchmark(arguments))
    try:
        bootstrap.enter(arguments)
        status: int = options.run(options)
        return status
    except BuildError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def name_benchmark(arguments: list[str]) -> list[str]:
    """`bench --quick` is `bench all --quick`: argparse would take the option for one of its own."""
    if arguments[:1] == ["bench"] and (len(arguments) == 1 or arguments[1].startswith("-")):
        return ["bench", "all", *arguments[1:]]
    return arguments


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python3 -m realm_build", description="Build, check and test Realm.")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    commands.add_parser("demo", help="set up, build, and ask the demo model a question").set_defaults(
        run=demo
    )

    build = commands.add_parser(
        "build", help="compile the native core, the WebAssembly guests and the Node package"
    )
    build.add_argument(
        "--target", metavar="NAME", help="cross-compile the core and the addon, e.g. linux-arm64, windows-x64"
    )
    build.add_argument("--sanitize", action="store_true", help="also build the core with ASan and UBSan")
    build.set_defaults(run=build_all)

    generate = commands.add_parser("gen", help="make the bindings from guest_src/realm.wit")
    generate.set_defaults(run=generate_bindings)

    check = commands.add_parser("check", help="format, lint, types, generated files, dependency direction")
    check.set_defaults(run=check_all)

    test = commands.add_parser("test", help="set up, build, check, and run every test on every host")
    test.add_argument("--only", metavar="STEP", action="append", help="run only this step (may be repeated)")
    test.set_defaults(run=run_tests)

    web = commands.add_parser("web", help="build the demo page and serve it on this machine")
    web.add_argument("--port", type=int, default=8080)
    web.add_argument("--plain", action="store_true", help="without the headers that give a page threads")
    web.set_defaults(run=serve_web)

    bench = commands.add_parser("bench", help="run the benchmarks of tests/bench")
    bench.add_argument(
        "name", nargs="?", default="all", help="one benchmark; without it, the whole comparison"
    )
    bench.add_argument("rest", nargs=argparse.REMAINDER, help="arguments of the benchmark")
    bench.set_defaults(run=run_bench)

    fuzz = commands.add_parser("fuzz", help="fuzz the readers of untrusted bytes under sanitizers")
    fuzz.add_argument("--seconds", type=int, default=600, help="time for all targets together (default 600)")
    fuzz.add_argument("--target", metavar="NAME", action="append", help="only tests/fuzz/fuzz_NAME.c")
    fuzz.set_defaults(run=run_fuzz)

    isolation = commands.add_parser(
        "isolation", help="mixed requests of many tenants: nothing of one may reach another"
    )
    isolation.add_argument("--requests", type=int, default=100_000)
    isolation.add_argument("--seed", type=int, default=1)
    isolation.add_argument(
        "--record", metavar="FILE", help="JSON file that sums up the parts of a longer run"
    )
    isolation.add_argument(
        "--processes", type=int, default=1, help="side by side, each with a seed of its own"
    )
    isolation.set_defaults(run=run_isolation)

    soak = commands.add_parser("soak", help="mixed load on one server: its memory must stay flat")
    soak.add_argument("--seconds", type=float, default=600.0)
    soak.set_defaults(run=run_soak)

    package = commands.add_parser("package", help="make wheels, npm tarballs and the source archive in dist/")
    package.add_argument(
        "--target", metavar="NAME", action="append", help="platform, e.g. macos-arm64; or `all`"
    )
    package.set_defaults(run=run_package)
    return top


# ---- the commands ----


def demo(options: argparse.Namespace) -> int:
    build_host()
    command = ["generate", QUESTION, "--max-tokens", "32", "--temperature", "0"]
    print(f'[demo] realm {" ".join(command[:1])} "{QUESTION}"', flush=True)
    return subprocess.call([sys.executable, "-m", "realm", *command], cwd=ROOT)


def build_all(options: argparse.Namespace) -> int:
    from . import native, node, toolchain, wasm

    if options.target:
        target = toolchain.find_target(options.target)
        print(native.build_library(target), node.addon(target), sep="\n")
        return 0
    build_host()
    node.build()
    wasm.build()
    if options.sanitize:
        print(native.build_sanitized())
    return 0


def build_host() -> None:
    from . import guest, native

    native.install_library()
    guest.install_guest()


def generate_bindings(options: argparse.Namespace) -> int:
    from . import gen

    return gen.main(check=False)


def check_all(options: argparse.Namespace) -> int:
    from . import check

    return check.main()


def run_tests(options: argparse.Namespace) -> int:
    from . import testrun

    return testrun.main(options.only)


def serve_web(options: argparse.Namespace) -> int:
    from . import web

    return web.main(options.port, options.plain)


def run_bench(options: argparse.Namespace) -> int:
    from . import bench

    build_host()
    return bench.main(options.name, options.rest)


def run_fuzz(options: argparse.Namespace) -> int:
    from . import fuzz

    return fuzz.main(options.seconds, options.target)


def run_isolation(options: argparse.Namespace) -> int:
    words = ["--requests", options.requests, "--seed", options.seed, "--processes", options.processes]
    return run_module(
        "tests.isolation.canaries", *words, *(("--record", options.record) if options.record else ())
    )


def run_soak(options: argparse.Namespace) -> int:
    return run_module("tests.server.soak", "--seconds", options.seconds)


def run_module(name: str, *words: object) -> int:
    """A program of the tests, on a host that is built."""
    build_host()
    command = [sys.executable, "-m", name, *map(str, words)]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'host_python'}{os.pathsep}{ROOT}"}
    return subprocess.call(command, cwd=ROOT, env=environment)


def run_package(options: argparse.Namespace) -> int:
    from . import package

    return package.main(options.target)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
