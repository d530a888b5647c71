import copy
import dataclasses
import pickle

import numpy as np
import pytest
import torch

from detkit.structures import (
    BitMasks,
    Boxes,
    CroppedMasks,
    ImageInfo,
    ImageList,
    Instances,
    Keypoints,
    Losses,
    PolygonMasks,
    Sample,
)

SQUARE = [np.array([1.0, 1, 6, 1, 6, 6, 1, 6])]


def make(n=4, **more):
    boxes = Boxes(torch.arange(4.0 * n).reshape(n, 4))
    return Instances((10, 20), boxes=boxes, classes=torch.arange(n), masks=PolygonMasks([SQUARE] * n, (10, 20)), **more)


def test_boxes_are_float_rows_of_four():
    assert Boxes([]).shape == (0, 4)
    assert Boxes(torch.zeros(2, 4, dtype=torch.int64)).dtype == torch.float32
    with pytest.raises(ValueError, match=r"\(N, 4\)"):
        Boxes(torch.zeros(4))


def test_boxes_stay_boxes_only_by_rows():
    boxes = Boxes([[0, 0, 2, 2], [1, 1, 4, 5]])
    assert type(boxes[0]) is torch.Tensor
    assert boxes[1].tolist() == [1, 1, 4, 5]
    assert isinstance(boxes[torch.tensor([False, True])], Boxes)
    assert type(boxes[:, 0]) is torch.Tensor
    assert type(boxes + 1) is torch.Tensor


def test_boxes_area_clip_nonempty():
    boxes = Boxes([[-5, 0, 5, 10], [30, 2, 40, 4]])
    assert boxes.area().tolist() == [100, 20]
    clipped = boxes.clip((8, 20))
    assert clipped.tolist() == [[0, 0, 5, 8], [20, 2, 20, 4]]
    assert clipped.nonempty().tolist() == [True, False]
    assert torch.equal(Boxes.cat([boxes[:1], boxes[1:]]).tensor, boxes.tensor)
    assert Boxes.cat([]).shape == (0, 4)


@pytest.mark.parametrize(
    ("item", "rows"),
    [
        (2, [2]),
        (-1, [3]),
        (slice(1, 3), [1, 2]),
        (torch.tensor([3, 0, 0]), [3, 0, 0]),
        (torch.tensor([True, False, False, True]), [0, 3]),
        (torch.zeros(0, dtype=torch.long), []),
    ],
)
def test_instances_index_all_fields_alike(item, rows):
    out = make()[item]
    assert out.image_size == (10, 20)
    assert out.classes.tolist() == rows
    assert isinstance(out.boxes, Boxes)
    assert isinstance(out.masks, PolygonMasks)
    assert out.boxes[:, 0].tolist() == [4.0 * row for row in rows]
    assert len(out) == len(out.masks) == len(rows)


@pytest.mark.parametrize("item", [np.int64(1), torch.tensor(1), torch.tensor([0.1, 0.9, 0.3]).argmax(), np.array(1)])
def test_a_number_of_numpys_or_a_tensor_of_one_indexes_as_an_int_does(item):
    polygons = PolygonMasks([[[0, 0, n, 0, n, n]] for n in (1, 2, 3)], (8, 8))
    fields = {
        "boxes": Boxes(torch.arange(12).view(3, 4)),
        "classes": torch.arange(3),
        "masks": CroppedMasks.around(polygons),
        "mini": CroppedMasks.mini(polygons, 4),
        "polygons": polygons,
        "keypoints": Keypoints(torch.rand(3, 2, 3)),
    }
    one = Instances((8, 8), **fields)[item]
    assert len(one) == 1
    assert one.classes.tolist() == [1]
    assert one.boxes.tolist() == [[4, 5, 6, 7]]
    for name, field in fields.items():
        assert torch.equal(torch.as_tensor(np.asarray(field[item])), torch.as_tensor(np.asarray(field[1]))), name


def test_instances_index_out_of_range():
    with pytest.raises(IndexError, match="index 4 of 4"):
        make()[4]


def test_instances_cat_inverts_slicing():
    whole = make(masks2=BitMasks(torch.rand(4, 10, 20) < 0.5))
    again = Instances.cat([whole[:1], whole[1:1], whole[1:]])
    assert torch.equal(again.boxes.tensor, whole.boxes.tensor)
    assert torch.equal(again.masks2.tensor, whole.masks2.tensor)
    assert isinstance(again.masks, PolygonMasks)
    assert len(again) == 4


