"""What the benchmark shows: the table as text and Markdown, and a plot of each op's share of the limit."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from html import escape
from typing import Any

from tests.bench import targets
from tests.bench.targets import Result, Round

STEPS = {"one decodes": "decode", "eight decode": "8 decode together", "prompt": "prompt of 512"}
SMALLEST_PART = 0.01  # of a step's time: what takes less is left out of the plot

# ---- the table ----

HEADINGS = ("work", "Realm", "peer", "ratio (spread)", "llama.cpp", "ratio", "of the limit", "target", "")


def table(found: Sequence[Result]) -> list[tuple[str, ...]]:
    return [HEADINGS, *(cells(result) for result in found)]


def cells(result: Result) -> tuple[str, ...]:
    row = result.row
    verdict = {True: "met", False: "missed", None: "not compared"}[result.met]
    recorded = number(row.recorded, row.unit) if row.recorded else ""
    ratio = f"{result.recorded_ratio:.2f}x" if result.recorded_ratio else ""
    share = f"{100 * statistics.median(result.shares):.0f} %" if result.shares else ""
    peer = number(statistics.median(result.peers), row.unit) if result.peers else ""
    return (row.title, number(result.value, row.unit), peer, spread(result.ratios), recorded, ratio, share,
            target(row), verdict)  # fmt: skip


def target(row: targets.Row) -> str:
    if row.peer is None and row.recorded is None:
        return f"at most {number(row.target, row.unit)}"
    limit = f", {100 * row.least_share:.0f} %" if row.least_share else ""
    return f"{row.target:g}x{limit}"


def number(value: float | None, unit: str) -> str:
    if value is None:
        return ""
    if unit == "bytes":
        return f"{value / 1e6:.0f} MB"
    if unit == "s":
        return f"{1e3 * value:.0f} ms"
    return f"{value:.3g}" if value < 100 else f"{value:,.0f}"


def spread(ratios: Sequence[float]) -> str:
    if not ratios:
        return ""
    middle = f"{statistics.median(ratios):.2f}x"
    return f"{middle} ({min(ratios):.2f}-{max(ratios):.2f})" if len(ratios) > 1 else middle


def text(lines: Sequence[tuple[str, ...]]) -> str:
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    padded = [
        [
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        for line in lines
    ]
    return "\n".join("  ".join(line).rstrip() for line in padded)


def markdown(lines: Sequence[tuple[str, ...]]) -> str:
    ruler = ("---", *["---:"] * (len(lines[0]) - 2), "---")
    return "\n".join("| " + " | ".join(line) + " |" for line in (lines[0], ruler, *lines[1:]))


def profiles(found: Round, models: Sequence[str], path: str = "best") -> str:
    """Where the time of a step goes, op by op."""
    lines = []
    for model in models:
        for step, title in STEPS.items():
            profile = found.get(f"ops/{model}/{path}", {}).get(step)
            if profile:
                lines += [
                    f"\n{targets.TITLES.get(model, model)}, {title}",
                    profile_text(found, path, profile),
                ]
    return "\n".join(lines)


def profile_text(found: Round, path: str, profile: dict[str, Any]) -> str:
    total = sum(op["seconds"] for op in profile["ops"].values())
    lines = [("op", "ms", "of the time", "MB", "GB/s", "GFLOP/s", "of the limit")]
    for name, op in [*profile["ops"].items(), ("step", whole(profile))]:
        share = targets.share_of_op(found, path, op)
        rates = (f"{op['bytes'] * 1e-6:.1f}", f"{op['bytes'] / op['seconds'] * 1e-9:.1f}",
                 f"{op['flops'] / op['seconds'] * 1e-9:.0f}")  # fmt: skip
        lines.append(
            (name, f"{op['seconds'] * 1e3:.3f}", f"{100 * op['seconds'] / total:.1f} %",
             *(rates if op["bytes"] else ("", "", "")), f"{100 * share:.0f} %" if share else "")
        )  # fmt: skip
    return text(lines)


def whole(profile: dict[str, Any]) -> dict[str, float]:
    return {key: sum(op[key] for op in profile["ops"].values()) for key in ("seconds", "bytes", "flops")}


# ---- the plot ----

BAR, GAP, LEFT, WIDTH, RIGHT = 14, 5, 210, 420, 60
WHOLE, PART, LIMIT = "#1f5673", "#7fb2cc", "#b3402a"


def plot(found: Round, models: Sequence[str], path: str = "best") -> str:
    """SVG: a bar for each op and each step as a whole, beside what bandwidth or instructions allow."""
    parts: list[str] = []
    y = 26
    for model in models:
        for step, title in STEPS.items():
            profile = found.get(f"ops/{model}/{path}", {}).get(step)
            if profile:
                parts.append(label(0, y + 11, f"{targets.TITLES.get(model, model)}, {title}", bold=True))
                y += BAR + GAP
                bars, y = plot_step(found, path, profile, y)
                parts += bars
                y += 2 * GAP
    right = LEFT + WIDTH
    line = f'<line x1="{right}" x2="{right}" y1="20" y2="{y}" stroke="{LIMIT}" stroke-dasharray="3 3"/>'
    head = label(
        LEFT,
        14,
        "share of the machine's limit; the line is 100 % of bandwidth from memory or of the instructions",
    )
    size = f'width="{LEFT + WIDTH + 2 * RIGHT}" height="{y}" viewBox="0 0 {LEFT + WIDTH + 2 * RIGHT} {y}"'
    style = (
        '<style>text{font:11px sans-serif;fill:#222}</style><rect width="100%" height="100%" fill="#fff"/>'
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size}>{style}\n'
        + "\n".join([head, *parts, line])
        + "\n</svg>\n"
    )


def plot_step(found: Round, path: str, profile: dict[str, Any], y: int) -> tuple[list[str], int]:
    total = whole(profile)
    parts = []
    for name, op in [("the whole step", total), *profile["ops"].items()]:
        time = op["seconds"] / total["seconds"]
        share = targets.share_of_op(found, path, op)
        if share is None or time < SMALLEST_PART:
            continue
        width = round(min(share, 1 + RIGHT / WIDTH) * WIDTH, 1)
        colour = WHOLE if op is total else PART
        caption = name if op is total else f"{name} ({100 * time:.0f} % of the time)"
        parts.append(label(12, y + 11, caption))
        parts.append(f'<rect x="{LEFT}" y="{y}" width="{width}" height="{BAR}" fill="{colour}"/>')
        parts.append(label(LEFT + width + 4, y + 11, f"{100 * share:.0f} %"))
        y += BAR + GAP
    return parts, y


def label(x: float, y: float, content: str, bold: bool = False) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x}" y="{y}"{weight}>{escape(content)}</text>'
