/* kv.c: see kv.h. Registered pages hang in a hash table; those without users also in their owner's list, whose oldest are evicted. */
#include "kv.h"

#include <stdlib.h>

#include "platform/platform.h"

enum { BUCKETS = 4096 };
#define MAX_EXTERNAL_PAGES (1u << 28) /* number * CPU_KV_PAGE + slot has to fit 32 bits */

struct kv_cache {
    kv_budget *budget;
    kv_cache *next;          /* of the budget */
    uint64_t page_bytes, next_serial, hash_seed;
    size_t part_bytes;
    uint32_t kv_type;
    kv_page *free_pages;     /* linked by next; their data is still allocated */
    kv_page *buckets[BUCKETS];
    bool external;
    uint32_t pool_pages;     /* numbers below were given out at some time: their contents must be wiped */
    uint64_t *taken;         /* one bit for each number in use */
    uint32_t taken_words;
    realm_page_op *ops;
    uint32_t op_count, op_capacity;
};

kv_cache *kv_create(kv_budget *budget, uint32_t kv_type, uint32_t layers, uint32_t n_head_kv, uint32_t head_dim, bool external) {
    kv_cache *kv = calloc(1, sizeof *kv);
    if (kv == NULL) return NULL;
    size_t element = kv_type == REALM_KV_F32 ? sizeof(float) : sizeof(uint16_t);
    kv->budget = budget;
    kv->kv_type = kv_type;
    kv->external = external;
    kv->part_bytes = (size_t)n_head_kv * CPU_KV_PAGE * head_dim * element;
    kv->page_bytes = (uint64_t)layers * 2 * kv->part_bytes;
    kv->next_serial = 1;
    kv->hash_seed = platform_now_ns(); /* only spreads buckets: equality is checked token by token */
    kv->next = budget->caches;
    budget->caches = kv;
    return kv;
}

/* ---- external pages: numbers and operations ------------------------------------------------------------------------- */

static bool grow_numbers(kv_cache *kv) {
    uint32_t words = kv->taken_words == 0 ? 16 : kv->taken_words * 2;
    uint64_t *bigger = realloc(kv->taken, words * sizeof *bigger);
    if (bigger == NULL) return false;
    memset(bigger + kv->taken_words, 0, (words - kv->taken_words) * sizeof *bigger);
    kv->taken = bigger;
    kv->taken_words = words;
    return true;
}

/* The lowest free number, so that the executor's pool stays dense. */
static bool take_number(kv_cache *kv, uint32_t *out) {
    uint32_t word = 0, bit = 0;
    while (word < kv->taken_words && kv->taken[word] == UINT64_MAX) word++;
    if (word == kv->taken_words && (word >= MAX_EXTERNAL_PAGES / 64 || !grow_numbers(kv))) return false;
    while (kv->taken[word] >> bit & 1) bit++;
    kv->taken[word] |= (uint64_t)1 << bit;
    *out = word * 64 + bit;
    return true;
}

static void give_number_back(kv_cache *kv, uint32_t number) { kv->taken[number / 64] &= ~((uint64_t)1 << number % 64); }

static bool add_op(kv_cache *kv, uint32_t source, uint32_t destination) {
    if (kv->op_count == kv->op_capacity) {
        uint32_t wanted = kv->op_capacity == 0 ? 64 : kv->op_capacity * 2;
        realm_page_op *bigger = realloc(kv->ops, wanted * sizeof *bigger);
        if (bigger == NULL) return false;
        kv->ops = bigger;
        kv->op_capacity = wanted;
    }
    kv->ops[kv->op_count++] = (realm_page_op){.kv_type = kv->kv_type, .source = source, .destination = destination};
    return true;
}

uint32_t kv_page_limit(const kv_cache *kv) {
    uint64_t pages = kv->budget->limit / kv->page_bytes;
    return pages < MAX_EXTERNAL_PAGES ? (uint32_t)pages : MAX_EXTERNAL_PAGES;
}

uint32_t kv_pool_pages(const kv_cache *kv) { return kv->pool_pages; }

