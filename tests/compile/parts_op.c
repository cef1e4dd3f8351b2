/* parts_op.c - an op in a file of its own: y = -x */

#include "nn.h"

#include "parts.h"

static int negate_shape(nn_shape *s) {
    int k;
    for (k = 0; k < 3; k++) s->out->dim[k] = s->in[0]->dim[k];
    s->out->ndim = s->in[0]->ndim;
    return 0;
}

static void negate_plan(const nn_model *m, uint32_t row, nn_need *need) {
    (void)m, (void)row, (void)need;
}

static void negate_forward(nn_model *m, const nn_cmd *c) {
    int i, n = m->run.n * m->row[c->row].dim[2];
    for (i = 0; i < n; i++) nn_at(m, c->y)[i] = -nn_at(m, c->x)[i];
}

static void negate_backward(nn_model *m, const nn_cmd *c) {
    int i, n = m->run.n * m->row[c->row].dim[2];
    for (i = 0; i < n; i++) nn_at(m, c->dx)[i] = -nn_at(m, c->dy)[i];
}

const nn_op op_negate = { .name = "negate", .stem = "negate", .suffixes = "", .inputs_min = 1,
                          .inputs_max = 1, .shape = negate_shape, .plan = negate_plan,
                          .forward = negate_forward, .backward = negate_backward };
