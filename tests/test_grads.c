/* test_grads.c - derivatives of every op and loss, by the table golden/cases.txt

   Every line of the table is a small net. golden/make_grads.py took its derivatives from a float64
   reference by central differences; here the library must agree, and its several ways to the same
   derivatives (batches, budgets, frozen rows, updates during backward) must agree with each other
   bit for bit.

   Run from the repository's root; an argument picks the cases whose names contain it.
*/
#ifndef NN_LINKED
#define NN_IMPLEMENTATION
#endif
#include "nn.h"
#include "test.h"

/* The reference is exact to about 1e-9 and stored as float: 6e-8. The library rounds every
   operation to 24 bits and sums at most some hundred products, of both signs, before they pass
   through a few rows: a few times 1e-6 of a tensor's largest element may be lost. A wrong term,
   index or factor is off by 1e-2 and more. */
#define BOUND 2e-5
/* A derivative that is zero by cancellation (the bias before a batchnorm) keeps the rounding of its
   terms: this share of the case's largest derivative is forgiven. */
#define FLOOR 1e-6

enum { MOST = 4096, NAME = 160 };     /* elements of an array; characters of a name */
enum { X, TARGET, DY, FIRST_TENSOR }; /* streams of made-up values */
enum { STEPS = 3, TURNS = 2 };        /* training steps; SGD and Adam */
enum { BATCH = 5 };                   /* most samples with lengths */

typedef struct net_case {
    char name[64], rows[1024];
    int32_t batch, loss;
    uint32_t seed;
    int norm, share;             /* has a batchnorm row; has a row that shares tensors */
    int has_lengths;
    int32_t ids;                 /* samples are ids below this; 0: they are not ids */
    int32_t length[BATCH];       /* if it has any: of every sample, for nn_set_lengths */
    size_t in, out, labels;      /* elements of a sample, its output, its target */
    size_t sample;               /* bytes of a sample */
    union { float real[MOST]; int32_t id[MOST]; unsigned char byte[MOST]; } x;
    union { float real[MOST]; int32_t label[MOST]; } target;
} net_case;

static golden *expected;
static net_case nc;

/* ---- building -------------------------------------------------------------------------------- */

/* Options of the case; train: as in nn_opts. */
static nn_opts options(const char *train)
{
    static char why[256];
    nn_opts o;

    memset(&o, 0, sizeof o);
    o.batch = nc.batch;
    o.train = train;
    o.loss = nc.loss;
    o.lr = 0.01f;
    o.why = why;
    o.why_size = sizeof why;
    return o;
}

static int is_recurrent(const nn_layer *row)
{
    return strstr("lstm gru rnn", row->op->name) != NULL;
}

/* As PyTorch names them, the layer and the direction of a recurrent row behind the suffix. */
static void tensor_name(const nn_model *m, uint32_t i, char *name)
{
    const nn_layer *row = &m->rows[m->tensor[i].row];
    const char *suffix = row->op->suffixes;
    const int set = m->tensor[i].suffix / 4, ways = row->bidirectional + 1;
    int k;

    for (k = m->tensor[i].suffix % 4; k > 0; k--)
        suffix = strchr(suffix, ' ') + 1;
    k = snprintf(name, NAME, "%s.%.*s", row->name, (int)strcspn(suffix, " "), suffix);
    if (is_recurrent(row))
        snprintf(name + k, NAME - (size_t)k, "_l%d%s", set / ways, set % ways ? "_reverse" : "");
}

/* Is tensor i one of its own, not another's under a second name? */
static int own(const nn_model *m, uint32_t i)
{
    return m->tensor[i].alias == i;
}

static int is_norm(const nn_model *m, uint32_t row)
{
    return strcmp(m->rows[row].op->name, "batchnorm") == 0;
}

/* The values of make_grads.py's initial(). */
static void set_tensors(nn_model *m)
{
    static float values[MOST];
    uint32_t i, k, stream = FIRST_TENSOR;
    char name[NAME];

    for (i = 0; i < m->tensor_count; i++) {
        const nn_tensor *t = &m->tensor[i];
        const float terms = (float)(t->count / (uint32_t)t->dim[0]);
        float amplitude = t->ndim > 1 ? 1.0f : 0.5f, center = 0.0f;

        if (!own(m, i))
            continue;
        tensor_name(m, i, name);
        while (amplitude * amplitude * terms > 4.0f)
            amplitude *= 0.5f;
        if (t->ndim == 1 && (strstr(name, ".weight") || strstr(name, ".running_var")))
            center = 1.0f;
        if (!CHECK(t->count <= MOST))
            return;
        for (k = 0; k < t->count; k++)
            values[k] = gen_float(nc.seed, stream, k, amplitude, center);
        CHECK_EQ_INT(nn_set(m, name, values, t->count), 0);
        stream++;
    }
}

/* The lengths of sample number i and those behind it. */
static void set_length(nn_model *m, int i)
{
    if (nc.has_lengths)
        CHECK_EQ_INT(nn_set_lengths(m, nc.length + i), 0);
}

