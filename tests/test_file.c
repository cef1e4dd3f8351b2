/* test_file.c - model files: every byte of them, damaged and hostile ones, resuming, use in place

   Files are held against files put together here, by a writer and a checksum of this test's own,
   and read by the reader of test.h; neither shares anything with nn.h's. python/test_file.py does
   the same with Python's safetensors. Scratch files lie beside this program.

   Run from anywhere; an argument picks the tests whose names contain it. */

#include <stdio.h>

/* How nn_save_file reaches the disk, so that it can fail. */
static int sync_file(FILE *f);
static int replace_file(const char *from, const char *to);
#define NN_SYNC(file) sync_file(file)
#define NN_TERMINAL() 0
#define NN_RENAME(from, to) replace_file(from, to)
#define NN_IMPLEMENTATION
#include "nn.h"
#include "test.h"

enum { BATCH = 4, MOST = 4096 };         /* samples of a step; elements of any array */
enum { CRC_AT = 37, LONGEST = 1 << 20 }; /* of a file: its checksum's digits, its header's limit */

typedef struct file {
    unsigned char *bytes; /* from malloc and not one too many, so that sanitizers see overreading */
    size_t size;
} file;

static char why[256], scratch[1024];

static nn_opts options(void) {
    nn_opts o;

    memset(&o, 0, sizeof o);
    why[0] = '\0';
    o.why = why;
    o.why_size = sizeof why;
    return o;
}

static nn_opts training(const char *train) {
    nn_opts o = options();

    o.train = train;
    o.batch = BATCH;
    o.loss = NN_CROSS_ENTROPY;
    o.lr = 0.0625f;
    o.seed = 7;
    return o;
}

/* ---- files made here ------------------------------------------------------------------------- */

static void need(int ok) {
    if (ok) return;
    printf("out of memory\n");
    exit(1);
}

static file new_file(size_t size) {
    file f;

    f.bytes = (unsigned char *)malloc(size ? size : 1);
    f.size = size;
    need(f.bytes != NULL);
    return f;
}

static file copy_of(file f) {
    file copy = new_file(f.size);

    memcpy(copy.bytes, f.bytes, f.size);
    return copy;
}

static void drop(file *f) {
    free(f->bytes);
    f->bytes = NULL;
}

static void put_u32(unsigned char *p, uint32_t v) {
    int i;

    for (i = 0; i < 4; i++) p[i] = (unsigned char)(v >> 8 * i);
}

static void put_f32(unsigned char *p, float v) {
    uint32_t bits;

    memcpy(&bits, &v, 4);
    put_u32(p, bits);
}

/* CRC-32 by its definition, bit by bit: the reflected polynomial 0x04c11db7. */
static uint32_t crc_of(const unsigned char *p, size_t n) {
    uint32_t crc = 0xffffffffu;
    int i;

    while (n--)
        for (crc ^= *p++, i = 0; i < 8; i++) crc = crc >> 1 ^ (crc & 1 ? 0xedb88320u : 0u);
    return ~crc;
}

/* Makes the checksum right. */
static void seal(file f) {
    char digits[9];

    memset(f.bytes + CRC_AT, '0', 8);
    snprintf(digits, sizeof digits, "%08lx", (unsigned long)crc_of(f.bytes, f.size));
    memcpy(f.bytes + CRC_AT, digits, 8);
}

static int is_ours(file f) {
    static const char start[] = "{\"__metadata__\":{\"nn.crc32\":\"";

    return f.size > CRC_AT + 8 && memcmp(f.bytes + 8, start, sizeof start - 1) == 0 &&
           f.bytes[CRC_AT + 8] == '"';
}

/* A file of this header, in which ' stands for ", with n spaces behind it. */
static file file_of(const char *header, size_t spaces, const unsigned char *data, size_t size) {
    size_t n = strlen(header), i;
    file f = new_file(8 + n + spaces + size);

    memset(f.bytes, 0, 8);
    put_u32(f.bytes, (uint32_t)(n + spaces));
    for (i = 0; i < n; i++) f.bytes[8 + i] = (unsigned char)(header[i] == '\'' ? '"' : header[i]);
    memset(f.bytes + 8 + n, ' ', spaces);
    if (size) memcpy(f.bytes + 8 + n + spaces, data, size);
    if (is_ours(f)) seal(f);
    return f;
}

static file padded_file(const char *header, const unsigned char *data, size_t size) {
    return file_of(header, (56 + 64 - strlen(header) % 64) % 64, data, size);
}

/* What nn_save writes. */
static file save(const nn_model *m, int with_training) {
    int64_t size = nn_save(m, with_training, NULL, NULL);
    file f = new_file(size > 0 ? (size_t)size : 0);
    nn_memory_writer w;

    w.bytes = f.bytes;
    w.capacity = f.size;
    w.size = 0;
    CHECK(size > 0);
    CHECK_EQ_INT(nn_save(m, with_training, nn_write_memory, &w), size);
    CHECK_EQ_INT(w.size, size);
    return f;
}

static int same_file(file a, file b) {
    return CHECK_EQ_INT(a.size, b.size) && CHECK_SAME_BYTES(a.bytes, b.bytes, a.size);
}

/* Two models are the same in all that a file holds. */
static void same_model(const nn_model *a, const nn_model *b, int with_training) {
    file x = save(a, with_training), y = save(b, with_training);

    same_file(x, y);
    drop(&x);
    drop(&y);
}

/* Replaces a text of the header by one as long, and makes the checksum right. */
static void swap_text(file f, const char *text, const char *by) {
    size_t n = strlen(text), i = 8;

    need(n == strlen(by));
    while (i + n <= f.size && memcmp(f.bytes + i, text, n) != 0) i++;
    if (!CHECK(i + n <= f.size)) return;
    memcpy(f.bytes + i, by, n);
    seal(f);
}

static size_t header_size(const unsigned char *bytes) {
    return bytes[0] + 256u * bytes[1] + 65536u * bytes[2];
}

/* Where the bytes of a tensor lie in a file that nn_save wrote. */
static unsigned char *tensor_in(file f, const char *name) {
    size_t n = header_size(f.bytes), at = 0;
    char *header = (char *)malloc(n + 1), key[80], *p;

    need(header != NULL);
    memcpy(header, f.bytes + 8, n);
    header[n] = '\0';
    snprintf(key, sizeof key, "\"%s\":{", name);
    p = strstr(header, key);
    p = p ? strstr(p, "data_offsets\":[") : NULL;
    if (CHECK(p != NULL)) at = (size_t)strtoul(p + 15, NULL, 10);
    free(header);
    return f.bytes + 8 + n + at;
}

/* ---- models ---------------------------------------------------------------------------------- */

/* A file of this one has just two tensors: [1,2] and [1]. */
#define TINY "input x - shape=2;dense d x units=1"

/* A file of this one has 1 to 2 KB. */
static const char small_net[] =
    "input x - shape=3; dense h x units=17 act=tanh; batchnorm n h; dropout r n rate=0.25;"
    "dense o r units=2";

/* What acts along a sequence. */
static const char sequence_net[] =
    "input x - shape=9,4; conv1d c x units=34 kernel=3 stride=2 pad=1,2 dilation=2 groups=2"
    " act=relu; maxpool1d p c kernel=2; avgpool1d q p kernel=2 stride=1 pad=1,0"
    " count_pad=1; globalmaxpool g q; dense o g units=5";

/* Every op of images; weights on both sides of the panels of 16 that they are kept in; shared
   tensors. */
static const char every_op[] =
    "input x - shape=12,10,3 type=u8 scale=0.0078125 mean=1,1,1 std=0.5,0.5,0.75;"
    "conv2d c1 x units=20 kernel=3 pad=1,1,1,1; batchnorm n1 c1 act=relu;"
    "conv2d c2 n1 units=40 kernel=3 groups=2 no_bias=1 pad=1,1,1,1 act=leaky_relu slope=0.125;"
    "conv2d c3 c2 units=40 kernel=3 groups=40 pad=1,1,1,1; add a c2,c3 act=relu;"
    "maxpool2d p a kernel=2; avgpool2d q p kernel=2 stride=1 count_pad=1;"
    "conv2d c4 q units=17 kernel=2,1 dilation=2,1; globalavgpool g c4; dropout r g rate=0.25;"
    "dense d1 r units=17 act=tanh; dense d2 d1 units=17 share=d1; activation t d2 act=sigmoid;"
    "flatten f q order=chw; dense h f units=17; add s h,t;"
    "dense o s units=5 act=softmax lr=0.5 no_decay=1";

/* Its tensors, as PyTorch's modules of the same names would have them. */
static const struct {
    const char *name;
    int dims;
    size_t dim[4];
    int running;
    /* clang-format off */
} every_tensor[] = {
    { "c1.weight", 4, { 20, 3, 3, 3 }, 0 },  { "c1.bias", 1, { 20 }, 0 },
    { "n1.weight", 1, { 20 }, 0 },           { "n1.bias", 1, { 20 }, 0 },
    { "n1.running_mean", 1, { 20 }, 1 },     { "n1.running_var", 1, { 20 }, 1 },
    { "c2.weight", 4, { 40, 10, 3, 3 }, 0 }, { "c3.weight", 4, { 40, 1, 3, 3 }, 0 },
    { "c3.bias", 1, { 40 }, 0 },             { "c4.weight", 4, { 17, 40, 2, 1 }, 0 },
    { "c4.bias", 1, { 17 }, 0 },             { "d1.weight", 2, { 17, 17 }, 0 },
    { "d1.bias", 1, { 17 }, 0 },             { "h.weight", 2, { 17, 800 }, 0 },
    { "h.bias", 1, { 17 }, 0 },              { "o.weight", 2, { 5, 17 }, 0 },
    { "o.bias", 1, { 5 }, 0 },
    /* clang-format on */
};
enum { EVERY = sizeof every_tensor / sizeof *every_tensor };

static union {
    float real[MOST];
    unsigned char byte[MOST];
} x;
static union {
    float real[MOST];
    int32_t label[MOST];
} target;
static float large[20000]; /* any tensor */

static void tensor_name(const nn_model *m, uint32_t i, char *name, size_t size) {
    const nn_tensor *t = &m->tensor[i];
    const char *suffix = m->rows[t->row].op->suffixes;
    int k;

    for (k = 0; k < t->suffix; k++) suffix = strchr(suffix, ' ') + 1;
    snprintf(name, size, "%s.%.*s", m->rows[t->row].name, (int)strcspn(suffix, " "), suffix);
}

/* Made-up values for every tensor of a model built from text. */
static void fill(nn_model *m, uint32_t seed) {
    char name[80];
    uint32_t i;
    size_t e;

    for (i = 0; i < m->tensor_count; i++) {
        int var;

        tensor_name(m, i, name, sizeof name);
        var = strstr(name, "running_var") != NULL;
        need(m->tensor[i].count <= sizeof large / sizeof *large);
        for (e = 0; e < m->tensor[i].count; e++)
            large[e] = gen_float(seed, i, e, 0.25f, var ? 1.0f : 0.0f);
        CHECK_EQ_INT(nn_set(m, name, large, m->tensor[i].count), 0);
    }
}

static void make_input(const nn_model *m, uint32_t seed) {
    size_t n = (size_t)m->in_size * BATCH, i;

    need(n <= MOST);
    for (i = 0; i < n; i++)
        if (m->rows[0].type == NN_U8) x.byte[i] = (unsigned char)gen_int(seed, 100, i, 256);
        else x.real[i] = gen_float(seed, 100, i, 1.0f, 0.0f);
}

/* Steps number first to end - 1 of a training run. */
static void train(nn_model *m, int first, int end) {
    size_t i;

    for (; first < end; first++) {
        make_input(m, (uint32_t)first);
        for (i = 0; i < (size_t)m->out_size * BATCH; i++)
            if (m->opts.loss == NN_CROSS_ENTROPY)
                target.label[i] = gen_int((uint32_t)first, 101, i, m->out_size);
            else target.real[i] = gen_float((uint32_t)first, 101, i, 0.5f, 0.5f);
        if (!CHECK_EQ_INT(nn_train(m, x.real, target.real, BATCH), 0)) printf("%s\n", why);
    }
}

static void same_outputs(nn_model *a, nn_model *b) {
    float ya[BATCH * 8], yb[BATCH * 8];

    need(a->out_size <= 8 && b->out_size == a->out_size);
    make_input(a, 50);
    CHECK_EQ_INT(nn_infer(a, x.real, ya, BATCH), 0);
    CHECK_EQ_INT(nn_infer(b, x.real, yb, BATCH), 0);
    CHECK_SAME_BYTES(ya, yb, BATCH * (size_t)a->out_size * sizeof *ya);
}

static int build(nn_model *m, const char *text, const nn_opts *o) {
    int err = nn_build_text(m, text, o);

    if (!CHECK_EQ_INT(err, 0)) printf("%s\n", why);
    return err == 0;
}

