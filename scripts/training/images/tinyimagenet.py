"""TinyImageNet from its image files, in the folder layouts that are found in the wild.

    train/<wnid>/images/*.JPEG   or   train/<wnid>/*.JPEG
    val/images/*.JPEG + val/val_annotations.txt   or   val/<wnid>/…   (with or without images/)

A wnid is a WordNet id such as n01443537; it names a class. The classes are the lines of
wnids.txt, or without that file the folders of train/, always in sorted order: a class then has
the same label here as in torchvision's ImageFolder, whatever the order of the file.

Everything but the images' content is checked when the dataset is made: a job with bad data can
end with one line before any process group exists. Folders are listed, files are not examined one
by one: on a shared file system 110,000 stat calls take minutes.

Source: the original archive, http://cs231n.stanford.edu/tiny-imagenet-200.zip.
"""

import os
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path

from PIL import Image
from torch.utils.data import Dataset

from training import TrainingError


class TinyImageNet(Dataset):
    """One split of TinyImageNet; item i is (image i, label i), the image as PIL's RGB.

    root: the folder that holds train/ and val/; split: "train" or "val".
    .classes: the wnids, where position = label; .samples: (path, label) of each image.

    Raises TrainingError, one line that names the path and the fix, when the folders are missing,
    empty or disagree about the classes, and for an image that cannot be decoded.
    """

    def __init__(self, root: str | Path, split: str):
        if split not in ("train", "val"):
            raise ValueError(f'split={split!r} must be "train" or "val"')
        try:
            self.classes = read_classes(root)
            self.samples = find_samples(Path(root).expanduser() / split, self.classes)
        except OSError as error:
            raise bad_dataset(error.filename, f"cannot be read ({error.strerror})") from None

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple:
        path, label = self.samples[index]
        return decode_image(path), label


def load_splits(root: str | Path) -> tuple[TinyImageNet, TinyImageNet]:
    """Return the train and val splits; both hold exactly the same classes, or TrainingError."""
    return TinyImageNet(root, "train"), TinyImageNet(root, "val")


def read_classes(root: str | Path) -> list[str]:
    """Return the sorted wnids of the dataset in root.

    A few folder listings, so also a cheap check that root is a TinyImageNet folder at all. Raises
    TrainingError when root, train/ or val/ is missing, or when wnids.txt and train/ differ.
    """
    root = Path(root).expanduser()
    if not root.is_dir():
        raise no_dataset(root, "is not a folder")
    missing = [f"no {split}/" for split in ("train", "val") if not (root / split).is_dir()]
    if missing:
        raise no_dataset(root, f"has {' and '.join(missing)}")
    classes = list_class_folders(root / "train")
    if not classes:
        raise no_dataset(root / "train", "has no class folders")
    if (root / "wnids.txt").is_file():
        wnids = (root / "wnids.txt").read_text(encoding="utf-8", errors="replace").split()
        check_same_classes(root / "train", classes, wnids, "wnids.txt")
    return classes


def find_samples(split_folder: Path, classes: list[str]) -> list[tuple[str, int]]:
    """Return (path, label) of every image of one split; label = position of its wnid in classes.

    Raises TrainingError when the classes found are not exactly those given, or one is empty.
    """
    folders = list_class_folders(split_folder)
    annotations = split_folder / "val_annotations.txt"
    if folders:
        check_same_classes(split_folder, folders, classes, "the training classes")
        paths = [list_images(f"{split_folder}/{wnid}") for wnid in classes]
        samples = [(path, label) for label, of_class in enumerate(paths) for path in of_class]
    elif annotations.is_file():
        samples = read_annotated_samples(annotations, classes)
    else:
        raise no_dataset(split_folder, "has neither class folders nor val_annotations.txt")
    empty = set(range(len(classes))) - {label for _, label in samples}
    if empty:
        names = name_few(classes[label] for label in empty)
        raise bad_dataset(split_folder, f"has no images for {len(empty)} classes ({names})")
    return samples


