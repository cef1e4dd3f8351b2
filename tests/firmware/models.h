/* The models whose memory and flash are measured. */
#ifndef MODELS_H
#define MODELS_H

/* W1: a small regression. */
static const nn_layer w1_rows[] = {
    { .op = NN_INPUT, .shape = { 10 } },
    { .op = NN_DENSE, .units = 64, .act = NN_RELU },
    { .op = NN_DENSE, .units = 1 },
    { 0 }
};

/* W2: a wide classifier. */
static const nn_layer w2_rows[] = {
    { .op = NN_INPUT, .shape = { 1000 } },
    { .op = NN_DENSE, .units = 500, .act = NN_RELU },
    { .op = NN_DENSE, .units = 10 },
    { 0 }
};

/* W3: the convolutional net of TensorFlow's CIFAR-10 tutorial. */
static const nn_layer w3_rows[] = {
    { .op = NN_INPUT, .shape = { 32, 32, 3 }, .type = NN_U8, .scale = 1 / 255.0f },
    { .op = NN_CONV2D, .units = 32, .act = NN_RELU, .kernel = { 3, 3 } },
    { .op = NN_MAXPOOL2D, .kernel = { 2, 2 } },
    { .op = NN_CONV2D, .units = 64, .act = NN_RELU, .kernel = { 3, 3 } },
    { .op = NN_MAXPOOL2D, .kernel = { 2, 2 } },
    { .op = NN_CONV2D, .units = 64, .act = NN_RELU, .kernel = { 3, 3 } },
    { .op = NN_FLATTEN },
    { .op = NN_DENSE, .units = 64, .act = NN_RELU },
    { .op = NN_DENSE, .units = 10 },
    { 0 }
};

/* W4: a text classifier. */
static const nn_layer w4_rows[] = {
    { .op = NN_INPUT, .shape = { 100 }, .type = NN_I32 },
    { .op = NN_EMBEDDING, .vocab = 10000, .units = 128 },
    { .op = NN_LSTM, .units = 128, .last = 1 },
    { .op = NN_DENSE, .units = 1, .act = NN_SIGMOID },
    { 0 }
};

/* The net of the digits demo. */
static const nn_layer digits_rows[] = {
    { .op = NN_INPUT, .shape = { 8, 8, 1 }, .type = NN_U8, .scale = 1 / 16.0f },
    { .op = NN_CONV2D, .units = 16, .act = NN_RELU, .kernel = { 3, 3 }, .pad = { 1, 1, 1, 1 } },
    { .op = NN_MAXPOOL2D, .kernel = { 2, 2 } },
    { .op = NN_CONV2D, .units = 32, .act = NN_RELU, .kernel = { 3, 3 }, .pad = { 1, 1, 1, 1 } },
    { .op = NN_MAXPOOL2D, .kernel = { 2, 2 } },
    { .op = NN_FLATTEN },
    { .op = NN_DENSE, .units = 32, .act = NN_RELU },
    { .op = NN_DENSE, .units = 10 },
    { 0 }
};

#endif
