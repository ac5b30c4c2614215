"""Tables of files, for all modalities alike."""

from __future__ import annotations

import gzip
import json
import logging
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hrt_mm.core.errors import BadSample, ConfigError, UserError
from hrt_mm.data.listing import listed_in
from hrt_modalities.audio.folders import AudioManifestConfig as Sounds
from hrt_modalities.common.splits import SPLITS
from hrt_modalities.joint.manifest import JointManifestConfig as Joint
from hrt_modalities.text.documents import DocumentsConfig as Documents
from hrt_modalities.text.documents import TagsConfig
from hrt_modalities.video.folders import VideoManifestConfig as Videos
from hrt_modalities.vision.files import ImageManifestConfig as Images

SOURCES = {"image": {"type": "image", "column": "path"}, "text": {"type": "text", "column": "label"}}
KINDS: dict[str, tuple[Callable[..., Any], dict[str, Any], str]] = {
    "images": (Images, {"type": "image_manifest"}, ".png"),
    "sounds": (Sounds, {"type": "audio_manifest"}, ".wav"),
    "videos": (Videos, {"type": "video_manifest"}, ".mp4"),
    "documents": (Documents, {"type": "documents", "path_column": "path"}, ".txt"),
    "joint": (Joint, {"type": "joint_manifest", "sources": SOURCES}, ".png"),
}
Row = Mapping[str, Any]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def built(kind: str, file: Path, split: str = "train", **options: Any) -> Any:
    config, given, _ = KINDS[kind]
    return config(file=file, **given, **options).build(split)


def table(folder: Path, rows: Sequence[Row], name: str = "a.jsonl") -> Path:
    text = "".join(json.dumps(row) + "\n" for row in rows)
    if name.startswith("a.csv"):
        text = "\n".join([",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)])
    raw = text.encode()
    (folder / name).write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
    return folder / name


def put(folder: Path, kind: str, count: int = 3) -> list[dict[str, Any]]:
    """Files, and a row for each: of train, val and test by turns."""
    folder.mkdir(exist_ok=True)
    rows = []
    for index in range(count):
        (folder / f"{index}{KINDS[kind][2]}").write_bytes(b"x")
        rows.append({"path": f"{index}{KINDS[kind][2]}", "label": "cat", "split": SPLITS[index % 3]})
    return rows


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.jsonl", "a.jsonl.gz"])
def test_packed_tables(tmp_path: Path, kind: str, name: str) -> None:
    file = table(tmp_path, put(tmp_path, kind, 6), name)
    assert [len(built(kind, file, split)) for split in SPLITS] == [2, 2, 2]


def test_splits_are_known_in_any_case_and_form(tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    (row, *_) = put(tmp_path, kind)
    for forms in (("Train", "dev", "TEST"), ("training", "Valid", "Testing"), (" train ", "validation", "test")):
        file = table(tmp_path, [row | {"split": form} for form in forms])
        assert [len(built(kind, file, split)) for split in SPLITS] == [1, 1, 1]
    assert not caplog.text
    every = ("train", "training", "val", "valid", "validation", "dev", "eval", "test", "testing")
    file = table(tmp_path, [row | {"split": form} for form in every])
    with caplog.at_level(logging.WARNING):
        assert [len(built(kind, file, split)) for split in SPLITS] == [2, 5, 2]
    assert "'val' " in caplog.text and "'eval' " in caplog.text and "both read as the split val" in caplog.text
    with pytest.raises(ConfigError, match=r"a.jsonl:1: split must be train, val or test, got 'fold 1'; known are"):
        built(kind, table(tmp_path, [row | {"split": "fold 1"}]))


def test_a_root_is_trusted_and_the_table_is_not(tmp_path: Path, kind: str) -> None:
    rows = put(tmp_path / "files", kind)
    (tmp_path / "lists").mkdir()
    inside = [row | {"path": str(tmp_path / "files" / row["path"])} for row in rows]
    for item in (rows, inside):
        file = table(tmp_path / "lists", item)
        dataset = built(kind, file, root=tmp_path / "files")
        assert len(dataset) == 1
        if kind != "joint":
            assert dataset.items[0].name == rows[0]["path"]
    with pytest.raises(
        ConfigError, match=r"a.jsonl:1: path '/.*' leads out of the folder of the table.* Set data.root"
    ):
        built(kind, table(tmp_path / "lists", inside))
    for path in ("../lists/a.jsonl", "/etc/passwd", str(tmp_path / "filesx" / "0.png")):
        with pytest.raises(ConfigError, match=r"leads out of data.root .*files"):
            built(kind, table(tmp_path / "lists", [rows[0] | {"path": path}]), root=tmp_path / "files")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "a.csv",
            "path,label,split\n0.x,cat\n",
            "a.csv:2: the value of 'split' is missing, as the row has only 2 of 3",
        ),
        ("a.csv", "path,label,split\n0.x,,train\n", "a.csv:2: the value of 'label' is empty"),
        ("a.csv", "path,label,split\n0.x,cat,\n", "a.csv:2: the value of 'split' is empty"),
        (
            "a.csv",
            "path,label\n0.x,cat\n",
            "a.csv:2 has no column 'split'; it has path, label. Set data.split_column to .*, or to null",
        ),
        (
            "a.csv",
            "path,Label,split\n0.x,cat,train\n",
            "no column 'label'; it has .*; 'Label' is there: spaces or case",
        ),
        ("a.csv", "path;label;split\n0.x;cat;train\n", "no column '.*'; it has path;label;split; .*semicolons"),
        ("a.csv", "path,label,split\n", "a.csv has no rows"),
        ("a.jsonl", '{"path": "0.x", "label": null, "split": "train"}', "a.jsonl:1: the value of 'label' is null"),
        ("a.jsonl", '{"path": "0.x", "label": NaN, "split": "train"}', "a.jsonl:1: the value of 'label' is NaN"),
        (
            "a.jsonl",
            '{"path": "0.x", "split": "train"}',
            "a.jsonl:1 has no column 'label'; it has path, split. Set data.label_column to .*, or to null",
        ),
        (
            "a.jsonl",
            '{"path": "0.x", "split": "train"}\n{"path": "0.x", "label": "cat", "split": "train"}\n',
            "a.jsonl:1: the value of 'label' is missing, as the row has path, split",
        ),
    ],
)
def test_what_is_missing_is_named(tmp_path: Path, kind: str, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=message):
        built(kind, tmp_path / name)