/* Builds the case with these options and sets its tensors and lengths; 0: failed, and said so. */
static int build(nn_model *m, const nn_opts *o)
{
    int e = nn_build_text(m, nc.rows, o);

    if (!test_report(e == 0, __FILE__, __LINE__, "build", "%s: %s", nn_error_name(e), o->why))
        return 0;
    set_tensors(m);
    set_length(m, 0);
    return 1;
}

/* What the model says about the case, and the samples and targets. */
static int make_case(void)
{
    nn_opts o = options(NULL);
    nn_model m;
    uint32_t i;
    size_t k;
    char name[NAME];
    const float *seed;

    snprintf(name, sizeof name, "%s/seed", nc.name);
    seed = golden_f32(expected, name, NULL);
    if (!CHECK(seed != NULL))
        return 0;
    nc.seed = (uint32_t)*seed;
    if (!build(&m, &o))
        return 0;
    nc.norm = nc.share = 0;
    for (i = 0; i < m.row_count; i++) {
        nc.norm |= is_norm(&m, i);
        nc.share |= m.rows[i].share != NULL;
        if (m.rows[i].vocab && (!nc.ids || m.rows[i].vocab < nc.ids))
            nc.ids = m.rows[i].vocab;
    }
    nc.in = (size_t)m.in_size;
    nc.out = nc.labels = (size_t)m.out_size;
    nc.sample = nc.in * (m.rows[0].type == NN_U8 ? 1 : sizeof(float));
    if (!CHECK((size_t)nc.batch * nc.in <= MOST && (size_t)nc.batch * nc.out <= MOST))
        return 0;
    for (k = 0; k < (size_t)nc.batch * nc.in; k++)
        if (nc.ids)
            nc.x.id[k] = gen_int(nc.seed, X, k, nc.ids);
        else if (m.rows[0].type == NN_U8)
            nc.x.byte[k] = (unsigned char)gen_int(nc.seed, X, k, 256);
        else
            nc.x.real[k] = gen_float(nc.seed, X, k, 1.0f, 0.0f);
    if (nc.loss == NN_CROSS_ENTROPY)
        nc.labels /= (size_t)m.row[m.row_count - 1].dim[2];
    for (k = 0; k < (size_t)nc.batch * nc.labels; k++)
        if (nc.loss == NN_CROSS_ENTROPY)
            nc.target.label[k] = gen_int(nc.seed, TARGET, k, m.row[m.row_count - 1].dim[2]);
        else if (nc.loss == NN_BCE)
            nc.target.real[k] = gen_float(nc.seed, TARGET, k, 0.5f, 0.5f);
        else
            nc.target.real[k] = gen_float(nc.seed, TARGET, k, 1.0f, 0.0f);
    nn_free(&m);
    return 1;
}

/* Sample and target number i. */
static const void *sample(int i)
{
    return nc.x.byte + (size_t)i * nc.sample;
}

static const void *target(int i)
{
    return nc.target.real + (size_t)i * nc.labels;
}

/* ---- comparing ------------------------------------------------------------------------------- */

/* The largest derivative by a parameter that the reference has for the case. */
static double largest_derivative(const char *folder)
{
    char prefix[NAME];
    double most = 0;
    size_t i, k;

    snprintf(prefix, sizeof prefix, "%s/%sgrad/", nc.name, folder);
    for (i = 0; i < expected->tensors; i++) {
        const golden_tensor *t = &expected->tensor[i];

        for (k = 0; strncmp(t->name, prefix, strlen(prefix)) == 0 && k < t->count; k++)
            most = fmax(most, fabs((double)((const float *)t->data)[k]));
    }
    return most;
}

/* got must be near the reference's CASE/FOLDERkey. */
static void check_near(const float *got, size_t count, const char *folder, const char *key,
                       double forgiven)
{
    char name[2 * NAME];
    double worst = 0, most = 0;
    const float *want;
    size_t i, n = 0;

    snprintf(name, sizeof name, "%s/%s%s", nc.name, folder, key);
    want = golden_f32(expected, name, &n);
    if (!test_report(want && n == count, __FILE__, __LINE__, name, "%lu values, not %lu",
                     (unsigned long)n, (unsigned long)count))
        return;
    for (i = 0; i < count; i++) {
        double d = fabs((double)got[i] - (double)want[i]);

        worst = d > worst || isnan(d) ? d : worst;
        most = fmax(most, fabs((double)want[i]));
    }
    test_report(worst <= BOUND * most + forgiven, __FILE__, __LINE__, name,
                "off by %.3g, largest %.3g", worst, most);
}

/* All gradients of the model and dx, if there is one, against the reference. */
static void check_derivatives(const nn_model *m, const float *dx, const char *folder)
{
    static float grad[MOST];
    const double forgiven = FLOOR * largest_derivative(folder);
    char key[NAME + 8] = "grad/", *name = key + strlen(key);
    uint32_t i;

    for (i = 0; i < m->tensor_count; i++) {
        if (!own(m, i) || m->tensor[i].grad == NN_AT_NONE)
            continue;
        tensor_name(m, i, name);
        CHECK_EQ_INT(nn_get_grad(m, name, grad, m->tensor[i].count), 0);
        check_near(grad, m->tensor[i].count, folder, key, forgiven);
    }
    if (dx)
        check_near(dx, (size_t)nc.batch * nc.in, folder, "dx", forgiven);
}

