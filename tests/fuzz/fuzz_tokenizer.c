/* fuzz_tokenizer.c - words and ids of random texts against a slow model, and damaged vocabularies

       gcc -std=c99 -g -O1 -fsanitize=address,undefined -fno-sanitize-recover=all -I. \
           tests/fuzz/fuzz_tokenizer.c -o build/fuzz_tokenizer -lm
       build/fuzz_tokenizer            20,000 rounds, always the same
       build/fuzz_tokenizer rounds N   N of them

   The model splits, counts and ranks by comparing everything with everything. It knows nothing of
   UTF-8: a text is put together from pieces whose lower case is known, and its lower case from
   theirs. Of texts that are bytes at random only what always holds is asserted. */

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NN_IMPLEMENTATION
#include "nn.h"

enum { TEXTS = 8, LONGEST = 400, WORDS = TEXTS * LONGEST, STEPS = 12 };

static void must(int ok, const char *what) {
    if (ok) return;
    fprintf(stderr, "broken: %s\n", what);
    abort();
}

static uint32_t random_state = 1;

static uint32_t below(uint32_t n) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 17;
    random_state ^= random_state << 5;
    return random_state % n;
}

static void *copy_of(const void *bytes, size_t size) {
    void *copy = malloc(size ? size : 1); /* no byte too many: reading it is seen */

    must(copy != NULL, "memory");
    if (size) memcpy(copy, bytes, size);
    return copy;
}

/* ---- the model ------------------------------------------------------------------------------- */

typedef struct word {
    const char *bytes;
    size_t size;
    uint32_t count;
    int32_t id;
} word;

static struct {
    word list[WORDS + 1];
    int32_t count;
} model;

static int is_separator(const nn_words_opts *o, char c) {
    return c == (o->split ? o->split : ' ') || (c && strchr(o->filters, c));
}

/* The next word of s[*at..size), or its size is 0. */
static word next_word(const nn_words_opts *o, const char *s, size_t size, size_t *at) {
    word w;

    memset(&w, 0, sizeof w);
    while (*at < size && is_separator(o, s[*at])) ++*at;
    w.bytes = s + *at;
    while (*at < size && !is_separator(o, s[*at])) ++*at, w.size++;
    return w;
}

static word *find(const word *w) {
    int32_t i;

    for (i = 0; i < model.count; i++)
        if (model.list[i].size == w->size && memcmp(model.list[i].bytes, w->bytes, w->size) == 0)
            return &model.list[i];
    return NULL;
}

static void count_words(const nn_words_opts *o, const char *s, size_t size) {
    size_t at = 0;
    word w, *known;

    while ((w = next_word(o, s, size, &at)).size) {
        known = find(&w);
        if (!known) {
            known = &model.list[model.count++];
            *known = w;
        }
        if (known->count < UINT32_MAX) known->count++;
    }
}

static int32_t rank_words(const nn_words_opts *o) {
    int32_t next, i, best;

    for (next = 1; next <= model.count; next++) {
        for (best = -1, i = 0; i < model.count; i++)
            if (!model.list[i].id && (best < 0 || model.list[i].count > model.list[best].count))
                best = i;
        model.list[best].id = next;
    }
    for (i = 0; i < model.count; i++)
        if (o->num_words && model.list[i].id >= o->num_words) model.list[i].id = 0;
    return o->num_words && model.count >= o->num_words ? o->num_words - 1 : model.count;
}

static int32_t model_ids(const nn_words_opts *o, const char *s, size_t size, int32_t *ids) {
    size_t at = 0;
    int32_t n = 0;
    word w, *known;

    while ((w = next_word(o, s, size, &at)).size) {
        known = find(&w);
        if (known && known->id) ids[n++] = known->id;
        else if (o->oov) ids[n++] = 1;
    }
    return n;
}

/* ---- one round ------------------------------------------------------------------------------- */

typedef struct text {
    char bytes[LONGEST + 8], lower[LONGEST + 8];
    size_t size, lower_size;
} text;

static text texts[TEXTS];

static void add_piece(text *t, const char *bytes, const char *lower) {
    size_t n = strlen(bytes), lower_n = strlen(lower);

    if (t->size >= LONGEST || t->lower_size >= LONGEST) return; /* a piece has at most 4 bytes */
    memcpy(t->bytes + t->size, bytes, n);
    memcpy(t->lower + t->lower_size, lower, lower_n);
    t->size += n;
    t->lower_size += lower_n;
}

