"""What ``detkit predict`` is given (a model, images and videos, ids of a COCO file), and what it says of its model."""

import argparse
import logging
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from detkit.data import CocoIds
from detkit.evaluation import PanopticWriter, categories_of
from detkit.evaluation.coco import MODEL_LIMIT
from detkit.export import ProgramModel
from detkit.paths import user_path
from detkit.predictor import Predictor
from detkit.predictor.sources import is_pattern, local_file, matching_files
from detkit.registry import DataError
from detkit.structures import Prediction
from detkit.utils.file_names import file_stem
from detkit.utils.words import amount
from detkit.visualization import image_files, is_live, is_video, shown_name

logger = logging.getLogger("detkit.predict")


def load(args: argparse.Namespace) -> Predictor:
    """The predictor that the command line asks for."""
    options: dict[str, Any] = {
        "device": args.device,
        "batch_size": args.batch_size,
        "engine": args.engine,
        "precision": args.precision,
        "compile": args.compile,
        "trust_imports": args.trust_imports,
    }
    if args.run is not None:
        predictor = Predictor.from_run(args.run, args.weights or "model_final.pth", args.set, **options)
    else:
        predictor = Predictor.from_weights(args.weights, args.set, config=args.config_file, **options)
    if args.engine == "auto":
        model = predictor.inner_model
        print(f"engine: {model.program.engine_name if isinstance(model, ProgramModel) else 'torch'}")
    return predictor


def find_inputs(args: argparse.Namespace) -> None:
    """Turns ``args.inputs`` into paths, patterns into those that they name, and addresses into those of their copies.

    ``args.live`` has a camera or stream, by a path that stands for it; ``args.names`` says what copies and cameras are
    called. Raises DataError.
    """
    given, args.inputs, args.live, args.names = args.inputs, [], {}, {}
    for text in given:
        if is_live(text):
            path = Path(file_stem(shown_name(text)))
            args.live[path], args.names[path] = text, shown_name(text)
        elif is_pattern(text):
            args.inputs += map(Path, matching_files(user_path(text)))
        else:
            args.inputs.append(local_file(text))
            if "://" in text:
                args.names[args.inputs[-1]] = shown_name(text)
    if len(args.live) > 1:
        raise DataError(f"{', '.join(map(shown_name, args.live.values()))}: have no end; give one of them a start")


def split_inputs(args: argparse.Namespace) -> tuple[list[Path], list[Path]]:
    """The image files and the video files among the inputs, before anything is predicted. Raises DataError."""
    images: list[Path] = []
    videos: list[Path] = []
    for path in args.inputs:
        if path.is_dir():
            images += image_files(path, recursive=args.recursive)
        elif not path.is_file():
            raise DataError(f"{path}: there is no such file or folder")
        else:
            (videos if is_video(path) else images).append(path)
    return images, videos


def path_below(path: Path, folders: Iterable[Path]) -> Path:
    """The path of a file below the first of the folders that holds it; its name where none does."""
    above = next((folder for folder in folders if folder in path.parents), path.parent)
    return path.relative_to(above)


def ids_of(
    images: Sequence[Path], videos: Sequence[Path], predictor: Predictor, annotations: Path
) -> dict[Path, int | str]:
    """The images that a COCO file lists, with their ids; the predictor gets the ids of its classes' categories, and of
    those of stuff where the file has them, as COCO panoptic's.

    Raises:
        DataError: a class is none of the file's categories, no image is listed, or which one is meant is not certain.
    """
    if videos:
        raise DataError(f"{videos[0]}: has frames, and {annotations} ids of images; predict it without --annotations")
    source = CocoIds(str(annotations))
    predictor.category_ids, stuff = source.categories(predictor.class_names), predictor.semantic_names[1:]
    predictor.stuff_ids = source.categories(stuff) if source.has(stuff) else ()  # a file of instances has none of it
    found = list(zip(images, source.images(images)))
    others = [str(path) for path, id_ in found if id_ is None]
    if others:
        what = f"{len(others)} of {len(images)} images are not in {annotations}"
        names = ", ".join(others[:5]) + (", ..." if len(others) > 5 else "")
        if len(others) == len(images):
            raise DataError(f"{what} ({names}): their file names are none of its 'file_name'")
        logger.warning("left out: %s (%s)", what, names)
    return {path: id_ for path, id_ in found if id_ is not None}


def panoptic_writer(predictor: Predictor, folder: Path) -> PanopticWriter:
    """Writes the predictor's panoptic maps."""
    ids = predictor.category_ids, predictor.semantic_names, predictor.stuff_ids
    return PanopticWriter(folder, categories_of(predictor.class_names, *ids))


def check_results(prediction: Prediction, option: str) -> None:
    """Raises DataError for a prediction of which there are no COCO results."""
    if prediction.instances is None and prediction.panoptic is None:
        raise DataError(
            f"{option}: the model predicts semantic maps alone, which COCO results have no place for; --output DIR"
            " draws them, and Predictor gives them (docs/detectors.md)"
        )


def say_found(instances: int, images: int, score_thresh: float) -> None:
    """Prints how many instances there are, and what to do where there is none."""
    hint = "; a lower --score-thresh shows what the model is less sure of" if not instances and score_thresh else ""
    found, seen = amount(instances, "instance"), amount(images, "image")
    print(f"{found} with score >= {score_thresh:g} in {seen}{hint}")


def say_cut_off(detections: int, images: int) -> None:
    """Prints how many detections of how many images the model's limit has cut off, if there are some."""
    if detections:
        fix = f"raise {MODEL_LIMIT} by --set to have them"
        print(f"up to {detections} more of {images} images were cut off by the model's limit; {fix}")


def say_unread(names: Sequence[str], total: int) -> None:
    """Names the first of the files that could not be read, of ``total``, on stderr."""
    shown = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
    print(f"could not be read: {len(names)} of {total} files ({shown})", file=sys.stderr)


def exit_code(args: argparse.Namespace, unread: int, images: int) -> int:
    """1 where some files could not be read, 2 where none could; 0 where the user has said that this is no failure."""
    return 0 if not unread or args.skip_unreadable else 1 if images else 2
