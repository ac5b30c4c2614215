from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import precision_recall_fscore_support

from hrt_mm.analysis.report.attending import salient
from hrt_mm.analysis.report.confusion import EXCERPT, NUMBERED, Scores, draw_matrix, show_mistakes
from hrt_mm.analysis.report.curves import MAX_METRICS, draw_curves, metrics_of, read_curves
from hrt_mm.analysis.report.gates import SHUT_CONTRIBUTION, SHUT_GATE, measure_paths
from hrt_mm.analysis.report.gates import Path as LevelPath
from hrt_mm.analysis.report.groups import MAX_LABEL, _label
from hrt_mm.analysis.report.page import Page
from hrt_mm.analysis.report.reconstruction import reconstruct
from hrt_mm.analysis.report.recovery import measure_recovery
from hrt_mm.analysis.report.subject import Subject
from hrt_mm.analysis.report.view import View
from hrt_mm.core.errors import ConfigError
from hrt_mm.core.tokens import Tokens
from hrt_mm.data.sample import Sample
from hrt_mm.inference.trained import load_task
from hrt_mm.train.build import build_dataset
from hrt_mm.train.distributed import ProcessGroup
from hrt_modalities.text import ByteTokenizer, TextModality


def subject_of(run: Path) -> Subject:
    return Subject.of(load_task(run), ProcessGroup(torch.device("cpu")))


def scores(target: list[int], guess: list[int], confidence: list[float], classes: int = 3) -> Scores:
    names = tuple(f"class {index}" for index in range(classes))
    confidences = torch.tensor(confidence)
    kept = {index: Tokens.pack([torch.zeros(1, 1)]) for index in range(len(target))}
    return Scores(names, torch.tensor(target), torch.tensor(guess), confidences, ("",) * len(target), kept)


def test_scores_equal_those_of_scikit_learn() -> None:
    generator = torch.Generator().manual_seed(1)
    target = torch.randint(0, 4, (200,), generator=generator)
    guess = torch.where(torch.rand(200, generator=generator) < 0.6, target, target.flip(0))
    result = scores(target.tolist(), guess.tolist(), [0.5] * 200, classes=4)
    precision, recall, f1, _ = precision_recall_fscore_support(target, guess)
    np.testing.assert_allclose(result.per_class(), np.stack([precision, recall, f1], 1))
    assert result.macro_f1 == pytest.approx(f1.mean())
    assert result.matrix.sum() == 200


def test_class_without_samples_is_left_out_of_the_mean() -> None:
    result = scores([0, 0, 1], [0, 2, 1], [0.9, 0.8, 0.7])
    table = result.per_class()
    assert np.isnan(table[2, 1:]).all()
    assert result.macro_f1 == pytest.approx((2 / 3 + 1) / 2)
    assert result.missing() == ["class 2"]


def test_mistakes_are_the_surest_first() -> None:
    result = scores([0, 1, 2, 0, 1], [0, 2, 1, 1, 1], [0.99, 0.5, 0.9, 0.7, 0.8])
    assert result.mistakes() == [2, 3, 1]


def test_mistakes_without_a_picture_are_left_out() -> None:
    result = scores([0, 1], [1, 0], [0.9, 0.8])
    drawn = Scores(
        result.classes, result.target_B, result.guess_B, result.confidence_B, result.names, {1: result.kept[1]}
    )
    assert drawn.mistakes() == [1]


def test_texts_that_are_mistaken_are_read_in_the_table(tmp_path: Path) -> None:
    tokens = ByteTokenizer()(["plain\n words | " + "x" * 400])
    result = Scores(("a", "b"), torch.tensor([0]), torch.tensor([1]), torch.tensor([0.75]), ("a.txt",), {0: tokens})
    page = Page(tmp_path, "Report")
    subject: Any = SimpleNamespace(tokenizer=ByteTokenizer(), modality=TextModality)
    show_mistakes(subject, result, page)
    page.write()
    text = (tmp_path / "report.md").read_text()
    assert f"| a.txt: plain words &#124; {'x' * (EXCERPT - 14)}... | a | b | 0.750 |" in text
    assert not list(tmp_path.glob("*.png"))


