/* w2_classifier.c - a half million weights tell ten classes of 1,000 numbers apart

       cc -O2 -o w2 examples/w2_classifier.c -I. && ./w2

   The data are generated, always the same: ten patterns buried in noise. nn_fit shuffles, trains
   and tests on samples held out; its callback ends that when they leave little to gain. Ends with
   status 1 when the held-out samples are not told apart. */

#define NN_IMPLEMENTATION
#include "nn.h"

#include <stdio.h>
#include <stdlib.h>

enum { INPUTS = 1000, CLASSES = 10, SAMPLES = 1000, TEST = 500 };

static const nn_layer net[] = {
    { .op = NN_INPUT, .shape = { INPUTS } },
    { .op = NN_DENSE, .units = 500, .act = NN_RELU },
    { .op = NN_DENSE, .units = CLASSES },
    { 0 }
};

static float x[SAMPLES + TEST][INPUTS];
static int32_t y[SAMPLES + TEST];
static char why[200];

static void check(int result)
{
    if (result >= 0) return;
    fprintf(stderr, "w2: %s: %s\n", nn_error_name(result), why);
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
    static float pattern[CLASSES][INPUTS];
    int i, j;

    for (i = 0; i < CLASSES; i++)
        for (j = 0; j < INPUTS; j++) pattern[i][j] = 0.15f * uniform();
    for (i = 0; i < SAMPLES + TEST; i++) {
        y[i] = i % CLASSES;
        for (j = 0; j < INPUTS; j++) x[i][j] = pattern[y[i]][j] + uniform();
    }
}

/* nn_fit's callback, after every step and every epoch; anything but 0 ends the training. */
static int enough(void *user, const nn_progress *p)
{
    (void)user;
    return p->epoch_end && p->accuracy_val > 0.98f;
}

int main(void)
{
    nn_opts o = { .batch = 32, .train = "*", .loss = NN_CROSS_ENTROPY, .optimizer = NN_ADAM,
                  .lr = 0.001f, .seed = 1, .why = why, .why_size = sizeof why };
    nn_fit_opts fit = { .x = x, .y = y, .n = SAMPLES, .x_val = x[SAMPLES], .y_val = &y[SAMPLES],
                        .n_val = TEST, .epochs = 5, .progress = enough };
    nn_model m;
    int result, right;

    make_data();
    check(nn_build(&m, net, &o));
    result = nn_fit(&m, &fit);
    if (result != NN_ERR_CANCELLED) check(result);
    check(nn_eval(&m, x[SAMPLES], &y[SAMPLES], TEST));
    right = m.correct;
    printf("%d of %d held-out samples right\n", right, TEST);
    nn_free(&m);
    return right * 10 < TEST * 9;
}
