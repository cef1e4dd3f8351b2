/* test_kernels.c - the kernels of Part 4: every stamp that this CPU can run, bit by bit

   What products, pooling, packing and sums must give is written down here in the documented order,
   with exact multiply-adds; for the other kernels it is what plain C gives. Every
   stamp, plain C too, then runs where nothing goes unnoticed: in allocations of exactly the size,
   for sanitizers, misaligned by 0 to 3 elements; and up to the end of a page behind which nothing
   may be touched, since sanitizers do not see vector loads through masks. All of a buffer is
   compared, so gaps between rows must keep what they had. NaNs count as equal.
*/
#if defined(__unix__) && !defined(_DEFAULT_SOURCE)
#define _DEFAULT_SOURCE /* for MAP_ANONYMOUS */
#endif
#define NN_IMPLEMENTATION
#include "nn.h"

#include "test.h"

#if defined(__unix__)
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>
#endif

/* ---- stamps ---------------------------------------------------------------------------------- */

#define MEMBER(type, name, arguments) type(*name) arguments;
#define PLAIN(type, name, arguments) , nn__##name##_f32_plain
#define AVX2(type, name, arguments) , nn__##name##_f32_avx2
#define AVX512(type, name, arguments) , nn__##name##_f32_avx512
#define FMA(type, name, arguments) , nn__##name##_f32_fma
#define NEON(type, name, arguments) , nn__##name##_f32_neon

typedef struct stamp {
    const char *name;
    NN__KERNELS(MEMBER)
} stamp;

static const stamp plain = { "plain" NN__KERNELS(PLAIN) };
#if NN__X86
static const stamp avx2 = { "avx2" NN__KERNELS(AVX2) };
static const stamp avx512 = { "avx512" NN__KERNELS(AVX512) };
#elif NN__X86_FMA
static const stamp fma_only = { "fma" NN__KERNELS(FMA) };
#elif NN__ARM64
static const stamp neon = { "neon" NN__KERNELS(NEON) };
#endif

static const stamp *stamps[3] = { &plain };
static int stamp_count = 1;

static void find_stamps(void) {
#if NN__X86
    int has_avx2, has_avx512;

    __builtin_cpu_init();
    has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    has_avx512 = has_avx2 && __builtin_cpu_supports("avx512f");
    if (has_avx2) stamps[stamp_count++] = &avx2;
    else printf("skipped: this CPU cannot run the avx2 kernels\n");
    if (has_avx512) stamps[stamp_count++] = &avx512;
    else printf("skipped: this CPU cannot run the avx512 kernels\n");
#elif NN__X86_FMA
    __builtin_cpu_init();
    if (__builtin_cpu_supports("fma")) stamps[stamp_count++] = &fma_only;
    else printf("skipped: this CPU cannot run the fma kernels\n");
#elif NN__ARM64
    stamps[stamp_count++] = &neon;
#endif
}

/* ---- numbers --------------------------------------------------------------------------------- */

enum { ROOM = 1 << 18, SPARE = 4096 }; /* floats of the largest buffer */

/* SMALL times SMALL_NEGATIVE always rounds to -0; TIED are few different ones, some of them NaN. */
enum { NORMAL, POSITIVE, WILD, SMALL, SMALL_NEGATIVE, TIED, KINDS };

static float numbers[KINDS][ROOM + SPARE];

static float number(int kind, size_t i) {
    static const uint32_t wild[] = { 0x00000000, 0x80000000, 0x7f800000, 0xff800000, 0x7fc00000,
                                     0xffc12345, 0x7f7fffff, 0xff7fffff, 0x00000001, 0x80345678,
                                     0x00800000, 0x42b17218, 0xc2aeac50, 0x3f800000 };
    static const uint32_t tied[] = { 0x00000000, 0x80000000, 0x3f800000, 0xbf800000,
                                     0x40000000, 0x00000001, 0xff800000 };
    uint32_t h = gen_hash(7, (uint32_t)kind, i), rare = gen_hash(8, (uint32_t)kind, i);
    uint32_t fraction = h & 0x7fffff, sign = h & 0x80000000u, e = h >> 23 & 15;

    switch (kind) {
    case WILD:
        if (rare % 16 == 0) return nn__from_bits(wild[h % (sizeof wild / sizeof *wild)]);
        return nn__from_bits(sign | (119 + e) << 23 | fraction);
    case TIED:
        if (rare % 64 == 0) return nn__from_bits(0x7fc00000);
        return nn__from_bits(tied[h % (sizeof tied / sizeof *tied)]);
    case SMALL:
    case SMALL_NEGATIVE:
        sign = kind == SMALL ? 0 : 0x80000000u;
        return nn__from_bits(rare % 8 == 0 ? sign : sign | (48 + e % 4) << 23 | fraction);
    case POSITIVE:
        if (rare % 16 == 0) return 0.0f;
        sign = 0;
        break;
    default: break;
    }
    return nn__from_bits(sign | (120 + e % 8) << 23 | fraction);
}

static void make_numbers(void) {
    size_t i;
    int kind;

    for (kind = 0; kind < KINDS; kind++)
        for (i = 0; i < ROOM + SPARE; i++) numbers[kind][i] = number(kind, i);
}

/* Every test begins with both zero, so that it does not depend on those before it. */
static uint32_t taken, drawn;

/* Up to ROOM of them, not the same twice in a row. */
static const float *some(int kind) { return numbers[kind] + ++taken * 37 % SPARE; }

/* 0 to below - 1 */
static int32_t draw(int32_t below) { return gen_int(9, 0, drawn++, below); }

/* Room for what must come out, as it is before; three of them. */
static float *expected(int which, const float *before, size_t n) {
    static float room[3][ROOM];

    return (float *)memcpy(room[which], before, n * 4);
}

/* ---- runs ------------------------------------------------------------------------------------ */

enum { SLOTS = 10, GUARD = 0xa5, GUARDS = 64 };

/* One of a kernel's buffers in this run. */
typedef struct slot {
    unsigned char *block, *p; /* block: what to free */
    const unsigned char *want;
    size_t size, width, before; /* width of an element; guards before the first one */
} slot;

static struct {
    char what[128];
    unsigned cases;
    int turn, in_pages;
    int slots;
    slot slot[SLOTS];
} run;

/* Ends of pages with nothing behind them, one for each slot. */
static unsigned char *page_end[SLOTS];
static int has_pages;

#if defined(__unix__) && defined(MAP_ANONYMOUS)
static void crashed(int signal_number) {
    printf("%s: signal %d [%s]\n", test_state.name, signal_number, test_state.note);
    fflush(stdout);
    _exit(1);
}

static void make_pages(void) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE),
           size = (ROOM * 4 + GUARDS + page - 1) / page * page;
    unsigned char *p;
    int i;

    for (i = 0; i < SLOTS; i++) {
        p = (unsigned char *)mmap(NULL, size + page, PROT_READ | PROT_WRITE,
                                  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (p == (unsigned char *)MAP_FAILED || mprotect(p + size, page, PROT_NONE) != 0) return;
        page_end[i] = p + size;
    }
    has_pages = 1;
    signal(SIGSEGV, crashed);
    signal(SIGBUS, crashed);
}
#else
static void make_pages(void) { has_pages = 0; }
#endif

