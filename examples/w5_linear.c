/* w5_linear.c - the smallest net: y = 2 x from four points, three ways to get there

       cc -O2 -o w5 examples/w5_linear.c -I. && ./w5

   One dense row with one input and one output is a straight line, w x + b. A thousand steps of
   gradient descent fit it: on all four points at once, on one point after the other, and on all
   four with momentum. Ends with status 1 when w or b is off by more than 0.05. */

#define NN_IMPLEMENTATION
#include "nn.h"

#include <stdio.h>
#include <stdlib.h>

enum { POINTS = 4, STEPS = 1000 };

static const float x[POINTS] = { 1, 2, 3, 4 }, y[POINTS] = { 2, 4, 6, 8 };

static const nn_layer net[] = {
    { .op = NN_INPUT, .shape = { 1 } },
    { .op = NN_DENSE, .name = "line", .units = 1 },
    { 0 }
};

static const struct {
    const char *title;
    int32_t batch;
    float momentum;
} variants[] = {
    { "all points a step", POINTS, 0 },
    { "one point a step", 1, 0 },
    { "all, momentum 0.9", POINTS, 0.9f },
};

static char why[200];

static void check(int result)
{
    if (result >= 0) return;
    fprintf(stderr, "w5: %s: %s\n", nn_error_name(result), why);
    exit(1);
}

static int is_near(float a, float b)
{
    return a - b < 0.05f && b - a < 0.05f;
}

int main(void)
{
    int status = 0, i, step;

    printf("%-18s %10s %10s %12s\n", "", "w", "b", "loss");
    for (i = 0; i < (int)(sizeof variants / sizeof variants[0]); i++) {
        nn_opts o = { .batch = variants[i].batch, .train = "*", .loss = NN_MSE, .lr = 0.01f,
                      .momentum = variants[i].momentum, .seed = 1, .why = why,
                      .why_size = sizeof why };
        float w, b;
        nn_model m;

        check(nn_build(&m, net, &o));
        for (step = 0; step < STEPS; step++) {
            int at = step * o.batch % POINTS;

            check(nn_train(&m, &x[at], &y[at], o.batch));
        }
        check(nn_eval(&m, x, y, POINTS));
        check(nn_get(&m, "line.weight", &w, 1));
        check(nn_get(&m, "line.bias", &b, 1));
        printf("%-18s %10.6f %10.6f %12.3g\n", variants[i].title, (double)w, (double)b,
               (double)m.loss);
        if (!is_near(w, 2) || !is_near(b, 0)) status = 1;
        nn_free(&m);
    }
    if (status) printf("FAILED: not y = 2 x\n");
    return status;
}