/* The tensors of two models must have the same bits, or the gradients that both have. */
static void check_same(const nn_model *a, const nn_model *b, int gradients)
{
    static float of_a[MOST], of_b[MOST];
    uint32_t i, compared = 0;
    char name[NAME];

    for (i = 0; i < a->tensor_count; i++) {
        size_t count = a->tensor[i].count;

        if (!own(a, i) || (gradients && b->tensor[i].grad == NN_AT_NONE))
            continue;
        tensor_name(a, i, name);
        if (gradients) {
            CHECK_EQ_INT(nn_get_grad(a, name, of_a, count), 0);
            CHECK_EQ_INT(nn_get_grad(b, name, of_b, count), 0);
        } else {
            CHECK_EQ_INT(nn_get(a, name, of_a, count), 0);
            CHECK_EQ_INT(nn_get(b, name, of_b, count), 0);
        }
        test_same_bytes(of_a, of_b, count * sizeof(float), __FILE__, __LINE__, name);
        compared++;
    }
    CHECK(compared > 0);
}

/* ---- against the reference ------------------------------------------------------------------- */

/* dy: the loss's derivative by the outputs y, for nn_backward to take from outside. */
static void loss_derivative(const nn_model *m, const float *y, float *dy)
{
    const size_t count = (size_t)nc.batch * nc.out, classes = nc.out / nc.labels;
    const int32_t act = m->rows[m->row_count - 1].act;
    size_t i, k;

    for (i = 0; i < count; i++) {
        const double v = (double)y[i], t = (double)nc.target.real[i];

        if (nc.loss == NN_MSE)
            dy[i] = (float)(2 * (v - t) / (double)count);
        else if (nc.loss == NN_BCE && act == NN_SIGMOID)
            dy[i] = (float)((v - t) / (v * (1 - v)) / (double)count);
        else if (nc.loss == NN_BCE)
            dy[i] = (float)((1 / (1 + exp(-v)) - t) / (double)count);
    }
    for (i = 0; nc.loss == NN_CROSS_ENTROPY && i < count; i += classes) {
        const size_t label = (size_t)nc.target.label[i / classes];
        const double positions = (double)(count / classes);
        double sum = 0;

        for (k = 0; k < classes; k++)
            sum += exp((double)y[i + k]);
        for (k = 0; k < classes; k++)
            if (act == NN_SOFTMAX)
                dy[i + k] = k == label ? (float)(-1 / (double)y[i + k] / positions) : 0.0f;
            else
                dy[i + k] = (float)((exp((double)y[i + k]) / sum - (k == label)) / positions);
    }
}

/* Outputs, loss, derivatives by parameters and samples, once from the loss and once from a dy that
   is handed in; at last the running statistics after an update. */
static void against_reference(void)
{
    static float y[MOST], dy[MOST], of_x[MOST];
    float *dx = nc.ids ? NULL : of_x;
    nn_opts o = options("*");
    const size_t outs = (size_t)nc.batch * nc.out;
    nn_model m;
    uint32_t i;
    char key[NAME + 8] = "moved/", *name = key + strlen(key);

    o.input_grad = dx != NULL;
    if (!build(&m, &o))
        return;
    test_note("loss");
    CHECK_EQ_INT(nn_forward(&m, &nc.x, &nc.target, y, nc.batch), 0);
    CHECK_EQ_INT(nn_backward(&m, NULL, dx), 0);
    check_near(y, outs, "", "out", 0);
    check_near(&m.loss, 1, "", "loss", 0);
    check_derivatives(&m, dx, "");

    test_note("dy");
    CHECK_EQ_INT(nn_zero_grad(&m), 0);
    CHECK_EQ_INT(nn_forward(&m, &nc.x, NULL, y, nc.batch), 0);
    check_near(y, outs, "", "out", 0);
    loss_derivative(&m, y, dy);
    CHECK_EQ_INT(nn_backward(&m, dy, dx), 0);
    check_derivatives(&m, dx, "");

    test_note("running statistics");
    CHECK_EQ_INT(nn_update(&m), 0);
    for (i = 0; i < m.tensor_count; i++) {
        tensor_name(&m, i, name);
        if (!strstr(name, ".running_"))
            continue;
        CHECK_EQ_INT(nn_get(&m, name, y, m.tensor[i].count), 0);
        check_near(y, m.tensor[i].count, "", key, 0);
    }
    nn_free(&m);
}

/* Batchnorm rows, frozen below and above rows that train, go by their running statistics and leave
   them alone. */
