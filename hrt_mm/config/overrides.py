"""Overrides from the command line: ``optim.lr=1e-3``, ``model.levels.0.dim=64``, ``model.levels.patches.dim=64``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from .deprecated import DeprecatedKeys
from .fitting import HOME
from .messages import Problem, dotted, one_of, show
from .nodes import Keys, Node, both_given, merge
from .yaml_reader import plain_node, read


@dataclass(frozen=True)
class Override:
    """One dotted key and its value."""

    text: str
    keys: tuple[str, ...]
    node: Node

    @property
    def mark(self) -> str:
        """Source of the value, for messages."""
        return f"override {self.text!r}"


def parse(text: str, problems: list[Problem]) -> Override | None:
    """Parses ``a.b.c=value``. Returns None, with a problem, if it is malformed.

    A value that starts with a bracket, a brace or a quote, or has several lines, is parsed as YAML. Any other is a
    single scalar, which may contain ``#`` and ``: ``.
    """
    key, equals, value = text.partition("=")
    keys = tuple(part.strip() for part in key.split("."))
    mark = f"override {text!r}"
    if not equals or not all(keys):
        problems.append(Problem(mark, (), "not of the form a.b.c=value; write for example optim.lr=1e-3"))
        return None
    if any("\ud800" <= char <= "\udfff" for char in text):
        problems.append(Problem(mark, (), "is not valid UTF-8; give the file or folder another name"))
        return None
    value = value.strip()
    if value.startswith(("[", "{", '"', "'")) or "\n" in value:
        node = read(value, mark, problems, numbered=False)
    elif value == HOME:
        # YAML reads ~ as null, but where a path is expected it is the home folder; the schema decides later.
        node = Node(HOME, mark, plain=True)
    else:
        node = plain_node(value, mark)
    return Override(text, keys, node)


def apply(root: Node, texts: Sequence[str], problems: list[Problem], deprecated: DeprecatedKeys | None = None) -> Node:
    """Applies overrides to a configuration. The last one for a key takes precedence.

    A new ``type`` replaces its map, so types are set before other keys.

    Args:
        root: the configuration.
        texts: the overrides.
        problems: mistakes are appended.
        deprecated: renames deprecated keys.
    """
    overrides = [override for text in texts if (override := parse(text, problems))]
    # sorted() is stable: other overrides stay in the order in which they were given.
    for override in sorted(overrides, key=lambda item: len(item.keys) if item.keys[-1] == "type" else 1_000):
        if deprecated is not None:
            override = _with_current_keys(override, root, deprecated)
        root = _set(root, override, 0, (), problems)
    _check_alternatives(overrides, problems)
    return root


def _with_current_keys(override: Override, root: Node, deprecated: DeprecatedKeys) -> Override:
    keys, path, node = list(override.keys), (), root
    resolved: Keys = path
    for depth, key in enumerate(override.keys):
        if isinstance(node.value, list):
            index = _position(node.value, key, override.mark, resolved, [])
            resolved = (*resolved, key if index is None else index)
        else:
            new = deprecated.names({key: None}, resolved, root).get(key, key)
            if new != key:
                deprecated.warn(key, new, (*resolved, key), override.mark)
            keys[depth] = new
            resolved = (*resolved, new)
        node = node.child(resolved[-1]) or Node(None, "")
    return Override(override.text, tuple(keys), deprecated.rename(override.node, resolved, root))


def _check_alternatives(overrides: Sequence[Override], problems: list[Problem]) -> None:
    """Reports overrides that set mutually exclusive settings."""
    layers: dict[tuple[str, ...], dict[str, Node]] = {}
    for override in overrides:
        layers.setdefault(override.keys[:-1], {})[override.keys[-1]] = override.node
    for path, values in layers.items():
        if (given := both_given(Node(values, ""))) is not None:
            names = " and ".join(node.mark for _, node in given)
            problems.append(Problem(names, path, "are alternatives; give one of them"))


def _set(node: Node, override: Override, depth: int, path: Keys, problems: list[Problem]) -> Node:
    if depth == len(override.keys):
        return merge(node, override.node)
    key = override.keys[depth]
    if isinstance(node.value, list):
        index = _position(node.value, key, override.mark, path, problems)
        if index is None:
            return node
        items = list(node.value)
        items[index] = _set(items[index], override, depth + 1, (*path, index), problems)
        return Node(items, node.mark)
    if node.value is not None and not isinstance(node.value, dict):
        text = f"is {show(node.value)} and has no key {key!r}; override {dotted(path)} itself"
        problems.append(Problem(override.mark, path, text))
        return node
    children = dict(node.value or {})
    inner = children.get(key, Node(None, override.mark))
    changed = _set(inner, override, depth + 1, (*path, key), problems)
    # merge() drops the keys of the old type if this sets a new one.
    return merge(Node(children, node.mark), Node({key: changed}, node.mark))


def _position(items: list[Node], key: str, mark: str, path: Keys, problems: list[Problem]) -> int | None:
    """The index of a list item: a number, negative from the end, or the item's ``name``."""
    if re.fullmatch("-?[0-9]{1,9}", key):
        index = int(key)
        if -len(items) <= index < len(items):
            return index % len(items)
        problems.append(Problem(mark, path, f"there is no item {index}; the list has {len(items)}, counted from 0"))
        return None
    names = [str(name.value) if (name := item.child("name")) else "" for item in items]
    if key in names:
        return names.index(key)
    problems.append(Problem(mark, path, one_of(key, [name for name in names if name], "name")))
    return None
