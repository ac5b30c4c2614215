"""Exported models: error, size and time of ONNX Runtime beside PyTorch, in float32 and with 8-bit weights.

One classifier for each modality. Each file is checked as ``hrt-mm export`` does, at five batch sizes and sizes of
samples, and timed at the largest; batches in PyTorch and ONNX Runtime take turns. Times are medians of processor time,
which other programs on the machine affect little, without tokenization, and both runtimes have the same number of
threads. The classifier of digits is trained, and its classes are compared on the test split. The others have random
weights with all branches and gates open, and their classes are compared on noise.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path

import torch

from hrt_mm import train
from hrt_mm.config import RunConfig, load_config
from hrt_mm.data.capabilities import Exportable
from hrt_mm.data.sample import Sample
from hrt_mm.inference import ExportedFile, TrainedRun, compare_classes, export_run, load_task
from hrt_mm.inference.export import TOLERANCE
from hrt_mm.train.build import build_dataset, build_task, build_tokenizers
from hrt_mm.train.checkpoint import Checkpoint

from .command import main, parser, positive
from .markdown import markdown, mebibytes, milliseconds
from .results import Measured, Result, Row, environment

NAME = "export"
VISION = "vision/digits"
STEPS = 100
"""Training steps of the classifier of digits."""
CONFIGS = {"audio": "audio/audio_folder"}
"""Packaged configurations with fixed groups, by modality."""
TEXT = """
modality: {type: text}
model:
  levels:
    - {name: bytes, dim: 128, depth: 1, heads: 2, window: 16, window_type: sliding, group: {type: fixed, stride: 8}}
    - {name: phrases, dim: 256, depth: 3, heads: 4}
  cross_scale: {up: true, down: true}
task: {type: classification, level: phrases}
data: {type: listops, short: true}
train: {steps: 1, batch_size: 1}
"""
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
"""Packaged classifiers of texts and videos group by what samples contain."""
CUSTOM = {"text": TEXT, "video": VIDEO}
MODALITIES = ("vision", "text", "audio", "video")
CLASSES = tuple("0123456789")
NOISE = 64
"""Samples of noise whose classes are compared."""
EAGER, FLOAT32, INT8 = "PyTorch", "ONNX Runtime", "ONNX Runtime, int8"


def config_of(modality: str, folder: Path) -> RunConfig:
    """The configuration of a modality, beside which further files may lie in the folder."""
    if modality not in CUSTOM:
        return load_config(CONFIGS[modality])
    path = folder / f"{modality}.yaml"
    path.write_text(CUSTOM[modality])
    return load_config(str(path))


def trained_run(folder: Path, steps: int) -> TrainedRun:
    """A trained classifier of digits."""
    overrides = [f"train.steps={steps}", f"train.eval_every={steps}", f"train.save_every={steps}"]
    train(load_config(VISION, [*overrides, "optim.warmup_steps=10", f"run.dir={folder / 'run'}"]))
    return load_task(folder / "run")


def random_run(config: RunConfig, folder: Path) -> TrainedRun:
    """A run of a configuration whose weights are random."""
    torch.manual_seed(0)
    tokenizers = build_tokenizers(config)
    task = build_task(config, tokenizers, CLASSES)
    for parameter in task.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)
    return TrainedRun(folder, config, task.eval(), tokenizers, CLASSES, Checkpoint(folder, {"step": 0}))


def noise(run: TrainedRun) -> list[Sample]:
    """Samples of noise, of four sizes where sizes may differ."""
    tokenizer = run.tokenizer
    assert isinstance(tokenizer, Exportable)
    torch.manual_seed(1)
    return [Sample(tokenizer.dense_example(1 + index % 4), CLASSES[0]) for index in range(NOISE)]


def exported(modality: str, steps: int = STEPS) -> Row:
    """Exports a modality's model, and checks and times both files."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        trained = modality == "vision"
        run = trained_run(folder, steps) if trained else random_run(config_of(modality, folder), folder)
        path = folder / "model.onnx"
        int8 = export_run(run, path, "onnx", int8=True, clock=time.process_time)
        samples: Iterable[Sample] = noise(run)
        if trained:
            dataset = build_dataset(run.config, "test", run.tokenizers)
            samples = (dataset[index] for index in range(len(dataset)))
        classes = compare_classes(run, path, "onnx", samples)
    full = int8.float32
    assert full is not None
    contenders = {
        EAGER: Measured(seconds=full.eager_milliseconds / 1000),
        FLOAT32: _measured(full),
        INT8: _measured(int8),
    }
    contenders[INT8].scores["same class"] = classes.same
    if trained:
        contenders[EAGER].scores["accuracy"] = classes.accuracy
        contenders[INT8].scores["accuracy"] = classes.file_accuracy
    weights = sum(parameter.numel() for parameter in run.task.parameters())
    return Row(
        sizes={"modality": modality, "parameters": weights, "inputs": full.timed, "compared": classes.count},
        contenders=contenders,
        ratios={
            "speed-up": full.eager_milliseconds / full.milliseconds,
            "int8 speed-up": int8.eager_milliseconds / int8.milliseconds,
        },
    )


def _measured(file: ExportedFile) -> Measured:
    return Measured(seconds=file.milliseconds / 1000, held_bytes=file.num_bytes, scores={"error": file.error})


def run(options: argparse.Namespace) -> Result:
    """Measures all modalities, or one with ``--quick``."""
    if options.quick:
        rows = [exported("vision", 1)]
    else:
        threads = torch.get_num_threads()
        spawn = get_context("spawn")
        with ProcessPoolExecutor(options.jobs, spawn, initializer=torch.set_num_threads, initargs=(threads,)) as pool:
            rows = list(pool.map(exported, MODALITIES))
    errors = {f"{row.sizes['modality']}, float32": row.contenders[FLOAT32].scores["error"] or 0.0 for row in rows}
    return Result(
        name=NAME,
        command=options.command,
        quick=options.quick,
        settings={
            "onnxruntime": version("onnxruntime"),
            "tolerance": TOLERANCE,
            "clock": "processor time",
            "steps": 1 if options.quick else STEPS,
        },
        checks=errors,
        rows=rows,
        **environment(options.device),
    )


def tables(result: Result) -> str:
    """The result as Markdown."""
    head = ["model", "parameters", "inputs", "", "largest difference", "same class", "accuracy", "MiB", "CPU ms"]
    body = []
    for row in result.rows:
        for name, measured in row.contenders.items():
            scores = measured.scores
            error, same, accuracy = (scores.get(score) for score in ("error", "same class", "accuracy"))
            first = [str(row.sizes["modality"]), f"{row.sizes['parameters']:,}", str(row.sizes["inputs"])]
            body.append(
                [
                    *(first if name == EAGER else ["", "", ""]),
                    name,
                    "" if error is None else f"{error:.1e}",
                    "" if same is None else f"{same:.1%} of {row.sizes['compared']}",
                    "" if accuracy is None else f"{accuracy:.4f}",
                    mebibytes(measured.held_bytes),
                    milliseconds(measured),
                ]
            )
    return markdown(head, body)


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    options = parser(NAME, __doc__ or "")
    options.add_argument("--jobs", type=positive, default=1, help="models that are measured side by side (1)")
    return options


if __name__ == "__main__":
    raise SystemExit(main(arguments(), run, tables))
