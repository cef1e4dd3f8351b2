/* Writes the file of a probe's model, with seeded initial weights, to standard output:
       make_model w1 > w1.nn */
#define NN_IMPLEMENTATION
#include "../../nn.h"

#include "models.h"

#include <stdio.h>
#include <string.h>

static int to_stdout(void *user, const void *bytes, size_t size)
{
    (void)user;
    return fwrite(bytes, 1, size, stdout) != size;
}

int main(int argc, char **argv)
{
    nn_model m;
    nn_opts o = { 0 };
    char why[256];
    int failed;
    o.seed = 1;
    o.why = why;
    o.why_size = sizeof(why);
    if (argc != 2) return 2;
    if (nn_build(&m, strcmp(argv[1], "w1") == 0 ? w1_rows : w3_rows, &o) != 0) {
        fprintf(stderr, "%s\n", why);
        return 1;
    }
    failed = nn_save(&m, 0, to_stdout, NULL) < 0 || fflush(stdout) != 0;
    nn_free(&m);
    return failed;
}
