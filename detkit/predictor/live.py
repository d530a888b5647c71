"""Cameras and streams, each read by a thread of its own, so that prediction never falls behind them."""

import contextlib
import logging
import queue
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
    slots: list[tuple[Any, queue.Queue[Any]]] = [(source, queue.Queue(1)) for source in sources]
    stopped = threading.Event()
    for source, slot in slots:
        threading.Thread(target=_read, args=(source, reading, slot, stopped), daemon=True).start()
    try:
        while slots:
            for source, slot in list(slots):
                found = slot.get()
                if isinstance(found, tuple):
                    yield (source, *found)
                    continue
                slots.remove((source, slot))
                if slots:
                    words = found or f"{shown_name(source)}: has ended"
                    logger.warning("%s; %d others go on", words, len(slots))
                elif found is not None:
                    raise found
    finally:
        stopped.set()


def _read(source: Any, reading: ImageReading, slot: "queue.Queue[Any]", stopped: threading.Event) -> None:
    """Keeps ``(number, frame)`` of the newest frame in the slot; at the end, when that is taken, None or an error."""
    end: Exception | None = None
    try:
        for numbered in enumerate(video_frames(source, reading)):
            if stopped.is_set():
                return
            with contextlib.suppress(queue.Empty):
                slot.get_nowait()
            slot.put(numbered)
    except Exception as error:  # raised again where the frames are taken
        end = error
    while not stopped.is_set():
        with contextlib.suppress(queue.Full):
            return slot.put(end, timeout=1)
