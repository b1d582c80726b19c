/* dispatch.c: what this processor and its operating system allow, and the op table made from it.
 * Fillers run from the weakest to the strongest instruction set; each overrides what it does faster. */
#include "cpu_internal.h"
#include "platform/platform.h"

#ifdef CPU_X86_64

#include <cpuid.h>

/* State the operating system saves on a switch (XCR0): registers it does not save must not be used. */
#define XCR0_AVX 0x06u    /* xmm, ymm */
#define XCR0_AVX512 0xe6u /* and the masks, zmm0-15's upper halves, zmm16-31 */
#define XCR0_TILES 0x60000u /* tile configuration and data */

static uint64_t saved_state(void) {
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
}

static bool has_bits(uint32_t value, uint32_t bits) {
    return (value & bits) == bits;
}

/* AMX with bf16 and int8, and AVX-512's conversion to bf16. Linux wants to be asked before a process may use tiles. */
static bool has_amx(uint64_t state) {
    uint32_t a, b, c, d;
    const uint32_t amx_bf16 = 1u << 22, amx_tile = 1u << 24, amx_int8 = 1u << 25, avx512_bf16 = 1u << 5;
    if (!has_bits((uint32_t)state, XCR0_TILES)) return false;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !has_bits(d, amx_bf16 | amx_tile | amx_int8)) return false;
    if (!__get_cpuid_count(7, 1, &a, &b, &c, &d) || !has_bits(a, avx512_bf16)) return false;
    return platform_permit_tiles();
}

/* The dot products of AVX-512 in AVX's encoding. */
static bool has_avxvnni(void) {
    uint32_t a, b, c, d;
    return __get_cpuid_count(7, 1, &a, &b, &c, &d) && has_bits(a, 1u << 4);
}

uint32_t cpu_detect(void) {
    uint32_t a, b, c, d, features = REALM_CPU_PORTABLE;
    const uint32_t fma = 1u << 12, osxsave = 1u << 27, avx = 1u << 28, f16c = 1u << 29;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !has_bits(c, fma | osxsave | avx | f16c)) return features;
    uint64_t state = saved_state();
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return features;
    const uint32_t avx2 = 1u << 5;
    const uint32_t avx512_b = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31, vnni_c = 1u << 11; /* F, DQ, BW, VL; VNNI */
    if (has_bits((uint32_t)state, XCR0_AVX) && has_bits(b, avx2)) features |= REALM_CPU_AVX2;
    if (features & REALM_CPU_AVX2 && has_bits((uint32_t)state, XCR0_AVX512) && has_bits(b, avx512_b) && has_bits(c, vnni_c))
        features |= REALM_CPU_AVX512;
    if (features & REALM_CPU_AVX2 && has_avxvnni()) features |= REALM_CPU_AVXVNNI;
    if (features & REALM_CPU_AVX512 && has_amx(state)) features |= REALM_CPU_AMX;
    return features;
}

#elif defined(CPU_ARM64)

uint32_t cpu_detect(void) {
    const uint32_t arm = platform_arm_features();
    uint32_t features = REALM_CPU_PORTABLE;
    if (arm & PLATFORM_ARM_DOTPROD) features |= REALM_CPU_NEON_DOTPROD;
    if (features & REALM_CPU_NEON_DOTPROD && arm & PLATFORM_ARM_I8MM) features |= REALM_CPU_NEON_I8MM;
    return features;
}

#elif defined(__wasm_simd128__)

/* A module with instructions the engine lacks does not compile at all: what was built in, there is. */
uint32_t cpu_detect(void) {
#ifdef __wasm_relaxed_simd__
    return REALM_CPU_PORTABLE | REALM_CPU_SIMD128 | REALM_CPU_RELAXED;
#else
    return REALM_CPU_PORTABLE | REALM_CPU_SIMD128;
#endif
}

#else

uint32_t cpu_detect(void) {
    return REALM_CPU_PORTABLE;
}

#endif

void cpu_ops_init(cpu_ops *ops, uint32_t features) {
    uint32_t usable = cpu_detect();
    if (features) usable &= features;
    memset(ops, 0, sizeof *ops);
    cpu_fill_portable(ops);
#ifdef CPU_X86_64
    if (usable & REALM_CPU_AVX2) cpu_fill_avx2(ops);
    if (usable & REALM_CPU_AVX2 && usable & REALM_CPU_AVXVNNI) cpu_fill_avxvnni(ops);
    if (usable & REALM_CPU_AVX512) cpu_fill_avx512(ops);
    if (usable & REALM_CPU_AMX && usable & REALM_CPU_AVX512) cpu_fill_amx(ops);
#elif defined(CPU_ARM64)
    if (usable & REALM_CPU_NEON_DOTPROD) cpu_fill_neon(ops);
    if (usable & REALM_CPU_NEON_DOTPROD && usable & REALM_CPU_NEON_I8MM) cpu_fill_i8mm(ops);
#elif defined(__wasm_simd128__)
    if (usable & REALM_CPU_SIMD128) cpu_fill_simd128(ops);
#ifdef __wasm_relaxed_simd__
    if (usable & REALM_CPU_SIMD128 && usable & REALM_CPU_RELAXED) cpu_fill_relaxed(ops);
#endif
#else
    (void)usable;
#endif
}
