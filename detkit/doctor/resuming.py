"""A resume: whether there is something to go on with, and whether it is this experiment's."""

from collections.abc import Iterable, Iterator

from detkit.checkpoint import Checkpoint, Checkpointer, examine_weights, read_checkpoint
from detkit.doctor.interfaces import CHECKS, Check, CheckContext, Finding
from detkit.registry import DataError

UNDO = "undo the change, or start again with train.init_weights"


@CHECKS.register()
class Resume(Check):
    """A resume that cannot go on: nothing to resume, past the end, of other classes, another model or optimizer.

    Damaged checkpoints, which a resume passes over, are named too.

    Fix: undo the change of the config, raise ``solver.max_iter``, or start again with ``train.init_weights``.
    """

    def __call__(self, context: CheckContext) -> Iterable[Finding]:
        if not context.resume:
            return
        folder = context.experiment.train.output_dir
        paths = Checkpointer(folder).newest_first()
        if not paths:
            yield Finding(
                "note",
                folder,
                "there is no checkpoint to resume; the run would start from the beginning",
                "none needed",
            )
            return
        for path in paths:
            try:
                checkpoint = read_checkpoint(path)
            except DataError as error:
                fix = "none, it is passed over" if path != paths[-1] else "remove it to begin from the start"
                yield Finding("warning" if path != paths[-1] else "error", str(path), str(error), fix)
                continue
            yield from _compare(context, checkpoint)
            return


def _compare(context: CheckContext, checkpoint: Checkpoint) -> Iterator[Finding]:
    """What keeps this experiment from going on with a checkpoint."""
    path = checkpoint.source
    if checkpoint.trainer is None:
        yield Finding("error", path, "holds weights only, no training state", "start from it with train.init_weights")
        return
    done, steps = int(checkpoint.trainer.get("finished", 0)), context.max_iter
    if steps is not None and done >= steps:
        what = f"{done} of {steps} steps are done: there is nothing left to train"
        yield Finding("warning", "solver.max_iter", what, f"raise it above {done} to go on")
    if context.train is not None and checkpoint.class_names not in (None, context.train.class_names):
        apart = sorted(set(checkpoint.class_names or ()) ^ set(context.train.class_names))
        yield Finding("error", path, "its classes are not the training set's", UNDO, apart)
    elif context.model is not None:
        report = examine_weights(context.model, checkpoint)
        wrong = [*report.skipped, *report.missing, *report.unexpected]
        if wrong:
            yield Finding("error", path, "tensors that are not the model's", UNDO, wrong)
    theirs = ((checkpoint.config or {}).get("solver") or {}).get("optimizer") or {}
    ours = context.experiment.solver.optimizer.cls.__name__
    if theirs.get("name", ours) != ours:
        what = f"is {ours}; the checkpoint's state is of {theirs['name']}"
        yield Finding("error", "solver.optimizer", what, UNDO)
