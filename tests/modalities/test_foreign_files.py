"""Trained runs, applied to files of sizes, rates, colours and lengths that training never saw."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from hrt_mm.config import load_config, packaged_configs
from hrt_mm.config.layers import find_config
from hrt_mm.core.errors import BadSample, ConfigError
from hrt_mm.data.capabilities import read_file
from hrt_mm.data.registry import modalities
from hrt_mm.inference.trained import TrainedRun, evaluate_run, load_task
from hrt_mm.retrieval.embed import Embedder
from hrt_mm.retrieval.rows import Model
from hrt_mm.tasks import Segmentation
from hrt_mm.tasks.contrastive import Contrastive
from hrt_mm.tasks.ctc.task import CTC
from hrt_mm.tasks.encoding import TowerTask
from hrt_mm.train.build import carried_groups
from hrt_mm.train.loop import train
from hrt_modalities.outline.outline import FileOutline
from hrt_modalities.speech.recognizer import Recognizer
from hrt_modalities.video import VideoModality, VideoTokenizer
from hrt_modalities.video.readers import VideoFile
from hrt_modalities.vision import VisionTokenizer
from tests.modalities.video.films import film

SHORT = [
    "train.steps=1", "train.batch_size=2", "train.eval_every=null", "train.test=false", "train.tensorboard=false",
    "train.workers=0", "train.time_limit=null", "train.precision=fp32", "train.num_threads=1",
]  # fmt: skip
SMALL = {
    "video/actions": ["data.train=4", "data.test=2"],
    "video/masked": ["data.train=4", "data.test=2"],
    "video/quickstart": ["data.train=4", "data.test=2"],
    "video/shots": ["data.train=4", "data.test=2"],
    "generation/captions": ["data.film.train=8", "data.film.valid=2", "data.film.test=2"],
    "generation/transcripts": ["data.speech.train=8", "data.speech.valid=2", "data.speech.test=2"],
    "lra/pathfinder": ["data.train=40", "data.val=4", "data.test=4"],
    "vision/cifar10": ["data.download=false"],
    "vision/fashion_mnist": ["data.download=false"],
    "video/video_folder": ["data.sampling.frames=8"],
    "retrieval/moments": ["data.film.train=8", "data.film.valid=2", "data.film.test=2"],
    "retrieval/moments_spoken": ["data.film.train=8", "data.film.valid=2", "data.film.test=2"],
    "retrieval/glyphs": ["data.scripts=[braille]"],
    "retrieval/glyphs_flat": ["data.scripts=[braille]"],
    "retrieval/symbols": ["data.scripts=[braille]"],
    "audio/synthetic": ["data.train=8", "data.valid=2", "data.test=2"],
    "audio/synthetic_stream": ["data.train=8", "data.valid=2", "data.test=2"],
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    """Files of each modality, none like another."""
    folder = tmp_path_factory.mktemp("foreign")
    random = np.random.default_rng(0)
    images, sounds = [], []
    for mode, size in (("RGB", (640, 360)), ("L", (33, 90)), ("RGBA", (7, 5)), ("RGB", (3, 400))):
        path = folder / f"{mode}-{size[0]}x{size[1]}.png"
        shape = (size[1], size[0], len(mode)) if len(mode) > 1 else (size[1], size[0])
        Image.fromarray(random.integers(0, 256, shape, np.uint8), mode).save(path)
        images.append(path)
    for rate, channels, seconds in ((8_000, 1, 0.4), (44_100, 2, 2.5), (16_000, 1, 7.0)):
        path = folder / f"{rate}.wav"
        soundfile.write(path, random.normal(0, 0.1, (round(rate * seconds), channels)), rate)
        sounds.append(path)
    videos = [
        film(folder / "wide.mp4", 50, size=(180, 320), rate=30),
        film(folder / "tall.mkv", 21, size=(100, 46), rate=10),
        film(folder / "tiny.avi", 33, size=(16, 16), rate=25, codec="mpeg4"),
    ]
    return {"vision": images, "audio": sounds, "video": videos}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where rendered videos and synthesised speech are kept."""
    return tmp_path_factory.mktemp("cache")


