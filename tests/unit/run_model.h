/* run_model.h: for test programs over realm.h that end at the first error: a call that must succeed, and a model from a file. */
#ifndef RUN_MODEL_H
#define RUN_MODEL_H

#include <stdio.h>
#include <stdlib.h>

#include "realm.h"

static void require(realm_status status, const realm_error *err) {
    if (status == REALM_OK) return;
    fprintf(stderr, "%s: %s\n", realm_status_name(status), err->message);
    exit(1);
}

static realm_model *load(realm_runtime *rt, const char *path) {
    realm_error err;
    realm_loader *loader;
    realm_model *model;
    require(realm_loader_begin(rt, path, NULL, &loader, &err), &err);
    for (float progress = 0; progress < 1;) require(realm_loader_step(loader, &progress, &err), &err);
    require(realm_loader_finish(loader, &model, &err), &err);
    return model;
}

#endif
