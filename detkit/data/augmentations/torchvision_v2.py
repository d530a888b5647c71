"""TorchvisionV2: any transform of torchvision.transforms.v2 as an augmentation."""

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode, v2

from detkit.data.interfaces import AUGMENTATIONS, Augmentation, Record
from detkit.registry import ConfigError, did_you_mean
from detkit.structures import ProjectiveTransform, Transform, Warp


@AUGMENTATIONS.register()
class TorchvisionV2(Augmentation):
    """A transform of torchvision.transforms.v2.

    Torchvision makes the image. What happened to its geometry is found out by points that go through with it, so that
    polygons stay polygons, and every field and map follows, a user's own too. Transforms that need a batch, that give
    several images or other numbers than uint8, or that turn images without boxes (RandAugment) are refused.

    Args:
        transform: the name of the class, e.g. ``RandomRotation``.
        options: its arguments by name, e.g. ``{degrees: 20, interpolation: bilinear}``.
    """

    def __init__(self, *, transform: str, options: dict[str, Any] = {}):  # noqa: B006
        super().__init__()
        self.name, self.options = transform, dict(options)
        kinds = {
            name: kind for name, kind in vars(v2).items() if inspect.isclass(kind) and issubclass(kind, v2.Transform)
        }
        if transform not in kinds:
            raise ConfigError(
                f"TorchvisionV2.transform: torchvision.transforms.v2 has no transform '{transform}'."
                f"{did_you_mean(transform, kinds)}"
            )
        known = list(inspect.signature(kinds[transform]).parameters)
        for name in self.options:
            if name not in known:
                raise ConfigError(
                    f"TorchvisionV2.options: {transform} has no option '{name}'.{did_you_mean(name, known)} It has "
                    f"{', '.join(known) or 'none'}"
                )
        try:
            if isinstance(self.options.get("interpolation"), str):
                self.options["interpolation"] = InterpolationMode(self.options["interpolation"])
            self._transform: Any = kinds[transform](**self.options)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"TorchvisionV2.options: {transform}: {error}") from error

    def transform(self, record: Record, rng: np.random.Generator) -> Transform:
        return self._run(record, rng)[1]

    def __call__(self, record: Record, rng: np.random.Generator, others: Sequence[Record] = ()) -> Record:
        image, transform = self._run(record, rng)
        return record.apply(transform, image)

    def _run(self, record: Record, rng: np.random.Generator) -> tuple[np.ndarray, Transform]:
        """The image, made by torchvision, and what happened to its geometry."""
        seed = int(rng.integers(2**63))
        image = tv_tensors.Image(torch.from_numpy(np.array(record.image.transpose(2, 0, 1), order="C")))
        boxes = record.objects.boxes.tensor.double() if "boxes" in record.objects else torch.zeros(0, 4).double()
        for lattice in (64, 512):  # a crop may show few of the points
            points = _lattice(record.size, lattice)
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(seed)
                if isinstance(self._transform, v2.ElasticTransform):  # points are moved only about so
                    params = self._transform.make_params([image])
                    half = torch.tensor([record.size[1] / 2, record.size[0] / 2])
                    warp = Warp((params["displacement"][0] * half).double().numpy())
                    return self._checked(self._transform.transform(image, params), record), warp
                both = torch.cat([boxes, points.repeat(1, 2)])
                box = tv_tensors.BoundingBoxes(both, format="XYXY", canvas_size=record.size)  # type: ignore[call-arg]
                out = self._transform({"image": image, "boxes": box})
            made = self._checked(out["image"], record)
            moved = torch.as_tensor(out["boxes"])[len(boxes) :, :2].double()
            size = (made.shape[0], made.shape[1])
            inside = ((moved > 1e-3) & (moved < torch.tensor([size[1], size[0]]) - 1e-3)).all(1)
            matrix = _fitted(points[inside].numpy(), moved[inside].numpy())
            if matrix is not None:
                return made, ProjectiveTransform(record.size, size, matrix)
        raise ValueError(f"TorchvisionV2: what {self.name} does to the image's geometry could not be found out")

    def _checked(self, image: Any, record: Record) -> np.ndarray:
        if (
            not isinstance(image, torch.Tensor)
            or image.dtype != torch.uint8
            or image.shape[:-2] != record.image.shape[2:]
        ):
            what = f"{image.dtype} {tuple(image.shape)}" if isinstance(image, torch.Tensor) else type(image).__name__
            raise ValueError(
                f"TorchvisionV2.transform: {self.name} gives {what}; expected one image of {record.image.shape[2]} "
                "channels, uint8"
            )
        return np.ascontiguousarray(image.permute(1, 2, 0).numpy())


def _lattice(size: tuple[int, int], num: int) -> torch.Tensor:
    """``(num * num, 2)`` points (x, y), evenly spread over an image of ``size``."""
    share = (torch.arange(num, dtype=torch.double) + 0.5) / num
    return torch.cartesian_prod(share * size[1], share * size[0])


def _fitted(before: np.ndarray, after: np.ndarray) -> np.ndarray | None:
    """The ``(3, 3)`` projective map that takes ``(P, 2)`` points to others; None: there is none, or too few points.

    Affine maps are fitted as such. Rounded, so that what is a whole number comes out as one.
    """
    if len(before) < 12:
        return None
    flat = np.column_stack([before, np.ones(len(before))])
    affine, _, rank, _ = np.linalg.lstsq(flat, after, rcond=None)
    matrix = np.vstack([affine.T, [0, 0, 1]])
    if rank == 3 and np.abs(flat @ affine - after).max() > 1e-4:
        centre, scale = after.mean(0), max(1.0, after.std())
        unit, zero = (after - centre) / scale, np.zeros_like(flat)
        rows = [np.hstack([flat, zero, -unit[:, :1] * flat]), np.hstack([zero, flat, -unit[:, 1:] * flat])]
        scaled = np.linalg.svd(np.vstack(rows), full_matrices=False)[2][-1].reshape(3, 3)
        matrix = np.array([[scale, 0, centre[0]], [0, scale, centre[1]], [0, 0, 1]]) @ scaled
        matrix = matrix / matrix[2, 2]
        moved = flat @ matrix.T
        if np.abs(moved[:, :2] / moved[:, 2:] - after).max() > 0.01:
            return None
    return matrix.round(9) if rank == 3 else None