@pytest.mark.parametrize("classes", [2, NUMBERED + 5, 60])
def test_matrix_of_any_size_is_drawn(classes: int, tmp_path: Path) -> None:
    positions = list(range(classes))
    draw_matrix(scores(positions, positions[::-1], [0.5] * classes, classes)).savefig(tmp_path / "matrix.png")


def test_curves_have_gaps_and_survive_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = [
        {"step": 1, "epoch": 0, "train/loss": 2.0, "train/cross_entropy": 2.0, "lr": 0.1, "note": "text"},
        {"step": 2, "epoch": 0, "train/loss": None, "train/cross_entropy": None, "lr": 0.2},
        {"step": 2, "val/loss": 1.5, "val/accuracy": 0.5},
    ]
    path.write_text("\n".join(json.dumps(line) for line in lines) + '\n{"step": 3, "train/lo')
    curves = read_curves(path)
    steps, values = curves["train/loss"]
    assert steps.tolist() == [1, 2]
    assert values[0] == 2.0
    assert np.isnan(values[1])
    assert "note" not in curves
    titles = [axes.get_title() for axes in draw_curves(curves, best=2).axes if axes.get_visible()]
    assert titles == ["loss", "accuracy", "learning rate"]


def test_metrics_of_the_whole_come_first_and_a_page_has_room_for_the_rest() -> None:
    steps = np.array([1.0, 2.0])
    names = [f"way{way}/R@{rank}" for way in range(MAX_METRICS) for rank in (1, 5)]
    curves = {f"val/{name}": (steps, steps) for name in (*names, "R@1")}
    curves |= {"val/loss": (steps, -steps), "lr": (steps, steps)}
    assert metrics_of(curves) == ["loss", "R@1", *names]
    titles = [axes.get_title() for axes in draw_curves(curves, best=2).axes if axes.get_visible()]
    assert titles == ["loss", "R@1", *names[: MAX_METRICS - 2], "learning rate"]


def test_figures_of_the_data_alone_are_not_drawn() -> None:
    steps = np.array([1.0, 2.0])
    figures = ("R@1", "MRR", "queries", "answers", "chance_R@1")
    assert metrics_of({f"val/image_to_text/{name}": (steps, steps) for name in figures}) == [
        "image_to_text/R@1",
        "image_to_text/MRR",
    ]


def test_labels_are_written_beside_pictures_however_long_they_are() -> None:
    assert _label(Sample(0, ["bin", "blue"])) == "label bin blue"
    assert _label(Sample(0, 0)) == "label 0" and _label(Sample(0)) == ""
    long = _label(Sample(0, 40 * "long "))
    assert len(long) == MAX_LABEL and long.endswith("..")


def test_damaged_lines_of_a_log_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "metrics.jsonl"
    bad = [b"[" * 100_000, b"\xff", b"3", b'{"step": "x", "lr": 1}', b'{"step": 4, "lr": ' + b"9" * 400 + b"}", b"{}"]
    path.write_bytes(b"\n".join([b'{"step": 1, "lr": 0.5}', *bad, b'{"step": 9, "lr": 0.25}', b'{"step": 1']))
    steps, values = read_curves(path)["lr"]
    assert steps.tolist() == [1, 9] and values.tolist() == [0.5, 0.25]
    assert "metrics.jsonl, line 2 is damaged: its JSON is nested too deeply; it is left out" in caplog.text


def test_curves_of_a_run_without_a_log(tmp_path: Path) -> None:
    assert read_curves(tmp_path / "metrics.jsonl") == {}


@pytest.mark.parametrize(
    ("gate", "contribution", "reason"),
    [
        (SHUT_GATE / 2, 1.0, "its gate is"),
        (1.0, SHUT_CONTRIBUTION / 2, "it adds 0.50%, below 1%"),
        (None, SHUT_CONTRIBUTION / 2, "it adds"),
        (1.0, 1.0, None),
        (None, 1.0, None),
    ],
)
def test_shut_paths(gate: float | None, contribution: float, reason: str | None) -> None:
    path = LevelPath("up/x", "x", None if gate is None else torch.tensor([gate, -gate]), contribution)
    assert (path.shut is None) if reason is None else (path.shut is not None and path.shut.startswith(reason))


