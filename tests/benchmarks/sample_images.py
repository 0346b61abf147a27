"""JPEG images for the benchmarks, and the loading that torchvision's references document."""

import subprocess
import sys
import tempfile
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path

from measure import SCRIPTS

sys.path.insert(0, str(SCRIPTS))

import torchvision.transforms as tf
from torch import float32
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

from training.images.augment import AugmentedImages
from training.images.cached import CachedImages
from training.images.pixel_cache import decode_once
from training.images.tinyimagenet import TinyImageNet

CLASSES = 200
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@contextmanager
def sample_images(
    per_class: int, val_per_class: int = 1, classes: int = CLASSES, size: int = 64
) -> Iterator[Path]:
    """Make real JPEGs of about 2 KB at 64 x 64, as TinyImageNet's are; gone at the end."""
    with tempfile.TemporaryDirectory() as name:
        words = [sys.executable, SCRIPTS / "prepare_data.py", "tinyimagenet", "--synthetic"]
        words += [f"{name}/images", f"--classes={classes}", f"--train-per-class={per_class}"]
        words += [f"--val-per-class={val_per_class}", f"--image-size={size}"]
        subprocess.run(words, check=True, capture_output=True)
        yield Path(name) / "images"


def open_cache(data_dir: Path, *, flip: bool = True) -> CachedImages:
    """The training images as train.py --input cache has them; made when they are not there."""
    images = AugmentedImages(TinyImageNet(data_dir, "train"), 64, flip=flip, seed=0)
    args = Namespace(data_dir=data_dir, cache_dir=data_dir / ".decoded", num_workers=0)
    with redirect_stdout(StringIO()):
        return decode_once(images, "train", args)


def reference_loader(data_dir: Path, batch_size: int, size: int = 64, **options) -> DataLoader:
    """Loading as torchvision's classification references do it: classes of transforms on PIL."""
    steps = [
        tf.RandomResizedCrop(size),
        tf.RandomHorizontalFlip(0.5),
        tf.PILToTensor(),
        tf.ConvertImageDtype(float32),
        tf.Normalize(mean=MEAN, std=DEVIATION),
    ]
    dataset = ImageFolder(str(data_dir / "train"), tf.Compose(steps))
    return DataLoader(dataset, batch_size, shuffle=True, drop_last=True, **options)
