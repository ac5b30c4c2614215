"""Pathfinder of Long Range Arena as a dataset, and ``hrt-mm data pathfinder``, which writes its pictures as files.

Shapes: N pictures, H rows, W columns.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import NonNegativeInt, PositiveInt

from hrt_mm.core.errors import ConfigError
from hrt_mm.data.dataset import DatasetConfig
from hrt_mm.data.progress import tracked
from hrt_mm.data.registry import Command
from hrt_mm.data.tokenizer import TokenizerConfig

from ..common.generated import generated
from ..common.splits import SPLITS, check_split
from ..vision.augment import BatchAugmentation, ImageMixing, chain, mixing_of, of_images, sized
from ..vision.images import png
from ..vision.memory import ImagesInMemory
from ..vision.tokenizer import VisionConfig
from .pathfinder import SIZE, pictures

CLASSES = ("apart", "connected")
TRAIN, HELD_OUT = 160_000, 20_000
_ATTEMPTS = 4096
_VERSION = 1
"""Must be raised when the same seed gives other pictures, so that no stale cache is read."""


def drawn(seed: int) -> Iterator[tuple[np.ndarray, bool]]:
    """Pictures (H, W) uint8 of a seed, without end, with whether their markers are connected."""
    block = 0
    while True:
        images, connected = pictures(_ATTEMPTS, np.random.default_rng([_VERSION, seed, block]))
        yield from zip(images, connected.tolist(), strict=True)
        block += 1


class PathfinderConfig(DatasetConfig):
    """Pathfinder of Long Range Arena, hard variant: are two markers joined by one dashed contour among others?

    32 x 32 grey pixels. Generated, and reproducible by seed; 200,000 pictures take about 15 minutes once.
    """

    type: Literal["pathfinder"]
    seed: NonNegativeInt = 0
    """Seed of the pictures."""
    train: PositiveInt = TRAIN
    """Pictures to train on."""
    val: PositiveInt = HELD_OUT
    """Pictures for validation."""
    test: PositiveInt = HELD_OUT
    """Pictures for testing."""
    augment: tuple[BatchAugmentation, ...] = ()
    """Transforms of training images, in order."""
    cache: Path | None = None
    """Cache folder; ``$XDG_CACHE_HOME/hrt_mm`` or ``~/.cache/hrt_mm`` when absent."""

    def mixing(self) -> ImageMixing | None:
        """What mixes the images of training batches."""
        return mixing_of(self.augment)

    def suited(self, modality: TokenizerConfig) -> DatasetConfig:
        """The configuration, with the modality's size for crops without one."""
        size = modality.size if isinstance(modality, VisionConfig) else None
        return self.model_copy(update={"augment": sized(self.augment, size)})

    def build(self, split: str) -> ImagesInMemory:
        """The pictures of a split. The first call generates all splits.

        Raises:
            ConfigError: there is no such split, or the cache cannot be written.
        """
        check_split(split)
        counts = {name: int(getattr(self, name)) for name in SPLITS}
        plan = f"{_VERSION} {self.seed} {sorted(counts.items())}"
        folder = generated("pathfinder", plan, self.cache, partial(_make, self.seed, counts), "data.cache")
        images = np.load(folder / f"{split}.npy", allow_pickle=False)
        labels = np.load(folder / f"{split}.labels.npy", allow_pickle=False)
        return ImagesInMemory(
            torch.from_numpy(images)[:, None],
            labels.tolist(),
            CLASSES,
            [f"pathfinder/{split}/{index}" for index in range(len(labels))],
            chain(of_images(self.augment)) if split == "train" else None,
        )


def _make(seed: int, counts: dict[str, int], folder: Path) -> None:
    total = sum(counts.values())
    rows = tracked(drawn(seed), total, "drawing pictures")
    for split, count in counts.items():
        images, labels = np.empty((count, SIZE, SIZE), np.uint8), np.empty(count, np.uint8)
        for index in range(count):
            images[index], labels[index] = next(rows)
        np.save(folder / f"{split}.npy", images)
        np.save(folder / f"{split}.labels.npy", labels)


def _arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the pictures; new or empty")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the pictures (0)")
    parser.add_argument("--train", type=int, default=TRAIN, metavar="N", help=f"training pictures ({TRAIN})")
    parser.add_argument("--val", type=int, default=HELD_OUT, metavar="N", help=f"for validation ({HELD_OUT})")
    parser.add_argument("--test", type=int, default=HELD_OUT, metavar="N", help=f"for testing ({HELD_OUT})")


def _run(args: Namespace) -> int:
    """Writes DIR/SPLIT/CLASS/NUMBER.png, and prints the folder."""
    counts = dict(zip(SPLITS, (args.train, args.val, args.test), strict=True))
    if min(*counts.values(), args.seed + 1) < 1:
        raise ConfigError("--train, --val and --test must be 1 or more, and --seed 0 or more")
    if args.out.exists() and not (args.out.is_dir() and not any(args.out.iterdir())):
        raise ConfigError(f"{args.out} is there already and not an empty folder; choose another --out")
    rows = tracked(drawn(args.seed), sum(counts.values()), "drawing pictures")
    try:
        for split, count in counts.items():
            for name in CLASSES:
                (args.out / split / name).mkdir(parents=True)
            for index in range(count):
                image, connected = next(rows)
                file = args.out / split / CLASSES[connected] / f"{index:06d}.png"
                file.write_bytes(png(torch.from_numpy(image)[None]))
    except OSError as error:
        raise ConfigError(f"{args.out} cannot be written: {error.strerror}; choose another --out") from error
    print(f"{args.out}: " + ", ".join(f"{count} {split}" for split, count in counts.items()))
    return 0


PATHFINDER = Command("data pathfinder", "write generated pictures of Pathfinder", _arguments, _run)
