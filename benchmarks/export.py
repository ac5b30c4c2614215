"""Exported models: error, size and time of ONNX Runtime beside PyTorch, in float32 and with 8-bit weights.

One model for each modality, with random weights and all branches and gates open, on inputs of noise: errors and times
do not depend on training. Each file is checked as ``hrt-mm export`` does, at five batch sizes and sizes of samples, and
timed at the largest. Times are medians without tokenization; both runtimes have the same number of threads.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch

from hrt_mm.config import RunConfig, load_config
from hrt_mm.inference import ExportedFile, TrainedRun, export_run
from hrt_mm.inference.export import TOLERANCE
from hrt_mm.train.build import build_task, build_tokenizers
from hrt_mm.train.checkpoint import Checkpoint

from .command import main, parser
from .markdown import markdown, mebibytes, milliseconds
from .results import Measured, Result, Row, environment

NAME = "export"
CONFIGS = {"vision": "vision/digits", "text": "text/quickstart", "audio": "audio/audio_folder"}
"""Packaged configurations with fixed groups, by modality."""
VIDEO = """
modality: {type: video, patch: 16, tube: 2, rate: 12.5, stem: {type: conv, width: 16}}
model:
  levels:
    - {name: tubes, dim: 64, depth: 1, heads: 2, window: [2, 4, 4], group: {type: fixed, stride: [1, 2, 2]}, pool: conv}
    - {name: regions, dim: 96, depth: 1, heads: 3, window: [4, 2, 2], group: {type: fixed, stride: 2}, pool: mean}
    - {name: clips, dim: 128, depth: 2, heads: 4}
task: {type: classification, level: clips}
data: {type: rendered_video, label: action, shots: [1, 1]}
train: {steps: 1, batch_size: 1}
"""
"""Packaged configurations of videos group by what samples contain."""
CLASSES = tuple("0123456789")
EAGER, FLOAT32, INT8 = "PyTorch", "ONNX Runtime", "ONNX Runtime, int8"


def config_of(modality: str, folder: Path) -> RunConfig:
    """The configuration of a modality."""
    if modality != "video":
        return load_config(CONFIGS[modality])
    path = folder / "video.yaml"
    path.write_text(VIDEO)
    return load_config(str(path))


def random_run(config: RunConfig, folder: Path) -> TrainedRun:
    """A run of a configuration whose weights are random."""
    torch.manual_seed(0)
    tokenizers = build_tokenizers(config)
    task = build_task(config, tokenizers, CLASSES)
    for parameter in task.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)
    return TrainedRun(folder, config, task.eval(), tokenizers, CLASSES, Checkpoint(folder, {"step": 0}))


def exported(modality: str) -> Row:
    """Exports a modality's model, and checks and times both files."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        run = random_run(config_of(modality, folder), folder)
        int8 = export_run(run, folder / "model.onnx", "onnx", int8=True)
    full = int8.float32
    assert full is not None
    eager = Measured(seconds=full.eager_milliseconds / 1000)
    contenders = {EAGER: eager, FLOAT32: _measured(full), INT8: _measured(int8)}
    weights = sum(parameter.numel() for parameter in run.task.parameters())
    ratios = {"speed-up": full.eager_milliseconds / full.milliseconds}
    return Row(
        sizes={"modality": modality, "parameters": weights, "inputs": full.timed}, contenders=contenders, ratios=ratios
    )


def _measured(file: ExportedFile) -> Measured:
    return Measured(seconds=file.milliseconds / 1000, held_bytes=file.num_bytes, scores={"error": file.error})


def run(options: argparse.Namespace) -> Result:
    """Measures all modalities, or one with ``--quick``."""
    modalities = ("vision",) if options.quick else (*CONFIGS, "video")
    rows = [exported(modality) for modality in modalities]
    errors = {f"{row.sizes['modality']}, float32": row.contenders[FLOAT32].scores["error"] or 0.0 for row in rows}
    return Result(
        name=NAME,
        command=options.command,
        quick=options.quick,
        settings={"tolerance": TOLERANCE},
        checks=errors,
        rows=rows,
        **environment(options.device),
    )


def tables(result: Result) -> str:
    """The result as Markdown."""
    head = ["model", "parameters", "inputs", "", "largest difference", "MiB", "ms"]
    body = []
    for row in result.rows:
        for name, measured in row.contenders.items():
            error = measured.scores.get("error")
            first = [str(row.sizes["modality"]), f"{row.sizes['parameters']:,}", str(row.sizes["inputs"])]
            body.append(
                [
                    *(first if name == EAGER else ["", "", ""]),
                    name,
                    "" if error is None else f"{error:.1e}",
                    mebibytes(measured.held_bytes),
                    milliseconds(measured),
                ]
            )
    return markdown(head, body)


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    return parser(NAME, __doc__ or "")


if __name__ == "__main__":
    raise SystemExit(main(arguments(), run, tables))
