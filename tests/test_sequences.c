/* test_sequences.c - embeddings, LSTM, GRU and RNN: agreement with PyTorch and Keras, and bits;
   likewise convolutions and pools along a sequence, and sparse gradients of embeddings

   Runs every case of golden/sequences.safetensors and golden/keras.safetensors and compares with
   what those libraries computed: outputs, states, gradients, and after some steps of training the
   losses and parameters. A case is rows and options as text in the file, as in test_golden.c;
   golden/make_sequences.py and golden/make_keras.py make the files. The tests behind them compare
   nn.h with itself where it must give the same bits: streams with whole sequences, parts with
   wholes, whatever lies behind a sample's length. */

#ifndef NN_LINKED
#define NN_IMPLEMENTATION
#endif
#include "nn.h"

#include "test.h"

#define GOLDEN_FOLDER "tests/golden/"

/* Those of test_golden.c. A tensor: max|a - b| / max|b|. A loss: |a - b| / first loss. */
static const double tensor_bound = 1e-5, loss_bound = 1e-4;

enum { MAX_TENSORS = 24 };
enum { X, TARGET, DY, STATE, FIRST_TENSOR }; /* streams of made-up values */

typedef struct net_case {
    const char *name, *rows, *options;
    uint32_t seed;
    int tensors;
    struct {
        char name[64];
        size_t count, stride;
        float amplitude, center;
        int trains;
    } tensor[MAX_TENSORS];
} net_case;

/* One case being run. */
typedef struct job {
    const golden *g;
    const net_case *c;
    nn_model m;
    int steps, batches;
    int n;                      /* samples of a batch */
    size_t xs, outs, targets;   /* elements of a batch */
    unsigned char *x, *target;  /* of all batches; all elements have four bytes */
    int32_t *lengths;           /* of all batches, or NULL */
    float *out, *dx;            /* of a batch */
    float *state, *state_after; /* of a batch, or NULL */
    char why[256];
} job;

/* The largest error met, by what is compared: printed at the end. */
enum { OUTPUT, END_STATE, LOSS, GRADIENT, INPUT_GRADIENT, TRAINED_LOSS, TRAINED, KINDS };
static const char *const kind_name[KINDS] = {
    "outputs",         "states",             "first loss",      "gradients",
    "input gradients", "losses in training", "trained tensors",
};
static struct {
    double error;
    char where[96];
} worst[KINDS];

/* ---- cases as text --------------------------------------------------------------------------- */

/* Text of "key=value" among the options, the last one if there are several, or "". */
static const char *option(const net_case *c, const char *key, char *value, size_t size) {
    size_t length = strlen(key), n = 0;
    const char *p = c->options;

    while ((p = strstr(p, key)) != NULL) {
        if ((p == c->options || p[-1] == ' ') && p[length] == '=')
            for (p += length + 1, n = 0; *p && *p != ' ' && n + 1 < size; p++) value[n++] = *p;
        else p += length;
    }
    value[n] = '\0';
    return value;
}

static float real_option(const net_case *c, const char *key) {
    char value[32];

    return strtof(option(c, key, value, sizeof value), NULL);
}

static int int_option(const net_case *c, const char *key, int absent) {
    char value[32];

    return *option(c, key, value, sizeof value) ? atoi(value) : absent;
}

/* Whether "key=value" is among the options. */
static int chosen(const net_case *c, const char *key, const char *value) {
    char own[32];

    return strcmp(option(c, key, own, sizeof own), value) == 0;
}

static nn_opts options_of(const net_case *c, char *train, size_t train_size) {
    nn_opts o;
    char *comma;

    memset(&o, 0, sizeof o);
    o.batch = int_option(c, "batch", 0);
    if (!*option(c, "train", train, train_size)) strcpy(train, "*");
    while ((comma = strchr(train, ',')) != NULL) *comma = ' ';
    o.train = train;
    if (chosen(c, "loss", "mse")) o.loss = NN_MSE;
    if (chosen(c, "loss", "bce")) o.loss = NN_BCE;
    if (chosen(c, "loss", "cross_entropy")) o.loss = NN_CROSS_ENTROPY;
    o.optimizer = chosen(c, "optimizer", "adam") ? NN_ADAM : NN_SGD;
    o.eps_mode = chosen(c, "eps_mode", "keras") ? NN_EPS_KERAS : NN_EPS_PYTORCH;
    o.lr = real_option(c, "lr");
    o.momentum = real_option(c, "momentum");
    o.weight_decay = real_option(c, "weight_decay");
    o.input_grad = int_option(c, "input_grad", 0);
    o.stateful = int_option(c, "stateful", 0);
    return o;
}

/* Reads the lines of one case from *text on, ends them where they stand, and moves *text to the
   next case. 0: no more. */
static int next_case(char **text, net_case *c) {
    char *line = *text, *end;
    unsigned long count, stride, seed = 0;
    int started = 0, trains;
    float amplitude, center;

    memset(c, 0, sizeof *c);
    while (*line && !(started && strncmp(line, "case ", 5) == 0)) {
        end = line + strcspn(line, "\n");
        if (*end) *end++ = '\0';
        if (strncmp(line, "case ", 5) == 0) {
            c->name = line + 5;
            started = 1;
        } else if (strncmp(line, "rows ", 5) == 0) {
            c->rows = line + 5;
        } else if (strncmp(line, "opts ", 5) == 0) {
            c->options = line + 5;
        } else if (sscanf(line, "seed %lu", &seed) == 1) {
            c->seed = (uint32_t)seed;
        } else if (c->tensors < MAX_TENSORS &&
                   sscanf(line, "tensor %63s %lu %f %f %d %lu", c->tensor[c->tensors].name, &count,
                          &amplitude, &center, &trains, &stride) == 6) {
            c->tensor[c->tensors].count = count;
            c->tensor[c->tensors].stride = stride;
            c->tensor[c->tensors].amplitude = amplitude;
            c->tensor[c->tensors].center = center;
            c->tensor[c->tensors++].trains = trains;
        } else {
            return 0;
        }
        line = end;
    }
    *text = line;
    return c->name && c->rows && c->options && c->seed && c->tensors;
}

/* ---- comparing ------------------------------------------------------------------------------- */

static void record(int kind, double error, const char *where) {
    if (error > worst[kind].error || isnan(error)) {
        worst[kind].error = error;
        snprintf(worst[kind].where, sizeof worst[kind].where, "%.90s", where);
    }
}

static const float *wanted(const job *j, const char *what, size_t *count) {
    char key[160];

    snprintf(key, sizeof key, "%s/%s", j->c->name, what);
    test_note("%s", key);
    return golden_f32(j->g, key, count);
}

/* Every stride-th of count values against want, which goes on with largest size, sum and sum of
   squares of all if there is a stride. Returns what follows. */
static const float *compare_part(int kind, const float *got, size_t count, size_t stride,
                                 const float *want) {
    double error = 0, scale = 0, d, sum = 0, squares = 0;
    size_t n = (count + stride - 1) / stride, i, at = 0;

    if (stride > 1) scale = (double)want[n];
    for (i = 0; i < n; i++) scale = fmax(scale, fabs((double)want[i]));
    for (i = 0; i < n; i++) {
        d = fabs((double)got[i * stride] - (double)want[i]);
        if (!(d <= error)) { /* a NaN is the largest error, and stays it */
            error = d;
            at = i;
            if (isnan(d)) break;
        }
    }
    test_report(error <= tensor_bound * scale, __FILE__, __LINE__, "agrees",
                "element %lu of %lu is %.9g, not %.9g; largest %.3g, error %.3g",
                (unsigned long)(at * stride), (unsigned long)count, (double)got[at * stride],
                (double)want[at], scale, error / scale);
    if (scale > 0) record(kind, error / scale, test_state.note);
    if (stride == 1) return want + n;
    for (i = 0; i < count; i++) {
        sum += (double)got[i];
        squares += (double)got[i] * (double)got[i];
    }
    /* By Cauchy-Schwarz the root bounds the sum of absolute values. */
    CHECK_CLOSE(sum, want[n + 1], tensor_bound * sqrt((double)count * (double)want[n + 2]));
    CHECK_CLOSE(squares, want[n + 2], 2 * tensor_bound * (double)want[n + 2]);
    return want + n + 3;
}

static void compare(const job *j, int kind, const char *what, const float *got, size_t count) {
    size_t n = 0;
    const float *want = wanted(j, what, &n);

    if (CHECK(want != NULL) && CHECK_EQ_INT(count, n)) compare_part(kind, got, count, 1, want);
}

static void compare_loss(const job *j, int kind, float got, float want, float first) {
    double bound = kind == LOSS ? tensor_bound : loss_bound;

    CHECK_CLOSE(got, want, (double)first * bound);
    record(kind, fabs((double)got - (double)want) / (double)first, j->c->name);
}

