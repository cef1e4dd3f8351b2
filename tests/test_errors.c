/* test_errors.c - mistakes: what each call answers, word for word, and that nothing else happened

   Four tables of wrong rows, texts, options and labels, then wrong calls one by one. Every refusal
   must have its code and exactly its sentence; what was being built is zeroed and holds no memory;
   sentences stay within buffers of any size and end there. Then what programs cannot avoid: malloc
   failing at its n-th call, for every n; writers failing at every piece; losses that are not
   finite, which must leave a training run as it was, to the bit. */
#include <stdlib.h>

/* The heap: every allocation of nn.h is counted, and one of them can be made to fail. */
static struct {
    int calls, live, fail_at; /* fail_at: number of the call that fails, from 1; 0: none */
    size_t asked;             /* bytes asked for last */
} heap;

static void *counted_malloc(size_t size) {
    void *p = NULL;

    heap.asked = size;
    if (++heap.calls != heap.fail_at) p = malloc(size);
    heap.live += p != NULL;
    return p;
}

static void counted_free(void *p) {
    heap.live -= p != NULL;
    free(p);
}

#define NN_MALLOC counted_malloc
#define NN_FREE counted_free
#define NN_IMPLEMENTATION
#include "nn.h"

#include "test.h"

enum { WHY = 320, GUARD = 16, SILENT = 0x7e };

#define COUNT(array) ((int)(sizeof(array) / sizeof(array)[0]))
#define TMP_PATH "test_errors.tmp.nn"

static char why[WHY + GUARD];
static int mistakes; /* refusals checked */

static void forget(void) {
    memset(why, SILENT, sizeof why - 1);
    why[sizeof why - 1] = '\0';
}

static int guard_holds(size_t size) {
    size_t i;

    for (i = size; i < sizeof why - 1; i++)
        if (why[i] != SILENT) return 0;
    return 1;
}

static void refused(long long got, int code, const char *sentence, int line) {
    mistakes++;
    test_report(got == code, __FILE__, line, "code", "%lld, not %s (%s)", got, nn_error_name(code),
                sentence);
    test_report(strcmp(why, sentence) == 0, __FILE__, line, "sentence", "\"%.*s\", not \"%s\"",
                (int)strcspn(why, "\x7e"), why, sentence);
    test_report(guard_holds(WHY), __FILE__, line, "bytes behind the buffer", "%s", sentence);
}

/* A call, its code and its sentence. The call's model or options must have why. */
#define REFUSED(call, code, sentence) \
    (forget(), refused((long long)(call), code, sentence, __LINE__))

/* A call without anywhere to write a sentence to. */
#define REFUSED_MUTELY(call, code) (mistakes++, CHECK_EQ_INT(call, code))

static nn_opts with_why(nn_opts o) {
    o.why = why;
    o.why_size = WHY;
    return o;
}

static nn_opts plain(void) {
    nn_opts none;

    memset(&none, 0, sizeof none);
    return with_why(none);
}

/* Options to train everything. */
static nn_opts training(int32_t loss, int32_t batch) {
    nn_opts o = plain();

    o.train = "*";
    o.loss = loss;
    o.lr = 0.05f;
    o.batch = batch;
    o.seed = 7;
    return o;
}

static void fill(nn_model *m) { memset(m, 0xa5, sizeof *m); }

/* What a refused build leaves: a zeroed model, and nothing allocated but live blocks. */
static void check_nothing(const nn_model *m, int live) {
    nn_model zero;

    memset(&zero, 0, sizeof zero);
    CHECK_SAME_BYTES(m, &zero, sizeof zero);
    CHECK_EQ_INT(heap.live, live);
}

/* ---- sentences in small buffers -------------------------------------------------------------- */

typedef int refuse_fn(const void *what, const nn_opts *o);

/* The sentence again in buffers of 0, 1, 2, almost enough and exactly enough bytes. */
static void check_small_buffers(refuse_fn *refuse, const void *what, nn_opts o, int code,
                                const char *sentence) {
    size_t length = strlen(sentence), sizes[5], size;
    int i;

    sizes[0] = 0, sizes[1] = 1, sizes[2] = 2, sizes[3] = length, sizes[4] = length + 1;
    o.why = why;
    for (i = 0; i < COUNT(sizes); i++) {
        size = sizes[i];
        o.why_size = size;
        forget();
        CHECK_EQ_INT(refuse(what, &o), code);
        CHECK(guard_holds(size));
        CHECK(size == 0 || (why[size - 1] == '\0' && strncmp(why, sentence, size - 1) == 0));
    }
    o.why = NULL;
    o.why_size = 100;
    CHECK_EQ_INT(refuse(what, &o), code);
}

/* ---- rows ------------------------------------------------------------------------------------ */

#define VECTOR(n) .op = NN_INPUT, .name = "x", .shape = { n }
#define IMAGE(h, w, c) .op = NN_INPUT, .name = "x", .shape = { h, w, c }
#define DENSE .op = NN_DENSE, .units = 2
#define CONV .op = NN_CONV2D, .units = 2
#define POOL .op = NN_MAXPOOL2D
#define SEQUENCE(t, c) .op = NN_INPUT, .name = "x", .shape = { t, c }
#define CONV1D .op = NN_CONV1D, .units = 2
#define ONE_ELEMENT "kernel, stride and dilation have one element, pad has two"

#define TEN "0123456789"
#define NAME_120 TEN TEN TEN TEN TEN TEN TEN TEN TEN TEN TEN TEN
#define NAME_127 NAME_120 "0123456"
#define NAME_128 NAME_120 "01234567"
#define BAD_NAME                                                                           \
    "its name is empty, longer than 127 bytes, begins with -, opt. or aux., or has other " \
    "characters than A-Z a-z 0-9 . _ / -"
#define NO_OUTPUT "its output never exists, what follows is computed with it: "
#define INT32_LARGEST 2147483647

