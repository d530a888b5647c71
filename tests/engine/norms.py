"""A small network with batch norms, and batches for it, for the tests of what looks at norms."""

import torch
from lines import lines_of
from torch import nn

from detkit.engine import Trainer
from detkit.structures import Losses, Sample


class Normed(nn.Module):
    """Two convolutions with norms; the loss is a mean over bright pixels, whose number differs from image to image."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(4)
        self.first, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
        self.second, self.last = nn.Conv2d(4, 2, 1), nn.BatchNorm2d(2)
        self.dropout = nn.Dropout(0.2)

    def forward(self, samples):
        images = torch.stack([s.image for s in samples]).float() / 255
        out = self.last(self.second(self.dropout(self.norm(self.first(images)).relu())))
        bright = images[:, 0] > 0.5
        count = bright.sum()
        loss = (out.square().sum(dim=1) * bright).sum() / count.clamp(min=1)
        return Losses({"loss_bright": loss, "loss_all": out.abs().mean()}, normalisers={"loss_bright": count.float()})


def batch(number, size=2):
    generator = torch.Generator().manual_seed(number)
    images = torch.randint(0, 256, (size, 3, 3, 4), dtype=torch.uint8, generator=generator)
    return [Sample(image, (3, 4), image_id=number) for image in images]


def stream(start):
    while True:
        yield batch(start)
        start += 1


def run(hooks, steps=4, model=None, **options):
    model = model or Normed()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    options = {"log_period": 1, **options}
    trainer = Trainer(model, optimizer, lambda s, n: 1.0, stream, steps, hooks=hooks, **options)
    lines = lines_of(trainer)
    torch.manual_seed(9)
    trainer.train()
    return trainer, lines
