"""Hooks of the site: tables that are made from the code when it is built, and links into the repository."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

from hrt_mm.cli import added, main
from hrt_mm.cli.arguments import HelpParser
from hrt_mm.config.schema import json_schema
from hrt_mm.core.component import Component

ROOT = Path(__file__).parents[1]
RESULTS = "benchmarks/results"


def on_files(files: Files, config: Any) -> Files:
    """Adds the result files that the benchmark pages link to, and the changelog."""
    for path in sorted((ROOT / RESULTS).iterdir()):
        files.append(File.generated(config, f"{RESULTS}/{path.name}", abs_src_path=str(path)))
    files.append(File.generated(config, "changelog.md", abs_src_path=str(ROOT / "CHANGELOG.md")))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Fills in the generated tables, and points links to result files at the copies in the site."""
    markdown = markdown.replace(f"](../../{RESULTS}/", "](results/")
    for name, make in TABLES.items():
        mark = f"<!-- generated: {name} -->"
        if mark in markdown:
            markdown = markdown.replace(mark, make())
    return markdown


def configuration() -> str:
    """Every section of a configuration with its components and keys, from the JSON schema."""
    schema = json_schema()
    definitions = schema["$defs"]
    parts: list[str] = []
    shown = []
    for name, section in schema["properties"].items():
        if name in ("extends", "towers"):
            continue
        parts += [f"## {name}", _text(section)]
        options = [option["$ref"].rpartition("/")[2] for option in section.get("anyOf", [section]) if "$ref" in option]
        parts += [part for option in options for part in _component(option, definitions)]
        shown += options
    parts.append("## Nested components")
    parts += [part for name in definitions if name not in shown for part in _component(name, definitions)]
    return "\n\n".join(part for part in parts if part)


def _component(name: str, definitions: Mapping[str, Any]) -> Iterator[str]:
    """A heading, the description and the table of keys of one component."""
    body = definitions[name]
    yield f"### {_heading(name, definitions)} {{ #{_anchor(name)} }}"
    yield _text(body)
    required = body.get("required", [])
    rows = [
        f"| `{key}` | {_type(value, definitions)} | {_default(key, value, required)} | {_text(value)} |"
        for key, value in body.get("properties", {}).items()
        if key != "type"
    ]
    if rows:
        yield "\n".join(["| key | type | default | meaning |", "|---|---|---|---|", *rows])


def _heading(name: str, definitions: Mapping[str, Any]) -> str:
    """What selects a component in YAML: its ``type``, or its name where it has none."""
    constant = definitions[name].get("properties", {}).get("type", {}).get("const")
    return f"type: {constant}" if constant else _plain(name)


def _plain(name: str) -> str:
    """A component's class name, from the qualified name that pydantic gives where two share one."""
    return name.rpartition("__")[2]


def _anchor(name: str) -> str:
    return re.sub(r"\W+", "-", name.lower())


def _type(value: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    """The type of a key, with links to nested components."""
    if "$ref" in value:
        name = value["$ref"].rpartition("/")[2]
        return f"[{_plain(name)}](#{_anchor(name)})"
    for key in ("anyOf", "oneOf", "allOf"):
        if key in value:
            return " or ".join(dict.fromkeys(_type(option, definitions) for option in value[key]))
    if "const" in value:
        return f"`{value['const']}`"
    if "enum" in value:
        return ", ".join(f"`{option}`" for option in value["enum"])
    if value.get("type") == "array":
        items = value.get("items") or {}
        return f"list of {_type(items, definitions)}" if items else "list"
    if value.get("type") == "object":
        return "map"
    kind = {"null": "null", "integer": "int", "number": "float", "boolean": "bool", "string": "text"}
    return kind.get(value.get("type", ""), "any") + _bounds(value)


def _bounds(value: Mapping[str, Any]) -> str:
    signs = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    bounds = [f"{sign} {value[key]:g}" for key, sign in signs.items() if key in value]
    return f" ({', '.join(bounds)})" if bounds else ""


def _default(key: str, value: Mapping[str, Any], required: Iterable[str]) -> str:
    if key in required:
        return "required"
    if "default" not in value:
        return ""
    default = value["default"]
    if default is None:
        return "null"
    if isinstance(default, dict):
        return "its defaults"
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


def _text(value: Mapping[str, Any]) -> str:
    """A description on one line, safe in a table cell and with the project's double backticks as Markdown code."""
    text = " ".join(str(value.get("description") or "").split())
    text = re.sub(r"``(.+?)``", r"`\1`", text)
    return text.replace("|", r"\|").replace("<", "&lt;")


def renamed_keys() -> str:
    """Former keys and types of the components of this project."""
    json_schema()  # Imports all components.
    keys: set[tuple[str, str]] = set()
    types: set[tuple[str, str]] = set()
    for component in _components(Component):
        keys |= {(old, new) for old, new in component.deprecated_keys.items()}
        types |= {(old, new) for old, new in component.deprecated_types.items()}
    rows = [f"| `{old}` | `{new}` |" for old, new in sorted(keys)]
    rows += [f"| `type: {old}` | `type: {new}` |" for old, new in sorted(types)]
    return "\n".join(["| former name | name |", "|---|---|", *rows])


def _components(base: type[Component]) -> Iterator[type[Component]]:
    for component in base.__subclasses__():
        yield component
        yield from _components(component)


def commands() -> str:
    """Every command with its arguments, from the parsers."""
    parser = HelpParser(prog="hrt-mm")
    choices: Any = parser.add_subparsers(metavar="COMMAND")
    for add_command in main.COMMANDS:
        add_command(choices)
    added.add(choices)
    return "\n\n".join(part for name, sub in choices.choices.items() for part in _command(f"hrt-mm {name}", sub))


def _command(name: str, parser: argparse.ArgumentParser) -> Iterator[str]:
    nested = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    yield f"{'#' * (1 + len(name.split()) - 1)} {name}"
    yield f"{(parser.description or '')[:1].upper()}{(parser.description or '')[1:]}"
    actions = [
        action for action in parser._actions if action not in nested and action.dest not in ("help", "traceback")
    ]
    rows = [
        f"| {_flags(action)} | {_help(action, parser)} |" for action in actions if action.help is not argparse.SUPPRESS
    ]
    if rows:
        yield "\n".join(["| argument | meaning |", "|---|---|", *rows])
    for action in nested:
        for key, sub in action.choices.items():
            yield from _command(f"{name} {key}", sub)


def _flags(action: argparse.Action) -> str:
    metavar = action.metavar if isinstance(action.metavar, str) else action.dest.upper()
    if not action.option_strings:
        return f"`{metavar}`"
    if action.choices is not None:
        metavar = "{" + ",".join(map(str, action.choices)) + "}"
    value = "" if action.nargs == 0 else f" {metavar}"
    return ", ".join(f"`{flag}{value}`" for flag in action.option_strings)


def _help(action: argparse.Action, parser: argparse.ArgumentParser) -> str:
    text = (action.help or "") % {**vars(action), "prog": parser.prog}
    return " ".join(text.split()).replace("|", r"\|").replace("<", "&lt;")


TABLES = {"configuration": configuration, "renamed keys": renamed_keys, "commands": commands}
