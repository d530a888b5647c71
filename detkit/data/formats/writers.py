"""CocoWriter, YoloWriter, LabelMeWriter and LabelStudioWriter: labels as these tools take them."""

import contextlib
import json
import shutil
import tempfile
import uuid
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import IO, Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import numpy as np
import pycocotools.mask as coco_mask

from detkit.config import yaml_json
from detkit.data.formats.outlines import one_polygon, outlines
from detkit.data.formats.parts import SPLITS, purpose
from detkit.data.formats.writer_interfaces import LABEL_WRITERS, ImageLabels, LabelWriter, corners, write_text
from detkit.data.interfaces import EVERY_CLASS
from detkit.utils.paths import atomic_write


@LABEL_WRITERS.register()
class CocoWriter(LabelWriter):
    """COCO: ``annotations/instances_<part>.json`` and ``images/<part>``; objects survive, so do LVIS's lists."""

    key = "coco"

    def begin(self) -> None:
        self._lists: dict[str, tuple[_List, _List]] = {}
        self._stack, self._images, self._rows = contextlib.ExitStack(), 0, 0

    def write(self, part: str, name: str, image: ImageLabels) -> None:
        if part not in self._lists:
            path = self.root / f"annotations/instances_{part or 'default'}.json"
            file = self._stack.enter_context(atomic_write(path, "w"))
            rows = tempfile.TemporaryFile("w+", encoding="utf-8", dir=self.root)  # noqa: SIM115  # the stack closes it
            self._stack.enter_context(rows)
            file.write(f'{{"info": {{}}, "categories": {json.dumps(self.categories)}, "images": [')
            self._lists[part] = _List(file), _List(rows)
        (height, width), self._images = image.size, self._images + 1
        id_ = self._images if image.id is None else image.id
        self._lists[part][0].add({"id": id_, "file_name": name, "height": height, "width": width, **image.extras})
        words = "regions of every class turned to crowds of the first class"
        self.lost[words] += sum(bool(row.get(EVERY_CLASS)) for row in image.rows)
        for row in image.rows:
            self._rows += 1
            own = self._annotation(row, image.size) if self.predicted else row
            self._lists[part][1].add({"id": self._rows, **own, "image_id": id_})

    def _annotation(self, row: Mapping[str, Any], size: tuple[int, int]) -> dict[str, Any]:
        """A result as an annotation."""
        out = {"iscrowd": 0, "area": row["bbox"][2] * row["bbox"][3], "segmentation": [], **row}
        if row.get("segmentation"):
            out["segmentation"] = outlines(row["segmentation"], size, self.tolerance)
            out["area"] = float(coco_mask.area(row["segmentation"]))
        if "keypoints" in row:
            points = np.reshape(row["keypoints"], (-1, 3)) * [1, 1, 0] + [0, 0, 2]
            out |= {"keypoints": points.reshape(-1).tolist(), "num_keypoints": len(points)}
        return out

    def close(self) -> None:
        with self._stack:
            for images, rows in self._lists.values():
                images.file.write('],\n"annotations": [')
                rows.file.seek(0)
                shutil.copyfileobj(rows.file, images.file)
                images.file.write("]}\n")


class _List:
    """A file to which the entries of a JSON list are written."""

    def __init__(self, file: IO[str]):
        self.file, self._comma = file, ""

    def add(self, entry: Mapping[str, Any]) -> None:
        self.file.write(f"{self._comma}\n{json.dumps(entry)}")
        self._comma = ","


