"""A model as a C header: its rows, its plan, and its weights as hexadecimal floats, which every
compiler reads to the same bits."""

import re

import numpy as np

from .model import Error, canonical, tensor_names

ENUMS = {"type": {"u8": "NN_U8", "i32": "NN_I32"}, "order": {"chw": "NN_CHW"}}


def identifier(text):
    name = re.sub(r"[^A-Za-z0-9_]", "_", text)
    return name if re.match(r"(?!nn\Z)[A-Za-z]", name) else "model_" + name  # nn_plan is a type


def number(value):
    """A float32 as a hexadecimal literal: 0x1.8p-3f."""
    value = float(value)
    if not np.isfinite(value):
        raise Error("a weight is not finite, which C has no literal for")
    mantissa, exponent = value.hex().split("p")
    return f"{mantissa.rstrip('0').rstrip('.') if '.' in mantissa else mantissa}p{exponent}f"


def literal(key, value):
    if key == "act":
        return f"NN_{value.upper()}"
    if key in ENUMS:
        return ENUMS[key][value]
    if isinstance(value, float):
        return number(value)
    return str(value)


def initializer(row, above):
    """One row of the table."""
    words = [f".op = NN_{row.op.upper()}", f'.name = "{row.name}"']
    if row.inputs and row.inputs[0] != above:
        words.append(f'.from = "{row.inputs[0]}"')
    if row.inputs[1:]:
        words.append(f'.with = "{" ".join(row.inputs[1:])}"')
    if row.share:
        words.append(f'.share = "{row.share}"')
    for key, value in row.fields.items():
        text = "{ " + ", ".join(literal(key, v) for v in value) + " }" \
            if isinstance(value, tuple) else literal(key, value)
        words.append(f".{key} = {text}")
    return wrapped("    { ", words, " },", "      ")


def wrapped(start, words, end, indent, width=100):
    """Words joined by commas, broken before column 100."""
    lines, line = [], start
    for i, word in enumerate(words):
        piece = word + (", " if i + 1 < len(words) else end)
        if len(line) + len(piece.rstrip()) > width:
            lines.append(line.rstrip())
            line = indent
        line += piece
    return "\n".join([*lines, line.rstrip()])


def order(model):
    """Names of the tensors as nn_opts.weights has them: in the order of the rows."""
    return [name for row in model.rows for name in tensor_names(row) if name in model.tensors]


def weights(model, name, panels=None):
    """The one array of all weights, and how it is declared. panels: of Net, or None."""
    names = order(model)
    total = sum(model.tensors[n].size for n in names)
    out = [f"static const NN_ALIGN float {name}_weights[{total}] = {{"]
    for tensor in names:
        values = model.tensors[tensor]
        out.append(f"    /* {tensor} {list(values.shape)} */")
        if panels:
            values = panels(tensor, values)
        texts = [number(v) for v in values.ravel().tolist()]
        out += ["    " + ", ".join(texts[i:i + 5]) + "," for i in range(0, len(texts), 5)]
    return "\n".join([*out, "};"])


OTHERWISE = """With other options than the plan has:

       nn_opts o = {{ 0 }};
       o.weights = {name}_weights;
       o.weights_size = sizeof {name}_weights;
       nn_build(&m, {name}_rows, &o);"""
IN_PANELS = """The weights lie as the
   kernels read them, which only the plan knows: nn_build cannot take them."""


def header(model, name, path, plan, panels=None):
    """The text of model.h; plan: of Net.plan for this name; panels: of Net, or None."""
    rows = canonical(model.rows)
    otherwise = IN_PANELS if panels else OTHERWISE.format(name=name)
    above = [""] + [row.name for row in rows]
    table = "\n".join(initializer(row, before) for row, before in zip(rows, above))
    guard = f"{name.upper()}_H"
    return f"""/* {path} as C: its rows, its weights and its plan. Include nn.h first; then

       static NN_ALIGN unsigned char memory[{name}_MEMORY];
       nn_model m;
       nn_open(&m, &{name}_plan, memory, sizeof memory);

   links neither planner nor loader. {otherwise} */
#ifndef {guard}
#define {guard}

static const nn_layer {name}_rows[] = {{
{table}
    {{ 0 }}
}};

{weights(model, name, panels)}

{plan}
#endif
"""
