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
#include NN_MATH_FILE

/* The same text once more over four lanes, to see that it can be stamped and changes no bit. */
#if defined(__GNUC__) && !defined(TEST_NO_STAMP)
#define TEST_STAMP 1
typedef float v4 __attribute__((vector_size(16)));
typedef uint32_t v4u __attribute__((vector_size(16)));

static v4u v4_bits(v4 x)
{
    v4u r;
    memcpy(&r, &x, sizeof r);
    return r;
}

static v4 v4_from(v4u x)
{
    v4 r;
    memcpy(&r, &x, sizeof r);
    return r;
}

static v4u v4_setu(uint32_t u)
{
    v4u r = {u, u, u, u};
    return r;
}

static v4 v4_set(float x)
{
    v4 r = {x, x, x, x};
    return r;
}

static v4 v4_fma(v4 a, v4 b, v4 c)
{
    int i;
    for (i = 0; i < 4; i++) c[i] = NN__FMA1(a[i], b[i], c[i]);
    return c;
}

static v4 v4_sel_gt(v4 x, v4 y, v4 a, v4 b)
{
    v4u mask = (v4u)(x > y);
    return v4_from((v4_bits(a) & mask) | (v4_bits(b) & ~mask));
}

static v4 v4_copysign(v4 a, v4 s)
{
    return v4_from((v4_bits(a) & v4_setu(0x7fffffff)) | (v4_bits(s) & v4_setu(0x80000000)));
}

static v4 v4_scale(v4 x, v4 m)
{
    return v4_from(v4_bits(x) + (v4_bits(m) << v4_setu(23)));
}

static v4 v4_logb(v4 x)
{
    v4u u = ((v4_bits(x) + v4_setu(NN__SQRT_HALF)) >> v4_setu(23)) + v4_setu(0x4b400000u - 127u);
    return v4_from(u) - v4_set(NN__MAGIC);
}

static v4 v4_mant(v4 x)
{
    v4u u = (v4_bits(x) + v4_setu(NN__SQRT_HALF)) & v4_setu(0x7fffff);
    return v4_from(u + v4_setu(0x3f3504f3));
}

#undef NN__V
#undef NN__ID
#undef NN__K
#undef NN__KBITS
#undef NN__ADD
#undef NN__SUB
#undef NN__MUL
#undef NN__DIV
#undef NN__FMA
#undef NN__SEL_GT
#undef NN__COPYSIGN
#undef NN__SCALE
#undef NN__LOGB
#undef NN__MANT
#define NN__V v4
#define NN__ID(name) nn__##name##_v4
#define NN__K(v) v4_set(v)
#define NN__KBITS(u) v4_set(nn__from_bits(u))
#define NN__ADD(a, b) ((a) + (b))
#define NN__SUB(a, b) ((a) - (b))
#define NN__MUL(a, b) ((a) * (b))
#define NN__DIV(a, b) ((a) / (b))
#define NN__FMA(a, b, c) v4_fma(a, b, c)
#define NN__SEL_GT(x, y, a, b) v4_sel_gt(x, y, a, b)
#define NN__COPYSIGN(a, s) v4_copysign(a, s)
#define NN__SCALE(x, m) v4_scale(x, m)
#define NN__LOGB(x) v4_logb(x)
#define NN__MANT(x) v4_mant(x)
#include NN_MATH_FILE
#endif

static int failures;

static void fail(const char *what, float x, float got, double want)
{
    if (++failures > 20) return;
    printf("FAIL %s: x = %.9g (%08lx), got %.9g (%08lx), want %.17g\n", what, (double)x,
           (unsigned long)nn__bits(x), (double)got, (unsigned long)nn__bits(got), want);
}

static int is_nan(float x)
{
    return (nn__bits(x) & 0x7fffffff) > 0x7f800000;
}

/* NaNs may differ between machines in sign and payload. */
static uint32_t canonical(float x)
{
    return is_nan(x) ? 0x7fc00000 : nn__bits(x);
}

static uint64_t rng_state = 0x9e3779b97f4a7c15u;

