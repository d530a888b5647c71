"""Pictures put together from drawn images, and files of them."""

import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from detkit.structures import Instances, Sample
from detkit.visualization.draw import MIN_SIDE, draw_instances, load_font


def side_by_side(pictures: Sequence[np.ndarray], titles: Sequence[str]) -> np.ndarray:
    """Pictures in a row, each under its title.

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
    header = round(size * 1.9)
    width = sum(p.shape[1] for p in pictures) + gap * (len(pictures) - 1)
    sheet = Image.new("RGB", (width, header + height), (255, 255, 255))
    pen, font, x = ImageDraw.Draw(sheet), load_font(size), 0
    for picture, title in zip(pictures, titles):
        pen.text((x + size * 0.4, header / 2), title, fill=(30, 30, 30), font=font, anchor="lm")
        sheet.paste(Image.fromarray(picture), (x, header))
        x += picture.shape[1] + gap
    return np.asarray(sheet)


def prediction_picture(
    sample: Sample,
    output: Instances,
    class_names: Sequence[str],
    *,
    score_thresh: float = 0.5,
    min_side: int = MIN_SIDE,
) -> np.ndarray:
    """Ground truth and prediction side by side, on the image as the model saw it; without a target, one picture.

    Args:
        sample: what the model was given.
        output: what it made of it.
        class_names: the K names.
        score_thresh: predictions below this score are not drawn.
        min_side: as in ``draw_instances``.
    """
    right = draw_instances(sample.image, output, class_names, score_thresh=score_thresh, min_side=min_side)
    drawn = int((output.scores >= score_thresh).sum())
    title = f"prediction: {drawn} with score ≥ {score_thresh:g}"
    if sample.target is None:
        return side_by_side([right], [title])
    left = draw_instances(sample.image, sample.target, class_names, min_side=min_side)
    return side_by_side([left, right], [f"ground truth: {len(sample.target)}", title])


def write_picture(picture: np.ndarray, path: str | Path) -> Path:
    """Writes ``(H, W, 3)`` uint8 as an image file (the kind by the suffix) and makes its folder."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path)
    return path


def free_path(path: Path, taken: Iterable[Path]) -> Path:
    """``path``, or with a number after its stem where it is one of ``taken``."""
    taken = set(taken)
    others = (path.with_stem(f"{path.stem}_{number}") for number in itertools.count(2))
    return next(p for p in itertools.chain([path], others) if p not in taken)
