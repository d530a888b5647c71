"""Small random weights with the names of pytorch-mask-rcnn's Mask R-CNN."""

import torch

BLOCKS = {2: 2, 3: 1, 4: 1, 5: 1}
"""Stage -> blocks."""


def reference_weights(num_classes=3, num_anchors=3, width=8, seed=0):
    """``num_classes`` without the background; the channels are a few, the layers pytorch-mask-rcnn's."""
    generator = torch.Generator().manual_seed(seed)
    state = {}

    def layer(name, *shape, bias=None):
        state[f"{name}.weight"] = torch.randn(shape, generator=generator) / torch.tensor(shape[1:]).prod() ** 0.5
        state[f"{name}.bias"] = torch.randn(bias or shape[0], generator=generator)

    def norm(name, channels):
        state[f"{name}.weight"] = 1 + 0.3 * torch.randn(channels, generator=generator)
        for kind in ("bias", "running_mean"):
            state[f"{name}.{kind}"] = torch.randn(channels, generator=generator)
        # Small variances: where an epsilon matters most.
        state[f"{name}.running_var"] = 0.002 + 0.01 * torch.rand(channels, generator=generator)
        state[f"{name}.num_batches_tracked"] = torch.tensor(7)

    layer("fpn.C1.0", width, 3, 7, 7)
    norm("fpn.C1.1", width)
    channels = width
    for stage, blocks in BLOCKS.items():
        inner = width * 2 ** (stage - 2)
        for block in range(blocks):
            prefix = f"fpn.C{stage}.{block}"
            for n, (out, k) in enumerate(((inner, 1), (inner, 3), (4 * inner, 1)), 1):
                layer(f"{prefix}.conv{n}", out, channels if n == 1 else inner, k, k)
                norm(f"{prefix}.bn{n}", out)
            if block == 0:
                layer(f"{prefix}.downsample.0", 4 * inner, channels, 1, 1)
                norm(f"{prefix}.downsample.1", 4 * inner)
            channels = 4 * inner
        layer(f"fpn.P{stage}_conv1", width, channels, 1, 1)
        layer(f"fpn.P{stage}_conv2.1", width, width, 3, 3)
    layer("rpn.conv_shared", 2 * width, width, 3, 3)
    layer("rpn.conv_class", 2 * num_anchors, 2 * width, 1, 1)
    layer("rpn.conv_bbox", 4 * num_anchors, 2 * width, 1, 1)
    for n, (k, into) in enumerate(((7, width), (1, 16)), 1):
        layer(f"classifier.conv{n}", 16, into, k, k)
        norm(f"classifier.bn{n}", 16)
    layer("classifier.linear_class", num_classes + 1, 16)
    layer("classifier.linear_bbox", 4 * (num_classes + 1), 16)
    for n in range(1, 5):
        layer(f"mask.conv{n}", width, width, 3, 3)
        norm(f"mask.bn{n}", width)
    layer("mask.deconv", width, 2 * width, 2, 2, bias=2 * width)
    layer("mask.conv5", num_classes + 1, 2 * width, 1, 1)
    return state
