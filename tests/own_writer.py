"""A writer of labels in a file of the user's."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from detkit.data.formats import LABEL_WRITERS

TEXT = '''
from detkit.data.formats import LABEL_WRITERS, LabelWriter


@LABEL_WRITERS.register()
class {name}Writer(LabelWriter):
    """A line of each image and the classes on it."""

    key = "{key}"

    def begin(self):
        self.lines = []

    def write(self, part, name, image):
        self.lines.append(" ".join([name, *map(self.label, self.objects(image, keeps_scores=True))]))

    def close(self):
        (self.root / "names.txt").write_text("\\n".join(self.lines))
'''


@contextlib.contextmanager
def own_writer(folder: Path, name: str) -> Iterator[Path]:
    """The file of a writer of this name, whose key is the name in small letters; afterwards no registry has it."""
    file = folder / f"{name.lower()}_writer.py"
    file.write_text(TEXT.format(name=name, key=name.lower()))
    yield file
    LABEL_WRITERS.forget(LABEL_WRITERS.get(f"{name}Writer").__module__)
