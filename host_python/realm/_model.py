"""Model files: loaded once for each engine and options, shared, freed when the last user closes them."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._errors import error
from ._library import NO_TOKEN, asset, check, ffi, library, new_error
from ._options import KV_TYPES, choice, token_ids
from ._process import check_same_process

if TYPE_CHECKING:
    from ._engine import Engine
    from ._prefix import PublicPrefix

LOAD_MODES = {"full": 0, "vocab": 1, "header": 2}
ADD_SPECIAL, PARSE_SPECIAL = 1, 2  # REALM_ENCODE_...
SPECIAL, TEXT_START = 1, 2  # REALM_DECODE_...

Progress = Callable[[float], None]


@dataclass(frozen=True)
class ModelOptions:
    mode: str = "full"
    context_length: int = 0
    kv_type: str = "f16"


def demo_model_path() -> Path:
    """The small model that ships with the package."""
    return asset("_data/realm-demo.gguf", "demo_model/realm-demo.gguf")


class SharedModel:
    """The native model and how many `Model` handles use it. Guests that have it keep it alive in the core."""

    def __init__(self, pointer: Any, key: tuple[Any, ...], kv_type: str) -> None:
        self.pointer = pointer
        self.key = key
        self.kv_type = kv_type
        self.users = 1


class ModelStore:
    """The loaded models of one engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self._models: dict[tuple[Any, ...], SharedModel] = {}

    def acquire(self, path: Path, options: ModelOptions, progress: Progress | None) -> SharedModel:
        """The same unchanged file under the same options is loaded once."""
        key = (*_identity(path), options)
        with self._lock:
            found = self._models.get(key)
            if found:
                found.users += 1
        if found:
            if progress:
                progress(1.0)
            return found
        loaded = SharedModel(_load(self._engine.runtime, path, options, progress), key, options.kv_type)
        with self._lock:
            return self._keep(loaded)

    def share(self, model: SharedModel) -> SharedModel:
        with self._lock:
            model.users += 1
        return model

    def _keep(self, loaded: SharedModel) -> SharedModel:
        """Two threads may have loaded the same file at once: the first one stays."""
        first = self._models.setdefault(loaded.key, loaded)
        if first is not loaded:
            first.users += 1
            library().realm_model_close(loaded.pointer)
        return first

    def release(self, model: SharedModel) -> None:
        with self._lock:
            model.users -= 1
            if model.users:
                return
            del self._models[model.key]
        library().realm_model_close(model.pointer)


def _identity(path: Path) -> tuple[Any, ...]:
    try:
        real = path.resolve()
        status = real.stat()
    except FileNotFoundError:
        raise error("not-found", f"there is no model file {path}") from None
    except (OSError, RuntimeError, ValueError) as problem:
        raise error("io", f"the model file {path} cannot be read: {problem}") from None
    if not real.is_file():
        raise error("io", f"{path} is not a file")
    return str(real), status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size


def _load(runtime: Any, path: Path, options: ModelOptions, progress: Progress | None) -> Any:
    """Loads in bounded steps; between them the caller hears of the progress and Ctrl-C gets through."""
    native = ffi.new("realm_model_options *")
    native.mode = choice("mode", options.mode, LOAD_MODES)
    native.kv_type = choice("kv_type", options.kv_type, KV_TYPES)
    native.context_length = options.context_length
    native.prefetch = options.mode == "full"
    err = new_error()
    out = ffi.new("realm_loader **")
    check(library().realm_loader_begin(runtime, os.fsencode(path), native, out, err), err, str(path))
    loader = out[0]
    done = ffi.new("float *", 0.0)
    try:
        while done[0] < 1.0:
            check(library().realm_loader_step(loader, done, err), err, str(path))
            if progress:
                progress(min(1.0, float(done[0])))
    except BaseException:
        library().realm_loader_abandon(loader)
        raise
    model = ffi.new("realm_model **")
    check(library().realm_loader_finish(loader, model, err), err, str(path))
    return model[0]


@dataclass(frozen=True)
class ModelInfo:
    """Sizes and special tokens of a model; a token it does not have is None."""

    vocab_size: int
    context_length: int
    embedding_length: int
    layer_count: int
    head_count: int
    head_count_kv: int
    bos: int | None
    eos: int | None
    eot: int | None
    add_bos: bool
    add_eos: bool
    has_weights: bool
    parameter_count: int
    weight_bytes: int
    kv_bytes_per_token: int


