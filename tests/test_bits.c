/* test_bits.c - the same bits, whatever the kernels, the memory and the machine

   Nets with every op, activation, loss and optimizer are trained from seeds alone. Digests hold
   their losses, weights, optimizer state, gradients and outputs, by name. Here every table of
   kernels, a block of the caller's, micro-batches, updates during backward and weights used in
   place must give one and the same. bits.py compares what this program prints with what other
   compilers, flags and machines make of it: what stands around the kernels takes other paths where
   there are none for vectors (NN__ROOM), which only that can see. C99 and C++11.

   No value may be subnormal: machines that flush those are outside the promise, and nets as plain
   as these must stay inside it.
*/
#define NN_IMPLEMENTATION
#include "nn.h"

#include "test.h"

#ifndef WAYS
#define WAYS 1 /* 0: one way only, for slow machines */
#endif

enum { SAMPLES = 20, SAMPLE = 5760, OUTPUTS = 40, VALUES = 200000 }; /* the most of any net */

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

enum {
    SPLITS = 1, /* takes a budget */
    FUSES = 2,  /* takes fuse_update */
    DECAYS = 4, /* has weight decay, which hides the last bits of small gradients */
    FROZEN = 8, /* has tensors that do not train, so it takes in_place */
    LARGE = 16, /* too much work for ways that change nothing in kernels, and for nn_fit */
    UNEVEN = 32 /* sequences of several lengths */
};

/* Every net has a row "a". The large ones make kernels and what surrounds them take all their
   paths: widths about 16 and above 64, maps and sums longer than the blocks they are done in. */
