"""Writes keras.safetensors: Keras' answers for nn.h's embeddings, LSTMs, GRUs and RNNs.

    python make_keras.py [folder]  (default: where this file is; the packages of
                                    ../requirements-golden.txt and keras 3.15.1)

Made and read like sequences.safetensors, see make_sequences.py, but by Keras, on PyTorch, in
float64: one bias, both forms of the GRU, masks made from ids of 0, Keras' Adam. Tensors are stored
as nn.h has them:

    Keras                            nn.h
    kernel [in, gates * units]       weight_ih, transposed
    recurrent_kernel                 weight_hh, transposed
    bias [gates * units]             bias_ih
    bias [2, gates * units]          bias_ih, bias_hh (GRU with reset_after=True)
    LSTM i, f, c, o; GRU z, r, h     i, f, g, o; r, z, n

At a masked step Keras repeats the output before and nn.h gives 0: zeros are stored, and are what
the loss sees. PyTorch's answers from make_sequences.py must agree.
"""

import os
import sys

os.environ["KERAS_BACKEND"] = "torch"

import keras
import torch

import make_sequences
from make_golden import Case, gen_floats
from make_sequences import Net, in_one, pad_id

AGREE = 5e-7  # Keras' loop with masks rounds something to float32


def swap(row, value):
    """The gates from one library's order to the other's, either way."""
    if row.op != "gru":
        return value
    first, second, third = value.chunk(3)
    return torch.cat((second, first, third))


class KerasNet:
    """The rows of a Net as Keras layers with the same weights."""

    def __init__(self, net):
        self.net = net
        self.layers = {}     # by rows' names
        self.variables = []  # a Keras variable, its row and the names of its tensors in nn.h
        for row in net.rows[1:]:
            layer = self.layers[row.name] = getattr(self, row.op)(row)
            layer.build((None, *net.shapes[row.inputs[0]]))
            prefix = row.name + "."
            if row.op == "embedding":
                self.add(row, layer.embeddings, prefix + "weight")
            elif row.op == "dense":
                self.add(row, layer.kernel, prefix + "weight")
                self.add(row, layer.bias, prefix + "bias")
            elif row.int("bidirectional"):
                self.add_cell(row, layer.forward_layer.cell, "_l0")
                self.add_cell(row, layer.backward_layer.cell, "_l0_reverse")
            else:
                self.add_cell(row, layer.cell, "_l0")

    def add_cell(self, row, cell, end):
        prefix = row.name + "."
        self.add(row, cell.kernel, prefix + "weight_ih" + end)
        self.add(row, cell.recurrent_kernel, prefix + "weight_hh" + end)
        biases = [prefix + bias + end for bias in ("bias_ih", "bias_hh")]
        biases = [name for name in biases if name in self.net.values]
        if biases:
            self.add(row, cell.bias, *biases)

    def add(self, row, variable, *names):
        parts = [swap(row, self.net.values[name].detach()) for name in names]
        value = torch.stack(parts) if len(parts) > 1 else parts[0]
        if row.op != "embedding" and value.dim() == 2 and len(parts) == 1:
            value = value.T
        assert tuple(variable.shape) == tuple(value.shape), names
        variable.assign(value)
        self.variables.append((variable, row, names))

    def tensor(self, name, of):
        """of(variable), in nn.h's layout."""
        for variable, row, names in self.variables:
            if name in names:
                value = of(variable).detach()
                if len(names) > 1:
                    value = value[names.index(name)]
                elif row.op != "embedding" and value.dim() == 2:
                    value = value.T
                return swap(row, value).contiguous()
        raise KeyError(name)

    def forward(self, x):
        kept = None
        for row in self.net.rows[1:]:
            if row.int("mask"):
                kept = x != pad_id(row)
            x = self.layers[row.name](x)
        if kept is not None and x.dim() == 3:
            x = x * kept[:, :, None]
        return x

    # Ops by their names in the text

    def embedding(self, row):
        assert pad_id(row) in (None, 0)
        return keras.layers.Embedding(row.int("vocab"), row.int("units"),
                                      mask_zero=row.int("mask") == 1)

    def dense(self, row):
        return keras.layers.Dense(row.int("units"), row.text("act"))

    def recurrent(self, row, make, **more):
        layer = make(row.int("units"), return_sequences=not row.int("last"),
                     use_bias=not row.int("no_bias"), **more)
        return keras.layers.Bidirectional(layer) if row.int("bidirectional") else layer

    def lstm(self, row):
        assert row.int("one_bias") or row.int("no_bias")
        return self.recurrent(row, keras.layers.LSTM)

    def gru(self, row):
        assert row.int("one_bias") == row.int("reset_before")
        return self.recurrent(row, keras.layers.GRU, reset_after=not row.int("reset_before"))

    def rnn(self, row):
        assert row.int("one_bias") or row.int("no_bias")
        return self.recurrent(row, keras.layers.SimpleRNN, activation=row.text("act", "tanh"))


