"""What the comparisons with other frameworks have in common."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from detkit.checkpoint import load_weights
from detkit.data import bare_record
from detkit.experiment import load_experiment
from detkit.structures import Boxes, Instances, PolygonMasks, Sample

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
IMAGE = "000000229997.jpg"
"""The image of the fixtures, of COCO's val2017."""


def build(config, overrides=(), num_classes=80):
    """The model of a config, in evaluation."""
    return load_experiment(CONFIGS / config, overrides).build_model(num_classes).eval()


EVERYTHING = (
    "model.proposal_generator.sampling.batch_size_per_image=200000",
    "model.roi_heads.sampling.batch_size_per_image=8192",
)
"""With these settings, those of Detectron2's fixtures, sampling takes all there is, so nothing is random."""


def load_detectron2(model, state, folder):
    """The model with Detectron2's weights, from a .pth file as its checkpointer writes it. Nothing may be left over."""
    path = folder / "model_final.pth"
    torch.save({"model": state}, path)
    report = load_weights(model, path)
    path.unlink()
    assert report.format == "Detectron2"
    assert report.exact, report
    return model


class Fixture:
    """What a reference implementation computed: ``meta`` (JSON), ``arrays`` (npz) and ``state``, its weights."""

    def __init__(self, shared_data, name):
        folder = shared_data.parent / "reference" / "parity"
        if not (folder / f"{name}.npz").is_file():
            pytest.skip(f"no fixture {name} in {folder}")
        self.meta = json.loads((folder / f"{name}.json").read_text())
        self.arrays = np.load(folder / f"{name}.npz")
        spec = importlib.util.spec_from_file_location("parity_weights", folder / "weights.py")
        weights = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(weights)
        kinds = {name: torch.long if name.endswith("tracked") else torch.float32 for name in self.meta["state_dict"]}
        empty = {name: torch.zeros(shape, dtype=kinds[name]) for name, shape in self.meta["state_dict"].items()}
        self.state = weights.fill(empty, self.meta["gains"])


def pixels(shared_data, name=IMAGE):
    """An image of COCO's validation set: ``(H, W, 3)`` uint8."""
    return np.array(Image.open(shared_data / "coco_mini" / "val2017" / name).convert("RGB"))


def sample(image, target=None):
    """The pixels as a model takes them, not resized."""
    tensor = torch.from_numpy(image.transpose(2, 0, 1).copy())
    return Sample(image=tensor, original_size=image.shape[:2], target=target)


def empty_record(image):
    """The pixels as augmentations take them, without annotations."""
    return bare_record(image)


def coco_target(shared_data, image_size, *, file_name=IMAGE, annotation_ids=None):
    """The objects of an image without the crowds, in the order of the file or of the ids."""
    coco = json.loads((shared_data / "coco_mini" / "annotations" / "instances_val2017.json").read_text())
    categories = sorted(c["id"] for c in coco["categories"])
    image_id = next(i["id"] for i in coco["images"] if i["file_name"] == file_name)
    found = {a["id"]: a for a in coco["annotations"] if a["image_id"] == image_id and not a["iscrowd"]}
    rows = list(found.values()) if annotation_ids is None else [found[i] for i in annotation_ids]
    boxes = torch.tensor([a["bbox"] for a in rows], dtype=torch.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return Instances(
        image_size,
        boxes=Boxes(boxes),
        classes=torch.tensor([categories.index(a["category_id"]) for a in rows], dtype=torch.long),
        masks=PolygonMasks([a["segmentation"] for a in rows], image_size),
    )


def relative(actual, expected):
    """The largest difference, in units of the largest value."""
    actual, expected = torch.as_tensor(actual).detach(), torch.as_tensor(expected).detach()
    assert actual.shape == expected.shape, (actual.shape, expected.shape)
    return ((actual - expected).abs().max() / expected.abs().max()).item()


def pair(ours, theirs, *, box=0.01, score=1e-5, classes=True, limit=None):
    """Pairs two sets of detections (or proposals) one to one; both are ``(boxes, scores, classes)`` or without classes.

    Args:
        limit: lists of this length were cut there. Among those whose scores equal the last one's to the tolerance,
            rounding decides which is cut; such a row may be without a partner.

    Returns:
        Row of ours -> row of theirs; -1 for what was cut there.

    Raises:
        AssertionError: what has no partner within ``box`` pixels, ``score`` and of its class.
    """
    (our_boxes, our_scores, *our_classes), (boxes, scores, *their_classes) = (
        [torch.as_tensor(np.asarray(part)) for part in side] for side in (ours, theirs)
    )
    assert len(our_boxes) == len(boxes), f"{len(our_boxes)} of ours, {len(boxes)} of theirs"
    far = (our_boxes[:, None].double() - boxes[None].double()).abs().amax(2)
    apart = (our_scores[:, None].double() - scores[None].double()).abs()
    fits = (far <= box) & (apart <= score)
    if classes and their_classes:
        fits &= our_classes[0][:, None] == their_classes[0][None]
    far = torch.where(fits, far + apart, torch.inf)
    partner, lonely = torch.full((len(boxes),), -1), []
    for row in range(len(boxes)):
        column = int(far[row].argmin())
        if torch.isinf(far[row, column]):
            lonely.append(row)
            continue
        partner[row] = column
        far[:, column] = torch.inf
    if limit is not None and len(boxes) == limit:
        lonely = [row for row in lonely if our_scores[row] > scores.min() + score]
    assert not lonely, f"{len(lonely)} of {len(boxes)} without a partner, first {lonely[:5]}: {our_boxes[lonely[:5]]}"
    return partner


def assert_masks(ours, theirs, pixels=2):
    """IoU of at least 0.999 each, and in all the same area to 0.1 %.

    ``pixels`` may differ whatever that makes of the IoU: a single one is more than 0.1 % of a mask of less than 1000,
    and another number of threads adds up in another order, which moves a probability of 0.5 across the threshold.
    """
    ours, theirs = torch.as_tensor(ours), torch.as_tensor(theirs)
    both, either = (ours & theirs).sum((1, 2)), (ours | theirs).sum((1, 2))
    wrong = (both < 0.999 * either) & (either - both > pixels)
    assert not wrong.any(), f"IoU {both[wrong] / either[wrong]}, sizes {either[wrong]}"
    assert ours.sum().item() == pytest.approx(theirs.sum().item(), rel=1e-3)


def assert_losses(ours, theirs, rtol=1e-4):
    """Terms by name, each within ``rtol``."""
    assert set(ours) == set(theirs)
    for name, value in theirs.items():
        assert float(torch.as_tensor(ours[name]).detach()) == pytest.approx(
            float(torch.as_tensor(value).detach()), rel=rtol
        ), name
