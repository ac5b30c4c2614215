"""Former names of keys: read for one release wherever a configuration comes from, with one warning for each."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from hrt_mm.config import load_config
from hrt_mm.config.schema import json_schema
from hrt_mm.core.component import DEPRECATED, Component, with_current_keys
from hrt_mm.core.errors import ConfigError
from hrt_mm.core.levels import FixedGroups, HierarchyConfig, Level
from hrt_mm.train.checkpoint import Checkpoint, CheckpointError
from hrt_mm.train.identity import check_same_run
from hrt_mm.train.resolved import resolved_yaml
from hrt_mm.train.run_config import RunConfig
from hrt_modalities.corpora.edited import EditedConfig
from hrt_modalities.video.folders import VideoManifestConfig

RUN = """
modality: {{type: text}}
model:
  levels:
    - {{name: bytes, dim: 8, heads: 1, window: 4, {key}: sliding, group: {{type: fixed, stride: 4}}}}
    - {{name: words, dim: 8, heads: 1, window: 2, {key}: sliding}}
  causal: true
  top_down: true
task: {{type: language}}
data: {{type: corpus, files: [{root}]}}
train: {{steps: 1, batch_size: 1}}
"""


@pytest.fixture(name="old")
def old_(tmp_path: Path) -> Path:
    return write(tmp_path / "old.yaml", "reach")


def write(path: Path, key: str, extends: str = "") -> Path:
    path.write_text(extends + RUN.format(key=key, root=path.parent))
    return path


def window_types(config: RunConfig) -> list[str]:
    return [level.window_type for level in config.single.model.levels]


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def test_a_former_key_in_a_file_warns_once_and_means_the_new_one(
    old: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = load_config(old)
    assert warnings_of(caplog) == [
        f"{old}:5: model.levels.0.reach is deprecated and will be removed in the next release; use window_type"
    ]
    caplog.clear()
    assert load_config(write(tmp_path / "new.yaml", "window_type")) == config
    assert not warnings_of(caplog)
    assert "reach" not in resolved_yaml(config)


def test_layers_and_overrides_may_use_either_name(old: Path, caplog: pytest.LogCaptureFixture) -> None:
    child = old.with_name("child.yaml")
    child.write_text("extends: old.yaml\nmodel: {causal: false}\n")
    for key in ("reach", "window_type"):
        overrides = (f"model.levels.words.{key}=block", f"model.levels.0.{key}=shifted")
        assert window_types(load_config(child, overrides)) == ["shifted", "block"]
    caplog.clear()
    level = "{name: words, dim: 8, heads: 1, window: 2, reach: shifted}"
    config = load_config(child, [f"model.levels.1={level}"])
    assert window_types(config) == ["sliding", "shifted"]
    assert len(warnings_of(caplog)) == 1
    caplog.clear()
    load_config(write(old, "window_type"), ["model.levels.bytes.reach=sliding"])
    assert warnings_of(caplog) == [
        "override 'model.levels.bytes.reach=sliding': model.levels.0.reach is deprecated and will be removed in the "
        "next release; use window_type"
    ]


def test_both_names_in_one_map_are_a_mistake(old: Path) -> None:
    old.write_text(old.read_text().replace("window: 4,", "window: 4, window_type: sliding,"))
    with pytest.raises(
        ConfigError, match=r"old.yaml:5: model.levels.0.reach: is the former name of window_type, which"
    ):
        load_config(old)
    with pytest.raises(ValueError, match="reach is the former name of window_type; give window_type alone"):
        Level.model_validate({"name": "a", "dim": 4, "heads": 1, "reach": "block", "window_type": "block"})


def test_the_key_of_another_component_stays_what_it_is(old: Path) -> None:
    with pytest.raises(ConfigError, match=r"optim.reach: unknown key"):
        load_config(old, ["optim.reach=3"])
    with pytest.raises(ConfigError, match=r"model.levels.0.group.reach: unknown key \(keys here: type, stride\)"):
        load_config(old, ["model.levels.0.group.reach=block"])


def test_python_warns() -> None:
    level = {"name": "a", "dim": 4, "heads": 1, "window": 2}
    with pytest.warns(FutureWarning, match=r"Level\.reach is deprecated; use window_type"):
        config = HierarchyConfig.model_validate({"levels": [level | {"reach": "sliding"}]})
    assert config == HierarchyConfig.model_validate({"levels": [level | {"window_type": "sliding"}]})


def test_a_run_saved_under_a_former_key_is_the_same_run(old: Path) -> None:
    config = load_config(old)
    saved = config.model_dump(mode="json")
    for level in saved["model"]["levels"]:
        level["reach"] = level.pop("window_type")
    check_same_run(config, Checkpoint(old, {"config": saved}))
    saved["model"]["levels"][1]["reach"] = "block"
    with pytest.raises(CheckpointError, match=r"model.levels.1.window_type: saved with 'block', now 'sliding'"):
        check_same_run(config, Checkpoint(old, {"config": saved}))


def test_saved_parts_without_a_counterpart_are_kept() -> None:
    level = Level(name="a", dim=4, heads=1)
    saved = {"levels": [{"reach": "block", "group": None}, {"reach": "block"}], "more": [1]}
    config = HierarchyConfig(levels=(level,))
    assert with_current_keys(saved, config) == {
        "levels": [{"window_type": "block", "group": None}, {"reach": "block"}],
        "more": [1],
    }


def test_every_former_name_leads_to_a_key_and_is_none_itself() -> None:
    assert Level.deprecated_keys == {"reach": "window_type"}
    assert not FixedGroups.deprecated_keys

    def check(component: type[Component]) -> None:
        for old, new in component.deprecated_keys.items():
            assert new in component.model_fields and old not in component.model_fields
        for subclass in component.__subclasses__():
            check(subclass)

    check(Component)
    assert f"'{DEPRECATED}': {{'reach': 'window_type'}}" in str(json_schema())


def test_a_former_type_warns_once_and_means_the_new_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "old.yaml"
    path.write_text(
        """
