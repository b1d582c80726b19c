/* platform_windows.c: platform.h for Windows 8.1 and later: slim locks, file mappings, and what a job (container) allows.
 * Paths come in as UTF-8 and are opened as UTF-16, so every name works whatever the system's code page is. */
#define WIN32_LEAN_AND_MEAN
#define NOMINMAX
#ifndef _WIN32_WINNT
#define _WIN32_WINNT 0x0603
#endif

#include "platform.h"

#include <process.h>
#include <windows.h>

#include <malloc.h>
#include <stdlib.h>

#define NS_PER_SECOND 1000000000u
#define NS_PER_MS 1000000u

/* ---- mutexes and conditions ---- */

struct platform_mutex {
    SRWLOCK native;
};

struct platform_cond {
    CONDITION_VARIABLE native;
};

platform_mutex *platform_mutex_create(void) {
    platform_mutex *m = malloc(sizeof *m);
    if (m != NULL) InitializeSRWLock(&m->native);
    return m;
}

void platform_mutex_destroy(platform_mutex *m) { free(m); } /* a slim lock owns nothing of the system */
void platform_lock(platform_mutex *m) { AcquireSRWLockExclusive(&m->native); }
void platform_unlock(platform_mutex *m) { ReleaseSRWLockExclusive(&m->native); }

platform_cond *platform_cond_create(void) {
    platform_cond *c = malloc(sizeof *c);
    if (c != NULL) InitializeConditionVariable(&c->native);
    return c;
}

void platform_cond_destroy(platform_cond *c) { free(c); }

/* Rounded up, so that no wait ends early; INFINITE is the largest DWORD and must not be met by accident. */
static DWORD wait_ms_of(uint64_t ns) {
    if (ns == UINT64_MAX) return INFINITE;
    uint64_t ms = ns / NS_PER_MS + (ns % NS_PER_MS != 0);
    return ms < INFINITE ? (DWORD)ms : INFINITE - 1;
}

bool platform_cond_wait(platform_cond *c, platform_mutex *m, uint64_t timeout_ns) {
    return SleepConditionVariableSRW(&c->native, &m->native, wait_ms_of(timeout_ns), 0) != 0;
}

void platform_cond_signal(platform_cond *c) { WakeConditionVariable(&c->native); }
void platform_cond_broadcast(platform_cond *c) { WakeAllConditionVariable(&c->native); }

/* ---- threads ---- */

#define THREAD_NAME_CAP 16            /* as on POSIX */
#define THREAD_STACK_BYTES (2u << 20) /* address space only: pages are committed when touched */

struct platform_thread {
    HANDLE native;
    void (*run)(void *);
    void *arg;
    wchar_t name[THREAD_NAME_CAP];
};

/* SetThreadDescription came with Windows 10 1607: looked up, so that older systems still load the library. */
static void name_this_thread(const wchar_t *name) {
    typedef HRESULT(WINAPI * set_description)(HANDLE, PCWSTR);
    HMODULE kernel = GetModuleHandleW(L"kernel32.dll");
    FARPROC found = kernel ? GetProcAddress(kernel, "SetThreadDescription") : NULL;
    if (found) ((set_description)(void (*)(void))found)(GetCurrentThread(), name);
}

static unsigned __stdcall thread_main(void *arg) {
    platform_thread *t = arg;
    name_this_thread(t->name);
    t->run(t->arg);
    return 0;
}

platform_thread *platform_thread_start(const char *name, void (*run)(void *), void *arg) {
    platform_thread *t = calloc(1, sizeof *t);
    if (t == NULL) return NULL;
    t->run = run;
    t->arg = arg;
    for (size_t i = 0; i + 1 < THREAD_NAME_CAP && name[i]; i++) t->name[i] = (wchar_t)(unsigned char)name[i];
    /* _beginthreadex and not CreateThread: the C library keeps state for each of its threads. */
    uintptr_t started =
        _beginthreadex(NULL, THREAD_STACK_BYTES, thread_main, t, STACK_SIZE_PARAM_IS_A_RESERVATION, NULL);
    if (started == 0) {
        free(t);
        return NULL;
    }
    t->native = (HANDLE)started;
    return t;
}

void platform_thread_join(platform_thread *t) {
    if (t == NULL) return;
    WaitForSingleObject(t->native, INFINITE);
    CloseHandle(t->native);
    free(t);
}

bool platform_permit_tiles(void) { return false; }
void platform_thread_wake_soon(void) {}

