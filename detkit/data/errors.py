"""What goes wrong while samples are made: which image it was, at what stage, and workers that die."""

import contextlib
import dataclasses
from collections.abc import Iterator

from detkit.data.interfaces import Record
from detkit.data.transfer import remedy
from detkit.registry import DataError
from detkit.utils.logging import first_line

_MOST_IDS = 20


class SampleError(RuntimeError):
    """A sample could not be made for a reason that the dataset has no word for, such as a mistake in an augmentation.

    The message names the dataset's index, the file, the annotations and the stage.
    """


class WorkerError(RuntimeError):
    """A loader process died. The message says what that usually means and what to lower."""


@dataclasses.dataclass
class Progress:
    """How far the making of a sample has come: its stage, which began with ``record``, for the words of an error."""

    stage: str
    record: Record | None = None

    def at(self, stage: str, record: Record) -> None:
        """``stage`` begins with ``record``."""
        self.stage, self.record = stage, record


@contextlib.contextmanager
def naming_the_sample(index: int, dataset: str) -> Iterator[Progress]:
    """Errors in this context become a ``SampleError``; a DataError names the file itself and stays.

    Args:
        index: the image's number in the dataset.
        dataset: what the dataset is called.
    """
    progress = Progress(f"{dataset}[{index}]")
    try:
        yield progress
    except (DataError, SampleError):
        raise
    except Exception as error:
        place = f"dataset index {index}"
        if progress.record is not None:
            ids = progress.record.objects.annotation_ids.tolist()
            shown = ", ".join(map(str, ids[:_MOST_IDS])) + (f", ... {len(ids)} in all" if len(ids) > _MOST_IDS else "")
            place = f"{progress.record.file_name or progress.record.image_id} ({place}, annotations {shown or '-'})"
        what = str(error).strip() or "no message"
        memory = "; lower data.num_workers or the size of images" if isinstance(error, MemoryError) else ""
        raise SampleError(f"{place}: {progress.stage} failed with {type(error).__name__}: {what}{memory}") from error


def worker_error(error: BaseException, num_workers: int) -> WorkerError | None:
    """What to raise in place of an error of the loader, from it; None where it is not about loader processes."""
    first, limit = first_line(error), remedy(error)
    if first.startswith("Caught "):  # with the traceback of another process; what it says comes last
        first = str(error).strip().splitlines()[-1]
    if num_workers == 0 or isinstance(error, WorkerError | SampleError):
        return None
    if "DataLoader worker" not in str(error):
        if not limit:
            return None
        return WorkerError(
            f"loader processes cannot do their work ({first}): {limit}. Or lower data.num_workers, now {num_workers};"
            " 0 needs none of them."
        )
    died = f"a loader process died ({first}), one of {num_workers}."
    if limit:
        return WorkerError(
            f"{died} {limit[0].upper()}{limit[1:]}, lower data.num_workers or data.batch_size, or take"
            " data.mask_format=polygon or mini."
        )
    return WorkerError(
        f"{died} If it has said nothing above, most often the system has killed it for want of memory (its log says so:"
        f" dmesg | grep -i kill). Lower data.num_workers (now {num_workers}), or the size of images. With"
        " data.num_workers=0 an error in the data shows itself where it happens."
    )
