/* fastmath.c - built with a part of -ffast-math that no macro shows, building a model must fail */

#define NN_IMPLEMENTATION
#include "nn.h"

int main(void) {
    static const nn_layer net[] = { { .op = NN_INPUT, .shape = { 2 } },
                                    { .op = NN_DENSE, .units = 2 },
                                    { 0 } };
    nn_model m;

    return nn_build(&m, net, NULL) != NN_ERR_FLOAT;
}
