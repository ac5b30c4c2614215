"""What the documents show is true: Python runs, configurations load, commands exist and print what is shown."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from hrt_mm.cli.main import main, parse
from hrt_mm.config import RunConfig, load_config
from hrt_mm.core.extras import is_installed
from hrt_mm.train.check import check
from hrt_mm.train.run_config import SHORT_FORM
from tests.modalities.text.small_encoders import saved

ROOT = Path(__file__).parents[2]
DOCUMENTS = [
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    *(path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "docs").rglob("*.md"))),
]
PLUGIN = "docs/tutorials/new_modality.md"
TUTORIALS = [name for name in DOCUMENTS if name.startswith("docs/tutorials/") and name != PLUGIN]
"""Pages that are run from top to bottom, commands too."""
SHORT = ["train.steps=3", "train.eval_every=3", "train.save_every=3", "train.batch_size=2"]
"""Overrides with which tutorials train."""
SHORTER = {"docs/tutorials/language-model.md": ["data.val=0.001", "data.test=0.001", "data.context=256"]}
"""Further overrides by page."""
LIBRARIES = {"docs/how-to/training-loops.md": ("lightning", "transformers", "accelerate")}
"""Libraries of others that pages show, which are not among the extras of users."""
QUICK = {"modalities", "doctor", "describe", "config"}
"""Commands that are run; of others the arguments and the configuration are checked."""
TOOLS = {"make", "curl", "pip", "torchrun", "export", "sbatch", ".ci/run"}

_FENCE = re.compile(r"^```(?P<kind>\w*)(?: title=\"(?P<title>[^\"]+)\")?\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Example:
    document: str
    number: int
    kind: str
    title: str | None
    body: str

    def __str__(self) -> str:
        return f"{self.document}:{self.kind}-{self.number}"


def examples(*kinds: str, documents: list[str] = DOCUMENTS) -> list[Example]:
    result = []
    for document in documents:
        text = (ROOT / document).read_text(encoding="utf-8")
        for number, match in enumerate(_FENCE.finditer(text)):
            if match["kind"] in kinds:
                result.append(Example(document, number, match["kind"], match["title"], match["body"]))
    return result


@dataclass(frozen=True)
class Command:
    document: str
    line: str
    output: str

    def __str__(self) -> str:
        return f"{self.document}: {self.line}"


def commands() -> list[Command]:
    return [command for example in examples("console", "sh") for command in commands_of(example)]


def commands_of(example: Example) -> list[Command]:
    if example.kind == "sh":
        lines = [line.partition(" #")[0].strip() for line in example.body.splitlines()]
        return [Command(example.document, line, "") for line in lines]
    blocks = re.split(r"^\$ ", example.body, flags=re.MULTILINE)[1:]
    return [Command(example.document, *block.partition("\n")[::2]) for block in blocks]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where examples run, one after the other as they are read; with the titled files of the documents in it."""
    path = tmp_path_factory.mktemp("examples")
    for example in examples("yaml"):
        if example.title and example.document != PLUGIN:
            (path / example.title).write_text(example.body)
    if is_installed("transformers"):
        # The folder of an encoder that a page names.
        saved(path / "models" / "distilbert", "distilbert")
    before = Path.cwd()
    threads = torch.get_num_threads()
    os.chdir(path)
    yield path
    os.chdir(before)
    torch.set_num_threads(threads)


def test_documents_have_examples() -> None:
    assert len(examples("python")) >= 4
    assert len(examples("yaml")) >= 4
    assert len(commands()) >= 15
    kinds = {example.kind for example in examples("python", "yaml", "console", "sh", "toml")}
    assert kinds == {"python", "yaml", "console", "sh", "toml"}


def test_every_block_says_what_it_is() -> None:
    for document in DOCUMENTS:
        text = (ROOT / document).read_text(encoding="utf-8")
        marks = [line for line in text.splitlines() if line.startswith("```")]
        assert len(marks) == 2 * len(_FENCE.findall(text)), document
        assert all(mark != "```" for mark in marks[::2]), document


# Lightning and Transformers warn of their own ways.
@pytest.mark.filterwarnings(
    "ignore:.*LeafSpec:FutureWarning", "ignore::UserWarning:lightning", "ignore::UserWarning:transformers"
)
@pytest.mark.parametrize(
    "document", sorted({one.document for one in examples("python")} - {PLUGIN, *TUTORIALS}), ids=str
)
def test_python_runs(document: str, folder: Path) -> None:
    """All of a document in one test, for later examples go on with the names and runs of earlier ones."""
    for library in LIBRARIES.get(document, ()):
        pytest.importorskip(library)
    names: dict[str, Any] = {"__name__": "__main__"}
    for example in examples("python", documents=[document]):
        exec(compile(example.body, str(example), "exec"), names)


