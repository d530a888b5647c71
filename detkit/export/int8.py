"""Static quantisation after training, by NNCF."""

from typing import Any

from detkit.export.forms.interfaces import Calibration, needed


def quantised(model: Any, calibration: Calibration) -> Any:
    """OpenVINO's model with convolutions and matrix products in int8.

    Args:
        model: in float32.
        calibration: images and regions, from which the ranges of values are taken.
    """
    nncf: Any = needed("nncf", "openvino")
    inputs = [[images.numpy(), regions.numpy()] for images, regions in calibration]
    return nncf.quantize(model, nncf.Dataset(inputs), subset_size=len(inputs))
