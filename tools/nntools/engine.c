/* engine.c - nn.h as a shared library for engine.py

   One engine is one model, its options and its last error sentence. Calls that can fail return 0 or
   an error of nn.h; what went wrong is then engine_why. engine.py calls in this order: engine_new,
   engine_option and engine_train_what as wanted, engine_load or engine_build, the rest, and at last
   engine_free. */

#define NN_IMPLEMENTATION
#include "../../nn.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef _WIN32
#define EXPORT __declspec(dllexport)
#else
#define EXPORT
#endif

typedef struct engine {
    nn_model m;
    nn_opts o;
    char why[512], *train;
} engine;

enum { WHOLE, WIDE, SEED, REAL };

typedef struct option {
    const char *name;
    size_t offset;
    int kind;
} option;

#define OPTION(name, kind) { #name, offsetof(nn_opts, name), kind }

static const option options[] = {
    OPTION(batch, WHOLE), OPTION(budget, WIDE), OPTION(loss, WHOLE), OPTION(optimizer, WHOLE),
    OPTION(lr, REAL), OPTION(momentum, REAL), OPTION(beta1, REAL), OPTION(beta2, REAL),
    OPTION(eps, REAL), OPTION(eps_mode, WHOLE), OPTION(weight_decay, REAL), OPTION(seed, SEED),
    OPTION(init, WHOLE), OPTION(fuse_update, WHOLE), OPTION(input_grad, WHOLE),
    OPTION(steps, WHOLE), OPTION(stateful, WHOLE), OPTION(in_place, WHOLE), OPTION(resume, WHOLE)
};

EXPORT void engine_free(engine *e);
EXPORT engine *engine_new(void);
EXPORT const char *engine_why(const engine *e);
EXPORT int engine_option(engine *e, const char *name, double value);
EXPORT int engine_train_what(engine *e, const char *patterns);
EXPORT int engine_load(engine *e, const void *image, size_t size);
EXPORT int engine_build(engine *e, const char *rows);
EXPORT int64_t engine_memory(engine *e, const void *image, size_t size);
EXPORT int engine_infer(engine *e, const char *row, const void *x, float *y, int n);
EXPORT int engine_train(engine *e, const void *x, const void *target, int n, float *loss);
EXPORT int engine_eval(engine *e, const void *x, const void *target, int n, float *loss);
EXPORT int engine_lengths(engine *e, const int32_t *lengths);
EXPORT int engine_get(engine *e, const char *name, float *out, size_t count);
EXPORT int engine_set(engine *e, const char *name, const float *values, size_t count);
EXPORT int64_t engine_save(engine *e, int with_training, void *out, size_t size);
EXPORT int64_t engine_rows(const engine *e, char *out, size_t size);
EXPORT int64_t engine_fact(const engine *e, const char *what);
EXPORT uint64_t engine_digest(const engine *e);
EXPORT int engine_row(const engine *e, uint32_t i, int32_t *shape);
EXPORT int engine_tensor(const engine *e, uint32_t i, char *name, size_t size, int32_t *shape);
EXPORT int engine_panels(const engine *e, const char *name, const float *in, float *out);
EXPORT int64_t engine_plan(engine *e, const char *prefix, int panels, char *out, size_t size);

EXPORT engine *engine_new(void) {
    engine *e = (engine *)calloc(1, sizeof *e);

    if (!e) return NULL;
    e->o.why = e->why;
    e->o.why_size = sizeof e->why;
    return e;
}

EXPORT void engine_free(engine *e) {
    if (!e) return;
    nn_free(&e->m);
    free(e->train);
    free(e);
}

EXPORT const char *engine_why(const engine *e) { return e->why; }

/* Sets a number of nn_opts by its name. */
EXPORT int engine_option(engine *e, const char *name, double value) {
    size_t i;

    for (i = 0; i < sizeof options / sizeof *options; i++) {
        char *to = (char *)&e->o + options[i].offset;
        int32_t whole = (int32_t)value;
        int64_t wide = (int64_t)value;
        uint64_t seed = (uint64_t)value;
        float real = (float)value;

        if (strcmp(options[i].name, name)) continue;
        switch (options[i].kind) {
        case WHOLE: memcpy(to, &whole, sizeof whole); break;
        case WIDE: memcpy(to, &wide, sizeof wide); break;
        case SEED: memcpy(to, &seed, sizeof seed); break;
        case REAL: memcpy(to, &real, sizeof real); break;
        }
        return 0;
    }
    snprintf(e->why, sizeof e->why, "no option is called %.100s", name);
    return NN_ERR_OPTION;
}

