"""The command lines of all commands, without torch, so that ``--help`` and a mistake are answered at once."""

import argparse
import difflib
import os
import re
import sys
from collections.abc import Sequence
from typing import NamedTuple, NoReturn

from detkit.paths import local_path


class Command(NamedTuple):
    """A command of ``detkit``.

    Args:
        summary: what it does, in a line.
        tool: the script in tools/ that is the same.
        resumes: whether a signal makes it save what ``--resume`` goes on from.
    """

    summary: str
    tool: str = ""
    resumes: bool = False


COMMANDS = {
    "train": Command("train a detector, and go on with a training", "train_net", resumes=True),
    "evaluate": Command("measure a run, or weights, on the test data", resumes=True),
    "predict": Command("find instances in images, folders and videos", "predict"),
    "export": Command("write a model as a program for ONNX Runtime, OpenVINO or torch.export, and verify it"),
    "doctor": Command("look for what is wrong with data, config and weights together", "doctor"),
    "convert": Command("write a dataset of any format as another, such as COCO, YOLO or LabelMe", "convert_data"),
    "weights list": Command("list the weights that have names"),
    "weights fetch": Command("fetch weights by name or address"),
    "weights verify": Command("compare fetched weights with their hashes"),
    "weights pack": Command("write weights as a folder for machines without a network"),
    "weights convert": Command("convert weights between frameworks", "convert_checkpoint"),
    "show": Command("show a config, the options of any class, and who set what", "show_config"),
    "visualize data": Command("draw what the loader really feeds", "visualize_data"),
    "visualize model": Command("draw each stage of a detector", "visualize_model"),
    "compare": Command("compare with the framework that weights come from, stage by stage", "compare_checkpoint"),
    "plot": Command("draw runs in one picture: losses, AP, any metric", "plot_metrics"),
    "replay": Command("run the batch of a step that failed again, and find why", "replay_batch"),
}
"""Words -> the command. Its options are in the module of that name here, its work in that of ``detkit.commands``; their
names have ``_`` for a space."""

LABEL_FORMATS = "coco, labelme, label-studio, voc, yolo, or one of your own"
"""Those that labels are written in: for help alone, as ``LABEL_WRITERS`` takes seconds to import."""
ENGINES = "auto, onnxruntime, openvino, torch, or one of your own"
"""Likewise those of ``FORMS``."""


def started_by_tool(words: str) -> bool:
    """Whether this process runs the command's script in tools/."""
    return os.path.basename(sys.argv[0]) == f"{COMMANDS[words].tool}.py"


def restart(words: str) -> list[str]:
    """What Python runs to start the command once more, as this process was started."""
    if started_by_tool(words):
        return [sys.argv[0]]
    script = os.path.basename(sys.argv[0]) == "detkit" and os.path.isfile(sys.argv[0])
    return [*([sys.argv[0]] if script else ["-m", "detkit"]), *words.split()]


def count(text: str) -> int:
    """A whole number of at least 1, as the type of an argument."""
    return _at_least(1, text)


def count_or_zero(text: str) -> int:
    """A whole number of at least 0, as the type of an argument."""
    return _at_least(0, text)


def _at_least(least: int, text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a whole number, got '{text}'") from None
    if number < least:
        raise argparse.ArgumentTypeError(f"expected at least {least}, got {number}")
    return number


def score(text: str) -> float:
    """A number from 0 to 1, as the type of an argument."""
    number = _number(text)
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"expected a score between 0 and 1, got {text}")
    return number


def fraction(text: str) -> float:
    """A number between 0 and 1, which is neither, as the type of an argument."""
    number = _number(text)
    if not 0 < number < 1:
        raise argparse.ArgumentTypeError(f"expected a number between 0 and 1, got {text}")
    return number


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a number, got '{text}'") from None


class _Parser(argparse.ArgumentParser):
    """Names the option that a mistyped one is nearest to, or else says how settings of a config are written."""

    def error(self, message: str) -> NoReturn:
        mistyped = re.findall(r"(?<!\S)--[\w-]+", message) if message.startswith("unrecognized") else ()
        near = [match for word in mistyped for match in difflib.get_close_matches(word, self._option_string_actions, 1)]
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        if mistyped and not near and any(action.dest == "overrides" for action in self._actions):
            hint = "; what the config sets is changed by key.path=value, such as train.output_dir=FOLDER"
        super().error(message + hint)


