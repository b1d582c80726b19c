/* platform_posix.c: platform.h for Linux and macOS: pthreads, mmap, and what a container may use.
 * A container's limits live in cgroup files (v1 and v2). They are read from the process's own group up to the root and the
 * smallest wins, because an ancestor's limit binds too; unreadable files mean "no limit". A mapped file that is cut short must
 * not end the process: see SIGBUS below. */
#if defined(__linux__)
#define _GNU_SOURCE /* sched_getaffinity, pthread_setname_np, madvise */
#elif defined(__APPLE__)
#define _DARWIN_C_SOURCE
#endif

#include "platform.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#if defined(__linux__)
#include <sched.h>
#include <sys/auxv.h>
#include <sys/syscall.h>
#elif defined(__APPLE__)
#include <sys/sysctl.h>
#endif

/* ---- mutexes and conditions ---- */

struct platform_mutex {
    pthread_mutex_t native;
};

struct platform_cond {
    pthread_cond_t native;
};

platform_mutex *platform_mutex_create(void) {
    platform_mutex *m = malloc(sizeof *m);
    if (m == NULL) return NULL;
    if (pthread_mutex_init(&m->native, NULL) != 0) {
        free(m);
        return NULL;
    }
    return m;
}

void platform_mutex_destroy(platform_mutex *m) {
    if (m == NULL) return;
    pthread_mutex_destroy(&m->native);
    free(m);
}

void platform_lock(platform_mutex *m) { pthread_mutex_lock(&m->native); }
void platform_unlock(platform_mutex *m) { pthread_mutex_unlock(&m->native); }

/* Waits are measured on the monotonic clock, so that setting the wall clock neither wakes nor hangs anyone. */
static int cond_init(pthread_cond_t *native) {
#if defined(__APPLE__)
    return pthread_cond_init(native, NULL); /* the relative wait below is monotonic already */
#else
    pthread_condattr_t attributes;
    int failed = pthread_condattr_init(&attributes);
    if (failed) return failed;
    failed = pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    if (!failed) failed = pthread_cond_init(native, &attributes);
    pthread_condattr_destroy(&attributes);
    return failed;
#endif
}

platform_cond *platform_cond_create(void) {
    platform_cond *c = malloc(sizeof *c);
    if (c == NULL) return NULL;
    if (cond_init(&c->native) != 0) {
        free(c);
        return NULL;
    }
    return c;
}

void platform_cond_destroy(platform_cond *c) {
    if (c == NULL) return;
    pthread_cond_destroy(&c->native);
    free(c);
}

#define NS_PER_SECOND 1000000000u
#define LONGEST_WAIT_NS (86400u * (uint64_t)NS_PER_SECOND) /* keeps time_t sums far from any limit; callers loop anyway */

static struct timespec timespec_of(uint64_t ns) {
    return (struct timespec){.tv_sec = (time_t)(ns / NS_PER_SECOND), .tv_nsec = (long)(ns % NS_PER_SECOND)};
}

bool platform_cond_wait(platform_cond *c, platform_mutex *m, uint64_t timeout_ns) {
    if (timeout_ns == UINT64_MAX) return pthread_cond_wait(&c->native, &m->native) == 0;
    uint64_t wait_ns = timeout_ns < LONGEST_WAIT_NS ? timeout_ns : LONGEST_WAIT_NS;
#if defined(__APPLE__)
    struct timespec relative = timespec_of(wait_ns);
    return pthread_cond_timedwait_relative_np(&c->native, &m->native, &relative) == 0;
#else
    struct timespec deadline = timespec_of(platform_now_ns() + wait_ns);
    return pthread_cond_timedwait(&c->native, &m->native, &deadline) == 0;
#endif
}

void platform_cond_signal(platform_cond *c) { pthread_cond_signal(&c->native); }
void platform_cond_broadcast(platform_cond *c) { pthread_cond_broadcast(&c->native); }

/* ---- threads ---- */

#define THREAD_NAME_CAP 16 /* Linux takes 15 bytes and a NUL */
#define SLICE_NS 400000u /* a fraction of the usual 1.4 to 3 ms */
#define THREAD_STACK_BYTES (2u << 20) /* defaults range from 128 KiB (musl) to 8 MiB: make them equal */

struct platform_thread {
    pthread_t native;
    void (*run)(void *);
    void *arg;
    char name[THREAD_NAME_CAP];
};

