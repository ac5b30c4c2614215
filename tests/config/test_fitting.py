"""What values mean where a path, text or a whole number is asked for, and overrides of any text."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hrt_mm.config import RunConfig, load_config
from hrt_mm.config.messages import Problem
from hrt_mm.config.overrides import parse
from hrt_mm.core.errors import ConfigError
from hrt_mm.train.resolved import resolved_yaml

GOOD = """\
modality: {type: vision, patch: 4, size: 8}
model: {levels: [{name: image, dim: 16, heads: 2, depth: 1}]}
task: {type: classification}
data: {type: image_manifest, file: list.csv}
train:
  steps: 2
  batch_size: 4
"""
TEXT = """\
modality: {type: text}
model: {levels: [{name: bytes, dim: 16, heads: 2, depth: 1}], causal: true}
task: {type: language}
data: {type: corpus, files: [a.txt], context: 64}
train: {steps: 2, batch_size: 4}
"""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def loaded(folder: Path, *overrides: str, text: str = GOOD) -> RunConfig:
    path = folder / "run.yaml"
    path.write_text(text, encoding="utf-8")
    config = load_config(path, overrides)
    (folder / "again.yaml").write_text(resolved_yaml(config), encoding="utf-8")
    assert load_config(folder / "again.yaml") == config, "what is written means the same"
    return config


PATHS = {
    "~/x": "{home}/x",
    "~": "{home}",
    "~nosuchuser/x": "~nosuchuser/x",
    "a/~/x": "a/~/x",
    "sets/set #2": "sets/set #2",
    "#2": "#2",
    "a: b": "a: b",
    "it's": "it's",
    'say "x"': 'say "x"',
    "*x": "*x",
    "&x": "&x",
    "!x": "!x",
    "- x": "- x",
    "@x": "@x",
    "100%": "100%",
    "20261129": "20261129",
    "2026-11-29": "2026-11-29",
    "1e4": "1e4",
    "007": "007",
    "1.50": "1.50",
    "true": "true",
    "a=b": "a=b",
    "a,b": "a,b",
    "a[1]{2}": "a[1]{2}",
    '"[x] y"': "[x] y",
    "'~/x'": "{home}/x",
    "b\\c": "b\\c",
    "naïve 猫": "naïve 猫",
}


@pytest.mark.parametrize(("text", "path"), PATHS.items())
def test_paths_mean_what_a_shell_user_means(text: str, path: str, tmp_path: Path, home: Path) -> None:
    expected = Path(path.replace("{home}", str(home)))
    assert loaded(tmp_path, f"run.dir={text}").run.dir == expected
    assert loaded(tmp_path, f"data.file={text}").data.file == expected  # type: ignore[attr-defined]


@pytest.mark.parametrize("written", ["~/x", "'~/x'", '"~/x"', "${MINE}", "${NONE:-~/x}"])
def test_home_in_files(written: str, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINE", "~/x")
    config = loaded(tmp_path, text=f"{GOOD}run: {{dir: {written}}}\n")
    assert config.run.dir == home / "x"


def test_paths_in_lists_and_numbers_in_files(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = loaded(tmp_path, text=TEXT.replace("a.txt", "~/a.txt, 2026, 'b #2'")).data.files  # type: ignore[attr-defined]
    assert files == (home / "a.txt", Path("2026"), Path("b #2"))
    files = loaded(tmp_path, "data.files=[~/a.txt, 'b #2']", text=TEXT).data.files  # type: ignore[attr-defined]
    assert files == (home / "a.txt", Path("b #2"))
    monkeypatch.setenv("NUMBER", "2026")
    assert loaded(tmp_path, text=f"{GOOD}run: {{dir: ${{NUMBER}}}}\n").run.dir == Path("2026")


def test_null_and_nothing_are_no_path(tmp_path: Path) -> None:
    assert loaded(tmp_path, text=f"{GOOD}run: {{dir: ~}}\n").run.dir is None
    for text in ("run.dir=", "run.dir=null"):
        assert loaded(tmp_path, text).run.dir is None
    assert loaded(tmp_path, "train.time_limit=~").train.time_limit is None


def test_names_of_columns_may_be_numbers(tmp_path: Path) -> None:
    assert loaded(tmp_path, "data.label_column=2020").data.label_column == "2020"  # type: ignore[attr-defined]


def test_a_shell_variable_in_a_path_is_not_taken_for_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SETS", "/sets")
    with pytest.raises(ConfigError, match=r"run.dir: '\$SETS/a' has \$SETS, which is not replaced.*write \$\{SETS\}"):
        loaded(tmp_path, "run.dir=$SETS/a")
    assert loaded(tmp_path, "run.dir=${SETS}/a").run.dir == Path("/sets/a")
    assert loaded(tmp_path, "run.dir=cost in $").run.dir == Path("cost in $")
    assert loaded(tmp_path, "run.dir=x$SETS").run.dir == Path("x$SETS")


@pytest.mark.parametrize(("text", "steps"), [("1e4", 10_000), ("2.5e3", 2500), ("1E2", 100), ("1e+1", 10)])
def test_whole_numbers_in_scientific_notation(text: str, steps: int, tmp_path: Path) -> None:
    assert loaded(tmp_path, f"train.steps={text}").train.steps == steps
    assert loaded(tmp_path, text=GOOD.replace("steps: 2", f"steps: {text}")).train.steps == steps


@pytest.mark.parametrize("text", ["1.5", "1e-1", "2.55e1", "1e999", "10.0", "9" * 5000])
def test_other_numbers_are_no_whole_number(text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"run\.yaml:6: train\.steps: got .*expected a whole number"):
        loaded(tmp_path, text=GOOD.replace("steps: 2", f"steps: {text}"))


def test_values_without_aliases_may_be_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hrt_mm.config.yaml_reader.MAX_REPEATED", 100)
    names = ", ".join(f"{index}.txt" for index in range(500))
    assert len(loaded(tmp_path, text=TEXT.replace("a.txt", names)).data.files) == 500  # type: ignore[attr-defined]
    repeated = f"a: &a [{names}]\nb: *a\n"
    with pytest.raises(ConfigError, match="aliases make this file endless or huge"):
        loaded(tmp_path, text=repeated)


def test_deep_nesting_is_refused_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"run\.yaml:8: not valid YAML: the values are nested more than 100 levels deep"
    ):
        loaded(tmp_path, text=f"{GOOD}run: {'[' * 150}{']' * 150}\n")


# Which of batch_size and batch_tokens counts.


def batches(config: RunConfig) -> tuple[int | None, int | None]:
    return config.train.batch_size, config.train.batch_tokens


def test_the_nearest_layer_says_how_batches_are_made(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(GOOD.replace("batch_size: 4", "batch_tokens: 64"))
    own = "extends: base.yaml\ntrain: {batch_size: 8}\n"
    assert batches(loaded(tmp_path, text=own)) == (8, None)
    assert batches(loaded(tmp_path, "train.batch_tokens=32", text=own)) == (None, 32)
    assert batches(loaded(tmp_path, "train.batch_size=2", text="extends: base.yaml\n")) == (2, None)
    assert batches(loaded(tmp_path, "train.batch_size=null", text="extends: base.yaml\n")) == (None, 64)
    assert batches(loaded(tmp_path, "train={batch_size: 2}", text="extends: base.yaml\n")) == (2, None)
    explicit = "extends: base.yaml\ntrain: {batch_size: 8, batch_tokens: null}\n"
    assert batches(loaded(tmp_path, text=explicit)) == (8, None)


def test_both_in_one_layer_are_refused_with_both_places(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        loaded(tmp_path, text=f"{GOOD}  batch_tokens: 64\n")
    message = str(caught.value).replace(f"{tmp_path}/", "")
    assert "train: batch_size (run.yaml:7) and batch_tokens (run.yaml:8) are alternatives; keep one of them" in message
    with pytest.raises(ConfigError) as caught:
        loaded(tmp_path, "train.batch_size=8", "train.batch_tokens=64")
    assert "override 'train.batch_size=8' and override 'train.batch_tokens=64': train: are alternatives" in str(
        caught.value
    )


# Any text at all.

KEYS = ["run.dir", "data.file", "train.steps", "train.time_limit", "task.level", "model.levels.0.dim", "optim.lr",
        "optim", "model", "data", "train.pretrain", "model.levels", "modality.type", "data.label_column"]  # fmt: skip
ODD = st.text(st.sampled_from("~#:'\"[]{}*&!|>%@`,-=$ \t\n.0123456789eax_²\\\0\ud800é猫"), max_size=12)


@settings(max_examples=25)
@given(key=st.sampled_from(KEYS), value=st.one_of(ODD, st.text(max_size=20)))
@example(key="run.dir", value="")
@example(key="train.steps", value="9" * 5000)
@example(key="model", value="[" * 3000)
@example(key="run.dir", value="\udce9")
def test_any_value_is_taken_or_refused_with_its_key(
    key: str, value: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = written(tmp_path_factory)
    try:
        config = load_config(path, [f"{key}={value}"])
    except ConfigError as error:
        refused = str(error)
    else:
        refused = ""
    if refused:
        assert key.split(".")[0] in refused
        return
    again = path.with_name("again.yaml")
    again.write_text(resolved_yaml(config), encoding="utf-8")
    assert load_config(again) == config


@settings(max_examples=25)
@given(text=st.one_of(st.text(max_size=20), st.text(st.sampled_from("model.levels0-²_=x~ "), max_size=20)))
@example(text="model.levels.--1.dim=3")
@example(text="model.levels.².dim=3")
@example(text=f"model.levels.{'9' * 5000}.dim=3")
def test_any_override_is_taken_or_refused(text: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    with suppress(ConfigError):
        load_config(written(tmp_path_factory), [text])


def written(factory: pytest.TempPathFactory) -> Path:
    path = factory.getbasetemp() / "fuzz.yaml"
    if not path.exists():
        path.write_text(GOOD)
    return path


TEXTS = st.text(st.characters(codec="utf-8"), max_size=8)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS


@settings(max_examples=200)
@given(value=st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner), max_leaves=6))
@example(value={"<<": 1})
def test_what_json_writes_is_read_back_as_an_override(value: object) -> None:
    problems: list[Problem] = []
    override = parse(f"a.b={json.dumps(value)}", problems)
    assert override is not None
    if problems:
        assert "merge keys (<<) are not supported" in str(problems[0])
    else:
        assert override.node.data() == value
