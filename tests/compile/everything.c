/* everything.c - every public function of nn.h, in any dialect of C and C++

   ../compile.sh builds and runs this file with each compiler, standard and configuration macro.
   What the functions compute is for other tests; here two ways to the same result must give the
   same bytes, and nothing may fail. Without designated initialisers, which C++11 lacks. */

#define NN_IMPLEMENTATION
#include "nn.h"

#include <stdio.h>
#include <string.h>

enum { SAMPLES = 8, INPUTS = 3, HIDDEN = 20, OUTPUTS = 2 };

static int failures;

static void check(int ok, const char *what, int line) {
    if (ok) return;
    failures++;
    printf("everything.c:%d: %s\n", line, what);
}

#define CHECK(condition) check((condition) ? 1 : 0, #condition, __LINE__)

/* ---- an op of one's own: y = 2 x ---- */

static int twice_shape(nn_shape *s) {
    int k;
    for (k = 0; k < 3; k++) s->out->dim[k] = s->in[0]->dim[k];
    s->out->ndim = s->in[0]->ndim;
    return s->in[0]->dim[2] > HIDDEN ? nn_row_error(s, "too wide to double") : 0;
}

static void twice_plan(const nn_model *m, uint32_t row, nn_need *need) {
    (void)m, (void)row;
    need->flags |= NN_IN_PLACE | NN_IN_PLACE_BACK;
}

static void twice_apply(nn_model *m, const nn_cmd *c, uint32_t to, uint32_t from) {
    const nn_row *r = &m->row[c->row];
    int i, n = m->run.n * r->dim[0] * r->dim[1] * r->dim[2];
    for (i = 0; i < n; i++) nn_at(m, to)[i] = nn_at(m, from)[i] * 2.0f;
}

static void twice_forward(nn_model *m, const nn_cmd *c) { twice_apply(m, c, c->y, c->x); }

static void twice_backward(nn_model *m, const nn_cmd *c) { twice_apply(m, c, c->dx, c->dy); }

static const nn_op twice = { "twice", "twice", "", 0, 1, 1, 0, 0, 0, twice_shape,
                             twice_plan, twice_forward, twice_backward, NULL };

/* ---- what all parts use ---- */

static const char text[] = "input x - shape=3; dense a x units=20; activation b a act=leaky_relu;"
                           "dense head b units=2";

static nn_layer net[6];
static float x[SAMPLES][INPUTS], y[SAMPLES][OUTPUTS];
static float out[SAMPLES][OUTPUTS], again[SAMPLES][OUTPUTS];
static float features[SAMPLES][HIDDEN];
static char why[200];

static void make_net_and_data(void) {
    int i, j;
    net[0].op = NN_INPUT;
    net[0].shape[0] = INPUTS;
    net[1].op = NN_DENSE;
    net[1].name = "a";
    net[1].units = HIDDEN;
    net[1].act = NN_TANH;
    net[2].op = &twice;
    net[3].op = NN_DENSE;
    net[3].name = "head";
    net[3].units = OUTPUTS;
    for (i = 0; i < SAMPLES; i++) {
        for (j = 0; j < INPUTS; j++) x[i][j] = (float)((i * 5 + j * 3) % 7 - 3) / 4.0f;
        for (j = 0; j < OUTPUTS; j++) y[i][j] = x[i][j] - x[i][j + 1];
    }
}

/* slot: which of the models that live at the same time. */
static nn_opts options(const char *train, int slot) {
    nn_opts o;
    memset(&o, 0, sizeof o);
    o.batch = SAMPLES;
    o.loss = NN_MSE;
    o.train = train;
    o.lr = 0.125f;
    o.momentum = 0.5f;
    o.seed = 7;
    o.why = why;
    o.why_size = sizeof why;
#ifdef NN_NO_MALLOC
    {
        NN_ALIGN static unsigned char block[2][1 << 16];
        o.memory = block[slot];
        o.memory_size = sizeof block[slot];
    }
#else
    (void)slot;
#endif
    return o;
}

static int count_bytes(void *user, const void *bytes, size_t size) {
    (void)bytes;
    *(size_t *)user += size;
    return 0;
}

static void count_names(void *user, const char *name) { *(int *)user += name[0] == '-'; }

static int same(const void *a, const void *b, size_t size) { return memcmp(a, b, size) == 0; }

