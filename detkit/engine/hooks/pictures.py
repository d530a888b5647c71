"""Pictures of the same test images after every evaluation."""

import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image

from detkit.engine.hooks.writers import output_folder
from detkit.engine.interfaces import Hook, Training
from detkit.engine.metrics import Pictures
from detkit.evaluation import FirstPredictions, Pair
from detkit.utils import distributed
from detkit.utils.paths import naming_file
from detkit.utils.run_folder import run_file


class PredictionPictures(Hook):
    """Draws what an evaluation predicted on the first test images, into ``predictions/step_<step>/`` and to writers.

    It predicts nothing itself: the evaluation's own predictions are drawn. Put it behind the hooks that evaluate.
    Writers (TensorBoard, Weights & Biases) get the pictures too. With several processes the images are the same as
    with one; rank 0 draws. An error in drawing is logged once, and nothing is drawn from then on.

    Args:
        predictions: filled by the evaluation.
        draw: from pairs of samples and predictions to named pictures.
        keep: of how many evaluations pictures stay in the folder: the first, the last, and between them evenly spaced
            ones.

    Raises:
        ValueError: ``keep`` is below 2.
    """

    def __init__(self, predictions: FirstPredictions, draw: Callable[[Sequence[Pair]], Pictures], *, keep: int = 10):
        super().__init__()
        if keep < 2:
            raise ValueError(f"PredictionPictures: expected to keep at least 2 evaluations' pictures, got {keep}")
        self.predictions, self.draw, self.keep = predictions, draw, keep
        self._drawn = 0

    def before_train(self, trainer: Training) -> None:
        """Removes pictures of steps that will be done again."""
        self._drawn, root = self.predictions.evaluations, run_file(output_folder(trainer, self), "predictions")
        if distributed.is_main():
            with trainer.guard(self, optional=True):
                for step, folder in step_folders(root):
                    if step >= trainer.finished:
                        shutil.rmtree(folder)

    def after_step(self, trainer: Training) -> None:
        if self._drawn == self.predictions.evaluations:
            return
        self._drawn = self.predictions.evaluations
        pairs = self.predictions.gathered()  # from all processes, also where nothing is drawn any more
        if not pairs or not distributed.is_main() or self in trainer.switched_off:
            return
        with trainer.guard(self, optional=True):
            pictures, root = self.draw(pairs), run_file(output_folder(trainer, self), "predictions")
            folder = root / f"step_{trainer.step:07d}"
            folder.mkdir(parents=True, exist_ok=True)
            for name, picture in pictures.items():
                with naming_file(folder / f"{name}.png"):
                    Image.fromarray(picture).save(folder / f"{name}.png")
            thin_out(root, self.keep)
            trainer.publish_pictures(pictures)

    def after_stop(self, trainer: Training) -> None:
        self.after_step(trainer)


def step_folders(root: Path) -> list[tuple[int, Path]]:
    """The folders ``step_<number>`` in ``root`` with their numbers, in their order."""
    matches = [(re.fullmatch(r"step_(\d+)", path.name), path) for path in root.glob("step_*")]
    return sorted((int(match[1]), path) for match, path in matches if match)


def thin_out(root: Path, keep: int) -> None:
    """Removes folders of steps until ``keep`` (at least 2) are left: each time the one between the closest two.

    The first and the last stay, and the others are spread evenly over the run."""
    folders = step_folders(root)
    while len(folders) > keep:
        gaps = [folders[i + 1][0] - folders[i - 1][0] for i in range(1, len(folders) - 1)]
        _, folder = folders.pop(1 + gaps.index(min(gaps)))
        shutil.rmtree(folder)
