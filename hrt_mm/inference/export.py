"""Exports trained runs as ONNX or ``torch.export`` files, and checks each file against the model before it is kept."""

from __future__ import annotations

import json
import logging
import math
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..core.errors import ConfigError, UserError
from ..core.extras import needs_extra
from ..core.levels import FixedGroups, HierarchyConfig, extent
from ..core.pyramid import Pyramid
from ..data.atomic_files import replace_file
from ..data.capabilities import Exportable
from ..data.sample import Sample
from ..data.tokenizer import SINGLE, Tokenizer
from ..tasks.base import Task
from ..tasks.classification import Classification, ClassificationConfig
from ..tasks.contrastive import Contrastive
from ..tasks.encoder import Encoder
from ..tasks.encoding import EncoderTask
from ..tasks.multilabel import Multilabel
from ..tasks.pooled import PooledTask
from ..tasks.regression import Regression
from .trained import TrainedRun

Format = Literal["onnx", "pt2"]
Output = Literal["logits", "embedding"]
OUTPUTS: dict[Output, str] = {"logits": "logits", "embedding": "vectors"}
"""Names of the outputs of an ONNX file. Values within a graph are named after operators, of which embedding is one."""
METADATA = "hrt_mm"
"""Key of the metadata in an ONNX file."""
TOLERANCE = 1e-4
"""Largest difference between the file and the model, relative to the largest output if that is above 1."""
_OPSET = 18
_SHAPES = ((1, 1), (2, 2), (3, 5), (1, 7), (4, 8))
"""Batch sizes and sizes of samples that a file is checked with. It is timed with the last ones."""
_RUNS = 10
_QUANTIZED = ["MatMul", "Gather"]
"""Linear maps and tables. Convolutions stay in float32, as those in 8 bits are slower on CPUs."""

_Compute = Callable[[Mapping[str, Tensor]], Tensor]


@dataclass(frozen=True)
class ExportedFile:
    """A file that was exported and checked.

    Args:
        path: of the file.
        error: the largest difference from the model, relative to the largest output if that is above 1.
        num_bytes: of the file.
        shapes: of the inputs that it was checked with, in order.
        milliseconds: a batch in the file's runtime; the median of batches that take turns with those in PyTorch.
        eager_milliseconds: the same batch in PyTorch, without tokenization.
        timed: shapes of the inputs of that batch.
        float32: of a quantized file, the same of the file that it was made of.
    """

    path: Path
    error: float
    num_bytes: int
    shapes: Sequence[str]
    milliseconds: float
    eager_milliseconds: float
    timed: str
    float32: ExportedFile | None = None


@dataclass(frozen=True)
class ClassComparison:
    """Classes that an exported file gives, beside the model's.

    Args:
        count: number of samples.
        same: share of them for which both give the same class.
        accuracy: of the model.
        file_accuracy: of the file.
    """

    count: int
    same: float
    accuracy: float
    file_accuracy: float


class DenseModel(nn.Module):
    """An encoder and what is read of its pyramid, over dense batches: what is traced.

    Args:
        encoder: of the tower.
        tokenizer: of the tower.
        read: the output of a pyramid, (B, D).
        modules: those that ``read`` calls.
    """

    def __init__(
        self, encoder: Encoder, tokenizer: Exportable, read: Callable[[Pyramid], Tensor], modules: Sequence[nn.Module]
    ) -> None:
        super().__init__()
        self.encoder, self.tokenizer, self.read = encoder, tokenizer, read
        self.modules_of_output = nn.ModuleList(modules)
        self.unit = _unit(encoder.hierarchy.config, encoder.hierarchy.axes)
        self.names = tuple(tokenizer.dense_axes())

    def forward(self, *inputs: Tensor) -> Tensor:
        """(B, D) from the inputs, in the order of ``names``."""
        named = dict(zip(self.names, inputs, strict=True))
        tokens = self.tokenizer.dense_tokens(self.encoder.embedding, named, self.unit)
        return self.read(self.encoder.hierarchy(tokens))


