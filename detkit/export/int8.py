"""Static quantisation after training, by NNCF."""

import logging
from typing import Any

from detkit.export.forms.interfaces import Calibration, needed

FLOAT = ("Multiply", "Add", "Subtract", "Divide")
"""Stay in float32: with them the quick start's mask AP falls from 0.626 to 0.458, without them to 0.624."""


def quantised(model: Any, calibration: Calibration) -> Any:
    """OpenVINO's model with convolutions and matrix products in int8.

    Args:
        model: in float32.
        calibration: images and regions, from which the ranges of values are taken.
    """
    nncf: Any = needed("nncf", "openvino")
    logging.getLogger("nncf").setLevel(logging.ERROR)
    inputs = [[images.numpy(), regions.numpy()] for images, regions in calibration]
    # Biases are not corrected: that takes means over all rows, and most rows of a mask head are padding.
    options = nncf.AdvancedQuantizationParameters(disable_bias_correction=True)
    scope = nncf.IgnoredScope(types=list(FLOAT), validate=False)  # not every model has all of them
    return nncf.quantize(
        model, nncf.Dataset(inputs), subset_size=len(inputs), ignored_scope=scope, advanced_parameters=options
    )
