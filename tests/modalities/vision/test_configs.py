"""The configurations of this modality: each one loads, and takes a step on data of the form that it names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from hrt_mm.analysis.control import flat_control
from hrt_mm.config import load_config
from hrt_mm.train.build import build_data, build_task
from hrt_mm.train.loop import train
from hrt_mm.train.store import CheckpointStore
from hrt_modalities.vision.memory import Cifar10Config

CONFIGS = Path(__file__).parents[3] / "configs" / "vision"
NAMES = sorted(path.stem for path in CONFIGS.glob("*.yaml"))


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A few random images in each of the layouts, in the working folder and under HRT_MM_DATA."""
    generator = np.random.default_rng(0)
    monkeypatch.setenv("HRT_MM_DATA", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for name in ("MNIST", "FashionMNIST"):
        for prefix, count in (("train", 200), ("t10k", 20)):
            folder = tmp_path / name / "raw"
            folder.mkdir(parents=True, exist_ok=True)
            head = b"\0\0\x08\x03" + b"".join(size.to_bytes(4) for size in (count, 28, 28))
            pixels = generator.integers(0, 256, count * 28 * 28, dtype=np.uint8).tobytes()
            (folder / f"{prefix}-images-idx3-ubyte").write_bytes(head + pixels)
            labels = bytes(index % 10 for index in range(count))
            (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(b"\0\0\x08\x01" + count.to_bytes(4) + labels)
    for split in ("train", "val", "test"):
        for label in ("cat", "dog"):
            for index in range(4):
                path = tmp_path / "images" / split / label / f"{index}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(generator.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(path)

    def read(self: Cifar10Config, train: bool) -> tuple[Tensor, list[int], tuple[str, ...]]:
        labels = [index % 10 for index in range(200)]
        return torch.randint(0, 256, (200, 3, 32, 32), dtype=torch.uint8), labels, tuple("abcdefghij")

    monkeypatch.setattr(Cifar10Config, "read", read)
    return tmp_path


@pytest.mark.parametrize("name", NAMES)
def test_every_configuration_takes_a_step(name: str, data: Path) -> None:
    config = load_config(CONFIGS / f"{name}.yaml", ["train.batch_size=8"])
    result = build_data(config, ["train", "val", "test"])
    task = build_task(config, result.tokenizers, result.classes)
    samples = [result.splits["train"][index] for index in range(8)]
    output = task(result.maker(config, "train").collator(samples))
    output.loss.backward()
    assert all(parameter.grad is not None for parameter in task.parameters())


def test_the_flat_mnist_is_the_control_of_the_hierarchy(data: Path) -> None:
    mnist, flat = (load_config(CONFIGS / f"{name}.yaml", []) for name in ("mnist", "mnist_flat"))
    assert flat.single.model == flat_control(mnist.single.model, 2)
    assert (flat.data, flat.optim, flat.train) == (mnist.data, mnist.optim, mnist.train)
    sizes = []
    for config in (mnist, flat):
        result = build_data(config, ["train"])
        sizes.append(
            sum(weight.numel() for weight in build_task(config, result.tokenizers, result.classes).parameters())
        )
    assert sizes[1] == pytest.approx(sizes[0], rel=0.01), "stem and head included"


def test_pre_training_is_handed_on_to_fine_tuning(data: Path) -> None:
    """As the two README commands do it, with the folders that the configurations name."""
    short = ["train.steps=2", "train.batch_size=8", "train.eval_every=null", "train.test=false"]
    short += ["train.tensorboard=false", "train.num_threads=1"]
    first = train(load_config(CONFIGS / "digits_masked.yaml", short))
    second = train(load_config(CONFIGS / "digits_finetune.yaml", [*short, "optim.lr=1e-12"]))
    assert first.resolve() == (data / "runs" / "digits-masked").resolve()
    before, after = (CheckpointStore(folder).read("latest").tensors("model") for folder in (first, second))
    encoder = {name for name in after if name.startswith("encoder.")}
    assert encoder == {name for name in before if name.startswith("encoder.")}
    assert all(torch.allclose(before[name], after[name], atol=1e-6) for name in encoder)
    assert set(after) - encoder == {"head.weight", "head.bias"}