/* ---- building, inference, tensors ---- */

#ifndef NN_NO_STRINGS
static void sentences(const nn_model *m) {
    nn_opts o = options("nobody", 1);
    size_t printed = 0;
    CHECK(nn_print(m, count_bytes, &printed) == 0 && printed > 0);
    CHECK(strcmp(nn_error_name(NN_ERR_ROW), "NN_ERR_ROW") == 0);
    CHECK(nn_memory(net, &o) == NN_ERR_OPTION && why[0]);
}
#else
static void sentences(const nn_model *m) {
    (void)m;
    CHECK(nn_error_name(NN_ERR_ROW) != NULL && !why[0]);
}
#endif

static void infer(void) {
    nn_opts o = options(NULL, 0), o2 = options(NULL, 1);
    nn_model m, clone;
    float bias[OUTPUTS] = { 1, 2 };
    char rows[400];
    int left;

    CHECK(nn_memory(net, &o) > 0);
    CHECK(nn_memory_text(text, &o) > 0);
    CHECK(nn_build_text(&m, text, &o) == 0);
    CHECK(nn_rows_hash(m.rows) != 0);
    CHECK(nn_rows_text(m.rows, rows, sizeof rows) > 0);
    nn_free(&m);

    CHECK(nn_build(&m, net, &o) == 0);
    CHECK(nn_infer(&m, x, out[0], SAMPLES) == 0);
    CHECK(nn_infer_to(&m, "twice1", x, features[0], SAMPLES) == 0);
    CHECK(nn_infer_from(&m, "twice1", features[0], again[0], SAMPLES) == 0);
    CHECK(same(out, again, sizeof out));

    memset(again, 0, sizeof again);
    CHECK(nn_begin_infer(&m, x, again[0], SAMPLES) == 0);
    while ((left = nn_run_some(&m, 1)) > 0) {}
    CHECK(left == 0 && same(out, again, sizeof out));

    CHECK(nn_eval(&m, x, y, SAMPLES) == 0 && m.loss > 0);
    CHECK(nn_clone(&clone, &m, &o2) == 0);
    CHECK(nn_infer(&clone, x, again[0], SAMPLES) == 0 && same(out, again, sizeof out));
    nn_free(&clone);

    CHECK(nn_set(&m, "head.bias", bias, OUTPUTS) == 0);
    bias[0] = 0;
    CHECK(nn_get(&m, "head.bias", bias, OUTPUTS) == 0 && bias[0] > 0);
    sentences(&m);
    nn_free(&m);

    net[1].units = HIDDEN + 1;
    CHECK(nn_build(&m, net, &o) == NN_ERR_ROW);
    net[1].units = HIDDEN;
}

/* ---- training ---- */

