"""Learning-rate schedules: the factor on the base rate, as a pure function of the step.

Both warm up linearly, by the same rule: during the first ``w`` steps the factor goes in a straight line from
``warmup_factor`` times the schedule's first value to the value that the schedule has at step ``w``. Here
``w = min(warmup_iters, max_iter // 2)``: a run that is shorter than its warm-up (a smoke test, a few images to
overfit) still spends its second half at the full rate.
"""

import bisect
import itertools

from fvcore.common.param_scheduler import CosineParamScheduler

from detkit.config import CountOrZero, Fraction, Share
from detkit.solver.interfaces import LR_SCHEDULES, LRSchedule


class _WarmupSchedule(LRSchedule):
    """Linear warm-up to whatever ``after_warmup`` says."""

    def __init__(self, warmup_iters: int, warmup_factor: float):
        super().__init__()
        if warmup_iters < 0:
            raise ValueError(f"warmup_iters: expected at least 0 iterations, got {warmup_iters}")
        if not 0 <= warmup_factor <= 1:
            raise ValueError(f"warmup_factor: expected a factor within 0..1, got {warmup_factor}")
        self.warmup_iters, self.warmup_factor = warmup_iters, warmup_factor

    def __call__(self, step: int, max_iter: int) -> float:
        if not 0 <= step < max(max_iter, 1):
            raise ValueError(f"step {step} is outside a run of {max_iter} iterations")
        length = min(self.warmup_iters, max_iter // 2)
        if step >= length:
            return self.after_warmup(step, max_iter)
        start = self.warmup_factor * self.after_warmup(0, max_iter)
        return start + (self.after_warmup(length, max_iter) - start) * step / length

    def after_warmup(self, step: int, max_iter: int) -> float:
        """The schedule as it would be without a warm-up."""
        raise NotImplementedError


@LR_SCHEDULES.register()
class WarmupMultiStepLR(_WarmupSchedule):
    """A constant rate that is multiplied by ``gamma`` at each milestone, after a linear warm-up.

    Milestones are fractions of the run, so that a shortened or lengthened run decays at the same relative points.
    Detectron2's 1x schedule (90k iterations, steps at 60k and 80k) is ``(2/3, 8/9)``, its 3x schedule (270k, 210k
    and 250k) is ``(7/9, 25/27)``. A milestone lies at the iteration nearest to ``fraction * max_iter``; five digits
    after the point are exact up to 100k iterations, six up to a million.

    Args:
        milestones: increasing fractions of ``max_iter``, each within 0..1.
        gamma: the factor at each milestone.
        warmup_iters: length of the warm-up in iterations, at most half of the run.
        warmup_factor: what the rate starts from, as a fraction of the base rate.

    Raises:
        ValueError: a milestone outside 0..1, milestones that do not increase, or a warm-up that makes no sense.
    """

    def __init__(
        self,
        *,
        milestones: tuple[Share, ...] = (0.666667, 0.888889),
        gamma: Fraction = 0.1,
        warmup_iters: CountOrZero = 1000,
        warmup_factor: Fraction = 0.001,
    ):
        super().__init__(warmup_iters, warmup_factor)
        if any(not 0 < m <= 1 for m in milestones):
            raise ValueError(
                f"milestones: expected fractions of the run within 0..1, got {milestones}; iterations are divided by"
                " max_iter, e.g. 60000 of 90000 is 0.666667"
            )
        if any(b <= a for a, b in itertools.pairwise(milestones)):
            raise ValueError(f"milestones: expected increasing fractions, got {milestones}")
        self.milestones, self.gamma = tuple(milestones), gamma

    def after_warmup(self, step: int, max_iter: int) -> float:
        """``gamma`` to the power of the milestones passed."""
        passed = bisect.bisect_right([round(m * max_iter) for m in self.milestones], step)
        return self.gamma**passed


@LR_SCHEDULES.register()
class WarmupCosineLR(_WarmupSchedule):
    """Half a cosine from the base rate down to ``final_factor`` of it, after a linear warm-up.

    The cosine spans the whole run, warm-up included (Loshchilov and Hutter, "SGDR", 2017, without restarts).

    Args:
        warmup_iters: length of the warm-up in iterations, at most half of the run.
        warmup_factor: what the rate starts from, as a fraction of the base rate.
        final_factor: what the rate ends at, as a fraction of the base rate.

    Raises:
        ValueError: a factor outside 0..1 or a negative length.
    """

    def __init__(
        self, *, warmup_iters: CountOrZero = 1000, warmup_factor: Fraction = 0.001, final_factor: Fraction = 0.0
    ):
        super().__init__(warmup_iters, warmup_factor)
        if not 0 <= final_factor <= 1:
            raise ValueError(f"final_factor: expected a factor within 0..1, got {final_factor}")
        self.final_factor = final_factor
        self._cosine = CosineParamScheduler(1.0, final_factor)

    def after_warmup(self, step: int, max_iter: int) -> float:
        """The cosine at ``step / max_iter``."""
        return self._cosine(step / max(max_iter, 1))
