"""Loader workers that are not forked get the dataset, the tokenizer and the task by pickle; all must allow it."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from hrt_mm.config import RunConfig, load_config, packaged_configs
from hrt_mm.config.packaged import config_root
from hrt_mm.core.component import Component
from hrt_mm.core.errors import ConfigError
from hrt_mm.train.build import build_data
from hrt_mm.train.loop import train
from hrt_mm.train.sampler import Plan, Position
from hrt_modalities.audio.augment import Augmentation, chain
from hrt_modalities.video.rendering import write

SMALL = {"train": 3, "valid": 1, "val": 1, "test": 1}
"""Samples of data that is made."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of each kind that a user brings."""
    root = tmp_path_factory.mktemp("own")
    draw = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        for label in ("a", "b"):
            for kind in ("sounds", "images", "videos"):
                (root / kind / split / label).mkdir(parents=True)
            (root / "documents" / split / label).mkdir(parents=True)
            for index in range(2):
                name = f"{split}/{label}/{index}"
                (root / f"documents/{name}.txt").write_text(f"A text of {label}.")
                soundfile.write(root / f"sounds/{name}.wav", draw.normal(0, 0.1, 8000).astype(np.float32), 16_000)
                Image.fromarray(draw.integers(0, 255, (40, 40, 3), np.uint8)).save(root / f"images/{name}.png")
                pixels = draw.integers(0, 255, (12, 48, 64, 3), np.uint8)
                write(root / f"videos/{name}.mp4", iter(pixels), 12.5, (48, 64), {})
    rows = [f"{split}\tone {index}\ttwo\t{index % 2}" for split in ("train", "val", "test") for index in range(4)]
    (root / "pairs.tsv").write_text("\n".join(["split\ttext1\ttext2\tlabel", *rows]))
    lines = [{"split": split, "words": ["a", "b"], "tags": ["x", "y"]} for split in ("train", "val", "test")]
    (root / "tags.jsonl").write_text("\n".join(map(json.dumps, lines)))
    reviews = [
        {"split": split, "text": "A film.", "label": label} for split in ("train", "val", "test") for label in "ab"
    ]
    (root / "imdb.jsonl").write_text("\n".join(map(json.dumps, reviews)))
    (root / "shards").mkdir()
    for split in ("train", "val", "test"):
        with tarfile.open(root / f"shards/{split}.tar", "w") as shard:
            for label in ("a", "b"):
                (root / "label.cls").write_text(label)
                shard.add(root / f"images/{split}/{label}/0.png", f"{label}.png")
                shard.add(root / "label.cls", f"{label}.cls")
    return root


def configured(name: str, folder: Path, cache: Path) -> RunConfig:
    """A packaged configuration over little data."""
    text = (config_root() / f"{name}.yaml").read_text()
    options = {
        "audio/audio_folder": [f"data.root={folder}/sounds"],
        "vision/image_folder": [f"data.root={folder}/images"],
        "video/video_folder": [f"data.root={folder}/videos"],
        "text/documents": [f"data.root={folder}/documents"],
        "text/matching": [f"data.file={folder}/pairs.tsv"],
        "text/tagging": [f"data.file={folder}/tags.jsonl"],
        "lra/text": [f"data.file={folder}/imdb.jsonl"],
        "lra/image": [f"data.root={folder}/shards"],
    }.get(name, [])
    if "type: corpus" in text and "HRT_MM_DATA" not in text:
        options = [f"data.files=[{Path(__file__).parent}]", "data.suffixes=[.py]"]
    try:
        config = load_config(name, options)
    except ConfigError as error:
        if "HRT_MM_DATA" in str(error):
            pytest.skip("HRT_MM_DATA is not set: real data is not here")
        raise
    return config.model_copy(update={"data": _small(config.data, cache)})


def _small(component: Component, cache: Path) -> Component:
    """The data with few samples, where it makes them, kept in a folder of the test's."""
    fields = type(component).model_fields
    changed: dict[str, object] = {"download": False} if "download" in fields else {}
    if {"seed", "train"} <= fields.keys():
        changed |= {
            name: count for name, count in SMALL.items() if name in fields and fields[name].annotation is not float
        }
        changed |= {
            name: cache for name in ("folder", "cache") if name in fields and "Path" in str(fields[name].annotation)
        }
    changed |= {
        name: _small(value, cache)
        for name in fields
        if isinstance(value := getattr(component, name), Component) and name in ("film", "footage")
    }
    return component.model_copy(update=changed)


@pytest.mark.parametrize("name", packaged_configs())
def test_workers_can_get_what_a_packaged_configuration_reads(
    name: str, folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    config = configured(name, folder, tmp_path_factory.getbasetemp() / "made")
    try:
        data = build_data(config, ["train"])
    except ConfigError as error:
        # Alignments are made by another run, with what is there.
        home = os.environ.get("HRT_MM_DATA")
        if home and (home in str(error) or "data.alignments has no" in str(error)):
            pytest.skip(f"HRT_MM_DATA lacks its data: {error}")
        raise
    maker = data.maker(config, "train")
    copy = pickle.loads(pickle.dumps(maker))
    plan = Plan(Position(), (0,), Position(batch=1))
    ours, theirs = maker[plan], copy[plan]
    assert theirs.error is None and ours.error is None
    assert [bad.name for bad in ours.bad] == [bad.name for bad in theirs.bad]
    assert copy.dataset.name(0) == maker.dataset.name(0)


AUGMENTATIONS = ["speed", "vocal_tract", "trim", "pad", "time_warp", "gain", "noise", "equalize", "reverb",
                 "spec_augment"]  # fmt: skip


def test_every_augmentation_of_sounds_is_among_those_that_are_pickled() -> None:
    kinds = [kind.model_fields["type"].annotation.__args__[0] for kind in Augmentation.__args__[0].__args__]
    assert sorted(kinds) == sorted(AUGMENTATIONS)


@pytest.fixture
def spawning() -> Iterator[None]:
    before = multiprocessing.get_start_method()
    multiprocessing.set_start_method("spawn", force=True)
    yield
    multiprocessing.set_start_method(before, force=True)


def test_sounds_are_augmented_by_spawned_workers(folder: Path, tmp_path: Path, spawning: None) -> None:
    kinds = sorted(AUGMENTATIONS, key=lambda kind: kind == "time_warp")
    options = [
        f"data.root={folder}/sounds", f"data.augment=[{', '.join(f'{{type: {kind}}}' for kind in kinds)}]",
        "train={steps: 1, batch_size: 2, workers: 1, eval_every: null, test: false, tensorboard: false}",
        "train.num_threads=1", "optim.warmup_steps=0", f"run.dir={tmp_path / 'run'}",
    ]  # fmt: skip
    train(load_config("audio/audio_folder", options))
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["bad_samples"]["train"]["bad"] == 0
    assert chain(()) is None
