"""A regression that trains in milliseconds: from an image of three pixels to a number."""

import torch
from torch import nn

from detkit.structures import Losses, Sample


class Regression(nn.Module):
    """Predicts the sum of an image's pixels; dropout makes it depend on the random state."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.linear = nn.Linear(3, 1)
        self.dropout = nn.Dropout(0.3)
        self.class_names = ("a", "b")
        self.poison_at = None

    def forward(self, samples):
        images = torch.stack([s.image.flatten() for s in samples]).float() / 255
        off = self.linear(self.dropout(images)).squeeze(1) - images.sum(1)
        if self.poison_at is not None and any(s.image_id == self.poison_at for s in samples):
            off = off * float("nan")
        return Losses({"loss_l2": off.square().mean(), "loss_l1": off.abs().mean()}, {"off": off.detach().mean()})


def toy_batches(start=0):
    """An endless stream in which batch n is the same whenever it is asked for."""
    step = start
    torch.rand(1)  # as torch's DataLoader draws when it starts
    while True:
        generator = torch.Generator().manual_seed(step)
        images = torch.randint(0, 256, (2, 3, 1, 1), dtype=torch.uint8, generator=generator)
        numbered = enumerate(images, 2 * step)
        yield [Sample(image, (1, 1), image_id=n, file_name=f"{n}.png") for n, image in numbered]
        step += 1