/* All are NN_ERR_ROW. */
static const struct {
    nn_layer rows[6];
    const char *sentence;
} row_table[] = {
    /* the table */
    { { { 0 } }, "the table has 0 rows, not 1 to 9999" },
    { { { DENSE } }, "row 0 (dense \"dense1\"): the first row must be an input, and no other" },
    { { { VECTOR(2) }, { .op = NN_INPUT, .shape = { 2 } } },
      "row 1 (input \"input2\"): the first row must be an input, and no other" },
    { { { VECTOR(2) }, { DENSE, .name = "a" }, { DENSE, .name = "b", .from = "x" } },
      "row 1 (dense \"a\"): nothing reads its output" },
    { { { VECTOR(2) }, { DENSE }, { DENSE, .from = "x" }, { DENSE, .from = "dense1" } },
      "row 2 (dense \"dense2\"): nothing reads its output" },

    /* names */
    { { { .op = NN_INPUT, .name = "", .shape = { 2 } } }, "row 0 (input): " BAD_NAME },
    { { { VECTOR(2) }, { DENSE, .name = NAME_128 } }, "row 1 (dense): " BAD_NAME },
    { { { VECTOR(2) }, { DENSE, .name = "two words" } }, "row 1 (dense): " BAD_NAME },
    { { { VECTOR(2) }, { DENSE, .name = "a;b" } }, "row 1 (dense): " BAD_NAME },
    { { { VECTOR(2) }, { DENSE, .name = "quote\"" } }, "row 1 (dense): " BAD_NAME },
    { { { VECTOR(2) }, { DENSE, .name = "\xc3\xa9" } }, "row 1 (dense): " BAD_NAME },
    { { { VECTOR(2) }, { DENSE, .name = "opt.a" } }, "row 1 (dense): " BAD_NAME },
    { { { VECTOR(2) }, { DENSE, .name = "aux" } }, "row 1 (dense): " BAD_NAME },
    { { { VECTOR(2) }, { DENSE, .name = "-a" } }, "row 1 (dense): " BAD_NAME },
    { { { VECTOR(2) }, { DENSE, .name = "x" } }, "row 1 (dense \"x\"): row 0 has the same name" },
    { { { VECTOR(2) }, { DENSE, .name = "dense2" }, { DENSE } },
      "row 2 (dense \"dense2\"): row 1 has the same name" },

    /* inputs */
    { { { VECTOR(2) }, { DENSE, .name = "a", .from = "b" }, { DENSE, .name = "b" } },
      "row 1 (dense \"a\"): no row above it is called b" },
    { { { VECTOR(2) }, { DENSE, .name = "a", .from = "a" } },
      "row 1 (dense \"a\"): no row above it is called a" },
    { { { VECTOR(2) }, { DENSE, .name = "a", .from = "c" }, { DENSE, .name = "c" } },
      "row 1 (dense \"a\"): no row above it is called c" }, /* a cycle */
    { { { .op = NN_INPUT, .shape = { 2 }, .from = "input1" } },
      "row 0 (input \"input1\"): no row above it is called input1" },
    { { { VECTOR(2) }, { DENSE, .from = "X" } },
      "row 1 (dense \"dense1\"): no row above it is called X" },
    { { { VECTOR(2) }, { .op = NN_ADD, .with = "y" } },
      "row 1 (add \"add1\"): no row above it is called y" },
    { { { VECTOR(2) }, { .op = NN_ADD, .with = "y x" } },
      "row 1 (add \"add1\"): no row above it is called y" },
    { { { VECTOR(2) }, { .op = NN_ADD } }, "row 1 (add \"add1\"): has 1 inputs, needs 2 to 8" },
    { { { VECTOR(2) }, { .op = NN_ADD, .with = "" } },
      "row 1 (add \"add1\"): has 1 inputs, needs 2 to 8" },
    { { { VECTOR(2) }, { .op = NN_ADD, .with = "x x x x x x x x" } },
      "row 1 (add \"add1\"): more than 8 inputs" },
    { { { VECTOR(2) }, { DENSE, .with = "x" } },
      "row 1 (dense \"dense1\"): has 2 inputs, needs 1 to 1" },
    { { { VECTOR(2) }, { DENSE, .from = "" } },
      "row 1 (dense \"dense1\"): has 0 inputs, needs 1 to 1" },
    { { { VECTOR(2) }, { .op = NN_DENSE, .units = 3 }, { .op = NN_ADD, .with = "x" } },
      "row 2 (add \"add1\"): adds 2 to 3" },
    { { { IMAGE(4, 4, 2) }, { POOL, .kernel = { 2 } }, { .op = NN_ADD, .with = "x" } },
      "row 2 (add \"add1\"): adds 4x4x2 to 2x2x2" },
    { { { IMAGE(1, 1, 2) }, { .op = NN_FLATTEN }, { .op = NN_ADD, .with = "x" } },
      "row 2 (add \"add1\"): adds 1x1x2 to 2" },

    /* the input row */
    { { { .op = NN_INPUT } }, "row 0 (input \"input1\"): shape is missing" },
    { { { IMAGE(4, 0, 3) } }, "row 0 (input \"x\"): shape has a zero before its last dimension" },
    { { { IMAGE(0, 4, 3) } }, "row 0 (input \"x\"): shape has a zero before its last dimension" },
    { { { .op = NN_INPUT, .shape = { 12 }, .order = NN_CHW } },
      "row 0 (input \"input1\"): order = NN_CHW needs a shape of two or three dimensions" },
    { { { .op = NN_INPUT, .shape = { 2, 2, 3 }, .mean = { 1, 1, 1, 1 } } },
      "row 0 (input \"input1\"): mean or std for channel 4 of 3" },
    { { { .op = NN_INPUT, .shape = { 2, 2, 1 }, .std = { 0, 1 } } },
      "row 0 (input \"input1\"): mean or std for channel 2 of 1" },
    { { { .op = NN_INPUT, .shape = { 2, 2, 5 }, .std = { 1 } } },
      "row 0 (input \"input1\"): mean and std take at most 4 channels, not 5" },
    { { { .op = NN_INPUT, .shape = { 2, 2, 5 }, .mean = { 0, 1 } } },
      "row 0 (input \"input1\"): mean and std take at most 4 channels, not 5" },

    /* fields */
    { { { VECTOR(2) }, { .op = NN_DENSE } }, "row 1 (dense \"dense1\"): units is missing" },
    { { { VECTOR(2) }, { DENSE, .kernel = { 3 } } },
      "row 1 (dense \"dense1\"): kernel is not a field of this op" },
    { { { VECTOR(2) }, { DENSE, .shape = { 2 } } },
      "row 1 (dense \"dense1\"): shape is not a field of this op" },
    { { { VECTOR(2) }, { .op = NN_FLATTEN, .units = 2 } },
      "row 1 (flatten \"flatten1\"): units is not a field of this op" },
    { { { VECTOR(2) }, { .op = NN_FLATTEN, .lr = 0.1f } },
      "row 1 (flatten \"flatten1\"): lr is not a field of this op" },
    { { { IMAGE(4, 4, 1) }, { POOL, .kernel = { 2 }, .count_pad = 1 } },
      "row 1 (maxpool2d \"pool1\"): count_pad is not a field of this op" },
    { { { IMAGE(4, 4, 1) }, { POOL, .kernel = { 2 }, .act = NN_RELU } },
      "row 1 (maxpool2d \"pool1\"): act is not a field of this op" },
    { { { VECTOR(2) }, { .op = NN_DROPOUT, .rate = 0.5f, .momentum = 0.1f } },
      "row 1 (dropout \"dropout1\"): momentum is not a field of this op" },
    { { { VECTOR(2) }, { .op = NN_ACTIVATION } }, "row 1 (activation \"act1\"): act is missing" },
    { { { VECTOR(2) }, { DENSE, .slope = 0.1f } },
      "row 1 (dense \"dense1\"): a slope without leaky_relu" },
    { { { VECTOR(2) }, { DENSE, .act = NN_RELU, .slope = 0.1f } },
      "row 1 (dense \"dense1\"): a slope without leaky_relu" },
    { { { VECTOR(2) }, { .op = NN_DROPOUT } },
      "row 1 (dropout \"dropout1\"): rate must be between 0 and 1" },
    { { { VECTOR(2) }, { .op = NN_DROPOUT, .rate = 1.0f } },
      "row 1 (dropout \"dropout1\"): rate must be between 0 and 1" },
    { { { IMAGE(-1, 4, 3) } }, "row 0 (input \"x\"): shape[0] is -1, not from 0 to 2147483647" },
    { { { .op = NN_INPUT, .shape = { 2 }, .type = 3 } },
      "row 0 (input \"input1\"): type is 3, not from 0 to 2" },
    { { { .op = NN_INPUT, .shape = { 2, 2, 2 }, .order = -1 } },
      "row 0 (input \"input1\"): order is -1, not from 0 to 1" },
    { { { .op = NN_INPUT, .shape = { 2 }, .scale = INFINITY } },
      "row 0 (input \"input1\"): scale is not finite" },
    { { { .op = NN_INPUT, .shape = { 2 }, .mean = { 0, NAN } } },
      "row 0 (input \"input1\"): mean[1] is not finite" },
    { { { .op = NN_INPUT, .shape = { 2 }, .std = { -1 } } },
      "row 0 (input \"input1\"): std[0] is negative or not finite" },
    { { { VECTOR(2) }, { .op = NN_DENSE, .units = -3 } },
      "row 1 (dense \"dense1\"): units is -3, not from 0 to 2147483647" },
    { { { VECTOR(2) }, { DENSE, .act = 6 } },
      "row 1 (dense \"dense1\"): act is 6, not from 0 to 5" },
    { { { VECTOR(2) }, { DENSE, .act = -1 } },
      "row 1 (dense \"dense1\"): act is -1, not from 0 to 5" },
    { { { VECTOR(2) }, { DENSE, .no_bias = 2 } },
      "row 1 (dense \"dense1\"): no_bias is 2, not from 0 to 1" },
    { { { VECTOR(2) }, { DENSE, .no_decay = -1 } },
      "row 1 (dense \"dense1\"): no_decay is -1, not from 0 to 1" },
    { { { VECTOR(2) }, { DENSE, .lr = -1.0f } },
      "row 1 (dense \"dense1\"): lr is negative or not finite" },
    { { { VECTOR(2) }, { DENSE, .lr = NAN } },
      "row 1 (dense \"dense1\"): lr is negative or not finite" },
    { { { VECTOR(2) }, { DENSE, .act = NN_LEAKY_RELU, .slope = INFINITY } },
      "row 1 (dense \"dense1\"): slope is negative or not finite" },
    { { { IMAGE(4, 4, 1) }, { CONV, .kernel = { 3, -1 } } },
      "row 1 (conv2d \"conv1\"): kernel[1] is -1, not from 0 to 65535" },
    { { { IMAGE(4, 4, 1) }, { CONV, .kernel = { 65536 } } },
      "row 1 (conv2d \"conv1\"): kernel[0] is 65536, not from 0 to 65535" },
    { { { IMAGE(4, 4, 1) }, { CONV, .kernel = { 1 }, .pad = { 0, 0, 0, INT32_LARGEST } } },
      "row 1 (conv2d \"conv1\"): pad[3] is 2147483647, not from 0 to 65535" },
    { { { IMAGE(4, 4, 1) }, { CONV, .kernel = { 1 }, .stride = { 1, -2 } } },
      "row 1 (conv2d \"conv1\"): stride[1] is -2, not from 0 to 65535" },
    { { { IMAGE(4, 4, 1) }, { CONV, .kernel = { 1 }, .groups = -1 } },
      "row 1 (conv2d \"conv1\"): groups is -1, not from 0 to 2147483647" },
    { { { VECTOR(2) }, { .op = NN_BATCHNORM, .eps = -1.0f } },
      "row 1 (batchnorm \"norm1\"): eps is negative or not finite" },
    { { { VECTOR(2) }, { .op = NN_BATCHNORM, .momentum = 1.5f } },
      "row 1 (batchnorm \"norm1\"): momentum must be from 0 to 1" },
    { { { VECTOR(2) }, { .op = NN_DROPOUT, .rate = NAN } },
      "row 1 (dropout \"dropout1\"): rate is negative or not finite" },

    /* windows */
    { { { VECTOR(9) }, { CONV, .kernel = { 3 } } },
      "row 1 (conv2d \"conv1\"): needs an image [H,W,C] as input" },
    { { { .op = NN_INPUT, .shape = { 9, 2 } }, { POOL, .kernel = { 2 } } },
      "row 1 (maxpool2d \"pool1\"): needs an image [H,W,C] as input" },
    { { { VECTOR(9) }, { .op = NN_GLOBALAVGPOOL } },
      "row 1 (globalavgpool \"gap1\"): needs an image [H,W,C] or a sequence [T,C]" },
    { { { IMAGE(4, 4, 1) }, { .op = NN_CONV2D, .kernel = { 3 } } },
      "row 1 (conv2d \"conv1\"): units is missing" },
    { { { IMAGE(4, 4, 1) }, { CONV } }, "row 1 (conv2d \"conv1\"): kernel is missing" },
    { { { IMAGE(4, 4, 1) }, { CONV, .kernel = { 0, 3 } } },
      "row 1 (conv2d \"conv1\"): kernel is missing" },
    { { { IMAGE(4, 4, 1) }, { .op = NN_AVGPOOL2D } },
      "row 1 (avgpool2d \"avgpool1\"): kernel is missing" },
    { { { IMAGE(3, 3, 1) }, { CONV, .kernel = { 5 } } },
      "row 1 (conv2d \"conv1\"): kernel 5x5 larger than input 3x3x1" },
    { { { IMAGE(8, 3, 1) }, { CONV, .kernel = { 3, 4 } } },
      "row 1 (conv2d \"conv1\"): kernel 3x4 larger than input 8x3x1" },
    { { { IMAGE(1, 8, 3) }, { POOL, .kernel = { 2 } } },
      "row 1 (maxpool2d \"pool1\"): kernel 2x2 larger than input 1x8x3" },
    { { { IMAGE(5, 5, 1) }, { CONV, .kernel = { 3 }, .dilation = { 4 } } },
      "row 1 (conv2d \"conv1\"): kernel 3x3 spans 9x9, larger than input 5x5x1" },
    { { { IMAGE(4, 4, 1) }, { CONV, .kernel = { 2 }, .stride = { 0, 2 } } },
      "row 1 (conv2d \"conv1\"): stride has a second element but no first" },
    { { { IMAGE(4, 4, 1) }, { CONV, .kernel = { 2 }, .dilation = { 0, 2 } } },
      "row 1 (conv2d \"conv1\"): dilation has a second element but no first" },
    { { { IMAGE(4, 4, 1) }, { POOL, .kernel = { 2 }, .dilation = { 2 } } },
      "row 1 (maxpool2d \"pool1\"): dilation is not a field of this op" },
    { { { IMAGE(4, 4, 1) }, { POOL, .kernel = { 2 }, .pad = { 2 } } },
      "row 1 (maxpool2d \"pool1\"): padding 2 and 0 must be smaller than the kernel's 2" },
    { { { IMAGE(4, 4, 1) }, { POOL, .kernel = { 3, 2 }, .pad = { 2, 1, 2, 2 } } },
      "row 1 (maxpool2d \"pool1\"): padding 1 and 2 must be smaller than the kernel's 2" },
    { { { IMAGE(4, 4, 1) }, { .op = NN_AVGPOOL2D, .kernel = { 2 }, .pad = { 0, 0, 3, 0 } } },
      "row 1 (avgpool2d \"avgpool1\"): padding 0 and 3 must be smaller than the kernel's 2" },
    { { { IMAGE(4, 4, 3) }, { CONV, .kernel = { 1 }, .groups = 2 } },
      "row 1 (conv2d \"conv1\"): 3 input and 2 output channels do not divide into 2 groups" },
    { { { IMAGE(4, 4, 4) }, { .op = NN_CONV2D, .units = 6, .kernel = { 1 }, .groups = 4 } },
      "row 1 (conv2d \"conv1\"): 4 input and 6 output channels do not divide into 4 groups" },
    { { { IMAGE(4, 4, 4) }, { CONV, .kernel = { 1 }, .groups = INT32_LARGEST } },
      "row 1 (conv2d \"conv1\"): 4 input and 2 output channels do not divide into 2147483647 "
      "groups" },

    /* windows along a sequence */
    { { { IMAGE(9, 9, 1) }, { CONV1D, .kernel = { 3 } } },
      "row 1 (conv1d \"conv1\"): needs a sequence [T,C] as input" },
    { { { VECTOR(9) }, { .op = NN_AVGPOOL1D, .kernel = { 3 } } },
      "row 1 (avgpool1d \"avgpool1\"): needs a sequence [T,C] as input" },
    { { { IMAGE(1, 9, 2) }, { .op = NN_MAXPOOL1D, .kernel = { 3 } } },
      "row 1 (maxpool1d \"pool1\"): needs a sequence [T,C] as input" },
    { { { SEQUENCE(9, 2) }, { CONV, .kernel = { 1, 3 } } },
      "row 1 (conv2d \"conv1\"): needs an image [H,W,C] as input" },
    { { { SEQUENCE(9, 2) }, { .op = NN_AVGPOOL2D, .kernel = { 2 } } },
      "row 1 (avgpool2d \"avgpool1\"): needs an image [H,W,C] as input" },
    { { { VECTOR(9) }, { .op = NN_GLOBALMAXPOOL } },
      "row 1 (globalmaxpool \"gmp1\"): needs an image [H,W,C] or a sequence [T,C]" },
    { { { SEQUENCE(9, 2) }, { .op = NN_CONV1D, .kernel = { 3 } } },
      "row 1 (conv1d \"conv1\"): units is missing" },
    { { { SEQUENCE(9, 2) }, { CONV1D } }, "row 1 (conv1d \"conv1\"): kernel is missing" },
    { { { SEQUENCE(9, 2) }, { .op = NN_MAXPOOL1D } },
      "row 1 (maxpool1d \"pool1\"): kernel is missing" },
    { { { SEQUENCE(9, 2) }, { CONV1D, .kernel = { 1, 3 } } },
      "row 1 (conv1d \"conv1\"): " ONE_ELEMENT },
    { { { SEQUENCE(9, 2) }, { CONV1D, .kernel = { 3 }, .stride = { 1, 1 } } },
      "row 1 (conv1d \"conv1\"): " ONE_ELEMENT },
    { { { SEQUENCE(9, 2) }, { CONV1D, .kernel = { 3 }, .dilation = { 1, 1 } } },
      "row 1 (conv1d \"conv1\"): " ONE_ELEMENT },
    { { { SEQUENCE(9, 2) }, { CONV1D, .kernel = { 3 }, .pad = { 1, 1, 1, 0 } } },
      "row 1 (conv1d \"conv1\"): " ONE_ELEMENT },
    { { { SEQUENCE(9, 2) }, { .op = NN_AVGPOOL1D, .kernel = { 3 }, .pad = { 0, 0, 0, 1 } } },
      "row 1 (avgpool1d \"avgpool1\"): " ONE_ELEMENT },
    { { { SEQUENCE(3, 9) }, { CONV1D, .kernel = { 5 }, .pad = { 0, 1 } } },
      "row 1 (conv1d \"conv1\"): kernel 5 spans 5 steps, more than input 3x9 has" },
    { { { SEQUENCE(1, 9) }, { .op = NN_MAXPOOL1D, .kernel = { 2 } } },
      "row 1 (maxpool1d \"pool1\"): kernel 2 spans 2 steps, more than input 1x9 has" },
    { { { SEQUENCE(8, 1) }, { CONV1D, .kernel = { 3 }, .dilation = { 4 } } },
      "row 1 (conv1d \"conv1\"): kernel 3 spans 9 steps, more than input 8x1 has" },
    { { { SEQUENCE(9, 1) }, { .op = NN_MAXPOOL1D, .kernel = { 2 }, .pad = { 1, 2 } } },
      "row 1 (maxpool1d \"pool1\"): padding 1 and 2 must be smaller than the kernel's 2" },
    { { { SEQUENCE(9, 3) }, { CONV1D, .kernel = { 1 }, .groups = 2 } },
      "row 1 (conv1d \"conv1\"): 3 input and 2 output channels do not divide into 2 groups" },
    { { { SEQUENCE(9, 3) }, { .op = NN_MAXPOOL1D, .kernel = { 2 }, .dilation = { 2 } } },
      "row 1 (maxpool1d \"pool1\"): dilation is not a field of this op" },

    /* sparse gradients */
    { { { VECTOR(2) }, { DENSE, .sparse = 1 } },
      "row 1 (dense \"dense1\"): sparse is not a field of this op" },
    { { { .op = NN_INPUT, .shape = { 3 }, .type = NN_I32 },
        { .op = NN_EMBEDDING, .vocab = 5, .units = 2, .sparse = 2 } },
      "row 1 (embedding \"embedding1\"): sparse is 2, not from 0 to 1" },

    /* sizes: the first dimension, or the product, passes what 32 or 64 bits hold */
    { { { VECTOR(1 << 30) } }, "row 0 (input \"x\"): its output has 2^30 elements or more" },
    { { { IMAGE(INT32_LARGEST, 1, 1) } },
      "row 0 (input \"x\"): its output has 2^30 elements or more" },
    { { { IMAGE(INT32_LARGEST, INT32_LARGEST, INT32_LARGEST) } },
      "row 0 (input \"x\"): its output has 2^30 elements or more" },
    { { { IMAGE(65536, 65536, 65536) } }, /* 2^48: zero in 32 bits */
      "row 0 (input \"x\"): its output has 2^30 elements or more" },
    { { { IMAGE(1 << 22, 1 << 21, 1 << 21) } }, /* 2^64: zero in 64 bits */
      "row 0 (input \"x\"): its output has 2^30 elements or more" },
    { { { VECTOR(1) }, { .op = NN_DENSE, .units = INT32_LARGEST } },
      "row 1 (dense \"dense1\"): its output has 2^30 elements or more" },
    { { { VECTOR(1 << 29) }, { .op = NN_DENSE, .units = 1 << 29 } },
      "row 1 (dense \"dense1\"): a tensor has 2^30 elements or more" },
    { { { VECTOR(32768) }, { .op = NN_DENSE, .units = 32768 } }, /* 2^30 */
      "row 1 (dense \"dense1\"): a tensor has 2^30 elements or more" },
    { { { IMAGE(1, 1, 65536) }, { .op = NN_CONV2D, .units = 65536, .kernel = { 1 } } },
      "row 1 (conv2d \"conv1\"): a tensor has 2^30 elements or more" },
    { { { IMAGE(40000, 1, 1) }, { .op = NN_CONV2D, .units = 40000, .kernel = { 1 } } },
      "row 1 (conv2d \"conv1\"): its output has 2^30 elements or more" },
    { { { IMAGE(5, 5, 1) }, { CONV, .kernel = { 1 }, .pad = { 65535, 65535, 65535, 65535 } } },
      "row 1 (conv2d \"conv1\"): its output has 2^30 elements or more" },

    /* share */
    { { { VECTOR(2) }, { DENSE, .name = "a", .share = "b" }, { DENSE, .name = "b" } },
      "row 1 (dense \"a\"): no row above it is called b" },
    { { { VECTOR(2) }, { DENSE, .name = "a", .share = "a" } },
      "row 1 (dense \"a\"): no row above it is called a" },
    { { { VECTOR(2) }, { DENSE, .name = "a" }, { .op = NN_FLATTEN, .share = "a" } },
      "row 2 (flatten \"flatten1\"): has no tensors to share" },
    { { { VECTOR(2) }, { DENSE, .name = "a" }, { .op = NN_DENSE, .units = 3, .share = "a" } },
      "row 2 (dense \"dense2\"): shares a, whose tensors are not of the same shapes" },
    { { { VECTOR(2) }, { DENSE, .name = "a", .no_bias = 1 }, { DENSE, .share = "a" } },
      "row 2 (dense \"dense2\"): shares a, whose tensors are not of the same shapes" },
    { { { IMAGE(4, 4, 2) },
        { CONV, .name = "a", .kernel = { 3, 1 }, .pad = { 1, 0, 1, 0 } },
        { CONV, .kernel = { 1, 3 }, .share = "a" } },
      "row 2 (conv2d \"conv2\"): shares a, whose tensors are not of the same shapes" },
    { { { VECTOR(2) }, { DENSE, .share = "x" } },
      "row 1 (dense \"dense1\"): shares x, which is an input and no dense" },
    { { { VECTOR(2) }, { DENSE, .name = "a" }, { DENSE, .share = "a", .lr = 0.1f } },
      "row 2 (dense \"dense2\"): lr and no_decay belong on the row whose tensors it shares" },
};

