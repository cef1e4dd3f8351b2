"""Keras 2 and 3: .keras and .h5 files and live models to rows, and fine-tuned weights back.

Nothing that a file holds is ever executed: its JSON says which layers there are, its HDF5 holds the
numbers, and keraslayers.py knows what they mean.
"""

import argparse
import contextlib
import importlib.util
import io
import os
import re
import sys
import tempfile
import zipfile

import numpy as np

from . import hdf5
from .file import write_atomically
from .kerasfile import (JSON_MAX, GroupStore, No, PathStore, blaming, leaves, open_archive,
                        values_of, walk, zip_member)
from .keraslayers import KINDS, ONLY_TRAINS, Converter, act_of, real_of, variable_of
from .model import Error, real
from .pytorch import Q63, parse_training, power


@contextlib.contextmanager
def weights_of(archive, root, content=None):
    """The store of an archive's weights, or of a bytearray of them that may be changed."""
    with blaming(archive.what):
        f = hdf5.File(archive.weights if content is None else content)
        yield (GroupStore if archive.legacy else PathStore)(f, root)


def converted(archive, options):
    """A Converter that has seen all layers and numbers."""
    with blaming(archive.what):
        converter = Converter(archive, options).convert()
    with weights_of(archive, converter.root) as store:
        converter.fill(store)
        if not converter.inference:
            read_training(converter, store)
    model = converter.model
    model.source = f"keras {archive.version} {os.path.basename(archive.what)}"
    return converter


def read(path, options):
    """The Model of a .keras or .h5 file."""
    return converted(open_archive(path), options).model


@contextlib.contextmanager
def saved(live):
    """A live model as a file, for as long as the block runs."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model.keras")
        try:
            live.save(path)
        except (AttributeError, TypeError, ValueError, NotImplementedError) as reason:
            raise Error(f"Keras cannot save this model: {str(reason)[:200]}") from None
        yield path


def read_live(live, options):
    """The Model of a live Sequential or Functional model."""
    with saved(live) as path:
        model = read(path, options)
    model.source = model.source.replace(" model.keras", "")
    return model


# --------------------------------------------------------------------------------------------------
# The state of training: Adam's moments, momentum

LOSSES = {"mse": 1, "meansquarederror": 1, "bce": 2, "binarycrossentropy": 2,
          "sparsecategoricalcrossentropy": 3, "categoricalcrossentropy": 3}
LOSS_NAMES = {1: "mse", 2: "bce", 3: "cross_entropy"}
OPTIMIZERS = {"adam": {"learning_rate": 1e-3}, "sgd": {"learning_rate": 1e-2}}
PLAIN_ONLY = ("amsgrad", "nesterov", "weight_decay", "decay", "clipnorm", "clipvalue",
              "global_clipnorm", "use_ema", "gradient_accumulation_steps", "loss_scale_factor")


class Unfit(Exception):
    """Why a state of training cannot be taken over."""


def loss_of(entry, last):
    """The number of a loss in nn.h; it must take the last row's output as nn.h does."""
    config = {}
    if isinstance(entry, dict):
        config = entry.get("config") if isinstance(entry.get("config"), dict) else {}
        named = config.get("name") if entry.get("class_name") == "function" else None
        entry = named or (entry["config"] if isinstance(entry.get("config"), str) else
                          entry.get("class_name"))
    loss = LOSSES.get(str(entry).replace("_", "").lower(), 0)
    if not loss:
        raise Unfit(f"nn.h has no loss {str(entry)[:40]}")
    if config.get("label_smoothing") or config.get("ignore_class") is not None:
        raise Unfit("its loss smooths or ignores labels")
    act = last.fields.get("act", "linear")
    wanted = {1: act, 2: "sigmoid", 3: "softmax"}[loss]
    if config.get("from_logits") and loss > 1:
        wanted = "linear"
    if act != wanted:
        raise Unfit(f"its loss takes the last layer's {act} outputs otherwise than nn.h")
    return loss


def compiled(training, last):
    """What compile() got, as nn.h's options: a dict."""
    entry = training.get("optimizer")
    entry = {"class_name": entry, "config": {}} if isinstance(entry, str) else entry
    if not isinstance(entry, dict):
        raise Unfit("")
    kind = str(entry.get("class_name")).split(">")[-1].lower()
    if kind not in OPTIMIZERS:
        raise Unfit(f"nn.h has no optimizer {kind[:40]}")
    config = {**OPTIMIZERS[kind], **entry["config"]}
    for key in PLAIN_ONLY:
        if config.get(key):
            raise Unfit(f"nn.h has no {key}" + " of Keras' kind" * (key == "weight_decay"))
    rate = config["learning_rate"]
    if isinstance(rate, dict) and "value" in rate.get("config", {}):
        rate = rate["config"]["value"]
    result = {"adam": kind == "adam", "rate": rate if isinstance(rate, (int, float)) else None,
              "momentum": 0.0 if kind == "adam" else real_of(config, "momentum", 0.0),
              "b1": real_of(config, "beta_1", 0.9), "b2": real_of(config, "beta_2", 0.999),
              "eps": real_of(config, "epsilon", 1e-7)}
    result["loss"] = loss_of(training.get("loss"), last)
    return result


