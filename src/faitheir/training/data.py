"""Random crops of photographs, numbered: crop n is the same whatever the workers, the processes or the restarts."""

import io
import signal
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from faitheir.errors import ImageError, StorageError
from faitheir.images import Picture, decode_picture, is_picture_path
from faitheir.storage import open_file
from faitheir.training.config import DataConfig

SHARD_SUFFIX = ".tar"


@dataclass(frozen=True)
class Photograph:
    """Where a photograph is: a file, or ``size`` bytes from ``offset`` of a shard, its ``member``."""

    path: Path
    member: str | None = None
    offset: int = 0
    size: int = 0

    @property
    def name(self) -> str:
        """For people: the file, and the member after a colon."""
        return str(self.path) if self.member is None else f"{self.path}:{self.member}"

    def read(self) -> bytes:
        """The encoded picture. Raises ImageError where it cannot be read."""
        with open_file(self.path) as file:
            try:
                if self.member is None:
                    return file.read()
                file.seek(self.offset)
                content = file.read(self.size)
            except OSError as error:
                raise ImageError(f"{self.name} cannot be read ({error.strerror}).") from error
        if len(content) < self.size:
            raise ImageError(f"{self.name} is cut short: the shard ends before it.")
        return content


def find_training_photographs(source: str | Path) -> list[Photograph]:
    """The pictures and the members of shards in a folder, of one shard, or of the shards that fit a pattern; sorted.

    Shards are WebDataset's: plain tar files, whose members that are named like pictures are taken. They are indexed
    once and then read at random, so that photographs from shards come in as well shuffled, and as exactly repeatable,
    an order as from a folder. Raises ImageError where there are none, or a shard is no tar file.
    """
    root = Path(source)
    if root.is_dir():
        files = sorted(p for p in root.rglob("*") if p.is_file() and not p.name.startswith("."))
    elif root.is_file():
        files = [root]
    else:
        # Only the last part may be a pattern: that is what shards differ in.
        files = sorted(p for p in root.parent.glob(root.name) if p.is_file()) if root.parent.is_dir() else []
        if not files:
            raise ImageError(f"{source}: neither a folder of photographs nor shards; check the name.")
    found: list[Photograph] = []
    for path in files:
        if path.suffix == SHARD_SUFFIX:
            found += _members(path)
        elif is_picture_path(path):
            found.append(Photograph(path))
    if not found:
        raise ImageError(f"{source}: no photographs here, neither files nor in shards ({SHARD_SUFFIX}).")
    return found


def _members(path: Path) -> list[Photograph]:
    try:
        with tarfile.open(path, "r:") as shard:
            return [
                Photograph(path, m.name, m.offset_data, m.size) for m in shard if m.isfile() and is_picture_path(m.name)
            ]
    except (OSError, tarfile.TarError) as error:
        raise ImageError(f"{path}: not a readable shard ({error}); shards are uncompressed tar files.") from None


class CropDataset(Dataset[Tensor]):
    """Item n is crop number n of an endless, seeded stream: float32 (3, crop, crop) in [0, 1].

    The photographs are shuffled anew in each pass over them. One that cannot be read is replaced by the next; its
    name is kept in ``unreadable`` and, with the reason, appended to the file ``listing``, once by each process.
    """

    def __init__(self, config: DataConfig, seed: int, *, listing: Path | None = None) -> None:
        self.config = config
        self.seed = seed
        self.photographs = [
            photograph
            for photograph in find_training_photographs(config.train)
            for _ in range(_repeats(photograph, config.repeat))
        ]
        self.listing = listing
        self.unreadable: set[str] = set()
        self._cache: dict[str, np.ndarray] = {}

    def __len__(self) -> int:
        """How many photographs a pass sees, repeated ones as often as they are; crops are without end."""
        return len(self.photographs)

    def __getitem__(self, n: int) -> Tensor:
        """Crop number ``n``."""
        for index in self._candidates(n):
            rng = np.random.default_rng((self.seed, 1, n))
            factor = 1.0
            if rng.random() < self.config.shrink:
                factor = rng.uniform(self.config.shrink_min, 1)
            found = self._pixels(index, factor)
            if found is not None:
                crop = self._crop(*found, rng)
                return torch.from_numpy(crop).permute(2, 0, 1).float() / 255
        raise ImageError(f"{self.config.train}: none of the photographs here can be read.")

    def name_of(self, n: int) -> str:
        """The photograph that crop ``n`` is from, unless it cannot be read."""
        return self.photographs[next(self._candidates(n))].name

    def _candidates(self, n: int) -> Iterator[int]:
        """The photograph of crop ``n``, then those that stand in for it."""
        lap, place = divmod(n, len(self.photographs))
        order = np.random.default_rng((self.seed, 0, lap)).permutation(len(self.photographs))
        return (int(order[(place + i) % len(order)]) for i in range(len(order)))

    def _pixels(self, index: int, factor: float) -> tuple[np.ndarray, float] | None:
        """A photograph's pixels, and what is left of ``factor`` where they were reduced in decoding."""
        photograph = self.photographs[index]
        if photograph.name in self._cache:
            return self._cache[photograph.name], factor
        if photograph.name in self.unreadable:
            return None
        sizes: list[tuple[int, int]] = []

        def enough(size: tuple[int, int]) -> tuple[int, int]:
            sizes.append(size)
            least = max(factor, self.config.crop / min(size))
            return round(size[0] * least), round(size[1] * least)

        drafting = self.config.draft and not self.config.cache and factor <= 0.5
        try:
            content = io.BytesIO(photograph.read())
            picture: Picture = decode_picture(content, photograph.name, enough=enough if drafting else None)
        except (ImageError, StorageError) as error:
            self.unreadable.add(photograph.name)
            if self.listing is not None:
                with self.listing.open("a", encoding="utf-8") as file:
                    file.write(f"{error}\n")
            return None
        if self.config.cache:
            self._cache[photograph.name] = picture.rgb
        if drafting and sizes:
            factor *= max(sizes[0]) / max(picture.rgb.shape[:2])
        return picture.rgb, factor

    def _crop(self, pixels: np.ndarray, factor: float, rng: np.random.Generator) -> np.ndarray:
        crop = self.config.crop
        height, width = pixels.shape[:2]
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


def _repeats(photograph: Photograph, repeat: Mapping[str, int]) -> int:
    name = Path(photograph.member or photograph.path).name
    return max((times for pattern, times in repeat.items() if fnmatch(name, pattern)), default=1)


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


def patient_worker(_index: int) -> None:
    """In a loader's process: leave signals meant for the whole run to the run, which saves before it leaves.

    A terminal and a scheduler signal every process. SIGTERM ends this one two minutes later, if the run has not.
    """
    for number in (signal.SIGINT, getattr(signal, "SIGHUP", signal.SIGINT)):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(120))
    torch.set_num_threads(1)
