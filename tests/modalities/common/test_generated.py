"""Folders of made data that are damaged, half made, or on a full disk."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from hrt_mm.core.errors import ConfigError
from hrt_modalities.audio.synthetic import spoken
from hrt_modalities.common.generated import FILE, generated
from tests.damage import cuts, flips, full_disk


class Maker:
    """Makes two files, and counts how often."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self, folder: Path) -> None:
        self.times += 1
        (folder / "train").mkdir()
        (folder / "train" / "0.mp4").write_bytes(bytes(range(200)))
        (folder / "train.jsonl").write_text("{}\n")

    def made(self, home: Path) -> dict[str, bytes]:
        folder = generated("video", "plan", home, self, "data.folder")
        return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_it_is_made_once(tmp_path: Path) -> None:
    maker = Maker()
    right = maker.made(tmp_path / "home")
    assert sorted(right) == ["0.mp4", FILE, "train.jsonl"]
    assert maker.made(tmp_path / "home") == right and maker.times == 1
    assert len(list((tmp_path / "home").iterdir())) == 1


@pytest.mark.parametrize("name", ["0.mp4", "train.jsonl", FILE])
def test_what_is_damaged_is_made_anew(tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    maker = Maker()
    right = maker.made(tmp_path)
    (path,) = tmp_path.rglob(name)
    for _, changed in [*flips(right[name], 15), *cuts(right[name], 3)]:
        path.write_bytes(changed)
        assert maker.made(tmp_path) == right
    path.unlink()
    # A folder of an older version lacks the file.
    assert maker.made(tmp_path).keys() == right.keys() - ({name} if name == FILE else set())
    assert "is generated again" in caplog.text
    assert len(list(tmp_path.iterdir())) == 1


def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    maker = Maker()
    with full_disk(100), pytest.raises(ConfigError, match=r"cannot be written: File too large; set data.folder"):
        maker.made(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert maker.made(tmp_path)


def test_what_a_killed_process_left_is_cleared_away(tmp_path: Path) -> None:
    for name in (".video-old", ".video-new", ".other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "half").write_bytes(b"x")
    os.utime(tmp_path / ".video-old", (0, 0))
    Maker().made(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name[0] == ".") == [".other", ".video-new"]


def test_a_damaged_table_of_speech_is_named(tmp_path: Path) -> None:
    row = {"text": "a", "voice": "v", "offset": 0.0, "duration": 1.0, "words": [[0.0, "a"]], "phonemes": [[0, "a"]]}
    path = tmp_path / "train.jsonl"
    path.write_text(json.dumps(row) + "\n" + json.dumps(row | {"offset": 1.5}) + "\n")
    assert spoken(tmp_path, "train")[1]["offset"] == 1.5
    for text in (
        "[1]",
        "{}",
        json.dumps(row | {"words": 3}),
        "[" * 100_000,
        f"{json.dumps(row)}\n{json.dumps(row)}",
        "\xff",
    ):
        path.write_text(text)
        with pytest.raises(ConfigError, match=r"train.jsonl is broken: .*remove its folder, and it is generated again"):
            spoken(tmp_path, "train")
