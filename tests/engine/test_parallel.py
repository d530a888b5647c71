"""Ways to train in several processes: what they compute is what one process does."""

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from processes import in_processes
from tiny_detector import tiny_experiment

from detkit.checkpoint import Checkpointer, load_weights, read_checkpoint, resume
from detkit.engine import CheckpointHook, ExponentialMovingAverage, FreezeSchedule, FreezeStage, Hook, Trainer
from detkit.evaluation import evaluate
from detkit.experiment import Experiment
from detkit.utils import distributed
from detkit.utils.distributed import share_buffers
from detkit.utils.sharding import full_tensors, is_sharded

ALL_SAMPLES = (  # nothing is drawn by lot, so that it does not matter which process sees an image
    "model.proposal_generator.sampling.batch_size_per_image=100000",
    "model.proposal_generator.sampling.positive_fraction=1.0",
    "model.roi_heads.sampling.batch_size_per_image=100000",
    "model.roi_heads.sampling.positive_fraction=1.0",
    "solver.clip_grad_norm=null",
)
NORMS = {
    "frozen": ("model.backbone.norm=FrozenBN",),
    "synchronised": ("model.backbone.norm=SyncBN", "model.neck.norm=SyncBN"),
}

LOOSE = ("model.roi_heads.box_head.detection.score_thresh=0.0",)  # so that there are detections after a few steps


class KeepGradients(Hook):
    """Keeps the last step's gradients."""

    def after_step(self, trainer: Trainer) -> None:
        self.gradients = {n: p.grad.clone() for n, p in trainer.unwrapped_model.named_parameters()}


def one_step(*overrides: str) -> dict[str, torch.Tensor]:
    """The gradients of the first step, of one of the processes that there are."""
    torch.manual_seed(0)
    experiment = tiny_experiment(*ALL_SAMPLES, *overrides)
    model = experiment.build_model()
    model.double().backbone.register_forward_pre_hook(lambda _, args: (args[0].double(),))
    kept = KeepGradients()
    trained = experiment.build_parallelism().wrap(model)
    optimizer = experiment.build_optimizer(trained)
    Trainer(trained, optimizer, experiment.build_schedule(), experiment.data.train, 1, hooks=[kept]).train()
    return kept.gradients


def gradients_of_two(rank: int, folder: str) -> None:
    for name, overrides in NORMS.items():
        gradients = one_step(*overrides)
        if rank == 0:
            torch.save(gradients, f"{folder}/{name}")


@pytest.mark.slow
def test_two_processes_with_half_the_batch_each_have_the_gradients_of_one_with_all_of_it(tmp_path):
    in_processes(gradients_of_two, str(tmp_path))
    for name, overrides in NORMS.items():
        alone, shared = one_step(*overrides), torch.load(tmp_path / name)
        assert alone.keys() == shared.keys()
        for parameter, grad in alone.items():
            assert grad.norm() > 0, parameter
            assert (grad - shared[parameter]).norm() <= 1e-6 * grad.norm(), parameter


FSDP = ("train.parallel={name: FSDP, unit_parameters: 2000}",)
DDP = ("train.parallel={name: DDP, find_unused_parameters: true}",)


def make_trainer(experiment: Experiment, steps: int, hooks=(), **options) -> Trainer:
    torch.manual_seed(0)
    model = experiment.build_parallelism().wrap(experiment.build_model())
    optimizer, schedule = experiment.build_optimizer(model), lambda step, n: 1.0
    batches = partial(experiment.data.train, 0)
    return Trainer(model, optimizer, schedule, batches, steps, hooks=hooks, **options)


def trained(experiment: Experiment, steps: int, hooks=(), **options) -> Trainer:
    """A trainer that has done its steps."""
    trainer = make_trainer(experiment, steps, hooks, **options)
    trainer.train()
    return trainer


def assert_close(ours: Trainer, theirs: Trainer) -> None:
    assert is_sharded(ours.model)
    assert not is_sharded(theirs.model)
    for trainer in (ours, theirs):
        share_buffers(trainer.unwrapped_model)  # rank 0's, as evaluations and checkpoints have them
    ours_weights, their_weights = full_tensors(ours.model.state_dict()), theirs.unwrapped_model.state_dict()
    assert ours_weights.keys() == their_weights.keys()
    for name, value in their_weights.items():
        assert (ours_weights[name] - value).abs().max() <= 1e-5 * max(1, value.abs().max()), name


