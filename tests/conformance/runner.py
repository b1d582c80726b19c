"""Runs the conformance cases on every host and prints a table of host x case.

    python -m tests.conformance.runner [--host python] [--case NAME ...]

The cases are data (cases/*.json, made by make_cases.py); a host is a program that answers requests
(adapter_*). What an answer must be is checked here, once for all hosts. Exit status 1 when anything
fails, or a host cannot be started.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from realm_build import node, software_gpu
from tests.conformance import fixtures

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
BROWSER = [sys.executable, str(HERE / "adapter_browser.py")]


def node_wasm(*arguments: str) -> list[str]:
    return [str(node.node()), str(HERE / "adapter_node_wasm.mjs"), *arguments]


def on_software_gpu() -> list[str]:
    """The command that gives a program a GPU made of software."""
    return ["env", *(f"{name}={value}" for name, value in software_gpu.environment("lavapipe").items())]


HOSTS: dict[str, Callable[[], list[str]]] = {  # what starts a host's adapter
    "python": lambda: [sys.executable, str(HERE / "adapter_python.py")],
    "node": lambda: [str(node.node()), str(HERE / "adapter_node.mjs")],
    "browser-wasm": lambda: [*BROWSER, "wasm"],
    "browser-threads": lambda: [*BROWSER, "wasm-threads"],
    "browser-webgpu": lambda: [*BROWSER, "webgpu"],
    "node-wasm": lambda: node_wasm("core", "1"),
    "node-wasm-threads": lambda: node_wasm("core-threads", "2"),
    "node-webgpu": lambda: [*on_software_gpu(), str(node.node()), str(HERE / "adapter_node_webgpu.mjs")],
}

Json = dict[str, Any]
WORK = ["queued_seconds", "prefill_seconds", "decode_seconds", "step_seconds", "steps", "rows"]


@dataclass(frozen=True)
class Case:
    name: str
    model: str
    request: Json
    expect: Json


class Host:
    """A running adapter. One that dies is started again for the next case."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.command = HOSTS[name]()
        self.process: subprocess.Popen[str] | None = None

    def known(self, case: Case) -> str | None:
        """Why this host fails the case, if that is known and accepted."""
        reasons: dict[str, str] = json.loads((HERE / "known_failures.json").read_text()).get(self.name, {})
        return reasons.get(case.name)

    def ask(self, request: Json) -> Json:
        process = self._running()
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(request) + "\n")
        process.stdin.flush()
        line = process.stdout.readline()
        if not line:
            raise AssertionError(f"the adapter ended with status {process.wait()}")
        answer: Json = json.loads(line)
        return answer

    def _running(self) -> subprocess.Popen[str]:
        if self.process is None or self.process.poll() is not None:
            path = os.pathsep.join([str(ROOT / "host_python"), str(ROOT), os.environ.get("PYTHONPATH", "")])
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                encoding="utf-8",
                env={**os.environ, "PYTHONPATH": path},
            )
        return self.process

    def close(self) -> None:
        if self.process is not None:
            self.process.communicate()  # closes standard input: the adapter ends by itself


def load_cases() -> list[Case]:
    files = sorted((HERE / "cases").glob("*.json"))
    cases = [Case(**entry) for path in files for entry in json.loads(path.read_text(encoding="utf-8"))]
    assert cases, "no case was found"
    assert len({case.name for case in cases}) == len(cases), "two cases have the same name"
    return cases


# ---- checking an answer -----------------------------------------------------------------------------


def run_case(host: Host, case: Case, folder: Path) -> None:
    """Raises AssertionError with what was wrong."""
    request = {**case.request, "model": str(fixtures.path(case.model, folder))}
    answer = host.ask(request)
    for key, value in case.expect.items():
        CHECKS[key](answer, value, lambda **changes: host.ask(changed(request, changes)))


def changed(request: Json, settings: Json) -> Json:
    return {**request, "settings": {**request.get("settings", {}), **settings}}


Again = Callable[..., Json]


def check_error(answer: Json, code: str, again: Again) -> None:
    assert answer.get("error") == code, f"expected the error {code}, got {shortened(answer)}"


def check_equal(key: str) -> Callable[[Json, Any, Again], None]:
    def check(answer: Json, value: Any, again: Again) -> None:
        assert answer.get(key) == value, f"{key}: expected {value!r}, got {shortened(answer)}"

    return check


def check_contains(answer: Json, value: str, again: Again) -> None:
    assert value in answer.get("text", ""), f"expected {value!r} in {shortened(answer)}"


def check_greedy(answer: Json, value: Json, again: Again) -> None:
    """Tokens are compared as far as the oracle's best logit leads its second by more than the bound."""
    sure = next((i for i, gap in enumerate(value["gaps"]) if gap <= value["bound"]), len(value["tokens"]))
    expected = value["tokens"][:sure]
    assert answer.get("tokens", [])[:sure] == expected, f"expected {expected}, got {shortened(answer)}"


def check_pieces(answer: Json, value: str, again: Again) -> None:
    """No piece is empty, and together they are the text."""
    pieces = answer.get("pieces", [])
    assert "".join(pieces) == value, f"expected pieces of {value!r}, got {shortened(answer)}"
    assert all(pieces), "an empty piece"


