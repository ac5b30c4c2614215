"""Scenes, clips and frames: pieces of a long video with their times, from an untrained model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from demos import answers, search_page
from demos.examples import Sampled
from demos.media import Media
from demos.search_page import Question
from hrt_mm.config import load_config
from hrt_mm.core.errors import UserError
from hrt_mm.core.spans import Spans
from hrt_mm.data.capabilities import BoxLocating
from hrt_mm.inference.reading import TowerReader
from hrt_mm.inference.trained import TrainedRun
from hrt_mm.retrieval.collecting import embed_files
from hrt_mm.retrieval.collection import Collection
from hrt_mm.retrieval.embed import Embedder
from hrt_mm.retrieval.index import Index
from hrt_mm.retrieval.passages import Passages, parents
from hrt_mm.retrieval.rows import Model
from hrt_mm.retrieval.search import Searcher
from hrt_mm.tasks.contrastive_views import Vectors, ViewHeads
from hrt_mm.train.build import build_task, build_tokenizers
from hrt_modalities.text import Text, TextModality
from hrt_modalities.video import VideoModality

TEXT = """\
  text:
    modality: {type: text}
    model:
      levels:
        - {name: bytes, dim: 16, heads: 2, depth: 1, group: {type: given, boundary: words, max: 32, typical: 5}}
        - {name: words, dim: 24, heads: 2, depth: 1}
task:
  type: contrastive
  dim: 12
"""
CONFIG = (
    """\
towers:
  video:
    modality: {type: video, channels: 1, patch: 8, tube: 1, rate: 25}
    model:
      levels:
        - {name: tubes, dim: 16, heads: 2, depth: 1, group: {type: fixed, stride: [1, 2, 2]}, pool: conv}
        - {name: frames, dim: 16, heads: 2, depth: 1, group: {type: fixed, stride: [4, 1, 1]}, pool: conv}
        - {name: clips, dim: 16, heads: 2, depth: 1, group: {type: fixed, stride: [2, 1, 1]}, pool: conv}
        - {name: scenes, dim: 24, heads: 2, depth: 1}
      cross_scale: {up: true, down: true}
"""
    + TEXT
    + """\
  also:
    - {levels: {video: clips, text: words}, align: soft}
    - {levels: {video: frames, text: words}, align: pooled}
