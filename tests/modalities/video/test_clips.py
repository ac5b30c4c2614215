"""Datasets of video files: folders, tables, public layouts, parts, caches, and what cannot be used."""

from __future__ import annotations

import json
import logging
import os
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from hrt_mm.core.errors import BadSample, ConfigError
from hrt_modalities.corpora.actions import KineticsConfig, Ucf101Config
from hrt_modalities.corpora.grid.video import GridVideoConfig
from hrt_modalities.video.clips import Clips
from hrt_modalities.video.folders import VideoFolderConfig, VideoManifestConfig
from hrt_modalities.video.rendering import Edit, Shot, render, write
from hrt_modalities.video.tokenizer import VideoConfig
from hrt_modalities.video.video import Video
from tests.damage import cuts, flips, full_disk, other_content
from tests.modalities.video.films import damaged, film, sound_alone
from tests.modalities.video.streams import KINDS, encode


def folder(root: Path, **options: Any) -> VideoFolderConfig:
    return VideoFolderConfig.model_validate({"type": "video_folder", "root": root, **options})


def table(file: Path, rows: list[dict[str, Any]], **options: Any) -> VideoManifestConfig:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return VideoManifestConfig.model_validate({"type": "video_manifest", "file": file, **options})


SPLIT_LABELS = [(split, name) for split in ("train", "val", "test") for name in ("run", "walk")]


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    for split in ("train", "val", "test"):
        for name in ("run", "walk"):
            film(tmp_path / split / name / "a.mp4", 12)
    return tmp_path


def test_a_folder_with_a_folder_a_class(clips: Path) -> None:
    dataset = folder(clips, side=24, sampling={"type": "all", "rate": 12.5}).build("train")
    assert dataset.classes == ("run", "walk") and len(dataset) == 2
    sample = dataset[1]
    assert (sample.label, sample.name) == ("walk", "train/walk/a.mp4")
    video = sample.value
    assert isinstance(video, Video) and video.pixels_NCHW.shape == (6, 3, 24, 32) == tuple(dataset.shape(1))
    assert video.times_N.tolist() == pytest.approx([0.08 * number for number in range(6)])


def test_folders_without_splits_are_split_by_name(tmp_path: Path) -> None:
    for number in range(12):
        film(tmp_path / "one" / f"{number}.mp4", 2)
    config = folder(tmp_path, val=0.3, test=0.3)
    names = []
    for split in ("train", "val", "test"):
        dataset = config.build(split)
        names.append({dataset.name(index) for index in range(len(dataset))})
    assert sum(map(len, names)) == 12 == len(set.union(*names)) and all(names)


def test_parts_of_a_file_with_boundaries(tmp_path: Path) -> None:
    film(tmp_path / "a.mp4", 50)
    rows = [
        {"path": "a.mp4", "label": "x", "split": split, "from": 0.4, "to": 1.2, "shots": "0 0.6 1.0 1.4"}
        for split in ("train", "val")
    ]
    columns = {"offset_column": "from", "end_column": "to", "boundary_columns": ["shots"]}
    video = table(tmp_path / "list.jsonl", rows, **columns).build("train")[0].value
    assert len(video) == 20 and video.seconds == pytest.approx(0.8)
    assert video.boundaries["shots"] == pytest.approx((0.2, 0.6))
    columns = {"offset_column": "from", "duration_column": "for", "boundary_columns": ["shots"]}
    rows = [{"for": 0.8, **{key: value for key, value in row.items() if key != "to"}} for row in rows]
    same = table(tmp_path / "same.jsonl", rows, **columns).build("train")[0].value
    assert len(same) == 20 and same.boundaries["shots"] == pytest.approx((0.2, 0.6))


def test_alignments_and_chapters_are_boundaries(tmp_path: Path) -> None:
    film(tmp_path / "a.mp4", 50, chapters=(0.0, 0.8, 1.2))
    (tmp_path / "a.tsv").write_text("tier\tstart\tend\tlabel\nwords\t0.2\t0.9\thello\nwords\t0.9\t1.5\tyou\n")
    rows = [{"path": "a.mp4", "label": "x", "split": split, "from": 0.4, "said": "a.tsv"} for split in ("train", "val")]
    options = {"offset_column": "from", "alignment_column": "said"}
    video = table(tmp_path / "list.jsonl", rows, **options).build("train")[0].value
    assert video.boundaries["words"] == pytest.approx((0.5,))
    assert video.boundaries["chapters"] == pytest.approx((0.4, 0.8))


