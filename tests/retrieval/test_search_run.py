"""The whole path on a few glyphs: train from YAML, embed, index, search, by the shell's commands."""

from __future__ import annotations

import csv
import json
import os
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from hrt_mm.cli.main import main
from hrt_mm.config import load_config
from hrt_mm.core.errors import UserError
from hrt_mm.inference.trained import evaluate_run
from hrt_mm.retrieval.collecting import embed_files
from hrt_mm.retrieval.collection import Collection
from hrt_mm.retrieval.embed import Embedder
from hrt_mm.retrieval.index import Index
from hrt_mm.retrieval.query import Query
from hrt_mm.retrieval.search import Searcher
from hrt_mm.train.build import build_dataset
from hrt_mm.train.loop import train

SMALL = """\
towers:
  image:
    modality: {type: vision, channels: 1, patch: 4, size: 16, stem: {type: conv}}
    model:
      levels:
        - {name: parts, dim: 32, heads: 2, depth: 1, group: {type: fixed, stride: 2}, pool: conv}
        - {name: glyph, dim: 48, heads: 2, depth: 1}
  text:
    modality: {type: text}
    model:
      levels:
        - {name: bytes, dim: 32, heads: 2, depth: 1, group: {type: given, boundary: words, max: 32, typical: 5}}
        - {name: words, dim: 48, heads: 2, depth: 1}
task: {type: contrastive, dim: 32}
data:
  {type: glyphs, scripts: [braille], val: 0.2, test: 0.2, any_font: false, move: 0, centred: 0, some_words: 0, side: 16}
optim: {lr: 5.0e-3, warmup_steps: 5}
train: {steps: 60, batch_size: 64, eval_every: 60, tensorboard: false, num_threads: 1}
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("glyphs")
    (folder / "small.yaml").write_text(SMALL)
    return train(load_config(folder / "small.yaml", [f"run.dir={folder / 'run'}"]))


@pytest.fixture(scope="module")
def index(run: Path) -> Path:
    folder = run.parent
    assert main(["embed", str(run), "--split", "train", "--media", "--out", str(folder / "vectors")]) == 0
    assert main(["index", "build", str(folder / "index"), str(folder / "vectors")]) == 0
    return folder / "index"


def test_training_learned_pairs_and_every_figure_has_its_numbers(run: Path) -> None:
    metrics = json.loads((run / "summary.json").read_text())["metrics"]
    for way in ("image_to_text", "text_to_image"):
        assert metrics[f"test/{way}/queries"] == metrics[f"test/{way}/answers"] >= 30
        assert metrics[f"test/{way}/chance_R@1"] == 1 / metrics[f"test/{way}/answers"]
    result = evaluate_run(run, "train")
    # Dots against names: the characters that were seen are found; 154 of them, so chance for R@10 is 6%.
    assert result["train/image_to_text/R@10"] > 0.3
    assert result["train/text_to_image/R@10"] > 0.3


def test_the_shell_finds_a_picture_by_words(index: Path, capsys: pytest.CaptureFixture[str]) -> None:
    held = Index(index)
    assert held.towers == {"image": held.towers["text"], "text": held.towers["text"]}
    row = held.segments[0].collection.row(5)
    assert main(["search", str(index), "--text", row.info["name"].upper(), "-k", "10", "--json"]) == 0
    hits = json.loads(capsys.readouterr().out)["results"]
    assert len(hits) == 10
    assert {hit["tower"] for hit in hits} == {"image"}
    assert Path(hits[0]["media"]).is_file()
    assert (hits[0]["info"]["name"], hits[0]["words_rank"], hits[0]["rank"]) == (row.info["name"], 1, 1)
    assert hits[0]["words_score"] == pytest.approx(1, abs=1e-3)
    argv = [
        "search",
        str(index),
        "--text",
        row.info["name"],
        "--json",
        "--no-hybrid",
        "--exact",
        "--where",
        "name~dots-1",
    ]
    assert main(argv) == 0
    value = json.loads(capsys.readouterr().out)
    scores = [hit["score"] for hit in value["results"]]
    assert scores == sorted(scores, reverse=True) and "words_rank" not in value["results"][0]
    names = [row.info["name"] for row in held.segments[0].collection.rows()]
    assert value["total"] == sum("dots-1" in name for name in names) > 3 and value["recall"] == 1
    assert all("dots-1" in hit["info"]["name"] for hit in value["results"])


def test_queries_are_read_from_a_file(
    index: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    media = next((index / "segment-000001" / "media").rglob("*.png"))
    (tmp_path / "queries.txt").write_text(f"dots\n\nimage={media}\n x = y \n")
    assert main(["search", str(index), "--queries", str(tmp_path / "queries.txt"), "-k", "2", "--json"]) == 0
    values = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [value["query"][0]["source"] for value in values] == ["dots", str(media), "x = y"]
    assert [value["tower"] for value in values] == ["image", "text", "image"]
    assert all(len(value["results"]) == 2 for value in values)
    monkeypatch.setattr("sys.stdin", StringIO("dots"))
    assert main(["search", str(index), "--queries", "-", "-k", "1"]) == 0
    assert capsys.readouterr().out.startswith('"dots"\n  1  ')
    for argv, message in (
        (["--queries", str(tmp_path)], "cannot be read: Is a directory"),
        (["--queries", str(tmp_path / "queries.txt"), "--text", "dots"], "--queries has all queries"),
        (["--minus", "dots", "--where", "yaer=1"], "no row has a column 'yaer'"),
        (["--text", "dots", "--where", "name="], "expected a value"),
        ([], "there is nothing to search for"),
        (["--query", "dots"], "write a tower, an equals sign"),
    ):
        assert main(["search", str(index), *argv]) == 2
        assert message in capsys.readouterr().err


def test_rows_like_a_row(index: Path) -> None:
    searcher = Searcher.of(str(index))
    row = Index(index).segments[0].collection.row(3)
    with pytest.raises(UserError, match=r"image and text have a row .*; name one with tower="):
        searcher.similar(row.id)
    results = searcher.similar(row.id, 5, tower="image")
    assert len(results) == 5 and row.id not in {hit.row.id for hit in results}
    assert {hit.row.tower for hit in results} == {"image"}
    with pytest.raises(UserError, match="the index has no row 'nothing' of image or text"):
        searcher.similar("nothing")
    rest = searcher.similar(row.id, 3, tower="image", offset=2)
    assert [hit.row.id for hit in rest] == [hit.row.id for hit in results][2:5]
    other = searcher.similar(row.id, 5, tower="image", find="text")
    assert {hit.row.tower for hit in other} == {"text"} == {other.tower}
    with pytest.raises(UserError, match="the index has no tower 'sound'"):
        searcher.similar(row.id, tower="image", find="sound")
    with pytest.raises(UserError, match="offset=-1"):
        searcher.similar(row.id, tower="image", offset=-1)


def test_the_lines_of_the_guide(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    guide = (Path(__file__).parents[2] / "docs" / "how-to" / "search.md").read_text()
    lines = guide.split("## From Python")[1].split("```text\n")[1].split("```")[0]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "shop").symlink_to(run)
    (tmp_path / "pictures").mkdir()
    Image.new("L", (20, 20), 255).save(tmp_path / "pictures" / "boots.png")
    exec(lines, {})
    assert "boots.png" in capsys.readouterr().out


def test_its_own_picture_finds_itself_and_words(index: Path, capsys: pytest.CaptureFixture[str]) -> None:
    searcher = Searcher.of(Index(index))
    held = Index(index).segments[0].collection
    own = searcher.index.search(held.vectors_ND[7], 1, tower="image")[0]
    assert own.row == held.row(7)
    assert own.score == pytest.approx(1, abs=1e-4)
    assert own.media is not None
    assert main(["search", str(index), "--image", str(own.media), "-k", "3"]) == 0
    assert capsys.readouterr().out.count("braille pattern") == 3


def test_adding_and_removing_by_the_shell(run: Path, index: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = len(Index(index))
    extra = run.parent / "extra.png"
    Image.new("L", (40, 40), 255).save(extra)
    assert main(["embed", str(run), str(extra), "--tower", "image", "--out", str(run.parent / "more")]) == 0
    assert main(["index", "add", str(index), str(run.parent / "more")]) == 0
    assert len(Index(index)) == before + 1
    assert main(["index", "remove", str(index), str(extra)]) == 0
    assert len(Index(index)) == before
    assert main(["index", "remove", str(index), str(extra)]) == 2
    assert "the index has no row" in capsys.readouterr().err


def test_a_manifest_gives_names_and_what_is_shown(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(3):
        Image.new("L", (20 + number, 20), 255).save(tmp_path / f"{number}.png")
    lines = [
        {"path": "0.png", "id": "first", "title": "<b>A dot</b>", "year": 1824, "tags": ["six", "dots"]},
        {"path": "1.png", "title": "two"},
        {"path": "gone.png", "title": "not there"},
    ]
    (tmp_path / "files.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    argv = ["embed", str(run), str(tmp_path / "[12].png"), "--manifest", str(tmp_path / "files.jsonl")]
    assert main([*argv, "--tower", "image", "--out", str(tmp_path / "v")]) == 0
    assert main(["index", "build", str(tmp_path / "index"), str(tmp_path / "v")]) == 0
    assert "3 of image" in capsys.readouterr().out
    assert "gone.png: no such file" in caplog.text
    assert main(["search", str(tmp_path / "index"), "--text", "dots", "--json"]) == 0
    result = {hit["id"]: hit["info"] for hit in json.loads(capsys.readouterr().out)["results"]}
    one, two = str(tmp_path / "1.png"), str(tmp_path / "2.png")
    assert result == {
        "first": {"title": "<b>A dot</b>", "year": "1824", "tags": "six; dots", "file": str(tmp_path / "0.png")},
        one: {"title": "two", "file": one},
        two: {"file": two},
    }
    assert main(["index", "remove", str(tmp_path / "index"), "first"]) == 0
    assert main([*argv[:2], str(tmp_path / "*.wav"), "--tower", "image", "--out", str(tmp_path / "w")]) == 2
    assert "nothing matches" in capsys.readouterr().err


def test_a_folder_of_many_kinds_of_files(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a/1.PNG", "a/2.jfif", "b/3.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("L", (20, 20), 255).save(tmp_path / name, "PNG")
    for index in range(20):
        (tmp_path / "a" / f"{index}.txt").write_text("dots")
    (tmp_path / "b" / "._3.png").write_bytes(b"x")
    (tmp_path / "b" / "broken.png").write_bytes(b"x")
    os.mkfifo(tmp_path / "b" / "pipe.png")
    (tmp_path / "up").symlink_to(".")
    with open(os.fsencode(tmp_path) + b"/b/\xff.png", "wb") as file:
        file.write((tmp_path / "b" / "3.png").read_bytes())
    assert main(["embed", str(run), str(tmp_path), "--tower", "image", "--out", str(run.parent / "folder")]) == 0
    assert "4 of image" in capsys.readouterr().out
    assert caplog.text.count("left out 20 files of .txt, which are not read") == 1
    assert f"left out: {tmp_path}/b/broken.png: not an image" in caplog.text and "._3.png" not in caplog.text
    assert "b/pipe.png (a FIFO)" in caplog.text
    assert "up (a link that leads upwards" in caplog.text
    assert main(["embed", str(run), str(tmp_path), "--tower", "text", "--out", str(run.parent / "texts")]) == 0
    assert "20 of text" in capsys.readouterr().out
    assert "left out 4 files of .png, 1 file of .jfif, which are not read" in caplog.text


def test_long_rows_are_cut_and_strange_ids_left_out(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    Image.new("L", (20, 20), 255).save(tmp_path / "a.png")
    os.mkfifo(tmp_path / "pipe.png")
    lines: list[dict[str, object]] = [
        {"path": "a.png", "id": "long", "title": "x" * 200_000, "year": 1824},
        {"path": "a.png", "id": "wide", **{f"column {position}": "\x00" * 900 for position in range(100)}},
        {"path": "a.png", "id": "y" * 100_000},
        {"path": "pipe.png", "id": "pipe"},
        {"path": "\ud800.png", "id": "z\ud800"},
        {"path": "a.png", "id": "lone \ud800", "title": "\udfff"},
    ]
    (tmp_path / "files.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    out = run.parent / "long"
    argv = ["embed", str(run), "--manifest", str(tmp_path / "files.jsonl"), "--tower", "image", "--out", str(out)]
    assert main(argv) == 0
    assert "3 of image" in capsys.readouterr().out
    rows = {row.id: row.info for row in Collection(out).rows()}
    assert sorted(rows) == ["lone \\ud800", "long", "wide"]
    assert rows["long"]["title"] == "x" * 2000 + "..." and rows["long"]["year"] == "1824"
    assert "long: truncated, as it is too long: 'title'" in caplog.text
    assert "its id has 100,000 bytes" in caplog.text and "pipe.png: is a FIFO" in caplog.text


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        (["--audio", "x.wav"], "the model has no tower 'audio'; its towers are image (vision), text (text)"),
        (["--image", "run/config.yaml"], "not an image that can be read"),
        (["--image", "missing.png"], "no such file"),
        (["--image", "pipe.png"], "is a FIFO, not a file"),
        (["--image", "run"], "is a folder, not a file"),
        (["--image", "half.png"], "cannot be decoded: image file is truncated"),
        (["--image", "empty.png"], "not an image that can be read"),
        (["--text", "x" * 10_000], "the query has 10,000 characters; it may have 2,000"),
        (["--text", "dots", "--minus", "y" * 10_000], "the query has 10,000 characters; it may have 2,000"),
        (["--text", "dots", "--where", "name >= and ("], "the filter is wrong at character"),
        (["--text", "dots", "--where", "nmae=x"], "no row has a column 'nmae'"),
        (["--text", "  "], "is empty"),
        (["--text", "dots", "--find", "sound"], "the index has no tower 'sound'; it has image, text"),
        (["--text", "dots", "-k", "0"], "k=0"),
    ],
)
def test_bad_queries_are_told(index: Path, query: list[str], reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    flag, value, *rest = query
    given = str(index.parent / value) if flag != "--text" else value
    if value == "pipe.png":
        os.mkfifo(given)
    if value == "half.png":
        content = BytesIO()
        Image.new("L", (200, 200), 7).save(content, "png")
        Path(given).write_bytes(content.getvalue()[: len(content.getvalue()) // 2])
    if value == "empty.png":
        Path(given).touch()
    assert main(["search", str(index), flag, given, *rest]) == 2
    assert reason in capsys.readouterr().err


def test_an_index_of_other_weights_is_refused(index: Path, tmp_path: Path) -> None:
    held = Index(index)
    other = Index.create(tmp_path / "other", type(held.model)("f" * 64, held.model.dim, held.model.run))
    with pytest.raises(UserError, match="is of another model"):
        Searcher.of(other)
    gone = Index.create(tmp_path / "gone", type(held.model)("f" * 64, held.model.dim, str(tmp_path / "nowhere")))
    with pytest.raises(UserError, match="which does not exist; give it with --run"):
        Searcher.of(gone)


def test_a_file_of_any_size_is_searched_by(index: Path, tmp_path: Path) -> None:
    small, large = tmp_path / "small.png", tmp_path / "large.png"
    for path in (small, large):
        Image.new("L", (40, 40), 255).save(path)
    with large.open("r+b") as file:
        file.truncate(65 << 20)
    searcher = Searcher.of(Index(index))
    hits = list(searcher.search(large, find="text"))
    assert hits and hits == list(searcher.search(Query.image(str(small)), find="text"))


def test_a_file_of_any_size_is_embedded(run: Path, tmp_path: Path) -> None:
    large = tmp_path / "large.png"
    Image.new("L", (40, 40), 255).save(large)
    with large.open("r+b") as file:
        file.truncate(65 << 20)
    assert embed_files(Embedder.of(run), "image", [large], tmp_path / "vectors").counts == {"image": 1}


def test_a_sample_without_a_vector_is_left_out(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in "ab":
        Image.new("L", (20, 20), 255).save(tmp_path / f"{name}.png")
    embedder, encode = Embedder.of(run), Embedder.encode

    def broken(self: Embedder, *args: Any) -> Any:
        vectors_ND, passages = encode(self, *args)
        vectors_ND[0] = np.nan
        return vectors_ND, passages

    monkeypatch.setattr(Embedder, "encode", broken)
    outcome = embed_files(embedder, "image", [tmp_path / "a.png", tmp_path / "b.png"], tmp_path / "v")
    assert outcome.counts == {"image": 1}
    assert "a.png: a vector of it is NaN or infinite" in caplog.text


def test_an_empty_index_finds_nothing(
    run: Path, index: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Index.create(tmp_path / "empty", Index(index).model)
    assert main(["search", str(tmp_path / "empty"), "--text", "dots"]) == 0
    assert 'no results for "dots"' in capsys.readouterr().out


def test_a_picture_finds_the_word_within_a_name(
    run: Path, index: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["embed", str(run), "--tower", "text", "--split", "test", "--level", "words", "--out", str(tmp_path / "v")]
    assert main(argv) == 0
    assert main(["index", "build", str(tmp_path / "index"), str(tmp_path / "v")]) == 0
    searcher = Searcher.of(Index(tmp_path / "index"))
    picture = index / "segment-000001" / "media" / "0000" / "0000000.png"
    hits = searcher.search(picture, 3, inside=2)
    for hit in hits:
        name = hit.row.info["name"]
        for inner in hit.inside:
            assert inner.row.parent == hit.row.id and inner.row.level == "words" and inner.row.span is not None
            first, last = map(int, inner.row.span)
            assert inner.row.info["text"] == name[first:last].strip() in name
        assert [inner.score for inner in hit.inside] == sorted((inner.score for inner in hit.inside), reverse=True)
        # The whole is the mean of its words before it is normed, so some word is at least as near.
        assert hit.inside[0].score >= hit.score - 1e-5
    (best,) = searcher.search(picture, 1, level="words")
    assert best.score >= max(inner.score for hit in hits for inner in hit.inside) - 1e-6
    capsys.readouterr()
    argv = ["search", str(tmp_path / "index"), "--image", str(picture), "-k", "1", "--inside", "1"]
    assert main(argv) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and "[words " in lines[1]
    pieces = [row for segment in Index(tmp_path / "index").segments for row in segment.collection.rows() if row.parent]
    assert Index(tmp_path / "index").remove([best.row.parent]) == 1 + sum(r.parent == best.row.parent for r in pieces)


def test_levels_that_nothing_was_compared_at_are_told(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["embed", str(run), "--level", "bytes", "--out", str(tmp_path / "v")]) == 2
    assert "no pieces of level 'bytes' (image: glyph; text: words)" in capsys.readouterr().err
    assert not (tmp_path / "v").exists()


@pytest.fixture(scope="module")
def soft(tmp_path_factory: pytest.TempPathFactory) -> Searcher:
    """An index with pieces of a run that compared the tokens of two levels, hardly trained."""
    folder = tmp_path_factory.mktemp("soft")
    also = "[{levels: {image: parts, text: words}, align: soft}, {levels: {image: glyph, text: words}}]"
    task = f"dim: 32, matryoshka: [8], also: {also}}}"
    (folder / "soft.yaml").write_text(SMALL.replace("dim: 32}\ndata", f"{task}\ndata"))
    overrides = [f"run.dir={folder / 'run'}", "train.steps=2", "optim.warmup_steps=1", "train.test=false"]
    run = train(load_config(folder / "soft.yaml", overrides))
    arguments = ["embed", str(run), "--split", "test", "--level", "parts", "--level", "glyph"]
    assert main([*arguments, "--out", str(folder / "vectors")]) == 0
    assert main(["index", "build", str(folder / "index"), str(folder / "vectors")]) == 0
    return Searcher.of(folder / "index")


def test_reranking_is_the_similarity_that_was_trained(soft: Searcher) -> None:
    """All samples as candidates have the scores of the task, whichever way the candidates are found."""
    assert isinstance(soft.embedder, Embedder)
    config, task = soft.embedder.run.config, soft.embedder.contrastive
    dataset = build_dataset(config, "test")
    batch = config.task.collator({}, soft.embedder.run.tokenizers, None)([dataset[i] for i in range(len(dataset))])
    assert isinstance(soft.index, Index)
    with torch.no_grad():
        vectors = task.encode(batch)[0][1]
    similarity = vectors["text"].similarity(vectors["image"], soft=True)
    text = dataset[3].value["text"]
    expected = dict(zip(batch.names, similarity[3].tolist(), strict=True))
    everything = len(dataset)
    ways: list[dict[str, Any]] = [{"candidates": everything}, {"candidates": 100 * everything, "by_pieces": True}]
    for options in ways:
        hits = soft.search(text, everything, find="image", rerank="parts", hybrid=False, **options)
        assert len(hits) == everything
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
        for hit in hits:
            assert hit.score == pytest.approx(expected[hit.row.id], abs=1e-5)
    plain = soft.search(text, 5, find="image")
    reranked = soft.search(text, 5, find="image", rerank="parts", candidates=5)
    assert {hit.row.id for hit in plain} == {hit.row.id for hit in reranked}
    # A level that was compared by its mean has one vector for the query.
    best = soft.search(text, 1, find="image", rerank="glyph", candidates=everything, hybrid=False)[0]
    assert best.score == pytest.approx(soft.search(text, 1, find="image", level="glyph")[0].score, abs=1e-5)


@pytest.mark.parametrize("by_pieces", [False, True])
def test_reranking_takes_filters_and_words(soft: Searcher, by_pieces: bool) -> None:
    """Filtered samples are neither candidates nor results, and words are fused with the order by MaxSim."""
    options: dict[str, Any] = {"find": "image", "rerank": "parts", "candidates": 1000, "by_pieces": by_pieces}
    name = soft.search("dots", 1000, find="image", hybrid=False)[-1].row.info["name"]
    plain = soft.search(name, 1000, hybrid=False, **options)
    scores = {hit.row.id: hit.score for hit in plain}
    assert [hit.score for hit in plain] == sorted(scores.values(), reverse=True)
    mixed = soft.search(name, 1000, **options)
    assert mixed[0].row.info["name"] == name and mixed[0].ranks is not None and mixed[0].ranks.words == 1
    assert {hit.row.id: hit.score for hit in mixed} == pytest.approx(scores)
    where = f"name!='{name}'"
    filtered = soft.search(name, 1000, where=where, hybrid=False, **options)
    assert [hit.row.id for hit in filtered] == [hit.row.id for hit in plain if hit.row.info["name"] != name]
    assert name not in {hit.row.info["name"] for hit in soft.search(name, 1000, where=where, **options)}
    few: dict[str, Any] = {"where": where, "hybrid": False, "find": "image"}
    reranked = soft.search(name, 2, **few, rerank="parts", candidates=2, by_pieces=by_pieces)
    assert len(reranked) == 2 and name not in {hit.row.info["name"] for hit in reranked}
    if not by_pieces:
        assert {hit.row.id for hit in reranked} == {hit.row.id for hit in soft.search(name, 2, **few)}


def test_words_bring_samples_whose_pieces_are_far_away(soft: Searcher) -> None:
    options: dict[str, Any] = {"find": "image", "rerank": "parts", "by_pieces": True, "candidates": 1}
    names = [hit.row.info["name"] for hit in soft.search("dots", 8, find="image")]
    far = [
        name
        for name in names
        if name not in {hit.row.info["name"] for hit in soft.search(name, 100, hybrid=False, **options)}
    ]
    assert far
    for name in far:
        assert soft.search(name, 100, **options)[0].row.info["name"] == name


def test_reranking_sees_what_changes_in_the_index(soft: Searcher, tmp_path: Path) -> None:
    """Removals, compaction, and an index of the same name and size in its place."""
    assert isinstance(soft.index, Index) and isinstance(soft.embedder, Embedder)
    collection = tmp_path / "vectors"
    argv = ["embed", str(soft.embedder.run.folder), "--split", "test", "--level", "parts", "--out", str(collection)]
    assert main(argv) == 0
    Index.build(tmp_path / "index", [collection])
    searcher = Searcher.of(tmp_path / "index")
    options: dict[str, Any] = {"find": "image", "rerank": "parts", "hybrid": False, "candidates": 1000}

    def results(**more: Any) -> dict[str, float]:
        return {hit.row.id: hit.score for hit in searcher.search("dots", 1000, **options, **more)}

    before = results()
    best = max(before, key=lambda name: before[name])
    Index(tmp_path / "index").remove([best], "image")
    del before[best]
    for by_pieces in (False, True):
        assert results(by_pieces=by_pieces) == pytest.approx(before)
    Index(tmp_path / "index").compact()
    for by_pieces in (False, True):
        assert results(by_pieces=by_pieces) == pytest.approx(before)
    # Another index whose segments have the same names.
    Index.build(tmp_path / "other", [collection])
    (tmp_path / "index").rename(tmp_path / "moved")
    (tmp_path / "other").rename(tmp_path / "index")
    for by_pieces in (False, True):
        assert best in results(by_pieces=by_pieces)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"by_pieces": True}, "by_pieces has no effect without rerank"),
        ({"rerank": "parts", "candidates": 0}, "candidates is 0; it is at least 1"),
        ({"rerank": "parts", "level": "parts"}, "rerank='parts' orders samples, not pieces of level 'parts'"),
        ({"rerank": "parts", "by_pieces": True, "inside": 2}, "inside=2 has no effect with by_pieces"),
        ({"rerank": "strokes"}, "the index has no pieces of level 'strokes' of image; it has those of glyph, parts"),
    ],
)
def test_options_of_reranking_that_do_not_fit_are_refused(
    soft: Searcher, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        soft.search("dots", find="image", **options)


def test_reranking_in_a_database_is_refused(soft: Searcher, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("qdrant_client")
    assert isinstance(soft.index, Index)
    store = f"qdrant:{tmp_path}/symbols"
    assert main(["index", "build", "--store", store, str(soft.index.folder.parent / "vectors")]) == 0
    assert main(["search", "--store", store, "--text", "dots", "--rerank", "parts"]) == 2
    assert "rerank needs an index in a folder" in capsys.readouterr().err


def test_vectors_are_cut_to_a_trained_width(soft: Searcher, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert isinstance(soft.index, Index) and isinstance(soft.embedder, Embedder)
    run = str(soft.embedder.run.folder)
    embed = ["embed", run, "--split", "test", "--out"]
    assert main([*embed, str(tmp_path / "narrow"), "--dim", "8", "--level", "glyph"]) == 0
    narrow, whole = Collection(tmp_path / "narrow"), Collection(soft.index.folder.parent / "vectors")
    assert narrow.model.dim == 8
    rows = {row.id: number for number, row in enumerate(whole.rows()) if not row.level and row.tower == "image"}
    for number, row in enumerate(narrow.rows()):
        if not row.level and row.tower == "image":
            expected = whole.vectors_ND[rows[row.id]][:8]
            expected = expected / np.linalg.norm(expected)
            np.testing.assert_allclose(narrow.vectors_ND[number], expected, atol=1e-5)
    Index.build(tmp_path / "index", [narrow])
    searcher = Searcher.of(tmp_path / "index")
    assert len(searcher.search("dots", 3, find="image", inside=1)) == 3
    capsys.readouterr()
    assert main([*embed, str(tmp_path / "other"), "--dim", "9"]) == 2
    assert "vectors of 9 numbers were not trained, those of 8, 32 were" in capsys.readouterr().err
    # Tokens are compared at the whole width.
    assert main([*embed, str(tmp_path / "other"), "--dim", "8", "--level", "parts"]) == 2
    assert "no pieces of level 'parts'" in capsys.readouterr().err
    assert main(["index", "add", str(soft.index.folder), str(tmp_path / "narrow")]) == 2
    assert "has vectors of 8 numbers, the index of 32" in capsys.readouterr().err


def test_hard_negatives_are_mined_and_trained_with(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "negatives.tsv"
    mine = ["mine", str(run), "--out", str(table), "--count", "3", "--candidates", "200"]
    assert main(mine) == 0
    embedder = Embedder.of(run)
    dataset = embedder.run.config.data.plain("train")
    samples = [dataset[index] for index in range(len(dataset))]
    vectors = {tower: embedder.vectors(tower, [sample.value[tower] for sample in samples]) for tower in embedder.towers}
    names = [str(sample.value["text"]) for sample in samples]
    with table.open(newline="") as lines:
        rows = list(csv.DictReader(lines, delimiter="\t"))
    assert f"{len(rows):,} negatives" in capsys.readouterr().out
    assert len(rows) > len(dataset)
    for row in rows:
        sample, negative = int(row["sample"]), int(row["negative"])
        scores = vectors[row["answer"]] @ vectors[row["query"]][sample]
        assert float(row["score"]) == pytest.approx(scores[negative], abs=1e-5)
        assert float(row["right_score"]) == pytest.approx(scores[sample], abs=1e-5)
        assert scores[negative] < scores[sample] - 0.05 * abs(scores[sample]) + 1e-5
        assert names[sample] != names[negative]
    # All that scores between the hardest negative of a query and its limit was left out for a reason.
    first = next(row for row in rows if (row["query"], row["answer"]) == ("text", "image"))
    sample = int(first["sample"])
    scores = vectors["image"] @ vectors["text"][sample]
    below = scores < scores[sample] - 0.05 * abs(scores[sample])
    below[[names[index] == names[sample] for index in range(len(names))]] = False
    assert float(first["score"]) == pytest.approx(scores[below].max(), abs=1e-5)
    overrides = [f"run.dir={tmp_path / 'second'}", f"task.negatives={table}", "train.steps=2", "train.eval_every=null"]
    train(load_config(run / "config.yaml", [*overrides, "train.test=false"], of_run=True))
    table.write_text("sample\tnegative\n0\t100000\n")
    with pytest.raises(UserError, match=r"line 2: sample 100000 .* is not in the training split, which has"):
        train(load_config(run / "config.yaml", [f"run.dir={tmp_path / 'third'}", *overrides[1:]], of_run=True))
    assert main([*mine[:-1], "2"]) == 2
    assert "candidates at least count" in capsys.readouterr().err
    assert main(["mine", str(run), "--out", "negatives.csv"]) == 2
    assert "let its name end in .tsv" in capsys.readouterr().err