@pytest.mark.parametrize(("label", "name"), [(3, "3"), (3.0, "3"), (-1, "-1"), ("3", "3"), ("a\ud800", "a\\ud800")])
def test_labels_that_are_numbers_or_hold_surrogates(tmp_path: Path, kind: str, label: Any, name: str) -> None:
    rows = [row | {"label": label} for row in put(tmp_path, kind)]
    options = {"sources": SOURCES | {"text": {"type": "text", "column": "path"}}} if kind == "joint" else {}
    config, given, _ = KINDS[kind]
    dataset = config(file=table(tmp_path, rows), **(given | options)).build("train")
    assert dataset.classes == (name,)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("pipe", "is a FIFO, not a file"),
        ("folder", "is a folder, not a file"),
        ("loop", "oop"),
        ("sub\\Cat", "'sub/Cat' is there: paths use / here"),
        ("SUB/cat", "'sub/Cat' is there: upper and lower case differ"),
        ("a\ud800", "cannot be read|cannot have"),
        ("x" * 300, "too long"),
        ("gone", "o such file"),
    ],
)
def test_paths_that_cannot_be_read_are_bad_samples(tmp_path: Path, kind: str, path: str, message: str) -> None:
    rows = put(tmp_path, kind)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "Cat").write_bytes(b"x")
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "pipe")
    dataset = built(kind, table(tmp_path, [row | {"path": path} for row in rows]))
    with pytest.raises(BadSample, match=message) as caught:
        dataset[0]
    str(caught.value).encode()
    if kind != "joint":
        with pytest.raises(BadSample, match=message):
            dataset.shape(0)
        dataset.name(0).encode()


@pytest.mark.parametrize("kind", ["sounds", "videos"])
def test_words_and_tags_that_hold_surrogates(tmp_path: Path, kind: str) -> None:
    rows = [row | {"label": ["a\ud800", "b"]} for row in put(tmp_path, kind)]
    assert built(kind, table(tmp_path, rows), label="words").classes == ("a\\ud800", "b")
    rows = [{"words": ["x"], "tags": ["\udfff"], "split": "train"}]
    assert TagsConfig(type="tags", file=table(tmp_path, rows)).build("train").classes == ("\\udfff",)


VALUES: st.SearchStrategy[Any] = st.one_of(
    st.sampled_from(
        ["0.x", "a", "train", "Val", "eval", "test", "", " ", ".", "..", "../x", "/etc/passwd", "//x", "a\\b", "a\0b",
         "\ud800", "\udce9", "x" * 5000, "pipe", "loop", None, 3, 3.0, 1.5, True, [], ["a"], {}, 10**400]
    ),
    st.floats(),
    st.text(max_size=5),
)  # fmt: skip
ROWS = st.lists(
    st.dictionaries(st.sampled_from(["path", "label", "split", "id", "other"]), VALUES, max_size=5), max_size=4
)


@settings(max_examples=60)
@given(ROWS)
def test_any_rows_are_samples_or_named_mistakes(rows: list[dict[str, Any]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.mkfifo(folder / "pipe")
        (folder / "loop").symlink_to("loop")
        file = table(folder, rows)
        for kind in KINDS:
            try:
                dataset = built(kind, file)
                for label in dataset.classes or ():
                    label.encode()
                dataset.name(0).encode()
                dataset[0]
            except UserError as error:
                str(error).encode()
        try:
            for item in listed_in([file]):
                (item.name + str(item.info)).encode()
        except UserError as error:
            str(error).encode()
