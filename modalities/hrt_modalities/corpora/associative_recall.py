"""Associative recall as a dataset: keys with values, and queries that ask for the value of a key. Generated.

``mqar`` is multi-query associative recall (arXiv 2312.04927): all pairs come first, and the queries lie anywhere after
them, each labelled with its value. ``retrieval`` has the pairs anywhere, and one query at an end of the sequence.

A token is one byte: values are the bytes from 0, then come keys, then fillers. The three never mix, so the value of a
key follows from the sequence alone: it is the byte after the key's first occurrence in a pair.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from hrt_mm.data.dataset import Dataset, DatasetConfig
from hrt_mm.data.sample import Sample

from ..common.splits import SPLITS, check_split

BYTES = 256
TRAIN, HELD_OUT = 100_000, 1_000
_VERSION = 1
"""Must be raised when the same seed gives other sequences."""

Kind = Literal["mqar", "retrieval"]
End = Literal["start", "end"]


@dataclass(frozen=True)
class RecallRules:
    """The distribution of sequences.

    Args:
        kind: see the module.
        length: tokens of a sequence.
        pairs: keys with values in a sequence; no key is there twice.
        queries: of a sequence; keys repeat only where there are more queries than pairs.
        query_at: of ``retrieval``, where the query is.
        keys: number of different keys.
        values: number of different values.
        fillers: number of different tokens between pairs and queries.
    """

    kind: Kind
    length: int
    pairs: int
    queries: int
    query_at: End
    keys: int
    values: int
    fillers: int


def sequence(rules: RecallRules, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A sequence.

    Args:
        rules: its distribution.
        random: where its numbers come from.

    Returns:
        (length,) uint8 tokens, and (length,) int16 the value that each token asks for, -1 where it is no query.
    """
    keys = rules.values + random.permutation(rules.keys)[: rules.pairs]
    values = random.integers(rules.values, size=rules.pairs)
    tokens = random.integers(rules.fillers, size=rules.length) + (rules.values + rules.keys)
    answers = np.full(rules.length, -1, np.int16)
    if rules.kind == "mqar":
        first = 2 * np.arange(rules.pairs)
        rest = np.arange(2 * rules.pairs, rules.length)
        positions = np.sort(random.permutation(rest)[: rules.queries])
        asked = random.permutation(np.resize(random.permutation(rules.pairs), rules.queries))
    else:
        # Pairs are drawn at one position each, and widened to two, which keeps them apart.
        slots = rules.length - 1 - rules.pairs
        first = np.sort(random.permutation(slots)[: rules.pairs]) + np.arange(rules.pairs)
        positions, asked = np.array([rules.length - 1]), random.integers(rules.pairs, size=1)
        if rules.query_at == "start":
            first, positions = first + 1, np.array([0])
    tokens[first], tokens[first + 1] = keys, values
    tokens[positions], answers[positions] = keys[asked], values[asked]
    return tokens.astype(np.uint8), answers


class AssociativeRecall(Dataset):
    """Sequences with the values that they ask for, each made when it is read.

    A sample of ``mqar`` has a label for each token, ``None`` where it is no query; one of ``retrieval`` has one label.

    Args:
        rules: the distribution.
        seed: of the sequences.
        split: one of train, val, test.
        count: how many sequences there are.
    """

    def __init__(self, rules: RecallRules, seed: int, split: str, count: int) -> None:
        self.rules, self.seed, self.split, self.count = rules, seed, split, count
        self.names = tuple(str(value) for value in range(rules.values))
        self.classes = self.names

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self.count:
            raise IndexError(f"{self.split} has {self.count} sequences, and no number {index}")
        # Numbers of their own for each sequence of each split, so that no split depends on the size of another.
        random = np.random.default_rng([_VERSION, self.seed, SPLITS.index(self.split), index])
        tokens, answers = sequence(self.rules, random)
        labels = [None if answer < 0 else self.names[answer] for answer in answers.tolist()]
        label = labels if self.rules.kind == "mqar" else labels[int(answers.argmax())]
        return Sample(tokens.tobytes(), label, self.name(index))

    def name(self, index: int) -> str:
        """The split and the number."""
        return f"{self.split} {index}"

    def shape(self, index: int) -> Sequence[int]:
        """(tokens, 0)."""
        return self.rules.length, 0


class AssociativeRecallConfig(DatasetConfig):
    """Keys with values, and queries that ask for the value of a key. Generated, and reproducible by seed.

    A token is one byte. Sequences are made when they are read, and nothing is stored. ``kind: mqar`` needs ``task:
    {type: tagging}``, ``kind: retrieval`` needs ``task: {type: classification}``.
    """

    type: Literal["associative_recall"]
    kind: Kind = "mqar"
    """``mqar``: all pairs first, then queries anywhere, each labelled with its value. ``retrieval``: pairs anywhere and
    one query, whose value is the sequence's class."""
    length: PositiveInt = 256
    """Tokens of a sequence."""
    pairs: PositiveInt = 16
    """Keys with values in a sequence, two tokens each. No key is in a sequence twice."""
    queries: PositiveInt | None = None
    """Queries in a sequence of ``mqar``; as many as pairs when absent. Keys repeat where there are more than pairs."""
    query_at: End | None = None
    """Where the query of ``retrieval`` is: ``start`` or ``end`` of the sequence; ``end`` when absent."""
    keys: PositiveInt = 64
    """Number of different keys."""
    values: PositiveInt = Field(default=64, ge=2)
    """Number of different values, which are the classes."""
    fillers: PositiveInt = 64
    """Number of different tokens that fill the sequence; with keys and values at most 256."""
    seed: NonNegativeInt = 0
    """Seed of the sequences."""
    train: PositiveInt = TRAIN
    """Sequences to train on."""
    val: PositiveInt = HELD_OUT
    """Sequences for validation."""
    test: PositiveInt = HELD_OUT
    """Sequences for testing."""

    @model_validator(mode="after")
    def _possible(self) -> AssociativeRecallConfig:
        if (total := self.keys + self.values + self.fillers) > BYTES:
            raise ValueError(
                f"keys {self.keys}, values {self.values} and fillers {self.fillers} are {total} tokens, and a byte has "
                f"{BYTES}; lower one of them"
            )
        if self.pairs > self.keys:
            raise ValueError(
                f"pairs {self.pairs} need as many different keys, and keys is {self.keys}; raise keys or lower pairs"
            )
        if self.kind == "retrieval" and self.queries is not None:
            raise ValueError("queries has no effect with kind: retrieval, which has one; drop it, or use kind: mqar")
        if self.kind == "mqar" and self.query_at is not None:
            raise ValueError(
                "query_at has no effect with kind: mqar, whose queries lie anywhere; drop it, or use kind: retrieval"
            )
        rules = self.rules()
        if self.length < (least := 2 * rules.pairs + rules.queries):
            raise ValueError(
                f"length {self.length} is too short for {rules.pairs} pairs of 2 tokens and {rules.queries} queries; "
                f"raise length to {least} or more, or lower pairs or queries"
            )
        return self

    def rules(self) -> RecallRules:
        """The distribution of the sequences."""
        return RecallRules(
            kind=self.kind,
            length=self.length,
            pairs=self.pairs,
            queries=1 if self.kind == "retrieval" else self.queries or self.pairs,
            query_at=self.query_at or "end",
            keys=self.keys,
            values=self.values,
            fillers=self.fillers,
        )

    def build(self, split: str) -> AssociativeRecall:
        """The sequences of a split.

        Raises:
            ConfigError: there is no such split.
        """
        check_split(split)
        return AssociativeRecall(self.rules(), self.seed, split, int(getattr(self, split)))
