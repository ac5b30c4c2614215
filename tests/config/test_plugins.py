"""A plug-in that cannot be used stops no run but one that names it."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

import pytest

import hrt_mm.data.registry
from hrt_mm.cli.main import main, parse
from hrt_mm.config import load_config
from hrt_mm.core.errors import ConfigError
from hrt_mm.data.registry import COMMAND_GROUP, GROUP, JOINT_GROUP, broken_plugins, clear, modalities

GOOD = """
modality: {type: vision, channels: 1, patch: 4}
model: {levels: [{name: image, dim: 16, heads: 2, depth: 1}]}
task: {type: classification}
data: {type: digits}
train: {steps: 2, batch_size: 8}
"""
BROKEN = {
    "raises": "raise RuntimeError('no device')",
    "exits": "raise SystemExit(3)",
    "syntax": "def",
    "library": "import a_library_that_is_not_here",
    "attribute": "",
    "another-kind": "Plugin = 3",
    "wrong-type": """
from typing import Literal
from hrt_mm.data.modality import Modality
from hrt_mm.data.tokenizer import TokenizerConfig
class Config(TokenizerConfig):
    type: Literal["other"]
class Plugin(Modality):
    name, tokenizer, datasets = "odd", Config, ()
""",
    "no-schema": """
from typing import Any, Literal
from pydantic import ConfigDict
from hrt_mm.data.modality import Modality
from hrt_mm.data.tokenizer import TokenizerConfig
class Strange:
    pass
class Config(TokenizerConfig):
    model_config = ConfigDict(arbitrary_types_allowed=True)
    type: Literal["odd"]
    strange: Strange | None = None
class Plugin(Modality):
    name, tokenizer, datasets = "odd", Config, ()
""",
}
TOLD = {
    "raises": "RuntimeError('no device')",
    "exits": "SystemExit(3)",
    "syntax": "SyntaxError",
    "library": "No module named 'a_library_that_is_not_here'",
    "attribute": "has no attribute 'Plugin'",
    "another-kind": "it is 3, not a subclass of Modality",
    "wrong-type": "must have type: Literal['odd']",
    "no-schema": "PydanticInvalidForJsonSchema",
}

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Installs a module as a plug-in."""
    added: list[EntryPoint] = []

    def found(**expected: Any) -> list[EntryPoint]:
        return [*entry_points(**expected), *(entry for entry in added if entry.group == expected["group"])]

    def do(name: str, code: str, group: str = GROUP, module: str = "broken_plugin") -> None:
        (tmp_path / f"{module}.py").write_text(code)
        added.append(EntryPoint(name, f"{module}:Plugin", group))
        clear()

    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(hrt_mm.data.registry, "entry_points", found)
    (tmp_path / "good.yaml").write_text(GOOD)
    yield do
    monkeypatch.undo()
    for module in [module for module in sys.modules if module.startswith("broken_plugin")]:
        del sys.modules[module]
    clear()
    assert not broken_plugins()


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_plugin_is_warned_of_and_stops_only_what_names_it(
    kind: str, install: Install, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    install("odd", BROKEN[kind])
    load_config(tmp_path / "good.yaml")
    warned = [record.getMessage() for record in caplog.records]
    assert len(warned) == 1, "once"
    assert "the modality 'odd' of broken_plugin:Plugin cannot be used" in warned[0]
    assert TOLD[kind] in warned[0]
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path / "good.yaml", ["modality.type=odd"])
    assert "modality.type: the modality 'odd' of broken_plugin:Plugin cannot be used" in str(caught.value)
    assert TOLD[kind] in str(caught.value)
    assert main(["modalities"]) == 0
    out = capsys.readouterr().out
    assert "the modality 'odd' of broken_plugin:Plugin cannot be used" in out
    assert "vision (hrt-mm" in out
    assert parse(["text", "subwords", "a.txt", "--out", "b.json"]).run


