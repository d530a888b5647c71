"""From the network's pixels to the original image's."""

from detkit.modeling.interfaces import MaskPaster
from detkit.structures import BitMasks, Boxes, Instances


def to_original_size(
    instances: Instances, original_size: tuple[int, int], paster: MaskPaster, mask_thresh: float = 0.5
) -> Instances:
    """Moves, scales, clips and pastes.

    Args:
        instances: detections in the pixels of the augmented image: ``boxes`` and, where a mask head ran,
            ``mask_probs`` (N, M, M). The original image lies in their ``valid_region``.
        original_size: ``(height, width)`` of the image in its file.
        paster: mask probabilities to masks.
        mask_thresh: probability from which a pixel belongs to the object.

    Returns:
        New ``Instances`` in original pixels, without the boxes that are empty there; ``mask_probs`` has become
        ``masks`` (N, height, width) bool.
    """
    x1, y1, x2, y2 = instances.valid_region
    boxes = instances.boxes.tensor - instances.boxes.tensor.new_tensor([x1, y1, x1, y1])
    scaled = Boxes(boxes).scale(original_size[0] / (y2 - y1), original_size[1] / (x2 - x1)).clip(original_size)
    moved = Instances(original_size, **{**instances.fields, "boxes": scaled})[scaled.nonempty()]
    if "mask_probs" not in moved:
        return moved
    masks = paster(moved.mask_probs, moved.boxes, original_size, mask_thresh)
    masks = masks if isinstance(masks, BitMasks) else BitMasks(masks)
    return moved.without("mask_probs").with_fields(masks=masks)
