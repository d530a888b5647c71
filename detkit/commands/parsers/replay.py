"""Run the batch of a step that failed again, and find out where what is not finite comes from.

A training that meets a loss or a gradient that is not finite (NaN, infinite) stops and leaves a folder
failure_step_<n> in its output_dir: the batch, the weights, the optimizer, the random state, the config and the words
of the error. This tool builds the model from that config, takes that state and runs the batch forward and backward,
to the same numbers (on the machine that it failed on; others may differ in the last bit). It says

  - the loss terms, and whether they are what they were when the step failed;
  - the first module whose output is not finite, and whether its inputs were: if they were, the mistake is in that
    module or in its weights; if all outputs are finite, it is in the computation of the loss or in its target;
  - the first gradient that is not finite, and the parameters that it reached;
  - each image alone, term by term; and which annotation it takes for the batch to fail;
  - mistakes in the targets themselves: boxes that are not finite or without area, masks without pixels.

It draws the batch with its targets and the ids of the annotations into FAILURE_DIR/pictures.

examples:
  look at a failure
    detkit replay output/run/failure_step_1234

  does it go away without the mask head's odd option, or in full precision?
    detkit replay output/run/failure_step_1234 train.precision=fp32

  a failure on a GPU is noticed some steps later, when the weights are spoilt: take those of the last checkpoint
    detkit replay output/run/failure_step_1234 --weights output/run/checkpoint_0001199.pth

  the batch of another process
    detkit replay output/run/failure_step_1234 --rank 1

The exit code is 0 where everything is finite now, 1 where the batch fails again, 2 after a mistake.
"""

import argparse
from collections.abc import Sequence

from detkit.commands.parsers import command_parser, count_or_zero
from detkit.paths import local_path, path_or_address


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = command_parser("replay", __doc__)
    parser.add_argument("folder", type=local_path, metavar="FAILURE_DIR", help="what a failed training left")
    parser.add_argument(
        "--rank", type=count_or_zero, default=0, metavar="R", help="whose batch, of several processes (default: 0)"
    )
    parser.add_argument(
        "--weights", type=path_or_address, metavar="FILE", help="other weights than those of the failure"
    )
    parser.add_argument("--no-pictures", action="store_true", help="draw nothing")
    parser.add_argument("--trust-imports", action="store_true", help="run the code that the config imports")
    parser.add_argument("overrides", nargs="*", metavar="key.path=value", help="changes to the config")
    return parser.parse_intermixed_args(argv)