def export_run(
    run: TrainedRun,
    path: Path,
    format: Format,
    *,
    output: Output | None = None,
    level: str | None = None,
    tower: str | None = None,
    int8: bool = False,
    clock: Callable[[], float] = time.perf_counter,
) -> ExportedFile:
    """Exports a run, checks the file at five sizes, and keeps it if it agrees with the model.

    Args:
        run: on the CPU, with tokenizers that do not resize inputs (``load_task(..., inputs="own")``).
        path: of the file, in a folder that exists; replaced if it exists.
        format: ``onnx`` for ONNX Runtime and others, ``pt2`` for ``torch.export.load``.
        output: class scores, or the vector of a sample. By default scores of a classifier, else vectors.
        level: of the vector; the coarsest, or that of the contrastive task, by default.
        tower: of a run with several.
        int8: quantize weights to 8 bits (ONNX). The error is measured, and has no limit.
        clock: seconds that batches are timed with, such as ``time.process_time`` on a busy machine.

    Raises:
        UserError: the path cannot be written, the model has parts that cannot be exported, or the file does not agree
            with it.
    """
    check_path(path)
    if int8 and format != "onnx":
        raise UserError("int8 quantization is that of ONNX Runtime; export with --onnx, or drop --int8")
    model, metadata = _model(run, output, level, tower)
    tokenizer = model.tokenizer
    assert isinstance(tokenizer, Tokenizer)
    with torch.no_grad(), tempfile.TemporaryDirectory(prefix="hrt-mm-export-") as temporary:
        written = Path(temporary) / f"model.{format}"
        if format == "onnx":
            _write_onnx(model, written, metadata)
            with _failures_named("ONNX Runtime cannot load the model"):
                compute = _onnx(written)
        else:
            _write_pt2(model, written, metadata)
            compute = _pt2(written)
        report = _check(model, compute, path, written, clock)
        if not report.error <= TOLERANCE:
            raise UserError(
                f"the exported file differs from the model by {report.error:.1e}, more than {TOLERANCE:g}; {path} was "
                "not written. Please report this with the configuration of the run"
            )
        if int8:
            written = _quantized(written)
            report = replace(_check(model, _onnx(written), path, written, clock), float32=report)
            if not math.isfinite(report.error):
                raise UserError(f"the quantized model gives values that are not finite; {path} was not written")
        replace_file(path, written.read_bytes())
    return report


def check_path(path: Path) -> None:
    """Checks that a file can be written, before work is spent on it.

    Raises:
        UserError: the path is a folder, or lies in a folder that does not exist.
    """
    if path.is_dir():
        raise UserError(f"{path} is a folder; name a file in it, such as {path / 'model.onnx'}")
    if not path.parent.is_dir():
        raise UserError(f"cannot write {path}: there is no folder {path.parent}; create it, or choose another path")


@torch.no_grad()
def compare_classes(run: TrainedRun, path: Path, format: Format, samples: Iterable[Sample]) -> ClassComparison:
    """Compares the classes that an exported classifier gives with the model's. Views of a sample are averaged.

    Args:
        run: as :func:`export_run` takes it.
        path: of the exported file.
        format: of the file.
        samples: labelled.

    Raises:
        UserError: the run is no classifier, or there are no samples.
        BadSample: a sample cannot be tokenized.
    """
    model, _ = _model(run, "logits", None, None)
    compute = _onnx(path) if format == "onnx" else _pt2(path)
    config, tokenizer = run.config.task, model.tokenizer
    if not isinstance(config, ClassificationConfig):
        raise UserError(
            f"--split compares the classes of task classification, and {run.folder} was trained on task {config.type}; "
            "drop it"
        )
    assert isinstance(tokenizer, Tokenizer)
    rows = []
    for sample in samples:
        values = config.values([sample])
        tokens = tokenizer(values)
        (target,) = config.targets([sample], tokens, run.classes).tolist()
        outputs = compute(tokenizer.dense_batch(values)), model.read(model.encoder(tokens))
        rows.append((*(int(logits.softmax(-1).mean(0).argmax()) for logits in outputs), target))
    if not rows:
        raise UserError("there are no samples to compare classes with")
    file, eager, targets = torch.tensor(rows).unbind(1)
    same, accuracy, file_accuracy = (
        float((a == b).float().mean()) for a, b in ((file, eager), (eager, targets), (file, targets))
    )
    return ClassComparison(len(rows), same, accuracy, file_accuracy)


