/* test_run.c - the calls of a built model, against each other and against arithmetic by hand

   Most calls are another way to something that a simpler call does too, so that equal means equal
   bit for bit: any number of samples, a command at a time, features that were kept, micro-batches,
   clones, nn_fit, constant plans. What has no simpler way is compared with a few lines of double
   arithmetic.
*/
#include "nn.h"

/* ---- an op of one's own: y = x^2, by what nn.h offers to everybody ---- */

static int square_shape(nn_shape *s)
{
    int k;

    if (s->in[0]->dim[2] > 64) return nn_row_error(s, "squares at most 64 channels");
    for (k = 0; k < 3; k++) s->out->dim[k] = s->in[0]->dim[k];
    s->out->ndim = s->in[0]->ndim;
    return 0;
}

static void square_plan(const nn_model *m, uint32_t row, nn_need *need)
{
    (void)m, (void)row;
    need->flags |= NN_NEED_X;
}

static size_t square_elements(const nn_model *m, const nn_cmd *c)
{
    const int32_t *dim = m->row[c->row].dim;

    return (size_t)m->run.n * (size_t)(dim[0] * dim[1] * dim[2]);
}

static void square_forward(nn_model *m, const nn_cmd *c)
{
    const float *x = nn_at(m, c->x);
    float *y = nn_at(m, c->y);
    size_t n = square_elements(m, c), i;

    for (i = 0; i < n; i++) y[i] = x[i] * x[i];
}

static void square_backward(nn_model *m, const nn_cmd *c)
{
    const float *x = nn_at(m, c->x), *dy = nn_at(m, c->dy);
    float *dx = nn_at(m, c->dx);
    size_t n = square_elements(m, c), i;

    for (i = 0; dx && i < n; i++) dx[i] = 2 * x[i] * dy[i];
}

static const nn_op square_op = {
    .name = "square",
    .stem = "sq",
    .suffixes = "",
    .inputs_min = 1,
    .inputs_max = 1,
    .shape = square_shape,
    .plan = square_plan,
    .forward = square_forward,
    .backward = square_backward,
};

#define NN_OPS                                                                                 \
    NN_INPUT, NN_DENSE, NN_CONV2D, NN_MAXPOOL2D, NN_AVGPOOL2D, NN_GLOBALAVGPOOL, NN_BATCHNORM, \
        NN_DROPOUT, NN_FLATTEN, NN_ADD, NN_ACTIVATION, &square_op
#define NN_IMPLEMENTATION
#include "nn.h"

#include "test.h"

enum { MOST = 64, STATE = 20000, BATCH = 8 };

/* A trunk with all the ways of passing a value on: computed inside another row, overwritten, read
   twice, not there at all; and two dense rows. */
enum { PIXELS = 6 * 6 * 2, CLASSES = 3 };
enum { /* running statistics included */
       TRUNK = 5 * 2 * 9 + 5 + 4 * 5 + 5 * 5 * 9 + 5,
       ALL_PARAMETERS = TRUNK + 17 * 45 + 17 + CLASSES * 17 + CLASSES
};
static const nn_layer net_rows[] = {
    { .op = NN_INPUT, .name = "in", .shape = { 6, 6, 2 } },
    { .op = NN_CONV2D, .name = "c1", .units = 5, .kernel = { 3 }, .pad = { 1, 1, 1, 1 },
      .act = NN_RELU },
    { .op = NN_MAXPOOL2D, .name = "p1", .kernel = { 2 } },
    { .op = NN_BATCHNORM, .name = "n1" },
    { .op = NN_CONV2D, .name = "c2", .units = 5, .kernel = { 3 }, .pad = { 1, 1, 1, 1 } },
    { .op = NN_ACTIVATION, .name = "a2", .act = NN_LEAKY_RELU },
    { .op = NN_ADD, .name = "sum", .from = "a2", .with = "n1", .act = NN_TANH },
    { .op = NN_DROPOUT, .name = "d1", .rate = 0.25f },
    { .op = NN_FLATTEN, .name = "flat", .order = NN_CHW },
    { .op = NN_DENSE, .name = "hidden", .units = 17, .act = NN_SIGMOID },
    { .op = NN_DROPOUT, .name = "d2", .rate = 0.5f },
    { .op = NN_DENSE, .name = "head", .units = CLASSES, .act = NN_SOFTMAX },
    { 0 }
};

/* Everything linear, for arithmetic by hand. */
static const nn_layer linear_rows[] = {
    { .op = NN_INPUT, .shape = { 3 } },
    { .op = NN_DENSE, .name = "a", .units = 4 },
    { .op = NN_DENSE, .name = "b", .units = 2 },
    { 0 }
};

static char why[256];
static float x[MOST * PIXELS], target[MOST * 4];
static int32_t label[MOST];
static float state[2][STATE];

static nn_opts options(const char *train, int32_t loss, int32_t batch)
{
    nn_opts o;

    memset(&o, 0, sizeof o);
    o.batch = batch;
    o.train = train;
    o.loss = loss;
    o.lr = train ? 0.0625f : 0;
    o.momentum = 0.5f;
    o.seed = 3;
    o.why = why;
    o.why_size = sizeof why;
    why[0] = '\0';
    return o;
}

static void make_samples(void)
{
    size_t i;

    for (i = 0; i < sizeof x / sizeof *x; i++) x[i] = gen_float(2, 0, i, 1, 0);
    for (i = 0; i < sizeof target / sizeof *target; i++) target[i] = gen_float(2, 1, i, 1, 0);
    for (i = 0; i < MOST; i++) label[i] = gen_int(2, 2, i, CLASSES);
}

/* Builds, or says why not. */
static int build(nn_model *m, const nn_layer *rows, const nn_opts *o)
{
    int err = nn_build(m, rows, o);

    return test_report(!err, __FILE__, __LINE__, "nn_build", "%d, %s", err, why);
}

/* Batch norm statistics as if it had seen something: after initial ones mistakes would not show. */
static void set_norm(nn_model *m, const char *row)
{
    static const char *const suffix[] = { "weight", "bias", "running_mean", "running_var" };
    char name[64];
    float v[5];
    uint32_t k, i;

    for (k = 0; k < 4; k++) {
        for (i = 0; i < 5; i++) v[i] = gen_float(3, k, i, 0.25f, k % 3 ? 0.0f : 1.0f);
        snprintf(name, sizeof name, "%s.%s", row, suffix[k]);
        CHECK_EQ_INT(nn_set(m, name, v, 5), 0);
    }
}

static int build_net(nn_model *m, const nn_opts *o)
{
    if (!build(m, net_rows, o)) return 0;
    set_norm(m, "n1");
    return 1;
}

static void tensor_name(const nn_model *m, uint32_t t, const char *prefix, char *name, size_t size)
{
    nn__text text = nn__text_to(name, size - 1);

    nn__puts(&text, prefix);
    nn__put_tensor_name(&text, m, t);
    name[text.len] = '\0';
}

/* All tensors and optimizer state, by name; how many floats. */
static size_t state_of(const nn_model *m, float *to)
{
    static const char *const parts[] = { "", "opt.mom/", "opt.m/", "opt.v/" };
    char name[160];
    size_t at = 0;
    uint32_t t;
    int k;

    for (k = 0; k < 4; k++)
        for (t = 0; t < m->tensor_count; t++) {
            size_t count = m->tensor[t].count;

            tensor_name(m, t, parts[k], name, sizeof name);
            if (at + count <= STATE && nn_get(m, name, to + at, count) == 0) at += count;
        }
    return at;
}

/* Parameters, optimizer state, loss and right answers. */
static void check_same_model(const nn_model *m, const nn_model *like)
{
    size_t n = state_of(like, state[1]);

    CHECK(n > 0);
    CHECK_EQ_INT(state_of(m, state[0]), n);
    CHECK_SAME_BYTES(state[0], state[1], n * sizeof(float));
    CHECK_SAME_BYTES(&m->loss, &like->loss, sizeof m->loss);
    CHECK_EQ_INT(m->correct, like->correct);
}

/* Sets a tensor to small integers or anything else given. */
static void set(nn_model *m, const char *name, const float *v, size_t n)
{
    CHECK_EQ_INT(nn_set(m, name, v, n), 0);
}

/* ---- inference ------------------------------------------------------------------------------- */

/* Samples of float and of bytes. */
static void check_any_count(const nn_layer *rows, const void *samples, size_t bytes, size_t width)
{
    static const int counts[] = { 1, BATCH - 1, BATCH, BATCH + 1, 3 * BATCH + 2 };
    static float one[MOST * 4], y[MOST * 4 + 1];
    const char *sample = (const char *)samples;
    nn_opts o = options(NULL, 0, BATCH);
    nn_model m;
    size_t i, n;

    if (!build(&m, rows, &o)) return;
    for (i = 0; i < MOST; i++)
        CHECK_EQ_INT(nn_infer(&m, sample + i * bytes, one + i * width, 1), 0);
    CHECK(memcmp(one, one + width, width * sizeof *one) != 0);
    for (i = 0; i < sizeof counts / sizeof *counts; i++) {
        n = (size_t)counts[i] * width;
        y[n] = 77;
        CHECK_EQ_INT(nn_infer(&m, samples, y, counts[i]), 0);
        CHECK_SAME_BYTES(y, one, n * sizeof *y);
        CHECK_CLOSE(y[n], 77, 0);
    }
    y[0] = 77;
    CHECK_EQ_INT(nn_infer(&m, samples, y, 0), 0);
    CHECK_EQ_INT(nn_infer(&m, NULL, NULL, 0), 0);
    CHECK_CLOSE(y[0], 77, 0);
    CHECK_EQ_INT(nn_infer(&m, samples, y, -1), NN_ERR_CALL);
    nn_free(&m);
}

TEST(infer_any_count)
{
    static const nn_layer bytes[] = {
        { .op = NN_INPUT, .shape = { 4, 4, 3 }, .type = NN_U8, .order = NN_CHW,
          .scale = 1 / 255.0f, .mean = { 0.5f, 0.25f, 0.125f } },
        { .op = NN_CONV2D, .units = 2, .kernel = { 3 } },
        { .op = NN_GLOBALAVGPOOL },
        { 0 }
    };
    /* nothing is computed: the output is the input */
    static const nn_layer nothing[] = {
        { .op = NN_INPUT, .shape = { 2, 1, 2 } }, { .op = NN_FLATTEN }, { 0 },
    };

    check_any_count(net_rows, x, PIXELS * sizeof *x, CLASSES);
    check_any_count(bytes, x, 48, 2);
    check_any_count(nothing, x, 4 * sizeof *x, 4);
}

/* Drives what has begun, k commands a call; every call must take exactly that many off. */
static void run_in_pieces(nn_model *m, int k)
{
    int left = nn_run_some(m, 0), now, calls = 0;

    CHECK(left > 0);
    while (left > 0 && calls++ < 10000) {
        now = nn_run_some(m, k);
        if (!CHECK_EQ_INT(now, left > k ? left - k : 0)) return;
        left = now;
    }
    CHECK_EQ_INT(left, 0);
    CHECK_EQ_INT(nn_run_some(m, k), 0);
}

TEST(infer_in_pieces)
{
    static const int ks[] = { 1, 2, 3, 1000 };
    static float want[MOST * CLASSES], y[MOST * CLASSES];
    nn_opts o = options(NULL, NN_CROSS_ENTROPY, BATCH);
    nn_model m;
    int k, n;

    if (!build_net(&m, &o)) return;
    CHECK_EQ_INT(nn_run_some(&m, 1), NN_ERR_CALL);
    for (k = 0; k < 4; k++)
        for (n = 1; n <= 3 * BATCH + 2; n += BATCH / 2 + 1) {
            test_note("k %d, n %d", ks[k], n);
            CHECK_EQ_INT(nn_infer(&m, x, want, n), 0);
            memset(y, 0, sizeof y);
            CHECK_EQ_INT(nn_begin_infer(&m, x, y, n), 0);
            run_in_pieces(&m, ks[k]);
            CHECK_SAME_BYTES(y, want, (size_t)(n * CLASSES) * sizeof *y);
        }
    CHECK_EQ_INT(nn_begin_infer(&m, x, y, 0), 0);
    CHECK_EQ_INT(nn_run_some(&m, 1), 0);
    CHECK_EQ_INT(nn_begin_infer(&m, x, y, 1), 0);
    CHECK_EQ_INT(nn_run_some(&m, -1), NN_ERR_CALL);
    nn_free(&m);
}

/* Rows of the net, whether their output can be had, and its elements. */
static const struct cut {
    const char *row;
    int elements; /* 0: it cannot */
} cuts[] = {
    { "in", PIXELS }, { "c1", 0 },        { "p1", 45 },   { "n1", 45 },
    { "c2", 0 },      { "a2", 0 },        { "sum", 45 },  { "d1", 45 },
    { "flat", 45 },   { "hidden", 17 },   { "d2", 17 },   { "head", CLASSES },
};