static int build_rows(const void *rows, const nn_opts *o) {
    nn_model m;
    int err;

    fill(&m);
    err = nn_build(&m, (const nn_layer *)rows, o);
    if (!err) nn_free(&m);
    check_nothing(&m, 0);
    return err;
}

TEST(wrong_rows) {
    int i;

    for (i = 0; i < COUNT(row_table); i++) {
        const nn_layer *rows = row_table[i].rows;
        const char *sentence = row_table[i].sentence;
        nn_opts o = plain();

        test_note("entry %d", i);
        REFUSED(build_rows(rows, &o), NN_ERR_ROW, sentence);
        REFUSED(nn_memory(rows, &o), NN_ERR_ROW, sentence);
        CHECK_EQ_INT(build_rows(rows, NULL), NN_ERR_ROW);
        CHECK_EQ_INT(nn_memory(rows, NULL), NN_ERR_ROW);
        check_small_buffers(build_rows, rows, o, NN_ERR_ROW, sentence);
    }
}

/* As many rows as there may be at most, and one more. */
TEST(too_many_rows) {
    enum { MOST = 9999 };
    nn_layer *rows = (nn_layer *)calloc(MOST + 2, sizeof *rows);
    char(*name)[16] = (char(*)[16])calloc(MOST + 1, sizeof *name);
    nn_opts o = plain();
    int i;

    if (!CHECK(rows && name)) return;
    for (i = 0; i <= MOST; i++) {
        snprintf(name[i], sizeof name[i], "r%d", i);
        rows[i].op = i ? NN_FLATTEN : NN_INPUT;
        rows[i].name = name[i];
    }
    rows[0].shape[0] = 2;
    REFUSED(build_rows(rows, &o), NN_ERR_ROW, "the table has 10000 rows, not 1 to 9999");
    REFUSED(nn_memory(rows, &o), NN_ERR_ROW, "the table has 10000 rows, not 1 to 9999");
    free(name);
    free(rows);
}

/* What is just right: names of 127 bytes, sizes below the limits, every field at its edge. */
TEST(rows_at_the_limits) {
    static const nn_layer table[][4] = {
        { { VECTOR(2) }, { DENSE, .name = NAME_127 } },
        { { VECTOR(2) }, { DENSE, .name = "a-Z_0./" } },
        { { VECTOR(2) }, { .op = NN_ADD, .with = "x x x x x x x" } },
        { { VECTOR((1 << 30) - 1) }, { .op = NN_FLATTEN } },
        { { VECTOR(32768) }, { .op = NN_DENSE, .units = 32767, .no_bias = 1 } },
        { { IMAGE(3, 3, 2) }, { CONV, .kernel = { 3, 3 }, .groups = 2 } },
        { { IMAGE(5, 5, 1) }, { CONV, .kernel = { 2 }, .dilation = { 4 } } },
        { { IMAGE(3, 3, 1) }, { POOL, .kernel = { 4 }, .pad = { 3, 3, 3, 3 } } },
        { { IMAGE(2, 2, 1) }, { CONV, .kernel = { 65535, 1 }, .pad = { 65535, 0, 0, 0 } } },
        { { IMAGE(2, 2, 4) }, { .op = NN_FLATTEN, .order = NN_CHW } },
        { { VECTOR(2) }, { DENSE, .act = NN_LEAKY_RELU, .slope = 3e38f } },
        { { VECTOR(2) }, { .op = NN_DROPOUT, .rate = 0.99999994f } },
        { { SEQUENCE(3, 2) }, { CONV1D, .kernel = { 3 }, .groups = 2 } },
        { { SEQUENCE(1, 2) }, { CONV1D, .kernel = { 3 }, .pad = { 65535, 1 } } },
        { { SEQUENCE(9, 1) }, { CONV1D, .kernel = { 3 }, .dilation = { 4 } } },
        { { SEQUENCE(1, 1) }, { .op = NN_MAXPOOL1D, .kernel = { 4 }, .pad = { 3, 3 } } },
    };
    nn_opts o = plain();
    int i;

    o.in_place = 1; /* weights are not part of the block, which ends at 4 GiB */
    for (i = 0; i < COUNT(table); i++) {
        test_note("entry %d", i);
        forget();
        if (!CHECK(nn_memory(table[i], &o) > 0)) printf("%s\n", why);
    }
}

/* ---- rows as text ---------------------------------------------------------------------------- */

#define IN "input x - shape=2;"

/* All are NN_ERR_ROW. */
static const struct {
    const char *text, *sentence;
} text_table[] = {
    /* the text */
    { "", "the text has no rows" },
    { "1", "the text has no rows" },
    { " ;\n; ", "the text has no rows" },
    { IN "1", "row 1 of the text is not: op name inputs key=value" },
    { "input x - shape=2\t", "the text has byte 9 at 17, which no row may have" },
    { IN "dense d x units=2!", "the text has byte 33 at 35, which no row may have" },
    { "input \xff - shape=2", "the text has byte 255 at 6, which no row may have" },
    { IN "dense \"d\" x units=2", "the text has byte 34 at 24, which no row may have" },

    /* a row's words */
    { "input", "row 0 of the text is not: op name inputs key=value" },
    { "input x", "row 0 of the text is not: op name inputs key=value" },
    { IN "dense d", "row 1 of the text is not: op name inputs key=value" },
    { IN "danse d x units=2", "row 1 of the text: no op is called danse" },
    { IN "Dense d x units=2", "row 1 of the text: no op is called Dense" },
    { IN "dense - x units=2", "row 1 of the text: - is not a name" },
    { IN "dense d=1 x units=2", "row 1 of the text: d=1 is not a name" },
    { IN "dense a,b x units=2", "row 1 of the text: a,b is not a name" },
    { IN "dense " NAME_128 " x units=2", "row 1 of the text: " NAME_128 " is not a name" },
    { IN "dense x x units=2", "row 1 (dense \"x\"): row 0 has the same name" },
    { "input x y shape=2", "row 0 (input \"x\"): no row above it is called y" },
    { IN "dense d - units=2", "row 1 (dense \"d\"): only the first row has no input" },
    { IN "dense d y units=2", "row 1 (dense \"d\"): no row above it is called y" },
    { IN "dense a b units=2; dense b a units=2",
      "row 1 (dense \"a\"): no row above it is called b" },
    { IN "dense d x,x units=2", "row 1 (dense \"d\"): has 2 inputs, needs 1 to 1" },
    { IN "add s x", "row 1 (add \"s\"): has 1 inputs, needs 2 to 8" },
    { IN "add s x,x,x,x,x,x,x,x,x", "row 1 (add \"s\"): more than 8 inputs" },
    { IN "dense d , units=2", "row 1 (dense \"d\"): an input's name is empty" },
    { IN "dense a x units=2; dense b x units=2", "row 1 (dense \"a\"): nothing reads its output" },
    { IN "dense d x, units=2", "row 1 (dense \"d\"): an input's name is empty" },
    { IN "add s x,,x", "row 1 (add \"s\"): an input's name is empty" },
    { IN "add s y,x", "row 1 (add \"s\"): no row above it is called y" },
    { IN "add s x,y,x", "row 1 (add \"s\"): no row above it is called y" },

    /* keys */
    { IN "dense d x", "row 1 (dense \"d\"): units is missing" },
    { IN "dense d x units", "row 1 (dense \"d\"): units is not key=value" },
    { IN "dense d x =2", "row 1 (dense \"d\"): =2 is not key=value" },
    { IN "dense d x _note", "row 1 (dense \"d\"): _note is not key=value" },
    { IN "dense d x unit=2", "row 1 (dense \"d\"): no field is called unit" },
    { IN "dense d x from=x units=2", "row 1 (dense \"d\"): no field is called from" },
    { IN "dense d x kernel=2 units=2", "row 1 (dense \"d\"): kernel is not a field of this op" },
    { IN "dense d x units=2 units=2", "row 1 (dense \"d\"): units is given twice" },
    { IN "dense d x units=0 units=2", "row 1 (dense \"d\"): units is given twice" },
    { IN "dense d x units=2 act=linear act=relu", "row 1 (dense \"d\"): act is given twice" },
    { IN "dense d x units=2 share=x share=x", "row 1 (dense \"d\"): share is given twice" },
    { IN "dense d x units=2 share=", "row 1 (dense \"d\"): share is not a name" },
    { IN "dense d x units=2 share=a,b", "row 1 (dense \"d\"): share is not a name" },
    { IN "dense d x units=2 share=y", "row 1 (dense \"d\"): no row above it is called y" },

    /* values */
    { IN "dense d x units=", "row 1 (dense \"d\"): units= is no value for it" },
    { IN "dense d x units=-2", "row 1 (dense \"d\"): units=-2 is no value for it" },
    { IN "dense d x units=2.0", "row 1 (dense \"d\"): units=2.0 is no value for it" },
    { IN "dense d x units=0x10", "row 1 (dense \"d\"): units=0x10 is no value for it" },
    { IN "dense d x units=two", "row 1 (dense \"d\"): units=two is no value for it" },
    { IN "dense d x units=2147483648", "row 1 (dense \"d\"): units=2147483648 is no value for it" },
    { IN "dense d x units=18446744073709551618", /* 2^64 + 2 */
      "row 1 (dense \"d\"): units=18446744073709551618 is no value for it" },
    { IN "dense d x units=2147483647",
      "row 1 (dense \"d\"): its output has 2^30 elements or more" },
    { IN "dense d x units=2,2", "row 1 (dense \"d\"): units takes 1 values" },
    { "input x - shape=1,2,3,4", "row 0 (input \"x\"): shape takes 3 values" },
    { "input x - shape=1,,3", "row 0 (input \"x\"): shape= is no value for it" },
    { "input x - shape=1,2,", "row 0 (input \"x\"): shape= is no value for it" },
    { "input x - shape=4,0,4", "row 0 (input \"x\"): shape has a zero before its last dimension" },
    { "input x - shape=2 type=f16", "row 0 (input \"x\"): type=f16 is no value for it" },
    { "input x - shape=2 type=0", "row 0 (input \"x\"): type=0 is no value for it" },
    { "input x - shape=2 order=nchw", "row 0 (input \"x\"): order=nchw is no value for it" },
    { IN "dense d x units=2 act=gelu", "row 1 (dense \"d\"): act=gelu is no value for it" },
    { IN "dense d x units=2 act=relu,relu", "row 1 (dense \"d\"): act takes 1 values" },
    { IN "dense d x units=2 act=", "row 1 (dense \"d\"): act= is no value for it" },

    /* reals: at most 18 digits, powers of ten from -18 to 18, or eight hex digits */
    { IN "dropout d x rate=", "row 1 (dropout \"d\"): rate= is no value for it" },
    { IN "dropout d x rate=.", "row 1 (dropout \"d\"): rate=. is no value for it" },
    { IN "dropout d x rate=-", "row 1 (dropout \"d\"): rate=- is no value for it" },
    { IN "dropout d x rate=half", "row 1 (dropout \"d\"): rate=half is no value for it" },
    { IN "dropout d x rate=nan", "row 1 (dropout \"d\"): rate=nan is no value for it" },
    { IN "dropout d x rate=0.5f", "row 1 (dropout \"d\"): rate=0.5f is no value for it" },
    { IN "dropout d x rate=0.5.5", "row 1 (dropout \"d\"): rate=0.5.5 is no value for it" },
    { IN "dropout d x rate=5e", "row 1 (dropout \"d\"): rate=5e is no value for it" },
    { IN "dropout d x rate=5e-", "row 1 (dropout \"d\"): rate=5e- is no value for it" },
    { IN "dropout d x rate=5e-19", "row 1 (dropout \"d\"): rate=5e-19 is no value for it" },
    { IN "dropout d x rate=5e19", "row 1 (dropout \"d\"): rate=5e19 is no value for it" },
    { IN "dropout d x rate=5e4294967296",
      "row 1 (dropout \"d\"): rate=5e4294967296 is no value for it" },
    { IN "dropout d x rate=100e18", /* 10^20 passes 2^64 */
      "row 1 (dropout \"d\"): rate=100e18 is no value for it" },
    { IN "dropout d x rate=0.1234567890123456789",
      "row 1 (dropout \"d\"): rate=0.1234567890123456789 is no value for it" },
    { IN "dropout d x rate=x3f00000", "row 1 (dropout \"d\"): rate=x3f00000 is no value for it" },
    { IN "dropout d x rate=x3f0000000",
      "row 1 (dropout \"d\"): rate=x3f0000000 is no value for it" },
    { IN "dropout d x rate=x3F000000", "row 1 (dropout \"d\"): rate=x3F000000 is no value for it" },
    { IN "dropout d x rate=1", "row 1 (dropout \"d\"): rate must be between 0 and 1" },
    { IN "dropout d x rate=x00000000", "row 1 (dropout \"d\"): rate must be between 0 and 1" },
    { IN "dropout d x rate=-0.5", "row 1 (dropout \"d\"): rate is negative or not finite" },
    { IN "dropout d x rate=x7f800000", "row 1 (dropout \"d\"): rate is negative or not finite" },
    { IN "dropout d x rate=x7fc00000", "row 1 (dropout \"d\"): rate is negative or not finite" },
};

static int build_text(const void *text, const nn_opts *o) {
    nn_model m;
    int err;

    fill(&m);
    err = nn_build_text(&m, (const char *)text, o);
    if (!err) nn_free(&m);
    check_nothing(&m, 0);
    return err;
}

static void check_text(const char *text, int code, const char *sentence) {
    nn_opts o = plain();

    test_note("%.80s", text);
    REFUSED(build_text(text, &o), code, sentence);
    REFUSED(nn_memory_text(text, &o), code, sentence);
    CHECK_EQ_INT(build_text(text, NULL), code);
    CHECK_EQ_INT(nn_memory_text(text, NULL), code);
    check_small_buffers(build_text, text, o, code, sentence);
}

TEST(wrong_texts) {
    int i;

    for (i = 0; i < COUNT(text_table); i++)
        check_text(text_table[i].text, NN_ERR_ROW, text_table[i].sentence);
    check_text("2;" IN, NN_ERR_FILE_VERSION, "the rows are of version 2, this reader knows 1");
    check_text("1.1;" IN, NN_ERR_FILE_VERSION, "the rows are of version 1.1, this reader knows 1");
}

TEST(too_long_text) {
    enum { MOST = 9999 };
    char *text = (char *)malloc(MOST + 1);
    nn_opts o = plain();

    if (!CHECK(text != NULL)) return;
    memset(text, ';', MOST);
    text[MOST] = '\0';
    REFUSED(build_text(text, &o), NN_ERR_ROW, "the text has more than 9999 rows");
    text[MOST - 1] = '\0';
    REFUSED(build_text(text, &o), NN_ERR_ROW, "the text has no rows");
    free(text);
}