def _model(
    run: TrainedRun, output: Output | None, level: str | None, tower: str | None
) -> tuple[DenseModel, dict[str, Any]]:
    task = run.task.float().eval()
    name = _tower(run, tower)
    tokenizer = run.tokenizers[name]
    read: Callable[[Pyramid], Tensor]
    if isinstance(task, EncoderTask):
        encoder = task.encoder
    elif isinstance(task, Contrastive):
        encoder = task.encoder_of(name)
    else:
        raise UserError(
            f"{run.folder} was trained on task {run.config.task.type}, whose output combines towers; tasks over one "
            "modality and task contrastive can be exported"
        )
    hierarchy = encoder.hierarchy.config
    check_exportable(hierarchy, tokenizer)
    scores = isinstance(task, Classification | PooledTask)
    output = output or ("logits" if scores else "embedding")
    modules: list[nn.Module] = []
    if output == "logits":
        if not isinstance(task, Classification | PooledTask):
            raise UserError(
                f"{run.folder} was trained on task {run.config.task.type}, which gives no class scores of samples; "
                "export it with --output embedding"
            )
        if level is not None:
            raise UserError("--level is that of an embedding; add --output embedding, or drop it")
        read, modules = task.view_outputs if isinstance(task, Regression) else task.view_logits, [task.head]
    elif isinstance(task, Contrastive) and level is None:
        heads: Any = task.heads[0]
        index = task.views[0].levels[name]
        read, modules = (lambda pyramid: heads.mapped(name, pyramid.pooled(index))), [heads]
    else:
        index = hierarchy.index(level)
        read = lambda pyramid: pyramid.pooled(index)  # noqa: E731
    assert isinstance(tokenizer, Exportable)
    model = DenseModel(encoder, tokenizer, read, modules).eval()
    metadata = {
        "task": run.config.task.type,
        "modality": run.config.towers[name].modality.type,
        "output": output,
        "classes": list(run.classes)
        if output == "logits" and run.classes is not None and run.config.task.labelled
        else None,
        **_named_outputs(task, output),
        "step": run.checkpoint.step,
        "inputs": {key: list(axes.values()) for key, axes in tokenizer.dense_axes().items()},
        "preprocessing": dict(tokenizer.dense_metadata()),
    }
    return model, metadata


def _named_outputs(task: Task, output: Output) -> dict[str, Any]:
    """What the outputs of a head mean beside their classes: names of numbers, or thresholds of probabilities."""
    if output == "logits" and isinstance(task, Regression):
        return {"numbers": list(task.outputs)}
    if output == "logits" and isinstance(task, Multilabel):
        return {"thresholds": task.threshold_K.tolist()}
    return {}


def _tower(run: TrainedRun, tower: str | None) -> str:
    towers = tuple(run.tokenizers)
    if tower is None and len(towers) > 1:
        raise UserError(f"{run.folder} has several towers ({', '.join(towers)}); choose one with --tower")
    if tower is not None and tower not in towers:
        known = "it has one modality; drop --tower" if towers == (SINGLE,) else f"it has {', '.join(towers)}"
        raise UserError(f"{run.folder} has no tower {tower!r}: {known}")
    return towers[0] if tower is None else tower


def check_exportable(config: HierarchyConfig, tokenizer: Tokenizer) -> None:
    """Checks that sizes within a hierarchy follow from the shapes of its inputs.

    Raises:
        ConfigError: groups depend on the content of samples, or the modality makes no dense batches.
    """
    for level in config.levels:
        if level.group is not None and not isinstance(level.group, FixedGroups):
            raise ConfigError(
                f"level {level.name!r} has group.type {level.group.type}: the number of its groups depends on what a "
                "sample contains, and an exported graph has sizes that follow from the shapes of its inputs. Train "
                "with group: {type: fixed, stride: N}, or run this model in PyTorch (hrt_mm.inference.load_run)"
            )
    if not isinstance(tokenizer, Exportable):
        raise ConfigError(
            f"{type(tokenizer).__name__} makes no dense batches; a modality can be exported once its tokenizer has "
            "the methods of hrt_mm.data.capabilities.Exportable"
        )


def _unit(config: HierarchyConfig, axes: int) -> tuple[int, ...]:
    """Level-0 cells per token of the coarsest level, along each axis."""
    unit = (1,) * axes
    for level in config.levels:
        if isinstance(level.group, FixedGroups):
            sizes = extent(level.group.stride, axes, f"stride of level {level.name!r}")
            unit = tuple(a * b for a, b in zip(unit, sizes, strict=True))
    return unit


def _traced(model: DenseModel) -> torch.export.ExportedProgram:
    axes = model.tokenizer.dense_axes()
    # No two sizes are equal, and none is 1.
    values = [model.tokenizer.dense_example(5) for _ in range(3)]
    inputs = tuple(model.tokenizer.dense_batch(values)[name] for name in model.names)
    # Tables that are computed once and kept, such as those of rotary positions, must not be made of traced tensors.
    model(*inputs)
    names = {name for of_input in axes.values() for name in of_input.values()}
    dims = {name: torch.export.Dim(name, min=1) for name in names}
    shapes = tuple({axis: dims[name] for axis, name in axes[input_].items()} for input_ in model.names)
    with _no_special_sizes(), _failures_named("torch.export cannot trace the model"):
        return torch.export.export(model, inputs, dynamic_shapes=(shapes,))