EXPORT int engine_train_what(engine *e, const char *patterns) {
    size_t n = strlen(patterns) + 1;

    free(e->train);
    e->o.train = e->train = (char *)malloc(n);
    if (!e->train) return NN_ERR_MEMORY;
    memcpy(e->train, patterns, n);
    return 0;
}

/* With in_place the image must stay until engine_free. */
EXPORT int engine_load(engine *e, const void *image, size_t size) {
    return nn_load(&e->m, image, size, &e->o);
}

EXPORT int engine_build(engine *e, const char *rows) {
    return nn_build_text(&e->m, rows, &e->o);
}

EXPORT int64_t engine_memory(engine *e, const void *image, size_t size) {
    return nn_memory_file(image, size, &e->o);
}

/* Outputs of the row, or of the last when row is NULL. */
EXPORT int engine_infer(engine *e, const char *row, const void *x, float *y, int n) {
    return row ? nn_infer_to(&e->m, row, x, y, n) : nn_infer(&e->m, x, y, n);
}

EXPORT int engine_train(engine *e, const void *x, const void *target, int n, float *loss) {
    int err = nn_train(&e->m, x, target, n);

    *loss = e->m.loss;
    return err;
}

EXPORT int engine_eval(engine *e, const void *x, const void *target, int n, float *loss) {
    int err = nn_eval(&e->m, x, target, n);

    *loss = e->m.loss;
    return err;
}

EXPORT int engine_lengths(engine *e, const int32_t *lengths) {
    return nn_set_lengths(&e->m, lengths);
}

EXPORT int engine_get(engine *e, const char *name, float *out, size_t count) {
    return nn_get(&e->m, name, out, count);
}

EXPORT int engine_set(engine *e, const char *name, const float *values, size_t count) {
    return nn_set(&e->m, name, values, count);
}

/* Bytes of the file; out NULL: only counts them. */
EXPORT int64_t engine_save(engine *e, int with_training, void *out, size_t size) {
    nn_memory_writer to;

    to.bytes = out;
    to.capacity = size;
    to.size = 0;
    return nn_save(&e->m, with_training, out ? nn_write_memory : NULL, &to);
}

/* The rows as a file stores them: length of the text, as nn_rows_text. */
EXPORT int64_t engine_rows(const engine *e, char *out, size_t size) {
    return nn_rows_text(e->m.rows, out, size);
}

EXPORT int64_t engine_fact(const engine *e, const char *what) {
    if (!strcmp(what, "block")) return (int64_t)e->m.block_size;
    if (!strcmp(what, "rows")) return e->m.row_count;
    if (!strcmp(what, "tensors")) return e->m.tensor_count;
    if (!strcmp(what, "input")) return e->m.in_size;
    if (!strcmp(what, "output")) return e->m.out_size;
    if (!strcmp(what, "type")) return e->m.rows[0].type;
    if (!strcmp(what, "loss")) return e->m.opts.loss;
    if (!strcmp(what, "correct")) return e->m.correct;
    if (!strcmp(what, "steps")) return (int64_t)e->m.step;
    return -1;
}

EXPORT uint64_t engine_digest(const engine *e) { return nn_digest(&e->m); }

/* Output shape of row i, and how many dimensions it has. */
EXPORT int engine_row(const engine *e, uint32_t i, int32_t *shape) {
    const nn_row *r = &e->m.row[i];
    int d;

    for (d = 0; d < r->ndim; d++) shape[d] = r->dim[3 - r->ndim + d];
    return r->ndim;
}

/* Name and shape of tensor i, and how many dimensions it has; 0: it is another one, shared. */
EXPORT int engine_tensor(const engine *e, uint32_t i, char *name, size_t size, int32_t *shape) {
    const nn_tensor *t = &e->m.tensor[i];
    nn__text out = nn__text_to(name, size - 1);
    int d;

    nn__put_tensor_name(&out, &e->m, i);
    name[out.len < size ? out.len : size - 1] = 0;
    for (d = 0; d < t->ndim; d++) shape[d] = t->dim[d];
    return t->alias == i ? t->ndim : 0;
}

/* ---- the plan as C ----
   Made of a model whose weights lie outside of the block, so that what is left there in front are
   the tables: offsets are counted from behind those. */

