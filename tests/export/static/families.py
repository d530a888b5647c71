"""One small model of every family, with weights that find many objects of different scores, and what is to be equal."""

import dataclasses
import re

import torch
from torch import Tensor, nn

from detkit.experiment import load_experiment
from detkit.modeling.dense_heads import RetinaNetHead
from detkit.modeling.meta_archs.features import FeatureModel
from detkit.modeling.roi_heads import FastRCNNHead
from detkit.modeling.roi_heads.keypoint_head import peaks
from detkit.modeling.roi_heads.matterport import MatterportDetections
from detkit.structures import Boxes, ImageList, Sample

_R50 = ("model.backbone.width=8", "model.backbone.freeze_at=0")
_NECK = ("model.neck.out_channels=16",)
_SIZES = "model.proposal_generator.anchor_generator.sizes"
_RPN = (
    f"{_SIZES}=[[12],[24],[48],[96],[160]]",
    "model.proposal_generator.selection.pre_nms_topk_test=100",
    "model.proposal_generator.selection.post_nms_topk_test=60",
)
_BOX = ("model.roi_heads.box_head.fc_dims=[32]",)
_MASK = ("model.roi_heads.mask_head.num_conv=1", "model.roi_heads.mask_head.conv_dim=16")
_RCNN = (*_R50, *_NECK, *_RPN, *_BOX)
_C4 = (*_R50, *_RPN[1:], f"{_SIZES}=[[16,48,96]]", "model.roi_heads.mask_head.conv_dim=16")
_QUICK = ("model.backbone.width=16", "model.neck.out_channels=16", "model.roi_heads.box_head.fc_dims=[32]")
_QUICK_MASK = (*_QUICK, "model.roi_heads.mask_head.num_conv=1", "model.roi_heads.mask_head.conv_dim=16")
_DENSE = (*_R50, *_NECK, "model.head.num_conv=1", "model.head.pre_nms_topk=200")
_NMS = "model.head.nms"
_VIT = "{name: ViT, embed_dim: 24, depth: 3, num_heads: 2, patch_size: 16, windows: {size: 3, global_blocks: [1]}"
_DEFORM = "model.backbone={name: ResNet, depth: 50, width: 8, freeze_at: 0, out_features: [res3, res4, res5]"
_SWIN = "{name: Swin, embed_dim: 8, depths: [2, 2, 2, 2], num_heads: [1, 2, 2, 4], window_size: 3}"


def _timm(model: str, **options: object) -> str:
    given = ", ".join(f"{name}: {value}" for name, value in options.items())
    return f"model.backbone={{name: TimmBackbone, model: {model}, {given}}}"


def _with(*nodes: str) -> tuple[str, tuple[str, ...]]:
    """A small one-stage detector with other parts."""
    return "quick_start/fcos_shapes", ("model.neck.out_channels=16", "model.head.num_conv=1", *nodes)