def test_opened_gate_adds_more(digits_run: Path) -> None:
    subject = subject_of(digits_run)
    before = {path.name: path.contribution for path in measure_paths(subject, subject.encoder)}
    assert set(before) == {"down/regions", "down/patches", "up/regions", "up/image"}
    with torch.no_grad():
        subject.encoder.hierarchy.up[1].gate_D.mul_(100)
    after = {path.name: path.contribution for path in measure_paths(subject, subject.encoder)}
    assert after["up/image"] == pytest.approx(100 * before["up/image"], rel=0.02)
    assert after["down/regions"] == pytest.approx(before["down/regions"])
    assert not subject.encoder.hierarchy.measure_contributions


def test_recovery_is_that_of_the_pooling_alone(digits_run: Path) -> None:
    subject = subject_of(digits_run)
    fine, coarse = measure_recovery(subject, subject.encoder)
    assert (fine.fine, fine.coarse, coarse.fine, coarse.coarse) == ("patches", "regions", "regions", "image")
    assert fine.groups == 359 * 4
    assert coarse.groups == 359
    assert fine.pooled is not None
    assert 0 < fine.pooled <= 1
    assert not fine.scarce
    assert not any(transition._forward_hooks for transition in subject.encoder.hierarchy.transitions)


def test_hidden_parts_alone_are_given_back(masked_run: Path) -> None:
    subject = subject_of(masked_run)
    ((_, view),) = subject.views(1)
    task: Any = subject.run.task
    one = reconstruct(task, view, seed=1)
    again = reconstruct(task, view, seed=1)
    assert one is not None
    assert again is not None
    assert torch.equal(one.tokens.x, again.tokens.x)
    changed = (one.tokens.x != view.tokens.x).any(1)
    assert torch.equal(changed, one.hidden_T)
    assert one.hidden_T.float().mean() == 0.5
    assert (one.error_T[~one.hidden_T] == 0).all()


def test_samples_of_different_labels_come_first(digits_run: Path) -> None:
    subject = subject_of(digits_run)
    labels = [sample.label for sample, _ in subject.views(3)]
    assert len(set(labels)) == 3


def test_salient_token() -> None:
    x = torch.zeros(9, 2)
    x[5] = 3
    assert salient(x) == 5
    assert salient(torch.arange(9)) == 4


def test_page_escapes_what_would_break_a_table(tmp_path: Path) -> None:
    page = Page(tmp_path, "Report")
    page.say("one line")
    page.table(("a", "b"), [("x|y", "two\nlines")])
    page.write()
    text = (tmp_path / "report.md").read_text()
    assert "- one line" in text
    assert "| x&#124;y | two lines |" in text


def test_view_draws_what_the_modality_draws(digits_run: Path) -> None:
    subject = subject_of(digits_run)
    calls = []
    view = subject.views(1)[0][1]
    assert view.backdrop is not None
    told = View(view.tokenizer, view.tokens, lambda axes, tokenizer, tokens: calls.append((tokenizer, tokens)))
    axes: Any = SimpleNamespace(
        set_xlim=lambda *_: None,
        set_ylim=lambda *_: None,
        set_aspect=lambda *_: None,
        set_xticks=lambda *_: None,
        set_yticks=lambda *_: None,
        spines={},
    )
    told.draw(axes)
    assert calls == [(view.tokenizer, view.tokens)]


def test_split_that_is_not_there_is_replaced(digits_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def without_test(config: Any, split: str) -> Any:
        if split == "test":
            raise ConfigError("no such split")
        return build_dataset(config, split)

    monkeypatch.setattr("hrt_mm.analysis.report.subject.build_dataset", without_test)
    assert subject_of(digits_run).split == "val"
