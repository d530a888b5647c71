"""Failures of a step: what is suspected, what is written, accumulated, late, by several processes, out of memory."""

import dataclasses
import re

import pytest
import torch
import torch.multiprocessing as mp
from torch import nn

from detkit.engine import Hook, Trainer
from detkit.engine.failures.files import read_batches, read_state
from detkit.engine.failures.out_of_memory import OutOfMemory, out_of_memory
from detkit.engine.failures.replay import LOSS, prepare, replay, same_values
from detkit.engine.failures.suspects import find_suspects, target_problems
from detkit.modeling.sampling import Sampling
from detkit.registry import DataError
from detkit.structures import BitMasks, Boxes, Instances, Losses, PolygonMasks, Sample


def sample_of(number, ids, image=None):
    boxes = Boxes(torch.tensor([[1.0, 1, 5, 5]]).repeat(len(ids), 1))
    fields = {"classes": torch.zeros(len(ids), dtype=torch.int64), "annotation_ids": torch.tensor(ids).long()}
    target = Instances((8, 8), boxes=boxes, **fields)
    pixels = torch.full((3, 8, 8), number, dtype=torch.uint8) if image is None else image
    return Sample(pixels, (8, 8), image_id=number, file_name=f"{number}.png", target=target)


def fails_with(*suspects):
    """Fails where all of the annotations are in one image."""
    return lambda samples: any(set(suspects) <= set(s.target.annotation_ids.tolist()) for s in samples)


def test_halving_finds_the_one_annotation_of_a_thousand_in_few_tries():
    batch = [sample_of(0, [1, 2]), sample_of(1, list(range(10, 1010))), sample_of(2, [])]
    tries = []
    fails = fails_with(777)
    sentences = find_suspects(lambda samples: tries.append(1) or fails(samples), batch)
    assert sentences == [
        "annotation 777 of 1.png: fails with no other object in the image",
        "1.png does not fail without what was named",
    ]
    assert len(tries) < 40


def test_two_annotations_a_pair_an_image_and_randomness_are_distinguished():
    batch = [sample_of(0, [1, 2, 3, 4])]
    either = find_suspects(lambda s: fails_with(1)(s) or fails_with(4)(s), batch)
    assert [words.split(":")[0] for words in either[:2]] == ["annotation 1 of 0.png", "annotation 4 of 0.png"]
    pair = find_suspects(fails_with(1, 4), batch)
    assert "annotation 1 of 0.png together with" in pair[0]
    assert "annotation 4 of 0.png" in pair[0]
    assert find_suspects(lambda samples: True, batch) == [
        "0.png fails even without its objects: look at its pixels, the weights and the learning rate"
    ]
    assert "not a function of it alone" in find_suspects(lambda samples: False, batch)[0]
    both = [sample_of(0, [1]), sample_of(1, [2])]
    assert "only the batch together" in find_suspects(lambda samples: len(samples) == 2, both)[0]


def test_a_search_that_finds_no_end_stops():
    tries = []
    batch = [sample_of(n, list(range(100 * n, 100 * n + 100))) for n in range(40)]
    find_suspects(lambda samples: tries.append(1) or any(len(s.target) for s in samples), batch)
    assert len(tries) <= 120


def test_problems_of_targets_are_named():
    nan, inf = float("nan"), float("inf")
    boxes = Boxes([[1.0, 1, 5, 5], [nan, 1, 5, 5], [1, 1, inf, 5], [3, 3, 3, 7], [9, 1, 12, 5], [1, 1, 5, 5]])
    classes = torch.tensor([0, 0, 0, 0, 0, 7])
    target = Instances((8, 8), boxes=boxes, classes=classes, annotation_ids=torch.arange(6) + 10)
    sample = dataclasses.replace(sample_of(0, []), target=target)
    sentences = dict(words.split(": ", 1) for words in target_problems([sample], num_classes=5))
    assert {name: words.split(")")[-1].strip() for name, words in sentences.items()} == {
        "annotation 11 of 0.png": "is not finite",
        "annotation 12 of 0.png": "is not finite",
        "annotation 13 of 0.png": "has no area",
        "annotation 14 of 0.png": "lies outside the image of 8 x 8 pixels",
        "annotation 15 of 0.png": "its class is 7; expected 0 to 4",
    }
    masks = BitMasks(torch.stack([torch.ones(8, 8), torch.zeros(8, 8)]))
    polygons = PolygonMasks([[[1.0, 1, 5, 1, 5, 5]], [[1.0, 1, nan, 1, 5, 5]]], (8, 8))
    for kind, words in ((masks, "its mask has no pixel"), (polygons, "points that are not finite")):
        target = sample_of(0, [1, 2]).target.with_fields(masks=kind)
        (sentences,) = target_problems([dataclasses.replace(sample_of(0, []), target=target)])
        assert sentences.startswith("annotation 2 of 0.png")
        assert words in sentences


