"""Model files against Python's safetensors: each side reads what the other wrote, or refuses it.

    python tests/python/test_file.py [part of a test's name]     (CC: the C compiler, default cc)

Needs the packages of ../requirements.txt. The C side is file_tool.c, built into a temporary folder.
No expected value comes from nn.h: names and shapes are those of a PyTorch state dict, values are
computed here with NumPy, verdicts on damaged files are the safetensors library's.
"""

import json
import os
import random
import subprocess
import sys
import tempfile
import zlib

import numpy
import safetensors
import safetensors.numpy

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
FOLDER = tempfile.TemporaryDirectory()
TOOL = os.path.join(FOLDER.name, "file_tool")

CRC_AT = 37  # of the eight digits in a file of nn.h


def path(name):
    return os.path.join(FOLDER.name, name)


def build_tool():
    compiler = os.environ.get("CC", "cc").split()
    source = os.path.join(HERE, "file_tool.c")
    command = [*compiler, "-std=c99", "-O1", "-I", ROOT, source, "-o", TOOL, "-lm"]
    subprocess.run(command, check=True)


def tool(*arguments, feed=None):
    """Runs file_tool; its output, which must not be an error."""
    done = subprocess.run([TOOL, *arguments], input=feed, capture_output=True)
    assert done.returncode == 0, done.stdout.decode() + done.stderr.decode()
    return done.stdout


def refusal(*arguments):
    """Runs file_tool, which must refuse; what it says: the error's name and the sentence."""
    done = subprocess.run([TOOL, *arguments], capture_output=True)
    assert done.returncode == 1, f"not refused: {arguments}"
    return done.stdout.decode()


def printed(output):
    """Tensors as file_tool prints them, by name; and the other lines."""
    tensors, others = {}, []
    for line in output.decode().splitlines():
        words = line.split()
        if len(words) < 3:
            others.append(line)
            continue
        shape = [int(n) for n in words[1].split(",")]
        bits = numpy.array([int(word, 16) for word in words[2:]], numpy.uint32)
        tensors[words[0]] = bits.view(numpy.float32).reshape(shape)
    return tensors, others


def write(name, content):
    with open(path(name), "wb") as f:
        f.write(content)
    return path(name)


def read(name):
    with open(name, "rb") as f:
        return f.read()


def header_of(content):
    return json.loads(content[8:8 + int.from_bytes(content[:8], "little")])


def raw_file(header, data=b""):
    """A file of just these bytes of header, without padding."""
    if isinstance(header, dict):
        header = json.dumps(header, separators=(",", ":"))
    if isinstance(header, str):
        header = header.encode()
    return len(header).to_bytes(8, "little") + header + data


def with_checksum(content):
    """The file with its checksum made right, if it has one where nn.h wants it."""
    if content[CRC_AT - 12:CRC_AT] != b'"nn.crc32":"' or len(content) < CRC_AT + 8:
        return content
    zeroed = content[:CRC_AT] + b"00000000" + content[CRC_AT + 8:]
    return content[:CRC_AT] + b"%08x" % zlib.crc32(zeroed) + content[CRC_AT + 8:]


def same(a, b):
    """Equal in type, shape and every bit."""
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


# --------------------------------------------------------------------------------------------------
# Made-up values: those of gen_float in ../test.h

def mix(h):
    """The final mix of MurmurHash3, which is in the public domain."""
    h = (h ^ h >> numpy.uint32(16)) * numpy.uint32(0x85EBCA6B)
    h = (h ^ h >> numpy.uint32(13)) * numpy.uint32(0xC2B2AE35)
    return h ^ h >> numpy.uint32(16)


def gen(stream, shape, center=0.0):
    """Elements from center - 1/4 to center + 1/4; seed 1."""
    with numpy.errstate(over="ignore"):
        start = mix(mix(numpy.array([1], numpy.uint32)) + numpy.uint32(stream))
        h = mix(start + numpy.arange(numpy.prod(shape), dtype=numpy.uint32))
    k = (h >> numpy.uint32(12)).astype(numpy.int64) - 524288
    return (k / 524288 * 0.25 + center).astype(numpy.float32).reshape(shape)


def filled(shapes):
    """What file_tool fills a model with: tensors in the order of its rows."""
    return {name: gen(i, shape, 1.0 if name.endswith("running_var") else 0.0)
            for i, (name, shape) in enumerate(shapes.items())}


