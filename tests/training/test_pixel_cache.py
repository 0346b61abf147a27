"""The decoded cache: the same batches as from JPEGs, made once, whole or not there at all."""

import json
import os
import random
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, DistributedSampler

from torch_server import SCRIPTS, Program, run_python, start_python
from training import TrainingError
from training.batches import ResumableBatches
from training.images import pixel_cache
from training.images.augment import AugmentedImages, PlainImages
from training.images.batch_loader import BatchLoader
from training.images.cached import DeviceImages
from training.images.pixel_cache import HEADER, decode_once
from training.images.tinyimagenet import load_splits

SHAPES = [
    ("RGB", (32, 32)),
    ("L", (32, 32)),
    ("RGB", (40, 28)),
    ("CMYK", (32, 32)),
    ("L", (16, 64)),
]


def make_noise(root: Path, per_class: int = 10) -> Path:
    """Two classes of JPEGs in which no two pixels agree; colour, grey, CMYK, not all square."""
    draw = random.Random(0)
    for split in ("train", "val"):
        for wnid in ("n01", "n02"):
            folder = root / split / wnid
            folder.mkdir(parents=True)
            for number in range(per_class):
                mode, size = SHAPES[number % len(SHAPES)]
                raw = draw.randbytes(size[0] * size[1] * len(Image.new(mode, (1, 1)).getbands()))
                Image.frombytes(mode, size, raw).save(folder / f"{number}.JPEG", quality=95)
    return root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_noise(tmp_path / "noise")


def open_train(root: Path, *, flip: bool = True, size: int = 32, **options):
    """Return (train set from JPEGs, the same from the cache)."""
    images, _ = load_splits(root)
    dataset = AugmentedImages(images, size, flip=flip, seed=3)
    return dataset, decode_once(dataset, "train", make_args(root, **options))


def make_args(root: Path, cache_dir: Path | None = None, num_workers: int = 0) -> SimpleNamespace:
    return SimpleNamespace(data_dir=str(root), cache_dir=cache_dir, num_workers=num_workers)


# ---- The batches -------------------------------------------------------------------------


@pytest.mark.parametrize("size", [32, 48])
@pytest.mark.parametrize("flip", [True, False])
def test_batches_are_those_from_jpeg_in_the_same_order(root, flip, size):
    from_jpeg, from_cache = open_train(root, flip=flip, size=size)
    on_device = DeviceImages(from_cache, torch.device("cpu"))
    sampler = DistributedSampler(from_jpeg, 2, 1, seed=5, drop_last=True)
    batches = ResumableBatches(sampler, 3)
    loaders = [
        DataLoader(from_jpeg, batch_sampler=batches, num_workers=1),
        BatchLoader(from_cache, batches),
        BatchLoader(on_device, batches, ahead=0),
    ]
    seen = set()
    for epoch in range(3):
        sampler.set_epoch(epoch)
        from_cache.set_epoch(epoch)
        batches.skip = epoch  # as after a restart
        for plain, *others in zip(*loaders, strict=True):
            assert plain[0].shape == (3, 3, size, size)
            assert plain[0].dtype == torch.uint8
            for other in others:
                assert torch.equal(plain[0], other[0])
                assert torch.equal(plain[1], other[1])
            seen |= {image.numpy().tobytes() for image in plain[0]}
    assert len(seen) >= 6  # 3, 2 and 1 batches of 3, cropped anew in each epoch


def test_validation_images_are_those_from_jpeg(root):
    _, images = load_splits(root)
    plain = PlainImages(images, 32)
    cached = decode_once(plain, "val", make_args(root))
    pixels, labels = cached.load_batch(range(len(plain)))
    assert torch.equal(pixels, torch.stack([plain[i][0] for i in range(len(plain))]))
    assert labels.tolist() == [plain[i][1] for i in range(len(plain))]


def test_batches_have_channels_last(root):
    _, cached = open_train(root)
    images, _ = cached.load_batch([4, 1])
    assert images.is_contiguous(memory_format=torch.channels_last)


# ---- The loader --------------------------------------------------------------------------


class Batches:
    """Makes a batch of any indices; fails at number 13."""

    def load_batch(self, indices):
        if 13 in indices:
            raise TrainingError("cannot read number 13; leave it out")
        return torch.tensor(indices), torch.tensor(indices)


@pytest.mark.parametrize("ahead", [0, 1, 2])
def test_loader_passes_an_error_on_after_the_batches_before_it(ahead):
    loader = BatchLoader(Batches(), [[1], [2], [13], [3]], ahead=ahead)
    batches = iter(loader)
    assert [int(next(batches)[0]), int(next(batches)[0])] == [1, 2]
    with pytest.raises(TrainingError, match="number 13"):
        next(batches)


def test_loader_ends_its_thread_with_an_epoch_that_ends_early():
    before = threading.active_count()
    for _ in range(20):
        batches = iter(BatchLoader(Batches(), [[number] for number in range(20, 90)]))
        assert int(next(batches)[0]) == 20
        batches.close()
    assert threading.active_count() == before


