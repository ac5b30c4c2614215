"""``hrt-mm transcribe``: a small causal model learns three tones, and then hears them with their times."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from hrt_mm.cli.main import main
from hrt_mm.config import load_config
from hrt_mm.inference.trained import TrainedRun, load_task
from hrt_mm.metrics.edits import edit_distance
from hrt_mm.train.build import build_task, build_tokenizer
from hrt_mm.train.loop import train
from hrt_modalities.audio.alignments import read_alignment
from hrt_modalities.audio.audio import Audio
from hrt_modalities.audio.files import read_audio
from hrt_modalities.speech.recognizer import Recognizer

RATE = 8000
TONES = {"low": 300, "mid": 900, "high": 2500}
CONFIG = """
modality: {type: audio, rate: 8000, mels: 24, stem: {frames: 2, recent: 3}}
model:
  levels:
    - {name: frames, dim: 24, depth: 1, heads: 2, window: 8, window_type: sliding, group: {type: fixed, stride: 2}}
    - {name: words, dim: 32, depth: 1, heads: 2, window: 8, window_type: sliding}
  cross_scale: {up: true}
  causal: true
task: {type: ctc, unit: words, level: words}
data: {type: audio_manifest, file: tones.tsv, label: words, val: 0.1}
optim: {lr: 5.0e-3, warmup_steps: 10}
train: {precision: fp32, steps: 120, batch_size: 8, eval_every: 60, tensorboard: false}
"""


def said(words: Sequence[str], generator: np.random.Generator) -> tuple[np.ndarray, list[float]]:
    """Tones of about a quarter of a second with pauses between, and where each begins."""
    parts, starts, at = [], [], 0
    for word in words:
        gap = 0.01 * generator.standard_normal(int(generator.integers(800, 2400)))
        length = int(generator.integers(1200, 2400))
        tone = 0.3 * np.sin(2 * np.pi * TONES[word] * np.arange(length) / RATE)
        starts.append((at + len(gap)) / RATE)
        at += len(gap) + length
        parts += [gap, tone]
    end = 0.01 * generator.standard_normal(1600)
    return np.concatenate([*parts, end]).astype(np.float32), starts


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("tones")
    generator = np.random.default_rng(0)
    rows = ["path\tlabel\tsplit"]
    for number in range(90):
        words = generator.choice(list(TONES), int(generator.integers(1, 5))).tolist()
        soundfile.write(root / f"{number}.wav", said(words, generator)[0], RATE)
        split = "train" if number < 70 else "val" if number < 75 else "test"
        rows.append(f"{number}.wav\t{' '.join(words)}\t{split}")
    (root / "tones.tsv").write_text("\n".join(rows) + "\n")
    (root / "tones.yaml").write_text(CONFIG.replace("val: 0.1", ""))
    config = load_config(root / "tones.yaml", [f"data.file={root}/tones.tsv", f"run.dir={root}/run"])
    return train(config)


@pytest.fixture(scope="module")
def talk(run: Path) -> tuple[Path, list[str], list[float]]:
    """A sound of some seconds, its words and where they begin."""
    generator = np.random.default_rng(1)
    words = generator.choice(list(TONES), 30).tolist()
    sound, starts = said(words, generator)
    path = run.parent / "talk.wav"
    soundfile.write(path, sound, RATE)
    return path, words, starts


def heard(trained: TrainedRun, sound: Tensor, chunk: int) -> list[str]:
    recognizer = Recognizer(trained.task, trained.tokenizer, rate=RATE)
    parts = [recognizer.feed(part) for part in sound.split(chunk)]
    return [word.label for part in [*parts, recognizer.flush()] for word in part]


def test_it_hears_what_is_said_and_when(run: Path, talk: tuple[Path, list[str], list[float]], capsys: Any) -> None:
    path, words, starts = talk
    assert main(["transcribe", str(run), str(path), "--format", "ctm"]) == 0
    out, err = capsys.readouterr()
    assert "s of sound" in err and "times as fast" in err
    rows = [line.split() for line in out.splitlines()]
    result = [row[4] for row in rows]
    # Always saying the commonest word, or nothing, is wrong in two thirds and more.
    assert edit_distance(result, words) / len(words) < 0.1
    if len(result) == len(words):
        late = [float(row[2]) - start for row, start in zip(rows, starts, strict=True)]
        assert np.abs(late).max() < 0.3


def test_chunks_change_nothing(run: Path, talk: tuple[Path, list[str], list[float]]) -> None:
    trained = load_task(run)
    task: Any = trained.task
    with torch.no_grad():
        sound = read_audio(talk[0], "talk")
        pyramid = task.encoder(trained.tokenizer([sound]))
        (whole,) = task.decode(task.scores(pyramid))
    for chunk_ms in (37, 1000):
        assert heard(trained, sound.waveform_S, RATE * chunk_ms // 1000) == [
            task.symbols[index] for index in whole.symbols
        ]


def test_words_come_while_they_are_said(run: Path, talk: tuple[Path, list[str], list[float]]) -> None:
    """A word is there soon after it ends, long before the sound does."""
    trained = load_task(run)
    recognizer = Recognizer(trained.task, trained.tokenizer, rate=RATE)
    sound = read_audio(talk[0], "talk").waveform_S
    late = []
    for end in range(80, len(sound), 80):
        late += [end / RATE - word.end for word in recognizer.feed(sound[end - 80 : end])]
    assert len(late) > 20
    assert recognizer.late == 1
    # A token of 20 ms, the look-ahead of 7.5 ms, and the step of 40 ms that shows that the word has ended.
    assert max(late) <= 0.04 + 0.02 + 0.0075 + 0.02


def test_pipes_and_files_give_the_same(
    run: Path, talk: tuple[Path, list[str], list[float]], capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = talk[0]
    command = ["transcribe", str(run), "--quiet"]
    process = [sys.executable, "-m", "hrt_mm", *command, "-"]
    result = [subprocess.run(process, input=path.read_bytes(), capture_output=True, check=True).stdout.decode()]
    assert main([*command, str(path)]) == 0
    result.append(capsys.readouterr().out)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(path.read_bytes()[44:])))
    assert main([*command, "-", "--rate", "8000", "--chunk-ms", "37"]) == 0
    result.append(capsys.readouterr().out)
    assert result[0].count("\n") > 20
    assert result[0] == result[1] == result[2]


@pytest.mark.parametrize(("kind", "ending"), [("json", ".json"), ("textgrid", ".TextGrid"), ("ctm", ".ctm")])
def test_files_that_others_read(
    run: Path, talk: tuple[Path, list[str], list[float]], tmp_path: Path, kind: str, ending: str
) -> None:
    out = tmp_path / f"out{ending}"
    assert main(["transcribe", str(run), str(talk[0]), "--format", kind, "--out", str(out), "--quiet"]) == 0
    (tier,) = read_alignment(out).values()
    assert sum(bool(interval.label) for interval in tier) > 20


def test_models_that_are_not_causal_read_windows(
    run: Path, talk: tuple[Path, list[str], list[float]], capsys: Any
) -> None:
    """What is far outside a window they would not see anyway, so that windows give what the whole gives."""
    assert main(["transcribe", str(run), str(talk[0]), "model.causal=false", "--window", "5", "--quiet"]) == 0
    result = capsys.readouterr().out
    assert main(["transcribe", str(run), str(talk[0]), "model.causal=false", "--window", "600", "--quiet"]) == 0
    assert result == capsys.readouterr().out and result.count("\n") > 10


def test_a_beam_writes_words_of_a_list(
    run: Path, talk: tuple[Path, list[str], list[float]], tmp_path: Path, capsys: Any
) -> None:
    path, words, _ = talk
    (tmp_path / "words.txt").write_text("low\nhigh\n")
    beam = ["task.decoder.type=beam", f"task.decoder.lexicon={tmp_path}/words.txt"]
    assert main(["transcribe", str(run), str(path), *beam, "--quiet"]) == 0
    result = [line.split()[2] for line in capsys.readouterr().out.splitlines()]
    assert set(result) == {"low", "high"}
    assert edit_distance(result, [word for word in words if word != "mid"]) < 0.5 * len(words)


def test_a_stream_tells_words_from_their_spellings(run: Path, talk: tuple[Path, list[str], list[float]]) -> None:
    """At the finer level, in chunks of any size, what the whole gives; silence that is a symbol is none there."""
    keys = ["task.finer.unit=characters", "task.finer.level=frames", "task.silence=true", "task.prior=0.3"]
    keys += ["task.decoder.type=beam", "task.decoder.spelled=true"]
    config = load_config(run / "config.yaml", keys)
    tokenizer = build_tokenizer(config)
    task: Any = build_task(config, {"": tokenizer}, tuple(TONES)).eval()
    torch.manual_seed(0)
    torch.nn.init.normal_(task.finer.head.weight, std=0.5)
    sound = read_audio(talk[0], "talk").waveform_S[: 2 * RATE]
    with torch.no_grad():
        (whole,) = task.decode(task.decode_head.scores(task.encoder(tokenizer([Audio(sound, RATE)]))))
    assert len(whole.words) > 2
    for size in (RATE // 27, RATE):
        recognizer = Recognizer(task, tokenizer, rate=RATE)
        assert recognizer.unit == "words"
        result = [word for chunk in sound.split(size) for word in recognizer.feed(chunk)] + recognizer.flush()
        assert tuple(word.label for word in result) == whole.words
        assert all(0 <= one.start < one.end <= 2.1 for one in result)


def failure(capsys: Any, *argv: object) -> str:
    assert main(["transcribe", *map(str, argv)]) == 2
    err: str = capsys.readouterr().err
    assert "Traceback" not in err
    return err


def test_sounds_of_other_kinds(run: Path, tmp_path: Path, capsys: Any) -> None:
    """Silence, one sample, 8 channels at 192 kHz and clipped sound are sound."""
    loud = np.clip(5 * np.sin(np.arange(192_000)[:, None] / np.arange(20, 28)), -1, 1)
    for name, x, rate in (("silence", np.zeros(8000), 8000), ("one", np.zeros(1), 8000), ("loud", loud, 192_000)):
        soundfile.write(tmp_path / f"{name}.wav", x, rate)
        assert main(["transcribe", str(run), str(tmp_path / f"{name}.wav"), "--format", "json"]) == 0
        json.loads(capsys.readouterr().out)


def test_bad_sounds_are_told(run: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty.wav").touch()
    (tmp_path / "text.wav").write_text("this is no sound\n" * 10)
    soundfile.write(tmp_path / "none.wav", np.zeros(0), RATE)
    soundfile.write(tmp_path / "nan.wav", np.array([0.0, np.nan] * 50), RATE, subtype="FLOAT")
    soundfile.write(tmp_path / "cut.flac", np.random.default_rng(0).normal(0, 0.1, 80_000), RATE)
    data = (tmp_path / "cut.flac").read_bytes()
    (tmp_path / "cut.flac").write_bytes(data[: len(data) // 2])
    for name, message in (
        ("missing.wav", "cannot be read: No such file"),
        ("empty.wav", "is an empty file"),
        ("text.wav", "is not a sound file that can be read"),
        ("none.wav", "has no samples"),
        ("nan.wav", "has nan at sample 1"),
        ("cut.flac", "cut off"),
    ):
        assert message in failure(capsys, run, tmp_path / name)
    for data, message in ((b"", "is empty; nothing came"), (b"text\n" * 9, "is no wav stream")):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        assert message in failure(capsys, run, "-")


def test_mistakes_are_told(run: Path, talk: tuple[Path, list[str], list[float]], tmp_path: Path, capsys: Any) -> None:
    path = talk[0]
    assert "--rate is for raw samples" in failure(capsys, run, path, "--rate", "8000")
    assert "--chunk-ms 0 must be above 0" in failure(capsys, run, path, "--chunk-ms", "0")
    assert "is not a run folder" in failure(capsys, tmp_path, path)
    assert "cannot be written" in failure(capsys, run, path, "--out", tmp_path / "no" / "out.srt")
    wide = failure(capsys, run, path, "model.levels.words.window=null", "model.levels.words.window_type=block")
    assert "level 'words' attends to everything before" in wide
    assert "a window is for models that are not causal" in failure(capsys, run, path, "--window", "3")
    assert "--window 0 must be above 0" in failure(capsys, run, path, "--window", "0")
