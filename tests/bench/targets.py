"""What the benchmark's table has to show: for each kind of work the figure, what is beside it, the target.

A ratio is of one round; the table has the median over the rounds. Beside the peer measured in the same round
stands what llama.cpp's own llama-bench (0c1e570) was found to reach on the machine in docs/speed.md: its
JavaScript binding costs some of that. A target counts as met only against the better of the two.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Round = dict[str, dict[str, Any]]  # name of a piece -> what it found

SMALL, LARGE, LARGE_8 = "110m-q8_0", "1.1b-q4_k_m", "1.1b-q8_0"
TITLES = {SMALL: "110M Q8_0", LARGE: "1.1B Q4_K_M", LARGE_8: "1.1B Q8_0"}
PEAKS = {"best": ("amx bf16", "avx512 int8", "avx2 int8"), "avx512": ("avx512 int8",), "avx2": ("avx2 int8",)}
KERNELS = {"best": "all", "avx512": "AVX-512", "avx2": "AVX2"}
TOGETHER = 8


@dataclass(frozen=True)
class Figure:
    """One measure of a piece: `piece` without its path, the key, and how to reach it."""

    piece: str
    measure: str

    def of(self, found: Round) -> float | None:
        value: Any = found.get(self.piece)
        for key in self.measure.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        return float(value) if value else None


@dataclass(frozen=True)
class Row:
    title: str
    unit: str
    ours: Figure
    target: float  # of the ratio; a bound from above where less is better
    peer: Figure | None = None
    recorded: float | None = None  # of llama.cpp itself
    least_share: float | None = None  # of the machine's limit
    share: Callable[[Round], float | None] = lambda found: None
    less: bool = False

    def ratio(self, found: Round) -> float | None:
        mine = self.ours.of(found)
        other = self.peer.of(found) if self.peer else None
        return mine / other if mine and other else None


@dataclass(frozen=True)
class Result:
    """A row over all rounds."""

    row: Row
    values: list[float]
    peers: list[float]
    ratios: list[float]
    shares: list[float]

    @property
    def value(self) -> float | None:
        return statistics.median(self.values) if self.values else None

    @property
    def recorded_ratio(self) -> float | None:
        return self.value / self.row.recorded if self.value and self.row.recorded else None

    @property
    def met(self) -> bool | None:
        """None where nothing was measured to compare with."""
        ratios = [statistics.median(self.ratios)] if self.ratios else []
        ratios += [self.recorded_ratio] if self.recorded_ratio else []
        if self.row.peer is None and self.row.recorded is None and self.value:
            ratios = [self.value]
        if not ratios:
            return None
        if self.row.less:
            return max(ratios) <= self.row.target
        enough = (
            self.row.least_share is None or statistics.median(self.shares or [0.0]) >= self.row.least_share
        )
        return min(ratios) >= self.row.target and enough


def results(rounds: Sequence[Round], files: dict[str, Path]) -> list[Result]:
    return [result(row, rounds) for row in rows(files) if any(row.ours.of(found) for found in rounds)]


def result(row: Row, rounds: Sequence[Round]) -> Result:
    def all_of(figure: Callable[[Round], float | None]) -> list[float]:
        return [value for found in rounds if (value := figure(found)) is not None]

    peers = all_of(row.peer.of) if row.peer else []
    return Result(row, all_of(row.ours.of), peers, all_of(row.ratio), all_of(row.share))


# ---- the rows ----


def rows(files: dict[str, Path]) -> list[Row]:
    """In the order of the table. `files` are the models that were measured, which memory is compared with."""
    table = [
        decode(LARGE, 1.6, 21.6, 0.75),
        decode(LARGE_8, 1.1, 21.6, 0.85),
        decode(SMALL, 1.1, 238, None),
        *(beside_core(model, host) for model in (SMALL, LARGE) for host in ("python", "node")),
        prefill(LARGE, "best", 3.5, 211),
        prefill(LARGE, "avx512", 2.2, 176),
        prefill(LARGE, "avx2", 1.3, 92),
        prefill(SMALL, "best", 2.5, 2108),
        prefill(SMALL, "avx512", 2.5, 851),
        together(SMALL, 1.6, 627),
        together(LARGE, 1.8, 69.7),
        requests_at_once(SMALL, 1.6),
        requests_at_once(LARGE, 1.8),
    ]
    if LARGE in files:
        table += memory(LARGE, files[LARGE].stat().st_size)
    table += [start(LARGE, host) for host in ("python", "node")]
    for model, bounds in ((SMALL, (8.0, 3.0)), (LARGE, (7.0, 2.0))):
        table += [
            in_browser(model, work, bound) for work, bound in zip(("prefill", "decode"), bounds, strict=True)
        ]
    return table + [busy(LARGE), busy(SMALL)]


def decode(model: str, target: float, recorded: float, least_share: float | None) -> Row:
    return Row(
        f"{TITLES[model]} decode", "tokens/s", Figure(f"core/{model}/best", "decode"), target,
        Figure(f"node-llama-cpp/{model}/best", "decode"), recorded, least_share,
        lambda found: share_of_bandwidth(found, model, "one decodes", f"core/{model}/best", "decode", 1),
    )  # fmt: skip


def beside_core(model: str, host: str) -> Row:
    name = {"python": "Python", "node": "Node"}[host]
    core = Figure(f"core/{model}/best", "decode")
    return Row(
        f"{TITLES[model]} decode in {name}, beside the core",
        "tokens/s",
        Figure(f"{host}/{model}", "decode"),
        0.95,
        core,
    )


def prefill(model: str, path: str, target: float, recorded: float) -> Row:
    return Row(
        f"{TITLES[model]} prefill, {KERNELS[path]} kernels", "tokens/s",
        Figure(f"core/{model}/{path}", "prefill"), target,
        Figure(f"node-llama-cpp/{model}/{path}", "prefill"), recorded,
        share=lambda found: share_of_peak(found, model, path),
    )  # fmt: skip


def together(model: str, target: float, recorded: float) -> Row:
    """While all of them decode, as in llama.cpp's llama-batched-bench."""
    return Row(
        f"{TITLES[model]}, {TOGETHER} decode together", "tokens/s",
        Figure(f"core/{model}/best", "together"), target, None, recorded,
        share=lambda found: share_of_bandwidth(
            found, model, "eight decode", f"core/{model}/best", "together", TOGETHER
        ),
    )  # fmt: skip


