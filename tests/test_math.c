/* Tests of nn.h's math: accuracy against double and special values of plain C's functions, the bits
   of the other stamps against those, the emulated fused multiply-adds and the integer square root
   against exact references, and one digest that every machine must reproduce.

     test_math [stride]     every stride-th float; 1 is all of them, which takes long

   TEST_SOFT_FMA uses the integer fma also where the target has an instruction. */

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef TEST_SOFT_FMA
#define NN__FMA1(a, b, c) nn__fma_soft(a, b, c)
#endif
#define NN_IMPLEMENTATION
#include "nn.h"

/* The functions of a stamp take a vector: here they go over arrays, n a multiple of its width. */
typedef struct stamp {
    const char *name;
    void (*exp)(float *, const float *, size_t), (*log)(float *, const float *, size_t);
    void (*tanh)(float *, const float *, size_t), (*sigmoid)(float *, const float *, size_t);
} stamp;

#define FUNCTION(name, id, target, width, load, store, end)              \
    target static void name##_##id(float *y, const float *x, size_t n) { \
        size_t i;                                                        \
        for (i = 0; i < n; i += width) {                                 \
            store(y + i, nn__##name##_##id(load(x + i)));                \
        }                                                                \
        end;                                                             \
    }
#define STAMP(id, target, width, load, store, end)         \
    FUNCTION(exp, id, target, width, load, store, end)     \
    FUNCTION(log, id, target, width, load, store, end)     \
    FUNCTION(tanh, id, target, width, load, store, end)    \
    FUNCTION(sigmoid, id, target, width, load, store, end) \
    static const stamp stamp_##id = { #id, exp_##id, log_##id, tanh_##id, sigmoid_##id };

#define LOAD_ONE(p) (*(p))
#define STORE_ONE(p, v) (*(p) = (v))
STAMP(plain, , 1, LOAD_ONE, STORE_ONE, )
#if NN__X86
/* gcc -O1 leaves the upper halves of registers dirty, which makes scalar code slow afterwards. */
STAMP(avx2, __attribute__((target("avx2,fma"))), 8, _mm256_loadu_ps, _mm256_storeu_ps,
      _mm256_zeroupper())
STAMP(avx512, __attribute__((target("avx512f,avx2,fma"))), 16, _mm512_loadu_ps, _mm512_storeu_ps,
      _mm256_zeroupper())
#elif NN__X86_FMA
STAMP(fma, __attribute__((target("fma"))), 1, LOAD_ONE, STORE_ONE, )
#elif NN__ARM64
STAMP(neon, , 4, vld1q_f32, vst1q_f32, )
#endif

/* Those that this CPU can run, plain first. */
static const stamp *stamps[3] = { &stamp_plain };
static int stamp_count = 1;

static void find_stamps(void) {
#if NN__X86
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
        stamps[stamp_count++] = &stamp_avx2;
        if (__builtin_cpu_supports("avx512f")) stamps[stamp_count++] = &stamp_avx512;
    }
#elif NN__X86_FMA
    __builtin_cpu_init();
    if (__builtin_cpu_supports("fma")) stamps[stamp_count++] = &stamp_fma;
#elif NN__ARM64
    stamps[stamp_count++] = &stamp_neon;
#endif
}

static int failures;

static void fail(const char *what, float x, float got, double want) {
    if (++failures > 20) return;
    printf("FAIL %s: x = %.9g (%08lx), got %.9g (%08lx), want %.17g\n", what, (double)x,
           (unsigned long)nn__bits(x), (double)got, (unsigned long)nn__bits(got), want);
}

static int is_nan(float x) { return (nn__bits(x) & 0x7fffffff) > 0x7f800000; }

/* NaNs may differ between machines in sign and payload. */
static uint32_t canonical(float x) { return is_nan(x) ? 0x7fc00000 : nn__bits(x); }

static uint64_t rng_state = 0x9e3779b97f4a7c15u;

static uint32_t rng(void) {
    rng_state ^= rng_state >> 12;
    rng_state ^= rng_state << 25;
    rng_state ^= rng_state >> 27;
    return (uint32_t)(rng_state * 0x2545f4914f6cdd1du >> 32);
}

