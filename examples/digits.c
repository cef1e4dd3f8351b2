/* digits.c - a net from PyTorch that knows eight digits learns two more, as a device would

       cc -O2 -o digits examples/digits.c -I. && ./digits

   The net (examples/data/digits.nn) was trained in PyTorch on images of the digits 0 to 7 and has
   never seen an 8 or a 9; tools/digits_torch.py says how it was made. Here it is tuned:

   1. With everything frozen but the head it learns 8 and 9 from 20 examples of each. 20 kept
      examples of every digit it knows are replayed, or else it would forget them. What the frozen
      rows make of an image never changes, so it is computed once and trained on 60 times.
   2. The same from the file again, with both dense rows open, in smaller steps and more of them.

   Both with five seeds, each with its own examples. Prints the accuracy on 500 other images of all
   ten digits (examples/data) before and after, what is taken for what, and the RAM that each of
   this takes. Ends with status 1 when the mean accuracy is too low.

   Options: --data FILE, --net FILE: others than those two. --save FILE: the net as tuned last. */

#define NN_IMPLEMENTATION
#include "nn.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { IMAGES = 1797, PIXELS = 64, TEST = 500, DIGITS = 10, EXAMPLES = 20, SEEDS = 5 };

/* What is tried with the net: which rows train, the last frozen row below them, and how. Both
   dense rows have far more weights than the head, for the same 200 images: with large steps the
   result hangs on the order of the images, so the steps are small and many. */
static const struct stage {
    const char *title, *train, *from;
    int32_t batch, epochs;
    float lr;
    double goal; /* least mean accuracy in percent */
} stages[] = {
    { "as it came", NULL, NULL, 32, 0, 0, 0 },
    { "head tuned", "head", "hidden", 32, 60, 0.01f, 90.5 },
    { "both dense", "hidden head", "features", 16, 200, 0.001f, 93 },
};

enum { STAGES = sizeof stages / sizeof stages[0] };

typedef struct set {
    int n;
    uint8_t x[IMAGES][PIXELS];
    int32_t y[IMAGES];
} set;

static set all, few, test;
static unsigned char net[100000]; /* the file */
static size_t net_size;
static const char *save;
static char why[200];

/* Says what went wrong, if anything did, and ends the program. */
static void check(int result)
{
    if (result < 0) {
        fprintf(stderr, "digits: %s: %s\n", nn_error_name(result), why);
        exit(1);
    }
}

static FILE *open_file(const char *path)
{
    FILE *f = fopen(path, "rb");

    if (f) return f;
    fprintf(stderr, "digits: cannot open %s: run this in the project's root, or name it\n", path);
    exit(1);
}

static void read_net(const char *path)
{
    FILE *f = open_file(path);

    net_size = fread(net, 1, sizeof net, f);
    fclose(f);
}

static void read_images(const char *path)
{
    FILE *f = open_file(path);
    int c;

    while (all.n < IMAGES && (c = getc(f)) >= 0 && c < DIGITS && /* a record: label, pixels */
           fread(all.x[all.n], 1, PIXELS, f) == PIXELS)
        all.y[all.n++] = c;
    if (all.n < IMAGES || getc(f) != EOF) {
        fprintf(stderr, "digits: %s does not hold %d records of %d bytes\n", path, IMAGES,
                PIXELS + 1);
        exit(1);
    }
    fclose(f);
}

static void add(set *s, int image)
{
    memcpy(s->x[s->n], all.x[image], PIXELS);
    s->y[s->n++] = all.y[image];
}

/* The numbers 0 to n - 1 in an order that depends on the seed. */
static void shuffle(int *order, int n, uint64_t seed)
{
    int i, j;

    for (i = 0; i < n; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        j = (int)((seed >> 33) % (uint64_t)(i + 1));
        order[i] = order[j];
        order[j] = i;
    }
}

/* The first 500 images of one order, which training in PyTorch knew too, are to test with; of the
   rest, in an order that depends on the seed, the first 20 of each digit are to tune with. */
static void split(uint64_t seed)
{
    int order[IMAGES], pick[IMAGES - TEST], taken[DIGITS] = { 0 }, i;

    few.n = test.n = 0;
    shuffle(order, IMAGES, 0);
    shuffle(pick, IMAGES - TEST, seed);
    for (i = 0; i < TEST; i++) add(&test, order[i]);
    for (i = 0; i < IMAGES - TEST; i++) {
        int image = order[TEST + pick[i]];

        if (taken[all.y[image]]++ < EXAMPLES) add(&few, image);
    }
}

static nn_opts options(const char *train, int32_t batch, float lr, uint64_t seed)
{
    nn_opts o = { .batch = batch, .train = train, .loss = NN_CROSS_ENTROPY, .optimizer = NN_ADAM,
                  .lr = lr, .seed = seed, .why = why, .why_size = sizeof why };
    return o;
}

/* Loads the net, tunes what the stage says, and counts in confusion[i][j] how often it then
   takes digit i for digit j. Returns the right answers of the 500. */