/* A case is: for (begin("what it is"); (k = next()) != NULL; finish())
                  k->kernel(put(from, want, count), ...); */
static void begin(const char *format, ...) {
    va_list args;

    va_start(args, format);
    vsnprintf(run.what, sizeof run.what, format, args);
    va_end(args);
    run.cases++;
    run.turn = 0;
}

static const stamp *next(void) {
    int ways = has_pages ? 2 : 1, which = run.turn / ways;

    if (which == stamp_count) return NULL;
    run.in_pages = run.turn++ % ways;
    test_note("%s, %s, %s", run.what, stamps[which]->name, run.in_pages ? "pages" : "allocated");
    return stamps[which];
}

static unsigned char *put_elements(const void *from, const void *want, size_t size, size_t width) {
    slot *s = &run.slot[run.slots];

    if (!from) return NULL;
    s->want = (const unsigned char *)want;
    s->size = size;
    s->width = width;
    s->block = NULL;
    if (run.in_pages) {
        s->before = GUARDS;
        s->p = page_end[run.slots] - size;
    } else {
        s->before = (run.cases + (unsigned)run.slots) % 4 * width;
        s->block = (unsigned char *)malloc(s->before + size + !size);
        if (!s->block) abort();
        s->p = s->block + s->before;
    }
    run.slots++;
    memset(s->p - s->before, GUARD, s->before);
    return (unsigned char *)memcpy(s->p, from, size);
}

/* A copy of count floats for this run, and what they must be after it; NULL stays NULL. */
static float *put(const float *from, const float *want, size_t count) {
    return (float *)(void *)put_elements(from, want, count * 4, 4);
}

static const float *put_const(const float *from, size_t count) { return put(from, from, count); }

static unsigned char *put_bytes(const unsigned char *from, const unsigned char *want,
                                size_t count) {
    return put_elements(from, want, count, 1);
}

static int is_nan(uint32_t bits) { return (bits & 0x7fffffff) > 0x7f800000; }

static int same_float(const void *a, const void *b) {
    uint32_t x, y;

    memcpy(&x, a, 4);
    memcpy(&y, b, 4);
    return x == y || (is_nan(x) && is_nan(y));
}

static void check_slot(const slot *s) {
    size_t i = 0, guards = 0;
    uint32_t got = 0, want = 0;

    while (guards < s->before && s->p[(ptrdiff_t)guards - (ptrdiff_t)s->before] == GUARD) guards++;
    test_report(guards == s->before, __FILE__, __LINE__, "nothing is written before a buffer",
                "of %lu elements", (unsigned long)(s->size / s->width));
    if (memcmp(s->p, s->want, s->size) == 0) i = s->size;
    for (; i < s->size; i += s->width)
        if (s->width == 4 ? !same_float(s->p + i, s->want + i) : s->p[i] != s->want[i]) break;
    if (i < s->size) {
        memcpy(&got, s->p + i, s->width);
        memcpy(&want, s->want + i, s->width);
    }
    test_report(i == s->size, __FILE__, __LINE__, "the same bits",
                "element %lu of %lu is %08lx, not %08lx", (unsigned long)(i / s->width),
                (unsigned long)(s->size / s->width), (unsigned long)got, (unsigned long)want);
}

static void finish(void) {
    int i;

    for (i = 0; i < run.slots; i++) {
        check_slot(&run.slot[i]);
        free(run.slot[i].block);
    }
    run.slots = 0;
}

static void check_result(float got, float want) {
    test_report(same_float(&got, &want), __FILE__, __LINE__, "the same result",
                "%.9g (%08lx), not %.9g (%08lx)", (double)got, (unsigned long)nn__bits(got),
                (double)want, (unsigned long)nn__bits(want));
}

static const int32_t sizes[] = { 1,  2,  3,  4,  5,  7,  8,  9,  15, 16,  17,
                                 23, 31, 32, 33, 47, 48, 63, 64, 65, 100, 130 };
enum { SIZES = sizeof sizes / sizeof *sizes };

/* ---- products -------------------------------------------------------------------------------- */

/* Not every C library rounds fmaf once. */
static float fused(float a, float b, float c) {
#if defined(__GLIBC__) || defined(FP_FAST_FMAF)
    return fmaf(a, b, c);
#else
    return nn__fma_soft(a, b, c);
#endif
}

/* Where number i of three nested counts lies. */
static ptrdiff_t nested(const ptrdiff_t stride[3], const int32_t n[3], int32_t i) {
    return i % n[0] * stride[0] + i / n[0] % n[1] * stride[1] + i / n[0] / n[1] * stride[2];
}

/* Where the last of them lies; -1 if there is none. */
static ptrdiff_t last_nested(const ptrdiff_t stride[3], const int32_t n[3]) {
    int32_t all = n[0] * n[1] * n[2];

    return all ? nested(stride, n, all - 1) : -1;
}

/* Strides for them, from the first one on, with gaps; returns that of a fourth. */
static ptrdiff_t nest(ptrdiff_t stride[3], const int32_t n[3], ptrdiff_t first, ptrdiff_t gap) {
    stride[0] = first;
    stride[1] = stride[0] * n[0] + gap;
    stride[2] = stride[1] * n[1] + gap;
    return stride[2] * n[2] + gap;
}

static int32_t panel_width(const nn__gemm *g, int32_t j) {
    int32_t left = g->cols - j / 16 * 16;

    return left < 16 ? left : 16;
}

/* Places of B[k][j] and C[r][j], k and r being places among k and rows. */
static ptrdiff_t place_in_b(const nn__gemm *g, int32_t j, ptrdiff_t k) {
    return j / 16 * 16 * g->bc + (g->b0 + k) * (g->b_panels ? panel_width(g, j) : 1) +
           j % 16 * g->bj;
}

static ptrdiff_t place_in_c(const nn__gemm *g, int32_t j, ptrdiff_t r) {
    return j / 16 * 16 * g->cc + (g->c0 + r) * (g->c_panels ? panel_width(g, j) : 1) + j % 16;
}

enum { MOST_K = 16384 };

static void gemm_reference(const nn__gemm *g) {
    static ptrdiff_t a_of_k[MOST_K], b_of_k[MOST_K];
    int32_t rows = g->rows[0] * g->rows[1] * g->rows[2], n = g->n[0] * g->n[1] * g->n[2], r, j, k;

    for (k = 0; k < n; k++) {
        a_of_k[k] = nested(g->ak, g->n, k);
        b_of_k[k] = nested(g->bk, g->n, k);
    }
    for (r = 0; r < rows; r++)
        for (j = 0; j < g->cols; j++) {
            const float *a = g->a + nested(g->ar, g->rows, r);
            const float *b = g->b + place_in_b(g, j, 0);
            float *c = g->c + place_in_c(g, j, nested(g->cr, g->rows, r));
            ptrdiff_t w = g->b_panels ? panel_width(g, j) : 1;
            float s = g->add ? *c : 0.0f;

            for (k = 0; k < n; k++) s = fused(a[a_of_k[k]], b[b_of_k[k] * w], s);
            if (g->bias) s += g->bias[j];
            *c = g->relu && 0.0f > s ? 0.0f : s;
        }
}

