/* test_memory.c - the block: exactly what nn_memory says, no pointers in it, and nothing beside it

   The four nets whose memory is promised, in inference and training, by every optimizer, with one
   sample and with 32: each runs in a block of exactly nn_memory's bytes between canaries, and again
   in an allocation of exactly that size, where a sanitizer sees every byte beyond. One byte fewer
   is refused with both numbers. Then the weights in flash, the bytes promised for the CIFAR net,
   budgets, updates during backward, and every call with the allocator watched.
*/
#include <stdlib.h>

/* What the library allocates and has not freed. */
static int mallocs, live;

static void *counting_malloc(size_t size)
{
    void *p = malloc(size);

    mallocs++;
    live += p != NULL;
    return p;
}

static void counting_free(void *p)
{
    live -= p != NULL;
    free(p);
}

#define NN_MALLOC counting_malloc
#define NN_FREE counting_free
#define NN_IMPLEMENTATION
#include "nn.h"

#include "firmware/models.h"
#include "test.h"

enum { CANARY = 64, FILL = 0xa5, BATCH = 32, IMAGE = 32 * 32 * 3, STATE = 2100000 };

typedef struct net {
    const char *name;
    const nn_layer *rows;
    int32_t loss;
    int outputs;
    int most; /* samples of a step that are worth the time */
} net;        /* fewer than BATCH: a large net */

static const net nets[] = {
    { "W1", w1_rows, NN_MSE, 1, BATCH },
    { "W2", w2_rows, NN_CROSS_ENTROPY, 10, 2 },
    { "W3", w3_rows, NN_CROSS_ENTROPY, 10, 1 },
    { "digits", digits_rows, NN_CROSS_ENTROPY, 10, BATCH },
};

enum { W1, W2, W3, DIGITS, NETS };

static const struct optimizer {
    const char *name;
    int32_t kind;
    float momentum;
} optimizers[] = {
    { "SGD", NN_SGD, 0 },
    { "SGD with momentum", NN_SGD, 0.5f },
    { "Adam", NN_ADAM, 0 },
};

enum { OPTIMIZERS = 3 };

static char why[256];

static union {
    float real[BATCH * IMAGE];
    unsigned char byte[BATCH * IMAGE];
} x[2]; /* floats, bytes */
static float real_target[BATCH];
static int32_t label[BATCH];
static float state[2][STATE], out[2][BATCH * 10];

/* train: as in nn_opts; optimizer: of the table above. */
static nn_opts options(const net *n, const char *train, int optimizer, int32_t batch)
{
    nn_opts o;

    memset(&o, 0, sizeof o);
    o.batch = batch;
    o.train = train;
    o.loss = n->loss;
    o.lr = train ? 0.01f : 0;
    o.optimizer = optimizers[optimizer].kind;
    o.momentum = optimizers[optimizer].momentum;
    o.seed = 7;
    o.why = why;
    o.why_size = sizeof why;
    why[0] = '\0';
    return o;
}

static const void *samples(const net *n)
{
    return n->rows[0].type == NN_U8 ? (const void *)x[1].byte : (const void *)x[0].real;
}

static const void *targets(const net *n)
{
    return n->loss == NN_MSE ? (const void *)real_target : (const void *)label;
}

static void make_samples(void)
{
    size_t i;

    for (i = 0; i < BATCH * IMAGE; i++) {
        x[0].real[i] = gen_float(1, 0, i, 1, 0);
        x[1].byte[i] = (unsigned char)gen_int(1, 1, i, 256);
    }
    for (i = 0; i < BATCH; i++) {
        real_target[i] = gen_float(1, 2, i, 1, 0);
        label[i] = gen_int(1, 3, i, 10);
    }
}

/* Calls check(config) for every net, set of trained rows, optimizer and batch. */
typedef struct config {
    const net *net;
    const char *train;
    int optimizer;
    int32_t batch;
} config;

