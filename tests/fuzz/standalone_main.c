/* Drives a libFuzzer-style harness where libFuzzer is not: replays files, or mutates a corpus for a while.
 *
 *   program FILE...                                        run each file once
 *   program --seconds=N [--timeout=S] [--artifacts=PREFIX] [--seed=K] FOLDER...
 *
 * It is blind (no coverage feedback), so a harness helps it with LLVMFuzzerCustomMutator and a good corpus.
 * The input that is running when the process dies is written to PREFIX<signal>-<run number>. */
#define _DEFAULT_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size);
__attribute__((weak)) int LLVMFuzzerInitialize(int *argc, char ***argv);
__attribute__((weak)) size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed);
__attribute__((weak)) void __sanitizer_set_death_callback(void (*callback)(void));

enum { INPUT_LIMIT = 1 << 16, SEED_LIMIT = 4096, STACKED_LIMIT = 6 };

typedef struct {
    uint8_t *data;
    size_t size;
} input;

/* A test driver, one thread: the signal handlers need these where they can reach them. */
static input corpus[SEED_LIMIT];
static size_t corpus_count;
static uint8_t current[INPUT_LIMIT];
static size_t current_size;
static char artifact_prefix[512] = "./";
static unsigned long long run_number;
static uint64_t random_state = 0x9E3779B97F4A7C15u;

/* ---- small random numbers (xorshift64*): the same seed gives the same inputs everywhere ---- */

static uint64_t random_next(void) {
    random_state ^= random_state >> 12;
    random_state ^= random_state << 25;
    random_state ^= random_state >> 27;
    return random_state * 0x2545F4914F6CDD1Du;
}

static size_t random_below(size_t limit) { return limit ? (size_t)(random_next() % limit) : 0; }

/* ---- what is left behind when an input kills the process ---- */

static void save_current(const char *why) {
    char path[640];
    snprintf(path, sizeof path, "%s%s-%llu", artifact_prefix, why, run_number);
    int file = open(path, O_CREAT | O_TRUNC | O_WRONLY, 0644);
    if (file < 0) return;
    for (size_t at = 0; at < current_size;) {
        ssize_t wrote = write(file, current + at, current_size - at);
        if (wrote <= 0) break;
        at += (size_t)wrote;
    }
    close(file);
    fprintf(stderr, "input saved to %s\n", path);
}

static void on_death(void) { save_current("crash"); }

static void on_signal(int number) {
    save_current(number == SIGALRM ? "timeout" : "crash");
    signal(number, SIG_DFL);
    if (number == SIGALRM) _exit(70);
    raise(number);
}

static void watch_for_death(void) {
    if (__sanitizer_set_death_callback) __sanitizer_set_death_callback(on_death);
    const int watched[] = {SIGABRT, SIGILL, SIGTRAP, SIGFPE, SIGALRM};
    for (size_t i = 0; i < sizeof watched / sizeof *watched; i++) signal(watched[i], on_signal);
    if (!__sanitizer_set_death_callback) {
        signal(SIGSEGV, on_signal);
        signal(SIGBUS, on_signal);
    }
}

/* ---- corpus ---- */

static int read_file(const char *path, input *out) {
    FILE *file = fopen(path, "rb");
    if (!file) return 0;
    uint8_t *data = malloc(INPUT_LIMIT);
    size_t size = data ? fread(data, 1, INPUT_LIMIT, file) : 0;
    fclose(file);
    *out = (input){data, size};
    return data != NULL;
}

static void add_folder(const char *folder) {
    DIR *listing = opendir(folder);
    if (!listing) return;
    for (struct dirent *entry; (entry = readdir(listing)) && corpus_count < SEED_LIMIT;) {
        char path[2048];
        struct stat info;
        snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
        if (stat(path, &info) == 0 && S_ISREG(info.st_mode) && read_file(path, &corpus[corpus_count])) corpus_count++;
    }
    closedir(listing);
}

static void free_corpus(void) {
    for (size_t i = 0; i < corpus_count; i++) free(corpus[i].data);
}

/* ---- mutation ---- */

static size_t erase_bytes(uint8_t *data, size_t size) {
    size_t at = random_below(size), count = 1 + random_below(size - at);
    memmove(data + at, data + at + count, size - at - count);
    return size - count;
}

static size_t insert_bytes(uint8_t *data, size_t size, size_t max_size) {
    size_t room = max_size - size, count = 1 + random_below(room < 32 ? room : 32), at = random_below(size + 1);
    memmove(data + at + count, data + at, size - at);
    for (size_t i = 0; i < count; i++) data[at + i] = (uint8_t)random_next();
    return size + count;
}