static void *thread_main(void *arg) {
    platform_thread *t = arg;
#if defined(__APPLE__)
    pthread_setname_np(t->name);
#elif defined(__linux__)
    pthread_setname_np(pthread_self(), t->name);
#endif
    t->run(t->arg);
    return NULL;
}

/* Signals stay with the host's threads: Ctrl-C must reach the interpreter, never a worker of ours. Faults are a thread's own:
 * were they blocked, the process would end before any handler saw them. */
static int thread_create_masked(platform_thread *t, const pthread_attr_t *attributes) {
    static const int faults[] = {SIGBUS, SIGSEGV, SIGFPE, SIGILL};
    sigset_t all, before;
    sigfillset(&all);
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) sigdelset(&all, faults[i]);
    if (pthread_sigmask(SIG_SETMASK, &all, &before) != 0) return -1;
    int failed = pthread_create(&t->native, attributes, thread_main, t);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return failed;
}

platform_thread *platform_thread_start(const char *name, void (*run)(void *), void *arg) {
    platform_thread *t = calloc(1, sizeof *t);
    if (t == NULL) return NULL;
    t->run = run;
    t->arg = arg;
    snprintf(t->name, sizeof t->name, "%s", name);
    pthread_attr_t attributes;
    int failed = pthread_attr_init(&attributes);
    if (!failed) {
        pthread_attr_setstacksize(&attributes, THREAD_STACK_BYTES);
        failed = thread_create_masked(t, &attributes);
        pthread_attr_destroy(&attributes);
    }
    if (!failed) return t;
    free(t);
    return NULL;
}

void platform_thread_join(platform_thread *t) {
    if (t == NULL) return;
    pthread_join(t->native, NULL);
    free(t);
}

/* A shorter slice than the others' lets a thread that wakes preempt them (Linux 6.12; older ones do not look at it). */
void platform_thread_wake_soon(void) {
#if defined(__linux__) && defined(SYS_sched_setattr)
    struct { /* sched_setattr(2); few C libraries have it */
        uint32_t size, policy;
        uint64_t flags;
        int32_t nice;
        uint32_t priority;
        uint64_t runtime_ns, deadline_ns, period_ns;
    } attributes = {.size = sizeof attributes};
    if (syscall(SYS_sched_getattr, 0, &attributes, (unsigned)sizeof attributes, 0) != 0 || attributes.policy != SCHED_OTHER) return;
    attributes.runtime_ns = SLICE_NS;
    syscall(SYS_sched_setattr, 0, &attributes, 0);
#endif
}

bool platform_permit_tiles(void) {
#if defined(__linux__) && defined(__x86_64__)
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_TILE_DATA = 18 }; /* Documentation/arch/x86/xstate.rst; Linux 5.16 */
    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_TILE_DATA) == 0;
#else
    return false;
#endif
}

uint32_t platform_arm_features(void) {
#if defined(__aarch64__) && defined(__linux__)
    const unsigned long dotprod = 1ul << 20, i8mm = 1ul << 13; /* Documentation/arch/arm64/elf_hwcaps.rst: ASIMDDP, I8MM */
    return (getauxval(AT_HWCAP) & dotprod ? PLATFORM_ARM_DOTPROD : 0) | (getauxval(AT_HWCAP2) & i8mm ? PLATFORM_ARM_I8MM : 0);
#elif defined(__aarch64__) && defined(__APPLE__)
    int i8mm = 0; /* every Mac with such a processor has dot products; macOS 11 does not know their name */
    size_t size = sizeof i8mm;
    if (sysctlbyname("hw.optional.arm.FEAT_I8MM", &i8mm, &size, NULL, 0) != 0) i8mm = 0;
    return PLATFORM_ARM_DOTPROD | (i8mm ? PLATFORM_ARM_I8MM : 0);
#else
    return 0;
#endif
}

void platform_pause(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

uint64_t platform_now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * NS_PER_SECOND + (uint64_t)now.tv_nsec;
}

/* ---- cgroup limits ---- */

#if defined(__linux__)

#define CGROUP_TEXT_CAP 4096

/* Reads a small text file; false when it cannot be read. */
static bool read_text(const char *path, char *text, size_t cap) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return false;
    size_t size = 0;
    while (size + 1 < cap) {
        ssize_t got = read(fd, text + size, cap - 1 - size);
        if (got <= 0) break;
        size += (size_t)got;
    }
    close(fd);
    text[size] = '\0';
    return size > 0;
}

