"""The order of the layers, held for every import that runs; and what stands where."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]

HRT_MM = ("core", "data", "metrics", "tasks", "train", "config", "inference", "retrieval", "analysis", "cli")
"""Packages of ``hrt_mm``, each of which may import those before it."""
HRT_MODALITIES = ("common", "text", "vision", "audio", "video", "joint", "corpora", "speech", "outline")
"""Packages of ``hrt_modalities``, likewise."""
APPLICATIONS = ("speech", "outline")
"""Those that apply trained runs, and may import any layer of ``hrt_mm`` for it. The others feed a run, and may not."""
FOR_ALL = ("core", "data")
"""What every modality may import."""
CORE_LIBRARIES = {"torch", "numpy", "pydantic", "einops"}


class Import(NamedTuple):
    """An import statement that runs.

    Args:
        where: file and line.
        package: what imports, the layer at the end: ``("hrt_mm", "train")``.
        module: what is imported, in full, by its parts.
    """

    where: str
    package: tuple[str, ...]
    module: tuple[str, ...]


def imports() -> Iterator[Import]:
    """All imports of both packages but those that only type checkers see."""
    for parent in (ROOT, ROOT / "modalities"):
        for path in sorted((parent / ("hrt_mm" if parent == ROOT else "hrt_modalities")).rglob("*.py")):
            inside = path.relative_to(parent).parts[:-1]
            for node in _running(ast.parse(path.read_text(encoding="utf-8"))):
                where = f"{path.relative_to(ROOT)}:{node.lineno}"
                if isinstance(node, ast.Import):
                    for alias in node.names:
                        yield Import(where, inside[:2], tuple(alias.name.split(".")))
                    continue
                start = inside[: len(inside) - node.level + 1] if node.level else ()
                module = (*start, *(node.module.split(".") if node.module else ()))
                # `from . import name` and `from hrt_mm import core` name a module or what a package gives.
                for alias in node.names:
                    yield Import(where, inside[:2], (*module, alias.name))


def _running(tree: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        yield from _running(node)


@pytest.fixture(scope="module")
def found() -> list[Import]:
    return list(imports())


@pytest.mark.parametrize("layers", [("hrt_mm", *HRT_MM), ("hrt_modalities", *HRT_MODALITIES)], ids=lambda item: item[0])
def test_a_layer_imports_only_those_below_it(layers: tuple[str, ...], found: list[Import]) -> None:
    top, *order = layers
    index = {layer: height for height, layer in enumerate(order)}
    inner = [item for item in found if item.package[0] == top and item.module[0] == top and len(item.package) > 1]
    assert len(inner) > 100
    for item in inner:
        # `import hrt_mm` alone asks for where it lies, and `from hrt_mm import __version__` for its version.
        if len(item.module) == 1 or item.module[1].startswith("__"):
            continue
        layer, target = item.package[1], item.module[1]
        assert target in index, f"{item.where} imports {'.'.join(item.module)}, which is in no layer"
        assert index[target] <= index[layer], f"{item.where}: {layer} imports {target}, which stands above it"


def test_modules_import_each_other_in_no_circle_not_even_for_types() -> None:
    modules = {path.relative_to(ROOT).with_suffix("").parts: path for path in (ROOT / "hrt_mm").rglob("*.py")}
    graph: dict[tuple[str, ...], set[tuple[str, ...]]] = {}
    for module, path in modules.items():
        nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
        named = {
            (*module[: -node.level or 0], *(node.module.split(".") if node.module else ()), alias.name)
            for node in nodes
            for alias in node.names
        }
        # A package that is imported as a whole stands for its __init__.py, which may lead to any of its modules.
        graph[module] = {name for full in named for name in (full, full[:-1]) if name in modules} - {module}
    assert sum(map(len, graph.values())) > 500
    TopologicalSorter(graph).prepare()


def test_hrt_mm_imports_no_modality(found: list[Import]) -> None:
    for item in found:
        assert item.package[0] != "hrt_mm" or item.module[0] != "hrt_modalities", item.where


def test_modalities_import_the_core_and_the_contracts_alone(found: list[Import]) -> None:
    for item in found:
        if item.package[0] == "hrt_modalities" and item.module[0] == "hrt_mm" and item.package[-1] not in APPLICATIONS:
            assert item.module[1] in FOR_ALL, f"{item.where}: {item.package[-1]} imports {'.'.join(item.module)}"


def test_the_core_imports_few_libraries(found: list[Import]) -> None:
    allowed = CORE_LIBRARIES | {"hrt_mm"} | sys.stdlib_module_names
    for item in found:
        if item.package == ("hrt_mm", "core"):
            assert item.module[0] in allowed or item.module[0] == "flash_attn", f"{item.where} imports {item.module[0]}"


def test_no_file_lies_loose() -> None:
    loose = {path.name for path in (ROOT / "hrt_mm").iterdir() if path.is_file()}
    assert loose == {"__init__.py", "__main__.py", "py.typed"}
    packages = {path.name for path in (ROOT / "hrt_mm").iterdir() if (path / "__init__.py").is_file()}
    assert packages == set(HRT_MM)
    inside = ROOT / "modalities" / "hrt_modalities"
    assert {path.name for path in (ROOT / "modalities").iterdir() if path.name != "__pycache__"} == {"hrt_modalities"}
    assert {path.name for path in inside.iterdir() if (path / "__init__.py").is_file()} == set(HRT_MODALITIES)


def test_tests_mirror_the_packages() -> None:
    for folder in (ROOT / "tests").iterdir():
        if folder.is_dir() and any(folder.glob("test_*.py")) and folder.name not in ("benchmarks", "demos", "docs"):
            assert folder.name in (*HRT_MM, "modalities", "plugin"), folder


def test_public_class_names_are_unique() -> None:
    positions: dict[str, list[str]] = {}
    for folder in (ROOT / "hrt_mm", ROOT / "modalities" / "hrt_modalities"):
        for path in sorted(folder.rglob("*.py")):
            for node in ast.parse(path.read_text(encoding="utf-8")).body:
                if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                    positions.setdefault(node.name, []).append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert not {name: where for name, where in positions.items() if len(where) > 1}