static void check_gemm(const char *what, nn__gemm g, int kind_a, int kind_b, int bias) {
    ptrdiff_t size_b = 0, size_c = 0;
    size_t size_a = (size_t)(last_nested(g.ar, g.rows) + last_nested(g.ak, g.n) + 1);
    int32_t n = g.n[0] * g.n[1] * g.n[2], j;
    const float *c = some(kind_a);
    const stamp *k;
    nn__gemm own;

    if (!n) size_a = 0;
    for (j = 0; j < g.cols; j++) {
        ptrdiff_t b_end = n ? place_in_b(&g, j, last_nested(g.bk, g.n)) + 1 : 0;
        ptrdiff_t c_end = place_in_c(&g, j, last_nested(g.cr, g.rows)) + 1;

        if (b_end > size_b) size_b = b_end;
        if (c_end > size_c) size_c = c_end;
    }
    if (!CHECK(size_a <= ROOM && size_b <= ROOM && size_c <= ROOM && n <= MOST_K)) return;
    g.a = some(kind_a);
    g.b = some(kind_b);
    g.bias = bias ? some(NORMAL) : NULL;
    g.c = expected(0, c, (size_t)size_c);
    gemm_reference(&g);
    own = g;
    for (begin("%s: rows %ldx%ldx%ld, cols %ld, k %ldx%ldx%ld, bias %d, add %d, relu %d", what,
               (long)g.rows[0], (long)g.rows[1], (long)g.rows[2], (long)g.cols, (long)g.n[0],
               (long)g.n[1], (long)g.n[2], bias, g.add, g.relu);
         (k = next()) != NULL; finish()) {
        own.a = put_const(g.a, size_a);
        own.b = put_const(g.b, (size_t)size_b);
        own.bias = put_const(g.bias, (size_t)g.cols);
        own.c = put(c, g.c, (size_t)size_c);
        k->gemm(&own);
    }
}

/* How B lies: [k][cols]; [cols][k]; panels [k][width]; panels [k][16]; the transpose of those; no
   element beside another one. */
enum { B_ROWS, B_COLUMNS, B_PANELS, B_WIDE_PANELS, B_PANELS_BACK, B_STRIDED, B_LAYOUTS };

static const char *const b_layout[] = { "rows",        "columns",     "panels",
                                        "wide panels", "panels back", "strided" };

static ptrdiff_t draw_gap(void) { return draw(2) * draw(4); }

/* A product of this size with everything else drawn. */
static void check_some_gemm(const int32_t rows[3], int32_t cols, const int32_t n[3], int layout) {
    nn__gemm g;
    ptrdiff_t gap = draw_gap(), width;
    int kinds = draw(8), kind_a = NORMAL, kind_b = NORMAL, l;

    memset(&g, 0, sizeof g);
    memcpy(g.rows, rows, sizeof g.rows);
    memcpy(g.n, n, sizeof g.n);
    g.cols = cols;
    if (draw(2)) nest(g.ar, rows, nest(g.ak, n, 1, draw_gap()), draw_gap());
    else nest(g.ak, n, nest(g.ar, rows, 1, draw_gap()), draw_gap());
    for (l = 0; l < 3 && draw(4) == 0; l++) g.ar[l] = 1 + draw(9); /* rows that overlap */
    g.bj = 1;
    g.b0 = draw(4);
    switch (layout) {
    case B_ROWS:
        nest(g.bk, n, cols + gap, gap);
        g.bc = 1;
        break;
    case B_COLUMNS: g.bc = g.bj = nest(g.bk, n, 1, gap); break;
    case B_PANELS:
        g.b_panels = 1;
        g.bc = nest(g.bk, n, 1, gap) + g.b0;
        break;
    case B_WIDE_PANELS: g.bc = (nest(g.bk, n, 16, gap) + 15) / 16; break;
    case B_PANELS_BACK:
        g.bc = g.bj = n[0] + gap;
        g.bk[0] = 1;
        g.bk[1] = cols * g.bj + gap;
        g.bk[2] = n[1] * g.bk[1] + gap;
        break;
    default: g.bc = g.bj = 3; nest(g.bk, n, 3 * cols + gap, gap);
    }
    g.c0 = draw(4);
    g.c_panels = (uint8_t)draw(2);
    width = nest(g.cr, rows, g.c_panels ? 1 : cols + draw_gap(), draw_gap());
    g.cc = g.c_panels ? g.c0 + width : 1;
    g.add = (uint8_t)draw(2);
    g.relu = (uint8_t)draw(2);
    for (l = 1; l < 3; l++) { /* steps that are never made */
        if (n[l] == 1) g.ak[l] = g.bk[l] = 0;
        if (rows[l] == 1) g.ar[l] = g.cr[l] = 0;
    }
    if (kinds == 0) kind_a = kind_b = WILD;
    if (kinds == 1) kind_a = SMALL, kind_b = SMALL_NEGATIVE;
    check_gemm(b_layout[layout], g, kind_a, kind_b, draw(2));
}

TEST(gemm_every_edge) {
    int32_t rows[3] = { 1, 1, 1 }, n[3] = { 5, 1, 1 }, cols;

    for (rows[0] = 1; rows[0] <= 26; rows[0]++)
        for (cols = 1; cols <= 80; cols++) check_some_gemm(rows, cols, n, draw(B_LAYOUTS));
}

TEST(gemm_nested) {
    static const int32_t some_rows[] = { 1, 2, 3, 4, 5, 6, 7, 11, 12, 13, 24, 25, 26 };
    static const int32_t some_k[] = { 1, 2, 3, 5, 8, 15, 16, 17, 33 };
    int i, l;

    for (i = 0; i < 400; i++) {
        int32_t rows[3], n[3], cols = sizes[draw(SIZES)];

        rows[0] = some_rows[draw(sizeof some_rows / sizeof *some_rows)];
        n[0] = some_k[draw(sizeof some_k / sizeof *some_k)];
        for (l = 1; l < 3; l++) {
            rows[l] = 1 + draw(4 - l);
            n[l] = 1 + draw(4);
        }
        if (draw(16) == 0) n[draw(3)] = 0;
        check_some_gemm(rows, cols, n, draw(B_LAYOUTS));
    }
}

/* So many k that B goes in several blocks: packed ones are of 256 k or less, those of a B that is
   used where it lies of 4096 or less, if there are more rows than two tiles have. */