/* True when the comma-separated list [list, end) holds `name`. */
static bool list_has(const char *list, const char *end, const char *name) {
    size_t size = strlen(name);
    while (list < end) {
        const char *comma = memchr(list, ',', (size_t)(end - list));
        const char *stop = comma ? comma : end;
        if ((size_t)(stop - list) == size && memcmp(list, name, size) == 0) return true;
        list = stop + 1;
    }
    return false;
}

/* Finds this process's group in /proc/self/cgroup, whose lines are "id:controllers:path"; v2 has no controllers. */
static bool cgroup_path(const char *controller, char *path, size_t cap) {
    char text[CGROUP_TEXT_CAP];
    if (!read_text("/proc/self/cgroup", text, sizeof text)) return false;
    for (char *line = text; *line;) {
        char *end = line + strcspn(line, "\n");
        char *next = *end ? end + 1 : end;
        *end = '\0';
        char *list = strchr(line, ':');
        char *tail = list ? strchr(list + 1, ':') : NULL;
        if (tail && (*controller ? list_has(list + 1, tail, controller) : tail == list + 1)) {
            return snprintf(path, cap, "%s", tail + 1) < (int)cap;
        }
        line = next;
    }
    return false;
}

typedef uint64_t (*limit_reader)(const char *folder);

/* The smallest limit `read_limit` finds from the process's group up to the root of `mount`; UINT64_MAX when there is none.
 * Inside a container the path may be the host's and not exist here: then only its visible ancestors count. */
static uint64_t cgroup_smallest(const char *mount, const char *controller, limit_reader read_limit) {
    char path[CGROUP_TEXT_CAP], folder[CGROUP_TEXT_CAP + 64];
    uint64_t smallest = UINT64_MAX;
    if (!cgroup_path(controller, path, sizeof path)) return smallest;
    for (;;) {
        snprintf(folder, sizeof folder, "%s%s", mount, path);
        uint64_t limit = read_limit(folder);
        if (limit < smallest) smallest = limit;
        char *slash = strrchr(path, '/');
        if (slash == NULL) return smallest;
        *slash = '\0';
    }
}

/* A number in folder/name; UINT64_MAX for "max", negative or absent. */
static uint64_t read_number(const char *folder, const char *name) {
    char path[CGROUP_TEXT_CAP + 128], text[64];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    if (!read_text(path, text, sizeof text) || text[0] < '0' || text[0] > '9') return UINT64_MAX;
    return strtoull(text, NULL, 10);
}

static uint64_t processors_of(uint64_t quota_us, uint64_t period_us) {
    if (quota_us == UINT64_MAX || period_us == UINT64_MAX || period_us == 0) return UINT64_MAX;
    uint64_t whole = quota_us / period_us + (quota_us % period_us != 0); /* 1.5 processors: two threads keep busy */
    return whole ? whole : 1;
}

static uint64_t processors_v2(const char *folder) {
    char path[CGROUP_TEXT_CAP + 128], text[64];
    snprintf(path, sizeof path, "%s/cpu.max", folder);
    unsigned long long quota, period;
    if (!read_text(path, text, sizeof text) || sscanf(text, "%llu %llu", &quota, &period) != 2) return UINT64_MAX;
    return processors_of(quota, period);
}

static uint64_t processors_v1(const char *folder) {
    return processors_of(read_number(folder, "cpu.cfs_quota_us"), read_number(folder, "cpu.cfs_period_us"));
}

static uint64_t memory_v2(const char *folder) { return read_number(folder, "memory.max"); }
static uint64_t memory_v1(const char *folder) { return read_number(folder, "memory.limit_in_bytes"); }

static uint64_t smaller(uint64_t a, uint64_t b) { return a < b ? a : b; }

static uint64_t cgroup_processors(void) {
    return smaller(cgroup_smallest("/sys/fs/cgroup", "", processors_v2),
                   cgroup_smallest("/sys/fs/cgroup/cpu", "cpu", processors_v1));
}

static uint64_t cgroup_memory(void) {
    return smaller(cgroup_smallest("/sys/fs/cgroup", "", memory_v2),
                   cgroup_smallest("/sys/fs/cgroup/memory", "memory", memory_v1));
}