enum { CUTS = sizeof cuts / sizeof *cuts };

TEST(infer_to_and_from)
{
    enum { N = 2 * BATCH + 3 };
    static float want[N * CLASSES], y[N * CLASSES], features[N * PIXELS + 1];
    nn_model m;
    int loss, i;

    for (loss = 0; loss < 2; loss++) {
        nn_opts o = options(NULL, loss ? NN_CROSS_ENTROPY : NN_NO_LOSS, BATCH);

        if (!build_net(&m, &o)) return;
        CHECK_EQ_INT(nn_infer(&m, x, want, N), 0);
        for (i = 0; i < CUTS; i++) {
            size_t n = (size_t)(N * cuts[i].elements);

            test_note("%s, %s", cuts[i].row, loss ? "with a loss" : "without");
            features[n] = 77;
            if (!n) {
                CHECK_EQ_INT(nn_infer_to(&m, cuts[i].row, x, features, N), NN_ERR_CALL);
                CHECK_EQ_INT(nn_infer_from(&m, cuts[i].row, features, y, N), NN_ERR_CALL);
                continue;
            }
            if (!CHECK_EQ_INT(nn_infer_to(&m, cuts[i].row, x, features, N), 0)) continue;
            CHECK_CLOSE(features[n], 77, 0);
            memset(y, 0, sizeof y);
            if (strcmp(cuts[i].row, "head") == 0) {
                CHECK_SAME_BYTES(features, want, sizeof want);
                continue;
            }
            CHECK_EQ_INT(nn_infer_from(&m, cuts[i].row, features, y, N), 0);
            CHECK_SAME_BYTES(y, want, sizeof want);
        }
        CHECK_EQ_INT(nn_infer_to(&m, "in", x, features, N), 0);
        CHECK_SAME_BYTES(features, x, N * PIXELS * sizeof *x);
        CHECK_EQ_INT(nn_infer_to(&m, "none", x, features, N), NN_ERR_NAME);
        CHECK_EQ_INT(nn_infer_to(&m, NULL, x, features, N), NN_ERR_NAME);
        CHECK_EQ_INT(nn_infer_to(&m, "hidden", x, features, 0), 0);
        CHECK_EQ_INT(nn_infer_from(&m, "hidden", features, y, 0), 0);
        nn_free(&m);
    }
}

/* The value between an activation and a pool that are both computed with the convolution: either it
   cannot be had, or it is right. */
TEST(infer_to_inside_a_convolution)
{
    enum { N = 3, MAP = 4 * 4, UNITS = 3 };
    static const nn_layer rows[] = {
        { .op = NN_INPUT, .name = "in", .shape = { 4, 4, 1 } },
        { .op = NN_CONV2D, .name = "c", .units = UNITS, .kernel = { 1 } },
        { .op = NN_ACTIVATION, .name = "a", .act = NN_RELU },
        { .op = NN_MAXPOOL2D, .name = "p", .kernel = { 2 } },
        { .op = NN_FLATTEN },
        { .op = NN_DENSE, .units = 2 },
        { 0 }
    };
    static float features[N * MAP * UNITS], want[N * MAP * UNITS], y[2][N * 2], w[UNITS], b[UNITS];
    nn_opts o = options(NULL, 0, N);
    nn_model m;
    int i, err;

    if (!build(&m, rows, &o)) return;
    CHECK_EQ_INT(nn_infer_to(&m, "c", x, features, N), NN_ERR_CALL);
    err = nn_infer_to(&m, "a", x, features, N);
    if (err) CHECK_EQ_INT(err, NN_ERR_CALL);
    if (!err) {
        CHECK_EQ_INT(nn_get(&m, "c.weight", w, UNITS), 0);
        CHECK_EQ_INT(nn_get(&m, "c.bias", b, UNITS), 0);
        for (i = 0; i < N * MAP * UNITS; i++) {
            float z = w[i % UNITS] * x[i / UNITS] + b[i % UNITS];

            want[i] = z > 0 ? z : 0;
        }
        CHECK_CLOSE_ARRAY(features, want, N * MAP * UNITS, 1e-6);
    }
    CHECK_EQ_INT(nn_infer_to(&m, "p", x, features, N), 0);
    CHECK_EQ_INT(nn_infer(&m, x, y[0], N), 0);
    CHECK_EQ_INT(nn_infer_from(&m, "p", features, y[1], N), 0);
    CHECK_SAME_BYTES(y[1], y[0], sizeof y[0]);
    nn_free(&m);
}

/* The same loss, bit for bit, however many samples are taken at once; and the right one. */
TEST(eval)
{
    enum { N = 37, WIDTH = 3 };
    static const int32_t losses[] = { NN_MSE, NN_BCE, NN_CROSS_ENTROPY },
                         batches[] = { 1, 2, 5, MOST };
    static const int32_t acts[] = { NN_LINEAR, NN_SIGMOID, NN_SOFTMAX };
    static float y[N * WIDTH], wanted[N * WIDTH];
    nn_layer rows[3];
    nn_model m;
    int l, b, i, j, best;

    for (l = 0; l < 3; l++) {
        float first = 0;
        int32_t correct = 0;
        double sum = 0;

        memset(rows, 0, sizeof rows);
        rows[0].op = NN_INPUT;
        rows[0].shape[0] = 4;
        rows[1].op = NN_DENSE;
        rows[1].units = WIDTH;
        rows[1].act = acts[l];
        for (i = 0; i < N * WIDTH; i++)
            wanted[i] = losses[l] == NN_BCE ? (float)gen_int(5, 5, (size_t)i, 2) : target[i];
        for (b = 0; b < 4; b++) {
            nn_opts o = options(NULL, losses[l], batches[b]);

            test_note("loss %d, batch %d", (int)losses[l], (int)batches[b]);
            if (!build(&m, rows, &o)) return;
            CHECK_EQ_INT(nn_eval(&m, x, l == 2 ? (const void *)label : (const void *)wanted, N), 0);
            if (b == 0) {
                CHECK_EQ_INT(nn_infer(&m, x, y, N), 0);
                for (i = 0; i < N; i++) {
                    for (best = 0, j = 0; j < WIDTH; j++) {
                        double p = (double)y[i * WIDTH + j], t = (double)wanted[i * WIDTH + j];

                        if (y[i * WIDTH + j] > y[i * WIDTH + best]) best = j;
                        if (l == 0) sum += (p - t) * (p - t);
                        if (l == 1) sum -= t > 0.5 ? log(p) : log(1 - p);
                        if (l == 1) correct += (p > 0.5) == (t > 0.5);
                    }
                    if (l == 2) sum -= log((double)y[i * WIDTH + label[i]]);
                    if (l == 2) correct += best == label[i];
                }
                first = m.loss;
                CHECK_CLOSE(m.loss, sum / (l == 2 ? N : N * WIDTH), 1e-6);
            }
            CHECK_SAME_BYTES(&m.loss, &first, sizeof first);
            CHECK_EQ_INT(m.correct, correct);
            nn_free(&m);
        }
    }
}

/* ---- training by other ways ------------------------------------------------------------------ */

#define ALL_BUT_NORM "c* hidden head"

/* The least budget, or so much more of the way to none at all. */
static int64_t budget(const nn_layer *rows, nn_opts o, int part, int of)
{
    int64_t most = nn_memory(rows, &o), least;
    const char *p;

    o.budget = 1;
    CHECK_EQ_INT(nn_memory(rows, &o), NN_ERR_MEMORY);
    for (p = why + strlen(why); p > why && p[-1] >= '0' && p[-1] <= '9';) p--;
    least = strtoll(p, NULL, 10);
    CHECK(least > 0 && least < most);
    return least + (most - least) * part / of;
}

TEST(train_in_pieces)
{
    static const int ks[] = { 1, 2, 3, 1000 };
    nn_opts o = options(ALL_BUT_NORM, NN_CROSS_ENTROPY, BATCH);
    nn_model whole, m;
    int k, part, step;

    for (k = 0; k < 4; k++)
        for (part = 0; part < 3; part++) {
            test_note("k %d, budget %d", ks[k], part);
            if (!build_net(&whole, &o)) return;
            o.budget = part == 2 ? 0 : budget(net_rows, o, part, 4);
            if (build_net(&m, &o)) {
                CHECK_EQ_INT(m.micro == BATCH, part == 2);
                for (step = 0; step < 3; step++) {
                    int n = step == 1 ? BATCH - 3 : BATCH;

                    CHECK_EQ_INT(nn_train(&whole, x, label, n), 0);
                    CHECK_EQ_INT(nn_begin_train(&m, x, label, n), 0);
                    run_in_pieces(&m, ks[k]);
                    check_same_model(&m, &whole);
                }
                CHECK_EQ_INT(m.step, 3);
                nn_free(&m);
            }
            o.budget = 0;
            nn_free(&whole);
        }
}

/* Masks, gradients, loss and answers do not know in how many turns a batch goes through. */
TEST(micro_batches)
{
    nn_opts o = options(ALL_BUT_NORM, NN_CROSS_ENTROPY, BATCH);
    nn_model whole, m;
    int part, step, adam, last = 0;

    for (adam = 0; adam < 2; adam++)
        for (part = 0; part <= 8; part++) {
            test_note("%s, budget %d", adam ? "Adam" : "SGD", part);
            o.optimizer = adam ? NN_ADAM : NN_SGD;
            o.budget = 0;
            if (!build_net(&whole, &o)) return;
            o.budget = budget(net_rows, o, part, 8);
            if (build_net(&m, &o)) {
                CHECK(part == 0 ? m.micro == 1 : m.micro >= last);
                last = m.micro;
                for (step = 0; step < 4; step++) {
                    int n = step == 2 ? 5 : BATCH;

                    CHECK_EQ_INT(nn_train(&whole, x, label, n), 0);
                    CHECK_EQ_INT(nn_train(&m, x, label, n), 0);
                    check_same_model(&m, &whole);
                }
                nn_free(&m);
            }
            nn_free(&whole);
        }
    CHECK_EQ_INT(last, BATCH);
}

/* Forward and backward in two halves: the sum of two means of four is twice the mean of eight,
   exactly, because sums go on where they were and the factors are powers of two. */
TEST(accumulated_halves)
{
    static float whole[STATE], halves[STATE];
    nn_opts o = options(ALL_BUT_NORM, NN_CROSS_ENTROPY, BATCH);
    nn_model a, b;
    uint32_t count, i;
    const float *g;

    if (!build_net(&a, &o)) return;
    if (build_net(&b, &o)) {
        CHECK_EQ_INT(nn_forward(&a, x, label, NULL, BATCH), 0);
        CHECK_EQ_INT(nn_backward(&a, NULL, NULL), 0);
        CHECK_EQ_INT(nn_forward(&b, x, label, NULL, BATCH / 2), 0);
        CHECK_EQ_INT(nn_backward(&b, NULL, NULL), 0);
        CHECK_EQ_INT(nn_forward(&b, x + BATCH / 2 * PIXELS, label + BATCH / 2, NULL, BATCH / 2), 0);
        CHECK_EQ_INT(nn_backward(&b, NULL, NULL), 0);
        g = nn_flat_grad(&a, &count);
        if (!CHECK(g && count < STATE)) return;
        for (i = 0; i < count; i++) whole[i] = 2 * g[i];
        memcpy(halves, nn_flat_grad(&b, NULL), count * sizeof *g);
        CHECK_SAME_BYTES(halves, whole, count * sizeof *g);
        CHECK_EQ_INT(nn_backward(&b, NULL, NULL), NN_ERR_CALL);
        CHECK_EQ_INT(nn_zero_grad(&b), 0);
        CHECK_EQ_INT(nn_update(&b), NN_ERR_CALL);
        g = nn_flat_grad(&b, NULL);
        for (i = 0; i < count && g[i] >= 0 && g[i] <= 0; i++) {}
        CHECK_EQ_INT(i, count);

        /* the parts of nn_train are nn_train */
        CHECK_EQ_INT(nn_forward(&b, x, label, NULL, BATCH), 0);
        CHECK_EQ_INT(nn_backward(&b, NULL, NULL), 0);
        CHECK_EQ_INT(nn_update(&b), 0);
        CHECK_EQ_INT(nn_train(&a, x, label, BATCH), 0);
        check_same_model(&b, &a);
        nn_free(&b);
    }
    nn_free(&a);
}

/* Other calls use the same memory. Between the parts of a step they either do no harm or make what
   follows an error; they do not make it something else. */