const realm_page_op *kv_page_ops(const kv_cache *kv, uint32_t *count) {
    *count = kv->op_count;
    return kv->ops;
}

void kv_forget_page_ops(kv_cache *kv) { kv->op_count = 0; }

/* ---- owners: whose a page is, and which of its pages may be evicted -------------------------------------------------------- */

static kv_owner **owner_link(kv_budget *budget, uint64_t tenant) {
    kv_owner **link = &budget->owners[base_hash(&tenant, sizeof tenant, 0) % KV_OWNER_BUCKETS];
    while (*link != NULL && (*link)->tenant != tenant) link = &(*link)->next;
    return link;
}

kv_owner *kv_owner_get(kv_budget *budget, uint64_t tenant) {
    kv_owner **link = owner_link(budget, tenant);
    if (*link == NULL) {
        if ((*link = calloc(1, sizeof **link)) == NULL) return NULL;
        (*link)->tenant = tenant;
    }
    (*link)->users++;
    return *link;
}

void kv_owner_put(kv_budget *budget, kv_owner *owner) {
    if (--owner->users > 0) return;
    *owner_link(budget, owner->tenant) = owner->next;
    free(owner);
}

static void own(kv_page *page, kv_owner *owner) {
    owner->users++;
    owner->pages++;
    owner->bytes += page->kv->page_bytes;
    page->owner = owner;
}

static void disown(kv_page *page) {
    kv_owner *owner = page->owner;
    if (owner == NULL) return;
    owner->pages--;
    owner->bytes -= page->kv->page_bytes;
    page->owner = NULL;
    kv_owner_put(page->kv->budget, owner);
}

/* The owner joins and leaves the list of those with cached pages. */
static void begin_caching(kv_budget *budget, kv_owner *owner) {
    owner->before = NULL;
    owner->after = budget->caching;
    if (owner->after != NULL) owner->after->before = owner;
    budget->caching = owner;
}

static void end_caching(kv_budget *budget, kv_owner *owner) {
    if (owner->before != NULL) owner->before->after = owner->after; else budget->caching = owner->after;
    if (owner->after != NULL) owner->after->before = owner->before;
    owner->before = owner->after = NULL;
}

static void cache_remove(kv_page *page) {
    kv_owner *owner = page->owner;
    if (page->older != NULL) page->older->newer = page->newer; else owner->oldest = page->newer;
    if (page->newer != NULL) page->newer->older = page->older; else owner->newest = page->older;
    page->older = page->newer = NULL;
    if (owner->oldest == NULL) end_caching(page->kv->budget, owner);
}

static void cache_append(kv_page *page) {
    kv_owner *owner = page->owner;
    if (owner->oldest == NULL) begin_caching(page->kv->budget, owner);
    page->older = owner->newest;
    page->newer = NULL;
    if (owner->newest != NULL) owner->newest->newer = page; else owner->oldest = page;
    owner->newest = page;
}

/* The cached page that gives way when memory is short: the oldest of the owner that holds most. */
static kv_page *cached_victim(const kv_budget *budget) {
    const kv_owner *most = budget->caching;
    for (const kv_owner *owner = most; owner != NULL; owner = owner->after) {
        if (owner->bytes >= most->bytes) most = owner; /* of equal ones the last: it began to cache before the others */
    }
    return most == NULL ? NULL : most->oldest;
}

/* ---- life ----------------------------------------------------------------------------------------------------------- */

static void free_page(kv_page *page) {
    kv_cache *kv = page->kv;
    disown(page);
    if (kv->external) give_number_back(kv, page->number);
    else platform_free_pages(page->data, kv->page_bytes);
    kv->budget->used -= kv->page_bytes;
    base_free_wiped(page, sizeof *page);
}

static void free_chain(kv_page *page) {
    while (page != NULL) {
        kv_page *next = page->next;
        if (page->owner != NULL && page->users == 0) cache_remove(page);
        free_page(page);
        page = next;
    }
}

