"""The command `realm`: generate, chat, inspect, tokenize, detokenize, logits, bench, serve.

Results go to standard output; an error is one line with its code on standard error, with exit status 1, or 2
for wrong usage. The engine is imported inside the commands, so that `realm --help` is quick.
"""

from __future__ import annotations

import functools
import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ._errors import RealmError, error
from .server import cli as server_cli

if TYPE_CHECKING:
    from ._api import Generation, Realm
    from ._model import Model

FAILED, USAGE, INTERRUPTED = 1, 2, 130
MAX_STDIN = 256 << 20

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Run language models from GGUF files, each tenant in its own sandbox.",
)


def main(arguments: list[str] | None = None) -> int:
    """Runs one command line; returns the exit status. No traceback leaves this function."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(
                errors="replace"
            )  # a terminal that cannot show a character shows a question mark
    try:
        status = app(args=arguments, prog_name="realm", standalone_mode=False)
    except KeyboardInterrupt:
        status = interrupted()
    except Exception as problem:
        if type(problem).__name__ == "NoArgsIsHelpError":
            print(problem, file=sys.stderr)
            status = USAGE
        elif hasattr(problem, "exit_code") and hasattr(problem, "format_message"):  # wrong usage, says typer
            complain(f"{problem.format_message()} (see: realm --help)", "invalid-argument")
            status = USAGE
        else:
            status = report(problem)
    return finish(status if isinstance(status, int) else 0)


def finish(status: int) -> int:
    try:
        sys.stdout.flush()
    except OSError:
        discard_output()
        return status or FAILED
    return status


def discard_output() -> None:
    """The reader has gone: what Python still holds for it must not fail a second time at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def report(problem: BaseException) -> int:
    if isinstance(problem, BrokenPipeError):
        discard_output()
    elif isinstance(problem, RealmError):
        complain(problem.message, problem.code)
    elif isinstance(problem, MemoryError):
        complain("there is not enough memory", "out-of-memory")
    elif isinstance(problem, OSError):
        name = f"{problem.filename}: " if problem.filename else ""
        complain(f"{name}{problem.strerror or problem}", "io")
    else:
        complain(f"{type(problem).__name__}: {problem}", "internal")
    return FAILED


def complain(message: str, code: str) -> None:
    """One line, whatever the message holds."""
    line = " ".join(message.split())
    printable = "".join(c if c.isprintable() else "?" for c in line)
    sys.stderr.write(f"error: {printable} [{code}]\n".encode("utf-8", "replace").decode("utf-8"))


def interrupted() -> int:
    sys.stderr.write("interrupted\n")
    return INTERRUPTED