# --------------------------------------------------------------------------------------------------
# A net with every kind of tensor, and what PyTorch would call and shape them:
#     conv1 = Conv2d(3, 20, 3, padding=1); bn1 = BatchNorm2d(20)
#     dw = Conv2d(20, 20, 3, groups=20, bias=False); pw = Conv2d(20, 17, 1)
#     fc1 = Linear(17 * 2 * 1, 33); fc2 = Linear(33, 5)

ROWS = ("input x - shape=8,6,3; conv2d conv1 x units=20 kernel=3 pad=1,1,1,1;"
        "batchnorm bn1 conv1 act=relu; maxpool2d pool bn1 kernel=2;"
        "conv2d dw pool units=20 kernel=3 groups=20 no_bias=1; conv2d pw dw units=17 kernel=1;"
        "flatten flat pw order=chw; dense fc1 flat units=33 act=tanh; dense fc2 fc1 units=5")
SHAPES = {
    "conv1.weight": (20, 3, 3, 3), "conv1.bias": (20,),
    "bn1.weight": (20,), "bn1.bias": (20,), "bn1.running_mean": (20,), "bn1.running_var": (20,),
    "dw.weight": (20, 1, 3, 3),
    "pw.weight": (17, 20, 1, 1), "pw.bias": (17,),
    "fc1.weight": (33, 34), "fc1.bias": (33,), "fc2.weight": (5, 33), "fc2.bias": (5,),
}


def conv2d(x, weight, groups=1, pad=0):
    """Cross-correlation of x [C,H,W] with weight [out, C / groups, kh, kw], as in PyTorch."""
    x = numpy.pad(x, ((0, 0), (pad, pad), (pad, pad)))
    out, per_group, kh, kw = weight.shape
    y = numpy.zeros((out, x.shape[1] - kh + 1, x.shape[2] - kw + 1))
    for o in range(out):
        first = o // (out // groups) * per_group
        for c in range(per_group):
            for i in range(kh):
                for j in range(kw):
                    y[o] += weight[o, c, i, j] * x[first + c, i:i + y.shape[1], j:j + y.shape[2]]
    return y


def forward(t, x):
    """The net's outputs for x [H,W,C], from a state dict t, in float64."""
    t = {name: value.astype(numpy.float64) for name, value in t.items()}
    y = conv2d(x.astype(numpy.float64).transpose(2, 0, 1), t["conv1.weight"], pad=1)
    y += t["conv1.bias"][:, None, None]
    scale = t["bn1.weight"] / numpy.sqrt(t["bn1.running_var"] + 1e-5)
    y = (y - t["bn1.running_mean"][:, None, None]) * scale[:, None, None]
    y = numpy.maximum(y + t["bn1.bias"][:, None, None], 0)
    y = y.reshape(20, 4, 2, 3, 2).max(axis=(2, 4))
    y = conv2d(y, t["dw.weight"], groups=20)
    y = conv2d(y, t["pw.weight"]) + t["pw.bias"][:, None, None]
    y = numpy.tanh(t["fc1.weight"] @ y.reshape(-1) + t["fc1.bias"])
    return t["fc2.weight"] @ y + t["fc2.bias"]


# --------------------------------------------------------------------------------------------------
# Python reads what C wrote

def test_python_opens_what_c_writes():
    tool("save", path("model.nn"), ROWS)
    want = filled(SHAPES)
    got = safetensors.numpy.load_file(path("model.nn"))
    assert got.keys() == want.keys()
    for name in want:
        assert same(got[name], want[name]), name
    with safetensors.safe_open(path("model.nn"), "numpy") as f:
        meta = f.metadata()
    assert meta["format"] == "pt" and meta["nn.version"] == "1.0" and meta["nn.kind"] == "model"
    assert meta["nn.graph"].startswith("1;input x - shape=8,6,3;conv2d conv1 x units=20 ")


def test_shared_tensors_are_stored_once():
    tool("save", path("shared.nn"),
         "input x - shape=3; dense a x units=3; dense b a units=3 share=a")
    got = safetensors.numpy.load_file(path("shared.nn"))
    shapes = {name: value.shape for name, value in got.items()}
    assert shapes == {"a.weight": (3, 3), "a.bias": (3,)}


