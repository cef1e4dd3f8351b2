/* What models take: nn_memory for the models of models.h, by what trains, optimizer and batch. The
   text is the same on every machine, which tools/size.py checks. --markdown: README's table. */
#define NN_IMPLEMENTATION
#include "../../nn.h"

#include "models.h"

#include <stdio.h>
#include <string.h>

static const struct {
    const char *name;
    const nn_layer *rows;
    int32_t loss;
    const char *head;
} models[] = {
    { "W1, MLP 10-64-1", w1_rows, NN_MSE, "dense2" },
    { "W2, MLP 1000-500-10", w2_rows, NN_CROSS_ENTROPY, "dense2" },
    { "W3, CNN for CIFAR-10", w3_rows, NN_CROSS_ENTROPY, "dense2" },
    { "digits, CNN 16-32", digits_rows, NN_CROSS_ENTROPY, "dense2" }
};

static const struct {
    const char *name;
    int head, everything; /* neither: inference */
    int32_t optimizer;
} modes[] = {
    { "inference", 0, 0, NN_SGD },       { "head, SGD", 1, 0, NN_SGD },
    { "head, Adam", 1, 0, NN_ADAM },     { "everything, SGD", 0, 1, NN_SGD },
    { "everything, Adam", 0, 1, NN_ADAM }
};

static const int32_t batches[] = { 1, 32 };

#define COUNT(array) ((int)(sizeof(array) / sizeof((array)[0])))

/* Bytes of all tensors, which every plan here holds in its block; negative: failed. */
static int64_t weight_bytes(const nn_layer *rows)
{
    nn_model m;
    uint32_t i;
    int64_t count = 0;
    int error = nn_build(&m, rows, NULL);
    if (error != 0) return error;
    for (i = 0; i < m.tensor_count; i++) count += m.tensor[i].count;
    nn_free(&m);
    return 4 * count;
}

/* 1234567 as 1,234,567 */
static const char *grouped(int64_t value, char text[32])
{
    char *p = text + 31;
    int digits = 0;
    *p = 0;
    do {
        if (digits != 0 && digits % 3 == 0) *--p = ',';
        *--p = (char)('0' + value % 10);
        value /= 10;
        digits++;
    } while (value > 0);
    return p;
}

int main(int argc, char **argv)
{
    int markdown = argc == 2 && strcmp(argv[1], "--markdown") == 0;
    int model, mode, i;
    if (markdown) {
        printf("| model | what trains | bytes, batch 1 | beyond weights | bytes, batch 32 | "
               "beyond weights |\n|---|---|--:|--:|--:|--:|\n");
    }
    for (model = 0; model < COUNT(models); model++) {
        int64_t weights = weight_bytes(models[model].rows);
        if (weights < 0) {
            fprintf(stderr, "%s: %s\n", models[model].name, nn_error_name((int)weights));
            return 1;
        }
        for (mode = 0; mode < COUNT(modes); mode++) {
            if (markdown) printf("| %s | %s |", models[model].name, modes[mode].name);
            for (i = 0; i < COUNT(batches); i++) {
                nn_opts o = { 0 };
                char why[256] = "", text[32], beyond[32];
                int64_t bytes;
                o.batch = batches[i];
                o.why = why;
                o.why_size = sizeof(why);
                if (modes[mode].head || modes[mode].everything) {
                    o.train = modes[mode].head ? models[model].head : "*";
                    o.loss = models[model].loss;
                    o.optimizer = modes[mode].optimizer;
                    o.lr = 0.01f;
                }
                bytes = nn_memory(models[model].rows, &o);
                if (bytes < 0) {
                    fprintf(stderr, "%s: %s\n", models[model].name, why);
                    return 1;
                }
                if (!markdown)
                    printf("%s; %s; batch %d: ", models[model].name, modes[mode].name,
                           (int)batches[i]);
                printf(markdown ? " %s | %s |" : "%s, beyond weights %s\n", grouped(bytes, text),
                       grouped(bytes - weights, beyond));
            }
            if (markdown) printf("\n");
        }
    }
    return 0;
}
