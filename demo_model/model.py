"""The Llama architecture in PyTorch, said shortly: RMSNorm, grouped-query attention, SwiGLU, no biases.

Owns the shape of the demo model and its forward pass for training. Parameters bear the tensor names of GGUF
files, so writing the file is a plain copy. Rotary pairs are the neighbours (2i, 2i+1): the layout GGUF files
of this architecture use, so the query and key rows need no permutation.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Shape:
    vocab_size: int = 1536
    context_length: int = 512
    embedding_length: int = 160
    feed_forward_length: int = 448
    block_count: int = 4
    head_count: int = 5
    head_count_kv: int = 1
    rope_freq_base: float = 10000.0
    rms_epsilon: float = 1e-5

    @property
    def head_length(self) -> int:
        return self.embedding_length // self.head_count


class Block(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        d, hidden = shape.embedding_length, shape.feed_forward_length
        d_kv = shape.head_count_kv * shape.head_length
        self.shape = shape
        self.attn_norm = nn.RMSNorm(d, eps=shape.rms_epsilon)
        self.attn_q = nn.Linear(d, d, bias=False)
        self.attn_k = nn.Linear(d, d_kv, bias=False)
        self.attn_v = nn.Linear(d, d_kv, bias=False)
        self.attn_output = nn.Linear(d, d, bias=False)
        self.ffn_norm = nn.RMSNorm(d, eps=shape.rms_epsilon)
        self.ffn_gate = nn.Linear(d, hidden, bias=False)
        self.ffn_up = nn.Linear(d, hidden, bias=False)
        self.ffn_down = nn.Linear(hidden, d, bias=False)

    def forward(self, x: Tensor, rotation: Tensor) -> Tensor:
        x = x + self.attention(self.attn_norm(x), rotation)
        h = self.ffn_norm(x)
        return x + self.ffn_down(F.silu(self.ffn_gate(h)) * self.ffn_up(h))

    def attention(self, x: Tensor, rotation: Tensor) -> Tensor:
        batch, length, d = x.shape
        heads = (batch, length, -1, self.shape.head_length)
        q = rotate(self.attn_q(x).view(heads), rotation).transpose(1, 2)  # (batch, heads, length, width)
        k = rotate(self.attn_k(x).view(heads), rotation).transpose(1, 2)  # (batch, kv heads, length, width)
        v = self.attn_v(x).view(heads).transpose(1, 2)
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        return self.attn_output(out.transpose(1, 2).reshape(batch, length, d))


class Llama(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.token_embd = nn.Embedding(shape.vocab_size, shape.embedding_length)
        self.blk = nn.ModuleList(Block(shape) for _ in range(shape.block_count))
        self.output_norm = nn.RMSNorm(shape.embedding_length, eps=shape.rms_epsilon)
        self.register_buffer("rotation", rotation_table(shape), persistent=False)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                nn.init.normal_(parameter, std=0.02)
            if name.endswith(("attn_output.weight", "ffn_down.weight")):
                nn.init.zeros_(parameter)  # every block starts as the identity

    def forward(self, ids: Tensor) -> Tensor:
        """ids (batch, length) -> the normed last hidden state (batch, length, embedding_length)."""
        x = self.token_embd(ids)
        for block in self.blk:
            x = block(x, self.rotation[: ids.shape[1]])
        return self.output_norm(x)

    def logits(self, hidden: Tensor) -> Tensor:
        return hidden @ self.token_embd.weight.T  # tied: the file has no output.weight


def rotation_table(shape: Shape) -> Tensor:
    """(context_length, head_length / 2, 2): cosine and sine of each position's angle for each rotary pair."""
    exponents = torch.arange(0, shape.head_length, 2) / shape.head_length
    angles = torch.outer(torch.arange(shape.context_length), shape.rope_freq_base**-exponents)
    return torch.stack((angles.cos(), angles.sin()), dim=-1)


def rotate(x: Tensor, rotation: Tensor) -> Tensor:
    """Turn each neighbouring pair of x (batch, length, heads, head_length) by its position's angle."""
    even, odd = x[..., 0::2], x[..., 1::2]
    cos, sin = rotation[:, None, :, 0], rotation[:, None, :, 1]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2)
