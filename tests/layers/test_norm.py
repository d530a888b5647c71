"""Norms: frozen batch norm is batch norm in evaluation mode, and every name makes what it says."""

from functools import partial

import pytest
import torch
from processes import in_processes
from torch import nn

from detkit.layers import BN, GN, NORMS, FrozenBN, SyncBN, freeze, frozen_copy, make_norm, replace_modules
from detkit.registry import ConfigError


def trained(norm: nn.Module) -> nn.Module:
    """The norm with statistics and weights that are not neutral."""
    for tensor in (norm.weight, norm.bias, norm.running_mean):
        nn.init.normal_(tensor)
    nn.init.uniform_(norm.running_var, 0.2, 3)
    return norm


@pytest.mark.parametrize("eps", [1e-5, 0.1])
def test_frozen_norm_equals_batch_norm_in_evaluation_mode(eps):
    bn = trained(nn.BatchNorm2d(6, eps=eps)).eval()
    frozen = FrozenBN(6, eps=eps).train()
    assert frozen.load_state_dict(bn.state_dict()) == nn.modules.module._IncompatibleKeys([], [])
    x, y = (torch.randn(2, 6, 5, 7, generator=torch.Generator().manual_seed(1)).requires_grad_() for _ in range(2))
    torch.testing.assert_close(frozen(x), bn(y))
    (frozen(x) ** 2).sum().backward()
    (bn(y) ** 2).sum().backward()
    torch.testing.assert_close(x.grad, y.grad)
    scale, shift = frozen.scale_shift()
    torch.testing.assert_close(x * scale[:, None, None] + shift[:, None, None], frozen(x))


def test_frozen_norm_does_not_learn():
    frozen = frozen_copy(trained(nn.BatchNorm2d(4))).train()
    before = {name: t.clone() for name, t in frozen.state_dict().items()}
    frozen(torch.randn(8, 4, 3, 3) * 9 + 5)
    assert not list(frozen.parameters())
    assert all(torch.equal(t, before[name]) for name, t in frozen.state_dict().items())


def test_frozen_norm_loads_into_batch_norm_and_inside_a_parent():
    bn = nn.Sequential(nn.Conv2d(3, 4, 1), trained(nn.BatchNorm2d(4)))
    frozen = nn.Sequential(nn.Conv2d(3, 4, 1), FrozenBN(4))
    frozen.load_state_dict(bn.state_dict(), strict=True)
    fresh = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    fresh.load_state_dict(frozen.state_dict(), strict=True)
    assert torch.equal(fresh[1].running_var, bn[1].running_var)
    assert "1.num_batches_tracked" in bn.state_dict()


def test_freeze_stops_parameters_and_batch_norms():
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(trained(nn.BatchNorm2d(4)), nn.GroupNorm(2, 4)))
    x = torch.randn(2, 3, 4, 4)
    want = net.eval()(x)
    assert freeze(net) is net
    assert not any(p.requires_grad for p in net.parameters())
    assert isinstance(net[1][0], FrozenBN)
    torch.testing.assert_close(net.train()(x), want)
    assert isinstance(freeze(nn.SyncBatchNorm(4)), FrozenBN)


def test_norm_without_statistics_cannot_be_frozen():
    with pytest.raises(ValueError, match="no running statistics"):
        frozen_copy(nn.BatchNorm2d(4, track_running_stats=False))


def test_replace_modules_reaches_every_level():
    net = nn.Sequential(nn.ReLU(), nn.Sequential(nn.Sequential(nn.ReLU())), nn.Identity())
    replace_modules(net, nn.ReLU, lambda _: nn.SiLU())
    assert [type(m) for m in net.modules() if not isinstance(m, nn.Sequential)] == [nn.SiLU, nn.SiLU, nn.Identity]


@pytest.mark.parametrize("name", ["FrozenBN", "BN", "SyncBN", "GN"])
def test_norms_are_made_by_name_or_by_a_recipe(name):
    for norm in (make_norm(name, 64), make_norm(partial(NORMS.get(name), eps=1e-3), 64)):
        assert type(norm).__name__ == name
        assert norm(torch.randn(2, 64, 3, 3)).shape == (2, 64, 3, 3)
    assert norm.eps == 1e-3


