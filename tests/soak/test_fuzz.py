"""Mutated inputs end in success or in ConfigError or DataError: no other error, no hang, no more than 2 GB of memory.

``SOAK=1`` does all cases, else a share of them. ``SOAK_CASE=17`` runs one case without a child, to be looked at;
``SOAK_KEEP=folder`` keeps the smallest input of each cause. See counts.py.
"""

import contextlib
import functools
import json
import multiprocessing
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import inputs
import mutations
import numpy as np
import pytest
import torch
import yaml
from counts import random_of
from hunting import Surface, hunt
from tiny_detector import CONFIG, TINY

from detkit.checkpoint import load_weights, read_checkpoint
from detkit.data import CocoInstances, to_sample
from detkit.data.images import check_image, read_image
from detkit.experiment import load_experiment
from detkit.registry import DataError, Registry
from detkit.visualization.video import video_frames, video_info

pytestmark = pytest.mark.slow


def make_coco(random: Random, folder: Path) -> Path:
    for number in (1, 2):
        if not (folder / f"{number}.png").exists():
            (folder / f"{number}.png").write_bytes(inputs.photographs()["rgb.png"])
    content, path = random.choice(inputs.coco()), folder / "annotations.json"
    if random.random() < 0.7:
        path.write_bytes(mutations.to_json(mutations.tree(content, random)))
    else:
        path.write_bytes(mutations.text(mutations.to_json(content), random))
    return path


def check_coco(path: Path) -> None:
    random = random_of(path.name, path.stat().st_size)
    policy = {
        "invalid_boxes": random.choice(("drop", "error")),
        "invalid_masks": random.choice(("error", "drop", "box")),
    }
    dataset = CocoInstances(json_file=str(path), image_root=str(path.parent), **policy)
    dataset.summary(), dataset.objects(), dataset.coco()
    for index in range(len(dataset)):
        to_sample(dataset[index])
        dataset.image_id(index), dataset.image_size(index), dataset.image_path(index)


def make_config(random: Random, folder: Path) -> Path:
    content, path = random.choice(inputs.configs()), folder / "config.yaml"
    if random.random() < 0.5:
        content = mutations.tree(content, random)
    text = yaml.dump(content, allow_unicode=True).encode("utf-8", "surrogatepass")
    kind = random.randrange(3)
    if kind == 0 and random.random() < 0.5:
        text = mutations.text(text, random)
    elif kind == 1:
        lines = text.decode("utf-8", "replace").split("\n")
        at = random.randrange(len(lines))
        key, colon, _ = lines[at].partition(":")
        lines[at] = f"{key}{colon} {random.choice(mutations.TOKENS)}" if colon else random.choice(mutations.TOKENS)
        text = "\n".join(lines).encode("utf-8", "replace")
    path.write_bytes(text)
    return path


def check_config(path: Path) -> None:
    load_experiment(path, ["data.num_workers=0"] if path.stat().st_size % 2 else [])


def make_overrides(random: Random, folder: Path) -> list[str]:
    made, known = [], inputs.options()
    for _ in range(random.choice((1, 1, 2, 3))):
        key = random.choice(list(known))
        kind = random.randrange(12)
        if kind == 0:
            at = random.randrange(len(key))
            key = random.choice(
                [key[:at] + key[at + 1 :], *(key + end for end in (".x", "[0]", "[99]", "[-1]", ".name"))]
            )
        elif kind == 1:
            twice = key.replace(".", "..", 1)
            key = random.choice((f".{key}", f"{key}.", twice, "", f"x{key}", key.upper(), f" {key}", "imports"))
        value = override_value(json.loads(known.get(key, "null")), random)
        made.append(f"{key}{'' if random.random() < 0.02 else '='}{value}")
    return made


def override_value(old: Any, random: Random) -> str:
    kind = random.randrange(10)
    if kind <= 5 and isinstance(old, int | float) and not isinstance(old, bool):
        small = [0, -1, 1, 2, 3, 7, 50, -old, old / 2, old + 1, 0.5, 1.5, -0.5, 1e-9, 1e-30]
        return str(random.choice([*small, ".nan", "-.inf", f"[{old}]", "null"]))
    if kind <= 5 and isinstance(old, list):
        return json.dumps(mutations.tree([old], random)).replace("NaN", ".nan").replace("Infinity", ".inf")
    if kind <= 5 and isinstance(old, str):
        return random.choice([name for registry in Registry.of.values() for name, _ in registry])
    return random.choice(mutations.TOKENS) if kind <= 7 else random.choice(list(inputs.options().values()))


