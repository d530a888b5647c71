"""Test-time augmentation: what several views of an image are merged to."""

import dataclasses
from functools import partial

import pytest
import torch
from small import small_model

from detkit.commands.parsers.evaluate import parse_arguments as evaluate_arguments
from detkit.commands.parsers.predict import parse_arguments as predict_arguments
from detkit.data import ResizeAndPad, ResizeShortestEdge
from detkit.evaluation import PanopticEvaluator, evaluate
from detkit.experiment import load_experiment
from detkit.modeling.interfaces import InstanceHead
from detkit.modeling.meta_archs import SemanticSegmentor
from detkit.modeling.semantic import PanopticMerge
from detkit.predictor import Predictor
from detkit.registry import ConfigError
from detkit.structures import Boxes, ImageInfo, Instances, Keypoints, Sample
from detkit.views import TiledModel, Views, ViewsModel
from detkit.views.tiled import augmented
from detkit.views.views import _Place

PAIRS = ((0, 1),)
LINES = ((0, 1),)


class Corners(InstanceHead):
    """Keypoints at the left and at the right side of a box, with the view's width as a score."""

    def predict(self, features, instances):
        found = []
        for one in instances:
            x1, y1, x2, _ = one.boxes.tensor.unbind(1)
            score = torch.full_like(x1, one.image_size[1])
            points = torch.stack([torch.stack([x, y1, score], 1) for x in (x1, x2)], 1)
            found.append(one.with_fields(keypoints=Keypoints(points, PAIRS, LINES)))
        return found


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(1)
    return small_model(score_thresh=0.0, max_detections=12).eval()


def image(height=64, width=96, seed=0) -> Sample:
    pixels = torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=torch.manual_seed(seed))
    return Sample(pixels, (height, width))


def resized(sample: Sample, side: int) -> Sample:
    pixels = sample.image.permute(1, 2, 0).numpy()
    return augmented(pixels, "", [ResizeShortestEdge(short_edge=(side,), max_size=4000)])


def mirrored(sample: Sample) -> Sample:
    return Sample(sample.image.flip(-1), sample.original_size)


def seen(model, views, *samples, **options):
    return [prediction.instances for prediction in ViewsModel(model, views, **options).eval()(list(samples))]


def test_one_view_is_the_model_itself(model):
    (whole,) = (prediction.instances for prediction in model([image()]))
    (one,) = seen(model, Views(flip=False), image())
    assert torch.equal(one.scores, whole.scores)
    assert torch.equal(one.classes, whole.classes)
    torch.testing.assert_close(one.boxes.tensor, whole.boxes.tensor)
    assert torch.equal(one.masks.bitmaps(), whole.masks.bitmaps())


def test_the_mirror_image_gives_the_mirrored_prediction(model):
    first, second = seen(model, Views(), image(), mirrored(image()))
    assert len(first) == 12
    flipped = second.boxes.tensor[:, [2, 1, 0, 3]] * torch.tensor([-1.0, 1, -1, 1]) + torch.tensor([96.0, 0, 96, 0])
    torch.testing.assert_close(first.boxes.tensor, flipped, atol=1e-3, rtol=0)
    torch.testing.assert_close(first.scores, second.scores)
    assert (first.masks.bitmaps() ^ second.masks.bitmaps().flip(-1)).float().mean() < 1e-3
    (alone,) = (prediction.instances for prediction in model([image()]))
    assert not torch.equal(alone.masks.bitmaps(), first.masks.bitmaps())


def test_keypoints_come_back_with_left_and_right_exchanged(model):
    head = Corners({}, 3)
    roi_heads, mask_head = model.roi_heads, model.roi_heads.mask_head
    roi_heads.mask_head, roi_heads.keypoint_head = None, head
    try:
        (found,) = seen(model, Views(short_edge=(32, 64, 96)), image())
    finally:
        roi_heads.mask_head, roi_heads.keypoint_head = mask_head, None
    x1, y1, x2, _ = found.boxes.tensor.unbind(1)
    points = found.keypoints.tensor
    torch.testing.assert_close(points[:, 0, :2], torch.stack([x1, y1], 1), atol=1e-3, rtol=0)
    torch.testing.assert_close(points[:, 1, :2], torch.stack([x2, y1], 1), atol=1e-3, rtol=0)
    assert (points[..., 2] == (48 + 96 + 144) / 3).all(), "the mean over the views"
    assert (found.keypoints.flip_pairs, found.keypoints.skeleton) == (PAIRS, LINES)


