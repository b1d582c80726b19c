"""Realm: an LLM engine to embed. Each tenant is a sandboxed WebAssembly guest; one C core computes for all.

from realm import Realm

with Realm("model.gguf") as realm:
    print(realm.generate("The capital of France is", max_tokens=8).text)
"""

from __future__ import annotations

from ._api import AsyncStream, Generation, Message, Realm, Stream, Timings, Usage
from ._engine import DrawnToken
from ._errors import (
    ArgumentError,
    CancelledError,
    ClosedError,
    DeviceError,
    GuestError,
    InternalError,
    LimitError,
    ModelError,
    RealmError,
    TemplateError,
    UnsupportedError,
)
from ._manager import RealmManager
from ._model import Model, ModelInfo, demo_model_path
from ._options import ResourceLimits, Sampling
from ._prefix import PublicPrefix
from ._runtime import GuestModule, GuestResult, Runtime
from ._tenant import TenantStats

__version__ = "0.1.0"

__all__ = [
    "ArgumentError",
    "AsyncStream",
    "CancelledError",
    "ClosedError",
    "DeviceError",
    "DrawnToken",
    "Generation",
    "GuestError",
    "GuestModule",
    "GuestResult",
    "InternalError",
    "LimitError",
    "Message",
    "Model",
    "ModelError",
    "ModelInfo",
    "PublicPrefix",
    "Realm",
    "RealmError",
    "RealmManager",
    "ResourceLimits",
    "Runtime",
    "Sampling",
    "Stream",
    "TemplateError",
    "TenantStats",
    "Timings",
    "UnsupportedError",
    "Usage",
    "__version__",
    "demo_model_path",
]