/* Lengths and counts break readers: write one at a border of its type. */
static void write_border_number(uint8_t *data, size_t size) {
    static const uint64_t borders[] = {0, 1, 0x7F, 0x80, 0xFF, 0xFFFF, 0x7FFFFFFF, 0x80000000u, 0xFFFFFFFFu,
                                       0x7FFFFFFFFFFFFFFFu, 0x8000000000000000u, 0xFFFFFFFFFFFFFFFFu};
    size_t width = (size_t)1 << random_below(4);
    if (size < width) return;
    uint64_t value = borders[random_below(sizeof borders / sizeof *borders)] + random_below(3) - 1;
    size_t at = random_below(size - width + 1);
    for (size_t i = 0; i < width; i++) data[at + i] = (uint8_t)(value >> (8 * i));
}

static void copy_from_corpus(uint8_t *data, size_t size) {
    if (!corpus_count) return;
    const input *other = &corpus[random_below(corpus_count)];
    if (!other->size) return;
    size_t from = random_below(other->size), at = random_below(size);
    size_t most = other->size - from < size - at ? other->size - from : size - at;
    memcpy(data + at, other->data + from, 1 + random_below(most));
}

size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size) {
    if (size == 0) return max_size ? insert_bytes(data, 0, max_size) : 0;
    switch (random_below(6)) {
    case 0: data[random_below(size)] ^= (uint8_t)(1u << random_below(8)); return size;
    case 1: data[random_below(size)] = (uint8_t)random_next(); return size;
    case 2: write_border_number(data, size); return size;
    case 3: copy_from_corpus(data, size); return size;
    case 4: return size < max_size ? insert_bytes(data, size, max_size) : size;
    default: return erase_bytes(data, size);
    }
}

static size_t mutate(uint8_t *data, size_t size) {
    if (LLVMFuzzerCustomMutator) return LLVMFuzzerCustomMutator(data, size, INPUT_LIMIT, (unsigned)random_next());
    for (size_t times = 1 + random_below(STACKED_LIMIT); times; times--) size = LLVMFuzzerMutate(data, size, INPUT_LIMIT);
    return size;
}

/* ---- running ---- */

/* An exact heap copy, so that reading one byte too far is seen by the sanitizer. */
static void run_current(unsigned timeout_seconds) {
    uint8_t *copy = malloc(current_size ? current_size : 1);
    if (!copy) exit(71);
    memcpy(copy, current, current_size);
    run_number++;
    alarm(timeout_seconds);
    LLVMFuzzerTestOneInput(copy, current_size);
    alarm(0);
    free(copy);
}

static void explore(unsigned seconds, unsigned timeout_seconds) {
    time_t end = time(NULL) + (time_t)seconds;
    while (time(NULL) < end) {
        current_size = 0;
        if (corpus_count) {
            const input *seed = &corpus[random_below(corpus_count)];
            memcpy(current, seed->data, seed->size);
            current_size = seed->size;
        }
        current_size = mutate(current, current_size);
        run_current(timeout_seconds);
    }
}

/* Files are run as they are, whatever their size. */
static int replay(const char *path) {
    FILE *file = fopen(path, "rb");
    struct stat info;
    if (!file || fstat(fileno(file), &info) != 0) {
        fprintf(stderr, "%s: %s\n", path, strerror(errno));
        return 0;
    }
    size_t size = (size_t)info.st_size;
    uint8_t *data = malloc(size ? size : 1);
    if (data && fread(data, 1, size, file) == size) LLVMFuzzerTestOneInput(data, size);
    fclose(file);
    free(data);
    run_number++;
    return 1;
}

int main(int argc, char **argv) {
    unsigned seconds = 0, timeout_seconds = 10;
    if (LLVMFuzzerInitialize) LLVMFuzzerInitialize(&argc, &argv);
    watch_for_death();
    for (int i = 1; i < argc; i++) {
        const char *argument = argv[i];
        if (!strncmp(argument, "--seconds=", 10)) seconds = (unsigned)strtoul(argument + 10, NULL, 10);
        else if (!strncmp(argument, "--timeout=", 10)) timeout_seconds = (unsigned)strtoul(argument + 10, NULL, 10);
        else if (!strncmp(argument, "--seed=", 7)) random_state = strtoull(argument + 7, NULL, 10) | 1;
        else if (!strncmp(argument, "--artifacts=", 12)) snprintf(artifact_prefix, sizeof artifact_prefix, "%s", argument + 12);
        else if (seconds) add_folder(argument);
        else if (!replay(argument)) return 2;
    }
    if (seconds) explore(seconds, timeout_seconds);
    free_corpus();
    printf("stat::number_of_executed_units: %llu\n", run_number);
    return 0;
}