@pytest.mark.parametrize("config", ["retinanet_shapes", "fcos_shapes", "cascade_mask_rcnn_shapes"])
def test_other_detectors_have_views_too(config):
    torch.manual_seed(0)
    model = load_experiment(f"quick_start/{config}").build_model(3).eval()
    for part in model.modules():
        if hasattr(part, "score_thresh"):
            part.score_thresh = 0.0
    views = Views(short_edge=(64, 96), max_size=200)
    first, second = seen(model, views, image(), mirrored(image()))
    torch.testing.assert_close(first.scores, second.scores)
    (alone,) = seen(model, Views(flip=False), image())
    (whole,) = (prediction.instances for prediction in model([image()]))
    assert {*alone.scores.tolist()} <= {*whole.scores.tolist()}, "boxes overlap more where the image has cut them"
    assert len(alone) > 0.5 * len(whole) > 0


@pytest.fixture(scope="module")
def panoptic():
    torch.manual_seed(0)
    options = ["data.train_dataset.num_images=2", "data.test_dataset.num_images=2", "data.num_workers=0"]
    experiment = load_experiment("quick_start/panoptic_fpn_shapes", [*options, "data.test_views.flip=true"])
    model = experiment.build_model().eval()
    model.roi_heads.box_head.detection = dataclasses.replace(model.roi_heads.box_head.detection, score_thresh=0.0)
    model.merge = PanopticMerge(0.0, 0.5, 1)
    return experiment, model


def test_one_view_has_the_models_own_maps(panoptic):
    _, model = panoptic
    (whole,), (one,) = model([image()]), ViewsModel(model, Views(flip=False))([image()])
    assert len(one.panoptic.segments) > 2
    assert torch.equal(one.semantic, whole.semantic)
    assert torch.equal(one.panoptic.ids, whole.panoptic.ids)


@pytest.mark.parametrize("has_objects", [True, False])
def test_maps_of_the_mirror_image_are_mirrored(panoptic, has_objects):
    _, full = panoptic
    parts = {"backbone": full.backbone, "neck": full.neck, "semantic_head": full.semantic_head}
    recipes = {name: partial(lambda part, *_: part, part) for name, part in parts.items()}
    preprocess = partial(lambda part: part, full.preprocess)
    alone = SemanticSegmentor(3, preprocess=preprocess, **recipes, semantic_names=full.semantic_names).eval()
    model, views = full if has_objects else alone, Views(short_edge=(64, 96))
    first, second = ViewsModel(model, views)([image(), mirrored(image())])
    assert first.semantic.unique().numel() > 1
    assert (first.semantic != second.semantic.flip(-1)).float().mean() < 1e-2
    assert (first.panoptic is None) == (first.instances is None) == (not has_objects)
    means = [logits for side in (64, 96) for logits in model.semantic_maps([resized(image(), side)])]
    (unmirrored,) = ViewsModel(model, Views(short_edge=(64, 96), flip=False, batch_size=1))([image()])
    assert torch.equal(unmirrored.semantic, torch.stack(means).mean(0).argmax(0))


def test_a_panoptic_model_is_evaluated_in_views_and_in_tiles(panoptic):
    experiment, model = panoptic
    evaluators = [each for each in experiment.build_evaluators() if isinstance(each, PanopticEvaluator)]
    found = evaluate(experiment.data.as_tested(model), experiment.data.test(whole=True), evaluators)
    assert 0 <= found["panoptic"]["PQ"] <= 1
    (tiled,) = TiledModel(ViewsModel(model, Views()), 64)([image()])
    assert tiled.panoptic.ids.shape == (64, 96)


