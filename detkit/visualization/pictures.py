"""Pictures put together from drawn images, and files of them."""

import itertools
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from detkit.structures import CropAndPad, Instances, Prediction, Sample
from detkit.visualization.draw import MIN_SIDE, draw_instances, draw_prediction
from detkit.visualization.labels import load_font


def side_by_side(pictures: Sequence[np.ndarray], titles: Sequence[str]) -> np.ndarray:
    """Pictures in a row, each under its title; a title that is wider than its picture runs over several lines.

    Args:
        pictures: ``(H_i, W_i, 3)`` uint8 each.
        titles: as many.

    Returns:
        ``(H, W, 3)`` uint8.
    """
    if not pictures or len(pictures) != len(titles):
        raise ValueError(f"side_by_side: expected as many titles as pictures, got {len(titles)} and {len(pictures)}")
    height = max(p.shape[0] for p in pictures)
    gap = max(4, height // 80)
    size = max(12, height // 32)
    font, margin = load_font(size), round(size * 0.4)
    blocks = [_lines(title, font, p.shape[1] - 2 * margin) for p, title in zip(pictures, titles)]
    header = round(size * (0.6 + 1.3 * max(map(len, blocks))))
    width = sum(p.shape[1] for p in pictures) + gap * (len(pictures) - 1)
    sheet = Image.new("RGB", (width, header + height), (255, 255, 255))
    pen, x = ImageDraw.Draw(sheet), 0
    for picture, lines in zip(pictures, blocks):
        for number, line in enumerate(lines):
            pen.text((x + margin, size * (0.95 + 1.3 * number)), line, fill=(30, 30, 30), font=font, anchor="lm")
        sheet.paste(Image.fromarray(picture), (x, header))
        x += picture.shape[1] + gap
    return np.asarray(sheet)


def _lines(title: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """The title in lines of at most ``width`` pixels; a word that is wider loses its end."""
    lines = [""]
    for word in title.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width:
            lines[-1] = longer
            continue
        while len(word) > 1 and font.getlength(word) > width:
            word = word.rstrip("…")[:-1] + "…"
        lines.append(word)
    return [line for line in lines if line] or [""]


def prediction_picture(
    sample: Sample,
    prediction: Prediction,
    class_names: Sequence[str],
    *,
    score_thresh: float = 0.5,
    min_side: int = MIN_SIDE,
) -> np.ndarray:
    """Ground truth and prediction side by side, on the image as the model saw it; without a target, one picture.

    Padding within the image, outside its valid region, is not shown.

    Args:
        sample: what the model was given.
        prediction: what it predicted, in the pixels of the original image.
        class_names: the K names.
        score_thresh: predictions below this score are not drawn.
        min_side: as in ``draw_instances``.
    """
    image, target = without_padding(sample)
    right = draw_prediction(image, prediction, class_names, score_thresh=score_thresh, min_side=min_side)
    found = prediction.above(score_thresh).instances
    title = "prediction" if found is None else f"prediction: {len(found)} with score ≥ {score_thresh:g}"
    if target is None:
        return side_by_side([right], [title])
    left = draw_instances(image, target, class_names, min_side=min_side)
    return side_by_side([left, right], [f"ground truth: {len(target)}", title])


def without_padding(sample: Sample) -> tuple[Tensor, Instances | None]:
    """The part of the sample's image that is no padding, ``(C, H, W)``, and the target in its pixels."""
    x1, y1, x2, y2 = sample.info.valid_region_in((sample.image.shape[-2], sample.image.shape[-1]))
    image, target, size = sample.image[:, y1:y2, x1:x2], sample.target, (y2 - y1, x2 - x1)
    if target is None or size == tuple(sample.image.shape[-2:]):
        return image, target
    return image, target.transform(CropAndPad(target.image_size, x1, y1, *size))


def write_picture(picture: np.ndarray, path: str | Path) -> Path:
    """Writes ``(H, W, 3)`` uint8 as an image file (the kind by the suffix) and makes its folder."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path)
    return path


def file_stem(words: object) -> str:
    """``words``, such as an image id, as part of a file's name: letters, digits and ``_.-``."""
    return re.sub(r"[^\w.-]+", "_", str(words))


def free_path(path: Path, taken: Iterable[Path]) -> Path:
    """``path``, or with a number after its stem where it is one of ``taken``."""
    taken = set(taken)
    others = (path.with_stem(f"{path.stem}_{number}") for number in itertools.count(2))
    return next(p for p in itertools.chain([path], others) if p not in taken)