FAMILIES: dict[str, tuple[str, tuple[str, ...]]] = {
    "mask": ("quick_start/mask_rcnn_shapes", _QUICK_MASK),
    "mask_r50": ("torchvision/mask_rcnn_R_50_FPN", ()),
    "mask_detectron2": ("coco/mask_rcnn_R_50_FPN_1x", (*_RCNN, *_MASK)),
    "mask_torchvision": ("torchvision/mask_rcnn_R_50_FPN", (*_RCNN, *_MASK)),
    "mask_torchvision_v2": ("torchvision/mask_rcnn_R_50_FPN_v2", (*_RCNN, *_MASK)),
    "mask_matterport": (
        "matterport/mask_rcnn_R_50_FPN_shapes",
        (*_R50, *_NECK, *_RPN, *_MASK, "model.roi_heads.box_head.conv_dim=32"),
    ),
    "faster": ("coco/faster_rcnn_R_50_FPN_1x", _RCNN),
    "faster_two_maps": ("torchvision/faster_rcnn_mobilenet_v3_large_320_FPN", (*_NECK, *_RPN[1:], *_BOX)),
    "cascade": ("quick_start/cascade_mask_rcnn_shapes", _QUICK_MASK),
    "c4": ("coco/mask_rcnn_R_50_C4_1x", (*_C4, "model.roi_heads.res5.width_per_group=8")),
    "dc5": ("coco/mask_rcnn_R_50_DC5_1x", (*_C4, *_BOX)),
    "keypoint": ("quick_start/keypoint_rcnn_shapes", (*_QUICK, "model.roi_heads.keypoint_head.conv_dim=16")),
    "keypoint_torchvision": (
        "torchvision/keypoint_rcnn_R_50_FPN",
        (*_RCNN, "model.roi_heads.keypoint_head.conv_dim=16", "model.roi_heads.keypoint_head.num_conv=1"),
    ),
    "pointrend": (
        "quick_start/mask_rcnn_shapes_pointrend",
        (
            *_QUICK,
            "model.roi_heads.mask_head.coarse_head={conv_dim: 16, fc_dims: [64]}",
            "model.roi_heads.mask_head.point_head={fc_dims: [16]}",
            "model.roi_heads.mask_head.subdivision={start_size: 14, num_steps: 2, num_points: 50}",
        ),
    ),
    "panoptic": ("quick_start/panoptic_fpn_shapes", (*_QUICK_MASK, "model.semantic_head.conv_dim=16")),
    "semantic": (
        "coco/semantic_fpn_R_50_1x",
        (*_R50, *_NECK, "model.semantic_head.conv_dim=16", "model.semantic_names=[a,b,c,d]"),
    ),
    "retinanet": ("quick_start/retinanet_shapes", (*_QUICK[:2], "model.head.num_conv=1")),
    "retinanet_torchvision": ("torchvision/retinanet_R_50_FPN", _DENSE),
    "retinanet_torchvision_v2": ("torchvision/retinanet_R_50_FPN_v2", _DENSE),
    "fcos": ("quick_start/fcos_shapes", (*_QUICK[:2], "model.head.num_conv=1")),
    "fcos_torchvision": ("torchvision/fcos_R_50_FPN", _DENSE),
    "bifpn": ("coco/retinanet_R_50_BiFPN_1x", (*_DENSE, "model.neck.repeats=1")),
    "pafpn": _with("model.neck={name: PAFPN, out_channels: 16}"),
    "vitdet": (
        "coco/mask_rcnn_vitdet_b_100ep",
        (
            *_NECK,
            *_RPN,
            *_MASK,
            *_BOX,
            "model.roi_heads.box_head.conv_dims=[16]",
            f"model.backbone={_VIT}, absolute_positions: {{image_size: 96}}, relative_positions: {{image_size: 160}}, "
            "residual_blocks: [0], square_size: 160}",
        ),
    ),
    "swin": _with(f"model.backbone={_SWIN}"),
    "resnext": _with("model.backbone={name: ResNeXt, depth: 50, num_groups: 2, width_per_group: 4, freeze_at: 0}"),
    "convnext": _with(_timm("convnext_atto")),
    "efficientnet": _with(_timm("efficientnet_lite0")),
    "timm_vit": _with(
        _timm("vit_tiny_patch16_224", img_size=160, model_args="{depth: 2}", out_indices=[1]),
        "model.neck={name: SimpleFeaturePyramid, out_channels: 16}",
    ),
    "torchvision_swin": _with("model.backbone={name: TorchvisionBackbone, model: swin_t}"),
    "mobilenet": _with("model.backbone={name: TorchvisionBackbone, model: mobilenet_v2}"),
    "soft_nms": _with("model.backbone.width=16", f"{_NMS}={{name: SoftNMS}}"),
    "soft_nms_gaussian": _with("model.backbone.width=16", f"{_NMS}={{name: SoftNMS, decay: gaussian}}"),
    "matrix_nms": _with("model.backbone.width=16", f"{_NMS}={{name: MatrixNMS, pre_nms_topk: 100}}"),
    "deform": _with(f"{_DEFORM}, deform: {{stages: [res3, res5]}}}}"),
    "deform_modulated": _with(f"{_DEFORM}, deform: {{stages: [res4], modulated: true, num_groups: 2}}}}"),
}
"""Name -> config and overrides."""