typedef struct printer {
    char *out;
    size_t size, length;
} printer;

static void print(printer *p, const char *format, ...) {
    va_list list;
    size_t room = p->length < p->size ? p->size - p->length : 0;

    va_start(list, format);
    p->length += (size_t)vsnprintf(room ? p->out + p->length : NULL, room, format, list);
    va_end(list);
}

static unsigned long moved(uint32_t at, uint32_t by) { return at < NN_AT_INPUT ? at - by : at; }

static void print_rows(printer *p, const nn_model *m, const char *prefix) {
    uint32_t i;

    print(p, "static const nn_row %s_row[] = {\n", prefix);
    for (i = 0; i < m->row_count; i++) {
        const nn_row *r = &m->row[i];

        print(p, "    { { %d, %d, %d }, %u, %u, %u, %u, %u, %u, %u, %u, %u, %u },\n",
              (int)r->dim[0], (int)r->dim[1], (int)r->dim[2], r->ndim, r->act, r->inputs,
              r->tensors, r->input, r->tensor, r->act_row, r->fused, r->masked, r->flags);
    }
    print(p, "};\n\nstatic const uint16_t %s_input[] = {", prefix);
    for (i = 0; i < m->input_count; i++)
        print(p, "%s%u", !i ? " " : i % 16 ? ", " : ",\n    ", m->input[i]);
    print(p, "%s };\n\n", i ? "" : " 0");
}

static void print_tensors(printer *p, const nn_model *m, const char *prefix, uint32_t low) {
    uint32_t i;

    print(p, "static %snn_tensor %s_tensor[] = {\n", m->grad_count ? "" : "const ", prefix);
    for (i = 0; i < m->tensor_count; i++) {
        const nn_tensor *t = &m->tensor[i];

        print(p, "    { %luu, %luu, %luu, %luu, { %d, %d, %d, %d }, %u, %u, %u, %u, %u, %u },\n",
              moved(t->offset, t->flags & NN__IMAGE ? 0 : low), moved(t->grad, low),
              moved(t->state, low), (unsigned long)t->count, (int)t->dim[0], (int)t->dim[1],
              (int)t->dim[2], (int)t->dim[3], t->row, t->alias, t->ndim, t->suffix, t->layout,
              t->flags);
    }
    print(p, "%s};\n\n", i ? "" : "    { 0 }\n");
}

static void print_commands(printer *p, nn_model *m, const char *prefix, uint32_t low) {
    uint32_t count = m->infer_count + m->forward_count + m->backward_count + m->update_count, i;

    print(p, "static const nn_cmd %s_cmd[] = {\n", prefix);
    for (i = 0; i < count; i++) {
        nn_cmd c = m->cmd[i];
        uint32_t *field[7];
        int k, n = nn__cmd_buffers(m, &c, field);

        for (k = 0; k < n; k++) *field[k] -= low;
        print(p, "    { %u, %u, %u, %luu, %luu, %luu, %luu, %luu, %luu, %luu },\n", c.what, c.flags,
              c.row, (unsigned long)c.x, (unsigned long)c.y, (unsigned long)c.dx,
              (unsigned long)c.dy, (unsigned long)c.keep, (unsigned long)c.tmp,
              (unsigned long)c.x2);
    }
    print(p, "%s};\n\n", i ? "" : "    { 0 }\n");
}

/* A float that C and C++ of any standard read to the same bits. */
static void print_real(printer *p, const char *name, float value) {
    if (value != 0) print(p, "      .%s = %.9gf,\n", name, (double)value);
}

static void print_options(printer *p, const nn_opts *o) {
    print(p, "    { .batch = %ld, .loss = %ld, .optimizer = %ld, .eps_mode = %ld,\n",
          (long)o->batch, (long)o->loss, (long)o->optimizer, (long)o->eps_mode);
    print_real(p, "lr", o->lr);
    print_real(p, "momentum", o->momentum);
    print_real(p, "beta1", o->beta1);
    print_real(p, "beta2", o->beta2);
    print_real(p, "eps", o->eps);
    print_real(p, "weight_decay", o->weight_decay);
    print(p, "      .seed = %luu", (unsigned long)(o->seed & 0xffffffffu));
    if (o->seed >> 32) print(p, " | (uint64_t)%luu << 32", (unsigned long)(o->seed >> 32));
    print(p, ", .fuse_update = %ld, .input_grad = %ld, .steps = %ld, .stateful = %ld",
          (long)o->fuse_update, (long)o->input_grad, (long)o->steps, (long)o->stateful);
    if (o->train) print(p, ",\n      .train = \"%s\"", o->train);
    print(p, " },\n");
}

