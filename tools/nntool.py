#!/usr/bin/env python3
"""nntool - models from PyTorch, Keras, ONNX and TFLite for nn.h, and fine-tuned weights back.

    nntool.py convert net.pt --graph rows.txt -o net.nn    a model file, checked against its source
    nntool.py info net.nn                                  shapes, parameters, memory to the byte
    nntool.py c net.nn -o net.h                            for firmware
    nntool.py export tuned.nn --to pytorch --like net.pt -o tuned.pt

From Python, for a live model:

    import nntool
    nntool.torch_export(module, example, "net.nn")         example: one batch of inputs
    nntool.torch_import("tuned.nn", module)                fine-tuned weights back into it
    nntool.keras_export(model, "net.nn")
"""

import argparse
import importlib
import os
import sys
import types

try:
    import numpy as np
except ImportError:
    sys.exit("nntool: needs the package numpy: pip install numpy")

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from nntools import check, draw, emit, file, simplify  # noqa: E402
from nntools.engine import CHOICES, Engine  # noqa: E402
from nntools.model import RECURRENT, Error, Refused, canonical, rows_text  # noqa: E402

FRONT_ENDS = {".pt": "pytorch", ".pth": "pytorch", ".bin": "pytorch", ".safetensors": "pytorch",
              ".keras": "keras", ".h5": "keras", ".hdf5": "keras", ".onnx": "onnx",
              ".tflite": "tflite"}
LARGE = 1 << 24  # bytes from which on progress is told


def front_end(path):
    """The module that reads files of this name."""
    kind = FRONT_ENDS.get(os.path.splitext(path)[1].lower())
    if kind is None:
        raise Error(f"{path}: what it is cannot be told from its name: one of "
                    f"{' '.join(FRONT_ENDS)} is wanted")
    return load_front_end(kind)


def load_front_end(kind):
    return importlib.import_module(f"nntools.{kind}")


def options_of(**given):
    """Options of a conversion, with defaults."""
    options = dict(inference=False, graph=None, input_shape=None, samples=3, seed=0, half=None,
                   ignore=(), loss=None, example=None, tolerance=check.TOLERANCE)
    strange = set(given) - set(options)
    if strange:
        raise Error(f"no option is called {min(strange)}")
    return types.SimpleNamespace(**{**options, **given})


def say(text):
    print(text, file=sys.stderr, flush=True)


# --------------------------------------------------------------------------------------------------
# convert

def read_source(path, options):
    """The Model of any source, or of a model file."""
    if path.endswith(".nn"):
        return file.read_model(path)
    if options.graph and options.graph.endswith(".onnx"):
        options.graph = load_front_end("onnx").read(options.graph, options).rows
    return front_end(path).read(path, options)


def source_outputs(source, model, x):
    """The source framework's outputs, or those of the rows as NumPy computes them; and who's."""
    if not isinstance(source, str) or not source.endswith(".nn"):
        ends = front_end(source) if isinstance(source, str) else load_front_end("keras")
        y = getattr(ends, "reference", lambda *_: None)(source, check.channels_last(model, x))
        if y is not None:
            return (y[0] if isinstance(y, (list, tuple)) else y), "the source"
    return check.last_output(model, x), "NumPy"


def not_onto(source, *outputs):
    """An output must not take the place of what it is made from."""
    for output in outputs:
        if os.path.exists(output) and os.path.exists(source) and os.path.samefile(source, output):
            raise Error(f"{output} would be written over its source: give another name with -o")


def finish(model, source, output, options):
    """Rows and tensors become a checked file: nothing is written unless C agrees."""
    if options.inference:
        simplify.for_inference(model)
    model.rows = canonical(model.rows)
    image = file.write_model(model, options.half)
    net = Engine().load(image)  # what is wrong with the rows, C says best
    if model.samples:
        (x, y), who = model.samples[0], "the source"
    else:
        x = check.inputs_for(model, options.samples, options.seed)
        y, who = source_outputs(source, model, x)
    if options.half:
        model = file.parse_model(image, output)
        rounded = check.last_output(model, x)
        model.notes.append(f"stored as {options.half}: the outputs are off by "
                           f"{check.deviation(rounded, y):.2g} of the largest")
        y, who = rounded, "NumPy, with the weights as stored"
    if not np.isfinite(y).all():
        raise Error("the outputs are not all finite, and agree with nothing: is a weight NaN or "
                    "infinite?")
    if len(y) > 1 and (y == y[0]).all():
        model.notes.append("the output does not depend on the input: the check says little")
    tests = check.tests_of(model, x, y)
    off = check.run(net, image, tests, output, options.tolerance)
    meta = {"source": who, "tolerance": str(options.tolerance)}
    file.write_atomically(output, image)
    file.write_atomically(check.beside(output), file.safetensors(meta, tests))
    return [f"{output}: {len(model.rows)} rows, {len(image)} bytes; C agrees with {who} within "
            f"{off:.1g} of the largest output", *model.notes]


