#!/usr/bin/env python3
"""Write docs/model_zoo.md: every config with its parts, its size, what it costs and what was published for it.

What is measured is kept in docs/model_zoo.json, by the model that was measured, so that a second run measures only what
is new. CPU time takes minutes a model and is asked for; it is the time of one core, whatever else runs on the machine.

examples:
  parameters and multiply-adds of new and changed configs, and the page
    python tools/docs_site/model_zoo.py

  the CPU time of all models of COCO that have none yet
    OMP_NUM_THREADS=1 python tools/docs_site/model_zoo.py --measure 'coco/*'
"""

import argparse
import fnmatch
import hashlib
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import flop_registry

from detkit.config.named import config_names
from detkit.experiment import Experiment, load_experiment
from detkit.modeling import MetaArch
from detkit.modeling.interfaces import META_ARCHS
from detkit.registry import Registry
from detkit.utils import atomic_write
from detkit.utils.environment import cpu_name
from detkit.views import augmented
from detkit.zoo import Weights, known

ROOT = Path(__file__).resolve().parents[2]
PAGE, DATA, PUBLISHED = (
    ROOT / "docs" / name for name in ("model_zoo.md", "model_zoo.json", "model_zoo_published.json")
)
CLASSES = {"balloon": 1, "nuclei": 1, "lvis": 1203}
"""Folder of configs -> K, where it is not COCO's 80."""
SHOWN, NOT_SHOWN = ("backbone", "neck", "head", "heads", "generator"), ("anchor generator", "RPN head")
"""How the roles end whose parts the page names."""
HEAD = """# Model zoo

Every config, with what its model is made of, how large it is and what it costs. This page is written by
`python tools/docs_site/model_zoo.py`; a test holds it to the configs.

- **config**: `detkit train coco/mask_rcnn_R_50_FPN_1x` trains it. `detkit show --list PART` says which configs have a
  part, `detkit show CONFIG` what a config says.
- **parameters**: learned and frozen ones, for the classes of the dataset.
- **image**: height and width as the model takes it. Of COCO it is one of 480 x 640 pixels after `test_augmentations`.
- **multiply-adds** of convolutions and matrix products for that image, in billions (other tools call them FLOPs, or
  half of them): with as many proposals as the config allows, mostly 1000, and as many detections, mostly 100, all of
  which go through the mask head. A model with fewer of them costs less.
- **CPU**: seconds of one core for the same, in float32, uncompiled. {processor}.
  `--precision` and `--compile` are faster ([Performance](performance.md)). Empty: not measured yet.
- **published**: what the authors of the weights report on COCO val2017 for a model of this kind: {sources}.
  detkit's own trainings to these numbers take weeks of GPUs and have not been made.
- **weights**: names for `--weights` ([Checkpoints](checkpoints.md#weights-by-name)).
- **verified by**: the test in which features, outputs and losses of this model are compared with the reference's, with
  the same weights and inputs. "builds": the config is checked and built in the tests, and its parts are tested alone.
"""


def num_classes(name: str) -> int:
    """K of the dataset that a config is for."""
    if "shapes" in name:
        return len(load_experiment(name, ["data.train_dataset.num_images=1"]).data.train_set.class_names)
    return 1 if "keypoint" in name else CLASSES.get(name.partition("/")[0], 80)


def experiment(name: str) -> Experiment:
    """The config, with all detections kept, as a trained model finds them."""
    model = load_experiment(name).tree["model"]
    changes = [f"{path}=0" for path in _paths(model, "model", "score_thresh")]
    if (model.get("backbone") or {}).get("weights"):
        changes.append("model.backbone.weights=null")
    return load_experiment(name, changes)


def _paths(node: Any, path: str, key: str) -> Iterator[str]:
    items = node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, list) else ()
    for name, value in items:
        below = f"{path}[{name}]" if isinstance(node, list) else f"{path}.{name}"
        if name == key and isinstance(value, int | float):
            yield below
        yield from _paths(value, below, key)


