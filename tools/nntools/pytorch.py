"""PyTorch: state dicts in, state dicts and optimizer states out, without PyTorch. Live modules are
torchfx.py's.

A state dict holds no layers, so rows come from a text (or another front end), and tensors find
their place by name: row "conv1" has "conv1.weight" (a prefix that all keys share, such as
"module.", may stand before it)."""

import fnmatch
import os
import re

import numpy as np

from . import file, ptfile
from .engine import Engine
from .model import Error, Model, parse_rows, real, tensor_names

IGNORED = ("num_batches_tracked", "position_ids")  # buffers that mean nothing to nn.h
BUFFERS = ("running_mean", "running_var", "num_batches_tracked")
Q63 = 1 << 63


# --------------------------------------------------------------------------------------------------
# State dicts

def load_source(path):
    """The tree of dicts of a .pt, .pth or .safetensors file."""
    if path.endswith(".safetensors"):
        return file.read_safetensors(path)[1]
    return ptfile.load(path)


def is_state_dict(value):
    return isinstance(value, dict) and bool(value) and \
        all(isinstance(key, str) for key in value) and \
        any(isinstance(v, np.ndarray) for v in value.values())


def is_optimizer(value):
    return isinstance(value, dict) and isinstance(value.get("state"), dict) and \
        isinstance(value.get("param_groups"), list)


def arrays_of(state):
    return {key: v for key, v in state.items() if isinstance(v, np.ndarray)}


def named(path):
    return ".".join(str(key) for key in path) or "the whole file"


def state_dicts(root):
    """(path, arrays by key) of every state dict in a checkpoint, and the same of optimizers."""
    states, optimizers, below = [], [], []
    for path, value in ptfile.walk(root):
        if any(path[:len(p)] == p for p in below):
            continue
        if is_optimizer(value):
            optimizers.append((path, value))
            below.append(path)
        elif is_state_dict(value):
            states.append((path, arrays_of(value)))
            below.append(path)
    return states, optimizers


def row_name(module):
    """The row's name of a module's path: as it is, wherever nn.h can have it."""
    name = re.sub(r"[^A-Za-z0-9._/-]", "_", module).lstrip("-")
    return "_" + name if name.startswith(("opt.", "aux.")) else name


def tensor_name(key):
    module, _, suffix = key.rpartition(".")
    return f"{row_name(module) or 'module'}.{suffix}"  # "weight", of a layer on its own


def sharing(rows):
    """{name of a tensor a row shares: name of the tensor it is}."""
    result, by_name = {}, {row.name: row for row in rows}
    for row in rows:
        if row.share not in by_name:
            continue
        owner = row.share + "."
        theirs = {name[len(owner):] for name in tensor_names(by_name[row.share])}
        for name in tensor_names(row):
            suffix = name[len(row.name) + 1:]
            if suffix in theirs:
                result[name] = result.get(owner + suffix, owner + suffix)
    return result


def wanted(rows):
    """Names of all tensors that rows read, but of those that are another use of a module."""
    return [name for row in rows if not is_another_use(row) for name in tensor_names(row)]


def is_another_use(row):
    """The rows of a module that runs several times are called fc, fc/2, fc/3."""
    return bool(row.share) and re.fullmatch(re.escape(row.share) + r"/\d+", row.name) is not None


def fit(rows, keys):
    """{tensor's name: key}: of the prefix that finds the most; and the prefix."""
    names, shared = wanted(rows), sharing(rows)
    by_name = {tensor_name(key): key for key in keys}
    ends = tuple(names[:1]) + tuple(names[-1:])
    prefixes = {""} | {name[:-len(end)] for name in by_name for end in ends if name.endswith(end)}
    prefixes = sorted(p for p in prefixes if not p or p.endswith("."))

    def found(prefix):
        return {name: by_name[prefix + name] for name in names if prefix + name in by_name}
    prefix = max(prefixes, key=lambda p: (len(found(p)), p == ""), default="")
    result = found(prefix)
    missing = [name for name in names if name not in result and name not in shared]
    return result, missing, prefix


def hint_of(keys):
    if any(key.endswith(("weight_g", "original0")) for key in keys):
        return "; weight norm must be removed before saving (torch.nn.utils.remove_weight_norm)"
    return ""


def listed(names, most=4):
    names = list(names)
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


