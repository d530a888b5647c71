"""What each benchmark is asked: its options, without what answers them, which takes seconds to import.

The class of a benchmark is its subcommand of ``tools/benchmark.py``: the docstring is its help, a field an option.
"""

# ruff: noqa: RUF009  (option() makes a field, as dataclasses.field does)
import argparse
import dataclasses
import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from detkit.commands.parsers import count
from detkit.paths import local_path


def option(
    default: Any,
    words: str,
    *,
    type: Callable[[str], Any] | None = None,
    choices: Sequence[str] | None = None,
    several: bool = False,
    metavar: str | None = None,
) -> Any:
    """A field of an option: ``--its-name``.

    Args:
        default: without the option. False makes it a switch; another one, but None, is named in the help.
        words: the help.
        type: makes the value of the text; None keeps the text.
        choices: the texts that are accepted; None for any.
        several: takes one value or more, as a tuple.
        metavar: what stands for the value in the help.
    """
    if default is False:
        given: dict[str, Any] = {"action": "store_true", "help": words}
    else:
        shown = " ".join(map(str, default)) if several and default else default
        given = {"type": type, "choices": choices, "nargs": "+" if several else None, "metavar": metavar}
        given["help"] = words if default is None else f"{words} (default: {shown})"
    return dataclasses.field(default=default, metadata={**given, "default": default})


@dataclasses.dataclass(frozen=True)
class Options:
    """What every benchmark is asked.

    Attributes:
        body: the module of the benchmark, with ``run(options) -> Report``.
    """

    body: ClassVar[str]
    rounds: int = option(7, "measured runs of each", type=count)
    warmup: int = option(2, "runs of each before that", type=count)

    @classmethod
    def add_to(cls, parser: argparse.ArgumentParser) -> None:
        """Adds the options to a command line."""
        for field in dataclasses.fields(cls):
            parser.add_argument(f"--{field.name.replace('_', '-')}", **field.metadata)

    @classmethod
    def of(cls, args: argparse.Namespace) -> "Options":
        """The options of a command line that was read.

        Raises:
            ValueError: options that do not go together; the message is for the user.
        """
        given: dict[str, Any] = {field.name: getattr(args, field.name) for field in dataclasses.fields(cls)}
        given = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
        return cls(**given)

    def plain(self) -> dict[str, Any]:
        """The options as plain data, for the JSON."""
        return {name: str(value) if isinstance(value, Path) else value for name, value in vars(self).items()}

    def run(self) -> Any:
        """Measures; imports what that needs. Returns a ``benchmarks.report.Report``."""
        return importlib.import_module(self.body).run(self)


@dataclasses.dataclass(frozen=True)
class ModelOptions(Options):
    """What the benchmarks of a whole model are asked."""

    size: int = option(800, "the shorter side in pixels", type=count)
    batch: int = option(1, "images at a time", type=count)
    image: Path | None = option(None, "a photograph (default: made up, 480 x 640)", type=local_path, metavar="FILE")
    device: str = option("cpu", "cpu, cuda, cuda:1")


@dataclasses.dataclass(frozen=True)
class InferOptions(ModelOptions):
    """inference of Mask R-CNN R-50-FPN: from the image to pasted masks"""

    body = "benchmarks.infer"
    precision: tuple[Literal["fp32", "bf16", "int8"], ...] = option(
        ("fp32", "bf16"),
        "of detkit's model, where the engine has it; torchvision's is always fp32",
        choices=("fp32", "bf16", "int8"),
        several=True,
    )
    engine: tuple[Literal["torch", "openvino", "onnxruntime"], ...] = option(
        ("torch",),
        "what runs detkit's model; the model is exported for others than torch, which takes minutes, and onnxruntime "
        "runs torchvision's own export, too",
        choices=("torch", "openvino", "onnxruntime"),
        several=True,
    )
    compile: bool = option(False, "put detkit's static parts through torch.compile")

    def __post_init__(self) -> None:
        if self.device != "cpu" and set(self.engine) != {"torch"}:
            raise ValueError(f"--engine: {' '.join(self.engine)} run on the CPU; leave --device out")


@dataclasses.dataclass(frozen=True)
class TrainOptions(ModelOptions):
    """one training step of Mask R-CNN R-50-FPN: forward, backward, update (SGD with momentum)"""

    body = "benchmarks.train"
    size: int = option(640, "the shorter side in pixels", type=count)
    batch: int = option(2, "images at a time", type=count)
    precision: tuple[Literal["fp32", "bf16"], ...] = option(
        ("fp32", "bf16"),
        "of detkit's model, bf16 as train.precision does it; torchvision's is always fp32",
        choices=("fp32", "bf16"),
        several=True,
    )
    compile: bool = option(False, "put detkit's static parts through torch.compile, as train.compile does")


@dataclasses.dataclass(frozen=True)
class ProfileOptions(TrainOptions):
    """where the time of a training step of Mask R-CNN R-50-FPN goes, by operator"""

    body = "benchmarks.profiling"
    rounds: int = option(2, "measured runs of each", type=count)
    operators: int = option(20, "operators that are listed", type=count)


@dataclasses.dataclass(frozen=True)
class GpuOptions(Options):
    """all that needs a GPU: tests, training and resume, NCCL, tables against torchvision, a profile"""

    body = "benchmarks.gpu"
    device: str = option("cuda", "cuda, cuda:1, or cpu for a dry run")
    seconds: int = option(460, "time for all; the rest is dropped, the most important comes first", type=count)
    dry_run: bool = option(False, "small images and few steps, to see that all runs to its end")
    only: tuple[str, ...] | None = option(None, "the parts with one of these words in their names", several=True)


@dataclasses.dataclass(frozen=True)
class DataOptions(Options):
    """loading: from files to augmented training samples, in one process; and opening a set of COCO's size"""

    body = "benchmarks.data"
    json_file: Path | None = option(None, "a COCO file (default: a made-up set)", type=local_path, metavar="FILE")
    image_root: Path | None = option(None, "its images (with --json-file)", type=local_path, metavar="DIR")
    images: int = option(40, "images a run", type=count)
    coco_sized: bool = option(
        False, "also open a made-up file of 118,000 images and 860,000 annotations, and read it in four workers"
    )

    def __post_init__(self) -> None:
        if (self.json_file is None) != (self.image_root is None):
            raise ValueError("--json-file and --image-root go together")


@dataclasses.dataclass(frozen=True)
class PasteOptions(Options):
    """pasting masks into a 1920 x 1080 image and encoding them as RLE"""

    body = "benchmarks.paste"
    masks: int = option(100, "masks of the image", type=count)
    boxes: str = option(
        "coco",
        "sizes of the boxes: distributed as COCO's, or each of 40 to 95 percent of the image",
        choices=("coco", "large"),
    )


@dataclasses.dataclass(frozen=True)
class EvalOptions(Options):
    """box and mask AP by the COCO protocol, from predictions on to the metrics"""

    body = "benchmarks.evaluate"
    images: int = option(500, "images, COCO's test set has 5000", type=count)
    detections: int = option(100, "detections an image", type=count)


@dataclasses.dataclass(frozen=True)
class ImportOptions(Options):
    """start: a fresh interpreter until the model's code is there, and loading weights into a model"""

    body = "benchmarks.importing"


BENCHMARKS: dict[str, type[Options]] = {
    "infer": InferOptions,
    "train": TrainOptions,
    "profile": ProfileOptions,
    "gpu": GpuOptions,
    "data": DataOptions,
    "paste": PasteOptions,
    "eval": EvalOptions,
    "import": ImportOptions,
}
"""Subcommand of ``tools/benchmark.py`` -> its options."""