/* All tensors that train, which lie one behind the other: get is nn_get or nn_get_grad. */
static void compare_tensors(job *j, int kind, const char *what,
                            int (*get)(const nn_model *, const char *, float *, size_t)) {
    const net_case *c = j->c;
    size_t n = 0, total = 0;
    const float *want = wanted(j, what, &n), *end = want + n;
    float *values;
    int t;

    if (!CHECK(want != NULL)) return;
    for (t = 0; t < c->tensors; t++) {
        size_t stride = c->tensor[t].stride, count = c->tensor[t].count;

        if (c->tensor[t].trains) total += (count + stride - 1) / stride + (stride > 1 ? 3 : 0);
    }
    if (!CHECK_EQ_INT(n, total)) return;
    for (t = 0; t < c->tensors; t++) {
        if (!c->tensor[t].trains) continue;
        test_note("%s/%s/%s", c->name, what, c->tensor[t].name);
        values = (float *)malloc(c->tensor[t].count * sizeof *values);
        if (CHECK_EQ_INT(get(&j->m, c->tensor[t].name, values, c->tensor[t].count), 0))
            want = compare_part(kind, values, c->tensor[t].count, c->tensor[t].stride, want);
        free(values);
    }
    CHECK(want == end);
}

/* ---- running a case -------------------------------------------------------------------------- */

static float start_value(const net_case *c, int t, size_t i) {
    return gen_float(c->seed, FIRST_TENSOR + (uint32_t)t, i, c->tensor[t].amplitude,
                     c->tensor[t].center);
}

static void set_tensors(job *j) {
    const net_case *c = j->c;
    float *values;
    size_t i;
    int t;

    for (t = 0; t < c->tensors; t++) {
        test_note("%s", c->tensor[t].name);
        values = (float *)malloc(c->tensor[t].count * sizeof *values);
        for (i = 0; i < c->tensor[t].count; i++) values[i] = start_value(c, t, i);
        CHECK_EQ_INT(nn_set(&j->m, c->tensor[t].name, values, c->tensor[t].count), 0);
        free(values);
    }
}

/* Of the smallest table, which all ids are rows of. */
static int vocabulary(const nn_model *m) {
    int least = INT32_MAX;
    uint32_t i;

    for (i = 0; i < m->row_count; i++)
        if (m->rows[i].op == NN_EMBEDDING && m->rows[i].vocab < least) least = m->rows[i].vocab;
    return least;
}

static void make_x(job *j) {
    size_t total = j->xs * (size_t)j->batches, i;
    char key[160];
    golden_tensor *given;
    float *floats = (float *)(void *)j->x;
    int32_t *ids = (int32_t *)(void *)j->x;

    snprintf(key, sizeof key, "%s/x", j->c->name);
    given = golden_find(j->g, key);
    if (given && CHECK_EQ_INT(given->count, total)) memcpy(ids, given->data, total * sizeof *ids);
    else if (j->m.rows[0].type == NN_I32)
        for (i = 0; i < total; i++) ids[i] = gen_int(j->c->seed, X, i, vocabulary(&j->m));
    else
        for (i = 0; i < total; i++) floats[i] = gen_float(j->c->seed, X, i, 1, 0);
}

static void make_target(job *j) {
    int classes = j->m.row[j->m.row_count - 1].dim[2];
    size_t total = j->targets * (size_t)j->batches, i;
    float *floats = (float *)(void *)j->target;
    int32_t *labels = (int32_t *)(void *)j->target;

    for (i = 0; i < total; i++) {
        if (j->m.opts.loss == NN_MSE) floats[i] = gen_float(j->c->seed, TARGET, i, 1, 0);
        else if (j->m.opts.loss == NN_BCE) floats[i] = (float)gen_int(j->c->seed, TARGET, i, 2);
        else labels[i] = gen_int(j->c->seed, TARGET, i, classes);
    }
}

static void make_lengths(job *j) {
    int32_t list[16];
    char text[64], *p = text;
    int n = 0, i;

    if (!*option(j->c, "lengths", text, sizeof text)) return;
    while (n < 16) {
        list[n++] = (int32_t)strtol(p, &p, 10);
        if (*p++ != ',') break;
    }
    j->lengths = (int32_t *)malloc((size_t)(j->n * j->batches) * sizeof *j->lengths);
    for (i = 0; i < j->n * j->batches; i++) j->lengths[i] = list[i % n];
}

static void make_data(job *j) {
    size_t batches = (size_t)j->batches, size = nn_state_size(&j->m) * (size_t)j->n, i;

    j->xs = (size_t)j->n * (size_t)j->m.in_size;
    j->outs = j->targets = (size_t)j->n * (size_t)j->m.out_size;
    if (j->m.opts.loss == NN_CROSS_ENTROPY)
        j->targets /= (size_t)j->m.row[j->m.row_count - 1].dim[2];
    j->x = (unsigned char *)malloc(j->xs * batches * 4);
    j->target = (unsigned char *)malloc(j->targets * batches * 4);
    j->out = (float *)malloc(j->outs * sizeof(float));
    j->dx = (float *)malloc(j->xs * sizeof(float));
    make_x(j);
    make_target(j);
    make_lengths(j);
    if (j->m.opts.stateful) {
        CHECK(size > 0);
        j->state = (float *)malloc((size + 1) * sizeof(float));
        j->state_after = (float *)malloc((size + 1) * sizeof(float));
        for (i = 0; i < size; i++) j->state[i] = gen_float(j->c->seed, STATE, i, 0.5f, 0);
    }
}

/* The first batch, and the states before it. */
static void begin(job *j) {
    if (j->lengths) CHECK_EQ_INT(nn_set_lengths(&j->m, j->lengths), 0);
    if (j->state) CHECK_EQ_INT(nn_set_state(&j->m, j->state, j->n), 0);
}

static void check_inference(job *j, float first) {
    begin(j);
    CHECK_EQ_INT(nn_infer(&j->m, j->x, j->out, j->n), 0);
    compare(j, OUTPUT, "infer", j->out, j->outs);
    if (j->state) {
        CHECK_EQ_INT(nn_get_state(&j->m, j->state_after, j->n), 0);
        compare(j, END_STATE, "state", j->state_after, nn_state_size(&j->m) * (size_t)j->n);
    }
    if (j->state) return; /* nn_eval begins with zeros */
    CHECK_EQ_INT(nn_eval(&j->m, j->x, j->target, j->n), 0);
    compare_loss(j, LOSS, j->m.loss, first, first);
}

static void check_gradients(job *j, float first) {
    int own_dy = int_option(j->c, "dy", 0);
    float *dx = j->m.opts.input_grad ? j->dx : NULL;
    size_t i;

    begin(j);
    CHECK_EQ_INT(nn_zero_grad(&j->m), 0);
    CHECK_EQ_INT(nn_forward(&j->m, j->x, own_dy ? NULL : j->target, j->out, j->n), 0);
    compare(j, OUTPUT, "infer", j->out, j->outs);
    if (!own_dy) compare_loss(j, LOSS, j->m.loss, first, first);
    for (i = 0; own_dy && i < j->outs; i++) j->out[i] = gen_float(j->c->seed, DY, i, 1, 0);
    CHECK_EQ_INT(nn_backward(&j->m, own_dy ? j->out : NULL, dx), 0);
    if (dx) compare(j, INPUT_GRADIENT, "dx", dx, j->xs);
    compare_tensors(j, GRADIENT, "grad", nn_get_grad);
}

static void check_training(job *j, const float *losses) {
    size_t b;
    int step;

    begin(j);
    for (step = 0; step < j->steps; step++) {
        test_note("step %d", step + 1);
        b = (size_t)(step % j->batches);
        if (j->lengths)
            CHECK_EQ_INT(nn_set_lengths(&j->m, j->lengths + b * (size_t)j->n), 0);
        if (!CHECK_EQ_INT(nn_train(&j->m, j->x + b * j->xs * 4, j->target + b * j->targets * 4,
                                   j->n),
                          0))
            return;
        compare_loss(j, TRAINED_LOSS, j->m.loss, losses[step], losses[0]);
    }
    compare_tensors(j, TRAINED, "after", nn_get);
}

/* Frozen tensors keep every bit. */
static void check_frozen(job *j) {
    const net_case *c = j->c;
    float *values, v;
    size_t i, changed;
    int t;

    for (t = 0; t < c->tensors; t++) {
        if (c->tensor[t].trains) continue;
        values = (float *)malloc(c->tensor[t].count * sizeof *values);
        CHECK_EQ_INT(nn_get(&j->m, c->tensor[t].name, values, c->tensor[t].count), 0);
        for (i = changed = 0; i < c->tensor[t].count; i++) {
            v = start_value(c, t, i);
            changed += memcmp(&v, &values[i], sizeof v) != 0;
        }
        test_note("%s", c->tensor[t].name);
        CHECK_EQ_INT(changed, 0);
        free(values);
    }
}

static void run_case(const golden *g, const net_case *c) {
    job j;
    nn_opts o;
    char train[64];
    const float *losses;
    size_t n = 0;

    memset(&j, 0, sizeof j);
    j.g = g;
    j.c = c;
    j.batches = int_option(c, "batches", 1);
    j.n = int_option(c, "batch", 1);
    j.steps = int_option(c, "steps", 0);
    o = options_of(c, train, sizeof train);
    o.why = j.why;
    o.why_size = sizeof j.why;
    losses = wanted(&j, "losses", &n);
    if (!CHECK(losses != NULL) || !CHECK_EQ_INT(n, j.steps)) return;
    if (!test_report(nn_build_text(&j.m, c->rows, &o) == 0, __FILE__, __LINE__, "nn_build_text",
                     "%s", j.why))
        return;
    set_tensors(&j);
    make_data(&j);
    check_inference(&j, losses[0]);
    check_gradients(&j, losses[0]);
    check_training(&j, losses);
    check_frozen(&j);
    nn_free(&j.m);
    free(j.x);
    free(j.target);
    free(j.lengths);
    free(j.out);
    free(j.dx);
    free(j.state);
    free(j.state_after);
}

