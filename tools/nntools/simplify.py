"""What --inference does to rows: exact only. The result cannot be trained as its source was."""

import numpy as np

from .model import Row


def drop(model, row):
    """Takes a row out; its readers read what it read."""
    model.rows.remove(row)
    for reader in model.rows:
        reader.inputs = [row.inputs[0] if name == row.name else name for name in reader.inputs]


def readers(model, name):
    return [row for row in model.rows if name in row.inputs]


def can_fold(model, norm, before):
    """Is norm a batch norm right behind a row of products that nothing else sees?"""
    shared = {row.share for row in model.rows}
    alone = len(readers(model, before.name)) == 1 and before is not model.rows[-1]
    return norm.op == "batchnorm" and before.op in ("conv1d", "conv2d", "dense") and alone and \
        not before.fields.get("act") and not before.share and not norm.share and \
        before.name not in shared and norm.name not in shared


def fold(model, norm, before):
    """y = (w x + b - mean) s + bias, s = weight / sqrt(var + eps), as other w and b."""
    def take(suffix):
        return model.tensors.pop(f"{norm.name}.{suffix}").astype(np.float64)
    eps = float(np.float32(norm.fields.get("eps") or 1e-5))
    weight, shift, mean, var = map(take, ("weight", "bias", "running_mean", "running_var"))
    scale = weight / np.sqrt(var + eps)
    old = model.tensors[before.name + ".weight"]
    scaled = old * scale.reshape(-1, *[1] * (old.ndim - 1))
    bias = (model.tensors.get(before.name + ".bias", 0.0) - mean) * scale + shift
    model.tensors[before.name + ".weight"] = scaled.astype(np.float32)
    model.tensors[before.name + ".bias"] = bias.astype(np.float32)
    before.fields.pop("no_bias", None)
    before.fields.update({k: v for k, v in norm.fields.items() if k in ("act", "slope")})
    drop(model, norm)


def for_inference(model):
    """Dropout goes, batch norms fold where that is exact (never into a convolution behind them:
    its padding is zeros, and not what the norm makes of zeros)."""
    for row in list(model.rows):
        if row.op == "dropout" and len(model.rows) > 2:
            drop(model, row)
        row.fields.pop("rate", None)
    for row in list(model.rows):
        before = model.row(row.inputs[0]) if row.inputs else Row("", "")
        if can_fold(model, row, before):
            fold(model, row, before)
    for name in [name for name in model.tensors if name.startswith("opt.")]:
        del model.tensors[name]
    model.training = ""