def guarded(function: Callable[..., None]) -> Callable[..., int]:
    """The same, with every exception turned into an exit status."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> int:
        try:
            function(*args, **kwargs)
        except KeyboardInterrupt:
            return interrupted()
        except Exception as problem:
            return report(problem)
        return 0

    return run


def command(function: Callable[..., None]) -> Callable[..., int]:
    """Registers a subcommand."""
    run = guarded(function)
    app.command(function.__name__.removesuffix("_command"))(run)
    return run


# ---- options ----

ModelOption = Annotated[
    str | None, typer.Option("-m", "--model", metavar="FILE", help="GGUF file; without it, the demo model.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
ThreadsOption = Annotated[int | None, typer.Option("-t", "--threads", help="Compute threads.")]
MaxTokensOption = Annotated[int, typer.Option("-n", "--max-tokens", help="Most tokens to generate.")]
TemperatureOption = Annotated[float, typer.Option("--temperature", help="0 takes the likeliest token.")]
TopKOption = Annotated[int, typer.Option("--top-k", help="Only the K likeliest tokens; 0: off.")]
TopPOption = Annotated[
    float, typer.Option("--top-p", help="Only the likeliest tokens up to this probability.")
]
MinPOption = Annotated[
    float, typer.Option("--min-p", help="Only tokens this likely beside the likeliest one.")
]
PenaltyOption = Annotated[float, typer.Option("--repetition-penalty", help="Above 1: less repetition.")]
SeedOption = Annotated[int | None, typer.Option("--seed", help="The same seed draws the same tokens.")]
StopOption = Annotated[
    list[str] | None, typer.Option("--stop", help="Stop before this text; may be repeated.")
]
ContextOption = Annotated[
    int, typer.Option("-c", "--context-length", help="Most tokens of a session; 0: the model's.")
]
SystemOption = Annotated[str | None, typer.Option("--system", help="System message.")]
ModeOption = Annotated[str, typer.Option("--mode", help="How the guest works: whole, granular or layers.")]


# ---- commands ----


@command
def generate_command(
    prompt: Annotated[
        str, typer.Argument(help="The question, or with --raw the text to continue; - reads it.")
    ],
    model: ModelOption = None,
    max_tokens: MaxTokensOption = 256,
    temperature: TemperatureOption = 0.8,
    top_k: TopKOption = 40,
    top_p: TopPOption = 0.95,
    min_p: MinPOption = 0.05,
    repetition_penalty: PenaltyOption = 1.0,
    seed: SeedOption = None,
    stop: StopOption = None,
    mode: ModeOption = "whole",
    system: SystemOption = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Send the prompt as it is, without a chat template.")
    ] = False,
    ignore_end: Annotated[
        bool, typer.Option("--ignore-end", help="Do not stop at the model's end token.")
    ] = False,
    threads: ThreadsOption = None,
    context_length: ContextOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Answer one prompt."""
    from ._api import Realm
    from ._options import Sampling

    text = read_text() if prompt == "-" else argument_text(prompt)
    sampling = Sampling(
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        seed=seed,
        ignore_end=ignore_end,
    )
    with Realm(threads=threads) as realm:
        load = Loading(realm, model, context_length, show=not as_json)
        settings: dict[str, Any] = {
            "max_tokens": max_tokens,
            "stop": stop or (),
            "mode": mode,
            "sampling": sampling,
        }
        raw = raw or (load.model.chat_template is None and system is None)
        if raw:
            stream = realm.stream(text, **settings)
        else:
            stream = realm.chat_stream(conversation(system, [(text, None)]), **settings)
        with stream:
            for piece in stream:
                if not as_json:
                    write(piece)
            result = stream.result
        write(
            (json.dumps(generation_record(result, load.seconds), ensure_ascii=False) if as_json else "")
            + "\n"
        )


@command
def chat_command(
    model: ModelOption = None,
    max_tokens: MaxTokensOption = 1024,
    temperature: TemperatureOption = 0.8,
    top_k: TopKOption = 40,
    top_p: TopPOption = 0.95,
    min_p: MinPOption = 0.05,
    seed: SeedOption = None,
    system: SystemOption = None,
    threads: ThreadsOption = None,
    context_length: ContextOption = 0,
) -> None:
    """Talk with a model. /clear forgets the conversation, /exit leaves; Ctrl-C stops an answer."""
    from ._api import Realm
    from ._options import Sampling

    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, seed=seed)
    turns: list[tuple[str, str | None]] = []
    with Realm(threads=threads) as realm:
        load = Loading(realm, model, context_length, show=True)
        note(f"{Path(load.model.path).name}: /clear forgets, /exit leaves")
        while (line := ask()) is not None:
            if line == "/clear":
                turns.clear()
            elif line:
                turns.append((line, None))
                answer = say(realm, conversation(system, turns), max_tokens, sampling)
                turns[-1] = (line, answer)


@command
def inspect_command(
    model: Annotated[str, typer.Argument(help="GGUF file.")],
    as_json: JsonOption = False,
) -> None:
    """Show a model file's architecture, metadata and tensors."""
    with open_model(model, "header") as opened:
        described = opened.describe()
    if as_json:
        write(json.dumps(described, ensure_ascii=False) + "\n")
    else:
        show_description(described)


@command
def tokenize_command(
    model: ModelOption = None,
    as_json: JsonOption = False,
    add_special: Annotated[
        bool, typer.Option("--add-special", help="BOS and EOS as the model wants.")
    ] = False,
    parse_special: Annotated[
        bool, typer.Option("--parse-special", help="Read control tokens in the text.")
    ] = False,
    batch: Annotated[
        bool, typer.Option("--batch", help="Read a JSON list of texts, print a list of lists.")
    ] = False,
) -> None:
    """Read a text from standard input and print its token ids."""
    data = read_bytes()
    texts = parse_json(data, is_text_list, "a JSON list of texts") if batch else [data]
    with open_model(model, "vocab") as opened:
        found = [
            opened.tokenize(text, add_special=add_special, parse_special=parse_special) for text in texts
        ]
    write_ids(found if batch else found[0], as_json or batch)


