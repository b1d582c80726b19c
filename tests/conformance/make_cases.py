"""Writes cases/*.json. Every expected value comes from the oracles' vectors, the NumPy reference or the
construction of the chain model, never from the engine.

    python -m tests.conformance.make_cases

A case: name, model (fixtures.py), request (what the adapter is told), expect (what runner.py checks).
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np

from tests.conformance import fixtures
from tests.reference import reference
from tests.vectors import make_chain, quant_models

Json = dict[str, Any]

CASES = Path(__file__).parent / "cases"
F32_BOUND = 1e-3  # float weights, f32 KV cache
F16_KV_BOUND = 2e-2  # float weights, f16 KV cache
MODES = ["whole", "layers"]  # beside "granular", which requests use when they name none
END_ID = 2  # of the chain model
ACCOUNT = [  # what every host says of a tenant
    "running",
    "queued",
    "sessions",
    "kv_tokens",
    "requests",
    "tokens_prompt",
    "tokens_generated",
    "waited_seconds",
    "retry_after",
    "refused",
]
TINY_MODELS = ["llama3", "llama-linear", "mistral", "qwen2", "gemma2"]


def main() -> None:
    CASES.mkdir(exist_ok=True)
    groups = {
        "1_demo": demo(),
        "2_greedy": greedy(),
        "3_text": text(),
        "4_settings": settings(),
        "5_errors": errors(),
        "6_tokens": tokens(),
        "7_logits": logits(),
        "8_tenants": tenants(),
        "9_logprobs": logprobs(),
    }
    for name, cases in groups.items():
        (CASES / f"{name}.json").write_text(json.dumps(cases, indent=1) + "\n")
    print(sum(map(len, groups.values())), "cases")


def case(name: str, model: str, request: Json, expect: Json) -> Json:
    return {"name": name, "model": model, "request": request, "expect": expect}


def demo() -> list[Json]:
    """The user documents' integration test, through every way the guest can generate."""
    asked = {
        "op": "chat",
        "messages": [{"role": "user", "content": "What is the capital of France?"}],
        "settings": {"temperature": 0, "max_tokens": 32},
    }
    expect = {"contains": "Paris", "finish_reason": "end", "other_modes": MODES}
    return [case("paris", "demo", asked, expect)]


def greedy() -> list[Json]:
    cases = []
    for name in TINY_MODELS:
        vector = json.loads((fixtures.VECTORS / f"model-{name}.json").read_text())
        made = {"op": "generate", "prompt": vector["prompt"]}
        made["settings"] = {"temperature": 0, "max_tokens": len(vector["greedy"]), "ignore_end": True}
        expect = {"tokens": vector["greedy"], "gaps": vector["gaps"], "bound": F16_KV_BOUND}
        check = {"greedy": expect, "prompt_tokens": len(vector["ids"]), "other_modes": MODES}
        cases.append(case(f"greedy {name}", f"model-{name}", made, check))
    return cases


# ---- text: what the guest makes of tokens -----------------------------------------------------------


def text() -> list[Json]:
    return [*chains(), *stop_strings(), *limits(), *conversations()]


def chain_text(first: str, count: int | None = None) -> str:
    """The text of the first tokens of a chain; ill-formed bytes as Python's own decoder replaces them."""
    data = b""
    for piece in make_chain.CHAINS[first][:count]:
        if piece.startswith("<0x"):
            data += bytes([int(piece[3:5], 16)])
        elif piece != make_chain.END:
            data += piece.encode()
    return data.decode("utf-8", "replace")


def chain_request(first: str, **settings: Any) -> Json:
    return {"op": "generate", "prompt": first, "settings": {"temperature": 0, "max_tokens": 60, **settings}}


def chains() -> list[Json]:
    cases = []
    for first, about in (("1", "plain"), ("2", "characters over several tokens"), ("3", "ill-formed bytes")):
        expect = {"text": chain_text(first), "finish_reason": "end", "prompt_tokens": 2, "other_modes": MODES}
        cases.append(case(f"text {about}", "model-chain", chain_request(first), expect))
        streamed = {**chain_request(first), "op": "stream"}
        cases.append(case(f"stream {about}", "model-chain", streamed, {"pieces": chain_text(first)}))
    return cases


