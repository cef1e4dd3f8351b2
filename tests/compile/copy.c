/* copy.c - a private copy of nn.h, one of several in a program; COPY names the function */

#define NN_STATIC
#define NN_IMPLEMENTATION
#include "nn.h"

#include "copies.h"

/* A few steps of training; their outputs as bits. */
int COPY(uint32_t bits[COPY_OUTPUTS]) {
    static const char text[] = "input x - shape=3; dense a x units=17 act=tanh;"
                               "dense b a units=4 act=softmax";
    static const float x[2][3] = { { 1, -0.5f, 0.25f }, { 0.75f, 2, -1 } };
    static const int32_t labels[2] = { 3, 1 };
    float y[COPY_OUTPUTS];
    nn_opts o;
    nn_model m;
    int i, err;

    NN_MEMSET(&o, 0, sizeof o);
    o.batch = 2;
    o.train = "*";
    o.loss = NN_CROSS_ENTROPY;
    o.optimizer = NN_ADAM;
    o.lr = 0.0625f;
    o.seed = 3;
    err = nn_build_text(&m, text, &o);
    for (i = 0; i < 10 && !err; i++) err = nn_train(&m, x, labels, 2);
    if (!err) err = nn_infer(&m, x, y, 2);
    NN_MEMCPY(bits, y, sizeof y);
    nn_free(&m);
    return err;
}
