"""Realm beside node-llama-cpp (prebuilt llama.cpp) on one model, in turn, several rounds.

Measured: load, first token of a short prompt, prefill, decode. A round gives one ratio for each; their median
and spread are the result.

    python3 -m realm_build bench peers [--model FILE] [--threads 2] [--rounds 5] [--json FILE]

The peer is installed by npm into build/bench/node the first time. Close everything else before.
Ratios above 1 mean that Realm is faster. Realm runs as its command `realm bench`, each side in a new process,
and all but load is measured warm. "Load" ends when work can be submitted: Realm then has mapped the file and
reads it while it computes, the peer has also rearranged the weights in memory.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
NODE = ROOT / "build" / "bench" / "node"
VERSION = "3.22.1"
FIRST, DECODE, PREFILLS = 32, 128, (512, 128)
ROUND_SECONDS = 1200

Round = dict[str, float]  # measure -> seconds, or tokens/s


@dataclass(frozen=True)
class Measure:
    name: str
    title: str
    is_rate: bool

    def ratio(self, ours: Round, theirs: Round) -> float:
        mine, other = ours[self.name], theirs[self.name]
        return mine / other if self.is_rate else other / mine


MEASURES = (
    Measure("load", "load, s", False),
    Measure("first", f"first token of {FIRST}, s", False),
    *(Measure(f"prefill{length}", f"prefill {length}, tokens/s", True) for length in PREFILLS),
    Measure("decode", f"decode {DECODE}, tokens/s", True),
)


# ---- one round of each ----


def realm_round(model: Path, threads: int) -> Round:
    decode = realm_bench(model, threads, FIRST, DECODE)
    result = {
        "load": decode["load_seconds"],
        "first": decode["first_token_seconds"]["median"],
        "decode": decode["generation_tokens_per_second"]["median"],
    }
    for length in PREFILLS:
        rates = realm_bench(model, threads, length, 1)["prompt_tokens_per_second"]
        result[f"prefill{length}"] = rates["median"]
    return result


def realm_bench(model: Path, threads: int, prompt: int, generated: int) -> dict[str, Any]:
    counts = ["-t", str(threads), "-p", str(prompt), "-n", str(generated), "-r", "1"]
    found = run(
        [sys.executable, "-m", "realm", "bench", "-m", str(model), *counts, "--json"], ROOT / "host_python"
    )
    return dict(found)


def llama_round(model: Path, threads: int) -> Round:
    script = NODE / "peer_llama.mjs"
    lengths = ",".join(map(str, PREFILLS))
    found = run(["node", str(script), str(model), str(threads), lengths, str(DECODE), str(FIRST)], NODE)
    return {
        "load": found["load_s"],
        "first": found["first_token_s"],
        "decode": found["decode"],
        **{f"prefill{length}": found["prefill"][str(length)] for length in PREFILLS},
    }


def run(command: list[str], folder: Path) -> Any:
    """The JSON on the last line of the output."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=ROUND_SECONDS)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr or done.stdout}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def install_peer() -> None:
    """Only what runs: no build scripts, and of the prebuilt packages the one for this CPU."""
    if not shutil.which("node") or not shutil.which("npm"):
        raise SystemExit("node and npm are needed to run node-llama-cpp")
    NODE.mkdir(parents=True, exist_ok=True)
    shutil.copy(HERE / "peer_llama.mjs", NODE)
    installed = NODE / "node_modules" / "node-llama-cpp" / "package.json"
    if installed.exists() and json.loads(installed.read_text())["version"] == VERSION:
        return
    (NODE / "package.json").write_text('{"name": "peers", "private": true, "type": "module"}\n')
    quiet = ["--ignore-scripts", "--omit=optional", "--no-audit", "--no-fund"]
    for package in (f"node-llama-cpp@{VERSION}", f"@node-llama-cpp/linux-x64@{VERSION}"):
        subprocess.run(["npm", "install", *quiet, package], cwd=NODE, check=True)


# ---- the comparison ----


def compare(model: Path, threads: int, rounds: int) -> dict[str, Any]:
    ours: list[Round] = []
    theirs: list[Round] = []
    for number in range(rounds):
        sides = [(ours, realm_round), (theirs, llama_round)]
        for results, play in (
            sides if number % 2 == 0 else reversed(sides)
        ):  # neither side always follows the other
            results.append(play(model, threads))
        print(f"round {number + 1} of {rounds} done", file=sys.stderr)
    measures = {measure.name: summary(measure, ours, theirs) for measure in MEASURES}
    return {"model": model.name, "threads": threads, "rounds": rounds, "peer": VERSION, "measures": measures}


def summary(measure: Measure, ours: list[Round], theirs: list[Round]) -> dict[str, Any]:
    ratios = [measure.ratio(mine, other) for mine, other in zip(ours, theirs, strict=True)]
    return {
        "realm": statistics.median(mine[measure.name] for mine in ours),
        "peer": statistics.median(other[measure.name] for other in theirs),
        "ratio": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
    }


def show(result: dict[str, Any]) -> None:
    print(
        f"{result['model']}, {result['threads']} threads, {result['rounds']} rounds; above 1: Realm is faster"
    )
    print(f"{'':26} {'realm':>10} {'peer':>10} {'ratio':>7}  spread")
    for measure in MEASURES:
        row = result["measures"][measure.name]
        spread = f"{row['ratio_min']:.2f} ... {row['ratio_max']:.2f}"
        print(f"{measure.title:26} {row['realm']:10.4g} {row['peer']:10.4g} {row['ratio']:7.2f}  {spread}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Realm beside node-llama-cpp.")
    parser.add_argument(
        "--model", type=Path, help="GGUF file; without it, the random 110M-parameter Q8_0 model"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, default=ROOT / "build" / "bench" / "peers.json")
    options = parser.parse_args()
    install_peer()
    result = compare((options.model or default_model()).resolve(), options.threads, options.rounds)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(result, indent=2) + "\n")
    show(result)


def default_model() -> Path:
    sys.path.insert(0, str(ROOT))
    from tests.bench.make_models import make

    return make("110m-q8_0")


if __name__ == "__main__":
    main()
