"""Writes sequences.safetensors: PyTorch's answers for nn.h's embeddings, LSTMs, GRUs and RNNs, and
for what acts along a sequence otherwise.

    python make_sequences.py [folder]  (default: where this file is; ../requirements-golden.txt)

Made like the files of make_golden.py: a case is rows and options as text, run in float64, and
../test_sequences.c does the same through nn.h. Values of a sequence are [n,T,C] on both sides.
Lengths and masks are PyTorch's packed sequences (what counts is moved to the front first, so that
gaps are possible too); a sample of length 0, which PyTorch refuses, keeps its initial state. Every
answer is also computed step by step from the formulas, which must agree; the GRU that resets before
its product, which PyTorch lacks, has only these (and Keras' values, see make_keras.py). A seed is
taken only when float32 comes close too. Two runs write the same bytes.
"""

import fnmatch
import math
import os
import sys

import numpy
import safetensors.numpy
import torch
import torch.nn.functional as F

from make_golden import Case, KerasAdam, Row, gen_floats, gen_ints

MARGIN = 4e-6    # of a ReLU or a maximum, see make_golden.py
ROUNDING = 2e-6  # by how much PyTorch's float32 may differ, in a tensor's largest element
TWO_BIASES = 5e-4  # by how much the losses of w4 with one bias must differ, see ../test_sequences.c
FULL = 80        # parameters of more elements are stored in part

X, TARGET, DY, STATE, FIRST_TENSOR = 0, 1, 2, 3, 4  # streams
MODULES = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU, "rnn": torch.nn.RNN}


def power_of_two(size):
    """Near size; amplitudes are powers of two, so that values are exact."""
    return 2.0 ** round(math.log2(size))


def pad_id(row):
    """None, or the id: the text has one more, as nn_layer does."""
    return row.int("pad_id") - 1 if row.text("pad_id") else None


# ------------------------------------------------------------------------------------------------
# A net of rows in PyTorch