static void check_between(const nn_layer *rows, int32_t batch, int some, int what,
                          int after_backward)
{
    enum { INFER, EVAL, TRAIN };
    static float y[BATCH * CLASSES];
    nn_opts o = options("*", NN_CROSS_ENTROPY, batch);
    nn_model m, like;
    int err;

    test_note("%s net, call %d with %d of %d samples after %s",
              rows == net_rows ? "large" : "small", what, some, (int)batch,
              after_backward ? "nn_backward" : "nn_forward");
    if (!build(&like, rows, &o)) return;
    CHECK_EQ_INT(nn_forward(&like, x, label, NULL, batch), 0);
    CHECK_EQ_INT(nn_backward(&like, NULL, NULL), 0);
    CHECK_EQ_INT(nn_update(&like), 0);
    if (build(&m, rows, &o)) {
        CHECK_EQ_INT(nn_forward(&m, x, label, NULL, batch), 0);
        if (after_backward) CHECK_EQ_INT(nn_backward(&m, NULL, NULL), 0);
        if (what == INFER) CHECK_EQ_INT(nn_infer(&m, x + 1, y, some), 0);
        if (what == EVAL) CHECK_EQ_INT(nn_eval(&m, x + 1, label, some), 0);
        if (what == TRAIN) CHECK_EQ_INT(nn_train(&m, x + 1, label, some), 0);
        err = after_backward ? 0 : nn_backward(&m, NULL, NULL);
        if (!err) err = nn_update(&m);
        if (err) CHECK_EQ_INT(err, NN_ERR_CALL);
        if (!err && CHECK(what != TRAIN)) {
            m.loss = like.loss;
            m.correct = like.correct;
            check_same_model(&m, &like);
        }
        nn_free(&m);
    }
    nn_free(&like);
}

TEST(calls_between_the_parts)
{
    static const nn_layer small[] = {
        { .op = NN_INPUT, .shape = { 64 } },
        { .op = NN_BATCHNORM },
        { .op = NN_DENSE, .units = CLASSES },
        { 0 }
    };
    int what, after_backward, fewer;

    for (what = 0; what < 3; what++)
        for (after_backward = 0; after_backward < 2; after_backward++) {
            if (what == 2 && after_backward) continue; /* a whole step: gradients are its own */
            for (fewer = 0; fewer < 2; fewer++) {
                check_between(net_rows, BATCH, BATCH - fewer, what, after_backward);
                check_between(small, 2, 2 - fewer, what, after_backward);
            }
        }
}

/* What nn_forward answers is the output, though its loss takes what comes before the softmax. */
TEST(forward_answers_the_output)
{
    static float y[2][BATCH * CLASSES];
    nn_opts o = options("head", NN_CROSS_ENTROPY, BATCH);
    nn_model m;

    if (!build_net(&m, &o)) return;
    CHECK_EQ_INT(nn_infer(&m, x, y[0], BATCH), 0);
    CHECK_EQ_INT(nn_forward(&m, x, NULL, y[1], BATCH), 0);
    CHECK_SAME_BYTES(y[1], y[0], sizeof y[0]);
    CHECK_EQ_INT(nn_backward(&m, NULL, NULL), NN_ERR_CALL); /* there was no target */
    CHECK_EQ_INT(nn_forward(&m, x, label, y[1], BATCH), 0);
    CHECK_SAME_BYTES(y[1], y[0], sizeof y[0]);
    CHECK_EQ_INT(nn_backward(&m, NULL, NULL), 0);
    nn_free(&m);
}

/* Features of the frozen trunk, computed once, train like the samples. */
static void check_train_from(const char *train, const char *row, int elements, int part)
{
    enum { N = 2 * BATCH };
    static float features[N * PIXELS], before[STATE];
    const size_t all = ALL_PARAMETERS,
                 frozen = TRUNK + (strcmp(train, "head") == 0 ? 17 * 45 + 17 : 0);
    nn_opts o = options(train, NN_CROSS_ENTROPY, BATCH);
    nn_model plain, m;
    int step;

    test_note("%s, from %s, budget %d", train, row, part);
    o.optimizer = NN_ADAM;
    if (!build_net(&plain, &o)) return;
    if (part) o.budget = budget(net_rows, o, part - 1, 3);
    if (build_net(&m, &o)) {
        state_of(&m, before);
        CHECK_EQ_INT(nn_infer_to(&m, row, x, features, N), 0);
        for (step = 0; step < 4; step++) {
            int n = step == 2 ? 5 : BATCH, at = step % 2 * BATCH;

            CHECK_EQ_INT(nn_train(&plain, x + at * PIXELS, label + at, n), 0);
            CHECK_EQ_INT(nn_train_from(&m, row, features + at * elements, label + at, n), 0);
            check_same_model(&m, &plain);
        }
        /* the trunk, batch norm's running statistics with it, is as it was */
        state_of(&m, state[0]);
        CHECK_SAME_BYTES(state[0], before, frozen * sizeof(float));
        CHECK(memcmp(state[0] + frozen, before + frozen, (all - frozen) * sizeof(float)) != 0);
        nn_free(&m);
    }
    nn_free(&plain);
}

TEST(train_from)
{
    static float features[MOST * PIXELS];
    nn_opts o = options("hidden head", NN_CROSS_ENTROPY, BATCH);
    nn_model m, like;
    int i, part;

    for (i = 0; i < CUTS - 1; i++)
        for (part = 0; part < 4 && cuts[i].elements; part++) {
            check_train_from("head", cuts[i].row, cuts[i].elements, part);
            if (cuts[i].elements != 17)
                check_train_from("hidden head", cuts[i].row, cuts[i].elements, part);
        }
    if (!build_net(&m, &o)) return;
    if (build_net(&like, &o)) {
        CHECK_EQ_INT(nn_infer_to(&m, "hidden", x, features, BATCH), 0);
        CHECK_EQ_INT(nn_train_from(&m, "hidden", features, label, BATCH), NN_ERR_CALL);
        CHECK_EQ_INT(nn_train_from(&m, "c2", features, label, BATCH), NN_ERR_CALL);
        CHECK_EQ_INT(nn_train_from(&m, "none", features, label, BATCH), NN_ERR_NAME);
        CHECK_EQ_INT(nn_run_some(&m, 1), NN_ERR_CALL);
        check_same_model(&m, &like);
        nn_free(&like);
    }
    nn_free(&m);
}

/* Which dropouts are on: those above the lowest row that trains. */
TEST(dropout_and_frozen_rows)
{
    static const struct {
        const char *train;
        int on;
    } cases[] = { { "head", 0 }, { "hidden head", 1 }, { "hidden", 1 }, { "c2", 1 } };
    nn_model m;
    float loss;
    size_t i;

    for (i = 0; i < sizeof cases / sizeof *cases; i++) {
        nn_opts o = options(cases[i].train, NN_CROSS_ENTROPY, 1);

        test_note("%s", cases[i].train);
        if (!build_net(&m, &o)) return;
        CHECK_EQ_INT(nn_eval(&m, x, label, 1), 0);
        loss = m.loss;
        CHECK_EQ_INT(nn_train(&m, x, label, 1), 0);
        CHECK_EQ_INT(memcmp(&loss, &m.loss, sizeof loss) != 0, cases[i].on);
        nn_free(&m);
    }
}

/* With input gradients there is a backward pass through the trunk, which has seen no forward pass:
   what a pool kept of another one must not lead it outside of its map, and of the block. */
TEST(train_from_with_input_grad)
{
    static const nn_layer rows[] = {
        { .op = NN_INPUT, .name = "in", .shape = { 11, 34, 1 } },
        { .op = NN_CONV2D, .name = "c", .units = 8, .kernel = { 3 }, .act = NN_RELU },
        { .op = NN_MAXPOOL2D, .name = "p", .kernel = { 9 }, .stride = { 1 } },
        { .op = NN_FLATTEN, .name = "f" },
        { .op = NN_DENSE, .name = "head", .units = CLASSES },
        { 0 }
    };
    enum { N = 2, GUARD = 3 * 9 * 32 * 8 * 4 }; /* three maps: more than a window of 9 leads to */
    static float features[N * 24 * 8];
    nn_opts o = options("head", NN_CROSS_ENTROPY, N);
    nn_model plain, m;
    unsigned char *room, *block;
    size_t size, i;

    if (!build(&plain, rows, &o)) return;
    o.input_grad = 1;
    size = (size_t)nn_memory(rows, &o);
    room = (unsigned char *)calloc(size + 2 * GUARD + NN_ALIGNMENT, 1);
    if (!CHECK(room != NULL)) return;
    block = room + GUARD + (NN_ALIGNMENT - (uintptr_t)room % NN_ALIGNMENT) % NN_ALIGNMENT;
    o.memory = block;
    o.memory_size = size;
    if (build(&m, rows, &o)) {
        CHECK_EQ_INT(nn_infer_to(&m, "f", x, features, N), 0);
        memset(m.block + m.loss_offset, 0xff, size - m.loss_offset);
        if (nn_train_from(&m, "f", features, label, N) == 0) { /* refusing it is fine too */
            CHECK_EQ_INT(nn_train(&plain, x, label, N), 0);
            check_same_model(&m, &plain);
        }
        for (i = 0; i < GUARD && room[i] == 0 && block[size + i] == 0; i++) {}
        CHECK_EQ_INT(i, GUARD);
        nn_free(&m);
    }
    free(room);
    nn_free(&plain);
}

TEST(interleaved)
{
    nn_opts oa = options("*", NN_CROSS_ENTROPY, BATCH), ob = options("*", NN_MSE, 4);
    nn_model a, b, alone_a, alone_b;
    int step;

    ob.optimizer = NN_ADAM;
    ob.seed = 9;
    if (!build_net(&a, &oa) || !build(&b, linear_rows, &ob)) return;
    if (!build_net(&alone_a, &oa) || !build(&alone_b, linear_rows, &ob)) return;
    for (step = 0; step < 5; step++) {
        CHECK_EQ_INT(nn_begin_train(&a, x, label, BATCH), 0);
        nn_run_some(&a, 3);
        CHECK_EQ_INT(nn_train(&b, x, target, 4), 0);
        while (nn_run_some(&a, 2) > 0) {}
    }
    for (step = 0; step < 5; step++) CHECK_EQ_INT(nn_train(&alone_a, x, label, BATCH), 0);
    for (step = 0; step < 5; step++) CHECK_EQ_INT(nn_train(&alone_b, x, target, 4), 0);
    check_same_model(&a, &alone_a);
    check_same_model(&b, &alone_b);
    nn_free(&a);
    nn_free(&b);
    nn_free(&alone_a);
    nn_free(&alone_b);
}

/* ---- snapshots and clones -------------------------------------------------------------------- */

TEST(snapshot)
{
    static unsigned char kept[STATE * 4 + 1];
    static float before[STATE];
    nn_opts o = options("n1 head", NN_CROSS_ENTROPY, BATCH);
    nn_model m;
    size_t size, n;

    if (!build_net(&m, &o)) return;
    CHECK_EQ_INT(nn_train(&m, x, label, BATCH), 0);
    n = state_of(&m, before);
    size = nn_snapshot_size(&m);
    CHECK(size >= (4 * 5 + 17 * CLASSES + CLASSES) * sizeof(float) && size < sizeof kept);
    kept[size] = 0x5a;
    CHECK_EQ_INT(nn_snapshot(&m, kept, size - 1), NN_ERR_CALL);
    CHECK_EQ_INT(nn_snapshot(&m, NULL, size), NN_ERR_CALL);
    CHECK_EQ_INT(nn_snapshot(&m, kept, size), 0);
    CHECK_EQ_INT(kept[size], 0x5a);
    CHECK_EQ_INT(nn_train(&m, x, label, BATCH), 0);
    CHECK_EQ_INT(nn_train(&m, x, label, BATCH), 0);
    state_of(&m, state[0]);
    CHECK(memcmp(state[0], before, n * sizeof(float)) != 0);
    CHECK_EQ_INT(nn_rollback(&m, kept, size - 1), NN_ERR_CALL);
    CHECK_EQ_INT(nn_rollback(&m, kept, size), 0);
    /* parameters and running statistics; the optimizer's state is not part of it */
    n = ALL_PARAMETERS;
    CHECK(state_of(&m, state[0]) > n);
    CHECK_SAME_BYTES(state[0], before, n * sizeof(float));
    nn_free(&m);

    o = options(NULL, 0, 1);
    if (!build_net(&m, &o)) return;
    CHECK_EQ_INT(nn_snapshot_size(&m), 0);
    nn_free(&m);
}

/* ---- kernels and digests --------------------------------------------------------------------- */

/* What nn_digest is defined as, from what nn_get gives. */
static uint64_t digest_of(const nn_model *m)
{
    static float v[STATE];
    uint64_t h = UINT64_C(0xcbf29ce484222325);
    uint32_t t, i, bits, k;

    for (t = 0; t < m->tensor_count; t++) {
        char name[80];
        nn__text text = nn__text_to(name, sizeof name - 1);

        if (m->tensor[t].alias != t) continue;
        nn__put_tensor_name(&text, m, t);
        name[text.len] = '\0';
        CHECK_EQ_INT(nn_get(m, name, v, m->tensor[t].count), 0);
        for (i = 0; i < m->tensor[t].count; i++) {
            memcpy(&bits, &v[i], 4);
            if (v[i] != v[i]) bits = 0x7fc00000;
            for (k = 0; k < 4; k++) h = (h ^ (bits >> 8 * k & 255)) * UINT64_C(1099511628211);
        }
    }
    return h;
}

