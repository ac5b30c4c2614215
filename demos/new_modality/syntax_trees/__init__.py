"""Python syntax trees: nodes, statements, functions, modules. The data is the standard library of every machine.

Shapes: T nodes.
"""

from __future__ import annotations

import ast
import re
import sysconfig
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from hrt_mm.core.errors import BadSample, ConfigError
from hrt_mm.core.levels import HierarchyConfig
from hrt_mm.core.tokens import Tokens
from hrt_mm.data.dataset import Dataset, DatasetConfig
from hrt_mm.data.modality import Modality
from hrt_mm.data.sample import Sample
from hrt_mm.data.tokenizer import Tokenizer, TokenizerConfig

KINDS = sorted(name for name, kind in vars(ast).items() if isinstance(kind, type) and issubclass(kind, ast.AST))
INDEX = {name: index for index, name in enumerate(KINDS)}
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
SCOPES = (*FUNCTIONS, ast.ClassDef)
WORDS = 4
"""Words of a name that are read: ``create_future`` has two."""
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")


class SyntaxConfig(TokenizerConfig):
    """Source as the nodes of its syntax tree, parents before their children."""

    type: Literal["syntax"]
    names: int = 1024
    """Buckets that the words of names, attributes and constants are hashed into; 0 is for no word."""
    max_nodes: int = 20_000
    """The largest tree; larger ones are bad samples."""

    def build(self, model: HierarchyConfig | None = None) -> SyntaxTokenizer:
        """The tokenizer."""
        return SyntaxTokenizer(self.names, self.max_nodes)


class SyntaxTokenizer(Tokenizer):
    """A token is a node: its kind, and the buckets of its name's words. Gives (T, 1 + WORDS) int64."""

    axes = 1
    levels = ("nodes", "statements", "functions", "modules")
    boundaries = ("statements", "functions")
    vocabulary = len(KINDS)

    def __init__(self, names: int, max_nodes: int) -> None:
        self.names, self.max_nodes = names, max_nodes

    def __call__(self, values: Sequence[Any]) -> Tokens:
        """Packs sources, with where statements and functions start."""
        ids: list[Tensor] = []
        starts: dict[str, list[Tensor]] = {name: [] for name in self.boundaries}
        for index, source in enumerate(values):
            name = f"source {index} of the batch"
            try:
                nodes = list(walk(ast.parse(source)))
            except (SyntaxError, ValueError, TypeError, RecursionError) as error:
                raise BadSample(name, f"is no Python that this version parses: {error}") from error
            if not 1 < len(nodes) <= self.max_nodes:
                raise BadSample(name, f"has {len(nodes)} nodes; it may have 2 to {self.max_nodes:,}")
            ids.append(torch.tensor([(INDEX[type(node).__name__], *self._buckets(node)) for node in nodes]))
            starts["statements"].append(torch.tensor([isinstance(node, ast.stmt) for node in nodes]))
            starts["functions"].append(torch.tensor([isinstance(node, SCOPES) for node in nodes]))
        return Tokens.pack(ids, boundaries={name: starts[name] for name in sorted(self.requested_boundaries)})

    def _buckets(self, node: ast.AST) -> list[int]:
        """Of the first words of a node's name; what is said in words then resembles what is named by them."""
        name = next(
            (
                str(value)
                for key in ("id", "attr", "arg", "name", "value")
                if isinstance(value := getattr(node, key, None), str | int | float)
            ),
            "",
        )
        words = _WORD.findall(name[:200])[:WORDS]
        ids = [1 + zlib.crc32(word.lower().encode()) % (self.names - 1) for word in words]
        return ids + [0] * (WORDS - len(ids))

    def embedding(self, dim: int) -> nn.Module:
        """A vector for each kind, and one for each bucket of words."""
        return NodeEmbedding(self.names, dim)

    def targets(self, tokens: Tokens) -> Tensor:
        """(T,) kinds: what masked modelling gives back."""
        return tokens.x[:, 0]