TEST(gemm_blocks) {
    static const int32_t large[][7] = {
        { 25, 1, 1, 16, 4099, 1, 1 }, { 25, 1, 1, 32, 2049, 1, 1 }, { 13, 1, 1, 64, 1025, 2, 1 },
        { 13, 1, 1, 16, 100, 41, 2 }, { 13, 1, 1, 64, 100, 11, 2 }, { 5, 3, 1, 16, 7, 11, 60 },
        { 1, 13, 1, 64, 4, 5, 60 },
    };
    static const int32_t packed[][7] = {
        { 3, 1, 1, 15, 257, 2, 2 }, { 2, 1, 1, 64, 65, 3, 1 },  { 7, 1, 1, 21, 30, 11, 2 },
        { 2, 2, 1, 100, 9, 9, 9 },  { 5, 1, 1, 16, 256, 3, 1 }, { 3, 1, 3, 47, 129, 1, 2 },
    };
    size_t i;
    int layout;

    for (i = 0; i < sizeof large / sizeof *large; i++) {
        check_some_gemm(large[i], large[i][3], large[i] + 4, B_ROWS);
        check_some_gemm(large[i], large[i][3], large[i] + 4, B_PANELS);
    }
    for (i = 0; i < sizeof packed / sizeof *packed; i++)
        for (layout = 0; layout < B_LAYOUTS; layout++)
            check_some_gemm(packed[i], packed[i][3], packed[i] + 4, layout);
}

static ptrdiff_t place_in_lanes(const nn__gemm *g, int32_t j, int32_t k) {
    int32_t left = g->n[0] - k / 16 * 16;

    if (!g->b_panels) return k * g->bk[0] + j * g->bj;
    return k / 16 * g->bk[1] + k % 16 + j * g->bj * (left < 16 ? left : 16);
}

/* Element k goes to lane k % 16; then halves are added until one is left. */
static float join_lanes(float lane[16]) {
    int half, l;

    for (half = 8; half; half /= 2)
        for (l = 0; l < half; l++) lane[l] += lane[l + half];
    return lane[0];
}

static void lanes_reference(const nn__gemm *g) {
    int32_t r, j, k;

    for (r = 0; r < g->rows[0]; r++)
        for (j = 0; j < g->cols; j++) {
            float lane[16] = { 0 }, s;

            for (k = 0; k < g->n[0]; k++)
                lane[k % 16] =
                    fused(g->a[r * g->ar[0] + k], g->b[place_in_lanes(g, j, k)], lane[k % 16]);
            s = join_lanes(lane);
            if (g->bias) s += g->bias[j];
            g->c[r * g->cr[0] + j] = s;
        }
}

static void check_lanes(const char *what, nn__gemm g, int kind_a, int kind_b, int bias) {
    size_t size_a = (size_t)((g.rows[0] - 1) * g.ar[0] + g.n[0]), size_b = 0;
    size_t size_c = (size_t)((g.rows[0] - 1) * g.cr[0] + g.cols);
    const float *c = some(NORMAL);
    const stamp *k;
    nn__gemm own;
    int32_t i, j;

    for (j = 0; j < g.cols; j++)
        for (i = 0; i < g.n[0]; i++)
            if ((size_t)place_in_lanes(&g, j, i) >= size_b)
                size_b = (size_t)place_in_lanes(&g, j, i) + 1;
    g.a = some(kind_a);
    g.b = some(kind_b);
    g.bias = bias ? some(NORMAL) : NULL;
    g.c = expected(0, c, size_c);
    lanes_reference(&g);
    own = g;
    for (begin("%s: rows %ld, cols %ld, k %ld, bias %d, kind %d", what, (long)g.rows[0],
               (long)g.cols, (long)g.n[0], bias, kind_a);
         (k = next()) != NULL; finish()) {
        own.a = put_const(g.a, size_a);
        own.b = put_const(g.b, size_b);
        own.bias = put_const(g.bias, (size_t)g.cols);
        own.c = put(c, g.c, size_c);
        k->lanes(&own);
    }
}

TEST(lanes) {
    static const char *const what[] = { "columns", "rows", "panels" };
    nn__gemm g;
    int32_t rows, cols, i, layout, kinds;

    for (rows = 1; rows <= 9; rows++)
        for (cols = 1; cols <= 16; cols++)
            for (i = 0; i < SIZES; i++) {
                ptrdiff_t gap = draw(4);
                int kind_a = NORMAL, kind_b = NORMAL;

                layout = draw(3);
                kinds = draw(8);
                memset(&g, 0, sizeof g);
                g.rows[0] = rows;
                g.cols = cols;
                g.n[0] = sizes[i];
                g.rows[1] = g.rows[2] = g.n[1] = g.n[2] = 1;
                g.ak[0] = 1;
                g.ar[0] = g.n[0] + gap;
                g.cr[0] = cols + gap;
                g.bj = layout == 0 ? g.n[0] + gap : 1 + draw(2);
                g.bk[0] = layout == 1 ? cols * g.bj + gap : 1;
                g.bk[1] = 16 * cols * g.bj + gap;
                g.b_panels = layout == 2;
                if (kinds == 0) kind_a = kind_b = WILD;
                if (kinds == 1) kind_a = SMALL, kind_b = SMALL_NEGATIVE;
                check_lanes(what[layout], g, kind_a, kind_b, draw(2));
            }
}

static void channels_reference(const nn__gemm *g) {
    int32_t rows = g->rows[0] * g->rows[1] * g->rows[2], n = g->n[0] * g->n[1] * g->n[2], r, j, k;

    for (r = 0; r < rows; r++)
        for (j = 0; j < g->cols; j++) {
            const float *a = g->a + nested(g->ar, g->rows, r) + j, *b = g->b + g->b0 + j;
            float *c = g->c + nested(g->cr, g->rows, r) + j, s = g->add ? *c : 0.0f;

            for (k = 0; k < n; k++)
                s = fused(a[nested(g->ak, g->n, k)], b[nested(g->bk, g->n, k)], s);
            if (g->bias) s += g->bias[j];
            *c = s;
        }
}

TEST(channels) {
    nn__gemm g, own;
    int i, l;

    for (i = 0; i < 400; i++) {
        size_t size_a, size_b, size_c, cols;
        ptrdiff_t gap = draw(4);
        const float *c = some(NORMAL);
        const stamp *k;

        memset(&g, 0, sizeof g);
        for (l = 0; l < 3; l++) {
            g.rows[l] = 1 + draw(4);
            g.n[l] = 1 + draw(4);
        }
        if (draw(16) == 0) g.n[draw(3)] = 0;
        g.cols = sizes[draw(SIZES)];
        cols = (size_t)g.cols;
        g.b0 = draw(4);
        nest(g.ar, g.rows, nest(g.ak, g.n, g.cols + gap, gap), gap);
        nest(g.bk, g.n, g.cols + gap, gap);
        nest(g.cr, g.rows, g.cols + gap, gap);
        g.bj = g.bc = g.cc = 1;
        g.add = (uint8_t)draw(2);
        size_a = (size_t)(last_nested(g.ar, g.rows) + last_nested(g.ak, g.n) + g.cols);
        size_b = (size_t)(g.b0 + last_nested(g.bk, g.n) + g.cols);
        size_c = (size_t)(last_nested(g.cr, g.rows) + g.cols);
        if (last_nested(g.ak, g.n) < 0) size_a = size_b = 0;
        if (!CHECK(size_a <= ROOM && size_b <= ROOM && size_c <= ROOM)) return;
        g.a = some(i % 8 == 0 ? WILD : i % 8 == 1 ? SMALL : NORMAL);
        g.b = some(i % 8 == 1 ? SMALL_NEGATIVE : NORMAL);
        g.bias = draw(2) ? some(NORMAL) : NULL;
        g.c = expected(0, c, size_c);
        channels_reference(&g);
        own = g;
        for (begin("case %d, cols %ld", i, (long)g.cols); (k = next()) != NULL; finish()) {
            own.a = put_const(g.a, size_a);
            own.b = put_const(g.b, size_b);
            own.bias = put_const(g.bias, cols);
            own.c = put(c, g.c, size_c);
            k->channels(&own);
        }
    }
}