/* ---- fma and sqrt ---------------------------------------------------------------------------- */

static double product(float a, float b) { return (double)a * (double)b; }

/* The product of two floats is exact in double; the sum is rounded to odd, so that the rounding to
   float sees on which side of a tie it was (Boldo and Melquiond 2008). */
static float exact_fma(float a, float b, float c) {
    volatile double p = product(a, b), z = (double)c, s = p + z, t = s - p;
    volatile double lost = (p - (s - t)) + (z - t);
    double odd = s;
    uint64_t u;
    if (lost > 0 || lost < 0) {
        memcpy(&u, &odd, sizeof u);
        if ((u & 1) == 0) {
            if ((lost > 0) == (odd > 0)) u++;
            else u--;
        }
        memcpy(&odd, &u, sizeof odd);
    }
    return (float)odd;
}

static void check_fma(float a, float b, float c) {
    float soft = nn__fma_soft(a, b, c), want = exact_fma(a, b, c), one = NN__FMA1(a, b, c);
    int wrong = is_nan(want) ? nn__bits(soft) != 0x7fc00000 : nn__bits(soft) != nn__bits(want);
    wrong |= canonical(one) != canonical(want);
#if defined(NN__SQRT_SSE) && defined(__SSE2__)
    wrong |= canonical(nn__fma_double(a, b, c)) != canonical(want);
#endif
#if defined(__GLIBC__) || defined(__FP_FAST_FMAF)
    wrong |= canonical(fmaf(a, b, c)) != canonical(want);
#endif
    if (wrong) {
        fail("fma", a, soft, (double)want);
        if (failures <= 20)
            printf("     b = %08lx, c = %08lx\n", (unsigned long)nn__bits(b),
                   (unsigned long)nn__bits(c));
    }
}

static float few_bits(uint32_t mask) {
    uint32_t u = rng();
    return nn__from_bits((u & 0x80000000) | ((100 + rng() % 60) << 23) | (u & mask));
}

static const uint32_t special[] = {
    0x00000000, 0x00000001, 0x00000002, 0x00400000, 0x007fffff, 0x00800000, 0x00800001, 0x01000000,
    0x1f800000, 0x20000000, 0x33800000, 0x33800001, 0x34000000, 0x3effffff, 0x3f000000, 0x3f7fffff,
    0x3f800000, 0x3f800001, 0x3fffffff, 0x40000000, 0x4b000000, 0x4b800001, 0x5f7fffff, 0x5f800000,
    0x7e800000, 0x7f000000, 0x7f7fffff, 0x7f800000, 0x7f800001, 0x7fc00000, 0x7fffffff
};
#define SPECIALS (2 * sizeof special / sizeof *special)

static float special_value(size_t i) {
    return nn__from_bits(special[i / 2] | (i % 2 ? 0x80000000 : 0));
}