TEST(texts_at_the_limits) {
    static const struct {
        const char *text;
        float scale;
    } table[] = {
        { "input " NAME_127 " - shape=2", 0.0f },
        { "1;\n input x - shape=2 ;;\n", 0.0f },
        { "input x - _note=anything,at-all shape=2 _=", 0.0f },
        { "input x - shape=2 scale=1e18", 1e18f },
        { "input x - shape=2 scale=-1e-18", -1e-18f },
        { "input x - shape=2 scale=999999999999999999", 999999999999999999.0f },
        { "input x - shape=2 scale=0.00000000000000001", 1e-17f },
        { "input x - shape=2 scale=x7f7fffff", 3.40282346638528859812e+38f },
        { "input x - shape=2 scale=x00000001", 1.40129846432481707092e-45f },
        { "input x - shape=2 scale=-0", -0.0f },
    };
    nn_opts o = plain();
    nn_model m;
    int i;

    for (i = 0; i < COUNT(table); i++) {
        test_note("%.80s", table[i].text);
        forget();
        if (!CHECK_EQ_INT(nn_build_text(&m, table[i].text, &o), 0)) {
            printf("%s\n", why);
            continue;
        }
        CHECK_SAME_BYTES(&m.rows[0].scale, &table[i].scale, sizeof(float));
        nn_free(&m);
    }
}

/* ---- options --------------------------------------------------------------------------------- */

enum { MLP, CLASSES, SHARED, NORM, BARE, WORDS, TIED, TIED_LATER, NETS };

#define IDS .op = NN_INPUT, .name = "x", .shape = { 3 }, .type = NN_I32
#define TABLE .op = NN_EMBEDDING, .vocab = 5, .units = 2
#define WORDS_HEAD { .op = NN_DENSE, .name = "head", .units = 5, .no_bias = 1 }

static const nn_layer nets[NETS][5] = {
    { { VECTOR(2) },
      { .op = NN_DENSE, .name = "a", .units = 3, .act = NN_TANH },
      { .op = NN_DENSE, .name = "head", .units = 1, .act = NN_SIGMOID } },
    { { VECTOR(2) }, { .op = NN_DENSE, .name = "head", .units = 3, .act = NN_SOFTMAX } },
    { { VECTOR(2) }, { DENSE, .name = "a" }, { DENSE, .name = "b", .share = "a" } },
    { { VECTOR(2) }, { .op = NN_BATCHNORM, .name = "n" }, { DENSE, .name = "head" } },
    { { VECTOR(2) }, { .op = NN_FLATTEN, .name = "f" } },
    { { IDS }, { TABLE, .name = "e", .sparse = 1 }, WORDS_HEAD },
    { { IDS },
      { TABLE, .name = "e", .sparse = 1 },
      { .op = NN_DENSE, .name = "head", .units = 5, .no_bias = 1, .share = "e" } },
    { { IDS },
      { TABLE, .name = "e" },
      { TABLE, .name = "f", .from = "x", .share = "e", .sparse = 1 },
      { .op = NN_ADD, .with = "e" } },
};

enum { MLP_FLOATS = 2 * 3 + 3 + 3 + 1 };

static float weights[MLP_FLOATS + 1];
NN_ALIGN static unsigned char block[8192];

#define TRAIN .loss = NN_MSE, .lr = 0.1f
#define ODD(p) ((void *)((unsigned char *)(p) + 2))
#define BETAS "beta1 and beta2 must be from 0 to below 1"
#define MISMATCH                                                                     \
    "its activation does not go with the loss (softmax: NN_CROSS_ENTROPY, sigmoid: " \
    "NN_BCE)"

/* All are NN_ERR_OPTION. */
typedef struct wrong_opts {
    int net;
    nn_opts o;
    const char *sentence;
} wrong_opts;

static int return_seven(void *user, float *grad, uint32_t count) {
    (void)user, (void)grad, (void)count;
    return 7;
}

static const wrong_opts opts_table[] = {
    { MLP, { .batch = -1 }, "batch: -1 is negative" },
    { MLP, { .budget = -5 }, "budget: -5 is negative" },
    { MLP, { .loss = 4 }, "loss: 4 is not from 0 to 3" },
    { MLP, { .loss = -1 }, "loss: -1 is not from 0 to 3" },
    { MLP, { .optimizer = 2 }, "optimizer: 2 is not from 0 to 1" },
    { MLP, { .eps_mode = 2 }, "eps_mode: 2 is not from 0 to 1" },
    { MLP, { .init = -1 }, "init: -1 is not from 0 to 1" },
    { MLP, { .lr = -0.1f }, "lr is negative or not finite" },
    { MLP, { .lr = NAN }, "lr is negative or not finite" },
    { MLP, { .lr = INFINITY }, "lr is negative or not finite" },
    { MLP, { .momentum = -0.9f }, "momentum is negative or not finite" },
    { MLP, { .momentum = NAN }, "momentum is negative or not finite" },
    { MLP, { .momentum = INFINITY }, "momentum is negative or not finite" },
    { MLP, { .weight_decay = -1.0f }, "weight_decay is negative or not finite" },
    { MLP, { .weight_decay = NAN }, "weight_decay is negative or not finite" },
    { MLP, { .weight_decay = INFINITY }, "weight_decay is negative or not finite" },
    { MLP, { .eps = -1e-8f }, "eps is negative or not finite" },
    { MLP, { .eps = NAN }, "eps is negative or not finite" },
    { MLP, { .eps = INFINITY }, "eps is negative or not finite" },
    { MLP, { .beta1 = 1.0f }, BETAS },
    { MLP, { .beta1 = -0.9f }, BETAS },
    { MLP, { .beta2 = 1.0f }, BETAS },
    { MLP, { .beta2 = NAN }, BETAS },

    /* train */
    { MLP, { .train = "*" }, "train is set but loss is not" },
    { MLP, { .train = "*", .loss = NN_MSE }, "train is set but lr is zero" },
    { MLP, { TRAIN, .train = "" }, "train: the list of patterns is empty; NULL means inference" },
    { MLP, { TRAIN, .train = "  " }, "train: the list of patterns is empty; NULL means inference" },
    { MLP, { TRAIN, .train = "heads" }, "train: heads matches no row with parameters" },
    { MLP, { TRAIN, .train = "x" }, "train: x matches no row with parameters" },
    { MLP, { TRAIN, .train = "head conv*" }, "train: conv* matches no row with parameters" },
    { MLP, { TRAIN, .train = "a,head" }, "train: a,head matches no row with parameters" },
    { BARE, { .train = "*", TRAIN }, "train: * matches no row with parameters" },
    { MLP, { TRAIN, .train = "conv* head" }, "train: conv* matches no row with parameters" },

    /* the loss against the last row */
    { MLP, { .loss = NN_CROSS_ENTROPY }, "row 2 (dense \"head\"): " MISMATCH },
    { CLASSES, { .loss = NN_BCE }, "row 1 (dense \"head\"): " MISMATCH },

    /* fuse_update and budget */
    { SHARED,
      { .train = "*", TRAIN, .fuse_update = 1 },
      "fuse_update: row 1 (dense \"a\") shares its tensors, so its gradients have to be summed "
      "first" },
    { MLP,
      { .train = "*", TRAIN, .fuse_update = 1, .input_grad = 1 },
      "fuse_update: input_grad is for nn_backward, which cannot be called then" },
};

/* Likewise: a sparse embedding that trains. */
static const wrong_opts sparse_table[] = {
    { WORDS,
      { .train = "*", TRAIN, .momentum = 0.5f },
      "row 1 (embedding \"e\"): sparse does not go with opts.momentum" },
    { WORDS,
      { .train = "e", TRAIN, .weight_decay = 0.5f },
      "row 1 (embedding \"e\"): sparse does not go with opts.weight_decay" },
    { WORDS,
      { .train = "e", TRAIN, .weight_decay = 0.5f, .optimizer = NN_ADAM },
      "row 1 (embedding \"e\"): sparse does not go with opts.weight_decay" },
    { WORDS,
      { .train = "*", TRAIN, .hook = return_seven },
      "row 1 (embedding \"e\"): sparse does not go with opts.hook" },
    { TIED, { .train = "*", TRAIN }, "row 1 (embedding \"e\"): sparse does not go with share" },
    { TIED_LATER,
      { .train = "*", TRAIN },
      "row 2 (embedding \"f\"): sparse does not go with share" },
};

/* And bytes of the application's; the sentence ends in its number. */
#define WRONG_AUX "aux: number %d has no valid name, no bytes, or another's name"
static const struct {
    nn_aux list[4];
    int number;
} aux_table[] = {
    { { { "", "a", 1 } }, 0 },
    { { { "two words", "a", 1 } }, 0 },
    { { { "quote\"", "a", 1 } }, 0 },
    { { { "\xc3\xa9", "a", 1 } }, 0 },
    { { { NAME_127, "a", 1 }, { NAME_128, "a", 1 } }, 1 },
    { { { "a", "a", 1 }, { "b", NULL, 1 } }, 1 },
    { { { "a", "a", 0 } }, 0 },
    { { { "a", "a", (size_t)1 << 31 } }, 0 },
    { { { "a", "a", 1 }, { "b", "b", 1 }, { "a", "c", 1 } }, 2 },
};

/* What only a build looks at. */
static const wrong_opts weights_table[] = {
    { MLP, { .weights = weights }, "weights_size: 0 bytes, the rows need 52" },
    { MLP,
      { .weights = weights, .weights_size = MLP_FLOATS },
      "weights_size: 13 bytes, the rows need 52" },
    { MLP,
      { .weights = weights, .weights_size = 4 * MLP_FLOATS + 4 },
      "weights_size: 56 bytes, the rows need 52" },
    { MLP,
      { .weights = weights, .weights_size = 4 * MLP_FLOATS - 1, .in_place = 1 },
      "weights_size: 51 bytes, the rows need 52" },
    { MLP, { .in_place = 1 }, "in_place: there are no weights to use where they lie" },
    { MLP,
      { TRAIN, .train = "head", .in_place = 1 },
      "in_place: there are no weights to use where they lie" },
    { MLP, { .weights_size = 4 * MLP_FLOATS }, "weights_size is 52, but weights is NULL" },
    { MLP, { .resume = 1 }, "resume: only nn_load resumes" },
};

TEST(wrong_options) {
    int i, n = COUNT(opts_table), sparse = n + COUNT(weights_table);

    for (i = 0; i < sparse + COUNT(sparse_table); i++) {
        const wrong_opts *w = i < n        ? &opts_table[i]
                              : i < sparse ? &weights_table[i - n]
                                           : &sparse_table[i - sparse];
        nn_opts o = with_why(w->o);

        test_note("entry %d", i);
        REFUSED(build_rows(nets[w->net], &o), NN_ERR_OPTION, w->sentence);
        if (i < n || i >= sparse)
            REFUSED(nn_memory(nets[w->net], &o), NN_ERR_OPTION, w->sentence);
        check_small_buffers(build_rows, nets[w->net], o, NN_ERR_OPTION, w->sentence);
    }
}

/* Where a sparse embedding does not train, or not with that, all of it is fine. */
TEST(sparse_beside_other_options) {
    nn_opts o = training(NN_MSE, 2);

    o.momentum = 0.5f;
    o.weight_decay = 0.5f;
    o.hook = return_seven;
    o.train = "head";
    CHECK_EQ_INT(build_rows(nets[WORDS], &o), 0);
    o.train = NULL;
    CHECK_EQ_INT(build_rows(nets[TIED], &o), 0);
    o = training(NN_MSE, 2);
    o.optimizer = NN_ADAM;
    o.momentum = 0.5f; /* not Adam's */
    CHECK_EQ_INT(build_rows(nets[WORDS], &o), 0);
}

TEST(wrong_aux) {
    char sentence[96];
    size_t size = 7;
    nn_opts o;
    int i;

    for (i = 0; i < COUNT(aux_table); i++) {
        test_note("entry %d", i);
        o = plain();
        o.aux = aux_table[i].list;
        snprintf(sentence, sizeof sentence, WRONG_AUX, aux_table[i].number);
        REFUSED(build_rows(nets[MLP], &o), NN_ERR_OPTION, sentence);
        REFUSED(nn_memory(nets[MLP], &o), NN_ERR_OPTION, sentence);
        check_small_buffers(build_rows, nets[MLP], o, NN_ERR_OPTION, sentence);
    }
    CHECK(nn_get_aux(NULL, "a", &size) == NULL);
    CHECK_EQ_INT(size, 0);
}

TEST(options_against_outputs) {
    static const nn_layer one[] = { { VECTOR(2) }, { .op = NN_DENSE, .units = 1 }, { 0 } };
    static const nn_layer map[] = { { IMAGE(4, 4, 1) },
                                    { .op = NN_CONV2D, .units = 1, .kernel = { 1 } },
                                    { 0 } };
    static const nn_layer folded[] = {
        { VECTOR(2) }, { DENSE, .name = "d" }, { .op = NN_ACTIVATION, .act = NN_SIGMOID }, { 0 }
    };
    nn_opts o = plain();

    o.loss = NN_CROSS_ENTROPY;
    REFUSED(build_rows(one, &o), NN_ERR_OPTION,
            "row 1 (dense \"dense1\"): cross-entropy needs at least 2 outputs, has 1");
    REFUSED(build_rows(map, &o), NN_ERR_OPTION,
            "row 1 (conv2d \"conv1\"): cross-entropy needs at least 2 outputs, has 4x4x1");
    REFUSED(build_rows(folded, &o), NN_ERR_OPTION, "row 1 (dense \"d\"): " MISMATCH);
    o = training(NN_MSE, 1);
    o.fuse_update = 1;
    o.hook = return_seven;
    REFUSED(build_rows(one, &o), NN_ERR_OPTION,
            "fuse_update: the hook needs gradients, which are not kept");
}

/* One byte less than the least budget is refused, with that least budget in the sentence. */
TEST(budgets) {
    nn_opts o = training(NN_MSE, 8);
    long long least = 0, whole = nn_memory(nets[MLP], &o);
    char sentence[160];

    o.budget = 1;
    forget();
    CHECK_EQ_INT(nn_memory(nets[MLP], &o), NN_ERR_MEMORY);
    CHECK_EQ_INT(sscanf(why, "budget: 1 bytes, but one sample at a time needs %lld", &least), 1);
    CHECK(least > 1 && least < whole);
    o.budget = least;
    CHECK_EQ_INT(nn_memory(nets[MLP], &o), least);
    o.budget = least - 1;
    snprintf(sentence, sizeof sentence, "budget: %lld bytes, but one sample at a time needs %lld",
             least - 1, least);
    REFUSED(nn_memory(nets[MLP], &o), NN_ERR_MEMORY, sentence);
    REFUSED(build_rows(nets[MLP], &o), NN_ERR_MEMORY, sentence);

    o.fuse_update = 1;
    o.budget = 0;
    o.budget = nn_memory(nets[MLP], &o) - 1;
    REFUSED(build_rows(nets[MLP], &o), NN_ERR_OPTION,
            "budget: needs micro-batches of 4, which fuse_update cannot sum");
    o.fuse_update = 0;
    o.budget = 0;
    o.budget = nn_memory(nets[NORM], &o) - 1;
    REFUSED(build_rows(nets[NORM], &o), NN_ERR_OPTION,
            "budget: needs micro-batches of 4, but row 1 (batchnorm \"n\") (batch statistics or "
            "shared tensors) needs the whole batch at once");
    o.budget = 0;
    o.budget = nn_memory(nets[SHARED], &o) - 1;
    REFUSED(build_rows(nets[SHARED], &o), NN_ERR_OPTION,
            "budget: needs micro-batches of 4, but row 1 (dense \"a\") (batch statistics or shared "
            "tensors) needs the whole batch at once");
    /* the largest batch */
    o = training(NN_MSE, INT32_LARGEST);
    o.budget = 1000;
    forget();
    CHECK_EQ_INT(nn_memory(nets[MLP], &o), NN_ERR_MEMORY);
    CHECK_EQ_INT(sscanf(why, "budget: 1000 bytes, but one sample at a time needs %lld", &least), 1);
    CHECK(least > (long long)INT32_LARGEST * 4);
}