TEST(pack) {
    int i;

    for (i = 0; i < 600; i++) {
        int32_t n[3], w = draw(2) ? 16 : 1 + draw(16), all, j, e;
        ptrdiff_t bk[3], bj = 1, gap = draw(4);
        const float *b = some(NORMAL);
        float *to = expected(0, some(NORMAL), 0);
        const stamp *k;
        size_t size;

        n[0] = sizes[draw(16)];
        n[1] = 1 + draw(3);
        n[2] = 1 + draw(3);
        all = n[0] * n[1] * n[2];
        if (draw(2)) bj = nest(bk, n, 1, gap);
        else nest(bk, n, (draw(2) ? bj : (bj = 2)) * w + gap, gap);
        for (e = 0; e < all; e++)
            for (j = 0; j < 16; j++) to[e * 16 + j] = j < w ? b[nested(bk, n, e) + j * bj] : 0.0f;
        size = (size_t)(last_nested(bk, n) + (w - 1) * bj + 1);
        if (!CHECK(size <= ROOM && all * 16 <= ROOM)) return;
        for (begin("case %d: k %ldx%ldx%ld, w %ld, bj %ld", i, (long)n[0], (long)n[1], (long)n[2],
                   (long)w, (long)bj);
             (k = next()) != NULL; finish())
            k->pack(put(some(WILD), to, (size_t)all * 16), put_const(b, size), n, bk, bj, w);
    }
}

/* ---- element by element ---------------------------------------------------------------------- */

static const int32_t every_act[] = { NN_RELU, NN_LEAKY_RELU, NN_SIGMOID, NN_TANH, NN_SOFTMAX };
enum { ACTS = sizeof every_act / sizeof *every_act };

TEST(act) {
    static const int kinds[] = { NORMAL, WILD, WILD };
    size_t a, i, kind;

    for (a = 0; a < ACTS; a++)
        for (i = 0; i < SIZES; i++)
            for (kind = 0; kind < 3; kind++) {
                int32_t width = sizes[i], act = every_act[a];
                size_t n = (size_t)width * (act == NN_SOFTMAX ? 3 : 1);
                const float *x = some(kinds[kind]);
                float *y = expected(0, x, n);
                const stamp *k;

                plain.act(y, n, width, act, 0.125f);
                for (begin("act %d, n %lu", act, (unsigned long)n); (k = next()) != NULL; finish())
                    k->act(put(x, y, n), n, width, act, 0.125f);
            }
}

TEST(act_grad) {
    static const int kinds[][2] = { { NORMAL, NORMAL }, { WILD, WILD }, { SMALL_NEGATIVE, SMALL } };
    size_t a, i, kind;

    for (a = 0; a < ACTS; a++)
        for (i = 0; i < SIZES; i++)
            for (kind = 0; kind < 3; kind++) {
                int32_t width = sizes[i], act = every_act[a];
                size_t n = (size_t)width * (act == NN_SOFTMAX ? 3 : 1);
                const float *from = some(kinds[kind][0]), *y = some(kinds[kind][1]);
                float *dy = expected(0, from, n);
                const stamp *k;

                plain.act_grad(dy, y, n, width, act, 0.125f);
                for (begin("act %d, n %lu, kind %d", act, (unsigned long)n, kinds[kind][0]);
                     (k = next()) != NULL; finish())
                    k->act_grad(put(from, dy, n), put_const(y, n), n, width, act, 0.125f);
            }
}

TEST(affine) {
    static const float mean[] = { 0.5f, -3.0f, 0.0f, 100.25f, 7.0f };
    static const float std[][5] = { { 0, 0, 0, 0, 0 }, { 0, 0.3125f, 7, 0, 1 }, { 3, 1, 0, 9, 0 } };
    int32_t c, i;
    size_t s;

    for (c = 1; c <= 5; c++)
        for (i = 0; i < SIZES; i++)
            for (s = 0; s < 3; s++) {
                size_t n = (size_t)sizes[i], table = c > 4 ? 1 : (size_t)c;
                const float *x = some(s == 2 ? WILD : NORMAL);
                const unsigned char *bytes = (const unsigned char *)(const void *)some(NORMAL);
                float *of_x = expected(0, x, n), *of_bytes = expected(1, x, n), *in_place;
                const stamp *k;

                bytes += i % 4;
                plain.affine(of_x, x, NN_F32, n, c, 0.3f, mean, std[s]);
                plain.affine(of_bytes, bytes, NN_U8, n, c, 0.3f, mean, std[s]);
                for (begin("n %lu, c %ld, std %lu", (unsigned long)n, (long)c, (unsigned long)s);
                     (k = next()) != NULL; finish()) {
                    const float *m = put_const(mean, table), *d = put_const(std[s], table);

                    k->affine(put(some(NORMAL), of_x, n), put_const(x, n), NN_F32, n, c, 0.3f, m,
                              d);
                    in_place = put(x, of_x, n);
                    k->affine(in_place, in_place, NN_F32, n, c, 0.3f, m, d);
                    k->affine(put(some(NORMAL), of_bytes, n), put_bytes(bytes, bytes, n), NN_U8, n,
                              c, 0.3f, m, d);
                }
            }
}

TEST(add) {
    size_t i, j, n;

    for (i = 0; i < 2 * SIZES; i++) {
        const float *a = some(i % 2 ? WILD : NORMAL), *b = some(i % 2 ? WILD : NORMAL);
        float *y, *in_place;
        const stamp *k;

        n = (size_t)sizes[i / 2];
        y = expected(0, a, n);
        for (j = 0; j < n; j++) y[j] = a[j] + b[j];
        for (begin("n %lu", (unsigned long)n); (k = next()) != NULL; finish()) {
            k->add(put(some(NORMAL), y, n), put_const(a, n), put_const(b, n), n);
            in_place = put(a, y, n);
            k->add(in_place, in_place, put_const(b, n), n);
        }
    }
}

TEST(divide) {
    size_t i, j, n;

    for (i = 0; i < 2 * SIZES; i++) {
        const float *x = some(i % 2 ? WILD : NORMAL);
        float *y, *in_place;
        const stamp *k;

        n = (size_t)sizes[i / 2];
        y = expected(0, x, n);
        for (j = 0; j < n; j++) y[j] = x[j] / 7.0f;
        for (begin("n %lu", (unsigned long)n); (k = next()) != NULL; finish()) {
            k->divide(put(some(NORMAL), y, n), put_const(x, n), 7.0f, n);
            in_place = put(x, y, n);
            k->divide(in_place, in_place, 7.0f, n);
        }
    }
}

