"""Predicts images and videos: the work of ``detkit predict``."""

import argparse
import contextlib
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from detkit.commands.label_folder import LabelFolder
from detkit.commands.parsers import restart
from detkit.commands.parsers.predict import parse_arguments
from detkit.commands.predict_inputs import (
    check_results,
    exit_code,
    find_inputs,
    ids_of,
    load,
    panoptic_writer,
    path_below,
    say_cut_off,
    say_found,
    say_unread,
    split_inputs,
)
from detkit.commands.predict_many import predict_many
from detkit.evaluation import PanopticWriter, RowFile
from detkit.launch import launch
from detkit.predictor import Predictor
from detkit.registry import DataError
from detkit.structures import Panoptic, Prediction
from detkit.utils.distributed import launched
from detkit.utils.file_names import FreeNames, file_stem
from detkit.utils.progress import watched
from detkit.visualization import (
    VIDEO_SUFFIXES,
    VideoWriter,
    video_info,
    write_picture,
)

logger = logging.getLogger("detkit.predict")


class Output:
    """Takes predictions as they come: draws them and writes their COCO results.

    Args:
        predictor: draws.
        args: the command line.
        inputs: files that are read, and never written over.
        ids: of images; others are numbered from 1.

    Raises:
        DataError: results would be written over an input.
    """

    def __init__(
        self, predictor: Predictor, args: argparse.Namespace, inputs: Sequence[Path], ids: Mapping[Path, int | str]
    ):
        self.predictor, self.args, self.ids = predictor, args, ids
        self.folders = [path for path in args.inputs if path.is_dir()]
        self.inputs = {path.resolve() for path in (*inputs, args.annotations) if path is not None}
        if args.json is not None and args.json.resolve() in self.inputs:
            raise DataError(f"--json {args.json}: would overwrite an input; take another name")
        self.rows = None if args.json is None else RowFile(args.json)
        self.maps: PanopticWriter | None = None  # made for the first map
        self.labels: LabelFolder | None = None
        self.written: list[Path] = []
        self.free = FreeNames()
        self.images = self.instances = self.cut = self.images_cut = 0

    def collect(self, path: Path, prediction: Prediction, **source: Any) -> Prediction:
        """Writes the image's results, and returns the prediction's instances that score enough."""
        kept = prediction.above(self.args.score_thresh)
        self.images += 1
        self.instances += 0 if kept.instances is None else len(kept.instances)
        self.cut, self.images_cut = self.cut + kept.num_cut, self.images_cut + (kept.num_cut > 0)
        if self.rows is not None:
            check_results(kept, "--json")
            rows = self.predictor.to_coco_results([kept], [self.ids.get(path, self.images)])
            self.rows.add({**row, "file_name": self.args.names.get(path, str(path)), **source} for row in rows)
            if kept.panoptic is not None:
                self._add_map(self.ids.get(path, self.images), kept.panoptic)
        return kept

    def _add_map(self, image_id: int | str, panoptic: Panoptic) -> None:
        if self.maps is None:
            folder = self.args.json.with_name(f"{self.args.json.stem}_panoptic")
            self.maps = panoptic_writer(self.predictor, folder)
        self.maps.add(image_id, panoptic)

    def image(self, path: Path, prediction: Prediction) -> None:
        """One image file."""
        kept = self.collect(path, prediction)
        if self.labels is not None:
            self.labels.add(path, kept, stem=self._stem(path))
        elif self.args.output is not None:
            below = path_below(path, self.folders).parent
            picture = self.predictor.draw(path, prediction, score_thresh=self.args.score_thresh)
            self.written.append(write_picture(picture, self._target(below / f"{self._stem(path)}.png")))

    def video(self, path: Path, live: str | None = None) -> bool:
        """One video file, frame by frame, or a camera or stream, until Ctrl-C; False, with a warning, if unreadable."""
        is_video = live is not None or path.suffix.lower() in VIDEO_SUFFIXES  # pages of a TIFF are no video
        as_pictures, stem = self.args.frames or not is_video, self._stem(path)
        wanted = self.args.output is not None and self.labels is None
        target = self._target(stem if as_pictures else f"{stem}.mp4") if wanted else None
        try:
            self._frames(path, target, as_pictures, live)
        except DataError as error:
            logger.warning("left out: %s", error)
            return False
        except KeyboardInterrupt:
            if live is None:
                raise
        if target is not None:
            self.written.append(target)
        return True

    def _frames(self, path: Path, target: Path | None, as_pictures: bool, live: str | None) -> None:
        total, rate = video_info(path) if live is None else (0, Fraction(25))
        frames = watched(self.predictor.predict_video(live or path), path.name, total=total or None, unit="frame")
        with contextlib.ExitStack() as stack:
            writer = None if target is None or as_pictures else stack.enter_context(VideoWriter(target, rate))
            for number, frame, prediction in frames:
                kept = self.collect(path, prediction, frame=number)
                if self.labels is not None:
                    self.labels.add(path, kept, frame, number, stem=self._stem(path))
                if target is None:
                    continue
                picture = self.predictor.draw(frame, kept, score_thresh=0.0, max_side=None)
                if writer is None:
                    write_picture(picture, target / f"{number:06d}.png")
                else:
                    writer.write(picture, frame.time)

    def finish(self) -> None:
        """Writes what belongs to all images, and says what there is."""
        args = self.args
        say_found(self.instances, self.images, args.score_thresh)
        say_cut_off(self.cut, self.images_cut)
        if args.json is not None:
            print(f"COCO results: {args.json}")
        if self.maps is not None:
            self.maps.close()
            print(f"panoptic maps: {self.maps.json_file}, {self.maps.folder}/")
        if self.labels is not None:
            lost = self.labels.lost()
            print(f"labels ({args.label_format}): {args.output}/{f' (not in this format: {lost})' if lost else ''}")
        if self.written:
            print(f"pictures: {args.output}/ ({len(self.written)} written)")

    def _stem(self, path: Path) -> str:
        """What is written for a file is called so; of an address its own end, not that of its copy."""
        name = self.args.names.get(path)
        return path.stem if name is None else file_stem(Path(urlsplit(name).path).stem or name)

    def _target(self, name: str | Path) -> Path:
        """Where something of this name goes in the folder. Raises DataError where an input lies there."""
        target = self.free(self.args.output / name)
        if target.resolve() in self.inputs:
            raise DataError(f"--output {self.args.output}: would overwrite the input {target}; take another folder")
        return target


