/* test_bits.c - the same bits, whatever the kernels, the memory and the machine

   Small nets with every op, activation, loss and optimizer are trained from seeds alone. One digest
   holds all their weights, optimizer state, losses and outputs, by name and in the order of files,
   after steps 1, 2, 3 and 10. Here every table of kernels, a block of the caller's, micro-batches
   and updates during backward must give one and the same. bits.py compares what this program prints
   with what other compilers, flags and machines make of it. C99 and C++11.
*/
#define NN_IMPLEMENTATION
#include "nn.h"

#include "test.h"

enum { BATCH = 7, SAMPLES = 11, PIXELS = 9 * 10 * 3, STEPS = 10, STATE = 20000 };

#define TRUNK                                                                                   \
    "input in - shape=9,10,3 type=u8 order=chw scale=x3b808081 mean=x3f000000,x3e800000 "       \
    "std=x3e800000,x3f000000,x3f400000;"                                                        \
    "conv2d conv1 in units=6 kernel=3,3 pad=1,1,1,1 groups=3 act=leaky_relu;"                   \
    "maxpool2d pool1 conv1 kernel=2,2;"                                                         \
    "conv2d conv2 pool1 units=6 kernel=3,3 pad=1,1,1,1 groups=6 no_bias=1;"                     \
    "batchnorm norm1 conv2 act=relu;"                                                           \
    "add add1 norm1,pool1 act=tanh;"                                                            \
    "conv2d conv3 add1 units=17 kernel=2,3 dilation=2,1 pad=0,1,0,1;"                           \
    "maxpool2d pool2 conv3 kernel=2,3 stride=1,1 pad=1,1,0,1;"                                  \
    "avgpool2d avg1 pool2 kernel=2,2 stride=1,2 pad=0,1,1,0;"                                   \
    "activation act1 avg1 act=sigmoid;"                                                         \
    "dropout drop1 act1 rate=x3e99999a;"                                                        \
    "flatten flat1 drop1 order=chw;"                                                            \
    "dense dense1 flat1 units=19 act=softmax;"                                                  \
    "globalavgpool gap1 drop1;"                                                                 \
    "dense dense2 gap1 units=19 act=tanh lr=x3f000000;"                                         \
    "add add2 dense1,dense2;"

static const struct net {
    const char *name, *rows, *train;
    int32_t loss, optimizer, eps_mode, init;
    size_t outputs, sample; /* floats; bytes */
    int splits, fuses;      /* takes a budget, fuse_update */
} nets[] = {
    { "w1", "input in - shape=10; dense a in units=64 act=relu; dense b a units=1", "*", NN_MSE,
      NN_SGD, 0, NN_INIT_PYTORCH, 1, 40, 1, 1 },
    { "w2", "input in - shape=50; dense a in units=33 act=relu; dense b a units=10", "*",
      NN_CROSS_ENTROPY, NN_ADAM, NN_EPS_PYTORCH, NN_INIT_KERAS, 10, 200, 1, 1 },
    { "shared", "input in - shape=20; dense a in units=20 act=tanh no_decay=1; dense b a units=20 "
                "share=a; dropout d b rate=0.5; dense c d units=3 act=sigmoid",
      "*", NN_MSE, NN_ADAM, NN_EPS_KERAS, NN_INIT_KERAS, 3, 80, 0, 0 },
    { "norm", TRUNK "dense dense3 add2 units=5 act=softmax", "*", NN_CROSS_ENTROPY, NN_ADAM,
      NN_EPS_PYTORCH, NN_INIT_PYTORCH, 5, PIXELS, 0, 1 },
    { "frozen norm", TRUNK "dense dense3 add2 units=5 act=sigmoid", "conv* dense*", NN_BCE, NN_SGD,
      0, NN_INIT_PYTORCH, 5, PIXELS, 1, 1 },
};

enum { NETS = sizeof nets / sizeof *nets };

static const int listed[] = { 1, 2, 3, STEPS };

enum { LISTED = 4, FITTED = LISTED, SAVED, DIGESTS };

static char why[256];

static union {
    float real[SAMPLES * PIXELS];
    unsigned char byte[SAMPLES * PIXELS];
} x[2]; /* floats, bytes */
static float target[SAMPLES * 10];
static int32_t label[SAMPLES];

static void make_samples(void)
{
    size_t i;

    for (i = 0; i < SAMPLES * PIXELS; i++) {
        x[0].real[i] = gen_float(4, 0, i, 1, 0);
        x[1].byte[i] = (unsigned char)gen_int(4, 1, i, 256);
    }
    for (i = 0; i < SAMPLES * 10; i++) target[i] = gen_float(4, 2, i, 0.5f, 0.5f);
    for (i = 0; i < SAMPLES; i++) label[i] = gen_int(4, 3, i, 5);
}

static const void *samples(const struct net *n, int first)
{
    const unsigned char *p = n->sample == PIXELS ? x[1].byte : x[0].byte;

    return p + (size_t)first * n->sample;
}

static const void *targets(const struct net *n, int first)
{
    if (n->loss == NN_CROSS_ENTROPY) return label + first;
    return target + (size_t)first * n->outputs;
}

