from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image

from demos import search_page
from demos.answers import card, page
from demos.glyphs import figures, prepare
from demos.search_page import MAX_UPLOAD, MAX_WORDS, answer, main
from hrt_mm.modality import modalities
from hrt_mm.retrieval.index import Hit, Index
from hrt_mm.retrieval.rows import Row
from hrt_mm.retrieval.search import Searcher
from tests.demos.conftest import SMALL
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


@pytest.mark.parametrize("kind", ["audio", "video"])
def test_long_queries_are_refused_before_they_are_decoded(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / ("long.wav" if kind == "audio" else "long.mp4")
    if kind == "audio":
        soundfile.write(path, np.zeros(8000 * 130, np.float32), 8000)
    else:
        film(path, 131, rate=1)
    asked: list[object] = []

    def search(*query: object, **options: object) -> list[Hit]:
        asked.append(query)
        return []

    embedder = SimpleNamespace(towers=(kind,), modality=lambda name: modalities()[name])
    searcher: Any = SimpleNamespace(embedder=embedder, search=search)
    told = answer(searcher, kind, path, None, 5)
    assert f"It lasts {130 if kind == 'audio' else 131} s; a query may last 120 s" in told and not asked
    monkeypatch.setattr(search_page, "MAX_SECONDS", 140.0)
    assert "Nothing was found" in answer(searcher, kind, path, None, 5) and asked
    path.write_bytes(b"no media")
    assert "cannot be read: long." in answer(searcher, kind, path, None, 5)


def test_drawings_and_recordings_come_as_files(tmp_path: Path) -> None:
    """What the boxes of gradio give: a sketchpad its layers and their composite, a microphone a file."""
    drawn = str(tmp_path / "drawn.png")
    assert search_page._picture({"background": None, "layers": [], "composite": drawn}) == drawn
    assert search_page._picture({"background": drawn, "layers": [], "composite": None}) == drawn
    assert search_page._picture({"background": None, "layers": [], "composite": None}) is None
    gradio = SimpleNamespace(**dict.fromkeys(("Textbox", "Image", "Sketchpad", "Audio", "File"), lambda **given: given))
    (recorded, is_file), *others = search_page._boxes(gradio, "audio")
    assert recorded()["sources"] == ["upload", "microphone"] and is_file and not others
    assert [make()["label"] for make, _ in search_page._boxes(gradio, "image")] == ["a picture", "or a drawing"]


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
    assert "held-out characters" in told and "chance" in told


def test_a_folder_that_is_no_index_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["search_page", str(tmp_path)])
    with pytest.raises(SystemExit):
        main()
    assert "is not an index" in capsys.readouterr().err