/* Blocks that are misaligned or too small, and models larger than any block. */
TEST(memory) {
    static const int shifts[] = { 27, 30 };
    nn_opts o = training(NN_MSE, 8);
    long long need = nn_memory(nets[MLP], &o), small, large;
    char sentence[160];
    size_t sizes[4];
    nn_model m;
    int i;

    if (!CHECK(need > 0 && need <= (long long)sizeof block)) return;
    o.memory_size = sizeof block - 16;
    o.memory = ODD(block);
    REFUSED(build_rows(nets[MLP], &o), NN_ERR_ALIGN, "memory is not aligned to 16 bytes");
    o.memory = block + 8;
    REFUSED(build_rows(nets[MLP], &o), NN_ERR_ALIGN, "memory is not aligned to 16 bytes");
    o.memory = NULL;
    o.weights = ODD(weights);
    o.weights_size = 4 * MLP_FLOATS;
    REFUSED(build_rows(nets[MLP], &o), NN_ERR_ALIGN, "weights is not aligned to 4 bytes");
    o.weights = NULL;
    o.weights_size = 0;
    sizes[0] = (size_t)need - 1, sizes[1] = (size_t)need - 10, sizes[2] = 1, sizes[3] = 0;
    o.memory = block;
    for (i = 0; i < 4; i++) {
        o.memory_size = sizes[i];
        snprintf(sentence, sizeof sentence, "the block has %lu bytes, the model needs %lld",
                 (unsigned long)sizes[i], need);
        memset(block, 0xa5, sizeof block);
        REFUSED(build_rows(nets[MLP], &o), NN_ERR_MEMORY, sentence);
        CHECK_EQ_INT(block[0], 0xa5);
    }
    o.memory_size = (size_t)need;
    CHECK_EQ_INT(nn_build(&m, nets[MLP], &o), 0);
    nn_free(&m);

    /* memory grows with the batch: what many samples need follows from 2^20 and 2^21 */
    o = training(NN_MSE, 1 << 20);
    small = nn_memory(nets[MLP], &o);
    o.batch = 1 << 21;
    large = nn_memory(nets[MLP], &o);
    for (i = 0; i < COUNT(shifts); i++) {
        o.batch = 1 << shifts[i];
        snprintf(sentence, sizeof sentence, "the model needs %lld bytes, more than 4 GiB",
                 small + ((1LL << (shifts[i] - 20)) - 1) * (large - small));
        REFUSED(nn_memory(nets[MLP], &o), NN_ERR_MEMORY, sentence);
        REFUSED(build_rows(nets[MLP], &o), NN_ERR_MEMORY, sentence);
    }
}

/* Weights of 4 GiB, whose size is zero in 32 bits. */
TEST(weights_past_4_gib) {
#define WIDE \
    { .op = NN_DENSE, .units = 16384, .no_bias = 1 }
    static const nn_layer rows[] = { { VECTOR(16384) }, WIDE, WIDE, WIDE, WIDE, { 0 } };
    nn_opts o = plain();

    o.weights = weights;
    o.in_place = 1;
    REFUSED(build_rows(rows, &o), NN_ERR_OPTION, "weights_size: 0 bytes, the rows need 4294967296");
}

/* ---- calls ----------------------------------------------------------------------------------- */

static float x[64], y[64], dx[64];
static int32_t labels[16];
static float targets[16];

/* Small numbers; no two are equal. */
static void fill_data(void) {
    size_t i;

    for (i = 0; i < sizeof x / sizeof x[0]; i++) x[i] = gen_float(11, 1, i, 1.0f, 0.0f);
    for (i = 0; i < sizeof labels / sizeof labels[0]; i++) labels[i] = gen_int(11, 2, i, 3);
    for (i = 0; i < sizeof targets / sizeof targets[0]; i++)
        targets[i] = gen_float(11, 3, i, 0.5f, 0.5f);
}

static int accept_all(void *user, const void *bytes, size_t size) {
    (void)user, (void)bytes, (void)size;
    return 0;
}

static nn_fit_opts fit_on(const void *px, const void *py, int32_t n) {
    nn_fit_opts f;

    memset(&f, 0, sizeof f);
    f.x = px;
    f.y = py;
    f.n = n;
    f.quiet = 1;
    return f;
}

/* Every function that takes a model, on one that holds nothing. */
static void check_no_model(nn_model *m) {
    nn_fit_opts f = fit_on(x, targets, 2);
    uint32_t count = 99;

    REFUSED_MUTELY(nn_infer(m, x, y, 1), NN_ERR_CALL);
    REFUSED_MUTELY(nn_infer_to(m, "a", x, y, 1), NN_ERR_CALL);
    REFUSED_MUTELY(nn_infer_from(m, "a", x, y, 1), NN_ERR_CALL);
    REFUSED_MUTELY(nn_eval(m, x, targets, 1), NN_ERR_CALL);
    REFUSED_MUTELY(nn_train(m, x, targets, 1), NN_ERR_CALL);
    REFUSED_MUTELY(nn_train_from(m, "a", x, targets, 1), NN_ERR_CALL);
    REFUSED_MUTELY(nn_forward(m, x, targets, y, 1), NN_ERR_CALL);
    REFUSED_MUTELY(nn_backward(m, x, dx), NN_ERR_CALL);
    REFUSED_MUTELY(nn_update(m), NN_ERR_CALL);
    REFUSED_MUTELY(nn_zero_grad(m), NN_ERR_CALL);
    CHECK(nn_flat_grad(m, &count) == NULL && count == 0);
    CHECK(nn_flat_grad(m, NULL) == NULL);
    REFUSED_MUTELY(nn_begin_infer(m, x, y, 1), NN_ERR_CALL);
    REFUSED_MUTELY(nn_begin_train(m, x, targets, 1), NN_ERR_CALL);
    REFUSED_MUTELY(nn_run_some(m, 1), NN_ERR_CALL);
    REFUSED_MUTELY(nn_fit(m, &f), NN_ERR_CALL);
    REFUSED_MUTELY(nn_fit(m, NULL), NN_ERR_CALL);
    REFUSED_MUTELY(nn_get(m, "a.weight", y, 6), NN_ERR_CALL);
    REFUSED_MUTELY(nn_set(m, "a.weight", x, 6), NN_ERR_CALL);
    REFUSED_MUTELY(nn_get_grad(m, "a.weight", y, 6), NN_ERR_CALL);
    CHECK_EQ_INT(nn_snapshot_size(m), 0);
    REFUSED_MUTELY(nn_snapshot(m, y, sizeof y), NN_ERR_CALL);
    REFUSED_MUTELY(nn_rollback(m, x, sizeof x), NN_ERR_CALL);
    REFUSED_MUTELY(nn_save(m, 0, accept_all, NULL), NN_ERR_CALL);
    REFUSED_MUTELY(nn_save(m, 0, NULL, NULL), NN_ERR_CALL);
    REFUSED_MUTELY(nn_save_file(m, TMP_PATH, 0), NN_ERR_CALL);
    REFUSED_MUTELY(nn_load_params(m, x, sizeof x, 0, NULL, NULL), NN_ERR_CALL);
    REFUSED_MUTELY(nn_print(m, accept_all, NULL), NN_ERR_CALL);
    nn_free(m);
}

TEST(no_model) {
    nn_opts o = training(NN_MSE, 4);
    nn_model m, zero;

    memset(&zero, 0, sizeof zero);
    m = zero;
    fill_data();
    test_note("NULL");
    check_no_model(NULL);
    test_note("zeroed");
    check_no_model(&m);
    CHECK_SAME_BYTES(&m, &zero, sizeof m);
    test_note("freed");
    CHECK_EQ_INT(nn_build(&m, nets[MLP], &o), 0);
    nn_free(&m);
    check_no_model(&m);
    CHECK_SAME_BYTES(&m, &zero, sizeof m);
    test_note("refused");
    o.batch = -1;
    CHECK_EQ_INT(nn_build(&m, nets[MLP], &o), NN_ERR_OPTION);
    check_no_model(&m);
    CHECK(fopen(TMP_PATH, "rb") == NULL);
}

/* NULL where something has to be built from. */
TEST(nothing_to_build) {
    nn_opts o = plain();
    nn_model m;

    REFUSED(nn_memory(NULL, &o), NN_ERR_ROW, "rows is NULL");
    REFUSED(build_rows(NULL, &o), NN_ERR_ROW, "rows is NULL");
    REFUSED(nn_build(NULL, nets[MLP], &o), NN_ERR_CALL, "m is NULL");
    REFUSED(nn_memory_text(NULL, &o), NN_ERR_ROW, "text is NULL");
    REFUSED(build_text(NULL, &o), NN_ERR_ROW, "text is NULL");
    REFUSED(nn_build_text(NULL, IN "dense d x units=2", &o), NN_ERR_CALL, "m is NULL");
    REFUSED(nn_memory_file(NULL, 100, &o), NN_ERR_CALL, "the file image is NULL");
    REFUSED(nn_load(NULL, x, 100, &o), NN_ERR_CALL, "m is NULL");
    REFUSED(nn_load_file(NULL, TMP_PATH, &o), NN_ERR_CALL, "m or path is NULL");
    REFUSED(nn_load_file(&m, NULL, &o), NN_ERR_CALL, "m or path is NULL");
    fill(&m);
    REFUSED(nn_load(&m, NULL, 100, &o), NN_ERR_CALL, "the file image is NULL");
    check_nothing(&m, 0);
    fill(&m);
    REFUSED(nn_clone(&m, NULL, &o), NN_ERR_CALL, "src is NULL or not built");
    check_nothing(&m, 0);
    REFUSED_MUTELY(nn_build(NULL, NULL, NULL), NN_ERR_CALL);
    REFUSED_MUTELY(nn_rows_text(NULL, NULL, 0), NN_ERR_ROW);
    CHECK_EQ_INT(nn_rows_hash(NULL), 0);
    nn_free(NULL);
}

/* Rows as text into buffers of every size: cut, ended, and nothing behind. */
TEST(rows_text_is_bounded) {
    static const char text[] = "1;input x - shape=2;dense head x units=3 act=softmax";
    char out[sizeof text + GUARD];
    size_t size, i;

    CHECK_EQ_INT(nn_rows_text(nets[CLASSES], NULL, 0), (int)sizeof text - 1);
    for (size = 0; size <= sizeof text; size++) {
        memset(out, SILENT, sizeof out);
        CHECK_EQ_INT(nn_rows_text(nets[CLASSES], out, size), (int)sizeof text - 1);
        if (size) CHECK(out[size - 1] == '\0' && memcmp(out, text, size - 1) == 0);
        for (i = size; i < sizeof out && out[i] == SILENT; i++) {}
        CHECK_EQ_INT(i, sizeof out);
    }
}

/* A net with a bit of everything, whose trunk is frozen when train is "head". */
#define TRUNK                                                           \
    "input x - shape=4,4,1;conv2d c x units=2 kernel=3 pad=1,1,1,1;"    \
    "maxpool2d p c kernel=2;dense d p units=2;activation r d act=relu;" \
    "dense e r units=2;add s e,r;flatten f s;"

TEST(calls_of_inference) {
    nn_opts o = plain();
    nn_model m;

    fill_data();
    if (!CHECK_EQ_INT(nn_build_text(&m, TRUNK "dense head f units=3", &o), 0)) return;
    REFUSED(nn_infer_to(&m, "zz", x, y, 1), NN_ERR_NAME, "no row is called zz");
    REFUSED(nn_infer_to(&m, NULL, x, y, 1), NN_ERR_NAME, "no row is called NULL");
    REFUSED(nn_infer_from(&m, "zz", x, y, 1), NN_ERR_NAME, "no row is called zz");
    REFUSED(nn_infer_from(&m, NULL, x, y, 1), NN_ERR_NAME, "no row is called NULL");
    REFUSED(nn_infer_to(&m, "c", x, y, 1), NN_ERR_CALL, "row 1 (conv2d \"c\"): " NO_OUTPUT "use p");
    REFUSED(nn_infer_from(&m, "c", x, y, 1), NN_ERR_CALL,
            "row 1 (conv2d \"c\"): " NO_OUTPUT "use p");
    REFUSED(nn_infer_to(&m, "d", x, y, 1), NN_ERR_CALL, "row 3 (dense \"d\"): " NO_OUTPUT "use r");
    REFUSED(nn_infer_to(&m, "e", x, y, 1), NN_ERR_CALL,
            "row 5 (dense \"e\") is not a cut: row 6 (add \"s\") reads r above it");
    REFUSED(nn_infer_from(&m, "e", x, y, 1), NN_ERR_CALL,
            "row 5 (dense \"e\") is not a cut: row 6 (add \"s\") reads r above it");
    REFUSED(nn_run_some(&m, 100), NN_ERR_CALL, "nothing has begun");
    CHECK_EQ_INT(nn_begin_infer(&m, x, y, 4), 0);
    CHECK_EQ_INT(nn_infer(&m, x, dx, 1), 0);
    REFUSED(nn_run_some(&m, 100), NN_ERR_CALL, "nothing has begun");
    REFUSED(nn_infer(&m, NULL, y, 1), NN_ERR_CALL, "x or y is NULL");
    REFUSED(nn_infer(&m, x, NULL, 1), NN_ERR_CALL, "x or y is NULL");
    REFUSED(nn_infer(&m, x, y, -1), NN_ERR_CALL, "n is -1, must be 0 or more");
    REFUSED(nn_infer_to(&m, "f", NULL, y, 1), NN_ERR_CALL, "x or out is NULL");
    REFUSED(nn_infer_from(&m, "f", NULL, y, 1), NN_ERR_CALL, "features or y is NULL");
    REFUSED(nn_infer_from(&m, "f", x, y, -1), NN_ERR_CALL, "n is -1, must be 0 or more");
    REFUSED(nn_begin_infer(&m, NULL, y, 1), NN_ERR_CALL, "x or y is NULL");
    REFUSED(nn_run_some(&m, -1), NN_ERR_CALL, "k is -1, must be 0 or more");
    CHECK_EQ_INT(nn_infer(&m, NULL, NULL, 0), 0);

    REFUSED(nn_eval(&m, x, targets, 1), NN_ERR_CALL, "eval needs a loss in the options");
    REFUSED(nn_train(&m, x, targets, 1), NN_ERR_CALL, "the model was built without opts.train");
    REFUSED(nn_train_from(&m, "f", x, targets, 1), NN_ERR_CALL,
            "the model was built without opts.train");
    REFUSED(nn_begin_train(&m, x, targets, 1), NN_ERR_CALL,
            "the model was built without opts.train");
    REFUSED(nn_forward(&m, x, targets, y, 1), NN_ERR_CALL,
            "the model was built without opts.train or input_grad");
    REFUSED(nn_backward(&m, x, dx), NN_ERR_CALL,
            "the model was built without opts.train or input_grad, or with fuse_update");
    REFUSED(nn_update(&m), NN_ERR_CALL,
            "the model was built without opts.train, or with fuse_update");
    CHECK(nn_flat_grad(&m, NULL) == NULL);
    CHECK_EQ_INT(nn_snapshot_size(&m), 0);
    nn_free(&m);

    /* the same cuts stay refused when the rows are conv, activation, pool */
    o = plain();
    if (!CHECK_EQ_INT(nn_build_text(&m,
                                    "input x - shape=4,4,1;conv2d c x units=2 kernel=3;"
                                    "activation r c act=relu;maxpool2d p r kernel=2",
                                    &o),
                      0))
        return;
    REFUSED(nn_infer_to(&m, "c", x, y, 1), NN_ERR_CALL, "row 1 (conv2d \"c\"): " NO_OUTPUT "use p");
    REFUSED(nn_infer_to(&m, "r", x, y, 1), NN_ERR_CALL,
            "row 2 (activation \"r\"): " NO_OUTPUT "use p");
    REFUSED(nn_infer_from(&m, "r", x, y, 1), NN_ERR_CALL,
            "row 2 (activation \"r\"): " NO_OUTPUT "use p");
    nn_free(&m);
}