def fsdp_is_ddp(rank: int) -> None:
    sgd = "solver.optimizer={name: SGD, lr: 0.02}"
    stages = (FreezeStage(0.5, ("roi_heads",)), FreezeStage(1.0))
    for overrides, options in (
        ((sgd,), {"clip_grad_norm": 1.0}),
        ((sgd, "model.backbone.norm=SyncBN"), {"clip_param_norm": 0.1, "accumulate": 2}),
        (("solver.optimizer={name: AdamW, lr: 0.0001}",), {"clip_grad_value": 0.01}),
        ((sgd,), {"stages": stages}),
    ):
        hooks = [[FreezeSchedule(stages=options["stages"])] if "stages" in options else [] for _ in range(2)]
        options = {name: value for name, value in options.items() if name != "stages"}
        ours, theirs = (
            trained(tiny_experiment(*parallel, *overrides), 5, hook, **options)
            for parallel, hook in zip((FSDP, DDP), hooks)
        )
        assert_close(ours, theirs)


@pytest.mark.slow
def test_sharded_weights_learn_what_full_ones_learn():
    in_processes(fsdp_is_ddp)


def results_of(model, experiment: Experiment) -> list[dict]:
    evaluators = experiment.build_evaluators()
    evaluate(model, experiment.data.test(), evaluators, progress=False)
    return evaluators[0].results()


def stopped_and_resumed(rank: int, folder: str) -> None:
    experiment = tiny_experiment(*FSDP, *LOOSE)
    run = Checkpointer(f"{folder}/run", keep=1)
    sharded = Checkpointer(f"{folder}/sharded", keep=2, sharded=True)
    averages = [ExponentialMovingAverage(), ExponentialMovingAverage()]
    straight = trained(experiment, 4, [averages[0], CheckpointHook(sharded, 1), CheckpointHook(run, 2)])
    assert [p.name for p in sharded.newest_first()] == ["checkpoint_0000003.sharded", "checkpoint_0000002.sharded"]
    distributed.barrier()
    if rank == 0:
        damaged = bytearray(
            (shard := Path(f"{folder}/sharded/checkpoint_0000003.sharded/shard_1_of_2.pth")).read_bytes()
        )
        damaged[len(damaged) // 2] ^= 1
        shard.write_bytes(damaged)
    distributed.barrier()
    resumed = make_trainer(experiment, 4, [averages[1]])
    results_of(resumed.model, experiment)  # before a step, and between two of them
    assert resume(sharded, resumed.model, resumed) == 3, "the damaged one is passed over"
    results = results_of(resumed.model, experiment)
    resumed.train()
    ours, theirs = full_tensors(resumed.model.state_dict()), full_tensors(straight.model.state_dict())
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items() if rank == 0 or "running" not in name)
    ours, theirs = (full_tensors(average.average) for average in averages)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    states = [full_tensors(trainer.optimizer.state_dict())["state"] for trainer in (resumed, straight)]
    assert all(torch.equal(v, states[1][n][key]) for n, entry in states[0].items() for key, v in entry.items())
    if rank == 0:
        Path(f"{folder}/results.json").write_text(json.dumps(results))


@pytest.mark.slow
def test_sharded_weights_are_saved_sharded_and_full_and_resumed_exactly_and_evaluated(tmp_path):
    in_processes(stopped_and_resumed, str(tmp_path))
    experiment = tiny_experiment(*LOOSE)
    model = experiment.build_model()
    last, final = (read_checkpoint(tmp_path / p) for p in ("run/checkpoint_0000003.pth", "run/model_final.pth"))
    assert all(torch.equal(value, final.model[name]) for name, value in last.model.items())
    assert load_weights(model, tmp_path / "sharded/checkpoint_0000002.sharded").exact
    ours, theirs = json.loads((tmp_path / "results.json").read_text()), results_of(model, experiment)
    assert ours == json.loads(json.dumps(theirs))
    assert len(ours) > 5


def test_options_that_do_not_go_with_the_parallelism_are_refused():
    for name in ("sharded_checkpoints", "checkpoint_in_parts"):  # the second is the earlier name
        with pytest.raises(ValueError, match="sharded_checkpoints: only with"):
            tiny_experiment(f"train.{name}=true")
    with pytest.raises(ValueError, match="take bf16"):
        tiny_experiment(*FSDP, "train.precision=fp16")
    for wrong in ("{name: FSDP, unit_parameters: 0}", "{name: DDP, bucket_mb: 0}"):
        with pytest.raises(ValueError, match="expected"):
            tiny_experiment(f"train.parallel={wrong}").build_parallelism()