static int load(nn_model *m, file f, const nn_opts *o) {
    int err = nn_load(m, f.bytes, f.size, o);

    if (!CHECK_EQ_INT(err, 0)) printf("%s\n", why);
    return err == 0;
}

/* A built and filled model, saved. */
static file saved(const char *text) {
    nn_opts o = options();
    nn_model m;
    file f;

    need(build(&m, text, &o));
    fill(&m, 1);
    f = save(&m, 0);
    nn_free(&m);
    return f;
}

/* ---- what a file holds ----------------------------------------------------------------------- */

TEST(checksum_is_zlibs) {
    static const char fox[] = "The quick brown fox jumps over the lazy dog";
    const unsigned char *p = (const unsigned char *)fox;

    /* The check value of the CRC's definition, and a widely published one. */
    CHECK_EQ_INT(crc_of((const unsigned char *)"123456789", 9), 0xcbf43926);
    CHECK_EQ_INT(nn__crc32(0, "123456789", 9), 0xcbf43926);
    CHECK_EQ_INT(crc_of(p, 43), 0x414fa339);
    CHECK_EQ_INT(nn__crc32(0, fox, 43), 0x414fa339);
    CHECK_EQ_INT(nn__crc32(nn__crc32(0, fox, 20), fox + 20, 23), 0x414fa339);
    CHECK_EQ_INT(nn__crc32(0, fox, 0), 0);
}

TEST(a_file_to_the_byte) {
    static const char header[] =
        "{'__metadata__':{'nn.crc32':'00000000','nn.version':'1.0','nn.kind':'model',"
        "'nn.graph':'1;input x - shape=2;dense d x units=1','format':'pt'},"
        "'d.weight':{'dtype':'F32','shape':[1,2],'data_offsets':[0,8]},"
        "'d.bias':{'dtype':'F32','shape':[1],'data_offsets':[8,12]}}";
    static const float weight[2] = { 1.5f, -2 }, bias = 0.25f;
    unsigned char data[12];
    nn_opts o = options();
    nn_model m;
    file want, got;

    if (!build(&m, TINY, &o)) return;
    CHECK_EQ_INT(nn_set(&m, "d.weight", weight, 2), 0);
    CHECK_EQ_INT(nn_set(&m, "d.bias", &bias, 1), 0);
    put_f32(data, weight[0]);
    put_f32(data + 4, weight[1]);
    put_f32(data + 8, bias);
    want = padded_file(header, data, sizeof data);
    got = save(&m, 0);
    same_file(got, want);
    drop(&want);
    drop(&got);
    nn_free(&m);
}

/* Tensor of the file by that name: shape, values as nn_get gives them, and an aligned place. */
static void check_tensor(const golden *g, const nn_model *m, const char *prefix, int i) {
    char name[80];
    const golden_tensor *t;
    size_t count = 1, size, align = 64, at;
    int d;

    snprintf(name, sizeof name, "%s%s", prefix, every_tensor[i].name);
    test_note("%s", name);
    t = golden_find(g, name);
    if (!CHECK(t != NULL)) return;
    CHECK_EQ_STR(t->dtype, "F32");
    CHECK_EQ_INT(t->dims, every_tensor[i].dims);
    for (d = 0; d < t->dims; d++) {
        CHECK_EQ_INT(t->dim[d], every_tensor[i].dim[d]);
        count *= every_tensor[i].dim[d];
    }
    CHECK_EQ_INT(t->count, count);
    CHECK_EQ_INT(nn_get(m, name, large, count), 0);
    CHECK_SAME_BYTES(t->data, large, 4 * count);
    at = (size_t)((const unsigned char *)t->data - g->data);
    for (size = 4 * count; size % align; align /= 2) {}
    CHECK_EQ_INT(at % align, 0);
}

TEST(names_shapes_values_and_places) {
    nn_opts o = training("*");
    nn_model m;
    int kind, i, tensors;

    o.optimizer = NN_ADAM;
    if (!build(&m, every_op, &o)) return;
    fill(&m, 1);
    train(&m, 0, 2);
    for (kind = 0; kind < 2; kind++) {
        char *graph = (char *)large; /* not needed before check_tensor */
        file f = save(&m, kind);
        golden *g;

        CHECK_EQ_INT(header_size(f.bytes) % 64, 56);
        drop(&f);
        CHECK_EQ_INT(nn_save_file(&m, scratch, kind), 0);
        g = golden_open(scratch);
        if (!CHECK(g != NULL)) break;
        CHECK_EQ_STR(golden_meta(g, "nn.version"), "1.0");
        CHECK_EQ_STR(golden_meta(g, "nn.kind"), kind ? "train" : "model");
        CHECK_EQ_STR(golden_meta(g, "format"), "pt");
        CHECK(nn_rows_text(m.rows, graph, sizeof large) > 0);
        CHECK_EQ_STR(golden_meta(g, "nn.graph"), graph);
        CHECK((golden_meta(g, "nn.train") != NULL) == kind);
        for (i = tensors = 0; i < EVERY; i++) {
            check_tensor(g, &m, "", i);
            tensors++;
            if (!kind || every_tensor[i].running) continue;
            check_tensor(g, &m, "opt.m/", i);
            check_tensor(g, &m, "opt.v/", i);
            tensors += 2;
        }
        CHECK_EQ_INT(g->tensors, tensors);
        golden_close(g);
    }
    remove(scratch);
    nn_free(&m);
}

/* Weights of conv1d have PyTorch's three dimensions. */
TEST(shapes_along_a_sequence) {
    file f = saved(sequence_net);
    char *header = (char *)malloc(f.size);

    need(header != NULL);
    memcpy(header, f.bytes + 8, f.size - 8);
    header[header_size(f.bytes)] = '\0';
    CHECK(strstr(header, "\"c.weight\":{\"dtype\":\"F32\",\"shape\":[34,2,3],") != NULL);
    CHECK(strstr(header, ";conv1d c x units=34 act=relu kernel=3 stride=2 dilation=2 pad=1,2 "
                         "groups=2;maxpool1d p c kernel=2;") != NULL);
    free(header);
    drop(&f);
}

TEST(save_load_save) {
    static const char *const nets[] = { TINY ";dense o d units=2", small_net, every_op,
                                        sequence_net };
    nn_opts o, plain, resume;
    nn_model a, b;
    int net, how, kind;

    for (net = 0; net < 4; net++)
        for (how = 0; how < 3; how++) {
            test_note("net %d, optimizer %d", net, how);
            o = training("*");
            o.optimizer = how == 2 ? NN_ADAM : NN_SGD;
            if (how == 1) o.momentum = 0.5f;
            if (!build(&a, nets[net], &o)) return;
            fill(&a, 2);
            train(&a, 0, 2);
            for (kind = 0; kind < 2; kind++) {
                file f = save(&a, kind), again;

                /* for inference; to train anew; for a train file, to go on */
                plain = options();
                if (load(&b, f, &plain)) {
                    again = save(&b, 0);
                    same_outputs(&a, &b);
                    if (!kind) same_file(again, f);
                    drop(&again);
                    nn_free(&b);
                }
                if (load(&b, f, &o)) same_outputs(&a, &b);
                CHECK_EQ_INT(b.step, 0);
                same_model(&a, &b, 0);
                nn_free(&b);
                resume = options();
                resume.resume = 1;
                resume.train = "*";
                resume.batch = BATCH;
                if (kind && load(&b, f, &resume)) {
                    same_model(&a, &b, 1);
                    same_outputs(&a, &b);
                    nn_free(&b);
                }
                drop(&f);
            }
            nn_free(&a);
        }
}

/* Names that look like those of optimizer state or of ignored tensors are names still, or refused
   when the model is built: not when it is loaded. */
TEST(every_model_that_builds_loads) {
    static const char *const names[] = { "aux",     "aux.a",        "opt",
                                         "opt.a",   "opt.m/d",      "opt.mom/d",
                                         "a.b/c-d", "position_ids", "x.num_batches_tracked" };
    static const nn_layer words[] = { { .op = NN_INPUT, .name = "x", .shape = { 2 } },
                                      { .op = NN_DENSE, .name = "a", .from = " x ", .units = 2 },
                                      { .op = NN_ADD, .name = "s", .from = "a x" },
                                      { 0 } };
    char text[200];
    nn_opts o;
    nn_model a, b;
    size_t i;

    for (i = 0; i <= sizeof names / sizeof *names; i++) {
        int err;

        test_note("%s", i ? names[i - 1] : "several words in from");
        o = training("*");
        o.momentum = 0.5f;
        if (i) snprintf(text, sizeof text, TINY ";dense %s d units=2", names[i - 1]);
        err = i ? nn_build_text(&a, text, &o) : nn_build(&a, words, &o);
        if (err == 0) {
            file f = save(&a, 1);

            o = training("*");
            o.resume = 1;
            if (load(&b, f, &o)) {
                same_outputs(&a, &b);
                same_model(&a, &b, 1);
                nn_free(&b);
            }
            o = options();
            if (load(&b, f, &o)) {
                same_outputs(&a, &b);
                nn_free(&b);
            }
            drop(&f);
            nn_free(&a);
        } else {
            CHECK_EQ_INT(err, NN_ERR_ROW);
        }
    }
}

/* ---- damage ---------------------------------------------------------------------------------- */

static int is_file_error(int err) { return err <= NN_ERR_FILE_SHORT && err >= NN_ERR_FILE_VERSION; }

/* What the tests of damage work on: a small model's file, its options, and another model. */
typedef struct victim {
    file f;
    nn_opts o;
    nn_model other;
    file before; /* what the other model is saved as */
} victim;

/* The file is refused as a file, with a sentence, by every way in; what it returns. */
static int refused(victim *v, file f) {
    nn_model m, zero;
    file after;
    int err;

    why[0] = '\0';
    memset(&zero, 0, sizeof zero);
    err = nn_load(&m, f.bytes, f.size, &v->o);
    if (!CHECK(is_file_error(err))) printf("%s\n", nn_error_name(err));
    CHECK(why[0] != '\0');
    CHECK_SAME_BYTES(&m, &zero, sizeof zero);
    CHECK(nn_memory_file(f.bytes, f.size, &v->o) < 0);
    CHECK(is_file_error(nn_load_params(&v->other, f.bytes, f.size, 1, NULL, NULL)));
    after = save(&v->other, 0);
    same_file(after, v->before);
    drop(&after);
    return err;
}

enum { PLAIN, TRAINING, AUX, VICTIMS };

static int new_victim(victim *v, int kind) {
    const int with_training = kind == TRAINING;
    static const nn_aux two[] = { { "words", "a few bytes", 11 }, { "n", "\1\2\3\4", 4 }, { 0 } };
    nn_model m;

    v->o = training("*");
    if (kind == AUX) v->o.aux = two;
    v->o.momentum = 0.5f;
    if (!build(&m, kind == PLAIN ? small_net : TINY ";dense o d units=2", &v->o)) return 0;
    train(&m, 0, 1);
    v->f = save(&m, with_training);
    CHECK(v->f.size <= 2048);
    nn_free(&m);
    v->o = options();
    if (with_training) v->o.train = "*", v->o.resume = 1;
    if (load(&m, v->f, &v->o)) nn_free(&m); /* undamaged it loads */
    if (!build(&v->other, TINY, NULL)) return 0;
    v->before = save(&v->other, 0);
    return 1;
}

static void end_victim(victim *v) {
    nn_free(&v->other);
    drop(&v->before);
    drop(&v->f);
}

TEST(every_flipped_bit_is_noticed) {
    int kind;
    victim v;
    size_t i;

    for (kind = 0; kind < VICTIMS; kind++) {
        if (!new_victim(&v, kind)) return;
        for (i = 0; i < 8 * v.f.size; i++) {
            test_note("bit %lu of %lu", (unsigned long)i, (unsigned long)(8 * v.f.size));
            v.f.bytes[i / 8] ^= (unsigned char)(1 << i % 8);
            refused(&v, v.f);
            v.f.bytes[i / 8] ^= (unsigned char)(1 << i % 8);
        }
        end_victim(&v);
    }
}

TEST(every_other_length_is_noticed) {
    victim v;
    size_t n;
    int kind;

    for (kind = PLAIN; kind < VICTIMS; kind += AUX) {
        if (!new_victim(&v, kind)) return;
        for (n = 0; n < v.f.size + 130; n++) {
            file f = new_file(n);

            test_note("%lu bytes of %lu", (unsigned long)n, (unsigned long)v.f.size);
            memcpy(f.bytes, v.f.bytes, n < v.f.size ? n : v.f.size);
            if (n > v.f.size) {
                memset(f.bytes + v.f.size, 0, n - v.f.size);
                CHECK_EQ_INT(refused(&v, f), NN_ERR_FILE_END);
                seal(f); /* a right checksum does not help */
                CHECK_EQ_INT(refused(&v, f), NN_ERR_FILE_END);
            }
            if (n < v.f.size) refused(&v, f);
            drop(&f);
        }
        end_victim(&v);
    }
}

