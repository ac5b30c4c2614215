"""Finding configuration files, and resolving ``extends``."""

from __future__ import annotations

import os
from pathlib import Path

from ..core.errors import ConfigError
from .deprecated import DeprecatedKeys
from .interpolation import fill
from .messages import Problem, nearest
from .nodes import Node, merge
from .packaged import config_root, packaged_configs
from .yaml_reader import read


def find_config(name: str, folder: Path | None = None) -> Path:
    """The file of a path or a packaged name.

    Args:
        name: a path, relative to ``folder``, or a packaged name.
        folder: the working directory if absent.

    Raises:
        ConfigError: there is no such file; names the most similar packaged configuration.
    """
    path = (folder or Path()) / os.path.expanduser(name)
    if path.is_file():
        return path
    packaged = packaged_configs()
    short = name.removesuffix(".yaml").removeprefix("configs/")
    if short in packaged:
        return config_root() / f"{short}.yaml"
    if (path / "config.yaml").is_file():
        raise ConfigError(f"{path} is a run folder, not a configuration; that of the run is {path / 'config.yaml'}")
    close = nearest(short, packaged, cutoff=0.5)
    hint = f"; did you mean {close!r}?" if close else ""
    raise ConfigError(
        f"no configuration {name!r}: {path} is not a file, and no packaged one has that name{hint} "
        "(`hrt-mm --help` lists them)"
    )


def load_layers(
    path: Path, problems: list[Problem], deprecated: DeprecatedKeys | None = None, opened: tuple[Path, ...] = ()
) -> Node:
    """Reads a file and merges it over those that it extends.

    Args:
        path: the file.
        problems: mistakes are appended.
        deprecated: renames deprecated keys in each file.
        opened: the files that extend this one, to detect cycles.

    Raises:
        ConfigError: a file is missing, is not YAML, or extends itself.
    """
    resolved = path.resolve()
    if resolved in opened:
        circle = [*opened[opened.index(resolved) :], resolved]
        raise ConfigError(f"{path}: extends goes round in a circle: {' -> '.join(item.name for item in circle)}")
    node = read(_text(path), str(path), problems)
    if not isinstance(node.value, dict):
        raise ConfigError(f"{path}: a configuration is a map of keys, got {type(node.data()).__name__}")
    if deprecated is not None:
        node = deprecated.rename(node)
    assert isinstance(node.value, dict)
    extends = node.value.pop("extends", None)
    base: Node | None = None
    for name in _names(extends, problems):
        try:
            file = find_config(str(name.value), path.parent)
        except ConfigError as error:
            raise ConfigError(f"{name.mark}: extends: {error}") from error
        layer = load_layers(file, problems, deprecated, (*opened, resolved))
        base = layer if base is None else merge(base, layer)
    return node if base is None else merge(base, node)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error


def _names(extends: Node | None, problems: list[Problem]) -> list[Node]:
    if extends is None:
        return []
    names = extends.value if isinstance(extends.value, list) else [extends]
    result = []
    for name in names:
        if isinstance(name.value, str):
            result.append(Node(fill(name.value, name.mark, ("extends",), problems), name.mark))
        else:
            text = "expected a path, a packaged name, or a list of them"
            problems.append(Problem(name.mark, ("extends",), text))
    return result