def test_make_norm_of_none_and_of_an_unknown_name():
    assert make_norm(None, 8) is None
    with pytest.raises(ConfigError, match=r"no norm named 'XN'.*BN, FrozenBN, GN, LN, SyncBN"):
        make_norm("XN", 8)


def test_bn_and_gn_are_torchs_own():
    x = torch.randn(3, 8, 4, 5)
    torch.testing.assert_close(BN(8)(x), nn.BatchNorm2d(8)(x))
    torch.testing.assert_close(GN(8)(x), nn.GroupNorm(8, 8)(x))
    assert set(BN(8).state_dict()) == set(nn.BatchNorm2d(8).state_dict())


@pytest.mark.parametrize(("channels", "groups"), [(256, 32), (64, 32), (48, 24), (20, 20), (7, 7), (37, 1)])
def test_group_norm_has_32_groups_or_the_largest_number_that_divides(channels, groups):
    assert make_norm("GN", channels).num_groups == groups


def test_sync_batch_norm_is_batch_norm_in_one_process():
    sync, bn = make_norm("SyncBN", 4), nn.BatchNorm2d(4)
    x = torch.randn(3, 4, 5, 5)
    torch.testing.assert_close(sync(x), bn(x))
    torch.testing.assert_close(sync.running_var, bn.running_var)
    torch.testing.assert_close(sync.eval()(x), bn.eval()(x))


def test_synchronised_norm_of_a_norm_has_its_device_and_what_is_frozen():
    bn = nn.BatchNorm2d(4, device="meta")
    bn.weight.requires_grad_(False)
    sync = SyncBN.of(bn)
    assert sync.weight.is_meta
    assert [p.requires_grad for p in sync.parameters()] == [False, True]


def synchronised(rank: int) -> None:
    for sizes in ((2, 2), (3, 1), (2, 0)):
        for offset, dtype, memory_format in (
            (50, torch.float64, torch.contiguous_format),  # a variance that cancels would be seen
            (1, torch.float32, torch.channels_last),
        ):
            generator = torch.Generator().manual_seed(3)
            images = [torch.randn(n, 4, 5, 3, generator=generator).to(dtype) + offset for n in sizes]
            together = torch.cat(images).requires_grad_()
            own = images[rank].contiguous(memory_format=memory_format).requires_grad_()
            bn = nn.BatchNorm2d(4)
            with torch.no_grad():
                bn.weight.add_(torch.arange(4) / 7)
            sync = SyncBN.of(bn.to(dtype)).to(dtype)
            want, got = bn(together), sync(own)
            want.sin().sum().backward()
            got.sin().sum().backward()
            torch.testing.assert_close(got, want.split(sizes)[rank])
            assert got.is_contiguous(memory_format=memory_format)
            torch.testing.assert_close(own.grad, together.grad.split(sizes)[rank])
            for name in ("weight", "bias"):
                grad = getattr(sync, name).grad
                torch.distributed.all_reduce(grad)
                torch.testing.assert_close(grad, getattr(bn, name).grad)
            torch.testing.assert_close(sync.state_dict(), bn.state_dict())
            torch.testing.assert_close(sync.eval()(own), bn.eval()(together).split(sizes)[rank])
            assert torch.equal(freeze(nn.Sequential(sync))[0].running_var, sync.running_var)


@pytest.mark.slow
def test_synchronised_norm_is_batch_norm_over_the_batches_of_all_processes():
    in_processes(synchronised)


def test_group_norm_of_a_value_that_is_alone_is_its_bias():
    norm, x = GN(16), torch.randn(2, 16, 1, 1)
    torch.nn.init.normal_(norm.bias)
    for images in (x[:1], x):
        torch.testing.assert_close(norm(images), norm.bias[None, :, None, None].expand_as(images))
