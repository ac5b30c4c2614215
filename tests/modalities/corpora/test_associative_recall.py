"""Sequences of associative recall: what they ask for follows from them, by a solver that knows the layout alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hrt_mm.config import load_config
from hrt_mm.core.errors import ConfigError
from hrt_mm.train import train
from hrt_mm.train.summary import read_summary
from hrt_modalities.corpora.associative_recall import AssociativeRecall, AssociativeRecallConfig

SETTINGS = [
    {},
    {"queries": 3},
    {"queries": 40},
    {"length": 12, "pairs": 4},
    {"kind": "retrieval"},
    {"kind": "retrieval", "query_at": "start", "length": 64},
    {"kind": "retrieval", "length": 9, "pairs": 4},
    {"kind": "retrieval", "length": 9, "pairs": 4, "query_at": "start"},
]


def config(**values: object) -> AssociativeRecallConfig:
    return AssociativeRecallConfig.model_validate({"type": "associative_recall", "train": 50} | values)


def solved(content: bytes, settings: AssociativeRecallConfig) -> tuple[int, dict[int, str]]:
    """The number of pairs, and the answers by position: a key before a value is a pair, and any other key a query."""

    def is_key(byte: int) -> bool:
        return settings.values <= byte < settings.values + settings.keys

    known: dict[int, int] = {}
    asked: dict[int, int] = {}
    for place, byte in enumerate(content):
        following = content[place + 1] if place + 1 < len(content) else None
        if is_key(byte) and following is not None and following < settings.values:
            assert byte not in known, "a key is in two pairs"
            known[byte] = following
        elif is_key(byte):
            asked[place] = byte
    return len(known), {place: str(known[byte]) for place, byte in asked.items()}


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_a_solver_gives_the_labels(settings: dict[str, Any]) -> None:
    chosen = config(**settings)
    rules = chosen.rules()
    for split in ("train", "val", "test"):
        dataset = chosen.build(split)
        for index in range(20):
            sample = dataset[index]
            pairs, answers = solved(sample.value, chosen)
            assert len(sample.value) == chosen.length == sum(dataset.shape(index))
            assert pairs == chosen.pairs and len(answers) == rules.queries
            if chosen.kind == "mqar":
                expected = [answers.get(place) for place in range(chosen.length)]
                assert sample.label == expected and min(answers) >= 2 * pairs
            else:
                assert answers == {0 if chosen.query_at == "start" else chosen.length - 1: sample.label}


def test_queries_ask_for_each_key_before_one_comes_again() -> None:
    asked = [byte for byte in config(queries=40).build("train")[0].value[32:] if 64 <= byte < 128]
    counts = sorted(asked.count(key) for key in set(asked))
    assert len(counts) == 16 and counts == [2] * 8 + [3] * 8


def test_sequences_use_all_symbols_and_places() -> None:
    chosen = config(kind="retrieval", length=24, pairs=2, keys=8, values=4, fillers=5, train=600)
    dataset = chosen.build("train")
    assert dataset.classes == ("0", "1", "2", "3")
    contents = [dataset[index].value for index in range(600)]
    assert {byte for content in contents for byte in content} == set(range(17))
    assert {content.index(min(content)) for content in contents} == set(range(1, 23))
    labels = [dataset[index].label for index in range(600)]
    assert max(labels.count(name) for name in dataset.classes) < 200


def read(**values: object) -> list[tuple[bytes, object]]:
    chosen = config(**{"val": 50, "test": 50} | values)
    return [
        (s.value, s.label)
        for split in ("train", "val", "test")
        for s in map(chosen.build(split).__getitem__, range(50))
    ]


def test_a_seed_gives_the_same_sequences_and_splits_share_none() -> None:
    first = read()
    assert first == read() != read(seed=1)
    assert len({content for content, _ in first}) == 150
    # More training data neither changes what was there nor what models are tested on.
    assert read(train=70) == first
    tiny = config(length=8, pairs=2, queries=2, keys=3, values=3, fillers=2).build("train")
    assert tiny[0].value == bytes([3, 0, 4, 0, 7, 3, 6, 4])
    assert tiny[0].label == [None] * 5 + ["0", None, "0"]


def test_an_index_outside_is_refused() -> None:
    dataset = config().build("val")
    assert isinstance(dataset, AssociativeRecall) and len(dataset) == 1000
    for index in (-1, 1000):
        with pytest.raises(IndexError, match="val has 1000 sequences"):
            dataset[index]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"keys": 128, "values": 100}, "keys 128, values 100 and fillers 64 are 292 tokens, and a byte has 256; lower"),
        ({"pairs": 65}, "pairs 65 need as many different keys, and keys is 64; raise keys or lower pairs"),
        ({"length": 47}, "length 47 is too short for 16 pairs of 2 tokens and 16 queries; raise length to 48 or more"),
        ({"kind": "retrieval", "length": 32}, "length 32 is too short for 16 pairs of 2 tokens and 1 queries"),
        ({"kind": "retrieval", "queries": 2}, "queries has no effect with kind: retrieval"),
        ({"query_at": "end"}, "query_at has no effect with kind: mqar"),
        ({"values": 1}, "greater than or equal to 2"),
        ({"kind": "copy"}, "'mqar' or 'retrieval'"),
    ],
)
def test_impossible_settings_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config(**values)


def test_unknown_splits_are_refused() -> None:
    with pytest.raises(ConfigError, match="unknown split 'dev'"):
        config().build("dev")


SMALL = ["data.length=16", "data.pairs=2", "data.keys=4", "data.values=2", "data.fillers=2", "train.tensorboard=false"]
SMALL += ["data.val=8", "data.test=8", "train.steps=3", "train.batch_size=4", "train.eval_every=3", "train.device=cpu"]


@pytest.mark.parametrize("words", [[], ["data.kind=retrieval", "task.type=classification", "task.level=tokens"]])
def test_the_packaged_configuration_trains_on_both_kinds(words: list[str], tmp_path: Path) -> None:
    run = train(load_config("text/recall", [*SMALL, *words, f"run.dir={tmp_path / 'run'}"]))
    summary = read_summary(run / "summary.json")
    assert summary["steps"] == 3 and 0 <= summary["metrics"]["test/accuracy"] <= 1