uint32_t platform_arm_features(void) {
#if defined(__aarch64__) || defined(_M_ARM64)
    enum { DOTPROD = 43, I8MM = 66 }; /* PF_ARM_V82_DP_INSTRUCTIONS_AVAILABLE, PF_ARM_V82_I8MM_INSTRUCTIONS_AVAILABLE of newer headers */
    return (IsProcessorFeaturePresent(DOTPROD) ? PLATFORM_ARM_DOTPROD : 0) | (IsProcessorFeaturePresent(I8MM) ? PLATFORM_ARM_I8MM : 0);
#else
    return 0;
#endif
}

void platform_pause(void) { YieldProcessor(); }

uint64_t platform_now_ns(void) {
    LARGE_INTEGER count, per_second; /* neither call fails since Windows XP */
    QueryPerformanceCounter(&count);
    QueryPerformanceFrequency(&per_second);
    uint64_t ticks = (uint64_t)count.QuadPart, rate = (uint64_t)per_second.QuadPart;
    /* In two parts: ticks * 10^9 overflows after half an hour at 10 MHz. */
    return ticks / rate * NS_PER_SECOND + ticks % rate * NS_PER_SECOND / rate;
}

/* ---- processors and memory, under the limits of a job ---- */

static uint64_t smaller(uint64_t a, uint64_t b) { return a < b ? a : b; }

static uint64_t affinity_processors(void) {
    DWORD_PTR process = 0, machine = 0;
    /* Zero masks: the process spans several processor groups, and then its affinity is not restricted. */
    if (!GetProcessAffinityMask(GetCurrentProcess(), &process, &machine) || process == 0) {
        return GetActiveProcessorCount(ALL_PROCESSOR_GROUPS);
    }
    uint64_t count = 0;
    for (; process; process &= process - 1) count++;
    return count;
}

/* A job's hard cap is in hundredths of a percent of all processors; what it leaves is rounded up. */
static uint64_t job_processors(void) {
    JOBOBJECT_CPU_RATE_CONTROL_INFORMATION rate;
    const DWORD hard = JOB_OBJECT_CPU_RATE_CONTROL_ENABLE | JOB_OBJECT_CPU_RATE_CONTROL_HARD_CAP;
    if (!QueryInformationJobObject(NULL, JobObjectCpuRateControlInformation, &rate, sizeof rate, NULL)) return UINT64_MAX;
    if ((rate.ControlFlags & hard) != hard) return UINT64_MAX;
    return ((uint64_t)rate.CpuRate * GetActiveProcessorCount(ALL_PROCESSOR_GROUPS) + 9999) / 10000;
}

uint32_t platform_processor_count(void) {
    uint64_t count = smaller(affinity_processors(), job_processors());
    return count ? (uint32_t)count : 1;
}

static uint64_t job_memory(void) {
    JOBOBJECT_EXTENDED_LIMIT_INFORMATION info;
    uint64_t limit = UINT64_MAX;
    if (!QueryInformationJobObject(NULL, JobObjectExtendedLimitInformation, &info, sizeof info, NULL)) return limit;
    DWORD flags = info.BasicLimitInformation.LimitFlags;
    if (flags & JOB_OBJECT_LIMIT_PROCESS_MEMORY) limit = smaller(limit, info.ProcessMemoryLimit);
    if (flags & JOB_OBJECT_LIMIT_JOB_MEMORY) limit = smaller(limit, info.JobMemoryLimit);
    return limit;
}

uint64_t platform_memory_bytes(void) {
    MEMORYSTATUSEX status = {.dwLength = sizeof status};
    uint64_t physical = GlobalMemoryStatusEx(&status) ? status.ullTotalPhys : UINT64_MAX;
    return smaller(physical, job_memory());
}

/* ---- file mapping ---- */

static realm_status fail_io(realm_error *err, const char *path, DWORD code) {
    bool missing = code == ERROR_FILE_NOT_FOUND || code == ERROR_PATH_NOT_FOUND || code == ERROR_INVALID_NAME ||
                   code == ERROR_BAD_NETPATH || code == ERROR_BAD_PATHNAME || code == ERROR_DIRECTORY;
    const char *why = missing                                 ? "no such file"
                      : code == ERROR_ACCESS_DENIED           ? "permission denied"
                      : code == ERROR_SHARING_VIOLATION       ? "another program is writing it"
                      : code == ERROR_TOO_MANY_OPEN_FILES     ? "too many open files"
                      : code == ERROR_NOT_ENOUGH_MEMORY       ? "not enough address space to map it"
                      : code == ERROR_COMMITMENT_LIMIT        ? "not enough address space to map it"
                                                              : NULL;
    realm_status status = missing ? REALM_E_NOT_FOUND : REALM_E_IO;
    if (why) return base_fail(err, status, "cannot read '%s': %s", path, why);
    return base_fail(err, status, "cannot read '%s': system error %lu", path, (unsigned long)code);
}

