/* The program of a probe: one model as firmware would hold it, in static memory and without a C
   library, run once and, where it trains, for some steps. probe_w1.c and probe_w3.c say which
   model; tools/size.py builds them for Cortex-M and for the host and compares what they print. It
   defines

     PROBE_SOURCE   where the model comes from: one of the three below
     PROBE_TRAIN    what trains, as nn_opts.train; undefined: inference only
     PROBE_FUSE     1: fuse_update
     PROBE_MEMORY   bytes of the block; undefined: plenty, to learn how many it takes
                    (the plan knows)
     PROBE_WEIGHTS_BYTES, PROBE_FILE_BYTES    sizes of the two arrays below */
#define PROBE_ROWS 0 /* a table of rows, planned here; weights in flash */
#define PROBE_FILE 1 /* a file in flash, loaded and planned here */
#define PROBE_PLAN 2 /* the plan is in flash too, made by make_model.c: no planner, no loader */

#if PROBE_SOURCE == PROBE_PLAN
#define NN_NO_PLANNER
#endif

#include "../../nn.h"

#include "models.h"
#include "rt.h"

extern const uint32_t probe_weights[PROBE_WEIGHTS_BYTES / 4];
extern const unsigned char probe_file[PROBE_FILE_BYTES];

#if PROBE_SOURCE == PROBE_PLAN
#define w1_weights probe_weights
#include "w1_plan.h"
#define PROBE_MEMORY w1_MEMORY
#endif

#ifndef PROBE_MEMORY
#define PROBE_MEMORY 4000000
#endif

static nn_model model;
NN_ALIGN static unsigned char block[PROBE_MEMORY];

static int build(nn_model *m, const nn_layer *rows)
{
#if PROBE_SOURCE == PROBE_PLAN
    (void)rows;
    return nn_open(m, &w1_plan, block, sizeof(block));
#else
    nn_opts o = { 0 };
    o.memory = block;
    o.memory_size = sizeof(block);
    o.in_place = 1;
#ifdef PROBE_TRAIN
    o.train = PROBE_TRAIN;
    o.fuse_update = PROBE_FUSE;
    o.loss = PROBE_LOSS;
    o.lr = PROBE_LR;
#endif
#if PROBE_SOURCE == PROBE_FILE
    (void)rows;
    return nn_load(m, probe_file, sizeof(probe_file), &o);
#else
    o.weights = probe_weights;
    o.weights_size = sizeof(probe_weights);
    return nn_build(m, rows, &o);
#endif
#endif
}

static int fail(const char *what, int error)
{
    rt_text(what);
    rt_number(" failed with error -", (uint32_t)-error);
    return 1;
}

static int probe(const nn_layer *rows, const void *x, const void *target, float *y,
                 uint32_t outputs)
{
    nn_model *m = &model;
    int error;
#ifdef PROBE_TRAIN
    float loss[PROBE_STEPS];
    int i;
#endif
    rt_mark();
    rt_mark(); /* what the marks themselves cost */

    rt_paint();
    rt_mark();
    error = build(m, rows);
    rt_mark();
    rt_number("stack-build", rt_stack());
    if (error != 0) return fail("build", error);
    rt_number("block", (uint32_t)m->block_size);
    rt_number("model", (uint32_t)sizeof(nn_model));

    rt_paint();
    rt_mark();
    error = nn_infer(m, x, y, 1);
    rt_mark();
    rt_number("stack-infer", rt_stack());
    if (error != 0) return fail("infer", error);
    rt_floats("output", y, outputs);

#ifdef PROBE_TRAIN
    rt_paint();
    rt_mark();
    error = nn_train(m, x, target, 1);
    rt_mark();
    rt_number("stack-train", rt_stack());
    loss[0] = m->loss;
    for (i = 1; i < PROBE_STEPS && error == 0; i++) {
        error = nn_train(m, x, target, 1);
        loss[i] = m->loss;
    }
    if (error != 0) return fail("train", error);
    rt_floats("loss", loss, PROBE_STEPS);
    error = nn_infer(m, x, y, 1);
    if (error != 0) return fail("infer", error);
    rt_floats("trained-output", y, outputs);
#else
    (void)target;
#endif
    return 0;
}