static void run_file(const char *path) {
    golden *g = golden_open(path);
    const char *meta = g ? golden_meta(g, "cases") : NULL;
    char *text, *p;
    net_case c;
    size_t i, unused = 0;

    if (!CHECK(meta != NULL)) {
        golden_close(g);
        return;
    }
    text = (char *)malloc(strlen(meta) + 1);
    for (p = strcpy(text, meta); next_case(&p, &c);)
        if (test_start(c.name)) {
            run_case(g, &c);
            test_stop();
        }
    if (!*test_state.filter && test_start("every golden tensor is compared")) {
        CHECK_EQ_STR(p, "");
        for (i = 0; i < g->tensors; i++)
            if (!g->tensor[i].used) {
                test_note("%s", g->tensor[i].name);
                unused++;
            }
        CHECK_EQ_INT(unused, 0);
        test_stop();
    }
    free(text);
    golden_close(g);
}

/* ---- the same bits --------------------------------------------------------------------------- */

enum { T = 7, C = 5, N = 3, MOST = 4096 };

/* Rows of which the outputs at a step depend on the steps before only. */
static const char *const forward_rows[] = {
    "input x - shape=7,5; lstm l x units=1",
    "input x - shape=7,5; lstm l x units=17",
    "input x - shape=7,5; lstm l x units=20 layers=3",
    "input x - shape=7,5; lstm l x units=3 one_bias=1",
    "input x - shape=7,5; gru l x units=17",
    "input x - shape=7,5; gru l x units=3 layers=2 no_bias=1",
    "input x - shape=7,5; gru l x units=17 one_bias=1 reset_before=1",
    "input x - shape=7,5; rnn l x units=17 layers=2",
    "input x - shape=7,5; rnn l x units=3 act=relu",
    "input x - shape=7,5; lstm a x units=17; gru b a units=4; rnn c b units=16; dense d c units=3",
    "input x - shape=7,5; dense d x units=33 act=tanh; gru l d units=32; add s l,l act=relu",
    "input x - shape=7 type=i32; embedding e x vocab=9 units=6; lstm l e units=5",
    "input x - shape=7 type=i32; embedding e x vocab=4 units=6 pad_id=1 mask=1; lstm l e units=5",
};
/* And others. */
static const char *const other_rows[] = {
    "input x - shape=7,5; lstm l x units=17 last=1; dense d l units=2",
    "input x - shape=7,5; gru l x units=3 bidirectional=1",
    "input x - shape=7,5; lstm l x units=3 bidirectional=1 layers=2 last=1",
    "input x - shape=7,5; rnn l x units=17 bidirectional=1 act=relu last=1",
    "input x - shape=7,5; lstm l x units=6 layers=3 rate=0.5 bidirectional=1",
    "input x - shape=7,5; gru l x units=3 one_bias=1 reset_before=1 bidirectional=1 layers=2;"
    " flatten f l; dense d f units=2",
    "input x - shape=7 type=i32; embedding e x vocab=4 units=6 pad_id=1 mask=1;"
    " gru l e units=5 bidirectional=1 last=1",
    "input x - shape=7 type=i32; embedding e x vocab=40 units=6 pad_id=3 sparse=1;"
    " lstm l e units=5 last=1",
    "input x - shape=7 type=i32; embedding e x vocab=40 units=17 sparse=1; gru l e units=5"
    " bidirectional=1 last=1",
};
enum {
    FORWARD_ROWS = sizeof forward_rows / sizeof forward_rows[0],
    OTHER_ROWS = sizeof other_rows / sizeof other_rows[0],
    ALL_ROWS = FORWARD_ROWS + OTHER_ROWS
};

static const char *rows_at(int i) {
    return i < FORWARD_ROWS ? forward_rows[i] : other_rows[i - FORWARD_ROWS];
}

/* Samples may be floats or ids. */
typedef union number {
    float f;
    int32_t i;
} number;

static char why[256];

static nn_opts some_options(int training) {
    nn_opts o;

    memset(&o, 0, sizeof o);
    o.batch = N;
    o.seed = 5; /* the same initial values in every model of the same rows */
    if (training) {
        o.train = "*";
        o.loss = NN_MSE;
        o.optimizer = NN_ADAM;
        o.lr = 0.01f;
    }
    o.why = why;
    o.why_size = sizeof why;
    return o;
}

static int built(nn_model *m, const char *text, const nn_opts *o) {
    test_note("%s", text);
    why[0] = '\0';
    return test_report(nn_build_text(m, text, o) == 0, __FILE__, __LINE__, "nn_build_text", "%s",
                       why);
}

/* count samples of steps steps; returns elements of one step. */
static size_t fill(const nn_model *m, number *x, int count, int steps) {
    int ids = m->rows[0].type == NN_I32;
    size_t step = ids ? 1 : C, i;

    for (i = 0; i < (size_t)(count * steps) * step; i++) {
        if (ids) x[i].i = gen_int(9, X, i, vocabulary(m));
        else x[i].f = gen_float(9, X, i, 1, 0);
    }
    return step;
}

/* Steps from at on, count of them, of n samples of whole steps each. */
static void cut(number *to, const number *from, int n, int whole, int at, int count, size_t step) {
    int i;

    for (i = 0; i < n; i++)
        memcpy(to + (size_t)(i * count) * step, from + (size_t)(i * whole + at) * step,
               (size_t)count * step * sizeof *to);
}

TEST(streams_equal_whole_sequences) {
    static const char *const kernels[] = { NULL, "plain", "fma", "avx2", "avx512", "neon" };
    static number x[MOST], part[MOST];
    static float y[MOST], some[MOST];
    nn_model whole, stream;
    nn_opts o;
    size_t step, out, k;
    int i, s, t;

    for (i = 0; i < FORWARD_ROWS; i++) {
        o = some_options(0);
        if (!built(&whole, forward_rows[i], &o)) continue;
        o.steps = 1;
        o.stateful = 1;
        if (built(&stream, forward_rows[i], &o)) {
            step = fill(&whole, x, N, T);
            out = (size_t)whole.out_size / T;
            CHECK(nn_digest(&whole) == nn_digest(&stream));
            CHECK_EQ_INT(stream.in_size, step);
            CHECK_EQ_INT(stream.out_size, out);
            CHECK_EQ_INT(nn_infer(&whole, x, y, N), 0);
            for (k = 0; k < sizeof kernels / sizeof kernels[0]; k++) {
                if (nn_set_kernels(&stream, kernels[k]) != 0) continue;
                test_note("%s, %s", forward_rows[i], nn_kernels_name(&stream));
                CHECK_EQ_INT(nn_reset(&stream), 0);
                for (t = 0; t < T; t++) {
                    cut(part, x, N, T, t, 1, step);
                    CHECK_EQ_INT(nn_step(&stream, part, some, N), 0);
                    for (s = 0; s < N; s++)
                        CHECK_SAME_BYTES(some + (size_t)s * out, y + (size_t)(s * T + t) * out,
                                         out * sizeof(float));
                }
            }
            nn_free(&stream);
        }
        nn_free(&whole);
    }
}

/* 3 + 4 steps are 7, in one model or over two, and a state that was kept starts again. */
TEST(states_are_kept_got_and_set) {
    static number x[MOST], part[MOST];
    static float y[MOST], some[MOST], zeros[MOST], before[MOST], after[MOST], again[MOST];
    nn_model whole, first, second;
    nn_opts o;
    size_t step, out, bytes;
    int i, s;

    for (i = 0; i < FORWARD_ROWS; i++) {
        o = some_options(0);
        o.stateful = 1;
        if (!built(&whole, forward_rows[i], &o)) continue;
        o.steps = 3;
        if (!built(&first, forward_rows[i], &o)) continue;
        o.steps = 4;
        if (!built(&second, forward_rows[i], &o)) continue;
        test_note("%s", forward_rows[i]);
        step = fill(&whole, x, N, T);
        out = (size_t)whole.out_size / T;
        bytes = nn_state_size(&whole) * N * sizeof(float);
        CHECK(bytes > 0 && bytes <= sizeof before);
        CHECK_EQ_INT(nn_state_size(&first), nn_state_size(&whole));
        CHECK_EQ_INT(nn_get_state(&whole, after, N), 0);
        CHECK_SAME_BYTES(after, zeros, bytes); /* at first */
        CHECK_EQ_INT(nn_infer(&whole, x, y, N), 0);
        CHECK_EQ_INT(nn_get_state(&whole, after, N), 0);
        CHECK(memcmp(after, zeros, bytes) != 0);
        cut(part, x, N, T, 0, 3, step);
        CHECK_EQ_INT(nn_infer(&first, part, some, N), 0);
        for (s = 0; s < N; s++)
            CHECK_SAME_BYTES(some + (size_t)(s * 3) * out, y + (size_t)(s * T) * out,
                             3 * out * sizeof(float));
        CHECK_EQ_INT(nn_get_state(&first, before, N), 0);
        CHECK_EQ_INT(nn_set_state(&second, before, N), 0);
        CHECK_EQ_INT(nn_get_state(&second, again, N), 0);
        CHECK_SAME_BYTES(again, before, bytes);
        cut(part, x, N, T, 3, 4, step);
        CHECK_EQ_INT(nn_infer(&second, part, some, N), 0);
        for (s = 0; s < N; s++)
            CHECK_SAME_BYTES(some + (size_t)(s * 4) * out, y + (size_t)(s * T + 3) * out,
                             4 * out * sizeof(float));
        CHECK_EQ_INT(nn_get_state(&second, again, N), 0);
        CHECK_SAME_BYTES(again, after, bytes);
        /* A call of fewer samples leaves the states of the others. */
        CHECK_EQ_INT(nn_infer(&second, part, some, N - 1), 0);
        CHECK_EQ_INT(nn_get_state(&second, again, N), 0);
        CHECK(memcmp(again, after, bytes / N) != 0);
        CHECK_SAME_BYTES(again + (N - 1) * nn_state_size(&whole),
                         after + (N - 1) * nn_state_size(&whole), bytes / N);
        CHECK_EQ_INT(nn_reset(&whole), 0);
        CHECK_EQ_INT(nn_get_state(&whole, again, N), 0);
        CHECK_SAME_BYTES(again, zeros, bytes);
        CHECK_EQ_INT(nn_infer(&whole, x, some, N), 0);
        CHECK_SAME_BYTES(some, y, (size_t)(N * whole.out_size) * sizeof(float));
        nn_free(&whole);
        nn_free(&first);
        nn_free(&second);
    }
}

