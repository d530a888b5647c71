"""ConvNorm equals its parts one after the other."""

from functools import partial

import pytest
import torch
from small import sample
from torch import nn
from torch.nn import functional as F

from detkit.layers import NORMS, ConvNorm, FrozenBN, ShapeSpec, c2_xavier_fill, guard_convolutions
from detkit.modeling.dense_heads import FCOSHead
from detkit.modeling.interfaces import Backbone
from detkit.modeling.meta_archs import DenseDetector


@pytest.mark.parametrize("norm", [None, "BN", "FrozenBN", "SyncBN", "GN"])
@pytest.mark.parametrize("bias", [True, False])
def test_conv_norm_is_convolution_then_norm_then_activation(norm, bias):
    make = None if norm is None else partial(NORMS.get(norm), eps=1e-3)
    block = ConvNorm(6, 8, 3, stride=2, groups=2, bias=bias, norm=make, activation=nn.ReLU(inplace=True))
    for tensor in block.state_dict().values():
        if tensor.is_floating_point():
            nn.init.uniform_(tensor, 0.3, 1.5)
    nn.init.normal_(block.weight)
    x = torch.randn(2, 6, 9, 8)

    def parts(x):
        y = F.conv2d(x, block.weight, block.bias, stride=2, padding=1, groups=2)
        return F.relu(y if block.norm is None else block.norm(y))

    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    got = block(a)
    grads = torch.autograd.grad((got**2).sum(), [a, *block.parameters()])
    want = parts(b)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    for mine, reference in zip(grads, torch.autograd.grad((want**2).sum(), [b, *block.parameters()])):
        torch.testing.assert_close(mine, reference, rtol=1e-3, atol=1e-3)


def test_names_in_the_state_dict():
    assert set(ConvNorm(3, 4, 1, norm="FrozenBN", activation=nn.ReLU()).state_dict()) == {
        "weight",
        "norm.weight",
        "norm.bias",
        "norm.running_mean",
        "norm.running_var",
    }


def test_bias_is_there_only_without_a_norm_unless_asked_for():
    assert ConvNorm(3, 4, 1).bias is not None
    assert ConvNorm(3, 4, 1, norm="BN").bias is None
    assert ConvNorm(3, 4, 1, norm="BN", bias=True).bias is not None


@pytest.mark.parametrize("dilation", [1, 2])
def test_default_padding_keeps_the_size(dilation):
    assert ConvNorm(3, 4, 3, dilation=dilation)(torch.zeros(1, 3, 7, 5)).shape == (1, 4, 7, 5)


def test_initial_weights_keep_the_variance_they_are_made_for():
    msra = ConvNorm(64, 128, 3)
    assert msra.weight.std().item() == pytest.approx((2 / (128 * 9)) ** 0.5, rel=0.02)
    xavier = ConvNorm(64, 128, 3, init=c2_xavier_fill)
    assert xavier.weight.std().item() == pytest.approx((1 / (64 * 9)) ** 0.5, rel=0.02)
    assert not xavier.bias.any()


def test_folding_keeps_no_extra_map_for_the_backward_pass():
    """A frozen norm must cost no activation memory: only the convolution's input and the ReLU's output are kept."""
    kept = []
    x = torch.randn(1, 8, 16, 16, requires_grad=True)
    block = ConvNorm(8, 8, 3, norm="FrozenBN", activation=nn.ReLU(inplace=True))
    assert isinstance(block.norm, FrozenBN)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.data_ptr()) or t, lambda t: t):
        y = block(x)
    maps = {x.data_ptr(), y.data_ptr()}
    small = {p.data_ptr() for p in block.state_dict().values()}
    assert maps <= set(kept)
    assert len(set(kept) - maps - small) <= 2  # the folded weight and the scale


def test_deep_copies_and_runs_on_the_meta_device():
    with torch.device("meta"):
        block = ConvNorm(3, 4, 3, norm="FrozenBN", activation=nn.ReLU(inplace=True))
        assert block(torch.empty(1, 3, 8, 8)).shape == (1, 4, 8, 8)


@pytest.mark.parametrize("channels", [4, 8, 12])
def test_narrow_pointwise_convolutions_with_a_stride_learn_on_channels_last_maps(channels):
    """Left to itself, torch 2.14 ends the process in their backward pass."""
    block = ConvNorm(channels, 2 * channels, 1, stride=2, norm="BN")
    x = torch.randn(2, channels, 49, 80)

    def gradients(x):
        x = x.requires_grad_()
        (block(x) ** 2).sum().backward()
        found = [x.grad, *(p.grad for p in block.parameters())]
        block.zero_grad()
        return found

    ordinary = gradients(x.clone())
    for mine, reference in zip(gradients(x.clone(memory_format=torch.channels_last)), ordinary, strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("options", [{}, {"groups": 3}, {"bias": False}])
def test_guarded_convolutions_are_the_same_function_of_the_same_weights(options):
    network = nn.Sequential(nn.Conv2d(3, 6, 1, stride=(2, 3), **options), nn.Conv2d(6, 6, 3, stride=2))
    weights, names = [*network.parameters()], [*network.state_dict()]
    x = torch.randn(2, 3, 9, 10)
    expected = network(x)
    others = network[1]
    guard_convolutions(network)
    assert all(a is b for a, b in zip(network.parameters(), weights, strict=True))
    assert [*network.state_dict()] == names
    assert network[1] is others, "what is safe stays"
    for layout in (torch.contiguous_format, torch.channels_last):
        inputs = x.clone(memory_format=layout).requires_grad_()
        found = network(inputs)
        torch.testing.assert_close(found, expected)
        found.sum().backward()
        assert inputs.grad[:, :, 1::2].eq(0).all(), "rows between the strides are not seen"


class StridedBackbone(Backbone):
    """Convolutions of torch's own, of which the first is narrow and looks at every fourth pixel."""

    def __init__(self, input_shape):
        super().__init__(input_shape)
        self.narrow, self.wide = nn.Conv2d(3, 16, 1, stride=4), nn.Conv2d(16, 16, 1, stride=2)
        self.output_shape = {"res2": ShapeSpec(16, 4), "res3": ShapeSpec(16, 8)}

    def forward(self, images):
        narrow = self.narrow(images)
        return {"res2": narrow, "res3": self.wide(narrow)}


def test_a_model_guards_the_convolutions_of_its_parts():
    head = partial(FCOSHead, num_conv=0)
    model = DenseDetector(3, backbone=StridedBackbone, neck=None, head=head)
    assert type(model.backbone.narrow) is not nn.Conv2d
    assert type(model.backbone.wide) is nn.Conv2d
    model([sample(64, 96), sample(64, 64, seed=1)]).total().backward()
    assert model.backbone.narrow.weight.grad.isfinite().all()
