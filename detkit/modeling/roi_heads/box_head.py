"""Box heads."""

from torch import Tensor, nn
from torch.nn import functional as F

from detkit.config import Recipe
from detkit.layers import ConvNorm, NormName, ShapeSpec, c2_xavier_fill
from detkit.modeling.box_coder import BoxCoder
from detkit.modeling.box_losses import SmoothL1BoxLoss
from detkit.modeling.interfaces import BOX_HEADS, BoxLoss, Features, RoIPooler
from detkit.modeling.roi_heads.fast_rcnn import DetectionRules, FastRCNNHead
from detkit.structures import Boxes


@BOX_HEADS.register()
class FastRCNNConvFCHead(FastRCNNHead):
    """Convolutions and fully connected layers, then class scores and box deltas (Fast R-CNN, Girshick 2015).

    Args:
        pooler: features of a proposal.
        conv_dims: channels of the 3x3 convolutions before the fully connected layers.
        average_pool: the mean over the region goes on, not every cell (He et al. 2015, the C4 head).
        fc_dims: widths of the fully connected layers.
        norm: normalisation after each convolution.
        class_agnostic: one box for all classes instead of one a class.
        box_coder: how deltas are expressed.
        box_loss: the loss on the deltas of foreground proposals.
        score_thresh: detections below this score are dropped.
        nms_thresh: IoU above which the lower-scoring of two detections of a class is dropped.
        max_detections: detections an image.
        detection: further rules for detections.
    """

    def __init__(
        self,
        input_shape: dict[str, ShapeSpec],
        num_classes: int,
        *,
        pooler: Recipe[RoIPooler],
        conv_dims: tuple[int, ...] = (),
        average_pool: bool = False,
        fc_dims: tuple[int, ...] = (1024, 1024),
        norm: NormName | None = None,
        class_agnostic: bool = False,
        box_coder: BoxCoder = BoxCoder(weights=(10.0, 10.0, 5.0, 5.0)),
        box_loss: Recipe[BoxLoss] = Recipe(SmoothL1BoxLoss),
        score_thresh: float = 0.05,
        nms_thresh: float = 0.5,
        max_detections: int = 100,
        detection: DetectionRules = DetectionRules(),
    ):
        super().__init__(input_shape, num_classes)
        self.pooler = pooler(input_shape)
        shape = self.pooler.output_shape
        channels = shape.channels
        self.convs = nn.Sequential()
        for i, dim in enumerate(conv_dims):
            conv = ConvNorm(channels, dim, 3, padding=1, norm=norm, activation=nn.ReLU(inplace=True))
            self.convs.add_module(str(i), conv)
            channels = dim
        self.average_pool = average_pool
        width = channels if average_pool else channels * (shape.height or 1) * (shape.width or 1)
        self.fcs = nn.ModuleList()
        for dim in fc_dims:
            layer = nn.Linear(width, dim)
            c2_xavier_fill(layer)
            self.fcs.append(layer)
            width = dim
        self.init_predictor(width, num_classes, class_agnostic)
        self.box_coder, self.box_loss = box_coder, box_loss()
        self.score_thresh, self.nms_thresh, self.max_detections = score_thresh, nms_thresh, max_detections
        self.detection = detection

    def region_features(self, features: Features, boxes: list[Boxes]) -> Tensor:
        """``(R, width)`` of the last fully connected layer."""
        x = self.convs(self.pooler(features, boxes))
        x = x.mean(dim=(2, 3)) if self.average_pool else x.flatten(1)
        for layer in self.fcs:
            x = F.relu(layer(x), inplace=True)
        return x


@BOX_HEADS.register()
class ConvBNBoxHead(FastRCNNHead):
    """Two fully connected layers with norms, written as convolutions: matterport's classifier head.

    A convolution over the whole region, norm, ReLU, a 1x1 convolution, norm, ReLU; then class scores and box deltas.
    The convolutions have biases beside their norms.

    Args:
        pooler: features of a proposal.
        conv_dim: channels of both convolutions.
        norm: normalisation after each convolution. FrozenBN normalises nothing until weights are loaded: from scratch
            take BN or GN.
        norm_eps: added to the norm's variance.
        box_coder: how deltas are expressed.
        box_loss: the loss on the deltas of foreground proposals.
        score_thresh: detections below this score are dropped.
        nms_thresh: IoU above which the lower-scoring of two detections of a class is dropped.
        max_detections: detections an image.
        detection: further rules for detections.
    """

    def __init__(
        self,
        input_shape: dict[str, ShapeSpec],
        num_classes: int,
        *,
        pooler: Recipe[RoIPooler],
        conv_dim: int = 1024,
        norm: NormName | None = "FrozenBN",
        norm_eps: float = 1e-3,
        box_coder: BoxCoder = BoxCoder(weights=(10.0, 10.0, 5.0, 5.0)),
        box_loss: Recipe[BoxLoss] = Recipe(SmoothL1BoxLoss),
        score_thresh: float = 0.05,
        nms_thresh: float = 0.5,
        max_detections: int = 100,
        detection: DetectionRules = DetectionRules(),
    ):
        super().__init__(input_shape, num_classes)
        self.pooler = pooler(input_shape)
        shape, relu = self.pooler.output_shape, nn.ReLU(inplace=True)
        if shape.height is None or shape.height != shape.width:
            raise ValueError(f"box_head: its pooler must give regions of a fixed, square size, got {shape}")
        self.convs = nn.Sequential(
            ConvNorm(
                shape.channels,
                conv_dim,
                shape.height,
                padding=0,
                bias=True,
                norm=norm,
                norm_eps=norm_eps,
                activation=relu,
            ),
            ConvNorm(conv_dim, conv_dim, 1, bias=True, norm=norm, norm_eps=norm_eps, activation=relu),
        )
        self.init_predictor(conv_dim, num_classes, class_agnostic=False)
        self.box_coder, self.box_loss = box_coder, box_loss()
        self.score_thresh, self.nms_thresh, self.max_detections = score_thresh, nms_thresh, max_detections
        self.detection = detection

    def region_features(self, features: Features, boxes: list[Boxes]) -> Tensor:
        """``(R, conv_dim)``."""
        return self.convs(self.pooler(features, boxes)).flatten(1)
