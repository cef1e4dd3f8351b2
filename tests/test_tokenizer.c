/* test_tokenizer.c - words and ids of texts against Keras, vocabularies' bytes, damaged ones

   golden/tokenizer.txt, made by golden/make_tokenizer.py, holds real sentences in 24 languages, odd
   texts, and what Keras makes of them; its form stands there. Run from the repository's root; an
   argument picks the tests whose names contain it. */

#ifndef NN_LINKED
#define NN_IMPLEMENTATION
#endif
#include "nn.h"
#include "test.h"

enum { TEXTS = 2000, BEGIN = 20 };

static char why[256];

static void need(const void *p) {
    if (p) return;
    printf("out of memory\n");
    exit(1);
}

static void *new_bytes(size_t size) {
    void *p = malloc(size ? size : 1); /* no byte too many: reading it is seen */

    need(p);
    return p;
}

static nn_words_opts options(void) {
    nn_words_opts o;

    memset(&o, 0, sizeof o);
    why[0] = '\0';
    o.why = why;
    o.why_size = sizeof why;
    return o;
}

static nn_opts only_why(void) {
    nn_opts o;

    memset(&o, 0, sizeof o);
    why[0] = '\0';
    o.why = why;
    o.why_size = sizeof why;
    return o;
}

/* ---- texts ----------------------------------------------------------------------------------- */

typedef struct text {
    char *bytes;
    size_t size;
} text;

static text texts[TEXTS];
static int text_count;

static void drop_texts(void) {
    while (text_count > 0) free(texts[--text_count].bytes);
}

static void add_text(const char *bytes, size_t size) {
    text *t = &texts[text_count];

    if (!CHECK(text_count < TEXTS)) return;
    t->bytes = (char *)new_bytes(size);
    t->size = size;
    if (size) memcpy(t->bytes, bytes, size);
    text_count++;
}

static size_t put_utf8(char *out, unsigned long c) {
    size_t n = c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4, i;

    for (i = n; i-- > 1; c >>= 6) out[i] = (char)(0x80 | (c & 63));
    out[0] = (char)(n == 1 ? c : (0xf00 >> n & 0xff) | c);
    return n;
}

/* Undoes the escapes of the file in place, and returns the bytes. */
static size_t unescape(char *s) {
    char *from = s, *to = s, digits[9];

    while (*from) {
        if (*from != '\\') {
            *to++ = *from++;
            continue;
        }
        if (from[1] == 'x') {
            sprintf(digits, "%.2s", from + 2);
            *to++ = (char)strtoul(digits, NULL, 16);
            from += 4;
        } else {
            int n = from[1] == 'u' ? 4 : 8;

            sprintf(digits, "%.*s", n, from + 2);
            to += put_utf8(to, strtoul(digits, NULL, 16));
            from += 2 + n;
        }
    }
    *to = '\0';
    return (size_t)(to - s);
}

static void put_word(char *out, int v) {
    int k;

    for (k = 0; k < 4; k++, v /= 26) out[k] = (char)(v % 26);
}

/* 30,000 words, 10,000 of them distinct: four letters each, capitals where 3 divides the number. */
static void made_words(int count) {
    int each = 30000 / count, j, k;
    char *line = (char *)new_bytes((size_t)each * 5);

    for (j = 0; j < each * count; j++) {
        int v = j < 10000 ? j : (int)((long long)j * j % 10007 % 10000);
        char *word = line + j % each * 5;

        put_word(word, v);
        for (k = 0; k < 4; k++) word[k] = (char)(word[k] + (v % 3 ? 'a' : 'A'));
        word[4] = ' ';
        if (j % each == each - 1) add_text(line, (size_t)each * 5 - 1);
    }
    free(line);
}

