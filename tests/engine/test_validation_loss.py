"""ValidationLoss: the test set's losses as one batch of all its images would have them."""

import pytest
import torch
from lines import lines_of
from norms import Normed, batch, run, stream
from processes import in_processes
from torch import nn

from detkit.engine import EvalHook, PreciseBN, Trainer, ValidationLoss
from detkit.layers import replace_modules
from detkit.layers.sync_norm import SyncBN

TEST_SET = [batch(100, 2), batch(101, 2), batch(102, 1)]


def plain_model():
    """Without what looks at each batch alone."""
    model = replace_modules(Normed(), nn.BatchNorm2d, lambda bn: nn.GroupNorm(1, bn.num_features))
    model.dropout.p = 0.0
    return model


def validation_metrics(lines):
    return [
        {k: v for k, v in line.items() if k.startswith("validation/")} for line in lines if "total_loss" not in line
    ]


def expected(model):
    with torch.no_grad():
        losses = model([sample for batch in TEST_SET for sample in batch])
    terms = {f"validation/{name}": value.item() for name, value in losses.terms.items()}
    return {"validation/total_loss": sum(terms.values()), **terms}


def test_means_are_over_the_whole_test_set():
    trainer, lines = run([ValidationLoss()], model=plain_model(), test_batches=TEST_SET)
    (found,) = validation_metrics(lines)
    assert found == pytest.approx(expected(trainer.model), rel=1e-5)


def test_nothing_is_learned_and_the_same_is_drawn_each_time():
    weights = []
    for hooks in ([], [ValidationLoss(period=1)]):
        trainer, lines = run(hooks, test_batches=TEST_SET)
        weights.append([*trainer.model.state_dict().values(), torch.get_rng_state()])
    assert all(torch.equal(a, b) for a, b in zip(*weights))
    hook = trainer.hooks[0]
    for _ in range(2):
        hook.run(trainer)
    found = validation_metrics(lines)
    assert len(found) == 4 + 2
    assert found[-1] == found[-2] == found[-3], "dropout falls alike"


def test_when_it_is_computed():
    _, lines = run([ValidationLoss(), EvalHook(dict, 2)], 5, test_batches=TEST_SET)
    assert [line["iteration"] for line in lines if "validation/total_loss" in line] == [1, 3, 4]
    _, lines = run([ValidationLoss(period=3), EvalHook(dict, 2)], 5, test_batches=TEST_SET)
    assert [line["iteration"] for line in lines if "validation/total_loss" in line] == [2, 4]


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="no test_batches"):
        run([ValidationLoss()])
    with pytest.raises(ValueError, match="gave no batch"):
        run([ValidationLoss()], test_batches=[])


def unequal(rank, folder, num_batches):
    """SyncBN waits for all processes in every pass; the one batch, or the two, are the last processes'."""
    model = replace_modules(Normed(), nn.BatchNorm2d, SyncBN.of)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    share = [TEST_SET[0]] if rank >= 3 - num_batches else []
    model.dropout.p = 0.0
    trainer = Trainer(
        model, optimizer, lambda s, n: 1.0, stream, 2, hooks=[ValidationLoss()], log_period=1, test_batches=share
    )
    lines = lines_of(trainer)
    trainer.train()
    torch.save(lines, f"{folder}/{rank}.pth")


@pytest.mark.parametrize("num_batches", [1, 2])
def test_processes_without_a_batch_take_part(tmp_path, num_batches):
    in_processes(unequal, str(tmp_path), num_batches, num=3)
    ranks = [torch.load(tmp_path / f"{rank}.pth") for rank in range(3)]
    assert ranks[0] == ranks[1] == ranks[2], "hooks decide by lines, so all have the same"
    model = Normed()
    model.dropout.p = 0.0
    with torch.no_grad():
        losses = model(TEST_SET[0])
    (found,) = validation_metrics(ranks[0])
    assert found["validation/loss_bright"] == pytest.approx(losses.terms["loss_bright"].item(), rel=1e-5)


def process(rank, folder):
    share = [TEST_SET[:2], TEST_SET[2:]][rank]  # one has more batches than the other
    found = []
    for make, hooks in ((plain_model, [ValidationLoss()]), (Normed, [PreciseBN(num_batches=2)])):
        model = nn.parallel.DistributedDataParallel(make())
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        batches = [batch(2 * number + rank) for number in range(4)]
        trainer = Trainer(model, optimizer, lambda s, n: 1.0, batches, 1, hooks=hooks, log_period=1, test_batches=share)
        lines = lines_of(trainer)
        model.module.dropout.p = 0.0
        trainer.train()
        found.append((validation_metrics(lines), trainer.unwrapped_model.state_dict()))
    torch.save(found, f"{folder}/{rank}.pth")


@pytest.mark.slow
def test_two_processes_find_what_one_does(tmp_path):
    in_processes(process, str(tmp_path))
    (first, second) = (torch.load(tmp_path / f"{rank}.pth") for rank in (0, 1))
    assert first[0][0] == second[0][0]
    assert first[0][0][0] == pytest.approx(expected(plain_model()), rel=1e-5)
    model = Normed()
    model.dropout.p = 0.0
    seen = []
    model.norm.register_forward_pre_hook(lambda _, x: seen.append(x[0].transpose(0, 1).flatten(1)))
    with torch.no_grad():
        for number in range(2, 6):  # the two batches after the first step, on both processes
            model(batch(number))
    values = torch.cat(seen, dim=1)
    for _, state in (first[1], second[1]):
        torch.testing.assert_close(state["norm.running_mean"], values.mean(dim=1))
        torch.testing.assert_close(state["norm.running_var"], values.var(dim=1))
    assert torch.equal(first[1][1]["last.running_var"], second[1][1]["last.running_var"])