def trained(converter):
    """Names of the rows that train in Keras, and of those with weights that do not."""
    on, off = {}, {}
    for binding in converter.bindings.values():
        row = binding.names[0].rpartition(".")[0]
        (on if binding.variable.trainable else off)[row] = True
    return list(on), [row for row in off if row not in on]


def slots_of(store, variables, count):
    """(counter, learning rate or None, data sets by variable: one for each of count kinds)."""
    sets = store.optimizer()
    scalars = [each for each in sets if each.shape == ()]
    slots = [each for each in sets if each.shape != ()]
    if not scalars or scalars[0].dtype.kind not in "iu" or len(slots) != count * len(variables):
        raise Unfit("the file has no state of it that fits")
    has_rate = len(scalars) == 2 and scalars[1].dtype.kind == "f"
    rate = float(scalars[1].values()) if has_rate else None
    n, names = len(variables), [each.path for each in slots]
    if count == 2 and all(re.search(r"/m(_\d+)?(:0)?\Z", name) for name in names[:n]):
        pairs = [(slots[i], slots[n + i]) for i in range(n)]  # Keras 2
    else:
        pairs = [tuple(slots[count * i:count * (i + 1)]) for i in range(n)]
    for variable, pair in zip(variables, pairs):
        if any(each.shape != pair[0].shape for each in pair):
            raise Unfit(f"its state of {variable.owner} has another order")
    return int(scalars[0].values()), rate, dict(zip(variables, pairs))


def training_variables(root):
    seen = {}
    for leaf in leaves(root):
        seen.update({variable: True for variable in leaf.variables if variable.trainable})
    return list(seen)


def moments_of(c, store, model, adam, rate):
    """(updates done, learning rate, tensors opt.*) of the optimizer in the file."""
    variables = training_variables(c.root)
    step, stored, slots = slots_of(store, variables, 2 if adam else 1)
    rate = stored if stored is not None else rate
    if not rate or not np.isfinite(rate) or rate < 0 or not 0 <= step < 1 << 40:
        raise Unfit("its learning rate is none that nn.h can go on with")
    prefixes, found = (["opt.m/", "opt.v/"] if adam else ["opt.mom/"]), {}
    for binding in c.bindings.values():
        for prefix, dataset in zip(prefixes, slots.get(binding.variable, ())):
            values = values_of(dataset, binding.shape)
            if not adam:
                values = values / np.float32(-rate)  # Keras' velocity is -lr times PyTorch's
            for name, tensor in zip(binding.names, binding.layout.there(values)):
                found[prefix + name] = np.ascontiguousarray(tensor)
    on, _ = trained(c)
    for name in model.tensors:  # constants of Keras that nn.h trains
        row, _, end = name.rpartition(".")
        if row in on and not end.startswith("running_"):
            for prefix in prefixes:
                found.setdefault(prefix + name, np.zeros_like(model.tensors[name]))
    return step, rate, found


def read_training(c, store):
    """What compile() got as a note, and the optimizer's state as nn.train, where nn.h has both."""
    model, on, off = c.model, *trained(c)
    if off and on:
        c.note(f'frozen in the source: {", ".join(off)}: opts.train = "{" ".join(on)}" is the rest')
    if not c.archive.training:
        return
    try:
        t = compiled(c.archive.training, model.rows[-1])
        c.note(f"compiled in the source with loss={LOSS_NAMES[t['loss']]} " +
               (f"optimizer=adam eps_mode=keras beta1={t['b1']:g} beta2={t['b2']:g} "
                f"eps={t['eps']:g}" if t["adam"] else
                f"optimizer=sgd momentum={t['momentum']:g}") +
               (f" lr={t['rate']:g}" if t["rate"] else ""))
        if not on or not (t["adam"] or t["momentum"]) or not store.optimizer():
            return
        step, rate, found = moments_of(c, store, model, t["adam"], t["rate"])
    except Unfit as why:
        if str(why):
            c.note(f"what the source was compiled with is left out: {why}")
        return
    except No as no:
        c.note(f"what the source was compiled with is left out: {no.reason}")
        return
    if not step:
        return
    powers = [power(b, step) if t["adam"] else Q63 for b in (t["b1"], t["b2"])]
    numbers = [("lr", rate), ("mom", t["momentum"]), ("b1", t["b1"]), ("b2", t["b2"]),
               ("eps", t["eps"]), ("wd", 0.0)]
    model.training = " ".join(
        [f"loss={t['loss']} opt={int(t['adam'])} epsmode={int(t['adam'])}"] +
        [f"{key}={real(value)}" for key, value in numbers] +
        ["seed=%016x t=%016x b1t=%016x b2t=%016x" % (0, step, *powers),
         "train=" + (" ".join(on) if off else "*")])
    model.tensors.update(found)
    c.note(f"the optimizer's state was taken over, after {step} steps")