class NodeEmbedding(nn.Module):
    """The sum of the learned vectors of a kind and of the words of a name."""

    def __init__(self, names: int, dim: int) -> None:
        super().__init__()
        self.kinds, self.names = nn.Embedding(len(KINDS), dim), nn.Embedding(names, dim)
        nn.init.normal_(self.kinds.weight, std=0.3)
        nn.init.normal_(self.names.weight, std=0.3)
        with torch.no_grad():
            self.names.weight[0] = 0

    def forward(self, tokens: Tokens) -> Tokens:
        """(T, 1 + WORDS) ids to (T, dim)."""
        return tokens.with_x(self.kinds(tokens.x[:, 0]) + self.names(tokens.x[:, 1:]).sum(1))


def walk(node: ast.AST) -> Iterator[ast.AST]:
    """A node and all under it, parents first. Contexts and operators of one kind are left out."""
    yield node
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.expr_context):
            yield from walk(child)


@dataclass(frozen=True)
class Function:
    """A function of the standard library, without its docstring."""

    name: str
    package: str
    source: str
    docstring: str


@cache
def functions(package: str) -> tuple[Function, ...]:
    """The functions of a package that have a docstring and a body, in the order of their files.

    Raises:
        ConfigError: this Python has no such package.
    """
    folder = Path(sysconfig.get_paths()["stdlib"]) / package
    files = sorted(folder.rglob("*.py")) if folder.is_dir() else []
    if not files:
        raise ConfigError(
            f"data.packages: the standard library has no package {package!r}; it has asyncio, email, json"
        )
    functions = []
    for file in files:
        try:
            tree = ast.parse(file.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, FUNCTIONS) and (text := ast.get_docstring(node)) and len(node.body) > 1:
                node.body = node.body[1:]
                name = f"{file.relative_to(folder.parent).as_posix()}:{node.lineno} {node.name}"
                functions.append(Function(name, package, ast.unparse(node), text.split("\n\n")[0]))
    return tuple(functions)


PACKAGES = ("asyncio", "email", "http", "importlib", "logging", "multiprocessing", "unittest", "xml")


class FunctionsConfig(DatasetConfig):
    """Functions of the standard library; a file's are all in one split."""

    packages: tuple[str, ...] = PACKAGES
    """Where they are from."""

    def chosen(self, split: str) -> list[Function]:
        """The functions of a split.

        Raises:
            ConfigError: there is no such split or package.
        """
        if split not in ("train", "val", "test"):
            raise ConfigError(f"unknown split {split!r}; one of train, val, test")
        return [one for package in self.packages for one in functions(package) if split_of(one.name) == split]


def split_of(name: str) -> str:
    """The split of a function, by its file."""
    bucket = blake2b(name.partition(":")[0].encode(), digest_size=1).digest()[0]
    return "test" if bucket < 51 else "val" if bucket < 89 else "train"


class PackagesConfig(FunctionsConfig):
    """Which package a function is from."""

    type: Literal["stdlib_packages"]

    def build(self, split: str) -> Dataset:
        """The functions of a split; the label is the package."""
        samples = [Sample(one.source, one.package, one.name) for one in self.chosen(split)]
        return Listed(samples, tuple(sorted(self.packages)), [{"function": sample.name} for sample in samples])


class CodeDocstringsConfig(FunctionsConfig):
    """Functions (``code``) with the first paragraph of their docstrings (``text``)."""

    type: Literal["code_docstrings"]
    parts: ClassVar[tuple[str, ...]] = ("code", "text")

    def build(self, split: str) -> Dataset:
        """The functions of a split; those that say the same are alike."""
        functions = self.chosen(split)
        samples = [Sample({"code": one.source, "text": one.docstring}, one.docstring, one.name) for one in functions]
        return Listed(samples, None, [{"function": one.name, "docstring": one.docstring} for one in functions])


class Listed(Dataset):
    """Samples that lie in memory."""

    def __init__(
        self, samples: list[Sample], classes: tuple[str, ...] | None, about: Sequence[Mapping[str, str]]
    ) -> None:
        self.samples, self.classes, self.about = samples, classes, about

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        return self.samples[index]

    def describe(self, index: int) -> Mapping[str, str]:
        """What a search shows."""
        return self.about[index]


class Syntax(Modality):
    """What the package registers."""

    name = "syntax"
    tokenizer = SyntaxConfig
    datasets = (PackagesConfig,)

    @classmethod
    def read(cls, path: Path) -> str:
        """The source of a file."""
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise BadSample(path.name, f"cannot be read as Python: {error}") from error
