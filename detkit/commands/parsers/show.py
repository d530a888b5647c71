"""Show what a config says, what it could say, and who said it.

examples:
  the complete config, every default written out:
    detkit show quick_start/mask_rcnn_shapes
  the same with changes:
    detkit show quick_start/mask_rcnn_shapes model.neck.name=PAFPN
  the configs that come with detkit, by the names that every command takes:
    detkit show --configs
  every role, and what is registered for it:
    detkit show --list
  which configs use a part, or the parts of a role:
    detkit show --list FPN
    detkit show --list MaskHead
  the options of a class, or of what stands at a path:
    detkit show --options ConvUpsampleMaskHead
    detkit show quick_start/mask_rcnn_shapes --options model.roi_heads
  which file, override or default set a value:
    detkit show quick_start/mask_rcnn_shapes --why model.neck.out_channels
"""

import argparse
from collections.abc import Sequence

from detkit.commands.parsers import add_config, command_parser, parse_with_config

TRUST = "--trust-imports runs what the config imports"


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = command_parser("show", __doc__)
    add_config(parser)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--configs", action="store_true", help="the configs that come with detkit")
    what.add_argument(
        "--list", nargs="?", const="", metavar="PART", help="all roles and what is registered; of a part, what uses it"
    )
    what.add_argument("--options", metavar="CLASS_OR_PATH", help="the options of a class or of a node of the config")
    what.add_argument("--why", metavar="KEY.PATH", help="where the value at a path, or each one below it, was set")
    parser.add_argument("--trust-imports", action="store_true", help="run the code that the config imports")
    args = parse_with_config(parser, argv, needed=False)
    if args.list and (not args.list[:1].isupper() or "." in args.list):
        parser.error(f"--list {args.list}: expected a class, such as FPN, or a role, such as MaskHead")
    if args.config_file is None and (
        args.why or args.overrides or not (args.configs or args.list is not None or args.options)
    ):
        parser.error("give a CONFIG (alone, --configs, --list and --options CLASS go without)")
    return args
