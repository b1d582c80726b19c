// sources: core/base.c core/platform/platform_posix.c
/* test_platform.c: the platform layer under the sanitizers: threads, waits, file mapping and its errors, memory. */
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../../core/platform/platform.h"

#define MS 1000000u

static void expect(bool holds, const char *what) {
    if (holds) return;
    fprintf(stderr, "test_platform: %s\n", what);
    exit(1);
}

/* ---- threads: several count to a number under one lock, the last one wakes the main thread ---- */

enum { THREADS = 4, STEPS = 5000 };

typedef struct counter {
    platform_mutex *mutex;
    platform_cond *done;
    unsigned count, finished;
} counter;

static void count_up(void *arg) {
    counter *c = arg;
    for (unsigned i = 0; i < STEPS; i++) {
        platform_lock(c->mutex);
        c->count++;
        platform_unlock(c->mutex);
        platform_pause();
    }
    platform_lock(c->mutex);
    if (++c->finished == THREADS) platform_cond_signal(c->done);
    platform_unlock(c->mutex);
}

static void check_threads(void) {
    counter c = {.mutex = platform_mutex_create(), .done = platform_cond_create()};
    platform_thread *threads[THREADS];
    expect(c.mutex != NULL && c.done != NULL, "no mutex or condition");
    for (unsigned i = 0; i < THREADS; i++) {
        threads[i] = platform_thread_start("a name longer than the system takes", count_up, &c);
        expect(threads[i] != NULL, "no thread");
    }
    platform_lock(c.mutex);
    while (c.finished < THREADS) expect(platform_cond_wait(c.done, c.mutex, UINT64_MAX), "a wait without limit timed out");
    platform_unlock(c.mutex);
    for (unsigned i = 0; i < THREADS; i++) platform_thread_join(threads[i]);
    expect(c.count == THREADS * STEPS, "the lock does not exclude");
    platform_cond_destroy(c.done);
    platform_mutex_destroy(c.mutex);
}

static void check_timeouts(void) {
    platform_mutex *mutex = platform_mutex_create();
    platform_cond *cond = platform_cond_create();
    platform_lock(mutex);
    uint64_t start = platform_now_ns(), waits = 0;
    while (platform_cond_wait(cond, mutex, 30 * MS)) expect(++waits < 100, "the wait never times out"); /* may wake for nothing */
    expect(platform_now_ns() - start >= 30 * MS, "a wait came back early");
    expect(!platform_cond_wait(cond, mutex, 0), "a wait of nothing does not time out");
    platform_unlock(mutex);
    platform_cond_destroy(cond);
    platform_mutex_destroy(mutex);
}

/* ---- files ---- */

static void check_file(const char *path, size_t size) {
    platform_mapping map;
    realm_error err = {0};
    FILE *stream = fopen(path, "wb");
    expect(stream != NULL, "cannot write the test file");
    for (size_t i = 0; i < size; i++) fputc((int)(i * 7 % 251), stream);
    fclose(stream);
    expect(platform_map_file(path, &map, &err) == REALM_OK && map.size == size && map.data != NULL, "cannot map a file");
    for (size_t i = 0; i < size; i++) expect(map.data[i] == i * 7 % 251, "other bytes than the file's");
    platform_prefetch(&map, 1, UINT64_MAX);
    platform_prefetch(&map, size, 1);
    platform_read_often(&map, 1, UINT64_MAX);
    platform_prefetch(&map, 0, size);
    platform_read_often(&map, size / 2, 1);
    platform_prefetch(&map, 0, size);
    for (size_t i = 0; i < size; i++) expect(map.data[i] == i * 7 % 251, "advice changed the bytes");
    platform_unmap(&map);
    expect(map.data == NULL && map.size == 0, "an unmapped file is still there");
    platform_unmap(&map); /* twice is harmless */
}

/* ---- a file that is cut short while it is mapped ---- */

enum { PAGES = 8, READERS = 4 };
static sig_atomic_t passed_on;

static void note_signal(int number) {
    (void)number;
    passed_on++;
}

static void write_ones(const char *path) {
    FILE *stream = fopen(path, "wb");
    expect(stream != NULL, "cannot write the test file");
    for (int i = 0; i < PAGES * 4096; i++) fputc(1, stream);
    fclose(stream);
}

static void read_all(void *arg) {
    const platform_mapping *map = arg;
    for (size_t i = 0; i < map->size; i++) expect(map->data[i] == (i < 2 * 4096), "what is gone must read as zeros");
}

