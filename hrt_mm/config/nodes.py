"""Configuration as it was read: plain data in which every value still knows the line it came from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Keys = tuple[str | int, ...]
"""Keys and list positions from the root to a value."""


@dataclass
class Node:
    """A value and where it was written.

    Args:
        value: a map or a list of nodes, or a scalar.
        mark: the place, ``file.yaml:7`` or the override's text.
        plain: whether it is a string without quotes, which is read as YAML again once its variables are filled in.
        text: what a number, true, false or null without quotes was written as.
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
        """The value under a key of a map or at a position of a list."""
        if isinstance(self.value, dict) and isinstance(key, str):
            return self.value.get(key)
        if isinstance(self.value, list) and isinstance(key, int) and key < len(self.value):
            return self.value[key]
        return None

    def find(self, path: Keys) -> tuple[Node, int]:
        """The deepest existing node along a path, and how many parts of the path lead to it."""
        node = self
        for depth, part in enumerate(path):
            child = node.child(part)
            if child is None:
                return node, depth
            node = child
        return node, len(path)


ALTERNATIVES = (("batch_size", "batch_tokens"),)
"""Settings of which a map has one. A layer that sets one of them replaces the others in the layers under it."""


def merge(base: Node, over: Node) -> Node:
    """One layer laid over another: maps merge, lists and scalars are replaced.

    A map that names another ``type`` than the one under it starts anew, since the old keys belong to the old type. A
    map that sets one of several alternatives replaces the others.
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
    """Whether a layer sets an alternative to a key, and not the key itself."""
    others = [other for names in ALTERNATIVES if key in names for other in names if other != key]
    return key not in over and any(other in over and over[other].value is not None for other in others)


def both_given(node: Node) -> list[tuple[str, Node]] | None:
    """The alternatives that a map has side by side, with their values, in the order in which they are written."""
    if not isinstance(node.value, dict):
        return None
    for names in ALTERNATIVES:
        given = [(key, child) for key, child in node.value.items() if key in names and child.value is not None]
        if len(given) > 1:
            return given
    return None