@command
def detokenize_command(
    model: ModelOption = None,
    as_json: JsonOption = False,
    special: Annotated[bool, typer.Option("--special", help="Write control tokens as text.")] = False,
    batch: Annotated[bool, typer.Option("--batch", help="Read a JSON list of lists of ids.")] = False,
) -> None:
    """Read token ids (a JSON list, or numbers) from standard input and print their text."""
    data = read_bytes()
    lists = parse_json(data, is_id_lists, "a JSON list of lists of ids") if batch else [parse_ids(data)]
    with open_model(model, "vocab") as opened:
        texts = [opened.detokenize_bytes(ids, special=special) for ids in lists]
    if as_json or batch:
        decoded = [text.decode("utf-8", "replace") for text in texts]
        write(json.dumps(decoded if batch else decoded[0], ensure_ascii=False) + "\n")
    else:
        sys.stdout.buffer.write(texts[0])


@command
def logits_command(
    ids: Annotated[str, typer.Option("--ids", help="Token ids: 1,2,3")],
    out: Annotated[str, typer.Option("--out", help="File to write, NumPy's .npy format.")],
    model: ModelOption = None,
    threads: ThreadsOption = None,
) -> None:
    """Write the logits after each of the ids: float32 (number of ids, vocabulary), with an f32 KV cache."""
    import numpy

    from ._api import Realm

    tokens = parse_ids(ids.encode())
    with Realm(threads=threads) as realm:
        Loading(realm, model, 0, show=False)
        values = realm.logits(tokens)
    with Path(out).open("wb") as file:
        numpy.save(file, values)


@command
def bench_command(
    model: ModelOption = None,
    threads: ThreadsOption = None,
    prompt_tokens: Annotated[int, typer.Option("-p", help="Tokens of the prompt.")] = 512,
    generated_tokens: Annotated[int, typer.Option("-n", help="Tokens to generate.")] = 128,
    repetitions: Annotated[int, typer.Option("-r", help="Repetitions.")] = 5,
    as_json: JsonOption = False,
) -> None:
    """Measure prompt and generation speed, load time, memory, and the share of the read bandwidth."""
    from ._bench import measure

    results = measure(model_path(model), threads, prompt_tokens, generated_tokens, repetitions)
    if as_json:
        write(json.dumps(results) + "\n")
    else:
        show_bench(results)


# ---- models ----


def model_path(model: str | None) -> Path:
    from ._model import demo_model_path

    return Path(model) if model else demo_model_path()


def open_model(model: str | None, mode: str) -> Model:
    """The tokenizer or header of a file, without a realm around it."""
    from ._engine import EngineOptions
    from ._model import Model, ModelOptions
    from ._process import Process

    return Model.load(
        Process.current().engine(EngineOptions(threads=1)), model_path(model), ModelOptions(mode)
    )


class Loading:
    """Loads the model of a command, with a progress bar on a terminal when it takes long."""

    def __init__(self, realm: Realm, model: str | None, context_length: int, show: bool) -> None:
        import time

        began = time.monotonic()
        self._began = began
        self._bar: Any = None
        self._show = show and sys.stderr.isatty()
        try:
            self.model = realm.load_model(model_path(model), context_length, progress=self._progress)
        finally:
            if self._bar:
                self._bar.stop()
        self.seconds = time.monotonic() - began

    def _progress(self, done: float) -> None:
        import time

        if not self._show or (self._bar is None and time.monotonic() - self._began < 0.5):
            return
        if self._bar is None:
            from rich.console import Console
            from rich.progress import Progress

            self._bar = Progress(console=Console(stderr=True), transient=True)
            self._task = self._bar.add_task("loading", total=1.0)
            self._bar.start()
        self._bar.update(self._task, completed=done)


server_cli.register(app, guarded)


# ---- conversations ----