/* Without opts.stateful nothing stays, and there is nothing to get, set or step. */
TEST(models_without_state) {
    static number x[MOST];
    static float y[MOST], again[MOST];
    const char *text = "input x - shape=1,5; lstm l x units=3";
    nn_opts o = some_options(0);
    nn_model m;

    if (!built(&m, text, &o)) return;
    fill(&m, x, N, 1);
    CHECK_EQ_INT(nn_infer(&m, x, y, N), 0);
    CHECK_EQ_INT(nn_infer(&m, x, again, N), 0);
    CHECK_SAME_BYTES(again, y, (size_t)(N * m.out_size) * sizeof(float));
    CHECK_EQ_INT(nn_get_state(&m, y, N), NN_ERR_CALL);
    CHECK_EQ_INT(nn_set_state(&m, y, N), NN_ERR_CALL);
    CHECK_EQ_INT(nn_reset(&m), NN_ERR_CALL);
    CHECK_EQ_INT(nn_step(&m, x, y, N), NN_ERR_CALL);
    nn_free(&m);
    o.stateful = 1;
    o.steps = 1;
    if (!built(&m, text, &o)) return;
    CHECK_EQ_INT(nn_state_size(&m), 6);
    CHECK_EQ_INT(nn_step(&m, x, y, N), 0);
    CHECK_EQ_INT(nn_step(&m, x, y, N + 1), NN_ERR_CALL);
    CHECK_EQ_INT(nn_get_state(&m, y, N + 1), NN_ERR_CALL);
    CHECK_EQ_INT(nn_set_state(&m, y, -1), NN_ERR_CALL);
    nn_free(&m);
    o.steps = 0;
    if (!built(&m, "input x - shape=7,5; lstm l x units=3 layers=2 bidirectional=1;"
                   " gru g l units=4; rnn r g units=5 last=1", &o))
        return;
    CHECK_EQ_INT(nn_state_size(&m), 4 * 2 * 3 + 4 + 5);
    CHECK_EQ_INT(nn_step(&m, x, y, N), NN_ERR_CALL); /* planned for 7 */
    nn_free(&m);
}

/* nn_eval measures samples, not streams: it begins with zeros and leaves the states alone. */
TEST(eval_leaves_states) {
    static number x[MOST];
    static float y[MOST], target[MOST], before[MOST], after[MOST];
    nn_model m, stateless;
    nn_opts o;
    size_t bytes;
    int i;

    for (i = 0; i < ALL_ROWS; i++) {
        o = some_options(1);
        if (!built(&stateless, rows_at(i), &o)) continue;
        o.stateful = 1;
        if (built(&m, rows_at(i), &o)) {
            bytes = nn_state_size(&m) * N * sizeof(float);
            fill(&m, x, N, T);
            CHECK_EQ_INT(nn_infer(&m, x, y, N), 0);
            CHECK_EQ_INT(nn_get_state(&m, before, N), 0);
            CHECK_EQ_INT(nn_eval(&m, x, target, N), 0);
            CHECK_EQ_INT(nn_get_state(&m, after, N), 0);
            CHECK_SAME_BYTES(after, before, bytes);
            CHECK_EQ_INT(nn_eval(&stateless, x, target, N), 0);
            CHECK_SAME_BYTES(&m.loss, &stateless.loss, sizeof m.loss);
            nn_free(&m);
        }
        nn_free(&stateless);
    }
}

static const int32_t some_lengths[5] = { 4, 0, T, 1, 6 };

/* What lies behind the lengths: zeros, or the largest numbers and other ids. */
static void soil(const nn_model *m, number *x, int n, size_t step, int clean) {
    size_t i, end;
    int s;

    for (s = 0; s < n; s++) {
        i = ((size_t)(s * T) + (size_t)some_lengths[s]) * step;
        end = (size_t)((s + 1) * T) * step;
        for (; i < end; i++) {
            if (m->rows[0].type == NN_I32) x[i].i = clean ? 0 : vocabulary(m) - 1;
            else x[i].f = clean ? 0 : 3e38f;
        }
    }
}

/* Inference, input gradients, three steps of training: the same whatever lies there. */
TEST(nothing_is_read_behind_a_length) {
    static number x[MOST];
    static float y[2][MOST], dx[2][MOST], dy[MOST], target[MOST];
    uint64_t digest[2];
    nn_model m;
    nn_opts o;
    size_t step, bytes, k, j;
    int i, clean, s, floats;

    for (k = 0; k < MOST; k++) {
        target[k] = gen_float(9, TARGET, k, 1, 0);
        dy[k] = gen_float(9, DY, k, 1, 0);
    }
    for (i = 0; i < ALL_ROWS; i++) {
        digest[0] = 0;
        digest[1] = 1;
        for (clean = 0; clean < 2; clean++) {
            o = some_options(1);
            o.batch = 5;
            floats = strstr(rows_at(i), "i32") == NULL;
            o.input_grad = floats;
            if (!built(&m, rows_at(i), &o)) break;
            step = fill(&m, x, 5, T);
            soil(&m, x, 5, step, clean);
            CHECK_EQ_INT(nn_set_lengths(&m, some_lengths), 0);
            CHECK_EQ_INT(nn_infer(&m, x, y[clean], 5), 0);
            bytes = (size_t)(5 * m.out_size) * sizeof(float);
            if (clean) CHECK_SAME_BYTES(y[0], y[1], bytes);
            CHECK_EQ_INT(nn_zero_grad(&m), 0);
            CHECK_EQ_INT(nn_forward(&m, x, NULL, NULL, 5), 0);
            CHECK_EQ_INT(nn_backward(&m, dy, floats ? dx[clean] : NULL), 0);
            if (floats) {
                if (clean) CHECK_SAME_BYTES(dx[0], dx[1], 5 * T * C * sizeof(float));
                for (s = 0; s < 5 && !strstr(rows_at(i), "dense d x"); s++) /* has a bias */
                    for (j = (size_t)some_lengths[s] * C; j < T * C; j++)
                        if (!CHECK(dx[clean][(size_t)s * T * C + j] == 0)) break;
            }
            for (s = 0; s < 3; s++) CHECK_EQ_INT(nn_train(&m, x, target, 5), 0);
            digest[clean] = nn_digest(&m);
            nn_free(&m);
        }
        CHECK(digest[0] == digest[1]);
    }
}

/* A sample of length L in a plan for T is the same as one in a plan for L; all T is NULL; turns of
   a batch have their own lengths. */
