"""Writes torch_workloads.safetensors and torch_ops.safetensors: PyTorch's answers for nn.h's rows.

    python make_golden.py [folder]    (default: where this file is; ../requirements-golden.txt)

A case is a row text, as nn_build_text reads it, and options. This script runs the rows through
PyTorch on the CPU in float64 and stores outputs, losses, gradients, trained parameters and
optimizer state as float32; ../test_golden.c does the same through nn.h and compares. Weights,
inputs and targets are not stored: both sides make them from the same integer hash, as exact floats.
A seed is taken only when no ReLU and no maximum of a pool is nearly undecided, because there
float32 may rightly choose the other side; the margin reached is printed. Two runs write the same
bytes.
"""

import fnmatch
import math
import os
import sys

import numpy
import safetensors.numpy
import torch
import torch.nn.functional as F

MARGIN = 4e-6  # of a tensor's largest element; float32 and float64 differ by a few 1e-7 of it
FULL = 2000    # tensors of more elements are stored in part

# ------------------------------------------------------------------------------------------------
# Values from a hash, bit for bit those of gen_float and gen_int in ../test.h

X, TARGET, DY, FIRST_TENSOR = 0, 1, 2, 3  # streams; tensors follow in the order of the rows


def mix(h):
    """The final mix of MurmurHash3, which is in the public domain."""
    h = (h ^ h >> numpy.uint32(16)) * numpy.uint32(0x85EBCA6B)
    h = (h ^ h >> numpy.uint32(13)) * numpy.uint32(0xC2B2AE35)
    return h ^ h >> numpy.uint32(16)


def gen_hash(seed, stream, count):
    key = mix(mix(numpy.array([seed], numpy.uint32)) + numpy.uint32(stream))
    return mix(key + numpy.arange(count, dtype=numpy.uint32))


def gen_floats(seed, stream, count, amplitude=1.0, center=0.0):
    k = (gen_hash(seed, stream, count) >> numpy.uint32(12)).astype(numpy.int64) - 524288
    return k / 524288.0 * amplitude + center


def gen_ints(seed, stream, count, below):
    k = (gen_hash(seed, stream, count) >> numpy.uint32(8)).astype(numpy.int64)
    return k * below >> 24


# ------------------------------------------------------------------------------------------------
# Rows and options: words of the form key=value

def f32(text):
    """A number as nn.h holds it: PyTorch gets what the library gets."""
    return float(numpy.float32(text))


class Fields:
    def __init__(self, words):
        self.fields = dict(word.split("=") for word in words)

    def text(self, key, default=None):
        return self.fields.get(key, default)

    def int(self, key, default=0):
        return int(self.fields.get(key, default))

    def real(self, key, default=None):
        return f32(self.fields.get(key, default))

    def ints(self, key, default=None):
        return tuple(int(v) for v in self.fields.get(key, default).split(","))

    def pair(self, key, default=None):
        return (self.ints(key, default) * 2)[:2]


class Row(Fields):
    """For example "conv2d c1 x units=32 kernel=3"."""

    def __init__(self, text):
        self.op, self.name, inputs, *words = text.split()
        super().__init__(words)
        self.inputs = [] if inputs == "-" else inputs.split(",")

    def pads(self):
        """As torch.nn.functional.pad wants them."""
        top, left, bottom, right = self.ints("pad", "0,0,0,0")
        return left, right, top, bottom


class Case(Fields):
    """Options are those of nn_opts by the same names, and

    steps        of training
    batches      of batch samples each, taken in turn; default 1
    every        the losses of every so many steps are stored
    gain         factor on the weights
    hard=1       BCE with targets of 0 and 1
    dy=1         gradients are those of a given gradient of the output, not of the loss
    leaves=0     what training leaves behind is not compared; 1: only parameters, and their errors
                 count in the largest of all: at the end of W5 weight and bias share their rounding
    """

    def __init__(self, name, options, rows, **given):
        super().__init__(options.split())
        self.name, self.options, self.rows, self.given = name, options, rows, given


# ------------------------------------------------------------------------------------------------
# A net of rows in PyTorch

