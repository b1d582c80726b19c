/* bench.h: what the benchmarks in C share: a clock, ending at the first error, a model from a file, medians. */
#ifndef BENCH_H
#define BENCH_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "platform/platform.h"
#include "realm.h"

enum { BENCH_MAX_VALUES = 64 };

static inline double seconds(void) { return (double)platform_now_ns() * 1e-9; }

static inline void expect(realm_status status, const realm_error *err) {
    if (status == REALM_OK) return;
    fprintf(stderr, "%s: %s\n", realm_status_name(status), err->message);
    exit(1);
}

static inline realm_model *load_model(realm_runtime *rt, const char *path) {
    realm_loader *loader;
    realm_model *model;
    realm_error err = {0};
    realm_model_options options = {.prefetch = 1};
    expect(realm_loader_begin(rt, path, &options, &loader, &err), &err);
    for (float progress = 0.0f; progress < 1.0f;) expect(realm_loader_step(loader, &progress, &err), &err);
    expect(realm_loader_finish(loader, &model, &err), &err);
    return model;
}

static inline int bench_by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static inline double median_of(const double *values, uint32_t count) {
    double sorted[BENCH_MAX_VALUES];
    memcpy(sorted, values, count * sizeof *sorted);
    qsort(sorted, count, sizeof *sorted, bench_by_value);
    return sorted[count / 2];
}

#endif
