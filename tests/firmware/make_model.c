/* Writes what a probe keeps in flash to standard output:
       make_model w1 > w1.nn           the file of a model with seeded initial weights
       make_model w1 plan > w1_plan.h  its plan for inference as C, as nntool.py c writes it */
#include "../../tools/nntools/engine.c"
#include "models.h"

static int to_stdout(void *user, const void *bytes, size_t size)
{
    (void)user;
    return fwrite(bytes, 1, size, stdout) != size;
}

static int put_plan(engine *e, const char *name)
{
    int64_t size = engine_plan(e, name, 0, NULL, 0);
    char *text = (char *)malloc((size_t)(size < 0 ? 0 : size) + 1);
    int failed = size < 0 || !text || engine_plan(e, name, 0, text, (size_t)size + 1) != size;

    if (!failed) failed = to_stdout(NULL, text, (size_t)size);
    free(text);
    return failed;
}

int main(int argc, char **argv)
{
    const nn_layer *rows;
    engine *e = engine_new();
    int failed = argc < 2 || argc > 3 || !e;

    if (failed) return 2;
    rows = strcmp(argv[1], "w1") == 0 ? w1_rows : w3_rows;
    e->o.seed = 1;
    failed = nn_build(&e->m, rows, &e->o) != 0;
    if (!failed) failed = argc == 2 ? nn_save(&e->m, 0, to_stdout, NULL) < 0 : put_plan(e, argv[1]);
    if (failed) fprintf(stderr, "%s\n", engine_why(e));
    engine_free(e);
    return failed || fflush(stdout) != 0;
}
