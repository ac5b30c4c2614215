"""Shards: uncompressed tar files of samples, as WebDataset writes them, read at any position through an index.

The members of a sample follow each other and have one name up to the first dot of the last component: ``0001.jpg``,
``0001.cls``. Nothing is extracted, so names of members are labels only; links and devices in a shard are not used.
"""

from __future__ import annotations

import io
import json
import logging
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, BinaryIO

from ..core.errors import BadSample, ConfigError, printable
from .atomic_files import replace_file
from .contained import FileBytes, FileCell
from .files import shown
from .locations import LocalFile, Location, RangesRefused
from .stream import RowSource, ShardError, UnreachableError

log = logging.getLogger(__name__)

TEXTS = frozenset({"txt", "text", "caption", "cls", "json", "id", "split", "transcript"})
"""Extensions of members that are texts; compare the last part of ``wav.txt``."""
MAX_TEXT = 1 << 20
"""Maximum bytes of a text member."""
_BLOCK = 512
_VERSION = 1


@dataclass(frozen=True)
class ShardSample:
    """A sample of a shard.

    Args:
        key: the common name of its members.
        texts: by extension.
        files: by extension, position and size of the bytes.
    """

    key: str
    texts: Mapping[str, str]
    files: Mapping[str, tuple[int, int]]


class ShardFiles:
    """The files in a shard. A key is the position of the bytes.

    Args:
        shard: the tar file.
        sizes: of the files, by their position.
    """

    def __init__(self, shard: Location, sizes: Mapping[int, int]) -> None:
        self.shard, self._sizes, self.identity = shard, dict(sizes), shard.stamp()

    def read(self, key: int) -> bytes:
        """The bytes at a position.

        Raises:
            OSError, ValueError: the shard was changed, or cannot be read.
        """
        content = self.shard.read(key, self._sizes[key], self.identity)
        if len(content) != self._sizes[key]:
            raise ValueError("the shard ends in the middle of it")
        return content

    def size(self, key: int) -> int:
        """Size of the file at a position, in bytes."""
        return self._sizes[key]


