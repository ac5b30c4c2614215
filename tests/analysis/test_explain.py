"""Attributions: gradients and attention that find the part which tells classes apart."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from hrt_mm import ConfigError, load_config, load_run, train
from hrt_mm.analysis.explain import Explainer, explain, rollout
from hrt_mm.analysis.report.attention import recorded
from hrt_mm.cli.main import main
from hrt_mm.core.errors import UserError
from hrt_mm.core.pyramid import Pyramid
from hrt_mm.inference import TrainedRun
from hrt_mm.tasks import Classification

MODEL = """
modality: {type: vision, channels: 1, patch: 2}
model:
  levels:
    - {name: patches, dim: 16, heads: 2, depth: 1, window: 2, group: {type: fixed, stride: 2}}
    - {name: regions, dim: 16, heads: 2, depth: 1}
task: {type: classification}
data: {type: digits}
train: {steps: 1, batch_size: 8, eval_every: null, test: false, num_threads: 1, precision: fp32}
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> TrainedRun:
    folder = tmp_path_factory.mktemp("explain")
    (folder / "config.yaml").write_text(MODEL)
    train(load_config(str(folder / "config.yaml"), [f"run.dir={folder / 'run'}"]))
    return load_run(folder / "run")


@pytest.fixture(scope="module")
def image() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (1, 8, 8), generator=generator, dtype=torch.uint8)


def test_gradients_are_those_of_the_predicted_class(run: TrainedRun, image: torch.Tensor) -> None:
    ((batch, samples),) = list(run.read([image]))
    (attributions,) = Explainer(run, "gradient", count=100)(batch, samples)
    task = run.task
    assert isinstance(task, Classification)
    # The head is linear, so what doubling a token adds to the score is its share.
    weights: dict[int, float] = {}
    with torch.no_grad():
        plain = task.logits(batch)
        best = int(plain.argmax())
        for token in range(4):

            def scaled(module: Any, args: Any, output: Pyramid, token: int = token) -> Pyramid:
                x_TD = output["regions"].x.clone()
                x_TD[token] *= 2
                return replace(output, tokens={**output.tokens, "regions": replace(output["regions"], x=x_TD)})

            handle = task.encoder.register_forward_hook(scaled)
            weights[token] = float((task.logits(batch) - plain)[0, best])
            handle.remove()
    positive = {token: weight for token, weight in weights.items() if weight > 0}
    total = sum(positive.values())
    regions = [part for part in attributions if part.level == "regions"]
    assert len(regions) == len(positive)
    assert regions[0].weight == pytest.approx(max(positive.values()) / total, rel=1e-3)
    assert sum(part.weight for part in regions) == pytest.approx(1, abs=1e-5)
    best_token = max(positive, key=positive.__getitem__)
    row, column = divmod(best_token, 2)
    assert regions[0].box == pytest.approx((4 * column, 4 * row, 4 * column + 4, 4 * row + 4))
    levels = [part.level for part in attributions]
    assert levels == sorted(levels, key=("regions", "patches").index)


def test_attention_is_followed_down_to_the_finest_level(run: TrainedRun, image: torch.Tensor) -> None:
    ((batch, _),) = list(run.read([image, 255 - image], 2))
    task = run.task
    assert isinstance(task, Classification)
    with torch.no_grad(), recorded(task.encoder.hierarchy) as layers:
        pyramid = task.encoder(batch.tokens)
    weights = rollout(pyramid, layers, [1])
    for level in (0, 1):
        for part in pyramid[level].spans.split(weights[level]):
            assert float(part.sum()) == pytest.approx(1, abs=1e-5)
    # By hand, at the coarse level of the first sample: 4 tokens that attend to each other.
    (top,) = [layer for layer in layers if layer.level == 1]
    matrix = torch.stack([top.weights(token)[:4] for token in range(4)])
    expected = 0.5 * torch.full((4,), 1 / 4) + 0.5 * matrix.T @ torch.full((4,), 1 / 4)
    torch.testing.assert_close(weights[1][:4], expected)


@pytest.mark.parametrize("method", ["gradient", "attention"])
def test_boxes_are_written_beside_predictions(
    run: TrainedRun, image: torch.Tensor, tmp_path: Path, method: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(image[0].numpy()).save(path)
    out = tmp_path / "p.jsonl"
    assert main(["predict", str(run.folder), str(path), "--explain", method, "--out", str(out)]) == 0
    (row,) = [json.loads(line) for line in out.read_text().splitlines()]
    attributions = row["attributions"]
    assert 2 <= len(attributions) <= 6 and {part["level"] for part in attributions} <= {"regions", "patches"}
    for part in attributions:
        left, top, right, bottom = part["box"]
        assert 0 <= left < right <= 8 and 0 <= top < bottom <= 8 and 0 < part["weight"] <= 1
    (parts,) = explain(run, [str(path)], method)
    assert [part.plain() for part in parts] == attributions
    capsys.readouterr()
    assert main(["predict", str(run.folder), str(path), "--explain", method]) == 0
    assert "% by box [" in capsys.readouterr().out


def test_what_cannot_be_explained_is_named(run: TrainedRun, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the method 'magic' is unknown; it is one of gradient, attention"):
        Explainer(run, "magic")
    config = tmp_path / "config.yaml"
    masked = MODEL.replace("{type: classification}", "{type: masked}")
    masked = masked.replace("  levels:", "  top_down: true\n  levels:")
    config.write_text(masked)
    other = load_run(train(load_config(str(config), [f"run.dir={tmp_path / 'run'}"])))
    with pytest.raises(ConfigError, match="attribution is for tasks classification and fused_classification"):
        Explainer(other)
