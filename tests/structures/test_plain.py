"""Samples as plain data: through a file that holds no code, and back, bit for bit."""

import io

import numpy as np
import pytest
import torch

from detkit.structures import (
    BitMasks,
    Boxes,
    CroppedMasks,
    ImageInfo,
    Instances,
    Keypoints,
    PolygonMasks,
    Sample,
    from_plain,
    plain_form,
    to_plain,
)


def through_a_file(value):
    buffer = io.BytesIO()
    torch.save(to_plain(value), buffer)
    buffer.seek(0)
    return from_plain(torch.load(buffer, weights_only=True))


def bits(tensor):
    return tensor.contiguous().view(torch.uint8).tolist()


POLYGONS = [
    [np.array([1.1, 1, 9, 1, 9, 9]), np.array([2.0, 2, 3, 2, 3, 1 / 3])],
    [],
    [np.array([0.0, 0, 5, 0, np.nan, 7])],
]
BITMAPS = BitMasks(torch.rand(3, 12, 10, generator=torch.Generator().manual_seed(1)) > 0.5)
PASTED = CroppedMasks.of([BITMAPS[0][:5, :4]] * 3, [(1, 2, 5, 7)] * 3, (12, 10), torch.device("cpu"))


class Angle:
    """A user's own field."""

    def __init__(self, degrees):
        self.degrees = degrees

    def __len__(self):
        return len(self.degrees)


def test_keypoints_and_declared_fields_come_back_and_others_are_refused_by_their_type():
    keypoints = Keypoints(torch.arange(18.0).reshape(2, 3, 3), [(1, 2)])
    target = Instances((12, 10), keypoints=keypoints, angle=Angle(torch.tensor([3.0, float("inf")])))
    with pytest.raises(TypeError, match="Angle is no plain data; declare what it consists of"):
        to_plain(target)
    plain_form(Angle, ("degrees",))
    back = through_a_file(target)
    assert bits(back.keypoints.tensor) == bits(keypoints.tensor)
    assert back.keypoints.flip_pairs == keypoints.flip_pairs
    assert back.angle.degrees.tolist() == [3, float("inf")]


@pytest.mark.parametrize(
    "masks",
    [
        PolygonMasks(POLYGONS, (12, 10)),
        PolygonMasks([], (12, 10)),
        BITMAPS,
        BITMAPS[:0],
        CroppedMasks.mini(BITMAPS, 5),
        PASTED,
    ],
)
def test_a_sample_comes_back_bit_for_bit(masks):
    num = len(masks)
    boxes = torch.tensor([[1.0, 2, 3, 4], [float("nan"), -0.0, float("inf"), 1 / 3], [0, 0, 1, 1]])[:num]
    info = ImageInfo((0, 0, 9, 11), torch.tensor([True, False]), Boxes([[1.0, 1, 2, 2]]), num_cut=3)
    fields = {"boxes": Boxes(boxes), "classes": torch.arange(num), "annotation_ids": torch.arange(num) + 2**40}
    whole = torch.arange(2 * 360, dtype=torch.int32).to(torch.uint8).reshape(2, 3, 12, 10)
    target = Instances((12, 10), info=info, masks=masks, **fields)
    maps = {"depth": torch.tensor([[float("nan"), -0.0]])}
    sample = Sample(whole[1], (24, 20), np.int64(7), "a.png", target, maps, (0, 0, 9, 11))
    back = through_a_file(sample)
    assert bits(back.maps["depth"]) == bits(maps["depth"])
    assert (back.original_size, back.image_id, back.file_name, back.valid_region) == (
        (24, 20),
        7,
        "a.png",
        (0, 0, 9, 11),
    )
    assert torch.equal(back.image, sample.image)
    assert back.image.untyped_storage().nbytes() == 360, "a view does not bring what it is a view of"
    assert back.active_classes is None
    assert back.target.image_size == (12, 10)
    for name, value in fields.items():
        assert type(back.target.fields[name]) is type(value)
        assert bits(torch.as_tensor(back.target.fields[name])) == bits(torch.as_tensor(value))
    assert back.target.info.valid_region == info.valid_region
    assert torch.equal(back.target.info.active_classes, info.active_classes)
    assert type(back.target.info.crowds) is Boxes
    assert back.target.info.num_cut == 3
    assert type(back.target.masks) is type(masks)
    assert back.target.masks.image_size == masks.image_size
    if isinstance(masks, PolygonMasks):
        assert [len(p) for p in back.target.masks.polygons] == [len(p) for p in masks.polygons]
        for ours, theirs in zip(back.target.masks.polygons, masks.polygons):
            assert all(np.array_equal(a, b, equal_nan=True) and a.dtype == np.float64 for a, b in zip(ours, theirs))
    else:
        assert torch.equal(back.target.masks.bitmaps().tensor, masks.bitmaps().tensor)
    if isinstance(masks, CroppedMasks):
        assert torch.equal(back.target.masks.regions, masks.regions)


def test_what_is_no_plain_data_is_refused_by_its_type():
    with pytest.raises(TypeError, match="Generator is no plain data"):
        to_plain(Instances((2, 2), strange=[torch.Generator()]))
    with pytest.raises(ValueError, match="'Later'"):
        from_plain({"kind": "Later"})
