/* Writes what a probe keeps in flash to standard output:
       make_model w1 > w1.nn           the file of a model with seeded initial weights
       make_model w1 plan > w1_plan.h  its plan for inference as C, with weights used in place and
                                       offsets from the start of the buffers */
#define NN_IMPLEMENTATION
#include "../../nn.h"

#include "models.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int to_stdout(void *user, const void *bytes, size_t size)
{
    (void)user;
    return fwrite(bytes, 1, size, stdout) != size;
}

static void put_tables(const nn_model *m)
{
    uint32_t i;
    printf("static const nn_row plan_row[] = {\n");
    for (i = 0; i < m->row_count; i++) {
        const nn_row *r = &m->row[i];
        printf("    { { %d, %d, %d }, %u, %u, %u, %u, %u, %u, %u, %u, %luu },\n", (int)r->dim[0],
               (int)r->dim[1], (int)r->dim[2], r->ndim, r->act, r->inputs, r->tensors, r->input,
               r->tensor, r->act_row, r->fused, (unsigned long)r->flags);
    }
    printf("};\nstatic const nn_tensor plan_tensor[] = {\n");
    for (i = 0; i < m->tensor_count; i++) {
        const nn_tensor *t = &m->tensor[i];
        printf("    { %lu, %luu, %luu, %lu, { %d, %d, %d, %d }, %u, %u, %u, %u, %u, %u },\n",
               (unsigned long)t->offset, (unsigned long)t->grad, (unsigned long)t->state,
               (unsigned long)t->count, (int)t->dim[0], (int)t->dim[1], (int)t->dim[2],
               (int)t->dim[3], t->row, t->alias, t->ndim, t->suffix, t->layout, t->flags);
    }
    printf("};\nstatic const uint16_t plan_input[] = {");
    for (i = 0; i < m->input_count; i++) printf(" %u,", m->input[i]);
    printf(" };\n");
}

static uint32_t lowest(uint32_t low, uint32_t at)
{
    return at < low ? at : low;
}

static unsigned long moved(uint32_t at, uint32_t by)
{
    return at < NN_AT_INPUT ? at - by : at;
}

static void put_plan(const nn_model *m)
{
    uint32_t i, low = NN_AT_INPUT;
    for (i = 0; i < m->infer_count; i++)
        low = lowest(lowest(lowest(low, m->cmd[i].x), m->cmd[i].y), m->cmd[i].tmp);
    printf("/* Written by make_model.c. */\n");
    put_tables(m);
    printf("static const nn_cmd plan_cmd[] = {\n");
    for (i = 0; i < m->infer_count; i++) {
        const nn_cmd *c = &m->cmd[i];
        printf("    { %u, %u, %u, %luu, %luu, %luu, %luu, %luu, %luu, %luu },\n", c->what,
               c->flags, c->row, moved(c->x, low), moved(c->y, low), moved(c->dx, low),
               moved(c->dy, low), moved(c->keep, low), moved(c->tmp, low), moved(c->x2, low));
    }
    printf("};\n#define PLAN_BYTES %lu\n", (unsigned long)(m->block_size - low));
    printf("static void plan_model(nn_model *m)\n{\n"
           "    m->row = (nn_row *)(uintptr_t)plan_row;\n"
           "    m->input = (uint16_t *)(uintptr_t)plan_input;\n"
           "    m->tensor = (nn_tensor *)(uintptr_t)plan_tensor;\n"
           "    m->cmd = (nn_cmd *)(uintptr_t)plan_cmd;\n"
           "    m->row_count = %lu;\n    m->input_count = %lu;\n    m->tensor_count = %lu;\n"
           "    m->infer_count = %lu;\n    m->micro = %d;\n    m->in_size = %d;\n"
           "    m->out_size = %d;\n}\n",
           (unsigned long)m->row_count, (unsigned long)m->input_count,
           (unsigned long)m->tensor_count, (unsigned long)m->infer_count, (int)m->micro,
           (int)m->in_size, (int)m->out_size);
}

int main(int argc, char **argv)
{
    const nn_layer *rows;
    nn_model m;
    nn_opts o = { 0 };
    char why[256] = "";
    void *weights;
    int failed = argc < 2 || argc > 3;
    if (failed) return 2;
    rows = strcmp(argv[1], "w1") == 0 ? w1_rows : w3_rows;
    o.seed = 1;
    o.why = why;
    o.why_size = sizeof(why);
    failed = nn_build(&m, rows, &o) != 0;
    if (argc == 2) {
        failed = failed || nn_save(&m, 0, to_stdout, NULL) < 0;
    } else if (!failed) {
        uint32_t i;
        for (i = 0; i < m.tensor_count; i++) o.weights_size += 4 * (size_t)m.tensor[i].count;
        nn_free(&m);
        o.weights = weights = calloc(o.weights_size, 1);
        o.in_place = 1;
        failed = !weights || nn_build(&m, rows, &o) != 0;
        if (!failed) put_plan(&m);
        free(weights);
    }
    if (failed) fprintf(stderr, "%s\n", why);
    nn_free(&m);
    return failed || fflush(stdout) != 0;
}
