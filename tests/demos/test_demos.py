"""Each demo is one command; those that need data say so."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

from demos import digits, emoji, glyphs, moments, sentences
from demos.command import Demo, Query, main, told
from demos.moments import Moment
from hrt_mm.config import RunConfig, load_config
from hrt_mm.core.errors import Stopped, UserError
from hrt_mm.data.atomic_files import exclusive_lock
from hrt_mm.retrieval.index import Hit
from hrt_mm.retrieval.rows import Row
from hrt_modalities.joint.films import FilmsConfig, FootageConfig
from tests.demos.conftest import SMALL

DEMOS = [glyphs.DEMO, emoji.DEMO, sentences.DEMO, digits.DEMO, moments.DEMO]
TINY = [
    "data.film.train=6", "data.film.valid=2", "data.film.test=3", "train.steps=2", "train.batch_size=3",
    "train.eval_every=2", "train.tensorboard=false", "train.num_threads=1", "optim.warmup_steps=1",
]  # fmt: skip


@pytest.mark.parametrize("demo", DEMOS, ids=lambda demo: demo.name)
def test_queries_are_of_towers_that_the_configuration_has(demo: Demo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HRT_MM_DATA", "/data")
    config = load_config(demo.config)
    assert config.task.type == "contrastive"
    for query in demo.queries:
        assert {query.kind, query.find} <= set(config.towers)


@pytest.mark.parametrize("demo", [emoji.DEMO, sentences.DEMO, digits.DEMO], ids=lambda demo: demo.name)
def test_data_that_is_not_there_is_told(
    demo: Demo, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("sys.argv", [demo.name, "--folder", str(tmp_path / "demo"), "--no-page"])
    monkeypatch.delenv("HRT_MM_DATA", raising=False)
    assert main(demo, demo.title) == 2
    assert "HRT_MM_DATA" in capsys.readouterr().err
    monkeypatch.setenv("HRT_MM_DATA", str(tmp_path / "nowhere"))
    assert main(demo, demo.title) == 2
    assert str(tmp_path / "nowhere") in capsys.readouterr().err


def test_answers_are_told_in_a_line() -> None:
    hits = [Hit(0.5, Row("a.png", "image", info={"name": "black knight"})), Hit(0.25, Row("b.png", "image"))]
    assert (
        told(Query("text", "knight", "image"), hits) == "text 'knight' finds image: black knight (0.50); b.png (0.25)"
    )
    assert told(Query("audio", Path("x/one.wav"), "image"), []) == "audio one.wav finds image: nothing"


def test_a_moment_holds_what_lies_in_it() -> None:
    moment = Moment("film 1", "red star rises", "clips", 2.0, 4.0)

    def hit(film: str, first: float, last: float) -> Hit:
        return Hit(0.5, Row(f"{film}/clips/3", "video", "clips", film, (first, last)))

    assert moment.holds(hit("film 1", 1.5, 3.0))
    assert not moment.holds(hit("film 1", 3.5, 5.0))
    assert not moment.holds(hit("film 2", 2.0, 4.0))
    assert moments.chance([moment, moment], 40.0, "clips") == 0.05


def test_captions_of_several_moments_are_no_queries() -> None:
    film = FootageConfig(scenes=(40, 40), train=1, valid=1, test=3)
    result = moments.moments(film)
    captions = [moment.caption for moment in result]
    shots = sum(len(edit.shots) for edit in film.edits("test"))
    assert len(captions) == len(set(captions))
    assert 0 < sum(moment.level == "clips" for moment in result) < shots


def test_moments_of_long_films_are_looked_for_and_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """After two steps of training, which find little: all is told, and a second time nothing is made."""
    monkeypatch.setattr(moments, "FILMS", 2)
    monkeypatch.setattr(moments, "SPOKEN", 3)
    monkeypatch.setattr(moments, "footage", lambda config: _short(config.data))
    argv = ["moments", "--folder", str(tmp_path / "demo"), "--no-page", f"data.film.folder={tmp_path / 'made'}", *TINY]
    monkeypatch.setattr("sys.argv", argv)
    assert moments.main() == 0
    output = capsys.readouterr().out
    # Of the six captions three are said as well.
    kinds = {"text": 6, "audio": 3} if find_spec("espeakng_loader") else {"text": 6}
    for kind, count in kinds.items():
        assert f"{kind} finds one of {count} scenes in" in output
        assert "shots in" in output
    assert (tmp_path / "demo" / "moments.png").stat().st_size > 10_000
    made = (tmp_path / "demo" / "index" / "manifest.json").stat().st_mtime_ns
    assert moments.main() == 0
    assert (tmp_path / "demo" / "index" / "manifest.json").stat().st_mtime_ns == made


def test_speech_is_left_out_where_it_is_not_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    towers: list[set[str]] = []

    def prepare(folder: Path, config: RunConfig, film: FootageConfig) -> None:
        towers.append(set(config.towers))
        raise UserError("enough")

    monkeypatch.setattr(moments, "prepare", prepare)
    for words in ([], ["--no-speech"]):
        monkeypatch.setattr("sys.argv", ["moments", "--folder", str(tmp_path / "demo"), "--no-page", *words])
        assert moments.main() == 2
    assert towers[0] >= towers[1] == {"video", "text"}
    assert ("audio" in towers[0]) == (find_spec("espeakng_loader") is not None)


def _short(data: FilmsConfig) -> FootageConfig:
    return data.film.model_copy(update={"train": 1, "valid": 1, "test": 2, "scenes": (3, 3)})


def test_a_demo_whose_training_is_stopped_ends_with_the_code_of_the_signal(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def stopped(config: RunConfig, *, resume: bool) -> None:
        raise Stopped(signal.SIGTERM)

    monkeypatch.setattr("sys.argv", ["glyphs", "--folder", str(tmp_path / "demo")])
    monkeypatch.setattr("demos.command.train", stopped)
    assert main(glyphs.DEMO, glyphs.__doc__) == 143
    assert not (tmp_path / "demo" / "index").exists()


@pytest.mark.skipif(find_spec("wordllama") is None, reason="the extra demo is not installed")
def test_a_demo_ends_with_the_code_of_the_signal_and_continues_when_started_again(tmp_path: Path) -> None:
    """By real signals while it trains: SIGTERM, and then SIGINT after it has gone on from where it was."""
    command = [
        sys.executable, "-m", "demos.glyphs", "--no-page", "--folder", str(tmp_path / "demo"), *SMALL,
        "train.steps=100000", "train.eval_every=100000", "train.log_every=1",
    ]  # fmt: skip
    steps = []
    for number, code in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        log = tmp_path / f"{code}.log"
        with log.open("w") as file:
            environment = os.environ | {"OMP_NUM_THREADS": "1"}
            process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment)
        try:
            while "step " not in log.read_text() and process.poll() is None:
                time.sleep(0.05)
            process.send_signal(number)
            assert process.wait() == code, log.read_text()
        finally:
            process.kill()
            process.wait()
        text = log.read_text()
        assert "start the demo again to go on from there" in text and "Traceback" not in text
        steps.append([int(step) for step in re.findall(r"(?:at|from) step (\d+)", text)])
        assert not (tmp_path / "demo" / "index").exists()
    first, second = steps
    assert len(first) == 1
    # It resumed from the step of the first end, and came further.
    assert second[0] == first[0] < second[-1]


def test_two_demos_do_not_prepare_one_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["glyphs", "--folder", str(tmp_path / "demo")])
    with exclusive_lock(tmp_path / "demo", create=True):
        assert main(glyphs.DEMO, glyphs.__doc__) == 2
    assert "demo is being written by another process" in capsys.readouterr().err
