"""``hrt-mm speech align``, from a run folder to files that training reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from hrt_mm.cli.main import main
from hrt_mm.core.errors import UserError
from hrt_mm.data.time_span import TimeSpan
from hrt_modalities.audio.alignments import read_alignment
from hrt_modalities.audio.intervals import segments_of
from hrt_modalities.corpora.grid.audio import GridAudioConfig
from hrt_modalities.speech.align import path_of
from tests.modalities.audio.small_corpora import grid

CONFIG: dict[str, Any] = {
    "modality": {"type": "audio", "mels": 16},
    "model": {"levels": [{"name": "frames", "dim": 16, "depth": 1, "heads": 2, "window": 8}]},
    "task": {"type": "ctc", "unit": "phonemes"},
    "data": {"type": "grid", "label": "phonemes"},
    "train": {"steps": 1, "batch_size": 2, "eval_every": 1, "test": False, "tensorboard": False},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("align")
    grid(folder / "grid")
    config = CONFIG | {"data": CONFIG["data"] | {"root": str(folder / "grid")}, "run": {"dir": str(folder / "run")}}
    (folder / "run.yaml").write_text(yaml.safe_dump(config))
    assert main(["train", str(folder / "run.yaml")]) == 0
    return folder


def test_files_that_training_reads(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["speech", "align", str(run / "run"), "--out", str(run / "found")]) == 0
    assert "6 sounds" in capsys.readouterr().out
    tiers = read_alignment(run / "found" / "audio" / "s2.TextGrid")
    labelled = [interval for interval in tiers["phonemes"] if interval.label]
    assert [interval.label for interval in labelled] == ["B", "IH", "N", "B", "L", "UW"]
    assert all(0 <= interval.start < interval.end <= 1 for interval in labelled)


def test_words_through_a_lexicon_take_the_place_of_known_times(run: Path) -> None:
    (run / "words.dict").write_text("bin B IH N\nblue B L UW\n")
    words = ["--lexicon", str(run / "words.dict"), "--tier", "words", "--format", "tsv", "data.label=words"]
    assert main(["speech", "align", str(run / "run"), "--out", str(run / "words"), *words]) == 0
    tiers = read_alignment(run / "words" / "audio" / "s2.tsv")
    assert [interval.label for interval in tiers["words"]] == ["bin", "blue"]
    result = {
        split: GridAudioConfig(type="grid", root=run / "grid", alignments=run / "words").build(split)[0].value
        for split in ("train", "test")
    }
    parts = segments_of(tiers["words"], result["train"].seconds)
    assert result["train"].boundaries["words"] == pytest.approx([part.start for part in parts])
    assert result["train"].labels["words"] == tuple(part.label for part in parts)
    assert result["test"].boundaries["words"] == (0, 0.25, 0.5, 0.75)
    both = GridAudioConfig(
        type="grid", root=run / "grid", alignments=run / "words", aligned=("train", "val"), label="segments"
    )
    own = both.build("train")[0]
    assert own.label == [part.label for part in parts]
    assert len(own.value.boundaries["words"]) == len(own.label)
    with pytest.raises(UserError, match="has no s1"):
        both.build("val")
    with pytest.raises(ValueError, match="aligned has no effect without alignments"):
        GridAudioConfig(type="grid", root=run / "grid", aligned=("val",))


def test_all_time_is_in_a_segment() -> None:
    spoken = [TimeSpan(0.5, 0.9, "a"), TimeSpan(0.94, 1.2, "b"), TimeSpan(1.2, 1.4, ""), TimeSpan(1.6, 1.98, "c")]
    segments = segments_of(spoken, 2.0)
    assert [(part.label, round(part.start, 2), round(part.end, 2)) for part in segments] == [
        ("sil", 0.0, 0.5),
        ("a", 0.5, 0.9),
        ("sil", 0.9, 0.94),
        ("b", 0.94, 1.2),
        ("sil", 1.2, 1.6),
        ("c", 1.6, 1.98),
        ("sil", 1.98, 2.0),
    ]
    assert segments_of([], 2.0) == (TimeSpan(0, 2.0, "sil"),)
    touching = [TimeSpan(4e-7, 1.0, "a"), TimeSpan(1.0 + 8e-7, 2.0, "b")]
    assert segments_of(touching, 2.0 + 4e-7) == (TimeSpan(0.0, 1.0 + 4e-7, "a"), TimeSpan(1.0 + 4e-7, 2.0 + 4e-7, "b"))


def test_what_is_missing_is_told(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["speech", "align", str(run / "run"), "--out", str(run / "x"), "--tier", "words"]) == 2
    assert "--tier words: there is none; one of phonemes" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"alignments has no s2 for audio/s2\.flac"):
        GridAudioConfig(type="grid", root=run / "grid", alignments=run / "nothing").build("train")


def test_a_word_that_the_lexicon_lacks_is_left_out_and_named(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    (run / "short.dict").write_text("bin B IH N\n")
    words = ["--lexicon", str(run / "short.dict"), "data.label=words"]
    assert main(["speech", "align", str(run / "run"), "--out", str(run / "none"), *words]) == 0
    assert not (run / "none").exists()
    assert "audio/s2.flac: the lexicon lacks 'blue'" in caplog.text


def test_names_stay_in_the_folder() -> None:
    assert path_of(Path("out"), "a/b.flac", "textgrid") == Path("out/a/b.TextGrid")
    assert path_of(Path("out"), "a/b.flac@1.5s", "tsv") == Path("out/a/b.flac@1.5s.tsv")
    for name in ("/etc/a.wav", "../a.wav"):
        with pytest.raises(UserError, match="leads out"):
            path_of(Path("out"), name, "tsv")
