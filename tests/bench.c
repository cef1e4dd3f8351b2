/* bench.c - time of W1 to W4 by kernels: inference of 1 and 32 samples, training on 32

       make bench          prints a table, writes build/bench.json
       build/bench WORD    only cases whose net or kernels have WORD in their name

   A share of the peak is against the multiply-adds that registers alone reach. Other users of a
   machine slow it down for seconds at a time. So there are rounds, each with some runs of every
   case, and between those runs short bursts that measure the peak: the fastest run of a case is
   held against its fastest burst, the median run against the median burst. Executed FLOP are
   counted from the rows: what a pool drops is not computed, and a training step is forward and
   weight gradients of every row, input gradients of all but the first; reading vectors of an
   embedding is none. Compare shares, not times of two machines. */

/* The Makefile says which flags; without it, what macros tell. They are read before nn.h, whose
   pragmas change them in gcc. */
#ifdef BENCH_FLAGS
static const char flags[] = BENCH_FLAGS;
#elif defined(__OPTIMIZE_SIZE__)
static const char flags[] = "optimized for size";
#elif defined(__OPTIMIZE__)
static const char flags[] = "optimized";
#else
static const char flags[] = "not optimized";
#endif

#ifdef __clang__
static const char compiler[] = __VERSION__;
#else
static const char compiler[] = "gcc " __VERSION__;
#endif

#define NN_IMPLEMENTATION
#include "nn.h"

#include "tests/firmware/models.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define ROUNDS 10
#define RUNS 40           /* of a case, in each round */
#define RUN_SECONDS 3e-4  /* at least; short ones fit between disturbances */
#define CASE_SECONDS 0.25 /* of a case, in each round; long runs are then fewer */
#define BURST_TURNS 12000 /* 25 us at 3 GHz with two units */
#define JSON_PATH "build/bench.json"

static double clock_seconds(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Runs are timed without what other processes take; that clock is too slow for bursts, which are
   too short to be interrupted often. */
static double run_clock(void) { return clock_seconds(CLOCK_PROCESS_CPUTIME_ID); }
static double burst_clock(void) { return clock_seconds(CLOCK_MONOTONIC); }

/* Independent chains of multiply-adds, enough to hide their latency. In assembly, because a peak
   must not depend on the flags; numbers are normal and stay so. */
/* clang-format off */
#if defined(__x86_64__)
#define CHAINS 12
#define EACH(X, a, b) \
    X(a, b, 0) X(a, b, 1) X(a, b, 2) X(a, b, 3) X(a, b, 4) X(a, b, 5) X(a, b, 6) X(a, b, 7) \
    X(a, b, 8) X(a, b, 9) X(a, b, 10) X(a, b, 11)
#define FILL(a, reg, k) "vbroadcastss %1, %%" #reg #k "\n\t"
#define STEP(fma, reg, k) #fma " %%" #reg "15, %%" #reg "15, %%" #reg #k "\n\t"
#define BURST(set, fma, reg) \
    static void burst_##set(void) { \
        long turns = BURST_TURNS; \
        float half = 0.5f; \
        __asm__ volatile(EACH(FILL, , reg) FILL(, reg, 15) ".p2align 5\n1:\n\t" \
                         EACH(STEP, fma, reg) "dec %0\n\tjnz 1b\n\tvzeroupper" \
                         : "+r"(turns) \
                         : "m"(half) \
                         : "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", \
                           "xmm8", "xmm9", "xmm10", "xmm11", "xmm15"); \
    }
#ifdef __FMA__
BURST(plain, vfmadd213ss, xmm)
#else
#define PLAIN_EMULATES
#endif
BURST(avx2, vfmadd213ps, ymm)
BURST(avx512, vfmadd213ps, zmm)
#elif defined(__aarch64__)
#define CHAINS 24
#define EACH(X) \
    X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14) X(15) \
    X(16) X(17) X(18) X(19) X(20) X(21) X(22) X(23)
#define FILL(k) "fmov v" #k ".4s, #0.5\n\t"
#define STEP_PLAIN(k) "fmadd s" #k ", s" #k ", s31, s31\n\t"
#define STEP_NEON(k) "fmla v" #k ".4s, v31.4s, v31.4s\n\t"
#define BURST(set, STEP) \
    static void burst_##set(void) { \
        long turns = BURST_TURNS; \
        __asm__ volatile(EACH(FILL) FILL(31) ".p2align 5\n1:\n\t" \
                         EACH(STEP) "subs %0, %0, #1\n\tb.ne 1b" \
                         : "+r"(turns) \
                         : \
                         : "cc", "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v8", "v9", \
                           "v10", "v11", "v12", "v13", "v14", "v15", "v16", "v17", "v18", "v19", \
                           "v20", "v21", "v22", "v23", "v31"); \
    }