def class_folder(root: Path, kind: str) -> Path:
    """A folder with two classes of twenty small files each."""
    random = np.random.default_rng(1)
    for number in range(40):
        path = root / "ab"[number % 2] / f"{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        if kind == "vision":
            Image.new("RGB", (24, 20), tuple(random.integers(0, 256, 3).tolist())).save(path.with_suffix(".png"))
        elif kind == "audio":
            soundfile.write(path.with_suffix(".wav"), random.normal(0, 0.1, 4000), 16_000)
        else:
            film(path.with_suffix(".mp4"), 10, size=(32, 32))
    return root


def trained(name: str, folder: Path, overrides: Sequence[str] = ()) -> Path:
    """A run of a packaged configuration, of one step."""
    layers = [*SHORT, *SMALL.get(name, ()), *overrides, f"run.dir={folder / 'run'}"]
    config = load_config(find_config(name), [*layers, "train.init_from=null", "train.batch_tokens=null"])
    return train(config)


def tokenizers(run: TrainedRun) -> dict[str, tuple[str, Any]]:
    """By tower the modality and the tokenizer."""
    return {name: (tower.modality.type, run.tokenizers[name]) for name, tower in run.config.towers.items()}


@torch.no_grad()
def applied(folder: Path, files: dict[str, list[Path]]) -> int:
    """Applies a run to every file that it can read, as its commands do, and counts the answers."""
    run = load_task(folder, inputs="files")
    answers = 0
    for name, (kind, reader) in tokenizers(run).items():
        for path in files.get(kind, ()):
            if isinstance(run.task, Segmentation) and kind == "video":
                scenes = list(FileOutline(run.task, reader).scenes(VideoFile(path)))
                assert scenes[0].start == 0 and scenes[-1].end == pytest.approx(VideoFile(path).index.seconds)
            elif isinstance(run.task, CTC) and kind == "audio":
                audio = read_file(modalities()[kind], path, reader)
                heard = Recognizer(run.task, reader, rate=audio.rate)
                list(heard.feed(audio.waveform_S)), list(heard.flush())
            elif isinstance(run.task, Contrastive):
                embedder = Embedder(run, Model("0" * 64, run.task.dim))
                assert np.isfinite(embedder.query(name, path)).all()
            else:
                tokens = reader([read_file(modalities()[kind], path, reader)])
                assert isinstance(run.task, TowerTask)
                assert run.task.encoder_of(name)(tokens)[-1].x.isfinite().all()
            answers += 1
    return answers


TEXTS = {"generation/summaries", "lra/listops", "lra/text"}
NAMES = [name for name in packaged_configs() if not name.startswith("text/") and name not in TEXTS]
"""Those that read files; others read texts."""
GENERATED = {
    "audio/synthetic", "audio/synthetic_stream", "lra/pathfinder", "retrieval/glyphs", "retrieval/glyphs_flat",
    "retrieval/moments", "retrieval/moments_spoken", "retrieval/symbols", "video/actions", "video/masked",
    "video/quickstart", "vision/digits", "vision/digits_finetune", "vision/digits_masked",
}  # fmt: skip
FOLDERS = {"audio/audio_folder": "audio", "video/video_folder": "video", "vision/image_folder": "vision"}


