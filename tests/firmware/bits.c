/* The same bits on a microcontroller: small nets trained without a C library in a block of 7 KB.
   Prints losses, and digests of weights, optimizer state and outputs; tests/bits.py compares that
   with what other compilers and machines print. Fails if a value is subnormal or not finite. */
#define NN_NO_LIBC
#define NN_IMPLEMENTATION
#include "../../nn.h"

#include "rt.h"

enum { BATCH = 3, SAMPLES = 5, STEPS = 10, MOST = 100 }; /* values of a tensor */

static const nn_layer classifier[] = {
    { .op = NN_INPUT, .shape = { 5, 4, 2 }, .type = NN_U8, .scale = 0.00390625f },
    { .op = NN_CONV2D, .units = 3, .kernel = { 3, 3 }, .pad = { 1, 1, 1, 1 }, .act = NN_RELU },
    { .op = NN_MAXPOOL2D, .kernel = { 2, 2 } },
    { .op = NN_CONV2D, .units = 17, .kernel = { 1, 1 }, .act = NN_TANH },
    { .op = NN_GLOBALAVGPOOL },
    { .op = NN_DENSE, .units = 3, .act = NN_SOFTMAX },
    { 0 }
};

static const nn_layer detector[] = {
    { .op = NN_INPUT, .shape = { 5, 4, 2 }, .type = NN_U8, .scale = 0.00390625f },
    { .op = NN_CONV2D, .units = 2, .kernel = { 2, 2 }, .pad = { 0, 1, 1, 0 }, .groups = 2 },
    { .op = NN_BATCHNORM, .act = NN_LEAKY_RELU },
    { .op = NN_DROPOUT, .rate = 0.25f },
    { .op = NN_AVGPOOL2D, .kernel = { 2, 2 } },
    { .op = NN_FLATTEN },
    { .op = NN_DENSE, .units = 1, .act = NN_SIGMOID },
    { 0 }
};

static const nn_layer regression[] = {
    { .op = NN_INPUT, .shape = { 5 } },
    { .op = NN_DENSE, .units = 20, .act = NN_TANH },
    { .op = NN_DENSE, .units = 5, .act = NN_SIGMOID },
    { .op = NN_DENSE, .units = 1 },
    { 0 }
};

static const nn_layer sequence[] = {
    { .op = NN_INPUT, .shape = { 5, 1 } },
    { .op = NN_LSTM, .units = 3 },
    { .op = NN_GRU, .units = 2, .last = 1 },
    { .op = NN_DENSE, .units = 1 },
    { 0 }
};

static unsigned char image[SAMPLES * 40];
static float x[SAMPLES * 5], target[SAMPLES], y[SAMPLES * 3];
static const int32_t label[SAMPLES] = { 2, 0, 1, 1, 0 };

NN_ALIGN static unsigned char block[7200];
static char why[128];
static float value[MOST];
static uint32_t subnormals, broken; /* broken: not finite, or a tensor too large for this program */

static uint64_t add_floats(uint64_t h, const float *v, size_t n)
{
    size_t i;
    int k;

    for (i = 0; i < n; i++) {
        union {
            float value;
            uint32_t bits;
        } u;

        u.value = v[i];
        broken += (u.bits & 0x7f800000) == 0x7f800000;
        subnormals += (u.bits & 0x7f800000) == 0 && (u.bits & 0x7fffff) != 0;
        for (k = 0; k < 4; k++, u.bits >>= 8)
            h = (h ^ (u.bits & 255)) * UINT64_C(1099511628211); /* FNV-1a */
    }
    return h;
}

static uint64_t add_tensor(uint64_t h, const nn_model *m, const char *prefix, uint32_t tensor)
{
    char name[64];
    nn__text text = nn__text_to(name, sizeof name - 1);
    size_t count = m->tensor[tensor].count;

    nn__puts(&text, prefix);
    nn__put_tensor_name(&text, m, tensor);
    name[text.len] = '\0';
    broken += count > MOST;
    return nn_get(m, name, value, count) == 0 ? add_floats(h, value, count) : h;
}

static void print_digest(const char *high, const char *low, uint64_t h)
{
    rt_number(high, (uint32_t)(h >> 32));
    rt_number(low, (uint32_t)h);
}

static nn_opts options(int32_t loss, int32_t optimizer, float lr, float momentum)
{
    nn_opts o = { 0 };

    o.memory = block;
    o.memory_size = sizeof block;
    o.train = "*";
    o.batch = BATCH;
    o.loss = loss;
    o.optimizer = optimizer;
    o.lr = lr;
    o.momentum = momentum;
    o.seed = 1;
    o.why = why;
    o.why_size = sizeof why;
    return o;
}

static int train(const nn_layer *rows, nn_opts o, const void *in, const void *want)
{
    static const char *const prefix[] = { "", "opt.mom/", "opt.m/", "opt.v/" };
    nn_model m;
    float loss[STEPS];
    uint64_t h = UINT64_C(14695981039346656037);
    uint32_t t;
    int step, k;

    if (nn_build(&m, rows, &o) != 0) return 1;
    for (step = 0; step < STEPS; step++) {
        if (nn_train(&m, in, want, step % 2 ? BATCH - 1 : BATCH) != 0) return 1;
        loss[step] = m.loss;
        for (k = 0; k < 4; k++)
            for (t = 0; t < m.tensor_count; t++) h = add_tensor(h, &m, prefix[k], t);
    }
    if (nn_infer(&m, in, y, SAMPLES) != 0) return 1;
    h = add_floats(h, loss, STEPS);
    h = add_floats(h, y, (size_t)(SAMPLES * m.out_size));
    rt_floats("loss", loss, STEPS);
    print_digest("digest-high", "digest-low", h);
    print_digest("weights-high", "weights-low", nn_digest(&m));
    nn_free(&m);
    return 0;
}

int main(void)
{
    nn_opts adam = options(NN_CROSS_ENTROPY, NN_ADAM, 0.03125f, 0);
    nn_opts adam_bce = options(NN_BCE, NN_ADAM, 0.03125f, 0);
    nn_opts sgd = options(NN_MSE, NN_SGD, 0.25f, 0.5f);
    uint32_t i;

    for (i = 0; i < sizeof image; i++) image[i] = (unsigned char)(i * 2654435761u >> 24);
    for (i = 0; i < SAMPLES * 5; i++) x[i] = (float)(int)(i * 2654435761u >> 24) / 256.0f;
    for (i = 0; i < SAMPLES; i++) target[i] = (float)(int)i / 4.0f;
    if (train(classifier, adam, image, label) || train(detector, adam_bce, image, target) ||
        train(regression, sgd, x, target) || train(sequence, sgd, x, target)) {
        rt_text(why);
        rt_text("\n");
        return 1;
    }
    rt_number("broken", broken);
    rt_number("subnormals", subnormals);
    return subnormals != 0 || broken != 0;
}