# ---- The file ----------------------------------------------------------------------------


def test_second_use_decodes_nothing(root, capsys):
    open_train(root)
    assert "Decoding 20 images once" in capsys.readouterr().out
    for folder in (root / "train").iterdir():  # only the pixels of the cache are left
        for image in folder.iterdir():
            status = image.stat()
            image.write_bytes(bytes(status.st_size))
            os.utime(image, ns=(status.st_atime_ns, status.st_mtime_ns))
    _, cached = open_train(root)
    assert capsys.readouterr().out == ""
    assert cached.load_batch([0])[0].any()


def change_image(root: Path) -> None:
    Image.new("RGB", (32, 32), "red").save(root / "train/n01/0.JPEG")


def add_image(root: Path) -> None:
    shutil.copy(root / "train/n01/0.JPEG", root / "train/n02/new.JPEG")


def swap_names(root: Path) -> None:
    (root / "train/n01/0.JPEG").rename(root / "train/n01/x")
    (root / "train/n01/1.JPEG").rename(root / "train/n01/0.JPEG")
    (root / "train/n01/x").rename(root / "train/n01/1.JPEG")


def cut_cache(root: Path) -> None:
    path = root / ".decoded/train_32px.u8"
    path.write_bytes(path.read_bytes()[:-1])


def change_version(root: Path) -> None:
    path = root / ".decoded/train_32px.u8"
    path.write_bytes(path.read_bytes().replace(b'"format": 1', b'"format": 0'))


def empty_cache(root: Path) -> None:
    (root / ".decoded/train_32px.u8").write_bytes(b"")


@pytest.mark.parametrize(
    "change", [change_image, add_image, swap_names, cut_cache, change_version, empty_cache]
)
def test_cache_of_another_data_set_or_version_is_made_again(root, capsys, change):
    open_train(root)
    capsys.readouterr()
    change(root)
    from_jpeg, from_cache = open_train(root)
    assert "Decoding" in capsys.readouterr().out
    pixels, _ = from_cache.load_batch(range(len(from_jpeg)))
    assert torch.equal(pixels, torch.stack([from_jpeg[i][0] for i in range(len(from_jpeg))]))
    assert len(list((root / ".decoded").iterdir())) == 1


def test_two_sizes_lie_side_by_side(root, capsys):
    open_train(root, size=32)
    open_train(root, size=48)
    capsys.readouterr()
    open_train(root, size=32)
    assert capsys.readouterr().out == ""
    names = ["train_32px.u8", "train_48px.u8"]
    assert sorted(path.name for path in (root / ".decoded").iterdir()) == names


def test_copy_with_its_times_needs_no_new_cache(root, tmp_path, capsys):
    """What staging does: cp --preserve=timestamps of the data set, .decoded/ and all."""
    open_train(root)
    command = ["cp", "--recursive", "--dereference", "--preserve=timestamps"]
    subprocess.run([*command, f"{root}/.", tmp_path / "copy"], check=True)
    capsys.readouterr()
    open_train(tmp_path / "copy")
    assert capsys.readouterr().out == ""


def test_data_folder_that_cannot_be_written_sends_the_cache_to_tmpdir(root, tmp_path, monkeypatch):
    (root / ".decoded").write_text("")  # root may write everywhere, but not below a file
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    _, cached = open_train(root)
    (path,) = scratch.glob(f"decoded_{os.getuid()}/noise_*/train_32px.u8")
    assert path.stat().st_size == HEADER + cached.pixels.nbytes


def test_cache_dir_wins(root, tmp_path):
    open_train(root, cache_dir=tmp_path / "mine")
    assert (tmp_path / "mine/train_32px.u8").exists()
    assert not (root / ".decoded").exists()


def test_disk_that_is_too_small_is_named_with_the_ways_out(root, tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16k", "none", small]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting needs root")
    try:
        with pytest.raises(TrainingError) as caught:
            open_train(root, cache_dir=small)
        assert list(small.iterdir()) == []
    finally:
        subprocess.run(["umount", small], check=True)
    assert str(caught.value) == (
        f"no room for 0.0 GiB of decoded images ({small}: 0.0 GiB free); "
        "pass --cache-dir DIR, or --input jpeg to decode in every epoch"
    )


def test_disk_that_fills_up_meanwhile_leaves_nothing(root, tmp_path, monkeypatch):
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16k", "none", small]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting needs root")
    monkeypatch.setattr(pixel_cache, "choose_folder", lambda folders, header: folders[0])
    try:
        with pytest.raises(TrainingError, match="free some space"):
            open_train(root, cache_dir=small)
        assert list(small.iterdir()) == []
    finally:
        subprocess.run(["umount", small], check=True)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_damaged_image_is_named_and_leaves_no_cache(root, num_workers):
    (root / "train/n02/3.JPEG").write_bytes(b"no image")
    with pytest.raises(TrainingError) as caught:
        open_train(root, num_workers=num_workers)
    assert str(caught.value).startswith(f"cannot decode {root}/train/n02/3.JPEG (")
    assert "\n" not in str(caught.value)
    assert list((root / ".decoded").iterdir()) == []