static void frozen_norm(void)
{
    static float y[MOST], of_x[MOST], before[MOST], after[MOST];
    float *dx = nc.ids ? NULL : of_x;
    const size_t outs = (size_t)nc.batch * nc.out;
    nn_opts o = options(NULL);
    nn_model m;
    uint32_t i;
    char train[512] = "", name[NAME];

    test_note("inference of a batchnorm");
    if (!build(&m, &o))
        return;
    CHECK_EQ_INT(nn_infer(&m, &nc.x, y, nc.batch), 0);
    check_near(y, outs, "", "infer", 0);
    for (i = 0; i < m.row_count; i++)
        if (!is_norm(&m, i) && m.row[i].tensors > 0)
            snprintf(train + strlen(train), sizeof train - strlen(train), " %s", m.rows[i].name);
    nn_free(&m);
    if (!train[0])
        return;

    test_note("frozen batchnorm, train \"%s\"", train + 1);
    o = options(train + 1);
    o.input_grad = dx != NULL;
    if (!build(&m, &o))
        return;
    CHECK_EQ_INT(nn_forward(&m, &nc.x, &nc.target, y, nc.batch), 0);
    CHECK_EQ_INT(nn_backward(&m, NULL, dx), 0);
    check_near(y, outs, "", "infer", 0);
    check_near(&m.loss, 1, "frozen/", "loss", 0);
    check_derivatives(&m, dx, "frozen/");
    for (i = 0; i < m.tensor_count; i++) {
        tensor_name(&m, i, name);
        if (!is_norm(&m, m.tensor[i].row))
            continue;
        CHECK_EQ_INT(nn_get(&m, name, before, m.tensor[i].count), 0);
        CHECK_EQ_INT(nn_update(&m), 0);
        CHECK_EQ_INT(nn_get(&m, name, after, m.tensor[i].count), 0);
        test_same_bytes(after, before, m.tensor[i].count * sizeof(float), __FILE__, __LINE__, name);
    }
    nn_free(&m);
}

/* ---- different ways, the same bits ----------------------------------------------------------- */

/* Inference, which fuses and forgets more than training does: the model's own and that of a model
   for nothing else. */
static void same_inference(void)
{
    static float y[MOST], of_training[MOST], of_inference[MOST];
    const size_t size = (size_t)nc.batch * nc.out * sizeof(float);
    nn_opts train = options("*"), infer = options(NULL);
    nn_model m;

    test_note("inference");
    if (build(&m, &train)) {
        CHECK_EQ_INT(nn_forward(&m, &nc.x, NULL, y, nc.batch), 0);
        CHECK_EQ_INT(nn_infer(&m, &nc.x, of_training, nc.batch), 0);
        CHECK_SAME_BYTES(of_training, y, size);
        nn_free(&m);
    }
    infer.batch = 1;
    if (build(&m, &infer)) {
        CHECK_EQ_INT(nn_infer(&m, &nc.x, of_inference, nc.batch), 0);
        CHECK_SAME_BYTES(of_inference, y, size);
        nn_free(&m);
    }
}

/* The gradients of b, times factor, must be near those of a. */
static void check_gradients_near(const nn_model *a, const nn_model *b, float factor)
{
    static float of_a[MOST], of_b[MOST];
    double most, worst, largest = 0;
    uint32_t i, k, pass;
    char name[NAME];

    for (pass = 0; pass < 2; pass++) /* the largest gradient of all comes first */
        for (i = 0; i < a->tensor_count; i++) {
            if (!own(a, i) || a->tensor[i].grad == NN_AT_NONE)
                continue;
            tensor_name(a, i, name);
            CHECK_EQ_INT(nn_get_grad(a, name, of_a, a->tensor[i].count), 0);
            CHECK_EQ_INT(nn_get_grad(b, name, of_b, a->tensor[i].count), 0);
            for (most = worst = 0, k = 0; k < a->tensor[i].count; k++) {
                const double d = fabs((double)(of_b[k] * factor) - (double)of_a[k]);

                worst = d > worst || isnan(d) ? d : worst;
                most = fmax(most, fabs((double)of_a[k]));
            }
            largest = fmax(largest, most);
            if (pass == 1)
                test_report(worst <= BOUND * most + FLOOR * largest, __FILE__, __LINE__, name,
                            "off by %.3g, largest %.3g", worst, most);
        }
}

/* The smallest budget with which the case can be built: each plan's own size, less one byte, asks
   for the next. */
static int64_t least_budget(nn_opts o)
{
    int64_t least, next = nn_memory_text(nc.rows, &o);

    do {
        least = next;
        o.budget = least - 1;
        next = nn_memory_text(nc.rows, &o);
    } while (next > 0);
    return least;
}

/* A batch, and its samples one by one through a model for single samples, of the least memory:
   gradients add up. From a dy all sums have the same order, but for those of shared tensors, over
   samples and rows; from a loss there is a factor 1 / batch besides. */