def test_python_opens_what_the_application_stored():
    tool("aux", path("aux.nn"), ROWS)
    got = safetensors.numpy.load_file(path("aux.nn"))
    assert got.pop("aux.classes").tobytes() == b"cat,dog,bird"
    one = got.pop("aux.one")
    assert one.tobytes() == b"1" and one.dtype == numpy.uint8 and one.shape == (1,)
    want = filled(SHAPES)
    assert got.keys() == want.keys() and all(same(got[name], want[name]) for name in want)
    tensors, _ = printed(tool("show", path("aux.nn")))
    assert all(same(tensors[name], want[name]) for name in want)


def test_python_opens_training_state():
    tool("train", path("train.nn"), ROWS)
    got = safetensors.numpy.load_file(path("train.nn"))
    state = {f"opt.{part}/{name}": shape for name, shape in SHAPES.items() for part in "mv"
             if "running" not in name}
    assert {name: value.shape for name, value in got.items()} == {**SHAPES, **state}
    assert all(value.dtype == numpy.float32 for value in got.values())
    # after one step from zero: m = (1 - b1) g, v = (1 - b2) g^2
    m, v = got["opt.m/fc2.weight"], got["opt.v/fc2.weight"]
    assert numpy.allclose(v, (m / 0.1) ** 2 * 0.001, rtol=1e-4) and m.any()


def test_layout_and_checksum():
    for name in "model.nn", "train.nn", "shared.nn", "aux.nn":
        content = read(path(name))
        header, data_at = header_of(content), 8 + int.from_bytes(content[:8], "little")
        assert data_at % 64 == 0
        digits = content[CRC_AT:CRC_AT + 8]
        zeroed = content[:CRC_AT] + b"00000000" + content[CRC_AT + 8:]
        assert header["__metadata__"]["nn.crc32"].encode() == digits
        assert b"%08x" % zlib.crc32(zeroed) == digits
        end = 0
        for tensor, entry in header.items():
            if tensor == "__metadata__":
                continue
            begin, after = entry["data_offsets"]
            size = after - begin
            assert begin == end and size > 0, tensor
            assert begin % min(64, size & -size) == 0, tensor
            end = after
        assert data_at + end == len(content)


def test_outputs_are_those_of_the_state_dict():
    x = gen(99, (8, 6, 3))
    got = numpy.frombuffer(tool("infer", path("model.nn"), feed=x.tobytes()), numpy.float32)
    want = forward(filled(SHAPES), x)
    error = numpy.abs(got - want).max() / numpy.abs(want).max()
    assert error < 1e-5, error
    print(f"outputs against NumPy in float64: {error:.1e} of the largest")


# --------------------------------------------------------------------------------------------------
# C reads what Python wrote

def in_c(content, rows=ROWS, how="params"):
    return printed(tool(how, write("python.safetensors", content), rows))


def check_in_c(content, want, rows=ROWS):
    got, others = in_c(content, rows)
    assert others == [] and got.keys() == want.keys()
    for name in want:
        assert same(got[name], want[name]), name


def test_c_reads_what_python_writes():
    want = {name: value + numpy.float32(0.5) for name, value in filled(SHAPES).items()}
    extra = {"bn1.num_batches_tracked": numpy.array(7, numpy.int64),
             "embedding.position_ids": numpy.arange(5, dtype=numpy.int64)[None]}
    save = safetensors.numpy.save
    check_in_c(save(want), want)
    check_in_c(save(dict(reversed(want.items()))), want)
    check_in_c(save(want, {"format": "pt"}), want)
    check_in_c(save(want, {"note": 'quote " backslash \\ line\n \u00e9 \U0001f600'}), want)
    check_in_c(save({**want, **extra}, {"format": "pt"}), want)


def test_c_reads_half_precision():
    values = filled(SHAPES)
    half = {name: value.astype(numpy.float16) for name, value in values.items()}
    check_in_c(safetensors.numpy.save(half), {n: v.astype(numpy.float32) for n, v in half.items()})

    upper = {name: (value.view(numpy.uint32) >> 16).astype(numpy.uint16)
             for name, value in values.items()}
    content = safetensors.serialize(
        {name: safetensors.TensorSpec(dtype="bfloat16", shape=value.shape,
                                      data_ptr=value.ctypes.data, data_len=value.nbytes)
         for name, value in upper.items()})
    assert b'"BF16"' in content
    check_in_c(bytes(content), {name: (value.astype(numpy.uint32) << 16).view(numpy.float32)
                                for name, value in upper.items()})