static void for_each_config(void (*check)(const config *))
{
    static const char *const trains[] = { NULL, "*", "dense2" };
    config c;
    int n, t, b;

    for (n = 0; n < NETS; n++)
        for (t = 0; t < 3; t++)
            for (c.optimizer = 0; c.optimizer < (t ? OPTIMIZERS : 1); c.optimizer++)
                for (b = 0; b < 2; b++) {
                    c.net = &nets[n];
                    c.train = trains[t];
                    c.batch = b ? BATCH : 1;
                    test_note("%s, %s, %s, batch %d", c.net->name, c.train ? c.train : "inference",
                              optimizers[c.optimizer].name, (int)c.batch);
                    check(&c);
                }
}

/* A large net whose optimizer others stand for. */
static int is_slow(const config *c) { return c->net->most < BATCH && c->optimizer == 1; }

static nn_opts options_of(const config *c)
{
    return options(c->net, c->train, c->optimizer, c->batch);
}

/* Builds, or says why not. */
static int build(nn_model *m, const net *n, const nn_opts *o)
{
    int err = nn_build(m, n->rows, o);

    return test_report(!err, __FILE__, __LINE__, n->name, "nn_build: %d, %s", err, why);
}

/* Is this number in the sentence? */
static int tells(int64_t number)
{
    const char *p;

    for (p = why; *p; p++)
        if (*p >= '0' && *p <= '9') {
            char *end;

            if (strtoll(p, &end, 10) == number) return 1;
            p = end - 1;
        }
    return 0;
}

static int64_t last_number(void)
{
    const char *p = why + strlen(why);

    while (p > why && p[-1] >= '0' && p[-1] <= '9') p--;
    return strtoll(p, NULL, 10);
}