/* Every character of the blocks with lower case in nn.h, in and out of words. */
static void made_letters(int count) {
    static const unsigned short block[][2] = { { 1, 0x17f },        { 0x1a0, 0x1a1 },
                                               { 0x1af, 0x1b0 },    { 0x218, 0x21b },
                                               { 0x250, 0x52f },    { 0x1e00, 0x1eff },
                                               { 0x2018, 0x2019 } };
    static const char form[] = "C ACSCA ACS CSC SCa"; /* C: the character, S: a capital sigma */
    char line[100];
    size_t b, n, i;
    unsigned code;

    for (b = 0; b < sizeof block / sizeof *block; b++)
        for (code = block[b][0]; code <= block[b][1]; code++, count--) {
            for (n = i = 0; form[i]; i++)
                if (form[i] == 'C') n += put_utf8(line + n, code);
                else if (form[i] == 'S') n += put_utf8(line + n, 0x3a3);
                else line[n++] = form[i];
            add_text(line, n);
        }
    CHECK_EQ_INT(count, 0);
}

static void made_long(int count) {
    int k;

    for (k = 0; k < count; k++) {
        size_t n = (size_t)1 << k;
        char *line = (char *)new_bytes(n + 2);

        memset(line, 'B', n);
        memcpy(line + n, " b", 2);
        add_text(line, n + 2);
        free(line);
    }
}

/* ---- vocabularies ---------------------------------------------------------------------------- */

typedef struct vocabulary {
    unsigned char *image;
    size_t size;
    nn_tokenizer t;
} vocabulary;

static void drop(vocabulary *v) {
    free(v->image);
    memset(v, 0, sizeof *v);
}

/* Of the first fit texts, in a block as small as they allow. */
static int fit_texts(vocabulary *v, const nn_words_opts *o, int fit) {
    int64_t bytes = o->oov ? (int64_t)strlen(o->oov) : 0, words = o->oov != NULL, size;
    nn_opts only = only_why();
    nn_words w;
    void *block;
    int k, ok;

    memset(v, 0, sizeof *v);
    for (k = 0; k < fit; k++) {
        words += (int64_t)(texts[k].size + 1) / 2;
        bytes += (int64_t)texts[k].size * 3 / 2;
    }
    size = nn_words_memory(words, bytes);
    if (!CHECK(size > 0)) return 0;
    block = new_bytes((size_t)size);
    ok = CHECK_EQ_INT(nn_words_begin(&w, o, block, (size_t)size, words, bytes), 0);
    for (k = 0; ok && k < fit; k++)
        ok = CHECK_EQ_INT(nn_words_add(&w, texts[k].bytes, texts[k].size), 0);
    size = ok ? nn_words_save(&w, NULL, 0) : 0;
    if (ok && CHECK(size > 0)) {
        v->size = (size_t)size;
        v->image = (unsigned char *)new_bytes(v->size);
        CHECK_EQ_INT(nn_words_save(&w, v->image, v->size - 1), NN_ERR_MEMORY);
        CHECK_EQ_INT(nn_words_save(&w, v->image, v->size), size);
        ok = CHECK_EQ_INT(nn_tokenizer_load(&v->t, v->image, v->size, &only), 0);
    }
    free(block);
    return ok && v->image;
}

static vocabulary fit_one(const char *bytes, const nn_words_opts *o) {
    vocabulary v;

    drop_texts();
    add_text(bytes, strlen(bytes));
    fit_texts(&v, o, 1);
    return v;
}

/* ids of a text as "3 1 2" */
static const char *ids_text(const nn_tokenizer *t, const char *bytes) {
    static char out[400];
    int32_t ids[50], n = nn_tokenizer_ids(t, bytes, strlen(bytes), ids, 50, NN_POST, NN_POST), k;

    sprintf(out, "%s", n < 0 ? nn_error_name(n) : "");
    for (k = 0; k < n; k++) sprintf(out + strlen(out), k ? " %d" : "%d", (int)ids[k]);
    return out;
}

/* ---- against Keras --------------------------------------------------------------------------- */