static uint32_t rng(void)
{
    rng_state ^= rng_state >> 12;
    rng_state ^= rng_state << 25;
    rng_state ^= rng_state >> 27;
    return (uint32_t)(rng_state * 0x2545f4914f6cdd1du >> 32);
}

/* ---- fma and sqrt ---------------------------------------------------------------------------- */

static double product(float a, float b)
{
    return (double)a * (double)b;
}

/* The product of two floats is exact in double; the sum is rounded to odd, so that the rounding to
   float sees on which side of a tie it was (Boldo and Melquiond 2008). */
static float exact_fma(float a, float b, float c)
{
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

static void check_fma(float a, float b, float c)
{
    float soft = nn__fma_soft(a, b, c), want = exact_fma(a, b, c), one = NN__FMA1(a, b, c);
    int wrong = is_nan(want) ? nn__bits(soft) != 0x7fc00000 : nn__bits(soft) != nn__bits(want);
    wrong |= canonical(one) != canonical(want);
#if defined(__GLIBC__) || defined(__FP_FAST_FMAF)
    wrong |= canonical(fmaf(a, b, c)) != canonical(want);
#endif
    if (wrong) {
        fail("fma_soft", a, soft, (double)want);
        if (failures <= 20) printf("     b = %08lx, c = %08lx\n", (unsigned long)nn__bits(b),
                                   (unsigned long)nn__bits(c));
    }
}

static float few_bits(uint32_t mask)
{
    uint32_t u = rng();
    return nn__from_bits((u & 0x80000000) | ((100 + rng() % 60) << 23) | (u & mask));
}

static const uint32_t special[] = {
    0x00000000, 0x00000001, 0x00000002, 0x00400000, 0x007fffff, 0x00800000, 0x00800001, 0x01000000,
    0x1f800000, 0x20000000, 0x33800000, 0x33800001, 0x34000000, 0x3effffff, 0x3f000000, 0x3f7fffff,
    0x3f800000, 0x3f800001, 0x3fffffff, 0x40000000, 0x4b000000, 0x4b800001, 0x5f7fffff, 0x5f800000,
    0x7e800000, 0x7f000000, 0x7f7fffff, 0x7f800000, 0x7f800001, 0x7fc00000, 0x7fffffff};
#define SPECIALS (2 * sizeof special / sizeof *special)

static float special_value(size_t i)
{
    return nn__from_bits(special[i / 2] | (i % 2 ? 0x80000000 : 0));
}

static void test_fma(unsigned long count)
{
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

static void check_sqrt(float x)
{
    float soft = nn__sqrt_soft(x), hard = nn__sqrt(x);
    double want = sqrt((double)x); /* 53 bits are more than 2 * 24 + 2: rounding twice is exact */
    if (canonical(soft) != canonical((float)want)) fail("sqrt_soft", x, soft, want);
    if (canonical(hard) != canonical((float)want)) fail("sqrt", x, hard, want);
}

static void test_sqrt(unsigned long count)
{
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
static double ulps(float got, double want)
{
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
static const char *const name[4] = {"exp", "log", "tanh", "sigmoid"};
static const double bound[4] = {0.90, 0.88, 1.07, 2.41};

static void check_ulps(int f, float x, float got, double want)
{
    double e = ulps(got, want);
    if (!(e <= bound[f])) fail(name[f], x, got, want);
    if (e > worst[f]) worst[f] = e, worst_at[f] = x;
}

static void check_same(const char *what, float x, float got, float want)
{
    if (nn__bits(got) != nn__bits(want)) fail(what, x, got, (double)want);
}

static void check_all(float x)
{
    float e = nn__exp(x), l = nn__log(x), t = nn__tanh(x), s = nn__sigmoid(x), inf;
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

    check_same("tanh is odd", x, nn__tanh(-x), -t);
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

static void test_functions(unsigned long stride)
{
    uint64_t u;
    size_t i, j;
    int f;
    for (u = 0; u < 0x100000000u; u += stride) check_all(nn__from_bits((uint32_t)u));
    /* Around every constant where a function changes its mind. */
    {
        static const uint32_t edge[] = {
            0x00000000, 0x00800000, 0x01000000, 0x34000000, 0x3eb17218, 0x3f3504f3, 0x3f380000,
            0x3f800000, 0x3fb504f3, 0x41100000, 0x4110523b, 0x42aeac50, 0x42b17217, 0x42c80000,
            0x4b000000, 0x4b400000, 0x7f7fffff};
        for (i = 0; i < sizeof edge / sizeof *edge; i++)
            for (j = 0; j < 2001; j++) {
                uint32_t b = edge[i] + (uint32_t)j - 1000;
                check_all(nn__from_bits(b));
                check_all(nn__from_bits(b ^ 0x80000000));
            }
    }
    for (i = 0; i < SPECIALS; i++) check_all(special_value(i));
    check_same("exp(0)", 0.0f, nn__exp(0.0f), 1.0f);
    check_same("exp(-0)", -0.0f, nn__exp(-0.0f), 1.0f);
    check_same("log(1)", 1.0f, nn__log(1.0f), 0.0f);
    check_same("sigmoid(0)", 0.0f, nn__sigmoid(0.0f), 0.5f);
    for (f = 0; f < 4; f++)
        printf("%-8s %.4f ulp at %.9g (bound %g)\n", name[f], worst[f], (double)worst_at[f],
               bound[f]);
}

/* ---- digest ---------------------------------------------------------------------------------- */

/* Over its own fixed inputs, so that the number does not depend on the arguments. */
#define DIGEST 0x48eaa37be745f7bfu

static uint64_t digest;

static void mix(float x)
{
    digest = (digest ^ canonical(x)) * 0x100000001b3u;
    digest ^= digest >> 29;
}

static void test_digest(void)
{
    uint64_t u;
    digest = 0xcbf29ce484222325u;
    for (u = 0; u < 0x100000000u; u += 40009) {
        /* Evenly spread bits hardly ever hit the range where something happens: every second. */
        float x = nn__from_bits((uint32_t)u), y = x;
        if ((u & 1) == 0)
            y = nn__from_bits((uint32_t)(u & 0x807fffff) |
                              (115 + (uint32_t)(u >> 23 & 0xff) % 20) << 23);
        mix(nn__exp(y));
        mix(nn__log(x));
        mix(nn__tanh(y));
        mix(nn__sigmoid(y));
        mix(nn__sqrt(x));
        mix(NN__FMA1(y, x, nn__tanh(y)));
#ifdef TEST_STAMP
        {
            v4 v = {y, x, 0.5f, -y};
            v4 e = nn__exp_v4(v), l = nn__log_v4(v), t = nn__tanh_v4(v), s = nn__sigmoid_v4(v);
            int i;
            for (i = 0; i < 4; i++) {
                if (canonical(e[i]) != canonical(nn__exp(v[i]))) fail("exp_v4", v[i], e[i], 0);
                if (canonical(l[i]) != canonical(nn__log(v[i]))) fail("log_v4", v[i], l[i], 0);
                if (canonical(t[i]) != canonical(nn__tanh(v[i]))) fail("tanh_v4", v[i], t[i], 0);
                if (canonical(s[i]) != canonical(nn__sigmoid(v[i])))
                    fail("sigmoid_v4", v[i], s[i], 0);
            }
        }
#endif
    }
    printf("digest   %08lx%08lx\n", (unsigned long)(digest >> 32),
           (unsigned long)(digest & 0xffffffffu));
    if (digest != DIGEST) {
        failures++;
        printf("FAIL digest differs\n");
    }
}

int main(int argc, char **argv)
{
    unsigned long stride = argc > 1 ? strtoul(argv[1], NULL, 10) : 1999, count;
    if (stride == 0) stride = 1;
    count = 24000000u / stride;
    if (count < 200000u && argc < 2) count = 200000u;
    test_digest();
    test_fma(count);
    test_sqrt(count);
    test_functions(stride);
    if (failures) printf("%d failures\n", failures);
    else printf("ok\n");
    return failures != 0;
}