def run(case, seed):
    net, gold = Net(case, seed), {}
    model = KerasNet(net)
    (x, *more_x), (target, *more_targets), _ = net.data()
    assert not more_x and not more_targets
    with torch.no_grad():
        gold["infer"] = model.forward(x)
    x.requires_grad_(case.int("input_grad") == 1)
    y = model.forward(x)
    if case.int("dy"):
        y.backward(torch.from_numpy(gen_floats(seed, make_sequences.DY, y.numel())).reshape(
            y.shape))
    else:
        net.loss(y, target).backward()
    if x.requires_grad:
        gold["dx"] = x.grad.clone()
        x.requires_grad_(False)
    gold["grad"] = in_one(net, lambda name: model.tensor(name, lambda v: v.value.grad))
    variables = [variable for variable, _, _ in model.variables]
    optimizer = keras.optimizers.Adam(case.real("lr"))
    losses = []
    for _ in range(case.int("steps")):
        for variable in variables:
            variable.value.grad = None
        loss = net.loss(model.forward(x), target)
        loss.backward()
        with torch.no_grad():
            optimizer.apply([variable.value.grad for variable in variables], variables)
        losses.append(loss.item())
    gold["losses"] = torch.tensor(losses)
    gold["after"] = in_one(net, lambda name: model.tensor(name, lambda v: v.value))
    return net, {key: value.detach() for key, value in gold.items()}


def in_floats(bits):
    torch.set_default_dtype(getattr(torch, bits))
    keras.config.set_floatx(bits)
    keras.config.set_dtype_policy(bits)


def check_pytorch(case, gold, seed):
    """Inference and first gradients: what comes later is Keras' optimizer."""
    _, other = make_sequences.run(case, seed)
    for key in ("infer", "grad", "dx"):
        if key in gold:
            scale, differ = other[key].abs().max(), (gold[key] - other[key]).abs().max()
            assert differ <= AGREE * scale, (case.name, key, float(differ / scale))
    assert abs(gold["losses"][0] / other["losses"][0] - 1) <= AGREE, case.name


def find_seed(case):
    for seed in range(1, 200):
        net, gold = run(case, seed)
        check_pytorch(case, gold, seed)
        in_floats("float32")
        _, rough = run(case, seed)
        in_floats("float64")
        off = make_sequences.rounding(net, gold, rough)
        if net.margin >= make_sequences.MARGIN and off <= make_sequences.ROUNDING:
            return net, gold, off
    sys.exit(case.name + ": no seed will do")


# ------------------------------------------------------------------------------------------------
# The table

CASES = []


def add_cases(options, *cases):
    for batch, name, shape, rows, *more in cases:
        x = {}
        if "i32" in shape:
            x = {"x": IDS}
        words = [options, "batch=%d" % batch, *more]
        rows = "input x - shape=%s; %s" % (shape, rows)
        CASES.append(Case("keras_" + name, " ".join(words), rows, **x))


# Whole, zeros in front, behind, both, between, alone
IDS = [[4, 1, 3, 2, 5, 1, 3], [0, 0, 0, 2, 4, 1, 1], [3, 5, 0, 0, 0, 0, 0], [0, 0, 5, 4, 2, 0, 0],
       [1, 0, 2, 0, 0, 3, 0], [0, 0, 0, 0, 0, 0, 0]]

ADAM = "loss=mse optimizer=adam eps_mode=keras lr=0.005 steps=3 "
WORDS, MASK = "7 type=i32", "embedding e x vocab=6 units=5 pad_id=1 mask=1; "

for kind, row in (("lstm", "lstm r %s one_bias=1"), ("gru", "gru r %s"),
                  ("gru_before", "gru r %s one_bias=1 reset_before=1"),
                  ("rnn", "rnn r %s one_bias=1"), ("rnn_relu", "rnn r %s one_bias=1 act=relu")):
    above, of_words = row % "x", MASK + row % "e"
    add_cases(
        ADAM + "input_grad=1",
        (3, kind, "7,5", above + " units=17", "dy=1"),
        (3, kind + "_last", "7,5", above + " units=3 last=1"),
    )
    add_cases(
        ADAM,
        (6, kind + "_mask", WORDS, of_words + " units=3"),
        (6, kind + "_mask_last", WORDS, of_words + " units=17 last=1"),
        (6, kind + "_mask_both", WORDS, of_words + " units=3 bidirectional=1 last=1"),
        (6, kind + "_mask_two", WORDS, of_words + " units=4; lstm t r units=3 one_bias=1 last=1;"
         " dense d t units=1 act=sigmoid", "loss=bce"),
    )
add_cases(
    ADAM + "input_grad=1",
    (3, "lstm_no_bias", "7,5", "lstm r x units=3 no_bias=1"),
    (3, "lstm_both", "7,5", "lstm r x units=3 one_bias=1 bidirectional=1", "dy=1"),
    (3, "gru_both", "7,5", "gru r x units=3 bidirectional=1", "dy=1"),
    (1, "gru_t1", "1,5", "gru r x units=3"),
)
add_cases(
    ADAM,
    (6, "unmasked", WORDS, "embedding e x vocab=6 units=5; lstm r e units=3 one_bias=1 last=1;"
     " dense d r units=1 act=sigmoid", "loss=bce"),
)


def main():
    folder = sys.argv[1] if len(sys.argv) > 1 else os.path.dirname(os.path.abspath(__file__))
    torch.set_num_threads(1)  # one order of summation
    in_floats("float64")
    make_sequences.write(os.path.join(folder, "keras.safetensors"), CASES, find_seed)


if __name__ == "__main__":
    main()
