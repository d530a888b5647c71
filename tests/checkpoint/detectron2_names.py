"""The names and shapes of Detectron2's models, written down from its module tree."""

import torch

BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
STATISTICS = {"FrozenBN": ("running_mean", "running_var"), "GN": ()}
STATISTICS["BN"] = (*STATISTICS["FrozenBN"], "num_batches_tracked")


def layer(name, *shape, bias=True):
    """A convolution or linear layer."""
    return {f"{name}.weight": shape, **({f"{name}.bias": shape[:1]} if bias else {})}


def normed(name, *shape, norm):
    """A convolution with its norm."""
    out = layer(name, *shape, bias=norm is None)
    for kind in ("weight", "bias", *STATISTICS[norm]) if norm else ():
        out[f"{name}.norm.{kind}"] = () if kind == "num_batches_tracked" else shape[:1]
    return out


def stage(prefix, number, blocks, *, norm="FrozenBN", groups=1, width=64, deform=0):
    """``res{number}`` of a bottleneck network; ``deform``: 2 or 3 values a tap of the deformable 3x3 convolutions."""
    out, inner = 64 * 2**number, groups * width * 2 ** (number - 2)
    names = {}
    for i in range(blocks):
        into = (64 if number == 2 else out // 2) if i == 0 else out
        name = f"{prefix}res{number}.{i}"
        if i == 0:
            names |= normed(f"{name}.shortcut", out, into, 1, 1, norm=norm)
        names |= normed(f"{name}.conv1", inner, into, 1, 1, norm=norm)
        if deform:
            names |= layer(f"{name}.conv2_offset", 9 * deform, inner, 3, 3)
        names |= normed(f"{name}.conv2", inner, inner // groups, 3, 3, norm=norm)
        names |= normed(f"{name}.conv3", out, inner, 1, 1, norm=norm)
    return names


def network(prefix="", depth=50, stages=(2, 3, 4, 5), *, norm="FrozenBN", deform=0, **groups):
    """A ResNet or ResNeXt; res3 to res5 may be deformable."""
    names = normed(f"{prefix}stem.conv1", 64, 3, 7, 7, norm=norm)
    for number in stages:
        flags = {"norm": norm, "deform": deform if number > 2 else 0, **groups}
        names |= stage(prefix, number, BLOCKS[depth][number - 2], **flags)
    return names


def rpn(channels, anchors):
    """The RPN's head."""
    head = "proposal_generator.rpn_head"
    return {
        **layer(f"{head}.conv", channels, channels, 3, 3),
        **layer(f"{head}.objectness_logits", anchors, channels, 1, 1),
        **layer(f"{head}.anchor_deltas", 4 * anchors, channels, 1, 1),
    }


def predictor(width, classes=80):
    """The last layers of the box head."""
    name = "roi_heads.box_predictor"
    return layer(f"{name}.cls_score", classes + 1, width) | layer(f"{name}.bbox_pred", 4 * classes, width)


def masks(channels, num_conv=4, classes=80, norm=None):
    """The mask head."""
    names = {}
    for i in range(num_conv):
        names |= normed(f"roi_heads.mask_head.mask_fcn{i + 1}", 256, channels, 3, 3, norm=norm)
        channels = 256
    names |= {"roi_heads.mask_head.deconv.weight": (channels, 256, 2, 2), "roi_heads.mask_head.deconv.bias": (256,)}
    return names | layer("roi_heads.mask_head.predictor", classes, 256, 1, 1)


def fpn_model(depth=50, *, norm="FrozenBN", head_norm=None, mask=True, classes=80, **flags):
    """Faster and Mask R-CNN with a pyramid."""
    names = network("backbone.bottom_up.", depth, norm=norm, **flags)
    for number in (2, 3, 4, 5):
        names |= normed(f"backbone.fpn_lateral{number}", 256, 64 * 2**number, 1, 1, norm=head_norm)
        names |= normed(f"backbone.fpn_output{number}", 256, 256, 3, 3, norm=head_norm)
    names |= rpn(256, 3)
    convs = 4 if head_norm else 0
    for i in range(convs):
        names |= normed(f"roi_heads.box_head.conv{i + 1}", 256, 256, 3, 3, norm=head_norm)
    for i in range(1 if convs else 2):
        names |= layer(f"roi_heads.box_head.fc{i + 1}", 1024, 1024 if i else 256 * 49)
    names |= predictor(1024, classes)
    return names | (masks(256, classes=classes, norm=head_norm) if mask else {})


def cascade_model(stages=3):
    """Cascade Mask R-CNN with a pyramid: numbered box heads, with one box for all classes."""
    names = {}
    for name, shape in fpn_model().items():
        head, _, rest = name.removeprefix("roi_heads.").partition(".")
        numbered = name.startswith("roi_heads.box") and [f"roi_heads.{head}.{i}.{rest}" for i in range(stages)]
        names |= dict.fromkeys(numbered or [name], (4, *shape[1:]) if "bbox_pred" in name else shape)
    return names


def pointrend_model(classes=80, prefix="mask_head.", coarse_fc="fc"):
    """Mask R-CNN with PointRend's mask head; earlier versions had another prefix and another name of layers."""
    names = fpn_model(mask=False)
    coarse, point = f"roi_heads.{prefix}coarse_head", f"roi_heads.{prefix}point_head"
    names |= layer(f"{coarse}.reduce_spatial_dim_conv", 256, 256, 2, 2)
    names |= layer(f"{coarse}.{coarse_fc}1", 1024, 256 * 49) | layer(f"{coarse}.{coarse_fc}2", 1024, 1024)
    names |= layer(f"{coarse}.prediction", classes * 49, 1024)
    for i in (1, 2, 3):
        names |= layer(f"{point}.fc{i}", 256, 256 + classes, 1)
    return names | layer(f"{point}.predictor", classes, 256 + classes, 1)


def c4_model(depth=50, *, mask=True):
    """Faster and Mask R-CNN on res4, with the RoI heads' own res5."""
    names = network("backbone.", depth, (2, 3, 4)) | rpn(1024, 15) | stage("roi_heads.", 5, 3)
    return names | predictor(2048) | (masks(2048, 0) if mask else {})


def dc5_model(depth=50, *, mask=True):
    """Faster and Mask R-CNN on a dilated res5."""
    names = network("backbone.", depth) | rpn(2048, 15)
    names |= layer("roi_heads.box_head.fc1", 1024, 2048 * 49) | layer("roi_heads.box_head.fc2", 1024, 1024)
    return names | predictor(1024) | (masks(2048) if mask else {})


def meta(shapes):
    """A state dict without values."""
    return {name: torch.empty(tuple(shape), device="meta") for name, shape in shapes.items()}
