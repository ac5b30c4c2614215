"""Docstrings name the arguments that functions have, so that the reference is built without warnings."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
_ARGS = re.compile(r"^(?P<indent> *)Args:\n(?P<body>(?:(?P=indent) +.*\n|\n)*)", re.MULTILINE)


def documented(docstring: str) -> list[str]:
    """The names in the section ``Args``."""
    match = _ARGS.search(docstring + "\n")
    if match is None:
        return []
    indent = len(match["indent"]) + 4
    return re.findall(rf"^ {{{indent}}}\*{{0,2}}(\w[\w, *]*?)(?: \(.*?\))?:", match["body"], re.MULTILINE)


def arguments(node: ast.FunctionDef | ast.AsyncFunctionDef) -> set[str]:
    given = node.args
    everything = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
    return {argument.arg for argument in everything if argument is not None}


def constructor(node: ast.ClassDef) -> set[str] | None:
    """The arguments of a class: none for a named tuple, whose fields are attributes; unknown if inherited."""
    for statement in node.body:
        if isinstance(statement, ast.FunctionDef) and statement.name == "__init__":
            return arguments(statement)
    if any("NamedTuple" in ast.unparse(base) for base in node.bases):
        return set()
    if node.bases or not any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list):
        return None
    fields = [statement for statement in node.body if isinstance(statement, ast.AnnAssign)]
    return {
        ast.unparse(one.target) for one in fields if one.value is None or "init=False" not in ast.unparse(one.value)
    }


def callables() -> Iterator[tuple[str, str, set[str]]]:
    """Each function and class of the packages: where it is, its docstring and the names of its arguments."""
    for package in ("hrt_mm", "modalities/hrt_modalities"):
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                names = None
                if isinstance(node, ast.ClassDef):
                    names = constructor(node)
                elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                    names = arguments(node)
                if names is not None:
                    assert isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
                    yield f"{path.relative_to(ROOT)}:{node.lineno}", ast.get_docstring(node) or "", names


def test_arguments_in_docstrings_exist() -> None:
    wrong = [f"{where}: {name}" for where, text, names in callables() for name in documented(text) if name not in names]
    assert not wrong


def test_names_are_read_from_docstrings() -> None:
    text = (
        "A function.\n\nArgs:\n    one: the first.\n        More: of it.\n    *two: others.\n\nReturns:\n    three: no."
    )
    assert documented(text) == ["one", "two"]
