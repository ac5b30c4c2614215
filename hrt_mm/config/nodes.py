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
    """

    value: dict[str, Node] | list[Node] | str | int | float | bool | None
    mark: str
    plain: bool = False

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


def merge(base: Node, over: Node) -> Node:
    """One layer laid over another: maps merge, lists and scalars are replaced.

    A map that names another ``type`` than the one under it starts anew, since the old keys belong to the old type.
    """
    if not (isinstance(base.value, dict) and isinstance(over.value, dict)):
        return over
    kind, previous = over.value.get("type"), base.value.get("type")
    if kind is not None and previous is not None and kind.value != previous.value:
        return over
    merged = dict(base.value)
    for key, node in over.value.items():
        merged[key] = merge(merged[key], node) if key in merged else node
    return Node(merged, over.mark)
