"""one training step of Mask R-CNN R-50-FPN: forward, backward, update (SGD with momentum)"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.models import as_samples, images_of, make_pair
from benchmarks.options import TrainOptions
from benchmarks.report import Report, Row
from benchmarks.timing import Candidate, measure
from detkit.engine.step import Precision, autocast
from detkit.experiment import torch_device
from detkit.modeling.compiling import compile_parts
from detkit.solver import SGD
from detkit.structures import BitMasks, Boxes, Instances, Sample

OBJECTS = 8
"""Objects an image."""


def made_up_target(size: tuple[int, int], num_classes: int, seed: int) -> Instances:
    """Ellipses in boxes of all sizes: ``boxes``, ``classes`` and bitmap ``masks``."""
    generator = torch.Generator().manual_seed(seed)
    height, width = size
    centre, extent = torch.rand(2, OBJECTS, 2, generator=generator)
    half = (0.03 + 0.25 * extent**2) * min(size)
    middle = centre * torch.tensor([width, height])
    boxes = Boxes(torch.cat([middle - half, middle + half], dim=1)).clip(size)
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    corners = boxes.tensor[..., None, None]
    radii, centres = (corners[:, 2:] - corners[:, :2]) / 2, (corners[:, 2:] + corners[:, :2]) / 2
    masks = ((x - centres[:, 0]) / radii[:, 0]) ** 2 + ((y - centres[:, 1]) / radii[:, 1]) ** 2 <= 1
    classes = torch.randint(num_classes, (OBJECTS,), generator=generator)
    return Instances(size, boxes=boxes, classes=classes, masks=BitMasks(masks))


def their_targets(samples: list[Sample]) -> list[dict[str, Tensor]]:
    """The samples' targets as torchvision takes them."""
    targets = [sample.target for sample in samples if sample.target is not None]
    return [
        {"boxes": t.boxes.tensor.clone(), "labels": t.classes + 1, "masks": t.masks.tensor.to(torch.uint8)}
        for t in targets
    ]


def freeze_as_ours(theirs: nn.Module) -> None:
    """torchvision's model learns what ours learns: not the stem, nor the first stage, nor any norm of the backbone."""
    for name, module in theirs.backbone.body.named_modules():  # type: ignore[union-attr, operator]
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
        if isinstance(module, nn.BatchNorm2d) or name in ("conv1", "layer1"):
            module.requires_grad_(False)


def step_of(model: nn.Module, optimizer: torch.optim.Optimizer, loss: Callable[[], Tensor]) -> Callable[[], None]:
    """Forward, backward, update."""

    def step() -> None:
        """One step."""
        optimizer.zero_grad(set_to_none=True)
        loss().backward()
        optimizer.step()

    return step


def steps(options: TrainOptions) -> list[Candidate]:
    """One step of torchvision's model in fp32, and of detkit's in each precision."""
    device = torch_device(options.device)
    images = images_of(options.image, options.batch)
    pair = make_pair(options.size, images[0], overrides=["model.preprocess.channels_last=true"]).to(device)
    theirs, ours = pair.theirs, pair.ours
    samples = []
    for number, sample in enumerate(as_samples(images)):
        target = made_up_target(sample.original_size, ours.num_classes, number)
        samples.append(Sample(sample.image, sample.original_size, number, target=target).to(device))
    pixels, targets = [sample.image.float() / 255 for sample in samples], their_targets(samples)
    theirs.train()
    ours.train()
    if options.compile:
        compile_parts(ours)
    freeze_as_ours(theirs)
    sgd = torch.optim.SGD([p for p in theirs.parameters() if p.requires_grad], 1e-6, momentum=0.9, weight_decay=1e-4)

    def their_loss() -> Tensor:
        """torchvision's sum of losses, 0-d."""
        return sum(theirs(list(pixels), [dict(t) for t in targets]).values())  # type: ignore[return-value]

    def our_loss(precision: Precision) -> Tensor:
        """detkit's sum of losses, 0-d."""
        with autocast(device, precision):
            return ours(samples).total()

    candidates = [Candidate("torchvision fp32", step_of(theirs, sgd, their_loss))]
    optimizer = SGD(ours, 1.0, lr=1e-6)
    for precision in dict.fromkeys(options.precision):
        candidates.append(Candidate(f"detkit {precision}", step_of(ours, optimizer, partial(our_loss, precision))))
    return candidates


def run(options: TrainOptions) -> Report:
    """Measures. The baseline is torchvision's model in fp32."""
    device = torch_device(options.device)
    measured = measure(steps(options), rounds=options.rounds, warmup=options.warmup, device=device)
    title = f"training step, Mask R-CNN R-50-FPN, {options.size} pixels, batch {options.batch}, {device}"
    return Report(title, [Row.of(m, measured[0]) for m in measured], {}, options.plain())
