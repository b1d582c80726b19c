/* kernel_server.c: the kernel table of another processor's build, called from outside its process.
 *
 *   kernel_server MEMORY_FILE MASK     MASK of REALM_CPU_..., 0: the best there is
 * Arguments lie in a shared file, which is mapped with nothing readable behind its end. First it prints the table's name; then it
 * reads one call per line, "OP TYPE FLOAT INTEGER...", and answers each with a line: the result, or 0. Integers that are addresses
 * are offsets in the file plus one, 0 stands for NULL. */
// sources: core/base.c core/blocks.c core/cpu/*.c core/platform/platform_posix.c
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cpu/ops.h"

#define MOST_INTEGERS 10

typedef struct call {
    char op[32];
    uint32_t type;
    float number;
    uint64_t integers[MOST_INTEGERS];
} call;

static uint8_t *memory;

static void *at(uint64_t address) {
    return address ? memory + address - 1 : NULL;
}

static uint64_t matmul(const cpu_matmul *m, const call *c) {
    const uint64_t *a = c->integers;
    const uint32_t n[7] = {(uint32_t)a[0], (uint32_t)a[1], (uint32_t)a[2], (uint32_t)a[3], (uint32_t)a[4], (uint32_t)a[5], (uint32_t)a[6]};
    if (strcmp(c->op, "out_tile") == 0) return m->run ? m->out_tile : 0;
    if (strcmp(c->op, "prepared_size") == 0) return m->prepared_size(n[0], n[1]);
    if (strcmp(c->op, "prepare") == 0) m->prepare(at(a[0]), a[1], n[2], n[3], n[4], n[5], at(a[6]));
    else m->run(at(a[0]), a[1], at(a[2]), n[3], n[4], n[5], n[6], at(a[7]), a[8]);
    return 0;
}

/* The job's fields and the pages' table hold addresses of the file too. */
static void attention(const cpu_ops *ops, const uint64_t *a) {
    const uint64_t *field = at(a[0]);
    const float *numbers = at(a[1]);
    const uint64_t *table = at(field[11]);
    const uint32_t count = (uint32_t)((field[5] + field[4] + CPU_KV_PAGE - 1) / CPU_KV_PAGE);
    const void **pages = malloc(count * sizeof *pages);
    if (pages == NULL) exit(1);
    for (uint32_t i = 0; i < count; i++) pages[i] = at(table[i]);
    const cpu_attention job = {
        .q = at(field[0]), .out = at(field[1]), .q_stride = field[2], .out_stride = field[3], .n_rows = (uint32_t)field[4],
        .pos0 = (uint32_t)field[5], .n_head = (uint32_t)field[6], .n_head_kv = (uint32_t)field[7], .head_dim = (uint32_t)field[8],
        .window = (uint32_t)field[9], .kv_type = (uint32_t)field[10], .scale = numbers[0], .softcap = numbers[1],
        .rounded = (uint32_t)field[12], .pages = pages,
    };
    ops->attention(&job, (uint32_t)a[2], (uint32_t)a[3], (uint32_t)a[4], (uint32_t)a[5], at(a[6]));
    free(pages);
}

static void other(const cpu_ops *ops, const call *c) {
    const uint64_t *a = c->integers;
    const uint32_t n[9] = {(uint32_t)a[0], (uint32_t)a[1], (uint32_t)a[2], (uint32_t)a[3], (uint32_t)a[4],
                           (uint32_t)a[5], (uint32_t)a[6], (uint32_t)a[7], (uint32_t)a[8]};
    const char *op = c->op;
    if (strcmp(op, "dequantize") == 0) ops->dequantize[c->type](at(a[0]), n[1], at(a[2]));
    else if (strcmp(op, "rmsnorm") == 0) ops->rmsnorm(at(a[0]), at(a[1]), c->number, n[2], n[3], n[4], at(a[5]));
    else if (strcmp(op, "rope") == 0) ops->rope(at(a[0]), a[1], at(a[2]), n[3], n[4], n[5], n[6] != 0, n[7], n[8]);
    else if (strcmp(op, "silu_mul") == 0) ops->silu_mul(at(a[0]), at(a[1]), a[2]);
    else if (strcmp(op, "gelu_mul") == 0) ops->gelu_mul(at(a[0]), at(a[1]), a[2]);
    else if (strcmp(op, "add") == 0) ops->add(at(a[0]), at(a[1]), a[2]);
    else if (strcmp(op, "scale") == 0) ops->scale(at(a[0]), c->number, a[1]);
    else if (strcmp(op, "softcap") == 0) ops->softcap(at(a[0]), c->number, a[1]);
    else if (strcmp(op, "add_bias") == 0) ops->add_bias(at(a[0]), at(a[1]), n[2], n[3], n[4]);
    else if (strcmp(op, "kv_store") == 0) ops->kv_store(at(a[0]), n[1], n[2], at(a[3]), n[4], n[5]);
    else if (strcmp(op, "softmax_stats") == 0) ops->softmax_stats(at(a[0]), n[1], at(a[2]), at(a[3]));
    else if (strcmp(op, "attention") == 0) attention(ops, a);
    else exit(1);
}

static uint64_t answer(const cpu_ops *ops, const call *c) {
    static const char *const of_matmul[] = {"out_tile", "prepared_size", "prepare", "run"};
    for (size_t i = 0; i < sizeof of_matmul / sizeof *of_matmul; i++)
        if (strcmp(c->op, of_matmul[i]) == 0) return matmul(&ops->matmul[c->type], c);
    other(ops, c);
    return 0;
}

static bool read_call(char *line, call *c) {
    int used = 0;
    *c = (call){.type = 0};
    if (sscanf(line, "%31s %u %f%n", c->op, &c->type, &c->number, &used) != 3 || c->type >= BLOCK_TYPE_LIMIT) return false;
    char *rest = line + used;
    for (int i = 0; i < MOST_INTEGERS && *rest && *rest != '\n'; i++) c->integers[i] = strtoull(rest, &rest, 10);
    return true;
}

static bool map_memory(const char *path) {
    struct stat file;
    const int fd = open(path, O_RDWR);
    if (fd < 0 || fstat(fd, &file) != 0) return false;
    const size_t size = (size_t)file.st_size, guard = 1 << 16;
    uint8_t *room = mmap(NULL, size + guard, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (room == MAP_FAILED) return false;
    memory = mmap(room, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0);
    return memory != MAP_FAILED;
}

int main(int argc, char **argv) {
    static char line[1024];
    cpu_ops ops;
    call c;
    if (argc != 3 || !map_memory(argv[1])) return 2;
    cpu_ops_init(&ops, (uint32_t)strtoul(argv[2], NULL, 10));
    printf("%s\n", ops.name);
    fflush(stdout);
    while (fgets(line, sizeof line, stdin) != NULL) {
        if (!read_call(line, &c)) return 1;
        printf("%llu\n", (unsigned long long)answer(&ops, &c));
        fflush(stdout);
    }
    return 0;
}
