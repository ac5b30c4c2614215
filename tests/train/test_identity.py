from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hrt_mm.config import RunConfig, load_config
from hrt_mm.inference.trained import load_task
from hrt_mm.train.checkpoint import Checkpoint, CheckpointError
from hrt_mm.train.identity import check_same_classes, check_same_vocabularies, vocabularies
from hrt_mm.train.loop import train
from hrt_modalities.text.subwords import SubwordTokenizer, train_subwords


def pictures(root: Path, labels: Sequence[str]) -> None:
    for split in ("train", "val", "test"):
        for number, label in enumerate(labels):
            folder = root / split / label
            folder.mkdir(parents=True)
            for index in range(4):
                Image.fromarray(np.full((8, 8, 3), 60 * number + index, np.uint8)).save(folder / f"{index}.png")


def small(tmp_path: Path, task: str = "{type: classification}", name: str = "run", *overrides: str) -> RunConfig:
    path = tmp_path / "small.yaml"
    path.write_text(f"""
modality: {{type: vision, patch: 4, size: 8}}
model: {{levels: [{{name: image, dim: 16, heads: 2, depth: 1, group: {{type: fixed, stride: 2}}}},
                  {{name: whole, dim: 16, heads: 2, depth: 1}}]}}
task: {task}
data: {{type: image_folder, root: {tmp_path / "data"}}}
train: {{steps: 1, batch_size: 4, tensorboard: false, num_threads: 1}}
optim: {{warmup_steps: 0}}
""")
    return load_config(path, [f"run.dir={tmp_path / name}", *overrides])


def rename(tmp_path: Path, before: str, after: str) -> None:
    for split in ("train", "val", "test"):
        (tmp_path / "data" / split / before).rename(tmp_path / "data" / split / after)


def test_a_run_does_not_go_on_with_as_many_other_classes(tmp_path: Path) -> None:
    pictures(tmp_path / "data", ["bat", "cat"])
    train(small(tmp_path))
    rename(tmp_path, "bat", "dog")
    with pytest.raises(CheckpointError) as caught:
        train(small(tmp_path, "{type: classification}", "run", "train.steps=2"), resume=True)
    assert "trained on other classes (1 removed: 'bat'; 1 new: 'dog'): saved 'bat', 'cat', now 'cat', 'dog'" in str(
        caught.value
    )
    assert "another run.dir" in str(caught.value)


def test_a_run_without_labels_goes_on_with_other_classes(tmp_path: Path) -> None:
    pictures(tmp_path / "data", ["bat", "cat"])
    masked = "{type: masked, unit: whole}"
    override = ("model.top_down=true", "model.cross_scale.up=false")
    train(small(tmp_path, masked, "run", *override))
    rename(tmp_path, "bat", "dog")
    train(small(tmp_path, masked, "run", *override, "train.steps=2"), resume=True)


@pytest.mark.parametrize(
    ("saved", "now", "reason"),
    [
        (["a", "b"], ["b", "a"], "the same in another order"),
        (["a", "b"], ["a", "b", "c"], "1 new: 'c'"),
        (["a", "b"], None, "2 removed: 'a', 'b'"),
        (None, ["a"], "saved none, now 'a'"),
        ([str(n) for n in range(20)], [str(n) for n in range(1, 21)], "1 removed: '0'; 1 new: '20'"),
    ],
)
def test_classes_are_compared_by_name_and_order(
    saved: list[str] | None, now: list[str] | None, reason: str, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError) as caught:
        check_same_classes(Checkpoint(tmp_path, {"classes": saved}), now)
    assert reason in str(caught.value)
    assert len(str(caught.value)) < 600
    check_same_classes(Checkpoint(tmp_path, {"classes": saved}), saved)


def test_vocabularies_of_one_size_differ_by_their_subwords(tmp_path: Path) -> None:
    for name, text in (("one", "low lower lowest"), ("two", "new newer newest")):
        train_subwords([text] * 5, 260, tmp_path / f"{name}.json")
    one, two = (SubwordTokenizer(tmp_path / f"{name}.json") for name in ("one", "two"))
    assert one.vocabulary == two.vocabulary
    state = {"vocabularies": vocabularies({"": one})}
    check_same_vocabularies(Checkpoint(tmp_path, state), {"": one})
    with pytest.raises(CheckpointError, match=r"another vocabulary: the file of modality\.subwords held \d+ subwords"):
        check_same_vocabularies(Checkpoint(tmp_path, state), {"": two})
    state = {"vocabularies": vocabularies({"text": one, "query": two})}
    with pytest.raises(CheckpointError, match=r"the file of towers\.query\.modality\.subwords held"):
        check_same_vocabularies(Checkpoint(tmp_path, state), {"text": one, "query": one})


TEXT = """
modality: {{type: text, subwords: {folder}/vocabulary.json}}
model: {{levels: [{{name: subwords, dim: 16, heads: 2, depth: 1}}], causal: true}}
task: {{type: language}}
data: {{type: corpus, files: [{folder}/text.txt], val_files: [{folder}/val-text.txt],
       test_files: [{folder}/test-text.txt], context: 32}}
train: {{steps: 1, batch_size: 2, tensorboard: false, num_threads: 1}}
"""


def test_another_vocabulary_stops_resume_evaluation_and_init_from(tmp_path: Path) -> None:
    for split in ("", "val-", "test-"):
        (tmp_path / f"{split}text.txt").write_text("low lower lowest\n\n" * 40)
    (tmp_path / "text.yaml").write_text(TEXT.format(folder=tmp_path))
    train_subwords(["low lower lowest"] * 5, 260, tmp_path / "vocabulary.json")
    options = [f"run.dir={tmp_path / 'run'}"]
    train(load_config(tmp_path / "text.yaml", options))
    train_subwords(["new newer newest"] * 5, 260, tmp_path / "vocabulary.json")
    with pytest.raises(CheckpointError, match=r"another vocabulary.*resume with"):
        train(load_config(tmp_path / "text.yaml", [*options, "train.steps=2"]), resume=True)
    with pytest.raises(CheckpointError, match=r"another vocabulary.*evaluate with"):
        load_task(tmp_path / "run")
    other = [f"run.dir={tmp_path / 'other'}", f"train.init_from={tmp_path / 'run'}"]
    with pytest.raises(CheckpointError, match=r"another vocabulary.*without train\.init_from"):
        train(load_config(tmp_path / "text.yaml", other))


def test_what_init_from_loads_is_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    pictures(tmp_path / "data", ["bat", "cat"])
    train(small(tmp_path))
    capsys.readouterr()
    with caplog.at_level(logging.WARNING):
        train(small(tmp_path, "{type: classification}", "fine", f"train.init_from={tmp_path / 'run'}"))
    assert not [message for message in caplog.messages if "init_from" in message]
    encoder = [name for name in torch_names(tmp_path / "run") if name.startswith("encoder.")]
    reason = f"train.init_from: {len(encoder)} of {len(encoder)} encoder weights from step 1 of {tmp_path / 'run'}"
    assert reason in capsys.readouterr().err


def torch_names(folder: Path) -> list[str]:
    task = load_task(folder).task
    return [name for name, value in task.state_dict().items() if isinstance(value, torch.Tensor)]
