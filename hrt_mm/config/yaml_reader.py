"""YAML as data: the YAML 1.2 scalars, no tags, no key twice, and the line of every value kept."""

from __future__ import annotations

import re

import yaml

from ..core.errors import ConfigError
from ..data.yaml_scalars import PREFIX, SCALARS, core_resolvers
from .messages import Problem, show
from .nodes import Keys, Node

MAX_REPEATED = 100_000
"""Values that aliases may repeat; far more than a configuration needs."""
MAX_DEPTH = 100
"""Levels of nesting."""
MAX_DIGITS = 300
"""Digits of a whole number; a longer one stays text, and is then refused where a number is expected."""

_VARIABLE = re.compile(r"\$\{([^{}\n]*)\}")
_MASKED = re.compile("\\$\ue000([^\ue001\n]*)\ue001")

_TAGS = {PREFIX + name for name in ("map", "seq", "str", *SCALARS)}


@core_resolvers
class _Loader(yaml.SafeLoader):
    pass


def read(text: str, source: str, problems: list[Problem], *, numbered: bool = True) -> Node:
    """Parses one YAML document.

    Args:
        text: the document.
        source: where it is from, for messages.
        problems: where keys given twice and the like are added.
        numbered: whether messages give lines.

    Raises:
        ConfigError: the text is not YAML.
    """
    builder = _Builder(source, problems, numbered)
    try:
        # Braces would end a plain scalar inside {...}; masked, ${NAME} reads the same with and without quotes.
        root = _Loader(_VARIABLE.sub("$\ue000\\1\ue001", text)).get_single_node()
        return builder.build(root, ()) if root else Node(None, source)
    except yaml.MarkedYAMLError as error:
        mark = builder.mark(error.problem_mark) if error.problem_mark else source
        raise ConfigError(f"{mark}: not valid YAML: {_unmask(error.problem or str(error))}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{source}: not valid YAML: {error}") from error
    except RecursionError as error:
        raise ConfigError(
            f"{source}: not valid YAML: the values are nested more than {MAX_DEPTH} levels deep"
        ) from error


def scalar(text: str) -> str | int | float | bool | None:
    """A plain scalar's value, as YAML reads it."""
    for name, (pattern, _) in SCALARS.items():
        if pattern.match(text):
            return _parse(name, text)
    return text


def plain_node(text: str, mark: str) -> Node:
    """A scalar that is written without quotes."""
    value = scalar(text)
    return Node(value, mark, plain=True) if isinstance(value, str) else Node(value, mark, text=text)


class _Builder:
    """Turns PyYAML's nodes into ours."""

    def __init__(self, source: str, problems: list[Problem], numbered: bool) -> None:
        self.source = source
        self.problems = problems
        self.numbered = numbered
        self.repeated = 0
        self.built: set[int] = set()
        self.open: set[int] = set()

    def build(self, raw: yaml.Node, path: Keys) -> Node:
        mark = self.mark(raw.start_mark)
        self.repeated += id(raw) in self.built
        if id(raw) in self.open or self.repeated > MAX_REPEATED:
            raise ConfigError(f"{mark}: aliases make this file endless or huge; write the values out")
        if len(self.open) >= MAX_DEPTH:
            raise ConfigError(f"{mark}: not valid YAML: the values are nested more than {MAX_DEPTH} levels deep")
        self.built.add(id(raw))
        self.open.add(id(raw))
        try:
            if raw.tag not in _TAGS:
                self.problems.append(Problem(mark, path, f"the tag {raw.tag!r} is not allowed; YAML is data here"))
            if isinstance(raw, yaml.MappingNode):
                return Node(self.mapping(raw, path), mark)
            if isinstance(raw, yaml.SequenceNode):
                return Node([self.build(item, (*path, index)) for index, item in enumerate(raw.value)], mark)
            assert isinstance(raw, yaml.ScalarNode)
            return self.scalar(raw, path, mark)
        finally:
            self.open.discard(id(raw))

    def mapping(self, raw: yaml.MappingNode, path: Keys) -> dict[str, Node]:
        values: dict[str, Node] = {}
        lines: dict[str, str] = {}
        for raw_key, raw_value in raw.value:
            mark = self.mark(raw_key.start_mark)
            if not isinstance(raw_key.value, str):
                self.problems.append(Problem(mark, path, "a list or map cannot be a key; use a word"))
                continue
            key, _ = _joined(raw_key.value)
            if key == "<<":
                self.problems.append(Problem(mark, path, "merge keys (<<) are not supported; use extends"))
                continue
            if key in values:
                text = f"the key is given twice, first at {lines[key]}; keep one"
                self.problems.append(Problem(mark, (*path, key), text))
                continue
            lines[key] = mark
            values[key] = self.build(raw_value, (*path, key))
            values[key].mark = mark
        return values

    def scalar(self, raw: yaml.ScalarNode, path: Keys, mark: str) -> Node:
        name = raw.tag.removeprefix(PREFIX)
        if name not in SCALARS:
            text, whole = _joined(_unmask(raw.value))
            if not whole:
                self.problems.append(Problem(mark, path, f"{show(raw.value)} has half of a surrogate pair"))
            return Node(text, mark, plain=raw.style is None)
        if not SCALARS[name][0].match(raw.value):
            self.problems.append(Problem(mark, path, f"{show(raw.value)} is not the {name} that its tag says"))
            return Node(raw.value, mark)
        return Node(_parse(name, raw.value), mark, text=raw.value if raw.style is None else None)

    def mark(self, place: yaml.Mark) -> str:
        return f"{self.source}:{place.line + 1}" if self.numbered else self.source


def _joined(text: str) -> tuple[str, bool]:
    """A text with its surrogate pairs joined, which JSON writes as two escapes, and whether none was left alone."""
    try:
        text.encode()
    except UnicodeEncodeError:
        units = text.encode("utf-16-le", "surrogatepass")
        joined = units.decode("utf-16-le", "replace")
        return joined, joined.count("\ufffd") == text.count("\ufffd")
    return text, True


def _unmask(text: str) -> str:
    return _MASKED.sub(r"${\1}", text)


def _parse(name: str, text: str) -> str | int | float | bool | None:
    if name == "null":
        return None
    if name == "bool":
        return text.lower() == "true"
    if name == "int" and len(text) > MAX_DIGITS:
        return text
    if name == "int":
        return int(text, 0) if text[:2] in ("0o", "0x") else int(text)
    return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
