"""Any network of timm as a backbone."""

import importlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from detkit.config import Count, FilePath, Interval, Length
from detkit.layers import ShapeSpec, SyncBN, frozen_copy, numbered, replace_modules
from detkit.modeling.backbones.timm_networks import Map, as_arguments, create, network, timm
from detkit.modeling.interfaces import BACKBONES, Backbone, Features
from detkit.modeling.weights import read_state_dict
from detkit.zoo import shown


@BACKBONES.register()
class TimmBackbone(Backbone):
    """A network of timm (Wightman 2019) without its classifier: ``convnextv2_tiny``, ``vit_base_patch16_224``, ...

    Its maps are called after a ResNet's of the same stride, ``res2`` .. ``res5`` for 4 .. 32, so that backbones can be
    exchanged; several of one stride are ``res4``, ``res4_2``, ..., and one of stride 14 is ``s14``. The network keeps
    timm's names under ``body``. What it is like is asked of timm, not written here, so networks to come work too.

    Args:
        model: the network's name, with the name of its weights or without: ``convnextv2_tiny.fcmae_ft_in1k``.
        out_indices: which maps to give, by timm's numbers, from the first (0) or from the last (-1); null for the last
            one of each stride from 4 on, of those that timm gives unasked.
        weights: true for those that timm names, from huggingface.co; a file, an address or a name such as
            ``timm://convnextv2_tiny.fcmae_ft_in1k`` of a state dict in timm's names; null or false for random weights.
            Read when the model is built, except on the meta device.
        img_size: side of the square images that the network is made for, to which images are padded; null for images
            of any size. Networks that take one size alone need it; weights are resized to it as timm does.
        model_args: further arguments of timm's, such as ``{drop_path_rate: 0.2}`` or ``{patch_size: 16}``.
        norm: what batch norms are: BN as they are, FrozenBN with fixed statistics and weights, SyncBN over all ranks.
            Other norms stay.
        freeze_at: how much of the network does not learn: 0 nothing, 1 all that leads to maps of stride 2, 2 to those
            of stride up to 4, 5 to those of stride up to 32. Batch norms of that part become FrozenBN.

    Raises:
        ValueError: timm is missing; unknown or unfit network, map or argument; ``freeze_at`` outside 0..5; or weights
            that are missing, unreadable or another network's.
    """

    def __init__(
        self,
        input_shape: ShapeSpec,
        *,
        model: str,
        out_indices: Annotated[tuple[Annotated[int, Interval(-100, 100)], ...], Length(1)] | None = None,
        weights: bool | FilePath | None = None,
        img_size: Count | None = None,
        model_args: dict[str, Any] | None = None,
        norm: Literal["BN", "FrozenBN", "SyncBN"] = "BN",
        freeze_at: Annotated[int, Interval(0, 5)] = 0,
    ):
        super().__init__(input_shape)
        if not 0 <= freeze_at <= 5:
            raise ValueError(f"freeze_at: expected 0 (nothing) to 5 (everything), got {freeze_at}")
        if norm not in ("BN", "FrozenBN", "SyncBN"):
            raise ValueError(f"norm: expected BN, FrozenBN or SyncBN, got {norm!r}")
        net = network(model, as_arguments(model_args or {}), img_size, out_indices)
        maps = net.maps if out_indices is not None else _last_of_each_stride(net.maps)
        self.model, self._channels_last = model, net.channels_last
        self._divisibility, self._square = net.divisibility, img_size
        self.output_shape = {
            name: ShapeSpec(channels=m.channels, stride=m.stride * input_shape.stride) for name, m in _named(maps)
        }
        indices = tuple(sorted({m.index for m in maps}))
        self._order = [indices.index(m.index) for m in maps]
        arguments = {"in_chans": input_shape.channels, **dict(net.arguments)}
        if weights and not torch.empty(0).is_meta:
            self.body = _with_weights(model, arguments, indices, weights)
        else:
            self.body = create(model, arguments, indices)
        learning = frozenset[str]().union(*(m.parameters for m in maps))
        if freeze_at:
            full = net if out_indices is None else network(model, as_arguments(model_args or {}), img_size, None)
            learning = learning.difference(*(m.parameters for m in full.maps if m.stride <= 2**freeze_at))
        if norm == "SyncBN":
            self.body = replace_modules(self.body, _BatchNorm, SyncBN.of)
        for name, parameter in self.body.named_parameters():
            parameter.requires_grad_(name in learning)
        self.body = replace_modules(
            self.body, _BatchNorm, lambda bn: frozen_copy(bn) if norm == "FrozenBN" or _is_frozen(bn) else bn
        )

    @classmethod
    def strides(cls, options: Mapping[str, Any]) -> dict[str, int] | None:
        """See ``Backbone.strides``."""
        out_indices, arguments = options["out_indices"], as_arguments(options["model_args"] or {})
        maps = network(options["model"], arguments, options["img_size"], out_indices).maps
        return {name: m.stride for name, m in _named(maps if out_indices is not None else _last_of_each_stride(maps))}

    @classmethod
    def weights_source(cls, options: Mapping[str, Any]) -> str | None:
        """See ``Backbone.weights_source``."""
        return _source(options["model"], options["weights"]) if options.get("weights") else None

    @property
    def size_divisibility(self) -> int:
        """See ``Backbone.size_divisibility``."""
        return self._divisibility

    @property
    def square_size(self) -> int | None:
        """See ``Backbone.square_size``."""
        return self._square

    @property
    def pixel_statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        """See ``Backbone.pixel_statistics``."""
        own = timm().get_pretrained_cfg(self.model)
        return own and (tuple(255 * value for value in own.mean), tuple(255 * value for value in own.std))

    def layers(self) -> list[list[str]]:
        """See ``Backbone.layers``: the network's parts in order, and of a part that is a sequence the parts of that."""
        return [[f"body.{name}"] for name in _parts(self.body)]

    def forward(self, images: Tensor) -> Features:
        """``(N, C, H, W)`` -> map's name -> ``(N, C', H/s, W/s)``."""
        maps = self.body(images)
        ordered = (maps[i] for i in self._order)
        return {n: m.permute(0, 3, 1, 2) if self._channels_last else m for n, m in zip(self.output_shape, ordered)}