class Net:
    """Options are those of make_golden.Case, and

    sparse rows  their optimizer is SparseAdam where the others' is Adam
    lengths      of the samples of all batches, repeated when there are more samples than lengths
    stateful=1   initial states are made up too, and training goes on from the states before
    """

    def __init__(self, case, seed):
        self.case, self.seed = case, seed
        self.rows = [Row(text) for text in case.rows.split(";")]
        self.values = {}   # tensors by name
        self.made = []     # name, elements, amplitude, center, whether its row trains, stride
        self.modules = {}  # of recurrent rows
        self.margin = math.inf
        self.x_shape = self.rows[0].ints("shape")
        self.ids = self.rows[0].text("type") == "i32"
        self.mask = None   # bool [n,T] of the run, or None
        self.shapes = {}   # of rows' outputs
        for row in self.rows:
            inputs = [torch.zeros((2, *self.shapes[name])) for name in row.inputs]
            self.make_tensors(row, inputs)
            with torch.no_grad():
                y = self.apply(row, inputs or [torch.zeros((2, *self.x_shape))],
                               self.states(row, torch.zeros((2, 0))))
            self.shapes[row.name] = tuple(y.shape[1:])
        self.margin = math.inf

    def make_tensors(self, row, inputs):
        if row.text("share"):
            self.modules[row.name] = self.modules.get(row.text("share"))
            if row.op == "dense" and not row.int("no_bias"):  # tied to an embedding: its own bias
                self.make(row, "bias", torch.empty(row.int("units")), 0.25)
        elif row.op == "embedding":
            self.make(row, "weight", torch.empty(row.int("vocab"), row.int("units")),
                      power_of_two(row.int("units") ** -0.5))
        elif row.op == "dense":
            shape = row.int("units"), inputs[0].shape[-1]
            self.make(row, "weight", torch.empty(shape), power_of_two(math.sqrt(3 / shape[1])))
            if not row.int("no_bias"):
                self.make(row, "bias", torch.empty(shape[:1]), 0.25)
        elif row.op == "conv1d":
            shape = row.int("units"), inputs[0].shape[-1] // row.int("groups", 1), row.int("kernel")
            self.make(row, "weight", torch.empty(shape),
                      power_of_two(math.sqrt(3 / math.prod(shape[1:]))))
            if not row.int("no_bias"):
                self.make(row, "bias", torch.empty(shape[:1]), 0.25)
        elif row.op in MODULES:
            units = row.int("units")
            more = {"nonlinearity": row.text("act", "tanh")} if row.op == "rnn" else {}
            module = self.modules[row.name] = MODULES[row.op](
                inputs[0].shape[-1], units, row.int("layers", 1), bias=not row.int("no_bias"),
                batch_first=True, bidirectional=row.int("bidirectional") == 1, **more)
            for name, value in module.named_parameters():
                if name.startswith("bias_hh") and row.int("one_bias"):
                    value.data.zero_()
                    value.requires_grad = False
                else:
                    size = 0.25 if name.startswith("bias") else power_of_two(units ** -0.5)
                    self.make(row, name, value, size)

    def make(self, row, suffix, value, amplitude):
        stream, count = FIRST_TENSOR + len(self.made), value.numel()
        trains = any(fnmatch.fnmatchcase(row.name, pattern)
                     for pattern in self.case.text("train", "*").split(","))
        # Prime to all dimensions, so that every row and column is met.
        stride = next(s for s in range(1, 100000) if count <= s * FULL and
                      all(math.gcd(s, d) == 1 for d in value.shape))
        name = row.name + "." + suffix
        self.made.append((name, count, amplitude, 0, trains, stride))
        start = torch.from_numpy(gen_floats(self.seed, stream, count, amplitude))
        value.data.copy_(start.reshape(value.shape))
        self.values[name] = value.requires_grad_(trains)

    def tensor(self, row, suffix):
        own = self.values.get(row.name + "." + suffix)  # a tied dense row keeps its bias
        return self.values.get((row.text("share") or row.name) + "." + suffix, own)

    # States: float[n][states of a sample], in the order of recurrent rows, layers and directions

    def states(self, row, flat):
        """h and c (None but for LSTMs), [layers * directions, n, units], and the rest of flat;
        zeros if there is none. None for other rows."""
        if row.op not in MODULES:
            return None
        count = row.int("layers", 1) * (1 + row.int("bidirectional"))
        kinds, units = 1 + (row.op == "lstm"), row.int("units")
        size = count * kinds * units
        own = flat[:, :size] if flat.shape[1] else torch.zeros((flat.shape[0], size))
        own = own.reshape(-1, count, kinds, units).permute(2, 1, 0, 3).contiguous()
        return own[0], own[1] if kinds == 2 else None, flat[:, size:]

    def initial(self, n):
        size = 0
        for row in self.rows:
            states = self.states(row, torch.zeros((n, 0)))
            size += sum(s.shape[0] * s.shape[2] for s in states[:2] if s is not None) \
                if states else 0
        if not self.case.int("stateful"):
            return torch.zeros((n, size))
        return torch.from_numpy(gen_floats(self.seed, STATE, n * size, 0.5)).reshape(
            n, size).to(torch.get_default_dtype())

    def forward(self, x, lengths, state):
        """Outputs and the states after them."""
        done, after = {}, []
        steps = torch.arange(self.x_shape[0])
        self.mask = steps < lengths[:, None] if lengths is not None else None
        for row in self.rows:
            if row.op == "embedding" and row.int("mask"):
                kept = x.reshape(x.shape[0], -1) != pad_id(row)
                self.mask = kept if self.mask is None else kept & self.mask
        for row in self.rows:
            states = self.states(row, state)
            if states:
                state = states[2]
            y = self.apply(row, [done[name] for name in row.inputs] or [x], states)
            if states:
                y, *finals = y
                finals = torch.stack(finals)  # [kinds, count, n, units]
                after.append(finals.permute(2, 1, 0, 3).flatten(1))
            done[row.name] = y
        return done[self.rows[-1].name], torch.cat(after, 1) if after else state

    def apply(self, row, inputs, states):
        if states:
            result = self.recurrent(row, inputs[0], *states[:2])
            return result if self.shapes.get(row.name) else result[0]
        y = getattr(self, row.op)(row, inputs)
        if row.text("act") == "relu":
            self.keep_clear(y.detach().abs(), y)
        return {"linear": lambda: y, "relu": lambda: torch.relu(y), "tanh": lambda: torch.tanh(y),
                "sigmoid": lambda: torch.sigmoid(y)}[row.text("act", "linear")]()

    def keep_clear(self, distances, x):
        """Distances from a kink, in units of x."""
        if distances.numel():
            self.margin = min(self.margin, float(distances.min() / x.detach().abs().max()))

    def counted(self, row, x):
        """bool [n,T]: which steps of the row's input x count. Windows have steps of their own."""
        below = row
        while below.inputs:
            below = next(r for r in self.rows if r.name == below.inputs[0])
            if below.text("kernel"):
                break
        if self.mask is None or below.text("kernel"):
            return torch.ones(x.shape[:2], dtype=torch.bool)
        return self.mask

    # The ops, by their names in the text

    def input(self, row, inputs):
        return inputs[0]

    def conv1d(self, row, inputs):
        weight, bias = self.tensor(row, "weight"), self.tensor(row, "bias")
        x = F.pad(inputs[0].mT, row.ints("pad", "0,0"))
        return F.conv1d(x, weight, bias, row.int("stride", 1), 0, row.int("dilation", 1),
                        row.int("groups", 1)).mT

    def maxpool1d(self, row, inputs):
        kernel = row.int("kernel")
        stride = row.int("stride", kernel)
        x = F.pad(inputs[0].mT, row.ints("pad", "0,0"), value=-math.inf)
        self.keep_maxima_clear(x.unfold(2, kernel, stride), inputs[0])
        return F.max_pool1d(x, kernel, stride).mT

    def keep_maxima_clear(self, taps, x):
        first, second = taps.detach().topk(2).values.unbind(-1)
        # Zeros of a ReLU have no gradient, and padding alone is no window.
        matters = (first != 0) & (first > -math.inf)
        self.keep_clear((first - second)[matters], x)

    def avgpool1d(self, row, inputs):
        kernel = row.int("kernel")
        stride = row.int("stride", kernel)
        before, behind = row.ints("pad", "0,0")
        if row.int("count_pad"):
            return F.avg_pool1d(F.pad(inputs[0].mT, (before, behind)), kernel, stride).mT
        assert before == behind
        return F.avg_pool1d(inputs[0].mT, kernel, stride, before, count_include_pad=False).mT

    def globalmaxpool(self, row, inputs):
        counts = self.counted(row, inputs[0])
        x = inputs[0].masked_fill(~counts[:, :, None], -math.inf)
        self.keep_maxima_clear(x.mT, inputs[0])
        return torch.where(counts.any(1)[:, None], x.amax(1), 0)

    def globalavgpool(self, row, inputs):
        counts = self.counted(row, inputs[0])[:, :, None]
        return (inputs[0] * counts).sum(1) / counts.sum(1).clamp(min=1)

    def embedding(self, row, inputs):
        return F.embedding(inputs[0].long(), self.tensor(row, "weight"), pad_id(row),
                           sparse=row.int("sparse") == 1)

    def dense(self, row, inputs):
        return F.linear(inputs[0], self.tensor(row, "weight"), self.tensor(row, "bias"))

    def flatten(self, row, inputs):
        return inputs[0].flatten(1)

    def add(self, row, inputs):
        return sum(inputs[1:], inputs[0])

    def activation(self, row, inputs):
        return inputs[0]

    def recurrent(self, row, x, h, c):
        mask = self.counted(row, x)
        by_hand = self.by_hand(row, x, mask, h, c)
        result = by_hand
        if not row.int("reset_before"):
            result = self.by_module(row, x, mask, h, c)
            small = 1e-12 if x.dtype == torch.float64 else 1e-4
            for a, b in zip(result, by_hand, strict=True):
                assert torch.allclose(a, b, small, small), row.name
        y, *finals = result
        if row.int("last"):
            directions = 1 + row.int("bidirectional")
            y = torch.cat(list(finals[0][-directions:]), 1)
        return y, *finals

    def by_module(self, row, x, mask, h, c):
        module = self.modules[row.name]
        if mask.all():
            y, finals = module(x, h if c is None else (h, c))
            return (y, finals) if c is None else (y, *finals)
        # Steps that count to the front, samples without any left out.
        counts = mask.sum(1)
        some = counts.nonzero()[:, 0]
        order = mask.int().argsort(dim=1, descending=True, stable=True)[some, :, None]
        front = x[some].gather(1, order.expand(-1, -1, x.shape[2]))
        packed = torch.nn.utils.rnn.pack_padded_sequence(front, counts[some], True, False)
        begin = h[:, some] if c is None else (h[:, some], c[:, some])
        y, finals = module(packed, begin)
        y, _ = torch.nn.utils.rnn.pad_packed_sequence(y, True, 0.0, x.shape[1])
        y = torch.zeros_like(y).scatter(1, order.expand(-1, -1, y.shape[2]), y)
        y = y.new_zeros((x.shape[0], *y.shape[1:])).index_copy(0, some, y)
        if c is None:
            return y, h.index_copy(1, some, finals)
        return y, h.index_copy(1, some, finals[0]), c.index_copy(1, some, finals[1])

    def by_hand(self, row, x, mask, h0, c0):
        directions = 1 + row.int("bidirectional")
        finals = [], []
        for layer in range(row.int("layers", 1)):
            ys = []
            for d in range(directions):
                end = "_l%d" % layer + "_reverse" * d
                w_ih, w_hh, b_ih, b_hh = (self.tensor(row, name + end) for name in
                                          ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
                h = h0[layer * directions + d]
                c = c0[layer * directions + d] if c0 is not None else h
                steps, y = range(x.shape[1]), []
                for t in reversed(steps) if d else steps:
                    new_h, new_c = self.cell(row, F.linear(x[:, t], w_ih, b_ih), h, c, w_hh, b_hh)
                    kept = mask[:, t, None]
                    h, c = torch.where(kept, new_h, h), torch.where(kept, new_c, c)
                    y.append(torch.where(kept, h, 0 * h))
                ys.append(torch.stack(y[::-1] if d else y, 1))
                finals[0].append(h)
                finals[1].append(c)
            x = torch.cat(ys, 2)
        finals = [torch.stack(final) for final in finals]
        return (x, *finals) if c0 is not None else (x, finals[0])

    def cell(self, row, a, h, c, w, bias):
        """One step: a is the input's part of the gates."""
        if row.op == "rnn":
            z = a + F.linear(h, w, bias)
            if row.text("act") == "relu":
                distances = z.detach().abs()
                if distances.max() > 0:
                    self.margin = min(self.margin, float(distances.min() / distances.max()))
                return torch.relu(z), c
            return torch.tanh(z), c
        if row.op == "lstm":
            i, f, g, o = (a + F.linear(h, w, bias)).chunk(4, 1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            return torch.sigmoid(o) * torch.tanh(c), c
        a_r, a_z, a_n = a.chunk(3, 1)
        b_r, b_z, b_n = F.linear(h, w, bias).chunk(3, 1)
        r, z = torch.sigmoid(a_r + b_r), torch.sigmoid(a_z + b_z)
        b_n = F.linear(r * h, w.chunk(3)[2]) if row.int("reset_before") else r * b_n
        return (1 - z) * torch.tanh(a_n + b_n) + z * h, c

    # Loss and data

    def loss(self, y, target):
        kind = self.case.text("loss")
        if kind == "mse":
            return F.mse_loss(y, target)
        if kind == "bce":
            if self.rows[-1].text("act") == "sigmoid":
                return F.binary_cross_entropy(y, target)
            return F.binary_cross_entropy_with_logits(y, target)
        return F.cross_entropy(y.reshape(-1, y.shape[-1]), target.reshape(-1))

    def data(self):
        """Inputs, targets and lengths (None), batch by batch."""
        case, out = self.case, self.shapes[self.rows[-1].name]
        count = case.int("batches", 1)
        n = case.int("batch", 1) * count
        real = torch.get_default_dtype()
        if case.given:
            x = numpy.array(case.given["x"]).reshape(n, -1)
        elif self.ids:
            vocab = min(row.int("vocab") for row in self.rows if row.op == "embedding")
            x = gen_ints(self.seed, X, n * math.prod(self.x_shape), vocab)
        else:
            x = gen_floats(self.seed, X, n * math.prod(self.x_shape))
        x = torch.from_numpy(x).reshape(n, *self.x_shape)
        if case.text("loss") == "cross_entropy":
            target = torch.from_numpy(gen_ints(self.seed, TARGET, n * math.prod(out[:-1]), out[-1]))
            target = target.reshape(n, -1)
        else:
            make = gen_floats if case.text("loss") == "mse" else lambda *a: gen_ints(*a, 2)
            target = torch.from_numpy(make(self.seed, TARGET, n * math.prod(out)))
            target = target.reshape(n, *out).to(real)
        lengths = [None] * count
        if case.text("lengths"):
            every = case.ints("lengths")
            lengths = torch.tensor([every[i % len(every)] for i in range(n)]).chunk(count)
        return (x if self.ids else x.to(real)).chunk(count), target.chunk(count), lengths


# ------------------------------------------------------------------------------------------------
# Golden tensors of a case

def in_one(net, what):
    """One array for all tensors that train: what(name), or if it is larger than FULL every
    stride-th element, largest size, sum and sum of squares."""
    parts = []
    for name, count, _, _, trains, stride in net.made:
        if not trains:
            continue
        flat = what(name).detach().to_dense().numpy().astype(float).reshape(-1)
        parts.append(flat[::stride])
        if stride > 1:
            parts.append([numpy.abs(flat).max(), math.fsum(flat), math.fsum(flat * flat)])
    return torch.from_numpy(numpy.concatenate(parts))


def run(case, seed):
    """The net and what it computes."""
    net, gold = Net(case, seed), {}
    xs, targets, lengths = net.data()
    state = net.initial(len(xs[0]))
    with torch.no_grad():
        gold["infer"], after = net.forward(xs[0], lengths[0], state)
        if case.int("stateful"):
            gold["state"] = after
    x = xs[0].clone().requires_grad_(case.int("input_grad") == 1)
    y, _ = net.forward(x, lengths[0], state)
    loss = net.loss(y, targets[0])
    if case.int("dy"):
        dy = torch.from_numpy(gen_floats(seed, DY, y.numel())).reshape(y.shape)
        y.backward(dy.to(y.dtype))
    else:
        loss.backward()
    if x.requires_grad:
        gold["dx"] = x.grad
    gold["grad"] = in_one(net, lambda name: net.values[name].grad)
    train(net, gold, state, xs, targets, lengths)
    gold["after"] = in_one(net, lambda name: net.values[name])
    return net, {key: value.detach() for key, value in gold.items()}


def train(net, gold, state, xs, targets, lengths):
    case, losses = net.case, []
    groups = []
    for row in net.rows:
        own = [v for name, v in net.values.items() if name.startswith(row.name + ".")]
        own = [v for v in own if v.requires_grad]
        if own:
            groups.append({"params": own, "lr": case.real("lr") * row.real("lr", 1)})
    decay = case.real("weight_decay", 0)
    if case.text("eps_mode") == "keras":
        sparse = [g for g in groups if any(v.grad.is_sparse for v in g["params"])]
        dense = [dict(g, weight_decay=decay) for g in groups if g not in sparse]
        optimizers = [KerasAdam(dense, (0.9, 0.999), 1e-7),
                      torch.optim.SparseAdam(sparse, eps=1e-7)]
    elif case.text("optimizer") == "adam":
        optimizers = [torch.optim.Adam(groups, weight_decay=decay)]
    else:
        momentum = case.real("momentum", 0)
        optimizers = [torch.optim.SGD(groups, momentum=momentum, weight_decay=decay)]
    for step in range(case.int("steps")):
        at = step % len(xs)
        for value in net.values.values():
            value.grad = None
        y, after = net.forward(xs[at], lengths[at], state)
        if case.int("stateful"):
            state = after.detach()
        loss = net.loss(y, targets[at])
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        losses.append(loss.item())
    gold["losses"] = torch.tensor(losses)


def rounding(net, gold, rough):
    """By how much float32 is off, in the largest element of a tensor."""
    worst = 0
    for key, value in gold.items():
        at = [0, value.numel()]
        if key in ("grad", "after"):
            at = [0]
            for _, count, _, _, trains, stride in net.made:
                if trains:
                    at.append(at[-1] + -(-count // stride) + 3 * (stride > 1))
        a, b = value.reshape(-1), rough[key].reshape(-1)
        for first, end in zip(at, at[1:]):
            part = slice(first, end)
            scale = float(a[part].abs().max())
            # A single step from zero has no gradient by weight_hh.
            assert key != "grad" or scale == 0 or scale > 1e-7, net.case.name + ": only rounding"
            if scale > 0:
                worst = max(worst, float((a[part] - b[part]).abs().max()) / scale)
    return worst


def find_seed(case):
    for seed in range(1, 200):
        net, gold = run(case, seed)
        torch.set_default_dtype(torch.float32)
        _, rough = run(case, seed)
        torch.set_default_dtype(torch.float64)
        off = rounding(net, gold, rough)
        if net.margin >= MARGIN and off <= ROUNDING:
            return net, gold, off
    sys.exit(case.name + ": no seed will do")


def check_two_biases(case, losses, seed):
    """Under Adam two biases move twice as far as their sum alone would. That must show."""
    net = Net(case, seed)
    for name, value in net.values.items():
        if ".bias_ih" in name:
            other = net.values[name.replace("_ih", "_hh")]
            value.data += other.data
            other.data.zero_()
            other.requires_grad_(False)
    gold, (xs, targets, lengths) = {}, net.data()
    train(net, gold, net.initial(len(xs[0])), xs, targets, lengths)
    differ = float((gold["losses"] - losses).abs().max() / losses[0])
    print("    %s with one bias: losses differ by %.1e of the first" % (case.name, differ))
    assert differ > TWO_BIASES


def write(path, cases, find_seed=find_seed):
    tensors, lines = {}, []
    for case in cases:
        net, gold, off = find_seed(case)
        print("%-28s seed %3d  float32 off by %.1e  loss %.4g to %.4g" % (
            case.name, net.seed, off, gold["losses"][0], gold["losses"][-1]))
        if case.name.startswith("w4"):
            check_two_biases(case, gold["losses"], net.seed)
        lines += ["case " + case.name, "rows " + case.rows, "opts " + case.options]
        lines += ["seed %d" % net.seed]
        lines += ["tensor %s %d %r %r %d %d" % made for made in net.made]
        for key, value in gold.items():
            # In order: outputs may be views, and a file takes the bytes as they lie.
            tensors[case.name + "/" + key] = numpy.ascontiguousarray(value.numpy(), numpy.float32)
        if case.given:
            tensors[case.name + "/x"] = numpy.array(case.given["x"], numpy.int32)
    # One entry of metadata: the package stores several in no fixed order.
    safetensors.numpy.save_file(tensors, path, {"cases": "\n".join(lines)})
    os.chmod(path, 0o644)
    print("%s: %d cases, %d bytes" % (os.path.basename(path), len(cases), os.path.getsize(path)))


# ------------------------------------------------------------------------------------------------
# The table

CASES = []


def add_cases(options, *cases):
    """Each of batch, name, the input's fields, rows after the input, further options."""
    for batch, name, shape, rows, *more in cases:
        words = [options, "batch=%d" % batch, *more]
        rows = "; ".join(["input x - shape=" + shape, *rows.split("; ")])
        CASES.append(Case(name, " ".join(words), rows))


ADAM = "loss=mse optimizer=adam lr=0.005 batches=2 steps=3 "
SGD = "loss=mse lr=0.125 batches=2 steps=3 "
GAPS = "lengths=7,0,3,1,6,2,7"  # seven, so that batches of five and three differ
# What is left of the plainest op; the others go through the same code.
FEW = "one", "whole", "last", "t17_last", "both_layers", "lengths_layers", "state_lengths_last"

for kind in ("lstm", "gru", "rnn", "rnn_relu"):
    row = kind.replace("rnn_relu", "rnn") + " r x"
    end = " act=relu" if kind == "rnn_relu" else ""
    for name, batch, shape, fields, *more in (
        ("one", 1, "1,1", "units=1"),
        ("one_last", 3, "1,5", "units=1 last=1"),
        ("whole", 3, "7,5", "units=17", "dy=1"),
        ("last", 5, "7,5", "units=3 last=1"),
        ("t2", 5, "2,16", "units=3"),
        ("t17", 3, "17,1", "units=3"),
        ("t17_last", 1, "17,16", "units=20 last=1"),
        ("layers", 3, "7,5", "units=3 layers=2"),
        ("layers_last", 1, "7,5", "units=3 layers=3 last=1"),
        ("both", 3, "7,5", "units=3 bidirectional=1"),
        ("both_17", 1, "2,5", "units=17 bidirectional=1"),
        ("both_last", 5, "7,1", "units=3 bidirectional=1 last=1"),
        ("both_layers", 3, "7,5", "units=3 bidirectional=1 layers=2", "dy=1"),
        ("one_bias", 3, "7,5", "units=3 one_bias=1"),
        ("one_bias_layers", 3, "7,5", "units=3 one_bias=1 bidirectional=1 layers=2 last=1"),
        ("no_bias", 3, "7,5", "units=3 no_bias=1"),
        ("lengths", 5, "7,5", "units=3", "dy=1", GAPS),
        ("lengths_17", 5, "7,5", "units=17 last=1", GAPS),
        ("lengths_both", 5, "7,5", "units=3 bidirectional=1", GAPS),
        ("lengths_both_last", 5, "7,5", "units=3 bidirectional=1 last=1", GAPS),
        ("lengths_layers", 3, "7,5", "units=3 bidirectional=1 layers=2 last=1", GAPS),
        ("state", 3, "7,5", "units=3", "stateful=1 dy=1"),
        ("state_lengths", 5, "7,5", "units=3 layers=2", "stateful=1", GAPS),
        ("state_lengths_last", 5, "7,5", "units=3 layers=2 last=1", "stateful=1", GAPS),
        ("state_both", 3, "7,5", "units=3 bidirectional=1", "stateful=1", GAPS),
    ):
        if kind == "rnn" and name not in FEW:
            continue
        add_cases(ADAM + "input_grad=1",
                  (batch, kind + "_" + name, shape, row + " " + fields + end, *more))
    add_cases(SGD + "input_grad=1",
              (5, kind + "_sgd", "7,5", row + " units=17 last=1" + end))

# The GRU that resets before its product
add_cases(
    ADAM + "input_grad=1",
    (1, "gru_before_one", "1,1", "gru r x units=1 one_bias=1 reset_before=1"),
    (3, "gru_before", "7,5", "gru r x units=17 one_bias=1 reset_before=1", "dy=1"),
    (5, "gru_before_last", "7,5", "gru r x units=3 one_bias=1 reset_before=1 last=1"),
    (1, "gru_before_t17", "17,16", "gru r x units=20 one_bias=1 reset_before=1 last=1"),
    (3, "gru_before_layers", "7,5", "gru r x units=3 one_bias=1 reset_before=1 layers=2"
     " bidirectional=1"),
    (3, "gru_before_no_bias", "7,5", "gru r x units=3 no_bias=1 reset_before=1"),
    (5, "gru_before_lengths", "7,5", "gru r x units=3 one_bias=1 reset_before=1", GAPS),
    (5, "gru_before_state", "7,5", "gru r x units=3 one_bias=1 reset_before=1 layers=2 last=1",
     "stateful=1", GAPS),
)

# Among other rows
add_cases(
    ADAM + "input_grad=1",
    (3, "stacked", "7,5", "lstm a x units=4; gru b a units=3; rnn c b units=5 last=1;"
     " dense d c units=2"),
    (3, "stacked_lengths", "7,5", "lstm a x units=4 bidirectional=1; gru b a units=3 last=1;"
     " dense d b units=2", GAPS),
    (3, "stacked_states", "7,5", "lstm a x units=4 layers=2; gru b a units=3; rnn c b units=5;"
     " dense d c units=2", "stateful=1", GAPS),
    (3, "dense_every_step", "7,5", "lstm a x units=4; dense d a units=17 act=tanh", GAPS),
    (3, "dense_below", "7,5", "dense a x units=6 act=tanh; lstm l a units=4 last=1;"
     " dense d l units=2", GAPS),
    (3, "flatten_steps", "7,5", "gru a x units=4; flatten f a; dense d f units=2", GAPS),
    (3, "fan_out", "7,5", "lstm a x units=4; lstm b x units=4; gru c a units=4; add s c,b,a;"
     " dense d s units=2"),
    (3, "shared", "7,5", "lstm a x units=5; lstm b a units=5 share=a; dense d b units=2"),
    (3, "row_rate", "7,5", "lstm a x units=4 lr=0.25; dense d a units=2"),
    (3, "frozen_recurrent", "7,5", "lstm a x units=4 last=1; dense d a units=2", "train=d"),
    (3, "frozen_below", "7,5", "lstm a x units=4; gru b a units=3 last=1; dense d b units=2",
     "train=b,d"),
    (3, "frozen_above", "7,5", "lstm a x units=4; gru b a units=3 last=1; dense d b units=2",
     "train=a", GAPS),
)
add_cases(
    ADAM.replace("mse", "cross_entropy") + "input_grad=1",
    (3, "label_every_step", "7,5", "gru a x units=4 bidirectional=1; dense d a units=5"),
)

# Embeddings
WORDS = "7 type=i32"
FLAT = "; flatten f e; dense d f units=2"
add_cases(
    SGD,
    (3, "embedding_sgd", WORDS, "embedding e x vocab=11 units=5" + FLAT),
    (1, "embedding_one", "1 type=i32", "embedding e x vocab=3 units=1" + FLAT),
    (3, "embedding_pad", WORDS, "embedding e x vocab=5 units=17 pad_id=1" + FLAT),
    (3, "embedding_pad_last", WORDS, "embedding e x vocab=5 units=3 pad_id=5" + FLAT),
    (3, "embedding_momentum", WORDS, "embedding e x vocab=23 units=5" + FLAT, "momentum=0.9"),
    (3, "embedding_decay", WORDS, "embedding e x vocab=11 units=5 pad_id=3" + FLAT,
     "weight_decay=0.1"),
    (3, "embedding_lstm_pad", WORDS, "embedding e x vocab=4 units=5 pad_id=1; lstm l e units=4"
     " last=1; dense d l units=2"),
    (3, "embedding_gru_pad", WORDS, "embedding e x vocab=4 units=5 pad_id=2; gru l e units=4"
     " one_bias=1 reset_before=1 bidirectional=1"),
    (3, "embedding_both", WORDS, "embedding e x vocab=9 units=3; rnn l e units=17 bidirectional=1"
     " layers=2 last=1", GAPS),
    (3, "embedding_read_twice", WORDS, "embedding e x vocab=9 units=5 pad_id=4; lstm a e units=4"
     " last=1; gru b e units=4 last=1; add s a,b; dense d s units=2"),
    (3, "embeddings", WORDS, "embedding e x vocab=9 units=5; embedding f x vocab=8 units=3;"
     " lstm a e units=4; gru b f units=4; add s a,b; rnn c s units=3 last=1"),
    (3, "embedding_below_frozen", WORDS, "embedding e x vocab=9 units=5; lstm l e units=4 last=1;"
     " dense d l units=2", "train=e"),
    (3, "embedding_frozen", WORDS, "embedding e x vocab=11 units=5; lstm l e units=3 last=1",
     "train=l"),
)
add_cases(
    ADAM,
    (3, "embedding_adam", WORDS, "embedding e x vocab=23 units=5" + FLAT),
    (3, "embedding_adam_pad", WORDS, "embedding e x vocab=5 units=3 pad_id=1" + FLAT),
    (3, "embedding_adam_decay", WORDS, "embedding e x vocab=11 units=5 pad_id=3" + FLAT,
     "weight_decay=0.1"),
    (3, "embedding_alone", WORDS, "embedding e x vocab=11 units=5"),
    (5, "embedding_lengths", WORDS, "embedding e x vocab=11 units=5; gru g e units=4", GAPS),
    (5, "mask_last", WORDS, "embedding e x vocab=3 units=5 pad_id=1 mask=1; lstm l e units=4"
     " last=1; dense d l units=2"),
    (5, "mask_whole", WORDS, "embedding e x vocab=3 units=5 pad_id=2 mask=1; gru l e units=4"),
    (5, "mask_both", WORDS, "embedding e x vocab=3 units=5 pad_id=1 mask=1; rnn l e units=3"
     " bidirectional=1 layers=2 last=1"),
    (5, "mask_lengths", WORDS, "embedding e x vocab=3 units=5 pad_id=1 mask=1; lstm l e units=4"
     " bidirectional=1", GAPS),
    (5, "mask_state", WORDS, "embedding e x vocab=3 units=5 pad_id=1 mask=1; lstm l e units=4"
     " last=1", "stateful=1"),
    (5, "mask_through", WORDS, "embedding e x vocab=3 units=5 pad_id=1 mask=1; dense d e units=4"
     " act=tanh; lstm l d units=4; gru g l units=3 last=1"),
)
# Gradients for the ids of a batch only: what batches leave out keeps its value and moments
add_cases(
    SGD,
    (3, "sparse_sgd", WORDS, "embedding e x vocab=200 units=5 sparse=1" + FLAT),
    (3, "sparse_sgd_pad", WORDS, "embedding e x vocab=9 units=17 pad_id=3 sparse=1; lstm l e"
     " units=4 last=1; dense d l units=2"),
)
add_cases(
    ADAM.replace("steps=3", "steps=10") + "eps_mode=keras",
    (3, "sparse_adam", WORDS, "embedding e x vocab=60 units=5 sparse=1" + FLAT),
    (3, "sparse_adam_pad", WORDS, "embedding e x vocab=23 units=17 pad_id=3 mask=1 sparse=1;"
     " lstm l e units=4 last=1; dense d l units=2"),
    (5, "sparse_adam_gru", WORDS, "embedding e x vocab=60 units=3 sparse=1 lr=0.5; gru g e units=4"
     " bidirectional=1; globalmaxpool m g; dense d m units=2"),
    (1, "sparse_adam_one", "1 type=i32", "embedding e x vocab=3 units=1 sparse=1" + FLAT),
)

# Along a sequence
add_cases(
    SGD + "input_grad=1",
    (3, "conv1d_one", "1,1", "conv1d c x units=1 kernel=1"),
    (3, "conv1d", "17,3", "conv1d c x units=17 kernel=3"),
    (5, "conv1d_two_steps", "2,5", "conv1d c x units=3 kernel=2", "dy=1"),
    (3, "conv1d_stride_dilation", "17,3", "conv1d c x units=5 kernel=3 stride=2 dilation=3 pad=4,1"
     " act=tanh"),
    (3, "conv1d_causal", "7,5", "conv1d c x units=16 kernel=3 pad=2,0 no_bias=1; activation t c"
     " act=relu; conv1d d t units=2 kernel=3 pad=4,0 dilation=2"),
    (3, "conv1d_groups", "9,6", "conv1d c x units=34 kernel=3 groups=2 act=relu"),
    (3, "conv1d_depthwise", "9,17", "conv1d c x units=17 kernel=5 groups=17 pad=2,2"),
    (3, "conv1d_depthwise_x2", "9,3", "conv1d c x units=6 kernel=2 groups=3 stride=2"),
    (3, "conv1d_pool", "17,3", "conv1d c x units=33 kernel=3 act=relu; maxpool1d p c kernel=2;"
     " conv1d d p units=2 kernel=3"),
    (3, "conv1d_pool_overlap", "17,3", "conv1d c x units=5 kernel=2 act=relu; maxpool1d p c"
     " kernel=3 stride=2 pad=1,2"),
    (3, "maxpool1d", "17,3", "dense d x units=4 act=tanh; maxpool1d p d kernel=4"),
    (3, "maxpool1d_pads", "7,5", "dense d x units=4 act=tanh; maxpool1d p d kernel=3 stride=1"
     " pad=2,1"),
    (3, "avgpool1d", "17,3", "dense d x units=4 act=tanh; avgpool1d p d kernel=4"),
    (3, "avgpool1d_pad", "7,5", "dense d x units=4; avgpool1d p d kernel=3 stride=2 pad=1,1"),
    (3, "avgpool1d_count_pad", "7,5", "dense d x units=4; avgpool1d p d kernel=3 stride=2 pad=2,1"
     " count_pad=1"),
    (3, "maximum_over_time", "17,3", "conv1d c x units=16 kernel=4 act=relu; globalmaxpool g c;"
     " dense d g units=2"),
    (5, "maximum_lengths", "7,5", "lstm l x units=17; globalmaxpool g l; dense d g units=2", GAPS),
    (5, "mean_lengths", "7,5", "gru l x units=5; globalavgpool g l; dense d g units=2", GAPS),
    (5, "conv1d_lengths", "7,5", "lstm l x units=4; conv1d c l units=5 kernel=3 pad=1,1 act=relu;"
     " globalmaxpool g c; dense d g units=2", GAPS),
    (3, "conv1d_below", "17,3", "conv1d c x units=5 kernel=3 stride=2 act=relu; gru g c units=4"
     " last=1"),
)
add_cases(
    ADAM,
    (5, "maximum_mask", WORDS, "embedding e x vocab=5 units=5 pad_id=1 mask=1; lstm l e units=4;"
     " globalmaxpool g l; dense d g units=2", GAPS),
    (3, "conv1d_words", "17 type=i32", "embedding e x vocab=23 units=6; conv1d c e units=17"
     " kernel=3 act=relu; globalmaxpool g c; dense d g units=2"),
)

# W4, small and true. Words are made up, and so there is nothing to learn but by heart: few batches.
W4 = "embedding e x vocab=%d units=%d; lstm l e units=%d last=1; dense d l units=1 act=sigmoid"
BCE = "loss=bce optimizer=adam batches=2 steps=20"
add_cases(
    BCE,
    (5, "w4_small", "10 type=i32", W4 % (50, 8, 12), "lr=0.01"),
    (32, "w4", "100 type=i32", W4 % (10000, 128, 128), "lr=0.001"),
)

add_cases(
    ADAM.replace("mse", "cross_entropy"),
    (3, "embedding_tied", WORDS, "embedding e x vocab=11 units=6; gru g e units=6;"
     " dense d g units=11 no_bias=1 share=e"),
    (3, "embedding_tied_bias", WORDS, "embedding e x vocab=33 units=17; lstm g e units=17;"
     " dense d g units=33 share=e"),
)


def main():
    folder = sys.argv[1] if len(sys.argv) > 1 else os.path.dirname(os.path.abspath(__file__))
    torch.set_num_threads(1)  # one order of summation
    torch.set_default_dtype(torch.float64)
    write(os.path.join(folder, "sequences.safetensors"), CASES)


if __name__ == "__main__":
    main()