TEST(digest)
{
    nn_opts o = options("*", NN_CROSS_ENTROPY, BATCH);
    nn_model m, same;
    float w;

    CHECK_EQ_INT(nn_digest(NULL), 0);
    if (!build_net(&m, &o)) return;
    if (!build_net(&same, &o)) return;
    CHECK(nn_digest(&m) == digest_of(&m));
    CHECK(nn_digest(&m) == nn_digest(&same));
    CHECK_EQ_INT(nn_train(&m, x, label, BATCH), 0);
    CHECK(nn_digest(&m) == digest_of(&m));
    CHECK(nn_digest(&m) != nn_digest(&same));
    CHECK_EQ_INT(nn_train(&same, x, label, BATCH), 0);
    CHECK(nn_digest(&m) == nn_digest(&same));

    /* any NaN is the same NaN */
    memcpy(&w, "\xff\xff\xff\xff", 4);
    *nn__values(&m, &m.tensor[0]) = w;
    memcpy(&w, "\x7f\x80\x80\x7f", 4);
    *nn__values(&same, &same.tensor[0]) = w;
    CHECK(nn_digest(&m) == digest_of(&m));
    CHECK(nn_digest(&m) == nn_digest(&same));
    nn_free(&m);
    nn_free(&same);
    CHECK_EQ_INT(nn_digest(&m), 0);
}

TEST(kernels)
{
    static const char *const names[] = { "plain", "avx2", "avx512", "neon" };
    nn_opts o = options("*", NN_CROSS_ENTROPY, BATCH);
    const char *best;
    nn_model m;
    uint64_t first = 0;
    int i, found = 0;

    for (i = 0; i < 4; i++) {
        if (!build_net(&m, &o)) return;
        best = nn_kernels_name(&m);
        if (nn_set_kernels(&m, names[i]) == 0) {
            CHECK_EQ_STR(nn_kernels_name(&m), names[i]);
            CHECK_EQ_INT(nn_train(&m, x, label, BATCH), 0);
            if (!found++) first = nn_digest(&m);
            CHECK(nn_digest(&m) == first);
        } else {
            CHECK(i > 0 && strstr(why, names[i]) != NULL);
            CHECK_EQ_STR(nn_kernels_name(&m), best);
        }
        CHECK_EQ_INT(nn_set_kernels(&m, "fastest"), NN_ERR_CALL);
        CHECK_EQ_INT(nn_set_kernels(&m, NULL), 0);
        CHECK_EQ_STR(nn_kernels_name(&m), best);
        nn_free(&m);
    }
    CHECK(found > 0);
    CHECK(nn_kernels_name(&m) == NULL);
    CHECK_EQ_INT(nn_set_kernels(&m, "plain"), NN_ERR_CALL);
}

TEST(clone)
{
    static float want[BATCH * CLASSES], y[BATCH * CLASSES], head[17 * CLASSES];
    nn_opts o = options("*", NN_CROSS_ENTROPY, BATCH), inference = options(NULL, 0, 4),
            tuning = options("head", NN_CROSS_ENTROPY, BATCH);
    nn_model src, copy, tuned, like;
    int i;

    if (!build_net(&src, &o)) return;
    for (i = 0; i < 3; i++) CHECK_EQ_INT(nn_train(&src, x, label, BATCH), 0);
    CHECK_EQ_INT(nn_infer(&src, x, want, BATCH), 0);
    state_of(&src, state[1]);

    CHECK_EQ_INT(nn_clone(&copy, &src, &inference), 0);
    CHECK((int64_t)(copy.block_size + ALL_PARAMETERS * sizeof(float)) <=
          nn_memory(net_rows, &inference) + 64);
    CHECK_EQ_INT(nn_infer(&copy, x, y, BATCH), 0);
    CHECK_SAME_BYTES(y, want, sizeof want);
    CHECK_EQ_INT(nn_get(&copy, "head.weight", head, 17 * CLASSES), 0);
    CHECK_EQ_INT(nn_set(&copy, "head.weight", head, 17 * CLASSES), NN_ERR_CALL);

    CHECK_EQ_INT(nn_clone(&tuned, &src, &tuning), 0);
    CHECK((int64_t)tuned.block_size < nn_memory(net_rows, &tuning));
    CHECK_EQ_INT(nn_infer(&tuned, x, y, BATCH), 0);
    CHECK_SAME_BYTES(y, want, sizeof want);

    /* an ordinary model with the same values trains the same way */
    if (!build_net(&like, &tuning)) return;
    {
        char name[160];
        size_t at = 0;
        uint32_t t;

        for (t = 0; t < like.tensor_count; at += like.tensor[t++].count) {
            tensor_name(&like, t, "", name, sizeof name);
            set(&like, name, state[1] + at, like.tensor[t].count);
        }
    }
    for (i = 0; i < 3; i++) {
        CHECK_EQ_INT(nn_train(&tuned, x, label, BATCH), 0);
        CHECK_EQ_INT(nn_train(&like, x, label, BATCH), 0);
    }
    check_same_model(&tuned, &like);
    CHECK_EQ_INT(nn_infer(&tuned, x, y, BATCH), 0);
    CHECK(memcmp(y, want, sizeof want) != 0);
    CHECK_EQ_INT(nn_infer(&src, x, y, BATCH), 0);
    CHECK_SAME_BYTES(y, want, sizeof want);
    CHECK_EQ_INT(nn_infer(&copy, x, y, BATCH), 0);
    CHECK_SAME_BYTES(y, want, sizeof want);
    nn_free(&like);
    nn_free(&tuned);
    nn_free(&copy);
    CHECK_EQ_INT(nn_clone(&copy, NULL, &inference), NN_ERR_CALL);
    nn_free(&src);
}

/* Refused, and the model is still there. */
TEST(clone_onto_itself)
{
    static float y[2][CLASSES];
    nn_opts o = options(NULL, 0, 1);
    nn_model m;

    if (!build_net(&m, &o)) return;
    CHECK_EQ_INT(nn_infer(&m, x, y[0], 1), 0);
    CHECK_EQ_INT(nn_clone(&m, &m, &o), NN_ERR_CALL);
    CHECK_EQ_INT(nn_infer(&m, x, y[1], 1), 0);
    CHECK_SAME_BYTES(y[1], y[0], sizeof y[0]);
    nn_free(&m);
}

/* ---- nn_fit ---------------------------------------------------------------------------------- */

enum { EPOCHS = 4, ORDER = 100 };

/* Sample i is one at place i, so the gradient of the only weights tells which sample it was. */
typedef struct order {
    int seen[EPOCHS * ORDER], n;
} order;

static int note_sample(void *user, float *grad, uint32_t count)
{
    order *o = (order *)user;
    uint32_t i, at = 0, hits = 0;

    for (i = 0; i < count; i++)
        if (grad[i] > 0 || grad[i] < 0) at = i, hits++;
    CHECK_EQ_INT(hits, 1);
    if (o->n < EPOCHS * ORDER) o->seen[o->n++] = (int)at;
    return 0;
}

static void fit_order(int n, uint64_t seed, int no_shuffle, order *seen)
{
    static float one_hot[ORDER * ORDER], five[ORDER];
    nn_layer rows[3];
    nn_opts o = options("*", NN_MSE, 1);
    nn_fit_opts f;
    nn_model m;
    int i;

    memset(rows, 0, sizeof rows);
    rows[0].op = NN_INPUT;
    rows[0].shape[0] = n;
    rows[1].op = NN_DENSE;
    rows[1].units = 1;
    rows[1].no_bias = 1;
    memset(one_hot, 0, sizeof one_hot);
    for (i = 0; i < n; i++) one_hot[i * n + i] = 1;
    for (i = 0; i < n; i++) five[i] = 5;
    o.lr = 1e-3f;
    o.momentum = 0;
    o.seed = seed;
    o.hook = note_sample;
    o.hook_user = seen;
    seen->n = 0;
    memset(&f, 0, sizeof f);
    f.x = one_hot;
    f.y = five;
    f.n = n;
    f.epochs = EPOCHS;
    f.no_shuffle = no_shuffle;
    f.quiet = 1;
    if (!build(&m, rows, &o)) return;
    CHECK_EQ_INT(nn_fit(&m, &f), 0);
    CHECK_EQ_INT(seen->n, EPOCHS * n);
    nn_free(&m);
}

TEST(fit_order_is_a_permutation)
{
    static const int sizes[] = { 1, 2, 3, 5, 16, 17, ORDER };
    static order a, b;
    size_t k;
    int e, i, n;

    for (k = 0; k < sizeof sizes / sizeof *sizes; k++) {
        n = sizes[k];
        test_note("%d samples", n);
        fit_order(n, 1, 0, &a);
        for (e = 0; e < EPOCHS; e++) {
            int hits[ORDER] = { 0 }, moved = 0;

            for (i = 0; i < n; i++) hits[a.seen[e * n + i]]++;
            for (i = 0; i < n; i++) CHECK_EQ_INT(hits[i], 1);
            for (i = 0; e && i < n; i++) moved += a.seen[e * n + i] != a.seen[(e - 1) * n + i];
            if (e && n > 5) CHECK(moved > n / 2); /* two of 16! are hardly equal */
        }
        fit_order(n, 1, 0, &b);
        CHECK_SAME_BYTES(b.seen, a.seen, (size_t)(EPOCHS * n) * sizeof(int));
        fit_order(n, 2, 0, &b);
        if (n > 5) CHECK(memcmp(b.seen, a.seen, (size_t)n * sizeof(int)) != 0);
        fit_order(n, 1, 1, &b);
        for (i = 0; i < EPOCHS * n; i++) CHECK_EQ_INT(b.seen[i], i % n);
    }
}

/* What the callback was told. */
typedef struct story {
    nn_progress told[64];
    int n, cancel_at; /* call number, from 1 */
} story;

static int note_progress(void *user, const nn_progress *p)
{
    story *s = (story *)user;

    if (s->n < 64) s->told[s->n] = *p;
    return ++s->n == s->cancel_at;
}

enum { FIT_N = 21, FIT_STEPS = 3, FIT_EPOCHS = 2, FIT_CALLS = FIT_EPOCHS * (FIT_STEPS + 1) };

static nn_fit_opts fit_options(story *s)
{
    nn_fit_opts f;

    memset(&f, 0, sizeof f);
    memset(s, 0, sizeof *s);
    f.x = x;
    f.y = label;
    f.n = FIT_N;
    f.epochs = FIT_EPOCHS;
    f.quiet = 1;
    f.progress = note_progress;
    f.user = s;
    return f;
}

/* Step number step of an unshuffled epoch. */
static void hand_step(nn_model *m, int step)
{
    int first = step * BATCH, n = FIT_N - first < BATCH ? FIT_N - first : BATCH;

    CHECK_EQ_INT(nn_train(m, x + first * PIXELS, label + first, n), 0);
}

/* Without shuffling nn_fit is the loop one would write; the last batch is what is left. */
TEST(fit_is_the_loop)
{
    static story s;
    enum { VAL = 11 };
    nn_opts o = options("*", NN_CROSS_ENTROPY, BATCH);
    nn_fit_opts f = fit_options(&s);
    nn_model m, like;
    int i, step, calls = 0;

    f.no_shuffle = 1;
    f.x_val = x + FIT_N * PIXELS;
    f.y_val = label + FIT_N;
    f.n_val = VAL;
    if (!build_net(&m, &o) || !build_net(&like, &o)) return;
    CHECK_EQ_INT(nn_fit(&m, &f), 0);
    CHECK_EQ_INT(s.n, FIT_CALLS);
    for (i = 0; i < FIT_EPOCHS; i++) {
        double sum = 0;
        int correct = 0, seen = 0;
        const nn_progress *p = s.told;

        for (step = 0; step < FIT_STEPS; step++) {
            hand_step(&like, step);
            seen += step < FIT_STEPS - 1 ? BATCH : FIT_N - 2 * BATCH;
            sum += (double)like.loss *
                   (step < FIT_STEPS - 1 ? (double)BATCH : (double)(FIT_N - 2 * BATCH));
            correct += like.correct;
            p = &s.told[calls++];
            CHECK(p->model == &m && p->epoch == i + 1 && p->epochs == FIT_EPOCHS);
            CHECK(p->step == step + 1 && p->steps == FIT_STEPS && p->epoch_end == 0);
            CHECK_CLOSE(p->loss, sum / seen, 1e-6);
            CHECK_CLOSE(p->accuracy, (double)correct / seen, 1e-6);
            CHECK(isnan(p->loss_val) && isnan(p->accuracy_val));
        }
        CHECK_EQ_INT(nn_eval(&like, f.x_val, f.y_val, VAL), 0);
        p = &s.told[calls++];
        CHECK(p->epoch == i + 1 && p->step == FIT_STEPS && p->epoch_end == 1);
        CHECK_CLOSE(p->loss, sum / FIT_N, 1e-6);
        CHECK_SAME_BYTES(&p->loss_val, &like.loss, sizeof like.loss);
        CHECK_CLOSE(p->accuracy_val, (double)like.correct / VAL, 1e-6);
    }
    check_same_model(&m, &like);
    CHECK_EQ_INT(m.step, FIT_EPOCHS * FIT_STEPS);
    nn_free(&m);
    nn_free(&like);
}