def convert(source, output, **options):
    """A model file from a source file; notes for the user. Raises Error or Refused, and then has
    written nothing."""
    options = options_of(**options)
    if isinstance(source, str):
        not_onto(source, output, check.beside(output))
    large = isinstance(source, str) and os.path.exists(source) and os.path.getsize(source) >= LARGE
    if large and sys.stderr.isatty():
        say(f"reading {source}, {os.path.getsize(source) >> 20} MiB")
    model = read_source(source, options)
    if large and sys.stderr.isatty():
        say("checking it in C")
    notes = model.notes
    model.notes = []
    return finish(model, source, output, options) + notes


def torch_export(module, example, output, **options):
    """A live torch.nn.Module as a model file. example: an input, with a batch dimension."""
    options = options_of(example=example, **options)
    model = load_front_end("torchfx").read_live(module, options)
    return finish(model, None, output, options)


def torch_import(path, module, optimizer=None):
    """A model file's tensors, and its training state, into a live module and its optimizer."""
    return load_front_end("torchfx").load_into(file.read_model(path), module, optimizer)


def keras_export(model, output, **options):
    """A live Keras model as a model file."""
    options = options_of(**options)
    return finish(load_front_end("keras").read_live(model, options), model, output, options)


# --------------------------------------------------------------------------------------------------
# The other commands

def macs(row, shape, tensors):
    """Multiplications with weights for one sample."""
    weights = sum(int(np.prod(s)) for name, s in tensors.items() if ".weight" in name)
    if row.op in ("dense", "conv1d", "conv2d"):
        return weights * int(np.prod(shape)) // row.fields["units"]
    return weights if row.op in RECURRENT else 0


def table(lines):
    """Columns as wide as they need to be; numbers to the right."""
    widths = [max(len(str(line[k])) for line in lines) for k in range(len(lines[0]))]
    return "\n".join("  ".join(str(v).rjust(w) if isinstance(v, int) else str(v).ljust(w)
                               for v, w in zip(line, widths)).rstrip() for line in lines)


def by_row(net, model):
    """Shapes of the tensors of each row, shared ones with their owner alone."""
    result = {row.name: {} for row in model.rows}
    for name, shape in net.tensors().items():
        result[name.rpartition(".")[0]][name] = shape
    return result


def describe(path, batch=1, optimizer="adam", loss=None):
    """The text of info: of rows, and of the memory that C's planner says it needs."""
    image = file.read_bytes(path)
    model, engine = file.parse_model(image, path), Engine()
    net = engine.load(image)
    tensors, steps = by_row(net, model), {}
    lines, total, work = [("row", "op", "output", "parameters", "MACs")], 0, 0
    for row, (name, op, shape) in zip(model.rows, net.rows()):
        count = sum(int(np.prod(s)) for s in tensors[name].values())
        times = steps[row.inputs[0]] if op in RECURRENT else 1
        steps[name] = shape[0] if len(shape) == 2 else 1
        cost = times * macs(row, shape, tensors[name])
        lines.append((name, op, "x".join(map(str, shape)), count, cost))
        total, work = total + count, work + cost
    lines.append(("", "", "", total, work))
    if loss is None:
        loss = "mse"
    memory = [("trained", "bytes of RAM", "with weights in place")]
    plain = [engine.memory(image, batch=batch, in_place=k) for k in (0, 1)]
    memory.append(("nothing (inference)", *plain))
    names = []
    for row in reversed(model.rows):
        if not tensors[row.name]:
            continue
        names.insert(0, row.name)
        train = dict(train=" ".join(names), batch=batch, optimizer=optimizer, loss=loss, lr=0.1)
        label = "everything" if len(names) == sum(map(bool, tensors.values())) else \
            f"from {row.name} on"
        memory.append((label, *(engine.memory(image, in_place=k, **train) for k in (0, 1))))
    return f"{table(lines)}\n\nbatch {batch}, {optimizer}, {loss}:\n{table(memory)}"


