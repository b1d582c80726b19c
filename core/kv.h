/* kv.h: paged KV cache of one model: pages of CPU_KV_PAGE positions for all layers, handed out under the runtime's byte budget,
 * and the prefix cache: full pages stay findable by (tenant, tokens so far) until their memory is needed. When the budget is used
 * up, the tenant that holds most gives a cached page away: one that needs much cannot empty the caches of those that need little.
 * Published pages belong to no tenant, are found by all, and stay. Pages are wiped before they are handed out again.
 * Not thread-safe: the engine's lock guards it.
 * Where an external executor holds the contents, a page is only a number: wiping and copying become page operations, which the
 * next batch carries out in their order. */
#ifndef REALM_KV_H
#define REALM_KV_H

#include "base.h"
#include "cpu/ops.h"

#define KV_PUBLIC 0u /* the tenant that published pages are registered under; contexts of this number have no prefix cache */

typedef struct kv_cache kv_cache;
typedef struct kv_page kv_page;

/* What one tenant holds, in all models. Freed when neither a context nor a page names it any more. */
typedef struct kv_owner {
    uint64_t tenant, bytes;
    uint32_t pages, users;
    kv_page *oldest, *newest;      /* its cached pages without users, least recently used first */
    struct kv_owner *next;         /* hash chain */
    struct kv_owner *before, *after; /* list of the owners that have cached pages */
} kv_owner;

enum { KV_OWNER_BUCKETS = 256 };

/* Shared by all models of a runtime. */
typedef struct kv_budget {
    uint64_t limit, used; /* bytes */
    kv_cache *caches;
    kv_owner *caching;    /* owners that have cached pages */
    kv_owner *owners[KV_OWNER_BUCKETS];
} kv_budget;

/* The tenant's record, with one more user; NULL when out of memory. */
kv_owner *kv_owner_get(kv_budget *budget, uint64_t tenant);
void kv_owner_put(kv_budget *budget, kv_owner *owner);

struct kv_page {
    void *data;             /* (layer_count, K and V, n_head_kv, CPU_KV_PAGE, head_dim); NULL where the executor holds it */
    uint32_t number;        /* of an external page: the lowest that was free */
    struct kv_page *next;   /* hash chain, or free list */
    struct kv_page *older, *newer; /* its owner's list of cached pages without users */
    kv_cache *kv;
    kv_owner *owner;        /* NULL: published, or free */
    uint64_t tenant;
    uint64_t serial;        /* unique name of a registered page; 0: not registered */
    uint64_t parent;        /* serial of the page before it; 0: none */
    uint32_t users, pins;   /* pins: the published prefixes among the users */
    uint32_t tokens[CPU_KV_PAGE];
};

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

/* A wiped page with one user; NULL when the budget is used up. A tenant that holds `most` pages (0: no bound) loses a cached one of
 * its own first; where the budget is used up, the tenant that holds most does. */
kv_page *kv_acquire(kv_cache *kv, kv_owner *owner, uint64_t most);
void kv_release(kv_page *page);
/* Gives all cached pages up. */
void kv_forget(kv_cache *kv);
/* The page made private: itself, no longer findable, when it has no other user, else a copy, and the original is released.
 * NULL (original kept) when the budget is used up. */
kv_page *kv_make_private(kv_cache *kv, kv_page *page, kv_owner *owner);

/* Makes a full page findable: it follows the registered page `parent` (NULL: it is the first). Does nothing where an equal one is. */
void kv_register(kv_cache *kv, kv_page *page, const kv_page *parent, uint64_t tenant, const uint32_t *tokens);
/* The registered page with these tokens after `parent`, with one more user; NULL when there is none. */
kv_page *kv_find(kv_cache *kv, const kv_page *parent, uint64_t tenant, const uint32_t *tokens);

/* The published page with these tokens after the published `parent`, with one more user that keeps it: `page`, full and registered
 * nowhere, where there is none yet. Unpublishing takes that user back; the last one makes the page unfindable. */
kv_page *kv_publish(kv_cache *kv, kv_page *page, const kv_page *parent, const uint32_t *tokens);
void kv_unpublish(kv_cache *kv, kv_page *page);

#endif
