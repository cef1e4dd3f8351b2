/* renamed.c - the header under another name in another folder, as -DNN_HEADER says too */

#define NN_IMPLEMENTATION
#include NN_HEADER

int main(void) {
    static const nn_layer net[] = { { .op = NN_INPUT, .shape = { 2 } },
                                    { .op = NN_DENSE, .units = 2 },
                                    { 0 } };
    static const float x[2] = { 1, 2 };
    float y[2];
    nn_model m;
    int err = nn_build(&m, net, NULL);

    if (!err) err = nn_infer(&m, x, y, 1);
    nn_free(&m);
    return err != 0;
}
