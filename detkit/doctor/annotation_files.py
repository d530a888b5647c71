"""What stands in the data's JSON files: the reader's own rules, but all faults instead of the first."""

import dataclasses
from collections.abc import Iterable

from detkit.data.faults import Fault
from detkit.doctor.interfaces import CHECKS, Check, Finding, Severity
from detkit.doctor.patient import Patient

FIXES = {
    "malformed entry": "give the entry the fields that COCO's format asks for",
    "category id twice": "give each category an id of its own",
    "category name twice": "rename one, or merge both into one category",
    "image id twice": "give each image an id of its own, also in its annotations' image_id",
    "image ids of two kinds": "write all image ids as numbers, or all as strings",
    "annotation id twice": "give each annotation an id of its own",
    "unknown image": "remove the annotation, or add its image to 'images'",
    "unknown category": "correct category_id, or add the category to 'categories'",
    "box that is not finite": "write bbox as x, y, width, height in pixels",
    "box without area": "correct or remove it; data...invalid_boxes: drop leaves it out, error refuses it",
    "box over the edge": "none needed, it is cut; if many, look whether boxes are xyxy or of another image size",
    "no mask": "draw one; invalid_masks: drop leaves the object out, box takes its box as mask",
    "polygon of too few points": "draw it again; invalid_masks: drop leaves it out, box takes the box",
    "malformed polygon": "write each polygon as x, y, x, y, ... with numbers in pairs",
    "malformed RLE": "encode the mask again in its image's size, height first",
}


@CHECKS.register()
class AnnotationFiles(Check):
    """Entries of the files that the reader refuses, leaves out or changes.

    The reader stops at the first fault, so a file with many takes many tries. Faults are found by the reader's own
    rules: categories, images and annotations without the fields they need, ids given twice, unknown categories and
    images, boxes that are not finite, without area or over the edge, masks that are no masks.

    Fix: correct the entries that are named, or let the dataset's ``invalid_boxes`` and ``invalid_masks`` say what
    becomes of them.
    """

    def __call__(self, patient: Patient) -> Iterable[Finding]:
        """A finding for each file and kind."""
        groups: dict[tuple[str, str, bool], list[Fault]] = {}
        for fault in patient.faults:
            groups.setdefault((fault.place, fault.kind, fault.serious), []).append(fault)
        for (place, kind, serious), faults in groups.items():
            severity: Severity = "error" if serious else "warning"
            fix = FIXES.get(kind, "see the message")
            one = Finding(severity, place, f"{kind}: {_first(faults[0].words)}", fix)
            yield dataclasses.replace(one, examples=[f"{fault.entry} ({place})" for fault in faults])


def _first(words: str) -> str:
    """What is wrong, without the way out, which the table has a column for."""
    return words.split(";")[0]
