"""Help and the commands over folders start without PyTorch, whose import takes seconds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.retrieval.collections_of_vectors import collection

HEAVY = ("torch", "faiss", "fastapi", "gradio", "matplotlib", "qdrant_client")
RUN = f"""
import sys
from hrt_mm.cli.main import main
try:
    code = main(sys.argv[1:])
except SystemExit as end:
    code = end.code or 0
print("imported:", *(name for name in {HEAVY} if name in sys.modules))
sys.exit(code)
"""


def imported(*argv: str | Path) -> list[str]:
    """The heavy libraries that a command imports."""
    done = subprocess.run([sys.executable, "-c", RUN, *map(str, argv)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1].split()[1:]


@pytest.mark.parametrize(
    "argv",
    [
        ["--help"],
        ["search", "--help"],
        ["embed", "--help"],
        ["index", "show", "--help"],
        ["train", "--help"],
        ["--version"],
    ],
    ids=" ".join,
)
def test_help_imports_no_library_that_it_does_not_need(argv: list[str]) -> None:
    assert imported(*argv) == []


def test_indexes_are_built_and_shown_without_pytorch(tmp_path: Path) -> None:
    collection(tmp_path / "vectors", ["a", "b", "c"])
    assert imported("index", "build", tmp_path / "index", tmp_path / "vectors") == []
    assert imported("index", "show", tmp_path / "index") == []
    assert imported("index", "verify", tmp_path / "index") == []


def test_a_server_is_asked_without_pytorch() -> None:
    done = subprocess.run(
        [sys.executable, "-c", RUN, "search", "--server", "http://127.0.0.1:9", "--text", "dots"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2 and "cannot be reached" in done.stderr
    assert done.stdout.splitlines()[-1] == "imported:"


def test_importing_the_package_imports_no_library() -> None:
    code = f"import sys, hrt_mm, hrt_mm.data, hrt_mm.retrieval; print(*(m for m in {HEAVY} if m in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"
