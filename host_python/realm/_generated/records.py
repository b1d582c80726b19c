"""Generated from core/include/realm_records.h by realm_build gen; do not edit."""

# ruff: noqa: E501
# fmt: off

from __future__ import annotations

from enum import IntEnum

import numpy as np

KV_PAGE = 16
NONE = 4294967295
LAYER_HEAD = 65535


class OpKind(IntEnum):
    EMBED = 0
    RMSNORM = 1
    MATMUL = 2
    BIAS = 3
    ROPE = 4
    KV_STORE = 5
    ATTENTION = 6
    SILU_MUL = 7
    GELU_MUL = 8
    ADD = 9
    SCALE = 10
    GATHER = 11
    SOFTCAP = 12



class Slot(IntEnum):
    X = 0
    H = 1
    Q = 2
    K = 3
    V = 4
    A = 5
    G = 6
    U = 7
    Y = 8
    LOGITS = 9
    COUNT = 10


BATCH = np.dtype({
    "names": ['id', 'model', 'n_rows', 'n_segments', 'n_out', 'n_pages', 'n_page_ops', 'layer_first', 'layer_count', 'kv_type', 'pool_pages_f16', 'pool_pages_f32', 'tokens', 'positions', 'kv_slots', 'row_segments', 'out_rows', 'segments', 'pages', 'page_ops', 'logits'],
    "formats": ['<u8', '<u8', '<u4', '<u4', '<u4', '<u4', '<u4', '<u4', '<u4', '<u4', '<u4', '<u4', '<u8', '<u8', '<u8', '<u8', '<u8', '<u8', '<u8', '<u8', '<u8'],
    "offsets": [0, 8, 16, 20, 24, 28, 32, 36, 40, 44, 48, 52, 56, 64, 72, 80, 88, 96, 104, 112, 120],
    "itemsize": 128,
})

BATCH_SEGMENT = np.dtype({
    "names": ['row0', 'n_rows', 'pos0', 'kv_type', 'page0', 'n_pages', 'hidden'],
    "formats": ['<u4', '<u4', '<u4', '<u4', '<u4', '<u4', '<u8'],
    "offsets": [0, 4, 8, 12, 16, 20, 24],
    "itemsize": 32,
})

PAGE_OP = np.dtype({
    "names": ['kv_type', 'source', 'destination'],
    "formats": ['<u4', '<u4', '<u4'],
    "offsets": [0, 4, 8],
    "itemsize": 16,
})

PLAN_HEADER = np.dtype({
    "names": ['model', 'file_size', 'op_count', 'op_offset', 'tensor_count', 'tensor_offset', 'rope_half', 'rope_offset', 'rope_neox', 'layer_count', 'embedding_length', 'feed_forward_length', 'vocab_size', 'head_count', 'head_count_kv', 'head_dim', 'context_length', 'kv_type', 'max_rows', 'max_pages_f16', 'max_pages_f32', 'slot_width'],
    "formats": ['<u8', '<u8', '<u4', '<u4', '<u4', '<u4', '<u4', '<u4', '<u4', '<u4', '<u4', '<u4', '<u4', '<u4', '<u4', '<u4', '<u4', '<u4', '<u4', '<u4', '<u4', ('<u4', (10,))],
    "offsets": [0, 8, 16, 20, 24, 28, 32, 36, 40, 44, 48, 52, 56, 60, 64, 68, 72, 76, 80, 84, 88, 92],
    "itemsize": 136,
})

PLAN_OP = np.dtype({
    "names": ['kind', 'layer', 'dst', 'src', 'src2', 'n_head', 'weight', 'width', 'window', 'f0', 'f1'],
    "formats": ['<u2', '<u2', '<u2', '<u2', '<u2', '<u2', '<u4', '<u4', '<u4', '<f4', '<f4'],
    "offsets": [0, 2, 4, 6, 8, 10, 12, 16, 20, 24, 28],
    "itemsize": 32,
})

PLAN_TENSOR = np.dtype({
    "names": ['offset', 'row_bytes', 'rows', 'cols', 'type', 'directory'],
    "formats": ['<u8', '<u8', '<u4', '<u4', '<u4', '<u4'],
    "offsets": [0, 8, 16, 20, 24, 28],
    "itemsize": 32,
})
