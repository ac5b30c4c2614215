from __future__ import annotations

from typing import Any

import pytest

from hrt_mm.config.interpolation import interpolate
from hrt_mm.config.messages import Problem
from hrt_mm.config.yaml_reader import read


def load(text: str) -> tuple[Any, list[str]]:
    problems: list[Problem] = []
    node = interpolate(read(text, "a.yaml", problems), problems)
    return node.data(), [str(problem) for problem in problems]


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA", "/data")
    monkeypatch.setenv("STEPS", "20")
    monkeypatch.setenv("EMPTY", "")
    monkeypatch.delenv("NOWHERE", raising=False)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("${DATA}/mnist", "/data/mnist"),
        ("'${DATA}:${STEPS}'", "/data:20"),
        ("${NOWHERE:-/tmp}", "/tmp"),
        ("${EMPTY:-/tmp}", "/tmp"),
        ("'${NOWHERE:-}'", ""),
        ("${STEPS}", 20),
        ("'${STEPS}'", "20"),
        ("${NOWHERE:-1e-3}", 1e-3),
        ("'$${DATA}'", "${DATA}"),
        ("$5 and $DATA", "$5 and $DATA"),
    ],
)
def test_variables_are_filled_in(text: str, value: object) -> None:
    assert load(f"data: {{root: {text}}}") == ({"data": {"root": value}}, [])


def test_what_a_variable_holds_is_not_searched_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA", "${STEPS}")
    assert load("a: '${DATA}'") == ({"a": "${STEPS}"}, [])


def test_a_variable_that_is_not_set_names_the_key_and_the_ways_out() -> None:
    _, problems = load("x: 1\ndata:\n  roots: [a, '${NOWHERE}/x']")
    assert problems == [
        "a.yaml:3: data.roots.1: the environment variable NOWHERE is not set; run `export NOWHERE=...`, "
        "or write ${NOWHERE:-default}, or override data.roots.1"
    ]


@pytest.mark.parametrize(("text", "message"), [("'${EMPTY}'", "EMPTY is empty"), ("'${not a name}'", "without NAME}")])
def test_other_mistakes(text: str, message: str) -> None:
    _, problems = load(f"a: {text}")
    assert message in problems[0]