def test_c_reads_misaligned_data():
    """Headers and tensors of odd sizes: no float lies at a multiple of four."""
    rows = "input x - shape=3; dense d x units=2"
    weight, bias = gen(1, (2, 3)), gen(2, (2,))
    for odd in range(8):
        places = [odd, odd + 8], [odd + 8, odd + 32]
        header = {"aux.vocab": {"dtype": "U8", "shape": [odd], "data_offsets": [0, odd]},
                  "d.bias": {"dtype": "F32", "shape": [2], "data_offsets": places[0]},
                  "d.weight": {"dtype": "F32", "shape": [2, 3], "data_offsets": places[1]}}
        content = raw_file(header, b"x" * odd + bias.tobytes() + weight.tobytes())
        assert len(safetensors.deserialize(content)) == 3
        check_in_c(content, {"d.weight": weight, "d.bias": bias}, rows)


def test_c_leaves_alone_what_it_lacks():
    rows = "input x - shape=3; dense d x units=2; dense e d units=1"
    weight = gen(1, (2, 3))
    content = safetensors.numpy.save({
        "d.weight": weight, "scalar": numpy.array(1.5, numpy.float32),
        "empty": numpy.zeros((0, 4), numpy.float32), "ids": numpy.arange(3, dtype=numpy.int32),
        "bytes": numpy.arange(3, dtype=numpy.uint8), "signed": numpy.arange(3, dtype=numpy.int8)})
    got, others = in_c(content, rows, "allow")
    assert same(got["d.weight"], weight)
    assert sorted(others) == sorted(["+scalar", "+empty", "+ids", "+bytes", "+signed",
                                     "-d.bias", "-e.weight", "-e.bias"])
    said = refusal("params", path("python.safetensors"), rows)
    assert said.startswith("NN_ERR_FILE_TENSOR"), said


def test_c_names_what_it_refuses():
    rows = "input x - shape=3; dense d x units=2"
    good = {"d.weight": gen(1, (2, 3)), "d.bias": gen(2, (2,))}
    cases = [
        ("NN_ERR_FILE_DTYPE", "d.bias", {**good, "d.bias": numpy.zeros(2)}),  # float64
        ("NN_ERR_FILE_DTYPE", "mask", {**good, "mask": numpy.array([True, False])}),
        ("NN_ERR_FILE_DTYPE", "ids", {**good, "ids": numpy.zeros(3, numpy.uint16)}),
        ("NN_ERR_FILE_DTYPE", "big", {**good, "big": numpy.zeros(3, numpy.uint64)}),
        ("NN_ERR_FILE_TENSOR", "d.bias", {**good, "d.bias": numpy.zeros(2, numpy.int32)}),
        ("NN_ERR_FILE_TENSOR", "d.weight", {**good, "d.weight": gen(1, (3, 2))}),
        ("NN_ERR_FILE_TENSOR", "d.bias", {**good, "d.bias": gen(2, (2, 1))}),
        ("NN_ERR_FILE_TENSOR", "d.bias", {"d.weight": good["d.weight"]}),
        ("NN_ERR_FILE_TENSOR", "other", {**good, "other": gen(1, (1,))}),
    ]
    for error, name, tensors in cases:
        content = safetensors.numpy.save(tensors)
        said = refusal("params", write("bad.safetensors", content), rows)
        assert said.startswith(error) and name in said, said
    content = safetensors.numpy.save({**good, "name\n": gen(1, (1,))})
    said = refusal("params", write("bad.safetensors", content), rows)
    assert said.startswith("NN_ERR_FILE_SYNTAX"), said
    said = refusal("show", write("bad.safetensors", safetensors.numpy.save(good)))
    assert said.startswith("NN_ERR_FILE_GRAPH"), said


# --------------------------------------------------------------------------------------------------
# Verdicts on damaged files: whatever C takes, the library takes

SMALL = "input x - shape=2; dense d x units=1"


def library_takes(content):
    try:
        safetensors.deserialize(content)
    except safetensors.SafetensorError:
        return False
    return True


