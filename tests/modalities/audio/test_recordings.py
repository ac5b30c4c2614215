from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch

from hrt_mm.core.errors import BadSample, ConfigError
from hrt_mm.data.registry import datasets_of
from hrt_modalities.audio import AudioConfig
from hrt_modalities.audio.recordings import Recordings
from tests.modalities.audio.small_corpora import fsdd, grid, sound, table

SPLITS = ("train", "val", "test")


def dataset(split: str = "train", **values: Any) -> Any:
    kinds = datasets_of("audio")
    return kinds[values["type"]].model_validate(values).build(split)


def test_folders(tmp_path: Path) -> None:
    for split in SPLITS:
        for label in "ab":
            sound(tmp_path / "a" / split / label / "x.wav")
    (tmp_path / "a" / "train" / "notes.txt").write_text("no sound")
    result = dataset(type="audio_folder", root=tmp_path / "a")
    assert result.classes == ("a", "b") and len(result) == 2 and result[1].label == "b"
    assert result[0].name == "train/a/x.wav" and result[0].value.seconds == 0.2
    assert result.shape(0) == (1600, 8000)
    for index in range(60):
        sound(tmp_path / "b" / "ab"[index % 2] / f"{index}.wav", 0.01)
    parts = [dataset(split, type="audio_folder", root=tmp_path / "b", val=0.2, test=0.2) for split in SPLITS]
    assert sum(map(len, parts)) == 60 and min(map(len, parts)) > 3
    (tmp_path / "none").mkdir()
    with pytest.raises(ConfigError, match="has no folders in it"):
        dataset(type="audio_folder", root=tmp_path / "none")
    needless: list[dict[str, Any]] = [{"val": 0.2}, {"test": 0.2}]
    for part in needless:
        with pytest.raises(ConfigError, match="has no effect"):
            dataset(type="audio_folder", root=tmp_path / "a", **part)
    sound(tmp_path / "a" / "other" / "a" / "x.wav")
    with pytest.raises(ConfigError, match="also other"):
        dataset(type="audio_folder", root=tmp_path / "a")


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl"])
def test_manifests_read_parts(kind: str, tmp_path: Path) -> None:
    sound(tmp_path / "x" / "long.flac", 3.0)
    rows = [
        {"path": "x/long.flac", "offset": index, "duration": 0.5, "text": f"word number {index}", "split": split}
        for index, split in enumerate(SPLITS)
    ]
    file = table(tmp_path / f"t.{kind}", rows)
    values = {
        "type": "audio_manifest",
        "file": file,
        "label_column": "text",
        "offset_column": "offset",
        "duration_column": "duration",
    }
    whole = dataset("test", label="text", **values)
    assert whole.classes is None and whole[0].label == "word number 2" and whole[0].name == "x/long.flac@2s"
    reference = soundfile.read(tmp_path / "x" / "long.flac", dtype="float32")[0]
    assert torch.equal(whole[0].value.waveform_S, torch.from_numpy(reference[16000:20000]))
    assert whole.shape(0) == (4000, 8000)
    ends = [
        {**{key: value for key, value in row.items() if key != "duration"}, "end": index + 0.5}
        for index, row in enumerate(rows)
    ]
    options = values | {"file": table(tmp_path / f"e.{kind}", ends), "duration_column": None, "end_column": "end"}
    assert torch.equal(dataset("test", label="text", **options)[0].value.waveform_S, whole[0].value.waveform_S)
    with pytest.raises(ValueError, match="duration_column and end_column both"):
        dataset("test", label="text", **values, end_column="end")
    words = dataset("val", label="words", **values)
    assert words[0].label == ["word", "number", "1"] and words.classes == ("0", "number", "word")
    assert dataset("val", label="characters", **values)[0].label[:5] == ["w", "o", "r", "d", " "]


def test_mistakes_in_a_manifest_name_the_row(tmp_path: Path) -> None:
    sound(tmp_path / "a.wav")

    def one(**values: Any) -> Any:
        row = {"path": "a.wav", "label": "a", "split": "train", "offset": 0, "duration": 0.1} | values
        file = table(
            tmp_path / "t.jsonl", [row, {"path": "a.wav", "label": "a", "split": "val", "offset": 0, "duration": 0.1}]
        )
        return dataset(type="audio_manifest", file=file, offset_column="offset", duration_column="duration")

    for row, message in [
        ({"path": "../a.wav"}, "leads out"),
        ({"path": "/etc/passwd"}, "leads out"),
        ({"offset": "soon"}, "t.jsonl:1: offset must be a number of seconds"),
        ({"split": "holdout"}, "must be train, val or test"),
        ({"label": ""}, "the value of 'label' is empty"),
    ]:
        with pytest.raises(ConfigError, match=message):
            one(**row)
    with pytest.raises(BadSample, match="past the end"):
        _first(one(duration=1))
    with pytest.raises(BadSample, match="No such file"):
        _first(one(path="b.wav"))
    with pytest.raises(BadSample, match="0 or more"):
        _first(one(offset=-1))


