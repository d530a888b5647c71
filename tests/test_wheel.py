"""The built wheel is all that a user needs: the command, and the configs by name, without a clone."""

import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ("detkit", "configs", "setup.cfg", "setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The content of a wheel that was built from a source distribution."""
    if importlib.util.find_spec("setuptools") is None:
        pytest.skip("setuptools, which builds the wheel, is not installed")
    folder = tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name)
    sdist = build("sdist", folder)
    shutil.unpack_archive(sdist, folder)
    wheel = build("wheel", folder / sdist.name.removesuffix(".tar.gz"))
    zipfile.ZipFile(wheel).extractall(folder / "installed")
    for name in ("detkit", "configs"):  # what is left of the sources must not help
        shutil.rmtree(folder / name)
    return folder / "installed"


def build(kind, folder):
    code = f"from setuptools import build_meta; print(build_meta.build_{kind}('.'))"
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / done.stdout.split()[-1]


def test_the_wheel_has_every_config_and_the_command(installed):
    inside = {path.relative_to(installed / "detkit") for path in (installed / "detkit/configs").rglob("*.yaml")}
    assert inside == {path.relative_to(ROOT) for path in (ROOT / "configs").rglob("*.yaml")}
    (entry,) = installed.glob("*.dist-info/entry_points.txt")
    assert "detkit = detkit.commands:main" in entry.read_text()


def test_a_command_finds_its_configs_in_an_empty_folder(installed, tmp_path):
    (tmp_path / "my.yaml").write_text("_base_: coco/mask_rcnn_R_50_FPN_1x\nsolver: {max_iter: 77}\n")
    command = [sys.executable, "-m", "detkit", "show", "my.yaml", "--why", "solver"]
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stdout.split())
    assert "solver.max_iter: 77 my.yaml:2" in said
    assert f"{installed}/detkit/configs/_base_/schedules/1x.yaml" in said