def command_parser(words: str, description: str | None) -> argparse.ArgumentParser:
    """A parser whose usage and examples are those of ``detkit``, or of the tool that was started.

    Args:
        words: the command.
        description: what it does, with examples that begin with ``detkit``.
    """
    started = f"detkit {words}"
    if started_by_tool(words):
        started = f"python {sys.argv[0]}"
    return _Parser(
        prog=started,
        description=(description or "").replace(f"detkit {words} ", f"{started} "),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_config(parser: argparse.ArgumentParser) -> None:
    """The arguments ``[CONFIG] [key.path=value ...]``, and ``--config-file``; see ``parse_with_config``."""
    parser.add_argument(
        "config", nargs="?", metavar="CONFIG", help="one of detkit's (detkit show --configs), a YAML of yours, or a run"
    )
    parser.add_argument("overrides", nargs="*", metavar="key.path=value", help="changes to the config")
    parser.add_argument("--config-file", type=local_path, metavar="FILE", help="the same as CONFIG")


def add_data(parser: argparse.ArgumentParser, what: str, *, divided: bool = True) -> None:
    """``--data``, ``--format`` and, where it is ``divided``, ``--val-fraction``: a folder for the config's data."""
    parser.add_argument("--data", type=local_path, metavar="FOLDER", help=what)
    parser.add_argument("--format", metavar="NAME", help="its format, where it is not recognised: coco, yolo, voc, ...")
    if divided:
        parser.add_argument(
            "--val-fraction",
            type=fraction,
            metavar="SHARE",
            help="what is evaluated of a folder without parts (default: 0.2)",
        )
        parser.add_argument("--classes", metavar="A,B", help="the classes of --data to take (default: all)")


def add_engine(parser: "argparse._ActionsContainer") -> None:
    """``--engine``, ``--precision`` and ``--compile``: what runs the model at prediction."""
    parser.add_argument(
        "--engine",
        metavar="NAME",
        help=f"what runs the model: {ENGINES} (default: torch, or what a program's file is for); auto: OpenVINO where "
        "it is faster",
    )
    parser.add_argument(
        "--precision", choices=("fp32", "bf16"), help="of a faster copy of the model: what it computes in"
    )
    parser.add_argument("--compile", action="store_true", help="put the copy's static parts through torch.compile")


def add_views(parser: "argparse._ActionsContainer") -> None:
    """``--tile``, ``--tile-overlap`` and ``--tta``; see ``view_changes``."""
    parser.add_argument(
        "--tile", metavar="SIZE", help="predict overlapping tiles of so many pixels, or HEIGHTxWIDTH, and join them"
    )
    parser.add_argument(
        "--tile-overlap", type=float, metavar="SHARE", help="of a tile that the next one shows too (default: 0.25)"
    )
    parser.add_argument(
        "--tta",
        metavar="flip|SIZE,SIZE",
        help="test-time augmentation: merge views, mirrored, and with these lengths of the shorter side",
    )


def view_changes(parser: argparse.ArgumentParser, args: argparse.Namespace) -> list[str]:
    """The arguments of ``add_views`` as changes to the config."""
    changes = _tile_changes(parser, args)
    if args.tta is None:
        return changes
    sizes = [] if args.tta == "flip" else args.tta.split(",")
    if not all(size.isdecimal() and int(size) for size in sizes):
        parser.error(f"--tta: expected 'flip', or pixels, as 640,800, got {args.tta}")
    return [*changes, f"data.test_views.short_edge=[{', '.join(sizes)}]" if sizes else "data.test_views.flip=true"]


def _tile_changes(parser: argparse.ArgumentParser, args: argparse.Namespace) -> list[str]:
    if args.tile is None:
        if args.tile_overlap is not None:
            parser.error("--tile-overlap goes with --tile SIZE")
        return []
    sides = args.tile.lower().split("x")
    if len(sides) > 2 or not all(side.isdecimal() and int(side) for side in sides):
        parser.error(f"--tile: expected pixels, as 512, or height and width, as 384x512, got {args.tile}")
    size = sides[0] if len(sides) == 1 else f"[{', '.join(sides)}]"
    changes = [f"data.test_tiles.size={size}"]
    return changes + ([] if args.tile_overlap is None else [f"data.test_tiles.overlap={args.tile_overlap}"])


def take_none(args: argparse.Namespace) -> None:
    """``--weights none``: neither other weights nor those that the config says."""
    if args.weights == "none":
        args.weights = None
        args.overrides.append("train.init_weights=null")


def add_processes(parser: argparse.ArgumentParser) -> None:
    """``--num-processes`` and ``--max-restarts``; see ``check_processes``."""
    parser.add_argument("--num-processes", type=count, metavar="N", help="start N processes, as torchrun would")
    parser.add_argument(
        "--max-restarts", type=count_or_zero, metavar="N", help="with it: how often dead ones are replaced"
    )


def check_processes(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuses restarts of processes that torchrun has started."""
    if args.max_restarts is not None and args.num_processes is None:
        parser.error("--max-restarts goes with --num-processes; torchrun has an option of that name, too")


def parse_with_config(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None, *, needed: bool = True
) -> argparse.Namespace:
    """The arguments, with the config as ``config_file`` however it was given.

    Args:
        parser: has the arguments of ``add_config``.
        argv: the command line.
        needed: whether a command line without a config is a mistake.
    """
    args = parser.parse_intermixed_args(argv)
    first = args.config
    if first is not None and (args.config_file is not None or ("=" in first and not os.path.isfile(first))):
        args.overrides.insert(0, first)
    elif first is not None:
        try:
            args.config_file = local_path(first)
        except argparse.ArgumentTypeError as error:
            parser.error(f"argument CONFIG: {error}")
    if args.config_file is not None and args.config_file.suffix in (".pth", ".pt", ".pkl", ".safetensors", ".h5"):
        name = args.config_file
        parser.error(f"CONFIG: {name} holds weights; give a run's folder, or a CONFIG and --weights {name}")
    data = getattr(args, "data", None)
    for name in ("format", "val_fraction", "classes") if data is None else ():
        if getattr(args, name, None) is not None:
            more = "; a dataset of a config has class_names" if name == "classes" else ""
            parser.error(f"--{name.replace('_', '-')} goes with --data{more}")
    if args.config_file is None and data is None and needed:
        parser.error(
            "give a CONFIG: one of detkit's (detkit show --configs lists them), a YAML of yours, or a run"
            + ("; or a folder of your own: --data FOLDER" if hasattr(args, "val_fraction") else "")
        )
    return args
