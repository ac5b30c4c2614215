from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from hrt_mm.core.errors import ConfigError
from hrt_modalities.audio import Audio
from hrt_modalities.audio.files import wav
from hrt_modalities.audio.folders import AudioManifestConfig
from hrt_modalities.audio.kaldi import KaldiConfig
from hrt_modalities.audio.nemo import NemoConfig


def kaldi(root: Path, split: str = "train", **options: Any) -> Any:
    return KaldiConfig.model_validate({"type": "kaldi", "root": root, **options}).build(split)


def write(folder: Path, name: str, *lines: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("".join(f"{line}\n" for line in lines))


@pytest.fixture
def sounds(tmp_path: Path) -> Path:
    (tmp_path / "wav").mkdir()
    for index in range(3):
        ramp_S = torch.arange(8000) / 16000
        (tmp_path / "wav" / f"{index}.wav").write_bytes(wav(Audio(ramp_S * (index + 1) / 3, 8000)))
    return tmp_path


def test_kaldi_with_segments(sounds: Path) -> None:
    data = sounds / "data"
    write(data / "train", "wav.scp", "r0 wav/0.wav", "r1 wav/1.wav")
    write(data / "train", "segments", "u0 r0 0.25 0.5", "u1 r0 0.5 -1", "u2 r1 0 0.125")
    write(data / "train", "text", "u0 hello  world", "u1 again", "u2 more")
    write(data / "train", "utt2spk", "u0 a", "u1 a", "u2 b")
    write(data / "dev", "wav.scp", f"r2 {sounds}/wav/2.wav")
    write(data / "dev", "text", "r2 more again")
    train, val = (kaldi(data, split, audio_root=sounds) for split in ("train", "val"))
    assert [train[index].label for index in range(3)] == [["hello", "world"], ["again"], ["more"]]
    assert [len(train[index].value.waveform_S) for index in range(3)] == [2000, 4000, 1000]
    assert train[0].value.waveform_S[0] == pytest.approx(0.25 / 2 / 3, abs=1e-4)
    assert len(val) == 1 and len(val[0].value.waveform_S) == 8000 and val.classes == train.classes


def test_kaldi_without_splits(sounds: Path) -> None:
    write(sounds, "wav.scp", *(f"u{index} wav/{index}.wav" for index in range(3)))
    write(sounds, "text", *(f"u{index} word{index}" for index in range(3)))
    write(sounds, "utt2spk", "u0 a", "u1 b", "u2 c")
    options = {"group": "speaker", "label": "text", "val": 0.3, "test": 0.3}
    assert sum(len(kaldi(sounds, split, **options)) for split in ("train", "val", "test")) == 3


@pytest.mark.parametrize(
    ("name", "line", "message"),
    [
        ("wav.scp", "u0 sox a.wav -t wav - |", r"wav\.scp:1 has the command .* and commands are not run"),
        ("wav.scp", "u0 raw.ark:17", r"wav\.scp:1 names an archive"),
        ("wav.scp", "u0 ../0.wav", "leads out of"),
        ("segments", "u0 absent 0 1", r"segments:1 must be an utterance, a recording of wav\.scp"),
        ("segments", "u0 r0 zero 1", "offset must be a number of seconds, got 'zero'"),
        ("text", "other words", "the value of 'text' is missing"),
        ("text", "u0 a\nu0 b", "text:2 has u0 again, after line 1"),
    ],
)
def test_mistakes_are_named(sounds: Path, name: str, line: str, message: str) -> None:
    write(sounds, "wav.scp", "r0 wav/0.wav")
    write(sounds, "segments", "u0 r0 0 0.5")
    write(sounds, "text", "u0 words")
    if name == "wav.scp":
        (sounds / "segments").unlink()
    write(sounds, name, line)
    with pytest.raises(ConfigError, match=message):
        kaldi(sounds)


def test_a_manifest_of_nemo(sounds: Path) -> None:
    rows = [{"audio_filepath": f"wav/{index}.wav", "duration": 0.5, "text": f"word {index}"} for index in range(3)]
    (sounds / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    values = {
        "type": "audio_manifest",
        "file": sounds / "manifest.jsonl",
        "path_column": "audio_filepath",
        "duration_column": "duration",
        "label_column": "text",
        "label": "words",
        "split_column": None,
        "val": 0.3,
        "test": 0.3,
        "split_by": "hash",
    }
    config = AudioManifestConfig.model_validate(values)
    members = config.splits().members
    train = config.build("train")
    assert sum(map(len, members.values())) == 3
    assert train[0].label[0] == "word" and len(train[0].value.waveform_S) == 4000


def nemo(root: Path, split: str = "train", **options: Any) -> Any:
    return NemoConfig.model_validate({"type": "nemo", "root": root, **options}).build(split)


def test_manifests_of_nemo(sounds: Path) -> None:
    rows: dict[str, list[dict[str, Any]]] = {
        "train_clean.json": [
            {"audio_filepath": "../wav/0.wav", "duration": 0.25, "offset": 0.5, "text": "hello  world"},
            {"audio_filepath": str(sounds / "wav" / "1.wav"), "duration": 1.0, "text": "again", "offset": None},
        ],
        "dev_clean.json": [{"audio_filepath": "../wav/2.wav", "text": "again world", "lang": "en"}],
    }
    for name, lines in rows.items():
        write(sounds / "lists", name, *map(json.dumps, lines))
    with pytest.raises(
        ConfigError, match=r"dev_clean\.json:1: path '\.\./wav/2\.wav' leads out of .*Set data\.audio_root"
    ):
        nemo(sounds / "lists")
    rows["train_clean.json"][0]["audio_filepath"] = "wav/0.wav"
    rows["dev_clean.json"][0]["audio_filepath"] = "wav/2.wav"
    for name, lines in rows.items():
        write(sounds / "lists", name, *map(json.dumps, lines))
    train, val = (nemo(sounds / "lists", split, audio_root=sounds) for split in ("train", "val"))
    assert [train[index].label for index in range(2)] == [["hello", "world"], ["again"]]
    assert [len(train[index].value.waveform_S) for index in range(2)] == [2000, 8000]
    assert train[0].value.waveform_S[0] == pytest.approx(0.5 / 2 / 3, abs=1e-4)
    assert len(val) == 1 and len(val[0].value.waveform_S) == 8000 and val[0].label == ["again", "world"]
    values = {"type": "nemo", "root": sounds / "lists" / "train_clean.json", "audio_root": sounds, "split_by": "hash"}
    assert sum(map(len, NemoConfig.model_validate({**values, "val": 0.3, "test": 0.3}).splits().members.values())) == 2


@pytest.mark.parametrize(
    ("name", "row", "message"),
    [
        ("train.json", {"audio_filepath": "wav/0.wav"}, r"train\.json:1: the value of 'text' is missing"),
        (
            "train.json",
            {"audio_filepath": "wav/0.wav", "text": "a", "offset": "x"},
            "offset must be a number of seconds",
        ),
        ("train.json", ["wav/0.wav"], r"train\.json:1 must be an object, got list"),
        ("other.json", {}, r"other\.json is in no split; begin its name with"),
        ("train.txt", {}, "has no manifests"),
    ],
)
def test_mistakes_in_manifests_of_nemo_are_named(sounds: Path, name: str, row: Any, message: str) -> None:
    if name == "other.json":
        write(sounds / "lists", "train.json", "{}")
    write(sounds / "lists", name, json.dumps(row))
    with pytest.raises(ConfigError, match=message):
        nemo(sounds / "lists", audio_root=sounds)
