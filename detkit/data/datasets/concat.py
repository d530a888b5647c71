"""ConcatDataset: several datasets as one."""

import dataclasses
from typing import Any

import numpy as np
import torch

from detkit.config import Recipe
from detkit.data.flat import offsets
from detkit.data.interfaces import DATASETS, NEGATIVE, NOT_EXHAUSTIVE, Dataset, ObjectTable, Record
from detkit.structures import Keypoints, Panoptic


@DATASETS.register()
class ConcatDataset(Dataset):
    """The images of several datasets, one after the other; its classes are theirs together.

    A class is known by its name: classes of the same name are one. They are numbered in the order in which they first
    appear. Datasets need not label the same classes: each record's ``active_classes`` says which classes its own
    dataset labels, and models leave the others out of that image's classification loss. (Evaluation knows nothing of
    it: a detection of a class that an image's dataset does not label counts as wrong.)

    Ids stay unique: image 17 of the second dataset has the id ``"1-17"`` (datasets count from 0), and of D datasets,
    annotation a of number d has the id ``a * D + d``, in the records and in ``coco()`` alike. Categories keep the ids
    of their datasets if these agree on them, else they are numbered from 1.

    Keypoints must be the same wherever there are any; the objects of the other datasets have none that is labelled.

    Semantic maps must have the same classes in all datasets; where one has none, there are none.

    Args:
        datasets: what is put together, in order. A dataset that stands there twice is seen twice as often.

    Raises:
        ValueError: there are no datasets, or two have different keypoints or semantic maps of different classes.
    """

    def __init__(self, *, datasets: tuple[Recipe[Dataset], ...]):
        super().__init__()
        if not datasets:
            raise ValueError("ConcatDataset.datasets: expected at least one dataset, got none")
        self.datasets = tuple(recipe() for recipe in datasets)
        named = [pair for dataset in self.datasets for pair in zip(dataset.class_names, dataset.category_ids)]
        self.class_names = tuple(dict.fromkeys(name for name, _ in named))
        ids = dict(named)
        agreed = len(set(named)) == len(ids) == len(set(ids.values()))
        self.category_ids = tuple(ids[name] if agreed else i for i, name in enumerate(self.class_names, 1))
        for dataset in self.datasets:
            if dataset.keypoint_names and self.keypoint_names not in ((), dataset.keypoint_names):
                found = f"{', '.join(self.keypoint_names)} and {', '.join(dataset.keypoint_names)}"
                raise ValueError(f"ConcatDataset.datasets: expected the same keypoints in all, got {found}")
            if dataset.keypoint_names:
                self.keypoint_names, self.skeleton = dataset.keypoint_names, dataset.skeleton
                self.keypoint_flip_pairs, self.keypoint_sigmas = dataset.keypoint_flip_pairs, dataset.keypoint_sigmas
        semantic = {dataset.semantic_names for dataset in self.datasets}
        if len(semantic - {()}) > 1:
            found = " and ".join(", ".join(names) for names in sorted(semantic))
            raise ValueError(f"ConcatDataset.datasets: expected semantic maps of the same classes, got {found}")
        if () not in semantic:
            self.semantic_names, self.stuff_ids = self.datasets[0].semantic_names, self.datasets[0].stuff_ids
        index = {name: i for i, name in enumerate(self.class_names)}
        self._classes = [np.array([index[n] for n in dataset.class_names], np.int64) for dataset in self.datasets]
        self._starts = offsets(len(dataset) for dataset in self.datasets)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def _place(self, index: int) -> tuple[int, int]:
        """Which dataset an image is of, and its index there."""
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        number = int(np.searchsorted(self._starts, index, side="right")) - 1
        return number, index - int(self._starts[number])

    def _annotation_id(self, number: Any, annotation_id: Any) -> Any:
        return annotation_id * len(self.datasets) + number

    def __getitem__(self, index: int) -> Record:
        number, inner = self._place(index)
        record, classes = self.datasets[number][inner], self._classes[number]
        active = np.zeros(len(self.class_names), bool)
        active[classes if record.active_classes is None else classes[record.active_classes]] = True
        objects = record.objects.with_fields(
            classes=torch.from_numpy(classes)[record.objects.classes],
            annotation_ids=self._annotation_id(number, record.objects.annotation_ids),
        )
        if self.keypoint_names and "keypoints" not in objects:
            unlabelled = np.zeros((len(objects), len(self.keypoint_names), 3), np.float32)
            objects = objects.with_fields(keypoints=Keypoints(unlabelled, self.keypoint_flip_pairs, self.skeleton))
        return dataclasses.replace(
            record, image_id=f"{number}-{record.image_id}", objects=objects, active_classes=active
        )

    def image_size(self, index: int) -> tuple[int, int]:
        number, inner = self._place(index)
        return self.datasets[number].image_size(inner)

    def image_path(self, index: int) -> str | None:
        number, inner = self._place(index)
        return self.datasets[number].image_path(inner)

    def image_id(self, index: int) -> str:
        number, inner = self._place(index)
        return f"{number}-{self.datasets[number].image_id(inner)}"

    def panoptic_map(self, index: int) -> Panoptic | None:
        number, inner = self._place(index)
        found, classes = self.datasets[number].panoptic_map(inner), self._classes[number]
        if found is None or not self.semantic_names:
            return None
        segments = (
            dataclasses.replace(s, class_index=int(classes[s.class_index])) if s.is_thing else s for s in found.segments
        )
        return dataclasses.replace(found, segments=tuple(segments))

    @property
    def has_panoptic_maps(self) -> bool:
        return bool(self.semantic_names) and all(dataset.has_panoptic_maps for dataset in self.datasets)

    def maps(self, index: int) -> dict[str, np.ndarray]:
        number, inner = self._place(index)
        return self.datasets[number].maps(inner)

    def objects(self) -> ObjectTable:
        tables = [dataset.objects() for dataset in self.datasets]
        joined = {
            field.name: np.concatenate([getattr(table, field.name) for table in tables])
            for field in dataclasses.fields(ObjectTable)
        }
        lengths = [len(table) for table in tables]
        joined["images"] = joined["images"] + np.repeat(self._starts[:-1], lengths)
        joined["ids"] = self._annotation_id(np.repeat(np.arange(len(tables)), lengths), joined["ids"])
        joined["classes"] = np.concatenate([own[table.classes] for own, table in zip(self._classes, tables)])
        return ObjectTable(**joined)

    def coco(self) -> dict[str, Any]:
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        categories = {name: {"id": id_, "name": name} for id_, name in zip(self.category_ids, self.class_names)}
        for number, (dataset, classes) in enumerate(zip(self.datasets, self._classes)):
            own = dataset.coco()
            ids = {category["id"]: self.category_ids[c] for category, c in zip(own["categories"], classes.tolist())}
            for image in own["images"]:
                lists = {
                    key: [ids[k] for k in image[key] if k in ids] for key in (NEGATIVE, NOT_EXHAUSTIVE) if key in image
                }
                images.append({**image, **lists, "id": f"{number}-{image['id']}"})
            annotations += [
                {
                    **entry,
                    "id": self._annotation_id(number, entry["id"]),
                    "image_id": f"{number}-{entry['image_id']}",
                    "category_id": ids[entry["category_id"]],
                }
                for entry in own["annotations"]
            ]
            for category in own["categories"]:
                categories[category["name"]] = {**category, **categories[category["name"]]}
        return {"info": {}, "images": images, "annotations": annotations, "categories": list(categories.values())}

    def summary(self) -> str:
        first = f"{len(self.datasets)} datasets with {len(self)} images and {len(self.class_names)} classes together"
        parts = [f"dataset {number}: {dataset.summary()}" for number, dataset in enumerate(self.datasets)]
        return "\n\n".join([first, *parts])
