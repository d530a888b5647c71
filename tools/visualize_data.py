#!/usr/bin/env python3
"""Show what the loader feeds to the model, after augmentation, and what the dataset holds.

examples:
  16 training images with their targets, as the model sees them
    python tools/visualize_data.py --config-file configs/quick_start/mask_rcnn_shapes.yaml

  the test images of a config of your own, in a folder of your choice
    python tools/visualize_data.py --config-file my.yaml --split test --num 50 --output output/look

  try an augmentation
    python tools/visualize_data.py --config-file my.yaml 'data.train_augmentations=[{name: RandomFlip}]'
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from detkit.paths import local_path


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True, type=local_path, metavar="FILE", help="a YAML")
    parser.add_argument("--split", choices=("train", "test"), default="train", help="which dataset (default: train)")
    parser.add_argument("--num", type=int, default=16, metavar="N", help="how many images (default: 16)")
    parser.add_argument(
        "--output",
        type=local_path,
        metavar="DIR",
        help="where the pictures go (default: <train.output_dir>/data_<split>)",
    )
    parser.add_argument("--trust-imports", action="store_true", help="run the code that the config imports")
    parser.add_argument("overrides", nargs="*", metavar="key.path=value", help="changes to the config")
    args = parser.parse_intermixed_args(argv)
    if args.num < 1:
        parser.error(f"--num: expected at least 1, got {args.num}")
    return args


if __name__ == "__main__":
    parse_arguments(None)  # so --help and mistakes are answered at once: what is imported from here on takes seconds

import numpy as np

from detkit import command_line
from detkit.data import Dataset
from detkit.experiment import Experiment, load_experiment
from detkit.structures import Instances, Prediction, Sample
from detkit.utils.file_names import file_stem
from detkit.utils.progress import watched
from detkit.visualization import draw_prediction, side_by_side, write_picture


def first_samples(exp: Experiment, split: str, num: int) -> Iterator[Sample]:
    """The first ``num`` samples of the loader, the same that a training with this config and seed begins with."""
    batches = exp.data.train(exp.train.seed) if split == "train" else exp.data.test()
    given = 0
    for batch in batches:
        for sample in batch[: num - given]:
            given += 1
            yield sample
        if given == num:
            return


def picture_of(sample: Sample, dataset: Dataset) -> np.ndarray:
    """The sample's image with its target, under a line that says what it is."""
    height, width = sample.image.shape[-2:]
    target = sample.target if sample.target is not None else Instances((height, width))
    h, w = sample.original_size
    title = f"{sample.image_id}: {len(target)} objects, {width} x {height} (file: {w} x {h})"
    drawn = draw_prediction(sample.image, Prediction(target), dataset.class_names, skeleton=dataset.skeleton)
    return side_by_side([drawn], [title])


def visualize(args: argparse.Namespace) -> int:
    """Writes the pictures that the command line asks for."""
    exp = load_experiment(args.config_file, args.overrides, trust_imports=args.trust_imports)
    dataset = exp.data.train_set if args.split == "train" else exp.data.test_set
    print(dataset.summary())
    output = args.output or Path(exp.train.output_dir) / f"data_{args.split}"
    written = 0
    for sample in watched(first_samples(exp, args.split, args.num), "pictures", total=args.num):
        name = file_stem(sample.image_id)
        write_picture(picture_of(sample, dataset), output / f"{written:04d}_{name}.png")
        written += 1
    print(f"{written} pictures: {output}/")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the tool; 0 when it went well, 2 after a user's mistake."""
    args = parse_arguments(argv)
    return command_line.run(lambda: visualize(args))


if __name__ == "__main__":
    sys.exit(main())
