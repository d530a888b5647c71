#!/usr/bin/env python3
"""Show what a two-stage detector does with an image, stage by stage, as pictures.

For each image a folder with: 1_input.png (what the network sees, with the part that is no padding), 2_anchors.png
(anchors matched to the ground truth), 3_proposals.png (the best by objectness, before and after suppression),
4_regions.png (the regions that training would sample, with their classes), 5_detections.png. Anchors and regions need
ground truth, so an image of your own has none of these two.

examples:
  the first test images of a run, with its weights
    python tools/visualize_model.py --config-file output/quick_start/config.yaml \\
        --weights output/quick_start/model_final.pth

  anchors of a config before any training: do they fit the objects?
    python tools/visualize_model.py --config-file my.yaml --num 10 --output output/look

  one image of your own
    python tools/visualize_model.py --config-file my.yaml --weights my.pth --image photo.jpg --output output/look
"""

import argparse
import copy
import dataclasses
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from detkit.paths import local_path, path_or_address


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True, type=local_path, metavar="FILE", help="a YAML")
    parser.add_argument(
        "--weights",
        type=path_or_address,
        metavar="FILE",
        help="a checkpoint (default: what a training with this config starts from)",
    )
    parser.add_argument(
        "--image", type=local_path, nargs="+", default=[], metavar="FILE", help="instead of test images"
    )
    parser.add_argument("--num", type=int, metavar="N", help="how many test images (default: 4)")
    parser.add_argument("--top", type=int, default=50, metavar="N", help="proposals in a picture (default: 50)")
    parser.add_argument("--score-thresh", type=float, default=0.5, metavar="P", help="of detections (default: 0.5)")
    parser.add_argument(
        "--output", type=local_path, metavar="DIR", help="where the pictures go (default: <train.output_dir>/stages)"
    )
    parser.add_argument("--trust-imports", action="store_true", help="run the code that the config imports")
    parser.add_argument("overrides", nargs="*", metavar="key.path=value", help="changes to the config")
    args = parser.parse_intermixed_args(argv)
    if args.image and args.num is not None:
        parser.error("--num counts test images, and --image gives others instead: give one of them")
    args.num = 4 if args.num is None else args.num
    if not 0 <= args.score_thresh <= 1:
        parser.error(f"--score-thresh: expected a score between 0 and 1, got {args.score_thresh:g}")
    for option in ("num", "top"):
        if getattr(args, option) < 1:
            parser.error(f"--{option}: expected at least 1, got {getattr(args, option)}")
    return args


if __name__ == "__main__":
    parse_arguments(None)  # so --help and mistakes are answered at once: what is imported from here on takes seconds

import numpy as np
import torch

from detkit import command_line
from detkit.checkpoint import load_all_weights, load_weights, read_checkpoint
from detkit.experiment import Experiment, load_experiment
from detkit.predictor import Predictor
from detkit.registry import ConfigError
from detkit.structures import Boxes, ImageList, Instances, Sample
from detkit.utils.file_names import file_stem
from detkit.utils.progress import watched
from detkit.visualization import (
    Drawing,
    prediction_picture,
    side_by_side,
    write_picture,
)
from detkit.visualization.stages import ANCHOR_LABELS, YELLOW, draw_anchors, draw_proposals, draw_regions


def load(exp: Experiment, weights: str | None) -> Predictor:
    """The model, in evaluation mode on the config's device. Raises ConfigError where it has no such stages."""
    if weights is not None:
        checkpoint = read_checkpoint(weights)
        model = exp.build_model(class_names=checkpoint.class_names or exp.data.train_set.class_names, pretrained=False)
        load_all_weights(model, checkpoint)
    else:
        model = exp.build_model()
        if exp.train.init_weights is not None:
            load_weights(model, exp.train.init_weights, partial=True)
    parts = ("proposal_generator", "roi_heads", "preprocess", "features")
    lacking = [name for name in parts if not hasattr(model, name)]
    if lacking:
        raise ConfigError(f"model: {type(model).__name__} has no {', '.join(lacking)}; its stages cannot be shown")
    augmentations = [recipe() for recipe in exp.data.test_augmentations]
    return Predictor(model, augmentations=augmentations, device=exp.train.device, reading=exp.data.reading)


def samples_of(exp: Experiment, predictor: Predictor, args: argparse.Namespace) -> Iterator[tuple[str, Sample]]:
    """A name and a sample for each image that is asked for."""
    for path in args.image:
        yield path.stem, predictor.sample(path)
    batches: Iterable[list[Sample]] = () if args.image else exp.data.test()
    given = 0
    for batch in batches:
        for sample in batch[: args.num - given]:
            given += 1
            yield str(sample.image_id), sample
        if given == args.num:
            return