def _first(found: Recordings) -> Any:
    with pytest.raises(BadSample):
        found.shape(0)
    return found[0]


def test_alignments_become_boundaries(tmp_path: Path) -> None:
    sound(tmp_path / "a.wav", 2.0)
    (tmp_path / "a.tsv").write_text(
        "tier\tstart\tend\tlabel\nwords\t0\t0.5\ta\nwords\t0.5\t1.5\tb\nwords\t1.5\t2\tc\nphonemes\t0.75\t1\tB\n"
    )
    (tmp_path / "late.tsv").write_text("tier\tstart\tend\tlabel\nwords\t9\t10\ta\n")
    rows = [
        {"path": "a.wav", "split": split, "from": 0.25, "for": 1.5, "times": times}
        for split, times in [("train", "a.tsv"), ("val", "late.tsv"), ("test", "none.tsv")]
    ]
    values: dict[str, Any] = {
        "type": "audio_manifest",
        "file": table(tmp_path / "t.csv", rows),
        "label_column": None,
        "offset_column": "from",
        "duration_column": "for",
        "alignment_column": "times",
    }
    assert dict(dataset(**values)[0].value.boundaries) == {"words": (0.25, 1.25), "phonemes": (0.5,)}
    past = r"late.tsv: 'words' ends at 10.0000 s, but the sound at 2.0000 s"
    with pytest.raises(BadSample, match=past):
        dataset("val", **values)[0]
    (tmp_path / "later.tsv").write_text("tier\tstart\tend\tlabel\nwords\t1.8\t2\ta\n")
    later = values | {"file": table(tmp_path / "later.csv", [row | {"times": "later.tsv"} for row in rows])}
    assert dict(dataset(**later)[0].value.boundaries) == {"words": ()}
    with pytest.raises(BadSample, match=r"none.tsv: cannot be read"):
        dataset("test", **values)[0]
    whole = values | {"offset_column": None, "duration_column": None}
    with pytest.raises(BadSample, match=past):
        dataset("val", **whole)[0]
    (tmp_path / "late.tsv").write_text("tier\tstart\tend\tlabel\nwords\t1.9\t2.09\ta\n")
    assert dict(dataset("val", **whole)[0].value.boundaries) == {"words": (1.9,)}
    (tmp_path / "late.tsv").write_text("tier\tstart\tend\tlabel\nwords\t1\t2\ta\nwords\t0\t1\tb\n")
    with pytest.raises(BadSample, match=r"late.tsv: 'words' has 'b' \(number 1\) at 0.0 s, before 'a' ends"):
        dataset("val", **whole)[0]


def test_links_do_not_lead_out(tmp_path: Path) -> None:
    sound(tmp_path / "out.wav")
    inside = tmp_path / "in" / "a"
    sound(inside / "0.wav")
    (inside / "1.wav").symlink_to(tmp_path / "out.wav")
    result = dataset(type="audio_folder", root=tmp_path / "in", val=0.01, test=0.01)
    names = [item.name for item in result.items]
    with pytest.raises(BadSample, match="leads out"):
        result[names.index("a/1.wav")]
    follow = dataset(type="audio_folder", root=tmp_path / "in", val=0.01, test=0.01, follow_links=True)
    assert follow[names.index("a/1.wav")].value.seconds == 0.2


def test_fsdd_official_split_and_labels(tmp_path: Path) -> None:
    root = fsdd(tmp_path)
    result = {split: dataset(split, type="fsdd", root=root, val=0.3) for split in SPLITS}
    assert len(result["test"]) == 6 and len(result["train"]) + len(result["val"]) == 18 and len(result["val"])
    assert result["test"].classes == ("one", "zero")
    labels = {
        "word": "zero",
        "speaker": "ann",
        "text": "zero",
        "words": ["zero"],
        "segments": ["zero"],
        "phonemes": ["Z", "IH", "R", "OW"],
        "characters": list("zero"),
    }
    for label, expected in labels.items():
        sample = dataset("test", type="fsdd", root=root, val=0.3, label=label)[0]
        assert sample.label == expected and sample.value.boundaries["words"] == (0.0,)


def test_fsdd_leaves_a_speaker_out(tmp_path: Path) -> None:
    root = fsdd(tmp_path)
    result = {split: dataset(split, type="fsdd", root=root, val=0.3, leave_out="bob") for split in SPLITS}
    names = {split: {item.name for item in element.items} for split, element in result.items()}
    assert len(names["test"]) == 8 and all("bob" in name for name in names["test"])
    assert len(names["train"] | names["val"]) == 16 and not names["train"] & names["val"]
    assert not any("bob" in name for name in names["train"] | names["val"])
    with pytest.raises(ConfigError, match="one of ann, bob, cid"):
        dataset(type="fsdd", root=root, leave_out="eve")


