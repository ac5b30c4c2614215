"""A parsed configuration: plain data in which every value has the line that it came from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Keys = tuple[str | int, ...]
"""Keys and list indices from the root to a value."""


@dataclass
class Node:
    """A value and its source.

    Args:
        value: a map or a list of nodes, or a scalar.
        mark: ``file.yaml:7``, or the override.
        plain: whether it is an unquoted string, which is parsed as YAML again after interpolation.
        text: source text of an unquoted number, boolean or null.
    """

    value: dict[str, Node] | list[Node] | str | int | float | bool | None
    mark: str
    plain: bool = False
    text: str | None = None

    def data(self) -> Any:
        """The value without its marks."""
        if isinstance(self.value, dict):
            return {key: child.data() for key, child in self.value.items()}
        if isinstance(self.value, list):
            return [child.data() for child in self.value]
        return self.value

    def child(self, key: str | int) -> Node | None:
        """The value under a key of a map or at an index of a list."""
        if isinstance(self.value, dict) and isinstance(key, str):
            return self.value.get(key)
        if isinstance(self.value, list) and isinstance(key, int) and key < len(self.value):
            return self.value[key]
        return None

    def find(self, path: Keys) -> tuple[Node, int]:
        """The deepest existing node along a path, and its depth."""
        node = self
        for depth, part in enumerate(path):
            child = node.child(part)
            if child is None:
                return node, depth
            node = child
        return node, len(path)


ALTERNATIVES = (("batch_size", "batch_tokens"),)
"""Mutually exclusive settings. A layer that sets one of them removes the others from the layers below."""


def merge(base: Node, over: Node) -> Node:
    """Merges one layer over another: maps are merged, lists and scalars replaced.

    A map with another ``type`` replaces the one below, whose keys belong to the old type. A map that sets one of
    several alternatives removes the others.
    """
    if not (isinstance(base.value, dict) and isinstance(over.value, dict)):
        return over
    kind, previous = over.value.get("type"), base.value.get("type")
    if kind is not None and previous is not None and kind.value != previous.value:
        return over
    merged = {key: node for key, node in base.value.items() if not _replaced(key, over.value)}
    for key, node in over.value.items():
        merged[key] = merge(merged[key], node) if key in merged else node
    return Node(merged, over.mark)


def _replaced(key: str, over: dict[str, Node]) -> bool:
    """Whether a layer sets an alternative to a key but not the key itself."""
    others = [other for names in ALTERNATIVES if key in names for other in names if other != key]
    return key not in over and any(other in over and over[other].value is not None for other in others)


def both_given(node: Node) -> list[tuple[str, Node]] | None:
    """Alternatives that a map sets at the same time, with their values, in order; None if there are none."""
    if not isinstance(node.value, dict):
        return None
    for names in ALTERNATIVES:
        given = [(key, child) for key, child in node.value.items() if key in names and child.value is not None]
        if len(given) > 1:
            return given
    return None
