"""LabelFolder: what a model predicts as labels of a tool."""

from types import SimpleNamespace

import numpy as np
from PIL import Image

from detkit.commands.label_folder import LabelFolder
from detkit.data import open_dataset
from detkit.data.images import DEFAULT_READING
from detkit.structures import KeypointSpec


def test_labels_name_the_keypoints_of_the_model(tmp_path):
    spec = KeypointSpec(("nose", "left_eye", "right_eye"), skeleton=((0, 1), (0, 2)))
    row = {"image_id": 0, "category_id": 1, "bbox": [1, 1, 9, 9], "score": 0.9, "keypoints": [2, 2, 0.5] * 3}
    predictor = SimpleNamespace(
        keypoints=spec,
        class_names=("person",),
        category_ids=None,
        reading=DEFAULT_READING,
        to_coco_results=lambda predictions, ids: [row],
    )
    Image.fromarray(np.zeros((30, 40, 3), np.uint8)).save(tmp_path / "a.png")
    with LabelFolder(predictor, tmp_path / "out", "coco", [tmp_path]) as folder:
        folder.add(tmp_path / "a.png", SimpleNamespace(instances=SimpleNamespace(image_size=(30, 40))))
    dataset = open_dataset(tmp_path / "out")
    assert dataset.keypoint_spec == KeypointSpec(spec.names, spec.skeleton, (), spec.flip_pairs)
    assert dataset.coco()["annotations"][0]["keypoints"] == [2, 2, 2] * 3
