#!/usr/bin/env python3
"""Train examples/w3_cifar.c's net in PyTorch with the same recipe, to compare test accuracies.

    python3 tools/cifar_reference.py FOLDER [--epochs 3] [--batch 32] [--lr 0.001] [--seeds 1 2 3]

FOLDER holds CIFAR-10's binary version (data_batch_1.bin and so on, test_batch.bin). Needs the
packages torch and numpy. One thread, PyTorch's initial weights, a new order of the samples every
epoch. Its random numbers are PyTorch's, so a seed here is not the same run as that seed there:
compare means over seeds.
"""
import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

RECORD = 1 + 3 * 32 * 32


def read(path):
    """A batch file's images as float32 [n, 3, 32, 32], 0 to 1, and its labels."""
    data = np.fromfile(path, np.uint8)
    if data.size == 0 or data.size % RECORD:
        sys.exit(f"{path}: {data.size} bytes are not records of {RECORD}")
    data = data.reshape(-1, RECORD)
    images = torch.from_numpy(data[:, 1:].astype(np.float32) / np.float32(255))
    return images.reshape(-1, 3, 32, 32), torch.from_numpy(data[:, 0].astype(np.int64))


def accuracy(net, x, y):
    """Percent of right answers."""
    with torch.no_grad():
        right = sum(int((net(a).argmax(1) == b).sum()) for a, b in zip(x.split(250), y.split(250)))
    return 100 * right / len(y)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--lr", type=float, default=0.001)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    args = parser.parse_args()

    torch.set_num_threads(1)
    files = []
    for i in range(1, 6):  # as w3_cifar.c: up to the first that is missing
        path = args.folder / f"data_batch_{i}.bin"
        if not path.exists():
            break
        files.append(path)
    if not files:
        sys.exit(f"{args.folder}: no data_batch_1.bin")
    parts = [read(path) for path in files]
    x, y = (torch.cat(t) for t in zip(*parts))
    x_test, y_test = read(args.folder / "test_batch.bin")
    print(f"{len(y)} images to train, {len(y_test)} to test", flush=True)

    final = []
    for seed in args.seeds:
        torch.manual_seed(seed)
        net = nn.Sequential(
            nn.Conv2d(3, 32, 3), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(64, 64, 3), nn.ReLU(), nn.Flatten(),
            nn.Linear(1024, 64), nn.ReLU(), nn.Linear(64, 10))
        adam = torch.optim.Adam(net.parameters(), lr=args.lr)
        loss = nn.CrossEntropyLoss()
        for epoch in range(1, args.epochs + 1):
            total = 0.0
            for pick in torch.randperm(len(y)).split(args.batch):
                adam.zero_grad()
                value = loss(net(x[pick]), y[pick])
                value.backward()
                adam.step()
                total += value.item() * len(pick)
            percent = accuracy(net, x_test, y_test)
            print(f"seed {seed} epoch {epoch}: loss {total / len(y):.4f} test {percent:.2f} %",
                  flush=True)
        final.append(percent)
    print("test accuracy:", ", ".join(f"{p:.2f}" for p in final),
          f"mean {sum(final) / len(final):.2f} %")


if __name__ == "__main__":
    main()
