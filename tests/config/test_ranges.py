"""Ranges are part of an option's schema: a number outside is refused before anything is built."""

import contextlib
import math
import re
from typing import Annotated, Literal, get_args, get_origin

import pytest

from detkit.config import ConfigError, Interval, parse, usage
from detkit.config.schema import is_nested, leaves, schema, words
from detkit.experiment import Experiment, load_experiment
from detkit.registry import Registry, role_of

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
        "model.preprocess.size_divisibility=1000000000",
        "model.backbone.norm={name: BN, eps: 0}",
        "model.backbone.norm={name: GN, eps: 0}",
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
        "train.picture_keep=1",
        "train.output_dir=''",
        "train.log_period=0",
        "train.checkpoint_period=1e30",
        "solver.epochs=.inf",
        "solver.clip_grad_norm=0",
        "solver.optimizer.lr=.nan",
        "solver.optimizer.betas=[0.9, 1]",
        "solver.schedule={name: WarmupMultiStepLR, milestones: [2]}",
        "solver.schedule={name: WarmupMultiStepLR, milestones: [0.5, 0.4]}",
        "data.train_augmentations=[{name: RandomCrop, size: [0, 1]}]",
        "data.train_augmentations=[{name: RandomCrop, size: [0.5, 3], kind: relative}]",
        "data.train_augmentations=[{name: FixedSizeCrop, pad_value: 256}]",
        "data.train_augmentations=[{name: ResizeScale, min_scale: 2, max_scale: 1}]",
        "data.train_augmentations=[{name: Mosaic, centre: [0.7, 0.3]}]",
        "data.train_augmentations=[{name: ColorJitter, hue: 0.6}]",
        "data.train_augmentations=[{name: TorchvisionV2, transform: GaussianBlur, options: {kernel_size: 2}}]",
        "data.train_dataset.min_scale=0.9",
        "data.train_dataset.image_size=[8,64]",
        "model.proposal_generator.anchor_generator.aspect_ratios=[]",
        "model.proposal_generator.anchor_generator.sizes=[[]]",
        "model.proposal_generator.head={name: ConvRPNHead, conv_dims: [0]}",
        "model.roi_heads.box_head.box_coder={name: DeltaBoxCoder, weights: [1, 1, 0, 1]}",
        "model.preprocess.pixel_mean=[.nan, 0, 0]",
        "model.backbone.freeze_at=6",
    ],
)
def test_options_of_a_run_have_ranges(option):
    with pytest.raises(ConfigError, match="^" + re.escape(option.partition("=")[0])):
        load_experiment(QUICK_START, [option])


def every_class():
    """All registered classes of the project, and the nested options in their signatures."""
    classes = [
        Experiment,
        *(cls for registry in Registry.of.values() for _, cls in registry if cls.__module__[:6] == "detkit"),
    ]
    for cls in classes:
        wants = [leaf for option in schema(cls).options.values() for leaf in leaves(option.want)]
        classes += [want for want in wants if is_nested(want) and want not in classes]
    return classes


def bare(want, ranged=False):
    """The numbers in an annotation for which it gives no range."""
    if get_origin(want) is Annotated:
        ranges = [extra for extra in want.__metadata__ if isinstance(extra, Interval)]
        return bare(get_args(want)[0], bool(ranges))
    if want in (int, float):
        return [] if ranged else [want]
    return [] if get_origin(want) is Literal else [number for arg in get_args(want) for number in bare(arg)]


@pytest.mark.parametrize("cls", every_class(), ids=lambda cls: cls.__name__)
def test_every_number_of_every_class_has_a_range_and_every_path_is_one(cls):
    for name, option in schema(cls).options.items():
        assert not bare(option.want), f"{cls.__name__}.{name} has a number without range"
        if name.endswith(("file", "root", "path", "_dir", "weights", "folder")) and str in leaves(option.want):
            assert "(path)" in words(option.want), f"{cls.__name__}.{name} is a path"


@pytest.mark.parametrize("value", [-1e30, -(10**30), 10**30, 1e300, math.nan, math.inf, -math.inf, 2**63, -1, 0])
def test_no_number_makes_another_error_than_the_projects(value):
    for cls in every_class()[1:]:
        for name, option in schema(cls).options.items():
            if {int, float} & {*leaves(option.want)}:
                tries = [value, [value], [value, value], [[value]]]
                node = {} if is_nested(cls) else {"name": cls.__name__}
                for given in tries:
                    with contextlib.suppress(ConfigError):
                        parse({**node, name: given}, role_of(cls).base if role_of(cls) else cls)


def test_the_home_folder_is_meant_by_a_tilde_in_every_path(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    for path in ("train.output_dir", "train.init_weights"):
        exp = load_experiment(QUICK_START, [f"{path}=~/x"])
        assert getattr(exp.train, path.partition(".")[2]) == f"{tmp_path}/x"
        for value, words_ in (
            ("~no_such_user/x", "no user"),
            ("$HOME/x", r"write \$\{oc.env:HOME\}"),
            ("y" * 300, "no file"),
            ("' '", "it is empty"),
            ('"C:\\runs"', "a backslash needs single quotes"),
            ("|\n a\n", r"'\\n' is in no file's name"),
        ):
            with pytest.raises(ConfigError, match=f"^{path}: .*{words_}"):
                load_experiment(QUICK_START, [f"{path}={value}"])
    address = "https://host/~user/x"
    assert load_experiment(QUICK_START, [f"train.init_weights={address}"]).train.init_weights == address