TEST(calls_of_training) {
    nn_opts o = training(NN_CROSS_ENTROPY, 4);
    nn_model m;

    fill_data();
    o.train = "e head";
    if (!CHECK_EQ_INT(nn_build_text(&m, TRUNK "dense head f units=3", &o), 0)) return;
    REFUSED(nn_train(&m, NULL, labels, 1), NN_ERR_CALL, "x or target is NULL");
    REFUSED(nn_train(&m, x, NULL, 1), NN_ERR_CALL, "x or target is NULL");
    REFUSED(nn_train(&m, x, labels, 0), NN_ERR_CALL, "n is 0, the model takes 1 to 4 samples");
    REFUSED(nn_train(&m, x, labels, 5), NN_ERR_CALL, "n is 5, the model takes 1 to 4 samples");
    REFUSED(nn_train(&m, x, labels, -1), NN_ERR_CALL, "n is -1, the model takes 1 to 4 samples");
    REFUSED(nn_begin_train(&m, x, labels, 5), NN_ERR_CALL,
            "n is 5, the model takes 1 to 4 samples");
    REFUSED(nn_train_from(&m, "r", NULL, labels, 1), NN_ERR_CALL, "x or target is NULL");
    REFUSED(nn_train_from(&m, "r", x, labels, 5), NN_ERR_CALL,
            "n is 5, the model takes 1 to 4 samples");
    REFUSED(nn_train_from(&m, "zz", x, labels, 1), NN_ERR_NAME, "no row is called zz");
    REFUSED(nn_train_from(&m, NULL, x, labels, 1), NN_ERR_NAME, "no row is called NULL");
    REFUSED(nn_train_from(&m, "c", x, labels, 1), NN_ERR_CALL,
            "row 1 (conv2d \"c\"): " NO_OUTPUT "use p");
    REFUSED(nn_train_from(&m, "f", x, labels, 1), NN_ERR_CALL,
            "row 7 (flatten \"f\") trains, or reads a row that does: its output is not constant");
    REFUSED(nn_train_from(&m, "head", x, labels, 1), NN_ERR_CALL,
            "row 8 (dense \"head\") trains, or reads a row that does: its output is not constant");
    REFUSED(nn_train_from(&m, "e", x, labels, 1), NN_ERR_CALL,
            "row 5 (dense \"e\") is not a cut: row 6 (add \"s\") reads r above it");
    REFUSED(nn_run_some(&m, 1), NN_ERR_CALL, "nothing has begun");

    REFUSED(nn_forward(&m, NULL, labels, y, 1), NN_ERR_CALL, "x is NULL");
    REFUSED(nn_forward(&m, x, labels, y, 0), NN_ERR_CALL, "n is 0, the model takes 1 to 4 samples");
    REFUSED(nn_forward(&m, x, labels, y, 5), NN_ERR_CALL, "n is 5, the model takes 1 to 4 samples");
    REFUSED(nn_backward(&m, NULL, NULL), NN_ERR_CALL,
            "nn_backward needs an nn_forward before it, with a target when dy is NULL");
    REFUSED(nn_update(&m), NN_ERR_CALL, "nn_update needs an nn_backward before it");
    CHECK_EQ_INT(nn_forward(&m, x, NULL, y, 4), 0);
    REFUSED(nn_backward(&m, NULL, NULL), NN_ERR_CALL,
            "nn_backward needs an nn_forward before it, with a target when dy is NULL");
    REFUSED(nn_backward(&m, y, dx), NN_ERR_CALL, "dx needs opts.input_grad");
    CHECK_EQ_INT(nn_backward(&m, y, NULL), 0);
    REFUSED(nn_backward(&m, y, NULL), NN_ERR_CALL,
            "nn_backward needs an nn_forward before it, with a target when dy is NULL");
    /* what nn_forward kept is gone once anything else has run */
    CHECK_EQ_INT(nn_forward(&m, x, labels, NULL, 4), 0);
    CHECK_EQ_INT(nn_infer(&m, x, y, 1), 0);
    REFUSED(nn_backward(&m, NULL, NULL), NN_ERR_CALL,
            "nn_backward needs an nn_forward before it, with a target when dy is NULL");
    CHECK_EQ_INT(nn_forward(&m, x, labels, NULL, 4), 0);
    CHECK_EQ_INT(nn_eval(&m, x, labels, 4), 0);
    REFUSED(nn_backward(&m, NULL, NULL), NN_ERR_CALL,
            "nn_backward needs an nn_forward before it, with a target when dy is NULL");
    CHECK_EQ_INT(nn_forward(&m, x, labels, NULL, 4), 0);
    CHECK_EQ_INT(nn_train(&m, x, labels, 4), 0);
    REFUSED(nn_backward(&m, NULL, NULL), NN_ERR_CALL,
            "nn_backward needs an nn_forward before it, with a target when dy is NULL");
    REFUSED(nn_eval(&m, NULL, labels, 1), NN_ERR_CALL, "x or target is NULL");
    REFUSED(nn_eval(&m, x, NULL, 1), NN_ERR_CALL, "x or target is NULL");
    REFUSED(nn_eval(&m, x, labels, 0), NN_ERR_CALL, "n is 0, must be 1 or more");
    m.opts.lr = NAN;
    REFUSED(nn_train(&m, x, labels, 1), NN_ERR_CALL, "opts.lr is negative or not finite");
    nn_free(&m);

    /* with input_grad and without a loss; with fuse_update */
    o.input_grad = 1;
    if (!CHECK_EQ_INT(nn_build_text(&m, TRUNK "dense head f units=3", &o), 0)) return;
    REFUSED(nn_train_from(&m, "r", x, labels, 1), NN_ERR_CALL,
            "input_grad: there is no way back from features to the input");
    nn_free(&m);
    o = plain();
    o.input_grad = 1;
    if (!CHECK_EQ_INT(nn_build(&m, nets[MLP], &o), 0)) return;
    REFUSED(nn_forward(&m, x, targets, y, 1), NN_ERR_CALL, "a target needs a loss in the options");
    REFUSED(nn_update(&m), NN_ERR_CALL,
            "the model was built without opts.train, or with fuse_update");
    REFUSED(nn_train(&m, x, targets, 1), NN_ERR_CALL, "the model was built without opts.train");
    nn_free(&m);
    o = training(NN_MSE, 4);
    o.fuse_update = 1;
    if (!CHECK_EQ_INT(nn_build(&m, nets[MLP], &o), 0)) return;
    CHECK_EQ_INT(nn_forward(&m, x, targets, y, 1), 0);
    REFUSED(nn_backward(&m, NULL, NULL), NN_ERR_CALL,
            "the model was built without opts.train or input_grad, or with fuse_update");
    REFUSED(nn_update(&m), NN_ERR_CALL,
            "the model was built without opts.train, or with fuse_update");
    REFUSED(nn_get_grad(&m, "a.weight", y, 6), NN_ERR_CALL,
            "a.weight has no gradient (frozen, or fuse_update)");
    nn_free(&m);
}

TEST(calls_with_names) {
    char sentence[80];
    nn_opts o = training(NN_MSE, 1);
    nn_model m, clone;
    size_t size;

    o.train = "head";
    o.momentum = 0.9f;
    if (!CHECK_EQ_INT(nn_build(&m, nets[MLP], &o), 0)) return;
    REFUSED(nn_get(&m, NULL, y, 6), NN_ERR_CALL, "name or buffer is NULL");
    REFUSED(nn_get(&m, "a.weight", NULL, 6), NN_ERR_CALL, "name or buffer is NULL");
    REFUSED(nn_set(&m, NULL, x, 6), NN_ERR_CALL, "name or buffer is NULL");
    REFUSED(nn_set(&m, "a.weight", NULL, 6), NN_ERR_CALL, "name or buffer is NULL");
    REFUSED(nn_get_grad(&m, "a.weight", NULL, 6), NN_ERR_CALL, "name or buffer is NULL");
    REFUSED(nn_get(&m, "a", y, 6), NN_ERR_NAME, "no tensor is called a");
    REFUSED(nn_get(&m, "", y, 6), NN_ERR_NAME, "no tensor is called ");
    REFUSED(nn_get(&m, "a.weigh", y, 6), NN_ERR_NAME, "no tensor is called a.weigh");
    REFUSED(nn_get(&m, "a.weights", y, 6), NN_ERR_NAME, "no tensor is called a.weights");
    REFUSED(nn_set(&m, "b.weight", x, 6), NN_ERR_NAME, "no tensor is called b.weight");
    REFUSED(nn_get_grad(&m, "b.weight", y, 6), NN_ERR_NAME, "no tensor is called b.weight");
    REFUSED(nn_get(&m, "a.weight", y, 5), NN_ERR_CALL, "a.weight has 6 elements, not 5");
    REFUSED(nn_get(&m, "a.weight", y, 0), NN_ERR_CALL, "a.weight has 6 elements, not 0");
    REFUSED(nn_set(&m, "head.bias", x, 2), NN_ERR_CALL, "head.bias has 1 elements, not 2");
    REFUSED(nn_get_grad(&m, "head.bias", y, 2), NN_ERR_CALL, "head.bias has 1 elements, not 2");
    REFUSED(nn_get_grad(&m, "a.weight", y, 6), NN_ERR_CALL,
            "a.weight has no gradient (frozen, or fuse_update)");
    CHECK_EQ_INT(nn_get(&m, "opt.mom/head.bias", y, 1), 0);
    REFUSED(nn_get(&m, "opt.mom/head.bias", y, 3), NN_ERR_CALL,
            "opt.mom/head.bias has 1 elements, not 3");
    REFUSED(nn_get(&m, "opt.mom/a.bias", y, 3), NN_ERR_NAME, /* frozen */
            "no tensor is called opt.mom/a.bias");
    REFUSED(nn_get(&m, "opt.m/head.bias", y, 1), NN_ERR_NAME, /* Adam's */
            "no tensor is called opt.m/head.bias");
    REFUSED(nn_set(&m, "opt.mom/", x, 1), NN_ERR_NAME, "no tensor is called opt.mom/");

    size = nn_snapshot_size(&m);
    CHECK(size >= 4 * sizeof(float) && size <= sizeof y);
    REFUSED(nn_snapshot(&m, NULL, size), NN_ERR_CALL, "the buffer is NULL");
    REFUSED(nn_rollback(&m, NULL, size), NN_ERR_CALL, "the buffer is NULL");
    snprintf(sentence, sizeof sentence, "the buffer has 3 bytes, a snapshot %d", (int)size);
    REFUSED(nn_snapshot(&m, y, 3), NN_ERR_CALL, sentence);
    REFUSED(nn_rollback(&m, y, 3), NN_ERR_CALL, sentence);
    REFUSED(nn_save_file(&m, NULL, 0), NN_ERR_CALL,
            "path is NULL, empty, or longer than 1024 bytes");
    REFUSED(nn_save_file(&m, "", 0), NN_ERR_CALL, "path is NULL, empty, or longer than 1024 bytes");

    /* what is shared with another model, or lies in flash, cannot be written */
    o.train = NULL;
    CHECK_EQ_INT(nn_clone(&clone, &m, &o), 0);
    REFUSED(nn_set(&clone, "a.weight", x, 6), NN_ERR_CALL,
            "a.weight is read-only here (in_place, or a clone's)");
    REFUSED(nn_load_params(&clone, x, sizeof x, 0, NULL, NULL), NN_ERR_CALL,
            "the model has read-only tensors (in_place, or a clone's)");
    nn_free(&clone);
    o.weights = weights;
    o.weights_size = 4 * MLP_FLOATS;
    fill(&clone);
    REFUSED(nn_clone(&clone, &m, &o), NN_ERR_OPTION, "weights: a clone has those of its model");
    check_nothing(&clone, 1);
    nn_free(&m);
    o.in_place = 1;
    CHECK_EQ_INT(nn_build(&m, nets[MLP], &o), 0);
    REFUSED(nn_set(&m, "a.weight", x, 6), NN_ERR_CALL,
            "a.weight is read-only here (in_place, or a clone's)");
    nn_free(&m);
}

/* A clone that fails leaves its source alone. */
TEST(clones) {
    nn_opts o = plain(), bad = plain();
    nn_model m, first, second;
    float before[3], after[3];

    fill_data();
    if (!CHECK_EQ_INT(nn_build(&m, nets[CLASSES], &o), 0)) return;
    CHECK_EQ_INT(nn_infer(&m, x, before, 1), 0);
    bad.batch = -2;
    fill(&second);
    REFUSED(nn_clone(&second, &m, &bad), NN_ERR_OPTION, "batch: -2 is negative");
    check_nothing(&second, 1);
    REFUSED(nn_clone(NULL, &m, &o), NN_ERR_CALL, "m is NULL, or src itself");
    REFUSED(nn_clone(&m, &m, &o), NN_ERR_CALL, "m is NULL, or src itself");
    memset(&first, 0, sizeof first);
    fill(&second);
    REFUSED(nn_clone(&second, &first, &o), NN_ERR_CALL, "src is NULL or not built");
    check_nothing(&second, 1);
    CHECK_EQ_INT(nn_infer(&m, x, after, 1), 0);
    CHECK_SAME_BYTES(after, before, sizeof before);

    /* a clone with weights of its own, whose clone would have two parents */
    bad = training(NN_CROSS_ENTROPY, 1);
    CHECK_EQ_INT(nn_clone(&first, &m, &bad), 0);
    fill(&second);
    REFUSED(nn_clone(&second, &first, &o), NN_ERR_CALL, "clone the model this clone was made from");
    check_nothing(&second, 2);
    nn_free(&first);
    nn_free(&m);
    CHECK_EQ_INT(heap.live, 0);
}

/* ---- labels and targets ---------------------------------------------------------------------- */

#define THREE "input x - shape=2;dense head x units=3 act=softmax"
#define POSITIONS "input x - shape=4,2;dense head x units=3"
#define LOGISTIC "input x - shape=2;dense head x units=2 act=sigmoid"

