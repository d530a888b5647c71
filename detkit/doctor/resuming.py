"""A resume: whether there is something to go on with, and whether it is this experiment's."""

from collections.abc import Iterable

from detkit.checkpoint import Checkpointer, examine_weights, read_checkpoint
from detkit.doctor.interfaces import CHECKS, Check, Finding
from detkit.doctor.patient import Patient
from detkit.registry import DataError


@CHECKS.register()
class Resume(Check):
    """A resume that cannot go on: nothing to resume, past the end, of other classes, another model or optimizer.

    Fix: undo the change of the config, raise ``solver.max_iter``, or start anew with ``train.init_weights``.
    """

    quick = False  # a resume itself says so

    def __call__(self, patient: Patient) -> Iterable[Finding]:
        """Findings where a resume is meant."""
        if not patient.resume:
            return
        folder = patient.experiment.train.output_dir
        path = Checkpointer(folder).latest()
        if path is None:
            yield Finding("note", folder, "there is no checkpoint to resume; the run would start anew", "none needed")
            return
        try:
            checkpoint = read_checkpoint(path)
        except DataError as error:
            yield Finding("error", str(path), str(error), "delete it, so that the one before it is taken")
            return
        if checkpoint.trainer is None:
            what = "holds weights only, no training state"
            yield Finding("error", str(path), what, "start from it with train.init_weights")
            return
        done, steps = int(checkpoint.trainer.get("finished", 0)), patient.max_iter
        if steps is not None and done >= steps:
            what = f"{done} of {steps} steps are done: there is nothing left to train"
            yield Finding("warning", "solver.max_iter", what, f"raise it above {done} to go on")
        undo = "undo the change, or start anew with train.init_weights"
        if patient.train is not None and checkpoint.class_names not in (None, patient.train.class_names):
            apart = sorted(set(checkpoint.class_names or ()) ^ set(patient.train.class_names))
            yield Finding("error", str(path), "its classes are not the training set's", undo, apart)
        elif patient.model is not None:
            report = examine_weights(patient.model, checkpoint)
            wrong = [*report.skipped, *report.missing, *report.unexpected]
            if wrong:
                yield Finding("error", str(path), "tensors that are not the model's", undo, wrong)
        theirs = ((checkpoint.config or {}).get("solver") or {}).get("optimizer") or {}
        ours = patient.experiment.solver.optimizer.cls.__name__
        if theirs.get("name", ours) != ours:
            what = f"is {ours}; the checkpoint's state is of {theirs['name']}"
            yield Finding("error", "solver.optimizer", what, undo)