data: {type: grid_triples, root: /nowhere}
train: {steps: 1, batch_size: 2}
"""
)


class Film:
    """A reader of made-up films: sixteen frames of another grey each."""

    @staticmethod
    def read(self: Any, tower: str, source: Any) -> Any:
        from hrt_modalities.video import Video

        if tower == "text":
            return str(source)
        grey = torch.linspace(0, 1, 16)[:, None, None, None].expand(16, 1, 16, 16)
        return Video.of(grey.contiguous(), 25)


def untrained(path: Path) -> Embedder:
    config = load_config(path)
    tokenizers = build_tokenizers(config)
    torch.manual_seed(0)
    task = build_task(config, tokenizers, None).eval()
    for parameter in task.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    checkpoint: Any = None
    return Embedder(TrainedRun(path.parent, config, task, tokenizers, None, checkpoint), Model("0" * 64, 12))


@pytest.fixture
def embedder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Embedder:
    (tmp_path / "small.yaml").write_text(CONFIG)
    monkeypatch.setattr(Embedder, "read", Film.read)
    monkeypatch.setattr(TowerReader, "read", lambda self, source: Film.read(self, self.tower, source))
    monkeypatch.setattr(VideoModality, "stretches", lambda *ignored: None)
    return untrained(tmp_path / "small.yaml")


def test_a_video_is_searched_by_scene_then_clip_then_frame(embedder: Embedder, tmp_path: Path) -> None:
    assert embedder.levels("video") == {"scenes": 0, "clips": 1, "frames": 2}
    outcome = embed_files(embedder, "video", [tmp_path / "a.mp4"], tmp_path / "v", levels=["frames", "clips", "scenes"])
    assert outcome.counts == {"video": 1 + 2 + 4 + 16}
    index = Index.create(tmp_path / "index", embedder.model)
    index.add(Collection(tmp_path / "v"))
    searcher = Searcher(index, embedder)
    (film,) = searcher.search("bin blue", 5, inside=9)
    scenes = sorted(film.inside, key=lambda hit: hit.row.span or (0, 0))
    assert [hit.row.span for hit in scenes] == [(0, 0.32), (0.32, 0.64)]
    for scene in scenes:
        for clip in scene.inside:
            assert scene.row.span and clip.row.span and clip.row.parent == scene.row.id
            assert scene.row.span[0] <= clip.row.span[0] < clip.row.span[1] <= scene.row.span[1]
            spans = sorted(frame.row.span or (0, 0) for frame in clip.inside)
            assert len(spans) == 4 and spans[0][0] == clip.row.span[0] and spans[-1][1] == clip.row.span[1]
    # Scores are those that training compares: of clips, the mean over the words of how near each is.
    queries = embedder.query_vectors("text", "video", values=["bin blue"])
    clips = searcher.search("bin blue", 9, level="clips")
    assert len(clips) == 4
    _, (levels,) = embedder.embed_values("video", [Film.read(None, "video", "")], ["clips"])
    assert max(hit.score for hit in clips) == pytest.approx(float((levels[0].vectors_ND @ queries["clips"][0]).max()))
    assert np.linalg.norm(queries["clips"][0]) < 1 - 1e-4 and np.linalg.norm(queries["frames"][0]) == pytest.approx(1)


def test_pieces_are_kept_to_be_played(embedder: Embedder, tmp_path: Path) -> None:
    levels = ["scenes", "clips"]
    embed_files(embedder, "video", [tmp_path / "a.mp4"], tmp_path / "v", levels=levels, media=True)
    collection = Collection(tmp_path / "v")
    film, *pieces = collection.rows()
    assert collection.media(film) is not None
    # A clip of 0.16 s is too short.
    assert [(row.level, collection.media(row) is not None) for row in pieces] == [
        *[("scenes", True)] * 2,
        *[("clips", False)] * 4,
    ]
    files = [collection.media(row) for row in pieces[:2]]
    assert [VideoModality.seconds(file) for file in files if file] == pytest.approx([0.32, 0.32], abs=0.01)
    index = Index.create(tmp_path / "index", embedder.model)
    index.add(collection)
    assert index.levels == {"scenes", "clips"}
    searcher = Searcher(index, embedder)
    store = Media()
    assert search_page.about(searcher, store, "Films", ["bin"], Sampled.of(searcher))["levels"] == ["scenes", "clips"]
    reply = search_page.answer(searcher, store, Question("text", "bin blue", find="video", level="scenes"))
    # Both scenes are marked on the time line of their film, with the clips within them.
    assert len(reply["answers"]) == 2 and all(shown["media"]["whole"] for shown in reply["answers"])
    assert len({shown["media"]["url"] for shown in reply["answers"]}) == 1
    moments = sorted(reply["answers"], key=lambda shown: shown["moments"][0]["start"])[0]["moments"]
    assert (moments[0]["level"], moments[0]["start"], moments[0]["end"]) == ("scenes", 0, 0.32)
    assert {(moment["level"], moment["start"]) for moment in moments[1:]} == {("clips", 0), ("clips", 0.16)}
    with pytest.raises(UserError, match="were not compared with"):
        search_page.answer(searcher, store, Question("text", "bin", find="video", level="tubes"))


def test_levels_that_were_not_compared_are_told(embedder: Embedder, tmp_path: Path) -> None:
    embed_files(embedder, "video", [tmp_path / "a.mp4"], tmp_path / "v", levels=["clips"])
    index = Index.create(tmp_path / "index", embedder.model)
    index.add(Collection(tmp_path / "v"))
    message = "level 'tubes' of video were not compared with \"bin\" in training; scenes, clips, frames were"
    with pytest.raises(UserError, match=message):
        Searcher(index, embedder).search("bin", level="tubes")
    query = np.ones(12, np.float32)
    assert len(index.search(query, 1, inside=9)[0].inside) == 4
    assert index.search(query, 1, inside=9, finer={"scenes": query})[0].inside == ()
    with pytest.raises(UserError, match=r"no pieces of level 'shots' \(video: scenes, clips, frames\)"):
        embed_files(embedder, "video", [tmp_path / "a.mp4"], tmp_path / "w", levels=["shots"])


def test_levels_go_by_the_view_that_compares_given_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scenes are read by whole samples and by given pieces, of which the second was trained on scenes one by one."""
    given = "    - {levels: {video: scenes, text: words}, align: given, pieces: scenes}\n"
    (tmp_path / "given.yaml").write_text(CONFIG.replace("  also:\n", f"  also:\n{given}"))
    embedder = untrained(tmp_path / "given.yaml")
    assert embedder.levels("video") == {"scenes": 1, "clips": 2, "frames": 3}
    assert embedder.levels("text") == {"words": 1}