def parameters(name: str, exp: Experiment | None = None) -> int:
    """How many numbers a model learns or carries frozen; the model takes no memory."""
    exp, classes = exp or experiment(name), num_classes(name)
    if "shapes" in name:
        assert exp.data.train_set  # which is drawn, and says what its keypoints are
    with torch.device("meta"):
        model = exp.build_model(classes, pretrained=False)
    return sum(p.numel() for p in model.parameters())


def key(name: str, exp: Experiment) -> str:
    """What differs where what is measured may differ."""
    text = json.dumps([exp.tree["model"], exp.tree["data"]["test_augmentations"], num_classes(name)], sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


class CountMultiplyAdds(TorchDispatchMode):
    """Counts the multiply-adds of convolutions and matrix products, and puts random numbers in the place of results."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, packet = kwargs or {}, func._overloadpacket
        is_deform = packet == torch.ops.torchvision.deform_conv2d
        if packet not in flop_registry and not is_deform:
            return func(*args, **kwargs)
        on_meta = tree_map_only(torch.Tensor, lambda value: value.to("meta"), (args, kwargs))
        out = func(*on_meta[0], **on_meta[1])
        if is_deform:
            self.total += out.numel() * args[1][0].numel()
        else:
            self.total += flop_registry[packet](*args, **kwargs, out_val=out) // 2
        return tree_map_only(torch.Tensor, _random, out)


class RandomResults(TorchDispatchMode):
    """Puts random numbers in the place of what convolutions and matrix products give, after they have been computed:
    with those of an untrained model there are hardly any proposals, and the heads would do nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = torch.randn(2**22)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func._overloadpacket in flop_registry and isinstance(out, torch.Tensor) and out.numel() <= len(self.numbers):
            out.copy_(self.numbers[: out.numel()].view(out.shape))
        return out


def _random(value: torch.Tensor) -> torch.Tensor:
    numbers = torch.zeros if value.numel() > 2**22 else torch.randn  # large maps are not what is chosen by
    return torch.empty_like(value, device="cpu").copy_(numbers(value.shape))


def sample(exp: Experiment, name: str) -> Any:
    """A random image of the size of the dataset's, as the model takes it."""
    given = exp.data.test_dataset.kwargs.get("image_size")
    size = given or ((256, 256) if name.startswith("nuclei/") else (480, 640))
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    return augmented(pixels, "", [recipe() for recipe in exp.data.test_augmentations])


def measured(name: str, before: Mapping[str, Any], time_it: bool) -> dict[str, Any]:
    """Parameters, multiply-adds and, if asked for, CPU time; what is known of the same model stays."""
    exp = experiment(name)
    row: dict[str, Any] = {"model": key(name, exp)}
    same = next((dict(other) for other in before.values() if other["model"] == row["model"]), row)
    if "parameters" not in same:
        same["parameters"] = parameters(name, exp)
    if "multiply_adds" in same and ("cpu_seconds" in same or not time_it):
        return same
    torch.manual_seed(0)
    model, image = exp.build_model(num_classes(name), pretrained=False).eval(), sample(exp, name)
    same["image"] = list(image.image.shape[-2:])
    if "multiply_adds" not in same:
        with torch.no_grad(), CountMultiplyAdds() as counter:
            model([image])
        same["multiply_adds"] = counter.total
    if time_it and "cpu_seconds" not in same:
        same["cpu_seconds"] = _cpu_seconds(model, image)
    return same


def _cpu_seconds(model: MetaArch, image: Any) -> float:
    """The least time of one core in three passes, with as many proposals and detections as there may be."""
    torch.set_num_threads(1)
    times = []
    with torch.no_grad(), RandomResults():
        for _ in range(3):
            start = time.process_time()
            model([image])
            times.append(time.process_time() - start)
    return round(min(times), 2)


def parts(tree: Mapping[str, Any]) -> str:
    """The parts of a model in the order of the config, such as ``ResNet-50, FPN, RPN``."""
    shown = {name for registry in Registry.of.values() if _is_shown(registry) for name in registry.names()}
    return ", ".join(dict.fromkeys(_part(node) for node in _nodes(tree) if node["name"] in shown))


def _is_shown(registry: Registry[Any]) -> bool:
    return registry is META_ARCHS or (registry.role.endswith(SHOWN) and registry.role not in NOT_SHOWN)


def _nodes(node: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(node, Mapping):
        if isinstance(node.get("name"), str):
            yield node
        for value in node.values():
            yield from _nodes(value)
    elif isinstance(node, list):
        for value in node:
            yield from _nodes(value)


def _part(node: Mapping[str, Any]) -> str:
    detail = node.get("depth") or node.get("model") or node.get("arch")
    return f"{node['name']}-{detail}" if isinstance(detail, int | str) else node["name"]


def verified(name: str, same: Sequence[str]) -> str:
    """The tests of parity that name a config, or another one with the same model."""
    reference = {"torchvision": "torchvision", "matterport": "reference"}.get(name.partition("/")[0], "detectron2")
    stems = [other.rpartition("/")[2] for other in same]
    files = sorted((ROOT / "tests/parity").glob(f"test_{reference}*.py"))
    texts = {file.stem: file.read_text(encoding="utf-8") for file in files}
    found = [test for test, text in texts.items() if any(f"{s}." in text or f'"{s}"' in text for s in stems)]
    return ", ".join(f"`{test}`" for test in found) or "builds"


def published(name: str, weights: Sequence[Weights]) -> str:
    """What was published: by a list in docs/, or by torchvision of its weights."""
    metrics = json.loads(PUBLISHED.read_text(encoding="utf-8"))["published"].get(name, {})
    for row in weights:
        if row.name.startswith("torchvision://"):
            given = torchvision.models.get_weight(row.name.partition("://")[2]).meta["_metrics"]["COCO-val2017"]
            metrics = {what.replace("_map", " AP").replace("kp", "keypoint"): value for what, value in given.items()}
    return ", ".join(f"{what} {value:g}" for what, value in metrics.items())


def page(data: Mapping[str, Any]) -> str:
    """The page."""
    sources = json.loads(PUBLISHED.read_text(encoding="utf-8"))["sources"]
    lines, models, folder = [HEAD.format(sources=sources, processor=data["processor"]).rstrip()], data["models"], ""
    for name in sorted(models):
        if name.partition("/")[0] != folder:
            folder = name.partition("/")[0]
            lines += ["", f"## {folder}", "", TITLES, "|---" * TITLES.count(" | ") + "|---|"]
        same = [other for other in models if models[other]["model"] == models[name]["model"]]
        lines.append(_line(name, models[name], same))
    return "\n".join(lines) + "\n"


TITLES = "| config | parts | parameters | image | multiply-adds | CPU | published | weights | verified by |"


def _line(name: str, row: Mapping[str, Any], same: Sequence[str]) -> str:
    weights = [w for w in known() if w.config and w.config.split()[0] == name]
    cells = [
        f"`{name.partition('/')[2]}`",
        parts(load_experiment(name).tree["model"]),
        f"{row['parameters'] / 1e6:.2f} M",
        "{} x {}".format(*row["image"]),
        f"{row['multiply_adds'] / 1e9:.1f} G",
        f"{row['cpu_seconds']:.1f} s" if "cpu_seconds" in row else "",
        published(name, weights),
        "<br>".join(f"`{w.name}`" for w in weights),
        verified(name, same),
    ]
    return f"| {' | '.join(cells)} |"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the tool."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", metavar="PATTERN", help="take the CPU time of models that have none yet")
    args = parser.parse_args(argv)
    before = json.loads(DATA.read_text(encoding="utf-8"))["models"] if DATA.is_file() else {}
    models: dict[str, Any] = {}
    for name in config_names():
        time_it = args.measure is not None and fnmatch.fnmatch(name, args.measure)
        models[name] = measured(name, {**before, **models}, time_it)
        print(name, {key: value for key, value in models[name].items() if key != "model"}, flush=True)
        write_data({**before, **models})
    data = write_data(models)
    PAGE.write_text(page(data), encoding="utf-8")
    print(f"written: {PAGE}")
    return 0


def write_data(models: Mapping[str, Any]) -> dict[str, Any]:
    """What is known by now, which a run that is stopped leaves to the next."""
    data = {"processor": cpu_name(), "models": dict(models)}
    with atomic_write(DATA, "w") as file:
        file.write(json.dumps(data, indent=1) + "\n")
    return data


if __name__ == "__main__":
    sys.exit(main())