static const struct net {
    const char *name, *rows, *train;
    int32_t loss, optimizer, eps_mode, init;
    int batch, samples, steps, flags;
} nets[] = {
    { "w1", "input in - shape=10; dense a in units=64 act=relu; dense b a units=1", "*", NN_MSE,
      NN_SGD, 0, NN_INIT_PYTORCH, 7, 11, 20, SPLITS | FUSES | DECAYS },
    { "w2", "input in - shape=50; dense a in units=33 act=relu; dense b a units=10", "*",
      NN_CROSS_ENTROPY, NN_ADAM, NN_EPS_PYTORCH, NN_INIT_KERAS, 7, 11, 20,
      SPLITS | FUSES | DECAYS },
    { "w3", /* as in firmware/models.h */
      "input in - shape=32,32,3 type=u8 scale=x3b808081;"
      "conv2d conv1 in units=32 kernel=3,3 act=relu;"
      "maxpool2d pool1 conv1 kernel=2,2;"
      "conv2d conv2 pool1 units=64 kernel=3,3 act=relu;"
      "maxpool2d pool2 conv2 kernel=2,2;"
      "conv2d conv3 pool2 units=64 kernel=3,3 act=relu;"
      "flatten flat1 conv3;"
      "dense dense1 flat1 units=64 act=relu;"
      "dense a dense1 units=10",
      "*", NN_CROSS_ENTROPY, NN_SGD, 0, NN_INIT_PYTORCH, 2, 3, 3, FUSES | LARGE },
    { "norm", TRUNK "dense a add2 units=5 act=softmax", "*", NN_CROSS_ENTROPY, NN_ADAM,
      NN_EPS_PYTORCH, NN_INIT_PYTORCH, 7, 11, 20, FUSES | DECAYS },
    { "frozen norm", TRUNK "dense a add2 units=5 act=sigmoid", "conv* dense* a", NN_BCE, NN_SGD, 0,
      NN_INIT_PYTORCH, 7, 11, 20, SPLITS | FUSES | FROZEN },
    { "shared",
      "input in - shape=20; dense a in units=20 act=tanh no_decay=1; dense b a units=20 share=a;"
      "dropout d b rate=0.5; dense c d units=3 act=sigmoid",
      "*", NN_MSE, NN_ADAM, NN_EPS_KERAS, NN_INIT_KERAS, 7, 11, 20, DECAYS },
    { "shared maps",
      "input in - shape=5,6,4;"
      "conv2d c1 in units=17 kernel=2,2 act=leaky_relu;"
      "conv2d c2 c1 units=17 kernel=3,3 pad=1,1,1,1 act=tanh;"
      "conv2d c3 c2 units=17 kernel=3,3 pad=1,0,1,2 share=c2;"
      "maxpool2d p3 c3 kernel=2,2;"
      "batchnorm n1 p3 act=relu;"
      "conv2d c4 n1 units=17 kernel=3,3 pad=1,1,1,1 share=c2;"
      "batchnorm n2 c4 share=n1;"
      "dense d1 n2 units=5 act=tanh;"
      "dense d2 d1 units=5 act=softmax;"
      "dense d3 d2 units=5 share=d2;"
      "flatten f d3;"
      "dense a f units=1",
      "*", NN_MSE, NN_SGD, 0, NN_INIT_PYTORCH, 5, 7, 20, 0 },
    { "dense",
      "input in - shape=3;"
      "dense d1 in units=100 act=softmax;"
      "dense d2 d1 units=1;"
      "dense d3 d2 units=15 act=tanh;"
      "dense d4 d3 units=16;"
      "dense d5 d4 units=17 act=leaky_relu;"
      "dense d6 d5 units=100 act=relu;"
      "dense d7 d6 units=65 act=tanh;"
      "dense d8 d7 units=5;"
      "dense d9 d8 units=33;"
      "dense d10 d9 units=15 no_bias=1;"
      "dense d11 d10 units=3;"
      "dense d12 d11 units=16 act=tanh;"
      "dense a d12 units=33 act=sigmoid",
      "*", NN_BCE, NN_ADAM, NN_EPS_KERAS, NN_INIT_KERAS, 7, 11, 20, SPLITS | FUSES },
    { "one",
      "input in - shape=17,48,2;"
      "conv2d c1 in units=3 kernel=1,1;"
      "conv2d c2 c1 units=17 kernel=2,1 pad=1,0,0,0 act=sigmoid;"
      "maxpool2d p2 c2 kernel=17,16;"
      "dense d1 p2 units=33 act=relu;"
      "dense d2 d1 units=5 act=tanh;"
      "flatten f d2;"
      "dense a f units=17",
      "*", NN_MSE, NN_SGD, 0, NN_INIT_KERAS, 1, 3, 3, FUSES | LARGE },
    { "maps",
      "input in - shape=8,9,3 type=u8 mean=x42fe0000,x43000000,x42f00000 "
      "std=x42800000,x42700000,x42840000;"
      "conv2d c1 in units=17 kernel=3,3 pad=1,1,1,1 act=relu;"
      "conv2d c2 c1 units=70 kernel=1,1;"
      "conv2d c3 c2 units=70 kernel=3,3 pad=1,0,0,1 groups=70 act=tanh;"
      "maxpool2d p3 c3 kernel=3,3 stride=2,2 pad=1,1,0,0;"
      "conv2d c4 p3 units=34 kernel=2,2 pad=0,1,1,0 groups=2 act=leaky_relu;"
      "conv2d c5 c4 units=48 kernel=3,3 stride=2,1 pad=1,1,1,1 no_bias=1;"
      "maxpool2d p5 c5 kernel=2,2 stride=1,1;"
      "conv2d c6 p5 units=33 kernel=1,2 dilation=1,2 act=relu;"
      "conv2d c7 c6 units=3 kernel=1,1;"
      "flatten f c7;"
      "dense a f units=16",
      "*", NN_CROSS_ENTROPY, NN_ADAM, NN_EPS_PYTORCH, NN_INIT_PYTORCH, 5, 7, 3, FUSES | LARGE },
    { "pools",
      "input in - shape=50,104,1;"
      "conv2d c0 in units=3 kernel=2,3 stride=1,2 dilation=2,1 pad=1,0,1,1;"
      "maxpool2d p0 c0 kernel=2,2;"
      "conv2d c1 p0 units=16 kernel=3,3 pad=1,0,1,2 act=relu;"
      "maxpool2d p1 c1 kernel=2,2;"
      "conv2d c2 p1 units=33 kernel=2,2 pad=1,0,0,1 act=tanh;"
      "maxpool2d p2 c2 kernel=2,3;"
      "conv2d c3 p2 units=70 kernel=1,1;"
      "maxpool2d p3 c3 kernel=1,2 stride=1,1 pad=0,1,0,0;"
      "conv2d c4 p3 units=70 kernel=3,3 pad=1,1,1,1 groups=70 act=leaky_relu;"
      "maxpool2d p4 c4 kernel=3,3;"
      "conv2d c5 p4 units=48 kernel=2,2 pad=1,1,1,1 act=relu;"
      "maxpool2d p5 c5 kernel=3,2;"
      "conv2d a p5 units=17 kernel=1,1",
      "*", NN_MSE, NN_SGD, 0, NN_INIT_KERAS, 3, 5, 3, FUSES | LARGE },
    { "groups",
      "input in - shape=9,10,2;"
      "conv2d c1 in units=70 kernel=1,1 act=relu;"
      "conv2d f1 c1 units=70 kernel=3,3 stride=2,1 pad=0,1,1,0 groups=70 act=leaky_relu;"
      "conv2d c2 f1 units=70 kernel=2,3 dilation=2,1 pad=1,1,1,1 groups=70 no_bias=1;"
      "conv2d c3 c2 units=70 kernel=3,3 pad=1,1,1,1 groups=70 act=tanh;"
      "maxpool2d p3 c3 kernel=2,2;"
      "conv2d f4 p3 units=33 kernel=1,2 pad=0,1,0,0;"
      "conv2d c5 f4 units=33 kernel=9,9 pad=4,4,4,4 groups=33;"
      "conv2d f6 c5 units=66 kernel=2,2 pad=0,1,0,0 groups=33 act=relu;"
      "maxpool2d p6 f6 kernel=1,3 stride=1,4;"
      "conv2d c7 p6 units=34 kernel=1,1 groups=2;"
      "flatten l c7;"
      "dense f8 l units=20 act=tanh;"
      "dense a f8 units=17",
      "c* a", NN_CROSS_ENTROPY, NN_SGD, 0, NN_INIT_PYTORCH, 5, 7, 3, FUSES | FROZEN | LARGE },
    { "strips",
      "input in - shape=8,52,1;"
      "conv2d c1 in units=2 kernel=2,2 pad=1,0,0,1 act=relu;"
      "conv2d c2 c1 units=33 kernel=1,3 pad=0,1,0,1 act=relu;"
      "maxpool2d p2 c2 kernel=3,3 stride=4,3;"
      "conv2d c3 p2 units=70 kernel=1,2 act=tanh;"
      "maxpool2d p3 c3 kernel=2,2;"
      "conv2d f4 p3 units=260 kernel=1,1;"
      "globalavgpool g f4;"
      "dense a g units=16",
      "c* a", NN_MSE, NN_ADAM, NN_EPS_PYTORCH, NN_INIT_PYTORCH, 3, 5, 3, FUSES | FROZEN | LARGE },
    { "long maps",
      "input in - shape=40,48,3;"
      "conv2d c1 in units=3 kernel=1,1 act=relu;"
      "conv2d c2 c1 units=16 kernel=1,9 act=relu;"
      "globalavgpool g c2;"
      "dense a g units=5",
      "*", NN_CROSS_ENTROPY, NN_SGD, 0, NN_INIT_KERAS, 3, 3, 1, FUSES | LARGE },
    { "long sums",
      "input in - shape=4100;"
      "dense d1 in units=17 act=tanh;"
      "dense d2 d1 units=1100;"
      "dense d3 d2 units=65;"
      "dense a d3 units=3",
      "*", NN_MSE, NN_SGD, 0, NN_INIT_PYTORCH, 17, 20, 2, FUSES | LARGE },
    { "lstm",
      "input in - shape=9,5;"
      "lstm l1 in units=7 layers=2 bidirectional=1 rate=0.25;"
      "dense d1 l1 units=5 act=tanh;"
      "lstm l2 d1 units=33;"
      "lstm l3 l2 units=16 last=1 one_bias=1;"
      "dense a l3 units=5",
      "*", NN_CROSS_ENTROPY, NN_ADAM, NN_EPS_PYTORCH, NN_INIT_PYTORCH, 5, 7, 20,
      SPLITS | FUSES | UNEVEN },
    { "words",
      "input in - shape=17 type=i32;"
      "embedding e in vocab=40 units=6 pad_id=4 mask=1;"
      "lstm l1 e units=20 layers=2;"
      "gru g1 l1 units=17 layers=3 rate=0.5;"
      "rnn r1 g1 units=3 act=relu;"
      "rnn r2 r1 units=17 no_bias=1;"
      "gru g2 r2 units=5 one_bias=1 reset_before=1;"
      "dense a g2 units=2 act=sigmoid",
      "*", NN_BCE, NN_SGD, 0, NN_INIT_KERAS, 5, 7, 20, SPLITS | FUSES | UNEVEN | DECAYS },
    { "tagged words",
      "input in - shape=8 type=i32;"
      "embedding e in vocab=40 units=16;"
      "gru g1 e units=9 bidirectional=1;"
      "lstm l1 g1 units=1;"
      "gru g2 l1 units=48 last=1;"
      "dense a g2 units=5",
      "g* a", NN_CROSS_ENTROPY, NN_ADAM, NN_EPS_KERAS, NN_INIT_PYTORCH, 7, 11, 20,
      SPLITS | FUSES | FROZEN },
    { "sentences",
      "input in - shape=21 type=i32;"
      "embedding e in vocab=40 units=6 pad_id=4 mask=1 sparse=1;"
      "conv1d c1 e units=33 kernel=3 pad=2,1 act=leaky_relu;"
      "maxpool1d p1 c1 kernel=2;"
      "conv1d c2 p1 units=33 kernel=3 dilation=2 groups=33 act=tanh;"
      "maxpool1d p2 c2 kernel=3 stride=1 pad=1,1;"
      "avgpool1d q2 p2 kernel=2 stride=1 pad=1,0 count_pad=1;"
      "gru g1 q2 units=5;"
      "globalmaxpool m g1;"
      "dense a m units=5",
      "*", NN_CROSS_ENTROPY, NN_ADAM, NN_EPS_KERAS, NN_INIT_PYTORCH, 7, 11, 20,
      SPLITS | FUSES | UNEVEN },
    { "peaks",
      "input in - shape=9,5;"
      "lstm l1 in units=17;"
      "globalmaxpool m l1;"
      "globalavgpool g l1;"
      "add s m,g;"
      "dense a s units=3",
      "*", NN_MSE, NN_SGD, 0, NN_INIT_PYTORCH, 5, 7, 20, SPLITS | FUSES | UNEVEN },
    { "peaks of maps",
      "input in - shape=5,6,4;"
      "conv2d c1 in units=17 kernel=2,2 act=tanh;"
      "globalmaxpool m c1;"
      "dense a m units=1 act=sigmoid",
      "*", NN_BCE, NN_ADAM, NN_EPS_PYTORCH, NN_INIT_KERAS, 5, 7, 20, SPLITS | FUSES },
};

