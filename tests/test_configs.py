"""Every YAML under configs/ is checked, completed, loaded again and built on the meta device."""

import time
from pathlib import Path

import pytest
import torch

from detkit.config import to_yaml
from detkit.experiment import load_experiment

ROOT = Path(__file__).resolve().parents[1]
LEAVES = sorted(p for p in (ROOT / "configs").glob("*/*.yaml") if p.parent.name != "_base_")


@pytest.fixture(autouse=True)
def _any_datasets(monkeypatch):
    monkeypatch.setenv("DETKIT_DATASETS", "datasets")


def ids(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


def test_the_promised_configs_exist():
    coco = {
        f"{task}_rcnn_{b}_FPN_{s}"
        for task in ("mask", "faster")
        for b in ("R_50", "R_101", "X_101")
        for s in ("1x", "3x")
    }
    wanted = {f"coco/{name}" for name in coco} | {"quick_start/mask_rcnn_shapes", "nuclei/mask_rcnn_R_18_FPN"}
    wanted |= {"balloon/mask_rcnn_mobilenet_v2_FPN"}
    wanted |= {f"matterport/mask_rcnn_{kind}" for kind in ("R_50_FPN", "R_101_FPN", "R_50_FPN_shapes")}
    wanted |= {f"torchvision/{arch}_rcnn_R_50_FPN{version}" for arch in ("faster", "mask") for version in ("", "_v2")}
    wanted |= {f"coco/mask_rcnn_R_50_{kind}" for kind in ("C4_3x", "DC5_3x", "FPN_3x_gn", "FPN_3x_dconv_c3-c5")}
    wanted |= {"torchvision/faster_rcnn_mobilenet_v3_large_FPN"}
    wanted |= {f"coco/keypoint_rcnn_{kind}" for kind in ("R_50_FPN_1x", "R_50_FPN_3x", "R_101_FPN_3x", "X_101_FPN_3x")}
    wanted |= {"torchvision/keypoint_rcnn_R_50_FPN", "quick_start/keypoint_rcnn_shapes"}
    wanted |= {f"coco/{name}" for name in ("retinanet_R_50_FPN_1x", "retinanet_R_101_FPN_3x", "fcos_R_50_FPN_1x")}
    wanted |= {"coco/retinanet_R_50_BiFPN_1x"}
    wanted |= {f"torchvision/{name}_R_50_FPN" for name in ("retinanet", "fcos")} | {"quick_start/retinanet_shapes"}
    assert wanted <= {ids(p) for p in LEAVES}


@pytest.mark.parametrize("path", LEAVES, ids=ids)
def test_a_complete_config_loads_to_the_same_experiment(path, tmp_path):
    exp = load_experiment(path)
    saved = tmp_path / "config.yaml"
    saved.write_text(to_yaml(exp.tree))
    assert load_experiment(saved).tree == exp.tree


@pytest.mark.parametrize("path", LEAVES, ids=ids)
def test_every_model_builds(path):
    # Weights on disk are not at hand here; where they come from is another test's matter.
    overrides = ["model.backbone.weights=null"] if "mobilenet" in path.stem else []
    exp = load_experiment(path, overrides)
    with torch.device("meta"):
        model = exp.build_model(num_classes=80)
    assert sum(p.numel() for p in model.parameters()) > 100_000
    warmed_up = exp.solver.schedule.kwargs["warmup_iters"] == 0  # as matterport's, which begins at its full rate
    assert (exp.solver.schedule()(0, exp.solver.max_iter or 1000) < 0.1) != warmed_up
    prefixes = {name.split(".")[0] for name, _ in model.named_parameters()}
    parts = ("backbone", "neck", "proposal_generator", "roi_heads", "semantic_head", "head")
    assert prefixes == {name for name in parts if exp.tree["model"].get(name)}, "options are prefixes"


def test_detectron2s_schedules():
    one, three = (load_experiment(ROOT / f"configs/coco/mask_rcnn_R_50_FPN_{s}.yaml") for s in ("1x", "3x"))
    for exp, steps in ((one, (60_000, 80_000, 90_000)), (three, (210_000, 250_000, 270_000))):
        first, second, end = steps
        schedule, n = exp.solver.schedule(), exp.max_iter()
        assert n == end
        assert [schedule(i, n) for i in (1000, first - 1)] == pytest.approx([1, 1])
        assert [schedule(i, n) for i in (first, second - 1)] == pytest.approx([0.1, 0.1])
        assert [schedule(i, n) for i in (second, n - 1)] == pytest.approx([0.01, 0.01])
        assert schedule(0, n) == pytest.approx(0.001)
        assert schedule(500, n) == pytest.approx(0.5005)


def test_parameter_counts_are_those_of_the_networks():
    """Mask R-CNN R-50-FPN has 44.4 million, as torchvision's of the same layout."""
    from torchvision.models.detection import maskrcnn_resnet50_fpn

    with torch.device("meta"):
        path = ROOT / "configs/coco/mask_rcnn_R_50_FPN_1x.yaml"
        ours = load_experiment(path, ["model.backbone.norm=BN", "model.backbone.freeze_at=0"]).build_model(90)
        theirs = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=91)
    count = sum(p.numel() for p in ours.parameters())
    # torchvision predicts a box and a mask for background as well: one row more in two layers.
    background = 4 * 1025 + 257
    assert count == sum(p.numel() for p in theirs.parameters()) - background


def test_checking_takes_less_than_a_tenth_of_a_second():
    path = ROOT / "configs/coco/mask_rcnn_R_50_FPN_1x.yaml"
    load_experiment(path)
    times = []
    for _ in range(5):
        start = time.process_time()  # what else the machine does is not in it
        load_experiment(path, ["model.neck.out_channels=128"])
        times.append(time.process_time() - start)
    assert min(times) < 0.1
