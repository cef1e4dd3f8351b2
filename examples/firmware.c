/* firmware.c - static memory only: infer, tune on the device, keep it only if it helped, save

       cc -O2 -o firmware examples/firmware.c -I. && ./firmware

   Four raw readings of a sensor become one value. The factory's net fits the sensor as it was
   built; in this housing it reads differently. A few samples with known answers tune the head,
   others decide whether the result is kept. Nothing allocates, prints or opens a file but main,
   and that only on a host: with -ffreestanding this is a microcontroller's program. Ends with
   status 0 when all came out as it should. */

#define NN_NO_STDIO
#define NN_NO_MALLOC
#define NN_IMPLEMENTATION
#include "nn.h"

#if __STDC_HOSTED__
#include <stdio.h>
#endif

enum { READINGS = 4, BUILT = 64, NEW = 24, HELD_OUT = 16, HIDDEN = 16 };

static const nn_layer net[] = {
    { .op = NN_INPUT, .shape = { READINGS } },
    { .op = NN_DENSE, .name = "trunk", .units = HIDDEN, .act = NN_TANH },
    { .op = NN_DENSE, .name = "head", .units = 1 },
    { 0 }
};

/* The block, for one model after the other. nn_memory and nn_memory_file say beforehand, on a PC,
   how large it must be, the same for every machine; main prints what was used. */
NN_ALIGN static unsigned char ram[5 * 1024 + 256];
NN_ALIGN static unsigned char flash[2][1024];      /* stands for two pages: as shipped, as tuned */
NN_ALIGN static unsigned char backup[(HIDDEN + 1) * sizeof(float)]; /* of the head */
static nn_memory_writer shipped = { flash[0], sizeof flash[0], 0 };
static nn_memory_writer tuned = { flash[1], sizeof flash[1], 0 };

typedef struct samples {
    float x[BUILT][READINGS], y[BUILT];
    int n;
} samples;

static samples built, fresh, wrong, held_out;

/* What the demonstration found, for main to print. */
static struct {
    float loss_before, loss_after, loss_reloaded; /* on the held-out samples */
    int kept_good, kept_wrong;
    size_t factory_bytes, device_bytes;           /* of the block */
} found;

static char why[160];

/* From -1 to 1. */
static float uniform(void)
{
    static uint32_t state = 1;

    state = state * 1664525u + 1013904223u;
    return (float)(state >> 8) / 8388608.0f - 1;
}

/* n samples of a sensor that reads gain * value + offset. */
static void measure(samples *s, int n, float gain, float offset)
{
    int i, j;

    for (i = 0; i < n; i++) {
        for (j = 0; j < READINGS; j++) s->x[i][j] = uniform();
        s->y[i] = 0.6f * s->x[i][0] - 0.4f * s->x[i][1] + 0.5f * s->x[i][2] * s->x[i][3];
        s->y[i] = gain * s->y[i] + offset;
    }
    s->n = n;
}

static nn_opts options(const char *train, int32_t optimizer, float lr)
{
    nn_opts o = { .memory = ram, .memory_size = sizeof ram, .batch = 8, .train = train,
                  .loss = NN_MSE, .optimizer = optimizer, .lr = lr, .seed = 1, .in_place = 1,
                  .why = why, .why_size = sizeof why };
    return o;
}

/* Done once, normally on a PC: trains the whole net and writes the file that goes into flash. */
static int factory(void)
{
    nn_opts o = options("*", NN_ADAM, 0.01f);
    int error, epoch, at;
    int64_t size;
    nn_model m;

    error = nn_build(&m, net, &o);
    for (epoch = 0; epoch < 200; epoch++)
        for (at = 0; at < built.n && !error; at += 8)
            error = nn_train(&m, built.x[at], &built.y[at], 8);
    if (error) return error;
    found.factory_bytes = m.block_size;
    size = nn_save(&m, 0, nn_write_memory, &shipped);
    nn_free(&m);
    return size < 0 ? (int)size : 0;
}

/* Loss on the held-out samples to *loss. */
static int score(nn_model *m, float *loss)
{
    int error = nn_eval(m, held_out.x, held_out.y, held_out.n);

    *loss = m->loss;
    return error;
}

/* Tunes the head on new samples. Returns 1 when that helped on the held-out ones; otherwise the
   head is put back as it was, and 0 or an error is returned. */
static int adapt(nn_model *m, const samples *s)
{
    static float features[NEW][HIDDEN]; /* of the frozen trunk: computed once, used 100 times */
    float before, after = 0;
    int error, undone, epoch, at;

    error = score(m, &before);
    if (!error) error = nn_snapshot(m, backup, sizeof backup);
    if (error) return error;

    error = nn_infer_to(m, "trunk", s->x, features[0], s->n);
    for (epoch = 0; epoch < 100; epoch++)
        for (at = 0; at < s->n && !error; at += 8)
            error = nn_train_from(m, "trunk", features[at], &s->y[at], 8);
    if (!error) error = score(m, &after);
    if (!error && after < before) return 1;
    undone = nn_rollback(m, backup, sizeof backup);
    return error ? error : undone;
}

/* The device's life: it starts from the shipped file, tunes, saves, and starts from that. */
static int device(void)
{
    nn_opts o = options("head", NN_SGD, 0.05f);
    int error;
    int64_t size;
    nn_model m;

    error = nn_load(&m, shipped.bytes, shipped.size, &o); /* the trunk's weights stay in flash */
    if (!error) error = score(&m, &found.loss_before);
    if (error) return error;
    found.device_bytes = m.block_size;
    found.kept_good = adapt(&m, &fresh);
    if (found.kept_good < 0) return found.kept_good;
    found.kept_wrong = adapt(&m, &wrong);
    if (found.kept_wrong < 0) return found.kept_wrong;
    error = score(&m, &found.loss_after);
    if (error) return error;
    size = nn_save(&m, 0, nn_write_memory, &tuned); /* the other page: the shipped one is in use */
    if (size < 0) return (int)size;
    nn_free(&m);

    error = nn_load(&m, tuned.bytes, tuned.size, &o);
    if (!error) error = score(&m, &found.loss_reloaded);
    nn_free(&m);
    return error;
}

int main(void)
{
    int error, good;

    measure(&built, BUILT, 1, 0);
    measure(&fresh, NEW, 0.7f, 0.3f);
    measure(&wrong, NEW, -1, 0); /* a cable fell off: to learn from these would make it worse */
    measure(&held_out, HELD_OUT, 0.7f, 0.3f);

    error = factory();
    if (!error) error = device();
    good = !error && found.kept_good && !found.kept_wrong &&
           found.loss_after < found.loss_before / 4 && found.loss_reloaded == found.loss_after;
#if __STDC_HOSTED__
    if (error) printf("firmware: %s: %s\n", nn_error_name(error), why);
    printf("error on held-out samples: as shipped %.5f, tuned %.5f, loaded again %.5f\n",
           (double)found.loss_before, (double)found.loss_after, (double)found.loss_reloaded);
    printf("tuning on good samples: %s; on wrong ones: %s\n",
           found.kept_good ? "kept" : "rolled back", found.kept_wrong ? "kept" : "rolled back");
    printf("bytes: block %ld, of which the factory took %ld and the device %ld; file %ld\n",
           (long)sizeof ram, (long)found.factory_bytes, (long)found.device_bytes,
           (long)shipped.size);
    printf("%s\n", good ? "as it should be" : "FAILED");
#endif
    return !good;
}
