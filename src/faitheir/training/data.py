"""Random crops of photographs, numbered: crop n is the same whatever the workers, the processes or the restarts."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from faitheir.errors import ImageError
from faitheir.files import find_photographs
from faitheir.images import read_picture
from faitheir.training.config import DataConfig


class CropDataset(Dataset[Tensor]):
    """Item n is crop number n of an endless, seeded stream: float32 (3, crop, crop) in [0, 1].

    The photographs are shuffled anew in each pass over them. One that cannot be read is replaced by the next; its
    path is kept in ``unreadable``.
    """

    def __init__(self, config: DataConfig, seed: int) -> None:
        self.config = config
        self.seed = seed
        self.paths = find_photographs(config.train)
        self.unreadable: set[Path] = set()
        self._cache: dict[int, np.ndarray] = {}

    def __getitem__(self, n: int) -> Tensor:
        """Crop number ``n``."""
        lap, place = divmod(n, len(self.paths))
        order = np.random.default_rng((self.seed, 0, lap)).permutation(len(self.paths))
        for attempt in range(len(self.paths)):
            pixels = self._photograph(int(order[(place + attempt) % len(self.paths)]))
            if pixels is not None:
                crop = self._crop(pixels, np.random.default_rng((self.seed, 1, n)))
                return torch.from_numpy(crop).permute(2, 0, 1).float() / 255
        raise ImageError(f"{self.config.train}: none of the photographs in this folder can be read.")

    def _photograph(self, index: int) -> np.ndarray | None:
        if index in self._cache:
            return self._cache[index]
        if self.paths[index] in self.unreadable:
            return None
        try:
            pixels = read_picture(self.paths[index]).rgb
        except ImageError:
            self.unreadable.add(self.paths[index])
            return None
        if self.config.cache:
            self._cache[index] = pixels
        return pixels

    def _crop(self, pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        crop = self.config.crop
        height, width = pixels.shape[:2]
        factor = 1.0
        if rng.random() < self.config.shrink:
            factor = rng.uniform(self.config.shrink_min, 1)
        # A photograph smaller than the crop is enlarged to it: the last resort of small folders.
        factor = max(factor, crop / min(height, width))
        source = int(min(round(crop / factor), height, width))
        top, left = rng.integers(height - source + 1), rng.integers(width - source + 1)
        cut = pixels[top : top + source, left : left + source]
        if source != crop:
            cut = np.asarray(Image.fromarray(np.ascontiguousarray(cut)).resize((crop, crop), Image.Resampling.BICUBIC))
        if rng.random() < 0.5:
            cut = cut[:, ::-1]
        return np.array(cut)


class NumberSampler(Sampler[int]):
    """The numbers from ``start`` up to ``stop``: what remains of a stream after a restart."""

    def __init__(self, start: int, stop: int) -> None:
        self.start, self.stop = start, stop

    def __iter__(self) -> Iterator[int]:
        """The numbers in order."""
        return iter(range(self.start, self.stop))

    def __len__(self) -> int:
        """How many."""
        return self.stop - self.start
