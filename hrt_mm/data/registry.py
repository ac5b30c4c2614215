"""The registry that finds installed modalities, datasets and commands through entry points.

A modality is a tokenizer, its datasets and their configurations: the group ``hrt_mm.modalities`` has
``vision = "hrt_modalities.vision:Vision"``. Nothing in this package imports one by name.
"""

from __future__ import annotations

import logging
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Literal, TypeVar, get_args, get_origin

from torch import nn

from ..core import extras
from ..core.component import Component
from ..core.errors import ConfigError, Stopped
from .dataset import DatasetConfig
from .entry_points import COMMANDS, DATASETS, MODALITIES, MODELS, PRETRAINED
from .modality import Modality
from .pretrained_towers import TowersLoader


@dataclass(frozen=True)
class Command:
    """A command of its own that a modality adds to ``hrt-mm``.

    Args:
        name: two words, a group that modalities may share and what is done: ``data listops``; or one: ``transcribe``.
            It is registered under its name with a dot, ``data.listops``, by which ``hrt-mm --help`` lists it.
        help: a line.
        arguments: adds them to the command's parser.
        run: takes them and gives the exit code. A mistake of the user's is a :class:`UserError`.
    """

    name: str
    help: str
    arguments: Callable[[ArgumentParser], None]
    run: Callable[[Namespace], int]


Registered = TypeVar("Registered")
Plugin = TypeVar("Plugin")

log = logging.getLogger(__name__)

DISTRIBUTION = "hrt-mm"
GROUP, JOINT_GROUP, MODEL_GROUP, COMMAND_GROUP = MODALITIES, DATASETS, MODELS, COMMANDS


@dataclass(frozen=True)
class Broken:
    """A plug-in that cannot be used. It stops no run but one that names it.

    Args:
        what: it is: ``modality``, ``dataset`` or ``command``.
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
    return _installed(GROUP, "modality", lambda entry: _subclass(entry, Modality))


@cache
def joint_datasets() -> dict[str, type[DatasetConfig]]:
    """Installed datasets of several modalities by type; warns of those that cannot be used, and leaves them out.

    The value of such a sample is a mapping by the name of the tower. A modality that a sample lacks is missing there.
    """
    return _installed(JOINT_GROUP, "dataset", lambda entry: _subclass(entry, DatasetConfig))


@cache
def datasets_of(modality: str) -> dict[str, type[DatasetConfig]]:
    """The datasets of an installed modality by type: its own, and those that packages add to it."""
    listed = {name: dataset for dataset in modalities()[modality].datasets for name in types_of(dataset)}

    def load(entry: EntryPoint) -> type[DatasetConfig]:
        if entry.name in listed:
            raise ConfigError(f"the modality {modality!r} has a dataset of that type itself; rename one")
        return _subclass(entry, DatasetConfig)

    return listed | _installed(f"{JOINT_GROUP}.{modality}", "dataset", load)


@cache
def commands() -> dict[str, Command]:
    """Installed commands by the names they are registered under; warns of those that cannot be used."""
    return _installed(COMMAND_GROUP, "command", _command)


def model_names() -> list[str]:
    """Names of the models that :func:`model_factory` knows."""
    return sorted({entry.name for entry in entry_points(group=MODEL_GROUP)})


def model_factory(name: str) -> Callable[..., nn.Module]:
    """The function that makes a model, by its registered name.

    Raises:
        ConfigError: no installed package has a model of that name.
        MissingLibrary: a library that it needs is not installed.
    """
    for entry in entry_points(group=MODEL_GROUP, name=name):
        factory: Callable[..., nn.Module] = entry.load()
        return factory
    near = get_close_matches(name, model_names(), 3) or model_names()
    raise ConfigError(f"there is no model {name!r}; did you mean {', '.join(near)}?")


def is_pretrained(address: object) -> bool:
    """Whether it names a pretrained model of an installed library, ``LIBRARY:NAME``, and not a run."""
    library, separator, _ = str(address).partition(":")
    return bool(separator) and any(entry_points(group=PRETRAINED, name=library))


def towers_loader(library: str) -> TowersLoader:
    """The function that loads a pretrained model of a library by its name.

    Raises:
        ConfigError: no installed package loads models of that library.
    """
    for entry in entry_points(group=PRETRAINED, name=library):
        loader: TowersLoader = entry.load()
        return loader
    names = sorted({entry.name for entry in entry_points(group=PRETRAINED)})
    raise ConfigError(f"there are no models of {library!r}; give {' or '.join(f'{name}:NAME' for name in names)}")


def missing_libraries(modality: str) -> str:
    """The libraries of a modality that are not installed and how to install them, in words; empty when all are."""
    extra = modalities()[modality].extra
    for entry in entry_points(group=GROUP, name=modality):
        if extra and entry.dist and (names := extras.missing_libraries(extra, entry.dist.name)):
            return f"{', '.join(names)} not installed: {extras.install_command(extra, entry.dist.name)}"
    return ""


def broken_plugins() -> dict[tuple[str, str], Broken]:
    """The modalities and datasets that cannot be used, by what they are and their name."""
    joint_datasets()
    for name in modalities():
        datasets_of(name)
    return {(broken.what, broken.name): broken for broken in _broken.values()}


def clear() -> None:
    """Clears the caches, so that plug-ins are looked up again."""
    for cached in (modalities, joint_datasets, datasets_of, commands):
        cached.cache_clear()
    _broken.clear()


_broken: dict[tuple[str, str], Broken] = {}
"""By entry-point group and name."""


def _installed(group: str, what: str, load: Callable[[EntryPoint], Registered]) -> dict[str, Registered]:
    plugins: dict[str, Registered] = {}
    sources: dict[str, str] = {}
    for entry in sorted(entry_points(group=group), key=lambda entry: entry.name):
        source = entry.dist.name if entry.dist else entry.value
        try:
            loaded = load(entry)
        except (KeyboardInterrupt, Stopped):
            raise
        except BaseException as error:
            # An import may raise anything, including SystemExit and SyntaxError.
            cause = str(error) if isinstance(error, ConfigError) else repr(error)
            _leave_out(group, Broken(what, entry.name, source, cause))
            continue
        if plugins.get(entry.name, loaded) is not loaded:
            sources[entry.name] += f" and {source}"
            _leave_out(group, Broken(what, entry.name, sources[entry.name], "both packages give it; uninstall one"))
            continue
        plugins[entry.name], sources[entry.name] = loaded, source
    return {name: loaded for name, loaded in plugins.items() if (group, name) not in _broken}


def _leave_out(group: str, broken: Broken) -> None:
    log.warning("%s; what does not name it goes on", broken)
    _broken[group, broken.name] = broken


def _command(entry: EntryPoint) -> Command:
    loaded = entry.load()
    if not isinstance(loaded, Command):
        raise ConfigError(f"it is {loaded!r}, not a Command")
    loaded.arguments(ArgumentParser())
    return loaded


def _subclass(entry: EntryPoint, base: type[Plugin]) -> type[Plugin]:
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
    if not _is_ours(entry):
        for component in components:
            # Every configuration is compared with the schemas of all that is installed.
            component.model_json_schema()
    return loaded


def _is_ours(entry: EntryPoint) -> bool:
    return entry.dist is not None and entry.dist.name == DISTRIBUTION


def names_of_ours(group: str) -> set[str]:
    """What this distribution registers in an entry-point group."""
    return {entry.name for entry in entry_points(group=group) if _is_ours(entry)}


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
