"""From the network's pixels to the original image's."""

from torch import Tensor

from detkit.modeling.interfaces import MaskPaster
from detkit.structures import BitMasks, CropAndPad, Instances, Keypoints, Resize


def to_original_size(
    instances: Instances,
    original_size: tuple[int, int],
    paster: MaskPaster | None = None,
    mask_thresh: float = 0.5,
    keep_empty: bool = False,
) -> Instances:
    """Takes detections to the original image: every field that has ``transform`` moves itself.

    Args:
        instances: detections in the pixels of the augmented image: ``boxes``, ``mask_probs`` (N, M, M) where a mask
            head ran, and whatever other heads gave. The original image lies in their ``valid_region``.
        original_size: ``(height, width)`` of the image in its file.
        paster: mask probabilities to masks; None where there are none.
        mask_thresh: probability from which a pixel belongs to the object.
        keep_empty: whether rows stay whose boxes are empty in the original image.

    Returns:
        New ``Instances`` in original pixels, the boxes clipped to the image; ``mask_probs`` has become ``masks``
        (N, height, width).
    """
    x1, y1, x2, y2 = instances.valid_region
    size = (y2 - y1, x2 - x1)
    whole = size == instances.image_size
    steps = [*(() if whole else (CropAndPad(instances.image_size, x1, y1, *size),)), Resize(size, original_size)]
    boxes, others = instances.boxes, instances.without("boxes")
    if isinstance(others.fields.get("keypoints"), Tensor):
        others = others.with_fields(keypoints=Keypoints(others.keypoints))
    for step in steps:
        boxes, others = boxes.outlines(step), others.transform(step)
    boxes = boxes.clip(original_size)
    moved = Instances(original_size, boxes=boxes, **others.fields)
    if not keep_empty:
        moved = moved[boxes.nonempty()]
    if "mask_probs" not in moved:
        return moved
    assert paster is not None, "mask_probs need a paster"
    masks = paster(moved.mask_probs, moved.boxes, original_size, mask_thresh)
    return moved.without("mask_probs").with_fields(masks=BitMasks(masks) if type(masks) is Tensor else masks)