@LABEL_WRITERS.register()
class YoloWriter(LabelWriter):
    """YOLO: ``data.yaml``, ``images/<part>`` and ``labels/<part>``; masks are single polygons."""

    key = "yolo"

    def begin(self) -> None:
        self._parts: dict[str, dict[str, None]] = {}

    def write(self, part: str, name: str, image: ImageLabels) -> None:
        key = purpose(part) or part or "train"  # the tools know no training or valid
        self._parts.setdefault(key, {})[f"images/{part}".rstrip("/")] = None
        lines = (self._line(row, image.size) for row in self.objects(image))
        write_text((self.root / "labels" / part / name).with_suffix(".txt"), "".join(lines))

    def _line(self, row: Mapping[str, Any], size: tuple[int, int]) -> str:
        height, width = size
        if outline := one_polygon(row.get("segmentation"), size, self.tolerance):
            values = (np.reshape(outline, (-1, 2)) / (width, height)).clip(0, 1).reshape(-1).tolist()
        else:
            x1, y1, x2, y2 = corners(row, size)
            values = [(x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height]
        return " ".join([str(self.number[row["category_id"]]), *(f"{value:.8g}" for value in values)]) + "\n"

    def close(self) -> None:
        usual = {names[0] for names in SPLITS}
        lines = [
            f"{part if part in usual else yaml_json(part)}: {yaml_json(folders if folders[1:] else folders[0])}\n"
            for part, folders in ((part, list(found)) for part, found in self._parts.items())
        ]
        names = [f"  {i}: {yaml_json(name)}\n" for i, name in enumerate(self.class_names)]
        write_text(self.root / "data.yaml", "".join([*lines, "names:\n", *names]))


@LABEL_WRITERS.register()
class LabelMeWriter(LabelWriter):
    """LabelMe: a JSON beside each image, and ``labels.txt`` of the classes in their order.

    The pieces of a mask are polygons of one ``group_id``; a score stands in the description.
    """

    key = "labelme"
    image_folder = ""
    lists_names = True

    def write(self, part: str, name: str, image: ImageLabels) -> None:
        shapes: list[dict[str, Any]] = []
        for number, row in enumerate(self.objects(image, keeps_scores=True), 1):
            kind, found = "polygon", outlines(row.get("segmentation"), image.size, self.tolerance)
            if not found:
                kind, found = "rectangle", [corners(row, image.size)]
            score = {"description": f"score {row['score']:.3f}"} if "score" in row else {}
            for points in found:
                group = {"label": self.label(row), "group_id": number if len(found) > 1 else None}
                shape = {"points": np.reshape(points, (-1, 2)).tolist(), "shape_type": kind, "flags": {}}
                shapes.append({**group, **shape, **score})
        content: dict[str, Any] = {
            "version": "5.5.0",
            "flags": {},
            "shapes": shapes,
            "imagePath": PurePosixPath(name).name,
        }
        content |= {"imageData": None, "imageHeight": image.size[0], "imageWidth": image.size[1]}
        path = (self.images_of(part) / name).with_suffix(".json")
        write_text(path, json.dumps(content, ensure_ascii=False, indent=1))

    def close(self) -> None:
        write_text(self.root / "labels.txt", "".join(f"{name}\n" for name in self.class_names))


@LABEL_WRITERS.register()
class LabelStudioWriter(LabelWriter):
    """Label Studio: ``tasks.json`` to import, ``label_config.xml`` for its project, and ``images``.

    Tasks name their images as files of a local storage whose root is the folder; masks are single polygons.
    Predictions are predictions there, everything else is annotations.
    """

    key = "label-studio"

    def begin(self) -> None:
        self._stack, self._lists = contextlib.ExitStack(), dict[str, _List]()

    def write(self, part: str, name: str, image: ImageLabels) -> None:
        if part not in self._lists:
            path = self.root / f"{'_'.join(filter(None, ('tasks', part)))}.json"
            file = self._stack.enter_context(atomic_write(path, "w"))
            file.write("[")
            self._lists[part] = _List(file)
        rows = self.objects(image, keeps_scores=True)
        group: dict[str, Any] = {"result": [self._result(row, image.size) for row in rows]}
        if self.predicted:
            scores = [row["score"] for row in rows if "score" in row]
            group |= {"model_version": "detkit", "score": min(scores, default=1.0)}
        address = f"/data/local-files/?d={quote(PurePosixPath('images', part, name).as_posix())}"
        self._lists[part].add({"data": {"image": address}, "predictions" if self.predicted else "annotations": [group]})

    def _result(self, row: Mapping[str, Any], size: tuple[int, int]) -> dict[str, Any]:
        scale = np.array([100 / size[1], 100 / size[0]])
        value: dict[str, Any]
        if outline := one_polygon(row.get("segmentation"), size, self.tolerance):
            points = np.reshape(outline, (-1, 2)) * scale
            kind, value = "polygonlabels", {"points": points.tolist(), "closed": True}
        else:
            (x1, y1), (x2, y2) = np.reshape(corners(row, size), (2, 2)) * scale
            box = {"x": x1, "y": y1, "width": x2 - x1, "height": y2 - y1}
            kind, value = "rectanglelabels", {**{key: float(v) for key, v in box.items()}, "rotation": 0}
        return {
            "id": uuid.uuid4().hex[:10],
            "type": kind,
            "from_name": kind.removesuffix("labels"),
            "to_name": "image",
            "original_width": size[1],
            "original_height": size[0],
            "image_rotation": 0,
            "value": {**value, kind: [self.label(row)]},
            **({"score": row["score"]} if "score" in row else {}),
        }

    def close(self) -> None:
        with self._stack:
            for tasks in self._lists.values():
                tasks.file.write("\n]\n")
        labels = "".join(f"    <Label value={quoteattr(name)}/>\n" for name in self.class_names)
        tags = "".join(
            f'  <{kind}Labels name="{kind.lower()}" toName="image">\n{labels}  </{kind}Labels>\n'
            for kind in ("Rectangle", "Polygon")
        )
        image = '  <Image name="image" value="$image"/>\n'
        write_text(self.root / "label_config.xml", f"<View>\n{image}{tags}</View>\n")
