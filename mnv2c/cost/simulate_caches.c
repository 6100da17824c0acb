/*
 * A plugin for qemu-user: what a program's loads and stores miss in caches. At the end it writes a line for what ran
 * before the first call of the function at MNV2C_MARKER (in hexadecimal), and one for what ran from each call on: the
 * misses of every cache, the L1 first, then what memory read for loads, for stores, and had written back, in lines of 64
 * bytes; to the file named by MNV2C_OUTPUT. MNV2C_CACHES has "bytes,ways,shared" of each cache, the L1 first; one that is
 * not shared is there for each core, and the n-th thread runs on the n-th core.
 *
 * The declarations are those of QEMU's qemu-plugin.h that have stayed the same from version 4.2 on; Debian ships no header.
 * PLUGIN_VERSION is the interface's number, which QEMU compares with its own.
 */
#include <inttypes.h>
#include <pthread.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

typedef uint64_t plugin_id;
typedef uint32_t access_info;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
extern void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id, void (*)(plugin_id, struct qemu_plugin_tb *));
extern void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *, void (*)(unsigned, void *), int flags, void *);
extern void qemu_plugin_register_vcpu_mem_cb(struct qemu_plugin_insn *, void (*)(unsigned, access_info, uint64_t, void *), int flags,
                                             int loads_and_stores, void *);
extern void qemu_plugin_register_atexit_cb(plugin_id, void (*)(plugin_id, void *), void *);
extern size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
extern uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb *);
extern struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
extern unsigned qemu_plugin_mem_size_shift(access_info);
extern _Bool qemu_plugin_mem_is_store(access_info);

#define EXPORTED __attribute__((visibility("default")))
EXPORTED int qemu_plugin_version = PLUGIN_VERSION;

enum { LINE_BITS = 6, PAGE_BITS = 12, LINES_OF_A_PAGE = 1 << (PAGE_BITS - LINE_BITS), CORES = 16, LEVELS = 3 };
enum { LOADS_AND_STORES = 3 }; /* QEMU_PLUGIN_MEM_RW */
enum purpose { READ, FILL, WRITE_BACK, PURPOSES };

struct line {
    uint64_t number, used; /* used 0: nothing is in it */
    int dirty;
};

struct cache {
    struct line *lines;
    uint64_t clock;
};

static struct level {
    uint64_t sets, ways;
    int shared;
    struct cache caches[CORES];
} levels[LEVELS];
static int level_count;

static struct counts {
    uint64_t misses[LEVELS], memory[PURPOSES];
} *parts;
static size_t part; /* the one that runs */

static uint64_t marker;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* around all but the L1s, each of which belongs to one thread */

/* Pages lie anywhere in memory. The few bits of a page's address that choose a set of an L1 are taken as they are: an L1 would
 * otherwise miss more or less by luck. */
static uint64_t in_memory(int depth, uint64_t number)
{
    uint64_t page = (number / LINES_OF_A_PAGE) * 0x9E3779B97F4A7C15u >> 20;
    return depth == 0 ? number : page * LINES_OF_A_PAGE + number % LINES_OF_A_PAGE;
}

/* Where the line is in a cache, or the place whose use lies longest ago. */
static struct line *find(int depth, const struct cache *cache, uint64_t number)
{
    const struct level *level = &levels[depth];
    struct line *set = cache->lines + in_memory(depth, number) % level->sets * level->ways;
    struct line *oldest = set;
    for (struct line *line = set; line < set + level->ways; line++) {
        if (line->used > 0 && line->number == number) return line;
        if (line->used < oldest->used) oldest = line;
    }
    return oldest;
}

