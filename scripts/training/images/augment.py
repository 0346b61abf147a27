"""Images as the trainer wants them: uint8, of one size, cropped and mirrored by a table."""

from functools import cache

import numpy as np
import torch
from PIL import Image, ImageOps
from torch.utils.data import Dataset

from training.images.tinyimagenet import TinyImageNet


class AugmentedImages(Dataset):
    """Item i is (image i as (3, S, S) uint8, its label), cropped and mirrored as the table says.

    The table is drawn anew for each epoch from the seed and the epoch alone. So the same image is
    cropped alike whichever rank or loader process reads it, and after a restart too.
    """

    def __init__(self, images: TinyImageNet, size: int, *, flip: bool, seed: int):
        self.images, self.size, self.flip, self.seed = images, size, flip, seed
        self.classes = images.classes
        self.padding = size // 16
        # In shared memory: loader processes that live on from epoch to epoch see what changes.
        self.table = torch.zeros(len(images), 3, dtype=torch.int16).share_memory_()
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Draw (top, left, mirrored) for every image."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        rows = len(self.images)
        offsets = torch.randint(2 * self.padding + 1, (rows, 2), generator=generator)
        mirrored = torch.randint(2, (rows, 1), generator=generator) * self.flip
        self.table.copy_(torch.cat([offsets, mirrored], dim=1))

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        image, label = self.images[index]
        pixels = pad_edges(fit_square(image, self.size)[None], self.padding)[0]
        top, left, mirrored = self.table[index].tolist()
        pixels = pixels[top : top + self.size, left : left + self.size]
        return to_tensor(pixels[:, ::-1] if mirrored else pixels), label


class PlainImages(Dataset):
    """Item i is (image i as (3, S, S) uint8, its label), left alone: for validation."""

    padding = 0

    def __init__(self, images: TinyImageNet, size: int):
        self.images, self.size = images, size
        self.table = torch.zeros(len(images), 3, dtype=torch.int16)  # whole, and as they are

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        image, label = self.images[index]
        return to_tensor(fit_square(image, self.size)), label


def fit_square(image: Image.Image, size: int) -> np.ndarray:
    """Return the image as (size, size, 3) uint8; one that is not square loses its longer ends."""
    if image.size != (size, size):
        image = ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)
    return np.frombuffer(image.tobytes(), np.uint8).reshape(size, size, 3)


def pad_edges(pixels: np.ndarray, padding: int) -> np.ndarray:
    """Mirror images (N, S, S, 3) outwards, `padding` pixels at each side; their edge stays one."""
    if padding == 0:
        return pixels
    count, side, width = len(pixels), pixels.shape[1], padding
    padded = np.empty((count, side + 2 * width, side + 2 * width, 3), pixels.dtype)
    inner = padded[:, width:-width]
    inner[:, :, width:-width] = pixels
    inner[:, :, :width] = pixels[:, :, width:0:-1]
    inner[:, :, -width:] = pixels[:, :, -2 : -width - 2 : -1]
    padded[:, :width] = padded[:, 2 * width : width : -1]
    padded[:, -width:] = padded[:, -width - 2 : -2 * width - 2 : -1]
    return padded


def to_tensor(pixels: np.ndarray) -> torch.Tensor:
    """Turn (S, S, 3) into a contiguous (3, S, S) tensor."""
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))


def normalize_pixels(images: torch.Tensor) -> torch.Tensor:
    """Bring (B, 3, S, S) uint8 from 0..255 to float32 of ImageNet's mean 0 and deviation 1."""
    mean, deviation = pixel_statistics(images.device)
    return (images - mean) / deviation


@cache
def pixel_statistics(device: torch.device) -> torch.Tensor:
    """ImageNet's mean and standard deviation of red, green and blue, (2, 3, 1, 1)."""
    mean, deviation = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    return 255 * torch.tensor([mean, deviation], device=device).view(2, 3, 1, 1)
