"""The foreign formats that weights can be read from."""

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from detkit.checkpoint.formats.caffe2 import Caffe2Importer
from detkit.checkpoint.formats.detectron2 import Detectron2Importer
from detkit.checkpoint.formats.importing import IMPORTERS, Imported, Importer
from detkit.checkpoint.formats.matterport import MatterportImporter
from detkit.checkpoint.formats.torchvision import TorchvisionClassifierImporter, TorchvisionImporter
from detkit.checkpoint.formats.transformers import TransformerImporter
from detkit.registry import DataError
from detkit.utils.logging import first_line

__all__ = [
    "IMPORTERS",
    "Caffe2Importer",
    "Detectron2Importer",
    "Imported",
    "Importer",
    "MatterportImporter",
    "TorchvisionClassifierImporter",
    "TorchvisionImporter",
    "TransformerImporter",
    "choose",
    "convert_by",
    "import_foreign",
]


def choose(names: Collection[str]) -> Importer | None:
    """The importer that recognises the names of a file's tensors, one of the user's own before detkit's.

    None: they are detkit's own, or unknown.
    """
    importers = (kind() for _, kind in reversed([*IMPORTERS]))
    return next((importer for importer in importers if importer.recognises(names)), None)


def convert_by(
    importer: Importer, state: Mapping[str, Tensor], wanted: Mapping[str, torch.Size], source: str = "state dict"
) -> Imported:
    """What the importer makes of a file's tensors. Raises DataError where some that belong together do not fit."""
    try:
        imported = importer.convert(state, wanted)
    except (KeyError, IndexError, RuntimeError, TypeError, ValueError) as error:
        what = f"{error} is missing" if isinstance(error, KeyError) else first_line(error)
        raise DataError(
            f"{source}: has the names of {importer.name}, but not all that belongs to them ({what}); it is damaged or"
            " of another version. Copy or download it again"
        ) from error
    imported.format = importer.name
    return imported


def import_foreign(
    state: Mapping[str, Tensor], wanted: Mapping[str, torch.Size], source: str = "state dict"
) -> Imported:
    """A file's tensors under detkit's names; ``format`` is empty for a file of detkit's.

    A file is taken as detkit's own where no importer recognises it, and where more of the model's names are found in
    it as it stands than an importer would make.

    Args:
        state: the file's tensors.
        wanted: names and shapes of the model's tensors; empty where there is no model.
        source: the file, for messages.

    Raises:
        DataError: tensors that belong together are missing or do not fit each other.
    """
    importer = None if state.keys() <= wanted.keys() else choose(state.keys())
    if importer is not None:
        imported = convert_by(importer, state, wanted, source)
        if len(state.keys() & wanted.keys()) <= len(imported.model.keys() & wanted.keys()):
            return imported
    return Imported(dict(state))