TEST(fit_without_accuracy)
{
    static story s;
    nn_opts o = options("*", NN_MSE, BATCH);
    nn_fit_opts f = fit_options(&s);
    nn_model m;

    f.y = target;
    if (!build(&m, linear_rows, &o)) return;
    CHECK_EQ_INT(nn_fit(&m, &f), 0);
    CHECK(isnan(s.told[0].accuracy) && isnan(s.told[FIT_STEPS].accuracy_val));
    CHECK(s.told[0].loss > 0);
    f.epochs = 0; /* one */
    s.n = 0;
    CHECK_EQ_INT(nn_fit(&m, &f), 0);
    CHECK_EQ_INT(s.n, FIT_STEPS + 1);
    CHECK_EQ_INT(s.told[0].epochs, 1);
    nn_free(&m);
}

TEST(fit_cancelled)
{
    static story s;
    static const int at[] = { 2, FIT_STEPS + 1, FIT_STEPS + 3 }; /* steps and an epoch's end */
    static const int steps[] = { 2, FIT_STEPS, FIT_STEPS + 2 };
    nn_opts o = options("*", NN_CROSS_ENTROPY, BATCH);
    nn_model m, like;
    int i, k;

    for (i = 0; i < 3; i++) {
        nn_fit_opts f = fit_options(&s);

        test_note("at call %d", at[i]);
        f.no_shuffle = 1;
        s.cancel_at = at[i];
        if (!build_net(&m, &o) || !build_net(&like, &o)) return;
        CHECK_EQ_INT(nn_fit(&m, &f), NN_ERR_CANCELLED);
        CHECK_EQ_INT(s.n, at[i]);
        for (k = 0; k < steps[i]; k++) hand_step(&like, k % FIT_STEPS);
        check_same_model(&m, &like);
        CHECK_EQ_INT(nn_train(&m, x, label, BATCH), 0); /* goes on */
        nn_free(&m);
        nn_free(&like);
    }
}

/* Shuffled epochs are the same ones through micro-batches, one sample at a time, and on features
   of the frozen trunk. */
TEST(fit_shuffled_in_other_ways)
{
    static const char *const rows[] = { "in", "p1", "flat" };
    static float features[FIT_N * PIXELS];
    static story s;
    nn_opts o = options("hidden head", NN_CROSS_ENTROPY, BATCH);
    nn_model like, m;
    nn_fit_opts f = fit_options(&s);
    int part, i;

    if (!build_net(&like, &o)) return;
    CHECK_EQ_INT(nn_fit(&like, &f), 0);
    for (part = 0; part <= 3; part++) {
        o.budget = part == 3 ? 0 : budget(net_rows, o, part, 3);
        test_note("budget %d", part);
        if (!build_net(&m, &o)) continue;
        f = fit_options(&s);
        CHECK_EQ_INT(nn_fit(&m, &f), 0);
        check_same_model(&m, &like);
        nn_free(&m);
        for (i = 0; i < 3; i++) {
            test_note("budget %d, from %s", part, rows[i]);
            if (!build_net(&m, &o)) continue;
            CHECK_EQ_INT(nn_infer_to(&m, rows[i], x, features, FIT_N), 0);
            f.x = features;
            f.from = rows[i];
            CHECK_EQ_INT(nn_fit(&m, &f), 0);
            check_same_model(&m, &like);
            nn_free(&m);
        }
        o.budget = 0;
    }
    f.n_val = 1;
    f.x_val = x;
    f.y_val = label;
    CHECK_EQ_INT(nn_fit(&like, &f), NN_ERR_CALL); /* held-out samples do not go with features */
    nn_free(&like);
}

/* ---- optimizer options ----------------------------------------------------------------------- */

/* Gradients of the batch at hand, by name. */
static void gradients(nn_model *m, const char *const *names, const size_t *counts, float (*g)[16])
{
    int i;

    CHECK_EQ_INT(nn_forward(m, x, target, NULL, 4), 0);
    CHECK_EQ_INT(nn_backward(m, NULL, NULL), 0);
    for (i = 0; i < 4; i++) CHECK_EQ_INT(nn_get_grad(m, names[i], g[i], counts[i]), 0);
}

/* p -= lr f (g + decay p), with factor f and decay by row; and lr changed on the way. */
TEST(rates_and_decay)
{
    static const char *const names[] = { "a.weight", "a.bias", "b.weight", "b.bias" };
    static const size_t counts[] = { 12, 4, 8, 2 };
    static const double factor[] = { 0.25, 0.25, 1, 1 }, decay[] = { 0.5, 0.5, 0, 0 };
    static float g[4][16], before[4][16], after[16];
    nn_layer rows[4];
    nn_opts o = options("*", NN_MSE, 4);
    nn_model m;
    size_t i, k, step;

    memcpy(rows, linear_rows, sizeof rows);
    rows[1].lr = 0.25f;
    rows[2].no_decay = 1;
    o.momentum = 0;
    o.weight_decay = 0.5f;
    if (!build(&m, rows, &o)) return;
    for (step = 0; step < 3; step++) {
        m.opts.lr = step == 1 ? 0.5f : 0.125f;
        CHECK_EQ_INT(nn_zero_grad(&m), 0);
        gradients(&m, names, counts, g);
        for (k = 0; k < 4; k++) CHECK_EQ_INT(nn_get(&m, names[k], before[k], counts[k]), 0);
        CHECK_EQ_INT(nn_update(&m), 0);
        for (k = 0; k < 4; k++) {
            CHECK_EQ_INT(nn_get(&m, names[k], after, counts[k]), 0);
            for (i = 0; i < counts[k]; i++) {
                double p = (double)before[k][i];

                CHECK_CLOSE(after[i],
                            p - (double)m.opts.lr * factor[k] *
                                    ((double)g[k][i] + decay[k] * p),
                            1e-6);
            }
        }
    }
    nn_free(&m);
}

/* ---- the hook -------------------------------------------------------------------------------- */

typedef struct hooked {
    int calls, answer;
    uint32_t count;
    float scale;
    double sum; /* of squares */
} hooked;

static int change_gradient(void *user, float *grad, uint32_t count)
{
    hooked *h = (hooked *)user;
    uint32_t i;

    h->calls++;
    h->count = count;
    h->sum = 0;
    for (i = 0; i < count; i++) {
        h->sum += (double)grad[i] * (double)grad[i];
        grad[i] *= h->scale;
    }
    return h->answer;
}

TEST(hook)
{
    nn_opts o = options(ALL_BUT_NORM, NN_CROSS_ENTROPY, BATCH);
    hooked h;
    nn_model m, like;
    uint32_t count;
    size_t n;
    int step, part;

    memset(&h, 0, sizeof h);
    h.scale = 0.5f;
    o.momentum = 0;
    for (part = 0; part < 2; part++) {
        o.hook = NULL;
        o.lr = 0.0625f;
        o.budget = 0;
        if (!build_net(&like, &o)) return;
        o.hook = change_gradient;
        o.hook_user = &h;
        o.lr = 0.125f;
        if (part) o.budget = budget(net_rows, o, 0, 1);
        h.calls = h.answer = 0;
        if (!build_net(&m, &o)) return;
        for (step = 0; step < 3; step++) {
            double sum = 0;
            const float *g;

            /* half the gradient at twice the rate is the same, as both are powers of two */
            CHECK_EQ_INT(nn_train(&m, x, label, BATCH), 0);
            CHECK_EQ_INT(nn_train(&like, x, label, BATCH), 0);
            check_same_model(&m, &like);
            CHECK_EQ_INT(h.calls, step + 1); /* once a step, whatever the turns */
            g = nn_flat_grad(&like, &count);
            CHECK_EQ_INT(h.count, count);
            CHECK_EQ_INT(count, ALL_PARAMETERS - 4 * 5);
            while (count--) sum += (double)g[count] * (double)g[count];
            CHECK_CLOSE(h.sum, sum, 1e-12 * sum);
        }
        /* an answer other than 0 ends the step */
        h.answer = -42;
        n = state_of(&m, state[0]);
        CHECK_EQ_INT(nn_train(&m, x, label, BATCH), -42);
        CHECK_EQ_INT(m.step, 3);
        state_of(&m, state[1]);
        CHECK_SAME_BYTES(state[1], state[0], n * sizeof(float));
        h.answer = 0;
        CHECK_EQ_INT(nn_train(&m, x, label, BATCH), 0);
        CHECK_EQ_INT(nn_train(&like, x, label, BATCH), 0);
        check_same_model(&m, &like);
        nn_free(&m);
        nn_free(&like);
    }
}

/* ---- the order of sums ----------------------------------------------------------------------- */

/* The manual's: from first to last, or, to fewer than 16 outputs, in 16 partial sums joined as
   halves; then the bias. Any other order gives other bits. */
static void check_order(int units)
{
    enum { N = 2, IN = 37, MANY = 35 };
    static float w[MANY * IN], b[MANY], y[N * MANY], want[N * MANY];
    nn_layer rows[3];
    nn_opts o = options(NULL, 0, N);
    nn_model m;
    int i, k, n, lanes = units < 16 ? 16 : 1, half;

    test_note("%d outputs", units);
    memset(rows, 0, sizeof rows);
    rows[0].op = NN_INPUT;
    rows[0].shape[0] = IN;
    rows[1].op = NN_DENSE;
    rows[1].units = units;
    if (!build(&m, rows, &o)) return;
    CHECK_EQ_INT(nn_get(&m, "dense1.weight", w, (size_t)(units * IN)), 0);
    CHECK_EQ_INT(nn_get(&m, "dense1.bias", b, (size_t)units), 0);
    for (n = 0; n < N; n++)
        for (i = 0; i < units; i++) {
            float part[16] = { 0 };

            for (k = 0; k < IN; k++)
                part[k % lanes] = fmaf(x[n * IN + k], w[i * IN + k], part[k % lanes]);
            for (half = lanes / 2; half; half /= 2)
                for (k = 0; k < half; k++) part[k] += part[k + half];
            want[n * units + i] = part[0] + b[i];
        }
    CHECK_EQ_INT(nn_infer(&m, x, y, N), 0);
    CHECK_SAME_BYTES(y, want, (size_t)(N * units) * sizeof *y);
    nn_free(&m);
}

TEST(order_of_sums)
{
    check_order(1);
    check_order(15);
    check_order(16);
    check_order(35);
}

/* ---- gradients of the input, several inputs, ops of one's own -------------------------------- */

/* A linear net: dx = scale / std W^T dy, in the caller's order, planes first. */
TEST(input_gradient)
{
    enum { H = 2, W = 2, C = 3, OUT = 2, SIZE = H * W * C, N = 3 };
    static const nn_layer rows[] = {
        { .op = NN_INPUT, .shape = { H, W, C }, .order = NN_CHW, .scale = 0.5f,
          .mean = { 0.5f, 0.25f, 0 }, .std = { 0.5f, 2, 4 } },
        { .op = NN_FLATTEN },
        { .op = NN_DENSE, .name = "d", .units = OUT },
        { 0 }
    };
    static float w[OUT * SIZE], y[N * OUT], dx[N * SIZE], want[N * SIZE];
    int i, o, k, c, trains;
    nn_model m;

    for (trains = 0; trains < 2; trains++) {
        nn_opts p = options(trains ? "*" : NULL, trains ? NN_MSE : NN_NO_LOSS, N);

        p.input_grad = 1;
        if (!build(&m, rows, &p)) return;
        CHECK_EQ_INT(nn_get(&m, "d.weight", w, OUT * SIZE), 0);
        for (i = 0; i < N; i++)
            for (k = 0; k < SIZE; k++) {
                double sum = 0;

                c = k / (H * W); /* k counts planes first, weights channels last */
                for (o = 0; o < OUT; o++)
                    sum += (double)w[o * SIZE + k % (H * W) * C + c] *
                           (double)target[i * OUT + o];
                want[i * SIZE + k] = (float)(sum * 0.5 / (double)rows[0].std[c]);
            }
        CHECK_EQ_INT(nn_forward(&m, x, NULL, y, N), 0);
        CHECK_EQ_INT(nn_backward(&m, target, dx), 0);
        CHECK_CLOSE_ARRAY(dx, want, N * SIZE, 1e-6);
        CHECK_EQ_INT(nn_backward(&m, target, dx), NN_ERR_CALL); /* no forward since */
        nn_free(&m);
        p = options("*", NN_MSE, N);
        if (!build(&m, rows, &p)) return;
        CHECK_EQ_INT(nn_forward(&m, x, target, NULL, N), 0);
        CHECK_EQ_INT(nn_backward(&m, NULL, dx), NN_ERR_CALL);
        nn_free(&m);
    }
}