class Net:
    """Maps are [n,C,H,W] here, whatever nn.h does."""

    def __init__(self, case, seed):
        self.case, self.seed = case, seed
        self.rows = [Row(text) for text in case.rows.split(";")]
        self.values = {}     # tensors by name
        self.made = []       # name, elements, amplitude, center and whether its row trains
        self.shapes = {}     # of rows' outputs, channels first
        self.moving = False  # a training pass moves the running statistics
        self.margin = math.inf
        first = self.rows[0]
        shape = first.ints("shape")
        self.x_shape = (shape[2], *shape[:2]) if first.text("order") == "chw" else shape
        for row in self.rows:
            inputs = [torch.zeros((2, *self.shapes[name])) for name in row.inputs]
            self.make_tensors(row, inputs)
            with torch.no_grad():
                y = self.apply(row, inputs or [torch.zeros((2, *self.x_shape))], False)
            self.shapes[row.name] = tuple(y.shape[1:])
        self.margin = math.inf

    def make_tensors(self, row, inputs):
        """Amplitudes are powers of two, so that values are exact."""
        if row.op == "batchnorm":
            channels = (inputs[0].shape[1],)
            self.make(row, "weight", channels, 0.5, 1)
            self.make(row, "bias", channels, 0.25)
            self.make(row, "running_mean", channels, 0.5)
            self.make(row, "running_var", channels, 0.5, 1)
        elif row.op in ("dense", "conv2d") and not row.text("share"):
            shape = (row.int("units"), inputs[0].shape[1] // row.int("groups", 1))
            shape += row.pair("kernel") if row.op == "conv2d" else ()
            # Keeps the size of what passes through.
            size = 2.0 ** round(math.log2(math.sqrt(3 / math.prod(shape[1:]))))
            self.make(row, "weight", shape, size * self.case.real("gain", 1))
            if not row.int("no_bias"):
                self.make(row, "bias", shape[:1], 0.25)

    def make(self, row, suffix, shape, amplitude, center=0):
        stream, count = FIRST_TENSOR + len(self.made), math.prod(shape)
        value = torch.from_numpy(gen_floats(self.seed, stream, count, amplitude, center))
        name = row.name + "." + suffix
        self.made.append((name, count, amplitude, center, self.trains(row)))
        parameter = self.trains(row) and not suffix.startswith("running")
        self.values[name] = value.reshape(shape).requires_grad_(parameter)

    def trains(self, row):
        patterns = self.case.text("train", "*").split(",")
        return any(fnmatch.fnmatchcase(row.name, pattern) for pattern in patterns)

    def has_norms(self):
        """Whether training and inference differ."""
        return any(row.op == "batchnorm" and self.trains(row) for row in self.rows)

    def tensor(self, row, suffix):
        return self.values.get((row.text("share") or row.name) + "." + suffix)

    def forward(self, x, training):
        done = {}
        for row in self.rows:
            inputs = [done[name] for name in row.inputs]
            done[row.name] = self.apply(row, inputs or [x], training)
        y = done[self.rows[-1].name]
        return y.permute(0, 2, 3, 1) if y.dim() == 4 else y

    def apply(self, row, inputs, training):
        y = getattr(self, row.op)(row, inputs, training)
        return self.act(y, row.text("act", "linear"), row.real("slope", 0.01))

    def act(self, x, act, slope):
        if act in ("relu", "leaky_relu"):
            self.keep_clear(x.detach().abs(), x)
        return {"linear": lambda: x, "relu": lambda: F.relu(x), "tanh": lambda: torch.tanh(x),
                "leaky_relu": lambda: F.leaky_relu(x, slope), "sigmoid": lambda: torch.sigmoid(x),
                "softmax": lambda: torch.softmax(x, 1)}[act]()

    def keep_clear(self, distances, x):
        """Distances from a kink, in units of x."""
        if distances.numel():
            self.margin = min(self.margin, float(distances.min() / x.detach().abs().max()))

    # The ops, by their names in the text

    def input(self, row, inputs, training):
        x = inputs[0]
        if x.dim() == 4 and row.text("order") != "chw":
            x = x.permute(0, 3, 1, 2)
        x = x * row.real("scale", 1)
        if "mean" in row.fields:
            mean, std = ([f32(v) for v in row.text(key).split(",")] for key in ("mean", "std"))
            x = (x - torch.tensor(mean).reshape(-1, 1, 1)) / torch.tensor(std).reshape(-1, 1, 1)
        return x

    def dense(self, row, inputs, training):
        weight, bias = self.tensor(row, "weight"), self.tensor(row, "bias")
        return F.linear(inputs[0].movedim(1, -1), weight, bias).movedim(-1, 1)

    def conv2d(self, row, inputs, training):
        weight, bias = self.tensor(row, "weight"), self.tensor(row, "bias")
        return F.conv2d(F.pad(inputs[0], row.pads()), weight, bias, row.pair("stride", "1"),
                        0, row.pair("dilation", "1"), row.int("groups", 1))

    def maxpool2d(self, row, inputs, training):
        kernel = row.pair("kernel")
        stride = row.pair("stride", row.text("kernel"))
        x = F.pad(inputs[0], row.pads(), value=-math.inf)
        taps = F.unfold(x.detach(), kernel, stride=stride)
        taps = taps.reshape(*x.shape[:2], math.prod(kernel), -1)
        first, second = taps.topk(2, 2).values.unbind(2)
        # Among zeros of a ReLU it does not matter which is taken: none has a gradient.
        self.keep_clear((first - second)[first != 0], inputs[0])
        return F.max_pool2d(x, kernel, stride)

    def avgpool2d(self, row, inputs, training):
        kernel = row.pair("kernel")
        stride = row.pair("stride", row.text("kernel"))
        if row.int("count_pad"):
            return F.avg_pool2d(F.pad(inputs[0], row.pads()), kernel, stride)
        left, right, top, bottom = row.pads()
        assert (left, top) == (right, bottom)
        return F.avg_pool2d(inputs[0], kernel, stride, (top, left), count_include_pad=False)

    def globalavgpool(self, row, inputs, training):
        return inputs[0].mean((2, 3))

    def globalmaxpool(self, row, inputs, training):
        first, second = inputs[0].detach().flatten(2).topk(2).values.unbind(2)
        self.keep_clear((first - second)[first != 0], inputs[0])
        return inputs[0].amax((2, 3))

    def batchnorm(self, row, inputs, training):
        x = inputs[0]
        weight, bias, mean, var = (self.tensor(row, suffix) for suffix in
                                   ("weight", "bias", "running_mean", "running_var"))
        momentum, eps = row.real("momentum", 0.1), row.real("eps", 1e-5)
        batch = training and self.trains(row)
        if batch and not self.moving:
            mean, var = mean.clone(), var.clone()
        if not (batch and row.int("biased")):
            return F.batch_norm(x, mean, var, weight, bias, batch, momentum, eps)
        # PyTorch always runs the unbiased variance, Keras the biased one.
        dims = [d for d in range(x.dim()) if d != 1]
        with torch.no_grad():
            mean += momentum * (x.mean(dims) - mean)
            var += momentum * (x.var(dims, correction=0) - var)
        return F.batch_norm(x, None, None, weight, bias, True, momentum, eps)

    def dropout(self, row, inputs, training):
        # Masks differ between libraries, so it stands only where it is off: below all that trains.
        assert self.case.text("train") == "head"
        return inputs[0]

    def flatten(self, row, inputs, training):
        x = inputs[0]
        return (x if row.text("order") == "chw" else x.permute(0, 2, 3, 1)).flatten(1)

    def add(self, row, inputs, training):
        return sum(inputs[1:], inputs[0])

    def activation(self, row, inputs, training):
        return inputs[0]

    def loss(self, y, target):
        """In PyTorch's form for the last activation: of logits, or of probabilities."""
        kind, act = self.case.text("loss"), self.rows[-1].text("act")
        if kind == "mse":
            return F.mse_loss(y, target)
        if kind == "bce":
            if act == "sigmoid":
                return F.binary_cross_entropy(y, target)
            return F.binary_cross_entropy_with_logits(y, target)
        y = y.reshape(-1, y.shape[-1])
        return F.nll_loss(y.log(), target) if act == "softmax" else F.cross_entropy(y, target)

    def data(self):
        """Inputs and targets, batch by batch, as the caller of nn.h has them."""
        case, out = self.case, self.shapes[self.rows[-1].name]
        count = case.int("batches", 1)
        n = case.int("batch") * count
        size, out_size = n * math.prod(self.x_shape), n * math.prod(out)
        if case.given:
            x, target = numpy.array(case.given["x"]), numpy.array(case.given["target"])
        elif self.rows[0].text("type") == "u8":
            x = gen_ints(self.seed, X, size, 256)
        else:
            x = gen_floats(self.seed, X, size)
        shape = (n, *out[1:], out[0])
        if case.text("loss") == "cross_entropy":
            target = gen_ints(self.seed, TARGET, out_size // out[0], out[0])
            shape = -1
        elif case.int("hard"):
            target = gen_ints(self.seed, TARGET, out_size, 2)
        elif case.text("loss") == "bce":
            target = gen_floats(self.seed, TARGET, out_size, 0.5, 0.5)
        elif not case.given:
            target = gen_floats(self.seed, TARGET, out_size)
        target = target if shape == -1 else target.astype(float)
        x, target = torch.from_numpy(x.astype(float)), torch.from_numpy(target)
        return x.reshape(n, *self.x_shape).chunk(count), target.reshape(shape).chunk(count)


# ------------------------------------------------------------------------------------------------
# Optimizers

class KerasAdam:
    """Adam as in Keras and ONNX: epsilon is added to the root of the uncorrected second moment."""

    def __init__(self, groups, betas, eps):
        self.groups, self.betas, self.eps, self.steps = groups, betas, eps, 0
        self.state = {p: {"exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
                      for group in groups for p in group["params"]}

    @torch.no_grad()
    def step(self):
        self.steps += 1
        b1, b2 = self.betas
        correction = math.sqrt(1 - b2 ** self.steps) / (1 - b1 ** self.steps)
        for group in self.groups:
            for p in group["params"]:
                m, v = self.state[p]["exp_avg"], self.state[p]["exp_avg_sq"]
                g = p.grad + group["weight_decay"] * p
                m += (1 - b1) * (g - m)
                v += (1 - b2) * (g * g - v)
                p -= group["lr"] * correction * m / (v.sqrt() + self.eps)


STATE = {"momentum_buffer": "opt.mom/", "exp_avg": "opt.m/", "exp_avg_sq": "opt.v/"}


def make_optimizer(net):
    case, groups = net.case, []
    for row in net.rows:
        own = [v for name, v in net.values.items() if name.startswith(row.name + ".")]
        own = [v for v in own if v.requires_grad]
        decay = 0.0 if row.int("no_decay") else case.real("weight_decay", 0)
        if own:
            groups.append({"params": own, "lr": case.real("lr") * row.real("lr", 1),
                           "weight_decay": decay})
    if case.text("optimizer") != "adam":
        return torch.optim.SGD(groups, momentum=case.real("momentum", 0))
    betas = case.real("beta1", 0.9), case.real("beta2", 0.999)
    if case.text("eps_mode") == "keras":
        return KerasAdam(groups, betas, case.real("eps", 1e-7))
    return torch.optim.Adam(groups, betas=betas, eps=case.real("eps", 1e-8))


# ------------------------------------------------------------------------------------------------
# Golden tensors of a case

def first_step(net, gold):
    """Inference and the first gradients, which leave no trace in the net."""
    (x, *_), (target, *_) = net.data()
    with torch.no_grad():
        y = gold["infer"] = net.forward(x, False)
        first = [net.loss(y, target)]
        if net.case.text("loss") == "cross_entropy" and y.dim() == 2:
            gold["correct"] = (y.argmax(1) == target).sum()
    x = x.clone().requires_grad_(net.case.int("input_grad") == 1)
    y = net.forward(x, True)
    if net.has_norms():
        gold["y"] = y
    loss = net.loss(y, target)
    gold["first"] = torch.stack([*first, loss])
    if net.case.int("dy"):
        y.backward(torch.from_numpy(gen_floats(net.seed, DY, y.numel())).reshape(y.shape))
    else:
        loss.backward()
    if x.requires_grad:
        gold["dx"] = x.grad
    for name, value in net.values.items():
        if value.requires_grad:
            assert value.grad.abs().max() > 1e-6, name + ": nothing but rounding"
            gold["grad/" + name] = value.grad.clone()


def train(net, gold):
    xs, targets = net.data()
    optimizer = make_optimizer(net)
    losses = []
    net.moving = True
    for step in range(net.case.int("steps")):
        for value in net.values.values():
            value.grad = None
        loss = net.loss(net.forward(xs[step % len(xs)], True), targets[step % len(xs)])
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    gold["losses"] = torch.tensor(losses[::net.case.int("every", 1)])
    if net.case.text("leaves") == "0":
        return
    if net.has_norms():
        with torch.no_grad():
            gold["after"] = net.forward(xs[0], False)
    for name, _, _, _, trains in net.made:
        if trains:
            gold["after/" + name] = net.values[name]
        for key, value in optimizer.state.get(net.values[name], {}).items():
            if key in STATE and value is not None and not net.case.text("leaves"):
                gold[STATE[key] + name] = value


def find_seed(case):
    """The net, its golden tensors and the margin, for the first seed that is clear of ties: in the
    first step, and in every step whose result is compared to the last digit."""
    for seed in range(1, 2000):
        net, gold = Net(case, seed), {}
        first_step(net, gold)
        margin = net.margin
        if margin >= MARGIN:
            train(net, gold)
            if case.text("leaves") != "0":
                margin = net.margin
            if margin >= MARGIN:
                return net, gold, margin
    sys.exit(case.name + ": no seed is clear of ties")


def store(tensors, name, value):
    """Small tensors whole. Of large ones every stride-th element, stride prime to all dimensions so
    that every row and column is met, and as NAME# the count of all elements, stride, their sum, sum
    of squares and largest size."""
    value = numpy.ascontiguousarray(value.detach().numpy(), float)
    flat = value.reshape(-1)
    if flat.size <= FULL:
        tensors[name] = value.astype(numpy.float32)
        return
    stride = next(s for s in range(2, 1000)
                  if flat.size <= s * FULL and all(math.gcd(s, d) == 1 for d in value.shape))
    tensors[name] = flat[::stride].astype(numpy.float32)
    tensors[name + "#"] = numpy.array([flat.size, stride, math.fsum(flat), math.fsum(flat * flat),
                                       numpy.abs(flat).max()])


def write(path, cases):
    tensors, lines = {}, []
    for case in cases:
        net, gold, margin = find_seed(case)
        print("%-24s seed %3d  margin %.1e  loss %.4g to %.4g" % (
            case.name, net.seed, margin, gold["losses"][0], gold["losses"][-1]))
        if case.name in WRITTEN_OUT:
            check_written_out(Net(case, net.seed), gold["losses"])
        lines += ["case " + case.name, "rows " + case.rows, "opts " + case.options]
        lines += ["seed %d" % net.seed]
        lines += ["tensor %s %d %r %r %d" % made for made in net.made]
        for key, value in gold.items():
            store(tensors, case.name + "/" + key, value)
        for key, value in case.given.items():
            tensors[case.name + "/" + key] = numpy.array(value, numpy.float32)
    tensors["generator"] = gen_floats(7, 5, 64, 0.25, 1).astype(numpy.float32)
    # One entry of metadata: the package stores several in no fixed order.
    safetensors.numpy.save_file(tensors, path, {"cases": "\n".join(lines)})
    os.chmod(path, 0o644)
    print("%s: %d cases, %d bytes" % (os.path.basename(path), len(cases), os.path.getsize(path)))


# ------------------------------------------------------------------------------------------------
# The workloads as a user of PyTorch writes them, to check that the rows mean the same

nn = torch.nn

def w1_layers():
    return [nn.Linear(10, 64), nn.ReLU(), nn.Linear(64, 1)]


def w2_layers():
    return [nn.Linear(1000, 500), nn.ReLU(), nn.Linear(500, 10)]


def w3_layers():
    return [nn.Conv2d(3, 32, 3), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(64, 64, 3), nn.ReLU(), nn.Flatten(),
            nn.Linear(1024, 64), nn.ReLU(), nn.Linear(64, 10)]


def w5_layers():
    return [nn.Linear(1, 1)]


SGD, Adam = torch.optim.SGD, torch.optim.Adam
WRITTEN_OUT = {
    "w1": (w1_layers, nn.MSELoss, SGD, {"lr": 0.01}),
    "w2": (w2_layers, nn.CrossEntropyLoss, Adam, {"lr": 0.001}),
    "w3": (w3_layers, nn.CrossEntropyLoss, Adam, {"lr": 0.001}),
    "w5_batch": (w5_layers, nn.MSELoss, SGD, {"lr": 0.01}),
    "w5_sample": (w5_layers, nn.MSELoss, SGD, {"lr": 0.01}),
    "w5_momentum": (w5_layers, nn.MSELoss, SGD, {"lr": 0.01, "momentum": 0.9}),
}


def check_written_out(net, losses):
    layers, loss_function, optimizer, options = WRITTEN_OUT[net.case.name]
    modules, loss_function = nn.Sequential(*layers()), loss_function()
    start = [value.detach() for value in net.values.values()]
    modules.load_state_dict(dict(zip(modules.state_dict(), start, strict=True)))
    optimizer = optimizer(modules.parameters(), **options)
    xs, targets = net.data()
    every = net.case.int("every", 1)
    for step in range(5 * every):
        x = xs[step % len(xs)]
        x = x.permute(0, 3, 1, 2) / 255 if x.dim() == 4 else x
        optimizer.zero_grad()
        loss = loss_function(modules(x), targets[step % len(xs)])
        loss.backward()
        optimizer.step()
        if step % every == 0:
            # Learning rates and the like are rounded to float32 in one and not in the other.
            assert abs(loss.item() - losses[step // every]) <= 1e-6 * losses[0], net.case.name


# ------------------------------------------------------------------------------------------------
# The table

W3 = ("input x - shape=32,32,3 type=u8 scale=0.003921568859;"
      "conv2d c1 x units=32 kernel=3 act=relu; maxpool2d p1 c1 kernel=2;"
      "conv2d c2 p1 units=64 kernel=3 act=relu; maxpool2d p2 c2 kernel=2;"
      "conv2d c3 p2 units=64 kernel=3 act=relu; flatten f c3 order=%s;"
      "dense d1 f units=64 act=relu; dense d2 d1 units=10")
W3_OPTIONS = "loss=cross_entropy optimizer=adam lr=0.001 batch=4 batches=2 steps=10 leaves=0"
W5 = "input x - shape=1; dense d x units=1"
W5_OPTIONS = "loss=mse lr=0.01 steps=1000 every=10 leaves=1 "
LINE = {"x": [1, 2, 3, 4], "target": [2, 4, 6, 8]}

WORKLOADS = [
    Case("w1", "loss=mse lr=0.01 batch=32 batches=4 steps=50 input_grad=1 leaves=0",
         "input x - shape=10; dense d1 x units=64 act=relu; dense d2 d1 units=1"),
    Case("w2", "loss=cross_entropy optimizer=adam lr=0.001 batch=32 batches=4 steps=50 leaves=0",
         "input x - shape=1000; dense d1 x units=500 act=relu; dense d2 d1 units=10"),
    Case("w3", W3_OPTIONS, W3 % "chw"),
    Case("w3_hwc", W3_OPTIONS, W3 % "hwc"),
    Case("w5_batch", W5_OPTIONS + "batch=4", W5, **LINE),
    Case("w5_sample", W5_OPTIONS + "batch=1 batches=4", W5, **LINE),
    Case("w5_momentum", W5_OPTIONS + "batch=4 momentum=0.9", W5, **LINE),
]

SAME = "pad=1,1,1,1"
MAP = "7,6,3"
OPS = []


def add_cases(options, *cases):
    """Each of batch, name, shape of the input, rows after the input, further options."""
    for batch, name, shape, rows, *more in cases:
        words = [options, "batch=%d" % batch, *more]
        OPS.append(Case(name, " ".join(words), "input x - shape=%s; %s" % (shape, rows)))


# One op each; behind pools and norms something that trains
SHORT = "loss=mse lr=0.125 batches=2 steps=3 "
add_cases(
    SHORT + "input_grad=1",
    (5, "dense_1", "17", "dense d x units=1"),
    (1, "dense_3", "5", "dense d x units=3"),
    (5, "dense_16", "3", "dense d x units=16"),
    (5, "dense_17", "16", "dense d x units=17"),
    (3, "dense_33_from_40", "40", "dense d x units=33 act=relu"),
    (5, "dense_from_1", "1", "dense d x units=17"),
    (5, "dense_no_bias", "17", "dense d x units=17 no_bias=1"),
    (5, "dense_1_no_bias", "40", "dense d x units=1 no_bias=1"),
    (2, "dense_map", "3,5,6", "dense d x units=4 act=tanh"),
    (2, "dense_map_17", "3,3,17", "dense d x units=17"),
    (3, "conv_3x2", MAP, "conv2d c x units=5 kernel=3,2"),
    (2, "conv_5x1", "9,4,2", "conv2d c x units=3 kernel=5,1"),
    (3, "conv_stride_2", MAP, "conv2d c x units=5 kernel=3 stride=2"),
    (3, "conv_stride_1x2", MAP, "conv2d c x units=5 kernel=3 stride=1,2"),
    (3, "conv_stride_over_kernel", MAP, "conv2d c x units=5 kernel=2 stride=3"),
    (2, "conv_dilation_2", MAP, "conv2d c x units=5 kernel=3,2 dilation=2"),
    (2, "conv_dilation_1x3", MAP, "conv2d c x units=5 kernel=2 dilation=1,3"),
    (2, "conv_same", MAP, "conv2d c x units=5 kernel=3 " + SAME),
    (2, "conv_four_pads", MAP, "conv2d c x units=5 kernel=4 pad=1,0,2,3"),
    (2, "conv_everything", "9,8,4", "conv2d c x units=6 kernel=3,2 stride=2,1 dilation=1,2 "
     "pad=2,1,0,1 groups=2 act=leaky_relu"),
    (3, "conv_groups_2", "5,4,6", "conv2d c x units=4 kernel=3 groups=2"),
    (3, "conv_depthwise", "5,4,5", "conv2d c x units=5 kernel=3 groups=5 " + SAME),
    (2, "conv_depthwise_17", "5,4,17", "conv2d c x units=17 kernel=3 stride=2 groups=17 act=relu"),
    (3, "conv_depthwise_x2", "5,4,3", "conv2d c x units=6 kernel=3,2 groups=3"),
    (1, "conv_1x1", MAP, "conv2d c x units=17 kernel=1"),
    (3, "conv_1x1_stride", MAP, "conv2d c x units=4 kernel=1 stride=2"),
    (2, "conv_16_from_16", "4,4,16", "conv2d c x units=16 kernel=3"),
    (2, "conv_33_from_17", "3,4,17", "conv2d c x units=33 kernel=2 no_bias=1"),
    (5, "conv_one_pixel", "1,1,3", "conv2d c x units=5 kernel=3 " + SAME),
    (3, "conv_whole_image", MAP, "conv2d c x units=5 kernel=7,6 act=tanh"),
    (2, "conv_twice", MAP, "conv2d a x units=4 kernel=3 act=relu;"
     "conv2d b a units=3 kernel=3 act=relu"),
    (2, "conv_pool", MAP, "conv2d c x units=17 kernel=3 act=relu " + SAME + ";"
     "maxpool2d p c kernel=2"),
    (3, "conv_pool_overlap", MAP, "conv2d c x units=5 kernel=2 act=relu;"
     "maxpool2d p c kernel=3 stride=2 " + SAME),
    (3, "conv_pool_tanh", MAP, "conv2d c x units=5 kernel=3; maxpool2d p c kernel=2,3 stride=1,2;"
     "activation t p act=tanh"),
    (2, "conv_pool_conv", "9,9,2", "conv2d c x units=5 kernel=2 act=leaky_relu;"
     "maxpool2d p c kernel=2; conv2d e p units=4 kernel=2 act=relu"),
    (3, "maxpool_2", MAP, "maxpool2d p x kernel=2; conv2d c p units=2 kernel=1"),
    (3, "maxpool_3_stride_2", MAP, "conv2d c x units=4 kernel=1; activation t c act=tanh;"
     "maxpool2d p t kernel=3 stride=2 " + SAME),
    (3, "maxpool_2x3", MAP, "conv2d c x units=4 kernel=1; activation t c act=tanh;"
     "maxpool2d p t kernel=2,3 stride=1,2"),
    (3, "maxpool_four_pads", MAP, "conv2d c x units=4 kernel=1; activation t c act=tanh;"
     "maxpool2d p t kernel=3 stride=2 pad=2,0,1,2"),
    (3, "avgpool_2", MAP, "conv2d c x units=4 kernel=1; avgpool2d p c kernel=2"),
    (3, "avgpool_3_pad", MAP, "conv2d c x units=4 kernel=1;"
     "avgpool2d p c kernel=3 stride=2 " + SAME),
    (3, "avgpool_3_count_pad", MAP, "conv2d c x units=4 kernel=1;"
     "avgpool2d p c kernel=3 stride=2 count_pad=1 " + SAME),
    (3, "avgpool_four_pads", MAP, "conv2d c x units=4 kernel=1;"
     "avgpool2d p c kernel=3,2 stride=2,1 pad=2,0,1,1 count_pad=1"),
    (3, "globalavgpool", MAP, "conv2d c x units=17 kernel=3 act=relu; globalavgpool g c;"
     "dense d g units=2"),
    (3, "globalmaxpool", MAP, "conv2d c x units=17 kernel=3 act=relu; globalmaxpool g c;"
     "dense d g units=2"),
    (3, "flatten_hwc", MAP, "flatten f x; dense d f units=5"),
    (3, "flatten_chw", MAP, "flatten f x order=chw; dense d f units=5"),
    (3, "flatten_chw_after_pool", MAP, "conv2d c x units=5 kernel=2 act=relu;"
     "maxpool2d p c kernel=2; flatten f p order=chw; dense d f units=3"),
    (9, "batchnorm_vector", "5", "dense d x units=7 no_bias=1; batchnorm n d"),
    (3, "batchnorm_map", MAP, "batchnorm n x; conv2d c n units=4 kernel=3"),
    (2, "batchnorm_relu", MAP, "conv2d c x units=17 kernel=3 no_bias=1; batchnorm n c act=relu"),
    (3, "batchnorm_keras", MAP, "conv2d c x units=5 kernel=3 no_bias=1;"
     "batchnorm n c biased=1 momentum=0.01 eps=0.001; activation t n act=tanh"),
    (3, "add", "5", "dense a x units=7 act=tanh; dense b a units=7; add s a,b act=relu;"
     "dense e s units=2"),
    (3, "add_three", "7", "dense a x units=7 act=tanh; dense b a units=7; add s b,x,a;"
     "dense e s units=2"),
    (2, "add_maps", MAP, "conv2d a x units=3 kernel=3 act=tanh " + SAME + "; add s x,a;"
     "conv2d b s units=2 kernel=2"),
    (3, "fan_out", "5", "dense a x units=6 act=sigmoid; dense b a units=4 act=tanh;"
     "dense c a units=4; dense d a units=4 act=relu; add s b,c,d"),
    (3, "share", "6", "dense a x units=6 act=tanh; dense b a units=6 act=tanh share=a;"
     "dense c b units=2"),
    (3, "input_scaled", MAP + " scale=2 mean=0.25,-0.5,0.125 std=0.5,2,1.5",
     "conv2d c x units=4 kernel=3"),
    (3, "input_chw", MAP + " order=chw", "conv2d c x units=4 kernel=3,2"),
)
add_cases(
    SHORT,
    (3, "input_u8", "5,4,3 type=u8 scale=0.00390625 mean=0.5,0.25,0.75 std=0.5,2,1.5",
     "conv2d c x units=4 kernel=3"),
    (3, "input_u8_chw", "5,4,3 type=u8 order=chw scale=0.00390625",
     "conv2d c x units=4 kernel=3,2"),
)

# Activations: of a row that has weights, as a row, and over the channels of a map
for act in ("relu", "leaky_relu", "leaky_relu slope=0.2", "sigmoid", "tanh", "softmax"):
    short = act.replace(" slope=", "_")
    add_cases(
        SHORT + "input_grad=1",
        (5, "act_" + short, "6", "dense d x units=17 act=" + act),
        (5, "act_row_" + short, "6", "dense d x units=17; activation t d act=" + act, "dy=1"),
        (1, "act_map_" + short, MAP, "conv2d c x units=5 kernel=3 act=" + act, "dy=1"),
    )

# Losses
add_cases(
    SHORT + "input_grad=1",
    (5, "mse_one", "5", "dense d x units=1"),
    (2, "mse_map", MAP, "conv2d c x units=2 kernel=3"),
)
BCE = SHORT.replace("mse", "bce") + "input_grad=1"
add_cases(
    BCE,
    (5, "bce_logits", "5", "dense d x units=3"),
    (5, "bce_hard", "5", "dense d x units=1", "hard=1"),
    (5, "bce_large", "5", "dense d x units=3", "hard=1 gain=32"),
    (5, "bce_sigmoid", "5", "dense d x units=3 act=sigmoid"),
    (5, "bce_sigmoid_row", "5", "dense d x units=1; activation s d act=sigmoid", "hard=1"),
    (2, "bce_map", MAP, "conv2d c x units=2 kernel=3 act=sigmoid"),
)
add_cases(
    BCE.replace("bce", "cross_entropy"),
    (5, "ce_logits", "5", "dense d x units=10"),
    (5, "ce_17", "5", "dense d x units=17"),
    (5, "ce_2", "5", "dense d x units=2"),
    (5, "ce_large", "5", "dense d x units=10", "gain=32"),
    (5, "ce_softmax", "5", "dense d x units=10 act=softmax"),
    (5, "ce_softmax_row", "5", "dense d x units=10; activation s d act=softmax"),
    (2, "ce_positions", MAP, "conv2d c x units=4 kernel=3"),
    (2, "ce_positions_softmax", MAP, "conv2d c x units=4 kernel=3 act=softmax"),
)

# Optimizers: at rates that move parameters by about their own size
MLP = "dense a x units=17 act=tanh; dense b a units=3"
ROWS = "dense a x units=17 act=tanh lr=0.25; dense b a units=3 no_decay=1"
add_cases(
    "loss=mse batches=3 steps=10",
    (8, "sgd", "6", MLP, "lr=0.5"),
    (8, "sgd_momentum", "6", MLP, "lr=0.125 momentum=0.9"),
    (8, "sgd_decay", "6", MLP, "lr=0.5 weight_decay=0.1"),
    (8, "sgd_momentum_decay", "6", MLP, "lr=0.125 momentum=0.5 weight_decay=0.1"),
    (8, "sgd_rows", "6", ROWS, "lr=0.25 momentum=0.9 weight_decay=0.1"),
    (8, "adam", "6", MLP, "optimizer=adam lr=0.05"),
    (8, "adam_eps", "6", MLP, "optimizer=adam lr=0.05 eps=0.01"),
    (8, "adam_betas", "6", MLP, "optimizer=adam lr=0.05 beta1=0.5 beta2=0.9"),
    (8, "adam_decay", "6", MLP, "optimizer=adam lr=0.05 weight_decay=0.1"),
    (8, "adam_rows", "6", ROWS, "optimizer=adam lr=0.05 weight_decay=0.1"),
    (8, "adam_keras", "6", MLP, "optimizer=adam lr=0.05 eps_mode=keras"),
    (8, "adam_keras_eps", "6", MLP, "optimizer=adam lr=0.05 eps_mode=keras eps=0.01"),
    (8, "adam_keras_decay", "6", MLP, "optimizer=adam lr=0.05 eps_mode=keras weight_decay=0.1"),
)

# A residual net, whole and with rows frozen. A frozen norm uses its running statistics.
# What stands between a norm and the loss must not be constant over a map, as a global pool's
# gradient is: the norm takes the mean out, and what is left would be mostly rounding.
NET = ("conv2d c1 x units=8 kernel=3 no_bias=1 %s; batchnorm n1 c1 act=relu;"
       "conv2d c2 n1 units=8 kernel=3 no_bias=1 %s; batchnorm n2 c2; add s2 n2,n1 act=relu;"
       "conv2d c3 s2 units=8 kernel=3 no_bias=1 %s; batchnorm n3 c3; add s3 n3,s2 act=relu;"
       "maxpool2d p s3 kernel=4; flatten f p order=chw; " % (SAME, SAME, SAME))
WHOLE = NET + "dense head f units=10"
DROPOUT = NET + "dropout o f rate=0.5; dense head o units=10"
add_cases(
    "loss=cross_entropy batches=3 steps=10",
    (4, "residual_sgd", "8,8,3", WHOLE, "lr=0.01 momentum=0.9 input_grad=1"),
    (4, "residual_adam", "8,8,3", WHOLE, "optimizer=adam lr=0.003"),
    (4, "frozen_head", "8,8,3", DROPOUT, "optimizer=adam lr=0.01 train=head"),
    (4, "frozen_head_dx", "8,8,3", DROPOUT, "lr=0.02 train=head input_grad=1"),
    (4, "frozen_norms", "8,8,3", WHOLE,
     "lr=0.02 momentum=0.9 weight_decay=0.1 train=c*,head input_grad=1"),
    (4, "frozen_middle", "8,8,3", WHOLE, "optimizer=adam lr=0.003 train=c2,n3"),
)


def main():
    folder = sys.argv[1] if len(sys.argv) > 1 else os.path.dirname(os.path.abspath(__file__))
    torch.set_num_threads(1)  # one order of summation
    torch.set_default_dtype(torch.float64)
    write(os.path.join(folder, "torch_workloads.safetensors"), WORKLOADS)
    write(os.path.join(folder, "torch_ops.safetensors"), OPS)


if __name__ == "__main__":
    main()