static void same_accumulated(void)
{
    static float dy[MOST], y[2][MOST], dx[2][MOST];
    nn_opts o = options("*");
    nn_model whole, single;
    double loss = 0;
    size_t k;
    int s;

    o.input_grad = !nc.ids;
    for (k = 0; k < (size_t)nc.batch * nc.out; k++)
        dy[k] = gen_float(nc.seed, DY, k, 1.0f, 0.0f);
    if (!build(&whole, &o))
        return;
    o.batch = 1;
    o.budget = least_budget(o);
    if (!build(&single, &o)) {
        nn_free(&whole);
        return;
    }
    test_note("single samples, dy");
    CHECK_EQ_INT(nn_forward(&whole, &nc.x, NULL, y[0], nc.batch), 0);
    CHECK_EQ_INT(nn_backward(&whole, dy, nc.ids ? NULL : dx[0]), 0);
    for (s = 0; s < nc.batch; s++) {
        const size_t in = (size_t)s * nc.in, out = (size_t)s * nc.out;

        set_length(&single, s);
        CHECK_EQ_INT(nn_forward(&single, sample(s), NULL, y[1] + out, 1), 0);
        CHECK_EQ_INT(nn_backward(&single, dy + out, nc.ids ? NULL : dx[1] + in), 0);
    }
    CHECK_SAME_BYTES(y[1], y[0], (size_t)nc.batch * nc.out * sizeof(float));
    if (!nc.ids)
        CHECK_SAME_BYTES(dx[1], dx[0], (size_t)nc.batch * nc.in * sizeof(float));
    if (nc.share)
        check_gradients_near(&whole, &single, 1.0f);
    else
        check_same(&whole, &single, 1);

    test_note("single samples, loss");
    CHECK_EQ_INT(nn_zero_grad(&whole), 0);
    CHECK_EQ_INT(nn_zero_grad(&single), 0);
    CHECK_EQ_INT(nn_forward(&whole, &nc.x, &nc.target, NULL, nc.batch), 0);
    CHECK_EQ_INT(nn_backward(&whole, NULL, NULL), 0);
    for (s = 0; s < nc.batch; s++) {
        set_length(&single, s);
        CHECK_EQ_INT(nn_forward(&single, sample(s), target(s), NULL, 1), 0);
        CHECK_EQ_INT(nn_backward(&single, NULL, NULL), 0);
        loss += (double)single.loss;
    }
    CHECK_CLOSE(whole.loss, loss / nc.batch, BOUND * loss / nc.batch);
    check_gradients_near(&whole, &single, 1.0f / (float)nc.batch);
    nn_free(&whole);
    nn_free(&single);
}

/* The gradients of one row that trains alone. */
static void same_alone(void)
{
    nn_opts o = options("*");
    nn_model all, one;
    uint32_t i;

    if (!build(&all, &o))
        return;
    CHECK_EQ_INT(nn_forward(&all, &nc.x, &nc.target, NULL, nc.batch), 0);
    CHECK_EQ_INT(nn_backward(&all, NULL, NULL), 0);
    for (i = 0; i < all.row_count; i++) {
        if (all.row[i].tensors == 0)
            continue;
        test_note("train \"%s\"", all.rows[i].name);
        o = options(all.rows[i].name);
        if (!build(&one, &o))
            continue;
        CHECK_EQ_INT(nn_forward(&one, &nc.x, &nc.target, NULL, nc.batch), 0);
        CHECK_EQ_INT(nn_backward(&one, NULL, NULL), 0);
        CHECK_SAME_BYTES(&one.loss, &all.loss, sizeof(float));
        check_same(&all, &one, 1);
        nn_free(&one);
    }
    nn_free(&all);
}

static void set_optimizer(nn_opts *o, int turn)
{
    o->optimizer = turn == 0 ? NN_SGD : NN_ADAM;
    o->momentum = turn == 0 ? 0.5f : 0.0f;
    o->weight_decay = 0.125f;
}

/* Some steps with both models; all they know must stay the same. */
static void train_same(nn_model *a, nn_model *b)
{
    int s;

    for (s = 0; s < STEPS; s++) {
        CHECK_EQ_INT(nn_train(a, &nc.x, &nc.target, nc.batch), 0);
        CHECK_EQ_INT(nn_train(b, &nc.x, &nc.target, nc.batch), 0);
        CHECK_SAME_BYTES(&a->loss, &b->loss, sizeof(float));
    }
    check_same(a, b, 0);
}

/* Updates during backward, without gradients. Refused for shared tensors, whose gradients have
   several parts. */
static void same_fused(void)
{
    nn_model buffered, fused;
    int turn;

    for (turn = 0; turn < TURNS; turn++) {
        nn_opts o = options("*");

        test_note("fuse_update, %s", turn == 0 ? "SGD" : "Adam");
        set_optimizer(&o, turn);
        if (nc.share) {
            o.fuse_update = 1;
            CHECK_EQ_INT(nn_build_text(&fused, nc.rows, &o), NN_ERR_OPTION);
            continue;
        }
        if (!build(&buffered, &o))
            continue;
        o.fuse_update = 1;
        if (build(&fused, &o)) {
            train_same(&buffered, &fused);
            nn_free(&fused);
        }
        nn_free(&buffered);
    }
}

/* A budget that lacks one byte, for which the batch is split, and the least there is, for which
   recurrent rows compute again what they do not keep. A split changes the order of the sums of a
   shared tensor, which go over rows and samples, so it may be refused there; other bits no budget
   may give. */
