"""Reading matterport's Keras weights. The files are written here as Keras writes them."""

import sys

import h5py
import numpy as np
import pytest
import torch
from reference_weights import reference_weights
from torch.nn import functional as F

from detkit.checkpoint import read_checkpoint
from detkit.checkpoint.conversion import convert
from detkit.checkpoint.formats.keras import port_name, read_keras
from detkit.checkpoint.formats.matterport import MatterportImporter
from detkit.registry import DataError

KERAS = {
    "fpn.C1.0": "conv1",
    "fpn.C1.1": "bn_conv1",
    "rpn.conv_shared": "rpn_model/rpn_conv_shared",
    "rpn.conv_class": "rpn_model/rpn_class_raw",
    "rpn.conv_bbox": "rpn_model/rpn_bbox_pred",
    "classifier.linear_class": "mrcnn_class_logits",
    "classifier.linear_bbox": "mrcnn_bbox_fc",
    "mask.deconv": "mrcnn_mask_deconv",
    "mask.conv5": "mrcnn_mask",
}


def keras_layer(name):
    """The Keras layer of pytorch-mask-rcnn's ``name``, by the rules of matterport's model."""
    if name in KERAS:
        return KERAS[name]
    top, rest = name.split(".", 1)
    if top in ("classifier", "mask"):
        return f"mrcnn_{'class' if top == 'classifier' else 'mask'}_{rest}"
    if rest.startswith("P"):
        stage = rest[1]
        return f"fpn_c{stage}p{stage}" if rest.endswith("conv1") else f"fpn_p{stage}"
    stage, block, layer = rest[1:].split(".", 2)
    where = f"{stage}{'abcdefghijklmnopqrstuvwxyz'[int(block)]}_branch"
    if layer.startswith("downsample"):
        return f"{'res' if layer.endswith('0') else 'bn'}{where}1"
    return f"{'res' if layer.startswith('conv') else 'bn'}{where}2{'abc'[int(layer[-1]) - 1]}"


def keras_tensors(state):
    """Path in the file -> array in Keras's order of axes."""
    for name, tensor in state.items():
        layer, kind = name.rsplit(".", 1)
        if kind == "num_batches_tracked":
            continue
        norm = f"{layer}.running_mean" in state
        names = {"weight": "gamma" if norm else "kernel", "bias": "beta" if norm else "bias"}
        names |= {"running_mean": "moving_mean", "running_var": "moving_variance"}
        array = tensor.numpy()
        if array.ndim == 4:
            # (out, in, h, w) -> (h, w, in, out); a transposed one is (in, out, h, w) -> (h, w, out, in)
            array = np.moveaxis(array, (0, 1), (3, 2))
        elif array.ndim == 2:
            array = array.T
        keras = keras_layer(layer)
        top = keras.split("/")[0]
        yield f"{keras if '/' in keras else f'{top}/{keras}'}/{names[kind]}:0", array


def write(path, arrays, group=""):
    with h5py.File(path, "w") as file:
        for name, array in arrays:
            file[f"{group}{name}"] = array
    return path


@pytest.fixture
def state():
    return reference_weights()


