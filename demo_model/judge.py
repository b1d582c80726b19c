"""Score realm-demo.gguf on judge.json: `python judge.py [--model FILE] [--scores FILE] [--misses]`.

Owns the demo model's exam. It runs the quantized file itself, dequantized by the `gguf` package, through a
plain NumPy forward pass (one conversation at a time, greedy), with the tokenizer and the chat template found
in the file; nothing of the trainer's model code is used. It also checks that training
asks none of its questions.
"""

import argparse
import json
import os
import re
from itertools import islice
from pathlib import Path
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # the matrices are too small to share out

import gguf
import jinja2.sandbox
import numpy as np
import numpy.typing as npt
from conversations import Conversations
from questions import read_facts
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from train import SEED

HERE = Path(__file__).parent
TRAINING_DOCUMENTS = 200_000  # more than a training run draws
MAX_NEW_TOKENS = 64

Array = npt.NDArray[Any]
Record = dict[str, Any]
Cache = tuple[Array, Array]  # keys and values of one block, each (positions, kv heads, width)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=HERE / "realm-demo.gguf")
    parser.add_argument("--scores", type=Path, help="write the scores to this file")
    parser.add_argument("--misses", action="store_true", help="print every wrong answer")
    arguments = parser.parse_args()
    exam = json.loads((HERE / "judge.json").read_text(encoding="utf-8"))
    scores = score(DemoModel(arguments.model), exam, arguments.misses)
    scores["questions_also_in_training"] = len(seen_in_training(exam))
    scores["file_bytes"] = arguments.model.stat().st_size
    text = json.dumps(scores, indent=2, ensure_ascii=False)
    print(text)
    if arguments.scores:
        arguments.scores.write_text(text + "\n", encoding="utf-8")


def score(model: "DemoModel", exam: Record, show_misses: bool) -> Record:
    pairs = [(entry["question"], entry["must_contain"]) for entry in exam["capitals"]]
    refusals = [(question, exam["refusal"]) for question in exam["off_topic"]]
    capital_misses = misses(model, pairs)
    refusal_misses = misses(model, refusals)
    if show_misses:
        for question, answer in capital_misses + refusal_misses:
            print(f"MISS {question!r} -> {answer!r}")
    return {
        "capital_questions": len(pairs),
        "capital_right": len(pairs) - len(capital_misses),
        "capital_rate": round(1 - len(capital_misses) / len(pairs), 4),
        "off_topic_questions": len(refusals),
        "off_topic_refused": len(refusals) - len(refusal_misses),
        "off_topic_rate": round(1 - len(refusal_misses) / len(refusals), 4),
        "paris": model.answer("What is the capital of France?"),
    }


def misses(model: "DemoModel", wanted: list[tuple[str, str]]) -> list[tuple[str, str]]:
    answers = [(question, model.answer(question), part) for question, part in wanted]
    return [(question, answer) for question, answer, part in answers if part not in answer]


def seen_in_training(exam: Record) -> set[str]:
    """Exam questions that training asks too, casing and punctuation aside."""
    conversations = Conversations(read_facts(HERE / "facts.txt"), SEED + 1)
    conversations.questions_asked = set()
    for _ in islice(conversations.documents(), TRAINING_DOCUMENTS):
        pass
    asked = {simplified(question) for question in conversations.questions_asked}
    questions = [entry["question"] for entry in exam["capitals"]] + exam["off_topic"]
    return {question for question in questions if simplified(question) in asked}


def simplified(question: str) -> str:
    """Words alone; a question of symbols only stays as it is."""
    return " ".join(re.findall(r"\w+", question.lower())) or question


