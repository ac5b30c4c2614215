from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from hrt_mm.core.errors import BadSample, ConfigError
from hrt_modalities.audio.recordings import Recordings
from hrt_modalities.corpora import speech as corpora
from hrt_modalities.corpora.download import Archive, fetch
from hrt_modalities.corpora.speech import LibriSpeechConfig, SpeechCommandsConfig
from tests.modalities.audio.small_corpora import sound


def commands(root: Path, split: str = "train", **values: object) -> Recordings:
    return SpeechCommandsConfig.model_validate({"type": "speech_commands", "root": root} | values).build(split)


def libri(root: Path, split: str = "train", **values: object) -> Recordings:
    result = LibriSpeechConfig.model_validate({"type": "librispeech", "root": root} | values).build(split)
    assert isinstance(result, Recordings)
    return result


def spoken(root: Path) -> Path:
    """Speech Commands in small: four sounds of each of three words."""
    for word in ("yes", "no", "up"):
        for number in range(4):
            sound(root / word / f"{number}_nohash_0.wav", 0.1)
    sound(root / "_background_noise_" / "hum.wav")
    (root / "validation_list.txt").write_text("".join(f"{word}/1_nohash_0.wav\n" for word in ("yes", "no", "up")))
    (root / "testing_list.txt").write_text("".join(f"{word}/2_nohash_0.wav\n" for word in ("yes", "no", "up")))
    return root


@pytest.fixture
def words(tmp_path: Path) -> Path:
    return spoken(tmp_path)


@pytest.fixture
def books(tmp_path: Path) -> Path:
    root = tmp_path / "LibriSpeech"
    for part, count in (("train-clean-100", 3), ("dev-clean", 1), ("test-clean", 2)):
        folder = root / part / "84" / "121"
        lines = []
        for number in range(count):
            sound(folder / f"84-121-{number}.flac", 0.2, 16000)
            lines.append(f"84-121-{number} HELLO WORLD {'AGAIN ' * number}".strip())
        (folder / "84-121.trans.txt").write_text("\n".join(lines) + "\n")
    return root


def test_speech_commands(words: Path) -> None:
    assert [len(commands(words, split)) for split in ("train", "val", "test")] == [6, 3, 3]
    result = commands(words, "test")
    assert result.classes == ("no", "up", "yes") and {item.name for item in result.items} == {
        f"{word}/2_nohash_0.wav" for word in ("no", "up", "yes")
    }
    assert result[0].label == "no" and result[0].value.boundaries["words"] == (0.0,)
    with pytest.raises(ConfigError, match=r"data.split_seed has no effect: data.type speech_commands has its own val"):
        commands(words, split_seed=1)
    assert commands(words, words=("yes", "no")).classes == ("no", "yes")
    assert commands(words, label="characters")[0].label == ["n", "o"]
    with pytest.raises(ConfigError, match="no 'maybe'"):
        commands(words, words=("maybe",))
    (words / "testing_list.txt").unlink()
    with pytest.raises(ConfigError, match="download: true"):
        commands(words)


def test_librispeech(books: Path) -> None:
    assert [len(libri(books, split)) for split in ("train", "val", "test")] == [3, 1, 2]
    assert libri(books, "test", label="words")[1].label == ["hello", "world", "again"]
    assert libri(books, "test", label="text")[0].label == "hello world"
    result = libri(books, "val")
    assert result.classes == tuple(sorted(set("hello world again"))) and result[0].value.seconds == 0.2
    with pytest.raises(ConfigError, match="no folder train-other-500"):
        libri(books, train=("train-other-500",))
    with pytest.raises(ValidationError, match="two splits"):
        libri(books, train=("dev-clean",))
    file = books / "test-clean" / "84" / "121" / "84-121.trans.txt"
    file.write_text("../../../secret HELLO\n")
    with pytest.raises(ConfigError, match=r"trans.txt:1 is no name and text"):
        libri(books, "test")
    file.write_text("84-121-9 HELLO\n")
    with pytest.raises(BadSample, match="No such file"):
        libri(books, "test")[0]


def test_other_corpora_in_the_layout_of_librispeech(tmp_path: Path) -> None:
    for part, suffix in (("training", "wav"), ("held_out", "ogg")):
        for number in range(2):
            sound(tmp_path / part / "anna" / f"{number}.{suffix}", 0.2, 16000)
        (tmp_path / part / "anna" / "anna.trans.txt").write_text("0 Hello\n1 WORLD\n")
    parts: dict[str, Any] = {"train": ("training",), "valid": ("held_out",), "test": ()}
    result = libri(tmp_path, "val", label="words", **parts)
    assert [result[index].label for index in range(2)] == [["hello"], ["world"]]
    assert [item.name for item in result.items] == ["held_out/anna/0.ogg", "held_out/anna/1.ogg"]
    with pytest.raises(ConfigError, match=r"no folder train; it has held_out, training; set data\.train, valid"):
        libri(tmp_path, **{**parts, "train": ("train",)})
    with pytest.raises(ValidationError, match="pattern"):
        libri(tmp_path, **{**parts, "train": ("../training",)})
    (tmp_path / "training" / "anna" / "anna.trans.txt").unlink()
    with pytest.raises(ConfigError, match=r"training has no \.trans\.txt"):
        libri(tmp_path, **parts)


def archive(file: Path, names: dict[str, bytes]) -> Archive:
    with tarfile.open(file, "w:gz") as tar:
        for name, content in names.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return Archive(file.as_uri(), hashlib.sha256(file.read_bytes()).hexdigest())


def test_archives_are_checked_and_stay_inside(tmp_path: Path) -> None:
    root = tmp_path / "data"
    good = archive(tmp_path / "a.tar.gz", {"b/c.txt": b"text"})
    fetch(good, root)
    assert (root / "b" / "c.txt").read_bytes() == b"text" and [path.name for path in root.iterdir()] == ["b"]
    with pytest.raises(ConfigError, match="the published file has"):
        fetch(Archive(good.url, "0" * 64), tmp_path / "other")
    assert not list((tmp_path / "other").iterdir())
    with pytest.raises(ConfigError, match="cannot be unpacked"):
        fetch(archive(tmp_path / "b.tar.gz", {"../evil.txt": b"x"}), root)
    assert not (tmp_path / "evil.txt").exists()
    with pytest.raises(ConfigError, match="cannot be fetched"):
        fetch(Archive((tmp_path / "none").as_uri(), ""), root)
    broken = tmp_path / "c.tar.gz"
    broken.write_bytes(b"no archive")
    with pytest.raises(ConfigError, match="cannot be unpacked"):
        fetch(Archive(broken.as_uri(), hashlib.sha256(b"no archive").hexdigest()), root)


def test_downloads_come_when_asked_for(words: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = {
        path.relative_to(words).as_posix(): path.read_bytes()
        for path in sorted(words.rglob("*"))
        if path.suffix in (".wav", ".txt")
    }
    monkeypatch.setattr(corpora, "_COMMANDS", archive(tmp_path / "all.tar.gz", names))
    with pytest.raises(ConfigError, match="download: true"):
        commands(tmp_path / "new")
    assert len(commands(tmp_path / "new", download=True)) == 6
    assert len(commands(tmp_path / "new")) == 6
