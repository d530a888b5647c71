"""Compares the templates of configs/own_data with torchvision's classes and with the project's configs, on real data.

Every training is a process of its own, and what it reached is a line of a file; those that are there are not run again.

    python tools/comparisons/own_data.py --data nuclei --models template torchvision --seeds 0 1 2
    python tools/comparisons/own_data.py --table

torchvision's classes get the template's backbone, neck, weights, data, augmentations, optimizer, steps, anchors and
numbers of samples; all else is as torchvision has it.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from detkit.config import to_yaml
from detkit.experiment import load_experiment, own_data

ROOT = Path(__file__).resolve().parents[2]
SHARED = Path(os.environ.get("DETKIT_SHARED", ROOT.parent / "shared")) / "data"
WEIGHTS = SHARED / "weights" / "mobilenet_v2_imagenet.pth"
CLASSES = {"nuclei": None, "balloon": None, "bccd": None, "people": ("person",)}
"""Name -> the classes that are taken; null for all."""
PROJECT = {"nuclei": "nuclei/mask_rcnn_R_18_FPN", "balloon": "balloon/mask_rcnn_mobilenet_v2_FPN"}


def template(data: str, weights: Path, overrides: Sequence[str]) -> dict[str, Any]:
    """The config of ``detkit train --data``, complete."""
    folder = SHARED / ("coco_mini" if data == "people" else data)
    changes = [f"train.init_weights={json.dumps(str(weights))}", *overrides]
    return own_data(folder, None, changes, class_names=CLASSES[data]).experiment().tree


def torchvision(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The same with torchvision's class as the model."""
    model = tree["model"]
    rpn, heads = model["proposal_generator"], model["roi_heads"]
    mask_head = heads["mask_head"]
    node = {
        "name": "TorchvisionDetector",
        "backbone": {**model["backbone"], "weights": tree["train"]["init_weights"]},
        "neck": model["neck"],
        "anchor_sizes": [int(size) for level in rpn["anchor_generator"]["sizes"] for size in level],
        "rpn_samples": rpn["sampling"]["batch_size_per_image"],
        "box_samples": heads["sampling"]["batch_size_per_image"],
        **{
            f"{when}_nms_{mode}": rpn["selection"][f"{when}_nms_topk_{mode}"]
            for when in ("pre", "post")
            for mode in ("train", "test")
        },
        "fc_dim": heads["box_head"]["fc_dims"][0],
        "mask_convs": None if mask_head is None else [mask_head["conv_dim"]] * mask_head["num_conv"],
        "max_detections": heads["box_head"]["detection"]["max_detections"],
    }
    imports = [str(Path(__file__).with_name("torchvision_detector.py"))]
    return {**tree, "model": node, "imports": imports, "train": {**tree["train"], "init_weights": None}}


def config_of(model: str, data: str, weights: Path, overrides: Sequence[str]) -> dict[str, Any] | None:
    """The config of one training; None where the project has none for the data."""
    if model == "project":
        os.environ["DETKIT_DATASETS"] = str(SHARED)
        return load_experiment(PROJECT[data], overrides).tree if data in PROJECT else None
    tree = template(data, weights, overrides)
    return torchvision(tree) if model == "torchvision" else tree


def run(tree: dict[str, Any], folder: Path, seed: int) -> dict[str, Any]:
    """Trains in a process of its own and returns what it reached."""
    folder.mkdir(parents=True, exist_ok=True)
    tree["train"] = {**tree["train"], "output_dir": str(folder / "run"), "seed": seed, "num_pictures": 0}
    (folder / "config.yaml").write_text(to_yaml(tree), encoding="utf-8")
    started = time.time()
    command = [sys.executable, "-m", "detkit", "train", str(folder / "config.yaml")]
    with open(folder / "output.txt", "w", encoding="utf-8") as output:
        code = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, env=os.environ).returncode
    results = {} if code else json.loads((folder / "run" / "evaluation.json").read_text(encoding="utf-8"))
    reached = {
        f"{prefix}{task}": round(part[task]["AP"], 4)
        for prefix, part in (("", results), ("ema/", results.get("ema", {})))
        for task in ("box", "mask")
        if task in part
    }
    steps = tree["solver"]["max_iter"]
    return {"seed": seed, "code": code, "seconds": round(time.time() - started), "steps": steps, **reached}


def print_table(lines: Sequence[Mapping[str, Any]]) -> None:
    """Means over the seeds, as Markdown."""
    print("| data | model | steps | seeds | box AP | mask AP |\n|---|---|---|---|---|---|")
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for line in lines:
        if not line["code"]:
            groups.setdefault((line["data"], line["model"] + line["note"], line["steps"]), []).append(line)
    for (data, model, steps), group in sorted(groups.items()):
        cells = []
        for task in ("box", "mask"):
            values = [line.get(f"ema/{task}", line.get(task)) for line in group]
            cells.append(f"{np.mean(values):.3f}" if None not in values else "")
        print(f"| {data} | {model} | {steps} | {len(group)} | {' | '.join(cells)} |")


def main() -> None:
    """Runs what is missing, or prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", choices=CLASSES, default=list(CLASSES))
    models = ("template", "torchvision", "project")
    parser.add_argument("--models", nargs="+", choices=models, default=list(models))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="of torchvision's mobilenet_v2")
    parser.add_argument("--output", type=Path, default=Path("output/own_data_comparison"))
    parser.add_argument("--note", default="", help="what the overrides try, in the table behind the model's name")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("overrides", nargs="*", metavar="key.path=value", help="changes to the template, or the config")
    args = parser.parse_intermixed_args()
    results = args.output / "results.jsonl"
    lines = [json.loads(text) for text in results.read_text().splitlines()] if results.is_file() else []
    done = {tuple(line[key] for key in ("data", "model", "note", "seed")) for line in lines}
    note = f", {args.note}" if args.note else ""
    for seed in () if args.table else args.seeds:
        for data in args.data:
            for model in args.models:
                tree = config_of(model, data, args.weights, args.overrides)
                if tree is None or (data, model, note, seed) in done:
                    continue
                folder = args.output / f"{data}-{model}{note.replace(', ', '-').replace(' ', '_')}-{seed}"
                line = {"data": data, "model": model, "note": note, **run(tree, folder, seed)}
                lines.append(line)
                with open(results, "a", encoding="utf-8") as file:
                    file.write(json.dumps(line) + "\n")
    print_table(lines)


if __name__ == "__main__":
    main()