@pytest.mark.parametrize("name", NAMES)
def test_each_packaged_configuration_reads_files_of_others(
    name: str,
    files: dict[str, list[Path]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(request.getfixturevalue("cache")))
    if name.startswith("audio/synthetic") or name == "retrieval/moments_spoken":
        pytest.importorskip("espeakng_loader", reason="the extra `speech` is not installed")
    if name in ("retrieval/symbols", "retrieval/emoji_groups_words"):
        pytest.importorskip("emoji", reason="the extra `demo` is not installed")
    overrides = [f"data.root={class_folder(tmp_path / 'own', FOLDERS[name])}"] if name in FOLDERS else []
    if name not in GENERATED and name not in FOLDERS:
        data = request.getfixturevalue("data_root")
        try:
            folder = trained(name, tmp_path, overrides)
        except ConfigError as error:
            pytest.skip(f"HRT_MM_DATA ({data}) lacks its data: {error}")
    else:
        folder = trained(name, tmp_path, overrides)
    config = load_task(folder).config
    if carried := carried_groups(config, load_task(folder).tokenizers).get(""):
        assert f"groups by {', '.join(carried)} come with the data" in capsys.readouterr().err
        with pytest.raises(BadSample, match=f"carries no boundary '{carried[0]}'"):
            applied(folder, files)
    else:
        assert applied(folder, files) >= 3


def test_pictures_fill_the_size_that_was_trained_on(tmp_path: Path) -> None:
    folder = trained("vision/digits", tmp_path)
    plain, adapted = load_task(folder).tokenizer, load_task(folder, inputs="files").tokenizer
    image = torch.zeros(1, 40, 60, dtype=torch.uint8)
    image[:, :, 10:50] = 200
    assert plain([image]).grids == ((40, 60),)
    tokens = adapted([image])
    assert tokens.grids == ((8, 8),)
    # The middle, as wide as it is high, is bright all over.
    assert tokens.x.unique().numel() == 1
    assert isinstance(adapted, VisionTokenizer)
    assert adapted.size((1, 40, 60)) == 64
    assert adapted.box(image, (0, 0, 8, 8)) == (10, 0, 50, 40)
    own = torch.randint(0, 255, (1, 8, 8), dtype=torch.uint8)
    assert torch.equal(adapted([own]).x, plain([own]).x)


def test_videos_are_sampled_at_the_rate_that_was_trained_on(tmp_path: Path) -> None:
    folder = trained("video/quickstart", tmp_path)
    reader = load_task(folder, inputs="files").tokenizer
    assert isinstance(reader, VideoTokenizer)
    value = VideoModality.read(film(tmp_path / "fast.mp4", 50, size=(90, 160), rate=50))
    sampled = reader.sampled(value)
    # A second at 12.5 frames a second: every fourth frame, with what it shows at its time.
    assert len(sampled) in (12, 13)
    assert torch.equal(sampled.pixels_NCHW, value.pixels_NCHW[::4][: len(sampled)])
    assert sampled.times_N.diff().tolist() == pytest.approx([0.08] * (len(sampled) - 1))
    reader = reader.with_boundaries({"frames"})
    assert reader([value]).grids == ((len(sampled), 2, 3),)


def test_long_videos_are_read_in_stretches_of_that_rate(tmp_path: Path) -> None:
    reader = load_task(trained("video/quickstart", tmp_path), inputs="files").tokenizer
    path = film(tmp_path / "long.mp4", 300, size=(90, 160), rate=30)
    parts = list(VideoModality.stretches(path, reader, 4.0) or ())
    assert len(parts) == 3
    assert parts[0].core[0] == 0
    covered = [part.core for part in parts]
    assert all(first[1] == second[0] for first, second in pairwise(covered))
    for part in parts:
        assert part.value.pixels_NCHW.shape[1:] == (3, 32, 48)
        assert part.value.times_N.diff().tolist() == pytest.approx([0.08] * (len(part.value) - 1))


def test_other_data_is_evaluated_at_the_size_that_was_trained_on(tmp_path: Path) -> None:
    small, large = class_folder(tmp_path / "small", "vision"), tmp_path / "large"
    for path in small.rglob("*.png"):
        target = large / path.relative_to(small)
        target.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(path) as image:
            image.resize((96, 80)).save(target)
    overrides = [
        f"data.root={small}",
        "modality.size=null",
        "modality.fit=stretch",
        "data.augment=[]",
        "train.eval_every=1",
    ]
    folder = trained("vision/image_folder", tmp_path, overrides)
    ours = evaluate_run(folder, "val")
    theirs = evaluate_run(folder, "val", [f"data.root={large}"])
    assert ours["val/loss"] == pytest.approx(theirs["val/loss"], rel=1e-4)


def test_a_model_whose_groups_come_with_the_data_refuses_a_file(files: dict[str, list[Path]], tmp_path: Path) -> None:
    embedder = Embedder.of(trained("retrieval/moments", tmp_path))
    embedder.tokenizer("video").carried = ("frames",)
    with pytest.raises(ConfigError, match="model of video groups by 'frames', which come with the data and are in no"):
        embedder.query("video", files["video"][0])