static void free_unused(kv_cache *kv) {
    free_chain(kv->free_pages);
    kv->free_pages = NULL;
}

void kv_destroy(kv_cache *kv) {
    if (kv == NULL) return;
    kv_cache **link = &kv->budget->caches;
    while (*link != kv) link = &(*link)->next;
    *link = kv->next;
    for (uint32_t i = 0; i < BUCKETS; i++) free_chain(kv->buckets[i]);
    free_unused(kv);
    free(kv->taken);
    free(kv->ops);
    free(kv);
}

uint64_t kv_page_bytes(const kv_cache *kv) { return kv->page_bytes; }
uint32_t kv_type_of(const kv_cache *kv) { return kv->kv_type; }
size_t kv_layer_offset(const kv_cache *kv, uint32_t layer) { return (size_t)layer * 2 * kv->part_bytes; }
size_t kv_part_bytes(const kv_cache *kv) { return kv->part_bytes; }

/* ---- the table of registered pages ---------------------------------------------------------------------------------- */

static kv_page **bucket_of(kv_cache *kv, uint64_t parent, uint64_t tenant, const uint32_t *tokens) {
    uint64_t hash = base_hash(tokens, CPU_KV_PAGE * sizeof *tokens, kv->hash_seed ^ tenant * 31 ^ parent * 0x9e3779b97f4a7c15u);
    return &kv->buckets[hash % BUCKETS];
}

static void unregister(kv_cache *kv, kv_page *page) {
    kv_page **link = bucket_of(kv, page->parent, page->tenant, page->tokens);
    while (*link != page) link = &(*link)->next;
    *link = page->next;
    page->next = NULL;
    page->serial = 0;
    base_wipe(page->tokens, sizeof page->tokens);
}

void kv_register(kv_cache *kv, kv_page *page, const kv_page *parent, uint64_t tenant, const uint32_t *tokens) {
    if (page->serial != 0 || (parent != NULL && parent->serial == 0)) return;
    uint64_t parent_serial = parent == NULL ? 0 : parent->serial;
    kv_page **bucket = bucket_of(kv, parent_serial, tenant, tokens);
    for (kv_page *other = *bucket; other != NULL; other = other->next) {
        bool same = other->parent == parent_serial && other->tenant == tenant;
        if (same && memcmp(other->tokens, tokens, sizeof other->tokens) == 0) return;
    }
    page->parent = parent_serial;
    page->tenant = tenant;
    page->serial = kv->next_serial++;
    memcpy(page->tokens, tokens, sizeof page->tokens);
    page->next = *bucket;
    *bucket = page;
}

kv_page *kv_find(kv_cache *kv, const kv_page *parent, uint64_t tenant, const uint32_t *tokens) {
    uint64_t parent_serial = parent == NULL ? 0 : parent->serial;
    if (parent != NULL && parent_serial == 0) return NULL; /* nobody can find what follows an unregistered page */
    for (kv_page *page = *bucket_of(kv, parent_serial, tenant, tokens); page != NULL; page = page->next) {
        bool same = page->parent == parent_serial && page->tenant == tenant;
        if (!same || memcmp(page->tokens, tokens, sizeof page->tokens) != 0) continue;
        if (page->users++ == 0) cache_remove(page);
        return page;
    }
    return NULL;
}

/* ---- pages ------------------------------------------------------------------------------------------------------------ */

/* Where the page's contents live; *fresh when they are zero. */
static bool allocate_contents(kv_cache *kv, kv_page *page, bool *fresh) {
    if (!kv->external) {
        page->data = platform_alloc_pages(kv->page_bytes);
        *fresh = true;
        return page->data != NULL;
    }
    if (!take_number(kv, &page->number)) return false;
    *fresh = page->number >= kv->pool_pages;
    if (*fresh) kv->pool_pages = page->number + 1;
    return true;
}