def stop_strings() -> list[Json]:
    told = [
        ("within a token", "1", ["two"]),
        ("a whole token", "1", ["END"]),
        ("across two tokens", "1", ["three"]),
        ("across many tokens", "1", [", three. fourEND f"]),
        ("at the start", "1", [" one"]),
        ("the earliest of several", "1", [" four", "three.", "END"]),
        ("a false start", "1", ["threes", "our"]),
        ("not found", "1", ["six"]),
        ("a character over several tokens", "2", ["日"]),
        ("over characters over several tokens", "2", ["日😀"]),
    ]
    return [
        case(
            f"stop {about}",
            "model-chain",
            {**chain_request(first, stop=stops), "op": "stream"},
            {**stopped(chain_text(first), stops), "other_modes": MODES},
        )
        for about, first, stops in told
    ]


def stopped(whole: str, stops: list[str]) -> Json:
    """The text before the stop string that is complete first."""
    found = [(whole.find(stop) + len(stop), whole.find(stop)) for stop in stops if stop in whole]
    if not found:
        return {"text": whole, "pieces": whole, "finish_reason": "end"}
    kept = whole[: min(found)[1]]
    return {"text": kept, "pieces": kept, "finish_reason": "stop"}


def limits() -> list[Json]:
    cases = []
    for first, count, about in (
        ("1", 1, "one token"),
        ("1", 3, "inside a word"),
        ("2", 2, "after a character"),
        ("2", 8, "inside a character"),
    ):
        expect = {"text": chain_text(first, count), "finish_reason": "length", "other_modes": MODES}
        cases.append(
            case(f"max tokens {about}", "model-chain", chain_request(first, max_tokens=count), expect)
        )
    endless = chain_request("4", max_tokens=10000)
    cases.append(case("the context fills up", "model-chain", endless, {"finish_reason": "length"}))
    long = {**chain_request("1"), "prompt": "1" * (make_chain.CONTEXT + 1)}
    cases.append(case("a prompt longer than the context", "model-chain", long, {"error": "context-full"}))
    return cases


def conversations() -> list[Json]:
    tokens, _ = make_chain.vocabulary()
    asked = [{"role": "user", "content": "Hello"}]
    request = {"op": "chat", "messages": asked, "settings": {"temperature": 0, "max_tokens": 20}}
    prompt_tokens = 1 + 1 + len("Hello") + 1  # <s>, <|user|>, letters, <|assistant|>
    assert all(letter in tokens for letter in "Hello")
    expect = {"text": chain_text("<|assistant|>"), "finish_reason": "end", "prompt_tokens": prompt_tokens}
    turns = {**request, "messages": [*asked, {"role": "user", "content": "Again"}, *asked]}
    return [
        case("chat", "model-chain", request, {**expect, "other_modes": MODES}),
        case("chat of several turns", "model-chain", turns, {"text": expect["text"], "finish_reason": "end"}),
        case(
            "chat with no messages", "model-chain", {**request, "messages": []}, {"error": "invalid-argument"}
        ),
        case("chat without a template", "model-llama3", request, {"error": "template-error"}),
    ]


# ---- settings ---------------------------------------------------------------------------------------


def settings() -> list[Json]:
    return [*biases(), *seeds(), cancel()]


def biases() -> list[Json]:
    tokens, _ = make_chain.vocabulary()
    two, end, other = tokens.index("▁two"), tokens.index(make_chain.END), tokens.index("x")
    told = [
        ("bias ends at once", "1", {end: 1000.0}, {"text": "", "finish_reason": "end"}),
        ("bias forces a token", "1", {other: 1000.0}, {"text": "xxx", "finish_reason": "length"}),
    ]
    cases = [
        case(name, "model-chain", chain_request(first, max_tokens=3, logit_bias=bias), expect)
        for name, first, bias, expect in told
    ]
    for name, extra, banned in (
        ("bias bans a token", {"logit_bias": {two: "-Infinity"}}, [two]),
        ("end tokens ignored", {"ignore_end": True}, [end]),
    ):
        made = chain_request("1", max_tokens=12, **extra)
        check = {"greedy": simulated(tokens.index("1"), 12, banned), "other_modes": MODES}
        cases.append(case(name, "model-chain", made, check))
    return cases


def simulated(first: int, count: int, banned: list[int]) -> Json:
    """Greedy ids of the reference when some may not be drawn; an end token ends them and is none of them."""
    model, ids, gaps = reference.load(make_chain.PATH), [1, first], []
    for _ in range(count):
        last = reference.logits(model, ids)[-1]
        last[banned] = -np.inf
        second, best = np.sort(last)[-2:]
        if np.argmax(last) == END_ID:
            break
        ids.append(int(np.argmax(last)))
        gaps.append(round(float(best - second), 6))
    return {"tokens": ids[2:], "gaps": gaps, "bound": F16_KV_BOUND}


