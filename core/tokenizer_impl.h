/* tokenizer_impl.h: what tokenizer.c shares with the families (tokenizer_spm.c, tokenizer_bpe.c); nobody else includes it.
 * The one idea: a token's text is kept in the form it decodes to (byte-level symbols undone, "▁" as a space, "<0x0A>" as one
 * byte), so that encoding looks plain input bytes up and decoding only copies. */
#ifndef REALM_TOKENIZER_IMPL_H
#define REALM_TOKENIZER_IMPL_H

#include "pretokenize.h"
#include "tokenizer.h"

typedef enum token_kind { /* as in tokenizer.ggml.token_type */
    TOKEN_UNDEFINED = 0, TOKEN_NORMAL = 1, TOKEN_UNKNOWN = 2, TOKEN_CONTROL = 3, TOKEN_USER = 4, TOKEN_UNUSED = 5, TOKEN_BYTE = 6,
} token_kind;

typedef struct token {
    const char *text; /* into tokenizer.text */
    uint32_t size;
    uint8_t kind;      /* token_kind */
    bool is_end;       /* ends a generation */
    bool is_mergeable; /* plain input may become it */
    float score;
} token;

typedef struct bpe_merge { /* a slot of the pair table; left is TOKENIZER_NONE when it is empty */
    uint32_t left, right, rank, merged;
} bpe_merge;

typedef struct tokenizer_family tokenizer_family;

struct tokenizer {
    const tokenizer_family *family;
    token *tokens;
    uint32_t count;
    uint32_t longest; /* bytes of the longest mergeable token */
    char *text;
    uint32_t *slots; /* mergeable tokens by text: id + 1, 0 is empty */
    uint64_t slot_count, hash_seed;
    uint32_t byte_ids[256]; /* the token of each single byte */
    uint32_t *specials;     /* ids of the tokens searched in the input as a whole, sorted by text */
    uint32_t special_count;
    bool special_begins[256]; /* some special begins with this byte */
    uint32_t bos, eos, eot, unk;
    bool add_bos, add_eos, add_space_prefix, clean_spaces;
    /* SentencePiece */
    uint8_t *junctions; /* bit (a << 8 | b): a and b stand next to each other inside some token */
    /* BPE */
    const pretokenizer *pre;
    bpe_merge *merges;
    uint64_t merge_slot_count;
};

/* ---- encoding ---- */

typedef struct merge_symbol { /* a part of the text, indexed by its first byte */
    uint32_t size;            /* 0: merged into the one before it */
    uint32_t prev, next, id;
} merge_symbol;

typedef struct merge_candidate {
    uint64_t key;  /* priority << 32 | left symbol; the smallest goes first */
    uint32_t size; /* of both parts when it was found: differs when it is out of date */
    uint32_t id;   /* of the merged token */
} merge_candidate;

typedef struct encoder {
    const tokenizer *tok;
    realm_error *err;
    uint32_t *ids; /* the caller's buffer */
    size_t cap, count;
    bool last_unknown;     /* the last token written stands for unknown text */
    merge_symbol *symbols; /* working memory for the piece being merged */
    merge_candidate *heap;
    size_t piece_cap, heap_count;
} encoder;

void encoder_emit(encoder *e, uint32_t id);
/* Writes bytes that no token covers: byte tokens when there are all, else the unknown token. */
realm_status encoder_emit_bytes(encoder *e, const char *text, size_t size);
/* Makes room for a piece of `size` bytes. */
realm_status encoder_reserve(encoder *e, size_t size);

/* Fills *priority (smaller merges earlier) and *id of two neighbours' merged token; false when they do not merge. */
typedef bool (*merge_lookup)(const tokenizer *tok, const char *text, const merge_symbol *left, const merge_symbol *right,
                             uint32_t start, uint32_t *priority, uint32_t *id);
/* Merges the symbols of text (linked from 0 on) until no neighbours merge, best pair first, and writes the tokens. */
realm_status encoder_merge(encoder *e, const char *text, merge_lookup lookup);

/* ---- families ---- */

struct tokenizer_family {
    const char *model; /* tokenizer.ggml.model */
    /* Reads the family's own metadata; runs before the texts are made. */
    realm_status (*configure)(tokenizer *tok, const gguf *file, realm_error *err);
    /* Writes the decoded form of a token's text (never longer than the text) and returns its size. */
    uint32_t (*make_text)(token *t, gguf_string text, char *out);
    /* Builds the family's tables; runs when texts and indexes are there. */
    realm_status (*finish)(tokenizer *tok, const gguf *file, realm_error *err);
    /* Encodes a stretch of plain text, which begins the input or follows a special token. */
    realm_status (*encode)(encoder *e, const char *text, size_t size);
};

extern const tokenizer_family tokenizer_spm, tokenizer_bpe;

/* The mergeable token with exactly this text, or TOKENIZER_NONE. */
uint32_t tokenizer_lookup(const tokenizer *tok, const char *text, size_t size);

#endif