def test_a_query_of_words_is_as_similar_as_training_has_it(embedder: Embedder) -> None:
    (words,) = embedder._pyramids("text", ["bin blue at f"])
    (film,) = embedder._pyramids("video", [Film.read(None, "video", "")])
    with torch.no_grad():
        heads = embedder._heads(1)
        assert isinstance(heads, ViewHeads)
        sides = [heads(tower, pyramid, {}) for tower, pyramid in (("text", words), ("video", film))]
        clip = Vectors(sides[1].x[2:3], Spans.from_lengths([1]), sides[1].groups)
        expected = sides[0].similarity(clip, soft=True)
        result = float(heads.query("text", words)[0] @ clip.x[0])
    assert result == pytest.approx(expected.item(), abs=1e-6)


def test_pieces_lie_in_those_of_the_level_before() -> None:
    coarse = Passages("scenes", np.zeros((2, 1)), torch.tensor([[0.0, 5], [5, 9]])[..., None])
    fine = Passages("clips", np.zeros((3, 1)), torch.tensor([[0.0, 2], [2, 5], [5, 9]])[..., None])
    assert parents([coarse, fine]) == [[None, None], [0, 0, 1]]
    assert parents([]) == []


PICTURES = (
    """\
towers:
  image:
    modality: {type: vision, channels: 1, patch: 4, size: [16, 24], fit: crop}
    model:
      levels:
        - {name: patches, dim: 16, heads: 2, depth: 1, group: {type: fixed, stride: 2}, pool: conv}
        - {name: regions, dim: 16, heads: 2, depth: 1, group: {type: fixed, stride: 2}, pool: conv}
        - {name: areas, dim: 24, heads: 2, depth: 1}
      cross_scale: {up: true, down: true}
"""
    + TEXT
    + """\
  also: [{levels: {image: regions, text: words}, align: soft}]
data: {type: glyphs}
train: {steps: 1, batch_size: 2}
"""
)


def test_regions_of_a_picture_are_found_with_their_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture of 60 by 40 pixels, whose middle 60 x 40 is read as 24 x 16: a pixel of the model is 2.5 of its own."""
    (tmp_path / "pictures.yaml").write_text(PICTURES)
    picture = torch.rand(1, 40, 66)
    monkeypatch.setattr(Embedder, "read", lambda self, tower, source: picture if tower == "image" else str(source))
    monkeypatch.setattr(TowerReader, "read", lambda self, source: picture)
    model = untrained(tmp_path / "pictures.yaml")
    assert model.levels("image") == {"areas": 0, "regions": 1}
    outcome = embed_files(model, "image", [tmp_path / "a.png"], tmp_path / "v", levels=["regions", "areas"], media=True)
    # Patches lie 4 by 6, regions 2 by 3, and areas of 2 by 2 regions 1 by 2, the last of which has half of it.
    assert outcome.counts == {"image": 1 + 2 + 6}
    index = Index.create(tmp_path / "index", model.model)
    index.add(Collection(tmp_path / "v"))
    (result,) = Searcher(index, model).search("white queen", 5, inside=9)
    boxes = {hit.row.id: hit.row.box for hit in result.inside}
    assert set(boxes.values()) == {(3, 0, 43, 40), (43, 0, 63, 40)}
    inner = [region.row for area in result.inside for region in area.inside]
    assert {row.box for row in inner} == {(3 + x, y, 23 + x, y + 20) for x in (0, 20, 40) for y in (0, 20)}
    for row in inner:
        outer = boxes[row.parent]
        assert row.box and outer and outer[0] <= row.box[0] and row.box[2] <= outer[2]
    # Each is the vector of the tokens that lie there: what is seen in one region alone changes it the most.
    assert len(Searcher(index, model).search("a", 9, level="regions")) == 6
    other = picture.clone()
    other[:, 20:, 3:23] = 1 - other[:, 20:, 3:23]
    _, ((_, before),) = model.embed_values("image", [picture], ["areas", "regions"])
    _, ((_, after),) = model.embed_values("image", [other], ["areas", "regions"])
    moved = np.linalg.norm(before.vectors_ND - after.vectors_ND, axis=1)
    changed = before.edges_N2A[int(moved.argmax())]
    tokenizer = model.tokenizer("image")
    assert isinstance(tokenizer, BoxLocating)
    assert tokenizer.box(picture, changed.flatten().tolist()) == (3, 20, 23, 40)
    (shown,) = answers.answers([result], index, Media())
    assert (shown["media"]["width"], shown["media"]["height"]) == (66, 40)
    assert set(shown["media"]["boxes"]) == {area.row.box for area in result.inside}


def test_texts_say_what_a_passage_is() -> None:
    assert TextModality.passage("für dich", (0, 5)) == "für"
    assert TextModality.passage(b"a \xff", None) == "a \ufffd"
    assert TextModality.passage(Text("whole")) == "whole"