static void same_budget(void)
{
    nn_model whole, split;
    int turn, least, e;

    for (turn = 0; turn < TURNS * 2; turn++) {
        nn_opts o = options("*");

        least = turn % 2;
        test_note("%s budget, %s", least ? "least" : "smaller", turn / 2 == 0 ? "SGD" : "Adam");
        set_optimizer(&o, turn / 2);
        if (!build(&whole, &o))
            continue;
        o.budget = least ? least_budget(o) : nn_memory_text(nc.rows, &o) - 1;
        e = nn_build_text(&split, nc.rows, &o);
        if (test_report(e == 0 || (nc.share && e == NN_ERR_OPTION), __FILE__, __LINE__, "budget",
                        "%s: %s", nn_error_name(e), o.why) && e == 0) {
            set_tensors(&split);
            set_length(&split, 0);
            if (!nc.share)
                CHECK_EQ_INT(split.micro, least ? 1 : nc.batch - nc.batch / 2);
            train_same(&whole, &split);
            nn_free(&split);
        }
        nn_free(&whole);
    }
}

/* What lies behind the lengths does not matter. The last test of a case: it changes the samples. */
static void same_behind_lengths(void)
{
    static float y[3][MOST], dx[2][MOST];
    const size_t outs = (size_t)nc.batch * nc.out * sizeof(float);
    size_t i, k;
    nn_opts o = options("*");
    nn_model m[2];
    int turn;

    test_note("behind lengths");
    o.input_grad = !nc.ids;
    for (turn = 0; turn < 2; turn++) {
        if (!build(&m[turn], &o))
            break;
        CHECK_EQ_INT(nn_forward(&m[turn], &nc.x, &nc.target, y[turn], nc.batch), 0);
        CHECK_EQ_INT(nn_backward(&m[turn], NULL, nc.ids ? NULL : dx[turn]), 0);
        for (i = 0; i < (size_t)nc.batch; i++) {
            const int32_t steps = nc.ids ? m[0].row[0].dim[2] : m[0].row[0].dim[1];

            for (k = nc.in / (size_t)steps * (size_t)nc.length[i]; k < nc.in; k++)
                if (nc.ids)
                    nc.x.id[i * nc.in + k] = (nc.x.id[i * nc.in + k] + 1) % nc.ids;
                else if (nc.sample == nc.in)
                    nc.x.byte[i * nc.in + k] ^= 255;
                else
                    nc.x.real[i * nc.in + k] = 1e30f;
        }
    }
    if (turn == 2) {
        CHECK_EQ_INT(nn_infer(&m[1], &nc.x, y[2], nc.batch), 0);
        CHECK_SAME_BYTES(y[1], y[0], outs);
        CHECK_SAME_BYTES(y[2], y[0], outs);
        CHECK_SAME_BYTES(&m[1].loss, &m[0].loss, sizeof(float));
        if (!nc.ids)
            CHECK_SAME_BYTES(dx[1], dx[0], (size_t)nc.batch * nc.in * sizeof(float));
        check_same(&m[0], &m[1], 1);
    }
    while (turn-- > 0)
        nn_free(&m[turn]);
}

/* ---- long sequences -------------------------------------------------------------------------- */

static void make_sequences(const char *rows, int batch)
{
    size_t k;

    memset(&nc, 0, sizeof nc);
    strcpy(nc.rows, rows);
    nc.batch = batch;
    nc.loss = NN_MSE;
    nc.seed = 1;
    for (k = 0; k < MOST; k++) {
        nc.x.real[k] = gen_float(nc.seed, X, k, 1.0f, 0.0f);
        nc.target.real[k] = gen_float(nc.seed, TARGET, k, 1.0f, 0.0f);
    }
}

/* What a long sequence needs is made for some steps at a time, more of them when there are fewer
   samples: the same. */
TEST(long_sequence)
{
    static const int32_t lengths[BATCH] = { 399, 0, 193, 192, 1 };
    size_t i;

    for (i = 0; i < 4; i++) {
        if (i < 2)
            make_sequences("input x - shape=400,1; lstm l x units=17 last=1", BATCH);
        else
            make_sequences("input x - shape=400,1; gru g x units=17 bidirectional=1 last=1", BATCH);
        nc.out = i < 2 ? 17 : 2 * 17;
        nc.has_lengths = i % 2;
        memcpy(nc.length, lengths, sizeof lengths);
        same_inference();
    }
}

/* With the least memory little is kept for backward. */
TEST(long_budget)
{
    nn_opts o;
    nn_model m;

    make_sequences("input x - shape=50,1; gru g x units=3 layers=2 bidirectional=1 last=1", 2);
    o = options("*");
    o.budget = least_budget(o);
    if (build(&m, &o)) {
        CHECK_EQ_INT(m.tight, 1);
        nn_free(&m);
    }
    same_budget();
}

/* ---- dropout --------------------------------------------------------------------------------- */

