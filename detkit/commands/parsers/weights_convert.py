"""Convert weights between frameworks, and say what became of every tensor.

Reads checkpoints of detkit, Detectron2 (.pkl, .pth), Caffe2, torchvision, pytorch-mask-rcnn (.pth) and matterport's
Mask R-CNN (.h5). Writes one of detkit, Detectron2 or torchvision. Nothing of a file that is read is ever run. To train
from foreign weights or to predict with them, no conversion is needed: load_weights and train.init_weights read them.

examples:
  Detectron2's weights as a checkpoint of detkit that knows its config
    detkit weights convert model_final_a54504.pkl mask_rcnn.pth \\
        --config-file coco/mask_rcnn_R_50_FPN_1x

  a model of detkit for torchvision; every tensor is listed
    detkit weights convert output/run/model_final.pth torchvision.pth --to torchvision --list

  the same for Detectron2: DetectionCheckpointer reads it, as .pth or as .pkl
    detkit weights convert output/run/model_final.pth detectron2.pth --to detectron2

  matterport's weights for its own layers, or folded into ordinary ones; with a config, the config decides
    detkit weights convert mask_rcnn_coco.h5 seed.pth --mode native
    detkit weights convert mask_rcnn_coco.h5 ordinary.pth --mode folded
"""

import argparse
from collections.abc import Sequence

from detkit.commands.parsers import command_parser, count
from detkit.paths import local_path, output_file, path_or_address


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = command_parser("weights convert", __doc__)
    parser.add_argument("input", type=path_or_address, metavar="INPUT", help="weights of any of these frameworks")
    parser.add_argument("output", type=output_file, metavar="OUTPUT", help="the file to write")
    parser.add_argument("--config-file", type=local_path, metavar="FILE", help="the model that the weights are for")
    parser.add_argument("--to", choices=("detkit", "detectron2", "torchvision"), default="detkit", help="whose layout")
    parser.add_argument(
        "--mode", choices=("native", "folded"), help="how matterport's layers are read, without a config"
    )
    parser.add_argument("--num-classes", type=count, metavar="N", help="of the config's model (default: the file's)")
    parser.add_argument(
        "--class-names", type=local_path, metavar="FILE", help="a text file with a class name a line, if INPUT has none"
    )
    parser.add_argument("--list", action="store_true", help="a line for every tensor, not a summary")
    parser.add_argument("--trust-imports", action="store_true", help="run the code that the config imports")
    parser.add_argument("overrides", nargs="*", metavar="key.path=value", help="changes to the config")
    args = parser.parse_intermixed_args(argv)
    if args.config_file is None and (args.num_classes is not None or args.overrides):
        parser.error("--num-classes and overrides go with --config-file")
    if args.config_file is not None and args.mode is not None:
        parser.error("--mode goes without --config-file: the config's layers decide")
    if args.class_names is not None and args.to != "detkit":
        parser.error(f"--class-names goes with --to detkit: a file for {args.to} has no names of classes")
    return args