def check_logits(answer: Json, value: Json, again: Again) -> None:
    assert "logits" in answer, f"expected logits, got {shortened(answer)}"
    made = np.frombuffer(base64.b64decode(answer["logits"]), "<f4")
    error = np.abs(made - np.frombuffer(base64.b64decode(value["values"]), "<f4")).max()
    assert error < value["bound"], f"the largest error is {error}, the bound {value['bound']}"


def check_logprobs(answer: Json, value: Json, again: Again) -> None:
    """Of the tokens, and of the likeliest at each place: the first of them is the token, as it is greedy."""
    assert answer.get("tokens") == value["tokens"], f"expected {value['tokens']}, got {shortened(answer)}"
    assert near(answer["logprobs"], value["values"], value["bound"]), f"got {answer['logprobs']}"
    tops = answer["top_logprobs"]
    assert (tops is None) == ("top" not in value), f"got {shortened(answer)}"
    for token, top, best in zip(value["tokens"], tops or (), value.get("top", ()), strict="top" in value):
        assert top[0][0] == token and len({id for id, _ in top}) == len(top), f"got {top} for {token}"
        assert near([logprob for _, logprob in top], best, value["bound"]), f"got {top}, expected {best}"


def near(made: list[float], expected: list[float], bound: float) -> bool:
    return len(made) == len(expected) and bool(np.allclose(made, expected, rtol=0, atol=bound))


def check_work(answer: Json, value: Json, again: Again) -> None:
    work = answer["work"]
    assert sorted(work) == sorted(WORK), f"expected {WORK}, got {work}"
    assert work["rows"] == value["rows"] and 1 <= work["steps"] <= work["rows"], f"got {work}"
    assert all(work[name] >= 0 for name in WORK), f"got {work}"


def check_stats(answer: Json, value: Json, again: Again) -> None:
    stats = answer.get("stats", {})
    assert sorted(stats) == sorted(value["names"]), f"expected {value['names']}, got {shortened(answer)}"
    made = {name: stats[name] for name in value["values"]}
    assert made == value["values"], f"expected {value['values']}, got {shortened(answer)}"


def check_repeats(answer: Json, value: bool, again: Again) -> None:
    assert answer["tokens"], f"expected tokens, got {shortened(answer)}"
    assert again()["tokens"] == answer["tokens"], "the same request gave other tokens"


def check_other_seed(answer: Json, seed: int, again: Again) -> None:
    assert again(seed=seed)["tokens"] != answer["tokens"], "another seed gave the same tokens"


def check_other_modes(answer: Json, modes: list[str], again: Again) -> None:
    for mode in modes:
        assert again(mode=mode)["tokens"] == answer["tokens"], f"mode {mode} gave other tokens"


CHECKS: dict[str, Callable[[Json, Any, Again], None]] = {
    "error": check_error,
    "text": check_equal("text"),
    "ids": check_equal("ids"),
    "tokens": check_equal("tokens"),
    "prompt_tokens": check_equal("prompt_tokens"),
    "finish_reason": check_equal("finish_reason"),
    "contains": check_contains,
    "greedy": check_greedy,
    "pieces": check_pieces,
    "logits": check_logits,
    "logprobs": check_logprobs,
    "work": check_work,
    "stats": check_stats,
    "repeats": check_repeats,
    "other_seed": check_other_seed,
    "other_modes": check_other_modes,
}


def shortened(answer: Json) -> str:
    text = json.dumps(answer, ensure_ascii=False)
    return text if len(text) < 300 else text[:300] + " ..."


# ---- the table --------------------------------------------------------------------------------------


@dataclass
class Report:
    results: dict[str, dict[str, str]] = field(default_factory=dict)  # case -> host -> "" or what was wrong

    def failures(self) -> int:
        return sum(bool(problem) for row in self.results.values() for problem in row.values())

    def print(self, hosts: list[str]) -> None:
        width = max(map(len, self.results), default=4)
        print("case".ljust(width), *hosts, sep="  ")
        for name, row in self.results.items():
            marks = [("FAIL" if row[host] else "ok").ljust(len(host)) for host in hosts]
            print(name.ljust(width), *marks, sep="  ")
            for host in hosts:
                if row[host]:
                    print(f"    {host}: {row[host]}")
        failed = self.failures()
        print(f"{len(self.results) * len(hosts) - failed} passed, {failed} failed")


def run(hosts: list[str], cases: list[Case]) -> Report:
    report = Report({case.name: {} for case in cases})
    with tempfile.TemporaryDirectory() as folder:
        for name in hosts:
            host = Host(name)
            for case in cases:
                report.results[case.name][name] = outcome(host, case, Path(folder))
            host.close()
    return report


def outcome(host: Host, case: Case, folder: Path) -> str:
    try:
        run_case(host, case, folder)
    except (AssertionError, KeyError, OSError, ValueError) as problem:
        return "" if host.known(case) else str(problem) or type(problem).__name__
    return "passes, but stands in known_failures.json" if host.known(case) else ""


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Run the conformance cases and print a table of host x case."
    )
    parser.add_argument("--host", action="append", choices=sorted(HOSTS))
    parser.add_argument("--case", action="append", help="only cases whose name contains this")
    args = parser.parse_args()
    hosts = args.host or list(HOSTS)
    cases = [case for case in load_cases() if not args.case or any(part in case.name for part in args.case)]
    if not cases:
        parser.error("no case has such a name")
    report = run(hosts, cases)
    report.print(hosts)
    return 1 if report.failures() else 0


if __name__ == "__main__":
    sys.exit(main())
