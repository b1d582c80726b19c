"""The models this server has: by name, loaded in threads, taken away without harming what runs.

Files are read only where the operator said: those named at start, and those below --models-dir.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from .._errors import error
from .._model import Model
from .errors import ApiError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,127}")
MOST_MODELS = 64

Load = Callable[[Path, int, str], Model]


@dataclass
class LoadedModel:
    name: str
    handle: Model
    created: int = field(default_factory=lambda: int(time.time()))
    users: int = 0  # generations that run on it


class Models:
    def __init__(self, load: Load, folder: Path | None) -> None:
        self._load = load
        self._folder = folder.resolve() if folder else None
        self._models: dict[str, LoadedModel] = {}
        self._loading: set[str] = set()

    def __len__(self) -> int:
        return len(self._models)

    def names(self) -> list[str]:
        return sorted(self._models)

    def find(self, name: str) -> LoadedModel | None:
        return self._models.get(name)

    def preload(self, name: str, path: Path, context_length: int) -> None:
        """At start, before anything is served."""
        if not NAME.fullmatch(name) or name in self._models:
            raise error(
                "invalid-argument", f"{name!r} cannot be a model's name, or there are two: use NAME=FILE"
            )
        self._models[name] = LoadedModel(name, self._load(path, context_length, "f16"))

    async def add(self, name: str, path: Path, context_length: int = 0, kv_type: str = "f16") -> LoadedModel:
        """Loads a file in a thread; the loop goes on serving."""
        if not NAME.fullmatch(name):
            raise ApiError(400, "a model's id has letters, digits and _ . : -, at most 128", param="id")
        if name in self._models or name in self._loading:
            raise ApiError(409, f"there is a model {name} already", code="model_exists", param="id")
        if len(self._models) + len(self._loading) >= MOST_MODELS:
            raise ApiError(409, f"there are {MOST_MODELS} models already; delete one", code="too_many_models")
        self._loading.add(name)
        try:
            handle = await asyncio.to_thread(self._load, path, context_length, kv_type)
        finally:
            self._loading.discard(name)
        model = self._models[name] = LoadedModel(name, handle)
        return model

    def take_out(self, name: str) -> LoadedModel:
        """From now on nobody finds it; the caller closes it."""
        model = self._models.pop(name, None)
        if model is None:
            raise unknown_model(name)
        return model

    def close(self) -> None:
        for model in self._models.values():
            model.handle.close()
        self._models.clear()

    def file(self, name: str) -> Path:
        """A file below --models-dir; nothing else can be named, by no `..` and no link."""
        if self._folder is None:
            raise ApiError(
                403, "this server loads no files: start it with --models-dir FOLDER", code="loading_disabled"
            )
        try:
            path = (self._folder / name).resolve()
            inside = path.is_relative_to(self._folder) and path.is_file()
        except (OSError, ValueError, RuntimeError):
            inside = False
        if not inside:
            raise ApiError(
                404, "there is no such file in the folder of models", code="not-found", param="path"
            )
        return path


def unknown_model(name: str) -> ApiError:
    return ApiError(404, f"the model {name!r:.200} does not exist", code="model_not_found", param="model")
