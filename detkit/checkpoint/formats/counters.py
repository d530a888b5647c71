"""Counters of batch norms: names on which two frameworks rarely agree, and values that nothing reads."""

import dataclasses
from collections.abc import Mapping

import torch

from detkit.checkpoint.formats.importing import Imported

COUNTER = "num_batches_tracked"


def with_counters(imported: Imported, wanted: Mapping[str, torch.Size]) -> Imported:
    """The import with just those counters of batch norms that the model has.

    Batch norms count batches and frozen ones do not. The count matters only to a batch norm without momentum, which no
    detector has, so one that the file lacks is set to 0.

    Args:
        imported: by detkit's names.
        wanted: the model's names; empty where there is no model, which leaves the counters as they are.
    """
    if not wanted:
        return imported
    extra = [name for name in imported.model if name.endswith(COUNTER) and name not in wanted]
    counted = [name.removesuffix("running_var") + COUNTER for name in imported.model if name.endswith("running_var")]
    absent = [name for name in counted if name in wanted and name not in imported.model]
    zeros = {name: torch.zeros((), dtype=torch.long) for name in absent}
    return dataclasses.replace(
        imported,
        model={name: tensor for name, tensor in imported.model.items() if name not in extra} | zeros,
        origin={ours: theirs for ours, theirs in imported.origin.items() if ours not in extra},
        changes=imported.changes | dict.fromkeys(absent, "set to 0: the file has no counters of batch norms"),
        unused=imported.unused
        | {imported.origin.get(name, name): "counter of a batch norm that counts nothing here" for name in extra},
    )
