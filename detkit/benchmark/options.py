"""Options that several benchmarks share."""

import argparse
from pathlib import Path


def add_model_arguments(parser: argparse.ArgumentParser, *, size: int, batch: int) -> None:
    """Size, batch, image, device and threads of a model's benchmark."""
    parser.add_argument("--size", type=positive, default=size, help=f"the shorter side in pixels (default: {size})")
    parser.add_argument("--batch", type=positive, default=batch, help=f"images at a time (default: {batch})")
    parser.add_argument("--image", type=Path, metavar="FILE", help="a photograph (default: made up, 480 x 640)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 (default: cpu)")


def positive(text: str) -> int:
    """A whole number of at least 1, for argparse."""
    value = int(text)
    if value < 1:
        raise ValueError(text)
    return value


def settings_of(args: argparse.Namespace) -> dict[str, object]:
    """The options as plain data, for the JSON."""
    plain = (str, int, float, bool, list, type(None))
    return {name: value if isinstance(value, plain) else str(value) for name, value in vars(args).items()}
