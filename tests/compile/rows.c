/* rows.c - one net as designated rows and as text: in C99 and C++20 the same net to the bit

   Fields stand in the order of their declaration, which C++20 demands. The implementation is in
   another file, in C. */

#include "nn.h"

#include <stdio.h>
#include <string.h>

static const nn_layer rows[] = {
    { .op = NN_INPUT, .name = "x", .shape = { 6, 6, 2 }, .scale = 0.5f, .mean = { 1, 2 } },
    { .op = NN_CONV2D, .units = 4, .act = NN_RELU, .kernel = { 3, 3 }, .pad = { 1, 1, 1, 1 } },
    { .op = NN_BATCHNORM, .name = "bn", .eps = 0.25f, .biased = 1 },
    { .op = NN_CONV2D, .from = "conv1", .units = 4, .kernel = { 3 }, .pad = { 1, 1, 1, 1 } },
    { .op = NN_ADD, .from = "bn", .with = "conv2", .act = NN_LEAKY_RELU, .slope = 0.125f },
    { .op = NN_MAXPOOL2D, .kernel = { 2, 2 } },
    { .op = NN_FLATTEN, .order = NN_CHW },
    { .op = NN_DENSE, .name = "head", .units = 3, .no_bias = 1, .lr = 2, .no_decay = 1 },
    { 0 }
};

static const char text[] =
    "input x - shape=6,6,2 scale=0.5 mean=1,2; conv2d conv1 x units=4 act=relu kernel=3,3 "
    "pad=1,1,1,1; batchnorm bn conv1 eps=0.25 biased=1; conv2d conv2 conv1 units=4 kernel=3 "
    "pad=1,1,1,1; add add1 bn,conv2 act=leaky_relu slope=0.125; maxpool2d pool1 add1 kernel=2,2; "
    "flatten flatten1 pool1 order=chw; dense head flatten1 units=3 no_bias=1 lr=2 no_decay=1";

int main(void) {
    nn_opts o = { .batch = 2, .train = "*", .loss = NN_CROSS_ENTROPY, .lr = 0.25f, .seed = 5 };
    static float x[2][72], y[2][2][3];
    static const int32_t labels[2] = { 2, 0 };
    float loss[2];
    int i, k, err;

    for (i = 0; i < 144; i++) x[i / 72][i % 72] = (float)(i * 7 % 11) - 5.0f;
    for (k = 0; k < 2; k++) {
        nn_model m;
        err = k ? nn_build_text(&m, text, &o) : nn_build(&m, rows, &o);
        if (!err && nn_rows_hash(m.rows) != nn_rows_hash(rows)) err = 1;
        for (i = 0; i < 3 && !err; i++) err = nn_train(&m, x, labels, 2);
        if (!err) err = nn_infer(&m, x, y[k][0], 2);
        if (err) {
            printf("rows.c: %s failed with %d\n", k ? "the text" : "the table", err);
            return 1;
        }
        loss[k] = m.loss;
        nn_free(&m);
    }
    if (memcmp(y[0], y[1], sizeof y[0]) || memcmp(&loss[0], &loss[1], sizeof loss[0])) {
        printf("rows.c: the table and the text gave different nets\n");
        return 1;
    }
    return 0;
}
