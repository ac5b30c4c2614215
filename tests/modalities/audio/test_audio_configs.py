"""The configurations of this modality: each one loads, and takes a step on data of the form that it names."""

from __future__ import annotations

from pathlib import Path

import pytest

from hrt_mm.analysis.control import flat_control
from hrt_mm.config import load_config
from hrt_mm.data.time_span import TimeSpan
from hrt_mm.train.build import build_data, build_task
from hrt_modalities.audio.alignments import format_alignment
from tests.modalities.audio.small_corpora import fsdd, grid, sound
from tests.modalities.corpora.test_speech import spoken

CONFIGS = Path(__file__).parents[3] / "configs" / "audio"
NAMES = sorted(path.stem for path in CONFIGS.glob("*.yaml"))
OWN = {"audio_folder": ["data.root=sounds"], "synthetic": ["data.train=200", "data.valid=4", "data.test=4"]}
NEEDS = {"synthetic": "espeakng_loader"}


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A few made-up recordings under HRT_MM_DATA, and a cache of the test's own."""
    monkeypatch.setenv("HRT_MM_DATA", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "fsdd").mkdir()
    fsdd(tmp_path / "fsdd", takes=24)
    (tmp_path / "grid_s1").mkdir()
    grid(tmp_path / "grid_s1")
    # Where alignment with a run of grid_ctc would have put the words.
    times = tmp_path / "runs" / "grid_ctc" / "times" / "audio"
    times.mkdir(parents=True)
    for number in range(8):
        spans = [TimeSpan(0.2, 0.5, "bin"), TimeSpan(0.5, 0.8, "blue")]
        (times / f"s{number}.TextGrid").write_text(format_alignment("textgrid", {"words": spans}, end=1.0))
    spoken(tmp_path / "speech_commands")
    monkeypatch.chdir(tmp_path)
    for number in range(60):
        sound(tmp_path / "sounds" / "ab"[number % 2] / f"{number}.wav", 0.3)
    return tmp_path


@pytest.mark.parametrize("name", NAMES)
def test_every_configuration_takes_a_step(name: str, data: Path) -> None:
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    config = load_config(CONFIGS / f"{name}.yaml", OWN.get(name, []))
    result = build_data(config, ["train", "val", *(["test"] if config.train.test else [])])
    task = build_task(config, result.tokenizers, result.classes)
    samples = [result.splits["train"][index] for index in range(2)]
    output = task(result.maker(config, "train").collator(samples))
    output.loss.backward()
    assert output.loss.isfinite()
    assert all(parameter.grad is not None for parameter in task.parameters())


def test_the_flat_fsdd_is_the_control_of_the_hierarchy(data: Path) -> None:
    fsdd, flat = (load_config(CONFIGS / f"{name}.yaml") for name in ("fsdd", "fsdd_flat"))
    level, expected = flat.single.model.levels[0], flat_control(fsdd.single.model).levels[0]
    # Its feed-forward makes up for what the hierarchy has between its levels.
    assert level.model_copy(update={"mlp_ratio": expected.mlp_ratio}) == expected and len(flat.single.model.levels) == 1
    assert (flat.data, flat.optim, flat.train) == (fsdd.data, fsdd.optim, fsdd.train)
    sizes = []
    for config in (fsdd, flat):
        result = build_data(config, ["train"])
        sizes.append(
            sum(weight.numel() for weight in build_task(config, result.tokenizers, result.classes).parameters())
        )
    assert sizes[1] == pytest.approx(sizes[0], rel=0.01), "stem and head included"