TEST(add_rows) {
    static const size_t some_rows[] = { 0, 1, 2, 5, 33 };
    int32_t i, j;
    size_t a, r;

    for (i = 0; i < SIZES; i++)
        for (a = 0; a < 5; a++) {
            int32_t cols = sizes[i];
            size_t n = (size_t)cols, rows = some_rows[a], stride = n + (a + (size_t)i) % 4;
            size_t size = rows ? (rows - 1) * stride + n : 0;
            const float *from = some(NORMAL), *x = some(i % 5 == 4 ? WILD : NORMAL);
            float *s = expected(0, from, n);
            const stamp *k;

            for (r = 0; r < rows; r++)
                for (j = 0; j < cols; j++) s[j] += x[r * stride + (size_t)j];
            for (begin("rows %lu, cols %ld", (unsigned long)rows, (long)cols); (k = next()) != NULL;
                 finish())
                k->add_rows(put(from, s, n), put_const(x, size), rows, cols, (ptrdiff_t)stride);
        }
}

/* ---- pooling --------------------------------------------------------------------------------- */

static void set_winner(unsigned char *keep, int bits, size_t i, unsigned winner) {
    size_t at = i * (size_t)bits;
    int b;

    for (b = 0; b < bits; b++, at++) {
        keep[at / 8] = (unsigned char)(keep[at / 8] & ~(1u << at % 8));
        keep[at / 8] = (unsigned char)(keep[at / 8] | (winner >> b & 1u) << at % 8);
    }
}

/* The first of the largest, and a NaN beats whatever came before it. */
static void maxpool_reference(const nn__pool *p) {
    int32_t i, j, a, b;

    for (i = 0; i < p->windows; i++)
        for (j = 0; j < p->channels; j++) {
            const float *x = p->x + i * p->step + j;
            float best = *x;
            int32_t winner = p->first;

            for (a = 0; a < p->h; a++)
                for (b = 0; b < p->w; b++) {
                    float v = x[a * p->row + b * p->column];

                    if (!(v > best) && !isnan(v)) continue;
                    best = v;
                    winner = p->first + a * p->kw + b;
                }
            p->y[i * p->y_step + j] = best;
            if (p->keep)
                set_winner(p->keep, p->bits, p->index + (size_t)(i * p->y_step + j),
                           (unsigned)winner);
        }
}

/* Windows of h x w with kw elements a row, at least so far apart; everything else drawn. */
static void draw_pool(nn__pool *p, int32_t h, int32_t w, int32_t kw, int32_t stride) {
    ptrdiff_t gap = draw(4);

    memset(p, 0, sizeof *p);
    p->h = h;
    p->w = w;
    p->kw = kw;
    p->channels = sizes[draw(SIZES - 3)];
    p->windows = 1 + draw(4);
    p->column = p->channels + gap;
    p->step = stride * p->column;
    p->row = p->windows * p->step + w * p->column + gap;
    p->y_step = p->channels + draw(2) * draw(8);
    p->index = (size_t)draw(2) * (size_t)draw(20);
}

typedef struct pool_sizes {
    size_t x, y, keep;
} pool_sizes;

static pool_sizes pool_sizes_of(const nn__pool *p) {
    pool_sizes s;

    s.y = (size_t)((p->windows - 1) * p->y_step + p->channels);
    s.x = (size_t)((p->windows - 1) * p->step + (p->h - 1) * p->row + (p->w - 1) * p->column +
                   p->channels);
    s.keep = ((p->index + s.y) * (size_t)p->bits + 7) / 8;
    return s;
}

/* Bits that number so many elements: as the smallest power of two that can. */
static int bits_for(int32_t elements) {
    return elements <= 2 ? 1 : elements <= 4 ? 2 : elements <= 16 ? 4 : elements <= 256 ? 8 : 32;
}

static const int32_t windows[][2] = {
    { 2, 2 }, { 2, 2 }, { 3, 3 }, { 2, 3 }, { 1, 1 }, { 1, 2 },
    { 1, 3 }, { 4, 1 }, { 1, 4 }, { 5, 5 }, { 3, 2 }, { 17, 16 }
};
enum { WINDOWS = sizeof windows / sizeof *windows };

TEST(maxpool) {
    static const int kinds[] = { NORMAL, TIED, WILD, NORMAL };
    unsigned char keep[4096];
    int i;

    for (i = 0; i < 1500; i++) {
        int32_t kh = windows[i % WINDOWS][0], kw = windows[i % WINDOWS][1];
        int32_t h = draw(4) ? kh : 1 + draw(kh), w = draw(4) ? kw : 1 + draw(kw);
        const unsigned char *from = (const unsigned char *)(const void *)some(NORMAL);
        const float *y = some(NORMAL);
        const stamp *k;
        pool_sizes n;
        nn__pool p, own;

        draw_pool(&p, h, w, kw, 1 + draw(3));
        if (draw(2)) p.first = (kh - h) * kw + kw - w; /* cut off at the top left */
        p.bits = bits_for(kh * kw);
        n = pool_sizes_of(&p);
        if (!CHECK(n.x <= ROOM && n.keep <= sizeof keep)) return;
        memcpy(keep, from, n.keep);
        p.x = some(kinds[draw(4)]);
        p.y = expected(0, y, n.y);
        p.keep = draw(4) ? keep : NULL;
        maxpool_reference(&p);
        own = p;
        for (begin("%ldx%ld of %ldx%ld, channels %ld, windows %ld, keep %d", (long)h, (long)w,
                   (long)kh, (long)kw, (long)p.channels, (long)p.windows, p.keep != NULL);
             (k = next()) != NULL; finish()) {
            own.x = put_const(p.x, n.x);
            own.y = put(y, p.y, n.y);
            own.keep = p.keep ? put_bytes(from, keep, n.keep) : NULL;
            k->maxpool(&own);
        }
    }
}

TEST(unpool) {
    unsigned char keep[4096];
    int i;

    for (i = 0; i < 1000; i++) {
        int32_t h = windows[i % WINDOWS][0], w = windows[i % WINDOWS][1], a, j, e;
        const float *dx = some(NORMAL), *y = some(i % 3 ? NORMAL : WILD);
        const stamp *k;
        pool_sizes n;
        nn__pool p;

        draw_pool(&p, h, w, w, w + draw(2));
        p.bits = bits_for(h * w);
        n = pool_sizes_of(&p);
        if (!CHECK(n.x <= ROOM && n.keep <= sizeof keep)) return;
        memcpy(keep, some(NORMAL), n.keep);
        p.dx = expected(0, dx, n.x);
        for (a = 0; a < p.windows; a++)
            for (j = 0; j < p.channels; j++) {
                int32_t winner = draw(h * w);
                ptrdiff_t at = a * p.y_step + j;

                set_winner(keep, p.bits, p.index + (size_t)at, (unsigned)winner);
                for (e = 0; e < h * w; e++)
                    p.dx[a * p.step + e / w * p.row + e % w * p.column + j] =
                        e == winner ? y[at] : 0.0f;
            }
        for (begin("%ldx%ld, channels %ld, windows %ld", (long)h, (long)w, (long)p.channels,
                   (long)p.windows);
             (k = next()) != NULL; finish()) {
            nn__pool own = p;

            own.dx = put(dx, p.dx, n.x);
            own.y = put(y, y, n.y);
            own.keep = put_bytes(keep, keep, n.keep);
            k->unpool(&own);
        }
    }
}