@pytest.mark.parametrize("document", TUTORIALS, ids=str)
def test_tutorial_runs(document: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From top to bottom, with training cut short."""
    if "audio/synthetic" in (ROOT / document).read_text(encoding="utf-8"):
        pytest.importorskip("espeakng_loader")
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    names: dict[str, Any] = {"__name__": "__main__"}
    for example in examples("python", "yaml", "console", documents=[document]):
        if example.kind == "python":
            exec(compile(example.body, str(example), "exec"), names)
        elif example.kind == "yaml":
            assert example.title is not None
            (tmp_path / example.title).write_text(example.body)
        else:
            for command in commands_of(example):
                program, *arguments = shlex.split(command.line)
                assert program == "hrt-mm"
                if arguments[0] == "train":
                    arguments += SHORT + SHORTER.get(document, [])
                assert main(arguments) == 0, command
    torch.set_num_threads(threads)


@pytest.mark.parametrize("example", [one for one in examples("yaml") if one.document != PLUGIN], ids=str)
def test_configuration_loads(example: Example, folder: Path) -> None:
    path = folder / f"example-{example.number}.yaml"
    path.write_text(example.body)
    assert yaml.safe_load(example.body).keys() <= {"extends", *SHORT_FORM, *RunConfig.model_fields}
    check(load_config(path))


@pytest.mark.parametrize("command", [one for one in commands() if one.document != PLUGIN], ids=str)
def test_command_exists(command: Command, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program, *arguments = shlex.split(command.line)
    if program == "make":
        assert re.search(rf"^{arguments[0]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
    elif program == "hrt-mm":
        _check_own(arguments, command.output, capsys)
    elif program == "torchrun":
        module = arguments.index("-m")
        assert arguments[module + 1] == "hrt_mm"
        _check_own(arguments[module + 2 :], command.output, capsys)
    elif program == "python":
        assert arguments[0] == "-m"
        assert importlib.util.find_spec(arguments[1])
    else:
        assert program in TOOLS
        assert "/" not in program or (ROOT / program).is_file()


def _check_own(arguments: list[str], output: str, capsys: pytest.CaptureFixture[str]) -> None:
    args = parse(arguments)
    if arguments[0] in QUICK:
        code = main(arguments)
        printed = capsys.readouterr()
        assert code == (2 if output.startswith("error") else 0), printed.err
        assert not output or output in (printed.out, printed.err)
    elif "config" in args:
        check(load_config(args.config, args.overrides))
        if getattr(args, "resume", False):
            assert main(arguments) == 0
    elif (run := getattr(args, "folder", None)) is not None and (Path(run) / "config.yaml").is_file():
        assert main(arguments) == 0


def test_links_lead_somewhere() -> None:
    for document in DOCUMENTS:
        path = ROOT / document
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8")):
            assert (path.parent / target).exists(), f"{document}: {target}"


def test_the_tests_that_hold_a_promise_are_there() -> None:
    named = re.findall(r"`([\w/]+/test_\w+\.py)`", (ROOT / "docs/robustness.md").read_text(encoding="utf-8"))
    assert len(named) > 50
    for name in named:
        assert (ROOT / "tests" / name).is_file(), name


def test_dependencies_are_those_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = [
        *project["dependencies"],
        *(line for extra in project["optional-dependencies"].values() for line in extra),
    ]
    names = {re.split(r"[^A-Za-z0-9_.-]", line, maxsplit=1)[0].lower() for line in needed} - {project["name"]}
    text = (ROOT / "docs/dependencies.md").read_text().lower()
    listed = {
        name.strip() for row in re.findall(r"^\|(.+)\|$", text, re.MULTILINE) for cell in row.split("|")[:2]
        for name in cell.split(",")
    }  # fmt: skip
    assert names <= listed


RUN = """
import contextlib, io, json, sys
from hrt_mm.cli.main import main
found = []
for line in json.loads(sys.argv[1]):
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        found.append([main(line.split()), out.getvalue()])
print(json.dumps(found))
"""


def test_new_modality_is_found_trained_and_drawn(tmp_path: Path) -> None:
    titled = {one.title: one.body for one in examples("python", "toml", "yaml", documents=[PLUGIN]) if one.title}
    assert titled.keys() == {"pyproject.toml", "waves/__init__.py", "waves.yaml"}
    for name, body in titled.items():
        assert name is not None
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(body)
    install, *lines = [one.line for one in commands() if one.document == PLUGIN]
    assert install == "pip install -e ."
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--no-build-isolation"]
    done = subprocess.run([*pip, "--target", "site", "."], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    own = json.dumps([line.removeprefix("hrt-mm ") for line in lines])
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    # The folder has a package of the same name: what is installed is meant.
    start = [sys.executable, "-P", "-c", RUN, own]
    done = subprocess.run(start, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    results: list[Any] = json.loads(done.stdout.splitlines()[-1])
    assert [code for code, _ in results] == [0, 0, 0]
    assert "waves (hrt-mm-waves 0.1): Series of numbers, cut into frames." in results[0][1]
    summary = json.loads((tmp_path / "runs/waves/summary.json").read_text())
    assert summary["metrics"]["test/accuracy"] > 0.8
    assert (tmp_path / "runs/waves/report/groups.png").is_file()


def test_new_modality_is_clean(tmp_path: Path) -> None:
    (body,) = [one.body for one in examples("python", documents=[PLUGIN])]
    (tmp_path / "waves.py").write_text(body)
    command = [sys.executable, "-m", "ruff", "check", "--select", "E,F,UP,B", "--line-length", "120", "waves.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
