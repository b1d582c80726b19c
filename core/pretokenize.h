/* pretokenize.h: cuts text into the pieces inside which byte-level BPE may merge.
 * Each kind equals one of the published regular expressions (see pretokenize.c), as a hand-written scanner: no backtracking,
 * linear time on any input. Adding one: a row in pretokenize.c's table and, where no kind fits, a scanner. */
#ifndef REALM_PRETOKENIZE_H
#define REALM_PRETOKENIZE_H

#include "base.h"

typedef struct pretokenizer {
    const char *name;      /* as in tokenizer.ggml.pre */
    size_t (*next)(const char *text, size_t size, size_t pos); /* end of the piece that begins at pos < size; > pos */
    bool ignore_merges;    /* a piece that is a token as a whole is used directly */
    bool add_bos;          /* the default where the file does not say */
    bool clean_spaces;     /* a decoded text loses the spaces before punctuation and contractions */
} pretokenizer;

/* NULL when the name is not known. */
const pretokenizer *pretokenize_find(const char *name, size_t size);

#endif
