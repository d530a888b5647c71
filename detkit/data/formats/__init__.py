"""Folders of labelled images in the formats of tools and public datasets, and writers of some of them."""

from detkit.data.formats.auto import AutoDataset, open_dataset
from detkit.data.formats.cityscapes import CityscapesDataset
from detkit.data.formats.coco_folder import CocoFolder, LvisFolder
from detkit.data.formats.coco_panoptic import CocoPanoptic, CocoPanopticFolder
from detkit.data.formats.cvat import CvatDataset
from detkit.data.formats.dataset import FormatDataset
from detkit.data.formats.label_studio import LabelStudioDataset
from detkit.data.formats.labelme import LabelMeDataset
from detkit.data.formats.labelme_xml import LabelMeXmlDataset
from detkit.data.formats.mask_images import MaskImagesDataset
from detkit.data.formats.open_images import OpenImagesDataset
from detkit.data.formats.supervisely import SuperviselyDataset
from detkit.data.formats.text_rows import CrowdHumanDataset, DotaDataset, KittiDataset
from detkit.data.formats.via import ViaDataset
from detkit.data.formats.voc import VocDataset
from detkit.data.formats.voc_writer import VocWriter
from detkit.data.formats.writer_interfaces import LABEL_WRITERS, ImageLabels, LabelWriter
from detkit.data.formats.writers import CocoWriter, LabelMeWriter, LabelStudioWriter, YoloWriter
from detkit.data.formats.yolo import YoloDataset

__all__ = [
    "LABEL_WRITERS",
    "AutoDataset",
    "CityscapesDataset",
    "CocoFolder",
    "CocoPanoptic",
    "CocoPanopticFolder",
    "CocoWriter",
    "CrowdHumanDataset",
    "CvatDataset",
    "DotaDataset",
    "FormatDataset",
    "ImageLabels",
    "KittiDataset",
    "LabelMeDataset",
    "LabelMeWriter",
    "LabelMeXmlDataset",
    "LabelStudioDataset",
    "LabelStudioWriter",
    "LabelWriter",
    "LvisFolder",
    "MaskImagesDataset",
    "OpenImagesDataset",
    "SuperviselyDataset",
    "ViaDataset",
    "VocDataset",
    "VocWriter",
    "YoloDataset",
    "YoloWriter",
    "open_dataset",
]
