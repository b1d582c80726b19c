"""Makes the model vectors: tiny random models of each architecture, as `transformers` computes them.

    python -m tests.vectors.make_models      (needs requirements.txt)

For each model: model-NAME.gguf (float32, with a vocabulary of make_tokenizers.py) and model-NAME.json:
    prompt, ids: the text and its ids; logits: of some positions, hexadecimal little-endian float32 each;
    greedy, gaps: the ids that follow and how far each was ahead of the second best.
The oracle is the transformers model itself in float32; the NumPy reference must agree with it on the file,
which also checks the conversion written here. Sizes are small, and odd where a kernel could like them round.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
import transformers

from tests.reference import reference
from tests.vectors.make_tokenizers import Vocabulary, add_tokenizer, all_vocabularies

HERE = Path(__file__).parent

SEED = 20240726
GREEDY_COUNT = 16
REFERENCE_BOUND = 1e-4  # transformers' float32 against the reference's float64, in logits of a few units
PROMPT = "The capital of France is Paris.\n日本の首都は東京 1234567 😀"


@dataclass(frozen=True)
class Recipe:
    name: str
    arch: str  # as GGUF names it
    vocabulary: str
    config: transformers.PretrainedConfig


COMMON: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "initializer_range": 0.3,  # large enough that attention is not uniform and logits differ by units
    "attn_implementation": "eager",
}

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,  # small, so that heads of width 8 have each kind of frequency
}


def recipes() -> list[Recipe]:
    config = transformers
    return [
        Recipe(
            "llama3",
            "llama",
            "llama-bpe",
            config.LlamaConfig(**COMMON, rope_parameters=LLAMA3_ROPE, tie_word_embeddings=True),
        ),
        Recipe(
            "llama-linear",
            "llama",
            "spm",
            config.LlamaConfig(
                **{**COMMON, "num_key_value_heads": 1},
                rope_parameters={"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0},
                tie_word_embeddings=False,
            ),
        ),
        Recipe(  # heads wider than hidden_size / heads, as in Mistral Nemo
            "mistral",
            "llama",
            "spm",
            config.MistralConfig(
                **{**COMMON, "num_key_value_heads": 4, "intermediate_size": 56},
                head_dim=12,
                sliding_window=None,
                rope_parameters={"rope_type": "default", "rope_theta": 1000000.0},
                tie_word_embeddings=True,
            ),
        ),
        Recipe(
            "qwen2",
            "qwen2",
            "qwen2",
            config.Qwen2Config(
                **COMMON,
                rope_parameters={"rope_type": "default", "rope_theta": 1000000.0},
                tie_word_embeddings=True,
            ),
        ),
        Recipe(  # the window is shorter than the prompt and the caps are low, so that both matter
            "gemma2",
            "gemma2",
            "spm-noprefix",
            config.Gemma2Config(
                **{**COMMON, "num_hidden_layers": 3},
                head_dim=16,
                query_pre_attn_scalar=16,
                sliding_window=6,
                attn_logit_softcapping=5.0,
                final_logit_softcapping=10.0,
                rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
            ),
        ),
    ]


def main() -> None:
    torch.set_num_threads(1)
    vocabularies = {vocabulary.name: vocabulary for vocabulary in all_vocabularies()}
    for recipe in recipes():
        make(recipe, vocabularies[recipe.vocabulary])


def make(recipe: Recipe, vocabulary: Vocabulary) -> None:
    recipe.config.vocab_size = len(vocabulary.meta["tokens"])
    torch.manual_seed(SEED)
    model = transformers.AutoModelForCausalLM.from_config(recipe.config, dtype=torch.float32).eval()
    randomize_vectors(model)
    path = HERE / f"model-{recipe.name}.gguf"
    write_gguf(path, recipe, model, vocabulary)
    ids = vocabulary.encode_special(PROMPT)
    logits = oracle_logits(model, ids)
    greedy, gaps = oracle_greedy(model, ids)
    check_against_reference(path, ids, logits)
    kept = sorted({*range(0, len(ids), 4), len(ids) - 1})
    rows = {position: logits[position].astype("<f4").tobytes().hex() for position in kept}
    entry = {"prompt": PROMPT, "ids": ids, "greedy": greedy, "gaps": gaps, "logits": rows}
    path.with_suffix(".json").write_text(json.dumps(entry, indent=0) + "\n")
    print(recipe.name, len(ids), "ids, logit std", logits.std().round(2), "smallest gap", min(gaps))


def randomize_vectors(model: torch.nn.Module) -> None:
    """Norm weights and biases start as ones and zeros, which would hide an engine that ignores them."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * (0.5 if name.endswith("bias") else 0.2))


