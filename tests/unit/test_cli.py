"""The command `realm` as a user meets it: started as a process, judged by its output and exit status."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.unit.long_model import long_model

ROOT = Path(__file__).parents[2]
VECTORS = ROOT / "tests" / "vectors"
CHAIN = str(VECTORS / "model-chain.gguf")
ENDLESS = str(VECTORS / "model-mistral.gguf")
VOCABULARY = str(VECTORS / "tokenizer-gpt2.gguf")
ERROR_LINE = re.compile(r"error: .+ \[[a-z-]+\]\n")


def start(*arguments: str, **options: Any) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "host_python"), "PYTHONUTF8": "0", "LC_ALL": "C"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    command = [sys.executable, "-m", "realm", *arguments]
    return subprocess.Popen(command, env=environment, **{**pipes, **options})


def heed_interrupts() -> None:
    """In a child: a shell's background jobs begin with the signal ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def run(*arguments: str, stdin: bytes = b"", status: int = 0) -> bytes:
    """Standard output of a run that ends with the status; standard error is empty, or one line of error."""
    with start(*arguments) as process:
        out, err = process.communicate(stdin, timeout=60)
    assert process.returncode == status, err.decode()
    if status:
        assert out == b""
        assert ERROR_LINE.fullmatch(err.decode("utf-8", "replace")), err
        return err
    assert err == b""
    return out


def code_of(line: bytes) -> str:
    return line.decode("utf-8", "replace").rstrip("]\n").rpartition("[")[2]


# ---- generate ----


def test_generate_json() -> None:
    made = json.loads(
        run("generate", "-m", CHAIN, "--raw", "1", "--max-tokens", "40", "--temperature", "0", "--json")
    )
    assert set(made) == {"text", "tokens", "prompt_tokens", "finish_reason", "timings"}
    assert made["text"] == " one two, three. fourEND five"
    assert made["finish_reason"] == "end"
    assert made["prompt_tokens"] == 2
    assert all(isinstance(token, int) for token in made["tokens"])
    assert made["timings"]["total_seconds"] >= made["timings"]["first_token_seconds"] > 0


def test_generate_uses_the_chat_template_unless_raw() -> None:
    assert run("generate", "-m", CHAIN, "1", "--temperature", "0") == b"Hi there!\n"
    assert run("generate", "-m", CHAIN, "--raw", "4", "--temperature", "0", "-n", "3") == b" la lo la\n"
    assert run("generate", "-m", CHAIN, "--raw", "2", "--temperature", "0") == "é日😀\n".encode()
    assert (
        run("generate", "-m", CHAIN, "--raw", "1", "--temperature", "0", "--stop", "END")
        == b" one two, three. four\n"
    )
    assert (
        run("generate", "-m", CHAIN, "--raw", "-", "--temperature", "0", stdin=b"\xff3")
        == b"ok\xef\xbf\xbdx\xef\xbf\xbdy\n"
    )


def test_generate_without_a_template_continues_the_prompt() -> None:
    made = json.loads(run("generate", "-m", ENDLESS, "a", "-n", "3", "--ignore-end", "--json"))
    assert (len(made["tokens"]), made["finish_reason"]) == (3, "length")


# ---- tokens ----


def test_tokenize_and_detokenize() -> None:
    ids = json.loads(run("tokenize", "-m", CHAIN, "--json", stdin="ok é".encode()))
    assert json.loads(run("detokenize", "-m", CHAIN, "--json", stdin=json.dumps(ids).encode())) == "ok é"
    assert run("detokenize", "-m", CHAIN, stdin=json.dumps(ids).encode()) == "ok é".encode()
    assert run("tokenize", "-m", CHAIN, stdin=b"ok").decode().split() == [str(i) for i in ids[:1]]
    special = json.loads(
        run("tokenize", "-m", CHAIN, "--json", "--add-special", "--parse-special", stdin=b"<|user|>")
    )
    assert special == [1, 3]
    many = json.loads(run("tokenize", "-m", CHAIN, "--json", "--batch", stdin=b'["ok", "", "ok"]'))
    assert many == [ids[:1], [], ids[:1]]
    assert json.loads(run("detokenize", "-m", CHAIN, "--batch", stdin=json.dumps(many).encode())) == [
        "ok",
        "",
        "ok",
    ]


def test_vocabulary_files_are_enough_for_tokens() -> None:
    assert json.loads(run("tokenize", "-m", VOCABULARY, "--json", stdin=b"\xff\xfe\x00hi"))
    assert code_of(run("generate", "-m", VOCABULARY, "x", status=1)) == "no-weights"


@pytest.mark.parametrize(
    ("arguments", "stdin"),
    [
        (["tokenize", "--batch"], b"not json"),
        (["tokenize", "--batch"], b'[1, "a"]'),
        (["tokenize", "--batch"], b"[" * 100_000),
        (["detokenize"], b"[1, -2]"),
        (["detokenize"], b"one"),
        (["detokenize"], b"\xff"),
        (["detokenize", "--batch"], b"[1]"),
        (["detokenize", "--json"], b"99999999"),
        (["detokenize", "--json"], b"99999999999999999999"),
    ],
)
def test_input_that_is_none(arguments: list[str], stdin: bytes) -> None:
    assert code_of(run(*arguments, "-m", CHAIN, stdin=stdin, status=1)) == "invalid-argument"


