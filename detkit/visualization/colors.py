"""Colours that are easy to distinguish."""

import math

import numpy as np

_GOLDEN_ANGLE = math.pi * (3 - math.sqrt(5))  # successive hues never come near one another
_LIGHTNESS = (0.72, 0.60, 0.82)
_LMS_TO_RGB = np.array(
    [
        [4.0767416621, -3.3077115913, 0.2309699292],
        [-1.2684380046, 2.6097574011, -0.3413193965],
        [-0.0041960863, -0.7034186147, 1.7076147010],
    ]
)
_LAB_TO_LMS = np.array(
    [[1, 0.3963377774, 0.2158037573], [1, -0.1055613458, -0.0638541728], [1, -0.0894841775, -1.2914855480]]
)

LINE_COLORS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000")
"""Okabe and Ito's colours, which the colour-blind can tell apart, without their yellow, which is faint on white."""


def palette(num: int) -> np.ndarray:
    """``(num, 3)`` uint8 RGB colours; colour i is the same whatever ``num`` is.

    Hues turn by the golden angle at three lightnesses in Oklab (Ottosson 2020,
    https://bottosson.github.io/posts/oklab/), where equal steps look equal.
    """
    return np.array([_color(i) for i in range(num)], np.uint8).reshape(num, 3)


def text_color(background: np.ndarray) -> tuple[int, int, int]:
    """Black or white, whichever is read more easily on ``background`` (RGB)."""
    luma = float(np.asarray(background, np.float64) @ [0.299, 0.587, 0.114])
    return (0, 0, 0) if luma > 130 else (255, 255, 255)


def _color(index: int) -> np.ndarray:
    hue = 0.45 + index * _GOLDEN_ANGLE
    lightness = _LIGHTNESS[(index + index // 21) % 3]  # 21 steps come nearly back to the same hue
    for chroma in np.arange(0.21, 0, -0.01):  # the strongest colour that a screen can show
        lab = np.array([lightness, chroma * math.cos(hue), chroma * math.sin(hue)])
        linear = _LMS_TO_RGB @ (_LAB_TO_LMS @ lab) ** 3
        if linear.min() >= 0 and linear.max() <= 1:
            break
    linear = linear.clip(0, 1)
    srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.round(srgb * 255)
