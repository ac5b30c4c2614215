"""Configurations of several towers, and what is said about their mistakes."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from hrt_mm.config import RunConfig, json_schema, load_config
from hrt_mm.core.errors import ConfigError
from hrt_mm.core.levels import HierarchyConfig, Level
from hrt_mm.data.tokenizer import SINGLE
from hrt_mm.train.check import check
from hrt_mm.train.resolved import resolved_yaml

GOOD = """\
towers:
  image:
    modality: {type: vision, channels: 1, patch: 8, size: 32}
    model: {levels: [{name: glyph, dim: 16, heads: 2, depth: 1}]}
  text:
    modality: {type: text}
    model: {levels: [{name: bytes, dim: 16, heads: 2, depth: 1}]}
task: {type: contrastive, dim: 8}
data: {type: glyphs}
train: {steps: 2, batch_size: 8}
"""


def load(folder: Path, old: str = "", new: str = "") -> object:
    assert old in GOOD
    path = folder / "run.yaml"
    path.write_text(GOOD.replace(old, new) if old else GOOD)
    config = load_config(path)
    check(config)
    return config


def test_a_good_one_loads_and_is_written_so_that_it_loads_again(tmp_path: Path) -> None:
    config = load_config(_written(tmp_path, GOOD))
    check(config)
    assert config.level_names == ["image.glyph", "text.bytes"]
    text = resolved_yaml(config)
    assert not text.startswith("modality")
    assert load_config(_written(tmp_path, text)) == config
    assert "modality" not in config.model_dump()


def test_a_run_over_one_modality_has_one_tower_and_is_written_without_its_name() -> None:
    config = load_config("vision/digits")
    assert list(config.towers) == [SINGLE]
    assert config.towers[SINGLE] == config.single
    assert config.level_names == [level.name for level in config.single.model.levels]
    plain = config.model_dump()
    assert list(plain)[:3] == ["modality", "model", "task"]
    assert list(plain) == list(config.sections)
    narrow = config.with_model(HierarchyConfig(levels=(Level(name="all", dim=8, heads=1),)))
    assert narrow.level_names == ["all"]
    assert narrow.single.modality == config.single.modality


def test_python_takes_both_forms_and_not_a_mix(tmp_path: Path) -> None:
    one, several = load_config("vision/digits"), load_config(_written(tmp_path, GOOD))
    parts = {name: getattr(one, name) for name in ("task", "data", "train", "optim", "run")}
    assert RunConfig.model_validate({"modality": one.single.modality, "model": one.single.model, **parts}) == one
    assert RunConfig(towers={SINGLE: one.single}, **parts) == one
    with pytest.raises(ValidationError, match="give towers, or modality and model, not both"):
        RunConfig.model_validate({"modality": one.single.modality, "towers": several.towers, **parts})
    with pytest.raises(ValidationError, match="give towers by name, two or more, or one modality and model"):
        RunConfig(towers={"image": one.single}, **parts)
    with pytest.raises(ValidationError, match="give towers by name, two or more, or one modality and model"):
        RunConfig(towers={SINGLE: one.single, **several.towers}, **parts)


def test_data_without_values_for_a_tower(tmp_path: Path) -> None:
    one, several = load_config("vision/digits"), load_config(_written(tmp_path, GOOD))
    with pytest.raises(ConfigError, match="glyphs has no such values; give towers named image, text"):
        check(one.model_copy(update={"data": several.data}))
    with pytest.raises(ConfigError, match="digits has no such values; give modality and model"):
        check(several.model_copy(update={"data": one.data}))


def _written(folder: Path, text: str) -> Path:
    path = folder / "one.yaml"
    path.write_text(text)
    return path


def test_towers_go_by_name_in_overrides(tmp_path: Path) -> None:
    config = load_config(_written(tmp_path, GOOD), ["towers.text.model.levels.bytes.dim=32"])
    assert config.towers["text"].model.levels[0].dim == 32


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("towers:", "model: {levels: []}\ntowers:", "run.yaml:1: model: stands beside towers, which have their own"),
        ("type: vision", "type: vison", "run.yaml:3: towers.image.modality.type: unknown modality type 'vison'"),
        ("patch: 8", "pacth: 8", "towers.image.modality.pacth: unknown key; did you mean 'patch'?"),
        ("name: glyph, dim: 16", "name: glyph, dim: x", "towers.image.model.levels.0.dim: got 'x'"),
        ("    modality: {type: text}\n", "", "towers.text.modality: the section is missing"),
        ("    modality: {type: text}", "    modalty: {type: text}", "towers.text.modalty: unknown key; did you mean"),
        ("type: contrastive, dim: 8", "type: classification", "task classification is over one model"),
        ("type: glyphs", "type: digits", "'digits' is a dataset of the modality vision, but towers read"),
        ("  text:", "  words:", "towers.words: data.type glyphs has no such values; give towers named image, text"),
        ("  image:", "  Image:", "the name of a tower is small letters"),
        ("dim: 8", "dim: 8, shared: {text: image}", "text cannot have image's weights: their modality differs"),
        ("dim: 8", "dim: 8, shared: {sound: image}", "task.shared names a tower 'sound'; the towers are image, text"),
        ("dim: 8", "dim: 8, shared: {text: text}", "text cannot have the weights of text, which has none of its own"),
        ("batch_size: 8", "batch_tokens: 8", None),
    ],
)  # fmt: skip
def test_mistakes(tmp_path: Path, old: str, new: str, message: str | None) -> None:
    if message is None:
        load(tmp_path, old, new)
        return
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, old, new)
    assert message in str(caught.value).replace(f"{tmp_path}/", "")


def test_one_tower_is_none_for_a_task_over_several(tmp_path: Path) -> None:
    text = (
        "modality: {type: vision}\nmodel: {levels: [{name: a, dim: 16, heads: 2, depth: 1}]}\n"
        "task: {type: contrastive}\ndata: {type: glyphs}\ntrain: {steps: 2, batch_size: 8}\n"
    )
    with pytest.raises(ConfigError) as caught:
        load_config(_written(tmp_path, text))
    assert "task contrastive is over several towers; give towers in place of modality and model" in str(caught.value)
    assert "'glyphs' is a dataset of several modalities, and there are no towers" in str(caught.value)


def test_each_tower_is_described(tmp_path: Path) -> None:
    from hrt_mm.analysis.describe import describe, describe_run

    config = load_config(_written(tmp_path, GOOD))
    tables = describe(config).split("\n\n")
    sections = {
        table.partition("\n")[0]: table.partition("\n")[2] for table in tables if table.startswith(("image", "text"))
    }
    assert sections.keys() == {"image", "text"}
    assert describe(config, tower="text").startswith(sections["text"])
    shape = (24,)
    assert describe_run(config, shape, "text").rows[0].tokens == 24
    with pytest.raises(
        ConfigError, match="a shape is that of one tower, and there are image, text; name one with --tower"
    ):
        describe(config, shape)
    with pytest.raises(ConfigError, match="there is no tower 'sound'; the configuration has image, text"):
        describe(config, tower="sound")
    with pytest.raises(ConfigError, match="needs one modality and model"):
        describe_run(config)
    with pytest.raises(
        ConfigError, match="no tower 'text'; the configuration has one modality and model; drop --tower"
    ):
        describe(load_config("vision/digits"), tower="text")


def test_the_schema_knows_towers_and_their_data() -> None:
    schema = json_schema()
    assert set(schema["properties"]["towers"]["additionalProperties"]["properties"]) == {"modality", "model"}
    assert {"required": ["towers"]} in schema["then"]["oneOf"]