def seeds() -> list[Json]:
    told = {"temperature": 1.5, "max_tokens": 16, "seed": 7}
    warm = {"op": "generate", "prompt": "The capital", "settings": told}
    tight = {**warm, "settings": {**told, "top_k": 20, "top_p": 0.9, "min_p": 0.01}}
    expect = {"repeats": True, "other_seed": 8, "other_modes": MODES}
    return [
        case("the same seed gives the same tokens", "model-qwen2", warm, expect),
        case("the same seed with filters", "model-qwen2", tight, expect),
    ]


def cancel() -> Json:
    endless = {"temperature": 0, "max_tokens": 200, "ignore_end": True}
    request = {"op": "cancel", "prompt": "4", "settings": endless, "then": "1"}
    return case(
        "cancel, then generate", "model-chain", request, {"text": chain_text("1"), "finish_reason": "end"}
    )


# ---- errors -----------------------------------------------------------------------------------------


def errors() -> list[Json]:
    files = {
        "missing": "not-found",
        "directory": "io",
        "empty": "invalid-gguf",
        "text": "invalid-gguf",
        "truncated-header": "invalid-gguf",
        "truncated-weights": "invalid-gguf",
        "version-9": "unsupported-gguf",
        "other-architecture": "unsupported-architecture",
        "other-tensor-type": "unsupported-tensor-type",
    }
    cases = [case(f"file {name}", name, {"op": "load"}, {"error": code}) for name, code in files.items()]
    bad: dict[str, list[Any]] = {
        "max_tokens": [-1, 0],
        "temperature": ["NaN", "Infinity", -0.5],
        "top_k": [-1],
        "top_p": [0, 1.5, "NaN"],
        "min_p": [-0.1, 1.1, "NaN"],
        "repetition_penalty": [0, -1, "NaN"],
        "frequency_penalty": [2.5, "NaN"],
        "presence_penalty": [-2.5, "NaN"],
        "logit_bias": [{"100000": 1.0}, {"1": "NaN"}],
        "stop": [[""]],
        "mode": ["telepathy"],
        "seed": [-1],
    }
    for name, values in bad.items():
        for value in values:
            told = {"temperature": 0.7, "max_tokens": 2, name: value}
            request = {"op": "generate", "prompt": "1", "settings": told}
            about = f"bad {name} {json.dumps(value)}"
            cases.append(case(about, "model-chain", request, {"error": "invalid-argument"}))
    return cases


# ---- tokens and logits ------------------------------------------------------------------------------

TOKENIZER_OF = {"llama3": "llama-bpe", "qwen2": "qwen2", "mistral": "spm", "gemma2": "spm-noprefix"}
TEXTS = 12  # of each vocabulary, spread over its vectors


