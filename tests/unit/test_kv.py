"""Memory of KV pages (core/kv.c): pages apart from each other, zero when handed out, all of it given back."""

from __future__ import annotations

import ctypes
import functools
from typing import Any

import numpy as np
import pytest

from realm_build import ctest
from realm_build.paths import sources
from tests.unit.kernels import KV_F16, KV_PAGE

BUDGET_BYTES = 1 << 14  # more than kv_budget has
LAYERS, HEADS, DIM = 4, 4, 64
PAGE_BYTES = LAYERS * 2 * HEADS * KV_PAGE * DIM * 2  # 64 KiB: later pages share a slab


@functools.cache
def library() -> ctypes.CDLL:
    files = sources("core/base.c", "core/kv.c", "core/platform/platform_posix.c")
    return ctypes.CDLL(str(ctest.visible_library("kv", files)))


class Cache:
    def __init__(self, limit: int) -> None:
        self.budget = ctypes.create_string_buffer(BUDGET_BYTES)
        ctypes.c_uint64.from_buffer(self.budget, 0).value = limit
        self.owner = self.call("kv_owner_get", self.budget, ctypes.c_uint64(7))
        self.kv = self.call("kv_create", self.budget, KV_F16, LAYERS, HEADS, DIM, False)

    def call(self, name: str, *arguments: Any) -> Any:
        function = getattr(library(), name)
        function.restype = ctypes.c_void_p
        return function(*(ctypes.c_void_p(a) if isinstance(a, int) and a > 1 << 32 else a for a in arguments))

    @property
    def used(self) -> int:
        return ctypes.c_uint64.from_buffer(self.budget, 8).value

    def acquire(self) -> int | None:
        page: int | None = self.call("kv_acquire", self.kv, self.owner, ctypes.c_uint64(0))
        return page

    def close(self) -> None:
        self.call("kv_destroy", self.kv)
        self.call("kv_owner_put", self.budget, self.owner)


def contents(page: int) -> Any:
    data = ctypes.c_void_p.from_address(page).value
    assert data is not None and data % 64 == 0
    return np.ctypeslib.as_array((ctypes.c_uint8 * PAGE_BYTES).from_address(data))


def acquire_all(cache: Cache, count: int) -> list[int]:
    pages = []
    for i in range(count):
        page = cache.acquire()
        assert page is not None
        assert not contents(page).any(), f"page {i} is not zero"
        contents(page)[:] = i % 255 + 1
        pages.append(page)
    return pages


@pytest.mark.parametrize("count", [3, 8, 9, 100, 200])
def test_pages_are_zero_and_apart_and_given_back(count: int) -> None:
    cache = Cache(limit=1 << 30)
    for release_step in (1, 3):
        pages = acquire_all(cache, count)
        assert cache.used >= count * PAGE_BYTES
        for i, page in enumerate(pages):
            assert (contents(page) == i % 255 + 1).all(), f"page {i} shares memory with another"
        for page in pages[::release_step]:
            cache.call("kv_release", page)
        cache.call("kv_forget", cache.kv)  # gives the memory of those back
        kept = [page for i, page in enumerate(pages) if i % release_step]
        assert cache.used == len(kept) * PAGE_BYTES
        more = acquire_all(cache, count)
        for page in kept + more:
            cache.call("kv_release", page)
    cache.call("kv_forget", cache.kv)
    assert cache.used == 0
    cache.close()


def test_slabs_stay_within_the_limit() -> None:
    limit = 70 * PAGE_BYTES
    cache = Cache(limit)
    pages = acquire_all(cache, 70)
    assert cache.acquire() is None
    assert cache.used == limit
    for page in pages:
        cache.call("kv_release", page)
    cache.close()
    assert cache.used == 0