/* No piece ends in bytes that would go on in the next: each is whole, or broken for good. */
static void make_text(text *t) {
    static const char *const pieces[][2] = {
        { "a", "a" }, { "A", "a" }, { "b", "b" }, { "B", "b" }, { "z", "z" }, { "'", "'" },
        { "\xc3\x89", "\xc3\xa9" },             /* E with acute */
        { "\xc3\x97", "\xc3\x97" },             /* the sign between capitals */
        { "\xc4\xb0", "i\xcc\x87" },            /* the one that becomes two */
        { "\xc5\xb8", "\xc3\xbf" },             /* far from its lower case */
        { "\xce\xa9", "\xcf\x89" },             /* omega */
        { "\xd0\x81", "\xd1\x91" },             /* io */
        { "\xd0\xaf", "\xd1\x8f" },             /* ya */
        { "\xe1\xbb\x84", "\xe1\xbb\x85" },     /* Vietnamese */
        { "\xf0\x9f\x98\x80", "\xf0\x9f\x98\x80" },
        { "\xff", "\xff" }, { "\xc3z", "\xc3z" }, { "\xe2\x82z", "\xe2\x82z" },
        { "\xf0\x9f\x98z", "\xf0\x9f\x98z" }, { "\xed\xa0\x80", "\xed\xa0\x80" },
        { " ", " " }, { " ", " " }, { ",", "," }, { ".", "." }, { "|", "|" }, { "\n", "\n" }
    };
    uint32_t n = below(4) ? below(30) : below(LONGEST), kinds = 1 + below(26), i;

    t->size = t->lower_size = 0;
    for (i = 0; i < n; i++) {
        const char *const *p = pieces[below(3) ? below(kinds) : 20 + below(6)];

        add_piece(t, p[0], p[1]);
    }
}

static void make_bytes(text *t) {
    uint32_t n = below(60), i;

    t->size = 0;
    for (i = 0; i < n; i++) {
        static const unsigned char often[] = "\xce\xa3\xce\x91\xc4\xb0\xe2\x80\x99.' a";

        t->bytes[t->size++] = (char)(below(3) ? often[below(sizeof often - 1)] : below(256));
    }
    memcpy(t->lower, t->bytes, t->size);
    t->lower_size = t->size;
}

static nn_words_opts random_options(void) {
    static const char *const filters[] = { ",.", "", ",.|\n", "z", ",\n" };
    nn_words_opts o;

    memset(&o, 0, sizeof o);
    o.filters = filters[below(5)];
    if (below(3) == 0) o.num_words = 2 + (int32_t)below(30);
    if (below(3) == 0) o.oov = below(2) ? "a" : "<OOV>";
    if (below(5) == 0) o.split = below(2) ? '|' : ',';
    return o;
}

static unsigned char *fit(const nn_words_opts *o, int n, size_t *size) {
    int64_t words = 1, bytes = 5, need;
    unsigned char *image;
    void *block;
    nn_words w;
    int k;

    for (k = 0; k < n; k++) {
        words += (int64_t)(texts[k].size + 1) / 2;
        bytes += (int64_t)texts[k].size * 3 / 2;
    }
    need = nn_words_memory(words, bytes);
    must(need > 0, "the size of a block");
    block = malloc((size_t)need);
    must(block != NULL, "memory");
    must(nn_words_begin(&w, o, block, (size_t)need, words, bytes) == 0, "nn_words_begin");
    for (k = 0; k < n; k++) {
        char *copy = (char *)copy_of(texts[k].bytes, texts[k].size);

        must(nn_words_add(&w, copy, texts[k].size) == 0, "the bounds of words and bytes hold");
        free(copy);
    }
    need = nn_words_save(&w, NULL, 0);
    must(need > 0, "the size of a vocabulary");
    *size = (size_t)need;
    image = (unsigned char *)malloc(*size);
    must(image != NULL, "memory");
    must(nn_words_save(&w, image, *size) == need, "nn_words_save counts what it writes");
    free(block);
    return image;
}

/* Rows of pad_sequences by their definition. */
static void check_rows(const nn_tokenizer *t, const text *s, const int32_t *want, int32_t n) {
    int32_t steps = 1 + (int32_t)below(STEPS), ids[STEPS], i;
    int pad = (int)below(2), cut = (int)below(2);
    int32_t kept = n < steps ? n : steps, from = cut == NN_POST ? 0 : n - kept;
    int32_t at = pad == NN_POST ? 0 : steps - kept;
    char *copy = (char *)copy_of(s->bytes, s->size);

    must(nn_tokenizer_ids(t, copy, s->size, NULL, 0, pad, cut) == n, "how many ids");
    must(nn_tokenizer_ids(t, copy, s->size, ids, steps, pad, cut) == kept, "how many are kept");
    for (i = 0; i < steps; i++)
        must(ids[i] == (i >= at && i < at + kept ? want[from + i - at] : 0), "an id");
    free(copy);
}

