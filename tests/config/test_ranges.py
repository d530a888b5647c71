"""Ranges are part of an option's schema: a number outside is refused before anything is built."""

import math
from typing import Annotated

import pytest

from detkit.config import ConfigError, Interval, parse, usage
from detkit.experiment import load_experiment

QUICK_START = "configs/quick_start/mask_rcnn_shapes.yaml"


class Machine:
    def __init__(
        self,
        *,
        share: Annotated[float, Interval(0, 1, above=True)] = 0.5,
        sizes: tuple[Annotated[int, Interval(1)], ...] = (1,),
        limit: Annotated[float, Interval(0)] | None = None,
    ):
        self.share, self.sizes, self.limit = share, sizes, limit


@pytest.mark.parametrize("node", [{"share": 1}, {"share": 1e-9}, {"sizes": [1, 7]}, {"limit": None}, {"limit": 1e300}])
def test_numbers_in_range_pass(node):
    machine = parse(node, Machine)()
    assert all(getattr(machine, name) in (value, tuple(value or ()) if isinstance(value, list) else value)
               for name, value in node.items())  # fmt: skip


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"share": 0}, r"m.share: expected float \(> 0 and <= 1\), got 0"),
        ({"share": 50}, r"m.share: expected float \(> 0 and <= 1\), got 50.0; 50 percent is 0.5"),
        ({"share": math.nan}, r"m.share: expected float \(> 0 and <= 1\), got nan"),
        ({"sizes": [3, 0]}, r"m.sizes\[1\]: expected int \(>= 1\), got 0"),
        ({"limit": -1}, r"m.limit: expected float \(>= 0\) \| null, got -1"),
    ],
)
def test_numbers_out_of_range_are_refused_with_the_range(node, message):
    with pytest.raises(ConfigError, match=message):
        parse(node, Machine, "m")


def test_ranges_are_shown_with_the_options():
    assert "share: float (> 0 and <= 1) = 0.5" in usage(Machine)


@pytest.mark.parametrize(
    "option",
    [
        "model.roi_heads.box_head.detection.nms_thresh=50",
        "model.roi_heads.box_head.detection.max_detections=0",
        "model.roi_heads.mask_head.conv_dim=0",
        "model.proposal_generator.anchor_generator.sizes=[[-8]]",
        "model.preprocess.pixel_std=[0,1,1]",
        "model.neck.out_channels=-1",
        "data.batch_size=0",
        "data.num_workers=-1",
        "train.seed=18446744073709551616",
        "train.hooks=[{name: StepTimer, period: 0}]",
        "train.hooks=[{name: TorchProfiler, start: -1}]",
        "train.hooks=[{name: TorchProfiler, steps: 0}]",
        "train.hooks=[{name: ExponentialMovingAverage, decay: -0.1}]",
        "train.hooks=[{name: ExponentialMovingAverage, period: 0}]",
        "train.hooks=[{name: FreezeSchedule, stages: [{until: 0}, {until: 1}]}]",
        "train.hooks=[{name: FreezeSchedule, stages: [{until: 1.5}]}]",
        "train.hooks=[{name: PreciseBN, num_batches: 0}]",
        "train.hooks=[{name: ValidationLoss, period: 0}]",
        "train.hooks=[{name: EarlyStopping, metric: a, patience: 0}]",
        "train.hooks=[{name: EarlyStopping, metric: a, patience: 1, min_delta: -1}]",
        "train.hooks=[{name: EarlyStopping, metric: a, patience: 1, min_delta: .nan}]",
        "train.parallel={name: FSDP, unit_parameters: 0}",
        "train.parallel={name: DDP, bucket_mb: 0}",
    ],
)
def test_options_of_a_run_have_ranges(option):
    with pytest.raises(ConfigError, match=option.partition("=")[0].replace(".", r"\.")):
        load_experiment(QUICK_START, [option])
