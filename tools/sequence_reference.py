#!/usr/bin/env python3
"""Train the nets of examples/sensor.c and examples/text.c in PyTorch with the same recipes.

    python3 tools/sequence_reference.py [FOLDER] [--seeds 1 2 3]

Without FOLDER only sensor.c's; FOLDER is what tools/get_sequences.py wrote. Needs the package
torch. One thread. Prints the test accuracy of every seed, their mean and range. Random numbers are
PyTorch's, so a seed here is not the same run as that seed there: compare means over seeds.

The text net is trained twice: from the initial weights that text.c asks for (NN_INIT_KERAS: word
vectors within +-0.05, matrices Glorot uniform, biases zero) and from PyTorch's own, whose word
vectors, of variance 1, learn slower.
"""
import argparse
import sys
from collections import Counter
from pathlib import Path

import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

VOWELS = Path(__file__).resolve().parent.parent / "examples" / "data" / "vowels.bin"
FEATURES, VOWELS_TRAIN, LONGEST = 12, 270, 29
WORDS, LENGTH = 5000, 50
FILTERS = '!"#$%&()*+,-./:;<=>?@[\\]^_`{|}~\t\n'  # split words, as in Keras' Tokenizer


class Recurrent(nn.Module):
    """Vectors of ids, if any, then an LSTM's last state, then a dense row."""

    def __init__(self, vocab, features, units, outputs):
        super().__init__()
        self.embedding = nn.Embedding(vocab, features, padding_idx=0) if vocab else nn.Identity()
        self.lstm = nn.LSTM(features, units, batch_first=True)
        self.dense = nn.Linear(units, outputs)

    def forward(self, x, lengths):
        packed = pack_padded_sequence(self.embedding(x), lengths, batch_first=True,
                                      enforce_sorted=False)
        return self.dense(self.lstm(packed)[1][0][0])


def keras_init(net):
    """What NN_INIT_KERAS does."""
    for name, p in net.named_parameters():
        if name.startswith("embedding"):
            nn.init.uniform_(p, -0.05, 0.05)
        elif p.dim() == 2:
            nn.init.xavier_uniform_(p)
        else:
            nn.init.zeros_(p)


def fit(net, train, test, batch, epochs, lr, loss, right):
    """Trains and returns the percent of right answers to test; both sets are x, lengths, y."""
    adam = torch.optim.Adam(net.parameters(), lr=lr)
    x, lengths, y = train
    for _ in range(epochs):
        for pick in torch.randperm(len(y)).split(batch):
            adam.zero_grad()
            loss(net(x[pick], lengths[pick]), y[pick]).backward()
            adam.step()
    x, lengths, y = test
    with torch.no_grad():
        return 100 * int(right(net(x, lengths), y).sum()) / len(y)


def read_vowels():
    """examples/data/vowels.bin as two sets."""
    data, at = VOWELS.read_bytes(), 0
    x, lengths, y = [], [], []
    while at < len(data):
        label, steps = data[at], data[at + 1]
        end = at + 2 + 2 * FEATURES * steps
        values = torch.tensor([int.from_bytes(data[i:i + 2], "little", signed=True)
                               for i in range(at + 2, end, 2)])
        x.append(torch.zeros(LONGEST, FEATURES))
        x[-1][:steps] = values.reshape(steps, FEATURES) * 0.0001
        lengths.append(steps)
        y.append(label)
        at = end
    whole = torch.stack(x), torch.tensor(lengths), torch.tensor(y)
    return [t[:VOWELS_TRAIN] for t in whole], [t[VOWELS_TRAIN:] for t in whole]


def vowels(seeds):
    train, test = read_vowels()
    result = []
    for seed in seeds:
        torch.manual_seed(seed)
        result.append(fit(Recurrent(0, FEATURES, 32, 9), train, test, 16, 60, 0.01,
                          nn.CrossEntropyLoss(), lambda out, y: out.argmax(1) == y))
    return result


def shuffled(n, seed):
    """The numbers 0 to n - 1 in the order of text.c's split."""
    order = [0] * n
    for i in range(n):
        seed = (seed * 6364136223846793005 + 1442695040888963407) % 2**64
        j = (seed >> 33) % (i + 1)
        order[i] = order[j]
        order[j] = i
    return order


def read_movie(path):
    """Lists of words, and 1 for what people rated above zero, 0 for below; neutral is left out."""
    split = str.maketrans({c: " " for c in FILTERS})
    rows = []
    for line in path.read_text(encoding="utf-8").rstrip("\n").split("\n"):
        _, rating, text = line.split("\t")
        if float(rating):
            rows.append((text.lower().translate(split).split(), float(float(rating) > 0)))
    return rows


def text_sets(path):
    """The ids of the last 50 known words and their number, packed to the front: equal to padding in
    front of them that the net skips."""
    rows = read_movie(path)
    rows = [rows[i] for i in shuffled(len(rows), 42)]
    held_out = len(rows) // 5
    count = Counter(word for words, _ in rows[held_out:] for word in words)
    ids = {word: i + 1 for i, (word, _) in enumerate(count.most_common(WORDS - 1))}

    def as_tensors(rows):
        x, lengths = torch.zeros(len(rows), LENGTH, dtype=torch.long), []
        for i, (words, _) in enumerate(rows):
            known = [ids[word] for word in words if word in ids][-LENGTH:]
            x[i, :len(known)] = torch.tensor(known, dtype=torch.long)
            lengths.append(max(len(known), 1))  # PyTorch packs no empty sequences
        return x, torch.tensor(lengths), torch.tensor([y for _, y in rows])

    return as_tensors(rows[held_out:]), as_tensors(rows[:held_out])


def text(sets, seeds, init):
    result, loss = [], nn.BCEWithLogitsLoss()
    for seed in seeds:
        torch.manual_seed(seed)
        net = Recurrent(WORDS, 64, 64, 1)
        init(net)
        result.append(fit(net, *sets, 32, 4, 0.001, lambda out, y: loss(out[:, 0], y),
                          lambda out, y: (out[:, 0] >= 0) == (y > 0)))
    return result


def report(title, sets, result):
    row = f"{title:32}{len(sets[0][2]):7}{len(sets[1][2]):7}   "
    row += " ".join(f"{p:6.2f}" for p in result)
    row += f"   {sum(result) / len(result):6.2f} ({min(result):.2f}-{max(result):.2f})"
    print(row, flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    args = parser.parse_args()

    torch.set_num_threads(1)
    if args.folder and not (args.folder / "movie.txt").exists():
        sys.exit(f"{args.folder}: no movie.txt; tools/get_sequences.py fetches it")
    print(f"{'test accuracy in percent':32}{'train':>7}{'test':>7}   "
          + " ".join(f"seed{s:2}" for s in args.seeds) + "   mean (range)")
    report("vowels, LSTM 32", read_vowels(), vowels(args.seeds))
    if args.folder:
        sets = text_sets(args.folder / "movie.txt")
        report("text, as text.c begins", sets, text(sets, args.seeds, keras_init))
        report("text, as PyTorch begins", sets, text(sets, args.seeds, lambda net: None))


if __name__ == "__main__":
    main()