static void check_lost(const char *path) {
    platform_mapping map, whole;
    realm_error err = {0};
    platform_thread *readers[READERS];
    write_ones(path);
    signal(SIGBUS, note_signal);
    expect(platform_map_file(path, &map, &err) == REALM_OK && !atomic_load(map.lost), "a whole file counts as lost");
    raise(SIGBUS);
    expect(passed_on == 1, "a signal that is not a fault must reach the handler that was there before");
    expect(truncate(path, 2 * 4096) == 0, "cannot truncate");
    for (int i = 0; i < READERS; i++) readers[i] = platform_thread_start("reader", read_all, &map);
    read_all(&map);
    for (int i = 0; i < READERS; i++) platform_thread_join(readers[i]);
    expect(atomic_load(map.lost), "nobody noticed");
    write_ones(path);
    expect(platform_map_file(path, &whole, &err) == REALM_OK && !atomic_load(whole.lost), "a restored file counts as lost");
    platform_unmap(&map);
    platform_unmap(&whole);
    expect(signal(SIGBUS, SIG_DFL) == note_signal && passed_on == 1, "the handler before is not back");
}

/* A handler put above later that, as Python's faulthandler, steps back and raises the signal again. */
static struct sigaction below;

static void step_back(int number) {
    passed_on++;
    sigaction(number, &below, NULL);
    raise(number);
}

static void check_lost_below_another(const char *path) {
    struct sigaction above = {.sa_handler = step_back, .sa_flags = SA_NODEFER};
    platform_mapping map;
    realm_error err = {0};
    write_ones(path);
    passed_on = 0;
    expect(platform_map_file(path, &map, &err) == REALM_OK, "cannot map a file");
    expect(sigaction(SIGBUS, &above, &below) == 0 && truncate(path, 2 * 4096) == 0, "cannot truncate");
    read_all(&map);
    expect(passed_on == 1 && atomic_load(map.lost), "the handler above was not asked once");
    platform_unmap(&map);
}

static void check_refused(const char *path, realm_status expected) {
    platform_mapping map;
    realm_error err = {0};
    expect(platform_map_file(path, &map, &err) == expected && err.code == (int32_t)expected, path);
    expect(strstr(err.message, path) != NULL && map.data == NULL, "the error does not name the file");
}

static void check_files(void) {
    char folder[] = "/tmp/realm-platform-XXXXXX", path[64];
    expect(mkdtemp(folder) != NULL, "no temporary folder");
    snprintf(path, sizeof path, "%s/file", folder);
    check_file(path, 0);
    check_file(path, 1);
    check_file(path, 100000);
    check_lost(path);
    check_lost_below_another(path);
    check_refused(folder, REALM_E_IO);
    check_refused("/dev/null", REALM_E_IO);
    unlink(path);
    check_refused(path, REALM_E_NOT_FOUND);
    expect(mkfifo(path, 0600) == 0, "no FIFO");
    check_refused(path, REALM_E_IO); /* must not wait for a writer */
    unlink(path);
    rmdir(folder);
}

/* ---- memory and the machine ---- */

static void check_memory(void) {
    uint8_t *pages = platform_alloc_pages(100000);
    expect(pages != NULL && (uintptr_t)pages % 4096 == 0, "pages are not aligned");
    for (size_t i = 0; i < 100000; i++) expect(pages[i] == 0, "pages are not zeroed");
    memset(pages, 1, 100000);
    platform_free_pages(pages, 100000);
    platform_free_pages(NULL, 1);
    expect(platform_alloc_pages(0) == NULL && platform_alloc_pages(UINT64_C(1) << 62) == NULL, "pages out of nothing");
    for (size_t size = 0; size < 300; size += 37) {
        uint8_t *block = platform_alloc_aligned(size);
        expect(block != NULL && (uintptr_t)block % 64 == 0, "memory is not aligned");
        memset(block, 1, size);
        platform_free_aligned(block);
    }
}

static void check_machine(void) {
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    uint64_t physical = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
    expect(platform_processor_count() >= 1 && platform_processor_count() <= (uint64_t)online, "processors");
    expect(platform_memory_bytes() >= 1 << 20 && platform_memory_bytes() <= physical, "memory");
}

int main(void) {
    check_threads();
    check_timeouts();
    check_files();
    check_memory();
    check_machine();
    return 0;
}
