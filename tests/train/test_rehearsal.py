from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hrt_mm.cli.main import main
from hrt_mm.config import load_config
from hrt_mm.core.errors import ConfigError, UserError
from hrt_mm.data.atomic_files import exclusive_lock
from hrt_mm.train.folder import check_folder
from hrt_mm.train.rehearsal import rehearse, warnings_of


@pytest.fixture
def small(tmp_path: Path) -> Path:
    for number, split in enumerate(("train", "val", "test")):
        for label in ("a", "b"):
            folder = tmp_path / "data" / split / label
            folder.mkdir(parents=True)
            for index in range(4):
                Image.fromarray(np.full((8, 8, 3), 60 * number + 9 * index, np.uint8)).save(folder / f"{index}.png")
    path = tmp_path / "small.yaml"
    path.write_text(f"""
modality: {{type: vision, patch: 4, size: 8}}
model: {{levels: [{{name: image, dim: 16, heads: 2, depth: 1}}]}}
task: {{type: classification}}
data: {{type: image_folder, root: {tmp_path / "data"}}}
train: {{steps: 2, batch_size: 4, tensorboard: false, num_threads: 1}}
optim: {{warmup_steps: 1}}
run: {{dir: {tmp_path / "run"}}}
""")
    return path


def files(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


@pytest.mark.parametrize("command", [["config", "validate"], ["train", "--dry-run"]])
def test_what_is_right_is_said_and_nothing_is_left(
    command: list[str], small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files(tmp_path)
    assert main([*command, str(small)]) == 0
    out, err = capsys.readouterr()
    assert f"{small}: ok (8 train, 8 val, 8 test samples" in out
    assert not err
    assert files(tmp_path) == before


REFUSED = {
    "no-folder": (["data.root=nowhere"], "data.root nowhere is not a folder"),
    "no-source": (["train.init_from=nowhere"], "nowhere"),
    "no-level": (["task.level=words"], "unknown level 'words'"),
}


@pytest.mark.parametrize("command", [["config", "validate"], ["train", "--dry-run"]])
@pytest.mark.parametrize("name", REFUSED)
def test_what_training_would_refuse_is_refused(
    name: str, command: list[str], small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides, message = REFUSED[name]
    assert main([*command, str(small), *overrides]) == 2
    assert message in capsys.readouterr().err


def test_without_its_data_a_configuration_can_be_checked_alone(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "validate", str(small), "data.root=nowhere", "--no-data"]) == 0
    assert "ok (the data was not loaded)" in capsys.readouterr().out


def test_missing_splits_strange_classes_and_broken_files_are_found(small: Path, tmp_path: Path) -> None:
    config = load_config(small)
    (tmp_path / "data" / "test" / "a").rename(tmp_path / "data" / "test" / "c")
    with pytest.raises(ConfigError, match="has classes that train has not: c"):
        rehearse(config)
    (tmp_path / "data" / "test" / "c").rename(tmp_path / "data" / "test" / "a")
    for path in (tmp_path / "data" / "val").rglob("*.png"):
        path.write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"a batch of val has no usable sample; \S+\.png: "):
        rehearse(config)
    assert rehearse(load_config(small, ["train.eval_every=null"])) == "8 train, 8 test"
    for path in (tmp_path / "data" / "train").rglob("*.png"):
        path.write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"train.*\.png"):
        rehearse(load_config(small, ["train.eval_every=null"]))


def test_pretraining_is_rehearsed_first(small: Path, tmp_path: Path) -> None:
    levels = "model={levels: [{name: a, dim: 16, heads: 2, depth: 1, group: {type: fixed, stride: 2}}, " \
        "{name: b, dim: 16, heads: 2, depth: 1}]}"  # fmt: skip
    pretrain = "train.pretrain={task: {type: masked, unit: b}, steps: 1}"
    assert rehearse(load_config(small, [levels, pretrain])) == "8 train, 8 val, 8 test"
    late = load_config(
        small, [levels, "train.pretrain={task: {type: masked, unit: b}, steps: 3}", "optim.warmup_steps=5"]
    )
    assert [warning.split(":")[0] for warning in warnings_of(late)][1:] == ["train.pretrain"]
    assert files(tmp_path / "run") == set()


def test_the_run_folder_must_be_free_and_writable(small: Path, tmp_path: Path) -> None:
    config = load_config(small)
    check_folder(config, resume=False)
    assert not (tmp_path / "run").exists()
    (tmp_path / "run").mkdir()
    with exclusive_lock(tmp_path / "run"), pytest.raises(UserError, match="is being written by another process"):
        check_folder(config, resume=False)
    (tmp_path / "run" / ".lock").unlink()
    check_folder(config, resume=False)
    assert files(tmp_path / "run") == set()
    assert main(["train", str(small)]) == 0
    with pytest.raises(ConfigError, match=r"holds a run already, with a checkpoint of step 2; resume it"):
        check_folder(config, resume=False)
    check_folder(config, resume=True)
    with pytest.raises(UserError, match=r"optim\.lr: saved with"):
        check_folder(load_config(small, ["optim.lr=1"]), resume=True)
    with pytest.raises(ConfigError, match="is a file; choose another folder"):
        check_folder(load_config(small, [f"run.dir={small}/x"]), resume=False)


def test_a_folder_that_cannot_be_written_is_found(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "closed").mkdir()
    # Permissions do not bind root.
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path / "closed")
    with pytest.raises(ConfigError, match="closed cannot be written"):
        check_folder(load_config(small, [f"run.dir={tmp_path / 'closed' / 'run'}"]), resume=False)


def test_validate_warns_of_a_folder_in_use(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", str(small)]) == 0
    capsys.readouterr()
    assert main(["config", "validate", str(small)]) == 0
    assert "warning: run.dir" in capsys.readouterr().err
    assert main(["train", "--dry-run", str(small)]) == 2
    assert main(["train", "--dry-run", "--resume", str(small)]) == 0
