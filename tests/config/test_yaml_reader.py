from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest

from hrt_mm.config.messages import Problem
from hrt_mm.config.yaml_reader import read, scalar
from hrt_mm.core.errors import ConfigError


def load(text: str) -> Any:
    problems: list[Problem] = []
    node = read(text, "a.yaml", problems)
    assert not problems
    return node.data()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("1.0e-3", 1e-3),
        ("1E5", 1e5),
        (".5", 0.5),
        ("5.", 5.0),
        ("+1e+2", 100.0),
        ("-.inf", -math.inf),
        ("007", 7),
        ("0x1F", 31),
        ("0o17", 15),
        ("-3", -3),
        ("true", True),
        ("False", False),
        ("~", None),
        ("null", None),
        ("", None),
    ],
)
def test_scalars_of_yaml_1_2(text: str, value: object) -> None:
    assert load(f"key: {text}") == {"key": value}
    assert type(load(f"key: {text}")["key"]) is type(value)
    assert scalar(text) == value


@pytest.mark.parametrize("text", ["no", "on", "yes", "1:30", "1_000", "2024-01-01", "1e", "e3", "0b1", "nan", "1.2.3"])
def test_what_only_yaml_1_1_or_python_would_convert_stays_text(text: str) -> None:
    assert load(f"key: {text}") == {"key": text}


def test_nan_is_a_float() -> None:
    assert math.isnan(load("key: .nan")["key"])


def test_quoted_numbers_stay_text() -> None:
    assert load("a: '1e-3'\nb: \"64\"") == {"a": "1e-3", "b": "64"}


def test_lines_are_those_of_the_keys() -> None:
    node = read("a: 1\nb:\n  - x: 2\n    y:\n      3\n", "a.yaml", [])
    assert node.find(("a",))[0].mark == "a.yaml:1"
    assert node.find(("b", 0, "x"))[0].mark == "a.yaml:3"
    assert node.find(("b", 0, "y"))[0].mark == "a.yaml:4"


def test_key_given_twice_is_told_with_both_lines() -> None:
    problems: list[Problem] = []
    read("optim:\n  lr: 1\n  eps: 2\n  lr: 3\n", "a.yaml", problems)
    assert [str(problem) for problem in problems] == [
        "a.yaml:4: optim.lr: the key is given twice, first at a.yaml:2; keep one"
    ]


def test_merge_key_points_to_extends() -> None:
    problems: list[Problem] = []
    read("base: &b {x: 1}\nnext: {<<: *b}", "a.yaml", problems)
    assert "extends" in str(problems[0])


def test_aliases_are_followed() -> None:
    assert load("a: &x [1, 2]\nb: *x") == {"a": [1, 2], "b": [1, 2]}


@pytest.mark.parametrize(
    "text", ["a: !!python/object/apply:os.system ['true']", "a: !mine {x: 1}", "a: !!binary aGk=", "a: !!set {x}"]
)
def test_tags_are_refused(text: str) -> None:
    problems: list[Problem] = []
    read(text, "a.yaml", problems)
    assert "a.yaml:1: a: the tag" in str(problems[0])


def test_a_tag_that_lies_is_refused() -> None:
    problems: list[Problem] = []
    read("a: !!float many", "a.yaml", problems)
    assert "'many' is not the float" in str(problems[0])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: [1, 2\nc: 3", "a.yaml:3: not valid YAML"),
        ("a: b: c", "a.yaml:1: not valid YAML: mapping values are not allowed here"),
        ("a: 1\n---\nb: 2", "a.yaml:2: not valid YAML: but found another document"),
        ("a: *nothing", "a.yaml:1: not valid YAML: found undefined alias"),
        ("a: \x00", "a.yaml: not valid YAML: unacceptable character"),
        ("[" * 5000, "a.yaml: not valid YAML"),
    ],
)
def test_broken_yaml_names_the_line(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match="not valid YAML") as caught:
        load(text)
    assert message in str(caught.value)


TENFOLD = "a: &a [1,1,1,1,1,1,1,1,1,1]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{inner}'] * 10)}]\n" for inner, name in pairwise("abcdefg")
)


@pytest.mark.parametrize("text", ["a: &x [*x]", "a: &x {b: *x}", TENFOLD])
def test_endless_and_exploding_aliases_end(text: str) -> None:
    with pytest.raises(ConfigError, match="endless or huge"):
        load(text)


def test_variables_read_the_same_inside_braces_and_out() -> None:
    assert load("{root: ${DATA}, name: x}") == {"root": "${DATA}", "name": "x"}
    assert load("root: ${DATA:-/a/b}") == {"root": "${DATA:-/a/b}"}
    assert load('root: "${DATA}/x"') == {"root": "${DATA}/x"}
