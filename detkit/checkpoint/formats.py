"""The foreign formats that weights can be read from."""

from collections.abc import Collection

from detkit.checkpoint.importing import Importer
from detkit.checkpoint.matterport import SeedImporter
from detkit.checkpoint.torchvision import TorchvisionClassifierImporter, TorchvisionImporter

IMPORTERS: tuple[Importer, ...] = (TorchvisionImporter(), SeedImporter(), TorchvisionClassifierImporter())
"""Asked in this order."""


def choose(names: Collection[str]) -> Importer | None:
    """The first importer that recognises the names of a file's tensors; None: they are detkit's own, or unknown."""
    return next((importer for importer in IMPORTERS if importer.recognises(names)), None)