static uint64_t digest;

static void begin_digest(void) { digest = 0xcbf29ce484222325u; }

static void digest_byte(unsigned char c) { digest = (digest ^ c) * 0x100000001b3u; }

static void digest_number(int32_t v) {
    int k;

    for (k = 0; k < 4; k++) digest_byte((unsigned char)((uint32_t)v >> 8 * k & 255));
}

static void check_digest(const char *hex, const char *what) {
    char got[17];

    sprintf(got, "%08lx%08lx", (unsigned long)(digest >> 32),
            (unsigned long)(digest & 0xffffffffu));
    test_report(strcmp(got, hex) == 0, __FILE__, __LINE__, what, "%s, not %s", got, hex);
}

static void check_image(const vocabulary *v, char *rest) {
    size_t size = (size_t)strtoul(rest, &rest, 10), k;

    CHECK_EQ_INT(v->size, size);
    begin_digest();
    for (k = 0; k < v->size; k++) digest_byte(v->image[k]);
    check_digest(rest + 1, "bytes of the vocabulary");
}

/* One text's ids against those listed. */
static void check_ids(const vocabulary *v, const text *t, char *rest) {
    int32_t count = nn_tokenizer_ids(&v->t, t->bytes, t->size, NULL, 0, 0, 0), k, want = 0;
    int32_t *ids = (int32_t *)new_bytes(sizeof *ids * (size_t)(count + 1));
    char *at;

    for (at = rest; *at; at++) want += *at == ' ';
    if (CHECK_EQ_INT(count, want) && count > 0) {
        CHECK_EQ_INT(nn_tokenizer_ids(&v->t, t->bytes, t->size, ids, count, NN_PRE, NN_PRE), count);
        for (k = 0; k < count; k++)
            if (!CHECK_EQ_INT(ids[k], strtol(rest, &rest, 10))) break;
    }
    free(ids);
}

static void check_all_ids(const vocabulary *v, char *rest) {
    long total = strtol(rest, &rest, 10), sum = 0;
    int k;

    begin_digest();
    for (k = 0; k < text_count; k++) {
        const text *t = &texts[k];
        int32_t count = nn_tokenizer_ids(&v->t, t->bytes, t->size, NULL, 0, 0, 0), i;
        int32_t *ids = (int32_t *)new_bytes(sizeof *ids * (size_t)(count + 3));

        CHECK_EQ_INT(nn_tokenizer_ids(&v->t, t->bytes, t->size, ids, count + 3, NN_POST, NN_PRE),
                     count);
        for (i = 0; i < count; i++) digest_number(ids[i]);
        for (i = 0; i < 3; i++) CHECK_EQ_INT(ids[count + i], 0);
        digest_number(0);
        sum += count;
        free(ids);
    }
    CHECK_EQ_INT(sum, total);
    check_digest(rest + 1, "ids of all texts");
}

static void check_pad(const vocabulary *v, char *rest) {
    int32_t steps = (int32_t)strtol(rest, &rest, 10), pad = (int32_t)strtol(rest, &rest, 10);
    int32_t cut = (int32_t)strtol(rest, &rest, 10), i;
    int32_t *ids = (int32_t *)new_bytes(sizeof *ids * (size_t)steps);
    int k;

    begin_digest();
    for (k = 0; k < text_count; k++) {
        int32_t n = nn_tokenizer_ids(&v->t, texts[k].bytes, texts[k].size, ids, steps, pad, cut);

        for (i = 0; i < steps; i++) digest_number(ids[i]);
        digest_number(n);
    }
    free(ids);
    check_digest(rest + 1, "padded ids");
}