def verdicts(files):
    """For each: does C take it, as a model or as a state dict?"""
    feed = b"".join(len(f).to_bytes(4, "little") + f for f in files)
    lines = tool("verdicts", SMALL, feed=feed).decode().splitlines()
    assert len(lines) == len(files)
    return ["NN_OK" in line.split() for line in lines]


def compare(files):
    """Fails where C takes what the library refuses. How many both took, and only the library."""
    both = stricter = 0
    wrong = []
    for content, ours in zip(files, verdicts(files)):
        theirs = library_takes(content)
        both += ours and theirs
        stricter += theirs and not ours
        if ours and not theirs:
            wrong.append(content)
    examples = "\n".join(repr(content[:400]) for content in wrong[:5])
    assert not wrong, f"{len(wrong)} of {len(files)} taken that the library refuses:\n{examples}"
    return both, stricter


def entry(dtype, shape, begin, end):
    return f'{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{begin},{end}]}}'


def crafted():
    """(data, header) of files that are wrong in one way each."""
    w, b = f'"d.weight":{entry("F32", "[1,2]", 0, 8)}', f'"d.bias":{entry("F32", "[1]", 8, 12)}'
    weights = [entry("F32", "[4294967296,4294967296]", 0, 0), entry("F32", "[-1,-2]", 0, 8),
               entry("F32", "[1e0,2]", 0, 8), entry("F32", "[1.0,2]", 0, 8),
               entry("F32", "[01,2]", 0, 8), entry("F33", "[1,2]", 0, 8),
               entry("F64", "[1,2]", 0, 8), entry("F32", "[1,3]", 0, 8),
               entry("F32", "[1,2]", 8, 0), entry("F32", "[1,2]", "-8", 0),
               entry("F32", "[1,2]", 0, "8.0"), entry("F32", "[1,2]", 0, 18446744073709551616),
               entry("F32", "[2147483647,2147483647,2147483647]", 0, 8),
               "{}", "[]", "null", '{"dtype":"F32","shape":[1,2]}',
               '{"dtype":"F32","dtype":"F32","shape":[1,2],"data_offsets":[0,8]}',
               '{"dtype":"F32","shape":[1,2],"data_offsets":[0,8],"more":1}',
               '{"dtype":"F32","shape":[1,2],"data_offsets":[0,8,8]}',
               '{"dtype":"F32","shape":null,"data_offsets":[0,8]}']
    headers = [f'{{"d.weight":{weight},{b}}}' for weight in weights]
    metas = ["{}", "null", "[]", '"a"', '{"a":1}', '{"a":null}', '{"a":"b","a":"c"}',
             '{"a":"\\u00e9"}', '{"a":"\u00e9"}', '{"a":"\\q"}', '{"a":"\\u12g4"}',
             '{"a":"\\ud83d"}', '{"a":"\\ud83d\\u0020"}', '{"a":"\\ude00\\ud83d"}',
             '{"a":"\n"}', '{"a":"\\\n"}', '{"a":"\x7f"}', '{"a":"b",}']
    headers += [f'{{"__metadata__":{meta},{w},{b}}}' for meta in metas]
    for broken in b"\x80", b"\xc0\xaf", b"\xe2\x82", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xff":
        headers.append(b'{"__metadata__":{"a":"' + broken + b'"},' + f"{w},{b}}}".encode())
    names = ["", "d\\u002eweight", "\u00e9", "__metadata__", "a" * 300]
    headers += [f'{{{w},{b},"{name}":{entry("I8", "[0]", 12, 12)}}}' for name in names]
    twice = f'"u":{entry("I8", "[1]", 12, 13)},"u":{entry("I8", "[1]", 13, 14)}'
    data = b"abcdefghijklmnop"
    files = [(data[:12], header) for header in headers]
    files += [
        (b"", "{}"), (b"", ""), (b"", "[]"), (b"", " {}"), (b"", "{} x"), (b"", "{}}"),
        (b"a", "{}"),
        (data[:14], f"{{{w},{b},{twice}}}"),
        (data[:14], f"{{{w},{b},{twice.replace('u', 'aux.u')}}}"),
        (data[:14], f"{{{w},{b},{twice.replace('u', 'n.num_batches_tracked')}}}"),
        (data[:16], f'{{{w},{b},"d.bias":{entry("F32", "[1]", 12, 16)}}}'),
        (data[:12], f'{{{w},"d.bias":{entry("F32", "[1]", 4, 8)}}}'),
        (data[:8], f'{{{w},"d.bias":{entry("F32", "[1]", 0, 4)}}}'),
        (data[:16], f'{{{w},"d.bias":{entry("F32", "[1]", 12, 16)}}}'),
        (data[:12], f'{{"d.weight":{entry("F32", "[1,2]", 4, 12)},"d.bias":'
                    f'{entry("F32", "[1]", 0, 4)}}}'),
        (data[:12], f'{{{w},{b},"u":{entry("I8", "[0]", 4, 4)}}}'),
        (data[:13], f"{{{w},{b}}}"), (data[:11], f"{{{w},{b}}}"),
        (data[:12], f'{{{w},"__metadata__":{{}},{b}}}'),
        (data[:12], f'{{"__metadata__":{{}},"__metadata__":{{}},{w},{b}}}'),
        (data[:12], f"{{{w},{b},}}"), (data[:12], f"{{{w} {b}}}"), (data[:12], f"{{{w},{b}"),
    ]
    return files