LAST_LAYERS = (
    (r"\.conv2_offset$", 1.0),
    (r"\.(objectness|class_logits)$", 2.0),
    (r"\.anchor_deltas$", 0.3),
    (r"(cls_score|centreness)(\.\d)?$", 1.2),
    (r"bbox_pred(\.\d)?$", 0.3),
    (r"(mask_head|keypoint_head|semantic_head|coarse_head|point_head)\.(predictor|deconv)$", 2.0),
)
"""Layers -> the standard deviation that their outputs get."""


def small_model(family: str, *overrides: str) -> FeatureModel:
    """A model of the family, in evaluation mode, for four classes."""
    config, own = FAMILIES[family]
    torch.manual_seed(0)
    model = load_experiment(config, [*own, "model.preprocess.resize=null", *overrides]).build_model(4, pretrained=False)
    assert isinstance(model, FeatureModel)
    decided(model.eval(), images(model, [(128, 160)]))
    return model


def images(model: FeatureModel, sizes: list[tuple[int, int]], seed: int = 0) -> ImageList:
    """A batch of smooth noise of ``(height, width)``, at most of the model's square."""
    generator = torch.Generator().manual_seed(seed)
    samples = []
    for number, sides in enumerate(sizes):
        height, width = (min(side, model.preprocess.square_size or side) for side in sides)
        layers = [torch.randn(1, 3, cells, cells, generator=generator) for cells in (3, 9, 24)]
        image = sum(nn.functional.interpolate(layer, (height, width), mode="bicubic") for layer in layers)[0]
        samples.append(Sample((image * 40 + 120).clamp(0, 255).to(torch.uint8), (height, width), image_id=number))
    return model.preprocess(samples)


def limited(model: nn.Module, score_thresh: float, max_detections: int) -> None:
    """Gives all heads these limits."""
    for part in model.modules():
        if isinstance(part, FastRCNNHead):
            limits = {"score_thresh": score_thresh, "max_detections": max_detections}
            part.detection = dataclasses.replace(part.detection, **limits)
        elif isinstance(part, RetinaNetHead):
            part.score_thresh, part.max_detections = score_thresh, max_detections


@torch.no_grad()
def decided(model: FeatureModel, batch: ImageList) -> None:
    """Makes an untrained model decide: norms that do something, and last layers whose outputs differ."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(getattr(module, "running_var", None), Tensor):
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.9, 1.2, generator=generator)
            for value in (module.weight, module.bias):
                value.add_(torch.randn(value.shape, generator=generator) * 0.1)
        if getattr(module, "conv2_offset", None) is not None:
            module.conv2_offset.weight.normal_(generator=generator)
        for name in ("rel_pos_h", "rel_pos_w", "relative_position_bias_table"):
            if isinstance(getattr(module, name, None), Tensor):
                getattr(module, name).data.normal_(0, 0.3, generator=generator)
    for pattern, deviation in LAST_LAYERS:
        for name, layer in [(n, m) for n, m in model.named_modules() if re.search(pattern, n)]:
            seen: list[Tensor] = []
            handle = layer.register_forward_hook(lambda module, given, out, seen=seen: seen.append(out))
            outputs_of(model, batch)
            handle.remove()
            values = torch.cat([o.transpose(0, 1).flatten(1) for o in seen], dim=1)  # (channels, places)
            mean = values.mean(dim=1)
            factor = deviation / float((values - mean[:, None]).std().clamp(min=1e-6))
            assert 0 < factor < 1e6, name
            layer.weight.mul_(factor)
            if layer.bias is not None:
                layer.bias.sub_(mean).mul_(factor)


@torch.no_grad()
def outputs_of(model: FeatureModel, batch: ImageList):
    """What the ordinary model's heads say."""
    return model.outputs(batch, model.features(batch))