def read_annotated_samples(annotations: Path, classes: list[str]) -> list[tuple[str, int]]:
    """Return (path, label) of the images that val_annotations.txt names, in its order.

    A line is a file name, a wnid and four corners of a bounding box, which is not needed here.
    Raises TrainingError when the file and images/ beside it do not match one to one.
    """
    folder = annotations.parent / "images"
    unlabelled = set(filter(is_image, list_names(folder)))
    label_of = {wnid: label for label, wnid in enumerate(classes)}
    samples = []
    text = annotations.read_text(encoding="utf-8", errors="replace")
    for line in filter(str.strip, text.splitlines()):
        name, wnid = [*line.split(), ""][:2]
        if wnid not in label_of:
            raise bad_dataset(annotations, f"gives {name!r} the class {wnid!r}, unknown to train/")
        if name not in unlabelled:
            raise bad_dataset(annotations, f"names {name!r}, absent from {folder} or named before")
        unlabelled.remove(name)
        samples.append((f"{folder}/{name}", label_of[wnid]))
    if unlabelled:  # leaving them out in silence would change the accuracy
        raise bad_dataset(annotations, f"has no line for {name_few(unlabelled)} of {folder}")
    return samples


def decode_image(path: str) -> Image.Image:
    """Return the image as RGB, whatever its mode; TrainingError names a damaged file."""
    try:
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123 - 100,000 times: no Path
            image = Image.open(BytesIO(file.read()))  # one read instead of Pillow's forty
            image.load()
            return image if image.mode == "RGB" else image.convert("RGB")  # which would copy
    except Exception as error:  # Pillow raises a dozen types for damaged files
        text = str(error).partition(" <")[0].partition(" (")[0]
        reason = getattr(error, "strerror", None) or text or type(error).__name__
        what = f"cannot decode {path} ({reason})"
        raise TrainingError(f"{what}; replace the file or prepare the data again") from None


def list_names(folder: str | Path) -> list[str]:
    """Return the names in folder, except hidden ones (.DS_Store, ._n01_1.JPEG)."""
    with os.scandir(folder) as entries:
        return [entry.name for entry in entries if not entry.name.startswith(".")]


def list_class_folders(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        folders = [e.name for e in entries if not e.name.startswith(".") and e.is_dir()]
    return sorted(set(folders) - {"images"})  # val/images of the original is not a class


def list_images(class_folder: str) -> list[str]:
    """Return the sorted paths of the images in class_folder and in its images/ folder."""
    names = list_names(class_folder)
    if "images" in names:
        names += [f"images/{name}" for name in list_names(f"{class_folder}/images")]
    return sorted(f"{class_folder}/{name}" for name in filter(is_image, names))


def is_image(name: str) -> bool:
    return name.lower().endswith((".jpeg", ".jpg", ".png"))


def check_same_classes(folder: Path, found: list[str], expected: list[str], source: str) -> None:
    missing, unknown = set(expected) - set(found), set(found) - set(expected)
    if missing:
        raise bad_dataset(folder, f"has no folder for {name_few(missing)} of {source}")
    if unknown:
        raise bad_dataset(folder, f"has a folder for {name_few(unknown)}, not in {source}")


def no_dataset(folder: Path, what: str) -> TrainingError:
    found = f" (found: {name_few(list_names(folder)) or 'nothing'})" if folder.is_dir() else ""
    how = "python scripts/prepare_data.py tinyimagenet --download DIR"
    fix = f"set --data-dir or $DATA_DIR to a TinyImageNet folder, or make one with: {how}"
    return TrainingError(f"{folder} {what}{found}; {fix}")


def bad_dataset(where: str | Path, what: str) -> TrainingError:
    return TrainingError(f"{where} {what}; fix it or prepare the data again")


def name_few(names: Iterable[str], limit: int = 3) -> str:
    names = sorted(names)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
