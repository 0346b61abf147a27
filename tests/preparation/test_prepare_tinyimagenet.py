"""prepare_data.py tinyimagenet: the images that --digits and --synthetic make."""

import json
import re
from pathlib import Path

import numpy as np
from PIL import Image
from test_prepare_data import SMALL, prepare, read_tree

from training.images.tinyimagenet import load_splits

# ------------------------------------------------------------------------------
# --digits
# ------------------------------------------------------------------------------

DIGIT_COUNTS = [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]  # of the UCI test part


def test_digits_are_all_there_and_split_stratified(digits):
    train_set, val_set = load_splits(digits)
    assert train_set.classes == [f"d000000{digit}" for digit in range(10)]
    train = np.bincount([label for _, label in train_set.samples])
    val = np.bincount([label for _, label in val_set.samples])
    assert (train + val).tolist() == DIGIT_COUNTS and train.sum() + val.sum() == 1797
    assert all(abs(n_val - 0.2 * n) <= 1 for n_val, n in zip(val, DIGIT_COUNTS, strict=True))


def test_digits_are_64x64_rgb_jpegs(digits):
    for path in digits.rglob("*.JPEG"):
        with Image.open(path) as image:
            assert (image.format, image.size, image.mode) == ("JPEG", (64, 64), "RGB")


def test_digits_hold_the_real_pixels_each_once(digits):
    """Shrunk back to 8x8, file k of a class is scikit-learn's k-th image of that digit."""
    from sklearn.datasets import load_digits

    source = load_digits()
    train_set, val_set = load_splits(digits)
    for digit in range(10):
        real = source.images[source.target == digit].reshape(-1, 64) * 255 / 16
        made = np.full_like(real, np.nan)
        for i, (path, label) in enumerate(train_set.samples):
            if label == digit:
                made[int(Path(path).stem.split("_")[1])] = shrink(train_set[i][0])
        # The places that are left are those of the validation images, in their order.
        made[np.isnan(made[:, 0])] = [shrink(image) for image, label in val_set if label == digit]
        distance = np.abs(made[:, None] - real[None]).mean(axis=2)  # grey levels, of 255
        assert distance.diagonal().max() < 17  # smoothing costs that much
        assert (distance.argmin(axis=1) == np.arange(len(real))).mean() > 0.99


def shrink(image: Image.Image) -> np.ndarray:
    grey = image.convert("L").resize((8, 8), Image.Resampling.BOX)
    return np.asarray(grey, dtype=float).ravel()


def test_digits_have_the_lists_of_the_original(digits):
    assert (digits / "words.txt").read_text().splitlines()[3] == "d0000003\thandwritten digit 3"
    assert (digits / "wnids.txt").read_text().splitlines()[3] == "d0000003"
    line = (digits / "val/val_annotations.txt").read_text().splitlines()[0]
    assert re.fullmatch(r"val_0\.JPEG\td000000\d\t0\t0\t63\t63", line)
    assert (digits / "train/d0000000/images/d0000000_0.JPEG").is_file()


def test_digits_are_found_again_and_not_made_again(digits):
    before = digits.stat().st_ino
    status, out, _ = prepare("--digits", digits)
    expected = "is already there: digits, 10 classes, 1,438 train and 359 val images\n"
    assert (status, out) == (0, f"{digits} {expected}")
    assert digits.stat().st_ino == before


# ------------------------------------------------------------------------------
# --synthetic
# ------------------------------------------------------------------------------


def test_synthetic_has_the_size_that_was_asked_for(tmp_path):
    status, out, err = prepare("--synthetic", *SMALL, "--image-size", 32, tmp_path / "a/b")
    assert (status, err) == (0, "")
    expected = r"/a/b is ready: synthetic, 3 classes, 12 train and 6 val images, \d+\.\d s\n"
    assert re.fullmatch(re.escape(str(tmp_path)) + expected, out)
    train_set, val_set = load_splits(tmp_path / "a/b")
    assert [len(train_set.classes), len(train_set), len(val_set)] == [3, 12, 6]
    assert {image.size for image, _ in train_set} == {(32, 32)}
    # The first validation images show every class, for runs that stop after a few batches.
    assert [label for _, label in val_set.samples] == [0, 1, 2, 0, 1, 2]
    record = json.loads((tmp_path / "a/b/dataset.json").read_text())
    assert record == {
        "workload": "tinyimagenet",
        "source": "synthetic",
        "parameters": {
            "classes": 3,
            "train_per_class": 4,
            "val_per_class": 2,
            "image_size": 32,
            "seed": 0,
        },
        "classes": 3,
        "train_images": 12,
        "val_images": 6,
    }


def test_synthetic_is_the_same_for_a_seed_and_any_number_of_workers(tmp_path):
    for name, options in {
        "one": ["--workers", 1],
        "two": ["--seed", 0],
        "other": ["--seed", 1],
    }.items():
        assert prepare("--synthetic", *SMALL, *options, tmp_path / name)[0] == 0
    one, two, other = (read_tree(tmp_path / name) for name in ("one", "two", "other"))
    assert one == two
    images = [name for name in one if name.endswith(".JPEG")]
    assert len(images) == 18 and all(one[name] != other[name] for name in images)
    assert len({one[name] for name in images}) == 18  # no image twice


def test_synthetic_images_weigh_as_the_real_ones_and_can_be_learnt(tmp_path):
    options = ["--classes", 8, "--train-per-class", 20, "--val-per-class", 5]
    assert prepare("--synthetic", *options, tmp_path / "data")[0] == 0
    weights = [path.stat().st_size for path in (tmp_path / "data").rglob("*.JPEG")]
    assert 1800 <= np.mean(weights) <= 2300  # bytes; 248 MB / 120,000 images in the real archive
    sets = load_splits(tmp_path / "data")
    (train, label), (val, val_label) = (
        (np.stack([measure_spectrum(x) for x, _ in each]), np.array([y for _, y in each]))
        for each in sets
    )
    means = np.stack([train[label == k].mean(axis=0) for k in range(8)])
    nearest = np.linalg.norm(val[:, None] - means[None], axis=2).argmin(axis=1)
    assert (nearest == val_label).mean() >= 0.9  # one in eight by chance


def measure_spectrum(image: Image.Image) -> np.ndarray:
    """Return what is left of an image when shifts, as a convolution does, no longer matter."""
    return np.abs(np.fft.fft2(np.asarray(image, dtype=float), axes=(0, 1))).ravel()