def check_unused(state, used, ignore, what):
    """No tensor may stay behind unnoticed: a forgotten layer is silently wrong."""
    unused = [key for key in state if key not in used
              and not key.endswith(IGNORED)
              and not any(fnmatch.fnmatchcase(key, pattern) for pattern in ignore)]
    if unused:
        raise Error(f"{what}: no row has the tensor{'s' if len(unused) > 1 else ''} "
                    f"{listed(unused)}{hint_of(unused)}; give the rows that are missing, or "
                    f"--ignore '{unused[0]}' if the outputs do not need it")
    return [key for key in state if key not in used and not key.endswith(IGNORED)]


def bind(rows, state, what, ignore=()):
    """A state dict's arrays as the tensors of rows; (tensors by name, keys by name, notes)."""
    keys, missing, prefix = fit(rows, state)
    if missing:
        raise Error(f"{what} lacks {listed(missing)}; it has {listed(state, 8)}{hint_of(state)}")
    ignored = check_unused(state, set(keys.values()), ignore, what)
    shared, tensors = sharing(rows), {}
    for name, key in keys.items():
        values = state[key]
        if values.dtype.kind != "f":
            raise Error(f"{what}: {key} holds {values.dtype}, where floats are needed")
        owner = shared.get(name)
        if owner is None:
            tensors[name] = np.ascontiguousarray(values, "<f4")
        elif owner in tensors and tensors[owner].shape == values.shape and \
                not np.array_equal(tensors[owner], values, equal_nan=True):
            raise Error(f"{what}: {key} and {keys[owner]} differ, but row "
                        f"{name.rpartition('.')[0]} shares them")
        elif owner in tensors and tensors[owner].shape != values.shape:
            tensors[name] = np.ascontiguousarray(values, "<f4")
    notes = [f"the prefix {prefix} was left out"] if prefix else []
    first = {}
    for name in tensors:
        twin = first.setdefault(id(state[keys[name]]), name)
        if twin != name:
            notes.append(f"{twin} and {name} are one tensor in the source, but train apart here: "
                         f"share={twin.rpartition('.')[0]} would keep them one")
    if ignored:
        notes.append(f"not used: {listed(ignored, 20)}")
    return tensors, keys, notes


def choose(states, rows, what):
    """The state dict that fits the rows best: (path, arrays); the others' paths."""
    if not states:
        raise Error(f"{what} holds no state dict")
    best = max(states, key=lambda s: len(fit(rows, s[1])[0]) - len(fit(rows, s[1])[1]))
    return best, [path for path, _ in states if path != best[0]]


def read_rows(options):
    """The rows of a state dict's model: Row objects, or the path of their text."""
    graph = getattr(options, "graph", None)
    if not graph:
        raise Error("a state dict holds tensors and no layers: give its rows with --graph rows.txt "
                    "(see nntool.py convert --help), or convert the live module with "
                    "nntool.torch_export(module, example)")
    if not isinstance(graph, str):
        return graph
    try:
        text = file.read_bytes(graph, 1 << 24).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise Error(f"{graph} is no text of rows: it is not in UTF-8") from None
    return parse_rows(text)


def read(path, options):
    """A state dict and options.graph as a Model, with the optimizer's state where it fits."""
    rows = read_rows(options)
    root = load_source(path)
    states, optimizers = state_dicts(root)
    (at, state), others = choose(states, rows, path)
    what = f"{path} ({named(at)})" if at else path
    ignore = getattr(options, "ignore", None) or ()
    try:
        tensors, keys, notes = bind(rows, state, what, ignore)
    except Error:
        Engine().build(rows)  # a mistake in the rows is the better thing to hear of
        raise
    if at:
        notes.insert(0, f"taken from {named(at)}")
    notes += [f"left out: {named(path)}" for path in others]
    model = Model(rows, tensors, source=f"pytorch {os.path.basename(path)}", notes=notes)
    for place, optimizer in optimizers:
        read_optimizer(model, optimizer, state, keys, named(place), options)
    return model


# --------------------------------------------------------------------------------------------------
# Optimizer states

def parameters(state):
    """Keys of a state dict that are parameters, in their order, shared ones once."""
    seen, result = set(), []
    for key, values in state.items():
        if key.endswith(BUFFERS) or key.endswith(IGNORED):
            continue
        place = values.__array_interface__["data"][0], values.shape, values.strides
        if place not in seen:
            seen.add(place)
            result.append(key)
    return result


def power(beta, t):
    """beta^t as nn.h counts it: a fraction of 2^63, rounded down at each step."""
    if not 0 <= beta < 1 or t < 0:
        raise ValueError("no Adam has this")
    factor, result = int(float(np.float32(beta)) * Q63), Q63
    for _ in range(t):
        result = (result * factor >> 64) << 1
        if not result:
            break
    return result


