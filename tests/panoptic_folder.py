"""COCO panoptic data on disk, made of drawn shapes."""

import json
from pathlib import Path

from PIL import Image

from detkit.data import Shapes
from detkit.evaluation import PanopticWriter, categories_of


def write_panoptic(folder: Path, num_images: int = 3, **options) -> tuple[dict[str, str], Shapes]:
    """Images, instances.json, panoptic.json and its PNGs; the options of CocoPanoptic for them, and what was drawn."""
    drawn = Shapes(num_images=num_images, panoptic=True, **options)
    content = drawn.coco()
    categories = categories_of(drawn.class_names, drawn.category_ids, drawn.semantic_names, drawn.stuff_ids)
    writer = PanopticWriter(folder / "panoptic", categories)
    (folder / "images").mkdir()
    for index, image in enumerate(content["images"]):
        image["file_name"] = f"{index}.png"
        Image.fromarray(drawn.read_image(index)).save(folder / "images" / image["file_name"])
        writer.add(image["id"], drawn.panoptic_map(index))
    writer.close()
    segments = json.loads(writer.json_file.read_text())
    writer.json_file.write_text(json.dumps({**segments, "images": content["images"]}))
    (folder / "instances.json").write_text(json.dumps(content))
    names = {"json_file": "instances.json", "image_root": "images"}
    names |= {"panoptic_json": "panoptic.json", "panoptic_root": "panoptic"}
    return {option: str(folder / name) for option, name in names.items()}, drawn