# ---- Many processes ----------------------------------------------------------------------

EIGHT = """
import os, sys
from types import SimpleNamespace
from training.images.augment import AugmentedImages
from training.images.pixel_cache import decode_once
from training.images.tinyimagenet import load_splits
args = SimpleNamespace(data_dir=sys.argv[1], cache_dir=None, num_workers=0)
children = []
for rank in range(int(sys.argv[2])):
    child = os.fork()
    if child == 0:
        images = AugmentedImages(load_splits(args.data_dir)[0], 32, flip=True, seed=0)
        cached = decode_once(images, "train", args)
        os.write(1, b"sum %d\\n" % cached.pixels.sum())
        os._exit(0)
    children.append(child)
sys.exit(any(os.waitpid(child, 0)[1] for child in children))
"""


def run_ranks(root: Path, ranks: int) -> Program:
    """Start one process that forks so many ranks, which all want the cache."""
    script = root.parent / "eight.py"
    script.write_text(EIGHT)
    return start_python(script, root, ranks)


def test_of_eight_cold_ranks_one_decodes(tmp_path):
    root = make_noise(tmp_path / "noise", per_class=200)
    output, _ = run_ranks(root, 8).communicate(timeout=60)
    lines = output.splitlines()
    assert sum("Decoding" in line for line in lines) == 1
    sums = [line for line in lines if line.startswith("sum ")]
    assert len(sums) == 8
    assert len(set(sums)) == 1
    assert [path.name for path in (root / ".decoded").iterdir()] == ["train_32px.u8"]


def test_failed_build_lets_the_next_rank_in_at_once(root):
    image = root / "train/n02/3.JPEG"
    whole = image.read_bytes()
    image.write_bytes(b"no image")
    with pytest.raises(TrainingError) as caught:  # its traceback keeps the loader process alive
        open_train(root, num_workers=1)
    assert caught.value.is_own
    image.write_bytes(whole)
    output, _ = run_ranks(root, 1).communicate(timeout=20)
    assert "Decoding" in output and "sum " in output


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_cut_build_leaves_nothing_and_the_next_one_succeeds(tmp_path, number):
    root = make_noise(tmp_path / "noise", per_class=10)
    pipe = root / "train/n01/zz.JPEG"  # decoding waits here for ever
    os.mkfifo(pipe)
    program = run_ranks(root, 2)
    while "Decoding" not in program.peek():
        assert program.poll() is None, program.communicate()
        time.sleep(0.02)
    time.sleep(0.3)
    os.killpg(program.pids[0], number)
    program.communicate()
    assert list((root / ".decoded").iterdir()) == []
    pipe.unlink()
    output, _ = run_ranks(root, 2).communicate(timeout=60)
    assert sum("Decoding" in line for line in output.splitlines()) == 1


# ---- The trainer -------------------------------------------------------------------------


def train(root: Path, workdir: Path, *options: str) -> list[float]:
    """Train two short epochs; returns the losses."""
    done = run_python(
        SCRIPTS / "train.py", f"--data-dir={root}", "--num-workers=1", "--model=resnet18",
        "--image-size=32", "--batch-size=4", "--limit-batches=3", "--lr=1e-5", "--epochs=2",
        f"--workdir={workdir}", *options,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    epochs = [json.loads((workdir / f"rank0_results_epoch{e}.json").read_text()) for e in (0, 1)]
    return [epoch[name] for epoch in epochs for name in ("train_loss", "validation_loss")]


def test_training_is_the_same_whatever_the_input(root, tmp_path):
    losses = {name: train(root, tmp_path / name, f"--input={name}") for name in ("jpeg", "cache")}
    assert losses["cache"] == losses["jpeg"]
    device = train(root, tmp_path / "device", "--input=device")
    assert device == pytest.approx(losses["jpeg"], rel=1e-5)
    assert json.loads((tmp_path / "cache/run.json").read_text())["input"] == "cache"


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--cuda-graph"], "error: --cuda-graph needs a GPU; leave it out"),
        (["--cuda-graph", "--compile"], "error: --cuda-graph needs a GPU; leave it out"),
    ],
)
def test_options_that_cannot_be_are_refused(root, tmp_path, options, line):
    command = (SCRIPTS / "train.py", f"--data-dir={root}", *options)
    done = run_python(*command, cwd=tmp_path, CUDA_VISIBLE_DEVICES="")
    assert done.returncode != 0
    assert line in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert list(tmp_path.glob("workdir*")) == []


def test_a_whole_file_of_another_node_stays(tmp_path):
    """Over NFS another node may have mapped it already: it is not renamed over."""
    path = tmp_path / "train.u8"
    for is_whole, kept in ((True, b"theirs"), (False, b"mine")):
        path.write_bytes(b"theirs")
        number = path.stat().st_ino
        with pixel_cache.new_file(path, lambda is_whole=is_whole: is_whole) as file:
            file.write(b"mine")
        assert (path.read_bytes(), path.stat().st_ino == number) == (kept, is_whole)
        assert list(tmp_path.iterdir()) == [path]
