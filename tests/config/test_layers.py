from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hrt_mm.config import packaged_configs
from hrt_mm.config.layers import find_config, load_layers
from hrt_mm.config.messages import Problem
from hrt_mm.config.packaged import config_root
from hrt_mm.core.errors import ConfigError


def load(path: Path) -> Any:
    problems: list[Problem] = []
    node = load_layers(path, problems)
    assert not problems
    return node.data()


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text)
    return folder / f"{next(iter(files))}.yaml"


def test_maps_merge_and_lists_are_replaced(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        child="extends: base.yaml\nmodel: {levels: [1], causal: true}\n",
        base="model: {levels: [1, 2, 3], drop: 0.5}\nrun: {dir: x}\n",
    )
    assert load(path) == {"model": {"levels": [1], "causal": True, "drop": 0.5}, "run": {"dir": "x"}}


def test_a_new_type_starts_its_map_anew(tmp_path: Path) -> None:
    path = write(tmp_path, child="extends: base.yaml\ndata: {type: b, y: 2}\n", base="data: {type: a, x: 1}\n")
    assert load(path) == {"data": {"type": "b", "y": 2}}


def test_of_several_the_later_lies_on_top_and_chains_are_followed(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        child="extends: [one.yaml, two.yaml]\na: {x: 0}\n",
        one="a: {x: 1, y: 1, z: 1}\n",
        two="extends: three.yaml\na: {y: 2}\n",
        three="b: 3\n",
    )
    assert load(path) == {"a": {"x": 0, "y": 2, "z": 1}, "b": 3}


def test_extends_is_relative_to_the_file_and_may_use_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "inner").mkdir()
    monkeypatch.setenv("BASE", "base")
    write(tmp_path, base="a: 1\n")
    assert load(write(tmp_path / "inner", child="extends: ../${BASE}.yaml\n")) == {"a": 1}


def test_marks_tell_the_layer(tmp_path: Path) -> None:
    path = write(tmp_path, child="extends: base.yaml\na: {x: 0}\n", base="\n\na: {y: 1}\n")
    node = load_layers(path, [])
    assert node.find(("a", "x"))[0].mark == f"{path}:2"
    assert node.find(("a", "y"))[0].mark == f"{tmp_path / 'base.yaml'}:3"


def test_circles_are_named(tmp_path: Path) -> None:
    path = write(tmp_path, a="extends: b.yaml\n", b="extends: c.yaml\n", c="extends: b.yaml\n")
    with pytest.raises(ConfigError, match=r"extends goes round in a circle: b.yaml -> c.yaml -> b.yaml"):
        load(path)


def test_a_missing_base_names_the_line(tmp_path: Path) -> None:
    path = write(tmp_path, a="x: 1\nextends: nowhere.yaml\n")
    with pytest.raises(ConfigError, match=r"a.yaml:2: extends: no configuration 'nowhere.yaml'"):
        load(path)


@pytest.mark.parametrize("value", ["3", "[a, 4]", "{a: b}", "null"])
def test_extends_of_another_kind(tmp_path: Path, value: str) -> None:
    problems: list[Problem] = []
    write(tmp_path, a="{}")
    load_layers(write(tmp_path, child=f"extends: {value.replace('[a', '[a.yaml')}\n"), problems)
    assert "expected a path, a packaged name, or a list of them" in str(problems[0])


@pytest.mark.parametrize(("text", "kind"), [("", "NoneType"), ("- 1", "list"), ("word", "str")])
def test_a_file_that_is_no_map(tmp_path: Path, text: str, kind: str) -> None:
    with pytest.raises(ConfigError, match=f"a configuration is a map of keys, got {kind}"):
        load(write(tmp_path, a=text))


def test_a_file_that_is_not_text(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(b"a: \xff\xfe")
    with pytest.raises(ConfigError, match=r"not UTF-8 text .* at byte 3"):
        load(path)


def test_packaged_names_are_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert packaged_configs()
    for name in packaged_configs():
        assert find_config(name) == find_config(f"{name}.yaml") == config_root() / f"{name}.yaml"


def test_a_file_goes_before_a_packaged_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    name = packaged_configs()[0]
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / name).write_text("a: 1")
    assert load(find_config(name)) == {"a": 1}


def test_a_wrong_name_lists_the_nearest() -> None:
    name = packaged_configs()[0]
    with pytest.raises(ConfigError) as caught:
        find_config(name[:-1])
    assert f"did you mean {name!r}?" in str(caught.value)
    assert "`hrt-mm --help` lists them" in str(caught.value)
    with pytest.raises(ConfigError, match=r"no configuration '~nosuchuser/x\.yaml'"):
        find_config("~nosuchuser/x.yaml")