/* y = relu(a(x) + x + b(x) + a(x)) with a = 2 x and b = -x: 4 x where that is positive. */
TEST(add_many)
{
    static const nn_layer rows[] = {
        { .op = NN_INPUT, .name = "in", .shape = { 4 } },
        { .op = NN_DENSE, .name = "a", .units = 4 },
        { .op = NN_DENSE, .name = "b", .from = "in", .units = 4 },
        { .op = NN_ADD, .from = "a", .with = "in b a", .act = NN_RELU },
        { 0 }
    };
    static const float v[] = { 3, -1, 0.5f, -2, 5, 6, -7, 8 };
    static const float zero[4], twice[] = { 2, 0, 0, 0, 0, 2, 0, 0, 0, 0, 2, 0, 0, 0, 0, 2 },
                       minus[] = { -1, 0, 0, 0, 0, -1, 0, 0, 0, 0, -1, 0, 0, 0, 0, -1 },
                       dy[] = { 1, 2, 3, 4, 5, 6, 7, 8 };
    static float y[8], dx[8];
    nn_model m;
    int i, trains;

    for (trains = 0; trains < 2; trains++) {
        nn_opts o = options(trains ? "*" : NULL, trains ? NN_MSE : NN_NO_LOSS, 2);

        o.input_grad = trains;
        if (!build(&m, rows, &o)) return;
        set(&m, "a.weight", twice, 16);
        set(&m, "a.bias", zero, 4);
        set(&m, "b.weight", minus, 16);
        set(&m, "b.bias", zero, 4);
        CHECK_EQ_INT(nn_infer(&m, v, y, 2), 0);
        for (i = 0; i < 8; i++) CHECK_CLOSE(y[i], v[i] > 0 ? 4 * v[i] : 0.0f, 0);
        if (trains) {
            memset(y, 0, sizeof y);
            CHECK_EQ_INT(nn_forward(&m, v, NULL, y, 2), 0);
            for (i = 0; i < 8; i++) CHECK_CLOSE(y[i], v[i] > 0 ? 4 * v[i] : 0.0f, 0);
            CHECK_EQ_INT(nn_backward(&m, dy, dx), 0);
            for (i = 0; i < 8; i++) CHECK_CLOSE(dx[i], v[i] > 0 ? 4 * dy[i] : 0.0f, 0);
        }
        nn_free(&m);
    }
}

/* Loss of the net below with the parameters p, as in its rows. */
static double square_loss(const double *p, int n)
{
    double sum = 0;
    int i, o, k;

    for (i = 0; i < n; i++) {
        double h[4];

        for (o = 0; o < 4; o++) {
            h[o] = p[12 + o];
            for (k = 0; k < 3; k++) {
                double v = (double)x[i * 3 + k];

                h[o] += p[o * 3 + k] * v * v;
            }
            h[o] *= h[o];
        }
        for (o = 0; o < 2; o++) {
            double y = p[24 + o] - (double)target[i * 2 + o];

            for (k = 0; k < 4; k++) y += p[16 + o * 4 + k] * h[k];
            sum += y * y;
        }
    }
    return sum / (n * 2);
}

/* Squares of the samples and of a hidden row; derivatives against central differences. */
TEST(own_op)
{
    static const nn_layer rows[] = {
        { .op = NN_INPUT, .shape = { 3 } }, { .op = &square_op },
        { .op = NN_DENSE, .name = "a", .units = 4 }, { .op = &square_op },
        { .op = NN_DENSE, .name = "b", .units = 2 }, { 0 },
    };
    static const nn_layer wide[] = { { .op = NN_INPUT, .shape = { 65 } }, { .op = &square_op },
                                     { 0 } };
    static const char *const names[] = { "a.weight", "a.bias", "b.weight", "b.bias" };
    static const size_t counts[] = { 12, 4, 8, 2 };
    enum { ALL = 26, N = 5 };
    static float g[ALL], want[ALL], y[2][N * 2];
    static double p[ALL];
    static unsigned char file[4096];
    static char text[512];
    nn_memory_writer writer;
    nn_opts o = options("*", NN_MSE, N);
    nn_model m, loaded, like;
    size_t i, k, at;
    int part;

    if (!build(&m, rows, &o)) return;
    for (k = 0, at = 0; k < 4; at += counts[k++]) {
        CHECK_EQ_INT(nn_get(&m, names[k], g + at, counts[k]), 0);
        for (i = 0; i < counts[k]; i++) p[at + i] = (double)g[at + i];
    }
    CHECK_EQ_INT(nn_forward(&m, x, target, NULL, N), 0);
    CHECK_EQ_INT(nn_backward(&m, NULL, NULL), 0);
    CHECK_CLOSE(m.loss, square_loss(p, N), 1e-6);
    for (k = 0, at = 0; k < 4; at += counts[k++])
        CHECK_EQ_INT(nn_get_grad(&m, names[k], g + at, counts[k]), 0);
    for (i = 0; i < ALL; i++) {
        const double kept = p[i], h = 1e-4;
        double up, down;

        p[i] = kept + h;
        up = square_loss(p, N);
        p[i] = kept - h;
        down = square_loss(p, N);
        p[i] = kept;
        want[i] = (float)((up - down) / (2 * h));
    }
    CHECK_CLOSE_ARRAY(g, want, ALL, 1e-5);
    CHECK_EQ_INT(nn_zero_grad(&m), 0);

    /* through micro-batches and updates during backward */
    CHECK_EQ_INT(nn_train(&m, x, target, N), 0);
    for (part = 0; part < 2; part++) {
        o.fuse_update = !part;
        o.budget = part ? budget(rows, o, 0, 1) : 0;
        if (!build(&like, rows, &o)) continue;
        CHECK_EQ_INT(nn_train(&like, x, target, N), 0);
        check_same_model(&like, &m);
        nn_free(&like);
    }

    /* by its name, in text and in files */
    CHECK(nn_rows_text(rows, text, sizeof text) < (int64_t)sizeof text);
    CHECK(strstr(text, ";square sq1 input1;") && strstr(text, ";square sq2 a;"));
    writer.bytes = file;
    writer.capacity = sizeof file;
    writer.size = 0;
    CHECK(nn_save(&m, 0, nn_write_memory, &writer) > 0);
    o = options(NULL, 0, N);
    if (CHECK_EQ_INT(nn_load(&loaded, file, writer.size, &o), 0)) {
        CHECK_EQ_INT(nn_infer(&m, x, y[0], N), 0);
        CHECK_EQ_INT(nn_infer(&loaded, x, y[1], N), 0);
        CHECK_SAME_BYTES(y[1], y[0], sizeof y[0]);
        nn_free(&loaded);
    }
    nn_free(&m);

    CHECK_EQ_INT(nn_build(&m, wide, &o), NN_ERR_ROW);
    CHECK_EQ_STR(why, "row 1 (square \"sq1\"): squares at most 64 channels");
}

/* ---- dropout --------------------------------------------------------------------------------- */

enum { DROPS = 1000, DROP_BATCH = 4, DRAWN = DROPS * DROP_BATCH };

/* The identity, then one dropout or two. y[i]: 1 over what is kept, or 0. */
static int build_dropout(nn_model *m, float rate, int twice, uint64_t seed, nn_layer *rows)
{
    static const float one = 1;
    nn_opts o = options("*", NN_MSE, DROP_BATCH);

    memset(rows, 0, 5 * sizeof *rows);
    rows[0].op = NN_INPUT;
    rows[0].shape[0] = DROPS;
    rows[0].shape[1] = 1;
    rows[1].op = NN_DENSE;
    rows[1].units = 1;
    rows[1].no_bias = 1;
    rows[2].op = NN_DROPOUT;
    rows[2].rate = rate;
    if (twice) rows[3] = rows[2];
    o.input_grad = 1;
    o.seed = seed;
    if (!build(m, rows, &o)) return 0;
    set(m, "dense1.weight", &one, 1);
    return 1;
}

/* How many of n are kept in both or in neither. */
static double agreement(const float *a, const float *b, int n)
{
    int i, same = 0;

    for (i = 0; i < n; i++) same += (a[i] > 0) == (b[i] > 0);
    return (double)same / n;
}

TEST(dropout)
{
    static const float rates[] = { 0.1f, 0.5f, 0.9f };
    static float ones[DRAWN], y[2][DRAWN], dx[DRAWN];
    nn_layer rows[5];
    nn_model m;
    int i, k;

    for (i = 0; i < DRAWN; i++) ones[i] = 1;
    for (k = 0; k < 3; k++) {
        const double r = (double)rates[k], kept_bound = 5 * sqrt(r * (1 - r) / DRAWN),
                     alike = r * r + (1 - r) * (1 - r);
        const double alike_bound = 5 * sqrt(alike * (1 - alike) / DROPS);
        double kept = 0, sum = 0;

        test_note("rate %g", r);
        if (!build_dropout(&m, rates[k], 0, 1, rows)) return;
        CHECK_EQ_INT(nn_forward(&m, ones, NULL, y[0], DROP_BATCH), 0);
        for (i = 0; i < DRAWN; i++) {
            sum += (double)y[0][i];
            kept += y[0][i] > 0;
            CHECK(y[0][i] >= 0 && (y[0][i] <= 0 || fabs((double)y[0][i] * (1 - r) - 1) < 1e-6));
        }
        CHECK_CLOSE(kept / DRAWN, 1 - r, kept_bound);
        CHECK_CLOSE(sum / DRAWN, 1, kept_bound / (1 - r));
        /* backward: the same mask and factor */
        CHECK_EQ_INT(nn_backward(&m, ones, dx), 0);
        CHECK_SAME_BYTES(dx, y[0], sizeof dx);
        /* other samples, steps and seeds: other masks; two rows of one sample as well */
        for (i = 1; i < DROP_BATCH; i++)
            CHECK_CLOSE(agreement(y[0], y[0] + i * DROPS, DROPS), alike, alike_bound);
        CHECK_EQ_INT(nn_zero_grad(&m), 0);
        CHECK_EQ_INT(nn_forward(&m, ones, NULL, y[1], DROP_BATCH), 0);
        CHECK_SAME_BYTES(y[1], y[0], sizeof y[0]); /* the same step again */
        CHECK_EQ_INT(nn_backward(&m, ones, NULL), 0);
        m.opts.lr = 0;
        CHECK_EQ_INT(nn_update(&m), 0);
        CHECK_EQ_INT(nn_forward(&m, ones, NULL, y[1], DROP_BATCH), 0);
        CHECK_CLOSE(agreement(y[1], y[0], DRAWN), alike, alike_bound);
        CHECK_EQ_INT(nn_infer(&m, ones, y[1], DROP_BATCH), 0);
        CHECK_SAME_BYTES(y[1], ones, sizeof ones);
        nn_free(&m);

        if (!build_dropout(&m, rates[k], 0, 2, rows)) return;
        CHECK_EQ_INT(nn_forward(&m, ones, NULL, y[1], DROP_BATCH), 0);
        CHECK_CLOSE(agreement(y[1], y[0], DRAWN), alike, alike_bound);
        nn_free(&m);

        if (!build_dropout(&m, rates[k], 1, 1, rows)) return;
        CHECK_EQ_INT(nn_forward(&m, ones, NULL, y[1], DROP_BATCH), 0);
        for (kept = 0, i = 0; i < DRAWN; i++) kept += y[1][i] > 0;
        CHECK_CLOSE(kept / DRAWN, (1 - r) * (1 - r), kept_bound);
        nn_free(&m);
    }
}

/* ---- initial values -------------------------------------------------------------------------- */

/* Uniform between -bound and bound: extremes, mean and variance, each within five deviations. */
static void check_uniform(const nn_model *m, const char *name, size_t n, double bound)
{
    static float v[STATE];
    double sum = 0, squares = 0, most = 0, least = 0;
    size_t i;

    test_note("%s", name);
    if (!CHECK_EQ_INT(nn_get(m, name, v, n), 0)) return;
    for (i = 0; i < n; i++) {
        double d = (double)v[i];

        sum += d;
        squares += d * d;
        if (d > most) most = d;
        if (d < least) least = d;
    }
    CHECK(most <= bound * (1 + 1e-6) && least >= -bound * (1 + 1e-6));
    if (n < 1000) return;
    CHECK(most > bound * (1 - 15.0 / (double)n) && least < -bound * (1 - 15.0 / (double)n));
    CHECK_CLOSE(sum / (double)n, 0, 5 * bound / sqrt(3.0 * (double)n));
    CHECK_CLOSE(squares / (double)n, bound * bound / 3,
                5 * bound * bound * sqrt(4.0 / 45 / (double)n));
}