static kv_page *allocate_page(kv_cache *kv, bool *fresh) {
    if (kv->budget->limit - kv->budget->used < kv->page_bytes) return NULL;
    kv_page *page = calloc(1, sizeof *page);
    if (page == NULL) return NULL;
    page->kv = kv;
    if (!allocate_contents(kv, page, fresh)) {
        free(page);
        return NULL;
    }
    kv->budget->used += kv->page_bytes;
    return page;
}

static void put_aside(kv_page *page) {
    disown(page);
    page->next = page->kv->free_pages;
    page->kv->free_pages = page;
}

/* A cached page becomes a free one of its cache. */
static void evict(kv_page *page) {
    cache_remove(page);
    unregister(page->kv, page);
    put_aside(page);
}

/* Memory for one more page: what other caches have lying about, then a cached page. False when there is neither. */
static bool make_room(kv_cache *kv) {
    uint64_t used = kv->budget->used;
    for (kv_cache *other = kv->budget->caches; other != NULL; other = other->next) {
        if (other != kv) free_unused(other);
    }
    if (kv->budget->used < used) return true;
    kv_page *victim = cached_victim(kv->budget);
    if (victim != NULL) evict(victim);
    return victim != NULL;
}

/* A page with one user and unknown contents, or with none (*fresh). */
static kv_page *take_page(kv_cache *kv, kv_owner *owner, bool *fresh) {
    kv_page *page = NULL;
    *fresh = false;
    do {
        page = kv->free_pages;
        if (page != NULL) kv->free_pages = page->next;
        else page = allocate_page(kv, fresh);
    } while (page == NULL && make_room(kv));
    if (page == NULL) return NULL;
    page->next = NULL;
    page->users = 1;
    own(page, owner);
    return page;
}

/* Gives back a page that was just taken. */
static kv_page *return_page(kv_page *page) {
    page->users = 0;
    put_aside(page);
    return NULL;
}

kv_page *kv_acquire(kv_cache *kv, kv_owner *owner, uint64_t most) {
    bool fresh;
    if (most != 0 && owner->pages >= most && owner->oldest != NULL) evict(owner->oldest);
    kv_page *page = take_page(kv, owner, &fresh);
    if (page == NULL || fresh) return page;
    /* nothing of an earlier user, another tenant maybe, may be seen */
    if (!kv->external) memset(page->data, 0, (size_t)kv->page_bytes);
    else if (!add_op(kv, REALM_NONE, page->number)) return return_page(page);
    return page;
}

void kv_release(kv_page *page) {
    if (--page->users > 0) return;
    if (page->serial != 0) cache_append(page);
    else put_aside(page);
}

void kv_forget(kv_cache *kv) {
    for (uint32_t i = 0; i < BUCKETS; i++) {
        for (kv_page *page = kv->buckets[i], *next; page != NULL; page = next) {
            next = page->next;
            if (page->users == 0) evict(page);
        }
    }
    free_unused(kv);
}

kv_page *kv_make_private(kv_cache *kv, kv_page *page, kv_owner *owner) {
    if (page->users == 1) {
        if (page->serial != 0) unregister(kv, page);
        if (page->owner == NULL) own(page, owner); /* was published once */
        return page;
    }
    bool fresh;
    kv_page *copy = take_page(kv, owner, &fresh);
    if (copy == NULL) return NULL;
    if (!kv->external) memcpy(copy->data, page->data, (size_t)kv->page_bytes);
    else if (!add_op(kv, page->number, copy->number)) return return_page(copy);
    kv_release(page);
    return copy;
}

/* ---- published pages -------------------------------------------------------------------------------------------------- */

kv_page *kv_publish(kv_cache *kv, kv_page *page, const kv_page *parent, const uint32_t *tokens) {
    kv_page *found = kv_find(kv, parent, KV_PUBLIC, tokens);
    if (found == NULL) {
        kv_register(kv, page, parent, KV_PUBLIC, tokens);
        disown(page);
        page->users++;
        found = page;
    }
    found->pins++;
    return found;
}

void kv_unpublish(kv_cache *kv, kv_page *page) {
    if (--page->pins == 0) unregister(kv, page);
    kv_release(page);
}