def compare(a, b):
    """The text of diff, and whether the files are equal in rows and tensors."""
    left, right = file.read_model(a), file.read_model(b)
    lines = []
    rows = [{r.name: rows_text(canonical([r]))[2:] for r in m.rows} for m in (left, right)]
    for name in dict.fromkeys([*rows[0], *rows[1]]):
        old, new = rows[0].get(name), rows[1].get(name)
        if old != new:
            lines += [f"- {old}"] * bool(old) + [f"+ {new}"] * bool(new)
    for name in dict.fromkeys([*left.tensors, *right.tensors]):
        old, new = left.tensors.get(name), right.tensors.get(name)
        if old is None or new is None:
            lines.append(f"{name}: only in {b if old is None else a}")
        elif old.shape != new.shape:
            lines.append(f"{name}: {list(old.shape)} and {list(new.shape)}")
        elif old.tobytes() != new.tobytes():
            changed = int((old.view(np.uint8).reshape(old.size, -1) !=
                           new.view(np.uint8).reshape(new.size, -1)).any(1).sum()) \
                if old.size else 0
            off = np.abs(new.astype(np.float64) - old)
            lines.append(f"{name}: {changed} of {old.size} elements differ, by {off.max():.3g} at "
                         f"most, {off.mean():.3g} on average; the largest is "
                         f"{np.abs(old).max():.3g}")
    if left.training != right.training:
        lines.append("the training states differ")
    return "\n".join(lines), not lines


def convert_command(a):
    for line in convert(a.source, a.output or os.path.splitext(a.source)[0] + ".nn",
                        inference=a.inference, graph=a.graph, input_shape=a.input_shape,
                        half=a.half, ignore=a.ignore, loss=a.loss, seed=a.seed,
                        tolerance=a.tolerance):
        print(line)


def info_command(a):
    print(describe(a.model, a.batch, a.optimizer, a.loss))


def check_command(a):
    tests = a.tests or check.beside(a.model)
    meta, tensors = file.read_safetensors(tests)
    image = file.read_bytes(a.model)
    try:
        tolerance = float(meta.get("tolerance", check.TOLERANCE))
    except ValueError:
        raise Error(f"{tests}: its tolerance is no number") from None
    off = check.run(Engine().load(image), image, tensors, a.model, tolerance)
    print(f"{a.model}: C agrees with {meta.get('source', 'its tests')} within {off:.1g} of the "
          f"largest output, for {len(tensors['input'])} inputs")


def c_command(a):
    not_onto(a.model, a.output)
    image = file.read_bytes(a.model)
    model = file.parse_model(image, a.model)
    model.rows = canonical(model.rows)
    name = emit.identifier(a.name or os.path.splitext(os.path.basename(a.output))[0])
    options = dict(batch=a.batch, steps=a.steps, stateful=int(a.stateful))
    if a.train is not None:
        options.update(train=a.train, loss=a.loss, optimizer=a.optimizer, lr=a.lr,
                       momentum=a.momentum, fuse_update=int(a.fuse_update))
    net = Engine().load(image, **options)
    plan = net.plan(name, a.in_place)
    text = emit.header(model, name, os.path.basename(a.model), plan,
                       net.panels if a.in_place else None)
    file.write_atomically(a.output, text.encode(errors="replace"))
    print(f"{a.output}: {name}_plan takes {plan.split()[2]} bytes of RAM")


def diff_command(a):
    text, same = compare(a.a, a.b)
    print(text or "no difference")
    return 0 if same else 1


def draw_command(a):
    not_onto(a.model, a.output)
    image = file.read_bytes(a.model)
    model = file.parse_model(image, a.model)
    shapes = {name: shape for name, _, shape in Engine().load(image).rows()}
    file.write_atomically(a.output, draw.svg(model.rows, shapes).encode())


def export_command(a):
    not_onto(a.model, a.output)
    model = file.read_model(a.model)
    kind = "pytorch" if a.to == "safetensors" else a.to
    if a.to == "safetensors" and not a.output.endswith(".safetensors"):
        raise Error("a file for --to safetensors is called .safetensors")
    for note in load_front_end(kind).write(model, a.output, a.like) or ():
        print(note)


# --------------------------------------------------------------------------------------------------
# The command line

