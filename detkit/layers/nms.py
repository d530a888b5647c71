"""Non-maximum suppression."""

import functools
import importlib
import importlib.util
import logging
from collections.abc import Callable

import torch
from torch import Tensor
from torchvision.ops import batched_nms, nms

_log = logging.getLogger(__name__)
_Keep = Callable[[Tensor, Tensor, Tensor | None, Tensor, float], Tensor]

MAX_BOXES = 32768
"""Boxes an image for which :func:`nms_best` has a kernel: the bits of all their pairs take 128 MiB."""


def nms_by_group(boxes: Tensor, scores: Tensor, groups: Tensor | None, iou_thresh: float) -> Tensor:
    """Greedy NMS within each group (class or feature level): torchvision's operator, on plain tensors.

    Detectron2 and torchvision call the same operator. Where scores are equal its order decides which boxes are kept,
    so another way of grouping would not give their numbers.

    Args:
        boxes: ``(N, 4)`` xyxy.
        scores: ``(N,)``.
        groups: ``(N,)`` integer; None: all boxes are one group.
        iou_thresh: a box that overlaps a better one of its group by more than this is dropped.

    Returns:
        Indices of the kept boxes, best score first.
    """
    boxes, scores = torch.as_tensor(boxes).as_subclass(Tensor).float(), scores.float()
    return nms(boxes, scores, iou_thresh) if groups is None else batched_nms(boxes, scores, groups, iou_thresh)


@torch.no_grad()
def nms_best(
    boxes: Tensor, scores: Tensor, groups: Tensor | None, candidates: Tensor, iou_thresh: float, num: int
) -> tuple[Tensor, Tensor]:
    """Greedy NMS of a whole batch: of each image the best that :func:`nms_by_group` keeps of its candidates.

    The result has its shape whatever is found. So on a GPU with triton nothing waits for the device, where
    torchvision's operator, which returns as many rows as it kept, waits for each image. The first call for a device
    (and for each doubling of M) does wait: it compares the kernel with torchvision's operator on made-up boxes, and
    where they differ or the kernel cannot be compiled, that operator is used, with a warning. It is also used without
    triton, off the GPU, and beyond ``MAX_BOXES`` boxes an image.

    Args:
        boxes: ``(N, M, 4)`` xyxy, M boxes of each of N images.
        scores: ``(N, M)``. Of equal ones the box that stands first suppresses the other.
        groups: ``(N, M)`` integer; None: all boxes of an image are one group.
        candidates: ``(N, M)`` bool; the others take no part and may hold anything, NaN too.
        iou_thresh: a box that overlaps a better one of its group by more than this is dropped.
        num: how many of an image.

    Returns:
        ``(N, S)`` indices, best first, with S the smaller of ``num`` and M, and ``(N, S)`` bool: whether there is one;
        those that there are stand first. Equal scores are in the order of torchvision's operator where that is used,
        which decides who is cut off, and else in their own.
    """
    boxes, scores = torch.as_tensor(boxes).as_subclass(Tensor).float(), scores.float()
    kernel = _kernel_for(boxes)
    if kernel is not None:
        keep = kernel(boxes, scores, groups, candidates, iou_thresh)
        index = scores.masked_fill(~keep, -torch.inf).sort(dim=1, descending=True, stable=True).indices[:, :num]
        return index, keep.gather(1, index)
    shape = len(candidates), min(num, candidates.shape[1])
    index, found = candidates.new_zeros(shape, dtype=torch.int64), candidates.new_zeros(shape)
    for image, chosen in enumerate(candidates):
        group = None if groups is None else groups[image]
        best = _best_of_image(boxes[image], scores[image], group, chosen, iou_thresh)[:num]
        index[image, : len(best)], found[image, : len(best)] = best, True
    return index, found


def _kernel_for(boxes: Tensor) -> _Keep | None:
    num_boxes = 1 << max(10, (boxes.shape[1] - 1).bit_length())  # the kernel is compiled for a power of 2
    return _checked_kernel(boxes.device, num_boxes)


def _keep_image_by_image(
    boxes: Tensor, scores: Tensor, groups: Tensor | None, candidates: Tensor, iou_thresh: float
) -> Tensor:
    keep = torch.zeros_like(candidates)
    for image, chosen in enumerate(candidates):
        group = None if groups is None else groups[image]
        keep[image, _best_of_image(boxes[image], scores[image], group, chosen, iou_thresh)] = True
    return keep


def _best_of_image(
    boxes: Tensor, scores: Tensor, groups: Tensor | None, candidates: Tensor, iou_thresh: float
) -> Tensor:
    """Indices of the kept, best first."""
    rows = candidates.nonzero()[:, 0]
    return rows[nms_by_group(boxes[rows], scores[rows], None if groups is None else groups[rows], iou_thresh)]


def _kernel(device: torch.device) -> _Keep | None:
    if device.type != "cuda" or importlib.util.find_spec("triton") is None:
        return None
    # only now, as it imports triton, which not everybody has; nothing of the project, so no circle hides here
    return importlib.import_module("detkit.layers.nms_kernel").nms_keep_on_device


@functools.cache
def _checked_kernel(device: torch.device, num_boxes: int) -> _Keep | None:
    """The kernel, if there is one for up to so many boxes and it does here what torchvision's operator does."""
    if num_boxes > MAX_BOXES:
        return None
    try:
        kernel = _kernel(device)
        if kernel is None or _agrees(kernel, device, num_boxes - 5):  # the last word of 32 is not full
            return kernel
        found = "keeps other boxes than torchvision's operator"
    except torch.OutOfMemoryError:
        raise  # of this moment, and not the kernel's fault
    except Exception as error:  # whatever a compiler or a driver comes up with: there is a way on
        found = f"cannot be used: {type(error).__name__}: {error}"
    _log.warning(
        "The NMS kernel for up to %d boxes an image on %s %s. torchvision's operator is used instead: right, but "
        "slower, as the host waits for it", num_boxes, device, found,
    )  # fmt: skip
    return None


def _agrees(kernel: _Keep, device: torch.device, num_boxes: int) -> bool:
    """Whether a kernel keeps what torchvision's operator keeps, of boxes that rounding cannot decide about.

    Corners are integers and sides 4 to 8, so an IoU is a fraction of integers whose denominator is below 128: none is
    nearer to the threshold 0.502 than 64/127 is, by 0.0019.
    """
    generator, shape = torch.Generator().manual_seed(0), (2, num_boxes)
    side = int(3 * num_boxes**0.5)  # of the square they lie in: each has a few that overlap it
    corner = torch.randint(0, side, (*shape, 2), generator=generator)
    boxes = torch.cat([corner, corner + torch.randint(4, 9, (*shape, 2), generator=generator)], dim=2).float()
    scores = torch.randint(0, 50, shape, generator=generator) / 50  # with ties
    groups = torch.randint(0, 3, shape, generator=generator)
    candidates = torch.rand(shape, generator=generator) < 0.9
    boxes[~candidates] = torch.nan
    boxes, scores, groups, candidates = (tensor.to(device) for tensor in (boxes, scores, groups, candidates))
    return all(
        torch.equal(
            kernel(boxes, scores, group, candidates, 0.502),
            _keep_image_by_image(boxes, scores, group, candidates, 0.502),
        )
        for group in (groups, None)
    )
