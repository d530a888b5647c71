"""What a config's solver and hooks come to: rate, steps, batches and stages."""

import pytest
import torch

from detkit.engine import FreezeSchedule, FreezeStage
from detkit.experiment import load_experiment
from detkit.registry import ConfigError

CONFIG = "configs/quick_start/mask_rcnn_shapes.yaml"


def load(pytestconfig, *overrides):
    return load_experiment(pytestconfig.rootpath / CONFIG, ["data.train_dataset.num_images=40", *overrides])


def test_a_step_of_several_batches_counts_all_their_images(pytestconfig):
    exp = load(pytestconfig, "data.batch_size=4", "solver.accumulate=3", "solver.lr_batch_size=8")
    assert exp.images_per_step == 12
    optimizer = exp.build_optimizer(torch.nn.Linear(1, 1))
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.002 * 12 / 8)
    epochs = load(pytestconfig, "data.batch_size=4", "solver.accumulate=3", "solver.max_iter=null", "solver.epochs=6")
    assert epochs.max_iter() == 20  # 240 images, 12 a step
    assert load(pytestconfig, "solver.lr_batch_size=null", "solver.accumulate=3").build_optimizer(
        torch.nn.Linear(1, 1)
    ).param_groups[0]["lr"] == pytest.approx(0.002)
    with pytest.raises((ConfigError, ValueError), match="accumulate"):
        load(pytestconfig, "solver.accumulate=0")


def test_a_freeze_schedule_in_yaml(pytestconfig):
    stages = "[{until: 0.25, train: [neck, roi_heads]}, {until: 1}]"
    exp = load(pytestconfig, f"train.hooks=[{{name: FreezeSchedule, stages: {stages}}}]")
    (hook,) = exp.build_hooks()
    assert isinstance(hook, FreezeSchedule)
    assert hook.stages == (FreezeStage(0.25, ("neck", "roi_heads")), FreezeStage(1.0, "all"))
    again = load_experiment(exp.tree)
    assert again.build_hooks()[0].stages == hook.stages
    for wrong in ("[{until: 0.25}]", "[{until: 1, train: []}]", "[{until: 1, train: heads}]", "[]"):
        with pytest.raises(ConfigError, match=r"train\.hooks"):
            load(pytestconfig, f"train.hooks=[{{name: FreezeSchedule, stages: {wrong}}}]").build_hooks()
