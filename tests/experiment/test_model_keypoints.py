"""What the keypoints are comes from the training data, goes with the weights, and comes back with them."""

import pytest
import torch

from detkit.checkpoint import Checkpointer, read_checkpoint
from detkit.experiment import load_experiment
from detkit.predictor import Predictor
from detkit.registry import DataError
from detkit.structures import COCO_PERSON, KeypointSpec
from detkit.views import Views

SMALL = (
    "data.train_dataset.num_images=2",
    "data.test_dataset.num_images=2",
    "model.roi_heads.keypoint_head.num_conv=1",
    "model.roi_heads.box_head.detection.score_thresh=0.0",
    "model.roi_heads.box_head.detection.max_detections=3",
)
CONFIG = "quick_start/keypoint_rcnn_shapes"


def test_keypoints_go_from_the_data_to_the_weights_and_to_the_predictions(tmp_path):
    experiment = load_experiment(CONFIG, SMALL)
    model, dataset = experiment.build_model(), experiment.data.train_set
    assert model.keypoints == dataset.keypoint_spec
    assert model.keypoints.names == ("top", "right", "bottom", "left")
    path = Checkpointer(tmp_path).save("model_final", model, config=experiment.tree)
    assert read_checkpoint(path).keypoints == model.keypoints
    elsewhere = [
        f"data.{part}_dataset={{name: CocoInstances, json_file: none.json, image_root: none}}"
        for part in ("train", "test")
    ]
    predictor = Predictor.from_weights(path, elsewhere)
    assert predictor.model.keypoints == model.keypoints
    found = predictor(dataset[0].image).instances
    assert found.keypoints.skeleton == model.keypoints.skeleton
    assert found.keypoints.flip_pairs == ((1, 3),)
    assert [len(row["keypoints"]) for row in found.to_coco(1)] == [12] * len(found)
    assert len(found) > 0
    assert found.to_dict()["keypoints"] == found.keypoints.tolist()
    for option in ({}, {"tile": 64}, {"views": Views()}, {"tile": 64, "views": Views()}):
        assert Predictor(model, device="cpu", **option).keypoints == model.keypoints


def test_the_config_has_its_way_and_nothing_known_is_cocos_person():
    with torch.device("meta"):
        assert load_experiment(CONFIG, SMALL).build_model(5).keypoints == COCO_PERSON
        own = "model.roi_heads.keypoint_head.keypoints={names: [a, b], skeleton: [[0, 1]]}"
        model = load_experiment(CONFIG, [*SMALL, own]).build_model(5, keypoints=COCO_PERSON)
    assert model.keypoints == KeypointSpec(("a", "b"), ((0, 1),))
    assert model.roi_heads.keypoint_head.deconv.out_channels == 2


def test_damaged_words_on_keypoints_are_said(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({"model": {"a": torch.zeros(1)}, "detkit_version": "0", "keypoints": {"keypoints": 3}}, path)
    with pytest.raises(DataError, match="says of keypoints is damaged"):
        read_checkpoint(path)
