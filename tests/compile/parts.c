/* parts.c - a program of three files: this one only declares, twice; parts_nn.c holds the
   implementation, parts_op.c an op of its own that files may name */

#include "nn.h"
#include "nn.h"

#include "parts.h"

#include <stdio.h>

int main(void) {
    static const nn_layer net[] = {
        { .op = NN_INPUT, .shape = { 3 } },
        { .op = NN_DENSE, .units = 3 },
        { .op = &op_negate, .name = "minus" },
        { 0 }
    };
    static const float x[3] = { 1, 2, -3 };
    static unsigned char image[4096];
    nn_memory_writer file = { image, sizeof image, 0 };
    float before[3], after[3], y[3];
    nn_model m;
    int i, err;

    err = nn_build(&m, net, NULL);
    if (!err) err = nn_infer_to(&m, "dense1", x, before, 1);
    if (!err) err = nn_infer(&m, x, after, 1);
    if (!err) err = nn_save(&m, 0, nn_write_memory, &file) < 0;
    nn_free(&m);
    if (!err) err = nn_load(&m, image, file.size, NULL);
    if (!err) err = nn_infer(&m, x, y, 1);
    nn_free(&m);
    for (i = 0; i < 3 && !err; i++)
        if (after[i] + before[i] != 0 || after[i] != y[i]) err = 1;
    if (err) printf("parts.c: failed with %d\n", err);
    return err != 0;
}
