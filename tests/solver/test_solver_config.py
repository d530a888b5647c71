"""What a config's solver and hooks come to: rate, steps, batches and stages."""

import itertools

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


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("solver.optimizer.lr=-1", r"solver\.optimizer\.lr: .*-1.*\[override"),
        ("solver.optimizer.layer_decay=2", r"solver\.optimizer\.layer_decay: .*2"),
        ("solver.optimizer.lr_factors={backbone: -0.1}", r"solver\.optimizer\.lr_factors\.backbone: .*got -0\.1"),
        ("solver.optimizer.betas=[0.9, 1.5]", r"solver\.optimizer\.betas\[1\]: .*1\.5"),
        ("solver.optimizer={name: SGD, lr: 0.1, momentum: 1.0}", r"solver\.optimizer\.momentum: .*1\.0"),
        ("solver.schedule.warmup_iters=-5", r"solver\.schedule\.warmup_iters: .*-5"),
        ("data.batch_size=0", r"data\.batch_size: .*0"),
        ("solver.lr_batch_size=0", r"solver\.lr_batch_size: .*0"),
        ("solver.optimizer.lr=.nan", r"solver\.optimizer\.lr: .*got nan.*finite"),
        ("solver.optimizer.weight_decay=.inf", r"solver\.optimizer\.weight_decay: .*got inf.*finite"),
        ("solver.optimizer.lr_factors={backbone: .nan}", r"solver\.optimizer\.lr_factors\.backbone: .*got nan.*finite"),
        ("solver={max_iter: null, epochs: .inf}", r"solver\.epochs: .*got inf.*finite"),
    ],
)
def test_numbers_that_make_no_sense_are_found_when_the_config_is_loaded(pytestconfig, override, words):
    with pytest.raises(ConfigError, match=words):
        load(pytestconfig, override)


def test_layer_decay_of_a_models_backbone(pytestconfig):
    exp = load(pytestconfig, "solver.optimizer.layer_decay=0.5", "solver.lr_batch_size=null")
    for overrides, names in (
        ([], ["stem", "res2", "res3", "res4", "res5"]),
        (
            ["model.backbone={name: TorchvisionBackbone, model: resnet18}"],
            ["body.conv1", "body.layer1", "body.layer2", "body.layer3", "body.layer4"],
        ),
    ):
        model = load(pytestconfig, *overrides).build_model(3)
        optimizer = exp.build_optimizer(model)
        rate_of = {p: g["initial_lr"] for g in optimizer.param_groups for p in g["params"]}
        for i, name in enumerate(names):
            rates = {rate_of[p] for p in model.backbone.get_submodule(name).parameters()}
            assert [*rates] == [pytest.approx(0.002 * 0.5 ** (5 - i))]
        assert {rate_of[p] for part in (model.neck, model.roi_heads) for p in part.parameters()} == {0.002}


@pytest.mark.parametrize("processes", [1, 2])
def test_an_epoch_sees_every_image_once_however_it_is_split(pytestconfig, processes):
    exp = load(pytestconfig, "data.batch_size=4", "solver.accumulate=2", "solver.max_iter=null", "solver.epochs=1")
    batches = exp.max_iter() * exp.solver.accumulate
    samplers = [
        exp.data.sampler(exp.data.train_set, exp.data.batch_size // processes, 0, rank, processes)
        for rank in range(processes)
    ]
    seen = [key for sampler in samplers for batch in itertools.islice(sampler, batches) for key in batch]
    assert sorted(seen) == [(0, index) for index in range(40)]