def tokens() -> list[Json]:
    cases = []
    for model, vocabulary in TOKENIZER_OF.items():
        lines = (fixtures.VECTORS / f"tokenizer-{vocabulary}.jsonl").read_text().splitlines()
        for index, line in enumerate(lines[:: len(lines) // TEXTS]):
            vector = json.loads(line)
            ids = vector["ids"]
            plain = {"op": "tokenize", "text": vector["text"]}
            special = {**plain, "add_special": True, "parse_special": True}
            back = {"op": "detokenize", "ids": ids}
            name = f"{vocabulary} {index}"
            cases.append(case(f"tokenize {name}", f"model-{model}", plain, {"ids": ids}))
            parsed = vector.get("special", ids)
            text = vector.get("decoded", vector["text"])
            cases.append(case(f"tokenize special {name}", f"model-{model}", special, {"ids": parsed}))
            cases.append(case(f"detokenize {name}", f"model-{model}", back, {"text": text}))
    foreign = {"op": "detokenize", "ids": [1, 1000000]}
    return [*cases, case("detokenize a foreign id", "model-chain", foreign, {"error": "invalid-argument"})]


def logits() -> list[Json]:
    cases = []
    for name in TINY_MODELS:
        vector = json.loads((fixtures.VECTORS / f"model-{name}.json").read_text())
        rows = "".join(vector["logits"].values())
        request = {"op": "logits", "ids": vector["ids"], "positions": [int(key) for key in vector["logits"]]}
        expect = {"values": base64.b64encode(bytes.fromhex(rows)).decode(), "bound": F32_BOUND}
        cases.append(case(f"logits {name}", f"model-{name}", request, {"logits": expect}))
    quants = json.loads((fixtures.VECTORS / "quant_models.json").read_text())
    vector = quants["models"]["Q8_0"]
    positions = [quants["middle"], len(quant_models.IDS) - 1]
    request = {"op": "logits", "ids": quant_models.IDS, "positions": positions}
    values = base64.b64encode(bytes.fromhex(vector["middle"] + vector["last"])).decode()
    expect = {"values": values, "bound": 2 * vector["int8_error"]}
    foreign = {"op": "logits", "ids": [1, 1000000], "positions": [0]}
    return [
        *cases,
        case("logits quantized", "quant-q8_0", request, {"logits": expect}),
        case("logits of a foreign id", "model-chain", foreign, {"error": "invalid-argument"}),
    ]


# ---- tenants ----------------------------------------------------------------------------------------


def tenants() -> list[Json]:
    """What a tenant has used, and what the scheduler hears of a request. The prompts have two tokens."""
    used = stats(requests=1, tokens_prompt=2, tokens_generated=5, queued=0, refused={})
    late = stats(refused={"deadline": 1})  # a page's clock may stand still for longer than a first step takes
    return [
        case("account", "model-chain", account(), used),
        case("urgent account", "model-chain", account(priority=7, deadline=600.0), used),
        case("account of a deadline", "model-chain", account(deadline=1e-9), late),
        case("deadline", "model-chain", chain_request("1", deadline=1e-9), {"error": "limit-exceeded"}),
        case("no time", "model-chain", chain_request("1", deadline=0), {"error": "invalid-argument"}),
        case("no priority", "model-chain", chain_request("1", priority=-1), {"error": "invalid-argument"}),
    ]


def stats(**values: Any) -> Json:
    return {"stats": {"names": ACCOUNT, "values": values}}


def account(**urgency: Any) -> Json:
    return {**chain_request("1", max_tokens=5, ignore_end=True, mode="whole", **urgency), "op": "account"}


# ---- log probabilities, and what the engine says of its work -----------------------------------------


def logprobs() -> list[Json]:
    cases = []
    for name in ("mistral", "gemma2"):
        for mode in ("granular", *MODES):
            top = 0 if mode == "whole" else 3
            asked = {
                "logprobs": True,
                "top_logprobs": top,
                "mode": mode,
                "temperature": 0,
                "ignore_end": True,
            }
            cases.append(
                case(f"log probabilities {name} {mode}", f"model-{name}", *probable(name, asked, top))
            )
    for about, wrong in (
        ("too many", {"top_logprobs": 21}),
        ("in mode whole", {"top_logprobs": 1, "mode": "whole"}),
    ):
        error = {"error": "invalid-argument"}
        cases.append(case(f"likeliest tokens {about}", "model-chain", chain_request("1", **wrong), error))
    return cases


def probable(name: str, settings: Json, top: int) -> tuple[Json, Json]:
    """A greedy request as far as the oracle is sure of its tokens, and what their places look like."""
    vector = json.loads((fixtures.VECTORS / f"model-{name}.json").read_text())
    ids, tokens, gaps = vector["ids"], vector["greedy"], vector["gaps"]
    sure = next((i for i, gap in enumerate(gaps) if gap <= F16_KV_BOUND), len(tokens))
    model = reference.load(fixtures.VECTORS / f"model-{name}.gguf")
    rows = reference.logits(model, [*ids, *tokens[: sure - 1]])[len(ids) - 1 :]
    values = [row - row.max() - np.log(np.exp(row - row.max()).sum()) for row in rows.astype(np.float64)]
    expect: Json = {"tokens": tokens[:sure], "bound": 2 * F16_KV_BOUND}  # of a logit, and of the sum
    expect["values"] = [round(float(row[token]), 6) for row, token in zip(values, tokens, strict=False)]
    if top:
        expect["top"] = [[round(float(v), 6) for v in np.sort(row)[::-1][:top]] for row in values]
    request = {"op": "generate", "prompt": vector["prompt"], "settings": {**settings, "max_tokens": sure}}
    work = (
        {} if settings["mode"] == "layers" else {"work": {"rows": len(ids) + sure - 1}}
    )  # there a row a slice
    return request, {"logprobs": expect, **work}


if __name__ == "__main__":
    main()