static int is_filled(const unsigned char *p, size_t n, int byte)
{
    while (n && *p == byte) p++, n--;
    return n == 0;
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

static void check_same_state(const nn_model *m, const nn_model *like)
{
    size_t n = state_of(like, state[1]);

    CHECK_EQ_INT(state_of(m, state[0]), n);
    CHECK_SAME_BYTES(state[0], state[1], n * sizeof(float));
    CHECK_SAME_BYTES(&m->loss, &like->loss, sizeof m->loss);
}

/* Steps if it trains, inference and an evaluation. */
static void exercise(nn_model *m, const config *c, float *y)
{
    int n = c->batch < c->net->most ? c->batch : c->net->most, i;

    for (i = 0; i < (c->net == &nets[W3] ? 1 : 2) && c->train; i++)
        CHECK_EQ_INT(nn_train(m, samples(c->net), targets(c->net), n), 0);
    CHECK_EQ_INT(nn_infer(m, samples(c->net), y, n), 0);
    CHECK_EQ_INT(nn_eval(m, samples(c->net), targets(c->net), n), 0);
}

/* ---- nn_memory's bytes ----------------------------------------------------------------------- */

static void check_refused(const config *c, unsigned char *block, size_t size, size_t needs)
{
    nn_opts o = options_of(c);
    nn_model m;

    memset(&m, 1, sizeof m);
    o.memory = block;
    o.memory_size = size;
    CHECK_EQ_INT(nn_build(&m, c->net->rows, &o), NN_ERR_MEMORY);
    CHECK(tells((int64_t)size) && tells((int64_t)needs));
    CHECK(is_filled((unsigned char *)&m, sizeof m, 0));
    CHECK_EQ_INT(live, 0);
}

static void check_exact(const config *c)
{
    nn_opts o = options_of(c);
    int64_t needs = nn_memory(c->net->rows, &o);
    size_t size = (size_t)needs;
    unsigned char *room, *block, *own;
    nn_model m;

    if (!CHECK(needs > 0)) return;
    room = (unsigned char *)malloc(size + 3 * CANARY);
    own = (unsigned char *)malloc(size);
    if (!CHECK(room && own)) return;
    memset(room, FILL, size + 3 * CANARY);
    memset(own, FILL, size);
    block = room + CANARY + (NN_ALIGNMENT - (uintptr_t)room % NN_ALIGNMENT) % NN_ALIGNMENT;

    check_refused(c, block, size - 1, size);
    check_refused(c, block, 10, size);
    CHECK(is_filled(block, size, FILL));

    o.memory = block;
    o.memory_size = size;
    if (build(&m, c->net, &o)) {
        CHECK_EQ_INT(m.block_size, size);
        CHECK_EQ_INT(live, 0);
        exercise(&m, c, out[0]);
        CHECK(is_filled(room, (size_t)(block - room), FILL));
        CHECK(is_filled(block + size, CANARY, FILL));
        nn_free(&m);
    }
    /* Elsewhere in memory, with the same calls: were there a pointer in it, it would differ. */
    o.memory = own;
    if (!is_slow(c) && (uintptr_t)own % NN_ALIGNMENT == 0 && build(&m, c->net, &o)) {
        exercise(&m, c, out[1]);
        CHECK_SAME_BYTES(own, block, size);
        nn_free(&m);
    }
    free(own);
    free(room);
}

TEST(exactly_nn_memory) { for_each_config(check_exact); }

TEST(one_malloc)
{
    nn_opts o = options(&nets[DIGITS], "*", 2, BATCH);
    int64_t needs = nn_memory(digits_rows, &o);
    nn_model m;

    CHECK_EQ_INT(live, 0);
    if (!build(&m, &nets[DIGITS], &o)) return;
    CHECK_EQ_INT(m.block_size, needs);
    CHECK_EQ_INT(live, 1);
    nn_free(&m);
    CHECK_EQ_INT(live, 0);
    CHECK(is_filled((unsigned char *)&m, sizeof m, 0));
}

/* Rows as text lie in the block, and so does what a file describes. */
TEST(text_and_file)
{
    static const char text[] = "input in - shape=10; dense a in units=64 act=relu;"
                               "dense b a units=1";
    NN_ALIGN static unsigned char block[64 * 1024];
    static unsigned char file[8 * 1024];
    nn_memory_writer writer;
    nn_opts o = options(&nets[W1], "*", 2, 4);
    int64_t needs = nn_memory_text(text, &o);
    nn_model m;

    o.memory = block;
    if (!CHECK(needs > nn_memory(w1_rows, &o) && needs < (int64_t)sizeof block)) return;
    o.memory_size = (size_t)needs - 1;
    CHECK_EQ_INT(nn_build_text(&m, text, &o), NN_ERR_MEMORY);
    CHECK(tells(needs) && tells(needs - 1));
    o.memory_size++;
    memset(block, FILL, sizeof block);
    if (!CHECK_EQ_INT(nn_build_text(&m, text, &o), 0)) return;
    CHECK_EQ_INT(nn_train(&m, x[0].real, real_target, 4), 0);
    CHECK(is_filled(block + needs, sizeof block - (size_t)needs, FILL));
    writer.bytes = file;
    writer.capacity = sizeof file;
    writer.size = 0;
    CHECK(nn_save(&m, 0, nn_write_memory, &writer) > 0);
    nn_free(&m);

    needs = nn_memory_file(file, writer.size, &o);
    if (!CHECK(needs > 0 && needs < (int64_t)sizeof block)) return;
    o.memory_size = (size_t)needs - 1;
    CHECK_EQ_INT(nn_load(&m, file, writer.size, &o), NN_ERR_MEMORY);
    CHECK(tells(needs) && tells(needs - 1));
    o.memory_size++;
    memset(block, FILL, sizeof block);
    if (!CHECK_EQ_INT(nn_load(&m, file, writer.size, &o), 0)) return;
    CHECK_EQ_INT(m.block_size, needs);
    CHECK_EQ_INT(nn_train(&m, x[0].real, real_target, 4), 0);
    CHECK(is_filled(block + needs, sizeof block - (size_t)needs, FILL));
    nn_free(&m);
    CHECK_EQ_INT(live, 0);
}

/* ---- weights in flash ------------------------------------------------------------------------ */

static float image[STATE / 4], image_before[STATE / 4];

static void check_in_place(const config *c)
{
    nn_opts o = options(c->net, NULL, 0, 1);
    nn_model m, copied;
    size_t n, size;

    if (c->batch > c->net->most || is_slow(c)) return; /* nothing new */
    if (!build(&m, c->net, &o)) return;
    n = state_of(&m, image); /* the tensors, in the order of the rows */
    nn_free(&m);
    memcpy(image_before, image, n * sizeof *image);

    o = options_of(c);
    o.weights = image;
    o.weights_size = n * sizeof *image;
    size = (size_t)nn_memory(c->net->rows, &o);
    if (!build(&copied, c->net, &o)) return;
    exercise(&copied, c, out[0]);
    o.in_place = 1;
    o.memory_size = (size_t)nn_memory(c->net->rows, &o);
    if (!c->train) CHECK(o.memory_size < size - n * sizeof *image + CANARY); /* alignment */
    else if (c->train[0] != '*') CHECK(o.memory_size < size);
    o.memory = malloc(o.memory_size + 2 * CANARY);
    if (CHECK(o.memory != NULL) && (uintptr_t)o.memory % NN_ALIGNMENT == 0) {
        unsigned char *end = (unsigned char *)o.memory + o.memory_size;

        memset(end, FILL, 2 * CANARY);
        o.memory_size--;
        CHECK_EQ_INT(nn_build(&m, c->net->rows, &o), NN_ERR_MEMORY);
        o.memory_size++;
        if (build(&m, c->net, &o)) {
            exercise(&m, c, out[1]);
            CHECK_SAME_BYTES(out[1], out[0],
                             (size_t)c->net->outputs * sizeof(float) *
                                 (size_t)(c->batch < c->net->most ? c->batch : c->net->most));
            check_same_state(&m, &copied);
            CHECK(is_filled(end, 2 * CANARY, FILL));
            nn_free(&m);
        }
        CHECK_SAME_BYTES(image, image_before, n * sizeof *image);
    }
    free(o.memory);
    nn_free(&copied);
}

TEST(in_place) { for_each_config(check_in_place); }

/* ---- what was promised ----------------------------------------------------------------------- */

/* Bytes of the CIFAR net with one sample, beyond its parameters and with the caller's input. With
   the weights outside, those of the head are in the block nevertheless, because they change. */
TEST(cifar_promise)
{
    static nn_layer float_rows[sizeof w3_rows / sizeof w3_rows[0]];
    static const struct {
        const char *name, *train;
        int optimizer;
        int64_t most;
    } uses[] = {
        { "inference", NULL, 0, 48 * 1024 },
        { "head, SGD", "dense2", 0, 56 * 1024 },
        { "head, Adam", "dense2", 2, 56 * 1024 },
    };
    const int64_t parameters = 4 * (32 * 27 + 32 + 64 * 288 + 64 + 64 * 576 + 64 + 64 * 1024 + 64 +
                                    10 * 64 + 10),
                  head = 4 * (10 * 64 + 10);
    size_t i;
    int type, in_place;

    CHECK_EQ_INT(parameters, 490280);
    memcpy(float_rows, w3_rows, sizeof w3_rows);
    float_rows[0].type = NN_F32;
    float_rows[0].scale = 0;
    printf("W3, one sample, bytes beyond %lld of parameters, input of the caller's included:\n",
           (long long)parameters);
    for (type = 0; type < 2; type++)
        for (in_place = 0; in_place < 2; in_place++)
            for (i = 0; i < sizeof uses / sizeof uses[0]; i++) {
                nn_opts o = options(&nets[W3], uses[i].train, uses[i].optimizer, 1);
                int64_t bytes;

                o.in_place = in_place;
                bytes = nn_memory(type ? float_rows : w3_rows, &o);
                CHECK(bytes > 0);
                bytes -= !in_place ? parameters : uses[i].train ? head : 0;
                bytes += type ? 4 * IMAGE : IMAGE;
                printf("  %-11s %s input, weights %s: %6lld\n", uses[i].name,
                       type ? "float" : "uint8", in_place ? "outside" : "copied ",
                       (long long)bytes);
                test_note("%s, %lld bytes", uses[i].name, (long long)bytes);
                if (!type) CHECK(bytes <= uses[i].most);
            }
}

/* ---- budgets --------------------------------------------------------------------------------- */

/* Two steps of 32 and one of 5 samples. */
static void train(nn_model *m, const net *n)
{
    int i;

    for (i = 0; i < 3; i++)
        CHECK_EQ_INT(nn_train(m, samples(n), targets(n), i == 1 ? 5 : BATCH), 0);
}

static void check_budget(const net *n, const char *trains, int optimizer)
{
    nn_opts o = options(n, trains, optimizer, BATCH);
    nn_model whole, m;
    int64_t least, most;
    int part;

    if (!build(&whole, n, &o)) return;
    most = (int64_t)whole.block_size;
    CHECK_EQ_INT(whole.micro, BATCH);
    if (trains) train(&whole, n);
    CHECK_EQ_INT(nn_infer(&whole, samples(n), out[0], BATCH), 0);

    o.budget = 1;
    CHECK_EQ_INT(nn_memory(n->rows, &o), NN_ERR_MEMORY);
    least = last_number();
    CHECK(tells(1) && least > 0 && least < most);
    o.budget = least - 1;
    CHECK_EQ_INT(nn_build(&m, n->rows, &o), NN_ERR_MEMORY);
    CHECK_EQ_INT(last_number(), least);

    for (part = 0; part <= 4; part++) {
        o.budget = least + (most - least) * part / 4;
        test_note("%s, %s, %s, budget %lld of %lld to %lld", n->name, trains ? trains : "inference",
                  optimizers[optimizer].name, (long long)o.budget, (long long)least,
                  (long long)most);
        if (!build(&m, n, &o)) continue;
        CHECK((int64_t)m.block_size <= o.budget);
        CHECK_EQ_INT(m.block_size, nn_memory(n->rows, &o));
        if (part == 0) CHECK_EQ_INT(m.micro, 1);
        if (part == 4) CHECK_EQ_INT(m.micro, BATCH);
        if (trains) {
            train(&m, n);
            check_same_state(&m, &whole);
            CHECK_EQ_INT(m.correct, whole.correct);
        }
        CHECK_EQ_INT(nn_infer(&m, samples(n), out[1], BATCH), 0);
        CHECK_SAME_BYTES(out[1], out[0], BATCH * (size_t)n->outputs * sizeof(float));
        nn_free(&m);
    }
    nn_free(&whole);
}

TEST(budget)
{
    int k;

    for (k = 0; k < OPTIMIZERS; k++) {
        check_budget(&nets[W1], "*", k);
        check_budget(&nets[DIGITS], k == 1 ? "dense*" : "*", k);
    }
    check_budget(&nets[DIGITS], "dense2", 2);
    check_budget(&nets[DIGITS], NULL, 0);
}

/* ---- updates during backward ----------------------------------------------------------------- */

static void check_fused(const config *c)
{
    nn_opts o = options_of(c);
    nn_model plain, m;
    uint32_t count;

    if (!c->train || c->batch > c->net->most || is_slow(c)) return;
    if (!build(&plain, c->net, &o)) return;
    o.fuse_update = 1;
    if (build(&m, c->net, &o)) {
        CHECK(m.block_size < plain.block_size);
        exercise(&plain, c, out[0]);
        exercise(&m, c, out[1]);
        check_same_state(&m, &plain);
        CHECK(nn_flat_grad(&m, &count) == NULL && count == 0);
        nn_free(&m);
    }
    nn_free(&plain);
}

/* What a budget gets W4 down to, and that it computes the same there. */
TEST(sequences_in_little_memory)
{
    enum { PARAMETERS = 10000 * 128 + 2 * 512 * 128 + 2 * 512 + 128 + 1 };
    nn_opts o;
    nn_model wide, tight;
    static int32_t ids[100];
    float target = 1, y[2];
    int i;

    memset(&o, 0, sizeof o);
    o.budget = 4 * PARAMETERS + 5 * 1024;
    CHECK(nn_memory(w4_rows, &o) > 4 * PARAMETERS);
    o.train = "*";
    o.loss = NN_BCE;
    o.optimizer = NN_ADAM;
    o.lr = 0.001f;
    o.budget = 0;
    if (!CHECK_EQ_INT(nn_build(&wide, w4_rows, &o), 0)) return;
    o.budget = 16 * PARAMETERS + 64 * 1024;
    CHECK((int64_t)wide.block_size > o.budget);
    if (!CHECK_EQ_INT(nn_build(&tight, w4_rows, &o), 0)) return;
    for (i = 0; i < 100; i++) ids[i] = gen_int(1, 1, (size_t)i, 10000);
    for (i = 0; i < 2; i++) {
        CHECK_EQ_INT(nn_train(&wide, ids, &target, 1), 0);
        CHECK_EQ_INT(nn_train(&tight, ids, &target, 1), 0);
        CHECK_SAME_BYTES(&wide.loss, &tight.loss, sizeof wide.loss);
    }
    CHECK(nn_digest(&wide) == nn_digest(&tight));
    CHECK_EQ_INT(nn_infer(&wide, ids, &y[0], 1), 0);
    CHECK_EQ_INT(nn_infer(&tight, ids, &y[1], 1), 0);
    CHECK_SAME_BYTES(&y[0], &y[1], sizeof y[0]);
    nn_free(&wide);
    nn_free(&tight);
}

/* Bytes of a block for W4, one sample and SGD. */
static int64_t w4_bytes(int sparse, const char *trains)
{
    nn_layer rows[sizeof w4_rows / sizeof w4_rows[0]];
    nn_opts o;

    memcpy(rows, w4_rows, sizeof w4_rows);
    rows[1].sparse = sparse;
    memset(&o, 0, sizeof o);
    o.train = trains;
    o.loss = NN_BCE;
    o.lr = 0.1f;
    return nn_memory(rows, &o);
}

/* The gradient of an embedding takes what the ids of a sample need, not the vocabulary. */
TEST(sparse_gradients)
{
    const int64_t dense = w4_bytes(0, "*"), sparse = w4_bytes(1, "*"),
                  without = w4_bytes(1, "lstm1 dense1");

    printf("W4's table: gradient of one sample takes %lld bytes, of all vectors %lld\n",
           (long long)(sparse - without), (long long)(dense - without));
    CHECK(without > 0 && sparse > without && dense > sparse);
    CHECK(dense - sparse >= 5000000);
    CHECK(sparse - without <= 60 * 1024);
}

TEST(fuse_update) { for_each_config(check_fused); }

/* ---- no allocation --------------------------------------------------------------------------- */

static int discard(void *user, const void *bytes, size_t size)
{
    (void)bytes;
    *(size_t *)user += size;
    return 0;
}

TEST(no_allocation_after_build)
{
    enum { TEN = 10, HIDDEN = 32, CLASSES = 10 };
    static float features[TEN * HIDDEN], buffer[HIDDEN * CLASSES];
    static unsigned char snapshot[8 * 1024];
    const net *n = &nets[DIGITS];
    nn_opts o = options(n, "dense2", 2, 4);
    nn_fit_opts f;
    nn_model m;
    uint32_t count;
    size_t written = 0;
    int before;

    o.input_grad = 1;
    if (!build(&m, n, &o)) return;
    before = mallocs;
    memset(&f, 0, sizeof f);
    f.x = x[1].byte;
    f.y = label;
    f.n = f.n_val = TEN;
    f.x_val = f.x;
    f.y_val = f.y;
    f.quiet = 1;
    CHECK_EQ_INT(nn_infer(&m, x[1].byte, out[0], TEN), 0);
    CHECK_EQ_INT(nn_infer_to(&m, "dense1", x[1].byte, features, TEN), 0);
    CHECK_EQ_INT(nn_infer_from(&m, "dense1", features, out[1], TEN), 0);
    CHECK_EQ_INT(nn_begin_infer(&m, x[1].byte, out[1], TEN), 0);
    while (nn_run_some(&m, 1) > 0) {}
    CHECK_EQ_INT(nn_eval(&m, x[1].byte, label, TEN), 0);
    CHECK_EQ_INT(nn_train(&m, x[1].byte, label, 4), 0);
    CHECK_EQ_INT(nn_begin_train(&m, x[1].byte, label, 4), 0);
    while (nn_run_some(&m, 1) > 0) {}
    CHECK_EQ_INT(nn_forward(&m, x[1].byte, label, out[1], 4), 0);
    CHECK_EQ_INT(nn_backward(&m, NULL, NULL), 0);
    CHECK_EQ_INT(nn_update(&m), 0);
    CHECK_EQ_INT(nn_zero_grad(&m), 0);
    CHECK(nn_flat_grad(&m, &count) != NULL);
    CHECK_EQ_INT(nn_fit(&m, &f), 0);
    CHECK_EQ_INT(nn_get(&m, "dense2.weight", buffer, HIDDEN * CLASSES), 0);
    CHECK_EQ_INT(nn_get(&m, "opt.v/dense2.weight", buffer, HIDDEN * CLASSES), 0);
    CHECK_EQ_INT(nn_set(&m, "dense2.weight", buffer, HIDDEN * CLASSES), 0);
    CHECK_EQ_INT(nn_get_grad(&m, "dense2.weight", buffer, HIDDEN * CLASSES), 0);
    CHECK(nn_snapshot_size(&m) > 0 && nn_snapshot_size(&m) <= sizeof snapshot);
    CHECK_EQ_INT(nn_snapshot(&m, snapshot, sizeof snapshot), 0);
    CHECK_EQ_INT(nn_rollback(&m, snapshot, sizeof snapshot), 0);
    CHECK(nn_save(&m, 1, discard, &written) > 0 && written > 0);
    CHECK_EQ_INT(nn_print(&m, discard, &written), 0);
    CHECK(nn_rows_text(m.rows, NULL, 0) > 0 && nn_rows_hash(m.rows) != 0);
    CHECK_EQ_INT(mallocs, before);
    nn_free(&m);

    o.input_grad = 0;
    if (!build(&m, n, &o)) return;
    before = mallocs;
    CHECK_EQ_INT(nn_train_from(&m, "dense1", features, label, 4), 0);
    f.x = features;
    f.from = "dense1";
    f.n_val = 0;
    f.x_val = f.y_val = NULL;
    CHECK_EQ_INT(nn_fit(&m, &f), 0);
    CHECK_EQ_INT(mallocs, before);
    nn_free(&m);
    CHECK_EQ_INT(live, 0);
}

int main(int argc, char **argv)
{
    test_begin(argc, argv);
    make_samples();
    RUN(exactly_nn_memory);
    RUN(one_malloc);
    RUN(text_and_file);
    RUN(in_place);
    RUN(cifar_promise);
    RUN(budget);
    RUN(sequences_in_little_memory);
    RUN(sparse_gradients);
    RUN(fuse_update);
    RUN(no_allocation_after_build);
    return test_end();
}