static void against_model(void) {
    static int32_t want[WORDS];
    nn_words_opts o = random_options();
    int n = 1 + (int)below(TEXTS), known = (int)below((uint32_t)n + 1), k, raw = below(4) == 0;
    unsigned char *image;
    nn_tokenizer t;
    size_t size;
    int32_t words, i;

    o.keep_case = raw;
    for (k = 0; k < n; k++)
        if (raw) make_bytes(&texts[k]);
        else make_text(&texts[k]);
    model.count = 0;
    if (o.oov) {
        memset(&model.list[0], 0, sizeof model.list[0]);
        model.list[0].bytes = o.oov;
        model.list[0].size = strlen(o.oov);
        model.list[0].count = UINT32_MAX;
        model.count = 1;
    }
    for (k = 0; k < known; k++) count_words(&o, texts[k].lower, texts[k].lower_size);
    words = rank_words(&o);
    image = fit(&o, known, &size);
    must(nn_tokenizer_load(&t, image, size, NULL) == 0, "what was saved loads");
    must((int32_t)t.words == words, "how many words");
    for (i = 0; i < model.count; i++) {
        size_t got;
        const char *w = nn_tokenizer_word(&t, model.list[i].id, &got);

        if (!model.list[i].id) continue;
        must(w && got == model.list[i].size && memcmp(w, model.list[i].bytes, got) == 0, "a word");
    }
    for (k = 0; k < n; k++) {
        i = model_ids(&o, texts[k].lower, texts[k].lower_size, want);
        check_rows(&t, &texts[k], want, i);
    }
    free(image);
}

/* A vocabulary in lower case finds each of its words again, and hostile changes of it end in an
   error or in ids that it has. */
static void bytes_and_damage(void) {
    nn_words_opts o = random_options();
    int n = 1 + (int)below(TEXTS), k, err;
    unsigned char *image;
    nn_tokenizer t;
    size_t size, got, at;
    int32_t ids[STEPS], i;
    char why[100];
    nn_opts only;

    memset(&only, 0, sizeof only);
    only.why = why;
    only.why_size = sizeof why;
    for (k = 0; k < n; k++) make_bytes(&texts[k]);
    o.oov = NULL;
    image = fit(&o, n, &size);
    must(nn_tokenizer_load(&t, image, size, &only) == 0, "what was saved loads");
    for (i = 1; i <= (int32_t)t.words; i++) {
        const char *w = nn_tokenizer_word(&t, i, &got);

        must(nn_tokenizer_ids(&t, w, got, ids, STEPS, NN_POST, NN_POST) == 1 && ids[0] == i,
             "a word's own id");
    }
    for (n = 1 + (int)below(3); n > 0; n--) {
        at = below(4) ? below(16) : below((uint32_t)size);
        image[at] = (unsigned char)(below(2) ? image[at] ^ 1u << below(8) : below(256));
    }
    if (below(8) == 0) {
        unsigned char *less = (unsigned char *)copy_of(image, size = below((uint32_t)size));

        free(image);
        image = less;
    }
    why[0] = '\0';
    err = nn_tokenizer_load(&t, image, size, &only);
    must(err <= 0 && (err == 0) == (why[0] == '\0'), "an error has a sentence");
    for (k = 0; !err && k < TEXTS; k++) {
        int32_t count = nn_tokenizer_ids(&t, texts[k].bytes, texts[k].size, ids, STEPS, 0, 0);

        must(count >= 0 && count <= STEPS, "how many are kept");
        for (i = 0; i < STEPS; i++) must(ids[i] >= 0 && (uint32_t)ids[i] <= t.words, "an id");
    }
    free(image);
}

int main(int argc, char **argv) {
    long rounds = argc == 3 && strcmp(argv[1], "rounds") == 0 ? strtol(argv[2], NULL, 10) : 20000;
    long i;

    for (i = 0; i < rounds; i++) {
        against_model();
        bytes_and_damage();
    }
    printf("%ld rounds\n", rounds);
    printf("1 passed, 0 failed\n"); /* or it has aborted */
    return 0;
}
