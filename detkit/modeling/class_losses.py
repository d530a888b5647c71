"""Class losses. N boxes, K classes; class K is background, -1 is ignored."""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

from detkit.config import Count, Fraction, NonNegative, Positive
from detkit.modeling.interfaces import CLASS_LOSSES, ClassLoss
from detkit.modeling.sampling import is_foreground
from detkit.structures import ClassRows


@CLASS_LOSSES.register()
class SoftmaxClassLoss(ClassLoss):
    """Cross-entropy over the classes and the background, one of which a box has (Fast R-CNN, Girshick 2015)."""

    def __init__(self, num_classes: int):
        super().__init__(num_classes)
        self.num_logits = num_classes + 1

    def forward(self, logits: Tensor, classes: Tensor) -> dict[str, Tensor]:
        """See ``ClassLoss.forward``."""
        return {"": F.cross_entropy(logits, classes, reduction="sum", ignore_index=-1)}

    def initial_bias(self, prior: float) -> Tensor:
        """See ``ClassLoss.initial_bias``."""
        bias = torch.zeros(self.num_logits)
        bias[-1] = math.log(self.num_classes * (1 - prior) / prior)
        return bias

    def scores(self, logits: Tensor) -> Tensor:
        """See ``ClassLoss.scores``."""
        return logits.softmax(dim=1)


@CLASS_LOSSES.register()
class SigmoidClassLoss(ClassLoss):
    """Binary cross-entropy of each class by itself. There is a logit for the background that nothing looks at."""

    def __init__(self, num_classes: int):
        super().__init__(num_classes)
        self.num_logits = num_classes + 1

    def forward(self, logits: Tensor, classes: Tensor) -> dict[str, Tensor]:
        """See ``ClassLoss.forward``."""
        return self.weighted(logits, classes, self.weights(classes))

    def weighted(self, logits: Tensor, classes: Tensor, weights: Tensor) -> dict[str, Tensor]:
        """``forward`` with what each class counts, see ``weights``."""
        # one column more, for background and ignored rows
        target = torch.zeros_like(logits).scatter(1, (classes % logits.shape[1])[:, None], 1.0)[:, :-1]
        losses = F.binary_cross_entropy_with_logits(logits[:, :-1], target, reduction="none")
        return {"": (losses * weights * (classes >= 0)[:, None]).sum()}

    def weights(self, classes: Tensor) -> Tensor:
        """``(K,)``, or a number for all: what each class counts in a batch with boxes of ``classes``."""
        return classes.new_ones(())

    def scores(self, logits: Tensor) -> Tensor:
        """See ``ClassLoss.scores``."""
        return logits[:, :-1].sigmoid()


@CLASS_LOSSES.register()
class FocalClassLoss(ClassLoss):
    """Binary cross-entropy of each class by itself, in which what is easily right counts little (Lin et al. 2017,
    RetinaNet): for detectors that learn from all anchors, nearly all of them background.

    Args:
        alpha: the weight of a class where it is right; elsewhere it is 1 - alpha.
        gamma: the loss is multiplied by the probability of the wrong answer to this power.
    """

    def __init__(self, num_classes: int, *, alpha: Fraction = 0.25, gamma: NonNegative = 2.0):
        super().__init__(num_classes)
        self.num_logits, self.alpha, self.gamma = num_classes, alpha, gamma

    def forward(self, logits: Tensor, classes: Tensor) -> dict[str, Tensor]:
        """See ``ClassLoss.forward``."""
        target = (classes[:, None] == torch.arange(self.num_classes, device=classes.device)).to(logits)
        losses = sigmoid_focal_loss(logits, target, self.alpha, self.gamma)
        return {"": losses.masked_fill((classes == -1)[:, None], 0.0).sum()}

    def scores(self, logits: Tensor) -> Tensor:
        """See ``ClassLoss.scores``."""
        return logits.sigmoid()


@CLASS_LOSSES.register()
class FederatedClassLoss(SigmoidClassLoss):
    """``SigmoidClassLoss`` over the batch's classes and some that are drawn (Zhou et al. 2021): LVIS does not say of
    every class whether an image has it, and its rare classes would otherwise learn hardly anything but "no".

    Each step the classes of the batch's boxes fill places, background too if there is any; classes drawn in proportion
    to ``(number of training images with the class) ** power`` fill the rest.

    Args:
        num_places: how many classes learn in a step, unless the batch has more.
        power: 0 draws all classes alike.

    Attributes:
        image_counts: ``(K,)`` in how many training images there is each class; equal where no data were given.
    """

    image_counts: Tensor

    def __init__(self, num_classes: int, *, num_places: Count = 50, power: NonNegative = 0.5):
        super().__init__(num_classes)
        self.num_places, self.power = num_places, power
        self.register_buffer("image_counts", torch.ones(num_classes), persistent=False)

    def set_image_counts(self, counts: Tensor) -> None:
        """See ``ClassLoss.set_image_counts``."""
        self.image_counts.copy_(counts)

    def weights(self, classes: Tensor) -> Tensor:
        """See ``SigmoidClassLoss.weights``: 1 for the classes that learn in this step, 0 for others."""
        return self.chosen(classes)[:-1].float()

    def over(self, classes: Tensor) -> Callable[[Tensor, Tensor], dict[str, Tensor]]:
        """See ``ClassLoss.over``."""
        return partial(self.weighted, weights=self.weights(classes))

    def chosen(self, classes: Tensor) -> Tensor:
        """``(K + 1,)`` bool: those that fill a place."""
        places = self.num_classes + 2  # one each for background and for what is ignored
        present = classes.new_zeros(places, dtype=torch.bool).index_fill(0, classes % places, True)[:-1]
        likely = F.pad(self.image_counts**self.power * (self.image_counts > 0), (0, 1))
        # The first of exponential variables with these rates: drawn one by one, in proportion to the weights.
        order = (likely / torch.empty_like(likely).exponential_()).masked_fill(present, torch.inf)
        first = order.topk(min(self.num_places, len(order))).indices
        return present | (torch.zeros_like(present).index_fill(0, first, True) & (likely > 0))


