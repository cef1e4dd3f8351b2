/* text.c - an LSTM learns whether a sentence praises or pans a film, then scores what you type

       cc -O2 -o text examples/text.c -I. && python3 tools/get_sequences.py data && ./text data

   10,605 sentences of reviews that people rated, fetched by that script. Words are numbered by how
   often they occur, each of the 4,999 most frequent gets a vector, and an LSTM reads the last 50
   words of a sentence. Shorter ones are padded in front with id 0, which the net skips.

   Four fifths of the sentences are to learn from, the rest to test with. Prints accuracy,
   precision, recall and F1 on those, praise being what is looked for, and then reads sentences
   from standard input, one a line, until an empty line or the end.

   Options: --seed N (1), of the net; the split is always the same. --epochs N (4). --save FILE: the
   net and its vocabulary, one file; text FILE.nn then only scores. tools/sequence_reference.py does
   the training in PyTorch. */

#define NN_IMPLEMENTATION
#include "nn.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { WORDS = 5000, LENGTH = 50, SPLIT_SEED = 42 };

/* What counting the words has room for: four times what the data need. */
enum { WORDS_MAX = 80000, WORDS_BYTES = 800000 };

static const nn_layer net[] = {
    { .op = NN_INPUT, .shape = { LENGTH }, .type = NN_I32 },
    { .op = NN_EMBEDDING, .vocab = WORDS, .units = 64, .pad_id = NN_ID(0), .mask = 1 },
    { .op = NN_LSTM, .units = 64, .last = 1 },
    { .op = NN_DENSE, .units = 1, .act = NN_SIGMOID },
    { 0 }
};

typedef struct sentence {
    const char *text;
    size_t size;
    float praise; /* 1 or 0 */
} sentence;

static char why[200];

static void die(const char *what, const char *why_not)
{
    fprintf(stderr, "text: %s: %s\n", what, why_not);
    exit(1);
}

static int64_t check(int64_t result)
{
    if (result < 0) die(nn_error_name((int)result), why);
    return result;
}

static void *allocate(size_t count, size_t size)
{
    void *p = calloc(count, size);

    if (!p) die("calloc", "not enough memory");
    return p;
}

/* The file's content and a zero byte. */
static char *read_file(const char *path, size_t *size)
{
    FILE *f = fopen(path, "rb");
    char *bytes;
    long end = -1;

    if (!f) die(path, "cannot be opened. To fetch it: python3 tools/get_sequences.py FOLDER");
    if (!fseek(f, 0, SEEK_END)) end = ftell(f);
    if (end < 0 || fseek(f, 0, SEEK_SET)) die(path, "cannot be read");
    *size = (size_t)end;
    bytes = (char *)allocate(*size + 1, 1);
    if (fread(bytes, 1, *size, f) != *size) die(path, "cannot be read");
    fclose(f);
    return bytes;
}

/* A line is a number, the mean rating and the sentence, between tabs. Sentences that people rated
   exactly neutral are left out. Returns how many there are. */
static int read_sentences(const char *path, char *bytes, size_t size, sentence *s)
{
    char *line, *end;
    int n = 0;

    for (line = bytes; *line; line = end + (*end != 0)) {
        char *rating = line + strcspn(line, "\t\n"), *text = rating;
        double value = 0;

        end = line + strcspn(line, "\n");
        if (*rating == '\t') value = strtod(rating + 1, &text);
        if (text <= rating + 1 || text > end || *text != '\t')
            die(path, "is not what tools/get_sequences.py writes");
        if (value == 0) continue;
        s[n].text = text + 1;
        s[n].size = (size_t)(end - s[n].text);
        if (s[n].size && end[-1] == '\r') s[n].size--;
        s[n++].praise = value > 0;
    }
    if (line != bytes + size) die(path, "holds a zero byte");
    return n;
}

/* Puts them in an order that tools/sequence_reference.py makes too. */
static void shuffle(sentence *s, int n)
{
    uint64_t seed = SPLIT_SEED;
    int i;

    for (i = 0; i < n; i++) {
        sentence one = s[i];
        int j;

        seed = seed * 6364136223846793005u + 1442695040888963407u;
        j = (int)((seed >> 33) % (uint64_t)(i + 1));
        s[i] = s[j];
        s[j] = one;
    }
}

/* Numbers the words of the sentences. The vocabulary is one block of bytes, used where it lies. */
static void *number_words(const sentence *s, int n, size_t *bytes)
{
    nn_words_opts o = { .num_words = WORDS, .why = why, .why_size = sizeof why };
    size_t size = (size_t)check(nn_words_memory(WORDS_MAX, WORDS_BYTES));
    void *block = allocate(size, 1), *vocabulary;
    nn_words count;
    int i;

    check(nn_words_begin(&count, &o, block, size, WORDS_MAX, WORDS_BYTES));
    for (i = 0; i < n; i++) check(nn_words_add(&count, s[i].text, s[i].size));
    *bytes = (size_t)check(nn_words_save(&count, NULL, 0));
    vocabulary = allocate(*bytes, 1);
    check(nn_words_save(&count, vocabulary, *bytes));
    free(block);
    return vocabulary;
}

static double percent(int part, int whole) { return whole ? 100.0 * part / whole : 0; }

