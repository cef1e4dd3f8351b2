/* fuzz_load.c - nn_load, nn_load_params and nn_build_text on bytes that nobody meant well

   With libFuzzer (clang), from the repository's root, for three minutes:

       mkdir -p build/corpus && cc -I. tests/fuzz/fuzz_load.c -o build/fuzz_load -lm
       build/fuzz_load write build/corpus
       clang -g -O1 -fsanitize=fuzzer,address,undefined -DLIBFUZZER -I. tests/fuzz/fuzz_load.c \
           -o build/fuzz_load_libfuzzer
       build/fuzz_load_libfuzzer -max_len=4096 -max_total_time=180 build/corpus

   Without libFuzzer the program has a main:

       build/fuzz_load                 a few thousand mutations of files made here, always the same
       build/fuzz_load rounds N        N times as many
       build/fuzz_load write FOLDER    writes those files, to start libFuzzer with
       build/fuzz_load FILE...         runs what libFuzzer found

   The first byte of an input picks what the rest is: see run. The header's length and the checksum
   of a file are mostly made right first, or little behind them would be reached. Whatever holds for
   every input is asserted: an error has a sentence and leaves nothing behind, and what loads is
   saved and loaded again as the same bytes. */

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A file of a few bytes may ask for gigabytes: beyond this there is no memory. */
#define MEMORY ((size_t)1 << 18)
#define NN_MALLOC(size) ((size) > MEMORY ? NULL : malloc(size))
#define NN_FREE free
#define NN_IMPLEMENTATION
#include "nn.h"

enum { CRC_AT = 37, SMALL = 1 << 14 };
enum { LOAD, TRAIN, IN_PLACE, RESUME, PARAMS, PARAMS_STRICT, TEXT, KINDS };
enum { KEEP_LENGTH = 64, KEEP_ALL = 128 }; /* bits of the first byte: repair less */

static char why[256];

static void must(int ok, const char *what) {
    if (ok) return;
    fprintf(stderr, "broken: %s (%s)\n", what, why);
    abort();
}

static nn_opts options(int kind) {
    nn_opts o;

    memset(&o, 0, sizeof o);
    memset(why, 1, sizeof why);
    o.why = why;
    o.why_size = sizeof why;
    o.batch = 2;
    if (kind == TRAIN || kind == RESUME) o.train = "*";
    if (kind == TRAIN) o.loss = NN_MSE, o.lr = 0.5f, o.momentum = 0.5f;
    o.in_place = kind == IN_PLACE;
    o.resume = kind == RESUME;
    return o;
}

static void check_error(int err) {
    must(err < 0 && strcmp(nn_error_name(err), "NN_ERR_?") != 0, "an error has a name");
    must(memchr(why, 0, sizeof why) != NULL && why[0] > 1, "an error has a sentence");
}

/* By its definition, bit by bit. */
static uint32_t crc_of(const unsigned char *p, size_t n) {
    uint32_t crc = 0xffffffffu;
    int i;

    while (n--)
        for (crc ^= *p++, i = 0; i < 8; i++) crc = crc >> 1 ^ (crc & 1 ? 0xedb88320u : 0u);
    return ~crc;
}

static void seal(unsigned char *bytes, size_t size) {
    static const char key[] = "\"nn.crc32\":\"";
    char digits[9];

    if (size < CRC_AT + 8 || memcmp(bytes + CRC_AT - 12, key, 12) != 0) return;
    memset(bytes + CRC_AT, '0', 8);
    snprintf(digits, sizeof digits, "%08lx", (unsigned long)crc_of(bytes, size));
    memcpy(bytes + CRC_AT, digits, 8);
}

/* The header's length as it is now: up to the braces that close it, and spaces. */
static void fix_length(unsigned char *bytes, size_t size) {
    size_t n = size;

    if (size < 10 || bytes[8] != '{') return;
    while (n > 9 && !(bytes[n - 1] == '}' && bytes[n - 2] == '}')) n--;
    while (n < size && bytes[n] == ' ') n++;
    memset(bytes, 0, 8);
    bytes[0] = (unsigned char)((n - 8) & 255);
    bytes[1] = (unsigned char)((n - 8) >> 8 & 255);
    bytes[2] = (unsigned char)((n - 8) >> 16);
}

