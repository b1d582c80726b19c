/* bench_limits.c: what this machine can do at most: bytes read from memory, and operations by the instructions that kernels use.
 *   bench_limits [THREADS]      prints one JSON object: bytes per second by threads, operations per second of THREADS threads
 * Operations are multiplications and additions, so a dot product of four counts eight. Every thread keeps its operands in
 * registers or tiles; CHAINS independent sums hide the latency of an instruction. */
#include "bench.h"
#include "pool.h"

enum { CHAINS = 12, TURNS = 200000, REPEATS = 5, MAX_THREADS = 64 };
static const uint64_t BANDWIDTH_BYTES = (uint64_t)1 << 30;

typedef struct instruction {
    const char *name;
    uint32_t features;      /* REALM_CPU_...: the kernels that use it */
    double operations;      /* of one instruction */
    uint32_t chains;
    int (*run)(int turns);  /* chains * turns instructions; the result only keeps them alive */
} instruction;

#if defined(__x86_64__)
#include <immintrin.h>

__attribute__((target("avx2,fma"))) static int run_avx2_f32(int turns) {
    __m256 sums[CHAINS], x = _mm256_set1_ps(1e-9f), y = _mm256_set1_ps((float)turns);
    for (int i = 0; i < CHAINS; i++) sums[i] = _mm256_setzero_ps();
    for (int t = 0; t < turns; t++) {
        for (int i = 0; i < CHAINS; i++) sums[i] = _mm256_fmadd_ps(x, y, sums[i]);
        __asm__ volatile("" : "+x"(x));
    }
    for (int i = 1; i < CHAINS; i++) sums[0] = _mm256_add_ps(sums[0], sums[i]);
    return _mm256_movemask_ps(sums[0]);
}

/* Without dot-product instructions: u8 x s8 pairs to 16 bits, those to 32 bits, and the sum. */
__attribute__((target("avx2"))) static int run_avx2_int8(int turns) {
    __m256i sums[CHAINS], x = _mm256_set1_epi8(3), y = _mm256_set1_epi8((char)turns), ones = _mm256_set1_epi16(1);
    for (int i = 0; i < CHAINS; i++) sums[i] = _mm256_setzero_si256();
    for (int t = 0; t < turns; t++) {
        for (int i = 0; i < CHAINS; i++) {
            __asm__ volatile("" : "+x"(x)); /* each product is made anew */
            sums[i] = _mm256_add_epi32(sums[i], _mm256_madd_epi16(_mm256_maddubs_epi16(x, y), ones));
        }
    }
    for (int i = 1; i < CHAINS; i++) sums[0] = _mm256_add_epi32(sums[0], sums[i]);
    return _mm256_movemask_epi8(sums[0]);
}

__attribute__((target("avx512f"))) static int run_avx512_f32(int turns) {
    __m512 sums[CHAINS], x = _mm512_set1_ps(1e-9f), y = _mm512_set1_ps((float)turns);
    for (int i = 0; i < CHAINS; i++) sums[i] = _mm512_setzero_ps();
    for (int t = 0; t < turns; t++) {
        for (int i = 0; i < CHAINS; i++) sums[i] = _mm512_fmadd_ps(x, y, sums[i]);
        __asm__ volatile("" : "+v"(x));
    }
    for (int i = 1; i < CHAINS; i++) sums[0] = _mm512_add_ps(sums[0], sums[i]);
    return (int)_mm512_reduce_add_ps(sums[0]);
}

__attribute__((target("avx512f,avx512vnni"))) static int run_avx512_vnni(int turns) {
    __m512i sums[CHAINS], x = _mm512_set1_epi8(3), y = _mm512_set1_epi8((char)turns);
    for (int i = 0; i < CHAINS; i++) sums[i] = _mm512_setzero_si512();
    for (int t = 0; t < turns; t++) {
        for (int i = 0; i < CHAINS; i++) sums[i] = _mm512_dpbusd_epi32(sums[i], x, y);
        __asm__ volatile("" : "+v"(x));
    }
    for (int i = 1; i < CHAINS; i++) sums[0] = _mm512_add_epi32(sums[0], sums[i]);
    return _mm512_reduce_add_epi32(sums[0]);
}

typedef struct tile_config {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} tile_config;

