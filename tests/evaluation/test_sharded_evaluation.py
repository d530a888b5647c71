"""Evaluation in several processes gives what one gives, to the last bit."""

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from processes import in_processes
from tiny_detector import tiny_experiment

from detkit.evaluation import evaluate
from detkit.utils import distributed

SIZES = (("1", "1"), ("2", "1"), ("3", "2"), ("4", "3"), ("5", "2"), ("6", "1"), ("7", "2"))  # images, batch size


def note(seen: list[int], samples, predictions) -> None:
    seen.extend(sample.image_id for sample in samples)


def evaluated(rank: int, folder: str) -> None:
    for images, batch in SIZES:
        torch.manual_seed(0)
        experiment = tiny_experiment(
            f"data.test_dataset.num_images={images}",
            f"data.test_batch_size={batch}",
            "model.roi_heads.box_head.detection.score_thresh=0.0",
        )
        model, evaluators, seen = experiment.build_model(), experiment.build_evaluators(), []
        model.backbone.stem.conv1.norm.running_mean.add_(rank)  # as after training: rank 0's statistics count
        metrics = evaluate(
            model,
            experiment.data.test(),
            evaluators,
            progress=False,
            on_batch=partial(note, seen),
        )
        every = distributed.all_gather_object(seen)
        if rank == 0:
            assert sorted(i for share in every for i in share) == sorted({i for share in every for i in share})
            assert sum(map(len, every)) == metrics.pop("timing")["images"] == int(images)
            content = {"metrics": metrics, "results": evaluators[0].results()}
            Path(folder, f"{distributed.world_size()}_of_{images}.json").write_text(json.dumps(content))


@pytest.mark.slow
def test_every_image_once_and_the_same_results_in_any_number_of_processes(tmp_path):
    for processes in (1, 2, 3):
        in_processes(evaluated, str(tmp_path), num=processes)
    for images, _ in SIZES:
        alone = (tmp_path / f"1_of_{images}.json").read_bytes()
        assert len(json.loads(alone)["results"]) >= int(images)
        for processes in (2, 3):
            assert (tmp_path / f"{processes}_of_{images}.json").read_bytes() == alone
