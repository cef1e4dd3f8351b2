/* Tests of nn.h's scalar math: accuracy against double, special values, the integer fused multiply-
   add and square root against exact references, and one digest that every machine must reproduce.

     test_math [stride]     every stride-th float; 1 is all of them (minutes), the default takes 1 s

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

/* Every stamp that this machine can run. */
typedef struct stamp {
    const char *name;
    float (*exp)(float), (*log)(float), (*tanh)(float), (*sigmoid)(float);
} stamp;

#define STAMP(id, target)                                                     \
    target static float exp_##id(float x) { return nn__exp_##id(x); }         \
    target static float log_##id(float x) { return nn__log_##id(x); }         \
    target static float tanh_##id(float x) { return nn__tanh_##id(x); }       \
    target static float sigmoid_##id(float x) { return nn__sigmoid_##id(x); } \
    static const stamp stamp_##id = { #id, exp_##id, log_##id, tanh_##id, sigmoid_##id };

STAMP(plain, )
#if NN__DISPATCH
STAMP(fma, __attribute__((target("fma"))))
#endif

static const stamp *use = &stamp_plain;

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
#if defined(__GLIBC__) || defined(__FP_FAST_FMAF)
    wrong |= canonical(fmaf(a, b, c)) != canonical(want);
#endif
    if (wrong) {
        fail("fma_soft", a, soft, (double)want);
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
static const char *const name[4] = { "exp", "log", "tanh", "sigmoid" };
static const double bound[4] = { 0.90, 0.88, 1.07, 2.41 };

static void check_ulps(int f, float x, float got, double want) {
    double e = ulps(got, want);
    if (!(e <= bound[f])) fail(name[f], x, got, want);
    if (e > worst[f]) worst[f] = e, worst_at[f] = x;
}

static void check_same(const char *what, float x, float got, float want) {
    if (nn__bits(got) != nn__bits(want)) fail(what, x, got, (double)want);
}

static void check_all(float x) {
    float e = use->exp(x), l = use->log(x), t = use->tanh(x), s = use->sigmoid(x), inf;
    double d = (double)x, want;
    inf = nn__from_bits(0x7f800000);
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

    check_same("tanh is odd", x, use->tanh(-x), -t);
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
    check_same("exp(0)", 0.0f, use->exp(0.0f), 1.0f);
    check_same("exp(-0)", -0.0f, use->exp(-0.0f), 1.0f);
    check_same("log(1)", 1.0f, use->log(1.0f), 0.0f);
    check_same("sigmoid(0)", 0.0f, use->sigmoid(0.0f), 0.5f);
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

static uint64_t test_digest(void) {
    uint64_t u;
    digest = 0xcbf29ce484222325u;
    for (u = 0; u < 0x100000000u; u += 40009) {
        /* Evenly spread bits hardly ever hit the range where something happens: every second. */
        float x = nn__from_bits((uint32_t)u), y = x;
        if ((u & 1) == 0)
            y = nn__from_bits((uint32_t)(u & 0x807fffff) | (115 + (uint32_t)(u >> 23 & 0xff) % 20)
                                                               << 23);
        mix(use->exp(y));
        mix(use->log(x));
        mix(use->tanh(y));
        mix(use->sigmoid(y));
        mix(nn__sqrt(x));
        mix(NN__FMA1(y, x, use->tanh(y)));
    }
    printf("%s: digest %08lx%08lx\n", use->name, (unsigned long)(digest >> 32),
           (unsigned long)(digest & 0xffffffffu));
    return digest;
}

int main(int argc, char **argv) {
    unsigned long stride = argc > 1 ? strtoul(argv[1], NULL, 10) : 1999, count;
    uint64_t plain;
    if (stride == 0) stride = 1;
    count = 24000000u / stride;
    if (count < 200000u && argc < 2) count = 200000u;
    test_fma(count);
    test_sqrt(count);
    plain = test_digest();
    test_functions(stride);
#if NN__DISPATCH
    if (nn__pick_kernels() == &nn__kernels_fma) {
        use = &stamp_fma;
        if (test_digest() != plain) {
            failures++;
            printf("FAIL: the stamps differ\n");
        }
        test_functions(stride);
    }
#endif
    printf("%d passed, %d failed\n", failures ? 0 : 1, failures ? 1 : 0);
    return failures != 0;
}
