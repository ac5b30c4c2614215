"""Python functions with the first lines of their docstrings, to be summarized. Nothing is downloaded."""

from __future__ import annotations

import ast
import sysconfig
import textwrap
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import PositiveInt

from hrt_mm.core.errors import ConfigError
from hrt_mm.data.dataset import Dataset, DatasetConfig
from hrt_mm.data.sample import Sample

from ..common.splits import Part, check_split, hash_split

_SKIPPED = frozenset({"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"})
_MAX_FILE = 1 << 20


class DocstringsConfig(DatasetConfig):
    """Python functions without their docstrings as ``source``, and the first lines of these as ``text``.

    Files are parsed and never imported. All functions of a module are in one split, and a module is in the split of its
    top package, so that nothing of a held-out package is trained on.
    """

    type: Literal["docstrings"]
    parts: ClassVar[tuple[str, ...]] = ("source", "text")
    lists_quickly: ClassVar[bool] = False
    root: Path | None = None
    """Folder of Python files; Python's own standard library when absent."""
    val: Part = 0.1
    """Part of the packages that is held out for validation."""
    test: Part = 0.1
    """Part of the packages that is held out for testing."""
    max_source: PositiveInt = 1500
    """Longer functions are left out, in characters."""
    max_text: PositiveInt = 100
    """Longer first lines are left out, in characters."""

    def build(self, split: str) -> Docstrings:
        """The functions of a split.

        Raises:
            ConfigError: there is no such split, no such folder, or no function with a docstring in it.
        """
        check_split(split)
        root = self.root or Path(sysconfig.get_paths()["stdlib"])
        if not root.is_dir():
            raise ConfigError(f"data.root {root} is no folder; name one with Python files")
        chosen = [
            function
            for function in _functions(root)
            if hash_split(function.package, self.val, self.test) == split
            and len(function.source) <= self.max_source
            and len(function.summary) <= self.max_text
        ]
        if not chosen:
            raise ConfigError(f"data.root {root} has no functions with docstrings for {split}; name a larger folder")
        return Docstrings(chosen)


@dataclass(frozen=True)
class DocumentedFunction:
    """A function with its summary.

    Args:
        name: module and function.
        package: the top package or module.
        source: the function without its docstring.
        summary: the first line of the docstring.
    """

    name: str
    package: str
    source: str
    summary: str


class Docstrings(Dataset):
    """Functions with their summaries.

    Args:
        functions: of a split.
    """

    def __init__(self, functions: list[DocumentedFunction]) -> None:
        self.functions = functions

    def __len__(self) -> int:
        return len(self.functions)

    def __getitem__(self, index: int) -> Sample:
        """A function and its summary."""
        function = self.functions[index]
        return Sample({"source": function.source, "text": function.summary}, None, function.name)

    def name(self, index: int) -> str:
        """Module and function."""
        return self.functions[index].name

    def describe(self, index: int) -> Mapping[str, str]:
        """The summary."""
        return {"summary": self.functions[index].summary}


@lru_cache(maxsize=4)
def _functions(root: Path) -> tuple[DocumentedFunction, ...]:
    """All documented functions of a folder, in the order of their files; those with the same source only once."""
    seen: dict[str, DocumentedFunction] = {}
    inside = root.resolve()
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        if _SKIPPED.intersection(parts) or not path.resolve().is_relative_to(inside) or path.stat().st_size > _MAX_FILE:
            continue
        for function in _documented(path, parts):
            seen.setdefault(function.source, function)
    return tuple(seen.values())


def _documented(path: Path, parts: tuple[str, ...]) -> Iterator[DocumentedFunction]:
    try:
        text = path.read_text(encoding="utf-8")
        with warnings.catch_warnings():
            # Invalid escapes in the files of others.
            warnings.simplefilter("ignore")
            tree = ast.parse(text)
    except (OSError, UnicodeDecodeError, SyntaxError, ValueError, RecursionError):
        return
    lines = text.splitlines()
    module = ".".join(parts)
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        first = node.body[0]
        docstring = ast.get_docstring(node)
        # A docstring on the line of `def` or of the next statement cannot be cut out by lines.
        alone = first.lineno > node.lineno and len(node.body) > 1 and node.body[1].lineno > (first.end_lineno or 0)
        if not docstring or not docstring.strip() or not alone or node.end_lineno is None:
            continue
        summary = docstring.strip().splitlines()[0].strip()
        kept = lines[node.lineno - 1 : first.lineno - 1] + lines[first.end_lineno : node.end_lineno]
        source = textwrap.dedent("\n".join(kept)).strip()
        yield DocumentedFunction(f"{module}.{node.name}", parts[0], source, summary)
