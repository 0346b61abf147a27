"""The TinyImageNet reader: layouts in the wild, labels, damaged images, damaged folders."""

import os
import random
import re
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader

from training import TrainingError
from training.images.tinyimagenet import TinyImageNet, load_splits

COLOURS = {"n01": (250, 0, 0), "n02": (0, 250, 0), "n03": (0, 0, 250)}  # one for each class


def save_image(path: Path, colour: tuple = (9, 9, 9), mode: str = "RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), colour).convert(mode).save(path)
    return path


def make_dataset(root: Path, train: str = "images/", val: str = "annotations") -> Path:
    """Make 3 classes with 2 training images and 1 validation image each.

    train, val: what stands between the class folder and the image ("" or "images/"), or
    "annotations" for the original val/images + val_annotations.txt.
    """
    lines = []
    for k, (wnid, colour) in enumerate(COLOURS.items()):
        for i in range(2):
            save_image(root / f"train/{wnid}/{train}{wnid}_{i}.JPEG", colour)
        if val == "annotations":
            name = f"val_{2 - k}.JPEG"  # not in the order of the classes
            save_image(root / f"val/images/{name}", colour)
            lines.append(f"{name}\t{wnid}\t0\t0\t7\t7\n")
        else:
            save_image(root / f"val/{wnid}/{val}val_{k}.JPEG", colour)
    if lines:
        (root / "val/val_annotations.txt").write_text("".join(lines))
    return root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_dataset(tmp_path / "data")


# ------------------------------------------------------------------------------
# What it reads
# ------------------------------------------------------------------------------


@pytest.mark.parametrize("train", ["images/", ""])
@pytest.mark.parametrize("val", ["annotations", "images/", ""])
def test_each_layout_gives_the_same_labelled_images(tmp_path, train, val):
    train_set, val_set = load_splits(make_dataset(tmp_path, train, val))
    assert train_set.classes == val_set.classes == ["n01", "n02", "n03"]
    assert sorted(label for _, label in train_set.samples) == [0, 0, 1, 1, 2, 2]
    assert sorted(label for _, label in val_set.samples) == [0, 1, 2]
    for dataset in (train_set, val_set):
        for image, label in dataset:  # the colour tells what the label must be
            brightest = max(range(3), key=image.getpixel((4, 4)).__getitem__)
            assert brightest == label


def test_a_folder_wins_over_annotations_left_from_the_original(root):
    """Common conversion scripts move the images and leave val_annotations.txt and val/images/."""
    for line in (root / "val/val_annotations.txt").read_text().splitlines():
        name, wnid = line.split()[:2]
        (root / "val" / wnid).mkdir()
        (root / "val/images" / name).rename(root / "val" / wnid / name)
    assert [label for _, label in TinyImageNet(root, "val").samples] == [0, 1, 2]


def test_classes_are_sorted_whatever_the_order_of_wnids_txt(root):
    (root / "wnids.txt").write_text("n03\nn01\nn02\n")
    assert TinyImageNet(root, "train").classes == ["n01", "n02", "n03"]


def test_suffixes_of_any_case_are_read_and_other_files_are_not(root):
    folder = root / "train/n01/images"
    for name in ("a.jpg", "b.JPG", "c.jpeg", "d.PNG", "e.png"):
        save_image(folder / name)
    for name in (".DS_Store", "._a.JPEG", "n01_boxes.txt"):
        (folder / name).write_text("not an image")
    (root / "train/.ipynb_checkpoints").mkdir()
    dataset = TinyImageNet(root, "train")
    names = [Path(path).name for path, label in dataset.samples if label == 0]
    assert names == ["a.jpg", "b.JPG", "c.jpeg", "d.PNG", "e.png", "n01_0.JPEG", "n01_1.JPEG"]


@pytest.mark.parametrize(
    "name, mode", [("a.JPEG", "L"), ("a.JPEG", "CMYK"), ("a.png", "P"), ("a.png", "RGBA")]
)
def test_every_mode_becomes_rgb(root, name, mode):
    path = save_image(root / "train/n01/images" / name, (200, 200, 200), mode)
    assert Image.open(path).mode == mode
    dataset = TinyImageNet(root, "train")
    image, _ = dataset[[sample for sample, _ in dataset.samples].index(str(path))]
    assert image.mode == "RGB"
    assert all(abs(level - 200) <= 6 for level in image.getpixel((4, 4)))


def test_files_are_not_examined_one_by_one(root, monkeypatch):
    for i in range(200):
        shutil.copy(root / "train/n01/images/n01_0.JPEG", root / f"train/n01/images/x{i}.JPEG")
    examined, stat = [], os.stat
    monkeypatch.setattr(os, "stat", lambda path, **kw: (examined.append(path), stat(path, **kw))[1])
    assert len(TinyImageNet(root, "train")) == 206
    assert 0 < len(examined) < 20


# ------------------------------------------------------------------------------
# Damaged images: one line with file and reason
# ------------------------------------------------------------------------------


def make_noise_image(path: Path) -> bytes:
    """Write a 64x64 JPEG with something to lose in every part; return its bytes."""
    Image.frombytes("RGB", (64, 64), random.Random(0).randbytes(64 * 64 * 3)).save(path)
    return path.read_bytes()


def damage(path: Path, kind: str) -> None:
    content = make_noise_image(path)
    if kind == "folder":
        path.unlink()
        path.mkdir()
    elif kind == "gone":
        path.unlink()
    else:
        path.write_bytes(
            {"cut": content[: len(content) // 2], "text": b"hello", "empty": b""}[kind]
        )


@pytest.mark.parametrize(
    "kind, reason",
    [
        ("cut", "image file is truncated"),
        ("text", "cannot identify image file"),
        ("empty", "cannot identify image file"),
        ("gone", "No such file or directory"),
        ("folder", "Is a directory"),
    ],
)
def test_a_damaged_image_is_named_with_its_reason(root, kind, reason):
    dataset = TinyImageNet(root, "train")
    damage(Path(dataset.samples[0][0]), kind)
    with pytest.raises(TrainingError) as caught:
        dataset[0]
    assert str(caught.value) == (
        f"cannot decode {root}/train/n01/images/n01_0.JPEG ({reason}); "
        "replace the file or prepare the data again"
    )


def test_the_line_survives_a_dataloader_worker(root):
    """A worker's exception is made anew from its traceback's text: it must stay one line."""
    dataset = TinyImageNet(root, "train")
    damage(Path(dataset.samples[4][0]), "cut")
    with pytest.raises(TrainingError) as caught:
        list(DataLoader(dataset, batch_size=2, num_workers=1, collate_fn=list))
    assert re.fullmatch(
        r"cannot decode \S+/n03_0\.JPEG \(image file is truncated\); replace the file or "
        r"prepare the data again",
        str(caught.value),
    )


@pytest.fixture(scope="module")
def noise_dataset(tmp_path_factory) -> tuple[TinyImageNet, bytes]:
    dataset = TinyImageNet(make_dataset(tmp_path_factory.mktemp("noise")), "train")
    return dataset, make_noise_image(Path(dataset.samples[0][0]))


@settings(max_examples=100, deadline=None)
@given(
    kept=st.floats(0, 1),
    changes=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=5),
)
def test_any_damage_gives_an_image_or_one_line(noise_dataset, kept, changes):
    dataset, content = noise_dataset
    damaged = bytearray(content[: round(kept * len(content))])
    for place, value in changes:
        damaged[round(place * len(damaged)) : round(place * len(damaged)) + 1] = bytes([value])
    path = dataset.samples[0][0]
    Path(path).write_bytes(damaged)
    try:
        image, _ = dataset[0]
    except TrainingError as error:
        assert re.fullmatch(rf"cannot decode {re.escape(path)} \(.+\); .+", str(error))
    else:
        assert image.mode == "RGB"


# ------------------------------------------------------------------------------
# Damaged folders: one line with the path, what was found, and the fix
# ------------------------------------------------------------------------------


def empty_the_classes(root: Path) -> None:
    for path in root.glob("train/*/images/*"):
        path.unlink()


def nest(root: Path) -> None:
    inner = root.rename(root.with_name("inner"))
    root.mkdir()
    inner.rename(root / "tiny-imagenet-200")


def remove(name: str):
    return lambda root: shutil.rmtree(root / name)


def add_image(name: str):
    return lambda root: save_image(root / name)


def edit_annotations(old: str, new: str):
    def edit(root: Path) -> None:
        path = root / "val/val_annotations.txt"
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))

    return edit