static uint64_t affinity_processors(void) {
    enum { most = 1 << 16 }; /* the plain cpu_set_t stops at 1,024, and the call then fails */
    cpu_set_t *set = CPU_ALLOC(most);
    if (set == NULL) return UINT64_MAX;
    size_t bytes = CPU_ALLOC_SIZE(most);
    uint64_t count = UINT64_MAX;
    if (sched_getaffinity(0, bytes, set) == 0) count = (uint64_t)CPU_COUNT_S(bytes, set);
    CPU_FREE(set);
    return count;
}

#else

static uint64_t smaller(uint64_t a, uint64_t b) { return a < b ? a : b; }
static uint64_t cgroup_processors(void) { return UINT64_MAX; }
static uint64_t cgroup_memory(void) { return UINT64_MAX; }
static uint64_t affinity_processors(void) { return UINT64_MAX; }

#endif

uint32_t platform_processor_count(void) {
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    uint64_t count = online > 0 ? (uint64_t)online : 1;
    count = smaller(count, smaller(affinity_processors(), cgroup_processors()));
    return count ? (uint32_t)count : 1;
}

uint64_t platform_memory_bytes(void) {
    long pages = sysconf(_SC_PHYS_PAGES), page_bytes = sysconf(_SC_PAGESIZE);
    uint64_t physical = pages > 0 && page_bytes > 0 ? (uint64_t)pages * (uint64_t)page_bytes : UINT64_MAX;
    return smaller(physical, cgroup_memory());
}

/* ---- mapped files that are lost: SIGBUS ----
 * Reading a page whose file was cut short, or that the disk cannot give, raises SIGBUS in the reading thread. The handler puts
 * zeros in its place, notes that, and lets the thread go on: the engine then fails the work of that model, not the process.
 * A handler has no argument of ours, and no lock is safe in it: hence the one table of the core that is not an object's. It
 * is there while files are mapped; every other SIGBUS goes to the handler that was there before. */

enum { MAX_MAPPED_FILES = 1024 };

typedef struct mapped_file {
    atomic_uintptr_t start, end; /* whole pages; start 0: free */
    atomic_int fd;
    atomic_bool lost;
} mapped_file;

static mapped_file mapped_files[MAX_MAPPED_FILES];
static uint32_t mapped_count;
static bool bus_handled;
static struct sigaction bus_before;
static uintptr_t page_bytes;
static pthread_mutex_t mapped_lock = PTHREAD_MUTEX_INITIALIZER; /* of all the above; the handler reads without it */

static bool put_zeros(mapped_file *file, uintptr_t from, uintptr_t end) {
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED;
    atomic_store(&file->lost, true);
    return mmap((void *)from, end - from, PROT_READ, flags, -1, 0) != MAP_FAILED;
}

/* From the page of the fault on: what lies behind the new end of a file is gone too. */
static bool repair_fault(uintptr_t address) {
    for (uint32_t i = 0; i < MAX_MAPPED_FILES; i++) {
        mapped_file *file = &mapped_files[i];
        uintptr_t start = atomic_load(&file->start), end = atomic_load(&file->end);
        if (start != 0 && address >= start && address < end) return put_zeros(file, address - address % page_bytes, end);
    }
    return false;
}

/* A handler above ours (Python's faulthandler) may only say that there was a fault, by raising the signal once more. */
static bool repair_shortened(void) {
    bool repaired = false;
    for (uint32_t i = 0; i < MAX_MAPPED_FILES; i++) {
        mapped_file *file = &mapped_files[i];
        uintptr_t start = atomic_load(&file->start), end = atomic_load(&file->end);
        struct stat now;
        if (start == 0 || fstat(atomic_load(&file->fd), &now) != 0) continue;
        uintptr_t left = ((uintptr_t)now.st_size + page_bytes - 1) / page_bytes * page_bytes;
        if (left >= end - start) continue;
        repaired = atomic_load(&file->lost) /* by another thread */ || put_zeros(file, start + left, end) || repaired;
    }
    return repaired;
}

static void pass_on(int number, siginfo_t *info, void *context) {
    if (bus_before.sa_flags & SA_SIGINFO) {
        bus_before.sa_sigaction(number, info, context);
    } else if (bus_before.sa_handler == SIG_DFL || bus_before.sa_handler == SIG_IGN) {
        if (info->si_code <= 0 && bus_before.sa_handler == SIG_IGN) return;
        signal(number, SIG_DFL); /* a fault comes again at once; what was sent is sent again */
        if (info->si_code <= 0) raise(number);
    } else {
        bus_before.sa_handler(number);
    }
}