def test_shots_can_be_found_in_the_picture(tmp_path: Path) -> None:
    pytest.importorskip("scenedetect")
    edit = Edit((Shot("left", 1.6), Shot("grow", 1.6)), ("cuts",), (0.0,), 5)
    for split in ("train", "val"):
        (tmp_path / split / "x").mkdir(parents=True)
        write(tmp_path / split / "x" / "a.mp4", render(edit, 12.5, (48, 64)), 12.5, (48, 64), {"preset": "veryfast"})
    video = folder(tmp_path, find_shots="content").build("train")[0].value
    assert video.boundaries["shots"] == pytest.approx((0.0, 1.6))


def test_windows_take_their_boundaries_along(tmp_path: Path) -> None:
    film(tmp_path / "a.mp4", 50)
    rows = [{"path": "a.mp4", "label": "x", "split": split, "shots": [0.1, 0.9, 1.9]} for split in ("train", "val")]
    options = {"boundary_columns": ["shots"], "sampling": {"type": "dense", "frames": 10, "rate": 25}}
    video = table(tmp_path / "list.jsonl", rows, **options).build("val")[0].value
    # The window is from 0.8 to 1.2 s.
    assert len(video) == 10 and video.boundaries["shots"] == pytest.approx((0.1,))


def test_several_windows_are_tested_and_one_is_trained_on(clips: Path) -> None:
    dense = {"type": "dense", "frames": 4, "rate": 25, "windows": 3}
    config = folder(clips, sampling=dense)
    tested = config.build("test")
    windows = tested[0].value
    assert isinstance(windows, tuple) and [len(item) for item in windows] == [4, 4, 4]
    whole = folder(clips).build("test")[0].value.pixels_NCHW
    for item, first in zip(windows, (0, 4, 8), strict=True):
        assert torch.equal(item.pixels_NCHW, whole[first : first + 4])
    assert tuple(tested.shape(0)) == (12, 3, 48, 64)
    for one in (config.build("train"), config.plain("test")):
        assert isinstance(one[0].value, Video) and len(one[0].value) == 4 == one.shape(0)[0]


