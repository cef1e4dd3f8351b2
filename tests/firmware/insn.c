/* A QEMU plugin that counts the instructions executed between two calls of a function (rt_mark):

       cc -O2 -shared -fPIC insn.c -o insn.so
       qemu-system-arm -plugin ./insn.so,mark=0xADDRESS -d plugin -D counts.txt ...

   One line of counts.txt per call: the instructions since the call before. They are instructions,
   not cycles. QEMU's header is rarely installed, so the few declarations needed stand here; block
   callbacks are the part of the interface that all its versions share. */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifndef INSN_API
#define INSN_API 1 /* QEMU 7 and 8; tools/size.py tries the later ones */
#endif

typedef uint64_t plugin_id;
struct plugin_tb; /* a block of translated instructions */
typedef void plugin_translate_fn(plugin_id id, struct plugin_tb *tb);
typedef void plugin_execute_fn(unsigned cpu, void *data);

void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id id, plugin_translate_fn *cb);
void qemu_plugin_register_vcpu_tb_exec_cb(struct plugin_tb *tb, plugin_execute_fn *cb, int flags,
                                          void *data);
size_t qemu_plugin_tb_n_insns(const struct plugin_tb *tb);
uint64_t qemu_plugin_tb_vaddr(const struct plugin_tb *tb);
void qemu_plugin_outs(const char *text);

int qemu_plugin_install(plugin_id id, const void *info, int argc, char **argv);
int qemu_plugin_version = INSN_API;

static uint64_t mark_address, executed;

static void on_mark(unsigned cpu, void *data)
{
    char line[32];
    (void)cpu;
    (void)data;
    snprintf(line, sizeof(line), "%llu\n", (unsigned long long)executed);
    qemu_plugin_outs(line);
    executed = 0;
}

static void on_block(unsigned cpu, void *data)
{
    (void)cpu;
    executed += (uintptr_t)data;
}

static void on_translation(plugin_id id, struct plugin_tb *tb)
{
    (void)id;
    if (qemu_plugin_tb_vaddr(tb) == mark_address)
        qemu_plugin_register_vcpu_tb_exec_cb(tb, on_mark, 0, NULL);
    qemu_plugin_register_vcpu_tb_exec_cb(tb, on_block, 0,
                                         (void *)(uintptr_t)qemu_plugin_tb_n_insns(tb));
}

int qemu_plugin_install(plugin_id id, const void *info, int argc, char **argv)
{
    int i;
    (void)info;
    for (i = 0; i < argc; i++)
        if (strncmp(argv[i], "mark=", 5) == 0)
            mark_address = strtoull(argv[i] + 5, NULL, 0) & ~1ull; /* without the Thumb bit */
    qemu_plugin_register_vcpu_tb_trans_cb(id, on_translation);
    return 0;
}