/* "key=value ..." */
static int read_case(char *rest, nn_words_opts *o) {
    int fit = text_count;
    char *word;

    *o = options();
    for (word = strtok(rest, " "); word; word = strtok(NULL, " ")) {
        char *value = strchr(word, '=');

        if (!CHECK(value != NULL)) return 0;
        *value++ = '\0';
        if (strcmp(word, "num_words") == 0) o->num_words = (int32_t)strtol(value, NULL, 10);
        else if (strcmp(word, "keep_case") == 0) o->keep_case = (int32_t)strtol(value, NULL, 10);
        else if (strcmp(word, "fit") == 0) fit = (int)strtol(value, NULL, 10);
        else if (unescape(value), strcmp(word, "filters") == 0) o->filters = value;
        else if (strcmp(word, "oov") == 0) o->oov = value;
        else if (CHECK(strcmp(word, "split") == 0)) o->split = value[0];
    }
    return fit;
}

static char *golden_text(const char *path) {
    FILE *f = fopen(path, "rb");
    char *all = (char *)new_bytes((size_t)1 << 20);
    size_t n;

    if (!f) {
        printf("%s: cannot be read (run from the repository's root)\n", path);
        free(all);
        return NULL;
    }
    n = fread(all, 1, ((size_t)1 << 20) - 1, f);
    fclose(f);
    all[n] = '\0';
    return all;
}

TEST(as_keras) {
    char *all = golden_text("tests/golden/tokenizer.txt"), *line, *next, name[BEGIN] = "";
    nn_words_opts o = options();
    vocabulary v;
    int cases = 0, row = 0, real = 0;

    if (!CHECK(all != NULL)) return;
    memset(&v, 0, sizeof v);
    for (line = all; *line; line = next) {
        char *rest = strchr(line, '\n');

        if (!CHECK(rest != NULL)) break;
        *rest = '\0';
        next = rest + 1;
        if (*line == '#') continue;
        rest = strchr(line, ' ');
        if (rest) *rest++ = '\0';
        else rest = line + strlen(line);
        test_note("list %s, case %d, text %d", name, cases, row);
        if (strcmp(line, "texts") == 0 || strcmp(line, "made") == 0) {
            drop_texts();
            sprintf(name, "%.*s", BEGIN - 1, rest);
            if (strcmp(line, "texts") == 0) continue;
            rest = strchr(name, ' ');
            if (!CHECK(rest != NULL)) break;
            *rest++ = '\0';
            if (strcmp(name, "words") == 0) made_words((int)strtol(rest, NULL, 10));
            else if (strcmp(name, "letters") == 0) made_letters((int)strtol(rest, NULL, 10));
            else if (CHECK_EQ_STR(name, "long")) made_long((int)strtol(rest, NULL, 10));
        } else if (strcmp(line, "t") == 0) {
            add_text(rest, unescape(rest));
            real += strcmp(name, "real") == 0;
        } else if (strcmp(line, "case") == 0) {
            int fit = read_case(rest, &o);

            cases++;
            row = 0;
            drop(&v);
            if (!fit_texts(&v, &o, fit)) break;
        } else if (strcmp(line, "image") == 0) {
            check_image(&v, rest);
        } else if (strcmp(line, "i") == 0) {
            if (!CHECK(row < text_count)) break;
            if (*rest) rest[-1] = ' ';
            check_ids(&v, &texts[row++], *rest ? rest - 1 : rest);
        } else if (strcmp(line, "ids") == 0) {
            check_all_ids(&v, rest);
        } else if (CHECK_EQ_STR(line, "pad")) {
            check_pad(&v, rest);
        }
    }
    test_note("%s", "");
    CHECK(real >= 1000);
    CHECK_EQ_INT(cases, 21);
    drop(&v);
    drop_texts();
    free(all);
}

/* ---- by hand --------------------------------------------------------------------------------- */