modality: {type: vision, patch: 4}
model: {levels: [{name: patches, dim: 8, heads: 1}]}
task: {type: classification}
data: {type: manifest, file: list.csv}
train: {steps: 1, batch_size: 1}
"""
    )
    config = load_config(path)
    assert config.data.type == "image_manifest"
    former = "data.type 'manifest' is deprecated and will be removed in the next release; use 'image_manifest'"
    assert warnings_of(caplog) == [f"{path}:5: {former}"]
    caplog.clear()
    text = path.read_text().replace("manifest", "image_manifest")
    (tmp_path / "new.yaml").write_text(text)
    assert (
        load_config(tmp_path / "new.yaml", ["data.type=manifest", "data.file=list.csv"]).data.type == "image_manifest"
    )
    assert [former in message for message in warnings_of(caplog)] == [True]
    saved = config.model_dump(mode="json")
    saved["data"]["type"] = "manifest"
    assert with_current_keys(saved, config) == config.model_dump(mode="json")


def test_a_video_part_may_have_its_former_key(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "old.yaml"
    path.write_text(
        """
modality: {type: video, tube: 2, patch: 4}
model: {levels: [{name: tubes, dim: 8, heads: 1}]}
task: {type: classification}
data: {type: video_manifest, file: list.csv, begin_column: from, end_column: to}
train: {steps: 1, batch_size: 1}
"""
    )
    config = load_config(path)
    data = config.data.model_dump()
    assert data["offset_column"] == "from" and data["end_column"] == "to" and data["duration_column"] is None
    assert len(warnings_of(caplog)) == 1 and "use offset_column" in warnings_of(caplog)[0]
    with pytest.warns(FutureWarning, match="VideoManifestConfig.begin_column is deprecated; use offset_column"):
        table = VideoManifestConfig(type="video_manifest", file="list.csv", begin_column="from")  # type: ignore[arg-type, call-arg]
    assert table.offset_column == "from"
    footage = {"type": "video_manifest", "file": "list.csv", "begin_column": "from"}
    with pytest.warns(FutureWarning, match="use offset_column"):
        edited = EditedConfig.model_validate({"type": "edited_video", "footage": footage})
    assert isinstance(edited.footage, VideoManifestConfig) and edited.footage.offset_column == "from"