static void test_fma(unsigned long count) {
    unsigned long i;
    size_t s, t, u;
    for (s = 0; s < SPECIALS; s++)
        for (t = 0; t < SPECIALS; t++)
            for (u = 0; u < SPECIALS; u++)
                check_fma(special_value(s), special_value(t), special_value(u));
    for (i = 0; i < count; i++) {
        float a = nn__from_bits(rng()), b = nn__from_bits(rng()), c = nn__from_bits(rng());
        uint32_t u32 = rng();
        switch (i % 8) {
        case 0: break;
        case 1: /* cancellation: c within a few ulp of -ab */
        case 2:
            a = few_bits(0x7fffff), b = few_bits(i & 8 ? 0x7fffff : 0x7ff000);
            c = nn__from_bits(nn__bits((float)-product(a, b)) + u32 % 7 - 3);
            break;
        case 3: /* exponents that just overlap, on either side */
            a = few_bits(0x7fffff), b = few_bits(0x7fffff);
            c = (float)product(a, b);
            c = nn__from_bits((nn__bits(c) & 0x7f800000) + ((u32 % 101 - 50) << 23));
            c = nn__from_bits((nn__bits(c) & 0xff800000) ^ (rng() & 0x807fffff));
            break;
        case 4: /* ties: a product of few bits, half an ulp below the addend or next to it */
            a = few_bits(0x780000), b = few_bits(0x700000);
            c = (float)(product(a, b) * (double)(1u << (20 + u32 % 8)));
            c = nn__from_bits(nn__bits(c) ^ (rng() & 0x80000001));
            break;
        case 5: /* subnormal results and addends */
            a = nn__from_bits((nn__bits(a) & 0x807fffff) | ((1 + u32 % 126) << 23));
            b = nn__from_bits((nn__bits(b) & 0x807fffff) |
                              ((120 - u32 % 126 + (u32 >> 16) % 34) << 23));
            c = nn__from_bits(nn__bits(c) & (i & 8 ? 0x807fffff : 0x81ffffff));
            break;
        case 6: /* subnormal factors of all lengths */
            a = nn__from_bits((nn__bits(a) & 0x807fffff) >> u32 % 24);
            if (i & 8) c = nn__from_bits((nn__bits(c) & 0x80ffffff) >> (u32 >> 8) % 24);
            break;
        default: /* around overflow */
            a = nn__from_bits((nn__bits(a) & 0x807fffff) | ((127 + u32 % 128) << 23));
            b = nn__from_bits((nn__bits(b) & 0x807fffff) |
                              ((254 - u32 % 128 + (u32 >> 16) % 3 - 1) << 23));
            c = nn__from_bits(nn__bits(c) | 0x7e000000);
        }
        check_fma(a, b, c);
    }
}

static void check_sqrt(float x) {
    float soft = nn__sqrt_soft(x), hard = nn__sqrt(x);
    double want = sqrt((double)x); /* 53 bits are more than 2 * 24 + 2: rounding twice is exact */
    if (canonical(soft) != canonical((float)want)) fail("sqrt_soft", x, soft, want);
    if (canonical(hard) != canonical((float)want)) fail("sqrt", x, hard, want);
}

static void test_sqrt(unsigned long count) {
    unsigned long i;
    size_t s;
    for (s = 0; s < SPECIALS; s++) check_sqrt(special_value(s));
    for (i = 0; i < count; i++) {
        float x = nn__from_bits(rng());
        if (i % 4 == 1) { /* squares and their neighbours */
            x = few_bits(0x7ff800);
            x = nn__from_bits(nn__bits((float)product(x, x)) + rng() % 3 - 1);
        } else if (i % 4 == 2) { /* squares of ties, where the remainder is smallest */
            double tie;
            x = nn__from_bits(0x3f800000 | rng() >> 9);
            tie = (double)x + 5.9604644775390625e-08;
            x = (float)(tie * tie);
        } else if (i % 4 == 3) {
            x = nn__from_bits(rng() >> (8 + rng() % 24));
        }
        check_sqrt(x);
    }
}

/* ---- functions ------------------------------------------------------------------------------- */

#define MIN_NORMAL 1.1754943508222875e-38
#define TOP 3.4028235677973366e+38 /* what rounds to infinity: 2^128 less half an ulp */

/* Error in units of the last place a float has at `want`. */
static double ulps(float got, double want) {
    uint64_t u;
    double ulp, error = fabs((double)got - want);
    memcpy(&u, &want, sizeof u);
    u = (u >> 52 & 0x7ff) << 52;
    memcpy(&ulp, &u, sizeof ulp);
    if (ulp < MIN_NORMAL) ulp = MIN_NORMAL;
    return error / (ulp * 1.1920928955078125e-07);
}

static double worst[4];
static float worst_at[4];
static const char *const name[] = { "exp", "log", "tanh", "sigmoid", "tanh of -x" };
static const double bound[4] = { 0.90, 0.88, 1.07, 2.41 };

static void check_ulps(int f, float x, float got, double want) {
    double e = ulps(got, want);
    if (!(e <= bound[f])) fail(name[f], x, got, want);
    if (e > worst[f]) worst[f] = e, worst_at[f] = x;
}

static void check_same(const char *what, float x, float got, float want) {
    if (nn__bits(got) != nn__bits(want)) fail(what, x, got, (double)want);
}

enum { EXP, LOG, TANH, SIGMOID, TANH_OF_MINUS, FUNCTIONS };

