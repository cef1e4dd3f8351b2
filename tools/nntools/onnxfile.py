"""ONNX files: read with every size and path checked, and run."""

import math
import os
import re
import stat

import numpy as np

from .model import Error

FILE_MAX = (1 << 31) - 1  # what protobuf takes


def package():
    """The onnx package."""
    try:
        import onnx
    except ImportError:
        raise Error("ONNX files need the package onnx: pip install onnx") from None
    return onnx


def load(path):
    """The ModelProto of a file, with external data read, checked and put inside."""
    onnx = package()
    try:
        if os.path.getsize(path) > FILE_MAX:
            raise Error(f"{path} is larger than a file of protobuf can be")
        with open(path, "rb") as f:
            content = f.read()
    except OSError as reason:
        raise Error(f"{path} cannot be read: {reason.strerror}") from None
    try:
        proto = onnx.load_model_from_string(content)
        has_functions = len(proto.functions) > 0
    except Exception:  # protobuf's own classes differ between its versions
        raise Error(f"{path} is no ONNX file, or is damaged") from None
    if not proto.graph.node or not proto.opset_import:
        raise Error(f"{path} is no ONNX file, or is damaged: it has no nodes or no opset")
    for tensor in tensors_of(proto.graph):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            read_external(tensor, path)
    if has_functions:
        from onnx import inliner
        try:
            proto = inliner.inline_local_functions(proto)
        except Exception:
            raise Error(f"{path} has functions that cannot be put inline") from None
    return proto


def tensors_of(graph):
    """Every TensorProto of a graph, those of attributes and of inner graphs too."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for inner in [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]:
                yield from tensors_of(inner)


def read_external(tensor, path):
    """Puts the data of a tensor inside that lies in a file beside the model."""
    name = tensor.name[:80]
    entries = {entry.key: entry.value for entry in tensor.external_data}
    where = entries.get("location", "")
    folder = os.path.realpath(os.path.dirname(os.path.abspath(path)))
    parts = re.split(r"[\\/]", where)
    if not where or os.path.isabs(where) or ".." in parts or ":" in where or "\0" in where:
        raise Error(f'the data of tensor {name} is said to lie in "{where[:80]}", which is not '
                    "beside the model")
    full = os.path.join(folder, *parts)
    try:
        kind = os.lstat(full)
        if os.path.realpath(full) != full or not stat.S_ISREG(kind.st_mode):
            raise Error(f'the data of tensor {name} lies in "{where[:80]}", which is a link or no '
                        "file")
        offset, length = int(entries.get("offset", 0)), element_bytes(tensor)
        if int(entries.get("length", length)) != length:
            raise Error(f"the external data of tensor {name} is not as long as its shape says")
        if offset < 0 or length > kind.st_size - offset:
            raise Error(f'"{where[:80]}" ends before the data of tensor {name} does')
        with open(full, "rb") as f:
            f.seek(offset)
            tensor.raw_data = f.read(length)
    except OSError as reason:
        raise Error(f'"{where[:80]}", which holds tensor {name}, cannot be read: '
                    f"{reason.strerror}") from None
    except ValueError:
        raise Error(f"the external data of tensor {name} has a wrong offset or length") from None
    del tensor.external_data[:]
    tensor.data_location = package().TensorProto.DEFAULT


def element_bytes(tensor):
    """Bytes of a tensor's values as raw data."""
    try:
        dtype = package().helper.tensor_dtype_to_np_dtype(tensor.data_type)
    except (KeyError, TypeError, ValueError):
        raise Error(f"tensor {tensor.name[:80]} is of an unknown type") from None
    if any(d < 0 for d in tensor.dims):
        raise Error(f"tensor {tensor.name[:80]} has a negative dimension")
    return math.prod(tensor.dims) * dtype.itemsize


def array_of(tensor):
    """A TensorProto's values."""
    onnx = package()
    if tensor.data_type == onnx.TensorProto.STRING:
        return np.empty(0, object)
    size = element_bytes(tensor)
    stored = len(tensor.raw_data) or max(
        len(field) for field in (tensor.float_data, tensor.int32_data, tensor.int64_data,
                                 tensor.double_data, tensor.uint64_data))
    if (size > 0) != (stored > 0) or size > 16 * stored:
        raise Error(f"the values of tensor {tensor.name[:80]} do not fit its shape")
    try:
        return onnx.numpy_helper.to_array(tensor)
    except (ValueError, TypeError, KeyError):
        raise Error(f"the values of tensor {tensor.name[:80]} do not fit its shape") from None


def guarded(what, path, function, *arguments):
    """Runs a function over a file's content; what it did not expect means that it is damaged."""
    try:
        return function(*arguments)
    except Error:
        raise
    except RecursionError:
        raise Error(f"{path} cannot be {what}: its graphs are nested too deep") from None
    except (MemoryError, OverflowError):
        raise Error(f"{path} cannot be {what}: its sizes are too large") from None
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, ZeroDivisionError) as why:
        raise Error(f"{path} cannot be {what}: it is damaged, or not as ONNX has it "
                    f"({type(why).__name__})") from None


def session(proto):
    """A function (input name, output name, array) -> array: onnxruntime, else the onnx package's
    own evaluator, which is slow; None without both."""
    content = proto.SerializeToString()
    try:
        import onnxruntime
    except ImportError:
        try:
            from onnx.reference import ReferenceEvaluator
        except ImportError:
            return None
        evaluator = ReferenceEvaluator(proto)
        return lambda name, out, x: evaluator.run([out], {name: x})[0]
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level, settings.intra_op_num_threads = 3, 1
    try:
        made = onnxruntime.InferenceSession(content, settings, providers=["CPUExecutionProvider"])
    except Exception as reason:
        raise Error(f"onnxruntime cannot run the graph: {first_line(reason)}") from None
    return lambda name, out, x: made.run([out], {name: x})[0]


def first_line(reason):
    return (str(reason).strip().splitlines() or [type(reason).__name__])[0][:200]