/* The path in UTF-16, to be freed; NULL when it is not UTF-8 or memory is out. */
static wchar_t *wide_path(const char *path) {
    int size = MultiByteToWideChar(CP_UTF8, MB_ERR_INVALID_CHARS, path, -1, NULL, 0);
    if (size <= 0) return NULL;
    wchar_t *wide = calloc((size_t)size, sizeof *wide);
    if (wide == NULL) return NULL;
    if (MultiByteToWideChar(CP_UTF8, MB_ERR_INVALID_CHARS, path, -1, wide, size) == size) return wide;
    free(wide);
    return NULL;
}

static realm_status map_handle(HANDLE file, const char *path, platform_mapping *out, realm_error *err) {
    LARGE_INTEGER size;
    if (GetFileType(file) != FILE_TYPE_DISK) {
        return base_fail(err, REALM_E_IO, "cannot map '%s': not a regular file", path);
    }
    if (!GetFileSizeEx(file, &size)) return fail_io(err, path, GetLastError());
    if (size.QuadPart == 0) { /* an empty file cannot be mapped; it is the parser's to refuse */
        *out = (platform_mapping){.data = (const uint8_t *)"", .size = 0};
        return REALM_OK;
    }
    if ((uint64_t)size.QuadPart > SIZE_MAX) return fail_io(err, path, ERROR_NOT_ENOUGH_MEMORY);
    HANDLE mapping = CreateFileMappingW(file, NULL, PAGE_READONLY, 0, 0, NULL);
    if (mapping == NULL) return fail_io(err, path, GetLastError());
    const void *data = MapViewOfFile(mapping, FILE_MAP_READ, 0, 0, 0);
    if (data == NULL) {
        DWORD code = GetLastError();
        CloseHandle(mapping);
        return fail_io(err, path, code);
    }
    *out = (platform_mapping){.data = data, .size = (uint64_t)size.QuadPart, .handle = mapping};
    return REALM_OK;
}

realm_status platform_map_file(const char *path, platform_mapping *out, realm_error *err) {
    *out = (platform_mapping){0};
    wchar_t *wide = wide_path(path);
    if (wide == NULL) return fail_io(err, path, ERROR_INVALID_NAME);
    DWORD attributes = GetFileAttributesW(wide);
    if (attributes != INVALID_FILE_ATTRIBUTES && (attributes & FILE_ATTRIBUTE_DIRECTORY)) {
        free(wide);
        return base_fail(err, REALM_E_IO, "cannot read '%s': is a folder, not a file", path);
    }
    /* No sharing with writers: what is mapped must not change below the model. */
    HANDLE file = CreateFileW(wide, GENERIC_READ, FILE_SHARE_READ | FILE_SHARE_DELETE, NULL, OPEN_EXISTING,
                              FILE_ATTRIBUTE_NORMAL, NULL);
    DWORD code = GetLastError();
    free(wide);
    if (file == INVALID_HANDLE_VALUE) return fail_io(err, path, code);
    realm_status status = map_handle(file, path, out, err);
    CloseHandle(file); /* the mapping keeps the file */
    return status;
}

void platform_unmap(platform_mapping *map) {
    if (map->size > 0) {
        UnmapViewOfFile(map->data);
        CloseHandle(map->handle);
    }
    *map = (platform_mapping){0};
}

void platform_prefetch(const platform_mapping *map, uint64_t offset, uint64_t size) {
    if (offset >= map->size) return;
    if (size > map->size - offset) size = map->size - offset;
    WIN32_MEMORY_RANGE_ENTRY range = {(void *)((uintptr_t)map->data + (uintptr_t)offset), (SIZE_T)size};
    PrefetchVirtualMemory(GetCurrentProcess(), 1, &range, 0);
}

void platform_read_often(platform_mapping *map, uint64_t offset, uint64_t size) {
    (void)map;
    (void)offset;
    (void)size;
}

/* ---- memory ---- */

void *platform_alloc_pages(uint64_t bytes) {
    if (bytes == 0 || bytes > SIZE_MAX) return NULL;
    return VirtualAlloc(NULL, (SIZE_T)bytes, MEM_RESERVE | MEM_COMMIT, PAGE_READWRITE);
}

void platform_free_pages(void *p, uint64_t bytes) {
    (void)bytes;
    if (p != NULL) VirtualFree(p, 0, MEM_RELEASE);
}

void platform_trim_pages(void *p, uint64_t bytes) {
    if (bytes > 0) VirtualAlloc(p, (SIZE_T)bytes, MEM_RESET, PAGE_READWRITE); /* need not be written to the page file */
}

void *platform_alloc_aligned(size_t bytes) { return _aligned_malloc(bytes ? bytes : 1, 64); }
void platform_free_aligned(void *p) { _aligned_free(p); }
