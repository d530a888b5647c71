"""Weights & Biases, for those who have it."""

import importlib
import logging
import math
import sys
from typing import Any, Literal

import yaml

from detkit.engine.hooks.writers import output_folder
from detkit.engine.interfaces import HOOKS, Hook, Training
from detkit.engine.metrics import Line, Pictures
from detkit.registry import ConfigError
from detkit.utils import distributed
from detkit.utils.run_folder import run_file

logger = logging.getLogger(__name__)


@HOOKS.register()
class WandbWriter(Hook):
    """Sends the lines of metrics, pictures of predictions and the run's config to Weights & Biases. Rank 0 only.

    The axis of every chart is ``iteration``. A run that is resumed goes on in the same W&B run, whose id is kept in
    the checkpoints; metrics that it had sent before are not sent again. The console is not recorded: ``log.txt`` is.

    Args:
        project: W&B's project.
        name: the run's name there; null takes that of the run's folder.
        entity: the user or team that it belongs to; null: W&B's default.
        group: of runs that belong together.
        tags: words to find it by.
        mode: ``offline`` keeps everything in the run's folder until ``wandb sync`` sends it; ``disabled`` does nothing
            and needs no wandb.

    Raises:
        ConfigError: wandb is not installed. A run that W&B refuses trains without it, and the log says so.
    """

    optional = True

    def __init__(
        self,
        *,
        project: str = "detkit",
        name: str | None = None,
        entity: str | None = None,
        group: str | None = None,
        tags: tuple[str, ...] = (),
        mode: Literal["online", "offline", "disabled"] = "online",
    ):
        super().__init__()
        self.project, self.name, self.entity = project, name, entity
        self.group, self.tags, self.mode = group, tags, mode
        self._wandb: Any = None
        if mode != "disabled":
            try:
                self._wandb = importlib.import_module("wandb")
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # whatever a broken installation raises
                missing = isinstance(error, ModuleNotFoundError) and error.name == "wandb"
                words = "is not installed" if missing else f"cannot be imported ({type(error).__name__}: {error})"
                raise ConfigError(
                    f"WandbWriter: wandb {words}. pip install 'detkit[wandb]' (or pip install -U wandb), or take"
                    " the hook out of train.hooks, or set its mode: disabled"
                ) from None
        self._run: Any = None
        self._id: str | None = None
        self._sent = -1

    def before_train(self, trainer: Training) -> None:
        """Starts W&B's run, or goes on with the one of the checkpoint."""
        if self._wandb is None or not distributed.is_main():
            return
        folder = output_folder(trainer, self)
        folder.mkdir(parents=True, exist_ok=True)
        config = run_file(folder, "config.yaml")
        try:
            self._run = self._wandb.init(
                project=self.project,
                name=self.name or folder.resolve().name,
                entity=self.entity,
                group=self.group,
                tags=list(self.tags),
                mode=self.mode,
                dir=str(folder),
                id=self._id,
                resume="allow" if self._id else None,
                config=yaml.safe_load(config.read_text(encoding="utf-8")) if config.is_file() else None,
                settings=self._wandb.Settings(console="off"),
            )
        except self._wandb.errors.Error as error:
            raise ConfigError(f"WandbWriter: {error}. Run 'wandb login' first, or set mode: offline") from error
        sent = self._run.summary.get("iteration")
        self._id, self._sent = self._run.id, -1 if sent is None else int(sent)
        self._run.define_metric("iteration")
        self._run.define_metric("*", step_metric="iteration")
        logger.info("Weights & Biases: run %s, %s", self._id, self._run.url or f"{self.mode} in {folder / 'wandb'}")

    def after_train(self, trainer: Training) -> None:
        """Ends it, as failed where an exception is ending the training."""
        if self._run is not None:
            self._run.finish(exit_code=1 if sys.exc_info()[0] is not None else 0)
            self._run = None

    def state_dict(self) -> dict[str, Any]:
        return {"id": self._id}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._id = state["id"]

    def on_metrics(self, trainer: Training, line: Line) -> None:
        if self._run is not None and line["iteration"] >= self._sent:
            self._run.log({name: value for name, value in line.items() if value is not None and math.isfinite(value)})

    def on_pictures(self, trainer: Training, pictures: Pictures) -> None:
        if self._run is not None and trainer.step >= self._sent:
            images = {f"predictions/{name}": self._wandb.Image(picture) for name, picture in pictures.items()}
            self._run.log({"iteration": trainer.step, **images})
