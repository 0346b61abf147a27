"""Real images that need no network: scikit-learn's handwritten digits in TinyImageNet's layout."""

from pathlib import Path

from preparation.image_layout import make_layout

DIGITS_RECIPE = {"image_size": 64, "quality": 95, "val_every": 5}


def write_digits(scratch: Path) -> Path:
    """Write scikit-learn's digits as 64x64 RGB JPEGs, every fifth of a class for validation.

    Source: sklearn.datasets.load_digits, 1,797 images of 8x8 pixels with 17 grey levels; the test
    part of the UCI set "Optical Recognition of Handwritten Digits".
    """
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    root = scratch / "dataset"
    size, every = (DIGITS_RECIPE["image_size"],) * 2, DIGITS_RECIPE["val_every"]
    nth_of_class = [int((digits.target[:i] == k).sum()) for i, k in enumerate(digits.target)]
    in_val = [nth % every == every // 2 for nth in nth_of_class]
    val_labels = [k for k, val in zip(digits.target, in_val, strict=True) if val]
    words = {f"d{k:07d}": f"handwritten digit {k}" for k in range(10)}
    wnids = make_layout(root, words, val_labels)
    val_paths = (root / "val" / "images" / f"val_{i}.JPEG" for i in range(len(val_labels)))
    for levels, k, nth, val in zip(digits.images, digits.target, nth_of_class, in_val, strict=True):
        image = Image.fromarray(np.uint8(levels * 255 / 16)).resize(size, Image.Resampling.BICUBIC)
        train_path = root / "train" / wnids[k] / "images" / f"{wnids[k]}_{nth}.JPEG"
        path = next(val_paths) if val else train_path
        image.convert("RGB").save(path, quality=DIGITS_RECIPE["quality"])
    return root