def conversation(system: str | None, turns: list[tuple[str, str | None]]) -> list[dict[str, Any]]:
    messages = [{"role": "system", "content": system}] if system else []
    for question, answer in turns:
        messages.append({"role": "user", "content": question})
        if answer is not None:
            messages.append({"role": "assistant", "content": answer})
    return messages


def ask() -> str | None:
    """The user's next line; None at the end."""
    if sys.stdin.isatty():
        try:
            line = input("> ")
        except EOFError:
            return None
    else:
        data = sys.stdin.buffer.readline()
        if not data:
            return None
        line = data.decode("utf-8", "replace")
    return None if line.strip() in ("/exit", "/quit") else line.strip()


def say(realm: Realm, messages: list[dict[str, Any]], max_tokens: int, sampling: Any) -> str:
    """Streams an answer; Ctrl-C ends it and leaves what was said."""
    said = ""
    with realm.chat_stream(messages, max_tokens=max_tokens, sampling=sampling) as stream:
        try:
            for piece in stream:
                said += piece
                write(piece)
        except KeyboardInterrupt:
            note("stopped")
    write("\n")
    return said


def generation_record(result: Generation, load_seconds: float) -> dict[str, Any]:
    timings = {
        "load_seconds": round(load_seconds, 6),
        "first_token_seconds": round(result.timings.first_token_seconds, 6),
        "total_seconds": round(result.timings.total_seconds, 6),
        "tokens_per_second": round(result.timings.tokens_per_second(len(result.tokens)), 3),
    }
    return {
        "text": result.text,
        "tokens": list(result.tokens),
        "prompt_tokens": result.prompt_tokens,
        "finish_reason": result.finish_reason,
        "timings": timings,
    }


# ---- input and output ----


def read_bytes() -> bytes:
    data = sys.stdin.buffer.read(MAX_STDIN + 1)
    if len(data) > MAX_STDIN:
        raise error("limit-exceeded", f"standard input is longer than {MAX_STDIN} bytes")
    return data


def read_text() -> str:
    return read_bytes().decode("utf-8", "replace")


def argument_text(text: str) -> str:
    """Arguments that are no UTF-8 reach Python with surrogates in them."""
    return os.fsencode(text).decode("utf-8", "replace")


def write(text: str) -> None:
    sys.stdout.buffer.write(text.encode("utf-8", "replace"))
    sys.stdout.buffer.flush()


def note(text: str) -> None:
    sys.stderr.write(f"({text})\n")


def write_ids(ids: Any, as_json: bool) -> None:
    write((json.dumps(ids) if as_json else " ".join(map(str, ids))) + "\n")


def parse_json(data: bytes, accepted: Callable[[Any], bool], what: str) -> Any:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        value = None
    if not accepted(value):
        raise error("invalid-argument", f"standard input must be {what}")
    return value


def parse_ids(data: bytes) -> list[int]:
    """A JSON list, or numbers with commas or spaces between them."""
    text = data.decode("utf-8", "replace").strip().strip("[]")
    words = text.replace(",", " ").split()
    if not all(word.isascii() and word.isdigit() and len(word) <= 10 for word in words):
        raise error("invalid-argument", "token ids must be whole numbers, such as [1, 2, 3]")
    return [int(word) for word in words]


def is_text_list(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def is_id_lists(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(ids, list) and all(isinstance(i, int) and not isinstance(i, bool) for i in ids)
        for ids in value
    )


def show_description(described: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    metadata = Table("key", "value", title="metadata", title_justify="left")
    for key, value in described.get("metadata", {}).items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        metadata.add_row(Text(key), Text(text if len(text) <= 200 else text[:200] + " ..."))
    tensors = Table("tensor", "type", "shape", title="tensors", title_justify="left")
    for tensor in described.get("tensors", []):
        shape = " x ".join(map(str, tensor.get("shape", [])))
        tensors.add_row(Text(str(tensor.get("name"))), Text(str(tensor.get("type"))), shape)
    console.print(metadata)
    console.print(tensors)


def show_bench(results: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("measure", "median", "min", "max")
    for name, value in results.items():
        if isinstance(value, dict):
            table.add_row(name, *(f"{value[part]:.4g}" for part in ("median", "min", "max")))
        else:
            table.add_row(name, str(value), "", "")
    Console().print(table)