PREPARE = "python scripts/prepare_data.py tinyimagenet --download DIR"
AGAIN = "prepare the data again"

BROKEN = {
    # what was done: (how, val layout, what the line must name)
    "no root": (remove("."), "", ["data is not a folder", "--data-dir", PREPARE]),
    "no train": (remove("train"), "", ["data has no train/ (found: val)", PREPARE]),
    "no val": (remove("val"), "", ["data has no val/ (found: train)", PREPARE]),
    "one level too high": (nest, "", ["no train/ and no val/ (found: tiny-imagenet-200)"]),
    "empty train": (
        lambda root: (shutil.rmtree(root / "train"), (root / "train").mkdir()),
        "",
        ["data/train has no class folders (found: nothing)", PREPARE],
    ),
    "no images at all": (empty_the_classes, "", ["train has no images for 3 classes (n01,", AGAIN]),
    "empty training class": (
        lambda root: (root / "train/n04").mkdir() or save_image(root / "val/n04/a.JPEG"),
        "",
        ["data/train has no images for 1 classes (n04)", AGAIN],
    ),
    "empty validation class": (
        lambda root: (root / "val/n02/val_1.JPEG").unlink(),
        "",
        ["data/val has no images for 1 classes (n02)", AGAIN],
    ),
    "class missing in val": (
        remove("val/n02"),
        "",
        ["data/val has no folder for n02 of the training classes", AGAIN],
    ),
    "class missing in train": (
        remove("train/n02"),
        "",
        ["data/val has a folder for n02, not in the training classes", AGAIN],
    ),
    "wnids.txt lacks a class": (
        lambda root: (root / "wnids.txt").write_text("n01\nn03\n"),
        "",
        ["data/train has a folder for n02, not in wnids.txt", AGAIN],
    ),
    "wnids.txt names too many": (
        lambda root: (root / "wnids.txt").write_text("n01 n02 n03 n04 n05 n06 n07 n08"),
        "",
        ["data/train has no folder for n04, n05, n06 and 2 more of wnids.txt", AGAIN],
    ),
    "no annotations": (
        lambda root: (root / "val/val_annotations.txt").unlink(),
        "annotations",
        ["data/val has neither class folders nor val_annotations.txt (found: images)", PREPARE],
    ),
    "annotation of an unknown class": (
        edit_annotations("n02", "n99"),
        "annotations",
        ["val_annotations.txt gives 'val_1.JPEG' the class 'n99', unknown to train/", AGAIN],
    ),
    "annotation without a class": (
        edit_annotations("val_1.JPEG\tn02\t0\t0\t7\t7", "val_1.JPEG"),
        "annotations",
        ["val_annotations.txt gives 'val_1.JPEG' the class ''", AGAIN],
    ),
    "annotation of a missing file": (
        lambda root: (root / "val/images/val_1.JPEG").unlink(),
        "annotations",
        ["val_annotations.txt names 'val_1.JPEG', absent from", "data/val/images", AGAIN],
    ),
    "file annotated twice": (
        edit_annotations("val_1.JPEG", "val_2.JPEG"),
        "annotations",
        ["val_annotations.txt names 'val_2.JPEG', absent from", "or named before", AGAIN],
    ),
    "file without annotation": (
        add_image("val/images/val_9.JPEG"),
        "annotations",
        ["val_annotations.txt has no line for val_9.JPEG of", "data/val/images", AGAIN],
    ),
    "class without annotation": (
        lambda root: (
            edit_annotations("val_1.JPEG\tn02\t0\t0\t7\t7\n", "\n")(root),
            (root / "val/images/val_1.JPEG").unlink(),
        ),
        "annotations",
        ["data/val has no images for 1 classes (n02)", AGAIN],
    ),
    "binary annotations": (
        lambda root: (root / "val/val_annotations.txt").write_bytes(b"\xff\xfe\x00\x01"),
        "annotations",
        ["val_annotations.txt gives", AGAIN],
    ),
    "annotations without images": (
        remove("val/images"),
        "annotations",
        ["data/val/images cannot be read (No such file or directory)", AGAIN],
    ),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_dataset_is_one_line_that_names_the_fix(tmp_path, what):
    break_it, val, expected = BROKEN[what]
    root = make_dataset(tmp_path / "data", val=val)
    load_splits(root)
    break_it(root)
    with pytest.raises(TrainingError) as caught:
        load_splits(root)
    message = str(caught.value)
    assert "\n" not in message and str(tmp_path) in message
    for text in expected:
        assert text in message


def test_a_folder_that_may_not_be_read_is_named(root, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(TrainingError, match=r"data/train cannot be read \(Permission denied\); "):
        TinyImageNet(root, "train")


def test_a_split_other_than_train_and_val_is_a_mistake_of_the_caller(root):
    with pytest.raises(ValueError, match="test"):
        TinyImageNet(root, "test")
