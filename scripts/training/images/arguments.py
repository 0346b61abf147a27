"""The options of train.py. Nothing here imports PyTorch: --help answers at once."""

import os
from argparse import Namespace
from pathlib import Path

from training.arguments import TrainerParser, add_run_arguments, not_negative, positive

# torchvision's classification models; a test compares the names with torchvision's own list.
MODELS = (
    "alexnet", "convnext_base", "convnext_large", "convnext_small", "convnext_tiny",
    "densenet121", "densenet161", "densenet169", "densenet201", "efficientnet_b0",
    "efficientnet_b1", "efficientnet_b2", "efficientnet_b3", "efficientnet_b4",
    "efficientnet_b5", "efficientnet_b6", "efficientnet_b7", "efficientnet_v2_l",
    "efficientnet_v2_m", "efficientnet_v2_s", "googlenet", "inception_v3", "maxvit_t",
    "mnasnet0_5", "mnasnet0_75", "mnasnet1_0", "mnasnet1_3", "mobilenet_v2",
    "mobilenet_v3_large", "mobilenet_v3_small", "regnet_x_16gf", "regnet_x_1_6gf",
    "regnet_x_32gf", "regnet_x_3_2gf", "regnet_x_400mf", "regnet_x_800mf", "regnet_x_8gf",
    "regnet_y_128gf", "regnet_y_16gf", "regnet_y_1_6gf", "regnet_y_32gf", "regnet_y_3_2gf",
    "regnet_y_400mf", "regnet_y_800mf", "regnet_y_8gf", "resnet101", "resnet152", "resnet18",
    "resnet34", "resnet50", "resnext101_32x8d", "resnext101_64x4d", "resnext50_32x4d",
    "shufflenet_v2_x0_5", "shufflenet_v2_x1_0", "shufflenet_v2_x1_5", "shufflenet_v2_x2_0",
    "squeezenet1_0", "squeezenet1_1", "swin_b", "swin_s", "swin_t", "swin_v2_b", "swin_v2_s",
    "swin_v2_t", "vgg11", "vgg11_bn", "vgg13", "vgg13_bn", "vgg16", "vgg16_bn", "vgg19",
    "vgg19_bn", "vit_b_16", "vit_b_32", "vit_h_14", "vit_l_16", "vit_l_32", "wide_resnet101_2",
    "wide_resnet50_2",
)  # fmt: skip


def parse_args(doc: str = "") -> Namespace:
    """Read the command line; ends the program where an argument is wrong, and after --help."""
    parser = TrainerParser(doc)
    add_run_arguments(parser, epochs=3, batch_size=512, lr=0.001, scaling="weak")
    add_tinyimagenet_arguments(parser)
    args = parser.parse_args()
    if not args.data_dir:
        parser.error("no data: pass --data-dir DIR or set DATA_DIR")
    if args.model not in MODELS:
        parser.error(f"torchvision has no classification model {args.model!r}")
    return args


def add_tinyimagenet_arguments(parser) -> None:
    """Add the options on data, model and schedule, and on how fast a step is made."""
    add = parser.add_argument
    data_dir = os.environ.get("DATA_DIR")
    add("--data-dir", default=data_dir, help="TinyImageNet folder (default: $DATA_DIR)")
    add("--model", default="resnet50", help="a torchvision model (default: resnet50)")
    add("--image-size", type=positive(int), default=64, help="pixels a side (default: 64)")
    add("--no-flip", action="store_false", dest="flip", help="never mirror images (for digits)")
    add("--momentum", type=not_negative(float), default=0.9, help="of SGD (default: 0.9)")
    add("--weight-decay", type=not_negative(float), default=1e-4, help="of SGD (default: 0.0001)")
    add("--step-size", type=positive(int), default=30, help="epochs per LR step (default: 30)")
    add("--gamma", type=positive(float), default=0.1, help="LR factor of a step (default: 0.1)")
    add(
        "--input",
        choices=["cache", "jpeg", "device"],
        default="cache",
        help="images decoded once per node, or in every epoch, or once and kept on the GPU; the "
        "batches are the same (default: cache)",
    )
    add(
        "--cache-dir",
        type=Path,
        default=os.environ.get("CACHE_DIR") or None,
        help="folder of the decoded images (default: $CACHE_DIR, else .decoded/ in the data "
        "folder, else one in $TMPDIR)",
    )
    add(
        "--cuda-graph",
        action="store_true",
        help="launch a pass as one graph: for a GPU that waits for Python (default: do not)",
    )