/* ---- normalization --------------------------------------------------------------------------- */

static const size_t some_counts[] = { 1, 2, 5 }; /* elements of a channel */

TEST(normalize) {
    size_t i, j;

    for (i = 0; i < SIZES; i++)
        for (j = 0; j < 3; j++) {
            int32_t c = sizes[i];
            size_t ch = (size_t)c, n = ch * some_counts[j];
            const float *x = some(j == 1 ? WILD : NORMAL), *mean = some(NORMAL);
            const float *inv = some(POSITIVE), *weight = some(NORMAL), *bias = some(NORMAL);
            float *y = expected(0, x, n), *in_place;
            const stamp *k;

            plain.normalize(y, x, n, c, mean, inv, weight, bias);
            for (begin("n %lu, c %ld", (unsigned long)n, (long)c); (k = next()) != NULL; finish()) {
                k->normalize(put(some(NORMAL), y, n), put_const(x, n), n, c, put_const(mean, ch),
                             put_const(inv, ch), put_const(weight, ch), put_const(bias, ch));
                in_place = put(x, y, n);
                k->normalize(in_place, in_place, n, c, mean, inv, weight, bias);
            }
        }
}

TEST(inverse_root) {
    size_t i, j, n;

    for (i = 0; i < 2 * SIZES; i++) {
        const float *var = some(i % 2 ? WILD : POSITIVE);
        float *out;
        const stamp *k;

        n = (size_t)sizes[i / 2];
        out = expected(0, var, n);
        for (j = 0; j < n; j++) {
            out[j] = var[j] + 0.0009765625f;
            out[j] = 1.0f / nn__sqrt_soft(out[j]);
        }
        for (begin("n %lu", (unsigned long)n); (k = next()) != NULL; finish())
            k->inverse_root(put(some(NORMAL), out, n), put_const(var, n), n, 0.0009765625f);
    }
}

TEST(moments) {
    size_t i, j;

    for (i = 0; i < SIZES; i++)
        for (j = 0; j < 3; j++) {
            int32_t c = sizes[i];
            size_t ch = (size_t)c, n = ch * some_counts[j];
            const float *x = some(j == 1 ? WILD : NORMAL), *before = some(NORMAL);
            float *mean = expected(0, before, ch), *var = expected(1, before, ch);
            const stamp *k;

            plain.moments(mean, var, x, n, c);
            for (begin("n %lu, c %ld", (unsigned long)n, (long)c); (k = next()) != NULL; finish())
                k->moments(put(before, mean, ch), put(before, var, ch), put_const(x, n), n, c);
        }
}

/* With and without sums and dx; in place, as backward runs. Without sums x and mean are not read.
 */
TEST(normalize_grad) {
    size_t i, j;
    int how;

    for (i = 0; i < SIZES; i++)
        for (j = 0; j < 3; j++)
            for (how = 0; how < 4; how++) {
                int32_t c = sizes[i];
                size_t ch = (size_t)c, n = ch * some_counts[j];
                const float *dy = some(j == 1 ? WILD : NORMAL), *x = some(NORMAL);
                const float *mean = some(NORMAL), *inv = some(POSITIVE), *weight = some(NORMAL);
                const float *before = how & 1 ? some(NORMAL) : NULL; /* of the sums */
                float *dx = how & 2 ? expected(0, dy, n) : NULL, *in_place;
                float *s = before ? expected(1, before, 2 * ch) : NULL;
                const stamp *k;

                if (!before) x = mean = NULL;
                plain.normalize_grad(dx, s, dy, x, n, c, mean, inv, weight);
                for (begin("n %lu, c %ld, sums %d, dx %d", (unsigned long)n, (long)c, s != NULL,
                           dx != NULL);
                     (k = next()) != NULL; finish()) {
                    k->normalize_grad(put(dx ? dy : NULL, dx, n), put(before, s, 2 * ch),
                                      put_const(dy, n), put_const(x, n), n, c, put_const(mean, ch),
                                      put_const(inv, ch), put_const(weight, ch));
                    if (!dx) continue;
                    in_place = put(dy, dx, n);
                    k->normalize_grad(in_place, put(before, s, 2 * ch), in_place, x, n, c, mean,
                                      inv, weight);
                }
            }
}

TEST(running) {
    size_t i, n;

    for (i = 0; i < 2 * SIZES; i++) {
        const float *from = some(i % 2 ? WILD : NORMAL), *batch = some(NORMAL);
        float *r;
        const stamp *k;

        n = (size_t)sizes[i / 2];
        r = expected(0, from, n);
        plain.running(r, batch, (int32_t)n, 0.3f, 1.0625f);
        for (begin("n %lu", (unsigned long)n); (k = next()) != NULL; finish())
            k->running(put(from, r, n), put_const(batch, n), (int32_t)n, 0.3f, 1.0625f);
    }
}

/* ---- random numbers, updates ----------------------------------------------------------------- */

TEST(uniform) {
    static const struct {
        int32_t dim[4];
        uint8_t ndim, layout;
        int32_t groups;
    } tensors[] = {
        { { 1 }, 1, NN__CANONICAL, 0 },        { { 37 }, 1, NN__CANONICAL, 0 },
        { { 5, 9 }, 2, NN__CANONICAL, 0 },     { { 16, 3 }, 2, NN__PANELS, 0 },
        { { 37, 5 }, 2, NN__PANELS, 0 },       { { 20, 3, 3, 2 }, 4, NN__PANELS, 1 },
        { { 36, 2, 1, 3 }, 4, NN__PANELS, 2 },
    };
    size_t i, j;

    for (i = 0; i < sizeof tensors / sizeof *tensors; i++) {
        const float *from = some(NORMAL);
        float *p;
        const stamp *k;
        nn_tensor t;

        memset(&t, 0, sizeof t);
        memcpy(t.dim, tensors[i].dim, sizeof t.dim);
        t.ndim = tensors[i].ndim;
        t.layout = tensors[i].layout;
        for (t.count = 1, j = 0; j < t.ndim; j++) t.count *= (uint32_t)t.dim[j];
        p = expected(0, from, t.count);
        plain.uniform(p, &t, tensors[i].groups, 0x123456789abcdefu, 0.7f);
        for (begin("tensor %lu", (unsigned long)i); (k = next()) != NULL; finish())
            k->uniform(put(from, p, t.count), &t, tensors[i].groups, 0x123456789abcdefu, 0.7f);
    }
}

TEST(drop) {
    static const uint32_t below[] = { 0, 5000000, 1u << 23, 1u << 24 };
    size_t i, j;

    for (i = 0; i < SIZES; i++)
        for (j = 0; j < 4; j++) {
            size_t n = (size_t)sizes[i];
            const float *x = some(WILD);
            float *y = expected(0, x, n), *in_place;
            const stamp *k;

            plain.drop(y, x, n, 0xfedcba987654321u + j, below[j], 1.3125f);
            for (begin("n %lu", (unsigned long)n); (k = next()) != NULL; finish()) {
                k->drop(put(some(NORMAL), y, n), put_const(x, n), n, 0xfedcba987654321u + j,
                        below[j], 1.3125f);
                in_place = put(x, y, n);
                k->drop(in_place, in_place, n, 0xfedcba987654321u + j, below[j], 1.3125f);
            }
        }
}

