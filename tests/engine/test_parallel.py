"""Ways to train in several processes: what they compute is what one process does."""

import pytest
import torch
from processes import in_processes
from tiny_detector import tiny_experiment

from detkit.engine import Hook, Trainer

ALL_SAMPLES = (  # nothing is drawn by lot, so that it does not matter which process sees an image
    "model.proposal_generator.batch_size_per_image=100000",
    "model.proposal_generator.positive_fraction=1.0",
    "model.roi_heads.batch_size_per_image=100000",
    "model.roi_heads.positive_fraction=1.0",
    "solver.clip_grad_norm=null",
)
NORMS = {
    "frozen": ("model.backbone.norm=FrozenBN",),
    "synchronised": ("model.backbone.norm=SyncBN", "model.neck.norm=SyncBN"),
}


class KeepGradients(Hook):
    """Keeps the last step's gradients."""

    def after_step(self, trainer: Trainer) -> None:
        self.found = {n: p.grad.clone() for n, p in trainer.unwrapped_model.named_parameters()}


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
    return kept.found


def gradients_of_two(rank: int, folder: str) -> None:
    for name, overrides in NORMS.items():
        found = one_step(*overrides)
        if rank == 0:
            torch.save(found, f"{folder}/{name}")


@pytest.mark.slow
def test_two_processes_with_half_the_batch_each_have_the_gradients_of_one_with_all_of_it(tmp_path):
    in_processes(gradients_of_two, str(tmp_path))
    for name, overrides in NORMS.items():
        alone, shared = one_step(*overrides), torch.load(tmp_path / name)
        assert alone.keys() == shared.keys()
        for parameter, grad in alone.items():
            assert grad.norm() > 0, parameter
            assert (grad - shared[parameter]).norm() <= 1e-6 * grad.norm(), parameter