@pytest.mark.parametrize("mirror", [False, True])
def test_there_and_back_again(mirror):
    boxes = torch.tensor([[3.0, 4, 50, 40], [0, 0, 96, 64]])
    frame = Instances((128, 160), info=ImageInfo(valid_region=(10, 20, 106, 84)), boxes=Boxes(boxes[:0]))
    place = _Place.of(frame, (64, 96), mirror)
    there = place.there(Instances((64, 96), boxes=Boxes(boxes), scores=torch.ones(2), classes=torch.ones(2).long()))
    assert there.image_size == (128, 160)
    first = [53, 24, 60 + 40, 60] if mirror else [13, 24, 60, 60]
    assert there.boxes.tolist()[0] == pytest.approx([10 + 96 - 50, 24, 10 + 96 - 3, 60] if mirror else first)
    torch.testing.assert_close(place.back(there).boxes.tensor, boxes)


def test_sizes_stand_in_the_place_of_the_test_augmentations(model):
    sizes, detections = [], model.detections
    model.detections = lambda samples: sizes.extend(tuple(s.image.shape[1:]) for s in samples) or detections(samples)
    try:
        own = [ResizeShortestEdge(short_edge=(48,))]
        seen(model, Views(short_edge=(32, 96), max_size=120), image(), augmentations=own)
        seen(model, Views(), image(), augmentations=own)
        seen(model, Views(flip=False), image(), augmentations=[ResizeAndPad(mode="square", min_size=64, max_size=128)])
    finally:
        del model.detections
    assert sizes == [(32, 48), (32, 48), (80, 120), (80, 120), (48, 72), (48, 72), (128, 128)]


def test_no_objects_and_images_of_several_sizes(model):
    none = small_model(score_thresh=1.0).eval()
    first, second = seen(none, Views(), image(), image(40, 50, seed=1))
    assert (len(first), len(second)) == (0, 0)
    assert second.masks.bitmaps().shape == (0, 40, 50)
    found = seen(model, Views(), image(), image(40, 50, seed=1))
    assert [one.image_size for one in found] == [(64, 96), (40, 50)]
    assert torch.equal(found[1].scores, seen(model, Views(), image(40, 50, seed=1))[0].scores)


def test_what_cannot_be_seen_in_views_is_refused(model):
    with pytest.raises(ConfigError, match=r"data\.test_views: Linear cannot merge .* data\.test_views=null"):
        ViewsModel(torch.nn.Linear(1, 1), Views())
    with pytest.raises(ValueError, match="give the augmentations to ViewsModel"):
        seen(model, Views(), Sample(image().image, (128, 192)))


def test_an_evaluation_amid_a_training_leaves_the_model_in_training_mode():
    options = [f"data.{name}_dataset.num_images=2" for name in ("train", "test")]
    experiment = load_experiment("quick_start/mask_rcnn_shapes", [*options, "data.test_views.flip=true"])
    model = experiment.build_model().train()
    experiment.data.num_workers = 0
    batches = experiment.data.test(whole=True)
    assert all(sample.image.shape[1:] == sample.original_size for batch in batches for sample in batch)
    evaluate(experiment.data.as_tested(model), batches, experiment.build_evaluators())
    assert all(part.training for part in model.modules())


def test_from_config_predictor_and_command_line(model):
    changes = ["data.test_views.short_edge=[64, 128]", "data.test_tiles.size=64"]
    data = load_experiment("quick_start/mask_rcnn_shapes", changes).data
    assert data.test_views == Views(short_edge=(64, 128))
    wrapped = data.as_tested(model)
    assert isinstance(wrapped, TiledModel)
    assert isinstance(wrapped.model, ViewsModel)
    (prediction,) = wrapped([image()])
    assert prediction.instances.image_size == (64, 96)
    predictor = Predictor(model, views=Views(), device="cpu")
    pixels = image().image.permute(1, 2, 0).numpy()
    assert torch.equal(predictor(pixels).instances.scores, seen(model, Views(), image())[0].scores)
    for arguments, key in ((predict_arguments, "set"), (evaluate_arguments, "overrides")):
        rest = ["a.png", "--run", "run", "--output", "out"] if arguments is predict_arguments else ["run"]
        assert getattr(arguments([*rest, "--tta", "64,128"]), key) == ["data.test_views.short_edge=[64, 128]"]
        assert getattr(arguments([*rest, "--tta", "flip"]), key) == ["data.test_views.flip=true"]
        with pytest.raises(SystemExit):
            arguments([*rest, "--tta", "big"])
