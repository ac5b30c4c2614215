from __future__ import annotations

import io
import sys

import pytest

from hrt_mm.data.progress import ProgressBar, clock, span, tracked

VALUES = {"train/loss": 0.51234, "train/accuracy": 0.875, "lr": 0.1, "tokens_per_second": 45210.4}


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (754, "12:34"), (3600 * 25 + 61, "25:01:01")]
)
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text


def test_plain_lines_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressBar(100, "train/accuracy") as progress:
        progress.advance(20)
        progress.show(20, VALUES, 75)
    assert capsys.readouterr().err == "step 20/100  loss 0.5123  accuracy 0.875  45,210 tokens/s  1:15 left\n"


def test_other_ranks_say_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressBar(100, "train/accuracy", silent=True) as progress:
        progress.show(20, VALUES, 75)
        progress.say("hello")
    assert capsys.readouterr() == ("", "")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    result = Terminal()
    monkeypatch.setattr(sys, "stderr", result)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    return result


def test_items_are_tracked_on_a_terminal_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on_a_terminal(monkeypatch)
    assert list(tracked(iter("abc"), 3, "spelling")) == ["a", "b", "c"]
    assert "spelling" in terminal.getvalue() and "3/3" in terminal.getvalue()
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert list(tracked(iter("abc"), 3, "spelling")) == ["a", "b", "c"]
    assert isinstance(sys.stderr, io.StringIO) and not sys.stderr.getvalue()


def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on_a_terminal(monkeypatch)
    with ProgressBar(100, "train/accuracy") as progress:
        progress.advance(20)
        progress.show(20, VALUES, 75)
        progress.say("step 20/100  val/loss [0.4]")
    assert "step 20/100" in terminal.getvalue()
    assert "accuracy 0.875  45,210 tokens/s  1:15 left" in terminal.getvalue()
    assert "val/loss [0.4]" in terminal.getvalue()


@pytest.mark.parametrize(("minutes", "text"), [(0.5, "30 s"), (10, "10 min"), (90, "90 min"), (120, "2 h")])
def test_time_limits_are_told_with_their_unit(minutes: float, text: str) -> None:
    assert span(minutes) == text


def test_one_clock_is_used_on_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    ProgressBar(10, "train/accuracy", cpu=True).show(5, {"tokens_per_second": 1000.0}, 84)
    assert "1,000 tokens/s  1:24 left (both by processor time)" in capsys.readouterr().err
    ProgressBar(10, "train/accuracy").show(5, {"tokens_per_second": 1000.0}, 84)
    assert capsys.readouterr().err.endswith("1,000 tokens/s  1:24 left\n")