def test_captions_are_boundaries(tmp_path: Path) -> None:
    film(tmp_path / "a.mp4", 50)
    (tmp_path / "a.srt").write_text("1\n00:00:00,400 --> 00:00:00,800\nHi\n\n2\n00:00:01,200 --> 00:00:01,600\nBye\n")
    rows = [{"path": "a.mp4", "label": name, "split": split, "said": "a.srt"} for split, name in SPLIT_LABELS]
    config = table(tmp_path / "x.jsonl", rows, alignment_column="said")
    video = config.build("train")[0].value
    assert video.boundaries == {"subtitles": (0.4, 1.2)}
    tokenizer = VideoConfig(type="video", patch=16, tube=1).build().with_boundaries({"subtitles"})
    starts = tokenizer([video]).boundaries["subtitles"].view(50, 3 * 4)
    assert starts[:, 0].nonzero().flatten().tolist() == [0, 10, 30] and not starts[:, 1:].any()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"path": "../a.mp4"}, "leads out of the folder of the table"),
        ({"path": "/etc/passwd"}, "leads out of the folder of the table"),
        ({"from": "soon"}, "from must be a number of seconds, got 'soon'"),
        ({"shots": "1 two"}, "shots must be a number of seconds, got 'two'"),
        ({"split": "practice"}, "split must be train, val or test"),
        ({"label": ""}, "the value of 'label' is empty"),
    ],
    ids=str,
)
def test_bad_rows_are_named(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    rows = [{"path": "a.mp4", "label": "x", "split": "train", "from": 0, "to": 1, "shots": "0", **row}]
    columns = {"offset_column": "from", "end_column": "to", "boundary_columns": ["shots"]}
    with pytest.raises(ConfigError, match=message) as error:
        table(tmp_path / "list.jsonl", rows, **columns).build("train")
    assert "list.jsonl:1" in str(error.value)


@pytest.mark.parametrize(("begin", "end"), [(0.5, 0.5), (3.0, None), (0.0, 9.0), (-1.0, None)])
def test_parts_that_are_none_are_bad_samples(tmp_path: Path, begin: float, end: float | None) -> None:
    film(tmp_path / "a.mp4", 25)
    rows = [
        {"path": "a.mp4", "label": "x", "split": split, "from": begin, "to": end or 99} for split in ("train", "val")
    ]
    columns = {"offset_column": "from", **({"end_column": "to"} if end else {})}
    with pytest.raises(BadSample, match=r"has no length|leads past the end"):
        table(tmp_path / "list.jsonl", rows, **columns).build("train")[0]


def test_links_out_of_the_folder_are_not_followed(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    secret = film(tmp_path_factory.mktemp("out") / "secret.mp4", 3)
    (clips / "train" / "run" / "a.mp4").unlink()
    (clips / "train" / "run" / "a.mp4").symlink_to(secret)
    with pytest.raises(BadSample, match="a link leads out of"):
        folder(clips).build("train")[0]
    assert len(folder(clips, follow_links=True).build("train")[0].value) == 3


def test_broken_frames_are_left_out_with_their_times_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for split in ("train", "val"):
        damaged(tmp_path / split / "one" / "a.mp4", 12)
    with caplog.at_level(logging.WARNING):
        video = folder(tmp_path).build("train")[0].value
    assert len(video) == len(video.times_N) == 32 and video.lost == 8
    assert "8 frames are broken or refer to broken ones" in caplog.text
    gaps = video.times_N.diff()
    assert int((gaps > 0.05).sum()) == 2


def test_a_cache_gives_the_same_frames_without_a_decoder(clips: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = folder(clips, cache={"dir": clips / "cache"})
    first = config.build("train")[0].value
    monkeypatch.setattr("hrt_modalities.video.readers.file.VideoFile.frames", None)
    again = config.build("train")[0].value
    assert torch.equal(first.pixels_NCHW, again.pixels_NCHW) and torch.equal(first.times_N, again.times_N)
    # A changed file is read anew, and broken entries are not trusted.
    for entry in (clips / "cache").iterdir():
        entry.write_bytes(b"no array")
    monkeypatch.undo()
    assert torch.equal(config.build("train")[0].value.pixels_NCHW, first.pixels_NCHW)
    film(clips / "train" / "run" / "a.mp4", 5)
    assert len(config.build("train")[0].value) == 5


def test_a_damaged_entry_of_the_cache_is_decoded_again(clips: Path) -> None:
    config = folder(clips, cache={"dir": clips / "cache"})
    right = config.build("train")[0].value.pixels_NCHW
    (entry,) = [path for path in (clips / "cache").iterdir() if path.stat().st_size > right.numel()][:1]
    data = entry.read_bytes()
    for _, changed in [*flips(data, 30), *cuts(data, 4), *other_content()]:
        entry.write_bytes(changed)
        assert torch.equal(config.build("train")[0].value.pixels_NCHW, right)
        assert entry.read_bytes() == data, "a good entry takes the place of the damaged one"


def test_a_cache_is_left_clean_by_a_full_disk(clips: Path) -> None:
    config = folder(clips, cache={"dir": clips / "cache"})
    (clips / "cache").mkdir()
    (clips / "cache" / "killed.part").write_bytes(b"half")
    os.utime(clips / "cache" / "killed.part", (0, 0))
    with full_disk(300):
        assert len(config.build("train")[0].value) == 12
    assert list((clips / "cache").iterdir()) == []


def test_a_full_cache_takes_nothing(clips: Path) -> None:
    config = folder(clips, cache={"dir": clips / "cache", "max_gib": 1e-7})
    assert len(config.build("train")[0].value) == 12
    assert not list((clips / "cache").iterdir())


def test_augmentation_changes_all_frames_alike(clips: Path) -> None:
    dataset = folder(clips, augment=[{"type": "flip", "p": 1.0}]).build("train")
    assert isinstance(dataset, Clips)
    video, plain = dataset[0].value, dataset.read(dataset.items[0])
    assert torch.equal(video.pixels_NCHW, plain.pixels_NCHW.flip(3))


def test_ucf101_lists(tmp_path: Path) -> None:
    names = [f"Run/v_Run_g{group:02}_c{take:02}.avi" for group in range(1, 9) for take in (1, 2)]
    for name in names:
        film(tmp_path / "videos" / name, 2, codec="mpeg4")
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "trainlist01.txt").write_text("".join(f"{name} 1\n" for name in names[:14]))
    (lists / "testlist01.txt").write_text("".join(f"{name}\n" for name in names[14:]))
    options = {"type": "ucf101", "root": tmp_path / "videos", "lists": lists, "val": 0.4}
    config = Ucf101Config.model_validate(options)
    parts = {split: [item.name for item in config.build(split).items] for split in ("train", "val", "test")}
    assert parts["test"] == names[14:] and sorted(parts["train"] + parts["val"]) == names[:14]
    groups = [{name.rsplit("_c", 1)[0] for name in parts[split]} for split in ("train", "val")]
    assert not groups[0] & groups[1]
    assert config.build("train")[0].label == "Run"
    (lists / "trainlist01.txt").write_text("../../secret.avi 1\n")
    with pytest.raises(ConfigError, match=r"trainlist01.txt:1 must be CLASS/VIDEO.avi"):
        config.build("train")


def test_kinetics_lists(tmp_path: Path) -> None:
    header = "label,youtube_id,time_start,time_end,split\n"
    (tmp_path / "train.csv").write_text(header + "jump,abc,1,2,train\njump,gone,0,10,train\nrun,whole,0.2,0.6,train\n")
    (tmp_path / "validate.csv").write_text(header + "run,whole,0,0.4,val\n")
    film(tmp_path / "train" / "jump" / "abc_000001_000002.mp4", 4)
    film(tmp_path / "whole.mp4", 25)
    config = KineticsConfig.model_validate({"type": "kinetics", "root": tmp_path})
    train = config.build("train")
    assert [(item.name, item.target, item.end) for item in train.items] == [
        ("train/jump/abc_000001_000002.mp4", "jump", None),
        ("whole.mp4", "run", 0.6),
    ]
    assert len(train[1].value) == 10 and len(config.build("val")) == 1


def test_grid_reads_mouths_with_their_words(tmp_path: Path) -> None:
    index = "id\tmouth\tsentence\tsplit\n"
    words = "id\tword\tstart_s\tend_s\n"
    for split in ("train", "val", "test"):
        film(tmp_path / "mouth" / f"{split}.mp4", 50)
        index += f"{split}\tmouth/{split}.mp4\tbin blue\t{split}\n"
        words += f"{split}\tsil\t0\t0.4\n{split}\tbin\t0.4\t0.9\n{split}\tsp\t0.9\t1.0\n{split}\tblue\t1.0\t2.0\n"
    (tmp_path / "index.tsv").write_text(index)
    (tmp_path / "words.tsv").write_text(words)

    def grid(**options: Any) -> Any:
        return GridVideoConfig.model_validate({"type": "grid_video", "root": tmp_path, **options}).build("test")[0]

    sample = grid()
    assert sample.label == ["bin", "blue"] and sample.value.boundaries["words"] == (0.0, 0.4, 0.9, 1.0)
    assert grid(label="segments").label == ["sil", "bin", "sil", "blue"]
    assert grid(label="slots").label == [None, "bin", None, "blue"]
    assert grid(label="text").label == "bin blue" and grid(label="characters").label == list("bin blue")


def test_real_mouths(data_root: Path) -> None:
    root = data_root / "grid_s1"
    if not root.is_dir():
        pytest.skip(f"{root} is not here")
    dataset = GridVideoConfig.model_validate({"type": "grid_video", "root": root}).build("test")
    assert len(dataset) == 100 and len(dataset.classes or ()) == 51
    sample = dataset[0]
    assert sample.value.pixels_NCHW.shape == (75, 3, 48, 96) and len(sample.label) == 6


def test_settings_that_disagree(clips: Path) -> None:
    with pytest.raises(ConfigError, match=r"data.test has no effect: .* has its own splits"):
        folder(clips, test=0.2).build("train")
    with pytest.raises(ValidationError, match="readers must be one or more different ones"):
        folder(clips, readers=["pyav", "pyav"])
    rows = [{"path": "a.mp4", "label": "a b", "split": split} for split in ("train", "val")]
    with pytest.raises(ConfigError, match="labels are sequences over the whole video"):
        table(clips / "x.jsonl", rows, label="words", sampling={"type": "dense", "frames": 4, "rate": 5}).build("train")
    (clips / "empty").mkdir()
    with pytest.raises(ConfigError, match="has no folders in it"):
        folder(clips / "empty").build("train")


def test_files_without_pictures_are_bad_samples(clips: Path) -> None:
    sound_alone(clips / "train" / "run" / "b.mp4")
    (clips / "train" / "walk" / "c.mp4").write_text("dear diary")
    dataset = folder(clips).build("train")
    reasons = []
    for number in range(len(dataset)):
        try:
            dataset[number]
        except BadSample as error:
            reasons.append(str(error))
    assert len(dataset) == 4 and len(reasons) == 2
    assert "train/run/b.mp4: holds sound alone" in reasons[0] and "train/walk/c.mp4" in reasons[1]


@pytest.mark.parametrize(("square", "columns"), [(True, 128), (False, 64)])
def test_shape_of_pixels_is_a_setting(tmp_path: Path, square: bool, columns: int) -> None:
    (tmp_path / "train" / "one").mkdir(parents=True)
    encode(tmp_path / "train" / "one" / "a.mp4", KINDS["h264"], frames=4, aspect=Fraction(2))
    result = folder(tmp_path, square_pixels=square).build("train")
    assert result.shape(0) == (4, 3, 48, columns) == tuple(result[0].value.pixels_NCHW.shape)
