"""Cameras and streams, each read by a thread of its own, so that prediction never falls behind them."""

import logging
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from detkit.data.images import ImageReading
from detkit.visualization import Frame, shown_name, video_frames

logger = logging.getLogger(__name__)


def newest_frames(sources: Sequence[Any], reading: ImageReading) -> Iterator[tuple[Any, int, Frame]]:
    """``(source, number, frame)``, a frame of each source in turn, always its newest one.

    What a source shows while others are predicted is skipped, so numbers have gaps. A source that ends or fails is
    left out, with a warning, as long as others go on.

    Raises:
        DataError: the last one has failed.
    """
    readers = [_Reader(source, reading) for source in sources]
    try:
        while readers:
            for reader in list(readers):
                found = reader.newest()
                if found is not None:
                    yield (reader.source, *found)
                    continue
                readers.remove(reader)
                if reader.error is not None and not readers:
                    raise reader.error
                if readers:
                    words = reader.error or f"{shown_name(reader.source)}: has ended"
                    logger.warning("%s; %d others go on", words, len(readers))
    finally:
        for reader in readers:
            reader.stopped = True


class _Reader:
    def __init__(self, source: Any, reading: ImageReading):
        self.source, self.reading = source, reading
        self.stopped = False
        self.error: Exception | None = None
        self._found: tuple[int, Frame] | None = None
        self._ended, self._changed = False, threading.Condition()
        threading.Thread(target=self._read, daemon=True, name=f"reading {shown_name(source)}").start()

    def newest(self) -> tuple[int, Frame] | None:
        """Number and pixels of the newest frame that was not taken yet; waits for one. None: there are no more."""
        with self._changed:
            self._changed.wait_for(lambda: self._found is not None or self._ended)
            found, self._found = self._found, None
        return found

    def _read(self) -> None:
        error: Exception | None = None
        try:
            for number, frame in enumerate(video_frames(self.source, self.reading)):
                with self._changed:
                    self._found = (number, frame)
                    self._changed.notify()
                if self.stopped:
                    return
        except Exception as reason:  # raised again where the frames are taken
            error = reason
        finally:
            with self._changed:
                self.error, self._ended = error, True
                self._changed.notify()
