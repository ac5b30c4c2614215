from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from demos import search_page
from demos.answers import card, page
from demos.command import figures, prepare
from demos.search_page import MAX_SECONDS, MAX_UPLOAD, MAX_WORDS, Patience, answer, drawn, main
from hrt_mm.core.errors import BadSample, UserError
from hrt_mm.retrieval.index import Hit, Index
from hrt_mm.retrieval.rows import Row
from hrt_mm.retrieval.search import Searcher
from tests.demos.conftest import SMALL, tone
from tests.modalities.video.films import film


def test_metadata_is_shown_as_text() -> None:
    hit = Hit(
        0.5, Row("<i>", "image", info={"<b>": "<script>alert(1)</script>", "n": '"><img src=x onerror=alert(1)>'})
    )
    shown = card(1, hit)
    assert "<script>" not in shown and "<img" not in shown
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in shown


def test_only_known_media_of_the_index_are_shown(tmp_path: Path) -> None:
    hit = Hit(0.5, Row('"><b>', "image"))
    Image.new("L", (4, 4)).save(tmp_path / "a.png")
    (tmp_path / "a.html").write_text("<script>")
    shown = card(1, replace(hit, media=tmp_path / "a.png"))
    assert 'src="data:image/png;base64,' in shown
    assert "<b>" not in shown
    assert "script" not in card(1, replace(hit, media=tmp_path / "a.html"))


def test_levels_are_drawn_within_their_answer() -> None:
    clip = Hit(0.4, Row("v/1/0", "video", "clips", "v/1", (4, 6), info={"text": "a <dog>"}))
    scene = Hit(0.3, Row("v/1", "video", "scenes", "v", (4, 9)), inside=(clip,))
    shown = card(1, Hit(0.2, Row("v", "video"), inside=(scene,)))
    assert shown.index("scenes 4-9 · 0.300") < shown.index("clips 4-6 · 0.400")
    assert "a &lt;dog&gt;" in shown


def test_words_find_pictures_and_pictures_words(searcher: Searcher, tmp_path: Path) -> None:
    assert answer(searcher, "text", "braille pattern dots-12", "image", 5).count("<img src=") == 5
    Image.new("RGB", (60, 40), "white").save(tmp_path / "white.png")
    shown = answer(searcher, "image", tmp_path / "white.png", "text", 4)
    assert shown.count('class="answer"') == 4
    assert "braille pattern" in shown


def test_queries_that_cannot_be_read_get_a_message(searcher: Searcher, tmp_path: Path) -> None:
    text = tmp_path / "notes.png"
    text.write_text("no picture")
    large = tmp_path / "large.png"
    with large.open("wb") as file:
        file.truncate(80 << 20)
    cases: list[tuple[str, str | Path | None, str]] = [
        ("text", "  ", "is empty"),
        ("text", "x" * (MAX_WORDS + 1), "it may have 2,000"),
        ("image", None, "Give image to search by"),
        ("image", text, "not an image that can be read"),
        ("image", large, f"may have {MAX_UPLOAD >> 20} MB"),
        ("image", tmp_path / "gone.png", "no such file"),
        ("audio", text, "the model cannot read --audio"),
    ]
    for kind, query, said in cases:
        shown = answer(searcher, kind, query, None, 5)
        assert said in shown, shown
        assert str(tmp_path) not in shown


def test_a_drawing_is_read_as_ink_on_white(searcher: Searcher, tmp_path: Path) -> None:
    # A canvas is clear where nothing is drawn, and what is clear is black.
    layer, plain = Image.new("RGBA", (240, 240), (0, 0, 0, 0)), Image.new("L", (240, 240), "white")
    for picture, ink in ((layer, (0, 0, 0, 255)), (plain, 0)):
        ImageDraw.Draw(picture).ellipse((60, 80, 120, 200), fill=ink)
    layer.save(tmp_path / "composite.png")
    plain.save(tmp_path / "plain.png")
    canvas = {"background": None, "layers": [str(tmp_path / "layer.png")], "composite": str(tmp_path / "composite.png")}
    file = drawn(canvas)
    assert file == tmp_path / "composite.png"
    shown = answer(searcher, "image", file, "text", 4)
    assert shown == answer(searcher, "image", tmp_path / "plain.png", "text", 4)
    assert shown.count('class="answer"') == 4


