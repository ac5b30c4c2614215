"""Emoji: two pictures of each, its name and keywords, and its names in other languages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from hrt_mm.core.errors import ConfigError
from hrt_mm.core.extras import needs_extra
from hrt_mm.data.dataset import Dataset, DatasetConfig
from hrt_mm.data.sample import Sample

from ..common.splits import check_split
from ..common.tables import path_of, read_rows, split_of
from ..vision.augment import Augmentation, Transform, chain
from ..vision.images import read_image

Language = Literal["en", "de", "fr", "es", "pt", "it", "ru", "ja", "zh", "ko", "ar", "hi"]


class EmojiConfig(DatasetConfig):
    """Pictures in the styles of Noto (``noto``) and EmojiTwo (``emojitwo``, if there is one), and names (``text``).

    The splits are those of the table ``index.tsv``: variants of an emoji and identical pictures are in the same one.
    """

    type: Literal["emoji"]
    parts: ClassVar[tuple[str, ...]] = ("noto", "emojitwo", "text", "image")
    root: Path
    """Folder that holds ``index.tsv`` and the pictures."""
    languages: Annotated[tuple[Language, ...], Field(min_length=1)] = ("en",)
    """Languages of the names; a training sample has a random one, others the first."""
    keywords: Annotated[float, Field(ge=0, le=1)] = 0.3
    """Probability that the text of a training sample is some keywords instead of the name."""
    size: PositiveInt | None = None
    """Side in pixels to which training pictures are resized before augmentation; they then stay in memory."""
    augment: tuple[Augmentation, ...] = ()
    """Transforms of training pictures, in order."""
    both: bool = False
    """Leave out emoji that EmojiTwo lacks."""

    def build(self, split: str) -> EmojiSet:
        """The emoji of a split.

        Raises:
            ConfigError: there is no such split, or the table is missing or broken.
        """
        check_split(split)
        selected = [
            emoji for emoji, emoji_split in self._read() if emoji_split == split and (emoji.emojitwo or not self.both)
        ]
        if not selected:
            raise ConfigError(f"data.root {self.root} has no emoji for split {split!r}")
        training = split == "train"
        return EmojiSet(self, selected, chain(self.augment) if training else None, training=training)

    def plain(self, split: str) -> EmojiSet:
        """The emoji of a split, without augmentation."""
        return EmojiSet(self, self.build(split).emoji, None, training=False)

    def _read(self) -> list[tuple[Emoji, str]]:
        table = self.root / "index.tsv"
        columns = ("id", "char", "name", "keywords", "noto", "split")
        rows = []
        for number, row in read_rows(table, columns, "the columns of the emoji's index"):
            location = f"{table}:{number}"
            names = {code: row[f"name_{code}"] for code in self.languages if code != "en" and row.get(f"name_{code}")}
            second = path_of(row, "emojitwo", location) if row.get("emojitwo") else ""
            alike = row.get("same_image_as") or row["id"]
            emoji = Emoji(
                alike, row["char"], {"en": row["name"]} | names, tuple(row["keywords"].split("|")),
                path_of(row, "noto", location), second,
            )  # fmt: skip
            rows.append((emoji, split_of(row, "split", location)))
        return rows


@dataclass(frozen=True)
class Emoji:
    """One emoji.

    Args:
        id: code points, or those of the first emoji with the same picture.
        char: the characters.
        names: by language.
        keywords: in English.
        noto: path of the picture.
        emojitwo: path of the second picture; empty for none.
    """

    id: str
    char: str
    names: Mapping[str, str]
    keywords: tuple[str, ...]
    noto: str
    emojitwo: str


class EmojiSet(Dataset):
    """Emoji of a split.

    Args:
        config: of the dataset.
        emoji: of the split.
        transform: augmentation of the pictures.
        training: whether texts are random.
    """

    def __init__(
        self, config: EmojiConfig, emoji: Sequence[Emoji], transform: Transform | None, *, training: bool
    ) -> None:
        self.config, self.emoji, self.transform, self.training = config, list(emoji), transform, training
        self._small: dict[str, Tensor] = {}

    def __len__(self) -> int:
        return len(self.emoji)

    def __getitem__(self, index: int) -> Sample:
        """The pictures and a text; ``image`` is Noto's, or in training a random one."""
        emoji = self.emoji[index]
        pictures = {
            "noto": self._picture(emoji.noto),
            "emojitwo": self._picture(emoji.emojitwo) if emoji.emojitwo else None,
        }
        either = [picture for picture in pictures.values() if picture is not None]
        image = either[int(torch.randint(len(either), ()))] if self.training else either[0]
        return Sample(
            {**pictures, "image": image, "text": self._text(emoji)}, emoji.id, f"{emoji.id} {emoji.names['en']}"
        )

    def name(self, index: int) -> str:
        """The number and the English name."""
        return f"{self.emoji[index].id} {self.emoji[index].names['en']}"

    def describe(self, index: int) -> Mapping[str, str]:
        """The fields of a search result."""
        emoji = self.emoji[index]
        return {"character": emoji.char, "name": emoji.names["en"], "keywords": ", ".join(emoji.keywords)}

    def file_of(self, index: int, tower: str) -> Path | None:
        """The file of a picture."""
        emoji = self.emoji[index]
        files = {"noto": emoji.noto, "emojitwo": emoji.emojitwo, "image": emoji.noto or emoji.emojitwo}
        return self.config.root / files[tower] if files.get(tower) else None

    def _picture(self, path: str) -> Tensor:
        image = self._read_small(path, self.config.size) if self.training and self.config.size else self._read(path)
        return self.transform(image) if self.transform is not None else image

    def _read(self, path: str) -> Tensor:
        return read_image(self.config.root / path, path)

    def _read_small(self, path: str, size: int) -> Tensor:
        with needs_extra("vision"):
            from torchvision.transforms.v2.functional import resize, to_dtype

        if path not in self._small:
            small = resize(self._read(path), [size, size], antialias=True)
            # Augmentation of floats is twice as fast as that of bytes.
            self._small[path] = to_dtype(small, torch.float32, scale=True)
        return self._small[path]

    def _text(self, emoji: Emoji) -> str:
        if not self.training:
            return emoji.names.get(self.config.languages[0], emoji.names["en"])
        if float(torch.rand(())) < self.config.keywords:
            count = 1 + int(torch.randint(min(4, len(emoji.keywords)), ()))
            chosen = torch.randperm(len(emoji.keywords))[:count].tolist()
            return " ".join(emoji.keywords[index] for index in chosen)
        names = [emoji.names[code] for code in self.config.languages if code in emoji.names] or [emoji.names["en"]]
        return names[int(torch.randint(len(names), ()))]