class DemoModel:
    """The GGUF file, read and run in float32 NumPy."""

    def __init__(self, path: Path) -> None:
        reader = gguf.GGUFReader(path)
        self.fields = {name: field.contents() for name, field in reader.fields.items()}
        self.weights: dict[str, Array] = {
            tensor.name: gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
            for tensor in reader.tensors
        }
        self.tokenizer = tokenizer_of(self.fields)
        self.tokens = self.fields["tokenizer.ggml.tokens"]
        self.end = self.fields["tokenizer.ggml.eos_token_id"]
        environment = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        self.template = environment.from_string(self.fields["tokenizer.chat_template"])

    def answer(self, question: str) -> str:
        bos = self.tokens[self.fields["tokenizer.ggml.bos_token_id"]]
        messages = [{"role": "user", "content": question}]
        prompt = self.template.render(messages=messages, bos_token=bos, add_generation_prompt=True)
        return self.complete(self.tokenizer.encode(prompt).ids)

    def complete(self, prompt: list[int]) -> str:
        """Greedy continuation of the prompt up to the end token."""
        cache: list[Cache] = []
        new: list[int] = []
        ids = prompt
        while len(new) < MAX_NEW_TOKENS:
            ids = [int(self.logits(ids, cache).argmax())]
            if ids[0] == self.end:
                break
            new += ids
        return str(self.tokenizer.decode(new))

    def logits(self, ids: list[int], cache: list[Cache]) -> Array:
        """Logits after the last of ids; cache holds each block's keys and values and grows by ids."""
        epsilon = self.fields["llama.attention.layer_norm_rms_epsilon"]
        x: Array = self.weights["token_embd.weight"][ids]  # (n, d)
        for index in range(self.fields["llama.block_count"]):
            w = {part: self.weights[f"blk.{index}.{part}.weight"] for part in BLOCK_PARTS}
            if index == len(cache):
                cache.append(self.empty_cache())
            h = rms_norm(x, w["attn_norm"], epsilon)
            attended, cache[index] = self.attend(h, w, cache[index])
            x = x + attended @ w["attn_output"].T
            h = rms_norm(x, w["ffn_norm"], epsilon)
            gate = h @ w["ffn_gate"].T
            x = x + (gate / (1 + np.exp(-gate)) * (h @ w["ffn_up"].T)) @ w["ffn_down"].T
        last = rms_norm(x[-1], self.weights["output_norm.weight"], epsilon)  # (d,)
        return last @ self.weights.get("output.weight", self.weights["token_embd.weight"]).T

    def empty_cache(self) -> Cache:
        shape = (0, self.fields["llama.attention.head_count_kv"], self.fields["llama.rope.dimension_count"])
        return np.zeros(shape, np.float32), np.zeros(shape, np.float32)

    def attend(self, x: Array, w: dict[str, Array], cached: Cache) -> tuple[Array, Cache]:
        n, past = len(x), len(cached[0])
        width = self.fields["llama.rope.dimension_count"]
        positions = np.arange(past, past + n)
        q = self.rotate((x @ w["attn_q"].T).reshape(n, -1, width), positions)  # (n, heads, width)
        k = self.rotate((x @ w["attn_k"].T).reshape(n, -1, width), positions)
        k = np.concatenate((cached[0], k))  # (past + n, kv heads, width)
        v = np.concatenate((cached[1], (x @ w["attn_v"].T).reshape(n, -1, width)))
        group = q.shape[1] // k.shape[1]
        scores = np.einsum("qhw,khw->hqk", q, k.repeat(group, axis=1)) / np.sqrt(width)
        scores = np.where(np.arange(past + n) <= positions[:, None], scores, -np.inf)
        shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
        shares /= shares.sum(axis=-1, keepdims=True)
        out = np.einsum("hqk,khw->qhw", shares, v.repeat(group, axis=1))
        return out.reshape(n, -1), (k, v)

    def rotate(self, x: Array, positions: Array) -> Array:
        """Turn neighbouring pairs (2i, 2i+1) of each head by the position's angles."""
        width = x.shape[-1]
        rates = self.fields["llama.rope.freq_base"] ** (-np.arange(0, width, 2) / width)
        turn = np.exp(1j * positions[:, None] * rates)[:, None]  # (n, 1, width / 2)
        pairs = (x[..., 0::2] + 1j * x[..., 1::2]) * turn
        return np.stack((pairs.real, pairs.imag), axis=-1).reshape(x.shape).astype(np.float32)


BLOCK_PARTS = (
    "attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_norm", "ffn_gate", "ffn_up", "ffn_down",
)  # fmt: skip


def rms_norm(x: Array, weight: Array, epsilon: float) -> Array:
    scale: Array = np.sqrt((x * x).mean(axis=-1, keepdims=True) + epsilon)
    return x / scale * weight


def tokenizer_of(fields: Record) -> Tokenizer:
    """The byte-level BPE tokenizer as the file describes it."""
    tokens, types = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE({token: index for index, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    special = [token for token, kind in zip(tokens, types, strict=True) if kind == gguf.TokenType.CONTROL]
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    return tokenizer


if __name__ == "__main__":
    main()