enum { BATCH = 256 };

static void evaluate(const stamp *s, float y[FUNCTIONS][BATCH], const float *x) {
    float minus[BATCH];
    size_t i;
    for (i = 0; i < BATCH; i++) minus[i] = -x[i];
    s->exp(y[EXP], x, BATCH);
    s->log(y[LOG], x, BATCH);
    s->tanh(y[TANH], x, BATCH);
    s->sigmoid(y[SIGMOID], x, BATCH);
    s->tanh(y[TANH_OF_MINUS], minus, BATCH);
}

/* Plain C's values at x. */
static void check_values(float x, float e, float l, float t, float s, float t_of_minus) {
    double d = (double)x, want;
    float inf = nn__from_bits(0x7f800000);
    if (is_nan(x)) {
        if (!is_nan(e)) fail("exp(NaN)", x, e, 0);
        if (!is_nan(l)) fail("log(NaN)", x, l, 0);
        if (!is_nan(t)) fail("tanh(NaN)", x, t, 0);
        if (!is_nan(s)) fail("sigmoid(NaN)", x, s, 0);
        return;
    }
    if (d > 89 || d < -88) {
        check_same("exp", x, e, d > 0 ? inf : 0.0f);
    } else {
        want = exp(d);
        if (want < MIN_NORMAL) check_same("exp", x, e, 0.0f);
        else if (want >= TOP) check_same("exp", x, e, inf);
        else check_ulps(0, x, e, want);
    }

    if (d < 0) {
        if (!is_nan(l)) fail("log(x < 0)", x, l, 0);
    } else if (d > 0 && x < inf) {
        check_ulps(1, x, l, log(d));
    } else {
        check_same("log", x, l, d > 0 ? inf : -inf);
    }

    check_same("tanh is odd", x, t_of_minus, -t);
    if (d > 9.02 || d < -9.02) check_same("tanh", x, t, d > 0 ? 1.0f : -1.0f);
    else if (d > 0 || d < 0) check_ulps(2, x, t, tanh(d));
    else check_same("tanh(0)", x, t, x);
    if (!(t <= 1.0f && t >= -1.0f)) fail("|tanh| <= 1", x, t, 1);

    if (d > 100 || d < -88) {
        check_same("sigmoid", x, s, d > 0 ? 1.0f : 0.0f);
    } else if (d <= -87.33654) {
        if (nn__bits(s) != 0) check_ulps(3, x, s, 1 / (1 + exp(-d)));
    } else {
        check_ulps(3, x, s, 1 / (1 + exp(-d)));
    }
    if (!(s <= 1.0f && s >= 0.0f)) fail("0 <= sigmoid <= 1", x, s, 1);
}

static float batch[BATCH];
static size_t batched;

static void check_batch(void) {
    static float y[FUNCTIONS][BATCH], other[FUNCTIONS][BATCH];
    size_t i;
    int f, k;
    evaluate(&stamp_plain, y, batch);
    for (i = 0; i < batched; i++)
        check_values(batch[i], y[EXP][i], y[LOG][i], y[TANH][i], y[SIGMOID][i],
                     y[TANH_OF_MINUS][i]);
    for (k = 1; k < stamp_count; k++) {
        evaluate(stamps[k], other, batch);
        for (f = 0; f < FUNCTIONS; f++)
            for (i = 0; i < batched; i++)
                if (canonical(other[f][i]) != canonical(y[f][i])) {
                    fail(name[f], batch[i], other[f][i], (double)y[f][i]);
                    if (failures <= 20)
                        printf("     by %s; wanted is what plain C gives\n", stamps[k]->name);
                }
    }
    batched = 0;
}

static void check_all(float x) {
    batch[batched++] = x;
    if (batched == BATCH) check_batch();
}

static void check_exact(const char *what, void (*f)(float *, const float *, size_t), float x,
                        float want) {
    float y;
    f(&y, &x, 1);
    check_same(what, x, y, want);
}

