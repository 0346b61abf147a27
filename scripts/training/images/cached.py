"""Batches from decoded pixels: one indexed copy each, in the main memory or on the device."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from torch.utils.data import Dataset

from training import TrainingError
from training.images.augment import AugmentedImages, PlainImages

GIB = 2**30


class CachedImages(Dataset):
    """The same images as `dataset` has, cropped and mirrored alike, but in whole batches.

    dataset: decides each image's crop; pixels: its images decoded and padded, (N, P, P, 3) uint8,
    as open_cache() returns them. A batch is images (B, 3, S, S) uint8, channels last in memory,
    and labels (B,) int64.
    """

    def __init__(self, dataset: AugmentedImages | PlainImages, pixels: np.ndarray):
        self.dataset, self.pixels = dataset, pixels
        self.classes = dataset.images.classes
        self.labels = torch.tensor([label for _, label in dataset.images.samples])
        side, channels = dataset.size, pixels.shape[3]
        # windows[i, top, left] is that crop of image i: S rows, each one element of S x 3 bytes,
        # so that copying a crop is S copies. All are views: nothing is copied before.
        rows = pixels.reshape(*pixels.shape[:2], -1)
        windows = sliding_window_view(rows, (side, side * channels), axis=(1, 2))
        self.windows = windows[:, :, ::channels].view(f"V{side * channels}")[..., 0]
        self.table = dataset.table.numpy()  # the same memory: what an epoch draws is seen here

    def __len__(self) -> int:
        return len(self.dataset)

    def set_epoch(self, epoch: int) -> None:
        self.dataset.set_epoch(epoch)

    def load_batch(self, indices: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (images, labels) of the images with these indices."""
        indices, side = np.asarray(indices), self.dataset.size
        top, left, mirrored = self.table[indices].T
        images = self.windows[indices, top, left].view(np.uint8).reshape(-1, side, side, 3)
        batch = torch.from_numpy(images).permute(0, 3, 1, 2)
        (mirrored,) = mirrored.nonzero()
        if len(mirrored):
            # PyTorch has a fast way to mirror images whose channels are last, numpy has none;
            # numpy picks images and puts them back faster.
            part = torch.from_numpy(images[mirrored]).permute(0, 3, 1, 2).flip(3)
            images[mirrored] = part.permute(0, 2, 3, 1).numpy()
        return batch, torch.from_numpy(self.labels.numpy()[indices])


class DeviceImages(CachedImages):
    """CachedImages whose pixels are all on the device: a batch never crosses the bus.

    Raises TrainingError when they would take more than half of the GPU's free memory.
    """

    def __init__(self, cached: CachedImages, device: torch.device):
        self.dataset, self.classes, self.device = cached.dataset, cached.classes, device
        if device.type == "cuda":
            free = torch.cuda.mem_get_info(device)[0]
            if cached.pixels.nbytes > free / 2:
                raise TrainingError(
                    f"--input device needs {cached.pixels.nbytes / GIB:.1f} GiB of GPU memory, "
                    f"and {free / GIB:.1f} GiB are free for all; use --input cache"
                )
        self.labels = cached.labels.to(device)
        self.pixels = torch.empty(cached.pixels.shape, dtype=torch.uint8, device=device)
        for start in range(0, len(cached), 4096):  # the file is never in memory as a whole
            part = slice(start, start + 4096)
            self.pixels[part] = torch.from_numpy(cached.pixels[part].copy())
        side = self.dataset.size
        self.windows = self.pixels.unfold(1, side, 1).unfold(2, side, 1)  # (N, …, …, 3, S, S)

    def load_batch(self, indices: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (images, labels) of the images with these indices, on the device."""
        table = torch.cat([torch.tensor(indices)[:, None], self.dataset.table[indices]], dim=1)
        rows, top, left, mirrored = table.to(self.device, non_blocking=True).T
        images = self.windows[rows, top, left]
        mirrored = mirrored.bool()[:, None, None, None]
        return torch.where(mirrored, images.flip(3), images), self.labels[rows]
