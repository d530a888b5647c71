"""From the network's pixels to the original image's."""

from detkit.layers import paste_masks
from detkit.structures import BitMasks, Instances


def to_original_size(instances: Instances, original_size: tuple[int, int], mask_thresh: float = 0.5) -> Instances:
    """Scales, clips and pastes.

    Args:
        instances: detections in the pixels of the augmented image: ``boxes`` and, where a mask head ran,
            ``mask_probs`` (N, M, M).
        original_size: ``(height, width)`` of the image in its file.
        mask_thresh: probability from which a pixel belongs to the object.

    Returns:
        New ``Instances`` in original pixels, without the boxes that are empty there; ``mask_probs`` has become
        ``masks`` (N, height, width) bool.
    """
    height, width = instances.image_size
    scaled = instances.boxes.scale(original_size[0] / height, original_size[1] / width).clip(original_size)
    moved = Instances(original_size, **{**instances.fields, "boxes": scaled})[scaled.nonempty()]
    if "mask_probs" not in moved:
        return moved
    masks = paste_masks(moved.mask_probs, moved.boxes, original_size, mask_thresh)
    return moved.without("mask_probs").with_fields(masks=BitMasks(masks))