static void on_bus_error(int number, siginfo_t *info, void *context) {
    int saved = errno;
    bool is_fault = info->si_code > 0; /* else somebody sent it */
    bool repaired = is_fault ? repair_fault((uintptr_t)info->si_addr) : repair_shortened();
    errno = saved;
    if (!repaired) pass_on(number, info, context);
}

static bool handle_bus_errors(void) {
    struct sigaction ours = {.sa_flags = SA_SIGINFO | SA_ONSTACK};
    sigemptyset(&ours.sa_mask);
    ours.sa_sigaction = on_bus_error;
    return bus_handled || (bus_handled = sigaction(SIGBUS, &ours, &bus_before) == 0);
}

/* Where another handler was put above ours meanwhile, ours stays: that one may call it. */
static void leave_bus_errors(void) {
    struct sigaction now;
    if (sigaction(SIGBUS, NULL, &now) != 0 || !(now.sa_flags & SA_SIGINFO) || now.sa_sigaction != on_bus_error) return;
    bus_handled = sigaction(SIGBUS, &bus_before, NULL) != 0;
}

/* Takes the descriptor over; NULL when the table is full. */
static mapped_file *watch_file(void *data, size_t size, int fd) {
    mapped_file *file = NULL;
    pthread_mutex_lock(&mapped_lock);
    long bytes = sysconf(_SC_PAGESIZE);
    page_bytes = bytes > 0 ? (uintptr_t)bytes : 4096;
    for (uint32_t i = 0; file == NULL && i < MAX_MAPPED_FILES; i++) {
        if (atomic_load(&mapped_files[i].start) == 0) file = &mapped_files[i];
    }
    if (file != NULL && !handle_bus_errors()) file = NULL;
    if (file != NULL) {
        atomic_store(&file->lost, false);
        atomic_store(&file->fd, fd);
        atomic_store(&file->end, ((uintptr_t)data + size + page_bytes - 1) / page_bytes * page_bytes);
        atomic_store(&file->start, (uintptr_t)data);
        mapped_count++;
    }
    pthread_mutex_unlock(&mapped_lock);
    return file;
}

static void forget_file(mapped_file *file) {
    pthread_mutex_lock(&mapped_lock);
    atomic_store(&file->start, 0);
    close(atomic_load(&file->fd));
    if (--mapped_count == 0) leave_bus_errors();
    pthread_mutex_unlock(&mapped_lock);
}

/* ---- file mapping ---- */

#define HUGE_PAGE_BYTES ((uint64_t)2 << 20)

static realm_status fail_io(realm_error *err, const char *path, int code) {
    realm_status status = code == ENOENT || code == ENOTDIR ? REALM_E_NOT_FOUND : REALM_E_IO;
    const char *why = code == ENOENT || code == ENOTDIR ? "no such file"
                      : code == EACCES || code == EPERM ? "permission denied"
                      : code == EISDIR                  ? "is a folder, not a file"
                      : code == EMFILE || code == ENFILE ? "too many open files"
                      : code == ENOMEM                  ? "not enough address space to map it"
                                                        : NULL;
    if (why) return base_fail(err, status, "cannot read '%s': %s", path, why);
    return base_fail(err, status, "cannot read '%s': system error %d", path, code); /* strerror is not thread-safe */
}

static realm_status map_descriptor(int fd, const char *path, platform_mapping *out, realm_error *err) {
    struct stat info;
    if (fstat(fd, &info) != 0) return fail_io(err, path, errno);
    if (S_ISDIR(info.st_mode)) return fail_io(err, path, EISDIR);
    if (!S_ISREG(info.st_mode)) return base_fail(err, REALM_E_IO, "cannot map '%s': not a regular file", path);
    if (info.st_size == 0) { /* mmap refuses empty ranges; an empty file is the parser's to refuse */
        *out = (platform_mapping){.data = (const uint8_t *)"", .size = 0};
        return REALM_OK;
    }
    if ((uint64_t)info.st_size > SIZE_MAX) return fail_io(err, path, ENOMEM);
    void *data = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_SHARED, fd, 0);
    if (data == MAP_FAILED) return fail_io(err, path, errno);
    mapped_file *file = watch_file(data, (size_t)info.st_size, fd);
    if (file == NULL) {
        munmap(data, (size_t)info.st_size);
        return base_fail(err, REALM_E_LIMIT_EXCEEDED, "cannot map '%s': %d files are mapped already", path, MAX_MAPPED_FILES);
    }
    *out = (platform_mapping){.data = data, .size = (uint64_t)info.st_size, .handle = file, .lost = &file->lost};
    return REALM_OK;
}