/* ---- digests: FNV-1a of floats as little-endian bytes ---------------------------------------- */

static uint64_t add_byte(uint64_t h, unsigned byte) { return (h ^ byte) * UINT64_C(1099511628211); }

static uint64_t add_word(uint64_t h, uint32_t word)
{
    int i;

    for (i = 0; i < 4; i++, word >>= 8) h = add_byte(h, word & 255);
    return h;
}

static uint64_t add_floats(uint64_t h, const float *v, size_t n)
{
    uint32_t word;
    size_t i, broken = 0;

    for (i = 0; i < n; i++) {
        memcpy(&word, v + i, 4);
        broken += (word & 0x7f800000) == 0x7f800000;
        h = add_word(h, word);
    }
    CHECK_EQ_INT(broken, 0); /* what is not finite is not promised, and not what is wanted */
    return h;
}

static const uint64_t empty = UINT64_C(14695981039346656037);

static int add_file(void *user, const void *bytes, size_t size)
{
    uint64_t *h = (uint64_t *)user;
    const unsigned char *p = (const unsigned char *)bytes;

    while (size--) *h = add_byte(*h, *p++);
    return 0;
}

/* All tensors and optimizer state. */
static uint64_t add_state(uint64_t h, const nn_model *m)
{
    static const char *const parts[] = { "", "opt.mom/", "opt.m/", "opt.v/" };
    static float v[STATE];
    char name[160];
    uint32_t t;
    int k;

    for (k = 0; k < 4; k++)
        for (t = 0; t < m->tensor_count; t++) {
            nn__text text = nn__text_to(name, sizeof name - 1);
            size_t count = m->tensor[t].count;

            nn__puts(&text, parts[k]);
            nn__put_tensor_name(&text, m, t);
            name[text.len] = '\0';
            if (CHECK(count <= STATE) && nn_get(m, name, v, count) == 0)
                h = add_floats(h, v, count);
        }
    return h;
}

/* ---- ways to the same numbers ---------------------------------------------------------------- */

typedef struct way {
    const char *name;
    const nn_kernels *kernels; /* NULL: those chosen */
    int block, fuse;
    int64_t budget;
} way;

static nn_opts options(const struct net *n, const way *w)
{
    nn_opts o;

    memset(&o, 0, sizeof o);
    o.batch = BATCH;
    o.train = n->train;
    o.loss = n->loss;
    o.optimizer = n->optimizer;
    o.eps_mode = n->eps_mode;
    o.init = n->init;
    o.lr = 0.01f;
    o.momentum = n->optimizer == NN_SGD ? 0.9f : 0;
    o.weight_decay = 0.01f;
    o.seed = UINT64_C(0x123456789abcdef);
    o.fuse_update = w->fuse;
    o.budget = w->budget;
    o.why = why;
    o.why_size = sizeof why;
    return o;
}

/* The model by that way; *block is to be freed after it. */
static int build(nn_model *m, const struct net *n, const way *w, void **block)
{
    nn_opts o = options(n, w);
    int err;

    *block = NULL;
    if (w->block) {
        o.memory_size = (size_t)nn_memory_text(n->rows, &o);
        *block = malloc(o.memory_size + NN_ALIGNMENT);
        if (!CHECK(*block != NULL)) return 0;
        memset(*block, 0xff, o.memory_size + NN_ALIGNMENT);
        o.memory = (unsigned char *)*block + (NN_ALIGNMENT - (uintptr_t)*block % NN_ALIGNMENT);
    }
    err = nn_build_text(m, n->rows, &o);
    if (!test_report(!err, __FILE__, __LINE__, n->name, "nn_build_text: %d, %s", err, why)) {
        free(*block);
        return 0;
    }
    if (w->kernels) {
        m->kernels = w->kernels;
        nn__init_values(m); /* again, by them */
    }
    return 1;
}

/* The digests of a net by one way. */
static void run(const struct net *n, const way *w, uint64_t digest[DIGESTS])
{
    static float y[SAMPLES * 10];
    nn_fit_opts f;
    nn_model m;
    void *block;
    uint64_t h = empty;
    int step, k = 0;

    memset(digest, 0, DIGESTS * sizeof *digest);
    if (!build(&m, n, w, &block)) return;
    for (step = 1; step <= STEPS; step++) {
        int count = step % 3 ? BATCH : BATCH - 2, first = step % (SAMPLES - BATCH);

        CHECK_EQ_INT(nn_train(&m, samples(n, first), targets(n, first), count), 0);
        h = add_floats(h, &m.loss, 1);
        h = add_word(h, (uint32_t)m.correct);
        if (step != listed[k]) continue;
        CHECK_EQ_INT(nn_infer(&m, samples(n, 0), y, SAMPLES), 0);
        digest[k] = add_floats(add_state(h, &m), y, SAMPLES * n->outputs);
        CHECK_EQ_INT(nn_eval(&m, samples(n, 0), targets(n, 0), SAMPLES), 0);
        digest[k] = add_floats(digest[k], &m.loss, 1);
        k++;
    }
    nn_free(&m);
    free(block);

    /* two shuffled epochs, and the file of what they made */
    if (!build(&m, n, w, &block)) return;
    memset(&f, 0, sizeof f);
    f.x = samples(n, 0);
    f.y = targets(n, 0);
    f.n = SAMPLES;
    f.epochs = 2;
    f.quiet = 1;
    CHECK_EQ_INT(nn_fit(&m, &f), 0);
    digest[FITTED] = add_state(empty, &m);
    digest[SAVED] = empty;
    CHECK(nn_save(&m, 1, add_file, &digest[SAVED]) > 0);
    nn_free(&m);
    free(block);
}