def predict(args: argparse.Namespace) -> int:
    """Does what the command line asks for."""
    images, videos = split_inputs(args)
    predictor, ids = load(args), dict[Path, int | str]()
    if args.annotations is not None:
        ids = ids_of(images, [*videos, *args.live], predictor, args.annotations)
        images = list(ids)
    elif args.json is not None and predictor.category_ids is None:
        logger.warning("the weights carry no ids of categories: classes are numbered from 1; --annotations gives ids")
    output = Output(predictor, args, [*images, *videos], ids)
    pairs: Iterator[tuple[Path, Prediction]] = predictor.predict_files(images, skip_unreadable=True)
    unread = set(images)
    with contextlib.ExitStack() as stack:
        if args.label_format is not None:
            folder = LabelFolder(predictor, args.output, args.label_format, args.inputs)
            output.labels = stack.enter_context(folder)
        for path, prediction in watched(pairs, "images", total=len(images), show=bool(images), unit="image"):
            unread.discard(path)
            output.image(path, prediction)
        unread |= {path for path in videos if not output.video(path)}
        unread |= {path for path, source in args.live.items() if not output.video(path, source)}
    output.finish()
    if unread:
        given = (*images, *videos, *args.live)
        say_unread([args.names.get(path, str(path)) for path in given if path in unread], len(given))
        if not args.skip_unreadable:
            print("the exit code says so; with --skip-unreadable it does not", file=sys.stderr)
    return exit_code(args, len(unread), output.images)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; 0 when it went well, 1 when some files could not be read, 2 when none could or by a mistake."""
    args = parse_arguments(argv)
    if args.num_processes is not None and not launched():
        return launch(restart("predict"), sys.argv[1:] if argv is None else argv, args.num_processes)
    find_inputs(args)
    return predict(args) if args.results is None else predict_many(args)