/* Does anything of the block need values before the first call? */
static int needs_init(const nn_model *m) {
    uint32_t i;

    for (i = 0; i < m->tensor_count; i++)
        if (!(m->tensor[i].flags & NN__IMAGE)) return 1;
    return m->forward_count != 0;
}

static void print_plan(printer *p, const nn_model *m, const char *prefix, uint32_t low) {
    print(p, "static const nn_plan %s_plan = {\n", prefix);
    print(p, "    %s_rows, %s_row, %s_input, %s_tensor, %s_cmd, %s_weights, %s,\n", prefix, prefix,
          prefix, prefix, prefix, prefix, needs_init(m) ? "nn_plan_init" : "NULL");
    print_options(p, &m->opts);
    print(p, "    %s_MEMORY, %lu, %lu, %lu, %lu, %lu, %lu, %lu,\n", prefix,
          (unsigned long)m->row_count, (unsigned long)m->input_count,
          (unsigned long)m->tensor_count, (unsigned long)m->infer_count,
          (unsigned long)m->forward_count, (unsigned long)m->backward_count,
          (unsigned long)m->update_count);
    print(p, "    %luu, %luu, %luu, %luu, %luu, %luu, %luu,\n", moved(m->grad_offset, low),
          (unsigned long)m->grad_count, moved(m->state_offset, low), (unsigned long)m->state_count,
          m->moves_end ? moved(m->moves_end, low) : 0, moved(m->loss_offset, low),
          moved(m->carry_offset, low));
    print(p, "    %ld, %ld, %ld, %ld, %ld\n};\n", (long)m->carry_size, (long)m->micro,
          (long)m->tight, (long)m->in_size, (long)m->out_size);
}

/* The values of a tensor as a plan with panels wants them: as the kernels read them, unless they
   are copied to RAM first. */
EXPORT int engine_panels(const engine *e, const char *name, const float *in, float *out) {
    int32_t k = nn__find_tensor(&e->m, name, strlen(name));
    const nn_tensor *t = &e->m.tensor[k];
    uint32_t i;

    if (k < 0) return NN_ERR_NAME;
    for (i = 0; i < t->count; i++)
        out[t->flags & NN__MOVES ? i : nn__place(t, e->m.rows[t->row].groups, i)] = in[i];
    return 0;
}

/* The plan of the engine's rows and options as C text: tables called PREFIX_row and so on, which
   name PREFIX_rows and PREFIX_weights. panels: the weights lie as engine_panels gives them, else in
   PyTorch's order. Returns its length, or an error. */
EXPORT int64_t engine_plan(engine *e, const char *prefix, int panels, char *out, size_t size) {
    printer p = { NULL, 0, 0 };
    nn_opts o = e->o;
    nn_model m;
    uint32_t low, i;
    int err;

    for (o.weights_size = 0, i = 0; i < e->m.tensor_count; i++)
        if (e->m.tensor[i].alias == i) o.weights_size += 4 * (size_t)e->m.tensor[i].count;
    o.weights = calloc(o.weights_size + 1, 1); /* their values do not matter to a plan */
    o.in_place = 1;
    o.resume = 0;
    err = o.weights ? nn_build(&m, e->m.rows, &o) : NN_ERR_MEMORY;
    for (i = 0; !err && panels && i < m.tensor_count; i++)
        if (m.tensor[i].flags & NN__IMAGE) m.tensor[i].layout = e->m.tensor[i].layout;
    if (!err) {
        p.out = out;
        p.size = size;
        low = (uint32_t)(nn__tables_size(&m, m.infer_count + m.forward_count + m.backward_count +
                                                 m.update_count) & ~(int64_t)(NN_ALIGNMENT - 1));
        print(&p, "#define %s_MEMORY %lu /* bytes of the block for nn_open */\n\n", prefix,
              (unsigned long)(m.block_size - low));
        print_rows(&p, &m, prefix);
        print_tensors(&p, &m, prefix, low);
        print_commands(&p, &m, prefix, low);
        print_plan(&p, &m, prefix, low);
        nn_free(&m);
    }
    free((void *)(uintptr_t)o.weights);
    return err ? err : (int64_t)p.length;
}