/* ---- hostile files --------------------------------------------------------------------------- */

/* A header with ' for ", the bytes of data behind it, and what nn_load and nn_load_params (into a
   model of the same rows, with allow_missing) must return. */
typedef struct hostile {
    const char *what;
    int load, params;
    size_t data;
    const char *header;
} hostile;

#define ENTRY_(name, rest) "'" name "':{" rest "}"
#define ENTRY(name, dtype, shape, places) \
    ENTRY_(name, "'dtype':'" dtype "','shape':" shape ",'data_offsets':" places)
#define META_(version, kind, more) \
    "'__metadata__':{'nn.crc32':'00000000','nn.version':'" version "','nn.kind':'" kind "'" more "}"
#define META(version, kind, more) META_(version, kind, ",'nn.graph':'1;" TINY "'" more)
#define HEAD META("1.0", "model", "")
#define WEIGHT(dtype, shape, places) ENTRY("d.weight", dtype, shape, places)
#define BIAS(dtype, shape, places) ENTRY("d.bias", dtype, shape, places)
#define W WEIGHT("F32", "[1,2]", "[0,8]")
#define B BIAS("F32", "[1]", "[8,12]")

/* The model with other metadata, another first tensor or one more; a state dict likewise. */
#define WITH_META(meta) "{" meta "," W "," B "}"
#define WITH(w) "{" HEAD "," w "," B "}"
#define AND(u) "{" HEAD "," W "," B "," u "}"
#define DICT_META(meta) "{'__metadata__':" meta "," W "," B "}"
#define DICT_AND(u) "{" W "," B "," u "}"

#define NAME_50 "abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwx"
#define NAME_250 NAME_50 NAME_50 NAME_50 NAME_50 NAME_50

/* Both calls return it. */
#define SHORT NN_ERR_FILE_SHORT, NN_ERR_FILE_SHORT
#define SYNTAX NN_ERR_FILE_SYNTAX, NN_ERR_FILE_SYNTAX
#define BAD_META NN_ERR_FILE_META, NN_ERR_FILE_META
#define DTYPE NN_ERR_FILE_DTYPE, NN_ERR_FILE_DTYPE
#define SIZE NN_ERR_FILE_SIZE, NN_ERR_FILE_SIZE
#define ORDER NN_ERR_FILE_ORDER, NN_ERR_FILE_ORDER
#define END NN_ERR_FILE_END, NN_ERR_FILE_END
#define TAIL NN_ERR_FILE_TAIL, NN_ERR_FILE_TAIL
#define TENSOR NN_ERR_FILE_TENSOR, NN_ERR_FILE_TENSOR
#define VERSION NN_ERR_FILE_VERSION, NN_ERR_FILE_VERSION
#define FINE NN_OK, NN_OK
#define NO_ROWS NN_ERR_FILE_GRAPH, NN_OK
#define UNBOUND NN_ERR_FILE_TENSOR, NN_OK

/* clang-format off */
static const hostile hostiles[] = {
    /* harmless */
    { "the model itself", FINE, 12, WITH(W) },
    { "the other order", FINE, 12,
      "{" HEAD "," BIAS("F32", "[1]", "[0,4]") "," WEIGHT("F32", "[1,2]", "[4,12]") "}" },
    { "keys of an entry in another order", FINE, 12,
      WITH(ENTRY_("d.weight", "'data_offsets':[0,8],'shape':[1,2],'dtype':'F32'")) },
    { "half precision", FINE, 6,
      "{" HEAD "," WEIGHT("F16", "[1,2]", "[0,4]") "," BIAS("BF16", "[1]", "[4,6]") "}" },
    { "ignored tensors", FINE, 39,
      AND(ENTRY("n.num_batches_tracked", "I64", "[]", "[12,20]") ","
          ENTRY("e.position_ids", "I64", "[1,2]", "[20,36]") ","
          ENTRY("aux.labels", "U8", "[3]", "[36,39]") ","
          ENTRY("aux.none", "I8", "[0]", "[39,39]")) },
    { "what could be the application's, but for its type, shape or name", FINE, 26,
      AND(ENTRY("aux.a", "I8", "[2]", "[12,14]") "," ENTRY("aux.b", "U8", "[2,1]", "[14,16]") ","
          ENTRY("aux.c", "U8", "[]", "[16,17]") "," ENTRY("aux.d", "U8", "[0]", "[17,17]") ","
          ENTRY("aux.a b", "U8", "[1]", "[17,18]") ","
          ENTRY("aux.aux.e", "U8", "[8]", "[18,26]")) },
    { "a higher minor version", FINE, 12, WITH_META(META("1.7", "model", "")) },
    { "no feature required", FINE, 12, WITH_META(META("1.0", "model", ",'nn.req':''")) },
    { "unknown keys", FINE, 12, WITH_META(META("1.0", "model", ",'nn.src':'a','b':'c'")) },
    { "unknown keys twice", FINE, 12, WITH_META(META("1.0", "model", ",'b':'c','b':'c'")) },
    { "a plain state dict", NO_ROWS, 12, "{" W "," B "}" },
    { "a plain state dict of PyTorch's", NO_ROWS, 12, DICT_META("{'format':'pt'}") },
    { "empty metadata", NO_ROWS, 12, DICT_META("{}") },
    { "nothing", NO_ROWS, 0, "{}" },
    { "only metadata", NO_ROWS, 0, "{'__metadata__':{'a':'b'}}" },
    { "our metadata without rows", NO_ROWS, 12, WITH_META(META_("1.0", "model", "")) },
    { "escapes in foreign metadata", NO_ROWS, 12,
      DICT_META("{'a\\'\\\\\\/\\b\\f\\n\\r\\t':'\\u00e9\\u00E9 \\ud83d\\ude00'}") },
    { "UTF-8 in foreign metadata", NO_ROWS, 12,
      DICT_META("{'\xc3\xa9\x7f':'\xe2\x82\xac \xf0\x9f\x98\x80'}") },
    { "an nn. key in an escape", NO_ROWS, 12, DICT_META("{'\\u006en.graph':'1'}") },
    { "a name of 255 bytes", NO_ROWS, 12,
      DICT_AND(ENTRY(NAME_250 "abcde", "I8", "[0]", "[12,12]")) },
    { "six dimensions", NO_ROWS, 13, DICT_AND(ENTRY("u", "I8", "[1,1,1,1,1,1]", "[12,13]")) },
    { "empty and long", NO_ROWS, 12, DICT_AND(ENTRY("u", "I8", "[0,2147483647]", "[12,12]")) },

    /* not JSON, or not the strict kind */
    { "spaces only", SYNTAX, 0, "" },
    { "an array", SYNTAX, 0, "[]" },
    { "a space in front", SYNTAX, 12, " " WITH(W) },
    { "a space inside", SYNTAX, 12, "{" HEAD ", " W "," B "}" },
    { "a space in a list", SYNTAX, 12, WITH(WEIGHT("F32", "[1, 2]", "[0,8]")) },
    { "no brace at the end", SYNTAX, 12, "{" HEAD "," W "," B },
    { "a comma at the end", SYNTAX, 12, "{" HEAD "," W "," B ",}" },
    { "a comma too many", SYNTAX, 12, "{" HEAD ",," W "," B "}" },
    { "a comma behind metadata only", SYNTAX, 0, "{" HEAD ",}" },
    { "no comma", SYNTAX, 12, "{" HEAD W "," B "}" },
    { "no colon", SYNTAX, 12,
      WITH("'d.weight'{'dtype':'F32','shape':[1,2],'data_offsets':[0,8]}") },
    { "a string without end", SYNTAX, 0, "{'d.weight" },
    { "a string that ends in an escape", SYNTAX, 0, "{'__metadata__':{'a\\" },
    { "metadata ends in a comma", SYNTAX, 12, DICT_META("{'a':'b',}") },
    { "metadata holds a number", SYNTAX, 12, DICT_META("{'a':1}") },
    { "metadata holds an object", SYNTAX, 12, DICT_META("{'a':{}}") },
    { "metadata is a tensor", SYNTAX, 4, "{" ENTRY("__metadata__", "F32", "[1]", "[0,4]") "}" },
    { "an escape in our metadata", SYNTAX, 12, WITH_META(META("1.0", "model", ",'b':'\\n'")) },
    { "UTF-8 in our metadata", SYNTAX, 12, WITH_META(META("1.0", "model", ",'b':'\xc3\xa9'")) },
    { "a control byte", SYNTAX, 12, DICT_META("{'a':'\n'}") },
    { "an unknown escape", SYNTAX, 12, DICT_META("{'a':'\\q'}") },
    { "an escaped control byte", SYNTAX, 12, DICT_META("{'a':'\\\n'}") },
    { "an escape that is no number", SYNTAX, 12, DICT_META("{'a':'\\u12g4'}") },
    { "half of a surrogate pair", SYNTAX, 12, DICT_META("{'a':'\\ud83d'}") },
    { "a lone continuation byte", SYNTAX, 12, DICT_META("{'a':'\x80'}") },
    { "UTF-8 cut short", SYNTAX, 12, DICT_META("{'a':'\xe2\x82'}") },
    { "UTF-8 that is overlong", SYNTAX, 12, DICT_META("{'a':'\xc0\xaf'}") },
    { "UTF-8 of a surrogate", SYNTAX, 12, DICT_META("{'a':'\xed\xa0\x80'}") },
    { "an escaped name", SYNTAX, 12, WITH(ENTRY("\\u0064.weight", "F32", "[1,2]", "[0,8]")) },
    { "a name in UTF-8", SYNTAX, 12, DICT_AND(ENTRY("\xc3\xa9", "I8", "[0]", "[12,12]")) },
    { "a name of no bytes", SYNTAX, 12, DICT_AND(ENTRY("", "I8", "[0]", "[12,12]")) },
    { "a name of 256 bytes", SYNTAX, 12,
      DICT_AND(ENTRY(NAME_250 "abcdef", "I8", "[0]", "[12,12]")) },
    { "an entry that is a list", SYNTAX, 12, WITH("'d.weight':[0,8]") },
    { "an empty entry", SYNTAX, 12, WITH("'d.weight':{}") },
    { "no dtype", SYNTAX, 12, WITH(ENTRY_("d.weight", "'shape':[1,2],'data_offsets':[0,8]")) },
    { "no shape", SYNTAX, 12, WITH(ENTRY_("d.weight", "'dtype':'F32','data_offsets':[0,8]")) },
    { "no offsets", SYNTAX, 12, WITH(ENTRY_("d.weight", "'dtype':'F32','shape':[1,2]")) },
    { "two dtypes", SYNTAX, 12,
      WITH(ENTRY_("d.weight", "'dtype':'F32','dtype':'F32','shape':[1,2],'data_offsets':[0,8]")) },
    { "an unknown key of a tensor", SYNTAX, 12,
      WITH(ENTRY_("d.weight", "'dtype':'F32','shape':[1,2],'data_offsets':[0,8],'x':[]")) },
    { "one offset", SYNTAX, 12, WITH(WEIGHT("F32", "[1,2]", "[8]")) },
    { "a negative dimension", SYNTAX, 12, WITH(WEIGHT("F32", "[-1,-2]", "[0,8]")) },
    { "a negative offset", SYNTAX, 12, WITH(WEIGHT("F32", "[1,2]", "[-8,0]")) },
    { "an exponent", SYNTAX, 12, WITH(WEIGHT("F32", "[1e0,2]", "[0,8]")) },
    { "a fraction", SYNTAX, 12, WITH(WEIGHT("F32", "[1.0,2]", "[0,8]")) },
    { "a plus", SYNTAX, 12, WITH(WEIGHT("F32", "[+1,2]", "[0,8]")) },
    { "a leading zero", SYNTAX, 12, WITH(WEIGHT("F32", "[01,2]", "[0,8]")) },
    { "two zeros", SYNTAX, 12, WITH(WEIGHT("F32", "[1,2]", "[00,8]")) },
    { "a missing dimension", SYNTAX, 12, WITH(WEIGHT("F32", "[1,]", "[0,8]")) },
    { "a list in a list", SYNTAX, 12, WITH(WEIGHT("F32", "[[1,2]]", "[0,8]")) },
    { "a dimension as a string", SYNTAX, 12, WITH(WEIGHT("F32", "['1',2]", "[0,8]")) },

    /* metadata */
    { "metadata twice", BAD_META, 12, "{" HEAD "," HEAD "," W "," B "}" },
    { "metadata not first", BAD_META, 12, "{" W ",'__metadata__':{}," B "}" },
    { "metadata is a string", BAD_META, 12, DICT_META("'a'") },
    { "no checksum", BAD_META, 12,
      DICT_META("{'nn.version':'1.0','nn.kind':'model','nn.graph':'1;" TINY "'}") },
    { "the checksum second", BAD_META, 12,
      DICT_META("{'format':'pt','nn.crc32':'00000000','nn.version':'1.0','nn.kind':'model'}") },
    { "rows without a checksum", BAD_META, 12,
      DICT_META("{'format':'pt','nn.graph':'1;" TINY "'}") },
    { "a short checksum", BAD_META, 12,
      DICT_META("{'nn.crc32':'0000000','nn.version':'1.0','nn.kind':'model'}") },
    { "the checksum twice", BAD_META, 12,
      WITH_META(META("1.0", "model", ",'nn.crc32':'00000000'")) },
    { "the version twice", BAD_META, 12, WITH_META(META("1.0", "model", ",'nn.version':'1.0'")) },
    { "the rows twice", BAD_META, 12, WITH_META(META("1.0", "model", ",'nn.graph':'1;" TINY "'")) },
    { "no version", BAD_META, 12,
      DICT_META("{'nn.crc32':'00000000','nn.kind':'model','nn.graph':'1;" TINY "'}") },
    { "no kind", BAD_META, 12,
      DICT_META("{'nn.crc32':'00000000','nn.version':'1.0','nn.graph':'1;" TINY "'}") },

    /* versions */
    { "version 2.0", VERSION, 12, WITH_META(META("2.0", "model", "")) },
    { "version 10.0", VERSION, 12, WITH_META(META("10.0", "model", "")) },
    { "version 1", VERSION, 12, WITH_META(META("1", "model", "")) },
    { "a feature required", VERSION, 12, WITH_META(META("1.0", "model", ",'nn.req':'i4'")) },
    { "a delta", VERSION, 12, WITH_META(META("1.0", "delta", "")) },
    { "no such kind", VERSION, 12, WITH_META(META("1.0", "models", "")) },

    /* types and dimensions */
    { "an unknown type", DTYPE, 12, WITH(WEIGHT("F33", "[1,2]", "[0,8]")) },
    { "the beginning of a type", DTYPE, 12, WITH(WEIGHT("F3", "[1,2]", "[0,8]")) },
    { "a type of no bytes", DTYPE, 12, WITH(WEIGHT("", "[1,2]", "[0,8]")) },
    { "F64", DTYPE, 28, AND(ENTRY("u", "F64", "[1,2]", "[12,28]")) },
    { "BOOL", DTYPE, 13, DICT_AND(ENTRY("u", "BOOL", "[1]", "[12,13]")) },
    { "seven dimensions", DTYPE, 13, DICT_AND(ENTRY("u", "I8", "[1,1,1,1,1,1,1]", "[12,13]")) },
    { "2^32 x 2^32", DTYPE, 12, WITH(WEIGHT("F32", "[4294967296,4294967296]", "[0,0]")) },
    { "2^31 x 0", DTYPE, 12, DICT_AND(ENTRY("u", "I8", "[2147483648,0]", "[12,12]")) },
    { "10^29 x 0", DTYPE, 12,
      DICT_AND(ENTRY("u", "I8", "[100000000000000000000000000000,0]", "[12,12]")) },

    /* sizes */
    { "2^62 bytes", SIZE, 12, WITH(WEIGHT("F32", "[1073741824,1073741824]", "[0,0]")) },
    { "nearly 2^62 bytes", SIZE, 13,
      DICT_AND(ENTRY("u", "I8", "[2147483647,2147483647]", "[12,13]")) },
    { "2^64 bytes", SIZE, 12, DICT_AND(ENTRY("u", "I8", "[65536,65536,65536,65536]", "[12,12]")) },
    { "fewer bytes than elements", SIZE, 12, WITH(WEIGHT("F32", "[1,3]", "[0,8]")) },
    { "more bytes than elements", SIZE, 12, WITH(WEIGHT("F32", "[1,1]", "[0,8]")) },
    { "bytes of nothing", SIZE, 13, DICT_AND(ENTRY("u", "I8", "[0]", "[12,13]")) },
    { "the end before the begin", SIZE, 12, WITH(WEIGHT("F32", "[1,2]", "[8,0]")) },

    /* places */
    { "an overlap", ORDER, 12, "{" HEAD "," W "," BIAS("F32", "[1]", "[4,8]") "}" },
    { "the same place twice", ORDER, 8, "{" HEAD "," W "," BIAS("F32", "[1]", "[0,4]") "}" },
    { "a hole", ORDER, 16, "{" HEAD "," W "," BIAS("F32", "[1]", "[12,16]") "}" },
    { "a hole in front", ORDER, 16,
      "{" HEAD "," WEIGHT("F32", "[1,2]", "[4,12]") "," BIAS("F32", "[1]", "[12,16]") "}" },
    { "offsets that fall", ORDER, 12,
      "{" HEAD "," WEIGHT("F32", "[1,2]", "[4,12]") "," BIAS("F32", "[1]", "[0,4]") "}" },
    { "an empty tensor elsewhere", ORDER, 12, DICT_AND(ENTRY("u", "I8", "[0]", "[4,4]")) },
    { "bytes behind the last tensor", END, 13, WITH(W) },
    { "a byte too few", END, 11, WITH(W) },
    { "no data at all", END, 0, WITH(W) },
    { "data without tensors", END, 1, "{}" },
    { "nearly 2^40 bytes", END, 13,
      DICT_AND(ENTRY("u", "I8", "[1048576,1048575]", "[12,1099510579212]")) },
    { "something behind the brace", TAIL, 12, WITH(W) "  x" },
    { "a second brace", TAIL, 12, WITH(W) "}" },
    { "a line end behind the brace", TAIL, 12, WITH(W) "\n" },

    /* tensors and rows that do not fit */
    { "only our metadata", UNBOUND, 0, "{" HEAD "}" },
    { "a missing tensor", UNBOUND, 8, "{" HEAD "," W "}" },
    { "an unknown tensor", UNBOUND, 16, AND(ENTRY("e.bias", "F32", "[1]", "[12,16]")) },
    { "a tensor twice", TENSOR, 16, AND(BIAS("F32", "[1]", "[12,16]")) },
    { "an ignored tensor twice", TENSOR, 14,
      AND(ENTRY("aux.a", "I8", "[1]", "[12,13]") "," ENTRY("aux.a", "I8", "[1]", "[13,14]")) },
    { "two of the application's of one name", TENSOR, 14,
      AND(ENTRY("aux.a", "U8", "[1]", "[12,13]") "," ENTRY("aux.a", "U8", "[1]", "[13,14]")) },
    { "an unknown tensor twice", TENSOR, 14,
      AND(ENTRY("u", "I8", "[1]", "[12,13]") "," ENTRY("u", "I8", "[1]", "[13,14]")) },
    { "another shape", TENSOR, 12, WITH(WEIGHT("F32", "[2,1]", "[0,8]")) },
    { "fewer dimensions", TENSOR, 12, WITH(WEIGHT("F32", "[2]", "[0,8]")) },
    { "more dimensions", TENSOR, 12, "{" HEAD "," W "," BIAS("F32", "[1,1]", "[8,12]") "}" },
    { "a scalar", TENSOR, 12, "{" HEAD "," W "," BIAS("F32", "[]", "[8,12]") "}" },
    { "integers", TENSOR, 12, "{" HEAD "," W "," BIAS("I32", "[1]", "[8,12]") "}" },
};
/* clang-format on */

