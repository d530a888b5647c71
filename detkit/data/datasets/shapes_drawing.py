"""Drawing of one ``Shapes`` image: textured shapes, one over the other, on textured ground."""

import dataclasses
from collections.abc import Callable

import numpy as np
from PIL import Image

SHAPES = ("circle", "square", "triangle", "star", "ring")
"""The class names, in the order of the classes."""

TEXTURES = ("gradient", "stripes", "checks", "noise")
"""What the ground may have."""

MIN_VISIBLE_PIXELS = 40
"""An object of which fewer are visible is not drawn: nobody could tell what it is."""


@dataclasses.dataclass(frozen=True)
class Scene:
    """A drawn image.

    Args:
        image: ``(H, W, 3)`` uint8.
        masks: ``(N, H, W)`` bool, the visible part of each object.
        classes: ``(N,)`` int64.
        ground: ``(H, W)`` uint8, which of ``TEXTURES`` the ground has; all of the same where it is not divided.
    """

    image: np.ndarray
    masks: np.ndarray
    classes: np.ndarray
    ground: np.ndarray


@dataclasses.dataclass(frozen=True)
class _Object:
    class_index: int
    place: tuple[slice, slice]
    cover: np.ndarray  # 0..1, anti-aliased
    pixels: np.ndarray


def draw_scene(
    rng: np.random.Generator,
    size: tuple[int, int],
    num_objects: tuple[int, int],
    scale: tuple[float, float],
    min_visible: float,
    divided: bool = False,
) -> Scene:
    """Draws an image.

    Args:
        rng: where all randomness comes from.
        size: ``(height, width)``.
        num_objects: the fewest and the most objects that are placed.
        scale: the smallest and the largest diameter of an object, in parts of the shorter side.
        min_visible: an object of which a smaller part is visible is left out.
        divided: whether a line divides the ground into two, each side with one texture.
    """
    ground_color = _hsv(rng.random(), rng.uniform(0.0, 0.35), rng.uniform(0.2, 0.8))
    parts = np.zeros(size, np.uint8)
    image = _divided_ground(rng, size, ground_color, parts) if divided else _ground(rng, size, ground_color)
    free = np.ones(size, bool)
    objects: list[_Object] = []
    masks: list[np.ndarray] = []
    for _ in range(int(rng.integers(num_objects[0], num_objects[1] + 1))):  # from front to back
        thing = _object(rng, size, scale, ground_color)
        whole = thing.cover >= 0.5
        visible = whole & free[thing.place]
        if visible.sum() < max(MIN_VISIBLE_PIXELS, min_visible * whole.sum()):
            continue
        mask = np.zeros(size, bool)
        mask[thing.place] = visible
        free &= ~mask
        objects.append(thing)
        masks.append(mask)
    for thing in reversed(objects):
        under, cover = image[thing.place], thing.cover[:, :, None]
        under += cover * (thing.pixels - under)
    image += (rng.random(image.shape, np.float32) - 0.5) * np.float32(rng.uniform(7, 28))
    return Scene(
        image=np.clip(image, 0, 255).astype(np.uint8),
        masks=np.array(masks, bool).reshape(-1, *size),
        classes=np.array([thing.class_index for thing in objects], np.int64),
        ground=parts,
    )


def _ground(rng: np.random.Generator, size: tuple[int, int], color: np.ndarray) -> np.ndarray:
    """Two textures of dull colours, and strokes that are no objects."""
    y, x = np.mgrid[: size[0], : size[1]].astype(np.float32)
    image = np.broadcast_to(color, (*size, 3)).astype(np.float32)
    for _ in range(2):
        other = np.clip(color + rng.uniform(-45, 45, 3), 0, 255).astype(np.float32)
        strength = np.float32(rng.uniform(0.3, 1.0)) * _texture(rng, y, x, min(size))
        image += strength[:, :, None] * (other - image)
    for _ in range(int(rng.integers(0, 4))):
        angle, offset = rng.uniform(0, np.pi), rng.uniform(-0.4, 0.4) * max(size)
        distance = (x - size[1] / 2) * np.cos(angle) + (y - size[0] / 2) * np.sin(angle) - offset
        stroke = np.clip(rng.uniform(1, 3) - np.abs(distance), 0, 1).astype(np.float32)
        image += stroke[:, :, None] * (np.clip(color + rng.uniform(-70, 70, 3), 0, 255).astype(np.float32) - image)
    return image


def _divided_ground(
    rng: np.random.Generator, size: tuple[int, int], color: np.ndarray, parts: np.ndarray
) -> np.ndarray:
    """Two sides of dull colours with a texture each, whose numbers are written into ``parts``."""
    y, x = np.mgrid[: size[0], : size[1]].astype(np.float32)
    angle, offset = rng.uniform(0, 2 * np.pi), rng.uniform(-0.25, 0.25) * min(size)
    first = (x - size[1] / 2) * np.cos(angle) + (y - size[0] / 2) * np.sin(angle) > offset
    image = np.empty((*size, 3), np.float32)
    for side, kind in zip((first, ~first), rng.permutation(len(TEXTURES))):
        own = np.clip(color + rng.uniform(-30, 30, 3), 0, 255).astype(np.float32)
        other = np.clip(own + rng.choice([-1, 1]) * rng.uniform(25, 60, 3), 0, 255).astype(np.float32)
        pixels = own + _texture(rng, y, x, min(size), int(kind))[:, :, None] * (other - own)
        image[side], parts[side] = pixels[side], kind
    return image