def read_shard(shard: Path | Location, cache: Path | None = None) -> list[ShardSample]:
    """The index of a shard.

    Args:
        shard: the tar file, as a path or where it lies.
        cache: a folder for indices, which are made on first use; none is kept if ``None``.

    Raises:
        ConfigError: the file is no tar file, is compressed, ends in the middle, or has a sample twice or a text that is
            none; names the member.
    """
    location = LocalFile(shard) if isinstance(shard, Path) else shard
    try:
        key = blake2b(f"{_VERSION} {location.stamp()}".encode("utf-8", "surrogatepass"), digest_size=16)
        index = None if cache is None else cache / f"{key.hexdigest()}.json"
        samples = None if index is None else _cached(index)
        if samples is None:
            with location.open() as file:
                samples = list(_samples(location, file))
    except ConfigError:
        raise
    except (OSError, ValueError) as error:
        raise ConfigError(f"{shard} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if index is not None and not index.is_file():
        _save(index, samples)
    return samples


def rows_of_shard(
    shard: Path | Location, samples: Iterable[ShardSample], name: str
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The samples of a shard as rows of a table, by extension, each with its key.

    The first file is also the column ``file``, and the fields of a JSON object are columns too.

    Args:
        shard: the tar file, as a path or where it lies.
        samples: its index.
        name: of the shard, by which its files are named.

    Raises:
        ConfigError: a JSON text is none, or the shard cannot be reached any more.
    """
    samples = list(samples)
    location = LocalFile(shard) if isinstance(shard, Path) else shard
    try:
        source = ShardFiles(location, {start: size for sample in samples for start, size in sample.files.values()})
    except (OSError, ValueError) as error:
        raise ConfigError(f"{shard} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    for sample in samples:
        files = {
            extension: FileCell(source, start, shown(f"{name}/{sample.key}.{extension}"))
            for extension, (start, _) in sample.files.items()
        }
        row: dict[str, Any] = {"file": next(iter(files.values()))} if files else {}
        if "json" in sample.texts:
            row |= _fields(sample.texts["json"], f"{shard}: {shown(sample.key)}.json")
        yield sample.key, row | {**sample.texts, **files}


class ShardSource(RowSource):
    """The samples of a shard from its beginning to its end, without an index: the key and the contents by extension.

    Args:
        shard: where the tar file lies.
        name: of the shard, for messages.
        state: position of the next sample in the file, in bytes; the beginning when ``None``.
    """

    def __init__(self, shard: Location, name: str, state: int | None = None) -> None:
        self._shard, self._name, self._position, self._last = shard, name, state or 0, ""
        self._samples = self._read()

    def __next__(self) -> tuple[str, dict[str, bytes]]:
        with self._named():
            return next(self._samples)

    def state(self) -> int:
        """Position of the next sample in the file, in bytes."""
        return self._position

    def _read(self) -> Iterator[tuple[str, dict[str, bytes]]]:
        with self._shard.open() as file:
            _check_uncompressed(self._shard, file)
            file.seek(self._position)
            key, contents = "", dict[str, bytes]()
            with tarfile.open(fileobj=file, mode="r:") as archive:
                for member in archive:
                    # The archive would keep all of them.
                    archive.members = []  # type: ignore[attr-defined]
                    if not member.isreg() or member.issparse():
                        continue
                    of_sample, extension = _parted(member.name)
                    if of_sample != key and key:
                        self._position, self._last = member.offset, key
                        yield key, contents
                        contents = {}
                    key = of_sample
                    if extension in contents:
                        raise ConfigError(f"the member {shown(member.name)!r} is there twice")
                    file.seek(member.offset_data)
                    contents[extension] = file.read(member.size)
                    if len(contents[extension]) < member.size:
                        raise tarfile.ReadError("unexpected end of data")
                end = archive.offset
            if key:
                # Where the next header is damaged, this sample may lack members; it is then a bad one.
                self._position, self._last = end, key
                yield key, contents
            _check_end(file, end)

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Names the shard in errors, and tells one that is broken from a server that does not answer."""
        try:
            yield
        except FileNotFoundError as error:
            raise ShardError(self._name, self._lost("there is no such file")) from error
        except OSError as error:
            # A server may come back, unless it refuses.
            if not isinstance(self._shard, LocalFile) and not isinstance(error, PermissionError | RangesRefused):
                raise UnreachableError(f"{self._shard} cannot be read: {error}") from error
            raise ShardError(self._name, self._lost(error.strerror or str(error))) from error
        except tarfile.TarError as error:
            reason = f"it ends in the middle, is damaged, or is no tar file ({error})"
            raise ShardError(self._name, self._lost(reason)) from error
        except ValueError as error:
            raise ShardError(self._name, self._lost(str(error))) from error

    def _lost(self, reason: str) -> str:
        after = f"the samples after {shown(self._last)}" if self._last else "all of its samples"
        return f"{reason}; {after} are lost"


def row_of_sample(key: str, contents: Mapping[str, bytes], name: str) -> dict[str, Any]:
    """A sample of :class:`ShardSource` as the row of :func:`rows_of_shard`.

    Args:
        key: of the sample.
        contents: by extension.
        name: of the shard, by which its files are named.

    Raises:
        BadSample: a text is not UTF-8, or is not JSON.
    """
    sample = shown(f"{name}/{key}")
    texts: dict[str, str] = {}
    files: dict[str, FileCell] = {}
    for extension, content in contents.items():
        if extension.rpartition(".")[2] in TEXTS and len(content) <= MAX_TEXT:
            try:
                texts[extension] = content.decode("utf-8-sig").strip()
            except UnicodeDecodeError as error:
                raise BadSample(f"{sample}.{extension}", f"not UTF-8: {error}") from error
        else:
            files[extension] = FileCell(FileBytes(content), 0, f"{sample}.{extension}")
    row: dict[str, Any] = {"file": next(iter(files.values()))} if files else {}
    if "json" in texts:
        try:
            row |= _fields(texts["json"], f"{sample}.json")
        except ConfigError as error:
            raise BadSample(f"{sample}.json", str(error)) from error
    return row | {**texts, **files}


def _fields(text: str, location: str) -> dict[str, Any]:
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{location} is not JSON: {error}") from error
    return fields if isinstance(fields, dict) else {}


def _samples(shard: Location, file: BinaryIO) -> Iterator[ShardSample]:
    _check_uncompressed(shard, file)
    keys: dict[str, None] = {}
    current, texts, files = "", dict[str, str](), dict[str, tuple[int, int]]()
    last = ""
    ignored = 0
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            for member in archive:
                last = member.name
                if not member.isreg() or member.issparse():
                    ignored += not member.isdir()
                    continue
                key, extension = _parted(member.name)
                if key != current and current:
                    yield ShardSample(current, texts, files)
                    texts, files = {}, {}
                if key != current:
                    if key in keys:
                        raise ConfigError(
                            f"{shard} has the sample {shown(key)!r} twice, apart; members of a sample follow each other"
                        )
                    keys[key], current = None, key
                if extension in texts or extension in files:
                    raise ConfigError(f"{shard} has the member {shown(member.name)!r} twice; remove one")
                if extension.rpartition(".")[2] in TEXTS and member.size <= MAX_TEXT:
                    texts[extension] = _text(shard, file, member)
                else:
                    files[extension] = member.offset_data, member.size
            end = archive.offset
        _check_end(file, end)
    except tarfile.TarError as error:
        where = f" after {shown(last)}" if last else ""
        raise ConfigError(
            f"{shard} ends in the middle{where}, is damaged, or is no tar file ({error}); fetch it again"
        ) from error
    if current:
        yield ShardSample(current, texts, files)
    if ignored:
        log.warning("%s: %d links and other special members are not read", shard, ignored)


def _check_uncompressed(shard: Location, file: BinaryIO) -> None:
    head = file.read(6)
    if head[:2] == b"\x1f\x8b" or head[:3] == b"BZh" or head == b"\xfd7zXZ\x00":
        raise ConfigError(
            f"{shard} is compressed, and only plain tar files are read at any position; unpack it to .tar"
        )
    file.seek(0)


def _check_end(file: BinaryIO, end: int) -> None:
    """Checks the empty block at the end. A header that is damaged or cut off ends an iteration as this block does."""
    file.seek(end)
    if file.read(_BLOCK) != bytes(_BLOCK):
        raise tarfile.ReadError("the next header is damaged or missing")


def _parted(name: str) -> tuple[str, str]:
    folder, slash, leaf = name.rpartition("/")
    stem, _, extension = leaf.partition(".")
    return f"{folder}{slash}{stem}".removeprefix("./"), extension.lower()


def _text(shard: Location, file: BinaryIO, member: tarfile.TarInfo) -> str:
    position = file.tell()
    file.seek(member.offset_data)
    content = file.read(member.size)
    file.seek(position)
    try:
        return content.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{shard}: {shown(member.name)} is not UTF-8: {error}") from error


def _cached(index: Path) -> list[ShardSample] | None:
    try:
        entries = json.loads(index.read_text(encoding="utf-8"))
        return [
            ShardSample(key, dict(texts), {extension: (int(start), int(size)) for extension, start, size in files})
            for key, texts, files in entries
        ]
    except (OSError, ValueError, TypeError):
        return None


def _save(index: Path, samples: Iterable[ShardSample]) -> None:
    entries = [
        [sample.key, sample.texts, [[extension, *place] for extension, place in sample.files.items()]]
        for sample in samples
    ]
    try:
        index.parent.mkdir(parents=True, exist_ok=True)
        replace_file(index, json.dumps(entries).encode())
    except OSError as error:
        log.warning("%s cannot be written (%s); shards are indexed again next time", index, error.strerror)


class ShardWriter:
    """Writes samples into ``NAME-000000.tar``, ``NAME-000001.tar`` and so on.

    Args:
        folder: of the shards.
        name: of the shards.
        limit: bytes from which the next shard is begun.
    """

    def __init__(self, folder: Path, name: str, limit: int) -> None:
        self.folder, self.name, self.limit = folder, name, limit
        self.shards = self.samples = 0
        self._archive: tarfile.TarFile | None = None

    def add(self, contents: Mapping[str, bytes]) -> None:
        """Writes a sample, as files by extension."""
        if self._archive is not None and self._archive.offset >= self.limit:
            self.close()
        if self._archive is None:
            self._archive = tarfile.open(self.folder / f"{self.name}-{self.shards:06}.tar", "w")  # noqa: SIM115
            self.shards += 1
        for extension, content in contents.items():
            member = tarfile.TarInfo(printable(f"{self.samples:08}.{extension}"))
            member.size = len(content)
            self._archive.addfile(member, io.BytesIO(content))
        self.samples += 1

    def close(self) -> None:
        """Ends the last shard."""
        if self._archive is not None:
            self._archive.close()
        self._archive = None