#ifndef NN_NO_TRAIN
static void train(void) {
    nn_opts o = options("*", 0), o2 = options("*", 1);
    nn_fit_opts fit;
    nn_model m, twin;
    NN_ALIGN static unsigned char kept[2000];
    float weight[OUTPUTS * HIDDEN], other[OUTPUTS * HIDDEN], before;
    uint32_t count;
    int left;

    CHECK(nn_build(&m, net, &o) == 0);
    CHECK(nn_build(&twin, net, &o2) == 0);
    CHECK(nn_train(&m, x, y, SAMPLES) == 0);
    before = m.loss;

    CHECK(nn_forward(&twin, x, y, out[0], SAMPLES) == 0);
    CHECK(nn_backward(&twin, NULL, NULL) == 0);
    CHECK(nn_flat_grad(&twin, &count) != NULL && count > 0);
    CHECK(nn_get_grad(&twin, "head.weight", weight, OUTPUTS * HIDDEN) == 0);
    CHECK(nn_update(&twin) == 0);
    CHECK(nn_zero_grad(&twin) == 0);
    CHECK(nn_train(&m, x, y, SAMPLES) == 0);
    CHECK(nn_begin_train(&twin, x, y, SAMPLES) == 0);
    while ((left = nn_run_some(&twin, 2)) > 0) {}
    CHECK(left == 0);
    CHECK(nn_get(&m, "head.weight", weight, OUTPUTS * HIDDEN) == 0);
    CHECK(nn_get(&twin, "head.weight", other, OUTPUTS * HIDDEN) == 0);
    CHECK(same(weight, other, sizeof weight));
    nn_free(&twin);

    CHECK(nn_digest(&m) != 0);
    CHECK(nn_set_kernels(&m, "plain") == 0 && !strcmp(nn_kernels_name(&m), "plain"));
    CHECK(nn_set_kernels(&m, NULL) == 0);
    CHECK(nn_snapshot_size(&m) <= sizeof kept);
    CHECK(nn_snapshot(&m, kept, sizeof kept) == 0);
    memset(&fit, 0, sizeof fit);
    fit.x = x;
    fit.y = y;
    fit.n = SAMPLES;
    fit.epochs = 20;
    fit.quiet = 1;
    CHECK(nn_fit(&m, &fit) == 0 && m.loss < before);
    CHECK(nn_rollback(&m, kept, sizeof kept) == 0);
    CHECK(nn_get(&m, "head.weight", other, OUTPUTS * HIDDEN) == 0);
    CHECK(same(weight, other, sizeof weight));
    nn_free(&m);

    o.train = o2.train = "head";
    CHECK(nn_build(&m, net, &o) == 0);
    CHECK(nn_build(&twin, net, &o2) == 0);
    CHECK(nn_infer_to(&m, "twice1", x, features[0], SAMPLES) == 0);
    CHECK(nn_train_from(&m, "twice1", features[0], y, SAMPLES) == 0);
    CHECK(nn_train(&twin, x, y, SAMPLES) == 0);
    CHECK(nn_get(&m, "head.weight", weight, OUTPUTS * HIDDEN) == 0);
    CHECK(nn_get(&twin, "head.weight", other, OUTPUTS * HIDDEN) == 0);
    CHECK(same(weight, other, sizeof weight));
    nn_free(&twin);
    nn_free(&m);
}
#else
static void train(void) {
    nn_opts o = options("*", 0);
    CHECK(nn_memory(net, &o) == NN_ERR_OPTION);
}
#endif

/* ---- files ---- */

static void files(void) {
    static unsigned char image[8192];
    static const nn_aux aux[] = { { "words", "abc", 3 }, { NULL, NULL, 0 } };
    nn_memory_writer writer;
    nn_opts o = options(NULL, 0);
    nn_model m;
    size_t counted = 0;
    int missing = 0;

    writer.bytes = image;
    writer.capacity = sizeof image;
    writer.size = 0;
    o.aux = aux;
    CHECK(nn_build_text(&m, text, &o) == 0);
    o.aux = NULL;
    CHECK(nn_infer(&m, x, out[0], SAMPLES) == 0);
    CHECK(nn_save(&m, 0, nn_write_memory, &writer) == (int64_t)writer.size && writer.size > 0);
    CHECK(nn_save(&m, 0, count_bytes, &counted) > 0 && counted == writer.size);
    CHECK(nn_load_params(&m, image, writer.size, 1, count_names, &missing) == 0 && missing == 0);
#ifndef NN_NO_STDIO
    CHECK(nn_save_file(&m, "everything.nn", 0) == 0);
#endif
    nn_free(&m);

    CHECK(nn_memory_file(image, writer.size, &o) > 0);
    CHECK(nn_load(&m, image, writer.size, &o) == 0);
    CHECK(nn_infer(&m, x, again[0], SAMPLES) == 0 && same(out, again, sizeof out));
    CHECK(same(nn_get_aux(&m, "words", &counted), "abc", 3) && counted == 3);
    nn_free(&m);
#if !defined(NN_NO_STDIO) && !defined(NN_NO_MALLOC)
    memset(again, 0, sizeof again);
    CHECK(nn_load_file(&m, "everything.nn", &o) == 0);
    CHECK(nn_infer(&m, x, again[0], SAMPLES) == 0 && same(out, again, sizeof out));
    nn_free(&m);
#endif
#ifndef NN_NO_STDIO
    CHECK(remove("everything.nn") == 0);
#endif
}

/* ---- constant plans ---- */