def oracle_logits(model: Any, ids: list[int]) -> np.ndarray[Any, np.dtype[np.float32]]:
    with torch.no_grad():
        result = model(torch.tensor([ids]), use_cache=False).logits[0].numpy()
    return np.asarray(result, dtype=np.float32)


def oracle_greedy(model: Any, ids: list[int]) -> tuple[list[int], list[float]]:
    ids, gaps, start = list(ids), [], len(ids)
    for _ in range(GREEDY_COUNT):
        last = oracle_logits(model, ids)[-1]
        second, best = np.sort(last)[-2:]
        gaps.append(round(float(best - second), 6))
        ids.append(int(last.argmax()))
    return ids[start:], gaps


def check_against_reference(path: Path, ids: list[int], logits: Any) -> None:
    error = np.abs(reference.logits(reference.load(path), ids) - logits).max()
    print(path.name, "transformers against the reference:", error)
    if error > REFERENCE_BOUND:
        raise SystemExit(f"{path.name}: the oracles differ by {error}")


# ---- conversion to GGUF -----------------------------------------------------------------------------

LAYER_NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
GEMMA2_NAMES = {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
TOP_NAMES = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def write_gguf(path: Path, recipe: Recipe, model: Any, vocabulary: Vocabulary) -> None:
    writer = gguf.GGUFWriter(path, recipe.arch)
    add_hyper_parameters(writer, recipe, model.config)
    add_tokenizer(writer, vocabulary.meta)
    for name, weight in model.state_dict().items():
        if name == "lm_head.weight" and model.config.tie_word_embeddings:
            continue
        values = convert(recipe.arch, name, weight.numpy(), model.config)
        writer.add_tensor(gguf_name(recipe.arch, name), np.ascontiguousarray(values, dtype=np.float32))
    if recipe.name == "llama3":
        writer.add_tensor("rope_freqs.weight", llama3_factors(model))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add_hyper_parameters(writer: gguf.GGUFWriter, recipe: Recipe, config: Any) -> None:
    rope = config.rope_parameters
    head_width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_name(f"tiny random {recipe.name}")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head_width)
    writer.add_value_length(head_width)
    writer.add_rope_dimension_count(head_width)
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    if rope["rope_type"] == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
    if recipe.arch == "gemma2":
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
        writer.add_final_logit_softcapping(config.final_logit_softcapping)
        writer.add_sliding_window(config.sliding_window)


def gguf_name(arch: str, name: str) -> str:
    module, kind = name.rsplit(".", 1)
    if module in TOP_NAMES:
        return f"{TOP_NAMES[module]}.{kind}"
    _, _, layer, part = module.split(".", 3)
    names = {**LAYER_NAMES, **GEMMA2_NAMES} if arch == "gemma2" else LAYER_NAMES
    return f"blk.{layer}.{names[part]}.{kind}"


def convert(arch: str, name: str, values: Any, config: Any) -> Any:
    if arch == "gemma2" and "norm" in name:
        return values + 1.0  # GGUF stores what the norm multiplies by
    if arch == "llama" and "q_proj" in name:
        return interleave(values, config.num_attention_heads)
    if arch == "llama" and "k_proj" in name:
        return interleave(values, config.num_key_value_heads)
    return values


def interleave(values: Any, heads: int) -> Any:
    """Reorders each head's rows so that rope's pairs, halves apart in transformers, become neighbours."""
    rows, columns = values.shape
    return values.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def llama3_factors(model: Any) -> Any:
    """What each pair's frequency is divided by, from the frequencies transformers rotates with."""
    scaled = model.model.rotary_emb.inv_freq.double().numpy()
    width = 2 * len(scaled)
    plain = model.config.rope_parameters["rope_theta"] ** (-np.arange(0, width, 2) / width)
    return (plain / scaled).astype(np.float32)


if __name__ == "__main__":
    main()
