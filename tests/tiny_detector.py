"""A Mask R-CNN that trains in moments, as overrides of the quick start."""

from pathlib import Path

from detkit.experiment import Experiment, load_experiment

CONFIG = Path(__file__).resolve().parents[1] / "configs/quick_start/mask_rcnn_shapes.yaml"
TINY = [
    "model.backbone.width=8",
    "model.neck.out_channels=16",
    "model.roi_heads.sampling.batch_size_per_image=16",
    "model.roi_heads.box_head.fc_dims=[32]",
    "model.roi_heads.mask_head.num_conv=1",
    "model.roi_heads.mask_head.conv_dim=8",
    "data.train_dataset.num_images=8",
    "data.train_dataset.image_size=[96, 96]",
    "data.test_dataset.num_images=5",
    "data.test_dataset.image_size=[96, 96]",
    "data.batch_size=4",
    "data.num_workers=0",
    "train.device=cpu",
    "train.num_pictures=1",
    "train.log_period=1",
]


def tiny_experiment(*overrides: str) -> Experiment:
    """The experiment, with further overrides."""
    return load_experiment(CONFIG, [*TINY, *overrides])
