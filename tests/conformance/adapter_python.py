"""The conformance adapter of the Python host: one JSON request a line in, one JSON answer a line out.

A request names an operation, a model file and arguments with the names of realm.wit; an answer holds the
result, or {"error": code}. Numbers JSON cannot write ("NaN", "Infinity", "-Infinity") come as strings.
README.md has the table.
"""

from __future__ import annotations

import base64
import contextlib
import json
import sys
from dataclasses import asdict
from typing import Any

from realm import Generation, Realm, RealmError

OF_THE_GUEST = ("first_token_seconds", "total_seconds")


def main() -> None:
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), flush=True)


def answer(request: dict[str, Any]) -> dict[str, Any]:
    try:
        with Realm() as realm:
            realm.load_model(request["model"], kv_type=request.get("kv_type", "f16"))
            return OPERATIONS[request["op"]](realm, request)
    except RealmError as problem:
        return {"error": problem.code}


def load(realm: Realm, request: dict[str, Any]) -> dict[str, Any]:
    return {"vocab_size": realm.model.info.vocab_size}


def generate(realm: Realm, request: dict[str, Any]) -> dict[str, Any]:
    return result(realm.generate(request["prompt"], **settings(request)))


def chat(realm: Realm, request: dict[str, Any]) -> dict[str, Any]:
    return result(realm.chat(request["messages"], **settings(request)))


def stream(realm: Realm, request: dict[str, Any]) -> dict[str, Any]:
    running = realm.stream(request["prompt"], **settings(request))
    return {"pieces": list(running), **result(running.result)}


def cancel(realm: Realm, request: dict[str, Any]) -> dict[str, Any]:
    """Leaves a stream after its first piece, then uses the realm again."""
    with realm.stream(request["prompt"], **settings(request)) as running:
        next(running)
    return result(realm.generate(request["then"], temperature=0))


def account(realm: Realm, request: dict[str, Any]) -> dict[str, Any]:
    with contextlib.suppress(RealmError):  # which is counted
        realm.generate(request["prompt"], **settings(request))
    return {"stats": asdict(realm.tenant_stats())}


def logits(realm: Realm, request: dict[str, Any]) -> dict[str, Any]:
    rows = realm.logits(request["ids"])[request["positions"]]
    return {"logits": base64.b64encode(rows.astype("<f4").tobytes()).decode()}


def tokenize(realm: Realm, request: dict[str, Any]) -> dict[str, Any]:
    flags = {name: request.get(name, False) for name in ("add_special", "parse_special")}
    return {"ids": realm.tokenize(request["text"], **flags)}


def detokenize(realm: Realm, request: dict[str, Any]) -> dict[str, Any]:
    return {"text": realm.detokenize(request["ids"])}


def settings(request: dict[str, Any]) -> dict[str, Any]:
    made = {name: number(value) for name, value in request.get("settings", {}).items()}
    if "logit_bias" in made:
        made["logit_bias"] = {int(token): number(value) for token, value in made["logit_bias"].items()}
    return made


def number(value: Any) -> Any:
    return float(value) if value in ("NaN", "Infinity", "-Infinity") else value


def result(made: Generation) -> dict[str, Any]:
    return {
        "text": made.text,
        "tokens": list(made.tokens),
        "prompt_tokens": made.prompt_tokens,
        "finish_reason": made.finish_reason,
        "logprobs": made.logprobs,
        "top_logprobs": made.top_logprobs,
        "work": {name: value for name, value in asdict(made.timings).items() if name not in OF_THE_GUEST},
    }


OPERATIONS = {
    function.__name__: function
    for function in (load, generate, chat, stream, cancel, account, logits, tokenize, detokenize)
}

if __name__ == "__main__":
    main()