def inputs_of(batch: ImageList) -> tuple[Tensor, Tensor]:
    """What a program is given for a batch."""
    regions = [batch.valid_region(i) for i in range(len(batch))]
    return batch.tensor.contiguous(), torch.tensor(regions, dtype=torch.float32)


def assert_equal(model: FeatureModel, batch: ImageList, found: dict[str, Tensor], undecided: int = 0) -> int:
    """Boxes to 0.01 pixels, scores to 1e-4, mask probabilities to 1e-3. Returns how many detections there are.

    Boxes of untrained models may reach thousands of pixels beyond the image, where float32 is coarser: they are equal
    to 0.01 pixels of a thousand. Detections of nearly the same score may stand in another order, and where there are as
    many as the model gives, another of nearly the last score may be there. Where a model rounds boxes to whole pixels,
    one in an image may be missing, for a half is rounded either way. PointRend decides the least certain of some 800
    cells in two steps, each of which chooses otherwise in one mask of a hundred where logits differ
    by 1e-5: one in ten may be another.

    Args:
        model: the ordinary model.
        batch: the images.
        found: what its static form says of them.
        undecided: so many detections of an image may be other ones, as overlapping boxes have the same score.
    """
    expected = outputs_of(model, batch)
    if expected.semantic is not None:
        assert_close(found["semantic"], expected.semantic, 1e-3)
    undecided = max(undecided, int(any(isinstance(part, MatterportDetections) for part in model.modules())))
    for number, instances in enumerate(expected.instances or []):
        own = {name: values[number] for name, values in found.items()}
        count = int((own["scores"] >= 0).sum())
        assert abs(count - len(instances)) <= undecided
        assert (own["scores"][count:] == -1).all()
        assert own["scores"][:count].diff().le(0).all()
        scores, boxes = own["scores"][:, None] - instances.scores, own["boxes"][:, None] - instances.boxes.tensor
        sides = (instances.boxes.tensor[:, 2:] - instances.boxes.tensor[:, :2]).amax(dim=1)
        same = (scores.abs() <= 1e-4) & (boxes.abs().amax(dim=2) <= 0.01 * (sides / 1000).clamp(min=1))
        same &= own["classes"][:, None] == instances.classes
        wanted = torch.nonzero(same.any(dim=0))[:, 0]
        missing = ~same.any(dim=0)
        if count == len(own["scores"]):
            missing &= instances.scores - instances.scores[-1] > 1e-4
        assert missing.sum() <= undecided, f"{int(missing.sum())} of {len(instances)} differ"
        rows = torch.where(same, scores.abs(), 1.0).argmin(dim=0)[wanted]
        assert len(set(rows.tolist())) == len(rows)
        if "mask_probs" in instances:
            apart = (own["mask_probs"][rows] - instances.mask_probs[wanted]).abs().flatten(1).amax(dim=1) > 1e-3
            assert apart.sum() <= (len(apart) // 10 if hasattr(model.roi_heads.mask_head, "subdivision") else 0)
        if "keypoints" in instances:
            score = model.roi_heads.keypoint_head.score
            points = peaks(own["keypoint_maps"][rows], Boxes(own["boxes"][rows]), score)
            assert_close(points, instances.keypoints.tensor[wanted], 0.01)
    return sum(map(len, expected.instances or []))


def assert_close(found: Tensor, expected: Tensor, tolerance: float) -> None:
    assert found.shape == expected.shape
    assert found.numel() == 0 or (found - expected).abs().max() <= tolerance