def requests_at_once(model: str, target: float) -> Row:
    """Whole requests, prompts included, which is what the peer's binding lets one measure."""
    return Row(
        f"{TITLES[model]}, {TOGETHER} requests at once", "tokens/s",
        Figure(f"core/{model}/best", "parallel"), target, Figure(f"node-llama-cpp/{model}/best", "parallel"),
    )  # fmt: skip


def memory(model: str, size: int) -> list[Row]:
    """The target is bytes: 1.1 times the file."""
    figures = {
        "core, after decoding": Figure(f"core/{model}/best", "resident_decoded"),
        "core, after a prompt": Figure(f"core/{model}/best", "resident_prompted"),
        "core, at most": Figure(f"core/{model}/best", "resident_peak"),
        "Python, at most": Figure(f"python/{model}", "resident_peak"),
        "Node, at the end": Figure(f"node/{model}", "resident"),
    }
    return [
        Row(f"{TITLES[model]} resident: {name}", "bytes", figure, 1.1 * size, less=True)
        for name, figure in figures.items()
    ]


def start(model: str, host: str) -> Row:
    name = {"python": "Python", "node": "Node"}[host]
    return Row(
        f"{TITLES[model]}, start to ready in {name}", "s", Figure(f"start/{model}", host), 0.1, less=True
    )


def in_browser(model: str, work: str, target: float) -> Row:
    ours, peer = Figure(f"browser/{model}", f"realm.{work}"), Figure(f"browser/{model}", f"wllama.{work}")
    return Row(f"{TITLES[model]} {work} in a browser", "tokens/s", ours, target, peer)


def busy(model: str) -> Row:
    title = f"{TITLES[model]} decode beside busy neighbours"
    return Row(title, "tokens/s", Figure(f"busy/{model}", "busy"), 0.35, Figure(f"busy/{model}", "quiet"))


# ---- shares of the machine's limit ----


def bandwidth(found: Round) -> float | None:
    """Bytes per second that all threads together read."""
    measured = found.get("limits", {}).get("bandwidth", {})
    return max(measured.values(), default=None)


def peak(found: Round, path: str) -> float | None:
    """Operations per second of the instructions that products of many rows use."""
    peaks = found.get("limits", {}).get("peaks", {})
    return next((float(peaks[name]) for name in PEAKS[path] if name in peaks), None)


def work_of(found: Round, model: str, path: str, step: str) -> tuple[float, float, int] | None:
    """(bytes, operations, rows) of a step."""
    profile = found.get(f"ops/{model}/{path}", {}).get(step)
    if profile is None:
        return None
    ops = profile["ops"].values()
    return sum(op["bytes"] for op in ops), sum(op["flops"] for op in ops), profile["rows"]


def share_of_bandwidth(
    found: Round, model: str, step: str, piece: str, measure: str, rows: int
) -> float | None:
    work, limit = work_of(found, model, "best", step), bandwidth(found)
    rate = Figure(piece, measure).of(found)
    return work[0] * rate / rows / limit if work and limit and rate else None


def share_of_peak(found: Round, model: str, path: str) -> float | None:
    work, limit = work_of(found, model, path, "prompt"), peak(found, path)
    rate = Figure(f"core/{model}/{path}", "prefill").of(found)
    return work[1] / work[2] * rate / limit if work and limit and rate else None


def share_of_op(found: Round, path: str, op: dict[str, float]) -> float | None:
    """Of whichever limit binds: the time that reading or computing takes at least, of the time it took."""
    width, most = bandwidth(found), peak(found, path)
    if not width or not most or not op["seconds"] or not op["bytes"]:
        return None
    return max(op["bytes"] / width, op["flops"] / most) / op["seconds"]