TEST(lengths_equal_shorter_plans) {
    static number x[MOST], part[MOST];
    static float y[MOST], alone[MOST], turns[MOST];
    static const int32_t all[5] = { T, T, T, T, T };
    nn_model m, shorter, few;
    nn_opts o;
    size_t step, out, k, bytes;
    int i, s, last;

    for (i = 0; i < ALL_ROWS; i++) {
        if (strstr(rows_at(i), "flatten")) continue; /* its weights depend on T */
        last = strstr(rows_at(i), "last=1") != NULL;
        o = some_options(0);
        o.batch = 5;
        if (!built(&m, rows_at(i), &o)) continue;
        step = fill(&m, x, 5, T);
        bytes = (size_t)(5 * m.out_size) * sizeof(float);
        CHECK_EQ_INT(nn_infer(&m, x, alone, 5), 0);
        CHECK_EQ_INT(nn_set_lengths(&m, all), 0);
        CHECK_EQ_INT(nn_infer(&m, x, y, 5), 0);
        CHECK_SAME_BYTES(y, alone, bytes);
        CHECK_EQ_INT(nn_set_lengths(&m, some_lengths), 0);
        CHECK_EQ_INT(nn_infer(&m, x, y, 5), 0);
        CHECK(memcmp(y, alone, bytes) != 0);
        o.batch = 2;
        if (built(&few, rows_at(i), &o)) {
            CHECK_EQ_INT(nn_set_lengths(&few, some_lengths), 0);
            CHECK_EQ_INT(nn_infer(&few, x, turns, 5), 0);
            CHECK_SAME_BYTES(turns, y, bytes);
            CHECK_EQ_INT(nn_set_lengths(&few, NULL), 0);
            CHECK_EQ_INT(nn_infer(&few, x, turns, 5), 0);
            CHECK_SAME_BYTES(turns, alone, bytes);
            nn_free(&few);
        }
        out = last ? (size_t)m.out_size : (size_t)m.out_size / T;
        for (s = 0; s < 5; s++) {
            float *own = y + (size_t)(s * m.out_size);
            size_t count = last ? out : (size_t)some_lengths[s] * out;

            if (some_lengths[s] > 0) {
                o.steps = some_lengths[s];
                if (!built(&shorter, rows_at(i), &o)) continue;
                cut(part, x + (size_t)(s * T) * step, 1, T, 0, some_lengths[s], step);
                CHECK_EQ_INT(nn_infer(&shorter, part, alone, 1), 0);
                CHECK_SAME_BYTES(own, alone, count * sizeof(float));
                nn_free(&shorter);
            }
            /* Behind it zeros, where no row follows that adds something. */
            for (k = count; !strstr(rows_at(i), "dense d c") && k < (size_t)m.out_size; k++)
                if (!CHECK(own[k] == 0)) break;
        }
        nn_free(&m);
    }
}

/* The digest after three steps of training; 0: does not fit. */
static uint64_t train_within(const char *text, nn_opts *o, const float *target) {
    static number x[MOST];
    uint64_t digest;
    nn_model m;
    int s;

    test_note("%s, %ld bytes", text, (long)o->budget);
    if (nn_build_text(&m, text, o) != 0) return 0;
    fill(&m, x, 5, T);
    CHECK_EQ_INT(nn_set_lengths(&m, some_lengths), 0);
    for (s = 0; s < 3; s++) CHECK_EQ_INT(nn_train(&m, x, target, 5), 0);
    digest = nn_digest(&m);
    nn_free(&m);
    return digest;
}

/* A budget splits the batch or keeps less; with lengths and states the result is still the same. */
TEST(budgets_keep_the_bits) {
    static float target[MOST];
    nn_opts o;
    uint64_t want, got;
    int64_t full;
    int i, part, fit;
    size_t k;

    for (k = 0; k < MOST; k++) target[k] = gen_float(9, TARGET, k, 1, 0);
    for (i = 0; i < 2 * ALL_ROWS; i++) {
        o = some_options(1);
        o.batch = 5;
        o.stateful = i >= ALL_ROWS;
        full = nn_memory_text(rows_at(i % ALL_ROWS), &o);
        want = train_within(rows_at(i % ALL_ROWS), &o, target);
        CHECK(want != 0);
        for (part = 16, fit = 0; part > 0; part--) {
            o.budget = full * part / 16 - 1;
            got = train_within(rows_at(i % ALL_ROWS), &o, target);
            if (!got) break;
            CHECK(got == want);
            fit++;
        }
        CHECK(fit > 0);
    }
}

/* nn_fit's lengths are those of its samples, and lengths_val those of the held-out ones. */
static float fit_loss_val;

static int note_loss(void *user, const nn_progress *p) {
    (void)user;
    if (p->epoch_end) fit_loss_val = p->loss_val;
    return 0;
}

TEST(fit_takes_lengths) {
    static const int32_t lengths[6] = { 5, 3, T, 0, 2, 2 };
    static number x[MOST];
    static float target[MOST];
    const char *text = forward_rows[1];
    nn_model m, other;
    nn_opts o = some_options(1);
    nn_fit_opts f;
    size_t k;

    for (k = 0; k < MOST; k++) target[k] = gen_float(9, TARGET, k, 1, 0);
    memset(&f, 0, sizeof f);
    f.x = x;
    f.y = target;
    f.n = 6;
    f.lengths = lengths;
    f.x_val = x;
    f.y_val = target;
    f.n_val = 5;
    f.lengths_val = some_lengths;
    f.no_shuffle = 1;
    f.quiet = 1;
    f.progress = note_loss;
    if (!built(&m, text, &o) || !built(&other, text, &o)) return;
    fill(&m, x, 6, T);
    CHECK_EQ_INT(nn_fit(&m, &f), 0);
    CHECK_EQ_INT(nn_set_lengths(&other, lengths), 0);
    CHECK_EQ_INT(nn_train(&other, x, target, N), 0);
    CHECK_EQ_INT(nn_set_lengths(&other, lengths + N), 0);
    CHECK_EQ_INT(nn_train(&other, x + N * T * C, target + N * (size_t)m.out_size, N), 0);
    CHECK(nn_digest(&m) == nn_digest(&other));
    CHECK_EQ_INT(nn_set_lengths(&other, some_lengths), 0);
    CHECK_EQ_INT(nn_eval(&other, x, target, 5), 0);
    CHECK_SAME_BYTES(&other.loss, &fit_loss_val, sizeof fit_loss_val);
    nn_free(&m);
    nn_free(&other);
    /* Shuffled samples take their lengths with them: those of one length, whatever the order. */
    if (!built(&m, text, &o) || !built(&other, text, &o)) return;
    f.no_shuffle = 0;
    f.n = N;
    soil(&m, x, N, C, 1);
    f.lengths = some_lengths;
    CHECK_EQ_INT(nn_fit(&m, &f), 0);
    soil(&m, x, N, C, 0);
    CHECK_EQ_INT(nn_fit(&other, &f), 0);
    CHECK(nn_digest(&m) == nn_digest(&other));
    nn_free(&m);
    nn_free(&other);
}

/* ---- wrong lengths and ids ------------------------------------------------------------------- */

/* One call with something wrong at sample 2; which says what. */
static int wrong_call(nn_model *m, int which, const number *x, const int32_t *lengths,
                      const float *target, float *y) {
    nn_fit_opts f;

    if (which == 0) return nn_infer(m, x, y, N);
    if (which == 1) return nn_eval(m, x, target, N);
    if (which == 2) return nn_forward(m, x, target, y, N);
    if (which == 3) return nn_train(m, x, target, N);
    memset(&f, 0, sizeof f);
    f.x = x;
    f.y = target;
    f.n = N;
    f.quiet = 1;
    f.no_shuffle = 1;
    f.lengths = lengths;
    return nn_fit(m, &f);
}

static void check_wrong(nn_model *m, const number *x, const int32_t *lengths,
                        const float *target) {
    static float y[MOST];
    int calls = m->opts.stateful ? 4 : 5; /* nn_fit has no use for states */
    uint64_t digest = nn_digest(m);
    int which;

    for (which = 0; which < calls; which++) {
        test_note("call %d", which);
        why[0] = '\0';
        CHECK_EQ_INT(wrong_call(m, which, x, lengths, target, y), NN_ERR_LABEL);
        if (!CHECK(strstr(why, "sample 2") != NULL)) printf("    \"%s\"\n", why);
        CHECK(nn_digest(m) == digest);
    }
}

/* After the errors training goes on as if there had been none, states included. */
static void check_unharmed(nn_model *m, const char *text, const number *x, const float *target) {
    nn_opts o = some_options(1);
    nn_model fresh;

    o.stateful = m->opts.stateful;
    CHECK_EQ_INT(nn_set_lengths(m, NULL), 0);
    if (!built(&fresh, text, &o)) return;
    CHECK_EQ_INT(nn_train(m, x, target, N), 0);
    CHECK_EQ_INT(nn_train(&fresh, x, target, N), 0);
    CHECK(nn_digest(m) == nn_digest(&fresh));
    nn_free(&fresh);
}

TEST(wrong_lengths_are_refused) {
    static const int32_t wrong[] = { -1, T + 1, INT32_MAX, INT32_MIN };
    static number x[MOST];
    static float target[MOST];
    const char *text = "input x - shape=7,5; gru l x units=3";
    int32_t lengths[N] = { T, 0, 0 };
    nn_opts o = some_options(1);
    nn_model m;
    size_t k;

    for (o.stateful = 0; o.stateful < 2; o.stateful++) {
        if (!built(&m, text, &o)) return;
        fill(&m, x, N, T);
        for (k = 0; k < sizeof wrong / sizeof wrong[0]; k++) {
            lengths[2] = wrong[k];
            CHECK_EQ_INT(nn_set_lengths(&m, lengths), 0); /* how many there are is not known yet */
            check_wrong(&m, x, lengths, target);
        }
        check_unharmed(&m, text, x, target);
        nn_free(&m);
    }
}