enum { NETS = sizeof nets / sizeof *nets };

static const int listed[] = { 1, 2, 3, 10, 20 };

enum { LISTED = 5, GRADS = LISTED, RESULTS, PARAMS, FITTED, SAVED, DIGESTS };

static char why[256];

static float x_float[SAMPLES * SAMPLE], target[SAMPLES * OUTPUTS];
static unsigned char x_byte[SAMPLES * SAMPLE];
static int32_t label[SAMPLES], length[SAMPLES], id[SAMPLES * SAMPLE];

static void make_samples(void)
{
    size_t i;

    for (i = 0; i < SAMPLES * SAMPLE; i++) {
        x_float[i] = gen_float(4, 0, i, 1, 0);
        x_byte[i] = (unsigned char)gen_int(4, 1, i, 256);
        id[i] = gen_int(4, 4, i, 40);
    }
    for (i = 0; i < SAMPLES * OUTPUTS; i++) target[i] = gen_float(4, 2, i, 0.5f, 0.5f);
    for (i = 0; i < SAMPLES; i++) label[i] = gen_int(4, 3, i, 5);
    for (i = 0; i < SAMPLES; i++) length[i] = gen_int(4, 5, i, 10);
}

static const void *samples(const nn_model *m, int first)
{
    size_t at = (size_t)(first * m->in_size);

    if (m->rows->type == NN_I32) return id + at;
    return m->rows->type == NN_U8 ? (const void *)(x_byte + at) : x_float + at;
}

