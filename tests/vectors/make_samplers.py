"""Makes the sampler vectors: which tokens may be drawn, and how likely each is, from the definitions alone.

    python -m tests.vectors.make_samplers

samplers.json: cases of logits, history and settings -> kept ids and their probabilities. How randomness
picks one of them is the engine's own affair and is tested statistically. Settings that decide within
MARGIN of a limit are rejected here, so that a float32 implementation cannot fall on the other side.

The definitions, in order:
  1. bias: logit += bias; minus infinity bans the token.
  2. penalties, for each token that occurs c > 0 times in the last `penalty_window` (0: 64) of the history:
     logit = logit / repetition if logit > 0 else logit * repetition; then logit -= c * frequency + presence.
  3. temperature 0 keeps only the largest logit; else logit /= temperature.
  4. top-k keeps the k largest (0: all).
  5. top-p keeps the fewest of the largest whose probabilities among those kept so far reach p.
  6. min-p keeps those whose probability is at least min_p times the largest one.
Among equal logits the lower id ranks first. The probabilities are the softmax over what is kept.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

HERE = Path(__file__).parent
SEED = 20240726
VOCAB = 48
MARGIN = 1e-5
DEFAULT_WINDOW = 64

OFF: dict[str, Any] = {
    "temperature": 1.0,
    "top_k": 0,
    "top_p": 1.0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "frequency_penalty": 0.0,
    "presence_penalty": 0.0,
    "penalty_window": 0,
    "bias": {},
}


class TooClose(Exception):
    """A limit falls so near a token that rounding could decide."""


def main() -> None:
    rng = random.Random(SEED)
    cases = [case for settings in all_settings(rng) if (case := make_case(rng, settings)) is not None]
    text = ",\n".join(json.dumps(case) for case in cases)
    (HERE / "samplers.json").write_text(f"[\n{text}\n]\n")
    print(len(cases), "cases")


def make_case(rng: random.Random, settings: dict[str, Any]) -> dict[str, Any] | None:
    logits = [rng.randint(-640, 640) / 64 for _ in range(VOCAB)]  # exact in float32, with ties now and then
    if settings.pop("ties", False):
        logits = [float(round(value / 4)) for value in logits]
    history = [rng.randrange(VOCAB // 3) for _ in range(rng.choice([0, 5, 30, 100]))]
    full = {**OFF, **settings}
    try:
        kept, probabilities = keep(logits, history, full)
    except TooClose:
        return None
    return {
        "logits": logits,
        "history": history,
        "settings": full,
        "kept": kept,
        "probabilities": [float(f"{value:.9g}") for value in probabilities],
    }


def all_settings(rng: random.Random) -> list[dict[str, Any]]:
    """Each setting alone at telling values, all ties, then random mixtures."""
    single: list[dict[str, Any]] = [{}, {"ties": True}]
    single += [{"temperature": value} for value in (0.0, 0.1, 0.7, 2.0, 10.0)]
    single += [{"temperature": 0.0, "ties": True}]
    single += [
        {"top_k": value, "ties": ties}
        for value in (1, 2, 7, VOCAB - 1, VOCAB, 1000)
        for ties in (False, True)
    ]
    single += [{"top_p": value, "temperature": 3.0} for value in (1e-4, 0.1, 0.5, 0.9, 0.999)]
    single += [{"min_p": value, "temperature": 3.0} for value in (0.01, 0.1, 0.5, 1.0)]
    single += [{"repetition_penalty": value, "temperature": 4.0} for value in (0.5, 1.1, 2.0)] * 2
    single += [{"frequency_penalty": value, "temperature": 4.0} for value in (-2.0, -0.3, 0.3, 2.0)]
    single += [{"presence_penalty": value, "temperature": 4.0} for value in (-2.0, 0.5, 2.0)]
    single += [
        {"presence_penalty": 2.0, "penalty_window": value, "temperature": 4.0} for value in (1, 4, 1000)
    ]
    single += [{"bias": {"3": 100.0}}, {"bias": {"0": -1e30, "47": 5.0}, "temperature": 4.0}]
    return single + [mixture(rng) for _ in range(30)]


def mixture(rng: random.Random) -> dict[str, Any]:
    return {
        "temperature": rng.choice([0.5, 1.0, 3.0, 6.0]),
        "top_k": rng.choice([0, 3, 10, 40]),
        "top_p": rng.choice([1.0, 0.95, 0.8]),
        "min_p": rng.choice([0.0, 0.02, 0.2]),
        "repetition_penalty": rng.choice([1.0, 1.3]),
        "frequency_penalty": rng.choice([0.0, 0.25]),
        "presence_penalty": rng.choice([0.0, 0.75]),
        "bias": rng.choice([{}, {"5": 2.0, "9": -3.0}]),
    }


# ---- the definitions --------------------------------------------------------------------------------


def keep(logits: list[float], history: list[int], settings: dict[str, Any]) -> tuple[list[int], list[float]]:
    x = penalized(logits, history, settings)
    order = np.lexsort((np.arange(len(x)), -x))  # largest first, lower ids first among equals
    if settings["temperature"] == 0:
        return [int(order[0])], [1.0]
    x = x / settings["temperature"]
    if settings["top_k"]:
        order = order[: settings["top_k"]]
    order = order[: top_p_count(softmax(x[order]), settings["top_p"])]
    order = order[: min_p_count(softmax(x[order]), settings["min_p"])]
    order = np.sort(order)
    return [int(index) for index in order], [float(value) for value in softmax(x[order])]


def penalized(logits: list[float], history: list[int], settings: dict[str, Any]) -> NDArray[np.float64]:
    x = np.array(logits, dtype=np.float64)
    for token, value in settings["bias"].items():
        x[int(token)] += value
    recent = history[-(settings["penalty_window"] or DEFAULT_WINDOW) :]
    for token in set(recent):
        repetition = settings["repetition_penalty"]
        x[token] = x[token] / repetition if x[token] > 0 else x[token] * repetition
        x[token] -= recent.count(token) * settings["frequency_penalty"] + settings["presence_penalty"]
    return x


def top_p_count(sorted_probabilities: NDArray[np.float64], p: float) -> int:
    if p == 1:
        return len(sorted_probabilities)
    sums = np.cumsum(sorted_probabilities)
    refuse_close(sums, p)
    return int(np.argmax(sums >= p)) + 1


def min_p_count(sorted_probabilities: NDArray[np.float64], min_p: float) -> int:
    limit = min_p * sorted_probabilities[0]
    if min_p < 1:
        refuse_close(sorted_probabilities, limit)
    return int(np.sum(sorted_probabilities >= limit))


def refuse_close(values: NDArray[np.float64], limit: float) -> None:
    if limit > 0 and np.any(np.abs(values - limit) < MARGIN * max(limit, MARGIN)):
        raise TooClose


def softmax(x: NDArray[np.float64]) -> NDArray[np.float64]:
    e: NDArray[np.float64] = np.exp(x - x.max())
    return np.asarray(e / e.sum())


if __name__ == "__main__":
    main()