static void check_all(const nn_model *m, const char *name, size_t n, float value)
{
    static float v[64];
    size_t i;

    test_note("%s", name);
    CHECK_EQ_INT(nn_get(m, name, v, n), 0);
    for (i = 0; i < n; i++) CHECK_CLOSE(v[i], value, 0);
}

TEST(initial_values)
{
    static const nn_layer rows[] = {
        { .op = NN_INPUT, .shape = { 4, 4, 8 } },
        { .op = NN_CONV2D, .name = "c", .units = 32, .kernel = { 3, 2 }, .pad = { 1, 1, 1, 0 } },
        { .op = NN_BATCHNORM, .name = "n" },
        { .op = NN_CONV2D, .name = "g", .units = 32, .kernel = { 3 }, .pad = { 1, 1, 1, 1 },
          .groups = 4 },
        { .op = NN_FLATTEN },
        { .op = NN_DENSE, .name = "d", .units = 32 },
        { .op = NN_DENSE, .name = "e", .units = 32 },
        { .op = NN_DENSE, .name = "f", .units = 32 },
        { 0 }
    };
    static float a[1024], b[1024];
    nn_opts o = options(NULL, 0, 1);
    nn_model m;

    if (!build(&m, rows, &o)) return;
    check_uniform(&m, "c.weight", 32 * 8 * 6, 1 / sqrt(8.0 * 6));
    check_uniform(&m, "c.bias", 32, 1 / sqrt(8.0 * 6));
    check_uniform(&m, "g.weight", 32 * 8 * 9, 1 / sqrt(8.0 * 9));
    check_uniform(&m, "d.weight", 32 * 512, 1 / sqrt(512.0));
    check_uniform(&m, "d.bias", 32, 1 / sqrt(512.0));
    check_uniform(&m, "e.weight", 32 * 32, 1 / sqrt(32.0));
    check_all(&m, "n.weight", 32, 1);
    check_all(&m, "n.bias", 32, 0);
    check_all(&m, "n.running_mean", 32, 0);
    check_all(&m, "n.running_var", 32, 1);
    /* rows of one shape, and seeds, differ; a bias is not zero */
    CHECK_EQ_INT(nn_get(&m, "e.weight", a, 1024), 0);
    CHECK_EQ_INT(nn_get(&m, "f.weight", b, 1024), 0);
    CHECK(memcmp(a, b, sizeof a) != 0);
    CHECK_EQ_INT(nn_get(&m, "e.bias", b, 32), 0);
    CHECK(b[0] > 0 || b[0] < 0);
    nn_free(&m);
    o.seed++;
    if (!build(&m, rows, &o)) return;
    CHECK_EQ_INT(nn_get(&m, "e.weight", b, 1024), 0);
    CHECK(memcmp(a, b, sizeof a) != 0);
    nn_free(&m);

    o.init = NN_INIT_KERAS;
    if (!build(&m, rows, &o)) return;
    check_uniform(&m, "c.weight", 32 * 8 * 6, sqrt(6 / (8.0 * 6 + 32 * 6)));
    check_all(&m, "c.bias", 32, 0);
    check_uniform(&m, "d.weight", 32 * 512, sqrt(6 / (512.0 + 32)));
    check_uniform(&m, "e.weight", 32 * 32, sqrt(6 / (32.0 + 32)));
    check_all(&m, "d.bias", 32, 0);
    check_all(&m, "n.weight", 32, 1);
    check_all(&m, "n.running_var", 32, 1);
    nn_free(&m);
}

/* ---- text ------------------------------------------------------------------------------------ */

typedef struct page {
    char text[4096];
    size_t n;
} page;

static int write_page(void *user, const void *bytes, size_t size)
{
    page *p = (page *)user;

    if (size >= sizeof p->text - p->n) return 1;
    memcpy(p->text + p->n, bytes, size);
    p->n += size;
    p->text[p->n] = '\0';
    return 0;
}

static int refuse_page(void *user, const void *bytes, size_t size)
{
    (void)user, (void)bytes, (void)size;
    return 1;
}

TEST(print)
{
    static const nn_layer rows[] = {
        { .op = NN_INPUT, .shape = { 6, 6, 2 } },
        { .op = NN_CONV2D, .units = 5, .kernel = { 3 }, .act = NN_RELU },
        { .op = NN_BATCHNORM },
        { .op = NN_MAXPOOL2D, .kernel = { 2 } },
        { .op = NN_FLATTEN },
        { .op = NN_DENSE, .name = "a", .units = 20 },
        { .op = NN_DENSE, .name = "b", .units = 20, .share = "a" },
        { .op = NN_DENSE, .name = "head", .units = 4, .no_bias = 1 },
        { 0 }
    };
    static page p;
    char last[96];
    const char *lines[] = {
        "row  name              op             output        parameters",
        "0    input1            input          6x6x2         0",
        "1    conv1             conv2d         4x4x5         95",
        "2    norm1             batchnorm      4x4x5         20 trains",
        "3    pool1             maxpool2d      2x2x5         0",
        "4    flatten1          flatten        20            0",
        "5    a                 dense          20            420 shared",
        "6    b                 dense          20            420 shared",
        "7    head              dense          4             80 trains",
        last,
    };
    nn_opts o = options("norm1 head", NN_CROSS_ENTROPY, 2);
    nn_model m;
    char *line, *end;
    size_t i;

    if (!build(&m, rows, &o)) return;
    /* of 95 + 20 + 420 + 80; a running statistic is a parameter that moves, but does not train */
    snprintf(last, sizeof last, "615 parameters, %d of them train; block of %lu bytes", 5 + 5 + 80,
             (unsigned long)m.block_size);
    p.n = 0;
    CHECK_EQ_INT(nn_print(&m, write_page, &p), 0);
    for (line = p.text, i = 0; *line && i < sizeof lines / sizeof *lines; line = end + 1, i++) {
        end = strchr(line, '\n');
        if (!CHECK(end != NULL)) break;
        *end = '\0';
        CHECK_EQ_STR(line, lines[i]);
    }
    CHECK(!*line && i == sizeof lines / sizeof *lines);
    CHECK_EQ_INT(nn_print(&m, refuse_page, NULL), NN_ERR_IO);
    nn_free(&m);
}

/* Every op with every field it has, none at its default. */
static const nn_layer all_rows[] = {
    { .op = NN_INPUT, .name = "in", .shape = { 9, 8, 2 }, .type = NN_U8, .order = NN_CHW,
      .scale = 1 / 255.0f, .mean = { 0.1f, -0.2f }, .std = { 0.5f, 0.25f } },
    { .op = NN_CONV2D, .units = 4, .act = NN_LEAKY_RELU, .slope = 0.2f, .kernel = { 3, 2 },
      .stride = { 1, 2 }, .dilation = { 2, 1 }, .pad = { 2, 1, 2, 1 }, .groups = 2, .lr = 0.5f,
      .no_decay = 1 },
    { .op = NN_BATCHNORM, .eps = 1e-3f, .momentum = 0.01f, .biased = 1, .act = NN_LEAKY_RELU,
      .slope = 0.3f, .lr = 0.1f, .no_decay = 1 },
    { .op = NN_MAXPOOL2D, .kernel = { 3, 2 }, .stride = { 2, 1 }, .pad = { 1, 0, 2, 1 } },
    { .op = NN_AVGPOOL2D, .kernel = { 2, 3 }, .stride = { 1, 2 }, .pad = { 1, 2, 0, 1 },
      .count_pad = 1 },
    { .op = NN_CONV2D, .name = "depth.wise/1-a", .units = 4, .kernel = { 1 }, .groups = 4,
      .no_bias = 1 },
    { .op = NN_ACTIVATION, .act = NN_LEAKY_RELU, .slope = 0.015625f },
    { .op = NN_ADD, .from = "act1", .with = "avgpool1 depth.wise/1-a", .act = NN_LEAKY_RELU,
      .slope = 0.4f },
    { .op = NN_DROPOUT, .rate = 0.3f },
    { .op = NN_GLOBALAVGPOOL },
    { .op = NN_FLATTEN, .from = "dropout1", .order = NN_CHW },
    { .op = NN_DENSE, .name = "d", .from = "gap1", .units = 4, .act = NN_LEAKY_RELU,
      .slope = 0.1f, .no_bias = 1, .lr = 3, .no_decay = 1 },
    { .op = NN_DENSE, .name = "e", .units = 4, .share = "d", .no_bias = 1 },
    { .op = NN_DENSE, .name = "f", .from = "flatten1", .units = 4, .act = NN_TANH },
    { .op = NN_ADD, .name = "end", .from = "f", .with = "e" },
    { .op = &square_op },
    { 0 }
};

/* FNV-1a, from its definition. */
static uint64_t fnv(const char *text)
{
    uint64_t h = UINT64_C(14695981039346656037);

    for (; *text; text++) h = (h ^ (unsigned char)*text) * UINT64_C(1099511628211);
    return h;
}

TEST(rows_as_text)
{
    static const nn_op *const ops[] = { NN_OPS };
    static char text[4096], again[4096], small[16];
    nn_opts o = options(NULL, 0, 1);
    nn_model m;
    uint32_t i, rows = sizeof all_rows / sizeof *all_rows - 1;
    int64_t length;
    size_t k;

    /* the table is complete */
    for (k = 0; k < sizeof ops / sizeof *ops; k++) {
        uint32_t fields = 0;
        int f;

        for (i = 0; i < rows; i++)
            for (f = 0; f < NN__FIELD_COUNT; f++)
                if (all_rows[i].op == ops[k] && nn__field_given(&all_rows[i], &nn__fields[f]))
                    fields |= 1u << f;
        test_note("%s", ops[k]->name);
        CHECK_EQ_INT(fields, ops[k]->fields);
    }
    test_note("");

    length = nn_rows_text(all_rows, text, sizeof text);
    CHECK_EQ_INT(length, strlen(text));
    CHECK_EQ_INT(nn_rows_text(all_rows, NULL, 0), length);
    CHECK_EQ_INT(nn_rows_text(all_rows, small, sizeof small), length);
    CHECK(memcmp(small, text, sizeof small - 1) == 0 && small[sizeof small - 1] == '\0');
    CHECK(nn_rows_hash(all_rows) == fnv(text));
    CHECK(strncmp(text, "1;input in - shape=9,8,2 type=u8 order=chw scale=x3b808081 ", 59) == 0);
    CHECK(strstr(text, ";conv2d conv1 in units=4 act=leaky_relu slope=x3e4ccccd kernel=3,2 "
                       "stride=1,2 dilation=2,1 pad=2,1,2,1 groups=2 lr=x3f000000 no_decay=1;"));
    CHECK(strstr(text, ";add add1 act1,avgpool1,depth.wise/1-a act=leaky_relu "));
    CHECK(strstr(text, ";dense e d share=d units=4 no_bias=1;"));

    if (!CHECK_EQ_INT(nn_build_text(&m, text, &o), 0)) {
        printf("%s\n", why);
        return;
    }
    CHECK_EQ_INT(m.row_count, rows);
    for (i = 0; i < rows && i < m.row_count; i++) {
        const size_t first = offsetof(nn_layer, shape),
                     end = offsetof(nn_layer, no_decay) + sizeof(int32_t);

        test_note("row %u", (unsigned)i);
        CHECK(m.rows[i].op == all_rows[i].op);
        CHECK_SAME_BYTES((const char *)&m.rows[i] + first, (const char *)&all_rows[i] + first,
                         end - first);
    }
    test_note("");
    CHECK_EQ_INT(nn_rows_text(m.rows, again, sizeof again), length);
    CHECK_EQ_STR(again, text);
    CHECK(nn_rows_hash(m.rows) == nn_rows_hash(all_rows));
    nn_free(&m);
    CHECK(nn_rows_hash(net_rows) != nn_rows_hash(all_rows));
}

/* ---- constant plans --------------------------------------------------------------------------

   A plan here is what a built model says about itself, its tables copied out of the block. The
   offsets stay, so its block is as large as the model's, with a hole where the tables lay. Outputs,
   states, training steps and files must then be the same to the bit, and the copies unchanged:
   constant data is what they are on a microcontroller. */

enum { PLAN_BLOCK = 1 << 16, PLAN_TABLE = 1 << 13, PLAN_STEPS = 4 };

static const nn_layer w1_rows[] = {
    { .op = NN_INPUT, .shape = { 10 } },
    { .op = NN_DENSE, .name = "a", .units = 64, .act = NN_RELU },
    { .op = NN_DENSE, .name = "head", .units = 1 },
    { 0 }
};

static const nn_layer stream_rows[] = {
    { .op = NN_INPUT, .shape = { 5, 3 } },
    { .op = NN_LSTM, .units = 7, .layers = 2 },
    { .op = NN_GRU, .units = 5, .last = 1 },
    { .op = NN_DENSE, .name = "head", .units = 2 },
    { 0 }
};