# ---- logits, inspect, bench ----


def test_logits_file(tmp_path: Path) -> None:
    out = tmp_path / "values.npy"
    assert run("logits", "-m", CHAIN, "--ids", "1,292, 273", "--out", str(out)) == b""
    values = np.load(out)
    assert values.dtype == np.float32
    assert values.shape[0] == 3
    assert values[1].argmax() == 273  # " one" follows "1"
    assert (
        code_of(run("logits", "-m", CHAIN, "--ids", "1", "--out", str(tmp_path / "no" / "x.npy"), status=1))
        == "io"
    )
    assert (
        code_of(run("logits", "-m", CHAIN, "--ids", "999999", "--out", str(out), status=1))
        == "invalid-argument"
    )


def test_inspect() -> None:
    described = json.loads(run("inspect", CHAIN, "--json"))
    assert described["metadata"]["general.architecture"] == "llama"
    assert {"name", "type", "shape"} <= set(described["tensors"][0])
    assert b"general.architecture" in run("inspect", CHAIN)


def test_bench_measures_everything() -> None:
    made = json.loads(run("bench", "-m", CHAIN, "-t", "1", "-p", "8", "-n", "4", "-r", "2", "--json"))
    for name in ("prompt_tokens_per_second", "generation_tokens_per_second", "first_token_seconds"):
        assert 0 < made[name]["min"] <= made[name]["median"] <= made[name]["max"]
    assert made["threads"] == 1
    assert made["load_seconds"] > 0
    assert made["peak_resident_bytes"] > 1 << 20
    assert made["read_bandwidth_bytes_per_second"] > 1e8
    assert 0 < made["bandwidth_share"] < 1.5
    assert code_of(run("bench", "-m", CHAIN, "-p", "0", status=1)) == "invalid-argument"
    assert code_of(run("bench", "-m", CHAIN, "-p", "500000", status=1)) == "context-full"


# ---- chat ----


def test_chat_reads_lines_and_keeps_a_history() -> None:
    with start("chat", "-m", CHAIN, "--temperature", "0") as process:
        out, err = process.communicate(b"1\n/clear\nhello\n\n/exit\nnever\n", timeout=60)
    assert process.returncode == 0
    assert out.decode() == "Hi there!\nHi there!\n"
    assert b"Traceback" not in err


# ---- what goes wrong ----


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["generate", "-m", "/no/such/file.gguf", "x"], "not-found"),
        (["generate", "-m", str(ROOT), "x"], "io"),
        (["generate", "-m", str(ROOT / "LICENSE"), "x"], "invalid-gguf"),
        (["inspect", "a\nb.gguf"], "not-found"),
        (["generate", "-m", CHAIN, "x", "--temperature", "-1"], "invalid-argument"),
        (["generate", "-m", CHAIN, "x", "-n", "0"], "invalid-argument"),
        (["generate", "-m", CHAIN, "x", "--mode", "magic"], "invalid-argument"),
        (["generate", "-m", CHAIN, "--raw", "1" * 5000], "context-full"),
    ],
)
def test_errors_are_one_line_with_a_code(arguments: list[str], code: str) -> None:
    assert code_of(run(*arguments, status=1)) == code


@pytest.mark.parametrize(
    "arguments",
    [["generate"], ["frobnicate"], ["generate", "x", "--max-tokens", "many"], ["logits"], ["--version-x"]],
)
def test_wrong_usage_is_status_2(arguments: list[str]) -> None:
    run(*arguments, status=2)


def test_without_arguments_the_help_is_shown() -> None:
    with start() as process:
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (2, b"")
    assert b"Usage: realm" in err and err.count(b"\n") > 5


def test_help_names_every_command() -> None:
    text = run("--help").decode()
    for name in ("generate", "chat", "inspect", "tokenize", "detokenize", "logits", "bench"):
        assert name in text
        assert run(name, "--help")


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize("arguments", [["--json"], []])
def test_ctrl_c_in_the_middle_of_an_answer_ends_at_once(arguments: list[str], tmp_path: Path) -> None:
    model = str(long_model(tmp_path))
    command = ["generate", "-m", model, "a", "-n", "90000", "--ignore-end", *arguments]
    with start(*command, preexec_fn=heed_interrupts) as process:
        try:
            assert process.stdout is not None
            if arguments:
                time.sleep(2.0)
            else:
                process.stdout.read(1)
            assert process.poll() is None
            began = time.monotonic()
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=20)
        finally:
            process.kill()  # or leaving the block would wait for it
    assert time.monotonic() - began < 2.0  # one second on a machine that does nothing else
    assert process.returncode == 130
    assert err == b"interrupted\n"


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX pipes")
def test_a_reader_that_goes_away_is_no_traceback(tmp_path: Path) -> None:
    with start("generate", "-m", str(long_model(tmp_path)), "a", "-n", "90000", "--ignore-end") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(1)
        process.stdout.close()
        err = process.stderr.read()
        process.wait(timeout=30)
    assert process.returncode == 1
    assert b"Traceback" not in err