__attribute__((target("amx-tile"))) static void configure_tiles(void) {
    tile_config config = {.palette = 1};
    for (int i = 0; i < 8; i++) {
        config.row_bytes[i] = 64;
        config.rows[i] = 16;
    }
    __asm__ volatile("" ::: "memory"); /* the stores are only read by the instruction below */
    _tile_loadconfig(&config);
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    _tile_zero(4);
    _tile_zero(5);
    _tile_zero(6);
    _tile_zero(7);
}

__attribute__((target("amx-tile,amx-bf16"))) static int run_amx_bf16(int turns) {
    configure_tiles();
    for (int t = 0; t < turns; t++) { /* the four products of a 2 x 2 block */
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_release();
    return 0;
}

__attribute__((target("amx-tile,amx-int8"))) static int run_amx_int8(int turns) {
    configure_tiles();
    for (int t = 0; t < turns; t++) {
        _tile_dpbssd(0, 4, 6);
        _tile_dpbssd(1, 4, 7);
        _tile_dpbssd(2, 5, 6);
        _tile_dpbssd(3, 5, 7);
    }
    _tile_release();
    return 0;
}

static const instruction INSTRUCTIONS[] = {
    {"avx2 f32", REALM_CPU_AVX2, 16, CHAINS, run_avx2_f32},
    {"avx2 int8", REALM_CPU_AVX2, 64, CHAINS, run_avx2_int8},
    {"avx512 f32", REALM_CPU_AVX512, 32, CHAINS, run_avx512_f32},
    {"avx512 int8", REALM_CPU_AVX512, 128, CHAINS, run_avx512_vnni},
    {"amx bf16", REALM_CPU_AMX, 16 * 16 * 32 * 2, 4, run_amx_bf16},
    {"amx int8", REALM_CPU_AMX, 16 * 16 * 64 * 2, 4, run_amx_int8},
};
enum { INSTRUCTION_COUNT = sizeof INSTRUCTIONS / sizeof *INSTRUCTIONS };
#else
static const instruction INSTRUCTIONS[1];
enum { INSTRUCTION_COUNT = 0 };
#endif

typedef struct peak_job {
    const instruction *tested;
    int turns;
    int sinks[MAX_THREADS];
} peak_job;

static void run_instruction(void *arg, uint32_t index, uint32_t worker) {
    peak_job *job = arg;
    (void)index;
    job->sinks[worker] = job->tested->run(job->turns);
}

static double peak(pool *threads, const instruction *tested) {
    double best = 0.0;
    peak_job job = {.tested = tested, .turns = (int)(TURNS * 128 / (tested->operations > 1024 ? 1024 : 128))};
    for (int i = 0; i < REPEATS; i++) {
        double began = seconds();
        pool_run(threads, run_instruction, &job, pool_threads(threads));
        double rate = tested->operations * tested->chains * job.turns * pool_threads(threads) / (seconds() - began);
        if (rate > best) best = rate;
    }
    return best;
}

static void print_bandwidth(uint32_t threads) {
    realm_error err = {0};
    realm_runtime *rt;
    realm_runtime_options options = {.threads = threads};
    expect(realm_runtime_create(&options, &rt, &err), &err);
    printf("%s\"%u\": %.4g", threads == 1 ? "" : ", ", threads, realm_bench_read_bandwidth(rt, BANDWIDTH_BYTES, REPEATS));
    realm_runtime_destroy(rt);
}

int main(int argc, char **argv) {
    uint32_t threads = argc > 1 ? (uint32_t)strtoul(argv[1], NULL, 10) : platform_processor_count();
    if (threads < 1 || threads > MAX_THREADS) return fprintf(stderr, "usage: bench_limits [THREADS]\n"), 2;
    uint32_t features = realm_cpu_features();
    pool *all = pool_create(threads);
    if (all == NULL) return fprintf(stderr, "no threads\n"), 1;
    printf("{\"threads\": %u, \"bandwidth\": {", threads);
    print_bandwidth(1);
    if (threads > 1) print_bandwidth(threads);
    printf("}, \"peaks\": {");
    const char *comma = "";
    for (int i = 0; i < INSTRUCTION_COUNT; i++) {
        if ((features & INSTRUCTIONS[i].features) == 0) continue;
        printf("%s\"%s\": %.4g", comma, INSTRUCTIONS[i].name, peak(all, &INSTRUCTIONS[i]));
        comma = ", ";
    }
    printf("}}\n");
    pool_destroy(all);
    return 0;
}
