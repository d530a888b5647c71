"""Writing, reading and loading of weights and training states."""

from detkit.checkpoint.checkpointer import Checkpointer
from detkit.checkpoint.formats import IMPORTERS, import_foreign
from detkit.checkpoint.formats.exporting import export_state
from detkit.checkpoint.formats.importing import Imported, Importer
from detkit.checkpoint.load import examine_weights, load_all_weights, load_weights, random_parts
from detkit.checkpoint.reading import Checkpoint, as_checkpoint, find_weights, read_checkpoint
from detkit.checkpoint.report import LoadReport
from detkit.checkpoint.resume import resume

__all__ = [
    "IMPORTERS",
    "Checkpoint",
    "Checkpointer",
    "Imported",
    "Importer",
    "LoadReport",
    "as_checkpoint",
    "examine_weights",
    "export_state",
    "find_weights",
    "import_foreign",
    "load_all_weights",
    "load_weights",
    "random_parts",
    "read_checkpoint",
    "resume",
]