static unsigned char *save(const nn_model *m, int with_training, size_t *size) {
    int64_t n = nn_save(m, with_training, NULL, NULL);
    nn_memory_writer w;

    must(n > 0, "what was built can be saved");
    w.bytes = malloc((size_t)n);
    w.capacity = (size_t)n;
    w.size = 0;
    must(w.bytes != NULL, "memory");
    must(nn_save(m, with_training, nn_write_memory, &w) == n && w.size == (size_t)n,
         "nn_save counts what it writes");
    *size = w.size;
    return (unsigned char *)w.bytes;
}

/* Work for one small sample. */
static void use(nn_model *m) {
    float *x, *y;

    if (m->block_size > SMALL || m->in_size > SMALL) return;
    x = (float *)calloc((size_t)m->in_size, sizeof *x);
    y = (float *)calloc((size_t)m->out_size, sizeof *y);
    must(x && y, "memory");
    must(nn_infer(m, x, y, 1) == 0, "a model infers");
    if (m->opts.train && m->opts.loss != NN_CROSS_ENTROPY) {
        int err = nn_train(m, x, y, 1);

        must(err == 0 || err == NN_ERR_NAN || err == NN_ERR_LABEL, "a model trains");
    }
    free(x);
    free(y);
}

/* Save, load, save: the same bytes. */
static void round_trip(const nn_model *m, int with_training) {
    nn_opts o = options(with_training ? RESUME : LOAD);
    size_t size, again;
    unsigned char *first = save(m, with_training, &size), *second;
    nn_model copy;
    int err = nn_load(&copy, first, size, &o);

    if (err != NN_ERR_MEMORY) {
        must(err == 0, "what was saved loads");
        second = save(&copy, with_training, &again);
        must(size == again && memcmp(first, second, size) == 0, "and is saved as the same bytes");
        free(second);
        nn_free(&copy);
    }
    free(first);
}

static void fuzz_file(const unsigned char *image, size_t size, int kind) {
    nn_opts o = options(kind);
    int64_t memory = nn_memory_file(image, size, &o);
    nn_model m, none;
    int err;

    if (memory < 0) check_error((int)memory);
    memset(&none, 0, sizeof none);
    o = options(kind);
    err = nn_load(&m, image, size, &o);
    if (err) {
        check_error(err);
        must(memcmp(&m, &none, sizeof m) == 0, "an error leaves nothing behind");
        return;
    }
    must((uint64_t)memory == m.block_size, "nn_memory_file is exact");
    round_trip(&m, kind == RESUME);
    use(&m);
    nn_free(&m);
}

static const char params_rows[] =
    "input x - shape=4,3,2; conv2d c x units=17 kernel=2; batchnorm n c; flatten f n;"
    "dense d f units=3; dense e d units=3; dense g e units=3 share=e";

static void fuzz_params(const unsigned char *image, size_t size, int allow_missing) {
    nn_opts o = options(LOAD);
    unsigned char *before, *after;
    size_t n, again;
    nn_model m;
    int err;

    must(nn_build_text(&m, params_rows, &o) == 0, "the rows of fuzz_params");
    before = save(&m, 0, &n);
    err = nn_load_params(&m, image, size, allow_missing, NULL, NULL);
    after = save(&m, 0, &again);
    if (err) {
        check_error(err);
        must(n == again && memcmp(before, after, n) == 0, "an error changes nothing");
    }
    free(before);
    free(after);
    nn_free(&m);
}

static void fuzz_text(const unsigned char *bytes, size_t size) {
    char *text = (char *)malloc(size + 1), *again;
    nn_opts o = options(TRAIN);
    int64_t memory, n;
    nn_model m;
    int err;

    must(text != NULL, "memory");
    if (size) memcpy(text, bytes, size);
    text[size] = '\0';
    memory = nn_memory_text(text, &o);
    err = nn_build_text(&m, text, &o);
    if (err) {
        check_error(err);
        must(m.block == NULL, "an error leaves nothing behind");
    } else {
        must((uint64_t)memory == m.block_size, "nn_memory_text is exact");
        n = nn_rows_text(m.rows, NULL, 0);
        again = (char *)malloc((size_t)n + 1);
        must(again != NULL, "memory");
        must(nn_rows_text(m.rows, again, (size_t)n + 1) == n, "the length of rows as text");
        use(&m);
        round_trip(&m, 1);
        free(again);
        nn_free(&m);
    }
    free(text);
}