TEST(wrong_ids_are_refused) {
    static const int32_t wrong[] = { -1, 11, INT32_MAX, INT32_MIN };
    static number x[MOST];
    static float target[MOST];
    const char *text = "input x - shape=7 type=i32; embedding e x vocab=11 units=3;"
                       " lstm l e units=3";
    nn_opts o = some_options(1);
    nn_model m;
    size_t k;

    for (o.stateful = 0; o.stateful < 2; o.stateful++) {
        if (!built(&m, text, &o)) return;
        fill(&m, x, N, T);
        for (k = 0; k < sizeof wrong / sizeof wrong[0]; k++) {
            x[N * T - 1].i = wrong[k]; /* the last step of sample 2 */
            check_wrong(&m, x, NULL, target);
        }
        x[N * T - 1].i = 10;
        check_unharmed(&m, text, x, target);
        nn_free(&m);
    }
}

/* ---- along a sequence ------------------------------------------------------------------------ */

/* What acts along a sequence [T,C] is what acts on an image [1,T,C], to the bit and the byte. */
TEST(sequences_are_images_of_one_row) {
    static const nn_layer sequence[] = {
        { .op = NN_INPUT, .shape = { 21, 3 } },
        { .op = NN_CONV1D, .units = 33, .kernel = { 3 }, .pad = { 2, 1 }, .act = NN_RELU },
        { .op = NN_MAXPOOL1D, .kernel = { 2 } },
        { .op = NN_CONV1D, .units = 33, .kernel = { 3 }, .stride = { 2 }, .dilation = { 2 },
          .pad = { 1, 3 }, .groups = 33 },
        { .op = NN_MAXPOOL1D, .kernel = { 3 }, .stride = { 1 }, .pad = { 0, 2 } },
        { .op = NN_AVGPOOL1D, .kernel = { 2 }, .stride = { 1 }, .pad = { 1, 0 } },
        { .op = NN_GLOBALMAXPOOL },
        { .op = NN_DENSE, .units = 2 },
        { 0 }
    };
    static const nn_layer image[] = {
        { .op = NN_INPUT, .shape = { 1, 21, 3 } },
        { .op = NN_CONV2D, .units = 33, .kernel = { 1, 3 }, .pad = { 0, 2, 0, 1 }, .act = NN_RELU },
        { .op = NN_MAXPOOL2D, .kernel = { 1, 2 } },
        { .op = NN_CONV2D, .units = 33, .kernel = { 1, 3 }, .stride = { 1, 2 },
          .dilation = { 1, 2 }, .pad = { 0, 1, 0, 3 }, .groups = 33 },
        { .op = NN_MAXPOOL2D, .kernel = { 1, 3 }, .stride = { 1, 1 }, .pad = { 0, 0, 0, 2 } },
        { .op = NN_AVGPOOL2D, .kernel = { 1, 2 }, .stride = { 1, 1 }, .pad = { 0, 1, 0, 0 } },
        { .op = NN_GLOBALMAXPOOL },
        { .op = NN_DENSE, .units = 2 },
        { 0 }
    };
    static float x[N * 21 * 3], target[N * 2], y[2][N * 2];
    nn_model a, b;
    nn_opts o;
    int training, s;
    size_t i;

    for (i = 0; i < N * 21 * 3; i++) x[i] = gen_float(9, X, i, 1, 0);
    for (i = 0; i < N * 2; i++) target[i] = gen_float(9, TARGET, i, 1, 0);
    for (training = 0; training < 2; training++) {
        o = some_options(training);
        if (!CHECK(nn_build(&a, sequence, &o) == 0 && nn_build(&b, image, &o) == 0)) return;
        CHECK_EQ_INT(a.block_size, b.block_size);
        for (s = 0; s < 3 * training; s++) {
            CHECK_EQ_INT(nn_train(&a, x, target, N), 0);
            CHECK_EQ_INT(nn_train(&b, x, target, N), 0);
        }
        CHECK_EQ_INT(nn_infer(&a, x, y[0], N), 0);
        CHECK_EQ_INT(nn_infer(&b, x, y[1], N), 0);
        CHECK_SAME_BYTES(y[0], y[1], sizeof y[0]);
        CHECK(nn_digest(&a) == nn_digest(&b));
        CHECK_EQ_INT(a.tensor[0].ndim, 3);
        nn_free(&a);
        nn_free(&b);
    }
}

/* ---- sparse gradients ------------------------------------------------------------------------ */

/* Each twice: with sparse=0, which is the default, and with sparse=1. */
#define SPARSE_INPUT "input x - shape=7 type=i32; embedding e x sparse=0 "
static const char *const sparse_rows[] = {
    SPARSE_INPUT "vocab=30 units=6 pad_id=3; lstm l e units=5 last=1",
    SPARSE_INPUT "vocab=30 units=17 pad_id=3 mask=1 lr=0.5; gru l e units=5 bidirectional=1 last=1",
    SPARSE_INPUT "vocab=1000 units=16; conv1d c e units=4 kernel=3 act=relu; globalmaxpool g c",
    SPARSE_INPUT "vocab=5 units=1 no_decay=1; flatten f e; dense d f units=2",
    SPARSE_INPUT "vocab=30 units=6; lstm a e units=4 last=1; rnn b e units=4 last=1; add s a,b",
    SPARSE_INPUT "vocab=1000 units=16; gru g e units=5 last=1",
};
enum { SPARSE_ROWS = sizeof sparse_rows / sizeof sparse_rows[0], TOKENS = 5 * T };

static float sparse_target[MOST];

/* Number i without sparse gradients and with them; those in o.budget, if there is one, or what is
   needed at least. */
static int build_both(nn_model *dense, nn_model *sparse, int i, nn_opts o) {
    int64_t budget = o.budget;
    char text[256];

    strcpy(text, sparse_rows[i]);
    o.budget = 0;
    if (!built(dense, text, &o)) return 0;
    *(strstr(text, "sparse=0") + 7) = '1';
    for (o.budget = budget; budget && nn_memory_text(text, &o) < 0;) o.budget += 64;
    if (built(sparse, text, &o)) return 1;
    nn_free(dense);
    return 0;
}

static nn_opts sparse_options(void) {
    nn_opts o = some_options(1);
    size_t k;

    for (k = 0; k < MOST; k++) sparse_target[k] = gen_float(9, TARGET, k, 1, 0);
    o.batch = 5;
    o.optimizer = NN_SGD;
    o.lr = 0.25f;
    return o;
}

/* Ids of batch number b; some stand in it more than once. */
static void sparse_ids(const nn_model *m, number *x, int b) {
    size_t i;

    for (i = 0; i < TOKENS; i++) x[i].i = gen_int((uint32_t)(20 + b), X, i, vocabulary(m));
    x[TOKENS - 1].i = x[0].i;
}

static void check_same_gradients(const nn_model *dense, const nn_model *sparse) {
    static float of_dense[1000 * 16], of_sparse[1000 * 16];
    const nn_tensor *t = &dense->tensor[0];
    uint32_t some = 0, k;

    CHECK_EQ_INT(nn_get_grad(dense, "e.weight", of_dense, t->count), 0);
    CHECK_EQ_INT(nn_get_grad(sparse, "e.weight", of_sparse, t->count), 0);
    CHECK_SAME_BYTES(of_sparse, of_dense, t->count * sizeof(float));
    for (k = 0; k < t->count; k++) some += of_dense[k] != 0;
    CHECK(some > 0);
}

/* By SGD: losses, gradients and weights, in batches of all sizes, fused or in micro-batches. */
TEST(sparse_training_is_the_same) {
    static const int32_t counts[] = { 5, 2, 4, 1, 5 };
    static number x[TOKENS];
    nn_model dense, sparse;
    uint32_t count;
    nn_opts o;
    int i, way, s;

    for (i = 0; i < SPARSE_ROWS; i++)
        for (way = 0; way < 4; way++) {
            o = sparse_options();
            o.fuse_update = way == 1;
            if (strstr(sparse_rows[i], "no_decay")) o.weight_decay = 0.125f;
            if (way == 2) o.budget = 1;
            if (way == 3) o.budget = nn_memory_text(sparse_rows[i], &o) * 7 / 8;
            if (!build_both(&dense, &sparse, i, o)) continue;
            if (way == 2) CHECK_EQ_INT(sparse.micro, 1);
            test_note("%s, way %d, %d samples at a time", sparse_rows[i], way, (int)sparse.micro);
            for (s = 0; s < 5; s++) {
                sparse_ids(&dense, x, s);
                CHECK_EQ_INT(nn_set_lengths(&dense, s == 2 ? some_lengths : NULL), 0);
                CHECK_EQ_INT(nn_set_lengths(&sparse, s == 2 ? some_lengths : NULL), 0);
                CHECK_EQ_INT(nn_train(&dense, x, sparse_target, counts[s]), 0);
                CHECK_EQ_INT(nn_train(&sparse, x, sparse_target, counts[s]), 0);
                CHECK_SAME_BYTES(&sparse.loss, &dense.loss, sizeof dense.loss);
                CHECK(nn_digest(&sparse) == nn_digest(&dense));
                if (way != 1) check_same_gradients(&dense, &sparse);
            }
            CHECK((nn_flat_grad(&dense, &count) != NULL) == (way != 1));
            CHECK(nn_flat_grad(&sparse, &count) == NULL && count == 0);
            nn_free(&dense);
            nn_free(&sparse);
        }
}

