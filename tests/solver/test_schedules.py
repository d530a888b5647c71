"""Schedules against Detectron2's numbers and against their own definition."""

import math

import pytest

from detkit.solver import WarmupCosineLR, WarmupMultiStepLR


@pytest.mark.parametrize(
    ("step", "factor"),
    [
        (0, 0.001),
        (1, 0.001 + 0.999 / 1000),
        (500, 0.5005),
        (999, 0.001 + 0.999 * 0.999),
        (1000, 1.0),
        (59_999, 1.0),
        (60_000, 0.1),
        (79_999, 0.1),
        (80_000, 0.01),
        (89_999, 0.01),
    ],
)
@pytest.mark.parametrize("milestones", [(2 / 3, 8 / 9), (0.66667, 0.88889), (0.666667, 0.888889)])
def test_multi_step_is_the_1x_schedule(step, factor, milestones):
    assert WarmupMultiStepLR(milestones=milestones)(step, 90_000) == pytest.approx(factor, rel=1e-12)


def test_multi_step_is_the_3x_schedule():
    schedule = WarmupMultiStepLR(milestones=(210_000 / 270_000, 250_000 / 270_000))
    values = [schedule(s, 270_000) for s in (209_999, 210_000, 249_999, 250_000, 269_999)]
    assert values == pytest.approx([1, 0.1, 0.1, 0.01, 0.01])


def test_multi_step_is_the_reference_implementations_schedule():
    """One rate for the heads and for 4+, a tenth of it where all layers learn: the last quarter of 160 epochs."""
    schedule = WarmupMultiStepLR(milestones=(0.75,), gamma=0.1, warmup_iters=0)
    assert [schedule(s, 160_000) for s in (0, 39_999, 40_000, 119_999)] == [1.0] * 4
    assert [schedule(s, 160_000) for s in (120_000, 159_999)] == pytest.approx([0.1, 0.1])


def test_cosine_follows_the_definition():
    schedule = WarmupCosineLR(warmup_iters=100, warmup_factor=0.01, final_factor=0.2)

    def cosine(step):
        return 0.2 + 0.8 * 0.5 * (1 + math.cos(math.pi * step / 1000))

    assert schedule(0, 1000) == pytest.approx(0.01)
    assert schedule(50, 1000) == pytest.approx((0.01 + cosine(100)) / 2)
    for step in (100, 101, 500, 999):
        assert schedule(step, 1000) == pytest.approx(cosine(step))


@pytest.mark.parametrize("cls", [WarmupMultiStepLR, WarmupCosineLR])
@pytest.mark.parametrize("max_iter", [1, 3, 7, 50, 1500])
def test_a_run_shorter_than_its_warm_up_still_warms_up(cls, max_iter):
    factors = [cls(warmup_iters=1000)(step, max_iter) for step in range(max_iter)]
    assert all(0 < f <= 1 for f in factors)
    half = max_iter // 2
    assert factors[: half + 1] == sorted(factors[: half + 1])
    assert factors[half:] == sorted(factors[half:], reverse=True)
    assert factors[half] == pytest.approx(
        1.0 if cls is WarmupMultiStepLR else 0.5 + 0.5 * math.cos(math.pi * half / max_iter)
    )


def test_no_warm_up():
    assert WarmupMultiStepLR(warmup_iters=0)(0, 10) == 1.0


@pytest.mark.parametrize(
    ("cls", "options", "words"),
    [
        (WarmupMultiStepLR, {"milestones": (60_000.0, 80_000.0)}, "fractions of the run"),
        (WarmupMultiStepLR, {"milestones": (0.9, 0.6)}, "increasing"),
        (WarmupMultiStepLR, {"warmup_iters": -1}, "warmup_iters"),
        (WarmupMultiStepLR, {"warmup_factor": 2.0}, "warmup_factor"),
        (WarmupCosineLR, {"final_factor": -0.1}, "final_factor"),
    ],
)
def test_nonsense_is_refused(cls, options, words):
    with pytest.raises(ValueError, match=words):
        cls(**options)


def test_a_step_outside_the_run_is_refused():
    with pytest.raises(ValueError, match="step 10"):
        WarmupCosineLR()(10, 10)
