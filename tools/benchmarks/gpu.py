"""all that needs a GPU: tests, training and resume, NCCL, tables against torchvision, a profile"""

import dataclasses
import json
import multiprocessing
import os
import tempfile
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from tabulate import tabulate

from benchmarks.options import GpuOptions, InferOptions, Options, ProfileOptions, TrainOptions
from benchmarks.report import machine
from detkit.utils.paths import atomic_write

ROOT = Path(__file__).resolve().parents[2]
LEAST_SECONDS = 5.0
"""No part is started with less time than this."""
Work = Callable[[], dict[str, Any]]


@dataclasses.dataclass
class Part:
    """A part's result.

    Args:
        name: of the part.
        state: ``ok``, ``failed`` or ``dropped``.
        seconds: that it took.
        found: its numbers, or what went wrong.
    """

    name: str
    state: str
    seconds: float
    found: dict[str, Any]

    @property
    def words(self) -> str:
        """What the table says of it."""
        rows = self.found.get("rows")
        if not rows:
            return "; ".join(f"{key}: {value}" for key, value in self.found.items() if key != "trace")
        peak = (f", {row['peak_mib']:.0f} MiB" if row["peak_mib"] is not None else "" for row in rows)
        return "\n".join(f"{r['name']}: {r['milliseconds']:.1f} ms, {r['ratio']:.3f}{p}" for r, p in zip(rows, peak))


@dataclasses.dataclass
class GpuReport:
    """All parts, as ``Report`` is one."""

    parts: list[Part]
    settings: dict[str, Any]
    machine: dict[str, str]

    def table(self) -> str:
        """For the console: of benchmarks the median time, the ratio to torchvision's, and peak memory."""
        lines = [[part.name, part.state, f"{part.seconds:.0f}", part.words] for part in self.parts]
        body = tabulate(lines, ["part", "", "s", "found"], disable_numparse=True)
        return body + "\n\n" + tabulate(list(self.machine.items()), tablefmt="plain", disable_numparse=True)

    def write(self, path: str | Path) -> None:
        """The JSON into a file."""
        with atomic_write(Path(path), "w") as file:
            json.dump(dataclasses.asdict(self), file, indent=2)


def run(options: GpuOptions) -> GpuReport:
    """Runs the parts, each in a process of its own: what ends one leaves the others alone."""
    end, parts = time.monotonic() + options.seconds, []
    with tempfile.TemporaryDirectory() as folder:
        for name, work in works(options, Path(folder)).items():
            left = end - time.monotonic()
            if left < LEAST_SECONDS:
                parts.append(Part(name, "dropped", 0.0, {"why": f"the {options.seconds} seconds are over"}))
            else:
                parts.append(apart(name, work, left))
            print(f"{name}: {parts[-1].state}, {parts[-1].seconds:.0f} s", flush=True)
        about = apart("machine", machine, 60.0)
    return GpuReport(parts, options.plain(), about.found)


def works(options: GpuOptions, folder: Path) -> dict[str, Work]:
    """The parts, the most important first."""
    dry = options.dry_run
    common: dict[str, Any] = {"device": options.device, "rounds": 1 if dry else 7, "warmup": 1 if dry else 3}
    size: dict[str, Any] = {"size": 64} if dry else {}
    train, infer = partial(TrainOptions, **common, **size), partial(InferOptions, **common, **size)
    found: dict[str, Work] = {"tests": partial(tests, options.device)}
    for precision in ("bf16", "fp16") if options.device != "cpu" else ("bf16",):
        found[f"training and resume, {precision}"] = partial(training, options, folder / precision, precision)
    found["one process of many"] = partial(one_process, options, folder / "launched")
    for batch in (1,) if dry else (1, 8):
        found[f"inference, batch {batch}"] = partial(numbers, infer(batch=batch))
    for batch in (1,) if dry else (2, 8, 16, 1, 4):
        found[f"training step, batch {batch}"] = partial(numbers, train(batch=batch))
    profiled = ProfileOptions(**common, **size, batch=1 if dry else 8, precision=("bf16",))
    found["profile of a step"] = partial(numbers, profiled)
    if not dry:  # which on a CPU takes minutes
        found |= {f"inference, compiled, batch {b}": partial(numbers, infer(batch=b, compile=True)) for b in (1, 8)}
        found |= {f"training step, compiled, batch {b}": partial(numbers, train(batch=b, compile=True)) for b in (8, 2)}
    return {name: work for name, work in found.items() if not options.only or any(o in name for o in options.only)}


def apart(name: str, work: Work, seconds: float) -> Part:
    """A part in a process that was forked for it, before which nothing has touched the GPU."""
    context = multiprocessing.get_context("fork")
    reading, writing = context.Pipe(duplex=False)
    process, start = context.Process(target=_answer, args=(writing, work)), time.monotonic()
    process.start()
    writing.close()
    try:
        state, found = reading.recv() if reading.poll(seconds) else ("dropped", {"why": f"took over {seconds:.0f} s"})
    except EOFError:
        process.join(5)
        state, found = "failed", {"error": f"the process ended with {process.exitcode}"}
    if process.is_alive():
        process.join(3)
    if process.is_alive():
        process.kill()
    process.join()
    return Part(name, state, time.monotonic() - start, found)


def _answer(writing: Any, work: Work) -> None:
    try:
        answer = ("ok", work())
    except BaseException as error:  # SystemExit of a command, too
        answer = ("failed", {"error": f"{type(error).__name__}: {str(error)[:300]}", "trace": traceback.format_exc()})
    writing.send(answer)


def numbers(options: Options) -> dict[str, Any]:
    """A benchmark's."""
    found: dict[str, Any] = options.run().to_json()
    return {key: found[key] for key in ("title", "rows", "facts", "settings")}


def tests(device: str) -> dict[str, Any]:
    """tests/gpu on the device."""
    import pytest

    os.environ["DETKIT_TEST_DEVICE"] = device
    os.chdir(ROOT)
    code = int(pytest.main(["-q", "-p", "no:cacheprovider", "-p", "no:xdist", "tests/gpu"]))
    if code:
        raise RuntimeError(f"pytest ended with {code}")
    return {"tests": "passed"}


def training(options: GpuOptions, folder: Path, precision: str) -> dict[str, Any]:
    """The quick start for some steps, then on from its checkpoint; the losses at both ends."""
    steps = 4 if options.dry_run else 60
    _train(options, folder, steps // 2, precision)
    _train(options, folder, steps, precision, "--resume")
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    losses = [row["total_loss"] for row in rows if "total_loss" in row]
    return {"first loss": round(losses[0], 3), "last loss": round(losses[-1], 3), "steps": steps}


def one_process(options: GpuOptions, folder: Path) -> dict[str, Any]:
    """A training as a launcher starts it, alone: its tensors go through NCCL."""
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29533"}
    _train(options, folder, 2 if options.dry_run else 20, "fp32")
    return {"backend": "gloo" if options.device == "cpu" else "nccl"}


def _train(options: GpuOptions, folder: Path, steps: int, precision: str, *more: str) -> None:
    from detkit.commands import main

    words = [f"solver.max_iter={steps}", f"train.precision={precision}", f"train.output_dir={folder}"]
    words += [f"train.device={options.device}", "train.log_period=1", f"train.checkpoint_period={steps}"]
    if options.dry_run:
        words += ["data.batch_size=2", "data.train_dataset.num_images=8", "data.test_dataset.num_images=2"]
        words += ["solver.lr_batch_size=2"]
    code = main(["train", "quick_start/mask_rcnn_shapes", *words, *more])
    if code:
        raise RuntimeError(f"detkit train ended with {code}")