#undef SHORT
#undef SYNTAX
#undef BAD_META
#undef DTYPE
#undef SIZE
#undef ORDER
#undef END
#undef TAIL
#undef TENSOR
#undef VERSION
#undef FINE
#undef NO_ROWS
#undef UNBOUND

static void check_hostile(const char *what, file f, int want_load, int want_params) {
    nn_opts o = options();
    nn_model m, target_model;
    file before, after;
    int err;

    test_note("%s", what);
    err = nn_load(&m, f.bytes, f.size, &o);
    if (!CHECK_EQ_INT(err, want_load)) printf("%s: %s\n", nn_error_name(err), why);
    CHECK((err == 0) == (why[0] == '\0'));
    nn_free(&m);
    err = (int)nn_memory_file(f.bytes, f.size, &o);
    CHECK(want_load ? err == want_load || (err > 0 && want_load == NN_ERR_FILE_TENSOR) : err > 0);

    o = options();
    if (!build(&target_model, TINY, &o)) return;
    before = save(&target_model, 0);
    err = nn_load_params(&target_model, f.bytes, f.size, 1, NULL, NULL);
    if (!CHECK_EQ_INT(err, want_params)) printf("%s: %s\n", nn_error_name(err), why);
    CHECK((err == 0) == (why[0] == '\0'));
    after = save(&target_model, 0);
    if (err) same_file(before, after);
    drop(&before);
    drop(&after);
    nn_free(&target_model);
}

TEST(hostile_headers) {
    static const unsigned char data[64] = { 1, 2, 3, 0x3e }; /* finite in every type */
    size_t i;

    for (i = 0; i < sizeof hostiles / sizeof *hostiles; i++) {
        const hostile *h = &hostiles[i];
        file f = padded_file(h->header, data, h->data);

        check_hostile(h->what, f, h->load, h->params);
        drop(&f);
    }
}

/* What stands in a file's first eight bytes. */
TEST(hostile_lengths) {
    static const unsigned char data[64] = { 0 };
    file f = padded_file("{" HEAD "," W "," B "}", data, 12), big;
    uint64_t header = f.size - 8 - 12;
    const uint64_t wrong[] = {
        UINT64_MAX, UINT64_MAX - 7, (uint64_t)1 << 63,    (uint64_t)1 << 32,
        f.size,     f.size - 7,     header | 0xffffffffu, header + ((uint64_t)1 << 32)
    };
    const uint64_t inside[] = { 0, 1, 2, header - 64, header - 1, header + 1, header + 12 };
    nn_opts o = options();
    nn_model m;
    size_t i;
    int k;

    for (i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        for (k = 0; k < 8; k++) f.bytes[k] = (unsigned char)(wrong[i] >> 8 * k);
        seal(f);
        check_hostile("a length beyond the file", f, NN_ERR_FILE_SHORT, NN_ERR_FILE_SHORT);
    }
    for (i = 0; i < sizeof inside / sizeof *inside; i++) {
        test_note("%lu for %lu", (unsigned long)inside[i], (unsigned long)header);
        for (k = 0; k < 8; k++) f.bytes[k] = (unsigned char)(inside[i] >> 8 * k);
        seal(f);
        CHECK(is_file_error(nn_load(&m, f.bytes, f.size, &o)));
    }
    drop(&f);

    big = file_of("{}", LONGEST - 2, NULL, 0);
    check_hostile("the longest header", big, NN_ERR_FILE_GRAPH, 0);
    drop(&big);
    big = file_of("{}", LONGEST - 1, NULL, 0);
    check_hostile("a longer header", big, NN_ERR_FILE_SHORT, NN_ERR_FILE_SHORT);
    drop(&big);
    CHECK_EQ_INT(nn_load(&m, NULL, 100, &o), NN_ERR_CALL);
    CHECK_EQ_INT(nn_load(NULL, data, sizeof data, &o), NN_ERR_CALL);
}