/* hits[i][j]: how many sentences of class i (1: praise) were taken for class j. */
static void print_scores(const float *y, const float *out, int n)
{
    int hits[2][2] = { { 0 } }, i;

    for (i = 0; i < n; i++) hits[y[i] > 0][out[i] >= 0.5f]++;
    printf("\naccuracy %.2f %%  precision %.2f %%  recall %.2f %%  F1 %.2f %%\n",
           percent(hits[0][0] + hits[1][1], n), percent(hits[1][1], hits[0][1] + hits[1][1]),
           percent(hits[1][1], hits[1][0] + hits[1][1]),
           percent(2 * hits[1][1], 2 * hits[1][1] + hits[0][1] + hits[1][0]));
}

static void score_input(nn_model *m, const nn_tokenizer *words)
{
    char line[4000];
    int32_t ids[LENGTH], known;
    float praise;

    printf("\nType a sentence about a film; an empty line ends.\n> ");
    fflush(stdout);
    while (fgets(line, sizeof line, stdin)) {
        size_t size = strcspn(line, "\r\n");

        if (!size) break;
        known = nn_tokenizer_ids(words, line, size, ids, LENGTH, NN_PRE, NN_PRE);
        check(known);
        check(nn_infer(m, ids, &praise, 1));
        if (known) printf("%s, %.1f %% praise\n> ", praise >= 0.5f ? "praised" : "panned",
                          100.0 * (double)praise);
        else printf("none of these words is known\n> ");
        fflush(stdout);
    }
    printf("\n");
}

/* A net that --save wrote, with the vocabulary from the same file. */
static void score_with(const char *path)
{
    nn_opts o = { .why = why, .why_size = sizeof why };
    nn_tokenizer words;
    const void *vocabulary;
    size_t size;
    nn_model m;

    check(nn_load_file(&m, path, &o));
    vocabulary = nn_get_aux(&m, "words", &size);
    if (!vocabulary || m.in_size != LENGTH) die(path, "is no file of this program");
    check(nn_tokenizer_load(&words, vocabulary, size, &o));
    score_input(&m, &words);
    nn_free(&m);
}

int main(int argc, char **argv)
{
    /* Word vectors begin within +-0.05, as Keras' do: PyTorch's, of variance 1, learn slower. */
    nn_opts o = { .batch = 32, .train = "*", .loss = NN_BCE, .optimizer = NN_ADAM, .lr = 0.001f,
                  .init = NN_INIT_KERAS, .seed = 1, .why = why, .why_size = sizeof why };
    nn_aux aux[] = { { .name = "words" }, { 0 } };
    nn_fit_opts fit = { .epochs = 4 };
    const char *folder = NULL, *save = NULL;
    char path[1000], *bytes;
    int32_t (*x)[LENGTH];
    float *y, *out;
    sentence *s;
    nn_tokenizer words;
    void *vocabulary;
    nn_model m;
    size_t size, lines = 1, at, length;
    int n, test, i;

    for (i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : "";

        if (argv[i][0] != '-') { folder = argv[i]; continue; }
        if (!strcmp(argv[i], "--epochs")) fit.epochs = atoi(value);
        else if (!strcmp(argv[i], "--seed")) o.seed = strtoul(value, NULL, 10);
        else if (!strcmp(argv[i], "--save")) save = value;
        else die(argv[i], "unknown option; see the top of text.c");
        if (++i == argc) die(argv[i - 1], "needs a value");
    }
    if (!folder) die("which folder?", "name one that python3 tools/get_sequences.py FOLDER wrote");
    if (fit.epochs < 1) die("--epochs", "at least 1");
    length = strlen(folder);
    if (length > 3 && !strcmp(folder + length - 3, ".nn")) {
        score_with(folder);
        return 0;
    }

    n = snprintf(path, sizeof path, "%s/movie.txt", folder);
    if (n < 0 || n >= (int)sizeof path) die(folder, "too long a name");
    bytes = read_file(path, &size);
    for (at = 0; at < size; at++) lines += bytes[at] == '\n';
    s = (sentence *)allocate(lines, sizeof *s);
    n = read_sentences(path, bytes, size, s);
    test = n / 5;
    if (!test) die(path, "holds too few sentences");
    shuffle(s, n);

    /* The vocabulary knows nothing of the sentences to test with. */
    vocabulary = number_words(s + test, n - test, &aux->size);
    aux->bytes = vocabulary;
    o.aux = aux;
    check(nn_tokenizer_load(&words, vocabulary, aux->size, &o));
    x = (int32_t (*)[LENGTH])allocate((size_t)n, sizeof *x);
    y = (float *)allocate((size_t)n, sizeof *y);
    out = (float *)allocate((size_t)test, sizeof *out);
    for (i = 0; i < n; i++) {
        check(nn_tokenizer_ids(&words, s[i].text, s[i].size, x[i], LENGTH, NN_PRE, NN_PRE));
        y[i] = s[i].praise;
    }
    printf("%d sentences to learn from, %d to test with\n\n", n - test, test);

    check(nn_build(&m, net, &o));
    fit.x = x[test];
    fit.y = y + test;
    fit.n = n - test;
    fit.x_val = x[0];
    fit.y_val = y;
    fit.n_val = test;
    check(nn_fit(&m, &fit));
    check(nn_infer(&m, x[0], out, test));
    print_scores(y, out, test);
    if (save) check(nn_save_file(&m, save, 0));
    score_input(&m, &words);

    nn_free(&m);
    free(vocabulary);
    free(out);
    free(y);
    free(x);
    free(s);
    free(bytes);
    return 0;
}
