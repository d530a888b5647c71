"""Sound inputs of every kind, small, from which a fuzz makes its own."""

import copy
import functools
import io
import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as coco_mask
import torch
import torch.distributed as dist
import yaml
from PIL import Image, ImageDraw
from reference_weights import reference_weights
from test_caffe2 import blobs
from test_keras import keras_tensors, write
from tiny_detector import CONFIG, tiny_experiment
from torch.distributed.fsdp import fully_shard

from detkit.checkpoint import Checkpointer, export_state

CONFIGS = CONFIG.parents[1]
SMALL = [
    "model.backbone.width=4",
    "model.neck.out_channels=8",
    "model.roi_heads.box_head.fc_dims=[8]",
    "model.roi_heads.box_head.pooler.output_size=2",
]


def coco() -> list[Any]:
    """COCO files as plain data: polygons, run lengths of both forms, crowds, keypoints, boxes only."""
    images = [{"id": n, "file_name": f"{n}.png", "height": 40, "width": 60} for n in (1, 2)]
    bits = np.zeros((40, 60), np.uint8, order="F")
    bits[5:20, 10:30] = 1
    packed = coco_mask.encode(bits)
    run = {"size": [40, 60], "counts": packed["counts"].decode()}
    counts = {"size": [40, 60], "counts": [405, *[15, 25] * 19, 15, 1220]}
    polygon = [[1, 1, 11, 1, 11, 11, 1, 11], [20, 20, 30, 20, 30, 30]]
    files = []
    for masks in ([polygon], [polygon, run, counts], [None]):
        rows = []
        for number, mask in enumerate(masks * 2, 1):
            row = {"id": number, "image_id": 1 + number % 2, "category_id": 1 + number % 3, "bbox": [10, 5, 20, 15]}
            row |= {"area": 300, "iscrowd": int(isinstance(mask, dict) and number % 4 == 0)}
            rows.append(row | ({} if mask is None else {"segmentation": mask}))
        categories = [{"id": n, "name": name, "supercategory": "x"} for n, name in enumerate("abc", 1)]
        files.append({"info": {}, "images": images, "annotations": rows, "categories": categories})
    points = copy.deepcopy(files[0])
    for row in points["annotations"]:
        row |= {"keypoints": [12, 8, 2, 15, 9, 1, 0, 0, 0], "num_keypoints": 2}
    for category in points["categories"]:
        category |= {"keypoints": ["left_eye", "right_eye", "nose"], "skeleton": [[1, 3], [2, 3]]}
    return [*files, points]


@functools.cache
def photographs() -> dict[str, bytes]:
    """Image files, by suffix."""
    image = Image.new("RGB", (60, 40), (90, 120, 30))
    ImageDraw.Draw(image).ellipse((10, 5, 40, 30), fill=(250, 20, 10))
    deep = Image.fromarray((np.arange(2400).reshape(40, 60) * 27).astype("u2"))
    turned = Image.Exif()
    turned[0x0112] = 6
    kinds = {
        "rgb.png": (image, {}),
        "rgba.png": (image.convert("RGBA"), {}),
        "palette.png": (image.convert("P"), {"transparency": 3}),
        "bilevel.png": (image.convert("1"), {}),
        "deep.png": (deep, {}),
        "rgb.jpg": (image, {}),
        "turned.jpg": (image, {"exif": turned}),
        "progressive.jpg": (image.convert("L"), {"progressive": True}),
        "cmyk.jpg": (image.convert("CMYK"), {}),
        "plain.tiff": (image, {}),
        "lzw.tif": (image, {"compression": "tiff_lzw", "save_all": True, "append_images": [image]}),
        "jpeg.tif": (image, {"compression": "jpeg"}),
        "deep.tif": (deep, {}),
        "float.tif": (deep.convert("F"), {}),
        "moving.gif": (image, {"save_all": True, "append_images": [image.rotate(90), image]}),
        "lossy.webp": (image, {}),
        "moving.webp": (
            image,
            {"lossless": True, "save_all": True, "append_images": [image.rotate(9)], "exif": turned},
        ),
        "rgb.bmp": (image, {}),
        "rgb.ppm": (image, {}),
        "gray.pgm": (image.convert("L"), {}),
        "moving.png": (image, {"save_all": True, "append_images": [image.rotate(9)]}),
        "fax.tif": (image.convert("1"), {"compression": "group4"}),
        "wide.tif": (deep.convert("I"), {}),
        "rle.tga": (image, {"compression": "tga_rle"}),
        "rgb.pcx": (image, {}),
        "rgb.jpeg2000": (image, {}),
        "rgb.avif": (image, {}),
    }
    files = {}
    for name, (picture, options) in kinds.items():
        picture.save(
            file := io.BytesIO(),
            {"jpg": "jpeg", "tif": "tiff", "pgm": "ppm"}.get(name[-3:], name.split(".")[1]),
            **options,
        )
        files[name] = file.getvalue()
    return files


