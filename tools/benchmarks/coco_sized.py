"""A made-up COCO file of the size of COCO's training set: how long it takes to open, and what its readers add."""

import gc
import multiprocessing
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from detkit.data import CocoInstances

IMAGES, ANNOTATIONS, WORKERS = 118_000, 860_000, 4
SIZE = (480, 640)
AT_A_TIME = 20_000


def coco_sized_file() -> Path:
    """The JSON (about 400 MB): polygons of 4 to 120 points, one crowd in 90 as RLE. Made once, in the temp folder."""
    path = Path(tempfile.gettempdir()) / "detkit_benchmark_coco_sized.json"
    if path.exists():
        return path
    rng = np.random.default_rng(0)
    owner = rng.integers(1, IMAGES + 1, ANNOTATIONS)
    counts = rng.lognormal(3.0, 0.55, ANNOTATIONS).clip(4, 120).astype(int)
    part = path.with_suffix(".part")
    with part.open("w") as file:
        image = '{{"id":{0},"file_name":"{0:012d}.jpg","height":480,"width":640,"date_captured":"2013-11-14 11:18:45"}}'
        file.write('{"images":[' + ",".join(image.format(i) for i in range(1, IMAGES + 1)) + '],"categories":[')
        file.write(",".join(f'{{"id":{k},"name":"class {k}"}}' for k in range(1, 81)) + '],"annotations":[')
        for start in range(0, ANNOTATIONS, AT_A_TIME):
            rows = range(start, min(start + AT_A_TIME, ANNOTATIONS))
            file.write(("," if start else "") + ",".join(_entries(rows, owner, counts, rng)))
        file.write("]}")
    part.rename(path)
    return path


def _entries(rows: range, owner: np.ndarray, counts: np.ndarray, rng: np.random.Generator) -> list[str]:
    n = counts[rows.start : rows.stop]
    starts = np.cumsum(n) - n
    angle = (np.arange(n.sum()) - np.repeat(starts, n)) / np.repeat(n, n) * 2 * np.pi
    centre, radius = rng.uniform(60, 420, (len(n), 2)), rng.uniform(5, 59, len(n))
    reach = np.repeat(radius, n) * rng.uniform(0.6, 1, n.sum())
    x, y = (np.repeat(centre[:, 0], n) + reach * np.cos(angle), np.repeat(centre[:, 1], n) + reach * np.sin(angle))
    numbers = np.stack([x, y], 1).round(2).reshape(-1).tolist()
    low = np.stack([np.minimum.reduceat(v, starts) for v in (x, y)], 1)
    sides = np.stack([np.maximum.reduceat(v, starts) for v in (x, y)], 1) - low
    boxes, areas = np.concatenate([low, sides], 1).round(2).tolist(), (0.7 * sides.prod(1)).round(4).tolist()
    entries = []
    for row, first, count, box, area in zip(rows, (2 * starts).tolist(), (2 * n).tolist(), boxes, areas):
        crowd = int(row % 90 == 0)
        shape = '{"counts":[0,1000,306200],"size":[480,640]}' if crowd else f"[{numbers[first : first + count]}]"
        entries.append(
            f'{{"segmentation":{shape},"area":{area},"iscrowd":{crowd},"image_id":{owner[row]},"bbox":{box},'
            f'"category_id":{1 + row % 80},"id":{row + 1}}}'
        )
    return entries


def opened() -> dict[str, Any]:
    """Seconds to open the file, and memory that four forked workers add while together they read every annotation."""
    path = coco_sized_file()
    path.read_bytes()  # what is measured is the reader, not the disk
    start, processor = time.perf_counter(), time.process_time()
    dataset = CocoInstances(json_file=str(path), image_root=str(path.parent), check_images=0)
    facts: dict[str, Any] = {
        "COCO-sized set opens in, s": time.perf_counter() - start,
        "processor time of that, s": time.process_time() - processor,
    }
    _DATASETS[:] = [dataset]
    with multiprocessing.get_context("fork").Pool(WORKERS, gc.freeze) as pool:
        found = pool.map(_read_share, range(WORKERS), chunksize=1)
    facts["annotations read by workers"] = sum(count for count, _ in found)
    facts["memory of the workers' own, MB"] = sum(memory for _, memory in found) / 1e6
    return facts


_DATASETS: list[CocoInstances] = []
"""Seen by forked workers without being sent."""


def _read_share(worker: int) -> tuple[int, int]:
    (dataset,), count = _DATASETS, 0
    for image in range(worker, len(dataset), WORKERS):
        objects = dataset.table.record(image, np.zeros((1, 1, 3), np.uint8), "").objects
        assert "masks" in objects
        count += len(objects)
    return count, own_memory()


def own_memory() -> int:
    """Bytes of memory that this process shares with no other (Linux)."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Private_"))
