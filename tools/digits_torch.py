#!/usr/bin/env python3
"""The digits net in PyTorch: trained on the digits 0 to 7, and scored with weights that came back.

    digits_torch.py train DIGITS.pt    a state dict, trained on examples/data/digits.bin
    digits_torch.py score TUNED.pt     loads a state dict with strict=True; right answers of 500

examples/data/digits.nn, which examples/digits.c starts from, was made by

    python3 tools/digits_torch.py train build/digits.pt
    python3 tools/nntool.py convert build/digits.pt --graph examples/data/digits.rows \\
        -o examples/data/digits.nn

make demo-python goes the whole way there and back. Needs torch and numpy.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

DATA = Path(__file__).resolve().parent.parent / "examples" / "data" / "digits.bin"
TEST, KNOWN, EPOCHS, BATCH = 500, 8, 20, 32


def order(count):
    """The split of digits.c: its first 500 are to test with."""
    state, result = 0, []
    for i in range(count):
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        j = (state >> 33) % (i + 1)
        result.append(i)
        result[i], result[j] = result[j], i
    return result


def images():
    """Images [n,1,8,8] from 0 to 1, and labels, in that order."""
    records = np.fromfile(DATA, np.uint8).reshape(-1, 65)
    records = records[order(len(records))]
    x = records[:, 1:].reshape(-1, 1, 8, 8).astype(np.float32) / 16
    return torch.from_numpy(x), torch.from_numpy(records[:, 0].astype(np.int64))


class Digits(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1)
        self.conv2 = nn.Conv2d(16, 32, 3, padding=1)
        self.hidden = nn.Linear(32 * 2 * 2, 32)
        self.head = nn.Linear(32, 10)

    def forward(self, x):
        x = nn.functional.max_pool2d(self.conv1(x).relu(), 2)
        x = nn.functional.max_pool2d(self.conv2(x).relu(), 2)
        return self.head(self.hidden(x.flatten(1)).relu())


def train(path):
    torch.manual_seed(1)
    x, y = (part[TEST:] for part in images())
    x, y = x[y < KNOWN], y[y < KNOWN]
    net = Digits()
    optimizer = torch.optim.Adam(net.parameters(), 0.001)
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(x)).split(BATCH):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x[batch]), y[batch]).backward()
            optimizer.step()
    torch.save(net.state_dict(), path)
    print(f"{path}: trained on {len(x)} images of the digits 0 to {KNOWN - 1}")


def score(path):
    net = Digits()
    net.load_state_dict(torch.load(path, weights_only=True), strict=True)
    x, y = (part[:TEST] for part in images())
    with torch.no_grad():
        right = (net.eval()(x).argmax(1) == y).sum().item()
    print(f"{path}: PyTorch takes {right} of {TEST} images right, {100 * right / TEST:.1f} %")


def main():
    commands = {"train": train, "score": score}
    if len(sys.argv) != 3 or sys.argv[1] not in commands:
        sys.exit(__doc__)
    commands[sys.argv[1]](sys.argv[2])


if __name__ == "__main__":
    main()