static const void *targets(const nn_model *m, int first)
{
    if (m->opts.loss == NN_CROSS_ENTROPY) return label + first;
    return target + (size_t)(first * m->out_size);
}

/* ---- digests: FNV-1a of floats as little-endian bytes ---------------------------------------- */

static uint64_t add_byte(uint64_t h, unsigned byte) { return (h ^ byte) * UINT64_C(1099511628211); }

static uint64_t add_word(uint64_t h, uint32_t word)
{
    int i;

    for (i = 0; i < 4; i++, word >>= 8) h = add_byte(h, word & 255);
    return h;
}

static long values, subnormals; /* met in all digests */

static uint64_t add_floats(uint64_t h, const float *v, size_t n)
{
    uint32_t word;
    size_t i;
    long broken = 0, small = 0;

    for (i = 0; i < n; i++) {
        memcpy(&word, v + i, 4);
        broken += (word & 0x7f800000) == 0x7f800000;
        small += (word & 0x7f800000) == 0 && (word & 0x7fffff) != 0;
        h = add_word(h, word);
    }
    values += (long)n;
    subnormals += small;
    CHECK_EQ_INT(broken, 0); /* what is not finite is not promised, and not what is wanted */
    CHECK_EQ_INT(small, 0);
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

typedef int get_fn(const nn_model *m, const char *name, float *out, size_t count);

/* All tensors, with a prefix those of the optimizer; how many values. */
static size_t get_tensors(const nn_model *m, get_fn *get, const char *prefix, float *to)
{
    char name[160];
    size_t at = 0;
    uint32_t t;

    for (t = 0; t < m->tensor_count; t++) {
        nn__text text = nn__text_to(name, sizeof name - 1);
        size_t count = m->tensor[t].count;

        nn__puts(&text, prefix);
        nn__put_tensor_name(&text, m, t);
        name[text.len] = '\0';
        if (m->tensor[t].alias != t || !CHECK(at + count <= VALUES)) continue;
        if (get(m, name, to + at, count) == 0) at += count;
    }
    return at;
}

static uint64_t add_tensors(uint64_t h, const nn_model *m, get_fn *get, const char *prefix)
{
    static float v[VALUES];

    return add_floats(h, v, get_tensors(m, get, prefix, v));
}

static uint64_t add_state(uint64_t h, const nn_model *m)
{
    h = add_tensors(h, m, nn_get, "");
    h = add_tensors(h, m, nn_get, "opt.mom/");
    h = add_tensors(h, m, nn_get, "opt.m/");
    return add_tensors(h, m, nn_get, "opt.v/");
}

/* ---- ways to the same numbers ---------------------------------------------------------------- */

typedef struct way {
    const char *name;
    const nn_kernels *kernels; /* NULL: those chosen */
    int block;                 /* the caller's memory */
    int fuse, in_place, input_grad;
    int64_t budget;
} way;

static way named(const char *name)
{
    way w;

    memset(&w, 0, sizeof w);
    w.name = name;
    return w;
}

static nn_opts options(const struct net *n, const way *w)
{
    nn_opts o;

    memset(&o, 0, sizeof o);
    o.batch = n->batch;
    o.train = n->train;
    o.loss = n->loss;
    o.optimizer = n->optimizer;
    o.eps_mode = n->eps_mode;
    o.init = n->init;
    o.lr = 0.01f;
    o.momentum = n->optimizer == NN_SGD ? 0.9f : 0;
    o.weight_decay = n->flags & DECAYS ? 0.01f : 0;
    o.seed = UINT64_C(0x123456789abcdef);
    o.fuse_update = w->fuse;
    o.input_grad = w->input_grad;
    o.budget = w->budget;
    o.why = why;
    o.why_size = sizeof why;
    return o;
}

static int check_built(const struct net *n, int err)
{
    return test_report(!err, __FILE__, __LINE__, n->name, "nn_build_text: %d, %s", err, why);
}

/* The initial values as an image that a model can use where it lies. */
static void set_image(const struct net *n, nn_opts *o)
{
    static float image[VALUES];
    nn_model m;

    if (!check_built(n, nn_build_text(&m, n->rows, o))) return;
    o->weights = image;
    o->weights_size = 4 * get_tensors(&m, nn_get, "", image);
    o->in_place = 1;
    nn_free(&m);
}

/* The model by that way; *block is to be freed after it. */
static int build(nn_model *m, const struct net *n, const way *w, void **block)
{
    nn_opts o = options(n, w);

    *block = NULL;
    if (w->in_place) set_image(n, &o);
    if (w->block) {
        o.memory_size = (size_t)nn_memory_text(n->rows, &o);
        *block = malloc(o.memory_size + NN_ALIGNMENT);
        if (!CHECK(*block != NULL)) return 0;
        memset(*block, 0xff, o.memory_size + NN_ALIGNMENT);
        o.memory = (unsigned char *)*block + (NN_ALIGNMENT - (uintptr_t)*block % NN_ALIGNMENT);
    }
    if (!check_built(n, nn_build_text(m, n->rows, &o))) {
        free(*block);
        return 0;
    }
    if (w->kernels) {
        m->kernels = w->kernels;
        nn__init_values(m); /* again, by them */
    }
    if (n->flags & UNEVEN) CHECK_EQ_INT(nn_set_lengths(m, length), 0);
    return 1;
}

/* The gradients of all tensors and of the input. */
static void backward(const struct net *n, const way *w, uint64_t digest[DIGESTS])
{
    static float dx[SAMPLES * SAMPLE];
    way v = *w;
    nn_model m;
    void *block;

    v.fuse = 0;
    v.budget = 0;
    v.input_grad = strstr(n->rows, "type=i32") == NULL;
    if (!build(&m, n, &v, &block)) return;
    CHECK_EQ_INT(nn_forward(&m, samples(&m, 0), targets(&m, 0), NULL, n->batch), 0);
    CHECK_EQ_INT(nn_backward(&m, NULL, v.input_grad ? dx : NULL), 0);
    digest[GRADS] = add_tensors(empty, &m, nn_get_grad, "");
    if (v.input_grad)
        digest[GRADS] = add_floats(digest[GRADS], dx, (size_t)(n->batch * m.in_size));
    nn_free(&m);
    free(block);
}

/* Two shuffled epochs, and the file of what they made. */
static void fit(const struct net *n, const way *w, uint64_t digest[DIGESTS])
{
    nn_fit_opts f;
    nn_model m;
    void *block;

    if (!build(&m, n, w, &block)) return;
    memset(&f, 0, sizeof f);
    f.x = samples(&m, 0);
    f.y = targets(&m, 0);
    f.n = n->samples;
    f.epochs = 2;
    f.quiet = 1;
    CHECK_EQ_INT(nn_fit(&m, &f), 0);
    digest[FITTED] = add_state(empty, &m);
    digest[SAVED] = empty;
    CHECK(nn_save(&m, 1, add_file, &digest[SAVED]) > 0);
    nn_free(&m);
    free(block);
}

/* The digests of a net by one way: of all losses and states up to a step, of outputs and loss in
   the end, of what nn_fit makes. */
static void run(const struct net *n, const way *w, uint64_t digest[DIGESTS])
{
    static float y[SAMPLES * OUTPUTS];
    nn_model m;
    void *block;
    uint64_t h = empty;
    int step, k = 0;

    memset(digest, 0, DIGESTS * sizeof *digest);
    if (!build(&m, n, w, &block)) return;
    CHECK(n->samples <= SAMPLES && m.in_size <= SAMPLE && m.out_size <= OUTPUTS);
    for (step = 1; step <= n->steps; step++) {
        int count = step % 3 || n->batch < 3 ? n->batch : n->batch - 2;
        int first = step % (n->samples - n->batch + 1);

        CHECK_EQ_INT(nn_train(&m, samples(&m, first), targets(&m, first), count), 0);
        h = add_floats(h, &m.loss, 1);
        h = add_word(h, (uint32_t)m.correct);
        h = add_state(h, &m);
        if (step == listed[k]) digest[k++] = h;
    }
    CHECK_EQ_INT(nn_infer(&m, samples(&m, 0), y, n->samples), 0);
    h = add_floats(empty, y, (size_t)(n->samples * m.out_size));
    CHECK_EQ_INT(nn_eval(&m, samples(&m, 0), targets(&m, 0), n->samples), 0);
    digest[RESULTS] = add_floats(h, &m.loss, 1);
    digest[PARAMS] = nn_digest(&m);
    CHECK(digest[PARAMS] == add_tensors(empty, &m, nn_get, "")); /* which is how it is defined */
    nn_free(&m);
    free(block);
    backward(n, w, digest);
    if (!(n->flags & LARGE)) fit(n, w, digest);
}

static int64_t least_budget(const struct net *n)
{
    way w = named("");
    nn_opts o;
    const char *p;

    w.budget = 1;
    o = options(n, &w);    CHECK_EQ_INT(nn_memory_text(n->rows, &o), NN_ERR_MEMORY);
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
    CHECK(digest[GRADS] == want[GRADS]);
    CHECK(digest[RESULTS] == want[RESULTS]);
    CHECK(digest[PARAMS] == want[PARAMS]);
    CHECK(digest[FITTED] == want[FITTED]);
    /* a file remembers the options */
    CHECK(digest[SAVED] == want[SAVED] || w->fuse || w->budget);
}

/* The tables of kernels that run here; how many. */
static int all_kernels(const nn_kernels *list[3])
{
    int n = 0;

    (void)list;
#if NN__DISPATCH
    list[n++] = &nn__kernels_plain;
#endif
#if NN__X86
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        list[n++] = &nn__kernels_avx2;
    if (__builtin_cpu_supports("avx512f")) list[n++] = &nn__kernels_avx512;
#elif NN__ARM64
    list[n++] = &nn__kernels_neon;
#endif
    return n;
}

static void compare_kernels(const struct net *n, const uint64_t want[DIGESTS])
{
    const nn_kernels *list[3];
    int i, count = all_kernels(list);

    for (i = 0; i < count; i++) {
        way w = named(list[i]->name);

        w.kernels = list[i];
        compare(n, &w, want);
    }
}

static void compare_budgets(const struct net *n, const uint64_t want[DIGESTS])
{
    way w = named("least budget");
    nn_opts o = options(n, &w);
    int64_t least = least_budget(n), most = nn_memory_text(n->rows, &o);
    int k;

    for (k = 0; k < 3; k++) {
        w.budget = least + (most - least) * k / 3;
        compare(n, &w, want);
        w.name = "more budget";
    }
}

static void print_digest(const struct net *n, const char *what, uint64_t h)
{
    printf("digest %-12s %-8s %08lx%08lx\n", n->name, what, (unsigned long)(h >> 32),
           (unsigned long)(h & 0xffffffff));
}

static void check_net(const struct net *n)
{
    way w = named("as it comes");
    uint64_t digest[DIGESTS];
    char what[16];
    int k;

    run(n, &w, digest);
    for (k = 0; k < LISTED && listed[k] <= n->steps; k++) {
        snprintf(what, sizeof what, "step %d", listed[k]);
        print_digest(n, what, digest[k]);
        CHECK(k == 0 || digest[k] != digest[k - 1]);
    }
    print_digest(n, "grads", digest[GRADS]);
    print_digest(n, "results", digest[RESULTS]);
    print_digest(n, "weights", digest[PARAMS]);
    if (!(n->flags & LARGE)) {
        print_digest(n, "fitted", digest[FITTED]);
        print_digest(n, "saved", digest[SAVED]);
    }
    if (!WAYS) return;

    compare_kernels(n, digest);
    w = named("fuse_update");
    w.fuse = 1;
    if (n->flags & FUSES) compare(n, &w, digest);
    w = named("in_place");
    w.in_place = 1;
    if (n->flags & FROZEN) compare(n, &w, digest);
    if (n->flags & LARGE) return;
    w = named("caller's block");
    w.block = 1;
    compare(n, &w, digest);
    if (n->flags & SPLITS) compare_budgets(n, digest);
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
                    way w = named("");
                    nn_opts o = options(&nets[n], &w);
                    int64_t bytes;

                    o.batch = batch;
                    o.train = train == 0 ? NULL : train == 1 ? "*" : "a";
                    o.optimizer = optimizer == 2 ? NN_ADAM : NN_SGD;
                    o.momentum = optimizer == 1 ? 0.9f : 0;
                    bytes = nn_memory_text(nets[n].rows, &o);
                    if (train == 1 && optimizer == 1 && strstr(nets[n].rows, "sparse=1")) {
                        CHECK_EQ_INT(bytes, NN_ERR_OPTION); /* they do not go together */
                        continue;
                    }
                    CHECK(bytes > 0);
                    h = add_word(h, (uint32_t)bytes);
                }
    printf("memory of all nets           %08lx%08lx\n", (unsigned long)(h >> 32),
           (unsigned long)(h & 0xffffffff));
}

int main(int argc, char **argv)
{
    const nn_kernels *list[3];
    int i, count = all_kernels(list);

    test_begin(argc, argv);
    make_samples();
    printf("kernels:");
    for (i = 0; i < count; i++) printf(" %s", list[i]->name);
    printf("%s\n", count ? "" : " plain only");
    for (i = 0; i < NETS; i++)
        if (test_start(nets[i].name)) {
            check_net(&nets[i]);
            test_stop();
        }
    RUN(memory);
    printf("subnormals: %ld of %ld values\n", subnormals, values);
    return test_end();
}
