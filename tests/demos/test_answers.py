"""Answers to questions, without a browser."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from demos import search_page
from demos.answers import answers, size_of
from demos.command import figures, indexed, prepare
from demos.examples import Sampled
from demos.media import Media
from demos.search_page import MAX_SECONDS, MAX_UPLOAD, Patience, Question, about, answer, main
from hrt_mm.core.errors import Stopped, UserError
from hrt_mm.retrieval.collection import Collection, writing
from hrt_mm.retrieval.index import Hit, Index
from hrt_mm.retrieval.query import MAX_TEXT
from hrt_mm.retrieval.rows import Row
from hrt_mm.retrieval.search import Searcher
from tests.demos.conftest import SMALL, tone
from tests.modalities.video.films import film


def asked(searcher: Searcher, tower: str, source: str | Path | None, **options: Any) -> dict[str, Any]:
    return answer(searcher, Media(), Question(tower, source, **options))


def test_texts_and_media_of_answers(searcher: Searcher, tmp_path: Path) -> None:
    Image.new("L", (4, 6)).save(tmp_path / "a.png")
    (tmp_path / "a.html").write_text("<script>")
    hit = Hit(0.5, Row("U+2665", "image", info={"character": "♥", "name": "heart", "code": "U+2665"}))
    media = Media()
    (shown,) = answers([replace(hit, media=tmp_path / "a.png")], searcher.index, media, 7)
    assert (shown["rank"], shown["title"], shown["symbol"]) == (7, "heart", "♥")
    assert shown["fields"] == [["code", "U+2665"]]
    assert shown["media"] | {"url": ""} == {
        "kind": "image", "url": "", "whole": True, "width": 4, "height": 6, "boxes": [],
    }  # fmt: skip
    assert str(tmp_path) not in json.dumps(shown)
    token = shown["media"]["url"].removeprefix("media/")
    assert media.file(token) == (tmp_path / "a.png", "image/png")
    assert media.file("0" * 32) is None
    (other,) = answers([replace(hit, media=tmp_path / "a.html")], searcher.index, media)
    assert other["media"] is None


def test_moments_are_listed_from_coarse_to_fine(searcher: Searcher, tmp_path: Path) -> None:
    clip = Hit(0.4, Row("v/1/0", "video", "clips", "v/1", (4, 6), info={"text": "a dog"}))
    scene = Hit(0.3, Row("v/1", "video", "scenes", "v", (4, 9)), inside=(clip,))
    path = film(tmp_path / "v.mp4", 9)
    (shown,) = answers([Hit(0.2, Row("v", "video"), path, inside=(scene,))], searcher.index, Media())
    assert shown["title"] == "v"
    assert shown["moments"] == [
        {"level": "scenes", "start": 4, "end": 9, "text": ""},
        {"level": "clips", "start": 4, "end": 6, "text": "a dog"},
    ]


def test_boxes_are_given_with_the_size_of_the_picture(searcher: Searcher, tmp_path: Path) -> None:
    Image.new("L", (40, 30)).save(tmp_path / "a.png")
    region = Hit(0.4, Row("a/1", "image", "parts", "a", box=(0, 4, 10, 20)))
    (shown,) = answers([Hit(0.5, Row("a", "image"), tmp_path / "a.png", (region,))], searcher.index, Media())
    assert shown["media"]["boxes"] == [(0, 4, 10, 20)]
    (tmp_path / "broken.png").write_text("no picture")
    assert size_of(tmp_path / "broken.png") == (0, 0)


def test_frames_of_videos_are_posters(tmp_path: Path) -> None:
    media = Media()
    token = media.link(film(tmp_path / "v.mp4", 9)).removeprefix("media/")
    data = media.poster(token, 1.0)
    assert data is not None and data.startswith(b"\xff\xd8")
    assert media.poster(token, 1e6) is not None
    (tmp_path / "notes.mp4").write_text("no video")
    assert media.poster(media.link(tmp_path / "notes.mp4").removeprefix("media/"), 0.0) is None
    assert media.poster("0" * 32, 0.0) is None


def test_words_find_pictures_and_pictures_words(searcher: Searcher, tmp_path: Path) -> None:
    reply = asked(searcher, "text", "braille pattern dots-12", find="image", count=5)
    assert [shown["media"]["kind"] for shown in reply["answers"]] == ["image"] * 5
    assert reply["find"] == "image" and reply["more"]
    Image.new("RGB", (60, 40), "white").save(tmp_path / "white.png")
    reply = asked(searcher, "image", tmp_path / "white.png", find="text", count=4)
    assert all("braille pattern" in shown["title"] for shown in reply["answers"])
    assert len(reply["answers"]) == 4


def test_answers_come_in_pages(searcher: Searcher) -> None:
    whole = [shown["id"] for shown in asked(searcher, "text", "dots", count=8)["answers"]]
    second = asked(searcher, "text", "dots", offset=4, count=4)
    assert [shown["id"] for shown in second["answers"]] == whole[4:]
    assert [shown["rank"] for shown in second["answers"]] == [5, 6, 7, 8]
    last = asked(searcher, "text", "dots", offset=250, count=24)
    assert len(last["answers"]) == 6 and not last["more"]


def test_similar_rows_are_found_without_the_row_itself(searcher: Searcher) -> None:
    first = asked(searcher, "text", "dots")["answers"][0]
    reply = asked(searcher, "image", None, like=first["id"], count=6)
    names = [shown["id"] for shown in reply["answers"]]
    assert len(names) == 6 and first["id"] not in names
    following = asked(searcher, "image", None, like=first["id"], count=2, offset=2)
    assert [shown["id"] for shown in following["answers"]] == names[2:4]
    with pytest.raises(UserError, match="the index has no row 'U\\+0000' of image"):
        asked(searcher, "image", None, like="U+0000")


def test_questions_that_cannot_be_read_get_a_message(searcher: Searcher, tmp_path: Path) -> None:
    text = tmp_path / "upload-1.png"
    text.write_text("no picture")
    empty = tmp_path / "empty.png"
    empty.touch()
    cases: list[tuple[str, str | Path | None, str]] = [
        ("text", "  ", "There is no question yet"),
        ("text", "x" * 10_500, f"has 10,500 characters; it may have {MAX_TEXT:,}"),
        ("image", None, "There is no question yet"),
        ("image", text, "holiday.png: not an image that can be read"),
        ("image", empty, "holiday.png is empty"),
        ("image", tmp_path / "gone.png", "no such file"),
        ("audio", text, "'audio'"),
    ]
    for tower, source, message in cases:
        with pytest.raises(UserError) as error:
            asked(searcher, tower, source, name="holiday.png" if isinstance(source, Path) else "")
        assert message in str(error.value)
        assert str(tmp_path) not in str(error.value)


def test_a_drawing_is_read_as_ink_on_white(searcher: Searcher, tmp_path: Path) -> None:
    clear, plain = Image.new("RGBA", (240, 240), (0, 0, 0, 0)), Image.new("L", (240, 240), "white")
    for picture, ink in ((clear, (0, 0, 0, 255)), (plain, 0)):
        ImageDraw.Draw(picture).ellipse((60, 80, 120, 200), fill=ink)
    clear.save(tmp_path / "clear.png")
    plain.save(tmp_path / "plain.png")
    first, second = (asked(searcher, "image", tmp_path / f"{name}.png", find="text") for name in ("clear", "plain"))
    assert first == second
    assert first["answers"]


@pytest.mark.parametrize("channels", [1, 2])
def test_a_recording_finds_sounds(sounds: Searcher, tmp_path: Path, channels: int) -> None:
    recorded = tone(tmp_path / "audio.wav", 400, 1.0, rate=48_000, channels=channels)
    shown = asked(sounds, "audio", recorded, find="audio")["answers"]
    assert [one["media"]["kind"] for one in shown] == ["audio"] * 4
    names = [one["id"].rpartition("/")[2] for one in shown]
    assert names.index("tone-400.wav") < names.index("tone-1600.wav")


def test_sounds_and_videos_are_bounded_in_time(sounds: Searcher, tmp_path: Path) -> None:
    assert MAX_SECONDS == 60
    long = tone(tmp_path / "long.wav", 400, 61, rate=8_000)
    slow = film(tmp_path / "long.mp4", 61, size=(16, 16), rate=1)
    for tower, path in (("audio", long), ("video", slow)):
        with pytest.raises(UserError, match=f"The {tower} lasts 61 s; a question may last 60 s: cut out the part"):
            asked(sounds, tower, path, find="audio")
    assert len(asked(sounds, "video", film(tmp_path / "a.mp4", 12), find="audio")["answers"]) == 4
    (tmp_path / "notes.wav").write_text("no sound")
    with pytest.raises(UserError, match=r"notes\.wav"):
        asked(sounds, "audio", tmp_path / "notes.wav", find="audio", name="notes.wav")


def test_an_answer_that_takes_too_long_is_an_error(searcher: Searcher, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = threading.Event()

    def slow(searcher: Searcher, media: Media, question: Question, *, described: bool) -> dict[str, Any]:
        go_on.wait(60)
        return {"answered": question.source}

    monkeypatch.setattr(search_page, "answer", slow)
    patience = Patience(searcher, Media(), 0.2)
    try:
        with pytest.raises(TimeoutError, match=r"takes more than 0\.2 s; try a shorter or a smaller question"):
            patience.answer(Question("text", "first"))
        with pytest.raises(TimeoutError, match=r"Another question has taken more than 0\.2 s"):
            patience.answer(Question("text", "second"))
    finally:
        go_on.set()
    patience.seconds = 60
    assert patience.answer(Question("text", "third")) == {"answered": "third"}


def test_uploads_are_removed_once_they_are_read(searcher: Searcher, tmp_path: Path) -> None:
    Image.new("L", (50, 50), 255).save(tmp_path / "white.png")
    (tmp_path / "notes.png").write_text("no picture")
    patience = Patience(searcher, Media())
    assert patience.answer(Question("image", tmp_path / "white.png"))["answers"]
    with pytest.raises(UserError):
        patience.answer(Question("image", tmp_path / "notes.png"))
    patience.answer(Question("text", "dots"))
    assert list(tmp_path.iterdir()) == []


def test_the_page_is_told_what_the_index_holds(searcher: Searcher) -> None:
    facts = about(searcher, Media(), "Braille", ["dots-1"], Sampled.of(searcher))
    assert [(tower["name"], tower["kind"], tower["find"]) for tower in facts["towers"]] == [
        ("text", "text", "image"), ("image", "image", "image"),
    ]  # fmt: skip
    assert facts["rows"] == {"image": 256, "text": 256}
    assert facts["columns"]["kind"] == []
    assert {"character", "name", "code"} <= facts["columns"].keys()
    assert facts["examples"] == ["dots-1"]
    assert len(facts["pictures"]) == 6
    json.dumps(facts)


def test_examples_find_the_row_that_they_are_of(searcher: Searcher, monkeypatch: pytest.MonkeyPatch) -> None:
    sampled = Sampled.of(searcher)
    assert len(sampled.hits) == 2 * 256
    monkeypatch.setattr("demos.examples.RIGHT", 256)
    questions = sampled.questions(searcher)
    # All names begin with one word.
    assert len(questions) == 1 and questions[0].startswith("braille pattern")
    assert Sampled(()).questions(searcher) == []


def test_values_of_a_column_are_listed_where_they_are_few() -> None:
    rows = [
        Row(str(number), "image", info={"year": str(2000 + number % 3), "name": str(number)}) for number in range(60)
    ]
    columns = Sampled(tuple(Hit(0.0, row) for row in rows)).columns()
    assert columns == {"year": ["2000", "2001", "2002"], "name": []}


def test_the_demo_goes_on_with_what_is_there(searcher: Searcher) -> None:
    assert isinstance(searcher.index, Index)
    folder = searcher.index.folder.parent
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    again = prepare(folder, SMALL)
    assert len(again.index) == len(searcher.index) == 2 * 256
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()} == before
    text = figures(folder / "run")
    assert "text to image, held out" in text and "chance" in text


def test_an_index_that_was_not_finished_is_built_anew(searcher: Searcher, tmp_path: Path) -> None:
    model = searcher.embedder.model

    def collections(count: int) -> Callable[[Path], Iterator[Collection]]:
        def write(scratch: Path) -> Iterator[Collection]:
            for number in range(count):
                with writing(scratch / str(number), model) as writer:
                    writer.add(np.eye(1, model.dim, number, dtype=np.float32), [Row(f"row {number}", "image")])
                yield Collection(scratch / str(number))
            if count < 3:
                raise Stopped(signal.SIGTERM)

        return write

    with pytest.raises(Stopped):
        indexed(tmp_path, searcher.embedder, collections(2))
    assert [path.name for path in tmp_path.iterdir()] == ["index-unfinished"]
    assert len(indexed(tmp_path, searcher.embedder, collections(3)).index) == 3
    # The finished one is opened, and nothing is written.
    assert len(indexed(tmp_path, searcher.embedder, collections(0)).index) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["index"]


def test_a_finished_run_of_another_configuration_is_not_used(searcher: Searcher) -> None:
    assert isinstance(searcher.index, Index)
    with pytest.raises(UserError, match="is of another configuration; remove"):
        prepare(searcher.index.folder.parent, [*SMALL, "data.side=24"])


def test_a_folder_that_is_no_index_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["search_page", str(tmp_path)])
    assert main() == 2
    assert "is not an index" in capsys.readouterr().err
    assert MAX_UPLOAD == 16 << 20
