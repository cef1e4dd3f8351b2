/* w1_mlp.c - regression: a small net learns a function of ten numbers, is saved and loaded again

       cc -O2 -o w1 examples/w1_mlp.c -I. && ./w1

   The data are generated, always the same. Ends with status 1 when the net did not learn or when
   the loaded one answers differently by a single bit. */

#define NN_IMPLEMENTATION
#include "nn.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { INPUTS = 10, SAMPLES = 1024, TEST = 256, BATCH = 32, EPOCHS = 100 };

static const nn_layer net[] = {
    { .op = NN_INPUT, .shape = { INPUTS } },
    { .op = NN_DENSE, .units = 64, .act = NN_RELU },
    { .op = NN_DENSE, .units = 1 },
    { 0 }
};

static float x[SAMPLES + TEST][INPUTS], y[SAMPLES + TEST];
static float answers[TEST], again[TEST];
static char why[200];

static void check(int result)
{
    if (result >= 0) return;
    fprintf(stderr, "w1: %s: %s\n", nn_error_name(result), why);
    exit(1);
}

/* From -1 to 1, from a generator of our own so that the data are the same everywhere. */
static float uniform(void)
{
    static uint32_t state = 1;

    state = state * 1664525u + 1013904223u;
    return (float)(state >> 8) / 8388608.0f - 1;
}

static void make_data(void)
{
    int i, j;

    for (i = 0; i < SAMPLES + TEST; i++) {
        for (j = 0; j < INPUTS; j++) x[i][j] = uniform();
        y[i] = x[i][0] * x[i][1] + x[i][2] * x[i][2] + x[i][3] - 0.5f * x[i][4] + 0.05f * uniform();
    }
}

int main(void)
{
    nn_opts o = { .batch = BATCH, .train = "*", .loss = NN_MSE, .optimizer = NN_SGD, .lr = 0.05f,
                  .seed = 1, .why = why, .why_size = sizeof why };
    float first = 0, loss = 0, test;
    nn_model m;
    int epoch, at, same;

    make_data();
    check(nn_build(&m, net, &o));
    for (epoch = 1; epoch <= EPOCHS; epoch++) {
        loss = 0;
        for (at = 0; at < SAMPLES; at += BATCH) {
            check(nn_train(&m, x[at], &y[at], BATCH));
            loss += m.loss * BATCH / SAMPLES;
        }
        if (epoch == 1) first = loss;
        if (epoch == 1 || epoch % 20 == 0) printf("epoch %3d  loss %.5f\n", epoch, (double)loss);
    }
    check(nn_eval(&m, x[SAMPLES], &y[SAMPLES], TEST));
    test = m.loss;
    printf("on %d other samples  loss %.5f\n", TEST, (double)test);

    check(nn_infer(&m, x[SAMPLES], answers, TEST));
    check(nn_save_file(&m, "w1.nn", 0));
    nn_free(&m);

    check(nn_load_file(&m, "w1.nn", NULL));
    check(nn_infer(&m, x[SAMPLES], again, TEST));
    nn_free(&m);
    remove("w1.nn");
    same = memcmp(answers, again, sizeof answers) == 0;
    printf("saved and loaded: %s\n", same ? "the same answers" : "OTHER ANSWERS");

    if (!(loss < first / 5 && test < first / 5)) printf("FAILED: the loss did not fall\n");
    return !(same && loss < first / 5 && test < first / 5);
}