static void run(const unsigned char *bytes, size_t size) {
    unsigned char *image;
    int kind;

    if (size == 0) return;
    kind = bytes[0] % KEEP_LENGTH % KINDS;
    size--;
    image = (unsigned char *)malloc(size ? size : 1); /* no byte too many: reading it is seen */
    must(image != NULL, "memory");
    if (size) memcpy(image, bytes + 1, size);
    if (kind != TEXT && bytes[0] < KEEP_LENGTH) fix_length(image, size);
    if (kind != TEXT && bytes[0] < KEEP_ALL) seal(image, size);
    if (kind == TEXT) fuzz_text(image, size);
    else if (kind == PARAMS || kind == PARAMS_STRICT) fuzz_params(image, size, kind == PARAMS);
    else fuzz_file(image, size, kind);
    free(image);
}

#ifdef LIBFUZZER
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size) {
    run(bytes, size);
    return 0;
}
#else

/* ---- files to begin with -----------------------------------------------------------------------
 */

enum { SEEDS = 17, LONGEST = 8192 };

static struct {
    unsigned char bytes[LONGEST];
    size_t size;
} seed[SEEDS];
static int seeds;

static void add_seed(int kind, const void *bytes, size_t size) {
    must(seeds < SEEDS && size < LONGEST, "room for the files to begin with");
    seed[seeds].bytes[0] = (unsigned char)kind;
    memcpy(seed[seeds].bytes + 1, bytes, size);
    seed[seeds++].size = size + 1;
}

static void make_seeds(void) {
    static const char *const texts[] = {
        "input x - shape=2; dense d x units=1",
        "input x - shape=5; dense h x units=5 act=tanh; batchnorm n h momentum=0.5; dropout r n"
        " rate=0.25; dense g r units=5 share=h; add s g,h act=leaky_relu slope=0.5;"
        " dense o s units=2 act=sigmoid lr=0.5 no_decay=1",
        "1;input x - shape=6,5,2 type=u8 order=chw scale=x3b808081 mean=0.5,0.25 std=2,1;"
        "conv2d c x units=4 kernel=3,2 stride=1,2 dilation=1 pad=1,0,1,1 groups=2 act=relu;"
        "maxpool2d p c kernel=2 stride=1; avgpool2d q p kernel=2,1 pad=0,0,1,0 count_pad=1;"
        "activation t q act=softmax; globalavgpool g t; dense d g units=3 no_bias=1",
    };
    /* A plain state dict for params_rows, of every type. */
    static const char dict[] =
        "{\"__metadata__\":{\"format\":\"pt\",\"a\\n\":\"\xc3\xa9\"},"
        "\"c.bias\":{\"dtype\":\"F16\",\"shape\":[17],\"data_offsets\":[0,34]},"
        "\"d.bias\":{\"dtype\":\"BF16\",\"shape\":[3],\"data_offsets\":[34,40]},"
        "\"e.bias\":{\"dtype\":\"F32\",\"shape\":[3],\"data_offsets\":[40,52]},"
        "\"e.weight\":{\"dtype\":\"F32\",\"shape\":[3,3],\"data_offsets\":[52,88]},"
        "\"n.num_batches_tracked\":{\"dtype\":\"I64\",\"shape\":[],\"data_offsets\":[88,96]},"
        "\"z\":{\"dtype\":\"I8\",\"shape\":[0],\"data_offsets\":[96,96]}}";
    unsigned char plain[8 + sizeof dict - 1 + 96];
    size_t i, size;
    int kind;

    for (i = 0; i < 3; i++) {
        add_seed(TEXT, texts[i], strlen(texts[i]));
        for (kind = LOAD; kind <= RESUME; kind++) {
            nn_opts o = options(TRAIN);
            unsigned char *file;
            nn_model m;

            must(nn_build_text(&m, texts[i], &o) == 0, "the texts to begin with");
            file = save(&m, kind == RESUME, &size);
            add_seed(kind, file, size);
            free(file);
            nn_free(&m);
        }
    }
    memset(plain, 0, sizeof plain);
    plain[0] = (unsigned char)((sizeof dict - 1) & 255);
    plain[1] = (unsigned char)((sizeof dict - 1) >> 8);
    memcpy(plain + 8, dict, sizeof dict - 1);
    add_seed(PARAMS, plain, sizeof plain);
    {
        nn_opts o = options(LOAD);
        unsigned char *file;
        nn_model m;

        must(nn_build_text(&m, params_rows, &o) == 0, "the rows of fuzz_params");
        file = save(&m, 0, &size);
        add_seed(PARAMS_STRICT, file, size);
        free(file);
        nn_free(&m);
    }
}

/* ---- mutations ---------------------------------------------------------------------------------
 */