def _last_of_each_stride(maps: Iterable[Map]) -> list[Map]:
    last = {m.stride: m for m in maps if m.stride >= 4}
    if not last:
        raise ValueError("out_indices: the network has no map of stride 4 or more; name some that it has")
    return list(last.values())


def _named(maps: Sequence[Map]) -> Iterator[tuple[str, Map]]:
    return zip(numbered(_name(m.stride) for m in maps), maps)


def _name(stride: int) -> str:
    power = stride.bit_length() - 1
    return f"res{power}" if stride == 2**power else f"s{stride}"


def _is_frozen(norm: _BatchNorm) -> bool:
    return norm.weight is not None and not norm.weight.requires_grad and norm.track_running_stats


def _parts(body: nn.Module) -> Iterator[str]:
    parts = {name: child for name, child in body.named_children() if any(True for _ in child.parameters())}
    if len(parts) == 1:  # a network that timm wraps whole
        ((outer, child),) = parts.items()
        parts = {f"{outer}.{name}": part for name, part in child.named_children()}
    for name, part in parts.items():
        inner = part.named_children() if isinstance(part, nn.Sequential | nn.ModuleList) else ()
        held = [f"{name}.{n}" for n, p in inner if any(True for _ in p.parameters())]
        yield from held or [name] * any(True for _ in part.parameters())


def _source(model: str, weights: bool | str) -> str:
    """Where the weights are: a file, or a name that ``path_manager`` knows."""
    if isinstance(weights, str):
        return weights
    own = timm().get_pretrained_cfg(model)
    if own is None or not (own.hf_hub_id or own.url):
        name = model.partition(".")[0]
        others = timm().list_pretrained(f"{name}*")[:3]
        there = f"there are {', '.join(others)}" if others else "give a file"
        raise ValueError(f"weights: timm has none of '{model}'; {there}, or weights: null")
    if not own.hf_hub_id:
        return own.url
    cached = importlib.import_module("huggingface_hub").try_to_load_from_cache(own.hf_hub_id, "model.safetensors")
    if isinstance(cached, str):  # as timm itself has fetched it
        return cached
    if own.hf_hub_filename:
        return f"hf://{own.hf_hub_id}/{own.hf_hub_filename}"
    owner, _, name = own.hf_hub_id.partition("/")
    return f"timm://{name}" if owner == "timm" else f"hf://{own.hf_hub_id}"


def _with_weights(model: str, arguments: Mapping[str, Any], indices: tuple[int, ...], weights: bool | str) -> nn.Module:
    """``create`` with the state of a file, which timm's own loading fits to the network."""
    source = _source(model, weights)
    state = read_state_dict(source)
    with torch.random.fork_rng(devices=[]):
        random = create(model, arguments, indices).state_dict()
    given = {"pretrained": True, "pretrained_cfg_overlay": {"state_dict": dict(state), "source": ""}}
    try:
        net = create(model, {**arguments, **given}, indices)
    except ValueError as error:
        raise ValueError(f"weights: '{shown(source)}' is another network's: {error}") from error
    by_size: dict[int, list[Tensor]] = {}
    for value in state.values():
        by_size.setdefault(value.numel(), []).append(value)

    def is_given(value: Tensor) -> bool:
        """Whether the file has these values, whatever their name and shape."""
        return any(torch.equal(value.flatten(), v.flatten().to(value)) for v in by_size.get(value.numel(), ()))

    untouched = [
        key
        for key, value in net.state_dict().items()
        if value.is_floating_point() and torch.equal(value, random[key]) and not is_given(value)
    ]
    if untouched:
        raise ValueError(
            f"weights: '{shown(source)}' is another network's: {len(untouched)} tensors of {model} are not in it, such"
            f" as {untouched[0]}"
        )
    return net
