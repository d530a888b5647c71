"""Pictures of the same images after every evaluation: in the folder, few of them, and in TensorBoard."""

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from PIL import Image

from detkit.data.samplers import inference_batches
from detkit.engine import EvalHook, PredictionPictures, TensorBoardWriter
from detkit.engine.hooks.pictures import step_folders, thin_out
from detkit.evaluation import FirstPredictions, evaluate
from detkit.structures import Boxes, Instances, Prediction, Sample

NUM = 2


def numbered_images(length, rank=0, world=1):
    """Images numbered from 0, in batches of 2."""

    def sample(number):
        return Sample(torch.full((3, 4, 4), number, dtype=torch.uint8), (4, 4), image_id=number)

    return [[sample(number) for _, number in batch] for batch in inference_batches(length, 2, rank, world)]


class Detector(torch.nn.Module):
    """Finds one box an image, whose score says how often it was asked."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, samples):
        self.calls += 1
        one = {"boxes": Boxes(torch.tensor([[0.0, 0, 2, 2]])), "classes": torch.tensor([0])}
        scores = torch.tensor([self.calls / 100])
        return [Prediction(Instances((4, 4), scores=scores, **one)) for _ in samples]


def draw(pairs):
    return {
        f"image_{sample.image_id}": np.full((6, 8, 3), round(prediction.instances.scores.item() * 100), dtype=np.uint8)
        for sample, prediction in pairs
    }


@pytest.fixture
def parts():
    detector, predictions = Detector(), FirstPredictions(NUM)
    hook = EvalHook(lambda: evaluate(detector, numbered_images(5), [], progress=False, on_batch=predictions), 2)
    return detector, predictions, hook


def test_every_evaluation_leaves_pictures_of_the_same_images(make_trainer, tmp_path, parts):
    detector, predictions, evaluation = parts
    make_trainer(5, [evaluation, PredictionPictures(predictions, draw)]).train()
    root = tmp_path / "run" / "predictions"
    assert [step for step, _ in step_folders(root)] == [1, 3, 4]
    assert {p.name for p in root.glob("*/*")} == {"image_0.png", "image_1.png"}
    first, second = (np.asarray(Image.open(folder / "image_0.png")) for _, folder in step_folders(root)[:2])
    assert first.shape == (6, 8, 3)
    assert not np.array_equal(first, second)  # the model had changed
    assert detector.calls == 3 * 3  # 5 images in batches of 2, three times: nothing is predicted twice


def test_tensorboard_gets_the_pictures(make_trainer, tmp_path, parts):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import IMAGES, EventAccumulator

    _, predictions, evaluation = parts
    make_trainer(4, [evaluation, PredictionPictures(predictions, draw), TensorBoardWriter()]).train()
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"), size_guidance={IMAGES: 0})
    events.Reload()
    assert sorted(events.Tags()["images"]) == ["predictions/image_0", "predictions/image_1"]
    shown = events.Images("predictions/image_0")
    assert [(e.step, e.height, e.width) for e in shown] == [(1, 6, 8), (3, 6, 8)]
    assert shown[0].encoded_image_string != shown[1].encoded_image_string


def test_a_resume_removes_pictures_of_what_is_done_again(make_trainer, tmp_path, parts):
    _, predictions, evaluation = parts
    root = tmp_path / "run" / "predictions"
    for step in (1, 3, 5, 7):
        (root / f"step_{step:07d}").mkdir(parents=True)
    (root / "step_by_step").mkdir()
    trainer = make_trainer(6, [evaluation, PredictionPictures(predictions, draw)])
    trainer.finished = 4
    trainer.train()
    assert [step for step, _ in step_folders(root)] == [1, 3, 5]
    assert (root / "step_by_step").is_dir()


@pytest.mark.parametrize("keep", [2, 3, 5])
def test_few_folders_are_kept_first_and_last_among_them(tmp_path, keep):
    for step in range(100, 2100, 100):
        (tmp_path / f"step_{step:07d}").mkdir()
        thin_out(tmp_path, keep)
    steps = [step for step, _ in step_folders(tmp_path)]
    assert len(steps) == keep
    assert (steps[0], steps[-1]) == (100, 2000)
    gaps = np.diff(steps)
    assert gaps.max() <= 2000 / (keep - 1) * 1.7  # spread over the run


def test_no_evaluation_or_no_pictures_asked_for(make_trainer, tmp_path):
    make_trainer(2, [PredictionPictures(FirstPredictions(2), draw)]).train()
    none = FirstPredictions(0)
    hook = EvalHook(lambda: evaluate(Detector(), numbered_images(3), [], progress=False, on_batch=none))
    make_trainer(2, [hook, PredictionPictures(none, draw)]).train()
    assert not (tmp_path / "run" / "predictions").exists()
    with pytest.raises(ValueError, match="at least 2"):
        PredictionPictures(none, draw, keep=1)


def several(rank, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    for length in (4, 9):
        predictions = FirstPredictions(3)
        evaluate(Detector(), numbered_images(length, rank, 2), [], progress=False, on_batch=predictions)
        shown = [sample.image_id for sample, _ in predictions.gathered()]
        (folder / f"shown_{length}_{rank}").write_text(repr(shown))
    dist.destroy_process_group()


@pytest.mark.slow
def test_sharded_evaluation_shows_the_same_images(tmp_path):
    mp.spawn(several, args=(tmp_path,), nprocs=2)
    shown = [path.read_text() for path in tmp_path.glob("shown_*")]
    assert shown == ["[0, 1, 2]"] * 4  # of 4 images the first three lie on two ranks, of 9 on one