TEST(hostile_graphs) {
#define D "dense d x units=1"
    static const struct {
        const char *rows;
        int load;
    } graphs[] = {
        { "1;input x - shape=2;" D " _note=1,2", 0 },
        { "input x - shape=2;" D, 0 },
        { "", NN_ERR_FILE_GRAPH },
        { "1", NN_ERR_FILE_GRAPH },
        { "2;input x - shape=2;" D, NN_ERR_FILE_VERSION },
        { "1;input x - shape=2;danse d x units=1", NN_ERR_FILE_GRAPH },
        { "1;input x - shape=2;" D " unit=1", NN_ERR_FILE_GRAPH },
        { "1;input x - shape=2;" D " kernel=1", NN_ERR_FILE_GRAPH },
        { "1;input x - shape=2;" D " units=1", NN_ERR_FILE_GRAPH },
        { "1;input x - shape=2;dense d x units=0", NN_ERR_FILE_GRAPH },
        { "1;input x - shape=2;dense d x units=-1", NN_ERR_FILE_GRAPH },
        { "1;input x - shape=2;dense d x units=1,1", NN_ERR_FILE_GRAPH },
        { "1;input x - shape=2;dense d x units=", NN_ERR_FILE_GRAPH },
        { "1;input x - shape=2;dense d x units", NN_ERR_FILE_GRAPH },
        { "1;input x - shape=2;dense d x =1", NN_ERR_FILE_GRAPH },
        { "1;input x - shape=2;dense d x units=2147483647", NN_ERR_FILE_GRAPH },
        { "1;input x - shape=2;dense d x units=2147483648", NN_ERR_FILE_GRAPH },
        { "1;input x - shape=2;dense d x units=4294967297", NN_ERR_FILE_GRAPH },
        { "1;input x - shape=2147483647,2147483647,2147483647;" D, NN_ERR_FILE_GRAPH },
        { "1;input x - shape=1,2,3,4;" D, NN_ERR_FILE_GRAPH },
        { "1;input x - shape=0;" D, NN_ERR_FILE_GRAPH },
        { "1;input x - shape=2 scale=x7f800000;" D, NN_ERR_FILE_GRAPH },
        { "1;input x - shape=2 scale=x7fc00000;" D, NN_ERR_FILE_GRAPH },
        { "1;input x - shape=2 scale=x3f80000;" D, NN_ERR_FILE_GRAPH },
        { "1;input x - shape=2;" D " act=relux", NN_ERR_FILE_GRAPH },
        { "1;input x - shape=2;" D " act=", NN_ERR_FILE_GRAPH },
        { "1;input x - shape=2;dense d e units=1;dense e d units=2", NN_ERR_FILE_GRAPH },
        { "1;input x - shape=2;dense d d units=1", NN_ERR_FILE_GRAPH },
        { "1;input x - shape=2;dense d - units=1", NN_ERR_FILE_GRAPH },
        { "1;input x - shape=2;dense d x,x units=1", NN_ERR_FILE_GRAPH },
        { "1;input x - shape=2;dense d", NN_ERR_FILE_GRAPH },
        { "1;input x - shape=2;dense x x units=1", NN_ERR_FILE_GRAPH },
        { "1;input x - shape=2;" D ";input y - shape=2", NN_ERR_FILE_GRAPH },
        { "1;" D, NN_ERR_FILE_GRAPH },
        { "1;input x - shape=2;" D ";dense e x units=1", NN_ERR_FILE_GRAPH }, /* nobody reads d */
        { "1;input x - shape=2;dense " NAME_250 " x units=1", NN_ERR_FILE_GRAPH },
        { "1;input x - shape=2;" D " share=y", NN_ERR_FILE_GRAPH },
        { "1;input x - shape=2;" D " share=d", NN_ERR_FILE_GRAPH },
        { "1;input x - shape=2;conv2d d x units=1 kernel=1", NN_ERR_FILE_GRAPH },
        { "1;input x - shape=1,1,2;conv2d d x units=1 kernel=2", NN_ERR_FILE_GRAPH },
        { "1;input x - shape=1,1,2;conv2d d x units=1 kernel=1 groups=3", NN_ERR_FILE_GRAPH },
        { "1;input x - shape=1,1,2;conv2d d x units=1 kernel=2147483647 dilation=2147483647",
          NN_ERR_FILE_GRAPH },
        { "1;input x - shape=1,1,2;conv2d d x units=1 kernel=1 pad=2147483647,0,2147483647,0",
          NN_ERR_FILE_GRAPH },
        { "1;input x - shape=2;add d x,x,x,x,x,x,x,x,x", NN_ERR_FILE_GRAPH },
        { "1;input x - shape=2;dropout d x rate=1", NN_ERR_FILE_GRAPH },
        { "1;input x - shape=2;" D "!", NN_ERR_FILE_GRAPH },
        { "1;input x - shape=2;dense d x no_bias=1 units=1", NN_ERR_FILE_TENSOR }, /* bias given */
        { "1;input x - shape=2;dense e x units=1", NN_ERR_FILE_TENSOR },
        { "1;input x - shape=2;dense d x units=2", NN_ERR_FILE_TENSOR },
        { "1;input x - shape=3;" D, NN_ERR_FILE_TENSOR },
        { "1;input x - shape=2;" D ";dense e d units=1", NN_ERR_FILE_TENSOR },
        { "1;input x - shape=2;dense d x units=1;dense e x units=1 share=d;add s d,e", 0 },
    };
#undef D
    static const unsigned char data[12] = { 0 };
    char header[1000];
    size_t i;

    for (i = 0; i < sizeof graphs / sizeof *graphs; i++) {
        file f;

        snprintf(header, sizeof header,
                 "{" META_("1.0", "model", ",'nn.graph':'%s'") "," W "," B "}", graphs[i].rows);
        f = padded_file(header, data, sizeof data);
        check_hostile(graphs[i].rows, f, graphs[i].load, 0);
        drop(&f);
    }
}

/* ---- nn_load_params -------------------------------------------------------------------------- */

/* Names told by nn_load_params, each followed by a space. */
static char told[400];

static void tell(void *user, const char *name) {
    CHECK(user == told);
    CHECK(strlen(told) + strlen(name) + 2 < sizeof told);
    strcat(strcat(told, name), " ");
}

static int load_params(nn_model *m, file f, int allow_missing) {
    told[0] = why[0] = '\0';
    return nn_load_params(m, f.bytes, f.size, allow_missing, tell, told);
}

/* A net as C writes it, with names that PyTorch's modules might have. */
static const nn_layer rows_in_c[] = {
    { .op = NN_INPUT, .shape = { 3, 3, 2 } },
    { .op = NN_CONV2D, .name = "features.0", .units = 2, .kernel = { 2, 1 } },
    { .op = NN_BATCHNORM, .name = "features.1" },
    { .op = NN_FLATTEN },
    { .op = NN_DENSE, .name = "classifier", .units = 2, .no_bias = 1 },
    { 0 }
};
static const char *const rows_tensors[] = { "features.0.weight",       "features.0.bias",
                                            "features.1.weight",       "features.1.bias",
                                            "features.1.running_mean", "features.1.running_var",
                                            "classifier.weight" };
enum { ROWS_TENSORS = 7, ROWS_LARGEST = 24 };

/* As PyTorch would save it, with one tensor left to say; what stands in its bytes see below. */
/* clang-format off */
#define STATE_DICT(last)                                                        \
    "{'__metadata__':{'format':'pt'}," ENTRY("aux.vocab", "U8", "[3]", "[0,3]") \
    "," ENTRY("classifier.weight", "F32", "[2,12]", "[3,99]")                   \
    "," ENTRY("features.0.bias", "F32", "[2]", "[99,107]")                      \
    "," ENTRY("features.0.weight", "F32", "[2,2,2,1]", "[107,139]")             \
    "," ENTRY("features.1.bias", "F16", "[2]", "[139,143]")                     \
    "," ENTRY("features.1.num_batches_tracked", "I64", "[]", "[143,151]")       \
    "," ENTRY("features.1.running_mean", "F32", "[2]", "[151,159]")             \
    "," ENTRY("features.1.running_var", "BF16", "[2]", "[159,163]") "," last "}"
/* clang-format on */
enum { STATE_DICT_BYTES = 171 };

static void state_dict_bytes(unsigned char *data) {
    size_t i;

    memset(data, 'a', STATE_DICT_BYTES);
    for (i = 0; i < 24; i++) put_f32(data + 3 + 4 * i, 100 + (float)i);
    for (i = 0; i < 2; i++) put_f32(data + 99 + 4 * i, 200 + (float)i);
    for (i = 0; i < 8; i++) put_f32(data + 107 + 4 * i, 300 + (float)i);
    data[139] = 0x00, data[140] = 0x3e; /* half: 1.5 */
    data[141] = 0x00, data[142] = 0xc4; /* -4 */
    for (i = 0; i < 2; i++) put_f32(data + 151 + 4 * i, 500 + (float)i);
    data[159] = 0x80, data[160] = 0x3f; /* bfloat16: 1 */
    data[161] = 0x20, data[162] = 0x41; /* 10 */
    for (i = 0; i < 2; i++) put_f32(data + 163 + 4 * i, 700 + (float)i);
}

TEST(state_dict_into_rows) {
    static const float first[ROWS_TENSORS] = { 300, 200, 700, 1.5f, 500, 1, 100 };
    static const float second[ROWS_TENSORS] = { 301, 201, 701, -4, 501, 10, 101 };
    static const size_t count[ROWS_TENSORS] = { 8, 2, 2, 2, 2, 2, 24 };
    unsigned char data[STATE_DICT_BYTES];
    float got[ROWS_LARGEST];
    nn_opts o = options();
    nn_model m;
    size_t spaces, i, e;

    CHECK_EQ_INT(nn_build(&m, rows_in_c, &o), 0);
    state_dict_bytes(data);
    for (spaces = 0; spaces < 8; spaces++) { /* data at every place */
        file f = file_of(STATE_DICT(ENTRY("features.1.weight", "F32", "[2]", "[163,171]")), spaces,
                         data, sizeof data);

        for (i = 0; i < ROWS_TENSORS; i++) {
            memset(got, 0, sizeof got);
            CHECK_EQ_INT(nn_set(&m, rows_tensors[i], got, count[i]), 0);
        }
        CHECK_EQ_INT(load_params(&m, f, 0), 0);
        CHECK_EQ_STR(told, "");
        for (i = 0; i < ROWS_TENSORS; i++) {
            test_note("%s, %lu spaces", rows_tensors[i], (unsigned long)spaces);
            CHECK_EQ_INT(nn_get(&m, rows_tensors[i], got, count[i]), 0);
            CHECK_CLOSE(got[0], first[i], 0);
            CHECK_CLOSE(got[1], second[i], 0);
            for (e = 2; e < count[i]; e++) CHECK_CLOSE(got[e], first[i] + (float)e, 0);
        }
        drop(&f);
    }
    nn_free(&m);
}

/* Is what was told exactly these words, in any order? */
static int told_exactly(const char *words) {
    char copy[sizeof told], padded[sizeof told + 1], *word;

    snprintf(padded, sizeof padded, " %s", told);
    if (strlen(words) != strlen(told)) return 0;
    strcpy(copy, words);
    for (word = strtok(copy, " "); word; word = strtok(NULL, " ")) {
        char with_spaces[100];

        snprintf(with_spaces, sizeof with_spaces, " %s ", word);
        if (!strstr(padded, with_spaces)) return 0;
    }
    return 1;
}

TEST(missing_tensors_are_told) {
    /* clang-format off */
    static const char header[] = "{" ENTRY("classifier.weight", "F32", "[2,12]", "[0,96]") ","
                                 ENTRY("head.bias", "F32", "[1]", "[96,100]") ","
                                 ENTRY("head.weight", "F32", "[1,2]", "[100,108]") ","
                                 ENTRY("features.1.running_mean", "F32", "[2]", "[108,116]") "}";
    /* clang-format on */
    unsigned char data[116];
    float before[8], after[8], mean[2];
    nn_opts o = options();
    nn_model m;
    file f;
    size_t i;

    for (i = 0; i < sizeof data / 4; i++) put_f32(data + 4 * i, (float)i);
    f = padded_file(header, data, sizeof data);
    CHECK_EQ_INT(nn_build(&m, rows_in_c, &o), 0);
    CHECK_EQ_INT(nn_get(&m, "features.0.weight", before, 8), 0);
    CHECK_EQ_INT(load_params(&m, f, 1), 0);
    if (!CHECK(told_exactly("+head.bias +head.weight -features.0.weight -features.0.bias "
                            "-features.1.weight -features.1.bias -features.1.running_var ")))
        printf("%s\n", told);
    CHECK_EQ_INT(nn_get(&m, "features.0.weight", after, 8), 0);
    CHECK_SAME_BYTES(before, after, sizeof before);
    CHECK_EQ_INT(nn_get(&m, "features.1.running_mean", mean, 2), 0);
    CHECK_CLOSE(mean[0], 27, 0);
    CHECK_CLOSE(mean[1], 28, 0);
    why[0] = '\0';
    CHECK_EQ_INT(nn_load_params(&m, f.bytes, f.size, 1, NULL, NULL), 0);
    CHECK_EQ_INT(load_params(&m, f, 0), NN_ERR_FILE_TENSOR);
    CHECK_EQ_STR(told, "");
    CHECK(strstr(why, "head.bias") != NULL);
    drop(&f);
    nn_free(&m);
}

/* The error comes with the last tensor of the file, and still nothing has changed. */
TEST(all_or_nothing) {
    static const struct {
        const char *header;
        int err;
    } bad[] = {
        { STATE_DICT(ENTRY("features.1.weight", "F32", "[1,2]", "[163,171]")), NN_ERR_FILE_TENSOR },
        { STATE_DICT(ENTRY("features.1.weight", "I64", "[1]", "[163,171]")), NN_ERR_FILE_TENSOR },
        { STATE_DICT(ENTRY("features.1.weight", "I32", "[2]", "[163,171]")), NN_ERR_FILE_TENSOR },
        { STATE_DICT(ENTRY("features.1.gamma", "F32", "[2]", "[163,171]")), NN_ERR_FILE_TENSOR },
        { STATE_DICT(ENTRY("features.0.bias", "F32", "[2]", "[163,171]")), NN_ERR_FILE_TENSOR },
        { STATE_DICT(ENTRY("features.1.weight", "F32", "[2]", "[162,170]")), NN_ERR_FILE_ORDER },
        { STATE_DICT(ENTRY("features.1.weight", "F64", "[1]", "[163,171]")), NN_ERR_FILE_DTYPE },
    };
    unsigned char data[STATE_DICT_BYTES];
    nn_opts o = options();
    nn_model m;
    file before, after, f;
    size_t i;

    state_dict_bytes(data);
    CHECK_EQ_INT(nn_build(&m, rows_in_c, &o), 0);
    before = save(&m, 0);
    for (i = 0; i < sizeof bad / sizeof *bad; i++) {
        test_note("file %lu", (unsigned long)i);
        f = padded_file(bad[i].header, data, sizeof data);
        CHECK_EQ_INT(load_params(&m, f, 0), bad[i].err);
        CHECK(strstr(why, i == 4 ? "features.0.bias" : "features.1.") != NULL);
        after = save(&m, 0);
        same_file(before, after);
        drop(&after);
        drop(&f);
    }
    drop(&before);
    nn_free(&m);
}

