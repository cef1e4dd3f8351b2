/* w3_cifar.c - a CNN learns the photographs of CIFAR-10

       cc -O2 -o w3 examples/w3_cifar.c -I. && ./w3 FOLDER

   FOLDER holds the data set's binary version: data_batch_1.bin to data_batch_5.bin (as many as
   there are, the first at least) and test_batch.bin, from the archive cifar-10-binary.tar.gz.

   Options: --epochs N (3), --batch N (32), --seed N (1), --lr X (0.001), --save FILE. Prints the
   accuracy on the test images after every epoch. tools/cifar_reference.py does it in PyTorch. */

#define NN_IMPLEMENTATION
#include "nn.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A record is a label and three planes of 32x32 bytes: red, green, blue. */
enum { CLASSES = 10, PIXELS = 3 * 32 * 32, RECORD = 1 + PIXELS };

static const nn_layer net[] = {
    { .op = NN_INPUT, .shape = { 32, 32, 3 }, .type = NN_U8, .order = NN_CHW, .scale = 1 / 255.0f },
    { .op = NN_CONV2D, .units = 32, .act = NN_RELU, .kernel = { 3, 3 } },
    { .op = NN_MAXPOOL2D, .kernel = { 2, 2 } },
    { .op = NN_CONV2D, .units = 64, .act = NN_RELU, .kernel = { 3, 3 } },
    { .op = NN_MAXPOOL2D, .kernel = { 2, 2 } },
    { .op = NN_CONV2D, .units = 64, .act = NN_RELU, .kernel = { 3, 3 } },
    { .op = NN_FLATTEN },
    { .op = NN_DENSE, .units = 64, .act = NN_RELU },
    { .op = NN_DENSE, .units = CLASSES },
    { 0 }
};

typedef struct set {
    int n;
    unsigned char *x; /* [n][PIXELS] */
    int32_t *y;       /* [n] */
} set;

static char why[200];

static void die(const char *what, const char *why_not)
{
    fprintf(stderr, "w3: %s: %s\n", what, why_not);
    exit(1);
}

static void check(int result)
{
    if (result < 0) die(nn_error_name(result), why);
}

/* Appends the records of a file. Returns 0 when there is none; anything wrong with it ends the
   program. */
static int append(set *s, const char *folder, const char *name)
{
    static unsigned char record[RECORD];
    char path[1000];
    FILE *f;
    long size = -1;
    int i, n;

    n = snprintf(path, sizeof path, "%s/%s", folder, name);
    if (n < 0 || n >= (int)sizeof path) die(folder, "too long a name");
    f = fopen(path, "rb");
    if (!f) return 0;
    if (!fseek(f, 0, SEEK_END)) size = ftell(f);
    if (size < 0 || fseek(f, 0, SEEK_SET)) die(path, "cannot be read");
    if (size == 0 || size % RECORD || size / RECORD > 1000000)
        die(path, "is not whole records of 3073 bytes: cut short, or another version of CIFAR");
    n = (int)(size / RECORD);
    s->x = (unsigned char *)realloc(s->x, (size_t)(s->n + n) * PIXELS);
    s->y = (int32_t *)realloc(s->y, (size_t)(s->n + n) * sizeof *s->y);
    if (!s->x || !s->y) die(path, "not enough memory");
    for (i = 0; i < n; i++, s->n++) {
        if (fread(record, 1, RECORD, f) != RECORD) die(path, "cannot be read");
        if (record[0] >= CLASSES) die(path, "has a label above 9: CIFAR-100, or not CIFAR at all");
        s->y[s->n] = record[0];
        memcpy(s->x + (size_t)s->n * PIXELS, record + 1, PIXELS);
    }
    fclose(f);
    return 1;
}

int main(int argc, char **argv)
{
    nn_opts o = { .batch = 32, .train = "*", .loss = NN_CROSS_ENTROPY, .optimizer = NN_ADAM,
                  .lr = 0.001f, .seed = 1, .why = why, .why_size = sizeof why };
    nn_fit_opts fit = { .epochs = 3 };
    const char *folder = NULL, *save = NULL;
    set train = { 0 }, test = { 0 };
    nn_model m;
    int i;

    for (i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : "";

        if (argv[i][0] != '-') { folder = argv[i]; continue; }
        if (!strcmp(argv[i], "--epochs")) fit.epochs = atoi(value);
        else if (!strcmp(argv[i], "--batch")) o.batch = atoi(value);
        else if (!strcmp(argv[i], "--seed")) o.seed = strtoul(value, NULL, 10);
        else if (!strcmp(argv[i], "--lr")) o.lr = (float)atof(value);
        else if (!strcmp(argv[i], "--save")) save = value;
        else die(argv[i], "unknown option; see the top of w3_cifar.c");
        if (++i == argc) die(argv[i - 1], "needs a value");
    }
    if (!folder) die("which folder?", "name the one that holds CIFAR-10's binary version");
    if (fit.epochs < 1 || o.batch < 1) die("--epochs and --batch", "at least 1");

    for (i = 1; i <= 5; i++) {
        char name[] = "data_batch_1.bin";

        name[sizeof "data_batch_" - 1] = (char)('0' + i);
        if (!append(&train, folder, name)) break;
    }
    if (!train.n) die(folder, "holds no data_batch_1.bin");
    if (!append(&test, folder, "test_batch.bin")) die(folder, "holds no test_batch.bin");
    printf("%d images to train, %d to test\n", train.n, test.n);

    check(nn_build(&m, net, &o));
    fit.x = train.x;
    fit.y = train.y;
    fit.n = train.n;
    fit.x_val = test.x;
    fit.y_val = test.y;
    fit.n_val = test.n;
    check(nn_fit(&m, &fit));
    check(nn_eval(&m, test.x, test.y, test.n));
    printf("test accuracy %.2f %%\n", 100.0 * m.correct / test.n);
    if (save) check(nn_save_file(&m, save, 0));
    nn_free(&m);
    free(train.x);
    free(train.y);
    free(test.x);
    free(test.y);
    return 0;
}
