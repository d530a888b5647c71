"""What keypoints are: mirrored pairs, sigmas, and their form in COCO's files."""

import pytest

from detkit.structures import KeypointSpec
from detkit.structures.keypoint_spec import COCO_PERSON, USUAL_SIGMA

SPEC = KeypointSpec(("nose", "left_eye", "right_eye"), ((0, 1), (0, 2)))


def test_own_pairs_and_sigmas_take_the_place_of_the_usual_ones():
    assert (SPEC.flip_pairs, SPEC.oks_sigmas) == (((1, 2),), (USUAL_SIGMA,) * 3)
    own = KeypointSpec(SPEC.names, sigmas=(0.1, 0.2, 0.3), mirrored=((0, 2),))
    assert (own.flip_pairs, own.oks_sigmas) == (((0, 2),), (0.1, 0.2, 0.3))
    assert KeypointSpec(SPEC.names, mirrored=()).flip_pairs == ()
    assert KeypointSpec(COCO_PERSON.names).oks_sigmas == COCO_PERSON.sigmas
    assert sum(COCO_PERSON.sigmas) / 17 == pytest.approx(USUAL_SIGMA, abs=1e-3)


@pytest.mark.parametrize(
    "spec",
    [SPEC, COCO_PERSON, KeypointSpec(("a", "b"), mirrored=()), KeypointSpec(("a", "b"), (), (0.1, 0.2), ((0, 1),))],
)
def test_the_form_of_cocos_files_reads_back(spec):
    assert KeypointSpec.from_coco(spec.coco()) == spec


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sigmas": [0.1]}, "1 sigmas are given for 3 keypoints"),
        ({"sigmas": [0.1, 0, 0.1]}, "sigmas is .*above 0"),
        ({"flip_pairs": [[0, 1]]}, "flip_pairs is .*the first of which is 1"),
        ({"keypoints": ["a", "\ud800", "b"]}, "keypoints is"),
    ],
)
def test_what_is_none_of_it_is_said(change, words):
    with pytest.raises(ValueError, match=words):
        KeypointSpec.from_coco({**SPEC.coco(), **change})


def test_a_pair_of_a_keypoint_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="names 3; 0 to 2 are there"):
        KeypointSpec(SPEC.names, ((0, 3),))
