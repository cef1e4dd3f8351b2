"""Once by hand, with PyTorch: its modules take the files that C writes, and C takes theirs.

    python tests/python/by_hand_torch.py     (torch, numpy, safetensors; CC: the C compiler)

For two nets C makes a file; PyTorch loads it with load_state_dict(strict=True) and must give C's
outputs; then PyTorch saves other weights and C must read them bit for bit. A file of nn.h has no
num_batches_tracked: PyTorch adds it to a state dict that carries no version of its own, as a dict
from a file does; the other way C ignores it.
"""

import sys

import safetensors.torch
import torch
from torch import nn

import test_file as t

W3 = ("input x - shape=32,32,3; conv2d conv1 x units=32 kernel=3 act=relu;"
      "maxpool2d p1 conv1 kernel=2; conv2d conv2 p1 units=64 kernel=3 act=relu;"
      "maxpool2d p2 conv2 kernel=2; conv2d conv3 p2 units=64 kernel=3 act=relu;"
      "flatten f conv3 order=chw; dense fc1 f units=64 act=relu; dense fc2 fc1 units=10")
RESIDUAL = ("input x - shape=9,7,3; conv2d conv0 x units=20 kernel=3 pad=1,1,1,1 no_bias=1;"
            "batchnorm bn0 conv0 act=relu;"
            "conv2d conv1 bn0 units=20 kernel=3 pad=1,1,1,1 no_bias=1;"
            "batchnorm bn1 conv1 act=relu;"
            "conv2d conv2 bn1 units=20 kernel=3 pad=1,1,1,1 no_bias=1;"
            "batchnorm bn2 conv2; add sum bn2,bn0 act=relu; globalavgpool gap sum;"
            "dense fc gap units=10")


class W3Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 32, 3), nn.Conv2d(32, 64, 3)
        self.conv3 = nn.Conv2d(64, 64, 3)
        self.fc1, self.fc2 = nn.Linear(64 * 4 * 4, 64), nn.Linear(64, 10)

    def forward(self, x):
        x = nn.functional.max_pool2d(self.conv1(x).relu(), 2)
        x = nn.functional.max_pool2d(self.conv2(x).relu(), 2)
        return self.fc2(self.fc1(self.conv3(x).relu().flatten(1)).relu())


class ResidualNet(nn.Module):
    def __init__(self):
        super().__init__()
        for i in range(3):
            self.add_module(f"conv{i}", nn.Conv2d(20 if i else 3, 20, 3, padding=1, bias=False))
            self.add_module(f"bn{i}", nn.BatchNorm2d(20))
        self.fc = nn.Linear(20, 10)

    def forward(self, x):
        x = self.bn0(self.conv0(x)).relu()
        y = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        return self.fc((x + y).relu().mean((2, 3)))


def check(name, rows, module, shape):
    t.tool("save", t.path(name), rows)
    state = safetensors.torch.load_file(t.path(name))
    print(name, module.load_state_dict(state, strict=True), f"{len(state)} tensors")
    module.eval()
    x = t.gen(99, shape)
    outputs = t.tool("infer", t.path(name), feed=x.tobytes())
    ours = torch.frombuffer(bytearray(outputs), dtype=torch.float32)
    image = torch.from_numpy(x).permute(2, 0, 1)[None]
    with torch.no_grad():
        single, double = module(image)[0], module.double()(image.double())[0]
    largest = double.abs().max()
    for label, theirs in ("float32", single), ("float64", double):
        error = ((ours - theirs).abs().max() / largest).item()
        print(f"{name}: outputs against PyTorch in {label}: {error:.2e} of the largest")
        assert error < 1e-5

    module = module.float()
    with torch.no_grad():
        for value in module.state_dict().values():
            if value.is_floating_point():
                value.copy_(torch.rand_like(value) + 0.5)
    state = module.state_dict()
    safetensors.torch.save_file(state, t.path("theirs.safetensors"))
    got, others = t.printed(t.tool("params", t.path("theirs.safetensors"), rows))
    want = {key: value.numpy() for key, value in state.items() if value.is_floating_point()}
    assert others == [] and got.keys() == want.keys()
    assert all(t.same(got[key], want[key]) for key in want)
    print(f"{name}: {len(state)} tensors of PyTorch's file, {len(want)} read bit for bit")


def main():
    torch.manual_seed(1)
    print("torch", torch.__version__, "safetensors", safetensors.__version__)
    t.build_tool()
    check("w3", W3, W3Net(), (32, 32, 3))
    check("residual", RESIDUAL, ResidualNet(), (9, 7, 3))


if __name__ == "__main__":
    sys.exit(main())
