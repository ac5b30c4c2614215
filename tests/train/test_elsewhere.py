"""Evaluation from another folder than that where a run was started, and of splits that are not there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hrt_mm.cli.generate import _read
from hrt_mm.cli.main import main
from hrt_mm.config import load_config
from hrt_mm.core.errors import ConfigError, UserError
from hrt_mm.inference import save_pretrained
from hrt_mm.inference.trained import load_run, load_task
from hrt_mm.train.distributed import ProcessGroup
from hrt_mm.train.loop import train

CONFIG = """
modality: {type: vision, patch: 4, size: 8}
model: {levels: [{name: image, dim: 16, heads: 2, depth: 1}]}
task: {type: classification}
data: {type: image_folder, root: pictures}
train: {steps: 1, batch_size: 4, tensorboard: false, num_threads: 1, test: false, eval_every: null}
optim: {warmup_steps: 0}
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    for split in ("train", "val"):
        for label in ("a", "b"):
            (folder / "pictures" / split / label).mkdir(parents=True)
            for index in range(2):
                Image.fromarray(np.full((8, 8, 3), index, np.uint8)).save(
                    folder / f"pictures/{split}/{label}/{index}.png"
                )
    (folder / "small.yaml").write_text(CONFIG)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        train(load_config("small.yaml", ["run.dir=run"]))
    return folder


def test_relative_paths_are_found_where_the_run_was_started(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = load_task(home / "run")
    with pytest.raises(ConfigError) as caught:
        run.loader("val", ProcessGroup(torch.device("cpu")))
    assert f"; the run was started in {home}, where pictures is: evaluate it from there" in str(caught.value)
    with pytest.raises(ConfigError) as caught:
        load_task(home / "run", overrides=["data.root=nowhere"]).loader("val", ProcessGroup(torch.device("cpu")))
    assert "started in" not in str(caught.value)
    assert "--split" not in str(caught.value), "another split is not there either"
    assert main(["eval", str(home / "run"), "--split", "val", f"data.root={home / 'pictures'}"]) == 0


def test_a_split_that_is_not_there_leads_to_another(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", str(home / "run"), f"data.root={home / 'pictures'}"]) == 2
    output = capsys.readouterr().err
    assert "--split val evaluates another one" in output
    assert "train.test" not in output


def test_a_saved_model_asks_for_the_place_of_its_data(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("huggingface_hub")
    folder = save_pretrained(load_run(home / "run"), tmp_path / "saved", license="mit")
    monkeypatch.chdir(tmp_path)
    for command in (["eval", str(folder)], ["diagnose", str(folder)]):
        assert main(command) == 2
        error = capsys.readouterr().err
        assert "data.root pictures is not a folder" in error
        assert "a saved model comes without its data: name yours, as in data.root=photos" in error
    assert main(["eval", str(folder), "--split", "val", f"data.root={home / 'pictures'}"]) == 0


def test_a_prompt_that_cannot_be_read_is_named(home: Path) -> None:
    with pytest.raises(UserError, match=r"--file \S*nope cannot be read: No such file or directory; give a text file"):
        _read(home / "nope")