BURST(plain, STEP_PLAIN)
BURST(neon, STEP_NEON)
#else
#define CHAINS 0
#endif
/* clang-format on */

typedef struct set {
    const char *name;
    void (*burst)(void); /* NULL: no peak to compare with */
    int lanes;
    int slow; /* multiply-adds are emulated: the large nets would take minutes */
} set;

static const set sets[] = {
#ifdef PLAIN_EMULATES
    { "plain", NULL, 1, 1 },
#elif CHAINS
    { "plain", burst_plain, 1, 0 },
#else
    { "plain", NULL, 1, 0 },
#endif
#ifdef __x86_64__
    { "avx2", burst_avx2, 8, 0 },
    { "avx512", burst_avx512, 16, 0 },
#elif defined(__aarch64__)
    { "neon", burst_neon, 4, 0 },
#endif
};

/* Why a set has no share. */
static const char *no_peak(const set *s) { return s->slow ? "emulated" : "not measured"; }

static int available(const set *s) {
    nn_model m;
    int err = nn_build(&m, w1_rows, NULL);
    if (!err) err = nn_set_kernels(&m, s->name);
    nn_free(&m);
    return !err;
}

static double burst_seconds(const set *s) {
    double start = burst_clock();
    s->burst();
    return burst_clock() - start;
}

static double flops_of(const set *s, double seconds) {
    return seconds > 0 ? 2.0 * s->lanes * CHAINS * BURST_TURNS / seconds : 0;
}

/* Multiply-adds of one sample: forward, and those of input gradients that a training step lacks. */
static void count(const nn_model *m, double *forward, double *first) {
    uint32_t i;
    int k, begun = m->rows[0].type == NN_I32; /* the vectors want a gradient */
    *forward = *first = 0;
    for (i = 0; i < m->row_count; i++) {
        const nn_row *r = &m->row[i];
        double positions = (double)r->dim[0] * r->dim[1], macs;
        const nn_layer *pool = r->fused != i ? &m->rows[r->fused] : NULL;
        if (!r->tensors || m->tensor[r->tensor].ndim < 2) continue;
        if (m->rows[i].op == NN_EMBEDDING) continue;
        if (pool) /* rows and columns that the pool drops are not computed */
            positions = (double)m->row[r->fused].dim[0] * nn__pair(pool->kernel, 0, 1) *
                        m->row[r->fused].dim[1] * nn__pair(pool->kernel, 1, 1);
        macs = positions * m->tensor[r->tensor].count;
        if (m->rows[i].op == NN_LSTM)
            for (macs = 0, k = 0; k < r->tensors; k++)
                if (m->tensor[r->tensor + k].ndim == 2)
                    macs += (double)m->row[m->input[r->input]].dim[1] *
                            m->tensor[r->tensor + k].count;
        *forward += macs;
        if (!begun) *first = macs;
        begun = 1;
    }
}

/* NaNs and infinities; and subnormal numbers, which are slow on some machines. */
typedef struct odd {
    unsigned broken, subnormal;
} odd;

static void count_odd(odd *o, const unsigned char *bytes, uint32_t n) {
    const float *p = (const float *)(const void *)bytes;
    uint32_t i;
    for (i = 0; i < n; i++) {
        uint32_t exponent = nn__bits(p[i]) >> 23 & 255;
        o->broken += exponent == 255;
        o->subnormal += exponent == 0 && nn__bits(p[i]) << 1 != 0;
    }
}

static odd model_odd_numbers(const nn_model *m) {
    odd o = { 0, 0 };
    uint32_t i;
    count_odd(&o, m->block + m->state_offset, m->state_count);
    for (i = 0; i < m->tensor_count; i++)
        count_odd(&o, m->block + m->tensor[i].offset, m->tensor[i].count);
    return o;
}

typedef struct net {
    const char *name;
    const nn_layer *rows;
    int loss, optimizer;
} net;

typedef struct job {
    const char *name;
    int batch, train, fuse;
} job;

typedef struct data {
    void *x;
    float *out;
    float values[32];
    int32_t labels[32];
    const void *target;
} data;

typedef struct timing {
    const net *net;
    const set *set;
    const job *job;
    double run[ROUNDS * RUNS], burst[ROUNDS * RUNS]; /* seconds */
    double flop;                                     /* of one step or batch */
    unsigned subnormals; /* most that were met in weights and moments */
    int n;
} timing;

