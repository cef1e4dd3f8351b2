/* test_golden.c - agreement with PyTorch

   Runs every case of golden/torch_*.safetensors and compares with what PyTorch computed in float64:
   outputs, losses, the gradient of every tensor and of the input, and after some steps of training
   the losses, parameters, running statistics and optimizer state. A case is rows and options as
   text in the file; there is no code for single cases. golden/make_golden.py makes the files. */

#ifndef NN_LINKED
#define NN_IMPLEMENTATION
#endif
#include "nn.h"

#include "test.h"

#define GOLDEN_FOLDER "tests/golden/"

/* Bounds. A tensor: max|a - b| / max|b|. A loss during training: |a - b| / first loss. */
static const double tensor_bound = 1e-5, loss_bound = 1e-4;

enum { MAX_TENSORS = 24 };
enum { X, TARGET, DY, FIRST_TENSOR }; /* streams of made-up values, as in make_golden.py */

typedef struct net_case {
    const char *name, *rows, *options;
    uint32_t seed;
    int tensors;
    struct {
        char name[64];
        size_t count;
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
    int n;                        /* samples of a batch */
    size_t x_bytes, target_bytes; /* of a batch */
    unsigned char *x, *target;    /* of all batches */
    float *out, *dx;              /* of a batch */
    char why[256];
} job;

/* The largest error met, by what is compared: printed at the end. */
enum { OUTPUT, LOSS, GRADIENT, INPUT_GRADIENT, TRAINED_LOSS, TRAINED, STATE, KINDS };
static const char *const kind_name[KINDS] = {
    "outputs",         "first loss",      "gradients", "input gradients", "losses in training",
    "trained tensors", "optimizer state",
};
static struct {
    double error;
    char where[96];
} worst[KINDS];

static void record(int kind, double error, const char *where) {
    if (!(error <= worst[kind].error)) {
        worst[kind].error = error;
        snprintf(worst[kind].where, sizeof worst[kind].where, "%.90s", where);
    }
}

/* ---- cases as text --------------------------------------------------------------------------- */

/* Text of "key=value" among the options, or "". */
static const char *option(const net_case *c, const char *key, char *value, size_t size) {
    size_t length = strlen(key), n = 0;
    const char *p = c->options;

    while ((p = strstr(p, key)) != NULL) {
        if ((p == c->options || p[-1] == ' ') && p[length] == '=') {
            for (p += length + 1; *p && *p != ' ' && n + 1 < size; p++) value[n++] = *p;
            break;
        }
        p += length;
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
    o.beta1 = real_option(c, "beta1");
    o.beta2 = real_option(c, "beta2");
    o.eps = real_option(c, "eps");
    o.weight_decay = real_option(c, "weight_decay");
    o.input_grad = int_option(c, "input_grad", 0);
    return o;
}

/* Reads the lines of one case from *text on, ends them where they stand, and moves *text to the
   next case. 0: no more. */
static int next_case(char **text, net_case *c) {
    char *line = *text, *end;
    unsigned long count, seed = 0;
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
                   sscanf(line, "tensor %63s %lu %f %f %d", c->tensor[c->tensors].name, &count,
                          &amplitude, &center, &trains) == 5) {
            c->tensor[c->tensors].count = count;
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

static const char *golden_name(const job *j, const char *what, const char *name) {
    static char key[160];

    snprintf(key, sizeof key, "%s/%s%s", j->c->name, what, name);
    return key;
}

/* got against the golden tensor what + name, which may hold only every stride-th element and sums.
   Errors count in its largest element, or in scale if that is larger. */
static void compare(const job *j, int kind, const char *what, const char *name, const float *got,
                    size_t count, double scale) {
    const char *key = golden_name(j, what, name);
    char all[168];
    const float *want;
    const double *sums;
    double error = 0, d, sum = 0, squares = 0;
    size_t n = 0, i, stride = 1, at = 0;

    want = golden_f32(j->g, key, &n);
    snprintf(all, sizeof all, "%s#", key);
    sums = golden_f64(j->g, all, NULL);
    test_note("%s", key);
    if (!CHECK(want != NULL)) return;
    if (sums) {
        stride = (size_t)sums[1];
        scale = fmax(scale, sums[4]);
        CHECK_EQ_INT(count, sums[0]);
    }
    for (i = 0; i < n; i++) scale = fmax(scale, fabs((double)want[i]));
    if (!CHECK_EQ_INT((count + stride - 1) / stride, n)) return;
    for (i = 0; i < n; i++) {
        d = fabs((double)got[i * stride] - (double)want[i]);
        if (!(d <= error)) { /* a NaN is the largest error, and stays it */
            error = d;
            at = i;
            if (isnan(d)) break;
        }
    }
    test_report(error <= tensor_bound * scale, __FILE__, __LINE__, "agrees with PyTorch",
                "element %lu of %lu is %.9g, not %.9g; largest %.3g, error %.3g",
                (unsigned long)(at * stride), (unsigned long)count, (double)got[at * stride],
                (double)want[at], scale, error / scale);
    if (error > 0 || isnan(error)) record(kind, error / scale, key);
    if (sums) {
        for (i = 0; i < count; i++) {
            sum += (double)got[i];
            squares += (double)got[i] * (double)got[i];
        }
        /* By Cauchy-Schwarz the root bounds the sum of absolute values. */
        CHECK_CLOSE(sum, sums[2], tensor_bound * sqrt((double)count * sums[3]));
        CHECK_CLOSE(squares, sums[3], 2 * tensor_bound * sums[3]);
    }
}

static void compare_loss(const job *j, int kind, float got, float want, double scale) {
    const char *key = golden_name(j, kind == LOSS ? "first" : "losses", "");

    CHECK_CLOSE(got, want, scale * (kind == LOSS ? tensor_bound : loss_bound));
    record(kind, fabs((double)got - (double)want) / scale, key);
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

/* Fills a buffer with a golden tensor of the case, if there is one of that many values. */
static int given(const job *j, const char *what, float *out, size_t count) {
    size_t n;
    const float *values = golden_f32(j->g, golden_name(j, what, ""), &n);

    if (values && CHECK_EQ_INT(n, count)) memcpy(out, values, count * sizeof *out);
    return values != NULL;
}

static void make_data(job *j) {
    const net_case *c = j->c;
    size_t total = (size_t)(j->n * j->batches), xs, ys, i;
    int classes = j->m.row[j->m.row_count - 1].dim[2];
    int bytes = j->m.rows[0].type == NN_U8, labels = j->m.opts.loss == NN_CROSS_ENTROPY;

    xs = total * (size_t)j->m.in_size;
    ys = total * (size_t)j->m.out_size;
    j->x = (unsigned char *)malloc(xs * sizeof(float));
    j->target = (unsigned char *)malloc(ys * sizeof(float));
    j->out = (float *)malloc(ys * sizeof(float));
    j->dx = (float *)malloc(xs * sizeof(float));
    j->x_bytes = xs / (size_t)j->batches * (bytes ? 1 : sizeof(float));
    if (bytes)
        for (i = 0; i < xs; i++) j->x[i] = (unsigned char)gen_int(c->seed, X, i, 256);
    else if (!given(j, "x", (float *)(void *)j->x, xs))
        for (i = 0; i < xs; i++) ((float *)(void *)j->x)[i] = gen_float(c->seed, X, i, 1, 0);
    if (labels) {
        ys /= (size_t)classes;
        for (i = 0; i < ys; i++)
            ((int32_t *)(void *)j->target)[i] = gen_int(c->seed, TARGET, i, classes);
    } else if (!given(j, "target", (float *)(void *)j->target, ys)) {
        float half = j->m.opts.loss == NN_BCE ? 0.5f : 0.0f; /* 0 to 1, else -1 to 1 */

        for (i = 0; i < ys; i++) {
            float t = gen_float(c->seed, TARGET, i, 1 - half, half);

            if (int_option(c, "hard", 0)) t = (float)gen_int(c->seed, TARGET, i, 2);
            ((float *)(void *)j->target)[i] = t;
        }
    }
    j->target_bytes = ys / (size_t)j->batches * sizeof(float);
}

/* Inference, and the losses before training: of inference and of the first step. */
static void check_inference(job *j, const float *first) {
    size_t outs = (size_t)j->n * (size_t)j->m.out_size;
    const float *correct;

    CHECK_EQ_INT(nn_infer(&j->m, j->x, j->out, j->n), 0);
    compare(j, OUTPUT, "infer", "", j->out, outs, 0);
    CHECK_EQ_INT(nn_eval(&j->m, j->x, j->target, j->n), 0);
    compare_loss(j, LOSS, j->m.loss, first[0], (double)first[0]);
    correct = golden_f32(j->g, golden_name(j, "correct", ""), NULL);
    if (correct) CHECK_EQ_INT(j->m.correct, correct[0]);
}

static void check_gradients(job *j, const float *first) {
    const net_case *c = j->c;
    size_t outs = (size_t)j->n * (size_t)j->m.out_size, i;
    int own_dy = int_option(c, "dy", 0), t;
    int y_differs = golden_find(j->g, golden_name(j, "y", "")) != NULL;
    float *grad, *dx = j->m.opts.input_grad ? j->dx : NULL;

    CHECK_EQ_INT(nn_zero_grad(&j->m), 0);
    CHECK_EQ_INT(nn_forward(&j->m, j->x, own_dy ? NULL : j->target, j->out, j->n), 0);
    compare(j, OUTPUT, y_differs ? "y" : "infer", "", j->out, outs, 0);
    if (!own_dy) compare_loss(j, LOSS, j->m.loss, first[1], (double)first[1]);
    for (i = 0; own_dy && i < outs; i++) j->out[i] = gen_float(c->seed, DY, i, 1, 0);
    CHECK_EQ_INT(nn_backward(&j->m, own_dy ? j->out : NULL, dx), 0);
    if (dx) compare(j, INPUT_GRADIENT, "dx", "", dx, (size_t)j->n * (size_t)j->m.in_size, 0);
    for (t = 0; t < c->tensors; t++) {
        if (!golden_find(j->g, golden_name(j, "grad/", c->tensor[t].name))) continue;
        grad = (float *)malloc(c->tensor[t].count * sizeof *grad);
        CHECK_EQ_INT(nn_get_grad(&j->m, c->tensor[t].name, grad, c->tensor[t].count), 0);
        compare(j, GRADIENT, "grad/", c->tensor[t].name, grad, c->tensor[t].count, 0);
        free(grad);
    }
}

static void check_training(job *j) {
    size_t count = 0;
    const float *losses = golden_f32(j->g, golden_name(j, "losses", ""), &count);
    int step, every = int_option(j->c, "every", 1), b;

    if (!CHECK(losses != NULL) || !CHECK_EQ_INT(count, (j->steps + every - 1) / every)) return;
    for (step = 0; step < j->steps; step++) {
        test_note("step %d", step + 1);
        b = step % j->batches;
        if (!CHECK_EQ_INT(nn_train(&j->m, j->x + (size_t)b * j->x_bytes,
                                   j->target + (size_t)b * j->target_bytes, j->n),
                          0))
            return;
        if (step % every == 0)
            compare_loss(j, TRAINED_LOSS, j->m.loss, losses[step / every], (double)losses[0]);
    }
}

/* What training left: outputs, tensors, optimizer state; and that the frozen kept every bit. */
static void check_trained(job *j) {
    static const char *const states[] = { "opt.mom/", "opt.m/", "opt.v/" };
    const net_case *c = j->c;
    size_t outs = (size_t)j->n * (size_t)j->m.out_size, i, k;
    char name[80];
    float *values, v;
    double scale = 0;
    int t;

    /* At the end of W5 weight and bias share their rounding: both count in the larger. */
    for (t = 0; int_option(c, "leaves", 2) == 1 && t < c->tensors; t++) {
        const float *want = golden_f32(j->g, golden_name(j, "after/", c->tensor[t].name), &i);

        while (want && i-- > 0) scale = fmax(scale, fabs((double)want[i]));
    }
    if (golden_find(j->g, golden_name(j, "after", ""))) {
        CHECK_EQ_INT(nn_infer(&j->m, j->x, j->out, j->n), 0);
        compare(j, OUTPUT, "after", "", j->out, outs, 0);
    }
    for (t = 0; t < c->tensors; t++) {
        size_t n = c->tensor[t].count, changed = 0;

        values = (float *)malloc(n * sizeof *values);
        CHECK_EQ_INT(nn_get(&j->m, c->tensor[t].name, values, n), 0);
        for (i = 0; i < n; i++) {
            v = start_value(c, t, i);
            changed += memcmp(&v, &values[i], sizeof v) != 0;
        }
        test_note("%s", c->tensor[t].name);
        if (c->tensor[t].trains) {
            CHECK(changed > 0);
            compare(j, TRAINED, "after/", c->tensor[t].name, values, n, scale);
        } else {
            CHECK_EQ_INT(changed, 0);
        }
        for (k = 0; k < sizeof states / sizeof states[0]; k++)
            if (golden_find(j->g, golden_name(j, states[k], c->tensor[t].name))) {
                snprintf(name, sizeof name, "%s%s", states[k], c->tensor[t].name);
                CHECK_EQ_INT(nn_get(&j->m, name, values, n), 0);
                compare(j, STATE, states[k], c->tensor[t].name, values, n, 0);
            }
        free(values);
    }
}

static void run_case(const golden *g, const net_case *c) {
    job j;
    nn_opts o;
    char train[64];
    const float *first;
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
    first = golden_f32(g, golden_name(&j, "first", ""), &n);
    if (!CHECK(first != NULL) || !CHECK_EQ_INT(n, 2)) return;
    if (!test_report(nn_build_text(&j.m, c->rows, &o) == 0, __FILE__, __LINE__, "nn_build_text",
                     "%s", j.why))
        return;
    set_tensors(&j);
    make_data(&j);
    check_inference(&j, first);
    check_gradients(&j, first);
    check_training(&j);
    if (int_option(c, "leaves", 2) > 0) check_trained(&j);
    nn_free(&j.m);
    free(j.x);
    free(j.target);
    free(j.out);
    free(j.dx);
}

/* Both sides make the same values: else every case would fail, and nobody would know why. */
static void generator(const golden *g) {
    size_t count = 0, i;
    const float *want = golden_f32(g, "generator", &count);
    float got;

    CHECK(want != NULL && count == 64);
    for (i = 0; i < count; i++) {
        got = gen_float(7, 5, i, 0.25f, 1);
        CHECK_SAME_BYTES(&got, &want[i], sizeof got);
    }
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
    if (test_start("generator")) {
        generator(g);
        test_stop();
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

int main(int argc, char **argv) {
    int i;

    test_begin(argc, argv);
    run_file(GOLDEN_FOLDER "torch_workloads.safetensors");
    run_file(GOLDEN_FOLDER "torch_ops.safetensors");
    for (i = 0; i < KINDS; i++)
        if (*worst[i].where)
            printf("%-18s differ by at most %.1e (%s)\n", kind_name[i], worst[i].error,
                   worst[i].where);
    return test_end();
}
