/* file_tool.c - what test_file.py asks of nn.h

       file_tool save FILE ROWS       a model of these rows (text), its tensors made up, as a file
       file_tool aux FILE ROWS        the same with bytes of the application's
       file_tool train FILE ROWS      the same after a step of Adam, with its training state
       file_tool show FILE            loads it; prints every tensor
       file_tool params FILE ROWS     reads its tensors into a model of these rows; prints them
       file_tool allow FILE ROWS      the same with allow_missing; prints what was missing, too
       file_tool infer FILE           outputs for one sample of floats on standard input, as floats
       file_tool verdicts ROWS        on standard input files, each behind its size (4 bytes,
   little- endian): what nn_load and nn_load_params, with allow_missing, return for them, one line
   each

   A tensor is printed as its name, its shape and the bits of its elements in hex:
       d.weight 1,2 3f800000 bf800000 */

#define NN_IMPLEMENTATION
#include "nn.h"

#include "../test.h"

enum { LONGEST = 1 << 21 };

static char why[256];

static void check(int64_t err) {
    if (err >= 0) return;
    printf("%s: %s\n", nn_error_name((int)err), why);
    exit(1);
}

static nn_opts options(void) {
    nn_opts o;

    memset(&o, 0, sizeof o);
    o.why = why;
    o.why_size = sizeof why;
    return o;
}

/* Name and elements of tensor i, in PyTorch's order; free the elements. */
static float *get_tensor(const nn_model *m, uint32_t i, char *name, size_t size) {
    const nn_tensor *t = &m->tensor[i];
    const char *suffix = m->rows[t->row].op->suffixes;
    float *values = (float *)malloc(t->count * sizeof *values);
    int k;

    for (k = 0; k < t->suffix; k++) suffix = strchr(suffix, ' ') + 1;
    snprintf(name, size, "%s.%.*s", m->rows[t->row].name, (int)strcspn(suffix, " "), suffix);
    if (!values) exit(2);
    check(nn_get(m, name, values, t->count));
    return values;
}

static void print_tensors(const nn_model *m) {
    char name[300];
    uint32_t i, e, bits;
    int d;

    for (i = 0; i < m->tensor_count; i++) {
        float *values;

        if (m->tensor[i].alias != i) continue;
        values = get_tensor(m, i, name, sizeof name);
        printf("%s ", name);
        for (d = 0; d < m->tensor[i].ndim; d++) printf(d ? ",%d" : "%d", (int)m->tensor[i].dim[d]);
        for (e = 0; e < m->tensor[i].count; e++) {
            memcpy(&bits, &values[e], 4);
            printf(" %08lx", (unsigned long)bits);
        }
        printf("\n");
        free(values);
    }
}

/* Element e of tensor i is gen_float(1, i, e, 1/4, 0), but 1 higher for a variance. */
static void fill(nn_model *m) {
    char name[300];
    uint32_t i, e;

    for (i = 0; i < m->tensor_count; i++) {
        float *values = get_tensor(m, i, name, sizeof name);
        float center = strstr(name, "running_var") ? 1.0f : 0.0f;

        for (e = 0; e < m->tensor[i].count; e++) values[e] = gen_float(1, i, e, 0.25f, center);
        check(nn_set(m, name, values, m->tensor[i].count));
        free(values);
    }
}

static const nn_aux some_aux[] = { { "classes", "cat,dog,bird", 12 }, { "one", "1", 1 }, { 0 } };

static void save(const char *path, const char *rows, int with_training, const nn_aux *aux) {
    nn_opts o = options();
    nn_model m;

    o.aux = aux;
    if (with_training) {
        o.train = "*";
        o.loss = NN_MSE;
        o.optimizer = NN_ADAM;
        o.lr = 0.125f;
    }
    check(nn_build_text(&m, rows, &o));
    fill(&m);
    if (with_training) {
        float *x = (float *)calloc((size_t)(m.in_size + m.out_size), sizeof *x);

        if (!x) exit(2);
        x[0] = 1;
        check(nn_train(&m, x, x + m.in_size, 1));
        free(x);
    }
    check(nn_save_file(&m, path, with_training));
    nn_free(&m);
}

static void infer(const char *path) {
    nn_opts o = options();
    float *x, *y;
    nn_model m;

    check(nn_load_file(&m, path, &o));
    x = (float *)malloc((size_t)m.in_size * sizeof *x);
    y = (float *)malloc((size_t)m.out_size * sizeof *y);
    if (!x || !y || fread(x, sizeof *x, (size_t)m.in_size, stdin) != (size_t)m.in_size) exit(2);
    check(nn_infer(&m, x, y, 1));
    if (fwrite(y, sizeof *y, (size_t)m.out_size, stdout) != (size_t)m.out_size) exit(2);
    free(x);
    free(y);
    nn_free(&m);
}

static void print_name(void *user, const char *name) {
    (void)user;
    printf("%s\n", name);
}

/* The file's bytes; free them. */
static unsigned char *read_file(const char *path, size_t *size) {
    unsigned char *bytes = (unsigned char *)malloc(LONGEST);
    FILE *f = fopen(path, "rb");

    if (!bytes || !f) exit(2);
    *size = fread(bytes, 1, LONGEST, f);
    fclose(f);
    return bytes;
}

static void params(const char *path, const char *rows, int allow_missing) {
    nn_opts o = options();
    nn_model m;
    size_t size;
    unsigned char *bytes = read_file(path, &size);

    check(nn_build_text(&m, rows, &o));
    check(nn_load_params(&m, bytes, size, allow_missing, print_name, NULL));
    free(bytes);
    print_tensors(&m);
    nn_free(&m);
}

static void verdicts(const char *rows) {
    unsigned char n[4], *bytes;
    nn_opts o = options();
    nn_model m, into;
    size_t size;
    int loaded, given;

    check(nn_build_text(&into, rows, &o));
    while (fread(n, 1, 4, stdin) == 4) {
        size = n[0] | (size_t)n[1] << 8 | (size_t)n[2] << 16 | (size_t)n[3] << 24;
        bytes = (unsigned char *)malloc(size ? size : 1);
        if (!bytes || fread(bytes, 1, size, stdin) != size) exit(2);
        loaded = nn_load(&m, bytes, size, &o);
        nn_free(&m);
        given = nn_load_params(&into, bytes, size, 1, NULL, NULL);
        printf("%s %s\n", nn_error_name(loaded), nn_error_name(given));
        free(bytes);
    }
    nn_free(&into);
}

int main(int argc, char **argv) {
    const char *what = argc > 2 ? argv[1] : "", *file = argc > 2 ? argv[2] : "";

    if (argc == 4 && strcmp(what, "save") == 0) save(file, argv[3], 0, NULL);
    else if (argc == 4 && strcmp(what, "train") == 0) save(file, argv[3], 1, NULL);
    else if (argc == 4 && strcmp(what, "aux") == 0) save(file, argv[3], 0, some_aux);
    else if (argc == 4 && strcmp(what, "params") == 0) params(file, argv[3], 0);
    else if (argc == 4 && strcmp(what, "allow") == 0) params(file, argv[3], 1);
    else if (argc == 3 && strcmp(what, "infer") == 0) infer(file);
    else if (argc == 3 && strcmp(what, "verdicts") == 0) verdicts(file);
    else if (argc == 3 && strcmp(what, "show") == 0) {
        nn_opts o = options();
        nn_model m;

        check(nn_load_file(&m, file, &o));
        print_tensors(&m);
        nn_free(&m);
    } else {
        fprintf(stderr, "usage: see the top of file_tool.c\n");
        return 2;
    }
    return 0;
}