TEST(ranks_and_words) {
    nn_words_opts o = options();
    vocabulary v = fit_one("b a, a c b A d! c", &o);
    size_t size;
    const char *word;

    CHECK_EQ_INT(v.t.words, 4);
    CHECK_EQ_STR(ids_text(&v.t, "a b c d"), "1 2 3 4"); /* 3 2 2 1 times; b before c */
    CHECK_EQ_STR(ids_text(&v.t, "D... x C"), "4 3");
    word = nn_tokenizer_word(&v.t, 2, &size);
    CHECK(word && size == 1 && *word == 'b');
    CHECK(nn_tokenizer_word(&v.t, 0, &size) == NULL);
    CHECK(nn_tokenizer_word(&v.t, -1, &size) == NULL);
    CHECK(nn_tokenizer_word(&v.t, 5, NULL) == NULL);
    drop(&v);
}

/* The one difference from Keras, which would give both the last word's id. */
TEST(oov_among_the_words) {
    nn_words_opts o = options();
    vocabulary v;

    o.oov = "oov";
    v = fit_one("a a b oov a b c", &o);
    CHECK_EQ_STR(ids_text(&v.t, "a b c oov x"), "2 3 4 1 1");
    drop(&v);
    o.num_words = 3;
    v = fit_one("a a b oov a b c", &o);
    CHECK_EQ_STR(ids_text(&v.t, "a b c oov x"), "2 1 1 1 1");
    drop(&v);
}

TEST(padding) {
    static const int32_t want[2][2][5] = { { { 0, 0, 1, 2, 3 }, { 0, 0, 1, 2, 3 } },
                                           { { 1, 2, 3, 0, 0 }, { 1, 2, 3, 0, 0 } } };
    static const int32_t short_want[2][2] = { { 2, 3 }, { 1, 2 } };
    nn_words_opts o = options();
    vocabulary v = fit_one("one two three", &o);
    int32_t ids[6];
    int pad, cut;

    for (pad = 0; pad < 2; pad++)
        for (cut = 0; cut < 2; cut++) {
            memset(ids, 1, sizeof ids);
            CHECK_EQ_INT(nn_tokenizer_ids(&v.t, "one two three", 13, ids, 5, pad, cut), 3);
            CHECK_SAME_BYTES(ids, want[pad][cut], sizeof want[pad][cut]);
            CHECK_EQ_INT(ids[5], 0x01010101);
            CHECK_EQ_INT(nn_tokenizer_ids(&v.t, "one two three", 13, ids, 2, pad, cut), 2);
            CHECK_SAME_BYTES(ids, short_want[cut], sizeof short_want[cut]);
            CHECK_EQ_INT(ids[2], want[pad][cut][2]);
        }
    CHECK_EQ_INT(nn_tokenizer_ids(&v.t, NULL, 0, ids, 2, NN_PRE, NN_PRE), 0);
    CHECK(ids[0] == 0 && ids[1] == 0);
    drop(&v);
}

/* Words may be added after a vocabulary was written, as Keras can be fitted again. */
TEST(more_texts_later) {
    nn_words_opts o = options();
    unsigned char block[1000], first[300], second[300], again[300];
    nn_tokenizer t;
    nn_words w;
    int64_t n;

    CHECK_EQ_INT(nn_words_begin(&w, &o, block + 1, sizeof block - 1, 20, 100), 0);
    CHECK_EQ_INT(nn_words_add(&w, "a b c", 5), 0);
    n = nn_words_save(&w, first, sizeof first);
    CHECK_EQ_INT(nn_tokenizer_load(&t, first, (size_t)n, NULL), 0);
    CHECK_EQ_STR(ids_text(&t, "a b c"), "1 2 3");
    CHECK_EQ_INT(nn_words_add(&w, "c d c b", 7), 0);
    n = nn_words_save(&w, second + 1, sizeof second - 1);
    CHECK_EQ_INT(nn_words_save(&w, again, sizeof again), n);
    CHECK_SAME_BYTES(second + 1, again, (size_t)n);
    CHECK_EQ_INT(nn_tokenizer_load(&t, second + 1, (size_t)n, NULL), 0);
    CHECK_EQ_STR(ids_text(&t, "a b c d"), "3 2 1 4");
}