static uint32_t random_state = 1;

static uint32_t below(size_t n) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 17;
    random_state ^= random_state << 5;
    return n ? random_state % (uint32_t)n : 0;
}

/* One change somewhere, mostly where text is. */
static size_t mutate(unsigned char *bytes, size_t size) {
    static const char *const words[] = {
        "{",   "}",          "[",          "]",         ",",          ":",         "\"",   "\\",
        "0",   "1",          "4294967296", "-1",        "2147483647", ";",         "=",    " ",
        "\n",  "units=1000", "kernel=9",   "shape=1,1", "share=d",    "F16",       "BF16", "I64",
        "nn.", "nn.train",   "train",      "delta",     "opt.m/",     "x7f800000", "1e0",  "99999"
    };
    size_t at = 1 + below(size - 1 > 1500 ? 1500 : size - 1), n = 1 + below(40), to;
    const char *word = words[below(sizeof words / sizeof *words)];

    if (at >= size) at = size - 1;
    switch (below(8)) {
    case 0: bytes[at] = (unsigned char)(bytes[at] ^ 1u << below(8)); break;
    case 1: bytes[at] = (unsigned char)below(256); break;
    case 2: /* take out */
        if (n > size - at) n = size - at;
        memmove(bytes + at, bytes + at + n, size - at - n);
        size -= n;
        break;
    case 3: /* repeat what stands here */
        if (size + n > LONGEST || at + n > size) break;
        memmove(bytes + at + n, bytes + at, size - at);
        size += n;
        break;
    case 4: /* a word over what stands here */
        n = strlen(word);
        if (at + n <= size) memcpy(bytes + at, word, n);
        break;
    case 5: /* a word in between */
        n = strlen(word);
        if (size + n > LONGEST) break;
        memmove(bytes + at + n, bytes + at, size - at);
        memcpy(bytes + at, word, n);
        size += n;
        break;
    case 6: /* copy from elsewhere */
        to = 1 + below(size - 1);
        if (at + n <= size && to + n <= size) memmove(bytes + to, bytes + at, n);
        break;
    default: /* another digit */
        for (to = at; to < size && !(bytes[to] >= '0' && bytes[to] <= '9');) to++;
        if (to < size) bytes[to] = (unsigned char)('0' + below(10));
    }
    return size;
}

static int replay(const char *path) {
    FILE *f = fopen(path, "rb");
    unsigned char *bytes = (unsigned char *)malloc((size_t)1 << 22);
    size_t size;

    if (!f || !bytes) {
        fprintf(stderr, "%s: cannot be read\n", path);
        return 0;
    }
    size = fread(bytes, 1, (size_t)1 << 22, f);
    fclose(f);
    run(bytes, size);
    free(bytes);
    return 1;
}

static int write_seeds(const char *folder) {
    char path[1000];
    int i;

    for (i = 0; i < seeds; i++) {
        FILE *f;

        snprintf(path, sizeof path, "%s/seed%02d", folder, i);
        f = fopen(path, "wb");
        if (!f || fwrite(seed[i].bytes, 1, seed[i].size, f) != seed[i].size || fclose(f)) {
            fprintf(stderr, "%s: cannot be written\n", path);
            return 1;
        }
    }
    return 0;
}

int main(int argc, char **argv) {
    static unsigned char bytes[LONGEST + 64];
    long rounds = 1, i, k, runs = 0;
    int failed = 0;

    make_seeds();
    if (argc == 3 && strcmp(argv[1], "write") == 0) return write_seeds(argv[2]);
    if (argc == 3 && strcmp(argv[1], "rounds") == 0) rounds = strtol(argv[2], NULL, 10);
    else if (argc > 1) {
        for (i = 1; i < argc; i++) failed += !replay(argv[i]);
        printf("%d passed, %d failed\n", argc - 1 - failed, failed);
        return failed > 0;
    }
    for (i = 0; i < rounds * 1000; i++)
        for (k = 0; k < seeds; k++) {
            size_t size = seed[k].size;
            uint32_t changes = i ? 1 + below(4) : 0;

            memcpy(bytes, seed[k].bytes, size);
            while (changes--) size = mutate(bytes, size);
            if (below(4) == 0) bytes[0] |= KEEP_LENGTH;
            run(bytes, size);
            runs++;
        }
    printf("%ld inputs\n", runs);
    printf("1 passed, 0 failed\n"); /* or it has aborted */
    return 0;
}
#endif
