"""The run of an experiment, and the device that it is on."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Annotated, ClassVar

import torch

from detkit.config import ConfigError, Count, CountOrZero, FilePath, Interval, Recipe
from detkit.engine import DDP, FSDP
from detkit.engine.interfaces import Hook, Parallelism
from detkit.engine.step import Precision


@dataclasses.dataclass(kw_only=True)
class TrainConfig:
    """The run: where it writes, what it starts from, how often it reports.

    Args:
        output_dir: the run's folder.
        seed: of everything random.
        deterministic: operations in their deterministic versions, which may be slower; a warning names what has none.
        precision: fp32, or bf16 or fp16 for convolutions and matrix products, in training and in the evaluations
            during it; weights, losses and boxes stay in float32.
        compile: the parts of the model that do not depend on what is in the image go through ``torch.compile``; see
            docs/training.md.
        device: ``auto`` (a CUDA GPU where there is one), ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
        init_weights: a checkpoint to start from, a file, an address or a name such as
            ``torchvision://ResNet50_Weights.IMAGENET1K_V2`` (see docs/checkpoints.md); only what fits is loaded, and
            the report says what did not. ``FILE#model_ema`` takes the weights under that key of the file.
        partial_weights: whether ``init_weights`` may leave most of a part (backbone, neck, heads) as initialised.
        log_period: steps between lines of metrics.
        eval_period: steps between evaluations; null for one at the end.
        checkpoint_period: steps between checkpoints; null for none but the final weights.
        checkpoint_keep: how many checkpoints are kept.
        sharded_checkpoints: checkpoints of FSDP are folders to which each process writes its local shards; the final
            weights are one file in any case.
        num_pictures: test images whose predictions are drawn after each evaluation, the same each time.
        picture_keep: of how many evaluations the pictures are kept: the first, the last and some between them.
        doctor: whether a training begins with a quick look for what is wrong with config and data: errors end it,
            warnings are logged; see docs/troubleshooting.md.
        hooks: further hooks, in order.
        parallel: how several processes train the model together; see docs/distributed.md.
    """

    renamed_options: ClassVar[Mapping[str, str]] = {"checkpoint_in_parts": "sharded_checkpoints"}

    output_dir: FilePath = "output/run"
    seed: Annotated[int, Interval(0, 2**63 - 1)] = 0
    deterministic: bool = False
    precision: Precision = "fp32"
    compile: bool = False
    device: str = "auto"
    init_weights: FilePath | None = None
    partial_weights: bool = False
    log_period: Count = 20
    eval_period: Count | None = None
    checkpoint_period: Count | None = 5000
    checkpoint_keep: Count = 3
    sharded_checkpoints: bool = False
    num_pictures: CountOrZero = 8
    picture_keep: Annotated[int, Interval(2)] = 10
    doctor: bool = True
    hooks: tuple[Recipe[Hook], ...] = ()
    parallel: Recipe[Parallelism] = Recipe(DDP)

    def __post_init__(self) -> None:
        if self.sharded_checkpoints and self.parallel.cls is not FSDP:
            raise ValueError("train.sharded_checkpoints: only with train.parallel={name: FSDP} are weights sharded")
        if self.precision == "fp16" and self.parallel.cls is FSDP:  # each process would check its own shard of them
            raise ValueError("train.precision: fp16 scales gradients, which FSDP shards; take bf16, or DDP")
        if self.compile and self.parallel.cls is FSDP:  # whose hooks gather weights inside of what would be compiled
            raise ValueError("train.compile: not with train.parallel={name: FSDP}; take DDP, or leave it off")


def torch_device(name: str | torch.device) -> torch.device:
    """The device that ``name`` means here; ``auto`` is a CUDA GPU where there is one, else the CPU.

    Of several processes on a machine each gets a GPU of its own, by ``LOCAL_RANK``.

    Raises:
        ConfigError: torch does not have it, there are more processes than GPUs, or one GPU is named for several.
    """
    if name in ("auto", "cuda") and torch.cuda.is_available():
        number, gpus = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count()
        if number >= gpus:
            raise ConfigError(
                f"device: '{name}' is a GPU for each process, and this is process {number + 1} on a machine that has"
                f" {gpus}; start fewer processes, or take train.device=cpu"
            )
        return torch.device(f"cuda:{number}")
    if name == "auto":
        return torch.device("cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError):
        each = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
        there = ["auto", "cpu", *each, *(["mps"] if torch.backends.mps.is_available() else ())]
        raise ConfigError(f"device: '{name}' is not available here; take {' or '.join(there)}") from None
    if device.type == "cuda" and int(os.environ.get("LOCAL_WORLD_SIZE", 1)) > 1:
        raise ConfigError(f"device: '{name}' is one GPU, and there are several processes; take auto or cuda")
    return device
