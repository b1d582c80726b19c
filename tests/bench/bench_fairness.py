"""Fair shares: 10,000 simulated tenants as an SVG, and one stream beside a flood with a real model.

    python -m realm_build bench fairness [--model MODEL.gguf] [--tokens 400] [--svg docs/fairness.svg]

Without --model only the simulation runs. Times between tokens need a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "host_python"), str(ROOT)]

from realm import Realm, RealmManager, ResourceLimits  # noqa: E402

WEIGHTS = (1, 2, 4)
TENANTS = 10_000
ROWS = 600_000
WIDTH, HEIGHT, MARGIN = 720, 320, 40
COLOURS = {1: "#2b6cb0", 2: "#2f855a", 4: "#c05621"}


# ---- the simulation


def simulate() -> dict[int, list[int]]:
    """Tokens computed for each tenant of each weight while all want more than there is."""
    from tests.unit.simulation import SECOND, Simulation

    made: dict[int, list[int]] = {weight: [] for weight in WEIGHTS}
    with Simulation(step_ns=6_000_000, row_ns=400_000) as sim:
        for number in range(1, TENANTS + 1):
            ctx = sim.tenant(number, weight=WEIGHTS[number % 3])
            ids = [5 + (number + i) % 200 for i in range(8)]
            ctx.generate(ctx.open(no_prefix=1), ids, 200, ignore_end=1)
        sim.run(sim.now + 100_000 * SECOND, lambda: sim.stats().rows > 8 * TENANTS + ROWS)
        for number in range(1, TENANTS + 1):
            made[WEIGHTS[number % 3]].append(sim.tokens(number))
    return made


def draw(made: dict[int, list[int]]) -> str:
    """Each tenant a point: tenants of one weight side by side, upwards the tokens computed for them."""
    most = max(max(values) for values in made.values())
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        'font-size="12"><rect width="100%" height="100%" fill="white"/>'
    ]
    span = (WIDTH - 2 * MARGIN) / len(made)
    for index, (weight, values) in enumerate(made.items()):
        left = MARGIN + index * span
        points = set()
        for at, value in enumerate(values):
            x = left + 0.9 * span * at / len(values)
            points.add((round(x), round(HEIGHT - MARGIN - (HEIGHT - 2 * MARGIN) * value / most)))
        path = "".join(f"M{x} {y}h1.5" for x, y in sorted(points))
        parts.append(f'<path d="{path}" stroke="{COLOURS[weight]}" stroke-width="2"/>')
        mean = sum(values) / len(values)
        label = f"weight {weight}: {len(values)} tenants, {min(values)} to {max(values)}, mean {mean:.1f}"
        parts.append(f'<text x="{left:.0f}" y="{HEIGHT - 14}">{label}</text>')
    parts.append(f'<text x="{MARGIN}" y="20">tokens computed for each tenant (0 to {most})</text></svg>\n')
    return "\n".join(parts)


# ---- a real model


def times_between(realm: Realm, tokens: int, mode: str) -> list[float]:
    """Milliseconds."""
    at = []
    for _ in realm.stream("Once upon a time", max_tokens=tokens, temperature=0, ignore_end=True, mode=mode):
        at.append(time.perf_counter())
    return [(b - a) * 1e3 for a, b in zip(at, at[1:], strict=False)]


def show(name: str, gaps: list[float]) -> float:
    gaps = sorted(gaps)
    p99 = gaps[int(len(gaps) * 0.99)]
    print(
        f"{name:8} p50 {gaps[len(gaps) // 2]:7.2f} ms   p99 {p99:7.2f} ms   longest {gaps[-1]:7.2f} ms",
        flush=True,
    )
    return p99


def flood(model: Path, tokens: int, mode: str) -> None:
    """One tenant's stream alone, while another has 100 long prompts, and alone again."""
    print(f"{mode}: {tokens} tokens")
    with RealmManager(model, limits=ResourceLimits()) as manager:
        quiet, loud = manager.create("quiet"), manager.create("loud")
        times_between(quiet, 20, mode)
        alone = times_between(quiet, tokens // 2, mode)
        prompt = " ".join(f"word{i} apple river" for i in range(150))
        streams = [
            loud.stream(f"{i} {prompt}", max_tokens=100, ignore_end=True, mode=mode) for i in range(100)
        ]
        beside = times_between(quiet, tokens, mode)
        before = manager.stats("loud").tokens_prompt
        for stream in streams:
            stream.close()
        times_between(quiet, 20, mode)
        after = times_between(quiet, tokens - tokens // 2, mode)
        show("before", alone)
        show("after", after)
        ratio = show("beside", beside) / show("alone", alone + after)
        print(f"p99 {ratio:.2f} times; the flood: {before} tokens of prompts in {sum(beside) / 1e3:.1f} s")


def main() -> int:
    parser = argparse.ArgumentParser(description="Fair shares.")
    parser.add_argument("--model", type=Path)
    parser.add_argument("--tokens", type=int, default=400)
    parser.add_argument(
        "--modes", default="whole,granular", help="who makes the steps: the core, or the guest"
    )
    parser.add_argument("--svg", type=Path, default=ROOT / "docs" / "fairness.svg")
    arguments = parser.parse_args()
    if arguments.model:
        for mode in arguments.modes.split(","):
            flood(arguments.model, arguments.tokens, mode)
        return 0
    made = simulate()
    arguments.svg.write_text(draw(made))
    for weight, values in made.items():
        print(f"weight {weight}: {min(values)} to {max(values)} tokens, mean {sum(values) / len(values):.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