/* By the definition of IEEE 754's binary16. */
static float half(unsigned h) {
    int exponent = (int)(h >> 10 & 31), mantissa = (int)(h & 1023);
    double v = exponent == 31 ? mantissa ? (double)NAN : HUGE_VAL
               : exponent     ? ldexp(1024 + mantissa, exponent - 25)
                              : ldexp(mantissa, -24);

    return (float)(h & 0x8000 ? -v : v);
}

/* bfloat16 is float without its lower half. */
static float bfloat(unsigned h) {
    uint32_t bits = (uint32_t)h << 16;
    float v;

    memcpy(&v, &bits, 4);
    return v;
}

TEST(every_half_and_bfloat) {
    static const struct {
        const char *header;
        float (*value)(unsigned h);
    } kind[] = { { "{" ENTRY("d.weight", "F16", "[512,128]", "[0,131072]") "}", half },
                 { "{" ENTRY("d.weight", "BF16", "[512,128]", "[0,131072]") "}", bfloat } };
    unsigned char *data = (unsigned char *)malloc(131072);
    float *got = (float *)malloc(65536 * sizeof *got);
    nn_opts o = options();
    nn_model m;
    unsigned i, k;

    need(data && got);
    for (i = 0; i < 131072; i++) data[i] = (unsigned char)(i / 2 >> i % 2 * 8);
    if (!build(&m, "input x - shape=128; dense d x units=512 no_bias=1", &o)) return;
    for (k = 0; k < 2; k++) {
        file f = padded_file(kind[k].header, data, 131072);

        CHECK_EQ_INT(load_params(&m, f, 0), 0);
        CHECK_EQ_INT(nn_get(&m, "d.weight", got, 65536), 0);
        for (i = 0; i < 65536; i++) {
            float want = kind[k].value(i);

            test_note("%s %04x", k ? "bfloat16" : "half", i);
            if (isnan(want)) CHECK(isnan(got[i]));
            else CHECK_SAME_BYTES(&got[i], &want, sizeof want);
        }
        drop(&f);
    }
    nn_free(&m);
    free(data);
    free(got);
}

/* ---- weights used where they lie ------------------------------------------------------------- */

static const char place_net[] =
    "input x - shape=9; dense a x units=33 act=tanh; dense b a units=17 act=relu;"
    "dense head b units=3";
enum { PLACE_PARAMS = 33 * 10 + 17 * 34 + 3 * 18 };

/* Loads in place; on a machine whose floats lie the other way round that must be refused. */
static int load_in_place(nn_model *m, file f, nn_opts *o) {
    o->in_place = 1;
    if (!NN__BIG_ENDIAN) return load(m, f, o);
    CHECK_EQ_INT(nn_load(m, f.bytes, f.size, o), NN_ERR_OPTION);
    return 0;
}

TEST(in_place_reads_the_file) {
    file f = saved(place_net), backup = copy_of(f);
    unsigned char *weight = tensor_in(f, "a.weight") + 4 * (5 * 9 + 4); /* [5][4] */
    float value, y[3], before[3], zero[9] = { 0 }, one[9 * 33];
    nn_opts o = options();
    nn_model copied, m;

    if (!load(&copied, f, &o)) return;
    if (!load_in_place(&m, f, &o)) return;
    same_outputs(&copied, &m);
    CHECK(copied.block_size - m.block_size >= 4 * PLACE_PARAMS);
    CHECK_EQ_INT(nn_memory_file(f.bytes, f.size, &o), m.block_size);
    same_model(&copied, &m, 0);

    make_input(&m, 3);
    CHECK_EQ_INT(nn_infer(&m, x.real, before, 1), 0);
    put_f32(weight, 4);
    CHECK_EQ_INT(nn_get(&m, "a.weight", one, 9 * 33), 0);
    CHECK_CLOSE(one[5 * 9 + 4], 4, 0);
    CHECK_EQ_INT(nn_infer(&m, x.real, y, 1), 0);
    CHECK(memcmp(before, y, sizeof y) != 0);
    value = one[0];
    CHECK_EQ_INT(nn_set(&m, "a.weight", &value, 1), NN_ERR_CALL);
    CHECK_EQ_INT(nn_set(&m, "head.bias", zero, 3), NN_ERR_CALL);
    memcpy(f.bytes, backup.bytes, f.size);
    CHECK_EQ_INT(nn_infer(&m, x.real, y, 1), 0);
    CHECK_SAME_BYTES(before, y, sizeof y);
    CHECK_EQ_INT(load_params(&m, f, 0), NN_ERR_CALL);
    same_outputs(&copied, &m);
    nn_free(&m);
    nn_free(&copied);
    drop(&backup);
    drop(&f);
}

TEST(in_place_trains_a_copied_head) {
    file f = saved(place_net), backup = copy_of(f);
    nn_opts o = training("head");
    nn_model copied, m;

    o.optimizer = NN_ADAM;
    if (!load(&copied, f, &o)) return;
    if (!load_in_place(&m, f, &o)) return;
    CHECK_EQ_INT(nn_memory_file(f.bytes, f.size, &o), m.block_size);
    train(&copied, 0, 3);
    train(&m, 0, 3);
    same_outputs(&copied, &m);
    same_model(&copied, &m, 1);
    same_file(f, backup); /* nothing was written to it */
    put_f32(tensor_in(f, "head.weight"), 100);
    put_f32(tensor_in(f, "head.bias"), 100);
    same_outputs(&copied, &m);
    nn_free(&m);
    nn_free(&copied);
    drop(&backup);
    drop(&f);
}

/* Running statistics that move are copied too. */
TEST(in_place_moves_copied_statistics) {
    file f = saved(small_net), backup = copy_of(f);
    nn_opts o = training("n");
    nn_model copied, m;

    if (!load(&copied, f, &o)) return;
    if (!load_in_place(&m, f, &o)) return;
    train(&copied, 0, 2);
    train(&m, 0, 2);
    same_model(&copied, &m, 1);
    same_file(f, backup);
    nn_free(&m);
    nn_free(&copied);
    drop(&backup);
    drop(&f);
}

TEST(in_place_needs_alignment) {
    file f = saved(place_net), moved = new_file(f.size + 8);
    size_t shift;
    nn_opts o;
    nn_model copied, m;

    for (shift = 0; shift <= 8; shift++) {
        file at;

        at.bytes = moved.bytes + shift;
        at.size = f.size;
        memcpy(at.bytes, f.bytes, f.size);
        test_note("%lu bytes from an aligned place", (unsigned long)shift);
        o = options();
        if (!load(&copied, at, &o)) break; /* copies work anywhere */
        if (shift % 4 && !NN__BIG_ENDIAN) {
            o.in_place = 1;
            CHECK_EQ_INT(nn_load(&m, at.bytes, at.size, &o), NN_ERR_ALIGN);
            CHECK(strstr(why, ".weight") || strstr(why, ".bias"));
        } else if (load_in_place(&m, at, &o)) {
            same_outputs(&copied, &m);
            nn_free(&m);
        }
        nn_free(&copied);
    }
    drop(&f);
    drop(&moved);
}

/* What is not float32 cannot be used where it lies. */
TEST(in_place_needs_float32) {
    static const unsigned char data[12] = { 0 };
    file f = padded_file("{" HEAD "," ENTRY("d.weight", "F32", "[1,2]", "[0,8]") "," ENTRY(
                             "d.bias", "F16", "[1]", "[8,10]") "}",
                         data, 10);
    nn_opts o = options();
    nn_model m;

    if (load(&m, f, &o)) nn_free(&m);
    o.in_place = 1;
    CHECK_EQ_INT(nn_load(&m, f.bytes, f.size, &o),
                 NN__BIG_ENDIAN ? NN_ERR_OPTION : NN_ERR_FILE_TENSOR);
    drop(&f);
}

/* ---- resuming -------------------------------------------------------------------------------- */

static const char resume_net[] =
    "input x - shape=6,5,3; conv2d c x units=17 kernel=3; batchnorm n c act=relu; flatten f n;"
    "dropout r1 f rate=0.5; dense h r1 units=18 act=tanh lr=0.5; dropout r2 h rate=0.25;"
    "dense o r2 units=3 no_decay=1";

/* Ways to train; what is zero is training's. */
static const struct {
    const char *what;
    const char *train;
    nn_opts o;
} ways[] = {
    { "SGD", "*", { .optimizer = NN_SGD } },
    { "SGD with decay", "*", { .weight_decay = 0.03125f } },
    { "momentum", "*", { .momentum = 0.75f, .weight_decay = 0.03125f } },
    { "Adam", "*", { .optimizer = NN_ADAM, .weight_decay = 0.03125f } },
    { "Adam as Keras", "*", { .optimizer = NN_ADAM, .eps_mode = NN_EPS_KERAS } },
    { "Adam with all set",
      "*",
      { .optimizer = NN_ADAM,
        .beta1 = 0.5f,
        .beta2 = 0.75f,
        .eps = 0.001f,
        .seed = (uint64_t)1 << 63 } },
    { "mean squared error", "*", { .loss = NN_MSE, .momentum = 0.5f } },
    { "binary cross-entropy", "*", { .loss = NN_BCE, .optimizer = NN_ADAM } },
    { "head", "o", { .optimizer = NN_ADAM } },
    { "head and norm", "n o", { .momentum = 0.5f } },
    { "updates during backward", "*", { .fuse_update = 1, .momentum = 0.5f } },
    { "frozen rows in place", "h o", { .optimizer = NN_ADAM, .in_place = !NN__BIG_ENDIAN } },
};
enum { WAYS = sizeof ways / sizeof *ways, STEPS = 3 };

static nn_opts way(int i) {
    nn_opts o = ways[i].o, base = training(ways[i].train);

    o.train = base.train;
    o.batch = base.batch;
    o.lr = base.lr;
    if (!o.loss) o.loss = base.loss;
    if (!o.seed) o.seed = base.seed;
    o.why = base.why;
    o.why_size = base.why_size;
    return o;
}

TEST(resumes_bit_for_bit) {
    file start = saved(resume_net);
    int i, all_set;

    for (i = 0; i < WAYS; i++)
        for (all_set = 0; all_set < 2; all_set++) {
            nn_opts o = way(i), resume;
            nn_model whole, half_way, m;
            file f;

            test_note("%s, options %s", ways[i].what, all_set ? "set" : "from the file");
            if (!load(&whole, start, &o) || !load(&half_way, start, &o)) return;
            train(&whole, 0, 2 * STEPS);
            train(&half_way, 0, STEPS);
            f = save(&half_way, 1);
            nn_free(&half_way);
            resume = all_set ? o : options();
            resume.resume = 1;
            resume.train = o.train;
            resume.batch = BATCH;
            resume.fuse_update = o.fuse_update;
            resume.in_place = o.in_place;
            CHECK_EQ_INT(nn_memory_file(f.bytes, f.size, &resume), whole.block_size);
            if (!load(&m, f, &resume)) return;
            CHECK_EQ_INT(m.step, STEPS);
            train(&m, STEPS, 2 * STEPS);
            CHECK_EQ_INT(m.step, 2 * STEPS);
            CHECK_SAME_BYTES(&m.loss, &whole.loss, sizeof m.loss);
            same_outputs(&m, &whole);
            same_model(&m, &whole, 1);
            nn_free(&m);
            nn_free(&whole);
            drop(&f);
        }
    drop(&start);
}

/* Two epochs are an epoch, a file, and an epoch. */
TEST(resumes_shuffled_epochs) {
    enum { SAMPLES = 10 };
    nn_opts o = training("*"), resume = options();
    nn_fit_opts fit;
    nn_model whole, m;
    file start, f;
    size_t i;

    start = saved(small_net);
    if (!load(&whole, start, &o) || !load(&m, start, &o)) return;
    for (i = 0; i < SAMPLES * 3; i++) x.real[i] = gen_float(1, 1, i, 1, 0);
    for (i = 0; i < SAMPLES; i++) target.label[i] = gen_int(1, 2, i, 2);
    memset(&fit, 0, sizeof fit);
    fit.x = x.real;
    fit.y = target.label;
    fit.n = SAMPLES;
    fit.epochs = 2;
    fit.quiet = 1;
    CHECK_EQ_INT(nn_fit(&whole, &fit), 0);
    fit.epochs = 1;
    CHECK_EQ_INT(nn_fit(&m, &fit), 0);
    f = save(&m, 1);
    nn_free(&m);
    resume.resume = 1;
    resume.train = "*";
    resume.batch = BATCH;
    if (!load(&m, f, &resume)) return;
    CHECK_EQ_INT(nn_fit(&m, &fit), 0);
    same_model(&m, &whole, 1);
    nn_free(&m);
    nn_free(&whole);
    drop(&f);
    drop(&start);
}