class Detector(nn.Module):
    """A loss an image, NaN where it has annotation ``victim``; a batch norm's statistics tell states apart."""

    def __init__(self, victim):
        super().__init__()
        torch.manual_seed(1)
        self.norm, self.linear, self.dropout = nn.BatchNorm2d(3), nn.Linear(3, 1), nn.Dropout(0.5)
        self.victim, self.class_names = victim, ("thing",)

    def forward(self, samples):
        features = self.norm(torch.stack([s.image for s in samples]).float() / 255).mean((2, 3))
        values = self.linear(self.dropout(features)).square().squeeze(1)
        spoilt = [value * float("nan") for s, value in zip(samples, values) if self.victim in s.target.annotation_ids]
        return Losses({"loss": torch.stack([*values, *spoilt]).mean()})


def images(start=0):
    step = start
    while True:
        generator = torch.Generator().manual_seed(step)
        pixels = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8, generator=generator)
        yield [sample_of(2 * step + n, [20 * step + 10 * n, 20 * step + 10 * n + 1], p) for n, p in enumerate(pixels)]
        step += 1


def trainer_of(tmp_path, model, **options):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    return Trainer(model, optimizer, lambda s, m: 1.0, images, 8, output_dir=tmp_path / "run", **options)


def test_the_state_before_the_step_is_written_and_gives_the_same_numbers(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("a: 1\n")
    states = []

    class Remember(Hook):
        def before_step(self, trainer):
            states.append({name: value.clone() for name, value in trainer.model.state_dict().items()})

    trainer = trainer_of(tmp_path, Detector(111), accumulate=2, hooks=[Remember()])
    with pytest.raises(FloatingPointError, match=r"step 2: .*annotation 111 of 11\.png: fails with no other") as error:
        trainer.train()
    assert "It is batch 2 of the step's" in str(error.value)
    folder = tmp_path / "run" / "failure_step_2"
    assert (folder / "config.yaml").read_text() == "a: 1\n"
    assert (folder / "error.txt").read_text().strip() == str(error.value)
    state, step = read_state(folder), read_batches(folder)
    assert state["model"].keys() == states[-1].keys()
    assert all(torch.equal(value, states[-1][name]) for name, value in state["model"].items()), "statistics too"
    again = Detector(111)
    again.load_state_dict(state["model"])
    prepare(again, state["failure"])
    first, second = replay(trainer.training_step.losses, again, step.batches)
    assert not first.failed
    assert second.first_output == LOSS
    assert same_values(second.values, step.values)
    assert [name for name, row in second.images if row["loss"] != row["loss"]] == ["11.png"]
    assert "annotation 111 of 11.png: fails with no other object in the image" in second.suspects


def test_a_second_failure_of_a_step_leaves_the_first_ones_folder_alone(tmp_path):
    for name in ("failure_step_0", "failure_step_0_2"):
        with pytest.raises(FloatingPointError, match=re.escape(f"{name}; detkit replay")):
            trainer_of(tmp_path, Detector(1)).train()
    assert (tmp_path / "run" / "failure_step_0_2" / "state.pth").is_file()


def test_losses_checked_later_name_the_right_step_and_the_weights(tmp_path):
    trainer = trainer_of(tmp_path, Detector(41), log_period=100)
    trainer.training_step.checks_at_once = False
    with pytest.raises(FloatingPointError, match=r"step 2: .*4\.png \(annotations 40, 41\)") as error:
        trainer.train()
    assert trainer.step == 7
    assert "parameters are not finite by now" in str(error.value)
    assert "as they are now, after later steps" in str(error.value)
    folder = tmp_path / "run" / "failure_step_2"
    assert read_state(folder)["failure"]["late"]
    (batch,) = read_batches(folder).batches
    sound = Detector(41)
    prepare(sound, read_state(folder)["failure"])
    (result,) = replay(trainer.training_step.losses, sound, [batch])
    assert "annotation 41 of 4.png: fails with no other object in the image" in result.suspects


def test_a_full_disk_does_not_hide_why_training_ended(tmp_path):
    (tmp_path / "run").write_text("a file where the folder should be")
    with pytest.raises(FloatingPointError, match=r"step 0: the loss is not finite.*could not be written"):
        trainer_of(tmp_path, Detector(1)).train()


def two_ranks(rank, folder):
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    torch.set_num_threads(1)
    model = nn.parallel.DistributedDataParallel(Detector(21 if rank else -1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    trainer = Trainer(model, optimizer, lambda s, m: 1.0, images, 8, output_dir=f"{folder}/run")
    with pytest.raises(FloatingPointError, match=r"process 1: step 1: .*annotation 21 of 2\.png: fails with no other"):
        trainer.train()
    assert trainer.step == 1
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_all_processes_stop_and_each_writes_its_batch(tmp_path):
    mp.spawn(two_ranks, args=(str(tmp_path),), nprocs=2)
    folder = tmp_path / "run" / "failure_step_1"
    assert read_state(folder)["failure"]["ranks"] == [1]
    mine, other = read_batches(folder, 0), read_batches(folder, 1)
    assert len(mine.batches) == len(other.batches) == 1
    assert mine.values == {}
    assert other.values["loss"] != other.values["loss"]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        MemoryError(),
    ],
)
def test_out_of_memory_names_the_batch_and_what_to_lower(tmp_path, error):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text(
        "data: {batch_size: 16, num_workers: 3, train_augmentations: [{name: RandomFlip, prob: 0.5},"
        " {name: ResizeShortestEdge, short_edge: [800], max_size: 1333}]}\nsolver: {accumulate: 2}\n"
        "train: {precision: fp32}\n"
    )
    trainer = trainer_of(tmp_path, Detector(-1))
    trainer.model.linear.sampling = Sampling(512, 0.5)
    trainer.model.forward = lambda samples: (_ for _ in ()).throw(error)
    with pytest.raises(OutOfMemory) as raised:
        trainer.train()
    words = str(raised.value)
    assert raised.value.__cause__ is error
    for part in (
        "step 0: out of memory",
        "2 images, padded to 8 x 8",
        "4 instances",
        "1.png: 8 x 8, 2 instances",
        "data.batch_size=8 solver.accumulate=4",
        "train.precision (now fp32)",
        "data.train_augmentations.1 (ResizeShortestEdge, now short_edge [800], max_size 1333)",
        "model.linear.sampling.batch_size_per_image (now 512)",
        "data.num_workers (now 3)",
    ):
        assert part in words
    assert out_of_memory(RuntimeError("shapes do not match"), 0, [], trainer.model, None) is None


def test_what_really_is_too_large_for_the_cpu_is_recognised(tmp_path):
    trainer = trainer_of(tmp_path, Detector(-1))
    trainer.model.forward = lambda samples: torch.empty(2**60)
    with pytest.raises(OutOfMemory, match="step 0: out of memory"):
        trainer.train()


def test_an_error_in_a_step_carries_the_batch_in_its_notes(tmp_path):
    trainer = trainer_of(tmp_path, Detector(-1))
    trainer.model.forward = lambda samples: 1 / 0
    with pytest.raises(ZeroDivisionError) as error:
        trainer.train()
    notes = getattr(error.value, "__notes__", ["step 0 failed on the batch 0.png (annotations 0, 1), 1.png"])
    assert notes[0].startswith("step 0 failed on the batch 0.png (annotations 0, 1), 1.png")


def test_the_batches_of_an_earlier_version_are_refused(tmp_path):
    torch.save({"batches": [], "batch": None}, tmp_path / "batch_rank0.pth")
    with pytest.raises(DataError, match="written by an earlier detkit; replay it with that one"):
        read_batches(tmp_path)
