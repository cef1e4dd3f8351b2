"""Writes tokenizer.txt: the ids that Keras' Tokenizer and pad_sequences give.

    python make_tokenizer.py [folder]    (default: where this file is; ../requirements-golden.txt)

The sentences are translations that come with Django, as they are installed. Bytes that are not
UTF-8 reach Keras as Python's surrogateescape, and come back from it the same way. The vocabulary's
bytes, of which the file holds a digest, are put together here anew, by the description in nn.h.

A line of the file, with bytes and characters beyond printable ASCII as \\xHH, \\uHHHH, \\UHHHHHHHH:

    texts NAME             a new list of texts
    t TEXT                 one of them
    made NAME COUNT        as many texts by the rule of that name, in ../test_tokenizer.c too
    case KEY=VALUE ...     a Tokenizer, fitted to the first fit=N texts of the list (all)
    image BYTES DIGEST     its vocabulary as nn.h writes it
    i ID ...               the next text's ids, or
    ids COUNT DIGEST       how many all texts have, and their digest, a zero behind each text
    pad STEPS PAD CUT DIGEST    pad_sequences, 1 is post; after each row the ids kept

Digests are FNV-1a, 64 bits, of the numbers as little-endian uint32.
"""

import ast
import os
import re
import struct
import sys

os.environ.setdefault("KERAS_BACKEND", "torch")

import django
import keras
from keras.src.legacy.preprocessing.text import Tokenizer

LANGUAGES = {"de": 60, "fr": 60, "es": 60, "it": 60, "pl": 60, "cs": 60, "tr": 94, "el": 60,
             "ru": 60, "uk": 30, "vi": 49, "ro": 60, "lt": 60, "is": 60, "sv": 60, "pt": 60,
             "hu": 60, "he": 10, "ar": 10, "hi": 10, "ja": 10, "zh_Hans": 10, "ko": 10}
SHORTEST = 25  # characters of a sentence


def fnv(data, bits=64):
    h, prime = (0xcbf29ce484222325, 0x100000001b3) if bits == 64 else (0x811c9dc5, 0x01000193)
    for byte in data:
        h = (h ^ byte) * prime & (1 << bits) - 1
    return h


def digest(numbers):
    return "%016x" % fnv(struct.pack("<%dI" % len(numbers), *numbers))


def to_bytes(text):
    return text.encode("utf-8", "surrogateescape")


def escape(text):
    def one(c):
        if c == "\\":
            return "\\x5c"
        if " " <= c <= "~":
            return c
        if c < " " or c == "\x7f":
            return "\\x%02x" % ord(c)
        if "\udc80" <= c <= "\udcff":
            return "\\x%02x" % (ord(c) - 0xdc00)
        return "\\u%04x" % ord(c) if ord(c) < 0x10000 else "\\U%08x" % ord(c)
    return "".join(map(one, text))


# ------------------------------------------------------------------------------------------------
# Texts

def sentences():
    """Messages of Django: the English ones, then their translations."""
    folder = os.path.join(os.path.dirname(django.__file__), "conf", "locale")
    found = []
    sources = [("msgid", "de", 130)] + [("msgstr", code, n) for code, n in LANGUAGES.items()]
    for key, code, most in sources:
        with open(os.path.join(folder, code, "LC_MESSAGES", "django.po"), encoding="utf-8") as f:
            po = f.read()
        here = []
        for m in re.finditer(r'^%s(?:_plural|\[\d\])? ((?:".*"\n)+)' % key, po, re.M):
            text = "".join(ast.literal_eval(line) for line in m[1].splitlines())
            if len(text) >= SHORTEST and "Project-Id-Version" not in text and text not in here:
                here.append(text)
        assert len(here) >= min(most, 40), (code, len(here))
        found += here[:most]
    return found