@pytest.mark.parametrize("colour", [(0, 0, 0, 0), (255, 255, 255, 255)], ids=["clear", "white"])
def test_a_drawing_with_nothing_on_it_is_told(tmp_path: Path, colour: tuple[int, ...]) -> None:
    Image.new("RGBA", (24, 24), colour).save(tmp_path / "empty.png")
    with pytest.raises(UserError, match="drawing is empty: draw something"):
        drawn({"background": None, "layers": [], "composite": str(tmp_path / "empty.png")})
    assert drawn({"background": None, "layers": [], "composite": None}) is None
    (tmp_path / "notes.png").write_text("no picture")
    with pytest.raises(BadSample, match="the drawing: not an image"):
        drawn({"background": str(tmp_path / "notes.png"), "layers": [], "composite": None})


@pytest.mark.parametrize("channels", [1, 2])
def test_a_recording_finds_sounds(sounds: Searcher, tmp_path: Path, channels: int) -> None:
    recorded = tone(tmp_path / "audio.wav", 400, 1.0, rate=48_000, channels=channels)
    shown = answer(sounds, "audio", recorded, "audio", 4)
    assert shown.count("<audio controls") == 4
    assert "tone-400.wav" in shown[: shown.index("tone-1600.wav")]


def test_sounds_and_videos_are_bounded_in_time(sounds: Searcher, tmp_path: Path) -> None:
    assert MAX_SECONDS == 60
    long = tone(tmp_path / "long.wav", 400, 61, rate=8_000)
    said = "lasts 61 s; a query may last 60 s: cut out the part that you look for"
    assert f"The audio {said}" in answer(sounds, "audio", long, "audio", 4)
    slow = film(tmp_path / "long.mp4", 61, size=(16, 16), rate=1)
    assert f"The video {said}" in answer(sounds, "video", slow, "audio", 4)
    assert answer(sounds, "video", film(tmp_path / "a.mp4", 12), "audio", 4).count("<audio controls") == 4
    (tmp_path / "notes.wav").write_text("no sound")
    assert "This query cannot be read: notes.wav" in answer(sounds, "audio", tmp_path / "notes.wav", "audio", 4)


def test_an_answer_that_takes_too_long_is_told(searcher: Searcher, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = threading.Event()

    def slow(*asked: object) -> str:
        go_on.wait(60)
        return f"answered {asked[2]}"

    monkeypatch.setattr(search_page, "answer", slow)
    patience = Patience(searcher, 0.2)
    try:
        assert "takes more than 0.2 s; try a shorter or a smaller query" in patience.answer("text", "first", None, 1)
        assert "Another query has been answered for more than 0.2 s" in patience.answer("text", "second", None, 1)
    finally:
        go_on.set()
    patience.seconds = 60
    assert patience.answer("text", "third", None, 1) == "answered third"


def test_an_index_without_answers_says_so() -> None:
    assert "Nothing was found" in page([])


def test_the_demo_goes_on_with_what_is_there(searcher: Searcher) -> None:
    assert isinstance(searcher.index, Index)
    folder = searcher.index.folder.parent
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    again = prepare(folder, SMALL)
    assert len(again.index) == len(searcher.index) == 2 * 256
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()} == before
    told = figures(folder / "run")
    assert "text to image, held out" in told and "chance" in told


def test_a_folder_that_is_no_index_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["search_page", str(tmp_path)])
    assert main() == 2
    assert "is not an index" in capsys.readouterr().err