static const nn__step step = { 0.01f, 0.9f, 0.001f, 0.1f, 0.999f, 0.001f, 0.015f, 5.5f, 1e-8f };

TEST(sgd) {
    size_t i, n;

    for (i = 0; i < 4 * SIZES; i++) {
        const float *p = some(i & 1 ? WILD : NORMAL), *g = some(i & 1 ? WILD : NORMAL);
        const float *v = i & 2 ? some(NORMAL) : NULL;
        float *p_after, *v_after = NULL;
        const stamp *k;

        n = (size_t)sizes[i / 4];
        p_after = expected(0, p, n);
        if (v) v_after = expected(1, v, n);
        plain.sgd(p_after, g, v_after, n, &step);
        for (begin("n %lu, momentum %d", (unsigned long)n, v != NULL); (k = next()) != NULL;
             finish())
            k->sgd(put(p, p_after, n), put_const(g, n), put(v, v_after, n), n, &step);
    }
}

TEST(adam) {
    size_t i, n;

    for (i = 0; i < 2 * SIZES; i++) {
        const float *p = some(i & 1 ? WILD : NORMAL), *g = some(i & 1 ? WILD : NORMAL);
        const float *m = some(NORMAL), *v = some(POSITIVE);
        float *p_after, *m_after, *v_after;
        const stamp *k;

        n = (size_t)sizes[i / 2];
        p_after = expected(0, p, n);
        m_after = expected(1, m, n);
        v_after = expected(2, v, n);
        plain.adam(p_after, g, m_after, v_after, n, &step);
        for (begin("n %lu", (unsigned long)n); (k = next()) != NULL; finish())
            k->adam(put(p, p_after, n), put_const(g, n), put(m, m_after, n), put(v, v_after, n), n,
                    &step);
    }
}

/* ---- losses and sums ------------------------------------------------------------------------- */

static const float *loss_input(size_t i) { return some(i % 3 == 2 ? WILD : NORMAL); }

typedef float loss(float *grad, const float *y, const float *t, int32_t n, float scale);

static loss *mse_of(const stamp *k) { return k->mse; }

static loss *bce_of(const stamp *k) { return k->bce; }

/* With and without the gradient. */
static void check_loss(loss *(*of)(const stamp *)) {
    size_t i, n;

    for (i = 0; i < 3 * SIZES; i++) {
        int32_t count = sizes[i / 3];
        const float *z = loss_input(i), *t = some(POSITIVE);
        float *grad = expected(0, z, n = (size_t)count);
        float want = of(&plain)(grad, z, t, count, 0.3f);
        const stamp *k;

        for (begin("n %lu", (unsigned long)n); (k = next()) != NULL; finish()) {
            const float *own_z = put_const(z, n), *own_t = put_const(t, n);

            check_result(of(k)(NULL, own_z, own_t, count, 0.3f), want);
            check_result(of(k)(put(some(WILD), grad, n), own_z, own_t, count, 0.3f), want);
        }
    }
}

TEST(mse) { check_loss(mse_of); }

TEST(bce) { check_loss(bce_of); }

TEST(cross_entropy) {
    size_t i, at;

    for (i = 0; i < 3 * SIZES; i++)
        for (at = 0; at < 3; at++) {
            int32_t n = sizes[i / 3], label = at == 0 ? 0 : at == 1 ? n / 2 : n - 1;
            const float *z = loss_input(i);
            float *grad = expected(0, some(NORMAL), (size_t)n);
            float want = plain.cross_entropy(grad, z, label, n, 0.3f);
            const stamp *k;

            for (begin("n %ld, label %ld", (long)n, (long)label); (k = next()) != NULL; finish()) {
                const float *own_z = put_const(z, (size_t)n);

                check_result(k->cross_entropy(NULL, own_z, label, n, 0.3f), want);
                check_result(
                    k->cross_entropy(put(some(WILD), grad, (size_t)n), own_z, label, n, 0.3f),
                    want);
            }
        }
}

TEST(sum) {
    static const int kinds[] = { NORMAL, WILD, SMALL_NEGATIVE };
    size_t i, j, n;

    for (i = 0; i < 3 * SIZES; i++) {
        const float *x = some(kinds[i % 3]);
        float lane[16] = { 0 }, want;
        const stamp *k;

        n = (size_t)sizes[i / 3];
        for (j = 0; j < n; j++) lane[j % 16] += x[j];
        want = join_lanes(lane);
        for (begin("n %lu", (unsigned long)n); (k = next()) != NULL; finish())
            check_result(k->sum(put_const(x, n), n), want);
    }
}

/* One that is not, at every place near the end; the largest float is one. */
TEST(all_finite) {
    static const uint32_t values[] = { 0x7f800000, 0xff800000, 0x7fc00000, 0xff800001, 0x7f7fffff };
    const stamp *k;
    size_t i, v, n, at;

    for (i = 0; i < SIZES; i++)
        for (n = (size_t)sizes[i], at = n < 20 ? 0 : n - 20; at < n; at++)
            for (v = 0; v < 5; v++) {
                float *x = expected(0, some(NORMAL), n);

                x[at] = nn__from_bits(values[v]);
                for (begin("%08lx at %lu of %lu", (unsigned long)values[v], (unsigned long)at,
                           (unsigned long)n);
                     (k = next()) != NULL; finish())
                    CHECK_EQ_INT(k->finite(put_const(x, n), n) != 0, v == 4);
            }
}

#define RUN_ALONE(name)    \
    do {                   \
        taken = drawn = 0; \
        RUN(name);         \
    } while (0)

int main(int argc, char **argv) {
    test_begin(argc, argv);
    find_stamps();
    make_numbers();
    make_pages();
    RUN_ALONE(gemm_every_edge);
    RUN_ALONE(gemm_nested);
    RUN_ALONE(gemm_blocks);
    RUN_ALONE(lanes);
    RUN_ALONE(channels);
    RUN_ALONE(pack);
    RUN_ALONE(act);
    RUN_ALONE(act_grad);
    RUN_ALONE(affine);
    RUN_ALONE(add);
    RUN_ALONE(divide);
    RUN_ALONE(add_rows);
    RUN_ALONE(maxpool);
    RUN_ALONE(unpool);
    RUN_ALONE(normalize);
    RUN_ALONE(inverse_root);
    RUN_ALONE(moments);
    RUN_ALONE(normalize_grad);
    RUN_ALONE(running);
    RUN_ALONE(uniform);
    RUN_ALONE(drop);
    RUN_ALONE(sgd);
    RUN_ALONE(adam);
    RUN_ALONE(mse);
    RUN_ALONE(bce);
    RUN_ALONE(cross_entropy);
    RUN_ALONE(sum);
    RUN_ALONE(all_finite);
    return test_end();
}
