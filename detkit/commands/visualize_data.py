"""Draws what the loader feeds: the work of ``detkit visualize data``."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from detkit.commands.loading import first_samples, load_given
from detkit.commands.parsers.visualize_data import parse_arguments
from detkit.data import Dataset
from detkit.structures import Instances, Prediction, Sample
from detkit.utils.file_names import file_stem
from detkit.utils.progress import watched
from detkit.visualization import draw_prediction, side_by_side, write_picture


def picture_of(sample: Sample, dataset: Dataset) -> np.ndarray:
    """The sample's image with its target, under a line that says what it is."""
    height, width = sample.image.shape[-2:]
    target = sample.target if sample.target is not None else Instances((height, width))
    h, w = sample.original_size
    title = f"{sample.image_id}: {len(target)} objects, {width} x {height} (file: {w} x {h})"
    names: Any = {"class_names": dataset.class_names, "semantic_names": dataset.semantic_names}
    shown = Prediction(target, sample.maps.get("semantic"))
    drawn = draw_prediction(sample.image, shown, **names, skeleton=dataset.skeleton)
    return side_by_side([drawn], [title])


def visualize(args: argparse.Namespace) -> int:
    """Writes the pictures that the command line asks for."""
    exp = load_given(args)
    dataset = exp.data.train_set if args.split == "train" else exp.data.test_set
    print(dataset.summary())
    output = args.output or Path(exp.train.output_dir) / f"data_{args.split}"
    batches, written = exp.data.train(exp.train.seed) if args.split == "train" else exp.data.test(), 0
    for sample in watched(first_samples(batches, args.num), "pictures", total=args.num):
        name = file_stem(sample.image_id)
        write_picture(picture_of(sample, dataset), output / f"{written:04d}_{name}.png")
        written += 1
    print(f"{written} pictures: {output}/")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; 0 when it went well, 2 after a user's mistake."""
    return visualize(parse_arguments(argv))
