"""Learned groups beside known boundaries: scores by hand, marks in texts, and the section of a report."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from hrt_mm.analysis.report import diagnose
from hrt_mm.analysis.report.cuts import DRAWS, Cuts, marked_text, measure_cuts, score_cuts, scores_rows, with_boundaries
from hrt_mm.analysis.report.subject import Subject
from hrt_mm.core.errors import BadSample
from hrt_mm.core.tokens import Tokens
from hrt_mm.inference.trained import load_task
from hrt_mm.metrics.boundaries import BoundaryScores
from hrt_mm.train.distributed import ProcessGroup
from hrt_modalities.text import ByteTokenizer, Text


def places(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def test_cuts_are_scored_without_the_first_token() -> None:
    true = {"words": places(0, 4, 8, 11)}
    table = score_cuts(places(4, 7), np.arange(1, 12), true, np.random.default_rng(0))["words"]
    assert table["cuts", 0] == BoundaryScores(hits=1, predicted=2, reference=3)
    assert table["cuts", 1] == BoundaryScores(hits=2, predicted=2, reference=3)
    assert table["even", 0] == BoundaryScores(hits=2, predicted=2, reference=3)
    assert table["random", 0].predicted == 2 * DRAWS
    assert table["random", 0].reference == 3 * DRAWS


def test_random_cuts_hit_as_often_as_chance_says() -> None:
    true = {"words": np.arange(0, 3000, 5)}
    table = score_cuts(np.arange(1, 3000, 4), np.arange(1, 3000), true, np.random.default_rng(0))["words"]
    assert table["random", 0].precision == pytest.approx(599 / 2999, abs=0.01)


def test_controls_cut_where_the_level_has_tokens_alone() -> None:
    room = places(3, 6, 9, 12, 15)
    table = score_cuts(places(3, 9), room, {"words": places(0, 6, 12)}, np.random.default_rng(0))["words"]
    assert table["cuts", 0].hits == 0
    assert table["even", 0] == BoundaryScores(hits=2, predicted=2, reference=2)
    assert set(score_cuts(places(), places(), {"words": places(0)}, np.random.default_rng(0))) == {"words"}


def tokens_of(text: str | bytes | Text) -> Tokens:
    return ByteTokenizer()([text])


def test_a_mark_stands_at_each_cut() -> None:
    tokenizer = ByteTokenizer()
    assert marked_text(tokenizer, tokens_of("one two\nsix"), places(4, 8)) == "one ·two\n·six"
    assert marked_text(tokenizer, tokens_of("one two\nsix"), places(4, 8), 6) == "one ·tw"
    assert marked_text(tokenizer, tokens_of("a·b c"), places(5)) == "a·b ¦c"
    assert marked_text(tokenizer, tokens_of("aäb"), places(2)) == "a·äb"
    assert marked_text(tokenizer, tokens_of(b"a\0\x1b[1mb"), places(2)) == "a�·�[1mb"
    assert marked_text(tokenizer, tokens_of(Text("ab", (0, 1))), places(2)) == "a·b"


def test_boundaries_that_a_text_does_not_carry_are_left_out() -> None:
    tokenizer = ByteTokenizer(carried=("verses", "parts")).with_boundaries({"words"})
    tokens, names = with_boundaries(tokenizer, [Text("a b c d", boundaries={"parts": (4,)})])
    assert set(names) == set(tokenizer.boundaries) - {"verses"}
    assert set(tokens.boundaries) == set(names)
    assert tokens.boundaries["parts"].nonzero().flatten().tolist() == [0, 4]
    assert tokenizer.requested_boundaries == {"words"}
    tokenizer = tokenizer.with_boundaries({"verses"})
    with pytest.raises(BadSample, match="carries no boundary 'verses'"):
        with_boundaries(tokenizer, ["a b"])


def cuts_of(run: Path) -> Cuts:
    subject = Subject.of(load_task(run), ProcessGroup(torch.device("cpu")))
    return measure_cuts(subject, subject.encoder)


def test_every_learned_level_is_measured(texts_run: Path) -> None:
    result = cuts_of(texts_run)
    fine, coarse = result.levels
    assert (fine.name, coarse.name, fine.target, coarse.target) == ("bytes", "words", 3, 2)
    assert coarse.tokens == fine.groups
    assert coarse.groups < coarse.tokens < fine.tokens <= 64 * result.samples
    assert result.carried == dict.fromkeys(fine.scores, result.samples) | {"verses": 0}
    for level in result.levels:
        for table in level.scores.values():
            assert table["cuts", 0].predicted == table["even", 1].predicted == level.groups - result.samples
            assert table["random", 0].predicted == DRAWS * table["cuts", 0].predicted
            assert table["cuts", 0].hits <= table["cuts", 1].hits
    assert fine.scores["words"]["cuts", 0].reference == coarse.scores["words"]["cuts", 0].reference > result.samples
    assert all(level.texts for level in result.levels)
    assert scores_rows(fine.scores)[0][0] == "words, the model's"
    assert cuts_of(texts_run) == result


def test_cuts_are_where_the_model_has_its_groups(texts_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that starts a group wherever a word starts has an F1 of 1."""
    subject = Subject.of(load_task(texts_run), ProcessGroup(torch.device("cpu")))
    words: list[torch.Tensor] = []
    subject.encoder.embedding.register_forward_pre_hook(lambda _, args: words.append(args[0].boundaries["words"]))
    transition = subject.encoder.hierarchy.transitions[0]
    assert transition.router is not None
    decide = transition.router.forward
    monkeypatch.setattr(transition.router, "forward", lambda *args: replace(decide(*args), starts_T=words[-1].clone()))
    level = measure_cuts(subject, subject.encoder).levels[0]
    assert level.scores["words"]["cuts", 0].f1 == 1
    assert level.scores["words"]["even", 0].f1 < 0.5
    assert level.best == "words"
    assert " ·is ·up. ·It ·shines ·on ·us " in level.texts[0]


def test_the_section_of_a_report(texts_run: Path) -> None:
    report = diagnose(texts_run)
    text = (report.folder / "report.md").read_text()
    assert "## Learned groups" in text
    assert "### bytes" in text and "### words" in text
    assert "Not all samples have `verses`; it is left out." in text
    rows = re.findall(r"^\| (\w+), (.+?) \|( [\d.]+ \|){6}$", text, re.MULTILINE)
    assert len(rows) == 2 * 6 * 3
    assert text.count("~~~text") == 4
    (line,) = (line for line in report.summary if line.startswith("learned groups of bytes"))
    assert re.search(r"tokens each \(target 3\); nearest to \w+, F1 0\.\d\d \(evenly spaced 0\.\d\d, random 0\.", line)


def test_modalities_without_boundaries_or_text(series_run: Path) -> None:
    report = diagnose(series_run)
    text = (report.folder / "report.md").read_text()
    assert "The tokenizer knows no boundaries, so there is nothing to compare with." in text
    assert "~~~" not in text
    assert any(line.startswith("learned groups of pulses") for line in report.summary)


def test_runs_without_learned_groups_have_no_such_section(digits_run: Path) -> None:
    assert "Learned groups" not in (diagnose(digits_run).folder / "report.md").read_text()