class Stages:
    """Pictures of what a model does with one sample.

    Args:
        predictor: the model.
        sample: the image, with ground truth or without.
        args: the command line.
    """

    def __init__(self, predictor: Predictor, sample: Sample, args: argparse.Namespace):
        model: Any = predictor.model
        self.model, self.sample, self.args, self.names = model, sample, args, predictor.class_names
        self.images: ImageList = model.preprocess([sample])
        self.target: Instances | None = None
        if sample.target is not None:
            self.images, (self.target,) = model.preprocess.with_targets([sample])
        self.features = model.features(self.images)
        self.image = model.preprocess.pixels(self.images.tensor[0])

    def pictures(self) -> Iterator[tuple[str, np.ndarray]]:
        """A name and a picture a stage."""
        yield "1_input", self.input()
        if self.target is not None and hasattr(self.model.proposal_generator, "label"):
            yield "2_anchors", self.anchors(self.target)
        yield "3_proposals", self.proposals()
        if self.target is not None and hasattr(self.model.roi_heads, "sample"):
            yield "4_regions", self.regions(self.target)
        output = self.model.predict([self.sample])[0].to("cpu")
        thresh = self.args.score_thresh
        yield "5_detections", prediction_picture(self.sample, output, self.names, score_thresh=thresh)

    def input(self) -> np.ndarray:
        """The padded batch of one image."""
        region, (height, width) = self.images.valid_region(0), self.images.padded_size
        title = f"input: {width} x {height}, valid region {', '.join(map(str, region))}"
        drawing = Drawing(self.image)
        drawing.boxes(np.array([region]), YELLOW, 2 * drawing.line)
        return side_by_side([drawing.array()], [title])

    def anchors(self, target: Instances) -> np.ndarray:
        """All kinds of anchors after matching and sampling."""
        generator = self.model.proposal_generator
        objectness, _ = generator.head([self.features[name] for name in generator.in_features])
        anchors = Boxes.cat(generator.anchor_generator(objectness, self.images.padded_size))
        matches, labels = generator.label(anchors, [target])
        (matches,), (labels,) = matches, generator.sampling.only_sampled(labels, background=0)
        drawn, titles = [], []
        for kind, label in ANCHOR_LABELS.items():
            drawing = Drawing(self.image)
            draw_anchors(drawing, anchors, labels, matches, target, kind=kind)
            drawn.append(drawing.array())
            titles.append(f"{kind} anchors: {int((labels == label).sum())}")
        titles[0] += f", objects: {len(target)}"
        return side_by_side(drawn, titles)

    def proposals(self) -> np.ndarray:
        """The best proposals, before suppression (where the generator lets it be switched off) and after."""
        generator, top = self.model.proposal_generator, self.args.top
        stages = {"after NMS": generator}
        if hasattr(getattr(generator, "selection", None), "nms_thresh"):
            lenient = copy.copy(generator)
            lenient.selection = dataclasses.replace(generator.selection, nms_thresh=1.0)
            stages = {"before NMS": lenient, **stages}
        found = [stage.predict(self.images, self.features)[0] for stage in stages.values()]
        drawings = [Drawing(self.image) for _ in found]
        for drawing, proposals in zip(drawings, found):
            draw_proposals(drawing, proposals, most=top)
        titles = [f"best {min(top, len(p))} of {len(p)} proposals {name}" for name, p in zip(stages, found)]
        return side_by_side([drawing.array() for drawing in drawings], titles)

    def regions(self, target: Instances) -> np.ndarray:
        """What a training step would sample of its proposals."""
        proposals, _ = self.model.proposal_generator.loss(self.images, self.features, [target])
        roi_heads = self.model.roi_heads
        (sampled,) = roi_heads.sample(roi_heads.label(proposals, [target]))
        count = int((sampled.classes < len(self.names)).sum())
        front, back = Drawing(self.image), Drawing(self.image)
        draw_regions(front, sampled, self.names)
        draw_regions(back, sampled, self.names, foreground=False)
        return side_by_side(
            [front.array(), back.array()],
            [f"foreground regions: {count}", f"background regions: {len(sampled) - count}"],
        )


@torch.no_grad()
def visualize(args: argparse.Namespace) -> int:
    """Does what the command line asks for."""
    exp = load_experiment(args.config_file, args.overrides, trust_imports=args.trust_imports)
    predictor = load(exp, args.weights)
    output = args.output or Path(exp.train.output_dir) / "stages"
    total = len(args.image) or min(args.num, len(exp.data.test_set))
    written = 0
    for number, (name, sample) in enumerate(watched(samples_of(exp, predictor, args), "images", total=total)):
        folder = output / "_".join([f"{number:04d}", file_stem(name)])
        for stage, picture in Stages(predictor, sample, args).pictures():
            write_picture(picture, folder / f"{stage}.png")
            written += 1
    print(f"{written} pictures: {output}/")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the tool; 0 when it went well, 2 after a user's mistake."""
    args = parse_arguments(argv)
    return command_line.run(lambda: visualize(args))


if __name__ == "__main__":
    sys.exit(main())
