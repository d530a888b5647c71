"""Datasets, augmentations, samplers and the loaders that feed a model."""

from detkit.data.augmentations import (
    ColorJitter,
    CopyPaste,
    FixedSizeCrop,
    MixUp,
    Mosaic,
    OneOf,
    RandomCrop,
    RandomFlip,
    Resize,
    ResizeAndPad,
    ResizeScale,
    ResizeShortestEdge,
    TorchvisionV2,
)
from detkit.data.class_samplers import ClassBalancedSampler, RepeatFactorSampler, images_per_class
from detkit.data.datasets import (
    AnnotationTable,
    CocoIds,
    CocoInstances,
    CocoResults,
    ConcatDataset,
    Shapes,
    TableDataset,
    TiledDataset,
)
from detkit.data.formats import AutoDataset, CocoPanoptic, open_dataset
from detkit.data.images import read_image
from detkit.data.interfaces import (
    AUGMENTATIONS,
    DATASETS,
    SAMPLERS,
    Augmentation,
    Dataset,
    ObjectTable,
    Record,
    Sampler,
)
from detkit.data.loader import test_loader, train_loader
from detkit.data.mapper import Mapper, MaskFormat, bare_record, to_sample
from detkit.data.read_ahead import read_ahead
from detkit.data.samplers import AspectRatioSampler, ShuffleSampler, inference_batches
from detkit.structures import KeypointSpec

__all__ = [
    "AUGMENTATIONS",
    "DATASETS",
    "SAMPLERS",
    "AnnotationTable",
    "AspectRatioSampler",
    "Augmentation",
    "AutoDataset",
    "ClassBalancedSampler",
    "CocoIds",
    "CocoInstances",
    "CocoPanoptic",
    "CocoResults",
    "ColorJitter",
    "ConcatDataset",
    "CopyPaste",
    "Dataset",
    "FixedSizeCrop",
    "KeypointSpec",
    "Mapper",
    "MaskFormat",
    "MixUp",
    "Mosaic",
    "ObjectTable",
    "OneOf",
    "RandomCrop",
    "RandomFlip",
    "Record",
    "RepeatFactorSampler",
    "Resize",
    "ResizeAndPad",
    "ResizeScale",
    "ResizeShortestEdge",
    "Sampler",
    "Shapes",
    "ShuffleSampler",
    "TableDataset",
    "TiledDataset",
    "TorchvisionV2",
    "bare_record",
    "images_per_class",
    "inference_batches",
    "open_dataset",
    "read_ahead",
    "read_image",
    "test_loader",
    "to_sample",
    "train_loader",
]
