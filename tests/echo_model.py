"""A model that gives back what it was shown."""

import torch
from torch import nn

from detkit.structures import BitMasks, Boxes, Instances, Keypoints, Prediction


class Echo(nn.Module):
    """Finds two objects in every image, whose field ``pixels`` is the image."""

    class_names = ("cat", "dog")

    def __init__(self):
        super().__init__()
        self.calls = []

    def forward(self, samples):
        self.calls.append(len(samples))
        return [self.one(sample) for sample in samples]

    def one(self, sample):
        h, w = sample.original_size
        masks = torch.zeros(2, h, w, dtype=torch.bool)
        masks[0, 2:8, 3:9] = True
        masks[0, 4, 5] = False
        return Prediction(
            Instances(
                (h, w),
                boxes=Boxes([[3, 2, 9, 8], [1.25, 2, 10, 12]]),
                scores=torch.tensor([0.9, 0.25]),
                classes=torch.tensor([1, 0]),
                masks=BitMasks(masks),
                keypoints=Keypoints([[[3.5, 4.5, 0.75]], [[5.5, 6.5, 0.5]]]),
                pixels=sample.image[None].expand(2, -1, -1, -1),
            )
        )