/* The reference cannot know the mask, but the outputs show it. */
TEST(dropout)
{
    enum { N = 16, INS = 3, OUTS = 33 };
    static float y[N * OUTS], plain[N * OUTS], dy[N * OUTS], dx[N * INS];
    static float weight[OUTS * INS], bias[OUTS];
    const float keep = 0.75f;
    nn_opts o;
    nn_model m;
    int kept = 0, s, i, k;

    memset(&nc, 0, sizeof nc);
    strcpy(nc.rows, "input x - shape=3; dense a x units=33; dropout d a rate=0.25");
    nc.batch = N;
    nc.loss = NN_MSE;
    nc.seed = 1;
    o = options("*");
    o.input_grad = 1;
    if (!build(&m, &o))
        return;
    for (i = 0; i < N * INS; i++)
        nc.x.real[i] = gen_float(nc.seed, X, (size_t)i, 1.0f, 0.0f);
    for (i = 0; i < N * OUTS; i++)
        dy[i] = gen_float(nc.seed, DY, (size_t)i, 1.0f, 0.0f);
    CHECK_EQ_INT(nn_infer(&m, &nc.x, plain, N), 0);
    CHECK_EQ_INT(nn_forward(&m, &nc.x, NULL, y, N), 0);
    CHECK_EQ_INT(nn_backward(&m, dy, dx), 0);
    for (i = 0; i < N * OUTS; i++) {
        kept += y[i] != 0.0f;
        if (y[i] != 0.0f)
            CHECK_CLOSE(y[i], plain[i] / keep, 1e-6 * fabs((double)plain[i]));
    }
    CHECK_CLOSE(kept, N * OUTS * 0.75, 5 * sqrt(N * OUTS * 0.75 * 0.25)); /* five deviations */

    CHECK_EQ_INT(nn_get(&m, "a.weight", weight, OUTS * INS), 0);
    CHECK_EQ_INT(nn_get_grad(&m, "a.bias", bias, OUTS), 0);
    for (k = 0; k < OUTS; k++) {
        double sum = 0;

        for (s = 0; s < N; s++)
            sum += y[s * OUTS + k] != 0.0f ? (double)dy[s * OUTS + k] / (double)keep : 0;
        CHECK_CLOSE(bias[k], sum, 1e-5);
    }
    for (s = 0; s < N; s++)
        for (i = 0; i < INS; i++) {
            double sum = 0;

            for (k = 0; k < OUTS; k++)
                if (y[s * OUTS + k] != 0.0f)
                    sum += (double)dy[s * OUTS + k] / (double)keep * (double)weight[k * INS + i];
            CHECK_CLOSE(dx[s * INS + i], sum, 1e-5);
        }
    nn_free(&m);
}

/* Under the lowest row that trains dropout does nothing. */
TEST(dropout_below)
{
    static float y[MOST], plain[MOST];
    nn_opts o;
    nn_model m;
    int i;

    memset(&nc, 0, sizeof nc);
    strcpy(nc.rows,
           "input x - shape=17; dense a x units=33; dropout d a rate=0.5; dense b d units=3");
    nc.batch = 5;
    nc.loss = NN_MSE;
    nc.seed = 1;
    for (i = 0; i < 5 * 17; i++)
        nc.x.real[i] = gen_float(nc.seed, X, (size_t)i, 1.0f, 0.0f);
    o = options("b");
    if (build(&m, &o)) {
        CHECK_EQ_INT(nn_forward(&m, &nc.x, NULL, y, 5), 0);
        CHECK_EQ_INT(nn_infer(&m, &nc.x, plain, 5), 0);
        CHECK_SAME_BYTES(y, plain, 5 * 3 * sizeof(float));
        nn_free(&m);
    }
    o = options("a");
    if (build(&m, &o)) {
        CHECK_EQ_INT(nn_forward(&m, &nc.x, NULL, y, 5), 0);
        CHECK(memcmp(y, plain, 5 * 3 * sizeof(float)) != 0);
        nn_free(&m);
    }
}

/* Dropout between the layers of a recurrent row. Each layer hands x on, so the outputs show the
   product of all masks; none may be the same as another, nor stand behind the last layer. */
