"""What `realm bench` measures: speed of prompts and of generation, loading, memory, use of read bandwidth.

Generation reads every weight once for each token, so tokens/s times the bytes of the weights is the bandwidth
it reached. The embedding table does not count: one row of it is read for a token (unless it is the output
matrix too).
"""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path
from typing import Any

from ._engine import EngineOptions
from ._errors import error
from ._host_session import HostSession
from ._library import ffi, library
from ._model import Model, ModelOptions
from ._options import KV_TYPES
from ._process import Process

BANDWIDTH_BYTES = 256 << 20
BANDWIDTH_REPEATS = 5
MAX_COUNT = 1 << 20


def measure(path: Path, threads: int | None, prompt: int, generated: int, repetitions: int) -> dict[str, Any]:
    for name, value, low in (
        ("-p", prompt, 1),
        ("-n", generated, 1),
        ("-r", repetitions, 1),
        ("-t", threads or 1, 1),
    ):
        if not low <= value <= MAX_COUNT:
            raise error("invalid-argument", f"{name} must be from {low} to {MAX_COUNT}, not {value}")
    engine = Process.current().engine(EngineOptions(threads=threads or 0))
    began = time.perf_counter()
    with Model.load(engine, path, ModelOptions()) as model:
        load_seconds = time.perf_counter() - began
        if prompt + generated > model.info.context_length:
            raise error(
                "context-full", f"-p and -n together exceed the context of {model.info.context_length} tokens"
            )
        prompts, firsts, rates = _run(engine, model, prompt, generated, repetitions)
        peak = peak_resident_bytes()  # before the bandwidth test's own memory
        bandwidth = float(
            library().realm_bench_read_bandwidth(engine.runtime, BANDWIDTH_BYTES, BANDWIDTH_REPEATS)
        )
        token_bytes = bytes_per_token(model)
        return {
            "model": str(path),
            "kernels": ffi.string(library().realm_runtime_kernels(engine.runtime)).decode(),
            "threads": int(library().realm_runtime_threads(engine.runtime)),
            "prompt_tokens": prompt,
            "generated_tokens": generated,
            "repetitions": repetitions,
            "prompt_tokens_per_second": _spread(prompts),
            "generation_tokens_per_second": _spread(rates),
            "first_token_seconds": _spread(firsts),
            "load_seconds": load_seconds,
            "weight_bytes_per_token": token_bytes,
            "read_bandwidth_bytes_per_second": bandwidth,
            "bandwidth_share": statistics.median(rates) * token_bytes / bandwidth if bandwidth else 0.0,
            "peak_resident_bytes": peak,
        }


def _run(
    engine: Any, model: Model, prompt: int, generated: int, repetitions: int
) -> tuple[list[float], list[float], list[float]]:
    """Prompt tokens/s, seconds to the first token, generation tokens/s; after one round to warm up."""
    prompts, firsts, rates = [], [], []
    ids = [(7 * i + 3) % model.info.vocab_size for i in range(prompt)]
    with HostSession(engine, model.shared(), KV_TYPES["f16"]) as session:
        for repetition in range(repetitions + 1):
            session.rewind()
            began = time.perf_counter()
            session.forward(ids)
            after_prompt = time.perf_counter()
            session.rewind()
            again = time.perf_counter()
            session.generate(ids, 1)
            first = time.perf_counter()
            session.generate(ids[-1:], generated)
            end = time.perf_counter()
            if repetition:
                prompts.append(prompt / (after_prompt - began))
                firsts.append(first - again)
                rates.append(generated / (end - first))
    return prompts, firsts, rates


def bytes_per_token(model: Model) -> int:
    tensors = {tensor["name"]: tensor["bytes"] for tensor in model.describe()["tensors"]}
    embedding = tensors.get("token_embd.weight", 0) if "output.weight" in tensors else 0
    return model.info.weight_bytes - int(embedding)


def _spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def peak_resident_bytes() -> int:
    """The most RAM this process has held, mapped weights included; 0 where the system does not tell."""
    if sys.platform == "win32":
        return 0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
