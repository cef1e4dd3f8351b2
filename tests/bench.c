/* bench.c - time of W1, W2 and W3: inference of 1 and 32 samples, a training step on 32

       make bench        prints a table, writes build/bench.json

   Times are medians and minima of many runs in one process; a share of the peak is against the
   multiply-adds that the same process reached in registers. Executed FLOP are counted from the
   rows: a training step is forward and weight gradients of every row, input gradients of all but
   the first. Compare ratios, not numbers of two machines. */

#define NN_IMPLEMENTATION
#include "nn.h"

#include "tests/firmware/models.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Ten independent chains of 256-bit multiply-adds, enough to hide their latency. */
#if defined(__x86_64__) && defined(__GNUC__)
typedef float vector __attribute__((vector_size(32)));
#define CHAINS(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9)
__attribute__((target("avx2,fma"))) static double peak_flops(void) {
#define DECLARE(k) vector a##k = { 1, 1, 1, 1, 1, 1, 1, 1 };
#define STEP(k) __asm__ volatile("vfmadd213ps %1, %1, %0" : "+x"(a##k) : "x"(y));
#define KEEP(k) __asm__ volatile("" : : "x"(a##k));
    vector y = { 0.5f, 0.5f, 0.5f, 0.5f, 0.5f, 0.5f, 0.5f, 0.5f };
    double best = 0;
    int run, i;
    CHAINS(DECLARE)
    for (run = 0; run < 50; run++) {
        double start = now(), flops;
        for (i = 0; i < 100000; i++) {
            CHAINS(STEP)
        }
        flops = 100000.0 * 10 * 16 / (now() - start);
        if (flops > best) best = flops;
    }
    CHAINS(KEEP)
    return best;
}
static const char *const peak_name = "256-bit fused multiply-adds";
#else
static double peak_flops(void) { return 0; }
static const char *const peak_name = "not measured";
#endif

/* Multiply-adds of one sample: forward, and those of input gradients that a training step lacks. */
static void count(const nn_model *m, double *forward, double *first) {
    uint32_t i;
    *forward = *first = 0;
    for (i = 0; i < m->row_count; i++) {
        const nn_row *r = &m->row[i];
        double positions = (double)r->dim[0] * r->dim[1], macs;
        const nn_layer *pool = r->fused != i ? &m->rows[r->fused] : NULL;
        if (!r->tensors || m->tensor[r->tensor].ndim < 2) continue;
        if (pool) /* rows and columns that the pool drops are not computed */
            positions = (double)m->row[r->fused].dim[0] * nn__pair(pool->kernel, 0, 1) *
                        m->row[r->fused].dim[1] * nn__pair(pool->kernel, 1, 1);
        macs = positions * m->tensor[r->tensor].count;
        *forward += macs;
        if (*first <= 0) *first = macs;
    }
}

typedef struct result {
    double median, least, flop;
} result;

static result measure(nn_model *m, int batch, int train, const void *x, const void *y, float *out) {
    enum { RUNS = 200 };
    double time[RUNS], forward, first, start;
    int repeat = 1, i, k;
    result r;
    count(m, &forward, &first);
    r.flop = 2 * batch * (train ? 3 * forward - first : forward);
    for (;;) { /* long enough for the clock */
        start = now();
        for (k = 0; k < repeat; k++) train ? nn_train(m, x, y, batch) : nn_infer(m, x, out, batch);
        if (now() - start > 2e-3 || repeat > 1000000) break;
        repeat *= 2;
    }
    for (i = 0; i < RUNS; i++) {
        start = now();
        for (k = 0; k < repeat; k++) train ? nn_train(m, x, y, batch) : nn_infer(m, x, out, batch);
        time[i] = (now() - start) / repeat;
        if (i > 20 && now() - start > 0.05 && i % 2) break; /* slow cases: fewer runs */
    }
    if (i > RUNS) i = RUNS;
    qsort(time, (size_t)i, sizeof *time, by_value);
    r.median = time[i / 2];
    r.least = time[0];
    return r;
}

int main(void) {
    static const struct {
        const char *name;
        const nn_layer *rows;
        int loss, optimizer;
    } nets[] = { { "W1", w1_rows, NN_MSE, NN_SGD },
                 { "W2", w2_rows, NN_CROSS_ENTROPY, NN_ADAM },
                 { "W3", w3_rows, NN_CROSS_ENTROPY, NN_ADAM } };
    static const nn_kernels *const tables[] = {
        &nn__kernels_plain,
#if NN__DISPATCH
        &nn__kernels_fma,
#endif
    };
    double peak = peak_flops();
    FILE *json = fopen("build/bench.json", "w");
    size_t n, k;
    int c, first = 1;
    if (!json) return 1;
    printf("peak %.1f GFLOP/s (%s, one thread)\n\n", peak * 1e-9, peak_name);
    printf("| net | kernels | case | median | minimum | GFLOP/s | of peak "
           "|\n|---|---|---|---|---|---|---|\n");
    fprintf(json, "{\"peak\": %.0f, \"cases\": [", peak);
    for (n = 0; n < sizeof nets / sizeof *nets; n++)
        for (k = 0; k < sizeof tables / sizeof *tables; k++)
            for (c = 0; c < 3; c++) {
                static const char *const cases[] = { "inference, 1", "inference, 32",
                                                     "training, 32" };
                nn_opts o = { .batch = c ? 32 : 1,
                              .loss = nets[n].loss,
                              .optimizer = nets[n].optimizer,
                              .lr = 1e-5f,
                              .train = c == 2 ? "*" : NULL };
                nn_model m;
                float *x, *out;
                int32_t y[32] = { 0 };
                result r;
                int i;
                if (NN__DISPATCH && k == 0 && n == 2)
                    continue; /* emulated multiply-adds: too slow */
                if (nn_build(&m, nets[n].rows, &o)) return 1;
                m.kernels = tables[k];
                x = (float *)calloc((size_t)m.in_size * 32, 4);
                out = (float *)calloc((size_t)m.out_size * 32, 4);
                if (!x || !out) return 1;
                for (i = 0; i < m.in_size * 32 && m.rows[0].type == NN_F32; i++)
                    x[i] = (float)(i % 7) * 0.1f;
                r = measure(&m, o.batch, c == 2, x, y, out);
                printf("| %s | %s | %s | %.2f us | %.2f us | %.2f | %.0f %% |\n", nets[n].name,
                       m.kernels->name, cases[c], r.median * 1e6, r.least * 1e6,
                       r.flop / r.least * 1e-9, peak > 0 ? 100 * r.flop / r.least / peak : 0);
                fprintf(json,
                        "%s\n  {\"net\": \"%s\", \"kernels\": \"%s\", \"case\": \"%s\", "
                        "\"median\": %.9f, "
                        "\"minimum\": %.9f, \"flop\": %.0f}",
                        first ? "" : ",", nets[n].name, m.kernels->name, cases[c], r.median,
                        r.least, r.flop);
                first = 0;
                free(x);
                free(out);
                nn_free(&m);
            }
    fprintf(json, "\n]}\n");
    return fclose(json) != 0;
}