def check_overrides(overrides: list[str]) -> None:
    experiment = load_experiment(CONFIG, [*TINY, *inputs.SMALL, *overrides])
    model = experiment.build_model(class_names=["a", "b"], pretrained=False)
    experiment.build_optimizer(model), experiment.build_schedule()
    experiment.build_hooks(), experiment.build_evaluators()


def make_media(files: Callable[[], dict[str, bytes]], random: Random, folder: Path) -> Path:
    name, content = random.choice(list(files().items()))
    path = folder / name
    path.write_bytes(mutations.data(content, random, near=(0.0, 0.0, 1.0)))
    return path


def check_image_file(path: Path) -> None:
    with contextlib.suppress(DataError):
        check_image(str(path), (40, 60))
    pixels = read_image(str(path))
    assert (pixels.ndim, pixels.shape[2], pixels.dtype) == (3, 3, np.uint8)


def check_video(path: Path) -> None:
    video_info(path)
    for frame in video_frames(path):
        assert (frame.ndim, frame.shape[2], frame.dtype) == (3, 3, np.uint8)


def make_checkpoint(kind: str, sound: Path, random: Random, folder: Path) -> Path:
    path = folder / sound.name
    if kind == "sharded":
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(sound, path)
        inner = random.choice(sorted(path.iterdir()))
        change = random.random()
        if change < 0.05:
            inner.unlink()
        elif change < 0.1:
            shutil.copy(random.choice(sorted(path.iterdir())), folder / "other")
            shutil.copy(folder / "other", inner)
        else:
            inner.write_bytes(mutations.data(inner.read_bytes(), random))
        return path
    shutil.copy(sound, path)
    if kind == "matterport":
        mutations.hdf5(path, random)
    elif kind in ("own", "torchvision") or random.random() < 0.3:
        path.write_bytes(mutations.data(sound.read_bytes(), random, near=(0.0, 0.05, 0.9, 1.0)))
    else:
        path.write_bytes((mutations.zipped if kind == "repacked" else mutations.pickled)(sound.read_bytes(), random))
    return path


def check_checkpoint(sound: Any, path: Path) -> None:
    """``sound``: what must be read where nothing is refused; None for a kind that has no checksums."""
    read = read_checkpoint(path)
    if sound is not None:
        assert alike(read.model, sound.model), "damaged weights are loaded as if they were sound"
        what = ("class_names", "category_ids", "config", "trainer")
        assert all(alike(getattr(read, name), getattr(sound, name)) for name in what), "damaged content is loaded"
    load_weights(inputs.small_model(), read)


def alike(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(alike(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(alike, a, b))
    return a == b


@pytest.fixture(scope="session")
def sound_checkpoints(tmp_path_factory):
    """A checkpoint of each kind, by kind."""
    folder = tmp_path_factory.mktemp("sound")
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(inputs.checkpoints, (folder,))


SURFACES = [
    Surface("coco", 6000, make_coco, check_coco),
    Surface("config", 3500, make_config, check_config),
    Surface("overrides", 3500, make_overrides, check_overrides),
    Surface("image", 800, functools.partial(make_media, inputs.photographs), check_image_file),
    Surface("video", 300, functools.partial(make_media, inputs.videos), check_video),
]


@pytest.mark.parametrize("surface", SURFACES, ids=lambda surface: surface.name)
def test_mutated_files_are_read_or_refused(surface, tmp_path, report):
    assert hunt(surface, tmp_path, report) == {}


@pytest.mark.parametrize("kind", ["own", "repacked", "sharded", "detectron2", "torchvision", "matterport", "caffe2"])
def test_mutated_checkpoints_are_refused_or_read_as_they_were(kind, sound_checkpoints, tmp_path, report):
    sound = sound_checkpoints[kind]
    content = read_checkpoint(sound) if kind in ("own", "sharded") else None
    make, check = functools.partial(make_checkpoint, kind, sound), functools.partial(check_checkpoint, content)
    assert hunt(Surface(f"checkpoint {kind}", 1000, make, check), tmp_path, report) == {}