static void test_functions(unsigned long stride) {
    uint64_t u;
    size_t i, j;
    int f;
    for (u = 0; u < 0x100000000u; u += stride) check_all(nn__from_bits((uint32_t)u));
    /* Around every constant where a function changes its mind. */
    {
        static const uint32_t edge[] = { 0x00000000, 0x00800000, 0x01000000, 0x34000000, 0x3eb17218,
                                         0x3f3504f3, 0x3f380000, 0x3f800000, 0x3fb504f3, 0x41100000,
                                         0x4110523b, 0x42aeac50, 0x42b17217, 0x42c80000, 0x4b000000,
                                         0x4b400000, 0x7f7fffff };
        for (i = 0; i < sizeof edge / sizeof *edge; i++)
            for (j = 0; j < 2001; j++) {
                uint32_t b = edge[i] + (uint32_t)j - 1000;
                check_all(nn__from_bits(b));
                check_all(nn__from_bits(b ^ 0x80000000));
            }
    }
    for (i = 0; i < SPECIALS; i++) check_all(special_value(i));
    check_batch();
    check_exact("exp(0)", exp_plain, 0.0f, 1.0f);
    check_exact("exp(-0)", exp_plain, -0.0f, 1.0f);
    check_exact("log(1)", log_plain, 1.0f, 0.0f);
    check_exact("sigmoid(0)", sigmoid_plain, 0.0f, 0.5f);
    for (f = 0; f < 4; f++)
        printf("%-8s %.4f ulp at %.9g (bound %g)\n", name[f], worst[f], (double)worst_at[f],
               bound[f]);
}

/* ---- digest ---------------------------------------------------------------------------------- */

/* Over fixed inputs, so that the number does not depend on the arguments: equal on every machine
   and for every stamp. */
static uint64_t digest;

static void mix(float x) {
    digest = (digest ^ canonical(x)) * 0x100000001b3u;
    digest ^= digest >> 29;
}

static void mix_batch(const stamp *s, const float *x, const float *y, size_t n) {
    static float of[FUNCTIONS][BATCH];
    size_t i;
    s->exp(of[EXP], y, BATCH);
    s->log(of[LOG], x, BATCH);
    s->tanh(of[TANH], y, BATCH);
    s->sigmoid(of[SIGMOID], y, BATCH);
    for (i = 0; i < n; i++) {
        mix(of[EXP][i]);
        mix(of[LOG][i]);
        mix(of[TANH][i]);
        mix(of[SIGMOID][i]);
        mix(nn__sqrt(x[i]));
        mix(NN__FMA1(y[i], x[i], of[TANH][i]));
    }
}

static uint64_t test_digest(const stamp *s) {
    static float x[BATCH], y[BATCH];
    size_t n = 0;
    uint64_t u;
    digest = 0xcbf29ce484222325u;
    for (u = 0; u < 0x100000000u; u += 40009) {
        /* Evenly spread bits hardly ever hit the range where something happens: every second. */
        x[n] = y[n] = nn__from_bits((uint32_t)u);
        if ((u & 1) == 0)
            y[n] = nn__from_bits((uint32_t)(u & 0x807fffff) |
                                 (115 + (uint32_t)(u >> 23 & 0xff) % 20) << 23);
        if (++n < BATCH) continue;
        mix_batch(s, x, y, n);
        n = 0;
    }
    mix_batch(s, x, y, n);
    printf("%s: digest %08lx%08lx\n", s->name, (unsigned long)(digest >> 32),
           (unsigned long)(digest & 0xffffffffu));
    return digest;
}

int main(int argc, char **argv) {
    unsigned long stride = argc > 1 ? strtoul(argv[1], NULL, 10) : 1999, count;
    uint64_t plain;
    int k;
    if (stride == 0) stride = 1;
    count = 24000000u / stride;
    if (count < 200000u && argc < 2) count = 200000u;
    find_stamps();
    test_fma(count);
    test_sqrt(count);
    plain = test_digest(&stamp_plain);
    for (k = 1; k < stamp_count; k++)
        if (test_digest(stamps[k]) != plain) {
            failures++;
            printf("FAIL: the stamps differ\n");
        }
    test_functions(stride);
    printf("%d passed, %d failed\n", failures ? 0 : 1, failures ? 1 : 0);
    return failures != 0;
}
