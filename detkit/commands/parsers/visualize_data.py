"""Show what the loader feeds to the model, after augmentation, and what the dataset holds.

examples:
  16 training images with their targets, as the model sees them
    detkit visualize data quick_start/mask_rcnn_shapes

  the test images of a config of your own, in a folder of your choice
    detkit visualize data my.yaml --split test --num 50 --output output/look

  try an augmentation
    detkit visualize data my.yaml 'data.train_augmentations=[{name: RandomFlip}]'
"""

import argparse
from collections.abc import Sequence

from detkit.commands.parsers import add_config, add_data, command_parser, count, parse_with_config
from detkit.paths import output_folder


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = command_parser("visualize data", __doc__)
    add_config(parser)
    add_data(parser, "what is drawn")
    parser.add_argument("--split", choices=("train", "test"), default="train", help="which dataset (default: train)")
    parser.add_argument("--num", type=count, default=16, metavar="N", help="how many images (default: 16)")
    parser.add_argument(
        "--output",
        type=output_folder,
        metavar="DIR",
        help="where the pictures go (default: <train.output_dir>/data_<split>)",
    )
    parser.add_argument("--trust-imports", action="store_true", help="run the code that the config imports")
    return parse_with_config(parser, argv)