def test_instances_refuse_what_does_not_fit():
    with pytest.raises(ValueError, match="different lengths"):
        Instances((5, 5), boxes=Boxes([[0, 0, 1, 1]]), classes=torch.zeros(2))
    with pytest.raises(ValueError, match="differ"):
        Instances.cat([make(), make().without("masks")])
    with pytest.raises(ValueError, match="nothing"):
        Instances.cat([])
    with pytest.raises(TypeError, match=r"the field 'notes' cannot be joined: give list a static cat\(parts\)"):
        Instances.cat([make().with_fields(notes=list("abcd"))] * 2)
    with pytest.raises(AttributeError, match="no field 'scores'; it has boxes, classes, masks"):
        _ = make().scores


def test_instances_are_not_edited():
    first = make()
    second = first.with_fields(classes=first.classes + 1, scores=torch.ones(4))
    assert first.classes.tolist() == [0, 1, 2, 3]
    assert second.classes.tolist() == [1, 2, 3, 4]
    assert "scores" in second
    assert "scores" not in first
    assert "scores" not in second.without("scores")


def test_instances_copy_and_pickle():
    whole = make(bits=BitMasks(torch.rand(4, 10, 20) < 0.5))
    for again in (copy.deepcopy(whole), pickle.loads(pickle.dumps(whole))):
        assert type(again.boxes) is Boxes
        assert type(again.bits) is BitMasks
        assert torch.equal(again.boxes.tensor, make().boxes.tensor)


def test_instances_move_whole():
    moved = make().to("meta")
    assert isinstance(moved.boxes, Boxes)
    assert moved.classes.device.type == "meta"
    assert isinstance(moved.masks, PolygonMasks)


def test_sample_moves_with_its_target():
    sample = Sample(torch.zeros(3, 4, 4, dtype=torch.uint8), (4, 4), 7, "a.png", make())
    moved = sample.to("meta")
    assert moved.image.device.type == "meta"
    assert moved.target.classes.device.type == "meta"
    assert (moved.image_id, moved.file_name, moved.original_size) == (7, "a.png", (4, 4))
    assert Sample(sample.image, (4, 4)).to("cpu").target is None


def test_losses_add_up_and_do_not_share_names():
    a, b = Losses({"x": torch.tensor(1.0)}, {"m": torch.tensor(5.0)}), Losses({"y": torch.tensor(2.0)})
    assert (a | b).total() == 3
    assert (a | b).metrics.keys() == {"m"}
    with pytest.raises(ValueError, match="'x'"):
        a | a


def test_what_is_known_of_an_image_travels_with_its_instances():
    info = ImageInfo((2, 1, 18, 9), torch.tensor([True, False]))
    instances = Instances((10, 20), info=info, boxes=Boxes([[0, 0, 1, 1], [2, 2, 5, 5]]), classes=torch.arange(2))
    made = [
        instances[0],
        instances[torch.tensor([False, True])],
        instances.with_fields(scores=torch.ones(2)),
        instances.without("classes"),
        instances.to("cpu"),
        Instances.cat([instances[:1], instances[1:]]),
        copy.deepcopy(instances),
        pickle.loads(pickle.dumps(instances)),
    ]
    for other in made:
        assert other.valid_region == (2, 1, 18, 9)
        assert other.info.active_classes.tolist() == [True, False]
    assert make().valid_region == (0, 0, 20, 10)
    assert make().info.active_classes is None
    assert "info" not in instances.fields


def test_samples_and_batches_know_their_valid_regions():
    sample = Sample(torch.zeros(3, 4, 4, dtype=torch.uint8), (4, 4), valid_region=(0, 1, 4, 3))
    sample = dataclasses.replace(sample, active_classes=torch.ones(3))
    moved = sample.to("cpu")
    assert moved.valid_region == moved.info.valid_region == (0, 1, 4, 3)
    assert torch.equal(moved.info.active_classes, torch.ones(3))
    images = ImageList(torch.zeros(2, 3, 32, 64), [(30, 40), (32, 64)], [sample.info, ImageInfo()])
    assert images.padded_size == (32, 64)
    assert images.valid_region(0) == (0, 1, 4, 3)
    assert images.valid_region(1) == (0, 0, 64, 32)
    assert ImageList(images.tensor, images.image_sizes).valid_region(0) == (0, 0, 40, 30)


def test_boxes_clip_to_a_region():
    boxes = Boxes([[0, 0, 10, 10], [6, 5, 7, 30], [20, 0, 30, 3]])
    assert boxes.clip_to((2, 3, 8, 9)).tolist() == [[2, 3, 8, 9], [6, 5, 7, 9], [8, 3, 8, 3]]
    assert torch.equal(boxes.clip_to((0, 0, 8, 9)).tensor, boxes.clip((9, 8)).tensor)
    assert boxes[:0].clip_to((2, 3, 8, 9)).shape == (0, 4)