static int tune(const struct stage *s, uint64_t seed, int confusion[DIGITS][DIGITS])
{
    static float features[DIGITS * EXAMPLES * 128]; /* 128: what the longer of the two rows gives */
    static float out[TEST][DIGITS];
    nn_opts o = options(s->train, s->batch, s->lr, seed);
    nn_fit_opts fit = { .x = features, .y = few.y, .n = few.n, .epochs = s->epochs,
                        .from = s->from, .quiet = 1 };
    nn_model m;
    int i, j, right = 0;

    check(nn_load(&m, net, net_size, &o));
    if (s->train) {
        check(nn_infer_to(&m, s->from, few.x, features, few.n));
        check(nn_fit(&m, &fit));
    }
    check(nn_infer(&m, test.x, out[0], test.n));
    if (s->train && save) check(nn_save_file(&m, save, 0));
    nn_free(&m);

    memset(confusion, 0, sizeof(int) * DIGITS * DIGITS);
    for (i = 0; i < test.n; i++) {
        int best = 0;

        for (j = 1; j < DIGITS; j++)
            if (out[i][j] > out[i][best]) best = j;
        confusion[test.y[i]][best]++;
        right += best == test.y[i];
    }
    return right;
}

/* The first and the last stage side by side; a row is a digit, a column what it was taken for. */
static void print_confusion(int confusion[STAGES][DIGITS][DIGITS])
{
    int i, j, side;

    printf("\nWhat is taken for what, seed 1 (rows: the digit, columns: the answer)\n\n");
    printf("   %-43s   %s\n", stages[0].title, stages[STAGES - 1].title);
    for (i = -1; i < DIGITS; i++) {
        for (side = 0; side < STAGES; side += STAGES - 1) {
            if (i < 0) printf("    ");
            else printf("  %d ", i);
            for (j = 0; j < DIGITS; j++) {
                if (i < 0) printf("%4d", j);
                else if (confusion[side][i][j]) printf("%4d", confusion[side][i][j]);
                else printf("   .");
            }
            printf(side ? "\n" : "  ");
        }
    }
}

static void print_memory(void)
{
    static const struct { const char *title, *train; } uses[] = {
        { "inference", NULL },
        { "tuning the head", "head" },
        { "tuning both dense", "hidden head" },
        { "training everything", "*" },
    };
    size_t i;

    printf("\nBytes of RAM             batch 32, all in RAM");
    printf("   batch 1, frozen weights in flash\n\n");
    for (i = 0; i < sizeof uses / sizeof uses[0]; i++) {
        nn_opts o = options(uses[i].train, 32, 0.001f, 0);
        long host = (long)nn_memory_file(net, net_size, &o), device;

        o.batch = 1;
        o.in_place = 1;
        device = (long)nn_memory_file(net, net_size, &o);
        check(host < 0 ? (int)host : device < 0 ? (int)device : 0);
        printf("  %-21s %22ld %34ld\n", uses[i].title, host, device);
    }
}

int main(int argc, char **argv)
{
    static int confusion[STAGES][DIGITS][DIGITS], of_seed_1[STAGES][DIGITS][DIGITS];
    const char *data = "examples/data/digits.bin", *path = "examples/data/digits.nn";
    int right[STAGES] = { 0 }, status = 0, seed, i;

    for (i = 1; i + 1 < argc; i += 2) {
        if (!strcmp(argv[i], "--data")) data = argv[i + 1];
        else if (!strcmp(argv[i], "--net")) path = argv[i + 1];
        else if (!strcmp(argv[i], "--save")) save = argv[i + 1];
        else break;
    }
    if (i < argc) {
        fprintf(stderr, "digits: %s: unknown, or without a value; see the top of digits.c\n",
                argv[i]);
        return 1;
    }
    read_images(data);
    read_net(path);

    for (seed = 1; seed <= SEEDS; seed++) {
        split((uint64_t)seed);
        if (seed == 1) {
            printf("Right answers of %d, all ten digits, after tuning with %d images\n\n  seed",
                   test.n, few.n);
            for (i = 0; i < STAGES; i++) printf("%12s", stages[i].title);
            printf("\n");
        }
        printf("  %4d", seed);
        for (i = 0; i < STAGES; i++) {
            int n = tune(&stages[i], (uint64_t)seed, confusion[i]);

            printf("%10.1f %%", 100.0 * n / test.n);
            right[i] += n;
        }
        printf("\n");
        if (seed == 1) memcpy(of_seed_1, confusion, sizeof confusion);
    }
    printf("  mean");
    for (i = 0; i < STAGES; i++) printf("%10.1f %%", 100.0 * right[i] / (SEEDS * TEST));
    printf("\n");
    print_confusion(of_seed_1);
    print_memory();

    for (i = 0; i < STAGES; i++) {
        if (100.0 * right[i] / (SEEDS * TEST) >= stages[i].goal) continue;
        printf("\nFAILED: %s: the mean is under %.1f %%\n", stages[i].title, stages[i].goal);
        status = 1;
    }
    return status;
}
