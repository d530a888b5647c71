"""LabelFolder: predictions as labels to correct, with their images, in the format of a labelling tool."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from detkit.commands.predict_inputs import path_below
from detkit.data.formats.writer_interfaces import LABEL_WRITERS, ImageLabels
from detkit.data.images import read_image
from detkit.predictor import Predictor
from detkit.registry import DataError
from detkit.structures import Prediction


class LabelFolder:
    """Writes predictions as labels, image by image; a context.

    Args:
        predictor: knows the classes.
        folder: a new one.
        format: the ``key`` of one of ``LABEL_WRITERS``.
        inputs: what the user gave; images that lie below a folder of it keep their folders below that.

    Raises:
        ConfigError: there is no such format.
        DataError: the folder holds something.
    """

    def __init__(self, predictor: Predictor, folder: Path, format: str, inputs: Sequence[Path]):
        ids = predictor.category_ids or tuple(range(1, len(predictor.class_names) + 1))
        own = {} if predictor.keypoints is None else predictor.keypoints.coco()
        categories = [{"id": id_, "name": name, **own} for id_, name in zip(ids, predictor.class_names)]
        self.predictor, self.inputs = predictor, [path for path in inputs if path.is_dir()]
        self.writer = LABEL_WRITERS.with_key(format, "--label-format")(folder, categories, predicted=True)

    def __enter__(self) -> "LabelFolder":
        return self

    def __exit__(self, *exception: object) -> None:
        self.writer.close()

    def add(
        self, path: Path, prediction: Prediction, frame: np.ndarray | None = None, number: int = 0, *, stem: str = ""
    ) -> None:
        """Writes the labels of an image file, or of a frame of a video, which becomes an image of its own.

        ``stem`` is what the file is called before its suffix, where it is a copy of another name.
        """
        if prediction.instances is None:
            raise DataError("the model predicts no instances, of which labels are made; take out --label-format")
        name = path_below(path, self.inputs).with_stem(stem or path.stem)
        size, reading, file = prediction.instances.image_size, self.predictor.reading, path if frame is None else None
        pixels: Callable[[], np.ndarray] = functools.partial(read_image, str(path), size, reading)
        if frame is not None:
            name, pixels = name.with_suffix("") / f"{number:06d}.png", functools.partial(np.asarray, frame)
        rows = self.predictor.to_coco_results([prediction], [0])
        self.writer.add("", ImageLabels(name.as_posix(), size, rows, file, pixels, reading))

    def lost(self) -> str:
        """What the format has no place for, in words."""
        return ", ".join(f"{count} {words}" for words, count in self.writer.lost.items() if count)