static const struct {
    const char *text;
    int32_t loss;
    int at; /* the label or target that is wrong */
    int32_t label;
    float target;
    const char *sentence;
} label_table[] = {
    { THREE, NN_CROSS_ENTROPY, 0, 3, 0, "label 3 of sample 0 is not from 0 to 2" },
    { THREE, NN_CROSS_ENTROPY, 3, -1, 0, "label -1 of sample 3 is not from 0 to 2" },
    { THREE, NN_CROSS_ENTROPY, 2, INT32_LARGEST, 0,
      "label 2147483647 of sample 2 is not from 0 to 2" },
    { THREE, NN_CROSS_ENTROPY, 1, -INT32_LARGEST - 1, 0,
      "label -2147483648 of sample 1 is not from 0 to 2" },
    { POSITIONS, NN_CROSS_ENTROPY, 3, 3, 0, "label 3 of sample 0 is not from 0 to 2" },
    { POSITIONS, NN_CROSS_ENTROPY, 15, 9, 0, "label 9 of sample 3 is not from 0 to 2" },
    { LOGISTIC, NN_BCE, 0, 0, 1.5f, "target 0 of sample 0 is not from 0 to 1" },
    { LOGISTIC, NN_BCE, 7, 0, -1e-30f, "target 1 of sample 3 is not from 0 to 1" },
    { LOGISTIC, NN_BCE, 4, 0, NAN, "target 0 of sample 2 is not from 0 to 1" },
    { LOGISTIC, NN_BCE, 3, 0, INFINITY, "target 1 of sample 1 is not from 0 to 1" },
    { LOGISTIC, NN_BCE, 3, 0, -INFINITY, "target 1 of sample 1 is not from 0 to 1" },
};

enum { STATE = 16384 };

/* Everything that training changes and nn_save writes: parameters, running statistics, moments and
   counters. Returns its bytes. */
static size_t state_of(const nn_model *m, unsigned char *bytes) {
    nn_memory_writer w;

    w.bytes = bytes;
    w.capacity = STATE;
    w.size = 0;
    return nn_save(m, 1, nn_write_memory, &w) > 0 ? w.size : 0;
}

static void check_same_state(const nn_model *m, const unsigned char *before, size_t size) {
    static unsigned char now[STATE];

    CHECK(size > 0 && state_of(m, now) == size);
    CHECK_SAME_BYTES(now, before, size);
}

TEST(labels_and_targets) {
    static unsigned char before[STATE];
    int i;

    for (i = 0; i < COUNT(label_table); i++) {
        nn_opts o = training(label_table[i].loss, 4);
        nn_fit_opts f;
        nn_model m;
        size_t size;
        const void *t = label_table[i].loss == NN_BCE ? (const void *)targets : labels;
        const char *why_not = label_table[i].sentence;

        test_note("entry %d", i);
        fill_data();
        if (label_table[i].loss == NN_BCE) targets[label_table[i].at] = label_table[i].target;
        else labels[label_table[i].at] = label_table[i].label;
        o.optimizer = NN_ADAM;
        if (!CHECK_EQ_INT(nn_build_text(&m, label_table[i].text, &o), 0)) continue;
        size = state_of(&m, before);
        REFUSED(nn_train(&m, x, t, 4), NN_ERR_LABEL, why_not);
        REFUSED(nn_begin_train(&m, x, t, 4), NN_ERR_LABEL, why_not);
        REFUSED(nn_train_from(&m, "x", x, t, 4), NN_ERR_LABEL, why_not);
        REFUSED(nn_forward(&m, x, t, NULL, 4), NN_ERR_LABEL, why_not);
        REFUSED(nn_eval(&m, x, t, 4), NN_ERR_LABEL, why_not);
        f = fit_on(x, t, 4); /* before the first step, whatever the order */
        REFUSED(nn_fit(&m, &f), NN_ERR_LABEL, why_not);
        f.n = 1;
        f.x = x, f.y = label_table[i].loss == NN_BCE ? (const void *)(targets + 8) : labels + 8;
        f.x_val = x, f.y_val = t;
        f.n_val = 4;
        if (label_table[i].at < 8) REFUSED(nn_fit(&m, &f), NN_ERR_LABEL, why_not);
        check_same_state(&m, before, size);
        nn_free(&m);
    }
}

/* ---- losses that are not finite -------------------------------------------------------------- */

static const struct {
    const char *text;
    int32_t loss;
    int mixes; /* samples meet in a batch norm: every loss is bad, the first is named */
    int x_size;
} nan_nets[] = {
    { "input x - shape=3;dense h x units=17 act=relu;dense y h units=2", NN_MSE, 0, 3 },
    { "input x - shape=3;dense h x units=5;batchnorm n h act=leaky_relu;dense y n units=2 "
      "act=sigmoid",
      NN_BCE, 1, 3 },
    { "input x - shape=4,4,1;conv2d c x units=3 kernel=3;batchnorm n c act=relu;maxpool2d p n "
      "kernel=2;flatten f p;dense y f units=3 act=softmax",
      NN_CROSS_ENTROPY, 1, 16 },
    { "input x - shape=4,4,1;conv2d c x units=17 kernel=2 act=relu;maxpool2d p c kernel=2;"
      "avgpool2d a p kernel=1;globalavgpool g a;dropout d g rate=0.25;dense y d units=3",
      NN_CROSS_ENTROPY, 0, 16 },
};

static const struct {
    int32_t kind;
    float momentum, weight_decay;
    int32_t eps_mode;
} nan_optimizers[] = {
    { NN_SGD, 0, 0, 0 },
    { NN_SGD, 0.9f, 0.01f, 0 },
    { NN_ADAM, 0, 0, NN_EPS_PYTORCH },
    { NN_ADAM, 0, 0.01f, NN_EPS_KERAS },
};

enum { BAD_SAMPLE = 2, SAMPLES = 4 };

static int in_pieces(nn_model *m, const void *target) {
    int left = nn_begin_train(m, x, target, SAMPLES);

    if (!left) left = 1;
    while (left > 0) left = nn_run_some(m, 1);
    return left;
}

/* Two good steps, a bad one in several ways, a good one: as if the bad ones had not been. */
static void check_survives(int net, int optimizer, int fuse, int micro) {
    static unsigned char before[STATE], after[STATE];
    static const float poison[] = { NAN, INFINITY, 3e38f };
    const void *t = nan_nets[net].loss == NN_CROSS_ENTROPY ? (const void *)labels : targets;
    nn_opts o = training(nan_nets[net].loss, SAMPLES);
    nn_model m, twin;
    size_t size;
    int i, bad = BAD_SAMPLE * nan_nets[net].x_size;
    char sentence[80];
    char in_x[80];

    fill_data();
    o.optimizer = nan_optimizers[optimizer].kind;
    o.momentum = nan_optimizers[optimizer].momentum;
    o.weight_decay = nan_optimizers[optimizer].weight_decay;
    o.eps_mode = nan_optimizers[optimizer].eps_mode;
    o.fuse_update = fuse;
    if (micro) o.budget = nn_memory_text(nan_nets[net].text, &o) - 1;
    if (!CHECK_EQ_INT(nn_build_text(&m, nan_nets[net].text, &o), 0)) return;
    if (!CHECK_EQ_INT(nn_build_text(&twin, nan_nets[net].text, &o), 0)) return;
    CHECK(!micro || m.micro < SAMPLES);
    for (i = 0; i < 2; i++) {
        CHECK_EQ_INT(nn_train(&m, x, t, SAMPLES), 0);
        CHECK_EQ_INT(nn_train(&twin, x, t, SAMPLES), 0);
    }
    size = state_of(&m, before);
    snprintf(sentence, sizeof sentence, "the loss of sample %d is not finite",
             nan_nets[net].mixes ? 0 : BAD_SAMPLE);
    snprintf(in_x, sizeof in_x, "sample %d holds a NaN or an infinity", BAD_SAMPLE);
    for (i = 0; i < COUNT(poison); i++) {
        float good = x[bad];

        test_note("net %d, optimizer %d, fuse %d, x %g", net, optimizer, fuse, (double)poison[i]);
        if (i == 2 && nan_nets[net].loss != NN_MSE) continue; /* large, yet its loss is finite */
        x[bad] = poison[i];
        REFUSED(nn_train(&m, x, t, SAMPLES), NN_ERR_NAN, i == 2 ? sentence : in_x);
        check_same_state(&m, before, size);
        REFUSED(in_pieces(&m, t), NN_ERR_NAN, i == 2 ? sentence : in_x);
        check_same_state(&m, before, size);
        REFUSED(nn_run_some(&m, 1), NN_ERR_CALL, "nothing has begun");
        if (!micro) REFUSED(nn_forward(&m, x, t, NULL, SAMPLES), NN_ERR_NAN, sentence);
        check_same_state(&m, before, size);
        x[bad] = good;
    }
    if (nan_nets[net].loss == NN_MSE) {
        float good = targets[2 * BAD_SAMPLE];

        targets[2 * BAD_SAMPLE] = NAN;
        REFUSED(nn_train(&m, x, t, SAMPLES), NN_ERR_NAN, sentence);
        targets[2 * BAD_SAMPLE] = -INFINITY;
        REFUSED(nn_train(&m, x, t, SAMPLES), NN_ERR_NAN, sentence);
        targets[2 * BAD_SAMPLE] = good;
        check_same_state(&m, before, size);
    }
    test_note("net %d, optimizer %d, fuse %d: the step after", net, optimizer, fuse);
    CHECK_EQ_INT(nn_train(&m, x, t, SAMPLES), 0);
    CHECK_EQ_INT(nn_train(&twin, x, t, SAMPLES), 0);
    CHECK(state_of(&m, before) == size && state_of(&twin, after) == size);
    CHECK_SAME_BYTES(before, after, size);
    CHECK_SAME_BYTES(&m.loss, &twin.loss, sizeof m.loss);

    /* a parameter gone bad: reported, and left as it is */
    y[0] = y[1] = y[2] = NAN;
    CHECK_EQ_INT(nn_set(&m, "y.bias", y, (size_t)m.out_size), 0);
    size = state_of(&m, before);
    REFUSED(nn_train(&m, x, t, SAMPLES), NN_ERR_NAN, "the loss of sample 0 is not finite");
    check_same_state(&m, before, size);
    nn_free(&m);
    nn_free(&twin);
}

TEST(loss_not_finite) {
    int net, optimizer;

    for (net = 0; net < COUNT(nan_nets); net++)
        for (optimizer = 0; optimizer < COUNT(nan_optimizers); optimizer++) {
            check_survives(net, optimizer, 0, 0);
            check_survives(net, optimizer, 1, 0);
            if (!nan_nets[net].mixes) check_survives(net, optimizer, 0, 1);
        }
}

/* Features, evaluation and epochs. */
TEST(loss_not_finite_elsewhere) {
    static unsigned char before[STATE], after[STATE];
    nn_opts o = training(NN_MSE, SAMPLES);
    nn_fit_opts f;
    nn_model m, twin;
    size_t size;

    o.train = "y";
    fill_data();
    if (!CHECK_EQ_INT(nn_build_text(&m, nan_nets[0].text, &o), 0)) return;
    if (!CHECK_EQ_INT(nn_build_text(&twin, nan_nets[0].text, &o), 0)) return;
    size = state_of(&m, before);
    x[17 * 1 + 4] = NAN;
    REFUSED(nn_train_from(&m, "h", x, targets, 3), NN_ERR_NAN,
            "sample 1 holds a NaN or an infinity");
    check_same_state(&m, before, size);
    fill_data();
    x[3 * 3] = NAN;
    REFUSED(nn_eval(&m, x, targets, 4), NN_ERR_NAN, "the loss of sample 3 is not finite");
    check_same_state(&m, before, size);
    /* behind the first turn of inference the number still counts from the caller's first sample */
    x[3 * 3] = 0;
    x[6 * 3] = NAN;
    REFUSED(nn_eval(&m, x, targets, 8), NN_ERR_NAN, "the loss of sample 6 is not finite");

    /* an epoch stops where it happens; the steps before it stand */
    fill_data();
    x[6 * 3] = INFINITY;
    f = fit_on(x, targets, 8);
    f.no_shuffle = 1;
    REFUSED(nn_fit(&m, &f), NN_ERR_NAN, "sample 6 holds a NaN or an infinity");
    check_same_state(&m, before, size);
    x[6 * 3] = 3e38f;
    REFUSED(nn_fit(&m, &f), NN_ERR_NAN, "the loss of sample 6 is not finite");
    CHECK_EQ_INT(nn_train(&twin, x, targets, SAMPLES), 0);
    CHECK(state_of(&twin, after) == size);
    check_same_state(&m, after, size);
    nn_free(&m);
    nn_free(&twin);

    /* an infinity that a saturated activation hides from the loss, but not from the gradient */
    o = training(NN_MSE, 1);
    if (!CHECK_EQ_INT(nn_build(&m, nets[MLP], &o), 0)) return;
    size = state_of(&m, before);
    fill_data();
    x[0] = INFINITY;
    CHECK_EQ_INT(nn_train(&m, x, targets, 1), NN_ERR_NAN);
    check_same_state(&m, before, size);
    nn_free(&m);
}

/* ---- callbacks ------------------------------------------------------------------------------- */

/* The hook's answer is nn_train's, and nothing was updated. */
TEST(hook_stops_the_step) {
    static unsigned char before[STATE];
    nn_opts o = training(NN_MSE, 4);
    nn_fit_opts f = fit_on(x, targets, 4);
    nn_model m;
    size_t size;

    fill_data();
    o.hook = return_seven;
    o.optimizer = NN_ADAM;
    if (!CHECK_EQ_INT(nn_build(&m, nets[NORM], &o), 0)) return;
    size = state_of(&m, before);
    CHECK_EQ_INT(nn_train(&m, x, targets, 4), 7);
    check_same_state(&m, before, size);
    CHECK_EQ_INT(nn_fit(&m, &f), 7);
    check_same_state(&m, before, size);
    nn_free(&m);
}

typedef struct stop_after {
    int calls, at, ends; /* at: number of the call that cancels */
} stop_after;

static int stop_fit(void *user, const nn_progress *p) {
    stop_after *s = (stop_after *)user;

    s->ends += p->epoch_end;
    return ++s->calls == s->at;
}

