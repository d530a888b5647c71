"""A GPU in words: tensors that say they are on one, compute on the CPU, and refuse what a GPU refuses.

Every refusal stands for an error of CUDA: tensors of two devices in one operation (a CPU tensor of no dimension, a
number, may join), an array from a tensor of the GPU, random numbers of the CPU's generator for the GPU.
"""

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map_only

GPU = torch.device("cuda", 0)
aten = torch.ops.aten
JOINED = (aten.cat.default, aten.stack.default)
"""Operations in which a number of the CPU may not join either."""
INDEXED = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default)
"""Operations whose indices, the second argument, may be the CPU's."""
COPIES = (aten.copy_.default, aten._to_copy.default)
NO_ARRAY = (torch.Tensor.numpy, torch.Tensor.__array__)


class OnGPU(torch.Tensor):
    """A tensor that says it is on the GPU; ``held`` is the CPU's that it stands for."""

    held: torch.Tensor
    device = property(lambda self: GPU)  # type: ignore[assignment]
    is_cuda = property(lambda self: True)  # type: ignore[assignment]
    is_cpu = property(lambda self: False)  # type: ignore[assignment]
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held: torch.Tensor, requires_grad: bool = False) -> "OnGPU":
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            requires_grad=requires_grad,
        )
        made.held = held
        return made

    def as_subclass(self, kind: type) -> Any:
        """The same values as another kind of tensor, on the GPU."""
        return self.view_as(self) if kind is torch.Tensor else OnGPU.__new__(on_gpu(kind), self.held)

    def __repr__(self) -> str:
        return f"OnGPU({self.held!r})"

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.held.__reduce_ex__(protocol)

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return computed(function, args, kwargs or {})


def held(tree: Any) -> Any:
    """The CPU's tensors in the place of the GPU's."""
    return tree_map_only(OnGPU, lambda tensor: tensor.held, tree)


def computed(function: Any, args: Any, kwargs: Any) -> Any:
    """What an operator gives, on the device where it would."""
    refuse_two_devices(function, args, kwargs)
    device, inputs = kwargs.get("device"), tree_flatten((args, kwargs))[0]
    if device is not None and device.type == "cuda":
        kwargs = {**kwargs, "device": torch.device("cpu")}
    elif not any(isinstance(t, OnGPU) for t in inputs):
        return function(*args, **kwargs)
    if function is aten.copy_.default and not isinstance(args[0], OnGPU):
        return function(*held(args), **kwargs)
    found = tree_map_only(torch.Tensor, OnGPU, function(*held(args), **held(kwargs)))
    return found if device is not None else return_and_correct_aliasing(function, args, kwargs, found)


def refuse_two_devices(function: Any, args: Any, kwargs: Any) -> None:
    """Raises what CUDA raises."""
    if function in COPIES:
        return
    if function in INDEXED and isinstance(args[0], OnGPU):
        args = (args[0], *args[2:])  # its indices may be the CPU's
    tensors = [t for t in tree_flatten((args, kwargs))[0] if isinstance(t, torch.Tensor)]
    elsewhere = [t for t in tensors if not isinstance(t, OnGPU) and (t.ndim or function in JOINED)]
    if elsewhere and len(tensors) > sum(not isinstance(t, OnGPU) for t in tensors):
        raise RuntimeError(
            f"{function}: all tensors must be on one device, but found cuda:0 and cpu {elsewhere[0].shape}"
        )


@functools.cache
def on_gpu(kind: type) -> type:
    """A class of tensors as it is on the GPU."""
    if issubclass(kind, OnGPU):
        return kind
    return type(kind.__name__, (kind, OnGPU), {"__new__": lambda cls, *args: kind(*args)})


class Upload(torch.autograd.Function):
    """From the CPU to the GPU; the gradient goes back."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor) -> torch.Tensor:
        return OnGPU(tensor.detach().clone())

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return held(gradient)


class Download(torch.autograd.Function):
    """From the GPU to the CPU."""

    @staticmethod
    def forward(ctx: Any, tensor: OnGPU) -> torch.Tensor:
        return tensor.detach().held.clone()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return OnGPU(gradient)


def moved(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The tensor on the device, itself where it is there."""
    if (device.type == "cuda") == isinstance(tensor, OnGPU):
        return tensor
    return (Upload if device.type == "cuda" else Download).apply(tensor)


def asked_device(arguments: Iterable[Any]) -> torch.device | None:
    """The device among the arguments of ``Tensor.to``."""
    for argument in arguments:
        if isinstance(argument, torch.Tensor):
            return argument.device
        if isinstance(argument, str | torch.device):
            return torch.device(argument)
    return None


class Factories(TorchDispatchMode):
    """Operators that are asked for tensors of the GPU."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return computed(function, args, kwargs or {})


@contextlib.contextmanager
def emulated_gpu() -> Iterator[None]:
    """Within it ``cuda`` is a device."""
    start, torch.cuda._lazy_init = torch.cuda._lazy_init, lambda: None
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        with Factories(), Transfers():
            yield
    finally:
        torch.cuda._lazy_init = start
        torch.__future__.set_overwrite_module_params_on_conversion(False)


class Transfers(TorchFunctionMode):
    """What moves between the devices, and what asks for one."""

    def __torch_function__(self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if function in NO_ARRAY and isinstance(args[0], OnGPU):
            raise TypeError("can't convert cuda:0 device type tensor to numpy")
        if function is torch.Tensor.pin_memory:
            return args[0]
        if function is torch.Tensor.tolist:
            return held(args[0].detach()).tolist()
        if function in (torch.Tensor.cpu, torch.Tensor.cuda):
            return moved(args[0], torch.device("cpu" if function is torch.Tensor.cpu else "cuda"))
        if function is torch.Tensor.to:
            return self.to(*args, **kwargs)
        if function is torch.Tensor.new_tensor:
            kwargs.setdefault("device", args[0].device)
            function, args = torch.tensor, args[1:]
        device = kwargs.get("device")
        if device is None or torch.device(device).type != "cuda":
            return function(*args, **kwargs)
        if kwargs.get("generator") is not None:
            raise RuntimeError(f"{function}: expected a generator of cuda, but found one of cpu")
        return moved(function(*args, **{**kwargs, "device": torch.device("cpu")}), GPU)

    @staticmethod
    def to(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """``Tensor.to``: the device by itself, all else as ever."""
        device = asked_device([*args, kwargs.pop("device", None)])
        dtypes = [a.dtype if isinstance(a, torch.Tensor) else a for a in args]
        rest = [a for a in dtypes if isinstance(a, torch.dtype)]
        changed = tensor.to(*rest, **kwargs) if rest or kwargs else tensor
        return changed if device is None else moved(changed, device)
