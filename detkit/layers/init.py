"""How the weights of a layer begin."""

import math

from torch import nn


def init_normal(layer: nn.Module, std: float | None) -> None:
    """Weights drawn from a normal distribution around 0, biases of 0.

    Args:
        layer: a linear layer or a convolution.
        std: the standard deviation; None: 1 / sqrt(inputs of an output), at which outputs are about as large as inputs.
    """
    weight, bias = layer.weight, layer.bias
    inputs = weight[0].numel()  # type: ignore[union-attr, index]
    nn.init.normal_(weight, std=1 / math.sqrt(inputs) if std is None else std)  # type: ignore[arg-type]
    if bias is not None:
        nn.init.zeros_(bias)  # type: ignore[arg-type]
