/* cpu_internal.h: what the kernel files share among themselves; the rest of the core sees ops.h alone. */
#ifndef REALM_CPU_INTERNAL_H
#define REALM_CPU_INTERNAL_H

#include "ops.h"

/* Queries (row x head pairs of one KV head) that share one converted page of K and V; the scratch has room for them. */
#define ATTENTION_QUERIES 32
/* Pages that are taken together, where an instruction set has the registers for it. */
#define ATTENTION_BLOCK_PAGES 2

/* The same of attention_amx.c: it has tiles for more. */
#define CPU_ATTENTION_AMX_QUERIES 256
#define CPU_ATTENTION_AMX_BLOCK 64

void cpu_attention_portable(const cpu_attention *job, uint32_t row0, uint32_t row1, uint32_t head0, uint32_t head1,
                            float *scratch);

/* Before a loop of constant count whose body indexes registers by the loop variable; or one that must stay a loop. And what
   kernels are built from. A program under sanitizers (REALM_SANITIZED) keeps loops and calls as they are written: inlined and
   unrolled, every access of every copy is checked, and one file costs minutes to compile. */
#if defined(REALM_SANITIZED)
#define CPU_UNROLL
#define CPU_ROLLED
#define CPU_INLINE static __attribute__((unused))
#else
#define CPU_INLINE static inline __attribute__((always_inline))
#if defined(__clang__)
#define CPU_UNROLL _Pragma("clang loop unroll(full)")
#define CPU_ROLLED _Pragma("clang loop unroll(disable)")
#else
#define CPU_UNROLL _Pragma("GCC unroll 16")
#define CPU_ROLLED _Pragma("GCC unroll 1")
#endif
#endif

#if defined(__x86_64__) || defined(_M_X64)
#define CPU_X86_64 1
#endif
#if defined(__aarch64__) || defined(_M_ARM64)
#define CPU_ARM64 1
#endif

#endif
