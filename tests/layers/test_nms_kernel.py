"""The Triton kernels of NMS: by the interpreter they keep what torchvision keeps, and they compile without a GPU."""

import os
import subprocess
import sys

import pytest
import torch
from overlapping import batch, nms_keep

triton = pytest.importorskip("triton", reason="triton, which comes with torch for CUDA on Linux, is not installed")
VERSION = tuple(int(part) for part in triton.__version__.split(".")[:2])

INTERPRETED = """
import torch
from detkit.layers import nms, nms_kernel
from overlapping import batch, nms_keep

kernel, cpu = nms_kernel.nms_keep_on_device, torch.device("cpu")
for seed, (images, each) in enumerate([(2, 300), (3, 33), (1, 1), (2, 64), (1, 130), (2, 31)]):
    boxes, scores, groups, candidates = batch(images, each, seed)
    if seed == 1:
        candidates[1] = False
    for thresh in (0.3, 0.7):
        for group in (groups, None):
            expected = nms._keep_image_by_image(boxes, scores, group, candidates, thresh)
            assert torch.equal(kernel(boxes, scores, group, candidates, thresh), expected), (images, each, thresh)

one_image = 4 * 100 * 4
nms_kernel.MAX_BYTES = 2 * one_image + 1  # two images at a time
five = batch(5, 100)
assert torch.equal(kernel(*five, 0.5), nms._keep_image_by_image(*five, 0.5))

apart = torch.arange(96.0)[None, :, None] * 20 + torch.tensor([0.0, 0, 10, 10])  # all bits of a word stand
every = torch.ones(1, 96, dtype=torch.bool)
assert kernel(apart, torch.rand(1, 96), None, every, 0.5).all()
same = torch.zeros(1, 96, 4) + torch.tensor([0.0, 0, 10, 10])  # all fall but one
assert kernel(same, torch.zeros(1, 96), None, every, 0.5)[0].nonzero()[:, 0].tolist() == [0]
lowest = torch.full((1, 96), -torch.inf)
every[0, ::2] = False
assert kernel(same, lowest, None, every, 0.5)[0].nonzero()[:, 0].tolist() == [1]

for images, each in [(0, 5), (2, 0)]:
    nothing = torch.zeros(images, each)
    assert kernel(torch.zeros(images, each, 4), nothing, None, nothing.bool(), 0.5).shape == (images, each)

assert nms._agrees(kernel, cpu, 200)
print("done")
"""


@pytest.mark.skipif(VERSION < (3, 3), reason="the interpreter of triton 3.2 adds int32 up to int64, and writes that")
def test_keeps_what_torchvision_keeps():
    """By the interpreter, which is chosen when the kernels are made: so in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", INTERPRETED],
        env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    if "only 0-dimensional arrays can be converted to Python scalars" in done.stderr:
        pytest.skip(f"the interpreter of triton {triton.__version__} is too old for the numpy that is installed")
    assert done.stdout.strip() == "done", done.stderr


def compiled(kernel, signature: dict[str, str], constants: dict, capability: int, num_warps: int):
    """A kernel for a GPU of that compute capability, which need not be here."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    if VERSION >= (3, 3):
        signature = {name: signature.get(name, "constexpr") for name in kernel.arg_names}
        source = ASTSource(kernel, signature, constexprs=constants)
    else:
        source = ASTSource(kernel, signature, constants=constants)
    options = {"num_warps": num_warps, "enable_fp_fusion": False}
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


@pytest.mark.parametrize("capability", [80, 90])
def test_compiles_without_a_gpu(capability, monkeypatch, tmp_path):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    from detkit.layers import nms_kernel

    pointers = {"boxes": "*fp32", "groups": "*i64", "order": "*i64", "bits": "*i32"}
    signature = {**pointers, "thresh": "fp32", "num_boxes": "i32"}
    for grouped in (False, True):
        constants = {"GROUPED": grouped, "ROWS": nms_kernel.ROWS, "SPAN": nms_kernel.SPAN}
        made = compiled(nms_kernel.mark_overlaps, signature, constants, capability, 4)
        assert f".target sm_{capability}" in made.asm["ptx"]
        assert "div.rn." in made.asm["ptx"], "the IoU is rounded correctly"
        assert "fma." not in made.asm["ptx"], "each operation is rounded by itself"
        assert made.asm["cubin"]

    signature = {"bits": "*i32", "candidates": "*u8", "order": "*i64", "keep": "*u8", "num_boxes": "i32"}
    for num_boxes in (1000, 10000):
        words = nms_kernel.padded_words(num_boxes)
        made = compiled(nms_kernel.walk, signature, {"WORDS": words}, capability, nms_kernel.num_warps(words))
        assert made.asm["cubin"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("grouped", [True, False])
def test_on_a_gpu_nobody_waits(grouped, caplog):
    boxes, scores, groups, candidates = batch(4, 3000)
    arguments = [boxes.cuda(), scores.cuda(), groups.cuda() if grouped else None, candidates.cuda(), 0.5]
    nms_keep(*arguments)  # compiles and compares
    assert not caplog.records
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        kept = nms_keep(*arguments)
    finally:
        torch.cuda.set_sync_debug_mode(before)
    assert torch.equal(kept.cpu(), nms_keep(boxes, scores, groups if grouped else None, candidates, 0.5))