/* A line reaches a level, or the memory behind all of them: what it lacks it brings from the next. */
static void reach(int depth, unsigned core, uint64_t number, enum purpose purpose)
{
    if (depth == level_count) {
        parts[part].memory[purpose]++;
        return;
    }
    struct level *level = &levels[depth];
    struct cache *cache = &level->caches[level->shared ? 0 : core];
    struct line *line = find(depth, cache, number);
    if (line->used == 0 || line->number != number) {
        if (depth == 0) pthread_mutex_lock(&lock);
        if (line->dirty) reach(depth + 1, core, line->number, WRITE_BACK);
        if (purpose != WRITE_BACK) {
            parts[part].misses[depth]++;
            reach(depth + 1, core, number, purpose);
        }
        if (depth == 0) pthread_mutex_unlock(&lock);
        *line = (struct line){number, 0, 0};
    }
    line->used = ++cache->clock;
    line->dirty |= purpose == WRITE_BACK || (depth == 0 && purpose == FILL);
}

static void accessed(unsigned cpu, access_info info, uint64_t address, void *unused)
{
    (void)unused;
    uint64_t last = address + (UINT64_C(1) << qemu_plugin_mem_size_shift(info)) - 1;
    enum purpose purpose = qemu_plugin_mem_is_store(info) ? FILL : READ;
    for (uint64_t number = address >> LINE_BITS; number <= last >> LINE_BITS; number++) reach(0, cpu % CORES, number, purpose);
}

static void called(unsigned cpu, void *unused)
{
    (void)cpu;
    (void)unused;
    pthread_mutex_lock(&lock);
    part++;
    parts = realloc(parts, (part + 1) * sizeof *parts);
    if (parts == NULL) abort();
    parts[part] = (struct counts){{0}, {0}};
    pthread_mutex_unlock(&lock);
}

static void translated(plugin_id id, struct qemu_plugin_tb *tb)
{
    (void)id;
    if (qemu_plugin_tb_vaddr(tb) == marker) qemu_plugin_register_vcpu_tb_exec_cb(tb, called, 0, NULL);
    for (size_t i = 0; i < qemu_plugin_tb_n_insns(tb); i++)
        qemu_plugin_register_vcpu_mem_cb(qemu_plugin_tb_get_insn(tb, i), accessed, 0, LOADS_AND_STORES, NULL);
}

static void ended(plugin_id id, void *unused)
{
    (void)id;
    (void)unused;
    const char *path = getenv("MNV2C_OUTPUT");
    FILE *file = path == NULL ? NULL : fopen(path, "w");
    if (file == NULL) abort();
    for (size_t i = 0; i <= part; i++) {
        for (int depth = 0; depth < level_count; depth++) fprintf(file, "%" PRIu64 " ", parts[i].misses[depth]);
        const uint64_t *memory = parts[i].memory;
        fprintf(file, "%" PRIu64 " %" PRIu64 " %" PRIu64 "\n", memory[READ], memory[FILL], memory[WRITE_BACK]);
    }
    if (fclose(file) != 0) abort();
}

/* Reads one "bytes,ways,shared" and makes that level's caches. */
static const char *add_level(const char *text)
{
    uint64_t bytes;
    int read;
    struct level *level = &levels[level_count];
    if (sscanf(text, "%" SCNu64 ",%" SCNu64 ",%d%n", &bytes, &level->ways, &level->shared, &read) != 3) abort();
    level->sets = (bytes >> LINE_BITS) / level->ways;
    for (int core = 0; core < (level->shared ? 1 : CORES); core++) {
        level->caches[core].lines = calloc(level->sets * level->ways, sizeof(struct line));
        if (level->caches[core].lines == NULL) abort();
    }
    level_count++;
    return text + read;
}

EXPORTED int qemu_plugin_install(plugin_id id, const void *info, int count, char **arguments)
{
    (void)info;
    (void)count;
    (void)arguments;
    const char *at = getenv("MNV2C_MARKER"), *text = getenv("MNV2C_CACHES");
    parts = calloc(1, sizeof *parts);
    if (at == NULL || text == NULL || parts == NULL) abort();
    marker = strtoull(at, NULL, 16);
    while (*text != '\0' && level_count < LEVELS) text = add_level(text);
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_atexit_cb(id, ended, NULL);
    return 0;
}