static int64_t least_budget(const struct net *n)
{
    const way small = { "", NULL, 0, 0, 1 };
    nn_opts o = options(n, &small);
    const char *p;

    CHECK_EQ_INT(nn_memory_text(n->rows, &o), NN_ERR_MEMORY);
    for (p = why + strlen(why); p > why && p[-1] >= '0' && p[-1] <= '9';) p--;
    return strtoll(p, NULL, 10);
}

static void compare(const struct net *n, const way *w, const uint64_t want[DIGESTS])
{
    uint64_t digest[DIGESTS];
    int k;

    run(n, w, digest);
    for (k = 0; k < LISTED; k++) {
        test_note("%s, step %d", w->name, listed[k]);
        CHECK(digest[k] == want[k]);
    }
    test_note("%s", w->name);
    CHECK(digest[FITTED] == want[FITTED]);
    /* a file remembers the options */
    CHECK(digest[SAVED] == want[SAVED] || w->fuse || w->budget);
}

static void check_net(const struct net *n)
{
    const way plain = { "as it comes", NULL, 0, 0, 0 };
    way w = plain;
    uint64_t digest[DIGESTS], all = empty;
    int k;

    run(n, &plain, digest);
    for (k = 0; k < LISTED; k++) {
        printf("digest %-12s step %-2d %08lx%08lx\n", n->name, listed[k],
               (unsigned long)(digest[k] >> 32), (unsigned long)(digest[k] & 0xffffffff));
        CHECK(k == 0 || digest[k] != digest[k - 1]);
    }
    all = add_word(all, (uint32_t)digest[FITTED]);
    all = add_word(all, (uint32_t)(digest[FITTED] >> 32));
    all = add_word(all, (uint32_t)digest[SAVED]);
    all = add_word(all, (uint32_t)(digest[SAVED] >> 32));
    printf("digest %-12s fitted  %08lx%08lx\n", n->name, (unsigned long)(all >> 32),
           (unsigned long)(all & 0xffffffff));

    w.name = "caller's block";
    w.block = 1;
    compare(n, &w, digest);
    w = plain;
#if NN__DISPATCH
    w.name = "plain kernels";
    w.kernels = &nn__kernels_plain;
    compare(n, &w, digest);
#if NN__X86
    w.name = "avx2 kernels";
    w.kernels = &nn__kernels_avx2;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) compare(n, &w, digest);
    w.name = "avx512 kernels";
    w.kernels = &nn__kernels_avx512;
    if (__builtin_cpu_supports("avx512f")) compare(n, &w, digest);
#endif
    w = plain;
#endif
    w.name = "fuse_update";
    w.fuse = 1;
    if (n->fuses) compare(n, &w, digest);
    w = plain;
    for (k = 0; n->splits && k < 3; k++) {
        nn_opts o = options(n, &plain);
        int64_t least = least_budget(n), most = nn_memory_text(n->rows, &o);

        w.name = k ? "more budget" : "least budget";
        w.budget = least + (most - least) * k / 3;
        compare(n, &w, digest);
    }
}

/* nn_memory of all nets, for all that it depends on. */
static void memory(void)
{
    uint64_t h = empty;
    int n, batch, train, optimizer;

    for (n = 0; n < NETS; n++)
        for (batch = 1; batch <= 32; batch += 31)
            for (train = 0; train < 3; train++)
                for (optimizer = 0; optimizer < 3; optimizer++) {
                    const way plain = { "", NULL, 0, 0, 0 };
                    nn_opts o = options(&nets[n], &plain);
                    int64_t bytes;

                    o.batch = batch;
                    o.train = train == 0 ? NULL : train == 1 ? "*" : n < 3 ? "a" : "dense3";
                    o.optimizer = optimizer == 2 ? NN_ADAM : NN_SGD;
                    o.momentum = optimizer == 1 ? 0.9f : 0;
                    bytes = nn_memory_text(nets[n].rows, &o);
                    CHECK(bytes > 0);
                    h = add_word(h, (uint32_t)bytes);
                }
    printf("memory of all nets           %08lx%08lx\n", (unsigned long)(h >> 32),
           (unsigned long)(h & 0xffffffff));
}

int main(int argc, char **argv)
{
    int i;

    test_begin(argc, argv);
    make_samples();
    for (i = 0; i < NETS; i++)
        if (test_start(nets[i].name)) {
            check_net(&nets[i]);
            test_stop();
        }
    RUN(memory);
    return test_end();
}
