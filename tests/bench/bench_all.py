"""The whole comparison: what this machine can do, what Realm makes of it in each host, and peers beside it.

    python3 -m realm_build bench [--quick] [--models 110m-q8_0,1.1b-q4_k_m,1.1b-q8_0] [--rounds 3]
        [--only core,node] [--no-peers] [--llama-bench PATH] [--seconds 50] [--out build/bench/report]

A round runs every piece (tests/bench/pieces.py) once, in turn; the table has medians of the ratios of each
round, because a machine changes its speed from minute to minute. Each piece's figures are written when it
ends, so that a run that was interrupted, or cut by --seconds, goes on when the command is given again, or
anew with --again. Nothing is measured while other processes are busy. Written: results.json, table.md,
profile.txt, speed.svg.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.bench import pieces, quietness, report, targets  # noqa: E402

WAITS, WAIT_SECONDS = 20, 3.0


class Noisy(Exception):
    """The machine did not become quiet."""


def main() -> int:
    options = parse()
    models = options.models.split(",") if options.models else list(targets.TITLES)
    if options.quick:
        models = models if options.models else [targets.SMALL]
    setup = pieces.Setup(
        models,
        options.peers,
        options.threads,
        pieces.QUICK if options.quick else pieces.Counts(),
        options.llama_bench,
    )
    options.out.mkdir(parents=True, exist_ok=True)
    pieces.prepare(setup)
    if options.prepare:
        return 0
    state = load_state(options)
    try:
        left = play(setup, state, options)
    except Noisy as problem:
        print(f"error: {problem}; close them, or measure all the same with --noisy", file=sys.stderr)
        return 1
    show(setup, state["rounds"], options.out)
    if left:
        print(f"{left} pieces are left: give the same command again")
    return 0


def parse() -> argparse.Namespace:
    alone = sorted(
        path.stem.removeprefix("bench_") for path in Path(__file__).parent.glob("bench_[!a]*.[pc]*")
    )
    parser = argparse.ArgumentParser(
        prog="python3 -m realm_build bench",
        description="Realm, its peers and this machine's limits: a table with the targets, JSON and a plot.",
        epilog=f"One thing alone: bench NAME, for which --help says more. NAME: {', '.join(alone)}.",
    )
    parser.add_argument(
        "--quick", action="store_true", help="the small model, few tokens: some seconds a piece"
    )
    parser.add_argument("--models", help="names of tests/bench/make_models.py or GGUF files, with commas")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--rounds", type=int, help="default 3, or 1 with --quick")
    parser.add_argument("--only", help="beginnings of pieces' names, with commas: limits,core/1.1b,browser")
    parser.add_argument("--no-peers", dest="peers", action="store_false", help="Realm alone")
    parser.add_argument("--llama-bench", type=Path, help="llama.cpp's own benchmark, where it was built")
    parser.add_argument(
        "--seconds", type=float, help="begin no piece that would probably end later than this"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "bench" / "report")
    parser.add_argument("--again", action="store_true", help="forget what was measured before")
    parser.add_argument("--noisy", action="store_true", help="measure although other processes are busy")
    parser.add_argument("--prepare", action="store_true", help="only make what is needed, measure nothing")
    options = parser.parse_args()
    if options.rounds is None:
        options.rounds = 1 if options.quick else 3
    return options


# ---- rounds ----


def load_state(options: argparse.Namespace) -> dict[str, Any]:
    path = options.out / "results.json"
    if path.exists() and not options.again:
        return dict(json.loads(path.read_text()))
    return {"machine": machine(), "rounds": [], "seconds": {}}


def play(setup: pieces.Setup, state: dict[str, Any], options: argparse.Namespace) -> int:
    """Runs what is missing; returns how many pieces are left because time was up."""
    began, left = time.monotonic(), 0
    while len(state["rounds"]) < options.rounds:
        state["rounds"].append({})
    for number, found in enumerate(state["rounds"][: options.rounds], 1):
        for name in pieces.names(setup):
            if name in found or not wanted(name, options.only):
                continue
            expected = state["seconds"].get(name, 0.0)
            if left or (options.seconds and time.monotonic() - began + expected > options.seconds):
                left += 1
                continue
            play_piece(name, setup, state, found, options)
            print(f"round {number}: {name} in {state['seconds'][name]:.1f} s", file=sys.stderr, flush=True)
    return left


def wanted(name: str, only: str | None) -> bool:
    return only is None or any(name.startswith(beginning) for beginning in only.split(","))


def play_piece(
    name: str, setup: pieces.Setup, state: dict[str, Any], found: targets.Round, options: argparse.Namespace
) -> None:
    noise = wait_for_quiet(patient=not options.noisy)
    began = time.monotonic()
    found[name] = pieces.play(name, setup)
    state["seconds"][name] = time.monotonic() - began
    if noise:
        state.setdefault("noise", []).append(f"{name}: {noise}")
        print(f"WARNING, these figures mean little: {noise}", file=sys.stderr)
    path = options.out / "results.json"
    path.with_suffix(".part").write_text(json.dumps(state, indent=1) + "\n")
    path.with_suffix(".part").replace(path)


def wait_for_quiet(patient: bool) -> str | None:
    """What disturbs; an error where it does not end and was not asked for."""
    noise = quietness.disturbance()
    for _ in range(WAITS if patient else 0):
        if noise is None:
            return None
        time.sleep(WAIT_SECONDS)
        noise = quietness.disturbance()
    if noise and patient:
        raise Noisy(noise)
    return noise


# ---- results ----


def show(setup: pieces.Setup, rounds: list[targets.Round], out: Path) -> None:
    files = {model: setup.file(model) for model in setup.models}
    lines = report.table(targets.results(rounds, files))
    measured = next((found for found in rounds if "limits" in found), rounds[0] if rounds else {})
    profiles = report.profiles(measured, setup.models)
    (out / "table.md").write_text(report.markdown(lines) + "\n")
    (out / "profile.txt").write_text(profiles.lstrip() + "\n")
    (out / "speed.svg").write_text(report.plot(measured, setup.models))
    print(
        f"{machine()}; {len(rounds)} round(s), {setup.threads} threads",
        limits(measured),
        profiles,
        "",
        sep="\n",
    )
    print(report.text(lines))
    print(f"\nwritten to {out}")


def limits(found: targets.Round) -> str:
    """The machine's limits in one line."""
    measured = found.get("limits", {})
    widths = [
        f"{float(rate) / 1e9:.1f} GB/s with {threads}"
        for threads, rate in measured.get("bandwidth", {}).items()
    ]
    peaks = [f"{name} {float(rate) / 1e12:.2f} T/s" for name, rate in measured.get("peaks", {}).items()]
    return f"reads {', '.join(widths)} thread(s); operations: {', '.join(peaks) or 'not known'}"


def machine() -> str:
    name = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), name)
    return f"{name}, {os.cpu_count()} processors, {platform.system()} {platform.release()}"


if __name__ == "__main__":
    sys.exit(main())
