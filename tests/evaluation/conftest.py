import json

import pytest


@pytest.fixture(scope="session")
def coco_mini(shared_data):
    """coco_mini's validation ground truth with category_id = class index + 1."""
    coco = json.loads((shared_data / "coco_mini/annotations/instances_val2017.json").read_text())
    number = {c["id"]: k for k, c in enumerate(coco["categories"], 1)}
    for c in coco["categories"]:
        c["id"] = number[c["id"]]
    for a in coco["annotations"]:
        a["category_id"] = number[a["category_id"]]
    assert sum(a["iscrowd"] for a in coco["annotations"]) > 0
    return coco