@pytest.mark.parametrize("group", ["", "model_weights/"])
def test_a_file_becomes_the_ports_state(state, tmp_path, group):
    found = read_keras(write(tmp_path / "mask_rcnn.h5", keras_tensors(state), group))
    expected = {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        assert torch.equal(tensor, expected[name]), name
    assert MatterportImporter().recognises(found)
    assert not MatterportImporter().convert(found, {}).unused


def test_a_checkpoint_may_be_keras(state, tmp_path):
    path = write(tmp_path / "weights", keras_tensors(state))
    assert read_checkpoint(path).model.keys() == read_keras(path).keys()


def test_the_last_block_of_resnet_101():
    assert port_name("res4w_branch2c/res4w_branch2c/kernel:0") == "fpn.C4.22.conv3.weight"
    assert port_name("bn2a_branch1/bn2a_branch1/moving_variance:0") == "fpn.C2.0.downsample.1.running_var"


def test_names_of_keras_1():
    assert port_name("conv1/conv1_W:0") == "fpn.C1.0.weight"
    assert port_name("bn_conv1/bn_conv1_running_std:0") == "fpn.C1.1.running_var"
    assert port_name("res3b_branch2b/res3b_branch2b_b_1:0") == "fpn.C3.1.conv2.bias"


def test_a_deconvolution_is_keras(tmp_path):
    """By its definition: a pixel adds kernel[h, w, out, in] to the square that it becomes."""
    rng = np.random.default_rng(0)
    kernel, x = rng.normal(size=(2, 2, 3, 4)).astype(np.float32), rng.normal(size=(5, 6, 4)).astype(np.float32)
    expected = np.einsum("ijc,hwoc->ihjwo", x, kernel).reshape(10, 12, 3)
    found = read_keras(write(tmp_path / "a.h5", [("mrcnn_mask_deconv/mrcnn_mask_deconv/kernel:0", kernel)]))
    actual = F.conv_transpose2d(torch.from_numpy(x).permute(2, 0, 1)[None], found["mask.deconv.weight"], stride=2)
    np.testing.assert_allclose(actual[0].permute(1, 2, 0), expected, atol=1e-5)


def test_a_convolution_and_a_dense_layer_are_keras(tmp_path):
    rng = np.random.default_rng(0)
    kernel, dense = rng.normal(size=(3, 3, 4, 5)).astype(np.float32), rng.normal(size=(4, 6)).astype(np.float32)
    patch = rng.normal(size=(3, 3, 4)).astype(np.float32)
    arrays = [("fpn_p2/fpn_p2/kernel:0", kernel), ("mrcnn_bbox_fc/mrcnn_bbox_fc/kernel:0", dense)]
    found = read_keras(write(tmp_path / "a.h5", arrays))
    actual = F.conv2d(torch.from_numpy(patch).permute(2, 0, 1)[None], found["fpn.P2_conv2.1.weight"]).flatten()
    np.testing.assert_allclose(actual, np.einsum("hwi,hwio->o", patch, kernel), atol=1e-5)
    actual = F.linear(torch.from_numpy(patch[0, 0]), found["classifier.linear_bbox.weight"])
    np.testing.assert_allclose(actual, patch[0, 0] @ dense, atol=1e-5)


def test_other_layers_keep_their_path_and_are_reported(state, tmp_path):
    arrays = [*keras_tensors(state), ("anchors/anchors/Variable:0", np.zeros((5, 1, 4), ">f4")), ("note", b"words")]
    found = read_keras(write(tmp_path / "a.h5", arrays))
    assert found["anchors/anchors/Variable:0"].shape == (5, 1, 4)
    assert list(MatterportImporter().convert(found, {}).unused) == ["anchors/anchors/Variable:0"]


def test_a_damaged_file_says_so(state, tmp_path):
    whole = write(tmp_path / "whole.h5", keras_tensors(state))
    for name, content in (("half", whole.read_bytes()[:5000]), ("empty", b""), ("text", b"not HDF5" * 900)):
        path = tmp_path / f"{name}.h5"
        path.write_bytes(content)
        with pytest.raises(DataError, match=rf"{name}\.h5: cannot be read as Keras weights"):
            read_keras(path)
    with pytest.raises(DataError, match=r"gone\.h5: there is no such file"):
        read_keras(tmp_path / "gone.h5")
    with pytest.raises(DataError, match="holds no weights"):
        read_keras(write(tmp_path / "bare.h5", []))
    with pytest.raises(DataError, match=r"'conv1/kernel:0' has shape \(1, 2, 3\)"):
        read_keras(write(tmp_path / "odd.h5", [("conv1/kernel:0", np.zeros((1, 2, 3), np.float32))]))


def test_no_other_file_is_read(state, tmp_path):
    secret = write(tmp_path / "secret.h5", keras_tensors(state))
    with h5py.File(tmp_path / "links.h5", "w") as file:
        file["conv1/conv1/bias:0"] = np.zeros(3, np.float32)
        file["bn_conv1"] = h5py.ExternalLink(str(secret), "bn_conv1")
    assert list(read_keras(tmp_path / "links.h5")) == ["fpn.C1.0.bias"]
    (tmp_path / "raw").write_bytes(bytes(range(12)))
    with h5py.File(tmp_path / "external.h5", "w") as file:
        file.create_dataset("conv1/bias:0", (3,), "f4", external=[(str(tmp_path / "raw"), 0, 12)])
    with pytest.raises(DataError, match="in other files"):
        read_keras(tmp_path / "external.h5")


def test_without_h5py_the_message_says_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(DataError, match=r"detkit\[keras\]"):
        read_keras(tmp_path / "a.h5")


def test_datasets_without_their_values_are_named(state, tmp_path):
    name = "mrcnn_bbox_fc/mrcnn_bbox_fc/bias:0"
    arrays = [(other, array) for other, array in keras_tensors(state) if other != name]
    for kind, words in (("empty", "an empty dataset"), ("huge", r"claims a shape of \(1048576, 65536\)")):
        path = write(tmp_path / f"{kind}.h5", arrays)
        with h5py.File(path, "a") as file:
            if kind == "empty":
                file[name] = h5py.Empty("f4")
            else:
                file.create_dataset(name, (2**20, 2**16), "f4", chunks=(64, 64), compression="gzip")
        with pytest.raises(DataError, match=rf"{kind}\.h5: '{name}'.*{words}"):
            read_checkpoint(path)


def test_compressed_weights_are_read(state, tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("conv1/conv1/kernel:0", data=np.zeros((64, 64, 64, 8), "f4"), compression="gzip")
    assert read_keras(tmp_path / "a.h5")["fpn.C1.0.weight"].shape == (8, 64, 64, 64)


@pytest.mark.parametrize("gone", ["fpn.C2.0.bn2.running_mean", "mask.conv3.weight", "classifier.bn1.weight"])
def test_a_tensor_that_others_need_is_named_where_it_is_missing(state, tmp_path, gone):
    path = write(tmp_path / "a.h5", keras_tensors({n: v for n, v in state.items() if n != gone}))
    with pytest.raises(DataError, match=r"a\.h5: has the names of matterport.*norm.* is missing|.*weight.* is missing"):
        convert(read_checkpoint(path), "detkit", importer=MatterportImporter(mode="folded"))


def test_tensors_that_do_not_fit_each_other_are_an_error(state, tmp_path):
    state["fpn.C2.0.bn2.running_mean"] = torch.zeros(0)
    path = write(tmp_path / "a.h5", keras_tensors(state))
    with pytest.raises(DataError, match=r"a\.h5: has the names of matterport"):
        convert(read_checkpoint(path), "detkit", importer=MatterportImporter(mode="folded"))
