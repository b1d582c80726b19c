"""Write the trained model as one GGUF v3 file: matrices as Q8_0, norms as F32, tokenizer and template inside.

Owns the names and numbers other runtimes expect of a "llama" file (those of llama.cpp's conversion).
"""

import json
from pathlib import Path

import gguf
import numpy as np
from conversations import BEGIN, CHAT_TEMPLATE, END, SPECIAL_TOKENS
from model import Llama, Shape
from tokenizers import Tokenizer

MATRIX_TYPE = gguf.GGMLQuantizationType.Q8_0


def write_gguf(path: Path, model: Llama, tokenizer: Tokenizer) -> None:
    writer = gguf.GGUFWriter(path, "llama")
    add_general(writer)
    add_shape(writer, model.shape)
    add_tokenizer(writer, tokenizer)
    for name, parameter in model.named_parameters():
        add_tensor(writer, name, parameter.detach().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add_general(writer: gguf.GGUFWriter) -> None:
    writer.add_type("model")
    writer.add_name("Realm Demo")
    writer.add_description("Knows the countries of the world: their capitals, continents and currencies.")
    writer.add_license("apache-2.0")
    writer.add_languages(["en"])
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)


def add_shape(writer: gguf.GGUFWriter, shape: Shape) -> None:
    writer.add_vocab_size(shape.vocab_size)
    writer.add_context_length(shape.context_length)
    writer.add_embedding_length(shape.embedding_length)
    writer.add_block_count(shape.block_count)
    writer.add_feed_forward_length(shape.feed_forward_length)
    writer.add_head_count(shape.head_count)
    writer.add_head_count_kv(shape.head_count_kv)
    writer.add_layer_norm_rms_eps(shape.rms_epsilon)
    writer.add_rope_freq_base(shape.rope_freq_base)
    writer.add_rope_dimension_count(shape.head_length)


def add_tokenizer(writer: gguf.GGUFWriter, tokenizer: Tokenizer) -> None:
    tokens = [token for token, _ in sorted(tokenizer.get_vocab().items(), key=lambda entry: entry[1])]
    types = [gguf.TokenType.CONTROL if token in SPECIAL_TOKENS else gguf.TokenType.NORMAL for token in tokens]
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_bos_token_id(tokens.index(BEGIN))
    writer.add_eos_token_id(tokens.index(END))
    writer.add_eot_token_id(tokens.index(END))
    writer.add_pad_token_id(tokens.index(END))
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)


def add_tensor(writer: gguf.GGUFWriter, name: str, values: np.ndarray) -> None:
    values = values.astype(np.float32)
    if values.ndim == 1:
        writer.add_tensor(name, values)
    else:
        writer.add_tensor(name, gguf.quants.quantize(values, MATRIX_TYPE), raw_dtype=MATRIX_TYPE)