# --------------------------------------------------------------------------------------------------
# Back

def put(dataset, values):
    if dataset.dtype.kind != "f":
        raise Error(f"{dataset.path} holds {dataset.dtype}, which cannot be written: save the "
                    "source in float32")
    if dataset.shape != values.shape:
        raise Error(f"{dataset.path} is of another shape in the source")
    dataset.put(values)


def check_names(c, model):
    """Do the model and the Keras model have the same tensors?"""
    wanted = {name for binding in c.bindings.values() for name in binding.names}
    have = {name for name in model.tensors if not name.startswith("opt.")}
    for name in sorted(wanted - have):
        raise Error(f"the model has no {name}, which {c.archive.what} needs: export goes back to "
                    "the file it was converted from, without --inference")
    for name in sorted(have - wanted):
        constant = c.constants.get(name)
        if constant is None:
            raise Error(f"{c.archive.what} has no place for {name}")
        if not np.array_equal(model.tensors[name], constant):
            raise Error(f"{name} was trained, but in Keras it is a constant: train without its "
                        "row, or give the Keras layer scale=True and center=True")


def write_training(c, store, model):
    """The optimizer's state, or a fresh one where the model has none; notes."""
    datasets = store.optimizer()
    if not datasets:
        return []
    why, t = "", None
    try:
        how = compiled(c.archive.training, c.model.rows[-1])
        count = 2 if how["adam"] else 1 if how["momentum"] else 0
        variables = training_variables(c.root)
        _, _, slots = slots_of(store, variables, count)
        t = parse_training(model.training) if model.training else None
        if t is None:
            why = "the model has none"
        elif t["opt"] != how["adam"] or (t["opt"] and not t["epsmode"]):
            why, t = "the model was trained with another optimizer", None
        scalars = [each for each in datasets if each.shape == ()]
        scalars[0].put(t["t"] if t else 0)
        if t and len(scalars) == 2:
            scalars[1].put(t["lr"])
        fill_slots(c, model, slots, how["adam"], t)
    except (Unfit, No):
        return ["the optimizer's state in the file is still the source's: nn.h has none of its "
                "kind"]
    return [f"the optimizer's state is fresh: {why}"] if why else []


def fill_slots(c, model, slots, adam, t):
    prefixes = ("opt.m/", "opt.v/") if adam else ("opt.mom/",)
    for variable, pair in slots.items():
        binding = c.bindings[variable]
        for prefix, dataset in zip(prefixes, pair):
            parts = [model.tensors.get(prefix + name) for name in binding.names]
            if t is None or any(part is None for part in parts):
                put(dataset, np.zeros(dataset.shape, np.float32))
                continue
            values = binding.layout.back(parts)
            put(dataset, values if adam else values * np.float32(-t["lr"]))


def write(model, path, like):
    """The model's weights as Keras has them; like: the .keras or .h5 file, or the live model, that
    it was converted from. path says what is written: X.weights.h5 for load_weights, or a whole
    model, X.keras or X.h5, of like's kind. Returns notes."""
    if like is None:
        raise Error("export to Keras needs the source, for its layers: give --like")
    if not isinstance(like, str):
        with saved(like) as temporary:
            return write(model, path, temporary)
    archive = open_archive(like)
    only_weights = path.endswith(".weights.h5")
    if not only_weights and path.endswith(".keras") == archive.legacy:
        raise Error(f"{path} cannot be made from {like}: give a path of the same kind, or one that "
                    "ends with .weights.h5")
    settings = argparse.Namespace(inference=False, input_shape=input_shape_of(model))
    c = converted(archive, settings)
    check_names(c, model)
    content = bytearray(archive.weights)
    with weights_of(archive, c.root, content) as store:
        for binding in c.bindings.values():
            tensors = [model.tensors[name] for name in binding.names]
            for name, tensor in zip(binding.names, tensors):
                if tensor.shape != c.model.tensors[name].shape:
                    raise Error(f"{name} is {list(tensor.shape)}, but {like} needs "
                                f"{list(c.model.tensors[name].shape)}")
            put(store.dataset(binding.variable), binding.layout.back(tensors))
        notes = write_training(c, store, model)
        if only_weights and archive.legacy:
            content = by_paths(c, store)
    if path.endswith(".keras"):
        content = rezipped(archive, content)
    write_atomically(path, bytes(content))
    return notes