TEST(fit) {
    nn_opts o = training(NN_CROSS_ENTROPY, 4);
    nn_fit_opts f = fit_on(x, labels, 10);
    nn_model m;
    stop_after s;
    int i;

    fill_data();
    o.train = "head";
    if (!CHECK_EQ_INT(nn_build_text(&m, TRUNK "dense head f units=3", &o), 0)) return;
    REFUSED(nn_fit(&m, NULL), NN_ERR_CALL, "the options of nn_fit are NULL");
    f.x = NULL;
    REFUSED(nn_fit(&m, &f), NN_ERR_CALL, "x or target is NULL");
    f = fit_on(x, NULL, 4);
    REFUSED(nn_fit(&m, &f), NN_ERR_CALL, "x or target is NULL");
    f = fit_on(x, labels, 0);
    REFUSED(nn_fit(&m, &f), NN_ERR_CALL, "n is 0, must be 1 or more");
    f = fit_on(x, labels, -3);
    REFUSED(nn_fit(&m, &f), NN_ERR_CALL, "n is -3, must be 1 or more");
    f = fit_on(x, labels, 4);
    f.n_val = -1;
    REFUSED(nn_fit(&m, &f), NN_ERR_CALL, "n_val is -1, must be 0 or more");
    f.n_val = 0;
    f.x_val = x;
    REFUSED(nn_fit(&m, &f), NN_ERR_CALL, "held-out samples are given, but n_val is 0");
    f = fit_on(x, labels, 4);
    f.epochs = -1;
    REFUSED(nn_fit(&m, &f), NN_ERR_CALL, "epochs is negative");
    f.epochs = 0;
    f.n_val = 2;
    REFUSED(nn_fit(&m, &f), NN_ERR_CALL, "held-out samples are NULL, or given together with from");
    f.x_val = x;
    f.y_val = labels;
    f.from = "f";
    REFUSED(nn_fit(&m, &f), NN_ERR_CALL, "held-out samples are NULL, or given together with from");
    f.n_val = 0;
    f.x_val = f.y_val = NULL;
    f.from = "zz";
    REFUSED(nn_fit(&m, &f), NN_ERR_NAME, "no row is called zz");
    f.from = "head";
    REFUSED(nn_fit(&m, &f), NN_ERR_CALL,
            "row 8 (dense \"head\") trains, or reads a row that does: its output is not constant");
    f.from = NULL;

    /* two epochs of one step each: progress is called after the step and at the end of each */
    f.epochs = 2;
    f.progress = stop_fit;
    f.user = &s;
    for (i = 1; i <= 4; i++) {
        uint64_t step = m.step;

        memset(&s, 0, sizeof s);
        s.at = i;
        REFUSED(nn_fit(&m, &f), NN_ERR_CANCELLED,
                i == 1   ? "cancelled in epoch 1"
                : i == 2 ? "cancelled after epoch 1"
                : i == 3 ? "cancelled in epoch 2"
                         : "cancelled after epoch 2");
        CHECK_EQ_INT(s.calls, i);
        CHECK_EQ_INT(s.ends, i / 2);
        CHECK_EQ_INT(m.step - step, (i + 1) / 2);
    }
    memset(&s, 0, sizeof s);
    CHECK_EQ_INT(nn_fit(&m, &f), 0);
    CHECK_EQ_INT(s.calls, 4);
    nn_free(&m);
}

/* A writer that fails at its call number at, from 1. */
typedef struct failing_writer {
    int calls, at, answer;
    size_t size, room;
    unsigned char bytes[STATE];
} failing_writer;

static int failing_write(void *user, const void *bytes, size_t size) {
    failing_writer *w = (failing_writer *)user;

    if (++w->calls == w->at) return w->answer;
    if (size > sizeof w->bytes - w->size) return -1;
    memcpy(w->bytes + w->size, bytes, size);
    w->size += size;
    return 0;
}

/* Failing at every call: never called again, and what came before is the beginning of the whole. */
TEST(writers_fail) {
    static failing_writer whole, w;
    nn_opts o = training(NN_MSE, 1);
    nn_model m;
    int64_t size;
    int i, calls;
    char sentence[80];

    if (!CHECK_EQ_INT(nn_build(&m, nets[MLP], &o), 0)) return;
    size = nn_save(&m, 1, failing_write, &whole);
    CHECK(size > 0 && size == (int64_t)whole.size && size == nn_save(&m, 1, NULL, NULL));
    for (i = 1; i <= whole.calls; i++) {
        memset(&w, 0, sizeof w);
        w.at = i;
        w.answer = i % 2 ? 1 : -77;
        snprintf(sentence, sizeof sentence, "writing failed at byte %lu of %lu",
                 (unsigned long)(i - 1) * 64, (unsigned long)whole.size);
        REFUSED(nn_save(&m, 1, failing_write, &w), NN_ERR_IO, sentence);
        CHECK_EQ_INT(w.calls, i);
        CHECK(w.size < whole.size);
        CHECK_SAME_BYTES(w.bytes, whole.bytes, w.size);
    }

    memset(&whole, 0, sizeof whole);
    CHECK_EQ_INT(nn_print(&m, failing_write, &whole), 0);
    calls = whole.calls;
    CHECK(calls > 1);
    for (i = 1; i <= calls; i++) {
        memset(&w, 0, sizeof w);
        w.at = i;
        w.answer = 1;
        REFUSED(nn_print(&m, failing_write, &w), NN_ERR_IO, "writing failed");
        CHECK_EQ_INT(w.calls, i);
        CHECK_SAME_BYTES(w.bytes, whole.bytes, w.size);
    }
    nn_free(&m);
}

/* ---- files: a few; test_file.c has the rest -------------------------------------------------- */

static int load(const void *image, const nn_opts *o) {
    const nn_memory_writer *f = (const nn_memory_writer *)image;
    nn_model m;
    int err;

    fill(&m);
    err = nn_load(&m, f->bytes, f->size, o);
    if (!err) nn_free(&m);
    check_nothing(&m, 0);
    CHECK_EQ_INT(nn_memory_file(f->bytes, f->size, o), err);
    return err;
}

TEST(files) {
    static unsigned char bytes[STATE], huge[8] = { 0, 0, 0, 0, 0, 0, 0, 1 };
    nn_opts o = plain();
    nn_memory_writer f;
    nn_model m;
    char sentence[120];

    if (!CHECK_EQ_INT(nn_build(&m, nets[MLP], &o), 0)) return;
    REFUSED(nn_save_file(&m, "no/such/folder/m.nn", 0), NN_ERR_IO,
            "cannot write no/such/folder/m.nn.tmp");
    REFUSED(nn_save_file(&m, ".", 0), NN_ERR_IO, "cannot rename ..tmp to .");
    CHECK(fopen("..tmp", "rb") == NULL);
    f.bytes = bytes;
    f.size = state_of(&m, bytes);
    nn_free(&m);
    fill(&m);
    REFUSED(nn_load_file(&m, "no/such/file.nn", &o), NN_ERR_IO, "cannot read no/such/file.nn");
    check_nothing(&m, 0);

    bytes[f.size - 1] ^= 1;
    REFUSED(load(&f, &o), NN_ERR_FILE_CRC, "the file is damaged: its checksum is wrong");
    check_small_buffers(load, &f, o, NN_ERR_FILE_CRC, "the file is damaged: its checksum is wrong");
    bytes[f.size - 1] ^= 1;
    o.weights = weights;
    REFUSED(load(&f, &o), NN_ERR_OPTION, "weights: a file brings its own");
    o = plain();
    o.batch = -4;
    REFUSED(load(&f, &o), NN_ERR_OPTION, "batch: -4 is negative");
    o = training(NN_MSE, 1);
    o.train = "nobody";
    REFUSED(load(&f, &o), NN_ERR_OPTION, "train: nobody matches no row with parameters");
    o = plain();
    f.size--;
    snprintf(sentence, sizeof sentence, "tensor %s: ends behind the end of the file", "head.bias");
    REFUSED(load(&f, &o), NN_ERR_FILE_END, sentence);
    f.size = 7;
    REFUSED(load(&f, &o), NN_ERR_FILE_SHORT,
            "the file has 7 bytes, its header's length alone takes 8");
    f.size = 100;
    snprintf(sentence, sizeof sentence,
             "the file has 100 bytes, but its header alone should have %d",
             bytes[0] + 256 * bytes[1]);
    REFUSED(load(&f, &o), NN_ERR_FILE_SHORT, sentence);
    f.bytes = huge;
    f.size = 8;
    REFUSED(load(&f, &o), NN_ERR_FILE_SHORT,
            "the file has 8 bytes, but its header alone should have 72057594037927936");
}

/* ---- malloc ---------------------------------------------------------------------------------- */

enum { BY_ROWS, BY_TEXT, BY_FILE, BY_PATH, BY_CLONE, BY_COUNTING, BY_COUNTING_TEXT, WAYS };

static struct {
    unsigned char file[STATE];
    size_t file_size;
    nn_model src;
} made;

static long long make(int way, nn_model *m, const nn_opts *o) {
    switch (way) {
    case BY_ROWS: return nn_build(m, nets[NORM], o);
    case BY_TEXT: return nn_build_text(m, nan_nets[2].text, o);
    case BY_FILE: return nn_load(m, made.file, made.file_size, o);
    case BY_PATH: return nn_load_file(m, TMP_PATH, o);
    case BY_CLONE: return nn_clone(m, &made.src, o);
    case BY_COUNTING: return nn_memory(nets[NORM], o);
    default: return nn_memory_text(nan_nets[2].text, o);
    }
}

/* malloc fails at its n-th call, for every n: an error, a zeroed model, nothing left allocated. */
TEST(malloc_fails) {
    /* the block; planning's tables; the rows of a text; the bytes of a file */
    static const int expected[WAYS] = { 2, 3, 3, 4, 2, 1, 2 };
    nn_opts o = training(NN_CROSS_ENTROPY, 4);
    char sentence[120];
    int way, n, live;

    if (!CHECK_EQ_INT(nn_build_text(&made.src, nan_nets[2].text, &o), 0)) return;
    made.file_size = state_of(&made.src, made.file);
    CHECK_EQ_INT(nn_save_file(&made.src, TMP_PATH, 1), 0);
    live = heap.live;
    for (way = 0; way < WAYS; way++) {
        int counts = way == BY_COUNTING || way == BY_COUNTING_TEXT;
        size_t bytes;
        nn_model m;

        memset(&m, 0, sizeof m);
        heap.calls = 0;
        CHECK(counts ? make(way, &m, &o) > 0 : make(way, &m, &o) == 0);
        CHECK_EQ_INT(heap.calls, expected[way]);
        bytes = m.block_size;
        nn_free(&m);
        for (n = 1; n <= expected[way]; n++) {
            long long got;

            test_note("way %d, call %d", way, n);
            if (!counts) fill(&m);
            heap.calls = 0;
            heap.fail_at = n;
            forget();
            got = make(way, &m, &o);
            heap.fail_at = 0;
            CHECK_EQ_INT(heap.calls, n); /* nothing more is tried */
            if (way == BY_PATH && n == 1)
                snprintf(sentence, sizeof sentence, "malloc of %lu bytes for %s failed",
                         (unsigned long)made.file_size, TMP_PATH);
            else if (n == expected[way] && !counts)
                snprintf(sentence, sizeof sentence, "malloc of %lu bytes failed",
                         (unsigned long)bytes);
            else
                snprintf(sentence, sizeof sentence, "malloc of %lu bytes to plan failed",
                         (unsigned long)heap.asked);
            refused(got, NN_ERR_MEMORY, sentence, __LINE__);
            check_nothing(&m, live);
        }
    }
    nn_free(&made.src);
    remove(TMP_PATH);
    CHECK_EQ_INT(heap.live, 0);
}

static void tell_nobody(void *user, const char *name) { (void)user, (void)name; }

/* After a build no call allocates, whatever it does. */
TEST(nothing_allocates_after_build) {
    static unsigned char bytes[STATE], copy[STATE];
    nn_opts o = training(NN_CROSS_ENTROPY, 4);
    nn_fit_opts f = fit_on(x, labels, 3);
    nn_model m;
    size_t size;

    fill_data();
    o.optimizer = NN_ADAM;
    if (!CHECK_EQ_INT(nn_build_text(&m, nan_nets[2].text, &o), 0)) return;
    heap.calls = 0;
    heap.fail_at = 1;
    f.x_val = x, f.y_val = labels;
    f.n_val = 4;
    CHECK_EQ_INT(nn_infer(&m, x, y, 4), 0);
    CHECK_EQ_INT(nn_infer_to(&m, "f", x, dx, 4), 0);
    CHECK_EQ_INT(nn_infer_from(&m, "f", dx, y, 4), 0);
    CHECK_EQ_INT(nn_train_from(&m, "x", x, labels, 4), 0);
    CHECK_EQ_INT(nn_eval(&m, x, labels, 4), 0);
    CHECK_EQ_INT(nn_train(&m, x, labels, 4), 0);
    CHECK_EQ_INT(nn_forward(&m, x, labels, y, 4), 0);
    CHECK_EQ_INT(nn_backward(&m, NULL, NULL), 0);
    CHECK_EQ_INT(nn_update(&m), 0);
    CHECK_EQ_INT(nn_zero_grad(&m), 0);
    CHECK(nn_flat_grad(&m, NULL) != NULL);
    CHECK_EQ_INT(nn_begin_infer(&m, x, y, 4), 0);
    CHECK(nn_run_some(&m, 1) > 0);
    CHECK_EQ_INT(nn_begin_train(&m, x, labels, 4), 0);
    CHECK_EQ_INT(nn_run_some(&m, 10000), 0);
    CHECK_EQ_INT(nn_fit(&m, &f), 0);
    CHECK_EQ_INT(nn_get(&m, "y.bias", y, 3), 0);
    CHECK_EQ_INT(nn_set(&m, "y.bias", y, 3), 0);
    CHECK_EQ_INT(nn_get_grad(&m, "y.bias", y, 3), 0);
    CHECK_EQ_INT(nn_snapshot(&m, copy, sizeof copy), 0);
    CHECK_EQ_INT(nn_rollback(&m, copy, sizeof copy), 0);
    size = state_of(&m, bytes);
    CHECK(size > 0);
    CHECK_EQ_INT(nn_load_params(&m, bytes, size, 1, tell_nobody, NULL), 0);
    CHECK_EQ_INT(nn_save_file(&m, TMP_PATH, 0), 0);
    CHECK_EQ_INT(nn_print(&m, accept_all, NULL), 0);
    CHECK(nn_rows_text(m.rows, (char *)copy, sizeof copy) > 0);
    CHECK(nn_rows_hash(m.rows) != 0);
    CHECK_EQ_INT(heap.calls, 0);
    heap.fail_at = 0;
    remove(TMP_PATH);
    nn_free(&m);
    CHECK_EQ_INT(heap.live, 0);
}

/* ---- names of errors ------------------------------------------------------------------------- */

TEST(error_names) {
    CHECK_EQ_STR(nn_error_name(0), "NN_OK");
    CHECK_EQ_STR(nn_error_name(NN_ERR_ROW), "NN_ERR_ROW");
    CHECK_EQ_STR(nn_error_name(NN_ERR_NAN), "NN_ERR_NAN");
    CHECK_EQ_STR(nn_error_name(NN_ERR_FILE_VERSION), "NN_ERR_FILE_VERSION");
    CHECK_EQ_STR(nn_error_name(7), "NN_ERR_?");
    CHECK_EQ_STR(nn_error_name(-999), "NN_ERR_?");
    CHECK_EQ_STR(nn_error_name(-INT32_LARGEST - 1), "NN_ERR_?");
}

int main(int argc, char **argv) {
    test_begin(argc, argv);
    RUN(wrong_rows);
    RUN(too_many_rows);
    RUN(rows_at_the_limits);
    RUN(wrong_texts);
    RUN(too_long_text);
    RUN(texts_at_the_limits);
    RUN(wrong_options);
    RUN(sparse_beside_other_options);
    RUN(wrong_aux);
    RUN(options_against_outputs);
    RUN(budgets);
    RUN(memory);
    RUN(weights_past_4_gib);
    RUN(no_model);
    RUN(nothing_to_build);
    RUN(rows_text_is_bounded);
    RUN(calls_of_inference);
    RUN(calls_of_training);
    RUN(calls_with_names);
    RUN(clones);
    RUN(labels_and_targets);
    RUN(loss_not_finite);
    RUN(loss_not_finite_elsewhere);
    RUN(hook_stops_the_step);
    RUN(fit);
    RUN(writers_fail);
    RUN(files);
    RUN(malloc_fails);
    RUN(nothing_allocates_after_build);
    RUN(error_names);
    printf("%d refusals\n", mistakes);
    return test_end();
}
