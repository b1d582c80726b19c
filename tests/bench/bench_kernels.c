/* bench_kernels.c: how fast each matmul kernel runs alone: GB/s of weights for decode shapes, GFLOP/s for prefill shapes.
 *
 * Build and run, from the repository root, with the objects of the built library:
 *   build/venv/bin/python -m ziglang cc -O2 -Icore -Icore/include tests/bench/bench_kernels.c -lm -lpthread -o build/bench_kernels
 *       $(find build/native/linux-x64/core -path '*cpu*.o') build/native/linux-x64/core/base.c.o build/native/linux-x64/core/blocks.c.o
 *   build/bench_kernels [threads] [megabytes of weights] [mask of REALM_CPU_...]
 * Weights are random bytes with small scales; every thread has its own outputs and all repeat until 0.3 s have passed. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "cpu/ops.h"

#define MAX_THREADS 64
#define K 2048

typedef struct job {
    const cpu_matmul *matmul;
    const uint8_t *w;
    size_t row_bytes;
    void *prepared;
    float *out;
    uint32_t n_rows, n_out, out0, out1;
    int repeats;
} job;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void *run_job(void *argument) {
    const job *j = argument;
    for (int i = 0; i < j->repeats; i++)
        j->matmul->run(j->w, j->row_bytes, j->prepared, j->n_rows, K, j->out0, j->out1, j->out, j->n_out);
    return NULL;
}

static double run_threads(job shape, int threads) {
    pthread_t ids[MAX_THREADS];
    job jobs[MAX_THREADS];
    double start = now();
    for (int t = 0; t < threads; t++) {
        jobs[t] = shape;
        jobs[t].out0 = shape.n_out / (uint32_t)threads / 32 * 32 * (uint32_t)t;
        jobs[t].out1 = t == threads - 1 ? shape.n_out : shape.n_out / (uint32_t)threads / 32 * 32 * (uint32_t)(t + 1);
        pthread_create(&ids[t], NULL, run_job, &jobs[t]);
    }
    for (int t = 0; t < threads; t++) pthread_join(ids[t], NULL);
    return (now() - start) / shape.repeats;
}

static void fill(uint8_t *w, size_t size, const block_type *type, uint32_t id) {
    uint64_t state = 1;
    for (size_t i = 0; i < size; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        w[i] = (uint8_t)(state >> 56);
    }
    bool tiny = id == BLOCK_F32 || id == BLOCK_F16 || id == BLOCK_BF16;
    for (size_t i = 0; i + type->bytes <= size; i += type->bytes) { /* halves and floats near 0.01 */
        size_t d = id == BLOCK_Q6_K ? 208 : id == BLOCK_F32 ? 2 : 0;
        w[i + d + 1] = id == BLOCK_F32 || id == BLOCK_BF16 ? 0x3c : 0x20;
        if (!tiny && id != BLOCK_Q6_K && type->elements == BLOCK_QK_K) w[i + 3] = 0x20;
    }
}

static void bench_type(const cpu_ops *ops, uint32_t id, int threads, size_t bytes) {
    static const uint32_t row_counts[] = {1, 2, 4, 8, 16, 32, 256};
    const block_type *type = block_type_of(id);
    size_t row_bytes = (size_t)K / type->elements * type->bytes;
    uint32_t n_out = (uint32_t)(bytes / row_bytes / 64 * 64);
    uint8_t *w = aligned_alloc(64, (n_out * row_bytes + 63) / 64 * 64);
    float *x = malloc(256 * K * sizeof *x), *out = malloc((size_t)256 * n_out * sizeof *out);
    fill(w, n_out * row_bytes, type, id);
    for (int i = 0; i < 256 * K; i++) x[i] = (float)(i % 1009) / 504.0f - 1.0f;
    const cpu_matmul *matmul = &ops->matmul[id];
    void *prepared = aligned_alloc(64, (matmul->prepared_size(256, K) + 63) / 64 * 64);
    printf("%-5s", type->name);
    for (size_t i = 0; i < sizeof row_counts / sizeof *row_counts; i++) {
        uint32_t rows = row_counts[i];
        matmul->prepare(x, K, rows, K, 0, rows, prepared);
        job shape = {matmul, w, row_bytes, prepared, out, rows, n_out, 0, n_out, 1};
        double best = 1e9, end = now() + 0.3;
        do {
            double seconds = run_threads(shape, threads);
            best = seconds < best ? seconds : best;
        } while (now() < end);
        printf("  %4.1f|%4.0f", (double)n_out * (double)row_bytes / best * 1e-9, 2.0 * n_out * K * rows / best * 1e-9);
        fflush(stdout);
    }
    printf("\n");
    free(w);
    free(x);
    free(out);
    free(prepared);
}

int main(int argc, char **argv) {
    int threads = argc > 1 ? atoi(argv[1]) : 1;
    size_t bytes = (argc > 2 ? (size_t)atoi(argv[2]) : 64) << 20;
    static const uint32_t types[] = {BLOCK_Q8_0, BLOCK_Q4_0, BLOCK_Q4_K, BLOCK_Q5_K, BLOCK_Q6_K, BLOCK_F16, BLOCK_BF16, BLOCK_F32};
    if (threads < 1 || threads > MAX_THREADS) return 2;
    cpu_ops ops;
    cpu_ops_init(&ops, argc > 3 ? (uint32_t)atoi(argv[3]) : 0);
    printf("%s, %d thread(s), %zu MiB, k = %d; GB/s | GFLOP/s by rows\n       1          2          4          8          16         32         256\n",
           ops.name, threads, bytes >> 20, K);
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) bench_type(&ops, types[i], threads, bytes);
    return 0;
}