def scalar(value):
    return float(np.asarray(value).reshape(-1)[0])


class Unfit(Exception):
    """Why an optimizer's state cannot be taken over."""


def group_of(optimizer):
    """The one param_group, of an optimizer that nn.h has."""
    groups = optimizer["param_groups"]
    if len(groups) != 1 or not isinstance(groups[0], dict):
        raise Unfit("it has several groups of parameters")
    group = groups[0]
    for key, why in (("amsgrad", "amsgrad"), ("nesterov", "Nesterov's momentum"),
                     ("dampening", "dampening"), ("maximize", "maximize")):
        if group.get(key):
            raise Unfit(f"nn.h has no {why}")
    if "betas" in group and group.get("weight_decay") and \
            group.get("decoupled_weight_decay", True):
        raise Unfit("its weight decay is, or may be, AdamW's")
    return group


def training_text(group, adam, t, loss):
    """nn.train of a PyTorch optimizer."""
    b1, b2 = group["betas"] if adam else (0.9, 0.999)
    losses = {"mse": 1, "bce": 2, "cross_entropy": 3}
    numbers = [("lr", group["lr"]), ("mom", 0.0 if adam else group["momentum"]), ("b1", b1),
               ("b2", b2), ("eps", group["eps"] if adam else 1e-8),
               ("wd", group.get("weight_decay") or 0.0)]
    text = [f"loss={losses[loss]} opt={int(adam)} epsmode=0"]
    text += [f"{key}={real(float(scalar(value)))}" for key, value in numbers]
    powers = [power(b, t) if adam else Q63 for b in (b1, b2)]
    text += ["seed=%016x t=%016x b1t=%016x b2t=%016x" % (0, t, *powers), "train=*"]
    return " ".join(text)


def moments(optimizer, state, keys, tensors):
    """(opt.* tensors, updates done, is it Adam) of an optimizer over the state dict's keys."""
    order = parameters(state)
    group, entries = group_of(optimizer), optimizer["state"]
    if len(group.get("params", ())) != len(order):
        raise Unfit(f"it is over {len(group.get('params', ()))} parameters, the state dict has "
                    f"{len(order)}")
    if isinstance(group.get("param_names"), list):
        order = group["param_names"]
    adam, found, steps = "betas" in group, {}, set()
    places = {key: n for n, key in zip(group["params"], order)}
    for name in tensors:
        entry = entries.get(places.get(keys[name]))
        if name.endswith(BUFFERS):
            continue
        if not isinstance(entry, dict):
            raise Unfit(f"it has nothing for {keys[name]}")
        kinds = [("opt.m/", "exp_avg"), ("opt.v/", "exp_avg_sq")] if adam else \
            [("opt.mom/", "momentum_buffer")]
        for prefix, kind in kinds:
            values = entry.get(kind)
            if not isinstance(values, np.ndarray) or values.shape != state[keys[name]].shape:
                raise Unfit(f"its {kind} of {keys[name]} is not of that tensor's shape")
            found[prefix + name] = values.astype("<f4")
        strange = set(entry) - {"step", *(kind for _, kind in kinds)}
        if strange:
            raise Unfit(f"nn.h has no {min(strange)}")
        steps.add(int(scalar(entry["step"])) if adam else 0)
    if len(steps) != 1:
        raise Unfit("its parameters have taken different numbers of steps")
    return found, steps.pop(), adam


def read_optimizer(model, optimizer, state, keys, what, options):
    """Takes an optimizer's state over into the model, or notes why not."""
    try:
        group = group_of(optimizer)
        if not optimizer["state"] or not {"amsgrad", "nesterov"} & set(group):
            raise Unfit("it has none, or is neither Adam nor SGD")
        found, t, adam = moments(optimizer, state, keys, model.tensors)
        if not getattr(options, "loss", None):
            raise Unfit("give --loss mse, bce or cross_entropy to keep it")
        if model.training:
            raise Unfit("there is another before it")
        model.training = training_text(group, adam, t, options.loss)
        model.tensors.update(found)
        model.notes.append(f"the optimizer's state {what} was taken over: {t or 'momentum'}"
                           f"{' steps of Adam' if adam else ''}")
    except Unfit as why:
        model.notes.append(f"the optimizer's state {what} was left out: {why}")
    except (KeyError, TypeError, ValueError, IndexError, OverflowError):
        model.notes.append(f"the optimizer's state {what} was left out: it is damaged")