def command(commands, name, run, about, examples):
    text = f"{about}\n\nexamples:\n" + "\n".join("  nntool.py " + e for e in examples)
    parser = commands.add_parser(name, help=about.split("\n")[0], description=text,
                                 formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.set_defaults(run=run)
    return parser


ROWS_HELP = """
A state dict (.pt, .pth, .safetensors) holds tensors, but no layers. Give those as rows, one a line:
    op name input key=value ...
where a name is the module's path in the state dict:

    input x - shape=32,32,3 order=chw
    conv2d conv1 x units=32 kernel=3 act=relu
    maxpool2d pool1 conv1 kernel=2
    flatten flat pool1 order=chw
    dense fc flat units=10

order=chw: what PyTorch fed and flattened is planes. The ops and their keys stand in nn.h, >>manual.
An .onnx file of the same net, or nntool.torch_export(module, example) in Python, spare the rows."""


def shape(text):
    return tuple(int(n) for n in text.split(","))


def seed(text):
    if not text.isdecimal():
        raise ValueError
    return int(text)


def training_arguments(parser, train=True):
    parser.add_argument("--batch", type=int, default=1, help="largest number of samples")
    parser.add_argument("--optimizer", choices=CHOICES["optimizer"], default="adam")
    parser.add_argument("--loss", choices=CHOICES["loss"][1:], default="mse")
    if train:
        parser.add_argument("--train", help='plan for training these rows: "head", "*"')
        parser.add_argument("--lr", type=float, default=0.001)
        parser.add_argument("--momentum", type=float, default=0.0)
        parser.add_argument("--fuse-update", action="store_true", help="no gradients in RAM")


def parser():
    top = argparse.ArgumentParser(description=__doc__,
                                  formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    p = command(commands, "convert", convert_command,
                "make a model file, and check it in C\n" + ROWS_HELP,
                ["convert net.keras -o net.nn", "convert net.onnx", "convert net.tflite",
                 "convert net.pt --graph rows.txt -o net.nn",
                 "convert checkpoint.pt --graph rows.txt --loss cross_entropy   "
                 "(goes on with its Adam)",
                 "convert net.onnx --inference --half f16   (small, and not to be trained)"])
    p.add_argument("source")
    p.add_argument("-o", "--output", help="default: SOURCE with .nn")
    p.add_argument("--graph", help="rows of a state dict: a text, or an .onnx file")
    p.add_argument("--inference", action="store_true",
                   help="fold batch norms where that is exact, drop dropout; not to be trained")
    p.add_argument("--half", choices=["f16", "bf16"], help="store weights in 16 bits")
    p.add_argument("--input-shape", type=shape,
                   help="of one sample, where the source leaves it open: 28,28,1")
    p.add_argument("--ignore", action="append", default=[], metavar="PATTERN",
                   help="tensors of a state dict that the outputs do not need")
    p.add_argument("--loss", choices=CHOICES["loss"][1:],
                   help="the loss of a checkpoint: its optimizer's state is then kept")
    p.add_argument("--seed", type=seed, default=0, help="of the stored samples")
    p.add_argument("--tolerance", type=float, default=check.TOLERANCE,
                   help="how far C may be off, of the largest output; default %(default)g")

    p = command(commands, "info", info_command,
                "rows, parameters and work; memory for inference and every depth of training",
                ["info net.nn", "info net.nn --batch 16 --optimizer sgd --loss cross_entropy"])
    p.add_argument("model")
    training_arguments(p, train=False)

    p = command(commands, "check", check_command,
                "run C on the samples stored with the conversion; name the first row that is off",
                ["check net.nn", "check tuned.nn --tests net.test.safetensors"])
    p.add_argument("model")
    p.add_argument("--tests", help="default: MODEL with .test.safetensors")

    p = command(commands, "c", c_command,
                "a C header: rows, weights and a constant plan, without planner and loader",
                ["c net.nn -o net.h", 'c net.nn -o net.h --train head --loss cross_entropy '
                 '--batch 4 --lr 0.01'])
    p.add_argument("model")
    p.add_argument("-o", "--output", required=True)
    p.add_argument("--name", help="prefix of the names in C; default: from OUTPUT")
    p.add_argument("--in-place", action="store_true",
                   help="weights that do not train lie as the kernels read them: faster")
    p.add_argument("--steps", type=int, default=0, help="length of sequences; 1: for nn_step")
    p.add_argument("--stateful", action="store_true", help="for nn_step: states are kept")
    training_arguments(p)

    p = command(commands, "diff", diff_command, "how two model files differ, by row and tensor",
                ["diff net.nn tuned.nn"])
    p.add_argument("a")
    p.add_argument("b")

    p = command(commands, "draw", draw_command, "the rows as an SVG", ["draw net.nn -o net.svg"])
    p.add_argument("model")
    p.add_argument("-o", "--output", required=True)

    p = command(commands, "export", export_command, "weights back to where they came from",
                ["export tuned.nn --to pytorch --like net.pt -o tuned.pt",
                 "export tuned.nn --to keras --like net.keras -o tuned.weights.h5",
                 "export tuned.nn --to onnx -o tuned.onnx"])
    p.add_argument("model")
    p.add_argument("--to", choices=["pytorch", "keras", "onnx", "safetensors"], required=True)
    p.add_argument("--like", help="the source: what is written has its names and shapes")
    p.add_argument("-o", "--output", required=True)
    return top


def main(arguments=None):
    options = parser().parse_args(arguments)
    try:
        return options.run(options) or 0
    except Refused as refused:
        say(f"nntool: {len(refused.layers)} layer{'s' * (len(refused.layers) != 1)} cannot be "
            f"converted, nothing was written:\n{refused}")
        return 2
    except Error as error:
        say(f"nntool: {error}")
        return 1
    except (KeyboardInterrupt, BrokenPipeError):
        return 130


if __name__ == "__main__":
    sys.exit(main())