realm_status platform_map_file(const char *path, platform_mapping *out, realm_error *err) {
    *out = (platform_mapping){0};
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* non-blocking: a FIFO must not hang the open */
    if (fd < 0) return fail_io(err, path, errno);
    realm_status status = map_descriptor(fd, path, out, err);
    if (out->handle == NULL) close(fd);
    return status;
}

void platform_unmap(platform_mapping *map) {
    if (map->handle != NULL) {
        forget_file(map->handle); /* first: the addresses may soon be somebody else's */
        munmap((void *)(uintptr_t)map->data, (size_t)map->size);
    }
    *map = (platform_mapping){0};
}

/* Huge pages, where the file system has them: whoever reads all weights for each token misses the TLB less. */
void platform_read_often(platform_mapping *map, uint64_t offset, uint64_t size) {
#if defined(__linux__)
    if (map->handle == NULL) return; /* an empty file */
    uint64_t start = smaller(offset, map->size), end = start + smaller(size, map->size - start);
    map->often_until = start / HUGE_PAGE_BYTES * HUGE_PAGE_BYTES;
    map->often_from = (end + HUGE_PAGE_BYTES - 1) / HUGE_PAGE_BYTES * HUGE_PAGE_BYTES;
    uint8_t *data = (uint8_t *)(uintptr_t)map->data;
    if (map->often_until > 0) madvise(data, (size_t)map->often_until, MADV_HUGEPAGE);
    if (map->often_from < map->size) madvise(data + map->often_from, (size_t)(map->size - map->often_from), MADV_HUGEPAGE);
#else
    (void)map;
    (void)offset;
    (void)size;
#endif
}

/* A fault reads a whole huge page where there are such, advice does not: hence the touch. Advice asks for the rest elsewhere. */
void platform_prefetch(const platform_mapping *map, uint64_t offset, uint64_t size) {
    if (offset >= map->size) return;
    if (size > map->size - offset) size = map->size - offset;
    bool told = map->often_from > 0;
    for (uint64_t at = offset - offset % HUGE_PAGE_BYTES; at < offset + size; at += HUGE_PAGE_BYTES) {
        const uint8_t *block = map->data + at;
        if (told && (at < map->often_until || at >= map->often_from)) (void)*(const volatile uint8_t *)block;
        posix_madvise((void *)(uintptr_t)block, (size_t)smaller(map->size - at, HUGE_PAGE_BYTES), POSIX_MADV_WILLNEED);
    }
}

/* ---- memory ---- */

void *platform_alloc_pages(uint64_t bytes) {
    if (bytes == 0 || bytes > SIZE_MAX) return NULL;
    void *p = mmap(NULL, (size_t)bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) return NULL;
#if defined(MADV_HUGEPAGE) /* activations: kernels walk them row by row */
    if (bytes >= HUGE_PAGE_BYTES) madvise(p, (size_t)bytes, MADV_HUGEPAGE);
#endif
    return p;
}

void platform_free_pages(void *p, uint64_t bytes) {
    if (p != NULL) munmap(p, (size_t)bytes);
}

void platform_trim_pages(void *p, uint64_t bytes) {
    long size = sysconf(_SC_PAGESIZE);
    uintptr_t page = size > 0 ? (uintptr_t)size : 4096, start = ((uintptr_t)p + page - 1) / page * page;
    uintptr_t end = ((uintptr_t)p + (uintptr_t)bytes) / page * page;
    if (end <= start) return;
#if defined(__APPLE__)
    madvise((void *)start, end - start, MADV_FREE); /* Darwin only notes MADV_DONTNEED */
#else
    madvise((void *)start, end - start, MADV_DONTNEED);
#endif
}

void *platform_alloc_aligned(size_t bytes) {
    void *p = NULL;
    return posix_memalign(&p, 64, bytes ? bytes : 1) == 0 ? p : NULL;
}

void platform_free_aligned(void *p) { free(p); }
