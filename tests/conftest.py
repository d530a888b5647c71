"""Fixtures that the tests of all packages share."""

import os
from pathlib import Path

import pytest
import torch

from detkit.utils.logging import logging_restored

ROOT = Path(__file__).resolve().parents[1]


if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 0)):
    # pytest -n: the workers share the cores, and so do the processes that their tests start.
    share = max((os.cpu_count() or 1) // workers, 1)
    os.environ["OMP_NUM_THREADS"] = str(share)
    torch.set_num_threads(share)


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="also run the tests marked slow")


def pytest_collection_modifyitems(config, items):
    if config.getoption("--slow") or os.environ.get("RUN_SLOW"):
        return
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="slow: run with --slow or RUN_SLOW=1"))


@pytest.fixture(autouse=True)
def _seeded():
    """Every test starts from the same random state."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _logging():
    """A command that a test runs sets up logging, which later tests must not see."""
    with logging_restored():
        yield


@pytest.fixture(autouse=True, scope="module")
def _logging_of_fixtures():
    """The same for commands that a module's fixtures run."""
    with logging_restored():
        yield


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data; a test that asks for it is skipped where it is missing."""
    shared = Path(os.environ.get("DETKIT_SHARED", ROOT.parent / "shared"))
    if not (shared / "data").is_dir():
        pytest.skip(f"no real data at {shared / 'data'}; set DETKIT_SHARED to the folder that holds data/")
    return shared / "data"


@pytest.fixture(scope="session")
def programs(tmp_path_factory) -> Path:
    """A folder with the programs of ``tiny_program``, which all workers share: exporting takes long."""
    pytest.importorskip("torch", minversion="2.9")  # of which .pt2 files are
    from tiny_program import write_programs

    base = tmp_path_factory.getbasetemp()
    return write_programs((base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "programs")


@pytest.fixture(scope="session", params=[".pt2", ".onnx", ".xml"])
def program(request, programs) -> Path:
    """Each of the three files."""
    path = programs / f"model{request.param}"
    if not path.is_file():
        pytest.skip(f"no {path.name}: pip install 'detkit[openvino]'")
    return path
