"""Pairs in folders: files of one stem (``a.jpg`` and ``a.txt``), and the captions of COCO."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from hrt_mm.core.errors import ConfigError
from hrt_mm.data.files import shown
from hrt_mm.data.folders import listed, say_once, walk
from hrt_mm.data.plain_text import NotText, read_lines
from hrt_mm.data.splits import split_name
from hrt_mm.data.tables import Paths

from ..audio.files import SUFFIXES as SOUNDS
from ..common.folders import need_root
from ..common.shards import LocatedRow, LocatedRowsConfig, ShardRowsConfig
from ..video.readers import SUFFIXES as FILMS
from ..vision.images import SUFFIXES as IMAGES
from .columns import AnySource, ImageSource, TextSource
from .manifest import JointRowsConfig

log = logging.getLogger(__name__)

_TEXTS = frozenset({".txt", ".caption"})
_MAX_TEXT = 1 << 20
"""Maximum bytes of a text."""


class JointFolderConfig(LocatedRowsConfig, JointRowsConfig):
    """Files of one stem in a folder: ``a.jpg`` and ``a.txt``, ``b.wav`` and ``b.txt``.

    Columns are ``image``, ``audio``, ``video`` and ``text``, which has the content of the file, and ``folder``, the
    name of the folder. A stem without a file for each source is left out, with a warning.
    """

    type: Literal["joint_folder"]
    root: Path
    """The folder. If it has a folder ``train``, its folders are splits."""
    label_column: str | None = None
    """Column of the label: ``folder``; null for samples without labels."""

    @property
    def home(self) -> Path:
        return self.root

    @property
    def where(self) -> str:
        return f"data.root {self.root}"

    def located_rows(self) -> Iterator[LocatedRow]:
        need_root(self.root)
        listing = walk(self.root, IMAGES | SOUNDS | FILMS | _TEXTS, follow_links=self.follow_links)
        listing.warn(log, self.where)
        has_splits = any(split_name(name) == "train" for name in listing.folders if "/" not in name)
        stems: dict[str, dict[str, str]] = {}
        for name in listing.files:
            kind, stem = _kind(name), name[: -len(Path(name).suffix)]
            other = stems.setdefault(stem, {}).setdefault(kind, name)
            if other != name:
                raise ConfigError(f"{self.where}: {shown(other)} and {shown(name)} are both the {kind} of one stem")
        columns = [source.names()[0] for source in self.sources.values()]
        paths = Paths(self.root / "stems", self.root)
        left_out: list[str] = []
        for stem, files in stems.items():
            split = split_name(stem.split("/")[0]) if has_splits else None
            if has_splits and split is None:
                raise ConfigError(f"{self.where} has train/, and also {shown(stem)}, which is in no split")
            row: dict[str, Any] = {**files, "folder": Path(stem).parent.name}
            if "text" in files:
                row["text"] = self._text(self.root / files["text"])
            if all(row.get(column) for column in columns):
                yield LocatedRow(split, f"{self.root}:{shown(stem)}", row, paths)
            else:
                left_out.append(shown(next(iter(files.values()))))
        if left_out:
            lack = f"{len(left_out)} stems lack a file or a text of {', '.join(columns)} and are left out"
            say_once(log, f"{self.where}: {lack}: {listed(left_out)}")

    def _text(self, file: Path) -> str | None:
        """The text of a file; ``None`` if it is empty or no text."""
        try:
            inside = self.follow_links or file.resolve().is_relative_to(self.root.resolve())
            return "\n".join(read_lines(file)).strip() or None if inside and file.stat().st_size <= _MAX_TEXT else None
        except (OSError, NotText):
            return None


def _kind(name: str) -> str:
    suffix = Path(name).suffix.lower()
    if suffix in _TEXTS:
        return "text"
    return "image" if suffix in IMAGES else "video" if suffix in FILMS else "audio"


class CocoCaptionsConfig(LocatedRowsConfig, JointRowsConfig):
    """Images with captions in the format of COCO: an image is a row, with all its captions.

    Columns are ``image`` and ``caption``.
    """

    type: Literal["coco_captions"]
    root: Path
    """The folder of images and captions, such as ``coco`` with ``train2017`` and ``annotations``."""
    captions: dict[Literal["train", "val", "test"], Path] = {
        "train": Path("annotations/captions_train2017.json"),
        "val": Path("annotations/captions_val2017.json"),
    }
    """By split, the file of captions, from ``root``."""
    images: dict[Literal["train", "val", "test"], Path] = {"train": Path("train2017"), "val": Path("val2017")}
    """By split, the folder of images, from ``root``."""
    sources: dict[str, AnySource] = Field(
        default={
            "image": ImageSource(type="image", column="image"),
            "text": TextSource(type="text", column="caption"),
        },
        min_length=2,
    )
    """By tower, its column and how it is read. Training takes one of the captions at random."""
    label_column: str | None = None
    """Column of the label; captions have none."""

    @property
    def home(self) -> Path:
        return self.root

    @property
    def where(self) -> str:
        return f"data.root {self.root}"

    def located_rows(self) -> Iterator[LocatedRow]:
        need_root(self.root)
        if set(self.captions) != set(self.images):
            raise ConfigError(
                f"data.captions has {', '.join(self.captions)}, and data.images {', '.join(self.images)}; name a file "
                "of captions and a folder of images for each split"
            )
        for split, file in self.captions.items():
            paths = Paths(self.root / file, self.root)
            for image, captions in _captions(self.root / file):
                row = {"image": f"{self.images[split].as_posix()}/{image}", "caption": captions}
                yield LocatedRow(split, f"{self.root / file}:{shown(image)}", row, paths)


def _captions(file: Path) -> Iterator[tuple[str, list[str]]]:
    """The names of images with their captions."""
    try:
        content = json.loads(file.read_bytes())
    except OSError as error:
        raise ConfigError(f"data.captions {file} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"data.captions {file} is not JSON: {error}") from error
    images, annotations = (
        content.get(key) if isinstance(content, Mapping) else None for key in ("images", "annotations")
    )
    if not isinstance(images, list) or not isinstance(annotations, list):
        raise ConfigError(f"data.captions {file} must be an object with the lists images and annotations, as of COCO")
    names: dict[Any, str] = {}
    for number, image in enumerate(images):
        if not isinstance(image, Mapping) or "id" not in image or not isinstance(image.get("file_name"), str):
            raise ConfigError(f"{file}: images[{number}] must have id and file_name, got {image!r:.80}")
        names[image["id"]] = image["file_name"]
    captions: dict[Any, list[str]] = {key: [] for key in names}
    for number, annotation in enumerate(annotations):
        caption = annotation.get("caption") if isinstance(annotation, Mapping) else None
        if not isinstance(caption, str) or annotation.get("image_id") not in captions:
            got = f"got {annotation!r:.80}"
            raise ConfigError(f"{file}: annotations[{number}] must have a caption and the image_id of an image, {got}")
        if caption.strip():
            captions[annotation["image_id"]].append(caption.strip())
    empty = [shown(names[key]) for key, texts in captions.items() if not texts]
    if empty:
        say_once(log, f"{file}: {len(empty)} images without a caption are left out: {listed(empty)}")
    yield from ((names[key], texts) for key, texts in captions.items() if texts)


class JointShardsConfig(ShardRowsConfig, JointRowsConfig):
    """Samples of several modalities in shards, such as images with captions."""

    type: Literal["joint_webdataset"]
    label_column: str | None = None
    """Column of the label; null for samples without labels."""