class Model:
    """A handle on a shared model. Close it, or use it in a `with`; realms that were given it stay usable."""

    def __init__(self, engine: Engine, shared: SharedModel, path: Path) -> None:
        self._engine = engine
        self._shared: SharedModel | None = shared
        self._lock = threading.Lock()
        self.path = path
        self.info = _read_info(shared.pointer)

    @classmethod
    def load(
        cls, engine: Engine, path: Path, options: ModelOptions, progress: Progress | None = None
    ) -> Model:
        check_same_process(engine.pid)
        return cls(engine, engine.models.acquire(path, options, progress), path)

    def share(self) -> Model:
        """Another handle on the same model, to be closed by its own user."""
        return Model(self._engine, self._engine.models.share(self.shared()), self.path)

    @property
    def closed(self) -> bool:
        return self._shared is None

    def close(self) -> None:
        """Gives the handle back; doing it again does nothing."""
        with self._lock:
            shared, self._shared = self._shared, None
        if shared is not None and self._engine.pid == os.getpid():
            self._engine.models.release(shared)

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_shared", None) is not None:
            self.close()

    def __repr__(self) -> str:
        return f"<Model {str(self.path)!r}{' closed' if self.closed else ''}>"

    def shared(self) -> SharedModel:
        check_same_process(self._engine.pid)
        if self._shared is None:
            raise error("closed", "this model was closed; load it again")
        return self._shared

    # ---- what all tenants share ----

    def publish_prefix(
        self,
        prefix: str | bytes | Sequence[dict[str, Any]] | Sequence[int],
        *,
        add_special: bool = True,
        parse_special: bool = False,
        **template: Any,
    ) -> PublicPrefix:
        """Computes the beginning of prompts once, for the realms of every tenant, until it is unpublished.

        A text as `generate` takes it, messages (the system prompt, say) as `chat` does, or token ids.
        `template`: tools, chat_template, variables. Publish only what any tenant may know; what follows it
        stays private. Its memory counts against no tenant's limits; a session's positions always count
        against its own.
        """
        from ._prefix import publish

        return publish(self._engine, self, prefix, add_special, parse_special, template)

    def unpublish(self, prefix: PublicPrefix) -> None:
        """Ends the sharing; requests that run on the prefix are not disturbed."""
        from ._prefix import unpublish

        unpublish(self.shared(), prefix)

    # ---- text and metadata ----

    def tokenize(
        self, text: str | bytes, *, add_special: bool = False, parse_special: bool = False
    ) -> list[int]:
        """The token ids of a text. Control tokens written in it are read as such only when asked."""
        data = encode_text(text)
        flags = (ADD_SPECIAL if add_special else 0) | (PARSE_SPECIAL if parse_special else 0)
        err, count, cap = new_error(), ffi.new("size_t *"), len(data) + 8
        ids = ffi.new("uint32_t[]", cap)
        pointer = self.shared().pointer
        status = library().realm_model_encode(pointer, data, len(data), flags, ids, cap, count, err)
        check(status, err, "tokenize")
        return list(ffi.unpack(ids, min(cap, count[0])))

    def count_tokens(
        self, text: str | bytes, *, add_special: bool = False, parse_special: bool = False
    ) -> int:
        """How many ids `tokenize` would give."""
        data = encode_text(text)
        flags = (ADD_SPECIAL if add_special else 0) | (PARSE_SPECIAL if parse_special else 0)
        err, count = new_error(), ffi.new("size_t *")
        pointer = self.shared().pointer
        status = library().realm_model_encode(pointer, data, len(data), flags, ffi.NULL, 0, count, err)
        check(status, err, "tokenize")
        return int(count[0])

    def detokenize_bytes(self, ids: object, *, special: bool = False, text_start: bool = True) -> bytes:
        """The bytes of token ids, which may end inside a character."""
        tokens = ffi.new("uint32_t[]", token_ids(ids))
        flags = (SPECIAL if special else 0) | (TEXT_START if text_start else 0)
        err, size = new_error(), ffi.new("size_t *")
        pointer, cap = self.shared().pointer, 16 * len(tokens) + 64
        while True:
            out = ffi.new("char[]", cap)
            status = library().realm_model_decode(pointer, tokens, len(tokens), flags, out, cap, size, err)
            check(status, err, "detokenize")
            if size[0] <= cap:
                return bytes(ffi.buffer(out, size[0]))
            cap = size[0]

    def detokenize(self, ids: object, *, special: bool = False, text_start: bool = True) -> str:
        return self.detokenize_bytes(ids, special=special, text_start=text_start).decode("utf-8", "replace")

    def describe(self) -> dict[str, Any]:
        """Architecture, metadata and tensors of the file."""
        pointer = self.shared().pointer
        size = library().realm_model_describe(pointer, ffi.NULL, 0)
        out = ffi.new("char[]", size + 1)
        size = min(size, library().realm_model_describe(pointer, out, size))
        found: dict[str, Any] = json.loads(bytes(ffi.buffer(out, size)).decode("utf-8", "replace"))
        return found

    def metadata_string(self, key: str) -> str | None:
        data, size = ffi.new("char **"), ffi.new("size_t *")
        if not library().realm_model_string(self.shared().pointer, key.encode(), data, size):
            return None
        return bytes(ffi.buffer(data[0], size[0])).decode("utf-8", "replace")

    @property
    def chat_template(self) -> str | None:
        return self.metadata_string("tokenizer.chat_template")


def encode_text(text: object) -> bytes:
    """UTF-8 of a str, or the bytes as they are."""
    if isinstance(text, (bytes, bytearray, memoryview)):
        return bytes(text)
    if not isinstance(text, str):
        raise error("invalid-argument", f"a text must be str or bytes, not {type(text).__name__}")
    return text.encode() if text.isascii() else _encode_unicode(text)


def _encode_unicode(text: str) -> bytes:
    """Lone surrogates have no UTF-8: they become U+FFFD, as everywhere else in text."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode("utf-8")


def _read_info(pointer: Any) -> ModelInfo:
    info = ffi.new("realm_model_info *")
    library().realm_model_get_info(pointer, info)

    def token(value: int) -> int | None:
        return None if value == NO_TOKEN else int(value)

    return ModelInfo(
        vocab_size=info.vocab_size,
        context_length=info.context_length,
        embedding_length=info.embedding_length,
        layer_count=info.layer_count,
        head_count=info.head_count,
        head_count_kv=info.head_count_kv,
        bos=token(info.bos),
        eos=token(info.eos),
        eot=token(info.eot),
        add_bos=bool(info.add_bos),
        add_eos=bool(info.add_eos),
        has_weights=bool(info.has_weights),
        parameter_count=info.parameter_count,
        weight_bytes=info.weight_bytes,
        kv_bytes_per_token=info.kv_bytes_per_token,
    )
