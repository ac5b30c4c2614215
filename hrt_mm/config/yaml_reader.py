"""Reading YAML as plain data: scalars of YAML 1.2, no tags, no duplicate keys, and the line of every value."""

from __future__ import annotations

import re

import yaml

from ..core.errors import ConfigError
from ..data.yaml_scalars import PREFIX, SCALARS, core_resolvers
from .messages import Problem, show
from .nodes import Keys, Node

MAX_REPEATED = 100_000
"""Maximum number of values repeated by aliases."""
MAX_DEPTH = 100
"""Maximum levels of nesting."""
MAX_DIGITS = 300
"""Maximum digits of an integer. A longer one stays text, which is rejected where a number is expected."""

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
        source: file name or override, for messages.
        problems: mistakes such as duplicate keys are appended.
        numbered: include line numbers in messages.

    Raises:
        ConfigError: the text is not YAML.
    """
    builder = _Builder(source, problems, numbered)
    try:
        # The braces of ${NAME} would end an unquoted scalar inside of {...}, so they are replaced while parsing.
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
    """The value of an unquoted scalar."""
    for name, (pattern, _) in SCALARS.items():
        if pattern.match(text):
            return _parse(name, text)
    return text


def plain_node(text: str, mark: str) -> Node:
    """A node for an unquoted scalar."""
    value = scalar(text)
    return Node(value, mark, plain=True) if isinstance(value, str) else Node(value, mark, text=text)


class _Builder:
    """Converts PyYAML's nodes to :class:`Node`."""

    def __init__(self, source: str, problems: list[Problem], numbered: bool) -> None:
        self.source = source
        self.problems = problems
        self.numbered = numbered
        self.repeated = 0
        self.built: set[int] = set()
        self.open: set[int] = set()

    def build(self, raw: yaml.Node, path: Keys) -> Node:
        mark = self.mark(raw.start_mark)
        # An alias is the same node again. Nested ones multiply: a few lines can stand for billions of values.
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
            key, _ = _join_surrogates(raw_key.value)
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
            text, valid = _join_surrogates(_unmask(raw.value))
            if not valid:
                self.problems.append(Problem(mark, path, f"{show(raw.value)} has half of a surrogate pair"))
            return Node(text, mark, plain=raw.style is None)
        if not SCALARS[name][0].match(raw.value):
            self.problems.append(Problem(mark, path, f"{show(raw.value)} is not the {name} that its tag says"))
            return Node(raw.value, mark)
        return Node(_parse(name, raw.value), mark, text=raw.value if raw.style is None else None)

    def mark(self, position: yaml.Mark) -> str:
        return f"{self.source}:{position.line + 1}" if self.numbered else self.source


def _join_surrogates(text: str) -> tuple[str, bool]:
    """Joins surrogate pairs, which JSON writes as two escapes. False if there is a lone surrogate."""
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
