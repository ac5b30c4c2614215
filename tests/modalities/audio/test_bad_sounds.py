"""What nobody should have recorded: each is a counted skip that says why, or trains with a finite loss."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from hrt_mm.config import RunConfig, load_config
from hrt_mm.core.errors import BadSample
from hrt_mm.tasks import Batch
from hrt_mm.train.build import build_data, build_task
from hrt_mm.train.loop import train
from hrt_mm.train.sampler import Plan, Position, sample_sizes
from hrt_modalities.audio import Audio, AudioModality
from tests.modalities.audio.sounds import after, encode, patched, regranuled

CONFIG = Path(__file__).parents[3] / "configs" / "audio" / "audio_folder.yaml"
RNG = np.random.default_rng(0)


def noise(seconds: float, rate: int = 16000, channels: int = 1) -> np.ndarray:
    return RNG.normal(0, 0.1, (round(seconds * rate), channels))


def write(path: Path, wave: np.ndarray, rate: int = 16000, **kind: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, wave, rate, **kind)


def holding(value: float) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        wave = noise(0.3)
        wave[77] = value
        write(path, wave, subtype="FLOAT")

    return make


def truncated(path: Path) -> None:
    write(path, noise(3.0))
    path.write_bytes(path.read_bytes()[:40000])


def granule(path: Path) -> bytes:
    """An Opus whose last page ends before the beginning."""
    encode(path, "libopus", noise(0.3, 48000).T.astype(np.float32), 48000, container="ogg")
    return regranuled(path.read_bytes(), lambda old, page, count: -5 if page == count - 1 else old)


def uncounted(path: Path) -> None:
    """A FLAC that says nothing of its length."""
    write(path, noise(0.4))
    data = path.read_bytes()
    path.write_bytes(patched(data, (18, (int.from_bytes(data[18:26], "big") >> 36 << 36).to_bytes(8, "big"))))


def endless(path: Path) -> None:
    """A FLAC that says that it lasts for weeks."""
    uncounted(path)
    data = path.read_bytes()
    path.write_bytes(patched(data, (22, b"\xff\xff\xff\xff")))


def streamed(path: Path) -> None:
    """A wav whose header gives the sound no bytes."""
    write(path, noise(0.3))
    data = path.read_bytes()
    path.write_bytes(patched(data, (4, bytes(4)), (after(data, b"data"), bytes(4))))


BAD: dict[str, tuple[Any, str]] = {
    "empty.wav": (lambda path: path.write_bytes(b""), "is an empty file"),
    "zero.wav": (lambda path: write(path, np.empty(0)), "has no samples"),
    "nan.wav": (holding(np.nan), "nan at sample 77"),
    "infinite.wav": (holding(np.inf), "inf at sample 77"),
    "text.wav": (lambda path: path.write_text("dear diary\n" * 40), "is not a sound file that can be read"),
    "cut.flac": (truncated, "cut off"),
    "cut.wav": (truncated, "cut off"),
    "integers.wav": (lambda path: write(path, 32768 * noise(0.3), subtype="FLOAT"), "but full scale is 1"),
    "granule.opus": (lambda path: path.write_bytes(granule(path)), "has no samples that can be decoded"),
    "long.wav": (lambda path: write(path, noise(3.0)), r"longer than modality.max_seconds 2"),
}
GOOD: dict[str, Any] = {
    "one.wav": lambda path: write(path, noise(1 / 16000)),
    "silence.wav": lambda path: write(path, np.zeros(8000)),
    "clipped.wav": lambda path: write(path, np.sign(noise(0.4))),
    "eight.wav": lambda path: write(path, noise(0.3, channels=8)),
    "fast.flac": lambda path: write(path, noise(0.3, 192000), 192000),
    "slow.wav": lambda path: write(path, noise(0.3, 1000), 1000),
    "uncounted.flac": uncounted,
    "endless.flac": endless,
    "streamed.wav": streamed,
    "phone.m4a": lambda path: encode(path, "aac", noise(0.3, 44100).T.astype(np.float32), 44100),
    "recorder.mp3": lambda path: encode(
        path, "libmp3lame", noise(0.3, 44100).T.astype(np.float32), 44100, options={"write_xing": "0"}
    ),
    "loud.wav": lambda path: write(path, 100 * noise(0.3), subtype="FLOAT"),
}


@pytest.mark.parametrize("batch", [True, False], ids=["together", "one by one"])
def test_bad_sounds_are_skipped_and_named(batch: bool, tmp_path: Path) -> None:
    for number in range(60):
        write(tmp_path / "ab"[number % 2] / f"{number}.wav", noise(0.2))
    config = load_config(CONFIG, [f"data.root={tmp_path}", "modality.max_seconds=2", "data.augment=[]"])
    for name, (make, _) in BAD.items():
        make(tmp_path / "a" / name)
    for name, make in GOOD.items():
        make(tmp_path / "b" / name)
    result = build_data(config, ["train", "val", "test"])
    task = build_task(config, result.tokenizers, result.classes)
    seen: set[str] = set()
    for split, dataset in result.splits.items():
        maker = result.maker(config, split)
        items = dataset.items  # type: ignore[attr-defined]
        expected = [index for index, item in enumerate(items) if not item.name.split("/")[1][0].isdigit()]
        for positions in [expected] if batch else [[index] for index in expected]:
            if not positions:
                continue
            loaded = maker[Plan(Position(), tuple(positions), Position(0, 1))]
            assert loaded.error is None
            for bad in loaded.bad:
                seen.add(bad.name)
                assert bad.reason and BAD[bad.name.split("/")[1]][1] in f"{bad}"
            if loaded.batch is not None:
                seen.update(loaded.batch.names)
                assert loaded.batch.tokens.x.isfinite().all()
                output = task(loaded.batch)
                assert output.loss.isfinite()
                output.loss.backward()
    assert {name.split("/")[1] for name in seen} == set(BAD) | set(GOOD)
    assert all(parameter.grad is None or bool(torch.isfinite(parameter.grad).all()) for parameter in task.parameters())


def small(folder: Path, **sections: Any) -> RunConfig:
    """A configuration of two small levels; the sections that are given are laid over it."""
    fine = {
        "name": "frames",
        "dim": 16,
        "depth": 1,
        "heads": 2,
        "window": 8,
        "window_type": "sliding",
        "pool": "attention",
    }
    group = sections.pop("group", {"type": "fixed", "stride": 8})
    words = {"name": "words", "dim": 16, "depth": 1, "heads": 2}
    values: dict[str, Any] = {
        "modality": {"type": "audio", "norm": {"running_s": 3.0}, "max_seconds": 2},
        "model": {"levels": [fine | {"group": group}, words], "top_down": "masked" in str(sections.get("task"))},
        "task": {"type": "classification"},
        "train": {"steps": 6, "batch_size": 16, "eval_every": 3, "log_every": 1, "max_bad_share": 0.8,
                  "precision": "fp32", "tensorboard": False},
        "run": {"dir": str(folder / "run")},
    }  # fmt: skip
    file = folder / "small.yaml"
    file.write_text(json.dumps(values | sections))
    return load_config(file)


def losses(folder: Path) -> list[float]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [value for line in lines for key, value in line.items() if key.endswith("loss")]


def test_training_goes_on_past_them_and_counts_them(tmp_path: Path) -> None:
    root = tmp_path / "sounds"
    for split in ("train", "val", "test"):
        for number in range(16):
            write(root / split / "ab"[number % 2] / f"{number}.wav", noise(0.2))
        for name, (make, _) in BAD.items():
            make(root / split / "a" / name)
        for name, make in GOOD.items():
            make(root / split / "b" / name)
    augment = [{"type": "speed"}, {"type": "gain"}, {"type": "noise", "p": 1}, {"type": "reverb", "p": 1}]
    augment += [{"type": "equalize", "p": 1}, {"type": "spec_augment"}, {"type": "vocal_tract"}]
    train(small(tmp_path, data={"type": "audio_folder", "root": str(root), "augment": augment}))
    bad = json.loads((tmp_path / "run" / "summary.json").read_text())["bad_samples"]
    for split in ("train", "val", "test"):
        reasons = {name.rsplit("/", 1)[1]: reason for name, reason in bad[split]["names"].items()}
        assert reasons.keys() == BAD.keys()
        assert all(BAD[name][1] in reason for name, reason in reasons.items())
    assert bad["val"]["bad"] == bad["test"]["bad"] == len(BAD) and bad["train"]["bad"] >= len(BAD)
    result = losses(tmp_path / "run")
    assert len(result) == 8 and np.isfinite(result).all()


ALIGNMENTS = {
    "good.tsv": ("words\t0\t0.1\ta\nwords\t0.1\t0.3\tb\n", None),
    "past.tsv": ("words\t0\t0.1\ta\nwords\t0.5\t0.6\tb\n", "ends at 0.6000 s, but the sound at 0.3000 s"),
    "long.tsv": ("words\t0\t0.1\ta\nwords\t0.1\t9.0\tb\n", "ends at 9.0000 s, but the sound at 0.3000 s"),
    "unsorted.tsv": ("words\t0.1\t0.3\tb\nwords\t0\t0.1\ta\n", "sort the file"),
    "backwards.tsv": ("words\t0.2\t0.1\ta\n", "the end is not before the start"),
    "negative.tsv": ("words\t-1\t0.1\ta\n", "times are 0 or more"),
    "nan.tsv": ("words\tnan\t0.1\ta\n", "expected a number of seconds"),
    "tierless.tsv": ("phonemes\t0\t0.3\ta\n", "carries no boundary 'words'"),
    "none.tsv": (None, "cannot be read"),
}


def test_training_goes_on_past_bad_alignments(tmp_path: Path) -> None:
    for name, (text, _) in ALIGNMENTS.items():
        if text is not None:
            (tmp_path / name).write_text("tier\tstart\tend\tlabel\n" + text)
    rows = []
    for number in range(27):
        name = f"{number}.wav"
        write(tmp_path / name, noise(0.3))
        times = list(ALIGNMENTS)[number % 9] if number < 18 else "good.tsv"
        rows += [f"{name}\t{'ab'[number % 2]}\t{split}\t{times}" for split in ("train", "val", "test")]
    (tmp_path / "sounds.tsv").write_text("path\tlabel\tsplit\ttimes\n" + "\n".join(rows) + "\n")
    data = {"type": "audio_manifest", "file": str(tmp_path / "sounds.tsv"), "alignment_column": "times"}
    train(small(tmp_path, data=data, group={"type": "given", "boundary": "words"}))
    bad = json.loads((tmp_path / "run" / "summary.json").read_text())["bad_samples"]
    assert bad["test"]["bad"] == 2 * (len(ALIGNMENTS) - 1)
    listed = "\n".join(f"{name}: {reason}" for name, reason in bad["test"]["names"].items())
    for name, (_, message) in ALIGNMENTS.items():
        assert message is None or message in listed, name
    assert np.isfinite(losses(tmp_path / "run")).all()


@pytest.mark.parametrize("features", ["log_mel", "waveform"])
@pytest.mark.parametrize("normalize", [True, False])
def test_silence_can_be_hidden_and_given_back(features: str, normalize: bool, tmp_path: Path) -> None:
    config = small(
        tmp_path,
        modality={"type": "audio", "features": features},
        task={"type": "masked", "normalize": normalize},
        data={"type": "audio_folder", "root": "."},
    )
    tokenizer = config.single.modality.build()
    task = build_task(config, {"": tokenizer}, None)
    audio = [Audio(torch.zeros(samples), 16000) for samples in (1, 1600, 16000)]
    output = task(Batch.of(tokenizer(audio), None))
    output.loss.backward()
    assert output.loss.isfinite()
    assert all(bool(item.grad.isfinite().all()) for item in task.parameters() if item.grad is not None)


def test_sizes_in_tokens_are_those_of_what_is_there(tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        for name, make in GOOD.items():
            (tmp_path / split / "a").mkdir(parents=True, exist_ok=True)
            make(tmp_path / split / "a" / name)
        write(tmp_path / split / "b" / "0.wav", noise(0.2))
    config = load_config(CONFIG, [f"data.root={tmp_path}", "data.augment=[]", "train.batch_tokens=512"])
    result = build_data(config, ["train", "val", "test"])
    dataset = result.splits["train"]
    sizes = sample_sizes(dataset, result.tokenizers)
    counts = [len(result.tokenizer([dataset[index].value]).x) for index in range(len(dataset))]
    # A packet of AAC is two frames of 10 ms, and a token has several.
    assert np.abs(np.subtract(sizes, counts)).max() <= 1


def test_no_more_of_a_long_sound_is_read_for_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(30):
        write(tmp_path / "ab"[number % 2] / f"{number}.wav", noise(0.1))
    with soundfile.SoundFile(tmp_path / "a" / "0.wav", "w", 8000, 1) as file:
        for _ in range(6 * 60):
            file.write(np.zeros(60 * 8000, np.int16))
    config = load_config(CONFIG, [f"data.root={tmp_path}", "modality.max_seconds=2", "data.augment=[]"])
    results = build_data(config, ["train", "val"])
    read: list[int] = []
    original = soundfile.SoundFile.read

    def counted(file: soundfile.SoundFile, count: int = -1, **options: Any) -> np.ndarray:
        read.append(count)
        result: np.ndarray = original(file, count, **options)
        return result

    monkeypatch.setattr(soundfile.SoundFile, "read", counted)
    refused: list[str] = []
    for dataset in results.splits.values():
        for index in range(len(dataset)):
            try:
                dataset[index]
            except BadSample as error:
                refused.append(error.reason)
    assert len(refused) == 1 and "is longer than modality.max_seconds 2" in refused[0]
    assert max(read) <= 16_001
    with pytest.raises(BadSample, match=r"0.wav: is longer than modality.max_seconds 2"):
        AudioModality.read_for(tmp_path / "a" / "0.wav", results.tokenizer)
