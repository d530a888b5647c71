"""A resume: whether there is something to go on with, and whether it is this experiment's."""

from collections.abc import Iterable, Iterator

from detkit.checkpoint import Checkpoint, Checkpointer, examine_weights, read_checkpoint
from detkit.doctor.interfaces import CHECKS, Check, Finding
from detkit.doctor.patient import Patient
from detkit.registry import DataError

UNDO = "undo the change, or start anew with train.init_weights"


@CHECKS.register()
class Resume(Check):
    """A resume that cannot go on: nothing to resume, past the end, of other classes, another model or optimizer.

    Damaged checkpoints, which a resume passes over, are named too.

    Fix: undo the change of the config, raise ``solver.max_iter``, or start anew with ``train.init_weights``.
    """

    quick = False  # a resume itself says so

    def __call__(self, patient: Patient) -> Iterable[Finding]:
        """Findings where a resume is meant."""
        if not patient.resume:
            return
        folder = patient.experiment.train.output_dir
        paths = Checkpointer(folder).newest_first()
        if not paths:
            yield Finding("note", folder, "there is no checkpoint to resume; the run would start anew", "none needed")
            return
        for path in paths:
            try:
                checkpoint = read_checkpoint(path)
            except DataError as error:
                fix = "none, it is passed over" if path != paths[-1] else "remove it to begin anew"
                yield Finding("warning" if path != paths[-1] else "error", str(path), str(error), fix)
                continue
            yield from _compare(patient, checkpoint)
            return


def _compare(patient: Patient, checkpoint: Checkpoint) -> Iterator[Finding]:
    """What keeps this experiment from going on with a checkpoint."""
    path = checkpoint.source
    if checkpoint.trainer is None:
        yield Finding("error", path, "holds weights only, no training state", "start from it with train.init_weights")
        return
    done, steps = int(checkpoint.trainer.get("finished", 0)), patient.max_iter
    if steps is not None and done >= steps:
        what = f"{done} of {steps} steps are done: there is nothing left to train"
        yield Finding("warning", "solver.max_iter", what, f"raise it above {done} to go on")
    if patient.train is not None and checkpoint.class_names not in (None, patient.train.class_names):
        apart = sorted(set(checkpoint.class_names or ()) ^ set(patient.train.class_names))
        yield Finding("error", path, "its classes are not the training set's", UNDO, apart)
    elif patient.model is not None:
        report = examine_weights(patient.model, checkpoint)
        wrong = [*report.skipped, *report.missing, *report.unexpected]
        if wrong:
            yield Finding("error", path, "tensors that are not the model's", UNDO, wrong)
    theirs = ((checkpoint.config or {}).get("solver") or {}).get("optimizer") or {}
    ours = patient.experiment.solver.optimizer.cls.__name__
    if theirs.get("name", ours) != ours:
        what = f"is {ours}; the checkpoint's state is of {theirs['name']}"
        yield Finding("error", "solver.optimizer", what, UNDO)