TEST(dropout_between)
{
    enum { N = 4, T = 4, C = 17, LAYERS = 3 };
    static float y[N * T * C], plain[N * T * C], dy[N * T * C], dx[N * T * C];
    static float unit[C * C], zero[C * C];
    const float scale = 1 / (0.75f * 0.75f);
    nn_opts o;
    nn_model m;
    char name[NAME];
    int kept = 0, i, k;

    memset(&nc, 0, sizeof nc);
    strcpy(nc.rows, "input x - shape=4,17; rnn r x units=17 layers=3 act=relu no_bias=1 rate=0.25");
    nc.batch = N;
    nc.loss = NN_MSE;
    nc.seed = 1;
    o = options("*");
    o.input_grad = 1;
    if (!build(&m, &o))
        return;
    for (i = 0; i < C; i++)
        unit[i * C + i] = 1;
    for (i = 0; i < LAYERS; i++) {
        snprintf(name, sizeof name, "r.weight_ih_l%d", i);
        CHECK_EQ_INT(nn_set(&m, name, unit, C * C), 0);
        snprintf(name, sizeof name, "r.weight_hh_l%d", i);
        CHECK_EQ_INT(nn_set(&m, name, zero, C * C), 0);
    }
    for (i = 0; i < N * T * C; i++) {
        nc.x.real[i] = gen_float(nc.seed, X, (size_t)i, 0.5f, 1.0f);
        nc.target.real[i] = gen_float(nc.seed, TARGET, (size_t)i, 1.0f, 0.0f);
        dy[i] = gen_float(nc.seed, DY, (size_t)i, 1.0f, 0.0f);
    }
    CHECK_EQ_INT(nn_infer(&m, &nc.x, plain, N), 0);
    CHECK_SAME_BYTES(plain, nc.x.real, sizeof plain);
    CHECK_EQ_INT(nn_forward(&m, &nc.x, NULL, y, N), 0);
    CHECK_EQ_INT(nn_backward(&m, dy, dx), 0);
    for (i = 0; i < N * T * C; i++) {
        kept += y[i] != 0.0f;
        CHECK_CLOSE(y[i], y[i] != 0.0f ? plain[i] * scale : 0.0f, 1e-6);
        CHECK_CLOSE(dx[i], y[i] != 0.0f ? dy[i] * scale : 0.0f, 1e-6);
    }
    CHECK_CLOSE(kept, N * T * C * 0.5625, 5 * sqrt(N * T * C * 0.5625 * 0.4375));

    /* The last layer's weights saw what the masks left. */
    CHECK_EQ_INT(nn_get_grad(&m, "r.weight_ih_l2", zero, C * C), 0);
    for (k = 0; k < C; k++) {
        double sum = 0;

        for (i = k; i < N * T * C; i += C)
            sum += (double)dy[i] * (double)y[i];
        CHECK_CLOSE(zero[k * C + k], sum, 1e-5);
    }
    nn_free(&m);
    same_fused();
    same_budget();
}

/* ---- the table ------------------------------------------------------------------------------- */

static void run_case(void)
{
    if (!test_start(nc.name))
        return;
    if (make_case()) {
        against_reference();
        same_fused();
        if (nc.norm) {
            frozen_norm();
        } else {
            same_inference();
            if (nc.batch > 1) {
                same_accumulated();
                same_budget();
            }
            if (!nc.share)
                same_alone();
        }
        if (nc.has_lengths)
            same_behind_lengths();
    }
    test_stop();
}

/* "0,1,5", the lengths of all samples of the case. */
static int parse_lengths(const char *text)
{
    int n = 0, i = 0;

    for (; i < nc.batch && i < BATCH && sscanf(text, " %d%n", &nc.length[i], &n) == 1; i++) {
        text += n;
        text += *text == ',';
    }
    return nc.has_lengths = i == nc.batch && *text == '\0';
}

/* Takes "name | batch | loss | rows" apart, or "name | batch | loss | rows | lengths". */
static int parse_case(const char *line)
{
    static const char *const losses[] = { "mse", "bce", "ce" };
    char loss[8], *lengths;
    int rows = 0, i;

    memset(&nc, 0, sizeof nc);
    if (sscanf(line, " %63[a-z0-9_] | %d | %7[a-z] | %n", nc.name, &nc.batch, loss, &rows) != 3 ||
        rows == 0 || strlen(line + rows) >= sizeof nc.rows)
        return 0;
    strcpy(nc.rows, line + rows);
    lengths = strstr(nc.rows, " | ");
    if (lengths) {
        *lengths = '\0';
        if (!parse_lengths(lengths + 3))
            return 0;
    }
    for (i = 0; i < 3; i++)
        if (strcmp(loss, losses[i]) == 0)
            nc.loss = NN_MSE + i;
    return nc.batch > 0 && nc.loss != 0;
}

/* Runs every case of the table; a line that begins with a blank continues the one above. */
static void run_table(const char *path)
{
    char line[256], joined[2048] = "";
    FILE *f = fopen(path, "r");
    int more;

    if (!CHECK(f != NULL))
        return;
    do {
        more = fgets(line, sizeof line, f) != NULL;
        line[more ? strcspn(line, "\r\n") : 0] = '\0';
        if (line[0] != ' ') {
            if (joined[0] && CHECK(parse_case(joined)))
                run_case();
            joined[0] = '\0';
        }
        if (line[0] != '#' && CHECK(strlen(joined) + strlen(line) < sizeof joined))
            strcat(joined, line[0] == ' ' ? line + strspn(line, " ") - 1 : line);
    } while (more);
    fclose(f);
}

int main(int argc, char **argv)
{
    size_t i;

    test_begin(argc, argv);
    expected = golden_open("tests/golden/grads.safetensors");
    if (!CHECK(expected != NULL))
        return test_end();
    run_table("tests/golden/cases.txt");
    for (i = 0; argc < 2 && i < expected->tensors; i++)
        test_report(expected->tensor[i].used, __FILE__, __LINE__, expected->tensor[i].name,
                    "never compared");
    RUN(dropout);
    RUN(dropout_below);
    RUN(dropout_between);
    RUN(long_sequence);
    RUN(long_budget);
    golden_close(expected);
    return test_end();
}