/* Gradients of opts.batch samples can be summed; of more, as long as there is room for all ids. */
TEST(sparse_gradients_are_bounded) {
    static number x[TOKENS];
    static float before[1000 * 16], after[1000 * 16];
    nn_opts o = sparse_options();
    nn_model dense, sparse;
    uint64_t digest;
    int i, s;

    if (!build_both(&dense, &sparse, 5, o)) return;
    for (i = 0; i < TOKENS; i++) x[i].i = 999 - 7 * i; /* no two are the same */
    for (s = 0; s < 5; s += 2 + s / 2) { /* 2, 3 */
        CHECK_EQ_INT(nn_forward(&dense, x + s * T, sparse_target, NULL, s ? 3 : 2), 0);
        CHECK_EQ_INT(nn_forward(&sparse, x + s * T, sparse_target, NULL, s ? 3 : 2), 0);
        CHECK_EQ_INT(nn_backward(&dense, NULL, NULL), 0);
        CHECK_EQ_INT(nn_backward(&sparse, NULL, NULL), 0);
    }
    check_same_gradients(&dense, &sparse);
    digest = nn_digest(&sparse);
    CHECK_EQ_INT(nn_get_grad(&sparse, "e.weight", before, 1000 * 16), 0);
    CHECK_EQ_INT(nn_forward(&sparse, x, sparse_target, NULL, 1), 0);
    why[0] = '\0';
    CHECK_EQ_INT(nn_backward(&sparse, NULL, NULL), NN_ERR_CALL);
    CHECK_EQ_STR(why, "row 1 (embedding \"e\"): its sparse gradient takes opts.batch samples "
                      "between calls of nn_zero_grad");
    CHECK_EQ_INT(nn_get_grad(&sparse, "e.weight", after, 1000 * 16), 0);
    CHECK_SAME_BYTES(after, before, sizeof after);
    CHECK(nn_digest(&sparse) == digest);
    CHECK_EQ_INT(nn_update(&dense), 0);
    CHECK_EQ_INT(nn_update(&sparse), 0);
    CHECK(nn_digest(&sparse) != digest && nn_digest(&sparse) == nn_digest(&dense));

    CHECK_EQ_INT(nn_zero_grad(&dense), 0);
    CHECK_EQ_INT(nn_zero_grad(&sparse), 0);
    CHECK_EQ_INT(nn_get_grad(&sparse, "e.weight", after, 1000 * 16), 0);
    memset(before, 0, sizeof before);
    CHECK_SAME_BYTES(after, before, sizeof after);
    CHECK_EQ_INT(nn_forward(&dense, x, sparse_target, NULL, 1), 0);
    CHECK_EQ_INT(nn_forward(&sparse, x, sparse_target, NULL, 1), 0);
    CHECK_EQ_INT(nn_backward(&dense, NULL, NULL), 0);
    CHECK_EQ_INT(nn_backward(&sparse, NULL, NULL), 0);
    check_same_gradients(&dense, &sparse);
    nn_free(&dense);
    nn_free(&sparse);

    if (!build_both(&dense, &sparse, 3, o)) return;
    for (s = 0; s < 3; s++) {
        sparse_ids(&dense, x, s);
        CHECK_EQ_INT(nn_forward(&dense, x, sparse_target, NULL, 5), 0);
        CHECK_EQ_INT(nn_forward(&sparse, x, sparse_target, NULL, 5), 0);
        CHECK_EQ_INT(nn_backward(&dense, NULL, NULL), 0);
        CHECK_EQ_INT(nn_backward(&sparse, NULL, NULL), 0);
    }
    check_same_gradients(&dense, &sparse);
    nn_free(&dense);
    nn_free(&sparse);
}

/* The table and its moments. */
static int sparse_state(const nn_model *m, float to[3][30 * 17]) {
    size_t count = m->tensor[0].count;

    return CHECK_EQ_INT(nn_get(m, "e.weight", to[0], count), 0) &&
           CHECK_EQ_INT(nn_get(m, "opt.m/e.weight", to[1], count), 0) &&
           CHECK_EQ_INT(nn_get(m, "opt.v/e.weight", to[2], count), 0);
}

/* Under Adam, too, only the vectors of a batch and their moments change; others keep every bit. */
TEST(sparse_adam_changes_only_the_batch) {
    static float before[3][30 * 17], after[3][30 * 17];
    static number x[TOKENS];
    nn_opts o = sparse_options();
    nn_model dense, sparse;
    int i, k, id, s;
    size_t n, in_batch, size;

    o.optimizer = NN_ADAM;
    for (i = 0; i < 2; i++) {
        o.fuse_update = i;
        if (!build_both(&dense, &sparse, i, o)) return;
        size = (size_t)sparse.rows[1].units;
        for (s = 0; s < 3; s++) {
            sparse_ids(&sparse, x, s);
            if (!sparse_state(&sparse, before)) return;
            CHECK_EQ_INT(nn_train(&sparse, x, sparse_target, 2), 0);
            if (!sparse_state(&sparse, after)) return;
            for (id = 0; id < 30; id++) {
                for (n = in_batch = 0; n < 2 * T; n++) in_batch += x[n].i == id && id != 2;
                test_note("%s, step %d, id %d", sparse_rows[i], s, id);
                for (k = 0; k < 3; k++) /* 2 is the pad_id, written as 3 */
                    CHECK((memcmp(after[k] + (size_t)id * size, before[k] + (size_t)id * size,
                                  size * sizeof(float)) != 0) == (in_batch > 0));
            }
        }
        nn_free(&dense);
        nn_free(&sparse);
    }
}

/* What x holds behind a length does not matter, not even as an id whose moments are not zero. */
TEST(sparse_adam_reads_nothing_behind_a_length) {
    static const int32_t lengths[2] = { 3, 0 };
    static number x[TOKENS];
    nn_opts o = sparse_options();
    uint64_t digest[2];
    nn_model dense, m;
    int i, clean, t;

    o.optimizer = NN_ADAM;
    for (i = 0; i < 2; i++) {
        for (clean = 0; clean < 2; clean++) {
            digest[clean] = (uint64_t)clean;
            if (!build_both(&dense, &m, i, o)) break;
            for (t = 0; t < 2 * T; t++) x[t].i = 10 + t;
            CHECK_EQ_INT(nn_train(&m, x, sparse_target, 2), 0);
            CHECK_EQ_INT(nn_set_lengths(&m, lengths), 0);
            for (t = lengths[0]; clean && t < 2 * T; t++) x[t].i = 10;
            CHECK_EQ_INT(nn_train(&m, x, sparse_target, 2), 0);
            digest[clean] = nn_digest(&m);
            nn_free(&dense);
            nn_free(&m);
        }
        CHECK(digest[0] == digest[1]);
    }
}

/* A file halfway: losses, weights and moments go on as they would have. */
TEST(sparse_adam_resumes) {
    static float whole_state[3][30 * 17], state[3][30 * 17];
    static unsigned char file[1 << 16];
    static number x[TOKENS];
    nn_opts o = sparse_options();
    nn_memory_writer w;
    nn_model dense, whole, m;
    int i, s;

    o.optimizer = NN_ADAM;
    o.eps_mode = NN_EPS_KERAS;
    for (i = 0; i < 2; i++) {
        if (!build_both(&dense, &whole, i, o)) return;
        nn_free(&dense);
        w.bytes = file;
        w.capacity = sizeof file;
        w.size = 0;
        for (s = 0; s < 6; s++) {
            sparse_ids(&whole, x, s);
            CHECK_EQ_INT(nn_train(&whole, x, sparse_target, 3), 0);
            if (s == 2) CHECK(nn_save(&whole, 1, nn_write_memory, &w) > 0);
        }
        o.resume = 1;
        if (!CHECK_EQ_INT(nn_load(&m, file, w.size, &o), 0)) return;
        CHECK_EQ_INT(m.rows[1].sparse, 1);
        for (s = 3; s < 6; s++) {
            sparse_ids(&m, x, s);
            CHECK_EQ_INT(nn_train(&m, x, sparse_target, 3), 0);
        }
        CHECK_SAME_BYTES(&m.loss, &whole.loss, sizeof m.loss);
        CHECK(nn_digest(&m) == nn_digest(&whole));
        if (sparse_state(&whole, whole_state) && sparse_state(&m, state))
            CHECK_SAME_BYTES(state, whole_state, sizeof state);
        o.resume = 0;
        nn_free(&m);
        nn_free(&whole);
    }
}

/* ---- the rest -------------------------------------------------------------------------------- */

/* The two biases are two tensors with one gradient each; under the GRU's reset gate they differ. */
TEST(two_biases_have_equal_gradients) {
    static const char *const rows[] = {
        "input x - shape=7,5; lstm l x units=17 last=1",
        "input x - shape=7,5; rnn l x units=17 last=1",
        "input x - shape=7,5; gru l x units=17 last=1",
    };
    static number x[MOST];
    static float target[MOST], a[MOST], b[MOST];
    nn_opts o = some_options(1);
    nn_model m;
    size_t k, count;

    for (k = 0; k < 3; k++) {
        if (!built(&m, rows[k], &o)) continue;
        fill(&m, x, N, T);
        count = k == 0 ? 4 * 17 : k == 1 ? 17 : 3 * 17;
        CHECK_EQ_INT(nn_zero_grad(&m), 0);
        CHECK_EQ_INT(nn_forward(&m, x, target, NULL, N), 0);
        CHECK_EQ_INT(nn_backward(&m, NULL, NULL), 0);
        CHECK_EQ_INT(nn_get_grad(&m, "l.bias_ih_l0", a, count), 0);
        CHECK_EQ_INT(nn_get_grad(&m, "l.bias_hh_l0", b, count), 0);
        CHECK(a[0] != 0);
        CHECK_SAME_BYTES(a, b, (k == 2 ? 2 * 17 : count) * sizeof(float));
        if (k == 2) CHECK(memcmp(a + 34, b + 34, 17 * sizeof(float)) != 0);
        nn_free(&m);
    }
}