ODD = [
    b"", b" ", b"!\"#$%&()*+,-./:;<=>?@[\\]^_`{|}~\t\n", b"   a", b"a   ", b"a\tb\nc\rd\x0be",
    b"don't can't 'quoted' it's", b"A a B b a", b"one two  two three three three",
    b"e-mail co-op x_y", b"to be or not to be that is the", b"oov <OOV> unknown",
    b"a,b;c:d a|b|c |a| b||", b"a" * 4, b"x" * 300 + b" X" + b"x" * 299, b"a\0B \0", b"\x7f X\x7f",
    "\U0001f600 smile \U0001f600\U0001f44d\U0001f3fd", "\U0001f469\u200d\U0001f467 family",
    "\ufeffbom", "a\u00a0b \u3000", "caf\u00e9 CAF\u00c9 cafe\u0301 CAFE\u0301",
    "\u00d7 \u00f7 \u00df \u1e9e STRASSE", "\u0130stanbul \u0130I\u0131i i\u0307stanbul",
    "\u0130", "\u0130.", "a\u0130",
    "\u039f\u0394\u039f\u03a3 \u03bf\u03b4\u03cc\u03c2 \u03a3 \u03a3\u03a3 \u0391\u03a3.\u0391",
    "\u0391\u03a3.",
    "\u0391\u03a3'\u0391 \u0391'\u03a3 \u0391\u03a3\u2019 '\u03a3' \u03a3\u03b1\u03a3",
    b"\xce\x91\xce\xa3\xff \xff\xce\xa3 \xce\x91\xce\xa3\xce",
    "\u041c\u041e\u0421\u041a\u0412\u0410 \u041c\u043e\u0441\u043a\u0432\u0430 \u0401\u0416 \u04c0",
    b"\xff", b"a\xffb \xffA\xfe", b"\x80\x81 \xbf", b"\xc3", b"A\xc3", b"\xc3 \xa9", b"\xe2\x82",
    b"\xe2\x82 x", b"\xf0\x9f\x98", b"\xc0\xafX \xc1\x81", b"\xe0\x80\xaf \xe0\x9f\xbf",
    b"\xed\xa0\x80\xed\xb0\x80 X", b"\xf4\x90\x80\x80 \xf5\x80 \xf8\x88",
    b"\xf4\x8f\xbf\xbf \xef\xbf\xbf", b"\xc3\xc3\x89 \xe2\xc3\x89",
]
ODD = [t.decode("utf-8", "surrogateescape") if isinstance(t, bytes) else t for t in ODD]