def _object(rng: np.random.Generator, size: tuple[int, int], scale: tuple[float, float], ground: np.ndarray) -> _Object:
    radius = 0.5 * min(size) * np.exp(rng.uniform(np.log(scale[0]), np.log(scale[1])))
    center_y, center_x = rng.uniform(0.05, 0.95) * size[0], rng.uniform(0.05, 0.95) * size[1]
    top, left = max(0, int(center_y - radius - 1)), max(0, int(center_x - radius - 1))
    place = (slice(top, int(center_y + radius + 2)), slice(left, int(center_x + radius + 2)))
    y, x = np.mgrid[top : min(place[0].stop, size[0]), left : min(place[1].stop, size[1])].astype(np.float32)
    angle, (v, u) = rng.uniform(0, 2 * np.pi), ((y + 0.5 - center_y) / radius, (x + 0.5 - center_x) / radius)
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    class_index = int(rng.integers(len(SHAPES)))
    inside = -radius * _OUTLINES[SHAPES[class_index]](cos * u + sin * v, cos * v - sin * u)  # pixels from the border
    color = _object_color(rng, ground)
    other = np.clip(color * rng.uniform(0.45, 0.8) + rng.uniform(-25, 25, 3), 0, 255).astype(np.float32)
    strength = np.float32(rng.uniform(0.4, 1.0)) * _texture(rng, y, x, 2 * radius)
    pixels = color + strength[:, :, None] * (other - color)
    pixels *= np.clip(0.55 + 0.25 * inside, 0.55, 1.0)[:, :, None]  # a dark rim, as on something lit from the front
    return _Object(class_index, place, np.clip(inside + 0.5, 0, 1), pixels)


def _object_color(rng: np.random.Generator, ground: np.ndarray) -> np.ndarray:
    """A bright colour that stands out from the ground."""
    for _ in range(20):
        color = _hsv(rng.random(), rng.uniform(0.5, 1.0), rng.uniform(0.6, 1.0))
        if np.abs(color - ground).max() > 80:
            break
    return color


def _texture(
    rng: np.random.Generator, y: np.ndarray, x: np.ndarray, extent: float, kind: int | None = None
) -> np.ndarray:
    """0..1 at each pixel: one of ``TEXTURES``, any for None, of random direction and period."""
    kind = int(rng.integers(len(TEXTURES))) if kind is None else kind
    angle = rng.uniform(0, np.pi)
    along = x * np.float32(np.cos(angle)) + y * np.float32(np.sin(angle))
    if kind == 0:
        span = along.max() - along.min()
        return (along - along.min()) / max(float(span), 1.0)
    if kind == 3:
        cells = rng.random((int(rng.integers(3, 9)), int(rng.integers(3, 9))), np.float32)
        return np.clip(np.asarray(Image.fromarray(cells).resize(y.shape[::-1], Image.Resampling.BICUBIC)), 0, 1)
    wave = np.float32(2 * np.pi / max(4.0, extent * rng.uniform(0.08, 0.3)))
    value = np.sin(along * wave)
    if kind == 2:
        value = value * np.sin((y * np.float32(np.cos(angle)) - x * np.float32(np.sin(angle))) * wave)
    return np.clip(0.5 + 2 * value, 0, 1)


def _hsv(hue: float, saturation: float, value: float) -> np.ndarray:
    """RGB 0..255, (3,) float32."""
    k = (np.array([5, 3, 1]) + 6 * hue) % 6
    return (255 * value * (1 - saturation * np.clip(np.minimum(k, 4 - k), 0, 1))).astype(np.float32)


def _triangle(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    half = np.float32(np.sqrt(0.75))
    return np.maximum(v, half * np.abs(u) - v / 2) - 0.5


def _star(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Five points: all ten edges are one edge, from an inner corner to a tip, turned and mirrored."""
    sector = np.float32(np.pi / 5)
    angle = np.abs(np.arctan2(v, u) % (2 * sector) - sector)
    distance = np.hypot(u, v)
    inner, tip = np.array([0.45, 0.0]), np.array([np.cos(sector), np.sin(sector)])
    across, up = np.array([tip[1] - inner[1], inner[0] - tip[0]], np.float32) / np.float32(np.hypot(*(tip - inner)))
    return (distance * np.cos(angle) - np.float32(inner[0])) * across + distance * np.sin(angle) * up


_OUTLINES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "circle": lambda u, v: np.hypot(u, v) - 1,
    "square": lambda u, v: np.maximum(np.abs(u), np.abs(v)) - np.float32(0.7),
    "triangle": _triangle,
    "star": _star,
    "ring": lambda u, v: np.abs(np.hypot(u, v) - np.float32(0.74)) - np.float32(0.26),
}
"""Distance to the outline in radii, negative inside; every shape lies within radius 1."""
