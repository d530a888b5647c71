"""The reference implementation (pytorch-mask-rcnn, ResNet-101) on a real image, and detkit on the same."""

import numpy as np
import pytest
import torch
from parity_helpers import Fixture, build, empty_record, pair, pixels, relative

from detkit.checkpoint import load_weights
from detkit.data import to_sample
from detkit.data.augmentations import ResizeAndPad
from detkit.structures import Boxes

XYXY = [1, 0, 3, 2]
"""From (y1, x1, y2, x2), and from (dy, dx, dh, dw)."""


@pytest.fixture(scope="module")
def reference(shared_data, two_threads):
    return Fixture(shared_data, "pmr_mask_rcnn_R_101")


@pytest.fixture(scope="module")
def path(reference, tmp_path_factory):
    """The reference implementation's own file: a state dict."""
    path = tmp_path_factory.mktemp("reference") / "mask_rcnn_coco.pth"
    torch.save(reference.state, path)
    return path


@pytest.fixture(scope="module")
def batch(reference, shared_data):
    """The image through the config's augmentation, with the sizes that the fixture was made with."""
    image, config = pixels(shared_data), reference.meta["config"]
    record = empty_record(image)
    resize = ResizeAndPad(min_size=config["IMAGE_MIN_DIM"], max_size=config["IMAGE_MAX_DIM"], mode="square")
    return [to_sample(resize(record, np.random.default_rng(0)))]


@pytest.fixture(scope="module")
def model(reference, path):
    thresh = reference.meta["config"]["DETECTION_MIN_CONFIDENCE"]
    model = build("matterport/mask_rcnn_R_101_FPN.yaml", [f"model.roi_heads.box_head.detection.score_thresh={thresh}"])
    report = load_weights(model, path)
    assert report.format.startswith("matterport")
    assert report.exact, report
    return model


@pytest.fixture(scope="module")
def computed(model, batch):
    """Images, features and proposals."""
    with torch.no_grad():
        images = model.preprocess(batch)
        features = model.features(images)
        return images, features, model.proposal_generator.predict(images, features)[0]


@pytest.fixture(scope="module")
def detections(model, computed):
    """In pixels of the padded square, with small masks."""
    with torch.no_grad():
        return model.roi_heads.predict(computed[1], [computed[2]])[0]


@pytest.fixture(scope="module")
def reference_proposals(reference):
    side = reference.meta["config"]["IMAGE_MAX_DIM"]
    return torch.from_numpy(reference.arrays["proposals_yxyx_normalized"])[:, XYXY] * side


def test_input_and_valid_region(reference, batch, computed):
    assert list(np.array(batch[0].valid_region)[XYXY]) == reference.arrays["window"].tolist()
    padded = computed[0].tensor[0, :, ::37, ::41]
    assert relative(padded, reference.arrays["input_sample"]) < 1e-6


def test_features(reference, computed):
    assert set(computed[1]) == {"p2", "p3", "p4", "p5", "p6"}
    for name, value in computed[1].items():
        assert relative(value[0, :8, ::7, ::7], reference.arrays[f"feature_{name}"]) < 1e-4, name


def test_anchors_and_rpn(reference, model, computed):
    rpn, (_, features, _) = model.proposal_generator, computed
    arrays = reference.arrays
    maps = [features[name] for name in rpn.in_features]
    with torch.no_grad():
        logits, deltas = rpn.head(maps)
    anchors = Boxes.cat(rpn.anchor_generator(logits, computed[0].padded_size)).tensor
    assert len(anchors) == arrays["num_anchors"]
    # the fixture's are in pixels or in shares of the square, whichever the reference kept
    assert (anchors[::997][:, XYXY] - torch.from_numpy(arrays["anchors_sample"])).abs().max() < 1e-3
    flat = torch.cat([x.permute(0, 2, 3, 1).flatten() for x in logits])[::997]
    theirs = torch.from_numpy(arrays["rpn_logits_sample"])
    assert relative(flat, theirs[:, 1] - theirs[:, 0]) < 1e-4
    moves = torch.cat([x[0].unflatten(0, (-1, 4)).permute(2, 3, 0, 1).reshape(-1, 4) for x in deltas])[::997]
    assert relative(moves[:, XYXY], arrays["rpn_deltas_sample"]) < 1e-4


def test_proposals(computed, reference_proposals):
    """Many anchors are certain here, to the last bit of a float: which of those stay the reference leaves open."""
    found, theirs = computed[2].boxes.tensor, reference_proposals
    assert len(found) == len(theirs) == 1000
    same = ((found[:, None] - theirs[None]).abs().amax(2) <= 0.01).any(1)
    assert same.float().mean() >= 0.999


def test_box_head_on_the_seeds_proposals(reference, model, computed, reference_proposals):
    with torch.no_grad():
        logits, deltas = model.roi_heads.box_head(computed[1], [Boxes(reference_proposals)])
    probs, theirs = logits.softmax(1)[::50], torch.from_numpy(reference.arrays["class_probs_sample"])
    assert (probs[:, :-1] - theirs[:, 1:]).abs().max() < 1e-5
    assert (probs[:, -1] - theirs[:, 0]).abs().max() < 1e-5
    moves = deltas.unflatten(1, (-1, 4))[::50][:, :, XYXY]
    assert relative(moves, reference.arrays["class_deltas_sample"][:, 1:]) < 1e-4


def test_detections(reference, detections):
    theirs = reference.arrays["detections_yxyx_class_score"]
    assert len(theirs) == 100
    ours = (detections.boxes.tensor, detections.scores, detections.classes + 1)
    pair(ours, (theirs[:, XYXY], theirs[:, 5], theirs[:, 4].astype(int)), box=1.0)


def test_small_masks(reference, detections):
    theirs = reference.arrays["detections_yxyx_class_score"]
    ours = (detections.boxes.tensor, detections.scores, detections.classes + 1)
    partner = pair((theirs[:, XYXY], theirs[:, 5], theirs[:, 4].astype(int)), ours, box=1.0)
    probs = detections.mask_probs[partner][::10]
    assert (probs - torch.from_numpy(reference.arrays["mask_probs_of_class_sample"])).abs().max() < 1e-4


def test_final_detections(reference, model, batch):
    found, arrays = model(batch)[0].instances, reference.arrays
    ours = (found.boxes.tensor, found.scores, found.classes + 1)
    pair(ours, (arrays["final_boxes_yxyx"][:, XYXY], arrays["final_scores"], arrays["final_class_ids"]), box=1.0)
    areas = found.masks.tensor.sum().item()
    assert areas == pytest.approx(int(arrays["final_mask_areas"].sum()), rel=0.02)  # through an 8-bit resize
