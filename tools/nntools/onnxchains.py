"""Nodes of an ONNX graph that are one layer together, to refuse them by that layer's name."""

import collections


CHAIN = set("Add Sub Mul Div Pow Sqrt Erf Tanh Sigmoid Clip HardSigmoid Softplus Exp Log "
            "ReduceMean Reciprocal Neg Relu Min Max Cast Where Identity".split())
GELU, GELU_TANH = "GELU, as a chain with Erf", "GELU (tanh form), as a chain with Tanh"
SILU, MISH = "SiLU, as Sigmoid and Mul", "Mish, as a chain of Softplus, Tanh and Mul"
SWISH = "HardSwish, as a chain with Clip"
NORM = "a normalisation (LayerNorm, InstanceNorm or the like), as a chain with ReduceMean"
ATTENTION = "attention, as MatMul, Softmax and MatMul"
CHAIN_HINTS = {NORM: "train with batch norm instead", ATTENTION: "",
               **dict.fromkeys((GELU, GELU_TANH, SILU, MISH, SWISH), "train with relu instead")}


def chain_name(ops):
    """What a chain of these ops is, that begins with one value read twice or more; or None."""
    if "Erf" in ops:
        return GELU
    if {"Softplus", "Tanh"} <= ops:
        return MISH
    if "ReduceMean" in ops and ops & {"Sqrt", "Pow", "Reciprocal"}:
        return NORM
    if {"Tanh", "Mul"} <= ops:
        return GELU_TANH
    if "Mul" in ops and ops & {"Clip", "HardSigmoid", "Min"}:
        return SWISH
    return SILU if ops == {"Sigmoid", "Mul"} else None


class Chains:
    """Finds them. nodes: of the graph, in order; constant: is the value of this name one?"""

    def __init__(self, nodes, constant):
        self.nodes, self.constant = nodes, constant
        self.maker = {name: i for i, node in enumerate(nodes) for name in node.output if name}
        self.readers = collections.defaultdict(list)
        for i, node in enumerate(nodes):
            for name in node.input:
                self.readers[name].append(i)

    def live_inputs(self, i):
        return [name for name in self.nodes[i].input if name and not self.constant(name)]

    def find(self):
        """{number of a node: (what it is part of, number of the last node of it)}"""
        found = {}
        for i, node in enumerate(self.nodes):
            members, name = None, None
            if node.op_type in ("Mul", "Div") and len(self.live_inputs(i)) == 2:
                members, name = self.chain(i)
            elif node.op_type == "Softmax":
                members, name = self.attention(i)
            if members and not any(m in found for m in members):
                last = max(members)
                for m in members:
                    found[m] = name, last
        return found

    def chain(self, last):
        """The nodes between a value and the node that brings its two ways together again."""
        a, b = self.live_inputs(last)
        above = self.above(a), self.above(b)
        common = [name for name in above[0] if name in above[1]]
        found = None, None
        for start in sorted(common, key=lambda name: above[0][name] + above[1][name]):
            members = self.between(start, last)
            ops = {self.nodes[m].op_type for m in members or ()}
            name = chain_name(ops)
            if name and (found[0] is None or (name == found[1] and "Sub" in ops)):
                found = members, name
            if name and (name != NORM or "Sub" in ops):
                break  # what takes off a mean begins before that
        return (self.stretched(found[0], last), found[1]) if found[0] else found

    def above(self, name):
        """Values from which chains of few nodes lead to this one, with their number."""
        depth, rows = {name: 0}, [name]
        for name in rows:
            i = self.maker.get(name)
            if i is None or self.nodes[i].op_type not in CHAIN or depth[name] > 8:
                continue
            for each in self.live_inputs(i):
                if each not in depth:
                    depth[each] = depth[name] + 1
                    rows.append(each)
        return depth

    def between(self, start, last):
        """Nodes that lead from a value to a node; None if they read another value too."""
        members, todo = {last}, [last]
        while todo:
            for name in self.live_inputs(todo.pop()):
                i = self.maker.get(name)
                if name == start or i in members:
                    continue
                if i is None or self.nodes[i].op_type not in CHAIN or len(members) > 16:
                    return None
                members.add(i)
                todo.append(i)
        return members

    def stretched(self, members, last):
        """With the products and sums with constants that follow, the scale and bias of it."""
        while True:
            name = self.nodes[last].output[0]
            after = self.readers[name]
            if len(after) != 1 or self.nodes[after[0]].op_type not in ("Mul", "Add", "Div") or \
                    len(self.live_inputs(after[0])) != 1:
                return members
            last = after[0]
            members = members | {last}

    def attention(self, softmax):
        """MatMul, what scales and masks, Softmax, MatMul."""
        members, at = {softmax}, softmax
        while True:
            makers = [self.maker.get(name) for name in self.live_inputs(at)]
            makers = [i for i in makers if i is not None and
                      self.nodes[i].op_type in CHAIN | {"MatMul"}]
            if len(makers) != 1:
                return None, None
            at = makers[0]
            members.add(at)
            if self.nodes[at].op_type == "MatMul":
                break
        after = self.readers[self.nodes[softmax].output[0]]
        if len(self.live_inputs(at)) != 2 or len(after) != 1 or \
                self.nodes[after[0]].op_type != "MatMul":
            return None, None
        return members | {after[0]}, ATTENTION
