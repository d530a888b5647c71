"""Predicts many images in several processes, and goes on after a kill: the work of ``detkit predict --results``."""

import argparse
import contextlib
import copy
import dataclasses
import hashlib
import logging
import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from detkit.commands.loading import check_processes_started
from detkit.commands.predict_inputs import (
    check_results,
    exit_code,
    ids_of,
    load,
    panoptic_writer,
    say_cut_off,
    say_found,
    say_unread,
)
from detkit.data import read_ahead
from detkit.evaluation import coco_results
from detkit.evaluation import result_folder as results
from detkit.experiment import torch_device
from detkit.export import ProgramModel
from detkit.predictor import Predictor
from detkit.predictor.running import predictions_of
from detkit.predictor.sources import Item
from detkit.registry import DataError
from detkit.structures import Prediction, Sample
from detkit.utils import distributed
from detkit.utils.environment import cores
from detkit.utils.paths import remove_leftovers
from detkit.utils.progress import watched
from detkit.utils.run_folder import holding
from detkit.visualization import is_video, walk_images

logger = logging.getLogger("detkit.predict")

_A_WEEK = 7 * 24 * 60
"""Minutes that a process waits at the end for those that have more to do."""
_LOCK = ".lock-"


def predict_many(args: argparse.Namespace) -> int:
    """Does what the command line asks for, in one of its processes. The exit code is that of ``predict``."""
    check_processes_started(args.num_processes)
    if args.format == "parquet":
        results.import_pyarrow()
    _end_with_launcher()
    for path in args.live:
        raise DataError(f"{args.names[path]}: has no end, and --results takes images; give it to --output DIR")
    with distributed.process_group(torch_device(args.device), _A_WEEK), contextlib.ExitStack() as held:
        predictor = load(args)
        wrong = _begin(args, predictor, held) if distributed.is_main() else ""
        ids = predictor.category_ids, predictor.stuff_ids
        wrong, (predictor.category_ids, predictor.stuff_ids) = distributed.all_gather_object((wrong, ids))[0]
        if wrong:
            raise DataError(wrong)
        done = results.done(args.results)
        numbers = np.flatnonzero(~done)
        if distributed.is_main() and done.any():
            print(f"goes on: {len(numbers)} of {len(done)} images are left to predict")
        held.enter_context(holding(args.results, f"{_LOCK}{distributed.rank()}"))
        distributed.barrier()  # before any process writes to what another still reads
        _predict(args, predictor, numbers[distributed.rank() :: distributed.world_size()])
        distributed.barrier()
        code = _finish(args, predictor) if distributed.is_main() else 0
        return int(distributed.all_gather_object(code)[0])


def _end_with_launcher() -> None:
    """Ends this process when its launcher has been killed: else it would still write when the next start goes on."""

    def watch(launcher: int) -> None:
        while os.getppid() == launcher:
            time.sleep(0.2)
        os._exit(1)

    if distributed.launched():
        threading.Thread(target=watch, args=(os.getppid(),), daemon=True).start()


def _take(folder: Path, held: contextlib.ExitStack) -> str:
    """Takes the folder for this start, and waits some seconds for the processes of a killed one; "", or who has it."""
    for _ in range(25):
        with contextlib.ExitStack() as locks:
            holder = locks.enter_context(holding(folder))
            for path in folder.glob(f"{_LOCK}*") if not holder else ():
                with holding(folder, path.name) as other:
                    holder = holder or other
            if not holder:
                held.push(locks.pop_all())
                return ""
        time.sleep(0.2)
    return holder


def _begin(args: argparse.Namespace, predictor: Predictor, held: contextlib.ExitStack) -> str:
    """Makes the folder ready; gives what is wrong, which all processes are to say."""
    try:
        if holder := _take(args.results, held):
            return f"{args.results}: is in use by {holder}; wait for its end, or take another folder"
        root, names = _root(args.inputs), _names(args.inputs, args.recursive)
        images: Iterable[tuple[int | str | None, str]] = ((None, name) for name in names)
        if args.annotations is not None:
            ids = ids_of([root / name for name in names], (), predictor, args.annotations)
            images = ((id_, os.path.relpath(path, root)) for path, id_ in ids.items())
        elif predictor.category_ids is None:
            logger.warning("the weights carry no ids of categories: classes are numbered from 1")
        results.begin(args.results, _settings(args, predictor), images)
        remove_leftovers(args.results / results.PANOPTIC)
    except (DataError, OSError) as error:
        return str(error)
    return ""


def _settings(args: argparse.Namespace, predictor: Predictor) -> dict[str, Any]:
    """What results depend on."""
    weights, config, model = hashlib.blake2b(digest_size=16), predictor.config or {}, predictor.inner_model
    for name, value in model.state_dict().items():
        if isinstance(value, torch.Tensor):
            weights.update(name.encode())
            weights.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    if isinstance(model, ProgramModel):
        weights.update(model.program.checksum().encode())
    return {
        "--score-thresh": args.score_thresh,
        "--precision": args.precision,
        "--engine": args.engine,
        "--annotations": args.annotations and str(args.annotations.resolve()),
        "folder of the images": str(_root(args.inputs).resolve()),
        "model": config.get("model"),
        **{
            f"data.{key}": config.get("data", {}).get(key) for key in ("test_augmentations", "test_tiles", "test_views")
        },
        "reading": dataclasses.asdict(predictor.reading),
        "categories": {str(id_): name for id_, name in _categories(predictor).items()},
        "weights (checksum)": weights.hexdigest(),
    }


