/* w5_linear.c - the smallest net: a straight line through noisy points, three ways to get there

       cc -O2 -o w5 examples/w5_linear.c -I. && ./w5

   y = w x + b is one dense row with one input and one output. It is fitted by plain gradient
   descent, with momentum, and by Adam. Ends with status 1 when w or b is off by more than 0.02. */

#define NN_IMPLEMENTATION
#include "nn.h"

#include <stdio.h>
#include <stdlib.h>

enum { SAMPLES = 64, BATCH = 8, STEPS = 1000 };

static const float true_w = 2, true_b = -1;

static const nn_layer net[] = {
    { .op = NN_INPUT, .shape = { 1 } },
    { .op = NN_DENSE, .name = "line", .units = 1 },
    { 0 }
};

static const struct {
    const char *title;
    int32_t optimizer;
    float lr, momentum;
} variants[] = {
    { "SGD", NN_SGD, 0.05f, 0 },
    { "SGD with momentum", NN_SGD, 0.01f, 0.9f },
    { "Adam", NN_ADAM, 0.02f, 0 },
};

static float x[SAMPLES], y[SAMPLES];
static char why[200];

static void check(int result)
{
    if (result >= 0) return;
    fprintf(stderr, "w5: %s: %s\n", nn_error_name(result), why);
    exit(1);
}

/* From -1 to 1, from a generator of our own so that the data are the same everywhere. */
static float uniform(void)
{
    static uint32_t state = 1;

    state = state * 1664525u + 1013904223u;
    return (float)(state >> 8) / 8388608.0f - 1;
}

static int is_near(float a, float b)
{
    return a - b < 0.02f && b - a < 0.02f;
}

int main(void)
{
    int status = 0, i, step;

    for (i = 0; i < SAMPLES; i++) {
        x[i] = uniform();
        y[i] = true_w * x[i] + true_b + 0.02f * uniform();
    }
    printf("%-18s %10s %10s %10s\n", "", "w", "b", "loss");
    printf("%-18s %10.4f %10.4f\n", "the true line", (double)true_w, (double)true_b);
    for (i = 0; i < (int)(sizeof variants / sizeof variants[0]); i++) {
        nn_opts o = { .batch = BATCH, .train = "*", .loss = NN_MSE, .seed = 1, .why = why,
                      .why_size = sizeof why };
        float w, b;
        nn_model m;

        o.optimizer = variants[i].optimizer;
        o.lr = variants[i].lr;
        o.momentum = variants[i].momentum;
        check(nn_build(&m, net, &o));
        for (step = 0; step < STEPS; step++) {
            int at = step * BATCH % SAMPLES;

            check(nn_train(&m, &x[at], &y[at], BATCH));
        }
        check(nn_get(&m, "line.weight", &w, 1));
        check(nn_get(&m, "line.bias", &b, 1));
        printf("%-18s %10.4f %10.4f %10.6f\n", variants[i].title, (double)w, (double)b,
               (double)m.loss);
        if (!is_near(w, true_w) || !is_near(b, true_b)) status = 1;
        nn_free(&m);
    }
    if (status) printf("FAILED: not the true line\n");
    return status;
}