@CLASS_LOSSES.register()
class SeesawClassLoss(ClassLoss):
    """Cross-entropy that spares rare classes the gradients of frequent ones (Wang et al. 2021, seesaw loss), and the
    cross-entropy of whether there is an object, by two logits more: object and background.

    The factor on class j where class i is right is ``(n_j / n_i) ** p`` where j has been seen less often than i so far,
    times ``(prob_j / prob_i) ** q`` where j is more probable than i.

    In a box head the part ``_classes`` is a mean over the foreground. mmdetection's training divides it by all samples,
    of which a quarter or less is foreground, so there it weighs that much less beside the other losses.

    Args:
        p: how much rarer classes are spared; 0: not.
        q: how much a class that is wrongly more probable is held down all the same; 0: not.
        eps: the least probability of the right class in the second factor.

    Attributes:
        class_counts: ``(K + 1,)`` boxes of each class that were seen in training, and of the background.
        track_running_stats: false while a pass is no step of the training; see ``keep_running_statistics``.
    """

    class_counts: Tensor

    def __init__(self, num_classes: int, *, p: NonNegative = 0.8, q: NonNegative = 2.0, eps: Positive = 0.01):
        super().__init__(num_classes)
        self.num_logits = num_classes + 2
        self.p, self.q, self.eps, self.track_running_stats = p, q, eps, True
        self.register_buffer("class_counts", torch.zeros(num_classes + 1))
        self.class_rows = {"class_counts": ClassRows(background=True)}

    def forward(self, logits: Tensor, classes: Tensor) -> dict[str, Tensor]:
        """See ``ClassLoss.forward``. Parts ``_objectness``, over all boxes, and ``_classes``, over the foreground."""
        return self.over(classes)(logits, classes)

    def over(self, classes: Tensor) -> Callable[[Tensor, Tensor], dict[str, Tensor]]:
        """See ``ClassLoss.over``."""
        if self.training and self.track_running_stats:  # as a batch norm counts: not for a validation loss
            valid = (classes >= 0).to(self.class_counts)
            self.class_counts += torch.zeros_like(self.class_counts).scatter_add(0, classes.clamp(min=0), valid)
        return self._sums

    def _sums(self, logits: Tensor, classes: Tensor) -> dict[str, Tensor]:
        foreground = is_foreground(classes, self.num_classes)
        missing = torch.where(classes >= 0, (~foreground).long(), -1)
        right = torch.where(foreground, classes, 0)
        scores = self._seesaw(logits[:, : self.num_classes], right)
        return {
            "_objectness": F.cross_entropy(logits[:, self.num_classes :], missing, reduction="sum", ignore_index=-1),
            "_classes": F.cross_entropy(scores, right.masked_fill(~foreground, -1), reduction="sum", ignore_index=-1),
        }

    def _seesaw(self, logits: Tensor, right: Tensor) -> Tensor:
        """Logits that have taken in the logarithms of the factors."""
        counts = self.class_counts[: self.num_classes].clamp(min=1)
        factors = (counts / counts[right][:, None]).clamp(max=1) ** self.p
        probs = logits.detach().softmax(dim=1)
        ratio = probs / probs.gather(1, right[:, None]).clamp(min=self.eps)
        factors = factors * ratio.clamp(min=1) ** self.q
        return logits + factors.log().scatter(1, right[:, None], 0.0)

    def normaliser(self, part: str, num_foreground: Tensor, num_samples: Tensor) -> Tensor:
        """See ``ClassLoss.normaliser``."""
        return num_foreground if part == "_classes" else num_samples

    def initial_bias(self, prior: float) -> Tensor:
        """See ``ClassLoss.initial_bias``."""
        bias = torch.zeros(self.num_logits)
        bias[-1] = math.log((1 - prior) / prior)
        return bias

    def scores(self, logits: Tensor) -> Tensor:
        """See ``ClassLoss.scores``."""
        classes, objectness = (part.softmax(dim=1) for part in logits.split([self.num_classes, 2], dim=1))
        return torch.cat([classes * objectness[:, :1], objectness[:, 1:]], dim=1)
