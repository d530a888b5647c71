"""Draws the stages of a detector: the work of ``detkit visualize model``."""

import argparse
import copy
import dataclasses
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from detkit.checkpoint import load_weights, read_checkpoint
from detkit.commands.loading import first_samples, load_given
from detkit.commands.parsers.visualize_model import parse_arguments
from detkit.evaluating import evaluated
from detkit.experiment import Experiment
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


def load(exp: Experiment, weights: str | os.PathLike[str] | None) -> Predictor:
    """The model, in evaluation mode on the config's device. Raises ConfigError where it has no such stages."""
    if weights is not None:
        checkpoint = read_checkpoint(weights)
        names = checkpoint.class_names or exp.data.train_set.class_names
        model = exp.filled_model(checkpoint, names)
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
    if args.image:
        return ((path.stem, predictor.sample(path)) for path in args.image)
    return ((str(sample.image_id), sample) for sample in first_samples(exp.data.test(), args.num))


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
        yield (
            "5_detections",
            prediction_picture(
                self.sample, output, self.names, score_thresh=thresh, semantic_names=self.model.semantic_names
            ),
        )

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
    exp = load_given(args)
    predictor = load(exp, evaluated(args.config_file, args.weights))
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
    """Runs the command; 0 when it went well, 2 after a user's mistake."""
    return visualize(parse_arguments(argv))
