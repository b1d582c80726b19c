/* prefix.c: prefixes that the application declares public. A session of the host computes one; publishing registers its whole
 * pages under nobody's tenant, where every session looks first (engine.c), and keeps them until they are unpublished. */
#include <stdlib.h>

#include "engine.h"

static void drop(public_prefix *p) {
    while (p->page_count > 0) kv_unpublish(p->kv, p->pages[--p->page_count]); /* followers before what they follow */
    free(p->pages);
    free(p);
}

void prefix_drop_all(engine *e) {
    while (e->prefixes != NULL) {
        public_prefix *p = e->prefixes;
        e->prefixes = p->next;
        drop(p);
    }
}

static realm_status check(const session *s, realm_error *err) {
    if (s->active != NULL || s->in_step || s->slice_next != 0) {
        return base_fail(err, REALM_E_BUSY, "the session has work in flight: wait for its ticket first");
    }
    if (!s->no_prefix || s->registered > 0) {
        return base_fail(err, REALM_E_INVALID_ARGUMENT, "only what a session with no_prefix computed can be published");
    }
    if (s->done < CPU_KV_PAGE) {
        return base_fail(err, REALM_E_INVALID_ARGUMENT, "a public prefix needs at least %d tokens, the session holds %u", CPU_KV_PAGE,
                         s->done);
    }
    return REALM_OK;
}

static realm_status publish(session *s, public_prefix **out, realm_error *err) {
    engine *e = s->engine;
    uint32_t count = s->done / CPU_KV_PAGE;
    public_prefix *p = calloc(1, sizeof *p);
    kv_page **pages = malloc(count * sizeof *pages);
    if (p == NULL || pages == NULL) {
        free(p);
        free(pages);
        return base_fail_memory(err, "the public prefix", count * sizeof *pages);
    }
    *p = (public_prefix){.id = ++e->prefix_serial, .kv = s->kv, .pages = pages, .next = e->prefixes};
    for (uint32_t i = 0; i < count; i++) {
        const kv_page *parent = i == 0 ? NULL : pages[i - 1];
        pages[p->page_count++] = kv_publish(s->kv, s->pages[i], parent, s->tokens + i * CPU_KV_PAGE);
    }
    e->prefixes = *out = p;
    return REALM_OK;
}

realm_status realm_prefix_publish(realm_context *ctx, uint32_t handle, uint32_t *prefix, uint32_t *tokens, realm_error *err) {
    base_error_clear(err);
    *prefix = *tokens = 0;
    platform_lock(ctx->rt->lock);
    session *s = handle_get(&ctx->sessions, handle);
    public_prefix *p = NULL;
    realm_status status = s != NULL ? check(s, err) : base_fail(err, REALM_E_INVALID_HANDLE, "session handle %u is not open", handle);
    if (status == REALM_OK) status = publish(s, &p, err);
    if (p != NULL) {
        *prefix = p->id;
        *tokens = p->page_count * CPU_KV_PAGE;
    }
    platform_unlock(ctx->rt->lock);
    return status;
}

static public_prefix *take_out(engine *e, uint32_t id) {
    for (public_prefix **link = &e->prefixes; *link != NULL; link = &(*link)->next) {
        if ((*link)->id != id) continue;
        public_prefix *p = *link;
        *link = p->next;
        return p;
    }
    return NULL;
}

realm_status realm_prefix_unpublish(realm_model *model, uint32_t prefix, realm_error *err) {
    base_error_clear(err);
    if (model->engine == NULL) return base_fail(err, REALM_E_NO_WEIGHTS, "the model was opened without weights");
    platform_lock(model->rt->lock);
    public_prefix *p = take_out(model->engine, prefix);
    if (p != NULL) drop(p);
    platform_unlock(model->rt->lock);
    return p != NULL ? REALM_OK : base_fail(err, REALM_E_NOT_FOUND, "the model has no public prefix %u", prefix);
}
