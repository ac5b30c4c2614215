"""Describing what a schema allows, for error messages."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .messages import dotted, nearest, show
from .nodes import Keys
from .schema import Schema

MAX_DEPTH = 8
"""Maximum depth of the search for a key, as schemas may be recursive."""


class Allowed:
    """Queries on a schema.

    Args:
        schema: of the whole configuration.
    """

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self.definitions: dict[str, Schema] = schema["$defs"]

    def at(self, path: Keys, data: Any) -> list[Schema]:
        """The possible schemas of a value, given the data around it."""
        schemas = [self.schema]
        for part in path:
            schemas = [option for schema in self._fitting(schemas, data) for option in self._under(schema, part)]
            try:
                # Data that is not there yet, such as a misspelled key, does not narrow the choice.
                data = data[part]
            except (KeyError, IndexError, TypeError):
                data = None
        return self._fitting(schemas, data)

    def keys(self, path: Keys, data: Any) -> list[str]:
        """The keys that a map may have."""
        names = [name for schema in self.at(path, data) for name in schema.get("properties", {})]
        return list(dict.fromkeys(names))

    def choices(self, path: Keys, data: Any) -> list[str]:
        """The strings that a value may be, if it is one of a fixed set."""
        values = [value for schema in self.at(path, data) for value in _constants(schema)]
        return list(dict.fromkeys(value for value in values if isinstance(value, str)))

    def words(self, path: Keys, data: Any) -> str:
        """Describes what a value may be; empty if the schema does not restrict it."""
        schemas = self.at(path, data)
        values = list(dict.fromkeys(value for schema in schemas for value in _constants(schema)))
        kinds = [self._kind(schema) for schema in schemas if not _constants(schema)]
        return ", or ".join(dict.fromkeys(kind for kind in [_listed(values), *kinds] if kind))

    def unknown_key(self, path: Keys, data: Any) -> str:
        """The message for an unknown key: the most similar key here or elsewhere, and all keys here."""
        *parent, key = path
        here = self.keys(tuple(parent), data)
        close = nearest(key, here)
        if close:
            hint = f"; did you mean {close!r}?"
        else:
            paths = self.paths_of(str(key), path)
            hint = f"; did you mean {' or '.join(paths)}?" if paths else ""
        return f"unknown key{hint} (keys here: {', '.join(here)})"

    def paths_of(self, key: str, given: Keys, limit: int = 3) -> list[str]:
        """Paths at which a key, or one with a similar spelling, is allowed.

        These are the path that was given, which another ``type`` has; or else those that need no other type; or else
        all, the shallowest first.

        Args:
            key: the last part of a path.
            given: the whole path.
            limit: number of paths.
        """
        paths: dict[str, list[tuple[bool, bool, int, str]]] = {}
        for path, kind in self._walk(self.schema, ()):
            order = (_like(path) != _like(given), bool(kind), len(path))
            paths.setdefault(str(path[-1]), []).append((*order, f"{dotted(path)!r}{kind}"))
        name = key if key in paths else nearest(key, paths, cutoff=0.8)
        if name is None:
            return []
        ordered = sorted(paths[name], key=lambda entry: entry[:3])
        best = [entry[-1] for entry in ordered if entry[:2] == ordered[0][:2]]
        return list(dict.fromkeys(best))[:limit]

    def _walk(self, schema: Schema, path: Keys) -> Iterator[tuple[Keys, str]]:
        if len(path) > MAX_DEPTH:
            return
        for option in self._options(schema):
            kinds = _constants(option.get("properties", {}).get("type", {}))
            kind = f" with type: {kinds[0]}" if kinds else ""
            for name, child in option.get("properties", {}).items():
                yield (*path, name), kind
                yield from self._walk(child, (*path, name))
            if "items" in option:
                yield from self._walk(option["items"], (*path, 0))

    def _options(self, schema: Schema) -> list[Schema]:
        """The alternatives of a schema, with references resolved."""
        if "$ref" in schema:
            return self._options(self.definitions[schema["$ref"].rsplit("/", 1)[-1]])
        for union in ("anyOf", "oneOf"):
            if union in schema:
                return [option for item in schema[union] for option in self._options(item)]
        return [schema]

    def _fitting(self, schemas: list[Schema], data: Any) -> list[Schema]:
        """The alternatives that match the data's ``type``, or all if none does."""
        options = [option for schema in schemas for option in self._options(schema)]
        if not isinstance(data, dict) or "type" not in data:
            return options
        fitting = [item for item in options if data["type"] in _constants(item.get("properties", {}).get("type", {}))]
        return fitting or options

    def _kind(self, schema: Schema) -> str:
        """Describes a schema without fixed values."""
        kind = str(schema.get("type"))
        if kind in ("integer", "number"):
            return _number(schema)
        if kind == "array":
            return self._list(schema)
        if kind == "string" and "examples" in schema:
            return f"text such as {', '.join(schema['examples'])}"
        if kind == "string" and "pattern" in schema:
            return f"text that matches {schema['pattern']}"
        names = {"string": "text", "boolean": "true or false", "null": "null", "object": "a map"}
        return names.get(kind, "")

    def _list(self, schema: Schema) -> str:
        least, most = schema.get("minItems", 0), schema.get("maxItems")
        count = f" of {least}" if least == most else f" of {least} or more" if least else ""
        options = [
            option for item in schema.get("prefixItems", [schema.get("items", {})]) for option in self._options(item)
        ]
        kinds = dict.fromkeys(kind for option in options if (kind := self._kind(option)))
        return f"a list{count}, each {' or '.join(kinds)}" if kinds else f"a list{count}"

    @staticmethod
    def _under(schema: Schema, part: str | int) -> list[Schema]:
        if isinstance(part, int):
            return [schema["items"]] if "items" in schema else schema.get("prefixItems", [])[part : part + 1]
        if part in schema.get("properties", {}):
            return [schema["properties"][part]]
        extra = schema.get("additionalProperties")
        return [extra] if isinstance(extra, dict) else []


def _like(path: Keys) -> Keys:
    """A path with the numbers of items left out."""
    return tuple("" if isinstance(part, int) else part for part in path)


def _constants(schema: Schema) -> list[Any]:
    return [schema["const"]] if "const" in schema else list(schema.get("enum", []))


def _listed(values: list[Any]) -> str:
    words = [value if isinstance(value, str) else show(value) for value in values]
    return f"one of {', '.join(words)}" if len(words) > 1 else "".join(words)


def _number(schema: Schema) -> str:
    integer = schema["type"] == "integer"
    low, above = schema.get("minimum"), schema.get("exclusiveMinimum")
    if integer and above is not None:
        low, above = above + 1, None
    limits = [
        f"of {low} or more" if low is not None else f"above {above}" if above is not None else "",
        f"at most {schema['maximum']}" if "maximum" in schema else "",
        f"below {schema['exclusiveMaximum']}" if "exclusiveMaximum" in schema else "",
    ]
    noun = "a whole number" if integer else "a number"
    stated = " and ".join(limit for limit in limits if limit)
    return f"{noun} {stated}" if stated else noun