def test_verdicts_on_crafted_files():
    files = [raw_file(header, data) for data, header in crafted()]
    good = raw_file(f'{{"d.weight":{entry("F32", "[1,2]", 0, 8)}}}', b"abcdefgh")
    assert compare([good]) == (1, 0)
    for length in 0, 7, len(good) - 15, len(good) - 8, len(good), 1 << 20, 1 << 63, (1 << 64) - 1:
        files.append(length.to_bytes(8, "little") + good[8:])
    files += [good[:n] for n in range(len(good))]
    both, stricter = compare(files)
    assert both >= 3
    print(f"{len(files)} crafted files: {both} taken by both, {stricter} only by the library")


def test_verdicts_on_mutated_files():
    tool("save", path("small.nn"), SMALL)
    ours = read(path("small.nn"))
    plain = safetensors.numpy.save({"d.weight": gen(1, (1, 2)), "d.bias": gen(2, (1,)),
                                    "n.num_batches_tracked": numpy.array(1, numpy.int64),
                                    "u": numpy.zeros(3, numpy.int8)}, {"a": 'x"\u00e9'})
    words = [b"{", b"}", b"[", b"]", b",", b":", b'"', b"\\", b" ", b"0", b"1", b"-", b".", b"e",
             b"\x00", b"\x80", b"\xc3", b"\xff", b"\\u", b"\\n", b'"u"', b'"d.bias"', b"I8", b"F16",
             b"__metadata__", b"aux.", b"nn.", b"opt.", b"99999999999999999999", b"null", b"[0,0]"]
    chance = random.Random(1)
    files = []
    for _ in range(20000):
        content = chance.choice((ours, plain))
        size = int.from_bytes(content[:8], "little")
        header, data = content[8:8 + size], content[8 + size:]
        for _ in range(chance.randint(1, 3)):
            at = chance.randrange(len(header))
            length = chance.randrange(3)
            to = chance.randrange(len(header))
            header = chance.choice((
                header[:at] + chance.choice(words) + header[at + length:],
                header[:at] + header[at + length:],
                header[:at] + bytes([chance.randrange(256)]) + header[at + 1:],
                header[:at] + header[to:to + chance.randrange(60)] + header[at:],
            ))
        if chance.random() < 0.1:
            data = data[:chance.randrange(len(data))]
        files.append(with_checksum(raw_file(header, data)))
    both, stricter = compare(files)
    assert both > 500
    print(f"{len(files)} mutated files: {both} taken by both, {stricter} only by the library")


# --------------------------------------------------------------------------------------------------

def main():
    part = sys.argv[1] if len(sys.argv) > 1 else ""
    passed = failed = 0
    build_tool()
    for name, test in list(globals().items()):
        if not name.startswith("test_") or part not in name:
            continue
        try:
            test()
            passed += 1
        except Exception as error:  # a test that breaks must not hide the others
            failed += 1
            print(f"{name}: {type(error).__name__}: {error}")
    print(f"{passed} passed, {failed} failed")
    return failed > 0 or passed == 0


if __name__ == "__main__":
    sys.exit(main())