def test_a_broken_dataset_of_several_modalities(install: Install, tmp_path: Path) -> None:
    install("odd_pairs", "raise OSError('no file')", JOINT_GROUP)
    load_config(tmp_path / "good.yaml")
    towers = GOOD.replace("modality:", "towers: {a: {modality: ").replace("patch: 4}\nmodel:", "patch: 4}, model:")
    towers = towers.replace(
        "depth: 1}]}", "depth: 1}]}}, b: {modality: {type: text}, model: {levels: [{name: c, dim: 8}]}}}"
    )
    (tmp_path / "towers.yaml").write_text(towers.replace("digits", "odd_pairs"))
    with pytest.raises(ConfigError, match=r"data\.type: the dataset 'odd_pairs' of .* cannot be used: OSError"):
        load_config(tmp_path / "towers.yaml")


def test_two_plugins_of_one_name_stop_only_what_names_it(install: Install, tmp_path: Path) -> None:
    code = BROKEN["wrong-type"].replace("other", "odd")
    install("odd", code)
    assert "odd" in modalities()
    install("odd", code, module="broken_plugin_2")
    load_config(tmp_path / "good.yaml")
    with pytest.raises(ConfigError, match=r"'odd' of broken_plugin\S* and broken_plugin\S* .* both packages give it"):
        load_config(tmp_path / "good.yaml", ["modality.type=odd"])


ADDED = """
from typing import Literal
from hrt_mm.data.dataset import DatasetConfig
class Plugin(DatasetConfig):
    '''Pictures of another package.'''
    type: Literal["pictures"]
"""


def test_a_package_adds_a_dataset_to_a_modality(
    install: Install, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    install("pictures", ADDED, f"{JOINT_GROUP}.vision")
    assert load_config(tmp_path / "good.yaml", ["data={type: pictures}"]).data.type == "pictures"
    assert main(["modalities"]) == 0
    assert re.search(r"data pictures +Pictures of another package\.", capsys.readouterr().out)
    with pytest.raises(ConfigError, match="'pictures' is a dataset of the modality vision, but"):
        load_config(tmp_path / "good.yaml", ["data={type: pictures}", "modality={type: text}"])


def test_an_added_dataset_does_not_replace_one(install: Install, tmp_path: Path) -> None:
    install("digits", ADDED.replace("pictures", "digits"), f"{JOINT_GROUP}.vision")
    assert load_config(tmp_path / "good.yaml").data.type == "digits"
    assert "has a dataset of that type itself; rename one" in broken_plugins()["dataset", "digits"].cause


COMMAND = """
from hrt_mm.data.registry import Command
Plugin = Command(NAME, "", lambda parser: None, len)
"""


def test_a_package_adds_commands(install: Install) -> None:
    install("look", COMMAND.replace("NAME", "'look'"), COMMAND_GROUP)
    assert parse(["look"]).run is len


@pytest.mark.parametrize("names", [["config show"], ["transcribe"], ["text"], ["own", "own more"]])
def test_a_command_that_is_there_already_is_left_out(
    names: list[str], install: Install, caplog: pytest.LogCaptureFixture
) -> None:
    for index, name in enumerate(names):
        install(f"zz{index}", COMMAND.replace("NAME", repr(name)), COMMAND_GROUP, f"broken_plugin_{index}")
    assert parse(["text", "subwords", "a.txt", "--out", "b.json"]).run, "what others give goes on"
    assert f"the command {names[-1]!r}, registered as 'zz{len(names) - 1}', is there already" in caplog.text


@pytest.mark.parametrize("code", ["raise RuntimeError('no such library')", "Plugin = 3"])
def test_a_broken_command_stops_no_other(code: str, install: Install, caplog: pytest.LogCaptureFixture) -> None:
    install("odd", code, COMMAND_GROUP)
    assert parse(["text", "subwords", "a.txt", "--out", "b.json"]).run
    assert "the command 'odd' of broken_plugin:Plugin cannot be used" in caplog.text
