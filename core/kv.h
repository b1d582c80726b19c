/* kv.h: paged KV cache of one model: pages of CPU_KV_PAGE positions for all layers, handed out under the runtime's byte budget,
 * and the prefix cache: full pages stay findable by (tenant, tokens so far) until their memory is needed.
 * Not thread-safe: the engine's lock guards it. Pages are wiped before they are handed out again.
 * Where an external executor holds the contents, a page is only a number: wiping and copying become page operations, which the
 * next batch carries out in their order. */
#ifndef REALM_KV_H
#define REALM_KV_H

#include "base.h"
#include "cpu/ops.h"

/* Shared by all models of a runtime. */
typedef struct kv_budget {
    uint64_t limit, used; /* bytes */
} kv_budget;

typedef struct kv_page {
    void *data;             /* (layer_count, K and V, n_head_kv, CPU_KV_PAGE, head_dim); NULL where the executor holds it */
    uint32_t number;        /* of an external page: the lowest that was free */
    struct kv_page *next;   /* hash chain, or free list */
    struct kv_page *older, *newer; /* least-recently-used list of cached pages without users */
    uint64_t tenant;
    uint64_t serial;        /* unique name of a registered page; 0: not registered */
    uint64_t parent;        /* serial of the page before it; 0: none */
    uint32_t users;
    uint32_t tokens[CPU_KV_PAGE];
} kv_page;

typedef struct kv_cache kv_cache;

kv_cache *kv_create(kv_budget *budget, uint32_t kv_type, uint32_t layers, uint32_t n_head_kv, uint32_t head_dim, bool external);
void kv_destroy(kv_cache *kv);
uint64_t kv_page_bytes(const kv_cache *kv);
uint32_t kv_type_of(const kv_cache *kv);
/* Bytes from a page's start to the K part of a layer; the V part follows after kv_part_bytes. */
size_t kv_layer_offset(const kv_cache *kv, uint32_t layer);
size_t kv_part_bytes(const kv_cache *kv);

/* External: how many pages fit the budget, how many numbers were ever given out, and the page operations since they were last
 * forgotten. */
uint32_t kv_page_limit(const kv_cache *kv);
uint32_t kv_pool_pages(const kv_cache *kv);
const realm_page_op *kv_page_ops(const kv_cache *kv, uint32_t *count);
void kv_forget_page_ops(kv_cache *kv);

/* A wiped page with one user, evicting cached pages where needed; NULL when the budget is used up. */
kv_page *kv_acquire(kv_cache *kv);
void kv_release(kv_cache *kv, kv_page *page);
/* Gives at least `bytes` of pages without users back to the budget, or all there are. */
void kv_trim(kv_cache *kv, uint64_t bytes);
/* The page made private: itself, no longer findable, when it has no other user, else a copy, and the original is released.
 * NULL (original kept) when the budget is used up. */
kv_page *kv_make_private(kv_cache *kv, kv_page *page);

/* Makes a full page findable: it follows the registered page `parent` (NULL: it is the first). Does nothing where an equal one is. */
void kv_register(kv_cache *kv, kv_page *page, const kv_page *parent, uint64_t tenant, const uint32_t *tokens);
/* The registered page with these tokens after `parent`, with one more user; NULL when there is none. */
kv_page *kv_find(kv_cache *kv, const kv_page *parent, uint64_t tenant, const uint32_t *tokens);

#endif
