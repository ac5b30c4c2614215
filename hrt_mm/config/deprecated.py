"""Former names of keys and types: replaced by the current ones where they are read, with a warning, for one release."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from ..core.component import DEPRECATED, all_deprecated_keys, all_deprecated_types
from ..data.registry import modalities
from .allowed import Allowed
from .messages import Problem, dotted
from .nodes import Keys, Node
from .schema import compose
from .sections import datasets, joint

log = logging.getLogger(__name__)


class DeprecatedKeys:
    """Renames deprecated keys and types in the files and overrides of one configuration. Warns once for each name.

    Args:
        problems: where keys that are given under both names are added.
    """

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = problems
        installed = modalities()
        for name in installed:
            datasets(name)  # imports their components
        self._names, self._types = all_deprecated_keys(), all_deprecated_types()
        self._allowed: Allowed | None = None
        self._warned: set[tuple[str, str]] = set()

    def rename(self, node: Node, path: Keys = (), root: Node | None = None) -> Node:
        """The node with the deprecated keys and types of its maps renamed.

        Args:
            node: a file, or the value of an override.
            path: from the root of the configuration to the node.
            root: the configuration that the node is laid over, which tells the types of the components above it.
        """
        if isinstance(node.value, list):
            items = [self.rename(item, (*path, index), root or node) for index, item in enumerate(node.value)]
            return Node(items, node.mark)
        if path and path[-1] == "type" and isinstance(node.value, str):
            return Node(self._type(node.value, path, root or node, node.mark), node.mark)
        if not isinstance(node.value, dict):
            return node
        names = self.names(node.value, path, root or node)
        children: dict[str, Node] = {}
        for key, child in node.value.items():
            if key in names:
                self.warn(key, names[key], (*path, key), child.mark)
                if names[key] in node.value:
                    text = f"is the former name of {names[key]}, which is given as well; keep {names[key]}"
                    self.problems.append(Problem(child.mark, (*path, key), text))
                    continue
            key = names.get(key, key)
            children[key] = self.rename(child, (*path, key), root or node)
        return Node(children, node.mark)

    def names(self, keys: Mapping[str, object], path: Keys, root: Node) -> dict[str, str]:
        """Current names of those keys of a map that are deprecated."""
        if self._names.isdisjoint(keys):
            return {}
        schemas = self._schema().at(path, root.data())
        current = {name for schema in schemas for name in schema.get("properties", {})}
        renamed = {old: new for schema in schemas for old, new in schema.get(DEPRECATED, {}).items()}
        return {old: new for old, new in renamed.items() if old in keys and old not in current}

    def _type(self, value: str, path: Keys, root: Node, mark: str) -> str:
        """The current name of a type."""
        new = self._types.get(value)
        if new is None:
            return value
        choices = self._schema().choices(path, root.data())
        if value in choices or new not in choices:
            return value
        self._warn(value, new, f"{dotted(path)} {value!r}", repr(new), mark)
        return new

    def _schema(self) -> Allowed:
        if self._allowed is None:
            # Composing the schema takes a quarter of a second, which configurations without old keys are spared.
            self._allowed = Allowed(compose(modalities(), None, joint()))
        return self._allowed

    def warn(self, old: str, new: str, path: Keys, mark: str) -> None:
        """Warns of a key, unless an earlier warning named it."""
        self._warn(old, new, dotted(path), new, mark)

    def _warn(self, old: str, new: str, what: str, fix: str, mark: str) -> None:
        if (old, new) not in self._warned:
            self._warned.add((old, new))
            log.warning("%s: %s is deprecated and will be removed in the next release; use %s", mark, what, fix)
