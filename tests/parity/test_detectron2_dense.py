"""Detectron2's RetinaNet and FCOS on a real image: what they computed, and what detkit computes from their weights."""

import dataclasses

import pytest
import torch
from parity_helpers import Fixture, assert_losses, build, coco_target, load_detectron2, pair, pixels, relative, sample

from detkit.checkpoint import as_checkpoint, export_state, load_weights
from detkit.checkpoint.conversion import convert


@dataclasses.dataclass(frozen=True)
class Case:
    """A fixture: its config, what is overridden there, and the average of its normaliser after a step."""

    config: str
    overrides: tuple[str, ...]
    average: float


CASES = {
    "d2_retinanet_R_50_FPN_1x": Case(
        "coco/retinanet_R_50_FPN_1x.yaml", ("model.head.score_thresh=0.02", "model.head.max_detections=300"), 111.7
    ),
    "d2_retinanet_second": Case("coco/retinanet_R_50_FPN_1x.yaml", ("model.head.max_detections=150",), 111.7),
    "d2_fcos": Case("coco/fcos_R_50_FPN_1x.yaml", ("model.head.score_thresh=0.03",), 276.7),
}
SAMPLES = {
    "d2_retinanet_second": {
        "class_logits": (slice(None, None, 31), "logits"),
        "box_deltas": (slice(0, None, 3), "deltas"),
    },
    "d2_fcos": {"class_logits": (slice(8), "logits"), "centerness": (slice(1), "centreness")},
}
"""A fixture's name of a map -> which of its channels stand there, and detkit's name."""


@pytest.fixture(scope="module", params=CASES)
def loaded(request, shared_data, two_threads, tmp_path_factory):
    """A fixture, its name, and the model with its weights from a .pth file as Detectron2's checkpointer writes it."""
    case, reference = CASES[request.param], Fixture(shared_data, request.param)
    folder = tmp_path_factory.mktemp("detectron2")
    return request.param, reference, load_detectron2(build(case.config, case.overrides), reference.state, folder)


def test_features_maps_and_detections(loaded, shared_data):
    name, reference, model = loaded
    expected, arrays, batch = reference.meta["reference"]["features"], reference.arrays, [sample(pixels(shared_data))]
    with torch.no_grad():
        features = model.features(model.preprocess(batch))
        found = model(batch)[0].instances
    assert set(features) == set(expected)
    for level, value in features.items():
        assert list(value.shape) == expected[level]["shape"]
        assert relative(value[0, :8, ::7, ::7], arrays[f"feature_{level}"]) < 1e-4, level
    with torch.no_grad():
        levels = [*zip(*(convs([*features.values()]) for convs in (model.head.cls_convs, model.head.box_convs)))]
        outputs = [model.head.outputs(*maps) for maps in levels]
    for number, maps in enumerate(outputs):
        for theirs, (channels, ours) in SAMPLES.get(name, {}).items():
            assert relative(maps[ours][0, channels, ::5, ::5], arrays[f"{theirs}_{number}"]) < 1e-4
    pair(
        (found.boxes.tensor, found.scores, found.classes),
        (arrays["pred_boxes"], arrays["scores"], arrays["pred_classes"]),
    )
    assert torch.equal(found.scores, found.scores.sort(descending=True).values)


def test_losses_and_the_normaliser(loaded, shared_data):
    name, reference, model = loaded
    expected = reference.meta["reference"]
    seen = sample(pixels(shared_data))
    target = coco_target(shared_data, seen.original_size, annotation_ids=expected["annotation_ids"])
    start = model.head.normaliser.average.clone()
    model.train()
    try:
        with torch.no_grad():
            assert_losses(model([dataclasses.replace(seen, target=target)]).terms, expected["losses"])
        assert model.head.normaliser.average.item() == pytest.approx(CASES[name].average, rel=1e-5)
    finally:
        model.head.normaliser.average.copy_(start)
        model.eval()


def test_the_way_back_gives_the_same_weights(loaded):
    _, reference, model = loaded
    back = export_state(model.state_dict(), "detectron2")
    assert back.keys() == reference.state.keys()
    assert all(torch.equal(back[name], value) for name, value in reference.state.items())


def test_files_of_a_training_are_converted_and_back():
    state = build("quick_start/fcos_shapes.yaml", num_classes=3).state_dict()
    written = convert(as_checkpoint(state), "detectron2")
    assert [line.theirs for line in written.lines if line.fate == "not used"] == ["head.normaliser.average"]
    again = convert(as_checkpoint({"model": written.model}), "detkit").model
    assert again.keys() == state.keys() - {"head.normaliser.average"}
    assert all(torch.equal(value, state[name]) for name, value in again.items())
    other = build("quick_start/fcos_shapes.yaml", num_classes=3)
    assert load_weights(other, again).exact, "the average begins at its start"
