"""Queries of all kinds of sources, combined and in lists, with an untrained model; and results that show themselves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from hrt_mm.core.errors import BadSample, UserError
from hrt_mm.retrieval.collecting import embed_files
from hrt_mm.retrieval.collection import Collection, writing
from hrt_mm.retrieval.embed import Embedder
from hrt_mm.retrieval.index import Index
from hrt_mm.retrieval.query import MAX_TERMS, MAX_TEXT, Query
from hrt_mm.retrieval.results import SHOWN, Results
from hrt_mm.retrieval.rows import Row
from hrt_mm.retrieval.search import Searcher
from hrt_mm.retrieval.segment import Hit
from tests.retrieval.test_passages import TEXT, untrained

IMAGE = """\
  {name}:
    modality: {{type: vision, channels: 1, patch: 4, size: 8}}
    model: {{levels: [{{name: patches, dim: 16, heads: 2, depth: 1}}]}}
"""
DATA = """\
data: {{type: joint_manifest, file: /nowhere.csv, sources: {{{sources}}}}}
train: {{steps: 1, batch_size: 2}}
"""
PIXELS_HW = (np.arange(400).reshape(20, 20) % 256).astype(np.uint8)


def model(folder: Path, *towers: str, text: bool = True, shared: str = "") -> Embedder:
    task = TEXT if text else "task:\n  type: contrastive\n  dim: 12\n"
    sources = ", ".join(f"{name}: {{type: image, column: {name}}}" for name in towers)
    sources += ", text: {type: text, column: text}" if text else ""
    images = "".join(IMAGE.format(name=name) for name in towers)
    config = f"towers:\n{images}{task}{shared}{DATA.format(sources=sources)}"
    (folder / "small.yaml").write_text(config)
    return untrained(folder / "small.yaml")


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    Image.fromarray(PIXELS_HW).save(tmp_path / "a.png")
    return tmp_path / "a.png"


@pytest.fixture
def searcher(tmp_path: Path, picture: Path) -> Searcher:
    """Eight pictures and a text."""
    embedder = model(tmp_path, "image")
    for number in range(7):
        Image.fromarray(np.roll(PIXELS_HW, 50 * number + 9)).save(tmp_path / f"{number}.png")
    (tmp_path / "words.txt").write_text("at night")
    embed_files(embedder, "image", sorted(tmp_path.glob("*.png")), tmp_path / "v", media=True)
    embed_files(embedder, "text", [tmp_path / "words.txt"], tmp_path / "w")
    Index.build(tmp_path / "index", [Collection(tmp_path / "v"), Collection(tmp_path / "w")])
    return Searcher(Index(tmp_path / "index"), embedder)


def ids(results: Results) -> list[str]:
    return [Path(hit.row.id).name for hit in results]


def test_all_kinds_of_sources_give_the_same_results(searcher: Searcher, picture: Path) -> None:
    expected = searcher.search(picture, 3, find="image")
    assert ids(expected)[0] == "a.png" and expected[0].score == pytest.approx(1, abs=1e-5)
    rgb_HWC = np.repeat(PIXELS_HW[..., None], 3, 2)
    rgba_HWC = np.concatenate([rgb_HWC, np.full((20, 20, 1), 255, np.uint8)], 2)
    sources: list[Any] = [
        Query.image(str(picture)),
        Query.image(picture),
        Query.of("image", str(picture)),
        Image.open(picture),
        PIXELS_HW,
        PIXELS_HW / np.float32(255),
        rgb_HWC,
        rgba_HWC,
        torch.from_numpy(PIXELS_HW),
        torch.from_numpy(PIXELS_HW)[None],
    ]
    for source in sources:
        results = searcher.search(source, 3, find="image")
        assert ids(results) == ids(expected)
        assert [hit.score for hit in results] == pytest.approx([hit.score for hit in expected], abs=1e-4)
    batch = searcher.search([*sources, "at night"], 3, find="image")
    assert [ids(results) for results in batch] == [*[ids(expected)] * len(sources), ids(searcher.search("at night", 3))]


def test_queries_are_added_and_subtracted(searcher: Searcher, picture: Path) -> None:
    both = Query.image(picture) + 0.5 * Query.text("at night") - Query.text("people") * 0.25
    assert str(both) == f'{picture} + 0.5 * "at night" - 0.25 * "people"'
    vector = {
        "image": searcher.embedder.query("image", picture),
        "text": searcher.embedder.query("text", "at night"),
        "people": searcher.embedder.query("text", "people"),
    }
    expected_D = vector["image"] + 0.5 * vector["text"] - 0.25 * vector["people"]
    expected_D /= np.linalg.norm(expected_D)
    results = searcher.search(both, 4)
    assert results.tower == "image"
    vectors_ND = {hit.row.id: hit.score for hit in searcher.index.search(expected_D, 4, tower="image")}
    assert {hit.row.id: hit.score for hit in results} == pytest.approx(vectors_ND, abs=1e-5)
    # A single term with a negative weight finds what is farthest.
    far, near = searcher.search(-Query.text("at night"), 8), searcher.search("at night", 8)
    assert ids(far) == ids(near)[::-1]


def test_pages_and_thresholds(searcher: Searcher) -> None:
    everything = searcher.search("at night", 8)
    assert everything.total == len(everything) == 8
    pages = [searcher.search("at night", 3, offset=offset) for offset in (0, 3, 6, 9)]
    assert [name for page in pages for name in ids(page)] == ids(everything)
    assert [len(page) for page in pages] == [3, 3, 2, 0]
    assert [hit["rank"] for hit in pages[1].plain()["results"]] == [4, 5, 6]
    threshold = everything[4].score
    assert ids(searcher.search("at night", 8, min_score=threshold)) == ids(everything)[:5]
    assert len(searcher.search("at night", 8, min_score=2)) == 0


@pytest.mark.parametrize(
    ("query", "options", "message"),
    [
        ("", {}, "is empty"),
        ("x" * 10_000, {}, f"10,000 characters; it may have {MAX_TEXT:,}"),
        (Query.text("a") * 0, {}, 'the weight of "a" is 0'),
        (Query.text("a") * float("nan"), {}, 'the weight of "a" is nan'),
        (Query.text("a") - Query.text("a"), {}, "cancel out"),
        (Query(()), {}, f"has 0 terms; it may have 1 to {MAX_TERMS}"),
        (Query.audio("a.wav"), {}, r"the model has no tower 'audio'; its towers are image \(vision\), text \(text\)"),
        (Path("a.wav"), {}, "the model cannot read a.wav"),
        (Path("missing.png"), {}, "no such file"),
        (np.zeros(5), {}, r"the model cannot read ndarray\(5,\)"),
        (None, {}, "the model cannot read NoneType"),
        (np.zeros((4, 4, 2)), {}, r"\(H, W, C\) with 1, 3 or 4 channels, got \(4, 4, 2\)"),
        (np.zeros((4, 4), "U1"), {}, "must be uint8, or floats"),
        (np.zeros((4, 4), np.int64), {}, "must be uint8, or floats"),
        (np.full((4, 4), np.nan), {}, "NaN or infinite"),
        (np.full((4, 4, 4), 0.5), {}, "with transparency must be uint8"),
        ("a", {"k": 0}, "k=0"),
        ("a", {"offset": -1}, "offset=-1"),
        ("a", {"inside": -1}, "inside=-1"),
        ("a", {"inside": 2}, "inside=2 has no effect: the index has no pieces; embed them with --level"),
        ("a", {"min_score": float("nan")}, "min_score is nan"),
        ("a", {"find": "sound"}, "the index has no tower 'sound'; it has image, text"),
        ("a", {"level": "words"}, "pieces of level 'words' of image were not compared"),
    ],
)
def test_bad_queries(searcher: Searcher, query: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        searcher.search(query, **options)
    with pytest.raises(UserError, match=message):
        searcher.search(["fine", query], **options)


def test_kinds_bind_to_towers_by_modality(tmp_path: Path, picture: Path) -> None:
    embedder = model(tmp_path, "first")
    with writing(tmp_path / "v", embedder.model) as writer:
        writer.add(np.eye(1, 12, dtype=np.float32), [Row("a", "first")])
    Index.build(tmp_path / "index", [Collection(tmp_path / "v")])
    index = Index(tmp_path / "index")
    assert len(Searcher(index, embedder).search(Query.image(picture))) == 1
    two = Searcher(index, model(tmp_path, "first", "second", text=False))
    with pytest.raises(UserError, match=r"no tower 'text'; its towers are first \(vision\), second \(vision\)"):
        two.search("words")
    with pytest.raises(UserError, match=r"first, second can read .*a.png; name one .*--query first=... or --query sec"):
        two.search(picture)
    assert len(two.search(Query.of("second", picture))) == 1
    twins = Searcher(index, model(tmp_path, "first", "second", shared="  shared: {second: first}\n"))
    for query in (Query.image(picture), picture, PIXELS_HW):
        assert len(twins.search(query)) == 1
    with pytest.raises(BadSample, match="not an image that can be read"):
        twins.search(Query.of("second", tmp_path / "small.yaml"))


def test_results_print_and_show_themselves(searcher: Searcher, tmp_path: Path) -> None:
    results = searcher.search("at <b>night</b>", 3)
    assert len(str(results).splitlines()) == 3 and "a.png" in str(searcher.search("at night", 8))
    html = results._repr_html_()
    assert html.count('<img alt="') == html.count("data:image/png;base64,") == 3
    assert "at &lt;b&gt;night" in html and "<b>" not in html
    assert json.loads(json.dumps(results.plain()))["query"] == [
        {"kind": "text", "source": "at <b>night</b>", "weight": 1.0}
    ]
    (tmp_path / "broken.png").write_bytes(b"\x89PNG")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (900, 900, 3), np.uint8)).save(tmp_path / "large.png")
    rows = [Row("<script>", "image", info={"text": "<script>\x1b[31m"}), Row("x" * 8000, "image")]
    hits = [Hit(0.5, row, tmp_path / name) for row in rows for name in ("broken.png", "large.png", "missing.png")]
    many = Results(tuple(hits * 20), Query.text("q"))
    html = many._repr_html_()
    assert "<script>" not in html and "\x1b" not in html + str(many)
    assert html.count("<img") == SHOWN // 3 and len(html) < 1 << 20 and "and 96 more" in html
    assert max(map(len, str(many).splitlines())) < 250
    empty = Results((), Query.text("<q>"))
    assert str(empty) == 'no results for "<q>"' and "<q>" not in empty._repr_html_()
    assert not empty and list(many[:2]) == hits[:2]


def test_an_index_is_opened_by_name(searcher: Searcher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"nope is not a run folder: it has no config\.yaml"):
        Searcher.of(str(tmp_path / "index"), str(tmp_path / "nope"))
    with pytest.raises(UserError, match="the index names the run"):
        Searcher.of(str(tmp_path / "index"))
