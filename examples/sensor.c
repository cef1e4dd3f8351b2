/* sensor.c - an LSTM learns sequences of any length, then follows one as it arrives, step by step

       cc -O2 -o sensor examples/sensor.c -I. && ./sensor

   Nine men say two Japanese vowels (examples/data): 640 recordings of 7 to 29 steps, each of 12
   numbers. Who speaks?

   1. The net learns from 270 recordings, each with its own length: what pads the shorter ones is
      never looked at.
   2. A second model with the same weights is planned for one step at a time and keeps the LSTM's
      state from call to call, as a device would that gets 12 numbers every few milliseconds. It has
      an answer after every step; the last must be that of the whole recording, bit for bit.

   Prints the accuracy on 370 other recordings, one of them step by step, and the RAM that streaming
   takes. Ends with status 1 when the accuracy is too low or the two models disagree.

   Arguments: the data file, if not examples/data/vowels.bin; --seed N (1); --epochs N (60).
   tools/sequence_reference.py does the training in PyTorch. */

#define NN_IMPLEMENTATION
#include "nn.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FEATURES = 12, STEPS = 29, SPEAKERS = 9, TRAIN = 270, TEST = 370, EPOCHS = 60 };

#define GOAL 92 /* least accuracy in percent after EPOCHS */

static const nn_layer net[] = {
    { .op = NN_INPUT, .shape = { STEPS, FEATURES } },
    { .op = NN_LSTM, .units = 32, .last = 1 },
    { .op = NN_DENSE, .units = SPEAKERS, .act = NN_SOFTMAX },
    { 0 }
};

typedef struct set {
    float x[TEST][STEPS][FEATURES]; /* zeros behind the last step */
    int32_t length[TEST];
    int32_t y[TEST];
} set;

static set train, test;
static char why[200];

static void die(const char *what, const char *why_not)
{
    fprintf(stderr, "sensor: %s: %s\n", what, why_not);
    exit(1);
}

static void check(int result)
{
    if (result < 0) die(nn_error_name(result), why);
}

/* A record: the label, the number of steps, then int16 in 1/10000, low byte first. */
static void read_records(FILE *f, const char *path, set *s, int n)
{
    int i, t, k;

    for (i = 0; i < n; i++) {
        s->y[i] = getc(f);
        s->length[i] = getc(f);
        if (s->y[i] < 0 || s->y[i] >= SPEAKERS || s->length[i] < 1 || s->length[i] > STEPS)
            die(path, "is not the file that tools/get_sequences.py makes");
        for (t = 0; t < s->length[i]; t++)
            for (k = 0; k < FEATURES; k++) {
                int low = getc(f), high = getc(f);

                if (high < 0) die(path, "is cut short");
                s->x[i][t][k] = (float)(low + 256 * (high < 128 ? high : high - 256)) * 0.0001f;
            }
    }
}

static void read_recordings(const char *path)
{
    FILE *f = fopen(path, "rb");

    if (!f) die(path, "cannot be opened: run this in the project's root, or name it");
    read_records(f, path, &train, TRAIN);
    read_records(f, path, &test, TEST);
    if (getc(f) != EOF) die(path, "is too long");
    fclose(f);
}

static int best(const float *p)
{
    int i, top = 0;

    for (i = 1; i < SPEAKERS; i++)
        if (p[i] > p[top]) top = i;
    return top;
}

/* Every tenth epoch; nn_fit would print each. */
static int progress(void *user, const nn_progress *p)
{
    (void)user;
    if (p->epoch_end && (p->epoch % 10 == 0 || p->epoch == p->epochs))
        printf("  epoch %3d  loss %.4f  accuracy %6.2f %%  test %6.2f %%\n", (int)p->epoch,
               (double)p->loss, 100.0 * (double)p->accuracy, 100.0 * (double)p->accuracy_val);
    return 0;
}

/* Recording i of the test set, step by step. out: what comes after the last step. Returns whom the
   first step alone is taken for. */
static int follow(nn_model *stream, int i, float *out, int print)
{
    int t, first = 0;

    check(nn_reset(stream));
    for (t = 0; t < test.length[i]; t++) {
        check(nn_step(stream, test.x[i][t], out, 1));
        if (!t) first = best(out);
        if (print)
            printf("  step %2d  speaker %d  %5.1f %%\n", t + 1, best(out) + 1,
                   100.0 * (double)out[best(out)]);
    }
    return first;
}

int main(int argc, char **argv)
{
    static float whole[TEST][SPEAKERS];
    float out[SPEAKERS];
    nn_opts o = { .batch = 16, .train = "*", .loss = NN_CROSS_ENTROPY, .optimizer = NN_ADAM,
                  .lr = 0.01f, .seed = 1, .why = why, .why_size = sizeof why };
    nn_opts one = { .steps = 1, .stateful = 1, .why = why, .why_size = sizeof why };
    nn_fit_opts fit = { .x = train.x, .lengths = train.length, .y = train.y, .n = TRAIN,
                        .x_val = test.x, .lengths_val = test.length, .y_val = test.y,
                        .n_val = TEST, .epochs = EPOCHS, .quiet = 1, .progress = progress };
    const char *path = "examples/data/vowels.bin";
    int i, right = 0, equal = 0, shown = -1, low;
    nn_model m, stream;
    int64_t ram;

    for (i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : "";

        if (argv[i][0] != '-') { path = argv[i]; continue; }
        if (!strcmp(argv[i], "--epochs")) fit.epochs = atoi(value);
        else if (!strcmp(argv[i], "--seed")) o.seed = strtoul(value, NULL, 10);
        else die(argv[i], "unknown option; see the top of sensor.c");
        if (++i == argc) die(argv[i - 1], "needs a value");
    }
    if (fit.epochs < 1) die("--epochs", "at least 1");
    read_recordings(path);

    printf("Learning %d speakers from %d recordings of 7 to %d steps\n\n", SPEAKERS, TRAIN, STEPS);
    check(nn_build(&m, net, &o));
    check(nn_fit(&m, &fit));
    check(nn_set_lengths(&m, test.length));
    check(nn_infer(&m, test.x, whole[0], TEST));

    check(nn_clone(&stream, &m, &one));
    for (i = 0; i < TEST; i++) {
        int first = follow(&stream, i, out, 0), last = best(whole[i]);

        right += last == test.y[i];
        equal += !memcmp(out, whole[i], sizeof out);
        if (shown < 0 && last == test.y[i] && first != last) shown = i;
    }
    if (shown >= 0) {
        printf("\nStep by step: recording %d of the test set, by speaker %d\n\n", shown + 1,
               (int)test.y[shown] + 1);
        follow(&stream, shown, out, 1);
        printf("  whole    speaker %d  %5.1f %%\n", best(whole[shown]) + 1,
               100.0 * (double)whole[shown][best(whole[shown])]);
    }
    one.in_place = 1;
    ram = nn_memory(net, &one);
    check((int)ram);
    printf("\n%d of %d answers are the same bits step by step and at once\n", equal, TEST);
    printf("Streaming takes %ld bytes of RAM, weights in flash; %d floats of them are the state\n",
           (long)ram, (int)nn_state_size(&stream));
    printf("test accuracy %.2f %%\n", 100.0 * right / TEST);
    nn_free(&stream);
    nn_free(&m);

    low = fit.epochs >= EPOCHS && 100 * right < GOAL * TEST;
    if (low) printf("FAILED: the accuracy is under %d %%\n", GOAL);
    if (equal < TEST) printf("FAILED: streaming differs from whole recordings\n");
    return low || equal < TEST;
}
