"""Public speech corpora in their original layouts: Speech Commands and LibriSpeech. Downloaded only on request."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from hrt_mm.core.errors import ConfigError
from hrt_mm.data.dataset import Dataset
from hrt_mm.data.files import shown
from hrt_mm.data.plain_text import NotText, read_lines

from ..audio.files import SUFFIXES
from ..audio.folders import as_target
from ..audio.joined import JoinableConfig
from ..audio.recordings import Recording, Recordings, RecordingsConfig
from ..common.folders import files_under
from ..common.splits import check_split
from .download import Archive, fetch

_COMMANDS = Archive(
    "http://download.tensorflow.org/data/speech_commands_v0.02.tar.gz",
    "af14739ee7dc311471de98f5f9d2c9191b18aedfe957f4a6ff791c709868ff58",
)
_LISTS = {"val": "validation_list.txt", "test": "testing_list.txt"}
_LIBRI = "http://www.openslr.org/resources/12/"
_PARTS = {
    "dev-clean": "76f87d090650617fca0cac8f88b9416e0ebf80350acb97b343a85fa903728ab3",
    "dev-other": "12661c48e8c3fe1de2c1caa4c3e135193bfb1811584f11f569dd12645aa84365",
    "test-clean": "39fde525e59672dc6d1551919b1478f724438a95aa55f874b576be21967e6c23",
    "test-other": "d09c181bba5cf717b3dee7d4d592af11a3ee3a09e08ae025c5506f6ebe961c29",
    "train-clean-100": "d4ddd1d5a6ab303066f14971d768ee43278a5f2a0aa43dc716b0e64ecbbbf6e2",
    "train-clean-360": "146a56496217e96c14334a160df97fffedd6e0a04e66b9c5af0d40be3c792ecf",
    "train-other-500": "ddb22f27f96ec163645d53215559df6aa36515f26e01dd70798188350adcb6d2",
}
Part = Annotated[str, Field(pattern=r"^[^/\\.][^/\\]*$")]
"""The name of a folder."""


class SpeechCommandsConfig(RecordingsConfig):
    """Single words of a second each (Speech Commands): ROOT/WORD/*.wav with the official lists of val and test."""

    type: Literal["speech_commands"]
    root: Path
    """Folder that holds a folder a word, ``validation_list.txt`` and ``testing_list.txt``."""
    label: Literal["word", "characters"] = "word"
    """The label: the word, or its characters."""
    words: tuple[str, ...] = ()
    """Words to use; all when empty."""
    download: bool = False
    """Download version 0.02 (2.3 GB) to ``root`` if it is missing."""

    @model_validator(mode="after")
    def _all_there(self) -> SpeechCommandsConfig:
        if self.val != type(self).model_fields["val"].default:
            raise ValueError("val has no effect: the data has a list of its own; drop it")
        return self

    def build(self, split: str) -> Recordings:
        """The words of a split.

        Raises:
            ConfigError: the data is missing, or has no such word.
        """
        check_split(split)
        if not (self.root / _LISTS["test"]).is_file() and self.download:
            fetch(_COMMANDS, self.root)
        names = {}
        for side, list_name in _LISTS.items():
            if not (self.root / list_name).is_file():
                raise ConfigError(
                    f"{self.root} holds no {list_name}; set data.download: true, or data.root to where it is"
                )
            names[side] = frozenset(line.strip() for line in _lines(self.root / list_name) if line.strip())
        files = [name for name in files_under(self.root, SUFFIXES, self.follow_links) if not name.startswith("_")]
        available = {name.split("/")[0] for name in files if "/" in name}
        if missing := [word for word in self.words if word not in available]:
            raise ConfigError(f"data.words: {self.root} has no {missing[0]!r}; it has {', '.join(sorted(available))}")
        splits: dict[str, list[Recording]] = {"train": [], "val": [], "test": []}
        for name in files:
            word = name.split("/")[0]
            if "/" not in name or (self.words and word not in self.words):
                continue
            side = next((side for side, listed in names.items() if name in listed), "train")
            splits[side].append(Recording(name, as_target(word, self.label), boundaries={"words": (0.0,)}))
        return self.dataset(split, self.root, splits)


class LibriSpeechConfig(JoinableConfig):
    """Speech in LibriSpeech's layout: ROOT/PART/SPEAKER/CHAPTER/*.flac, with a ``.trans.txt`` per chapter.

    Parts may be others than LibriSpeech's, folders may be nested to any depth, and sounds may be of any format.
    """

    type: Literal["librispeech"]
    root: Path
    """The folder with a folder for each part, such as ``LibriSpeech``."""
    label: Literal["text", "words", "characters"] = "characters"
    """The label: the text, or its words or characters in order, in lower case."""
    train: tuple[Part, ...] = ("train-clean-100",)
    """Parts to train on."""
    valid: tuple[Part, ...] = ("dev-clean",)
    """Parts for validation."""
    test: tuple[Part, ...] = ("test-clean",)
    """Parts to test on."""
    download: bool = False
    """Download missing parts of LibriSpeech: 0.3 GB each of dev and test, 6, 23 and 30 GB of train."""

    @model_validator(mode="after")
    def _apart(self) -> LibriSpeechConfig:
        named = [*self.train, *self.valid, *self.test]
        if twice := sorted({part for part in named if named.count(part) > 1}):
            raise ValueError(f"{twice[0]} is in two splits; a part belongs in one")
        if self.val != type(self).model_fields["val"].default:
            raise ValueError("val has no effect: valid names the parts for validation; drop val")
        return self

    def build(self, split: str) -> Dataset:
        """The sentences of a split.

        Raises:
            ConfigError: a part is missing or broken.
        """
        check_split(split)
        sides = {"train": self.train, "val": self.valid, "test": self.test}
        # Train is always read, because it has the classes.
        needed = {"train", split}
        items = {side: [item for part in sides[side] for item in self._part(part)] for side in sorted(needed)}
        # Keeps val from being split off train if the validation parts are not read.
        items.setdefault("val", items[split])
        sounds = self.dataset(split, self.root, items, texts=self.label == "text")
        return self.concatenated(split, sounds, spaced=self.label == "characters")

    def _part(self, part: str) -> list[Recording]:
        folder = self.root / part
        if not folder.is_dir() and self.download and part in _PARTS:
            # The archives contain LibriSpeech/PART.
            if self.root.name != "LibriSpeech":
                raise ConfigError(
                    f"data.root {self.root} must end in LibriSpeech, as the archives do, to be fetched into"
                )
            fetch(Archive(f"{_LIBRI}{part}.tar.gz", _PARTS[part]), self.root.parent)
        if not folder.is_dir():
            names = sorted(path.name for path in self.root.iterdir() if path.is_dir()) if self.root.is_dir() else []
            there = f"; it has {', '.join(map(shown, names))}" if names else ""
            fix = (
                "set data.download: true, or data.root" if part in _PARTS else "set data.train, valid and test to parts"
            )
            raise ConfigError(f"data.root {self.root} has no folder {part}{there}; {fix}")
        items = []
        for file in sorted(folder.rglob("*.trans.txt")):
            sounds = {path.stem: path.name for path in file.parent.iterdir() if path.suffix.lower() in SUFFIXES}
            for number, line in enumerate(_lines(file), 1):
                name, _, text = line.partition(" ")
                if not name or not text or "/" in name or "\\" in name or name.startswith("."):
                    raise ConfigError(f"{file}:{number} is no name and text: {line[:60]!r}")
                path = (file.parent / sounds.get(name, f"{name}.flac")).relative_to(self.root).as_posix()
                items.append(Recording(path, as_target(text.lower(), self.label)))
        if not items:
            raise ConfigError(f"{folder} has no .trans.txt with lines of a name and a text")
        return items


def _lines(file: Path) -> list[str]:
    try:
        return read_lines(file)
    except (OSError, NotText) as error:
        raise ConfigError(f"{file} cannot be read: {error}") from error
