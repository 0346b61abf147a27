"""The folders and lists of TinyImageNet: making them, and counting what is in them."""

import os
from pathlib import Path


def make_layout(root: Path, words: dict[str, str], val_labels: list[int]) -> list[str]:
    """Make the folders and lists of the original's layout, without images; return the wnids.

    words: the name of each wnid; val_labels: position of its wnid for val_0.JPEG, val_1.JPEG, …
    """
    wnids = list(words)
    (root / "val" / "images").mkdir(parents=True)
    for wnid in wnids:
        (root / "train" / wnid / "images").mkdir(parents=True)
    lines = [f"{wnid}\t{name}\n" for wnid, name in words.items()]
    (root / "words.txt").write_text("".join(lines))
    (root / "wnids.txt").write_text("".join(f"{wnid}\n" for wnid in wnids))
    # The last four columns are the original's bounding box: here the whole of a 64x64 image.
    lines = [f"val_{i}.JPEG\t{wnids[k]}\t0\t0\t63\t63\n" for i, k in enumerate(val_labels)]
    (root / "val" / "val_annotations.txt").write_text("".join(lines))
    return wnids


def count_images(root: Path) -> dict[str, int]:
    """Return the numbers of classes, training and validation images, from listings alone."""
    counts = {"classes": sum(path.is_dir() for path in (root / "train").glob("[!.]*"))}
    for split in ("train", "val"):
        names = (name for _, _, files in os.walk(root / split) for name in files)
        suffixes = (".jpeg", ".jpg", ".png")
        counts[f"{split}_images"] = sum(name.lower().endswith(suffixes) for name in names)
    return counts


def describe_images(record: dict) -> str:
    train, val = f"{record['train_images']:,} train", f"{record['val_images']:,} val images"
    return f"{record['source']}, {record['classes']} classes, {train} and {val}"