static void check_error(int64_t got, int code, const char *sentence) {
    CHECK_EQ_INT(got, code);
    CHECK_EQ_STR(why, sentence);
    why[0] = '\0';
}

TEST(errors_of_counting) {
    unsigned char block[200], out[200];
    nn_words_opts o = options();
    nn_words w;

    check_error(nn_words_memory(-1, 0), NN_ERR_CALL, "");
    check_error(nn_words_memory(1, (int64_t)1 << 40), NN_ERR_CALL, "");
    check_error(nn_words_begin(NULL, &o, block, 200, 1, 1), NN_ERR_CALL, "w is NULL");
    check_error(nn_words_begin(&w, &o, block, 200, -1, 1), NN_ERR_CALL,
                "-1 words of 1 bytes are out of range");
    check_error(nn_words_begin(&w, &o, block, 20, 1, 1), NN_ERR_MEMORY,
                "the block has 20 bytes, 21 are needed");
    check_error(nn_words_begin(&w, &o, NULL, 200, 1, 1), NN_ERR_MEMORY,
                "the block has 0 bytes, 21 are needed");
    check_error(nn_words_add(&w, "a", 1), NN_ERR_CALL, "");
    o.num_words = -1;
    check_error(nn_words_begin(&w, &o, block, 200, 1, 1), NN_ERR_OPTION, "num_words is negative");
    o.num_words = 1;
    o.oov = "x";
    check_error(nn_words_begin(&w, &o, block, 200, 1, 1), NN_ERR_OPTION,
                "num_words 1 leaves no id for the word oov");
    o.num_words = 0;
    o.oov = "";
    check_error(nn_words_begin(&w, &o, block, 200, 1, 1), NN_ERR_OPTION,
                "oov is empty or holds the split character");
    o.oov = "a b";
    check_error(nn_words_begin(&w, &o, block, 200, 1, 9), NN_ERR_OPTION,
                "oov is empty or holds the split character");
    o.oov = "ab";
    check_error(nn_words_begin(&w, &o, block, 200, 1, 1), NN_ERR_MEMORY,
                "the block has no room for the word oov");
    check_error(nn_words_begin(&w, &o, block, 200, 0, 9), NN_ERR_MEMORY,
                "the block has no room for the word oov");
    o.oov = NULL;
    o.split = (char)0xe9;
    check_error(nn_words_begin(&w, &o, block, 200, 1, 1), NN_ERR_OPTION,
                "split is not an ASCII character");
    o.split = 0;
    check_error(nn_words_begin(&w, &o, block, 200, 2, 3), 0, "");
    check_error(nn_words_add(&w, NULL, 1), NN_ERR_CALL, "an argument is NULL");
    check_error(nn_words_add(&w, "ab c ab", 7), 0, "");
    check_error(nn_words_save(&w, out, 10), NN_ERR_MEMORY,
                "the vocabulary takes 76 bytes, not 10");
    check_error(nn_words_add(&w, "c d", 3), NN_ERR_MEMORY,
                "the block is for 2 words of 3 bytes together, and more came");
    check_error(nn_words_add(&w, "c", 1), NN_ERR_CALL,
                "nn_words_begin or nn_words_add has failed before");
    check_error(nn_words_save(&w, out, 200), NN_ERR_CALL,
                "nn_words_begin or nn_words_add has failed before");
    check_error(nn_words_begin(&w, &o, block, 200, 3, 3), 0, "");
    check_error(nn_words_add(&w, "ab cd", 5), NN_ERR_MEMORY,
                "the block is for 3 words of 3 bytes together, and more came");
    check_error(nn_words_add(NULL, "c", 1), NN_ERR_CALL, "");
    check_error(nn_words_save(NULL, NULL, 0), NN_ERR_CALL, "");
}