@functools.cache
def videos() -> dict[str, bytes]:
    """Videos of twelve frames, by name."""
    import av

    files = {}
    for suffix, codec in (
        ("mp4", "mpeg4"),
        ("mp4", "libx264"),
        ("mkv", "libx264"),
        ("avi", "mjpeg"),
        ("webm", "libvpx"),
        ("ts", "libx264"),
        ("flv", "flv1"),
        ("mkv", "ffv1"),
    ):
        kind = {"mkv": "matroska", "ts": "mpegts"}.get(suffix, suffix)
        with av.open(file := io.BytesIO(), "w", format=kind) as container:
            container.metadata["title"] = "a title to be damaged"
            stream = container.add_stream(codec, rate=10)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p" if codec == "mjpeg" else "yuv420p"
            for number in range(12):
                frame = np.full((48, 64, 3), number * 20, np.uint8)
                frame[10:30, number : number + 20] = (200, 40, 90)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode())
        files[f"{codec}.{suffix}"] = file.getvalue()
    return files


@functools.cache
def small_model() -> torch.nn.Module:
    """A detector of a few thousand weights, always the same ones."""
    torch.manual_seed(0)
    return tiny_experiment(
        *SMALL, "model.roi_heads.box_head.class_agnostic=false", "model.roi_heads.mask_head=null"
    ).build_model()


def trainer_state() -> dict[str, Any]:
    """What a trainer's state has in it."""
    weights = {n: {"exp_avg": torch.ones(3) * n, "step": torch.tensor(4.0)} for n in range(3)}
    return {"finished": 4, "pending": [], "ranks": [{"torch": torch.arange(9)}], "optimizer": {"state": weights}}


def checkpoints(folder: Path) -> dict[str, Path]:
    """A file or folder of each kind that is read, by kind. In a process of its own: it makes a process group."""
    model, config = small_model(), tiny_experiment().tree
    state, reference = model.state_dict(), dict(keras_tensors(reference_weights()))
    own = Checkpointer(folder).save("checkpoint_0000003", model, trainer_state=trainer_state(), config=config)
    names = ("repacked.pth", "detectron2.pkl", "torchvision.pth", "matterport.h5", "caffe2.pkl")
    made = {Path(name).stem: folder / name for name in names} | {"own": own}
    shutil.copy(own, made["repacked"])
    arrays = {name: tensor.numpy() for name, tensor in export_state(state, "detectron2").items()}
    made["detectron2"].write_bytes(pickle.dumps({"model": arrays, "__author__": "Detectron2"}, protocol=2))
    torch.save(export_state(state, "torchvision"), made["torchvision"])
    write(made["matterport"], reference.items())
    some = {name: array[:1, :1] if array.ndim > 1 else array[:1] for name, array in blobs().items()}
    made["caffe2"].write_bytes(pickle.dumps({"blobs": some, "cfg": "NUM_GPUS: 8"}, protocol=2))
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=0, world_size=1)
    mesh = torch.distributed.init_device_mesh("cpu", (1,))
    sharded = Checkpointer(folder, sharded=True)
    for parameter in model.parameters():
        parameter.data = parameter.data.contiguous()  # which is all that fully_shard takes
    fully_shard(model, mesh=mesh)
    made["sharded"] = sharded.save("checkpoint_0000004", model, trainer_state=trainer_state(), config=config)
    dist.destroy_process_group()
    return made


@functools.cache
def configs() -> list[dict[str, Any]]:
    """Configs as plain data, the paths of their bases absolute."""
    files = []
    for path in sorted(CONFIGS.glob("*/*.yaml")):
        content = yaml.safe_load(path.read_text())
        bases = content.get("_base_", [])
        bases = bases if isinstance(bases, list) else [bases]
        files.append({**content, "_base_": [str((path.parent / base).resolve()) for base in bases]})
    return files


@functools.cache
def options() -> dict[str, str]:
    """Every option of the tiny experiment, by its dotted path, as the YAML of its value."""
    found: dict[str, str] = {}

    def walk(value: Any, path: str) -> None:
        if path:
            found[path] = json.dumps(value)
        for key, inner in value.items() if isinstance(value, dict) else ():
            walk(inner, f"{path}.{key}" if path else key)

    walk(tiny_experiment(*SMALL).tree, "")
    return found