def word_of(v):
    """A number below 26^4 in letters, some of them capitals."""
    return "".join(chr((97 if v % 3 else 65) + v // 26**k % 26) for k in range(4))


def made_words(count):
    """30,000 words, 10,000 of them distinct."""
    order = [j if j < 10000 else j * j % 10007 % 10000 for j in range(30000)]
    each = len(order) // count
    return [" ".join(map(word_of, order[k * each:k * each + each])) for k in range(count)]


LETTERS = [(1, 0x17f), (0x1a0, 0x1a1), (0x1af, 0x1b0), (0x218, 0x21b), (0x250, 0x52f),
           (0x1e00, 0x1eff), (0x2018, 0x2019)]


def made_letters(count):
    """Every character of the blocks with lower case in nn.h, in and out of words."""
    codes = [c for first, last in LETTERS for c in range(first, last + 1)]
    assert len(codes) == count
    return ["{0} A{0}\u03a3{0}A A{0}\u03a3 {0}\u03a3{0} \u03a3{0}a".format(chr(c)) for c in codes]


def made_long(count):
    """One word of 1, 2, 4... bytes in each text."""
    return ["B" * (1 << k) + " b" for k in range(count)]


MADE = {"words": made_words, "letters": made_letters, "long": made_long}


# ------------------------------------------------------------------------------------------------
# What nn.h should make of them

def image(words, filters, keep_case, oov, split):
    """A vocabulary's bytes."""
    slots = [0] * (len(words) + len(words) // 2 + 1)
    ends, end = [], 0
    for number, word in enumerate(words, 1):
        h = fnv(word, 32)
        h = (h ^ h >> 16) * 0x7feb352d & 0xffffffff
        slot = ((h ^ h >> 15) * len(slots)) >> 32
        while slots[slot]:
            slot = (slot + 1) % len(slots)
        slots[slot] = number
        end += len(word)
        ends.append(end)
    flags = keep_case | (oov is not None) << 1 | ord(split) << 8
    return (b"nnw1" + struct.pack("<III", len(words), len(filters), flags) + filters
            + struct.pack("<%dI" % len(slots + ends), *slots, *ends) + b"".join(words))


def run_case(out, texts, case, full):
    keep_case = case.get("keep_case", 0)
    options = {"lower": not keep_case}
    if "num_words" in case:
        options["num_words"] = case["num_words"]
    for key, name in ("filters", "filters"), ("split", "split"), ("oov", "oov_token"):
        if key in case:
            options[name] = case[key]
    t = Tokenizer(**options)
    t.fit_on_texts(texts[:case.get("fit", len(texts))])
    ids = t.texts_to_sequences(texts)

    out.append("case" + "".join(
        " %s=%s" % (key, escape(value).replace(" ", "\\x20") if isinstance(value, str) else value)
        for key, value in case.items()))
    words = [to_bytes(t.index_word[i]) for i in range(1, len(t.index_word) + 1)]
    if "num_words" in case:
        words = words[:case["num_words"] - 1]
    data = image(words, to_bytes(t.filters), keep_case, t.oov_token, t.split)
    out.append("image %d %016x" % (len(data), fnv(data)))
    if full:
        out += [" ".join(["i"] + [str(i) for i in row]) for row in ids]
    out.append("ids %d %s" % (sum(map(len, ids)), digest([i for row in ids for i in row + [0]])))
    for steps in 1, 7, 20, 50:
        for pad in 0, 1:
            for cut in 0, 1:
                names = "pre", "post"
                x = keras.utils.pad_sequences(ids, steps, padding=names[pad], truncating=names[cut])
                rows = [n for x_row, row in zip(x.tolist(), ids)
                        for n in x_row + [min(len(row), steps)]]
                out.append("pad %d %d %d %s" % (steps, pad, cut, digest(rows)))


LISTS = [
    ("real", None, [{}, {"num_words": 300}, {"num_words": 300, "oov": "<OOV>"}, {"keep_case": 1},
                    {"fit": 700}, {"fit": 700, "oov": "<OOV>"},
                    {"fit": 700, "num_words": 1000, "oov": "UNK",
                     "filters": "aeiou\u00e9\u00fc\u0438"}]),
    ("odd", None, [{}, {"oov": "<OOV>", "fit": 20}, {"num_words": 5, "oov": "<OOV>"},
                   {"keep_case": 1, "filters": ""},
                   {"filters": "b\u0307\U0001f600i\u00a0\u03c2"},
                   {"split": "|", "filters": ".\t"}, {"num_words": 1}, {"num_words": 2}]),
    ("words", 100, [{}, {"num_words": 5000, "oov": "<OOV>"}, {"fit": 50, "keep_case": 1}]),
    ("letters", sum(b - a + 1 for a, b in LETTERS), [{}, {"keep_case": 1, "fit": 0, "oov": "?"}]),
    ("long", 18, [{}]),
]


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    folder = sys.argv[1] if len(sys.argv) > 1 else here
    licence = os.path.join(os.path.dirname(django.__file__), "..", "django-%s.dist-info"
                           % django.__version__, "licenses", "LICENSE")
    out = ["# Made by make_tokenizer.py with Keras %s; see there." % keras.__version__,
           "# The texts of the list real are messages of Django %s:" % django.__version__, "#"]
    with open(licence, encoding="ascii") as f:
        out += ("# " + line.rstrip() for line in f)
    for name, count, cases in LISTS:
        texts = MADE[name](count) if count else sentences() if name == "real" else ODD
        if count:
            out.append("made %s %d" % (name, count))
        else:
            out.append("texts " + name)
            out += ("t " + escape(text) for text in texts)
        for k, case in enumerate(cases):
            run_case(out, texts, case, not count and (name == "odd" or k == 0))
        print(name, len(texts), "texts,", len(cases), "cases")
    with open(os.path.join(folder, "tokenizer.txt"), "w", encoding="ascii", newline="\n") as f:
        f.write("\n".join(line.rstrip() if line[0] == "#" else line for line in out) + "\n")


main()