static uint32_t random_bits(void) {
    static uint32_t state = 1;
    state = state * 1664525u + 1013904223u;
    return state >> 8;
}

static float random_value(void) { return (float)random_bits() / 8388608.0f - 1.0f; }

static int fill(data *d, const nn_model *m) {
    size_t n = (size_t)m->in_size * 32, i;
    d->x = malloc(n * sizeof(float));
    d->out = (float *)malloc((size_t)m->out_size * 32 * sizeof(float));
    if (!d->x || !d->out) return -1;
    for (i = 0; i < n; i++)
        if (m->rows[0].type == NN_U8) ((unsigned char *)d->x)[i] = (unsigned char)random_bits();
        else if (m->rows[0].type == NN_I32)
            ((int32_t *)d->x)[i] = (int32_t)(random_bits() % (uint32_t)m->rows[1].vocab);
        else ((float *)d->x)[i] = random_value();
    for (i = 0; i < 32; i++) {
        d->values[i] = m->opts.loss == NN_BCE ? (float)(i & 1) : random_value();
        d->labels[i] = (int32_t)(random_bits() % (uint32_t)m->out_size);
    }
    d->target = m->opts.loss == NN_CROSS_ENTROPY ? (const void *)d->labels : d->values;
    return 0;
}

static int run(nn_model *m, const job *j, const data *d, int times) {
    int err = 0;
    while (times-- && !err)
        err =
            j->train ? nn_train(m, d->x, d->target, j->batch) : nn_infer(m, d->x, d->out, j->batch);
    return err;
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* One round. */
static int measure(timing *t, nn_model *m, const data *d) {
    double forward, first, begin, start;
    odd found;
    int repeat = 1, i;
    count(m, &forward, &first);
    t->flop = 2 * t->job->batch * (t->job->train ? 3 * forward - first : forward);
    for (;; repeat *= 2) {
        start = run_clock();
        if (run(m, t->job, d, repeat)) return -1;
        if (run_clock() - start >= RUN_SECONDS) break;
    }
    begin = run_clock();
    for (i = 0; i < RUNS && run_clock() - begin < CASE_SECONDS; i++, t->n++) {
        if (t->set->burst) t->burst[t->n] = burst_seconds(t->set);
        start = run_clock();
        if (run(m, t->job, d, repeat)) return -1;
        t->run[t->n] = (run_clock() - start) / repeat;
    }
    found = model_odd_numbers(m);
    if (found.broken) {
        fprintf(stderr, "bench: infinities or NaNs in the model\n");
        return -1;
    }
    if (found.subnormal > t->subnormals) t->subnormals = found.subnormal;
    return 0;
}

static int bench(timing *t) {
    nn_opts o = { .batch = t->job->batch,
                  .loss = t->net->loss,
                  .optimizer = t->net->optimizer,
                  .lr = 1e-5f, /* many steps on one batch must not diverge */
                  .train = t->job->train ? "*" : NULL,
                  .fuse_update = t->job->fuse };
    nn_model m;
    data d = { 0 };
    int err = nn_build(&m, t->net->rows, &o);
    if (!err) err = nn_set_kernels(&m, t->set->name);
    if (!err) err = fill(&d, &m);
    if (!err) err = measure(t, &m, &d);
    if (err)
        fprintf(stderr, "bench: %s, %s, %s failed\n", t->net->name, t->set->name, t->job->name);
    free(d.x);
    free(d.out);
    nn_free(&m);
    return err;
}

static void print_time(double seconds) {
    double us = seconds * 1e6;
    if (us < 1) printf(" %.1f ns |", us * 1e3);
    else printf(" %.*f us |", us < 100 ? 2 : us < 10000 ? 1 : 0, us);
}

static void print_timing(FILE *json, timing *t) {
    const set *s = t->set;
    double median, least, flops, peak, median_peak;
    qsort(t->run, (size_t)t->n, sizeof *t->run, by_value);
    qsort(t->burst, (size_t)t->n, sizeof *t->burst, by_value);
    median = t->run[t->n / 2];
    least = t->run[0];
    flops = t->flop / least;
    peak = flops_of(s, t->burst[0]);
    median_peak = flops_of(s, t->burst[t->n / 2]);
    printf("| %s | %s | %s |", t->net->name, s->name, t->job->name);
    print_time(median);
    print_time(least);
    printf(" %.2f |", flops * 1e-9);
    if (s->burst)
        printf(" %.1f %% (%.1f %%) |\n", 100 * flops / peak, 100 * t->flop / median / median_peak);
    else printf(" %s |\n", no_peak(s));
    if (t->subnormals)
        fprintf(stderr, "bench: %s, %s, %s: %u subnormal weights or moments\n", t->net->name,
                s->name, t->job->name, t->subnormals);
    fprintf(json,
            "\n  {\"net\": \"%s\", \"kernels\": \"%s\", \"case\": \"%s\", \"runs\": %d, "
            "\"median_ns\": %.2f, \"minimum_ns\": %.2f, \"flop\": %.0f, \"gflops\": %.3f",
            t->net->name, s->name, t->job->name, t->n, median * 1e9, least * 1e9, t->flop,
            flops * 1e-9);
    if (s->burst)
        fprintf(json,
                ", \"peak_gflops\": %.3f, \"median_peak_gflops\": %.3f, \"share\": %.4f, "
                "\"median_share\": %.4f",
                peak * 1e-9, median_peak * 1e-9, flops / peak, t->flop / median / median_peak);
    fprintf(json, "}");
}

static void print_head(FILE *json) {
    const char *comma = "";
    size_t i;
    int k;
    printf("compiler: %s, %s\n", compiler, flags);
    fprintf(json, "{\"compiler\": \"%s\", \"flags\": \"%s\", \"peak_gflops\": {", compiler, flags);
    for (i = 0; i < sizeof sets / sizeof *sets; i++) {
        const set *s = &sets[i];
        double least = 1;
        if (!available(s)) continue;
        fprintf(json, "%s\"%s\": ", comma, s->name);
        comma = ", ";
        if (!s->burst) {
            printf("peak of %s: %s\n", s->name, no_peak(s));
            fprintf(json, "null");
            continue;
        }
        for (k = 0; k < ROUNDS * RUNS; k++) {
            double seconds = burst_seconds(s);
            if (seconds < least) least = seconds;
        }
        printf("peak of %s: %.1f GFLOP/s (multiply-adds of %d bits, one thread)\n", s->name,
               flops_of(s, least) * 1e-9, 32 * s->lanes);
        fprintf(json, "%.3f", flops_of(s, least) * 1e-9);
    }
    fflush(stdout);
}

int main(int argc, char **argv) {
    static const net nets[] = { { "W1", w1_rows, NN_MSE, NN_SGD },
                                { "W2", w2_rows, NN_CROSS_ENTROPY, NN_ADAM },
                                { "W3", w3_rows, NN_CROSS_ENTROPY, NN_ADAM },
                                { "W4", w4_rows, NN_BCE, NN_ADAM } };
    static const job jobs[] = { { "inference, 1", 1, 0, 0 },
                                { "inference, 32", 32, 0, 0 },
                                { "training, 32", 32, 1, 0 },
                                { "training, 32, fused update", 32, 1, 1 } };
    static timing timings[sizeof nets / sizeof *nets * (sizeof sets / sizeof *sets) *
                          (sizeof jobs / sizeof *jobs)];
    const char *word = argc > 1 ? argv[1] : "";
    int cases = 0, err = 0, round, i;
    FILE *json;
    size_t n, k, c;
    for (n = 0; n < sizeof nets / sizeof *nets; n++)
        for (k = 0; k < sizeof sets / sizeof *sets; k++)
            for (c = 0; c < sizeof jobs / sizeof *jobs; c++) {
                if (!strstr(nets[n].name, word) && !strstr(sets[k].name, word)) continue;
                if (!available(&sets[k])) continue;
                if (jobs[c].fuse && nets[n].rows != w2_rows) continue; /* one net shows it */
                if (sets[k].slow && nets[n].rows != w1_rows) continue;
                timings[cases].net = &nets[n];
                timings[cases].set = &sets[k];
                timings[cases++].job = &jobs[c];
            }
    if (!cases) {
        fprintf(stderr, "bench: no net and no kernels like %s\n", word);
        return 1;
    }
    json = fopen(JSON_PATH, "w");
    if (!json) {
        perror(JSON_PATH);
        return 1;
    }
    print_head(json);
    for (round = 0; round < ROUNDS && !err; round++)
        for (i = 0; i < cases && !err; i++) err = bench(&timings[i]);
    if (err) return 1;
    printf("\n| net | kernels | case | median | minimum | GFLOP/s | of peak (medians) |\n"
           "|---|---|---|---|---|---|---|\n");
    fprintf(json, "}, \"cases\": [");
    for (i = 0; i < cases; i++) {
        if (i) fprintf(json, ",");
        print_timing(json, &timings[i]);
    }
    fprintf(json, "\n]}\n");
    return fclose(json) != 0;
}
