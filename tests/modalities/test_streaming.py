"""Hugging Face datasets that stream: the losses of data that is listed, resumption, and streams that stop."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from hrt_mm.core.errors import BadSample, ConfigError
from hrt_mm.data.registry import datasets_of, joint_datasets
from hrt_mm.data.stream import StreamError
from hrt_mm.train.sampler import Plan, Position, Sampler
from hrt_mm.train.streamed import StreamSampler
from hrt_modalities.audio import Audio
from hrt_modalities.audio.files import wav
from tests.modalities.tiny_images import CLASSES, folder_of_images, interrupted, losses
from tests.modalities.video.films import film


@pytest.fixture
def datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The package, with its cache in the test's folder."""
    package = pytest.importorskip("datasets", reason="the package datasets is not installed")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    package.disable_progress_bars()
    return package


@pytest.fixture
def in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Data that is listed is not shuffled."""
    monkeypatch.setattr(Sampler, "order", lambda self, epoch: range(self.length))


def in_parquet(datasets: Any, files: dict[str, list[tuple[Path, int]]], folder: Path) -> str:
    """Images in Parquet, two files for each split."""
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(CLASSES))})
    folder.mkdir()
    for split, items in files.items():
        rows = [{"image": {"bytes": path.read_bytes(), "path": path.name}, "label": label} for path, label in items]
        half = len(rows) // 2
        for number, part in enumerate((rows[:half], rows[half:])):
            table = datasets.Dataset.from_list(part, features=features)
            table.to_parquet(str(folder / f"{split}-0000{number}-of-00002.parquet"), batch_size=2)
    return str(folder)


def streamed(path: str | Path, split: str = "train", modality: str = "vision", **options: Any) -> Any:
    values = {"type": "hugging_face", "path": str(path), "streaming": True, **options}
    return datasets_of(modality)["hugging_face"].model_validate(values).build(split)


def numbers(stream: Any, start: Position, count: int, batch_size: int = 3) -> list[tuple[int, ...]]:
    plans = StreamSampler(stream, seed=1, batch_size=batch_size).plans(start)
    return [next(plans).indices for _ in range(count)]


def test_streams_train_as_what_is_listed(
    datasets: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_order: None
) -> None:
    files = folder_of_images(tmp_path / "images")
    expected = losses(tmp_path / "a", {"type": "image_folder", "root": str(tmp_path / "images")})
    assert len(expected) == 4
    parquet = in_parquet(datasets, files, tmp_path / "parquet")
    data = {"type": "hugging_face", "path": parquet, "streaming": True}
    assert losses(tmp_path / "b", {**data, "shuffle_buffer": 1}) == expected
    assert losses(tmp_path / "c", {**data, "shuffle_buffer": 1}, "train.workers=1") == expected
    folder = {**data, "path": str(tmp_path / "images"), "shuffle_buffer": 1}
    assert interrupted(tmp_path / "d", folder, monkeypatch) == expected
    shuffled = losses(tmp_path / "e", {**data, "shuffle_buffer": 5})
    assert shuffled != expected
    assert interrupted(tmp_path / "f", {**data, "shuffle_buffer": 5}, monkeypatch) == shuffled


@pytest.mark.parametrize("buffer", [1, 3, 100])
def test_every_position_is_resumed(datasets: Any, tmp_path_factory: pytest.TempPathFactory, buffer: int) -> None:
    # The package takes "test" in a path for a split.
    folder = tmp_path_factory.mktemp("rows")
    rows = [json.dumps({"image": str(number), "label": "a"}) for number in range(11)]
    for number, part in enumerate((rows[:4], rows[4:])):
        (folder / f"train-{number}.jsonl").write_text("\n".join(part))
    stream = streamed(folder, classes=["a"], shuffle_buffer=buffer)
    plans = StreamSampler(stream, seed=1, batch_size=2).plans(Position())
    seen = [next(plans) for _ in range(12)]
    assert [plan.at.epoch for plan in seen] == [0] * 5 + [1] * 5 + [2] * 2
    for epoch in range(2):
        read = [number for plan in seen if plan.at.epoch == epoch for number in plan.indices]
        assert len(set(read)) == 10 and (read == list(range(10))) == (buffer == 1)
        assert all([row["image"] for row in plan.rows] == list(map(str, plan.indices)) for plan in seen)
    if buffer > 1:
        assert [plan.indices for plan in seen[:5]] != [plan.indices for plan in seen[5:10]]

    def resumed(after: Plan) -> Plan:
        # Positions are kept as JSON.
        start = Position(after.following.epoch, after.following.batch, json.loads(json.dumps(after.following.stream)))
        fresh = streamed(folder, classes=["a"], shuffle_buffer=buffer)
        return next(StreamSampler(fresh, seed=1, batch_size=2).plans(start))

    again = seen[0]
    for index, plan in enumerate(seen[:11]):
        # In a run that is interrupted once, and in one that is interrupted after each batch.
        once, again = resumed(plan), resumed(again)
        for next_plan in (once, again):
            assert (next_plan.at.epoch, next_plan.at.batch) == (seen[index + 1].at.epoch, seen[index + 1].at.batch)
            assert (next_plan.indices, next_plan.rows) == (seen[index + 1].indices, seen[index + 1].rows)


def test_ranks_share_batches(datasets: Any, tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text("\n".join(json.dumps({"image": "a", "label": "a"}) for _ in range(9)))
    stream = streamed(tmp_path, classes=["a"], shuffle_buffer=4)
    whole = numbers(stream, Position(), 3, batch_size=4)
    parts = [
        [plan.indices for _, plan in zip(range(3), sampler.plans(Position()), strict=False)]
        for sampler in (StreamSampler(stream, seed=1, batch_size=4, rank=rank, world_size=2) for rank in range(2))
    ]
    assert [batch[0::2] for batch in whole] == parts[0] and [batch[1::2] for batch in whole] == parts[1]


def test_files_are_divided_among_ranks(datasets: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("rows")
    rows = [json.dumps({"image": str(number), "label": "a", "text": f"text {number} " * 9}) for number in range(23)]
    for number, part in enumerate((rows[:3], rows[3:9], rows[9:16], rows[16:])):
        (folder / f"train-{number}.jsonl").write_text("\n".join(part))

    def rows_stream() -> Any:
        return streamed(folder, classes=["a"], shuffle_buffer=8, stream_readers=4)

    def windows() -> Any:
        given = {"type": "hugging_face", "path": str(folder), "streaming": True, "context": 16, "stream_readers": 2}
        return datasets_of("text")["hugging_face"].model_validate(given).build("train")

    for make in (rows_stream, windows):
        whole = list(islice(StreamSampler(make(), seed=1, batch_size=4).plans(Position()), 20))
        names = [make().name(index) for plan in whole for index in plan.indices]
        assert all(Path(name.rpartition(":")[0]).exists() for name in names)
        first = [index for plan in whole for epoch, index in zip(plan.epochs, plan.indices, strict=True) if not epoch]
        assert len(first) == len(set(first)) and (make is windows or len(first) == 23)
        for at in (0, 3, 7):
            position = Position(0, whole[at].following.batch, json.loads(json.dumps(whole[at].following.stream)))
            for ranks in (1, 2, 3):
                following = [
                    next(StreamSampler(make(), seed=1, batch_size=4, rank=rank, world_size=ranks).plans(position))
                    for rank in range(ranks)
                ]
                numbers_of = sorted(index for plan in following for index in plan.indices)
                assert numbers_of == sorted(whole[at + 1].indices)


def test_a_source_without_states_is_read_again(
    datasets: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "train.jsonl").write_text("\n".join(json.dumps({"image": "a", "label": "a"}) for _ in range(9)))
    stream = streamed(tmp_path, classes=["a"], shuffle_buffer=2)
    monkeypatch.setattr("hrt_modalities.common.streaming.HuggingFaceSource.state", lambda self: None)
    plans = StreamSampler(stream, seed=1, batch_size=2).plans(Position())
    seen = [next(plans) for _ in range(4)]
    assert next(StreamSampler(stream, seed=1, batch_size=2).plans(seen[2].following)) == seen[3]
    assert "cannot be resumed where it was: " in caplog.text and "rows are read again" in caplog.text


def test_a_stream_that_stops_keeps_what_was_trained(datasets: Any, tmp_path: Path, in_order: None) -> None:
    files = folder_of_images(tmp_path / "images")
    parquet = Path(in_parquet(datasets, files, tmp_path / "parquet"))
    data = {"type": "hugging_face", "path": str(parquet), "streaming": True, "shuffle_buffer": 1}
    expected = losses(tmp_path / "a", data)
    second = parquet / "train-00001-of-00002.parquet"
    whole = second.read_bytes()
    second.write_bytes(whole[: len(whole) // 2])
    message = r"1 of the 2 shards of train cannot be read, more than train\.max_bad_share .*\n.*train-00001-of-00002\.p"
    with pytest.raises(StreamError, match=message):
        losses(tmp_path / "b", data, "train.save_every=null", "train.workers=1")
    assert len((tmp_path / "b" / "run" / "metrics.jsonl").read_text().splitlines()) == 1
    second.write_bytes(whole)
    assert losses(tmp_path / "b", data, "train.save_every=null", resume=True) == expected


def test_sounds_videos_and_pairs(datasets: Any, tmp_path: Path) -> None:
    sounds = [wav(Audio(torch.full((800 + index,), 0.1), 8000)) for index in range(4)]
    pixels = [path.read_bytes() for path, _ in folder_of_images(tmp_path / "images")["train"][:4]]
    rows = {
        "audio": [{"bytes": sound, "path": "a.wav"} for sound in sounds],
        "image": pixels,
        "video": [film(tmp_path / f"{index}.mp4", 6 + index).read_bytes() for index in range(4)],
        "text": ["one", "two", "three", "four"],
    }
    table = datasets.Dataset.from_dict(rows)
    parts = {"train": table.select(range(3)), "test": table.select([3])}
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "saved"))
    spoken = streamed(tmp_path / "saved", modality="audio", label="text", label_column="text")
    assert [spoken.read(index, row).label for index, row in enumerate(spoken.open())] == ["one", "two", "three"]
    test = streamed(tmp_path / "saved", "test", modality="audio", label="text", label_column="text")
    assert len(test) == 1 and test[0].label == "four" and len(test[0].value.waveform_S) == 803
    filmed = streamed(tmp_path / "saved", modality="video", label="words", label_column="text", classes=rows["text"])
    clip = filmed.read(1, list(filmed.open())[1])
    assert len(clip.value.pixels_NCHW) == 7 and clip.label == ["two"] and clip.name == "train:1"
    assert filmed.classes == ("four", "one", "three", "two")
    sources = {
        "image": {"type": "image", "column": "image"},
        "sound": {"type": "audio", "column": "audio"},
        "text": {"type": "text", "column": "text"},
    }
    values = {"type": "joint_hugging_face", "path": str(tmp_path / "saved"), "streaming": True, "sources": sources}
    pairs: Any = joint_datasets()["joint_hugging_face"].model_validate({**values, "label_column": None}).build("train")
    read: Sequence[Any] = [pickle.loads(pickle.dumps(pairs)).read(index, row) for index, row in enumerate(pairs.open())]
    assert [sample.name for sample in read] == ["train:0", "train:1", "train:2"]
    assert read[1].value["text"] == "two" and read[1].value["image"].shape == (3, 4, 4)
    assert len(read[1].value["sound"].waveform_S) == 801


def test_files_in_archives(datasets: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("archives")
    folder_of_images(folder / "images")
    shutil.make_archive(str(folder / "zipped" / "train"), "zip", folder / "images" / "train" / "cat")
    stream = streamed(folder / "zipped", label_column=None)
    row = next(stream.open())
    assert isinstance(row["image"]["bytes"], bytes) and stream.read(0, row).value.shape == (3, 4, 4)


def test_mistakes_are_named(datasets: Any, tmp_path: Path) -> None:
    rows = {"image": [b"no image", b"x"], "label": ["cat", "cow"]}
    table = tmp_path / "images.parquet"
    datasets.Dataset.from_dict(rows).to_parquet(str(table))
    with pytest.raises(ConfigError, match=r"do not name the classes of 'label', .* list them in data\.classes"):
        streamed(table)
    stream = streamed(table, classes=["dog", "cat"])
    with pytest.raises(BadSample, match="train:0: not an image"):
        stream.read(0, next(stream.open()))
    with pytest.raises(ConfigError, match="is a stream, which is read in order"):
        len(stream)
    outside = {"image": {"bytes": None, "path": "file:///etc/hostname"}, "label": "cat"}
    with pytest.raises((ConfigError, BadSample), match="hostname"):
        stream.read(1, outside)
    with pytest.raises(ConfigError, match="leads out of"):
        stream.read(1, {**outside, "image": {"bytes": None, "path": "/etc/hostname"}})
    with pytest.raises(ConfigError, match="is a stream, whose splits are not listed"):
        stream.config.splits()
    with pytest.raises(ConfigError, match="has no split val; it has train"):
        streamed(table, "val", classes=["dog", "cat"])
    for values, message in (
        ({"classes": ["cat"], "streaming": False}, "classes has no effect without streaming"),
        ({"val": 0.3}, "val has no effect with streaming"),
        ({"split_column": "part"}, "split_column has no effect with streaming"),
    ):
        with pytest.raises(ValueError, match=message):
            streamed(table, **values)
    few = {"type": "hugging_face", "path": str(table), "streaming": True, "classes": ["cat", "cow"]}
    with pytest.raises(ConfigError, match=r"has 2 samples, fewer than train\.batch_size 3; lower it"):
        losses(tmp_path / "a", few, "train.test=false")
    picture = folder_of_images(tmp_path / "images")["train"][0][0].read_bytes()
    with pytest.raises(ConfigError, match=r"images\.parquet:train:1: 'cow' is none of the classes"):
        stream.read(1, {"image": picture, "label": "cow"})


def test_texts_are_windows_of_the_same_corpus(datasets: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("texts")
    texts = ["größer", "", "a", None, "a longer text of some words", "b" * 40, "", "end"]
    datasets.Dataset.from_dict({"text": texts}).to_parquet(str(folder / "rows.parquet"), batch_size=2)
    given = {"type": "hugging_face", "path": str(folder / "rows.parquet")}
    config: Any = datasets_of("text")["hugging_face"]
    for context in (2, 5, 7, 16, 1000):
        listed = config.model_validate({**given, "context": context, "val": 1e-9, "test": 1e-9}).build("train")
        listed.training = False
        stream = config.model_validate({**given, "context": context, "streaming": True, "shuffle_buffer": 1}).build(
            "train"
        )
        expected = [listed[index].value for index in range(len(listed))]
        source = stream.open()
        read: list[Any] = []
        states = []
        for window in source:
            read.append(stream.read(len(read), window).value)
            states.append(json.loads(json.dumps(source.state())))
        assert read == expected
        for number in range(0, len(states), 3):
            assert list(stream.open(states[number])) == expected[number + 1 :]
    few = {**given, "context": 5, "streaming": True, "shuffle_buffer": 3}
    sampler = StreamSampler(config.model_validate(few).build("train"), seed=1, batch_size=2)
    plans = sampler.plans(Position())
    seen = [next(plans) for _ in range(12)]
    following = next(sampler.plans(seen[4].following))
    assert seen[-1].at.epoch and (following.indices, following.rows) == (seen[5].indices, seen[5].rows)
    with pytest.raises(ConfigError, match="has no column 'body'; it has text"):
        config.model_validate({**few, "text_key": "body"}).build("train")
    with pytest.raises(ConfigError, match="has no split val"):
        config.model_validate(few).build("val")
    with pytest.raises(ValueError, match="shuffle_buffer has no effect without streaming"):
        config.model_validate({**few, "streaming": False})
