"""How large a batch is, the learning rate that goes with it, and where images are cropped."""

from argparse import Namespace

import numpy as np
import pytest
import torch
from PIL import Image

from training import TrainingError
from training.batches import plan_batch, warm_up
from training.images.augment import AugmentedImages, PlainImages, normalize_pixels


def plan(world_size: int, monkeypatch, samples: int = 100_000, **given):
    monkeypatch.setenv("WORLD_SIZE", str(world_size))
    defaults = {
        "scaling": "weak", "batch_size": 512, "global_batch_size": None, "grad_accum_steps": None,
        "lr": 0.001, "lr_scaling": "none", "limit_batches": None,
    }  # fmt: skip
    return plan_batch(Namespace(**defaults | given), samples)


GPT2 = {"scaling": "strong", "batch_size": 4, "global_batch_size": 16}


@pytest.mark.parametrize(
    ("world_size", "given", "per_gpu", "accum", "global_size"),
    [
        (1, {}, 512, 1, 512),
        (8, {}, 512, 1, 4096),
        (2, {"grad_accum_steps": 3}, 512, 3, 3072),
        (1, {"scaling": "strong"}, 512, 1, 512),
        (8, {"scaling": "strong"}, 64, 1, 512),
        (1, GPT2, 4, 4, 16),
        (2, GPT2, 4, 2, 16),
        (4, GPT2, 4, 1, 16),
        (8, GPT2, 2, 1, 16),
        (2, GPT2 | {"grad_accum_steps": 2}, 4, 2, 16),
    ],
)
def test_batch(world_size, given, per_gpu, accum, global_size, monkeypatch):
    got = plan(world_size, monkeypatch, **given)
    assert (got.per_gpu, got.grad_accum_steps, got.global_size) == (per_gpu, accum, global_size)
    assert got.steps_per_epoch == 100_000 // global_size


@pytest.mark.parametrize(
    ("world_size", "given", "message"),
    [
        (3, GPT2, "a global batch of 16 is no multiple of 3 ranks x 4 samples"),
        (32, GPT2, "a global batch of 16 is no multiple of 32 ranks x 1 samples"),
        (2, GPT2 | {"grad_accum_steps": 4}, "--grad-accum-steps 4 does not make 16 samples of 4 "),
        (1, {"global_batch_size": 16}, "--global-batch-size goes with --scaling strong"),
        (256, {}, "100000 training samples are less than one global batch of 131072"),
    ],
)
def test_batch_that_does_not_divide_is_refused(world_size, given, message, monkeypatch):
    with pytest.raises(TrainingError, match="^" + message) as caught:
        plan(world_size, monkeypatch, **given)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("world_size", "given", "lr"),
    [
        (4, {}, 0.001),
        (4, {"lr_scaling": "linear"}, 0.004),
        (4, {"lr_scaling": "sqrt"}, 0.002),
        (4, {"lr_scaling": "linear", "scaling": "strong"}, 0.001),  # the same global batch
        (4, {"lr_scaling": "linear", "grad_accum_steps": 2}, 0.004),
    ],
)
def test_learning_rate_follows_the_global_batch(world_size, given, lr, monkeypatch):
    assert plan(world_size, monkeypatch, **given).lr == pytest.approx(lr)


def test_warm_up_is_a_line_up_to_one():
    assert [warm_up(step, 3) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert warm_up(0, 0) == 1.0


# ---- Images ------------------------------------------------------------------------------


class Images:
    """What the augmentation needs of TinyImageNet: a ramp from left to right, 16 x 16."""

    classes: tuple = ("ramp",)

    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int):
        pixels = np.broadcast_to(np.arange(16, dtype=np.uint8)[None, :, None] * 10, (16, 16, 3))
        return Image.fromarray(pixels.copy()), index


def test_crop_and_mirror_are_those_of_the_table():
    images = AugmentedImages(Images(), 16, flip=True, seed=3)
    ramp = np.pad(np.arange(16) * 10, 1, mode="reflect")
    for index in range(40):
        pixels, label = images[index]
        _, left, mirrored = images.table[index].tolist()
        expected = ramp[left : left + 16]
        assert pixels.shape == (3, 16, 16)
        assert pixels.dtype == torch.uint8
        assert pixels[0, 5].tolist() == (expected[::-1] if mirrored else expected).tolist()
        assert label == index
    assert set(images.table[:, 2].tolist()) == {0, 1}
    assert set(images.table[:, 1].tolist()) == set(range(3))


def test_crops_depend_on_seed_and_epoch_alone():
    one, same, other = (AugmentedImages(Images(), 16, flip=True, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(one.table, same.table)
    assert not torch.equal(one.table, other.table)
    before = one.table.clone()
    one.set_epoch(1)
    assert not torch.equal(one.table, before)
    one.set_epoch(0)
    assert torch.equal(one.table, before)


def test_no_flip_mirrors_nothing():
    assert AugmentedImages(Images(), 16, flip=False, seed=0).table[:, 2].sum() == 0


def test_loader_processes_that_live_on_see_the_new_crops():
    images = AugmentedImages(Images(), 16, flip=True, seed=0)
    options = {"batch_size": 40, "num_workers": 1, "persistent_workers": True}
    loader = torch.utils.data.DataLoader(images, **options)
    for epoch in range(3):
        images.set_epoch(epoch)
        (batch,) = [pixels for pixels, _ in loader]
        assert torch.equal(batch, torch.stack([images[i][0] for i in range(40)]))


@pytest.mark.parametrize("size", [(16, 16), (32, 32), (40, 16), (8, 24)])
def test_validation_images_are_square_and_whole(size):
    class One(Images):
        def __getitem__(self, index: int):
            return Image.new("RGB", size, (10, 20, 30)), 0

    pixels, _ = PlainImages(One(), 16)[0]
    assert pixels.flatten(1).unique(dim=1).tolist() == [[10], [20], [30]]
    assert pixels.shape == (3, 16, 16)


def test_pixels_are_normalised_as_imagenet_is():
    grey = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 3, 1, 1)
    black, white = normalize_pixels(grey)
    assert black.flatten().tolist() == pytest.approx([-2.1179, -2.0357, -1.8044], abs=1e-4)
    assert white.flatten().tolist() == pytest.approx([2.2489, 2.4286, 2.6400], abs=1e-4)