def _categories(predictor: Predictor) -> dict[int, str]:
    return dict(zip(predictor.category_ids or range(1, len(predictor.class_names) + 1), predictor.class_names))


def _root(inputs: Sequence[Path]) -> Path:
    """The folder that all inputs lie in: images are named by their paths below it, wherever the command is started."""
    return Path(os.path.commonpath([os.path.abspath(path if path.is_dir() else path.parent) for path in inputs]))


def _names(inputs: Sequence[Path], recursive: bool) -> Iterator[str]:
    """The images' names, one after the other. Raises DataError where an input is not there or is a video."""
    root = _root(inputs)
    for path in inputs:
        name = os.path.relpath(path, root)
        if path.is_dir():
            found = walk_images(path, recursive=recursive)
            yield from found if name == "." else (os.path.join(name, below) for below in found)
        elif not path.is_file():
            raise DataError(f"{path}: there is no such file or folder")
        elif is_video(path):
            raise DataError(f"{path}: has frames, and --results takes images; give it to --json FILE or --output DIR")
        else:
            yield name


@dataclasses.dataclass(frozen=True)
class _Read:
    """Reads an image of the listing, in a worker process."""

    predictor: Predictor
    listing: results.Listing
    root: Path

    def __call__(self, number: int) -> Sample:
        path = self.root / self.listing[number].file_name
        return self.predictor.sample(Item(path, self.predictor.reading, file_name=str(path)))


def _predict(args: argparse.Namespace, predictor: Predictor, numbers: np.ndarray) -> None:
    """Predicts the images of these numbers in the listing and writes as it goes."""
    listing, reader = results.Listing(args.results), copy.copy(predictor)
    reader.model = reader.inner_model = nn.Identity()  # which the workers do without
    size = predictor.batch_size
    batches = (numbers[i : i + size].tolist() for i in range(0, len(numbers), size))
    local = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    workers = min(4, cores() // local - 1) if args.num_workers is None else args.num_workers
    read = read_ahead(_Read(reader, listing, _root(args.inputs)), batches, max(workers, 0))
    name = "images" if distributed.world_size() == 1 else f"images (share 1 of {distributed.world_size()})"
    steps = watched(_predictions(predictor, read), name, total=len(numbers), show=distributed.is_main(), unit="image")
    maps = panoptic_writer(predictor, args.results / results.PANOPTIC)
    with results.ShardWriter(args.results, distributed.rank()) as writer:
        for number, sample, prediction in steps:
            if isinstance(sample, str):
                logger.warning("left out: %s", sample)
                writer.unreadable(listing[number], sample)
                continue
            kept, image = prediction.above(args.score_thresh), listing[number]
            check_results(kept, "--results")
            rows = [] if kept.instances is None else coco_results(image.id, kept.instances, predictor.category_ids)
            more = {}
            if kept.panoptic is not None:
                more[results.PANOPTIC] = maps.write(image.id, kept.panoptic, _stem(number, image))
            writer.add(number, image, sample.original_size, rows, kept.num_cut, **more)


def _stem(number: int, image: results.Listed) -> str:
    """The name of an image's map, the same in every process: after its id, or its place in the listing."""
    return f"{image.id:012d}" if isinstance(image.id, int) else f"image_{number + 1}"


def _predictions(
    predictor: Predictor, batches: Iterable[list[tuple[int, Sample | str]]]
) -> Iterator[tuple[int, Sample | str, Prediction]]:
    """Number, sample and prediction of each image; for one that cannot be read, why not, and no prediction."""
    for batch in batches:
        samples = [sample for _, sample in batch if isinstance(sample, Sample)]
        with torch.inference_mode():
            predictions = iter(predictions_of(predictor.model, samples))
            for number, sample in batch:
                yield number, sample, next(predictions).to("cpu") if isinstance(sample, Sample) else Prediction()


def _finish(args: argparse.Namespace, predictor: Predictor) -> int:
    """Writes what belongs to all images, and says what there is; the exit code."""
    images = detections = cut = images_cut = 0
    for row in results.read_lines(args.results, results.IMAGES):
        images, detections = images + 1, detections + row["detections"]
        cut, images_cut = cut + row["cut_off"], images_cut + (row["cut_off"] > 0)
    files = [results.write_images(args.results, _categories(predictor), predictor.keypoints)]
    if (args.results / results.PANOPTIC).is_dir():
        maps = panoptic_writer(predictor, args.results / results.PANOPTIC)
        maps.close(row[results.PANOPTIC] for row in results.read_lines(args.results, results.IMAGES))
        files.append(maps.json_file)
    if args.format != "jsonl":
        files.append((results.write_json if args.format == "json" else results.write_parquet)(args.results))
    say_found(detections, images, args.score_thresh)
    say_cut_off(cut, images_cut)
    print(f"COCO results: {args.results}/{results.DETECTIONS}, {', '.join(path.name for path in files)}")
    unread = [row["file_name"] for row in results.read_lines(args.results, results.UNREADABLE)]
    if unread:
        say_unread(unread, len(unread) + images)
        print(f"all are in {args.results}/{results.UNREADABLE}; the next start tries them again", file=sys.stderr)
    return exit_code(args, len(unread), images)
