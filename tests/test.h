/* test.h - what all C tests share: a harness, a reader of golden files, made-up values

   A test program is a list of functions without arguments:

       TEST(adds) {
           CHECK_EQ_INT(1 + 1, 2);
       }

       int main(int argc, char **argv) {
           test_begin(argc, argv);
           RUN(adds);
           return test_end();
       }

   Every CHECK prints what it saw when it fails, counts, and is worth 1 or 0, so that a test can
   stop where going on makes no sense: if (!CHECK(p != NULL)) return; A test that checks nothing
   fails. An argument runs only the tests whose names contain it. The last line is "N passed,
   N failed" (tests, not checks); the exit status is 0 when none failed and at least one ran.
*/
#ifndef TEST_H
#define TEST_H

#include <math.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- harness --------------------------------------------------------------------------------- */

#define TEST(name) static void name(void)
#define RUN(name)                \
    do {                         \
        if (test_start(#name)) { \
            name();              \
            test_stop();         \
        }                        \
    } while (0)

#define CHECK(condition) test_check((condition) != 0, __FILE__, __LINE__, #condition)
#define CHECK_EQ_INT(got, want) \
    test_eq_int((long long)(got), (long long)(want), __FILE__, __LINE__, #got " == " #want)
#define CHECK_EQ_STR(got, want) test_eq_str(got, want, __FILE__, __LINE__, #got " equals " #want)
/* |got - want| <= bound; a NaN fails */
#define CHECK_CLOSE(got, want, bound)                                              \
    test_close((double)(got), (double)(want), (double)(bound), __FILE__, __LINE__, \
               #got " near " #want)
/* floats: max|got - want| <= bound * max|want| */
#define CHECK_CLOSE_ARRAY(got, want, count, bound) \
    test_close_array(got, want, count, (double)(bound), __FILE__, __LINE__, #got " near " #want)
#define CHECK_SAME_BYTES(got, want, size) \
    test_same_bytes(got, want, size, __FILE__, __LINE__, #got " same bytes as " #want)

enum { TEST_PRINTED = 10 }; /* failures of one test that are printed; more would hide the first */

/* One program, one state: every test is a single file. */
static struct {
    const char *filter, *name;
    int passed, failed; /* tests */
    int failures;       /* failed checks of this test */
    int outside;        /* a check outside any test failed */
    long checks, checks_before;
    char note[256];
} test_state;

/* What the following checks are about, printed with their failures until the next call or test. */
static inline void test_note(const char *format, ...) {
    va_list args;

    va_start(args, format);
    vsnprintf(test_state.note, sizeof test_state.note, format, args);
    va_end(args);
}

/* For checks of one's own: counts, and on failure prints "file:line: what (details)". */
static inline int test_report(int ok, const char *file, int line, const char *what,
                              const char *format, ...) {
    va_list args;

    test_state.checks++;
    if (ok) return 1;
    if (!test_state.name) test_state.outside = 1;
    if (test_state.failures++ < TEST_PRINTED) {
        printf("%s:%d: %s: %s", file, line, test_state.name ? test_state.name : "-", what);
        if (format[0]) {
            printf(": ");
            va_start(args, format);
            vprintf(format, args);
            va_end(args);
        }
        printf(test_state.note[0] ? " [%s]\n" : "%s\n", test_state.note);
    }
    return 0;
}

static inline int test_check(int ok, const char *file, int line, const char *what) {
    return test_report(ok, file, line, what, "");
}

static inline int test_eq_int(long long got, long long want, const char *file, int line,
                              const char *what) {
    return test_report(got == want, file, line, what, "%lld, not %lld", got, want);
}

static inline int test_eq_str(const char *got, const char *want, const char *file, int line,
                              const char *what) {
    return test_report(got && want && strcmp(got, want) == 0, file, line, what,
                       "\"%s\", not \"%s\"", got ? got : "(null)", want ? want : "(null)");
}

static inline int test_close(double got, double want, double bound, const char *file, int line,
                             const char *what) {
    return test_report(fabs(got - want) <= bound, file, line, what, "%.9g, not %.9g, bound %.3g",
                       got, want, bound);
}

static inline int test_close_array(const float *got, const float *want, size_t count, double bound,
                                   const char *file, int line, const char *what) {
    double worst = 0, scale = 0, d;
    size_t i, at = 0;

    for (i = 0; i < count; i++) {
        d = fabs((double)got[i] - (double)want[i]);
        if (!(d <= worst)) { /* a NaN is the worst */
            worst = d;
            at = i;
            if (isnan(d)) break;
        }
        if (fabs((double)want[i]) > scale) scale = fabs((double)want[i]);
    }
    return test_report(count > 0 && worst <= bound * scale, file, line, what,
                       "element %lu of %lu is %.9g, not %.9g; largest %.3g, bound %.3g",
                       (unsigned long)at, (unsigned long)count, count ? (double)got[at] : 0.0,
                       count ? (double)want[at] : 0.0, scale, bound);
}

static inline int test_same_bytes(const void *got, const void *want, size_t size, const char *file,
                                  int line, const char *what) {
    const unsigned char *a = (const unsigned char *)got, *b = (const unsigned char *)want;
    size_t i = 0;

    while (i < size && a[i] == b[i]) i++;
    return test_report(i == size, file, line, what, "byte %lu of %lu is %02x, not %02x",
                       (unsigned long)i, (unsigned long)size, i < size ? a[i] : 0u,
                       i < size ? b[i] : 0u);
}

static inline void test_begin(int argc, char **argv) {
    test_state.filter = argc > 1 ? argv[1] : "";
}

/* RUN for tests whose names are made at run time: if (test_start(name)) { ...; test_stop(); } */
static inline int test_start(const char *name) {
    if (!strstr(name, test_state.filter)) return 0;
    test_state.name = name;
    test_state.note[0] = '\0';
    test_state.failures = 0;
    test_state.checks_before = test_state.checks;
    return 1;
}

static inline void test_stop(void) {
    test_state.note[0] = '\0';
    if (test_state.checks == test_state.checks_before)
        test_report(0, __FILE__, __LINE__, "the test checked nothing", "");
    if (test_state.failures > TEST_PRINTED)
        printf("%s: %d more\n", test_state.name, test_state.failures - TEST_PRINTED);
    if (test_state.failures) test_state.failed++;
    else test_state.passed++;
    test_state.failures = 0;
    test_state.name = NULL;
}

/* Returns what main returns. */
static inline int test_end(void) {
    test_state.failed += test_state.outside;
    printf("%ld checks\n%d passed, %d failed\n", test_state.checks, test_state.passed,
           test_state.failed);
    return test_state.failed > 0 || test_state.passed == 0;
}

/* ---- golden files ----------------------------------------------------------------------------

   A reader of .safetensors files that shares nothing with nn.h's, so that a common mistake cannot
   hide. It trusts the file's sizes: golden files are ours. */

enum { GOLDEN_DIMS = 4, GOLDEN_META = 8 };

typedef struct golden_tensor {
    const char *name;
    char dtype[8]; /* "F32" */
    int dims;
    size_t dim[GOLDEN_DIMS];
    size_t count;     /* elements */
    const void *data; /* in this machine's byte order */
    int used;         /* somebody asked for it */
} golden_tensor;

typedef struct golden {
    char *header;
    unsigned char *data;
    golden_tensor *tensor;
    size_t tensors;
    const char *meta[GOLDEN_META][2]; /* key and value; NULL ends */
} golden;

/* Steps over spaces and one expected character. */
static inline int golden_skip(char **p, char c) {
    while (**p == ' ') ++*p;
    if (**p != c) return 0;
    ++*p;
    return 1;
}

/* A JSON string, unescaped where it stands. NULL: none, or an escape that our files do not use. */
static inline const char *golden_string(char **p) {
    char *from, *to, *start, c;

    if (!golden_skip(p, '"')) return NULL;
    for (start = from = to = *p; *from && *from != '"'; from++) {
        c = *from;
        if (c == '\\') {
            c = *++from;
            if (c == 'n') c = '\n';
            else if (c != '"' && c != '\\') return NULL;
        }
        *to++ = c;
    }
    if (!*from) return NULL;
    *p = from + 1;
    *to = '\0';
    return start;
}

/* "[1,2]" into list; how many, or -1. */
static inline int golden_numbers(char **p, size_t *list, int most) {
    int n = 0;

    if (!golden_skip(p, '[')) return -1;
    while (!golden_skip(p, ']')) {
        if (n == most || (n > 0 && !golden_skip(p, ','))) return -1;
        list[n++] = (size_t)strtoul(*p, p, 10);
    }
    return n;
}

static inline int golden_parse_tensor(char **p, golden_tensor *t, size_t *begin, size_t *end) {
    const char *key, *dtype;
    size_t offsets[2] = { 0, 0 };
    int i;

    do {
        key = golden_string(p);
        if (!key || !golden_skip(p, ':')) return 0;
        if (strcmp(key, "dtype") == 0) {
            dtype = golden_string(p);
            if (!dtype || strlen(dtype) >= sizeof t->dtype) return 0;
            strcpy(t->dtype, dtype);
        } else if (strcmp(key, "shape") == 0) {
            t->dims = golden_numbers(p, t->dim, GOLDEN_DIMS);
        } else if (golden_numbers(p, offsets, 2) != 2) {
            return 0;
        }
    } while (golden_skip(p, ','));
    for (t->count = 1, i = 0; i < t->dims; i++) t->count *= t->dim[i];
    *begin = offsets[0];
    *end = offsets[1];
    return t->dims >= 0 && *begin <= *end && golden_skip(p, '}');
}

static inline void golden_to_native(unsigned char *bytes, size_t count, size_t width) {
    const uint16_t one = 1;
    unsigned char b;
    size_t i, k;

    if (*(const unsigned char *)&one == 1) return;
    for (i = 0; i < count; i++, bytes += width)
        for (k = 0; k < width / 2; k++) {
            b = bytes[k];
            bytes[k] = bytes[width - 1 - k];
            bytes[width - 1 - k] = b;
        }
}

static inline int golden_parse(golden *g, char *p, size_t data_size) {
    const char *name;
    size_t begin, end;
    int n = 0;

    if (!golden_skip(&p, '{')) return 0;
    do {
        name = golden_string(&p);
        if (!name || !golden_skip(&p, ':') || !golden_skip(&p, '{')) return 0;
        if (strcmp(name, "__metadata__") == 0) {
            do {
                if (n == GOLDEN_META - 1 || !(g->meta[n][0] = golden_string(&p)) ||
                    !golden_skip(&p, ':') || !(g->meta[n][1] = golden_string(&p)))
                    return 0;
                n++;
            } while (golden_skip(&p, ','));
            if (!golden_skip(&p, '}')) return 0;
        } else {
            golden_tensor *t = &g->tensor[g->tensors++];

            t->name = name;
            if (!golden_parse_tensor(&p, t, &begin, &end) || end > data_size) return 0;
            t->data = g->data + begin;
            if (t->count) golden_to_native(g->data + begin, t->count, (end - begin) / t->count);
        }
    } while (golden_skip(&p, ','));
    return golden_skip(&p, '}');
}

static inline void golden_close(golden *g) {
    if (g) {
        free(g->tensor);
        free(g->header);
        free(g->data);
        free(g);
    }
}

/* NULL if the file cannot be read, which it prints; golden_close(it) after use. */
static inline golden *golden_open(const char *path) {
    FILE *f = fopen(path, "rb");
    golden *g = (golden *)calloc(1, sizeof *g);
    unsigned char head[8];
    size_t i, size = 0, rest = 0;
    long total = 0;
    int ok;

    ok = g && f && fseek(f, 0, SEEK_END) == 0 && (total = ftell(f)) >= 8 &&
         fseek(f, 0, SEEK_SET) == 0 && fread(head, 1, 8, f) == 8;
    if (ok) {
        for (i = 8; i-- > 0;) size = size << 8 | head[i];
        ok = size <= (size_t)total - 8;
    }
    if (ok) {
        rest = (size_t)total - 8 - size;
        g->header = (char *)calloc(size + 1, 1);
        g->data = (unsigned char *)malloc(rest + 1);
        ok = g->header && g->data && fread(g->header, 1, size, f) == size &&
             fread(g->data, 1, rest, f) == rest;
    }
    if (ok) {
        size_t tensors = 1; /* no more than there are braces */

        for (i = 0; i < size; i++) tensors += g->header[i] == '{';
        g->tensor = (golden_tensor *)calloc(tensors, sizeof *g->tensor);
        ok = g->tensor && golden_parse(g, g->header, rest);
    }
    if (f) fclose(f);
    if (!ok) {
        printf("%s: cannot be read as a golden file\n", path);
        golden_close(g);
        return NULL;
    }
    return g;
}

/* Value of a metadata key, or NULL. */
static inline const char *golden_meta(const golden *g, const char *key) {
    int i;

    for (i = 0; g->meta[i][0]; i++)
        if (strcmp(g->meta[i][0], key) == 0) return g->meta[i][1];
    return NULL;
}

/* A tensor by name, or NULL. */
static inline golden_tensor *golden_find(const golden *g, const char *name) {
    size_t i;

    for (i = 0; i < g->tensors; i++)
        if (strcmp(g->tensor[i].name, name) == 0) {
            g->tensor[i].used = 1;
            return &g->tensor[i];
        }
    return NULL;
}

/* Values of an F32 (F64) tensor and, unless count is NULL, how many; NULL: none of that type. */
static inline const float *golden_f32(const golden *g, const char *name, size_t *count) {
    const golden_tensor *t = golden_find(g, name);

    if (!t || strcmp(t->dtype, "F32") != 0) return NULL;
    if (count) *count = t->count;
    return (const float *)t->data;
}

static inline const double *golden_f64(const golden *g, const char *name, size_t *count) {
    const golden_tensor *t = golden_find(g, name);

    if (!t || strcmp(t->dtype, "F64") != 0) return NULL;
    if (count) *count = t->count;
    return (const double *)t->data;
}

/* ---- made-up values --------------------------------------------------------------------------

   Element i of stream number stream of a seed: the same in golden/make_golden.py, so that weights
   and inputs need not be stored. Every step is exact. */

/* The final mix of MurmurHash3, which is in the public domain. */
static inline uint32_t gen_mix(uint32_t h) {
    h = (h ^ h >> 16) * 0x85EBCA6Bu;
    h = (h ^ h >> 13) * 0xC2B2AE35u;
    return h ^ h >> 16;
}

static inline uint32_t gen_hash(uint32_t seed, uint32_t stream, size_t i) {
    return gen_mix(gen_mix(gen_mix(seed) + stream) + (uint32_t)i);
}

/* From center - amplitude to center + amplitude in steps of amplitude / 2^19; amplitude is a power
   of two, center a small multiple of it. */
static inline float gen_float(uint32_t seed, uint32_t stream, size_t i, float amplitude,
                              float center) {
    float k = (float)((int32_t)(gen_hash(seed, stream, i) >> 12) - 524288);

    return k / 524288.0f * amplitude + center;
}

/* 0 to below - 1 */
static inline int32_t gen_int(uint32_t seed, uint32_t stream, size_t i, int32_t below) {
    return (int32_t)((uint64_t)(gen_hash(seed, stream, i) >> 8) * (uint64_t)below >> 24);
}

#endif /* TEST_H */
