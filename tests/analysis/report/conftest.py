"""Runs trained for a few steps, and a plug-in modality that says nothing about how it is drawn."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from hrt_mm.config import load_config
from hrt_mm.data.registry import modalities
from hrt_mm.train.loop import train

PULSES = Path(__file__).parents[2] / "plugin" / "package"

DIGITS = """\
modality: {type: vision, channels: 1, patch: 2}
model:
  levels:
    - {name: patches, dim: 16, depth: 1, heads: 2, window: 2, group: {type: fixed, stride: 2}, pool: conv}
    - {name: regions, dim: 16, depth: 2, heads: 2, group: {type: fixed, stride: 2}, pool: attention}
    - {name: image, dim: 16, depth: 1, heads: 2}
  cross_scale: {up: true, down: true}
task: {type: classification}
data: {type: digits}
optim: {warmup_steps: 2}
train: {steps: 6, batch_size: 64, eval_every: 3, log_every: 2, tensorboard: false, num_threads: 1}
"""

SERIES = """\
modality: {type: pulses}
model:
  levels:
    - {name: pulses, dim: 16, depth: 1, heads: 2, window: 8, group: {type: learned, target: 3, max: 6}, pool: mean}
    - {name: series, dim: 16, depth: 1, heads: 2}
task: {type: classification}
data: {type: noise}
train: {steps: 4, batch_tokens: 256, eval_every: 2, tensorboard: false, num_threads: 1}
"""


def trained(folder: Path, config: str, *overrides: str) -> Path:
    path = folder / "config.yaml"
    path.write_text(config)
    before = torch.get_num_threads()
    try:
        return train(load_config(path, [f"run.dir={folder / 'run'}", *overrides]))
    finally:
        torch.set_num_threads(before)


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("digits"), DIGITS)


@pytest.fixture(scope="session")
def masked_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    masked = ("task.type=masked", "task.ratio=0.5", "model.top_down=true", "model.cross_scale.up=false")
    return trained(tmp_path_factory.mktemp("masked"), DIGITS, *masked)


@contextmanager
def installed(site: Path) -> Iterator[None]:
    """Makes the packages of a folder importable, together with their entry points, for as long as the context lasts."""
    sys.path.insert(0, str(site))
    modalities.cache_clear()
    try:
        yield
    finally:
        sys.path.remove(str(site))
        modalities.cache_clear()


@pytest.fixture(scope="session")
def pulses_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the package of pulses, as pip would have installed it."""
    site = tmp_path_factory.mktemp("site")
    (site / "pulses").symlink_to(PULSES / "pulses")
    info = site / "hrt_mm_pulses-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: hrt-mm-pulses\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text("[hrt_mm.modalities]\npulses = pulses:Pulses\n")
    return site


@pytest.fixture(scope="session")
def trained_series(tmp_path_factory: pytest.TempPathFactory, pulses_site: Path) -> Path:
    with installed(pulses_site):
        return trained(tmp_path_factory.mktemp("series"), SERIES)


@pytest.fixture
def series_run(trained_series: Path, pulses_site: Path) -> Iterator[Path]:
    """A run of the package of pulses, which is installed for this test alone."""
    with installed(pulses_site):
        yield trained_series


TEXTS = """\
modality: {type: text, carried: [verses]}
model:
  levels:
    - name: bytes
      dim: 16
      depth: 1
      heads: 2
      window: 8
      window_type: sliding
      group: {type: learned, target: 3, max: 6}
    - name: words
      dim: 16
      depth: 1
      heads: 2
      window: 8
      window_type: sliding
      group: {type: learned, target: 2, max: 4}
    - {name: phrases, dim: 16, depth: 1, heads: 2}
  top_down: true
  causal: true
task: {type: language}
data: {type: corpus, context: 64, val: 0.2, test: 0.2}
train: {steps: 4, batch_size: 4, eval_every: 2, eval_batches: 2, tensorboard: false, num_threads: 1}
"""


@pytest.fixture(scope="session")
def texts_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A language model with two levels of learned groups; its documents carry no verses."""
    folder = tmp_path_factory.mktemp("texts")
    (folder / "poems").mkdir()
    for index in range(30):
        (folder / "poems" / f"{index}.txt").write_text(f"The sun of day {index} is up. It shines on us all. " * 4)
    return trained(folder, TEXTS, f"data.files=[{folder / 'poems'}]")
