"""What a run ran on, for its log and for bug reports."""

import importlib.metadata
import importlib.util
import os
import platform
import shutil
from collections.abc import Iterable
from pathlib import Path

import torch
from tabulate import tabulate

import detkit
from detkit.utils import distributed

_PACKAGES = ("torchvision", "numpy", "fvcore", "iopath", "pycocotools", "faster-coco-eval", "omegaconf", "pillow")


def environment_report() -> str:
    """Versions, processor, GPUs and threads, as a table of two columns."""
    rows: list[tuple[str, str]] = [
        ("detkit", detkit.__version__),
        ("python", platform.python_version()),
        ("platform", platform.platform()),
        ("torch", f"{torch.__version__} (CUDA {torch.version.cuda or 'none'})"),
        *((package, _version(package)) for package in _PACKAGES),
        ("cpu", f"{cpu_name()}, {os.cpu_count()} logical cores"),
        ("threads", f"{torch.get_num_threads()} within an operator, {torch.get_num_interop_threads()} between"),
        ("processes", str(distributed.world_size())),
    ]
    for index in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(index)
        rows.append((f"gpu {index}", f"{gpu.name}, {gpu.total_memory / 2**30:.1f} GiB, sm_{gpu.major}{gpu.minor}"))
    if torch.cuda.is_available():
        rows.append(("cudnn", str(torch.backends.cudnn.version())))
    else:
        rows.append(("gpu", "none"))
    return tabulate(rows, tablefmt="plain", disable_numparse=True)


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def cores() -> int:
    """How many processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_name() -> str:
    """The processor's name, as the system gives it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def missing_compiler(devices: Iterable[torch.device]) -> str | None:
    """What ``torch.compile`` lacks for these devices, and how to get it; None where it has all."""
    types = {device.type for device in devices}
    if "cpu" in types and not any(map(shutil.which, (os.environ.get("CXX", "g++"), "clang++"))):
        return "on the CPU torch.compile needs a C++ compiler; install g++, or go without compile"
    if "cuda" in types and importlib.util.find_spec("triton") is None:
        return "on a GPU torch.compile needs triton; pip install triton, or go without compile"
    return None