@contextmanager
def _failures_named(what: str) -> Iterator[None]:
    """Turns whatever an exporter raises, which has no common class, into a user error with its first line."""
    try:
        yield
    except Exception as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")
        raise UserError(
            f"{what}: {reason}. Run this model in PyTorch, or use another stem or pooling; --traceback shows more"
        ) from error


@contextmanager
def _no_special_sizes() -> Iterator[None]:
    """Traces sizes without asking whether they are 0 or 1; such answers would exclude those sizes from the graph."""
    from torch.fx.experimental import _config

    config: Any = _config
    with warnings.catch_warnings(), config.patch(backed_size_oblivious=True):
        warnings.simplefilter("ignore")
        yield


def _write_onnx(model: DenseModel, path: Path, metadata: Mapping[str, Any]) -> None:
    with needs_extra("export", "export to ONNX"):
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401

    program = _traced(model)
    with warnings.catch_warnings(), _failures_named("torch.onnx cannot convert the model"):
        warnings.simplefilter("ignore")
        exported = torch.onnx.export(
            program,
            dynamo=True,
            input_names=list(model.names),
            output_names=[OUTPUTS[metadata["output"]]],
            opset_version=_OPSET,
            verbose=False,
        )
        assert exported is not None
        _name_sizes(exported.model.graph, model)
        exported.model.metadata_props[METADATA] = json.dumps(metadata)
        exported.save(str(path), external_data=False)


def _name_sizes(graph: Any, model: DenseModel) -> None:
    """Names the dynamic sizes of an ONNX graph: the exporter calls them ``s21`` and the like."""
    axes = model.tokenizer.dense_axes()
    names: dict[Any, str] = {}
    for input_, value in zip(model.names, graph.inputs, strict=True):
        names |= {value.shape[axis].value: name for axis, name in axes[input_].items()}
    for value in (*graph.inputs, *graph.outputs, *(output for node in graph for output in node.outputs)):
        for axis, size in enumerate(value.shape or ()):
            if (name := names.get(getattr(size, "value", None))) is not None:
                value.shape[axis] = name


def _write_pt2(model: DenseModel, path: Path, metadata: Mapping[str, Any]) -> None:
    program = _traced(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(program, path, extra_files={f"{METADATA}.json": json.dumps(metadata)})


def _onnx(path: Path) -> _Compute:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda inputs: torch.from_numpy(session.run(None, {name: x.numpy() for name, x in inputs.items()})[0])


def _pt2(path: Path) -> _Compute:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = torch.export.load(path).module()
    return lambda inputs: module(*inputs.values())


def _quantized(path: Path) -> Path:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantized = path.with_name("int8.onnx")
    disabled = logging.root.manager.disable
    # The quantizer warns of each tensor of truth values, and advises a step that the exporter has done.
    logging.disable(logging.WARNING)
    try:
        with _failures_named("ONNX Runtime cannot quantize the model"):
            quantize_dynamic(path, quantized, weight_type=QuantType.QInt8, op_types_to_quantize=_QUANTIZED)
    finally:
        logging.disable(disabled)
    return quantized


def _check(model: DenseModel, compute: _Compute, path: Path, written: Path, clock: Callable[[], float]) -> ExportedFile:
    """Compares a file with the model at several sizes, and times both at the last one."""
    tokenizer = model.tokenizer
    assert isinstance(tokenizer, Tokenizer)
    error, shapes = 0.0, []
    for batch, size in _SHAPES:
        values = [tokenizer.dense_example(size) for _ in range(batch)]
        inputs, tokens = tokenizer.dense_batch(values), tokenizer(values)
        expected = model.read(model.encoder(tokens))
        with _failures_named("the exported model fails at other sizes than those it was traced with"):
            output = compute(inputs)
        difference = (output - expected).abs().max() / expected.abs().max().clamp(min=1)
        # A comparison with NaN is false, so that it would pass as no error.
        error = math.inf if not torch.isfinite(difference) else max(error, float(difference))
        shapes.append(" ".join("x".join(map(str, x.shape)) for x in inputs.values()))
    calls = (lambda: compute(inputs)), (lambda: model.read(model.encoder(tokens)))
    milliseconds, eager_milliseconds = _milliseconds(calls, clock)
    return ExportedFile(path, error, written.stat().st_size, shapes, milliseconds, eager_milliseconds, timed=shapes[-1])


def _milliseconds(calls: Sequence[Callable[[], object]], clock: Callable[[], float]) -> list[float]:
    """The median of each call. They take turns, as the load of a machine changes."""
    seconds: list[list[float]] = [[] for _ in calls]
    for _ in range(_RUNS):
        for call, times in zip(calls, seconds, strict=True):
            start = clock()
            call()
            times.append(clock() - start)
    return [1000 * statistics.median(times) for times in seconds]
