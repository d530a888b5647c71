"""PredictedInstances: instances that know their classes, draw themselves and become plain data."""

import collections
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from PIL import Image

from detkit.data.formats.outlines import one_polygon
from detkit.data.images import DEFAULT_READING, ImageReading
from detkit.evaluation import coco_results
from detkit.predictor.sources import resolve_one
from detkit.structures import ImageInfo, Instances, Prediction
from detkit.visualization import ChannelOrder, ImageLike, draw_prediction

MaskForm = Literal["rle", "polygon"]


class PredictedInstances(Instances):
    """``Instances`` that a ``Predictor`` gives. Rows, joined rows and copies on another device know the same.

    Args:
        image_size, info, fields: as of ``Instances``.
        class_names: the K names.
        category_ids: the K ids of the classes in the training data's files; None where they are unknown.
        reading, channel_order: how images are read, for ``draw``.
    """

    def __init__(
        self,
        image_size: tuple[int, int],
        *,
        class_names: Sequence[str] = (),
        category_ids: Sequence[int] | None = None,
        reading: ImageReading = DEFAULT_READING,
        channel_order: ChannelOrder = "RGB",
        info: ImageInfo | None = None,
        **fields: Any,
    ):
        super().__init__(image_size, info=info or ImageInfo(), **fields)
        self.class_names = tuple(class_names)
        self.category_ids = None if category_ids is None else tuple(category_ids)
        self.reading, self.channel_order = reading, channel_order

    def _like(
        self, fields: Mapping[str, Any], image_size: tuple[int, int] | None = None, info: ImageInfo | None = None
    ) -> "PredictedInstances":
        return PredictedInstances(
            image_size or self.image_size,
            class_names=self.class_names,
            category_ids=self.category_ids,
            reading=self.reading,
            channel_order=self.channel_order,
            info=info or self.info,
            **fields,
        )

    def _classes(self) -> tuple[str, ...]:
        return self.class_names

    @property
    def labels(self) -> list[str]:
        """The name of each instance's class; its number where it has no name."""
        names = self.class_names
        return [names[c] if 0 <= c < len(names) else str(c) for c in self.classes.tolist()]

    def to_dict(self, *, masks: MaskForm | None = "rle") -> dict[str, Any]:
        """Numbers, words and lists, ready for JSON.

        Args:
            masks: as COCO's compressed RLE, as polygons, or left out. A polygon runs along the edges of the pixels;
                pieces and holes are joined by lines of no width.

        Returns:
            ``height`` and ``width`` of the image, and a list of N for each field: ``boxes`` (x1, y1, x2, y2),
            ``scores``, ``classes``, ``labels`` (their names) and, where there are any, ``masks`` (size and counts of
            run lengths, or a list of polygons x, y, x, y, ...), ``keypoints`` (P times x, y, score; the middle of the
            first pixel is at 0.5) and fields of a user's own.

        Raises:
            ValueError: another form of masks.
        """
        if masks not in ("rle", "polygon", None):
            raise ValueError(f"to_dict: masks: expected 'rle', 'polygon' or None, got {masks!r}")
        found: dict[str, Any] = {"height": self.image_size[0], "width": self.image_size[1]}
        for name, field in self.to("cpu").fields.items():
            if not hasattr(field, "rle"):
                found[name] = field.tolist() if hasattr(field, "tolist") else list(field)
            elif masks == "rle":
                found[name] = field.rle()
            elif masks == "polygon":
                pairs = zip(field.rle(), field.areas().tolist())
                found[name] = [[one_polygon(rle, self.image_size)] if area else [] for rle, area in pairs]
            if name == "classes":
                found["labels"] = self.labels
        return found

    def to_coco(self, image_id: int | str, category_ids: Sequence[int] | None = None) -> list[dict[str, Any]]:
        """COCO results, ready for JSON: a dict an instance, the same that the evaluator writes.

        Args:
            image_id: what stands in ``image_id``.
            category_ids: the K ids of the classes; None: the training data's, or else class index + 1.

        Raises:
            ValueError: there are fewer ids than classes.
        """
        ids = self.category_ids if category_ids is None else tuple(category_ids)
        if ids is not None and len(self) and int(self.classes.max()) >= len(ids):
            raise ValueError(f"to_coco: class {int(self.classes.max())} (0 is the first) has none of {len(ids)} ids")
        return coco_results(image_id, self, ids)

    def to_supervision(self) -> Any:
        """As ``supervision.Detections``, with the names in ``data["class_name"]`` and keypoints in ``data``.

        Masks are laid out whole, ``(N, H, W)``.

        Raises:
            ImportError: supervision is missing; the message says how to install it.
        """
        try:
            import supervision
        except ImportError:
            raise ImportError("to_supervision needs supervision: pip install 'detkit[supervision]'") from None
        here = self.to("cpu")
        data: dict[str, Any] = {"class_name": np.array(self.labels, dtype=str)}
        if "keypoints" in here:
            data["keypoints"] = here.keypoints.numpy()
        return supervision.Detections(
            xyxy=here.boxes.tensor.numpy(),
            mask=here.masks.bitmaps().tensor.numpy() if "masks" in here else None,
            confidence=here.scores.float().numpy(),
            class_id=here.classes.numpy(),
            data=data,
        )

    def draw(
        self, image: ImageLike, *, score_thresh: float = 0.0, channel_order: ChannelOrder | None = None
    ) -> Image.Image:
        """The image with these instances, an RGB image of PIL in the image's size.

        Args:
            image: the one that was predicted, in any form; it may have another size.
            score_thresh: instances that score less are not drawn.
            channel_order: of an array or tensor; None: as the predictor was told.
        """
        pixels = resolve_one(image, self.reading, channel_order or self.channel_order).pixels()
        options: dict[str, Any] = {"score_thresh": score_thresh, "min_side": 1, "max_side": None}
        return Image.fromarray(draw_prediction(pixels, Prediction(self), self.class_names, **options))

    def __repr__(self) -> str:
        counts = collections.Counter(self.labels if "classes" in self else ())
        what = ", ".join(f"{number} {label}" for label, number in counts.most_common(8))
        what += ", ..." if len(counts) > 8 else ""
        height, width = self.image_size
        fields = ", ".join(self.fields)
        return f"PredictedInstances({len(self)}{': ' if what else ''}{what}; image {width} x {height}; {fields})"