static void refuses_to_resume(file f, const char *what, const nn_opts *o, int err) {
    nn_model m;

    test_note("%s", what);
    why[0] = '\0';
    CHECK_EQ_INT(nn_load(&m, f.bytes, f.size, o), err);
    CHECK(why[0] != '\0');
    nn_free(&m);
    CHECK(nn_memory_file(f.bytes, f.size, o) < 0 || err == NN_ERR_FILE_TENSOR);
}

TEST(refuses_to_resume_otherwise) {
    nn_opts o = training("*"), good, other;
    nn_model m;
    file f, model;

    o.optimizer = NN_ADAM;
    o.eps_mode = NN_EPS_KERAS;
    o.weight_decay = 0.125f;
    if (!build(&m, small_net, &o)) return;
    train(&m, 0, 1);
    f = save(&m, 1);
    model = save(&m, 0);
    nn_free(&m);
    good = o;
    good.resume = 1;
    if (load(&m, f, &good)) nn_free(&m);
#define REFUSES(field, value)                                \
    do {                                                     \
        other = good;                                        \
        other.field = value;                                 \
        refuses_to_resume(f, #field, &other, NN_ERR_OPTION); \
    } while (0)
    REFUSES(loss, NN_MSE);
    REFUSES(lr, 0.125f);
    REFUSES(momentum, 0.5f);
    REFUSES(beta1, 0.5f);
    REFUSES(beta2, 0.5f);
    REFUSES(eps, 0.5f);
    REFUSES(weight_decay, 0.25f);
    REFUSES(seed, 8);
    REFUSES(seed, 7 + ((uint64_t)1 << 32));
#undef REFUSES
    refuses_to_resume(model, "a file without state", &good, NN_ERR_OPTION);
    other = good;
    other.train = "h";
    refuses_to_resume(f, "less that trains", &other, NN_ERR_OPTION);
    other.train = NULL;
    refuses_to_resume(f, "nothing that trains", &other, NN_ERR_OPTION);
    drop(&f);
    drop(&model);

    o = training("h");
    o.momentum = 0.5f;
    if (!build(&m, small_net, &o)) return;
    f = save(&m, 1);
    nn_free(&m);
    good = o;
    good.resume = 1;
    if (load(&m, f, &good)) nn_free(&m);
    other = good;
    other.train = "*";
    refuses_to_resume(f, "more that trains", &other, NN_ERR_OPTION);
    other = good;
    other.optimizer = NN_ADAM;
    refuses_to_resume(f, "another optimizer", &other, NN_ERR_OPTION);
    other = good;
    other.eps_mode = NN_EPS_KERAS;
    refuses_to_resume(f, "another epsilon", &other, NN_ERR_OPTION);
    drop(&f);
}

/* nn.train with a right checksum and wrong content. */
TEST(refuses_hostile_training_state) {
    static const struct {
        const char *text, *by;
        int err;
    } swaps[] = {
        { "loss=3", "loss=x", NN_ERR_FILE_META },
        { "loss=3", "lass=3", NN_ERR_FILE_META },
        { "loss=3", "loss=9", NN_ERR_OPTION },
        { " opt=1", " opt=2", NN_ERR_OPTION },
        { " opt=1", " opt= ", NN_ERR_FILE_META },
        { " lr=x3d800000", " lr=x7fc00000", NN_ERR_OPTION },
        { " lr=x3d800000", " lr=x7f800000", NN_ERR_OPTION },
        { " lr=x3d800000", " lr=xbd800000", NN_ERR_OPTION },
        { " b1=x3f666666", " b1=x3f800000", NN_ERR_OPTION },
        { " b1=x3f666666", " b1=x3F666666", NN_ERR_FILE_META },
        { " seed=0000000000000007", " seed=000000000000000g", NN_ERR_FILE_META },
        { " t=0000000000000001", " u=0000000000000001", NN_ERR_FILE_META },
        { " b1t=7", " b1t=8", NN_ERR_FILE_META },
        { " b2t=7", " b2t=f", NN_ERR_FILE_META },
        { "nn.train", "nn.trein", NN_ERR_OPTION },
        { "\"opt.m/h.bias\"", "\"opt.v/h.bias\"", NN_ERR_FILE_TENSOR },
        { "\"opt.m/h.bias\"", "\"opt.m/h.biis\"", NN_ERR_FILE_TENSOR },
        { "\"opt.m/n.bias\"", "\"opt.mom.bias\"", NN_ERR_FILE_TENSOR },
    };
    nn_opts o = training("*"), resume = options();
    nn_model m;
    size_t i;

    o.optimizer = NN_ADAM;
    if (!build(&m, small_net, &o)) return;
    train(&m, 0, 1);
    resume.train = "*";
    resume.resume = 1;
    for (i = 0; i < sizeof swaps / sizeof *swaps; i++) {
        file f = save(&m, 1);

        swap_text(f, swaps[i].text, swaps[i].by);
        test_note("%s instead of %s", swaps[i].by, swaps[i].text);
        why[0] = '\0';
        {
            nn_model other;
            int err = nn_load(&other, f.bytes, f.size, &resume);

            if (!CHECK_EQ_INT(err, swaps[i].err)) printf("%s\n", why);
            CHECK(why[0] != '\0');
            nn_free(&other);
        }
        drop(&f);
    }
    nn_free(&m);
}

/* ---- bytes of the application's -------------------------------------------------------------- */

static unsigned char aux_bytes[4096];
static const nn_aux many[] = {
    { "one", aux_bytes + 7, 1 },     { "3/three-._Z", aux_bytes + 8, 3 },
    { "all", aux_bytes, 4096 },      { "64", aux_bytes + 1000, 64 },
    { "two.words", aux_bytes, 130 }, { NULL, NULL, 0 },
};
enum { MANY = sizeof many / sizeof *many - 1 };

static void make_aux(void) {
    size_t i;

    for (i = 0; i < sizeof aux_bytes; i++) aux_bytes[i] = (unsigned char)gen_int(1, 200, i, 256);
}

/* The model has what was stored, from first to first + size - 1. */
static void check_aux(const nn_model *m, const void *first, size_t size) {
    const unsigned char *from = (const unsigned char *)first, *p;
    size_t n;
    int i;

    for (i = 0; i < MANY; i++) {
        test_note("aux %s", many[i].name);
        p = (const unsigned char *)nn_get_aux(m, many[i].name, &n);
        CHECK_EQ_INT(n, many[i].size);
        CHECK(nn_get_aux(m, many[i].name, NULL) == p);
        if (!CHECK(p >= from && p + n <= from + size)) continue;
        CHECK_SAME_BYTES(p, many[i].bytes, n);
    }
    CHECK(nn_get_aux(m, "on", &n) == NULL && n == 0);
    CHECK(nn_get_aux(m, "", NULL) == NULL);
    CHECK(nn_get_aux(m, NULL, NULL) == NULL);
}

/* By the reader of test.h, which is not ours: entries, bytes, and where those lie. */
static void check_aux_in_file(const char *path) {
    golden *g = golden_open(path);
    char name[80];
    int i;

    if (!CHECK(g != NULL)) return;
    for (i = 0; i < MANY; i++) {
        const golden_tensor *t;
        size_t align;

        snprintf(name, sizeof name, "aux.%s", many[i].name);
        t = golden_find(g, name);
        test_note("%s", name);
        if (!CHECK(t != NULL)) continue;
        CHECK_EQ_STR(t->dtype, "U8");
        CHECK(t->dims == 1 && t->dim[0] == many[i].size);
        CHECK_SAME_BYTES(t->data, many[i].bytes, many[i].size);
        for (align = 64; many[i].size % align; align /= 2) {}
        CHECK_EQ_INT((size_t)((const unsigned char *)t->data - g->data) % align, 0);
    }
    golden_close(g);
}

/* Models for inference and for training, loaded into the block and used in place. */
TEST(aux_travels) {
    int kind, in_place;

    make_aux();
    for (kind = 0; kind < 2; kind++) {
        nn_opts o = training("*");
        nn_model m, loaded;
        file f, aligned, again;

        o.aux = many;
        o.optimizer = NN_ADAM;
        if (!build(&m, small_net, &o)) return;
        train(&m, 0, 2);
        check_aux(&m, aux_bytes, sizeof aux_bytes);
        f = save(&m, kind);
        CHECK_EQ_INT(nn_save_file(&m, scratch, kind), 0);
        check_aux_in_file(scratch);
        remove(scratch);
        for (in_place = 0; in_place < 2 - NN__BIG_ENDIAN; in_place++) {
            unsigned char *block, *room = (unsigned char *)malloc(f.size + 16);
            int64_t size;

            need(room != NULL);
            aligned.bytes = room + (16 - (uintptr_t)room % 16) % 16;
            aligned.size = f.size;
            memcpy(aligned.bytes, f.bytes, f.size);
            o = options();
            if (kind) o.resume = 1, o.train = "*", o.batch = BATCH;
            o.in_place = in_place; /* copies what trains */
            test_note("kind %d, in place %d", kind, in_place);
            size = nn_memory_file(aligned.bytes, f.size, &o);
            if (!CHECK(size > 0)) return;
            block = (unsigned char *)malloc((size_t)size + NN_ALIGNMENT);
            need(block != NULL);
            o.memory = block + NN_ALIGNMENT - (uintptr_t)block % NN_ALIGNMENT;
            o.memory_size = (size_t)size - 1;
            CHECK_EQ_INT(nn_load(&loaded, aligned.bytes, f.size, &o), NN_ERR_MEMORY);
            o.memory_size++;
            if (load(&loaded, aligned, &o)) {
                CHECK_EQ_INT(loaded.block_size, size);
                if (in_place) check_aux(&loaded, aligned.bytes, f.size);
                else check_aux(&loaded, loaded.block, loaded.block_size);
                same_outputs(&loaded, &m);
                again = save(&loaded, kind);
                same_file(again, f);
                drop(&again);
                nn_free(&loaded);
            }
            free(block);
            free(room);
        }
        nn_free(&m);
        drop(&f);
    }
}

/* What the caller gives stands for what the file holds, and needs no room in the block. */
TEST(aux_is_replaced) {
    static const nn_aux other[] = { { "one", "new", 3 }, { NULL, NULL, 0 } }, none[1] = { { 0 } };
    nn_opts o = options();
    nn_model m;
    file bare, f, again;
    size_t size = 9;

    make_aux();
    bare = saved(small_net);
    o.aux = many;
    if (!load(&m, bare, &o)) return;
    f = save(&m, 0);
    CHECK(f.size > bare.size + 4096 + 64);
    nn_free(&m);
    o.aux = other;
    CHECK_EQ_INT(nn_memory_file(f.bytes, f.size, &o), nn_memory_file(bare.bytes, bare.size, &o));
    if (load(&m, f, &o)) {
        CHECK(nn_get_aux(&m, "one", &size) == (const void *)other[0].bytes && size == 3);
        CHECK(nn_get_aux(&m, "all", &size) == NULL && size == 0);
        nn_free(&m);
    }
    o.aux = none; /* an empty list is one, too */
    if (load(&m, f, &o)) {
        again = save(&m, 0);
        same_file(again, bare);
        drop(&again);
        nn_free(&m);
    }
    drop(&f);
    drop(&bare);
}

/* A vocabulary in the model's file gives the same ids. */
TEST(vocabulary_in_the_file) {
    static const char text[] = "The cat saw the dog; the dog saw a bird. Nobody else saw the cat!";
    static unsigned char words[1024], counting[4096];
    int32_t ids[2][16];
    nn_opts o = options();
    nn_tokenizer before, after;
    nn_model m, loaded;
    nn_words w;
    nn_aux list[2];
    const void *bytes;
    size_t size;
    int64_t written;
    file f;

    CHECK_EQ_INT(nn_words_begin(&w, NULL, counting, sizeof counting, 32, 128), 0);
    CHECK_EQ_INT(nn_words_add(&w, text, sizeof text - 1), 0);
    written = nn_words_save(&w, words, sizeof words);
    if (!CHECK(written > 0)) return;
    memset(list, 0, sizeof list);
    list[0].name = "words";
    list[0].bytes = words;
    list[0].size = (size_t)written;
    o.aux = list;
    if (!build(&m, small_net, &o)) return;
    f = save(&m, 0);
    nn_free(&m);
    o.aux = NULL;
    if (!load(&loaded, f, &o)) return;
    drop(&f); /* not in place: nothing of it is needed any more */
    bytes = nn_get_aux(&loaded, "words", &size);
    CHECK_EQ_INT(nn_tokenizer_load(&before, words, (size_t)written, NULL), 0);
    if (CHECK_EQ_INT(nn_tokenizer_load(&after, bytes, size, NULL), 0)) {
        CHECK_EQ_INT(nn_tokenizer_ids(&before, text, sizeof text - 1, ids[0], 16, NN_PRE, NN_PRE),
                     15);
        CHECK_EQ_INT(nn_tokenizer_ids(&after, text, sizeof text - 1, ids[1], 16, NN_PRE, NN_PRE),
                     15);
        CHECK(ids[0][0] == 0 && ids[0][1] == 1 && ids[0][3] == 2); /* "the", "saw" */
        CHECK_SAME_BYTES(ids[1], ids[0], sizeof ids[0]);
        CHECK_EQ_INT(after.words, 8);
    }
    nn_free(&loaded);
}

/* ---- memory ---------------------------------------------------------------------------------- */

TEST(memory_is_known_before) {
    file f = saved(every_op);
    int how;

    for (how = 0; how < 6; how++) {
        nn_opts o = how == 0 ? options() : training(how < 4 ? "*" : "h o");
        int64_t size;
        unsigned char *block;
        nn_model m;

        if (how == 2) o.optimizer = NN_ADAM;
        if (how == 3) o.train = "c1 n1 o", o.fuse_update = 1;
        if (how == 5) o.in_place = !NN__BIG_ENDIAN;
        test_note("options %d", how);
        size = nn_memory_file(f.bytes, f.size, &o);
        if (!CHECK(size > 0)) break;
        if (!load(&m, f, &o)) break;
        CHECK_EQ_INT(m.block_size, size);
        nn_free(&m);
        block = (unsigned char *)malloc((size_t)size + NN_ALIGNMENT);
        need(block != NULL);
        o.memory = block + NN_ALIGNMENT - (uintptr_t)block % NN_ALIGNMENT;
        o.memory_size = (size_t)size;
        if (load(&m, f, &o)) nn_free(&m);
        o.memory_size--;
        CHECK_EQ_INT(nn_load(&m, f.bytes, f.size, &o), NN_ERR_MEMORY);
        free(block);
    }
    drop(&f);
}

/* The rows of a small file may ask for gigabytes. That costs an error, not the gigabytes' time. */
TEST(small_file_large_rows) {
    static const unsigned char data[12] = { 0 };
    static char block[4096];
    file f = padded_file("{" META_("1.0", "model",
                                   ",'nn.graph':'1;input x - shape=2;"
                                   "dense d x units=200000000'") "," W "," B "}",
                         data, 12);
    nn_opts o = options();
    nn_model m;

    CHECK(nn_memory_file(f.bytes, f.size, &o) > 3000000000);
    o.memory = block + (NN_ALIGNMENT - (uintptr_t)block % NN_ALIGNMENT) % NN_ALIGNMENT;
    o.memory_size = sizeof block - NN_ALIGNMENT;
    CHECK_EQ_INT(nn_load(&m, f.bytes, f.size, &o), NN_ERR_MEMORY);
    drop(&f);
}

/* ---- writing --------------------------------------------------------------------------------- */

typedef struct cut {
    file want;
    size_t at, left; /* bytes received, and still accepted */
    int failed, calls_after;
} cut;

static int write_cut(void *user, const void *bytes, size_t size) {
    cut *c = (cut *)user;
    size_t n = size < c->left ? size : c->left;

    c->calls_after += c->failed;
    if (n > c->want.size - c->at) n = c->want.size - c->at;
    if (memcmp(c->want.bytes + c->at, bytes, n) != 0) CHECK(0 && "the bytes of the whole file");
    c->at += n;
    c->left -= n;
    c->failed = n < size;
    return c->failed;
}

TEST(writing_fails_after_every_byte) {
    nn_opts o = training("*");
    nn_model m;
    int kind;
    cut c;

    o.momentum = 0.5f;
    if (!build(&m, TINY ";dense o d units=2", &o)) return;
    train(&m, 0, 1);
    for (kind = 0; kind < 2; kind++) {
        file whole = save(&m, kind), after;
        size_t k;

        for (k = 0; k <= whole.size; k++) {
            memset(&c, 0, sizeof c);
            c.want = whole;
            c.left = k;
            test_note("after %lu bytes of %lu", (unsigned long)k, (unsigned long)whole.size);
            why[0] = '\0';
            CHECK_EQ_INT(nn_save(&m, kind, write_cut, &c),
                         k < whole.size ? NN_ERR_IO : (int)whole.size);
            CHECK_EQ_INT(c.at, k);
            CHECK_EQ_INT(c.calls_after, 0);
            CHECK((why[0] != '\0') == (k < whole.size));
        }
        after = save(&m, kind); /* the model is as before */
        same_file(whole, after);
        drop(&after);
        drop(&whole);
    }
    nn_free(&m);
}

TEST(memory_writer_is_bounded) {
    unsigned char few[100];
    nn_memory_writer w;
    file f = saved(TINY);
    nn_opts o = options();
    nn_model m;

    if (!load(&m, f, &o)) return;
    memset(few, 0x5a, sizeof few);
    w.bytes = few;
    w.capacity = sizeof few - 1;
    w.size = 0;
    CHECK_EQ_INT(nn_save(&m, 0, nn_write_memory, &w), NN_ERR_IO);
    CHECK(w.size <= w.capacity);
    CHECK_EQ_INT(few[sizeof few - 1], 0x5a);
    nn_free(&m);
    drop(&f);
}

/* What nn_save_file does on its way to the disk, and where that fails. */
static struct {
    int fail_sync, fail_rename;
    int syncs, renames;
    file want; /* what the new file must hold when it takes the old one's place */
} disk;

static file read_file(const char *path) {
    FILE *f = fopen(path, "rb");
    file none = { NULL, 0 }, got;
    long size = 0;

    if (!f) return none;
    need(fseek(f, 0, SEEK_END) == 0 && (size = ftell(f)) >= 0 && fseek(f, 0, SEEK_SET) == 0);
    got = new_file((size_t)size);
    need(fread(got.bytes, 1, got.size, f) == got.size);
    fclose(f);
    return got;
}

static int sync_file(FILE *f) {
    CHECK(f != NULL);
    disk.syncs++;
    return disk.fail_sync;
}

static int replace_file(const char *from, const char *to) {
    CHECK_EQ_INT(disk.syncs, disk.renames + 1);
    CHECK_EQ_STR(to, scratch);
    disk.renames++;
    if (disk.want.bytes) {
        file got = read_file(from);

        same_file(got, disk.want);
        drop(&got);
    }
#ifdef _WIN32
    if (!disk.fail_rename) remove(to);
#endif
    return disk.fail_rename ? -1 : rename(from, to);
}

static int exists(const char *path) {
    FILE *f = fopen(path, "rb");

    if (f) fclose(f);
    return f != NULL;
}

#ifdef __linux__
extern int symlink(const char *to, const char *path);
#endif

TEST(old_file_or_new) {
    char part[sizeof scratch + 8];
    nn_opts o = training("*");
    nn_model m;
    file old, new_one, got;
    int how;

    memset(&disk, 0, sizeof disk);
    snprintf(part, sizeof part, "%s.tmp", scratch);
    remove(part);
    if (!build(&m, small_net, &o)) return;
    CHECK_EQ_INT(nn_save_file(&m, scratch, 0), 0);
    CHECK_EQ_INT(disk.syncs, 1);
    CHECK_EQ_INT(disk.renames, 1);
    old = save(&m, 0);
    train(&m, 0, 1);
    new_one = save(&m, 0);
    CHECK(memcmp(old.bytes, new_one.bytes, old.size) != 0);
    for (how = 0; how < 4; how++) {
        test_note("failure %d", how);
        memset(&disk, 0, sizeof disk);
        disk.fail_sync = how == 0;
        disk.fail_rename = how == 1;
        disk.want = new_one;
#ifdef __linux__
        if (how == 2) { /* a disk that is full */
            if (!exists("/dev/full")) continue;
            CHECK_EQ_INT(symlink("/dev/full", part), 0);
        }
        if (how == 3) CHECK_EQ_INT(symlink("/no such folder/a", part), 0);
#else
        if (how >= 2) continue;
#endif
        why[0] = '\0';
        CHECK_EQ_INT(nn_save_file(&m, scratch, 0), NN_ERR_IO);
        CHECK(why[0] != '\0');
        CHECK_EQ_INT(disk.renames, how == 1);
        got = read_file(scratch);
        same_file(got, old);
        drop(&got);
        if (how == 3) remove(part); /* could not even be opened */
        CHECK(!exists(part));
    }
    memset(&disk, 0, sizeof disk);
    disk.want = new_one;
    CHECK_EQ_INT(nn_save_file(&m, scratch, 0), 0);
    CHECK(!exists(part));
    got = read_file(scratch);
    same_file(got, new_one);
    drop(&got);
    memset(&disk, 0, sizeof disk);
    remove(scratch);
    nn_free(&m);
    drop(&old);
    drop(&new_one);
}

TEST(files_by_path) {
    char longest[1400], part[sizeof scratch + 8];
    nn_opts o = training("*");
    nn_model m, b;
    FILE *f;
    int i;

    snprintf(part, sizeof part, "%s.none", scratch);
    if (!build(&m, small_net, &o)) return;
    CHECK_EQ_INT(nn_save_file(&m, scratch, 1), 0);
    for (i = 0; i < 4; i++) {
        nn_opts how = i & 1 ? training("o") : options();

        how.in_place = i >= 2 && !NN__BIG_ENDIAN;
        if (!CHECK_EQ_INT(nn_load_file(&b, scratch, &how), 0)) continue;
        CHECK((b.owned_file != NULL) == how.in_place);
        same_outputs(&m, &b);
        nn_free(&b);
    }
    if (CHECK_EQ_INT(nn_load_file(&b, scratch, NULL), 0)) nn_free(&b);
    o = options();
    CHECK_EQ_INT(nn_load_file(&b, part, &o), NN_ERR_IO);
    CHECK(strstr(why, part) != NULL);
    CHECK(b.block == NULL);
    CHECK_EQ_INT(nn_load_file(&b, NULL, &o), NN_ERR_CALL);
    CHECK_EQ_INT(nn_load_file(NULL, scratch, &o), NN_ERR_CALL);
    CHECK_EQ_INT(nn_save_file(&m, NULL, 0), NN_ERR_CALL);
    CHECK_EQ_INT(nn_save_file(NULL, scratch, 0), NN_ERR_CALL);
    CHECK_EQ_INT(nn_save_file(&m, "", 0), NN_ERR_CALL);
    memset(longest, 'a', sizeof longest);
    longest[1025] = '\0';
    CHECK_EQ_INT(nn_save_file(&m, longest, 0), NN_ERR_CALL);
    f = fopen(scratch, "wb");
    if (CHECK(f != NULL)) fclose(f);
    CHECK_EQ_INT(nn_load_file(&b, scratch, &o), NN_ERR_FILE_SHORT);
    remove(scratch);
    nn_free(&m);
}

int main(int argc, char **argv) {
    snprintf(scratch, sizeof scratch, "%.1000s.nn", argv[0]);
    test_begin(argc, argv);
    RUN(checksum_is_zlibs);
    RUN(a_file_to_the_byte);
    RUN(names_shapes_values_and_places);
    RUN(shapes_along_a_sequence);
    RUN(save_load_save);
    RUN(every_model_that_builds_loads);
    RUN(every_flipped_bit_is_noticed);
    RUN(every_other_length_is_noticed);
    RUN(hostile_headers);
    RUN(hostile_lengths);
    RUN(hostile_graphs);
    RUN(state_dict_into_rows);
    RUN(missing_tensors_are_told);
    RUN(all_or_nothing);
    RUN(every_half_and_bfloat);
    RUN(in_place_reads_the_file);
    RUN(in_place_trains_a_copied_head);
    RUN(in_place_moves_copied_statistics);
    RUN(in_place_needs_alignment);
    RUN(in_place_needs_float32);
    RUN(resumes_bit_for_bit);
    RUN(resumes_shuffled_epochs);
    RUN(refuses_to_resume_otherwise);
    RUN(refuses_hostile_training_state);
    RUN(aux_travels);
    RUN(aux_is_replaced);
    RUN(vocabulary_in_the_file);
    RUN(memory_is_known_before);
    RUN(small_file_large_rows);
    RUN(writing_fails_after_every_byte);
    RUN(memory_writer_is_bounded);
    RUN(old_file_or_new);
    RUN(files_by_path);
    return test_end();
}
