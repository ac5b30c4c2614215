"""The contract of a modality, and the registry that finds installed ones.

A modality is a tokenizer, its datasets and their configurations, found through the entry-point group
``hrt_mm.modalities``: ``vision = "modalities.vision:Vision"``. Nothing in this package imports one by name.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, TypeVar, get_args, get_origin

from torch import Tensor, nn
from torch.utils.data import Dataset as TorchDataset

from .component import Component
from .errors import ConfigError, Stopped
from .extents import Extents
from .sample import Sample
from .splits import Splits
from .tokens import Tokens


class TokenStream(Protocol):
    """Raw tokens of a sample that comes in chunks of any size."""

    def feed(self, chunk: Any, /) -> Tensor:
        """(T, ...) the raw tokens that a chunk completes.

        Raises:
            BadSample: the chunk cannot be used; says why.
        """

    def flush(self) -> Tensor:
        """Those that are left, at the end of the sample."""


class Tokenizer(ABC):
    """Turns raw samples into tokens. Holds no parameters, so that it runs in loader workers."""

    axes: int
    """Axes of the coordinates."""
    levels: tuple[str, ...]
    """Natural names of the levels, fine to coarse."""
    boundaries: tuple[str, ...] = ()
    """Names of the boundaries that it can give."""
    features: int | None = None
    """Width of what :meth:`targets` gives, where those are features."""
    vocabulary: int | None = None
    """How many ids there are, where :meth:`targets` gives ids."""
    separator: int | None = None
    """The id that stands where a document starts: what generation starts from without a prompt, and stops at."""
    causal_boundaries: tuple[str, ...] = ()
    """Those of ``boundaries`` that a causal hierarchy may group by: whether a group starts at a token follows from
    that token and the one before it."""
    recent: int = 1
    """Tokens that the embedding of one is made of: itself, and in modalities of one axis maybe a few before it."""
    ahead: int = 0
    """Tokens after a token that its embedding is made of too; a causal hierarchy takes none."""
    whole: str = ""
    """The setting by which each token depends on its whole sample, where one does; a causal hierarchy takes none."""
    carried: tuple[str, ...] = ()
    """Those of ``boundaries`` that come with the data. A bare file does not have them."""
    expected: Extents | None = None
    """The sizes that training saw, where inputs of other sizes are to be brought to them; inputs stay as they are
    without it."""
    wanted: frozenset[str] = frozenset()
    """The boundaries that the model groups by; others need not be found."""

    @property
    def seconds_per_token(self) -> float | None:
        """Time that a step along the first axis stands for, where that axis is time."""
        return None

    @abstractmethod
    def __call__(self, values: Sequence[Any]) -> Tokens:
        """Packs raw samples.

        Raises:
            BadSample: a value cannot be tokenized; says which and why.
        """

    @abstractmethod
    def embedding(self, dim: int) -> nn.Module:
        """The module that takes packed raw tokens to tokens of width ``dim``: ``forward(Tokens) -> Tokens``."""

    def size(self, shape: Sequence[int]) -> int:
        """Level-0 tokens of a sample of this raw shape, where it is known before reading; for batches by tokens."""
        raise ConfigError(f"{type(self).__name__} does not know sizes in advance; use train.batch_size")

    def targets(self, tokens: Tokens) -> Tensor:
        """What masked modelling reconstructs: (T, P) features or (T,) ids of raw tokens."""
        return tokens.x

    def restore(self, tokens: Tokens) -> list[Any]:
        """Raw samples from raw tokens, where that has meaning; the inverse of calling it."""
        raise ConfigError(f"{type(self).__name__} cannot turn tokens back into samples")

    def steps(self, value: Any, places: Sequence[float]) -> Sequence[float]:
        """Where places in a raw sample lie along the first axis, in level-0 steps.

        Args:
            value: the sample.
            places: in the modality's units: seconds where that axis is time, else steps.
        """
        unit = self.seconds_per_token or 1.0
        return [place / unit for place in places]

    def places(self, value: Any, steps: Sequence[float]) -> Sequence[float]:
        """Where level-0 steps lie in a raw sample, in the modality's units; the inverse of :meth:`steps`.

        Args:
            value: the sample.
            steps: along the first axis.
        """
        unit = self.seconds_per_token or 1.0
        return [step * unit for step in steps]

    def box(self, value: Any, steps: Sequence[float]) -> tuple[float, float, float, float]:
        """Where a part of a picture lies in it: left, top, right and bottom in pixels.

        Args:
            value: the sample.
            steps: the level-0 steps at which the part begins and ends: top, left, bottom and right.
        """
        raise ConfigError(f"{type(self).__name__} reads no pictures")

    def stream(self, **source: Any) -> TokenStream:
        """What turns raw chunks into tokens as they come, with the same result as the whole sample at once.

        Args:
            source: what chunks are like, in the modality's words: ``rate`` of a sound.
        """
        raise ConfigError(f"{type(self).__name__} cannot be read in chunks")

    def vocabularies(self) -> Mapping[str, str]:
        """Digests of what its ids mean, by the setting that names a file of it; nothing where no file is read.

        A run goes on with the same vocabularies alone.
        """
        return {}

    def num_bytes(self, ids: Tensor) -> Tensor | None:
        """How many bytes each of the ids stands for, where that has meaning; for bits per byte."""
        return None

    def starts(self, boundary: str, previous: Tensor, ids: Tensor) -> Tensor:
        """Whether a group starts at a new token, for decoding.

        Args:
            boundary: one of ``causal_boundaries``.
            previous: (B,) ids before the new ones, of any device; -1 for none, where a group always starts.
            ids: (B,) new ids.

        Returns:
            (B,) bool.
        """
        raise ConfigError(f"{type(self).__name__} gives no boundary {boundary!r} while it decodes")

    def prompts(self, values: Sequence[Any]) -> Tokens:
        """Packs what generation starts from: a separator and a raw sample, which may be empty."""
        raise ConfigError(f"{type(self).__name__} has no prompts")

    def writer(self) -> Callable[[int], str]:
        """Turns ids into text one by one, for decoding: gives what each id completes, often a character, or nothing."""
        raise ConfigError(f"{type(self).__name__} does not write text")


class TokenizerConfig(Component):
    """Configuration of a modality's tokenizer; a subclass fixes ``type`` to the modality's name."""

    type: str

    def build(self, blocks: Callable[[int], tuple[tuple[int, ...], ...]]) -> Tokenizer:
        """The tokenizer.

        Args:
            blocks: for a number of axes, the nested blocks that grids are to be ordered by
                (:func:`hrt_mm.levels.blocks` of the model's configuration).
        """
        raise NotImplementedError(type(self))


class Dataset(TorchDataset[Sample], ABC):
    """A map-style dataset of raw samples. ``classes`` names the labels where they are classes."""

    classes: tuple[str, ...] | None = None

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int) -> Sample:
        """One sample. Random augmentation draws from torch's generator, which the loader seeds for each sample.

        Raises:
            BadSample: the sample cannot be read; the loader skips, counts and names it.
        """

    def name(self, index: int) -> str:
        """What a sample is called, without reading it."""
        return f"sample {index}"

    def class_of(self, index: int) -> str | None:
        """The class of a sample, without reading it, where that is known."""
        return None

    def limit(self, tokenizer: Tokenizer) -> None:
        """Takes over what the tokenizer refuses, so that a file that is too long need not be read whole to see it.

        Does nothing by default; called once, before a sample is read.

        Args:
            tokenizer: of the run; of several towers a :class:`~hrt_mm.tasks.joint.JointTokenizer`.
        """

    def shape(self, index: int) -> Sequence[int]:
        """The raw shape of a sample without decoding it, where batches are made by tokens."""
        raise ConfigError(f"{type(self).__name__} does not know shapes in advance; use train.batch_size")

    def describe(self, index: int) -> Mapping[str, str]:
        """What a search shows of a sample beside its pictures and sounds: short texts by name."""
        return {}


class DatasetConfig(Component):
    """Configuration of a dataset; a subclass fixes ``type``."""

    type: str
    lists_quickly: ClassVar[bool] = True
    """Whether :meth:`splits` takes no longer than to walk a folder or read a table. A run looks at it then when it
    starts."""
    before: ClassVar[Mapping[str, Any]] = {}
    """What the absence of a key stands for in the configuration that a run wrote before the key existed, where that is
    not the key's default: such a run keeps its data."""
    parts: ClassVar[tuple[str, ...]] = ()
    """Of a dataset of several modalities, what the values of its samples may have; see :meth:`towers`."""

    def towers(self) -> tuple[str, ...]:
        """What the values of its samples may have: ``parts``, unless the configuration itself names them."""
        return self.parts

    supplies: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """By part, the boundaries that :meth:`prepare` gives to values from bare files."""

    def prepare(self, part: str, value: Any) -> Any:
        """What a query's raw value must go through to be as the dataset's own are; nothing, where they are plain.

        Args:
            part: one of :meth:`towers`.
            value: what the modality reads from a file, or a text.
        """
        return value

    def build(self, split: str) -> Dataset:
        """The samples of a split: ``train``, ``val`` or ``test``.

        Raises:
            ConfigError: there is no such split or no such data; says what there is.
        """
        raise NotImplementedError(type(self))

    def suited(self, modality: TokenizerConfig) -> DatasetConfig:
        """The configuration with what it leaves to the modality filled in, such as the size of crops."""
        return self

    def plain(self, split: str) -> Dataset:
        """The samples of a split without random augmentation, for collections to be searched."""
        return self.build(split)

    def splits(self) -> Splits | None:
        """What is in each split, for datasets that can list it without reading their samples.

        Raises:
            ConfigError: as :meth:`build`.
        """
        return None


@dataclass(frozen=True, eq=False)
class Stretch:
    """A stretch of a long sample, encoded alone, with margins that its neighbours stand for.

    Args:
        value: what the tokenizer takes.
        first: where the value begins, in level-0 steps of the whole.
        own: from where to where it stands for the whole, in the same steps.
    """

    value: Any
    first: float
    own: tuple[float, float]


@dataclass(frozen=True)
class Command:
    """A command of its own that a modality adds to ``hrt-mm``.

    Args:
        name: two words, a group that modalities may share and what is done: ``data listops``; or one: ``transcribe``.
        help: a line.
        arguments: adds them to the command's parser.
        run: takes them and gives the exit code. A mistake of the user's is a :class:`UserError`.
    """

    name: str
    help: str
    arguments: Callable[[ArgumentParser], None]
    run: Callable[[Namespace], int]


class Modality(ABC):
    """What a plug-in registers."""

    name: ClassVar[str]
    tokenizer: ClassVar[type[TokenizerConfig]]
    datasets: ClassVar[tuple[type[DatasetConfig], ...]]
    suffixes: ClassVar[frozenset[str] | None] = None
    """How the names of files end that :meth:`read` reads, in lower case, with the dot. When ``None``, any file of a
    folder is tried that belongs to no other modality."""

    @classmethod
    def figures(cls) -> Callable[..., None] | None:
        """Draws a sample for reports, where the modality says how: ``draw(axes, tokenizer, tokens)``.

        It gets matplotlib axes and the raw tokens of one sample. Each level-0 token covers a unit cell: along x in one
        dimension, of rows and columns on a grid; of more than two axes the middle of the leading ones is drawn.
        Groups and weights are laid over it.
        """
        return None

    @classmethod
    def timeline(cls, value: Any) -> Mapping[str, Sequence[tuple[float, float, str]]]:
        """What is known of a raw sample in time, for reports: by name, parts with their start, end and label.

        Args:
            value: the sample's; times are in seconds from its beginning.
        """
        return {}

    @classmethod
    def read(cls, path: Path) -> Any:
        """A raw sample from a file, for queries and collections of files.

        Raises:
            BadSample: the file is missing, or is none of this modality; says what is.
            ConfigError: the modality has no files of its own.
        """
        raise ConfigError(f"the modality {cls.name} does not read files")

    @classmethod
    def read_for(cls, path: Path, tokenizer: Tokenizer) -> Any:
        """The same for a tokenizer: what is longer than it takes may be refused before it is read whole.

        Args:
            path: the file.
            tokenizer: of the modality.

        Raises:
            BadSample: as :meth:`read`, or the tokenizer would refuse it.
        """
        return cls.read(path)

    @classmethod
    def seconds(cls, path: Path) -> float | None:
        """How long a file lasts, found without decoding it; nothing where it has no length in time.

        Raises:
            BadSample: the file is missing, or is none of this modality; says what is.
        """
        return None

    @classmethod
    def stretches(cls, path: Path, tokenizer: Tokenizer, seconds: float) -> Iterator[Stretch] | None:
        """A long file in stretches that follow each other, so that one need not be held whole.

        Args:
            path: the file.
            tokenizer: whose steps are counted.
            seconds: of a stretch, about.

        Returns:
            Nothing where the file lasts no longer than a stretch, or the modality reads files whole.

        Raises:
            BadSample: as :meth:`read`.
        """
        return None

    @classmethod
    def passage(cls, value: Any, span: tuple[float, float] | None = None) -> str | None:
        """A raw sample, or a part of it, as text, where it is text.

        Args:
            value: the sample's.
            span: of the part, in the modality's units; the whole when absent.
        """
        return None

    @classmethod
    def shown(cls, value: Any, span: tuple[float, float] | None = None) -> tuple[str, bytes] | None:
        """A raw sample, or a part of it, as a file that a page can show; nothing where it is its own text.

        Args:
            value: the sample's.
            span: of the part, in the modality's units; the whole when absent.

        Returns:
            The file's suffix and its bytes.
        """
        return None

    @classmethod
    def commands(cls) -> Sequence[Command]:
        """Commands that ``hrt-mm`` shall have, such as one that prepares data."""
        return ()


Registered = TypeVar("Registered")

log = logging.getLogger(__name__)

DISTRIBUTION = "hrt-mm"
GROUP = "hrt_mm.modalities"
JOINT_GROUP = "hrt_mm.datasets"
"""Of datasets of several modalities: ``glyphs = "package:GlyphsConfig"``."""


@dataclass(frozen=True)
class Broken:
    """A plug-in that cannot be used. It stops no run but one that names it.

    Args:
        what: it is: ``modality`` or ``dataset``.
        name: that it is registered under.
        source: the distribution.
        cause: why it cannot be used.
    """

    what: str
    name: str
    source: str
    cause: str

    def __str__(self) -> str:
        return f"the {self.what} {self.name!r} of {self.source} cannot be used: {self.cause}"


@cache
def modalities() -> dict[str, type[Modality]]:
    """Installed modalities by name; warns of those that cannot be used, and leaves them out."""
    return _installed(GROUP, "modality", Modality)


@cache
def joint_datasets() -> dict[str, type[DatasetConfig]]:
    """Installed datasets of several modalities by type; warns of those that cannot be used, and leaves them out.

    The value of such a sample is a mapping by the name of the tower. A modality that a sample lacks is missing there.
    """
    return _installed(JOINT_GROUP, "dataset", DatasetConfig)


def broken_plugins() -> dict[tuple[str, str], Broken]:
    """The plug-ins that cannot be used, by what they are and their name."""
    modalities()
    joint_datasets()
    return dict(_broken)


_broken: dict[tuple[str, str], Broken] = {}


def _installed(group: str, what: str, base: type[Registered]) -> dict[str, type[Registered]]:
    found: dict[str, type[Registered]] = {}
    sources: dict[str, str] = {}
    for key in [key for key in _broken if key[0] == what]:
        del _broken[key]
    for entry in sorted(entry_points(group=group), key=lambda entry: entry.name):
        source = entry.dist.name if entry.dist else entry.value
        try:
            loaded = _load(entry, base)
        except (KeyboardInterrupt, Stopped):
            raise
        except BaseException as error:
            # Whatever its import raises, SystemExit and SyntaxError too.
            told = str(error) if isinstance(error, ConfigError) else repr(error)
            _leave_out(Broken(what, entry.name, source, told))
            continue
        if found.get(entry.name, loaded) is not loaded:
            sources[entry.name] += f" and {source}"
            _leave_out(Broken(what, entry.name, sources[entry.name], "both packages give it; uninstall one"))
            continue
        found[entry.name], sources[entry.name] = loaded, source
    return {name: loaded for name, loaded in found.items() if (what, name) not in _broken}


def _leave_out(broken: Broken) -> None:
    log.warning("%s; what does not name it goes on", broken)
    _broken[broken.what, broken.name] = broken


def _load(entry: EntryPoint, base: type[Registered]) -> type[Registered]:
    """What an entry point names, once it is known to be usable.

    Raises:
        ConfigError: it is of another kind, or its types are wrong.
        BaseException: what its import raises.
    """
    loaded = entry.load()
    if not (isinstance(loaded, type) and issubclass(loaded, base)):
        raise ConfigError(f"it is {loaded!r}, not a subclass of {base.__name__}")
    if issubclass(loaded, Modality):
        if types_of(loaded.tokenizer) != (entry.name,):
            raise ConfigError(f"{_name(loaded.tokenizer)} must have type: Literal[{entry.name!r}]")
        components: list[type[Component]] = [loaded.tokenizer, *loaded.datasets]
        types = [name for dataset in loaded.datasets for name in types_of(dataset)]
        if len(types) > len(set(types)):
            raise ConfigError(f"two of its datasets have one type: {', '.join(types)}")
    else:
        assert issubclass(loaded, Component)
        components = [loaded]
        if entry.name not in types_of(loaded):
            raise ConfigError(f"{_name(loaded)} must have type: Literal[{entry.name!r}]")
    if entry.dist is None or entry.dist.name != DISTRIBUTION:
        for component in components:
            # Every configuration is compared with the schemas of all that is installed.
            component.model_json_schema()
    return loaded


def types_of(component: type[Component]) -> tuple[str, ...]:
    """The values of ``type`` that a component stands for.

    Raises:
        ConfigError: it does not fix its ``type``.
    """
    field = component.model_fields.get("type")
    if field is None or get_origin(field.annotation) is not Literal:
        raise ConfigError(f"{_name(component)} must fix its type: type: Literal['name'] = 'name'")
    return get_args(field.annotation)


def _name(component: type[Component]) -> str:
    return f"{component.__module__}.{component.__qualname__}"