@pytest.mark.parametrize("gap", [0.0, 0.05])
def test_digit_strings_have_exact_edges(gap: float, tmp_path: Path) -> None:
    root = fsdd(tmp_path)
    strings = {"digits": [2, 4], "gap_s": [gap, 2 * gap], "train": 12, "val": 3, "test": 5}
    values: dict[str, Any] = {"type": "fsdd", "root": root, "val": 0.3, "strings": strings}
    result = dataset(**values, label="segments")
    assert len(result) == 12 and len(dataset("test", **values, label="words")) == 5
    for index in range(12):
        sample = result[index]
        starts = sample.value.boundaries["words"]
        assert len(starts) == len(sample.label) and result.shape(index) == (len(sample.value.waveform_S), 8000)
        assert torch.equal(result[index].value.waveform_S, sample.value.waveform_S)
        edges = [round(start * 8000) for start in starts] + [len(sample.value.waveform_S)]
        for label, first, last in zip(sample.label, edges, edges[1:], strict=False):
            silent = not sample.value.waveform_S[first:last].any()
            assert silent == (label == "sil")
        words = dataset(**values, label="words")[index].label
        assert words == [label for label in sample.label if label != "sil"] and 2 <= len(words) <= 4
        assert dataset(**values, label="text")[index].label == " ".join(words)
        assert dataset(**values, label="characters")[index].label == list(" ".join(words))
    assert set(result.classes) == {"one", "zero"} | ({"sil"} if gap else set())
    speakers = {result[index].name.split()[3] for index in range(12)}
    assert speakers == {"ann,", "bob,", "cid,"}


def test_grid(tmp_path: Path) -> None:
    root = grid(tmp_path)
    expected: dict[str, Any] = {
        "text": "bin blue",
        "words": ["bin", "blue"],
        "segments": ["sil", "bin", "blue", "sil"],
        "phonemes": ["B", "IH", "N", "B", "L", "UW"],
        "characters": list("bin blue"),
    }
    for label, item in expected.items():
        result = dataset("test", type="grid", root=root, label=label)
        assert len(result) == 1 and result[0].label == item
        assert result[0].value.boundaries["words"] == (0.0, 0.25, 0.5, 0.75)
    assert dataset(type="grid", root=root).classes == ("bin", "blue")
    with pytest.raises(ConfigError, match=r"data.val has no effect"):
        dataset(type="grid", root=root, val=0.2)
    with pytest.raises(ConfigError, match=r"holds no index.tsv"):
        dataset(type="grid", root=tmp_path / "audio")


def test_a_pause_in_grid_is_silence(tmp_path: Path) -> None:
    root = grid(tmp_path)
    (root / "words.tsv").write_text((root / "words.tsv").read_text().replace("\tsil\t0.75", "\tsp\t0.75"))
    result = {label: dataset(type="grid", root=root, label=label) for label in ("segments", "phonemes")}
    assert result["segments"][0].label == ["sil", "bin", "blue", "sil"]
    assert "SIL" not in (result["phonemes"].classes or ())


def test_augmentation_is_for_training(tmp_path: Path) -> None:
    root = fsdd(tmp_path)
    values: dict[str, Any] = {"type": "fsdd", "root": root, "val": 0.3, "augment": [{"type": "gain", "db": [20, 20]}]}
    loud, plain = dataset(**values), dataset(type="fsdd", root=root, val=0.3)
    assert torch.allclose(loud[0].value.waveform_S, 10 * plain[0].value.waveform_S)
    assert torch.equal(
        dataset("test", **values)[0].value.waveform_S, dataset("test", type="fsdd", root=root)[0].value.waveform_S
    )


def test_sizes_are_known_before_reading(tmp_path: Path) -> None:
    result = dataset(type="fsdd", root=fsdd(tmp_path))
    tokenizer = AudioConfig(type="audio", rate=16000, hop_ms=7).build()
    for index in range(len(result)):
        assert tokenizer.size(result.shape(index)) == tokenizer([result[index].value]).spans.total


def test_real_fsdd_and_grid(data_root: Path) -> None:
    parts = {split: dataset(split, type="fsdd", root=data_root / "fsdd") for split in SPLITS}
    assert len(parts["test"]) == 300 and len(parts["train"]) + len(parts["val"]) == 2700
    assert len(dataset("test", type="fsdd", root=data_root / "fsdd", leave_out="theo")) == 500
    sentences = {split: dataset(split, type="grid", root=data_root / "grid_s1") for split in SPLITS}
    assert {split: len(own) for split, own in sentences.items()} == {"train": 800, "val": 100, "test": 100}
    tokenizer = AudioConfig(type="audio").build().with_boundaries({"words"})
    own = dataset("test", type="grid", root=data_root / "grid_s1", label="segments")
    for index in range(0, 100, 10):
        sample = own[index]
        tokens = tokenizer([sample.value])
        assert int(tokens.boundaries["words"].sum()) == len(sample.label) and sample.label[0] == "sil"