/* The tables of a model that was built, as nntool.py c would write them down. */
static void plans(void) {
    NN_ALIGN static unsigned char block[1 << 16];
    static float weights[INPUTS * HIDDEN + HIDDEN + HIDDEN * OUTPUTS + OUTPUTS];
    nn_opts o = options(NULL, 0);
    nn_model m, planned;
    nn_plan p;

    weights[0] = 0.5f;
    o.weights = weights;
    o.weights_size = sizeof weights;
    o.in_place = 1;
    CHECK(nn_build(&m, net, &o) == 0);
    memset(&p, 0, sizeof p);
    p.rows = net;
    p.row = m.row;
    p.input = m.input;
    p.tensor = m.tensor;
    p.cmd = m.cmd;
    p.weights = weights;
    p.init = nn_plan_init;
    p.opts = m.opts;
    p.memory = (uint32_t)m.block_size;
    p.row_count = m.row_count;
    p.input_count = m.input_count;
    p.tensor_count = m.tensor_count;
    p.infer_count = m.infer_count;
    p.grad_offset = m.grad_offset;
    p.state_offset = m.state_offset;
    p.loss_offset = m.loss_offset;
    p.carry_offset = m.carry_offset;
    p.micro = m.micro;
    p.in_size = m.in_size;
    p.out_size = m.out_size;
    CHECK(nn_open(&planned, &p, block, sizeof block) == 0);
    nn_plan_init(&planned);
    CHECK(nn_infer(&m, x, out[0], SAMPLES) == 0);
    CHECK(nn_infer(&planned, x, again[0], SAMPLES) == 0 && same(out, again, sizeof out));
    CHECK(nn_open(&planned, &p, block, m.block_size - 1) == NN_ERR_MEMORY);
    nn_free(&m);
}

/* ---- sequences: one by one as all at once ---- */

static void sequences(void) {
    static const char rows[] = "input x - shape=4 type=i32; embedding e x vocab=9 units=3;"
                               "lstm l e units=5; gru g l units=4 last=1; dense d g units=2";
    static const int32_t ids[2][4] = { { 1, 8, 0, 3 }, { 5, 5, 2, 7 } }, lengths[2] = { 4, 3 };
    static float state[2][14];
    nn_opts o = options(NULL, 0);
    nn_model m;
    int t;

    CHECK(nn_build_text(&m, rows, &o) == 0);
    CHECK(nn_set_lengths(&m, lengths) == 0);
    CHECK(nn_infer(&m, ids, out[0], 2) == 0);
    nn_free(&m);
    o.steps = o.stateful = 1;
    CHECK(nn_build_text(&m, rows, &o) == 0);
    CHECK(nn_state_size(&m) == 14 && nn_reset(&m) == 0);
    for (t = 0; t < 4; t++) {
        int32_t step[2];
        step[0] = ids[0][t];
        step[1] = ids[1][t];
        CHECK(nn_get_state(&m, state[0], 2) == 0 && nn_set_state(&m, state[0], 2) == 0);
        CHECK(nn_step(&m, step, again[0], t < lengths[1] ? 2 : 1) == 0);
    }
    CHECK(same(out, again, 2 * sizeof out[0]));
    nn_free(&m);
}

/* ---- words ---- */

static void words(void) {
#ifndef NN_NO_TRAIN
    static const char say[] = "the cat, the Hat";
    static unsigned char block[1000], image[200];
    int32_t ids[6];
    nn_words_opts o;
    nn_words w;
    nn_tokenizer t;
    size_t size;
    int64_t bytes;
    const char *word;

    memset(&o, 0, sizeof o);
    CHECK(nn_words_memory(8, 40) > 0 && nn_words_memory(8, 40) <= (int64_t)sizeof block);
    CHECK(nn_words_begin(&w, &o, block, sizeof block, 8, 40) == 0);
    CHECK(nn_words_add(&w, say, sizeof say - 1) == 0);
    bytes = nn_words_save(&w, image, sizeof image);
    CHECK(bytes > 0 && bytes <= (int64_t)sizeof image);
    CHECK(nn_tokenizer_load(&t, image, (size_t)bytes, NULL) == 0);
    CHECK(nn_tokenizer_ids(&t, say, sizeof say - 1, ids, 6, NN_PRE, NN_PRE) == 4);
    CHECK(ids[0] == 0 && ids[1] == 0 && ids[2] == 1 && ids[3] == 2 && ids[4] == 1 && ids[5] == 3);
    word = nn_tokenizer_word(&t, 3, &size);
    CHECK(word && size == 3 && same(word, "hat", 3));
#endif
}

int main(void) {
    make_net_and_data();
    plans();
    sequences();
    words();
    infer();
    train();
    files();
    if (failures && why[0]) printf("last error: %s\n", why);
    return failures != 0;
}