/* Lengths of what has no steps, ids to validate with that no table has: said before training. */
TEST(lengths_and_ids_are_checked_first) {
    static const int32_t length[1] = { 1 }, ids[2][7] = { { 1 }, { 99 } };
    static number x[MOST];
    static float target[MOST], y[MOST];
    nn_opts o = some_options(1);
    nn_fit_opts f;
    nn_model m;

    if (built(&m, "input x - shape=4; dense d x units=2", &o)) {
        CHECK_EQ_INT(nn_set_lengths(&m, length), 0);
        CHECK_EQ_INT(nn_infer(&m, x, y, 1), NN_ERR_CALL);
        CHECK_EQ_INT(nn_set_lengths(&m, NULL), 0);
        CHECK_EQ_INT(nn_infer(&m, x, y, 1), 0);
        nn_free(&m);
    }
    CHECK_EQ_INT(nn_build_text(&m, "input x - shape=7,5; rnn r x units=2 no_bias=1 one_bias=1", &o),
                 NN_ERR_ROW);
    if (built(&m, "input x - shape=7 type=i32; embedding e x vocab=9 units=3; gru l e units=2",
              &o)) {
        memset(&f, 0, sizeof f);
        f.x = ids[0];
        f.x_val = ids[1];
        f.y = f.y_val = target;
        f.n = f.n_val = f.quiet = 1;
        CHECK_EQ_INT(nn_fit(&m, &f), NN_ERR_LABEL);
        CHECK_EQ_INT((int)m.step, 0);
        nn_free(&m);
    }
}

/* A clone has states of its own, and they begin with zeros. */
TEST(clones_have_their_own_states) {
    static number x[MOST];
    static float y[2][MOST];
    nn_opts o = some_options(0);
    nn_model m, clone;
    int i;

    o.stateful = 1;
    for (i = 0; i < ALL_ROWS; i++) {
        if (!built(&m, rows_at(i), &o)) continue;
        fill(&m, x, N, T);
        CHECK_EQ_INT(nn_infer(&m, x, y[0], N), 0);
        if (CHECK_EQ_INT(nn_clone(&clone, &m, &o), 0)) {
            CHECK_EQ_INT(nn_infer(&clone, x, y[1], N), 0);
            CHECK_SAME_BYTES(y[0], y[1], (size_t)(N * m.out_size) * sizeof(float));
            nn_free(&clone);
        }
        nn_free(&m);
    }
}

/* Dropout between layers: none in inference; its masks depend on the seed and the step. */
TEST(dropout_between_layers) {
    static number x[MOST];
    static float y[2][MOST], target[MOST];
    nn_opts o = some_options(1);
    nn_model with, without, again;

    if (!built(&with, "input x - shape=7,5; lstm l x units=17 layers=2 rate=0.5", &o)) return;
    if (!built(&again, "input x - shape=7,5; lstm l x units=17 layers=2 rate=0.5", &o)) return;
    if (!built(&without, "input x - shape=7,5; lstm l x units=17 layers=2", &o)) return;
    fill(&with, x, N, T);
    CHECK_EQ_INT(nn_infer(&with, x, y[0], N), 0);
    CHECK_EQ_INT(nn_infer(&without, x, y[1], N), 0);
    CHECK_SAME_BYTES(y[0], y[1], (size_t)(N * with.out_size) * sizeof(float));
    CHECK_EQ_INT(nn_forward(&with, x, NULL, y[0], N), 0);
    CHECK(memcmp(y[0], y[1], (size_t)(N * with.out_size) * sizeof(float)) != 0);
    CHECK_EQ_INT(nn_train(&with, x, target, N), 0);
    CHECK_EQ_INT(nn_train(&again, x, target, N), 0);
    CHECK_EQ_INT(nn_train(&without, x, target, N), 0);
    CHECK(nn_digest(&with) == nn_digest(&again));
    CHECK(nn_digest(&with) != nn_digest(&without));
    nn_free(&with);
    nn_free(&again);
    nn_free(&without);
}

/* Gradients see the same masks: along its gradient, the loss changes by the gradient's square. */
TEST(dropout_masks_gradients_too) {
    enum { COUNT = 4 * 17 * C };
    static number x[MOST];
    static float target[MOST], start[COUNT], grad[COUNT], moved[COUNT];
    nn_opts o = some_options(1);
    nn_model m;
    double loss[2], squares = 0, size;
    int k, i;

    for (i = 0; i < MOST; i++) target[i] = gen_float(9, TARGET, (size_t)i, 1, 0);
    if (!built(&m, "input x - shape=7,5; lstm l x units=17 layers=3 rate=0.5 bidirectional=1", &o))
        return;
    fill(&m, x, N, T);
    CHECK_EQ_INT(nn_zero_grad(&m), 0);
    CHECK_EQ_INT(nn_forward(&m, x, target, NULL, N), 0);
    CHECK_EQ_INT(nn_backward(&m, NULL, NULL), 0);
    CHECK_EQ_INT(nn_get_grad(&m, "l.weight_ih_l0", grad, COUNT), 0);
    CHECK_EQ_INT(nn_get(&m, "l.weight_ih_l0", start, COUNT), 0);
    for (i = 0; i < COUNT; i++) squares += (double)grad[i] * (double)grad[i];
    CHECK(squares > 0);
    CHECK_EQ_INT(nn_zero_grad(&m), 0); /* so that the same samples get the same masks again */
    size = 0.1 / sqrt(squares);
    for (k = 0; k < 2; k++) {
        for (i = 0; i < COUNT; i++) moved[i] = start[i] + (float)(k ? size : -size) * grad[i];
        CHECK_EQ_INT(nn_set(&m, "l.weight_ih_l0", moved, COUNT), 0);
        CHECK_EQ_INT(nn_zero_grad(&m), 0); /* else these would be further samples of the step */
        CHECK_EQ_INT(nn_forward(&m, x, target, NULL, N), 0);
        loss[k] = (double)m.loss;
    }
    CHECK_CLOSE((loss[1] - loss[0]) / (2 * size * squares), 1, 0.01);
    nn_free(&m);
}

/* Rows with their new fields come back from a file. */
TEST(files_keep_the_rows) {
    static unsigned char file[1 << 17];
    static number x[MOST];
    static float y[2][MOST];
    nn_memory_writer w;
    nn_model m, loaded;
    nn_opts o;
    int i;

    for (i = 0; i < ALL_ROWS; i++) {
        o = some_options(0);
        if (!built(&m, rows_at(i), &o)) continue;
        w.bytes = file;
        w.capacity = sizeof file;
        w.size = 0;
        fill(&m, x, N, T);
        CHECK_EQ_INT(nn_infer(&m, x, y[0], N), 0);
        CHECK(nn_save(&m, 0, nn_write_memory, &w) > 0);
        o.seed = 6;
        if (CHECK_EQ_INT(nn_load(&loaded, file, w.size, &o), 0)) {
            CHECK(nn_digest(&m) == nn_digest(&loaded));
            CHECK_EQ_INT(nn_infer(&loaded, x, y[1], N), 0);
            CHECK_SAME_BYTES(y[0], y[1], (size_t)(N * m.out_size) * sizeof(float));
            nn_free(&loaded);
        }
        nn_free(&m);
    }
}

int main(int argc, char **argv) {
    int i;

    test_begin(argc, argv);
    run_file(GOLDEN_FOLDER "sequences.safetensors");
    run_file(GOLDEN_FOLDER "keras.safetensors");
    RUN(streams_equal_whole_sequences);
    RUN(states_are_kept_got_and_set);
    RUN(models_without_state);
    RUN(eval_leaves_states);
    RUN(nothing_is_read_behind_a_length);
    RUN(lengths_equal_shorter_plans);
    RUN(budgets_keep_the_bits);
    RUN(fit_takes_lengths);
    RUN(wrong_lengths_are_refused);
    RUN(wrong_ids_are_refused);
    RUN(sequences_are_images_of_one_row);
    RUN(sparse_training_is_the_same);
    RUN(sparse_gradients_are_bounded);
    RUN(sparse_adam_changes_only_the_batch);
    RUN(sparse_adam_reads_nothing_behind_a_length);
    RUN(sparse_adam_resumes);
    RUN(two_biases_have_equal_gradients);
    RUN(lengths_and_ids_are_checked_first);
    RUN(clones_have_their_own_states);
    RUN(dropout_between_layers);
    RUN(dropout_masks_gradients_too);
    RUN(files_keep_the_rows);
    for (i = 0; i < KINDS; i++)
        if (*worst[i].where)
            printf("%-18s differ by at most %.1e (%s)\n", kind_name[i], worst[i].error,
                   worst[i].where);
    return test_end();
}