static const nn_layer word_rows[] = {
    { .op = NN_INPUT, .shape = { 9 }, .type = NN_I32 },
    { .op = NN_EMBEDDING, .units = 6, .vocab = CLASSES, .pad_id = NN_ID(0), .mask = 1,
      .sparse = 1 },
    { .op = NN_CONV1D, .units = 5, .kernel = { 3 }, .act = NN_RELU },
    { .op = NN_GLOBALMAXPOOL },
    { .op = NN_DENSE, .name = "head", .units = 1 },
    { 0 }
};

static const nn_layer *const plan_nets[] = { w1_rows, net_rows, stream_rows, word_rows };

enum { PLAN_NETS = sizeof plan_nets / sizeof *plan_nets };

/* What a program would have as constants; before: the tensors at first. */
static struct {
    nn_plan plan;
    union { /* aligned for every table */
        nn_tensor tensor[PLAN_TABLE / sizeof(nn_tensor)];
        unsigned char bytes[PLAN_TABLE];
    } tensor, before, row, input, cmd;
} made;
NN_ALIGN static unsigned char plan_block[PLAN_BLOCK];

static size_t cmds_of(const nn_model *m)
{
    return m->infer_count + m->forward_count + m->backward_count + m->update_count;
}

static void copy_table(void *to, const void *from, size_t size)
{
    if (CHECK(size <= PLAN_TABLE)) memcpy(to, from, size);
}

/* The model as constants: fields by their names, tables copied. */
static void make_plan(const nn_model *m, void (*init)(nn_model *))
{
    nn_plan *p = &made.plan;

    memset(&made, 0, sizeof made);
    p->rows = m->rows;
    copy_table(&made.row, m->row, m->row_count * sizeof *m->row);
    copy_table(&made.input, m->input, m->input_count * sizeof *m->input);
    copy_table(&made.tensor, m->tensor, m->tensor_count * sizeof *m->tensor);
    copy_table(&made.before, m->tensor, m->tensor_count * sizeof *m->tensor);
    copy_table(&made.cmd, m->cmd, cmds_of(m) * sizeof *m->cmd);
    p->row = (const nn_row *)(const void *)&made.row;
    p->input = (const uint16_t *)(const void *)&made.input;
    p->tensor = (const nn_tensor *)(const void *)&made.tensor;
    p->cmd = (const nn_cmd *)(const void *)&made.cmd;
    p->weights = m->opts.weights;
    p->init = init;
    p->opts = m->opts;
    p->opts.weights = NULL;
    p->opts.why = NULL;
    p->memory = (uint32_t)m->block_size;
    p->row_count = m->row_count;
    p->input_count = m->input_count;
    p->tensor_count = m->tensor_count;
    p->infer_count = m->infer_count;
    p->forward_count = m->forward_count;
    p->backward_count = m->backward_count;
    p->update_count = m->update_count;
    p->grad_offset = m->grad_offset;
    p->grad_count = m->grad_count;
    p->state_offset = m->state_offset;
    p->state_count = m->state_count;
    p->moves_end = m->moves_end;
    p->loss_offset = m->loss_offset;
    p->carry_offset = m->carry_offset;
    p->carry_size = m->carry_size;
    p->micro = m->micro;
    p->tight = m->tight;
    p->in_size = m->in_size;
    p->out_size = m->out_size;
}

/* The model, its initial weights an image of constants, and the one from its plan. */
static int build_both(nn_model *built, nn_model *opened, const nn_layer *rows, nn_opts *o,
                      void (*init)(nn_model *))
{
    static float image[STATE];
    nn_opts plain = options(NULL, 0, 1);
    nn_model m;

    if (!build(&m, rows, &plain)) return 0;
    o->weights_size = state_of(&m, image) * sizeof *image;
    o->weights = image;
    o->in_place = 1;
    nn_free(&m);
    if (!build(built, rows, o)) return 0;
    make_plan(built, init);
    memset(plan_block, 0xa5, sizeof plan_block);
    memset(opened, 0xa5, sizeof *opened);
    return CHECK(built->block_size < PLAN_BLOCK) &&
           CHECK_EQ_INT(nn_open(opened, &made.plan, plan_block, built->block_size), 0);
}

static const void *plan_samples(const nn_layer *rows)
{
    return rows == word_rows ? (const void *)label : (const void *)x;
}

/* Tables are as they were; tensors too, unless there are gradients. Nothing is behind the block. */
static void check_constant(const nn_model *built, int tensors_too)
{
    size_t k = built->block_size;

    CHECK_SAME_BYTES(&made.row, built->row, built->row_count * sizeof *built->row);
    CHECK_SAME_BYTES(&made.input, built->input, built->input_count * sizeof *built->input);
    CHECK_SAME_BYTES(&made.cmd, built->cmd, cmds_of(built) * sizeof *built->cmd);
    if (tensors_too)
        CHECK_SAME_BYTES(&made.tensor, &made.before, built->tensor_count * sizeof(nn_tensor));
    while (k < PLAN_BLOCK && plan_block[k] == 0xa5) k++;
    CHECK_EQ_INT(k, PLAN_BLOCK);
}

static void check_same_outputs(nn_model *built, nn_model *opened)
{
    float y[2][BATCH * 4];

    CHECK_EQ_INT(nn_infer(built, plan_samples(built->rows), y[0], 5), 0);
    CHECK_EQ_INT(nn_infer(opened, plan_samples(built->rows), y[1], 5), 0);
    CHECK_SAME_BYTES(y[1], y[0], (size_t)(5 * built->out_size) * sizeof(float));
    CHECK(nn_digest(opened) == nn_digest(built) && nn_digest(built) != 0);
}

TEST(plan_inference)
{
    nn_model built, opened;
    nn_opts o;
    int i;

    for (i = 0; i < PLAN_NETS; i++) {
        test_note("net %d", i);
        o = options(NULL, 0, 3);
        if (!build_both(&built, &opened, plan_nets[i], &o, NULL)) continue;
        check_same_outputs(&built, &opened);
        check_constant(&built, 1);
        nn_free(&opened); /* nothing of it was allocated */
        nn_free(&built);
    }
}

TEST(plan_stream)
{
    enum { STREAMS = 3, STATES = STREAMS * 2 * 2 * 7 + STREAMS * 5 };
    float states[2][STATES], y[2][STREAMS * 2];
    nn_model built, opened;
    nn_opts o = options(NULL, 0, STREAMS);
    int s;

    o.steps = 1;
    o.stateful = 1;
    if (!build_both(&built, &opened, stream_rows, &o, NULL)) return;
    CHECK_EQ_INT(STREAMS * nn_state_size(&built), STATES);
    CHECK_EQ_INT(nn_state_size(&opened), nn_state_size(&built));
    for (s = 0; s < 6; s++) {
        if (s == 4) CHECK(nn_reset(&built) == 0 && nn_reset(&opened) == 0);
        CHECK_EQ_INT(nn_step(&built, x + 3 * STREAMS * s, y[0], STREAMS), 0);
        CHECK_EQ_INT(nn_step(&opened, x + 3 * STREAMS * s, y[1], STREAMS), 0);
        CHECK_SAME_BYTES(y[1], y[0], sizeof y[0]);
        CHECK_EQ_INT(nn_get_state(&built, states[0], STREAMS), 0);
        CHECK_EQ_INT(nn_get_state(&opened, states[1], STREAMS), 0);
        CHECK_SAME_BYTES(states[1], states[0], sizeof states[0]);
    }
    check_constant(&built, 1);
    nn_free(&opened);
    nn_free(&built);
}

/* Everything or a head, by SGD or Adam, with gradients or during backward, where tensors are
   constant. Dropout included. */
TEST(plan_training)
{
    static unsigned char file[2][1 << 16];
    nn_memory_writer w[2];
    nn_model built, opened;
    nn_opts o;
    int i, way, k;

    for (i = 0; i < 8 * PLAN_NETS; i++) {
        const nn_layer *rows = plan_nets[i / 8];
        const void *samples = plan_samples(rows);
        const int classes = rows == net_rows;

        way = i % 8;
        o = options(way & 1 ? "head" : "*", classes ? NN_CROSS_ENTROPY : NN_MSE, 3);
        o.fuse_update = way >> 1 & 1;
        o.optimizer = way & 4 ? NN_ADAM : NN_SGD;
        o.momentum = rows == word_rows ? 0 : 0.5f;
        test_note("net %d, way %d", i / 8, way);
        if (!build_both(&built, &opened, rows, &o, nn_plan_init)) continue;
        for (k = 0; k < PLAN_STEPS; k++) {
            const void *targets = classes ? (const void *)label : (const void *)target;

            CHECK_EQ_INT(nn_train(&built, samples, targets, 3 - k % 2), 0);
            CHECK_EQ_INT(nn_train(&opened, samples, targets, 3 - k % 2), 0);
            CHECK_SAME_BYTES(&opened.loss, &built.loss, sizeof built.loss);
        }
        check_same_model(&opened, &built);
        check_same_outputs(&built, &opened);
        check_constant(&built, o.fuse_update);
        for (k = 0; k < 2; k++) {
            w[k].bytes = file[k];
            w[k].capacity = sizeof file[k];
            w[k].size = 0;
            CHECK(nn_save(k ? &opened : &built, 1, nn_write_memory, &w[k]) > 0);
        }
        CHECK_EQ_INT(w[1].size, w[0].size);
        CHECK_SAME_BYTES(file[1], file[0], w[0].size);
        nn_free(&opened);
        nn_free(&built);
    }
}

TEST(plan_errors)
{
    nn_model built, opened, zero;
    nn_opts o = options(NULL, 0, 1);
    const void *weights;
    size_t size;

    if (!build_both(&built, &opened, w1_rows, &o, NULL)) return;
    size = built.block_size;
    weights = made.plan.weights;
    memset(&zero, 0, sizeof zero);
    memset(plan_block, 0xa5, sizeof plan_block);
    CHECK_EQ_INT(nn_open(NULL, &made.plan, plan_block, size), NN_ERR_CALL);
    CHECK_EQ_INT(nn_open(&opened, NULL, plan_block, size), NN_ERR_CALL);
    CHECK_EQ_INT(nn_open(&opened, &made.plan, NULL, size), NN_ERR_CALL);
    CHECK_EQ_INT(nn_open(&opened, &made.plan, plan_block, size - 1), NN_ERR_MEMORY);
    CHECK_SAME_BYTES(&opened, &zero, sizeof zero);
    CHECK_EQ_INT(nn_open(&opened, &made.plan, plan_block, 0), NN_ERR_MEMORY);
    memset(&opened, 0xa5, sizeof opened);
    CHECK_EQ_INT(nn_open(&opened, &made.plan, plan_block + 4, size), NN_ERR_ALIGN);
    CHECK_SAME_BYTES(&opened, &zero, sizeof zero);
    CHECK_EQ_INT(nn_open(&opened, &made.plan, plan_block + 8, size), NN_ERR_ALIGN);
    made.plan.weights = (const unsigned char *)weights + 2;
    CHECK_EQ_INT(nn_open(&opened, &made.plan, plan_block, size), NN_ERR_ALIGN);
    made.plan.weights = weights;
    CHECK(plan_block[0] == 0xa5 && plan_block[size - 1] == 0xa5);
    CHECK_EQ_INT(nn_open(&opened, &made.plan, plan_block, PLAN_BLOCK), 0); /* more is fine */
    check_same_outputs(&built, &opened);
    CHECK(plan_block[size] == 0xa5);
    nn_free(&opened);
    CHECK_SAME_BYTES(&opened, &zero, sizeof zero);
    nn_free(&built);
}

int main(int argc, char **argv)
{
    test_begin(argc, argv);
    make_samples();
    RUN(infer_any_count);
    RUN(infer_in_pieces);
    RUN(infer_to_and_from);
    RUN(infer_to_inside_a_convolution);
    RUN(eval);
    RUN(train_in_pieces);
    RUN(micro_batches);
    RUN(accumulated_halves);
    RUN(calls_between_the_parts);
    RUN(forward_answers_the_output);
    RUN(train_from);
    RUN(dropout_and_frozen_rows);
    RUN(train_from_with_input_grad);
    RUN(interleaved);
    RUN(snapshot);
    RUN(digest);
    RUN(kernels);
    RUN(clone);
    RUN(clone_onto_itself);
    RUN(fit_order_is_a_permutation);
    RUN(fit_is_the_loop);
    RUN(fit_without_accuracy);
    RUN(fit_cancelled);
    RUN(fit_shuffled_in_other_ways);
    RUN(order_of_sums);
    RUN(rates_and_decay);
    RUN(hook);
    RUN(input_gradient);
    RUN(add_many);
    RUN(own_op);
    RUN(dropout);
    RUN(initial_values);
    RUN(print);
    RUN(rows_as_text);
    RUN(plan_inference);
    RUN(plan_stream);
    RUN(plan_training);
    RUN(plan_errors);
    return test_end();
}