TEST(errors_of_using) {
    nn_words_opts o = options();
    vocabulary v = fit_one("a b", &o);
    nn_tokenizer none;
    int32_t ids[2];

    memset(&none, 0, sizeof none);
    CHECK_EQ_INT(nn_tokenizer_ids(NULL, "a", 1, ids, 2, 0, 0), NN_ERR_CALL);
    CHECK_EQ_INT(nn_tokenizer_ids(&none, "a", 1, ids, 2, 0, 0), NN_ERR_CALL);
    CHECK_EQ_INT(nn_tokenizer_ids(&v.t, NULL, 1, ids, 2, 0, 0), NN_ERR_CALL);
    CHECK_EQ_INT(nn_tokenizer_ids(&v.t, "a", 1, ids, 0, 0, 0), NN_ERR_CALL);
    CHECK_EQ_INT(nn_tokenizer_ids(&v.t, "a", 1, ids, -1, 0, 0), NN_ERR_CALL);
    CHECK(nn_tokenizer_word(NULL, 1, NULL) == NULL);
    CHECK(nn_tokenizer_word(&none, 1, NULL) == NULL);
    drop(&v);
}

/* ---- damaged vocabularies -------------------------------------------------------------------- */

static int64_t load(const unsigned char *bytes, size_t size) {
    unsigned char *copy = (unsigned char *)new_bytes(size);
    nn_opts o = only_why();
    nn_tokenizer t, none;
    int err;

    memset(&none, 0, sizeof none);
    if (size) memcpy(copy, bytes, size);
    err = nn_tokenizer_load(&t, copy, size, &o);
    if (err) CHECK_SAME_BYTES(&t, &none, sizeof t);
    else CHECK(nn_tokenizer_ids(&t, "a b \xc4\xb0 c d", 10, NULL, 0, 0, 0) >= 0);
    free(copy);
    return err;
}

static void put32(unsigned char *p, uint32_t v) {
    int k;

    for (k = 0; k < 4; k++) p[k] = (unsigned char)(v >> 8 * k & 255);
}