# --------------------------------------------------------------------------------------------------
# Back

def all_tensors(model):
    """Every tensor of every row by name, shared ones too."""
    shared, result = sharing(model.rows), {}
    for name in wanted(model.rows):
        owner = name if name in model.tensors else shared.get(name)
        if owner not in model.tensors:
            raise Error(f"the model lacks {name}")
        result[name] = model.tensors[owner]
    return result


def state_dict(model, like=None):
    """The model's tensors as PyTorch has them: {key: array}, all keys of like in its order."""
    values = all_tensors(model)
    if like is None:
        return values
    keys, missing, _ = fit(model.rows, like)
    if missing:
        raise Error(f"the model to export to lacks {listed(missing)}")
    names = {key: name for name, key in keys.items()}
    result = {}
    for key, old in like.items():
        if key not in names:
            result[key] = old
            continue
        new = values[names[key]]
        if new.shape != old.shape:
            raise Error(f"{key} is of shape {list(new.shape)} here, but of {list(old.shape)} in "
                        "the model to export to; without that, all is written as it is here")
        result[key] = new
    return result


def parse_training(text):
    """nn.train as a dict; reals as floats."""
    fields = dict(word.partition("=")[::2] for word in text.split(" train=")[0].split())
    values = {}
    for key, value in fields.items():
        if value.startswith("x"):
            bits = np.array([int(value[1:], 16)], "<u4")
            values[key] = float(str(bits.view("<f4")[0]))  # 0.9, not 0.8999999761581421
        else:
            values[key] = int(value, 16 if len(value) == 16 else 10)
    return values


def optimizer_state(model, order):
    """The training state as a torch optimizer's state_dict(), over parameters in this order: names
    of tensors, None where the model has no such."""
    t = parse_training(model.training)
    group = {"lr": t["lr"], "weight_decay": t["wd"], "maximize": False, "foreach": None,
             "differentiable": False, "fused": None}
    if t["opt"] and t["epsmode"]:
        raise Error("the training state is of Adam in Keras' form, which PyTorch has not")
    if t["opt"]:
        group.update(betas=(t["b1"], t["b2"]), eps=t["eps"], amsgrad=False, capturable=False,
                     decoupled_weight_decay=False)
        kinds = [("exp_avg", "opt.m/"), ("exp_avg_sq", "opt.v/")]
    else:
        group.update(momentum=t["mom"], dampening=0, nesterov=False)
        kinds = [("momentum_buffer", "opt.mom/")] if t["mom"] else []
    state = {}
    for i, name in enumerate(order):
        if name is None or not kinds or kinds[0][1] + name not in model.tensors:
            continue
        state[i] = {"step": np.array(t["t"], np.float32)} if t["opt"] else {}
        for key, prefix in kinds:
            state[i][key] = model.tensors[prefix + name]
    group["params"] = list(range(len(order)))
    return {"state": state, "param_groups": [group]}


def best_like(model, like):
    """The state dict of the file like that fits the model's rows, or None."""
    if like is None or isinstance(like, dict):
        return like
    states, _ = state_dicts(load_source(like))
    return choose(states, model.rows, like)[0][1]


def write(model, path, like=None):
    """The model as a state dict: .pt, .pth or .safetensors. Its training state, if any, becomes an
    optimizer's state in PATH.optimizer.pt, for which like is needed: it says in which order the
    parameters come. Returns notes."""
    like = best_like(model, like)
    state, notes = state_dict(model, like), []
    if path.endswith(".safetensors"):
        file.write_atomically(path, file.safetensors({"format": "pt"}, state))
    else:
        ptfile.save(path, state)
    if not model.training:
        return notes
    if like is None:
        return ["the optimizer's state was left out: give --like, the state dict that the model "
                "was made from, for the order of its parameters"]
    keys, _, _ = fit(model.rows, like)
    shared = sharing(model.rows)
    names = {key: shared.get(name, name) for name, key in keys.items()}
    strange = [key for key in parameters(like) if key not in names]
    if strange:
        return [f"the optimizer's state was left out: whether {strange[0]} is a parameter cannot "
                "be told"]
    order = parameters(like)
    beside = os.path.splitext(path)[0] + ".optimizer.pt"
    ptfile.save(beside, optimizer_state(model, [names[key] for key in order]))
    return [f"the optimizer's state is in {beside}"]
