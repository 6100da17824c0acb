/*
 * A plugin for qemu-user: how often each translated block ran. At the end it writes a line per block, "address
 * instructions count" (the address in hexadecimal), to the file named by MNV2C_OUTPUT.
 *
 * The declarations are those of QEMU's qemu-plugin.h that have stayed the same from version 4.2 on; Debian ships no header.
 * PLUGIN_VERSION is the interface's number, which QEMU compares with its own.
 */
#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

typedef uint64_t plugin_id;
struct qemu_plugin_tb;
extern void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id, void (*)(plugin_id, struct qemu_plugin_tb *));
extern void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *, void (*)(unsigned, void *), int flags, void *);
extern void qemu_plugin_register_atexit_cb(plugin_id, void (*)(plugin_id, void *), void *);
extern size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
extern uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb *);

#define EXPORTED __attribute__((visibility("default")))
EXPORTED int qemu_plugin_version = PLUGIN_VERSION;

/* One per translation: QEMU may translate a block again, so an address can occur more than once. */
struct block {
    uint64_t address, instructions, count;
    struct block *next;
};
static struct block *blocks;

static void executed(unsigned cpu, void *block)
{
    (void)cpu;
    ((struct block *)block)->count++;
}

static void translated(plugin_id id, struct qemu_plugin_tb *tb)
{
    (void)id;
    struct block *block = malloc(sizeof *block);
    if (block == NULL) abort();
    *block = (struct block){qemu_plugin_tb_vaddr(tb), qemu_plugin_tb_n_insns(tb), 0, blocks};
    blocks = block;
    qemu_plugin_register_vcpu_tb_exec_cb(tb, executed, 0, block);
}

static void ended(plugin_id id, void *unused)
{
    (void)id;
    (void)unused;
    const char *path = getenv("MNV2C_OUTPUT");
    FILE *file = path == NULL ? NULL : fopen(path, "w");
    if (file == NULL) abort();
    for (const struct block *b = blocks; b != NULL; b = b->next)
        if (b->count > 0) fprintf(file, "%" PRIx64 " %" PRIu64 " %" PRIu64 "\n", b->address, b->instructions, b->count);
    if (fclose(file) != 0) abort();
}

EXPORTED int qemu_plugin_install(plugin_id id, const void *info, int count, char **arguments)
{
    (void)info;
    (void)count;
    (void)arguments;
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_atexit_cb(id, ended, NULL);
    return 0;
}