TEST(damaged) {
    enum { WORDS = 4, FILTERS = 8, FLAGS = 12, SLOTS = 17, ENDS = SLOTS + 28, BYTES = ENDS + 16 };
    static const struct {
        size_t at;
        uint32_t value;
        int code;
        const char *sentence;
    } wrong[] = {
        { 0, 0x31776e6f, NN_ERR_FILE_SYNTAX,
          "this is no vocabulary: it does not begin with nnw" },
        { 0, 0x32776e6e, NN_ERR_FILE_VERSION, "the vocabulary needs a newer reader" },
        { WORDS, 0xffffffffu, NN_ERR_FILE_META, "the vocabulary's header is wrong" },
        { WORDS, 0x3fffffff, NN_ERR_FILE_SHORT,
          "the vocabulary of 1073741823 words has only 66 bytes" },
        { WORDS, 3, NN_ERR_FILE_SIZE, "word 1 ends where it begins, or before" },
        { FILTERS, 0xffffffffu, NN_ERR_FILE_SHORT,
          "the vocabulary of 4 words has only 66 bytes" },
        { FILTERS, 7, NN_ERR_FILE_SHORT, "the vocabulary of 4 words has only 66 bytes" },
        { FLAGS, 0, NN_ERR_FILE_META, "the vocabulary's header is wrong" },
        { FLAGS, 0x2004, NN_ERR_FILE_META, "the vocabulary's header is wrong" },
        { FLAGS, 0x8000, NN_ERR_FILE_META, "the vocabulary's header is wrong" },
        { ENDS, 0, NN_ERR_FILE_SIZE, "word 1 ends where it begins, or before" },
        { ENDS, 5, NN_ERR_FILE_SIZE, "word 2 ends where it begins, or before" },
        { ENDS + 4, 1, NN_ERR_FILE_SIZE, "word 2 ends where it begins, or before" },
        { ENDS + 12, 6, NN_ERR_FILE_END, "the vocabulary does not end with its last word" },
        { ENDS + 12, 0xffffffffu, NN_ERR_FILE_END,
          "the vocabulary does not end with its last word" },
        { BYTES, 0x61616161, NN_ERR_FILE_ORDER,
          "the vocabulary's table misses a word, or a word stands twice" },
    };
    nn_words_opts o = options();
    vocabulary v;
    unsigned char bytes[66];
    size_t k, bit;

    o.filters = ",";
    v = fit_one("a b c d,ee", &o); /* five words */
    CHECK_EQ_INT(v.t.words, 5);
    drop(&v);
    o.num_words = 5;
    v = fit_one("a b,b c dd", &o);
    if (!CHECK_EQ_INT(v.size, sizeof bytes)) return;
    CHECK_EQ_INT(load(v.image, v.size), 0);
    for (k = 0; k < sizeof wrong / sizeof *wrong; k++) {
        test_note("change %d", (int)k);
        memcpy(bytes, v.image, v.size);
        put32(bytes + wrong[k].at, wrong[k].value);
        check_error(load(bytes, v.size), wrong[k].code, wrong[k].sentence);
    }
    for (k = 0; k < 7; k++) { /* each slot: an id that is none, and empty or a word twice */
        test_note("slot %d", (int)k);
        memcpy(bytes, v.image, v.size);
        put32(bytes + SLOTS + 4 * k, 5);
        check_error(load(bytes, v.size), NN_ERR_FILE_ORDER, wrong[15].sentence);
        put32(bytes + SLOTS + 4 * k, v.image[SLOTS + 4 * k] ? 0 : 1);
        check_error(load(bytes, v.size), NN_ERR_FILE_ORDER, wrong[15].sentence);
    }
    test_note("%s", "");
    check_error(nn_tokenizer_load(NULL, v.image, v.size, NULL), NN_ERR_CALL, "");
    check_error(nn_tokenizer_load(&v.t, NULL, v.size, NULL), NN_ERR_CALL, "");
    for (k = 0; k < v.size; k++) CHECK(load(v.image, k) < 0);
    for (k = 0; k < v.size; k++)
        for (bit = 0; bit < 8; bit++) {
            memcpy(bytes, v.image, v.size);
            bytes[k] = (unsigned char)(bytes[k] ^ 1u << bit);
            load(bytes, v.size); /* an error or not: nothing is read that is not there */
        }
    drop(&v);
}

/* However the table holds it, a word twice is refused. */
TEST(word_twice) {
    enum { SLOTS = 17, BYTES = SLOTS + 4 * 4 + 4 * 2 };
    nn_words_opts o = options();
    vocabulary v;
    uint32_t a, b, found = 0;

    o.filters = ",";
    v = fit_one("a b", &o);
    if (!CHECK_EQ_INT(v.size, BYTES + 2)) return;
    for (b = 'b'; b + 1 > 'a'; b--)
        for (a = 0; a < 16; a++) {
            v.image[BYTES + 1] = (unsigned char)b;
            memset(v.image + SLOTS, 0, 16);
            v.image[SLOTS + 4 * (a % 4)] = 1;
            v.image[SLOTS + 4 * (a / 4)] = 2;
            if (b == 'b') found += load(v.image, v.size) == 0;
            else check_error(load(v.image, v.size), NN_ERR_FILE_ORDER,
                             "the vocabulary's table misses a word, or a word stands twice");
        }
    CHECK(found > 0);
    drop(&v);
}

int main(int argc, char **argv) {
    test_begin(argc, argv);
    RUN(as_keras);
    RUN(ranks_and_words);
    RUN(oov_among_the_words);
    RUN(padding);
    RUN(more_texts_later);
    RUN(errors_of_counting);
    RUN(errors_of_using);
    RUN(damaged);
    RUN(word_twice);
    drop_texts();
    return test_end();
}