def input_shape_of(model):
    shape = model.rows[0].fields.get("shape")
    return tuple(int(n) for n in shape) if shape else None


def by_paths(c, store):
    """All weights as a .weights.h5 of Keras 3."""
    try:
        import h5py
    except ImportError:
        raise Error("a .weights.h5 from a .h5 is written with the package h5py: pip install h5py"
                    ) from None
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as f:
        for leaf in leaves(c.root):
            for variable in leaf.variables:
                if variable.path not in f:
                    f[variable.path] = store.dataset(variable).values()
    return buffer.getvalue()


def rezipped(archive, weights):
    """The archive with other weights."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive.content)) as old, \
            zipfile.ZipFile(buffer, "w") as new:
        for name in ("metadata.json", "config.json"):
            if name in old.namelist():
                new.writestr(zipfile.ZipInfo(name), zip_member(old, name, JSON_MAX, 1100))
        new.writestr(zipfile.ZipInfo("model.weights.h5"), bytes(weights))
    return buffer.getvalue()


# --------------------------------------------------------------------------------------------------
# What Keras itself computes

def framework():
    """The keras package, or None. It needs one of its backends."""
    if "keras" not in sys.modules and not os.environ.get("KERAS_BACKEND"):
        for name in ("tensorflow", "torch", "jax"):
            if importlib.util.find_spec(name):
                os.environ["KERAS_BACKEND"] = name
                break
    try:
        import keras
    except ImportError:
        return None
    return keras


NOT_BUILT = {"seed", "noise_shape", "lora_rank", "lora_alpha", "input_length", "fused",
             "time_major", "implementation", "unroll", "stateful", "dropout", "recurrent_dropout",
             "unit_forget_bias", "synchronized", "renorm", "renorm_clipping", "renorm_momentum",
             "return_state", "go_backwards", "mean", "variance", "invert"}


class Rebuilt:
    """The model made anew of Keras' own layers, with the settings that were checked and the
    weights: nothing in the file is given to Keras to load."""

    def __init__(self, keras, c, store):
        self.keras, self.store, self.made = keras, store, {}
        start = keras.Input(c.shape)
        end = walk(c.root, [start], None, self.apply)
        self.model = keras.Model(start, end)
        for layer, built in self.made.items():
            if layer.variables and layer.kind != "Normalization":
                built.set_weights([self.store.values(variable) for variable in layer.variables])

    def apply(self, layer, values, _, training):
        if layer.children is not None:
            return walk(layer, values, training, self.apply)
        if layer.kind in ("op NotEqual", "op LogicalOr"):
            return None  # Keras finds masks by itself
        if layer.kind in ONLY_TRAINS or layer.kind in ("InputLayer", "Identity", "Dropout"):
            return values[0]
        if layer not in self.made:
            kind = layer.kind.replace("op ", "")
            self.made[layer] = self.build(kind, layer.config, layer)
        return self.made[layer](values if KINDS[layer.kind][2] else values[0])

    def build(self, kind, config, layer):
        settings = {key: config[key] for key in KINDS[kind][1].split()
                    if key in config and key not in NOT_BUILT}
        if "layer" in settings:
            inner = settings["layer"]
            settings["layer"] = self.build(inner["class_name"], inner["config"], None)
        settings.pop("backward_layer", None)
        if not kind.startswith("Conv"):
            settings.pop("groups", None)  # Keras 2 writes it of all convolutions
        if isinstance(settings.get("activation"), dict):
            act, slope = act_of(settings["activation"])
            settings["activation"] = (self.keras.layers.LeakyReLU(slope)
                                      if act == "leaky_relu" else act)
        if kind == "Normalization":
            given = config.get("mean") is not None
            for key in ("mean", "variance"):
                settings[key] = (config[key] if given else
                                 self.store.values(variable_of(layer, key, "")).tolist())
        if kind == "GRU" and "reset_after" not in settings:
            settings["reset_after"] = False
        return getattr(self.keras.layers, kind)(**settings)


def reference(source, inputs):
    """[outputs] of Keras for NumPy inputs [n, ...]; None when it is not installed. source: a path
    or a live model."""
    if not isinstance(source, str):
        shape = source.input_shape[1:]
        inputs = inputs.reshape(len(inputs), *(inputs.shape[1:] if None in shape else shape))
        return [np.asarray(source.predict(inputs, verbose=0))]
    keras = framework()
    if keras is None:
        return None
    archive = open_archive(source)
    settings = argparse.Namespace(inference=True, input_shape=tuple(inputs.shape[1:]))
    c = converted(archive, settings)
    with weights_of(archive, c.root) as store:
        live = Rebuilt(keras, c, store).model
    return [np.asarray(live.predict(inputs.reshape(len(inputs), *c.shape), verbose=0))]
