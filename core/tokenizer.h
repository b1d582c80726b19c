/* tokenizer.h: text <-> token ids, from a GGUF's tokenizer.ggml.* metadata.
 * Two families: SentencePiece score-merge ("llama", tokenizer_spm.c) and byte-level BPE ("gpt2", tokenizer_bpe.c) with the
 * pre-tokenizers in pretokenize.c. Immutable after creation, so any number of threads may use one. Linear (n log n) time in
 * the text on any input. Adding a family: one tokenizer_*.c and a row in tokenizer.c's table. */
#ifndef REALM_TOKENIZER_H
#define REALM_TOKENIZER_H

#include "gguf.h"

typedef struct tokenizer tokenizer;

#define TOKENIZER_NONE UINT32_MAX /* "no such token" */

/* Copies what it needs; `file` may be closed afterwards. */
realm_status tokenizer_create(const gguf *file, tokenizer **out, realm_error *err);
void tokenizer_destroy(tokenizer *tok);

uint32_t tokenizer_vocab_size(const tokenizer *tok);
uint32_t tokenizer_bos(const tokenizer *tok); /* TOKENIZER_NONE when there is none */
uint32_t tokenizer_eos(const tokenizer *tok);
uint32_t tokenizer_eot(const tokenizer *tok);
bool tokenizer_add_bos(const tokenizer *tok);
bool tokenizer_add_eos(const tokenizer *tok);
/* True for EOS, EOT and the other tokens that end a generation (<|im_end|>, <end_of_turn>, <|eot_id|>, ...). */
bool tokenizer_is_end(const tokenizer *tok, uint32_t id);

/* flags: REALM_ENCODE_...; *count gets the full number of ids, at most cap are written (ids may be NULL when cap is 0). */
realm_status tokenizer_encode(const tokenizer *tok, const char *text, size_t size, uint32_t flags, uint32_t *ids, size_t cap,
                              size_t *count, realm_error *err);
/* flags: REALM_DECODE_...; an id outside the vocabulary is REALM_E_INVALID_ARGUMENT. */
realm_status tokenizer_decode(const tokenizer *tok, const uint32_t *ids, size_t count, uint32_t flags, char *out, size_t cap,
                              size_t *size, realm_error *err);

#endif
