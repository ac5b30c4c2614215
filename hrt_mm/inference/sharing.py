"""Exchange of trained runs, encoders and hierarchies, as folders and as repositories of the Hugging Face Hub.

A folder holds ``config.json``, safetensors and a model card, ``README.md``. That of a run is a run folder as well, so
all commands take it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import safetensors.torch
import yaml
from pydantic import ValidationError

from ..core.errors import ConfigError, UserError
from ..core.extras import needs_extra
from ..core.hierarchy import Hierarchy
from ..core.levels import HierarchyConfig
from ..data.atomic_files import replace_file
from ..data.hub import (
    CARD,
    CONFIG,
    FILES,
    FORMAT,
    LIBRARY,
    PREFIX,
    REPOSITORY,
    WEIGHTS,
    download,
    read_config,
    warn_without_license,
)
from ..data.registry import modalities
from ..data.storage import read_tensors
from ..data.tokenizer import SINGLE, Tokenizer, TokenizerConfig
from ..tasks.encoder import Encoder
from ..train.checkpoint import write_checkpoint
from ..train.resolved import resolved_yaml
from ..train.store import CheckpointStore
from ..train.summary import read_summary
from ..train.weights import gathered, load_weights, named_weights
from .trained import TrainedRun, load_run

log = logging.getLogger(__name__)

_REMEDY = "save it again with save_pretrained"


@dataclass(frozen=True)
class PretrainedEncoder:
    """An encoder with the tokenizer of its modality: ``encoder(tokenizer(values))`` gives a pyramid.

    Args:
        encoder: in evaluation mode.
        tokenizer: of its samples.
        modality: the configuration of the tokenizer.
    """

    encoder: Encoder
    tokenizer: Tokenizer
    modality: TokenizerConfig


def from_pretrained(
    path_or_id: str | Path, *, revision: str | None = None, token: str | bool | None = None
) -> TrainedRun | PretrainedEncoder | Hierarchy:
    """What :func:`save_pretrained` saved, on the CPU and in evaluation mode.

    Args:
        path_or_id: a folder, or a repository, ``owner/name`` or ``hub:owner/name``.
        revision: branch, tag or commit of the repository.
        token: for private repositories.

    Raises:
        UserError: there is no such folder or repository, it is of another library, holds pickles, or its weights do not
            fit its configuration.
    """
    folder = Path(path_or_id)
    if not folder.exists():
        name = str(path_or_id).removeprefix(PREFIX)
        if not REPOSITORY.fullmatch(name):
            raise UserError(f"{path_or_id} does not exist; give a folder, or a repository as owner/name")
        folder = download(name, revision, token)
    config = read_config(folder)
    warn_without_license(folder)
    kind = config.get("kind")
    if kind == "run":
        return load_run(folder)
    hierarchy = _validated(HierarchyConfig, config.get("hierarchy"), folder)
    if kind == "hierarchy":
        model = Hierarchy(hierarchy, config.get("axes", 1))
        _load(model, folder)
        return model.eval()
    if kind == "encoder":
        modality = _modality(config.get("modality"), folder)
        tokenizer = modality.build(hierarchy)
        encoder = Encoder(hierarchy, tokenizer)
        _load(encoder, folder)
        return PretrainedEncoder(encoder.eval(), tokenizer, modality)
    raise UserError(f"{folder / CONFIG} has kind {kind!r}; this version reads run, encoder and hierarchy")


def save_pretrained(
    model: TrainedRun | PretrainedEncoder | Hierarchy, folder: str | Path, *, license: str | None = None
) -> Path:
    """Saves a trained run, an encoder or a hierarchy with its configuration and a model card.

    Args:
        model: the model. ``PretrainedEncoder(run.task.encoder, run.tokenizer, run.config.single.modality)`` is the
            encoder of a run.
        folder: must be missing or empty.
        license: identifier for the model card, such as ``apache-2.0``.

    Returns:
        The folder.

    Raises:
        UserError: the folder is not empty.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} exists and is not an empty folder; choose another")
    folder.mkdir(parents=True, exist_ok=True)
    if license is None:
        log.warning("%s states no license; pass license='apache-2.0' or another", folder / CARD)
    _repository(model, license).save_pretrained(folder)
    return folder


def push_to_hub(
    model: TrainedRun | PretrainedEncoder | Hierarchy,
    repo: str,
    *,
    license: str,
    private: bool | None = None,
    token: str | None = None,
    message: str = "Upload a model of hrt-mm",
) -> str:
    """Uploads what :func:`save_pretrained` saves to a repository, which is created if it does not exist.

    Args:
        model: as in :func:`save_pretrained`.
        repo: ``owner/name``.
        license: identifier for the model card, such as ``apache-2.0``.
        private: whether a new repository is private.
        token: that of ``hf auth login`` by default.
        message: of the commit.

    Returns:
        Address of the commit.

    Raises:
        UserError: the name is no repository, or no license is given.
    """
    repo = repo.removeprefix(PREFIX)
    if not REPOSITORY.fullmatch(repo):
        raise UserError(f"{repo!r} is no name of a repository; give owner/name")
    if not license:
        raise UserError("a published model needs a license; pass license='apache-2.0' or another identifier")
    address: str = _repository(model, license).push_to_hub(repo, commit_message=message, private=private, token=token)
    return address


def _repository(model: TrainedRun | PretrainedEncoder | Hierarchy, license: str | None) -> Any:
    with needs_extra("hub", "exchange through the Hugging Face Hub"):
        from huggingface_hub import ModelCard, ModelHubMixin

    class Repository(ModelHubMixin):
        """What huggingface_hub saves and uploads."""

        def _save_pretrained(self, save_directory: Path) -> None:
            if isinstance(model, TrainedRun):
                files = _save_run(model, save_directory)
                config: dict[str, Any] = {"kind": "run", FILES: files}
            elif isinstance(model, PretrainedEncoder):
                module: Encoder | Hierarchy = model.encoder
                config = {
                    "kind": "encoder",
                    "modality": model.modality.model_dump(mode="json"),
                    "hierarchy": model.encoder.hierarchy.config.model_dump(mode="json"),
                }
                _save_weights(module, save_directory)
            else:
                config = {"kind": "hierarchy", "axes": model.axes, "hierarchy": model.config.model_dump(mode="json")}
                _save_weights(model, save_directory)
            config = {"library_name": LIBRARY, "format": FORMAT, "version": _version(), **config}
            replace_file(save_directory / CONFIG, (json.dumps(config, indent=2) + "\n").encode())

        def generate_model_card(self, *args: Any, **kwargs: Any) -> Any:
            return ModelCard(model_card(model, license), ignore_metadata_errors=True)

    return Repository()


def _save_weights(module: Encoder | Hierarchy, folder: Path) -> None:
    tensors = {name: gathered(value) for name, value in named_weights(module).items()}
    replace_file(folder / WEIGHTS, safetensors.torch.save(tensors, {"format": "pt"}))


def _save_run(run: TrainedRun, folder: Path) -> dict[str, str]:
    """Writes a run folder without its optimizer and logs. Returns the vocabularies by the key that names them."""
    checkpoint = run.checkpoint
    part = "ema" if "ema" in checkpoint else "model"
    # What the writer adds, and what concerns the machine of the training alone.
    left_out = {"schema", "checksum", "files", "started_in", "bad", "meters"}
    state = {key: value for key, value in checkpoint.state.items() if key not in left_out}
    store = CheckpointStore(folder)
    store.folder.mkdir(parents=True)
    write_checkpoint(store.path(checkpoint.step), state, {part: checkpoint.tensors(part)})
    replace_file(folder / "config.yaml", resolved_yaml(run.config).encode())
    summary = run.folder / "summary.json"
    if summary.is_file():
        replace_file(folder / summary.name, summary.read_bytes())
    files = {}
    for tower, modality in run.config.modalities.items():
        for name, value in modality:
            if isinstance(value, Path):
                inside = f"{FILES}/{f'{tower}-' if tower else ''}{value.name}"
                (folder / inside).parent.mkdir(exist_ok=True)
                replace_file(folder / inside, value.read_bytes())
                files[f"modality.{name}" if tower == SINGLE else f"towers.{tower}.modality.{name}"] = inside
    return files


def _validated(kind: type[HierarchyConfig], value: Any, folder: Path) -> HierarchyConfig:
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        problem = error.errors()[0]
        location = ".".join(map(str, problem["loc"]))
        raise ConfigError(f"{folder / CONFIG}: hierarchy.{location}: {problem['msg']}; {_REMEDY}") from error


def _modality(value: Any, folder: Path) -> TokenizerConfig:
    name = value.get("type") if isinstance(value, Mapping) else None
    known = modalities()
    if name not in known:
        raise ConfigError(f"{folder / CONFIG} is of modality {name!r}; installed: {', '.join(sorted(known))}")
    try:
        return known[name].tokenizer.model_validate(value)
    except ValidationError as error:
        problem = error.errors()[0]
        location = ".".join(map(str, problem["loc"]))
        raise ConfigError(f"{folder / CONFIG}: modality.{location}: {problem['msg']}; {_REMEDY}") from error


def _load(module: Encoder | Hierarchy, folder: Path) -> None:
    path = folder / WEIGHTS
    _, tensors = read_tensors(path, _REMEDY, UserError)
    load_weights(module, tensors, str(path))


def model_card(model: TrainedRun | PretrainedEncoder | Hierarchy, license: str | None) -> str:
    """The model card: what the model is, how it was trained, and what it reaches."""
    if isinstance(model, TrainedRun):
        kinds, hierarchies = list(model.config.modalities.values()), model.config.models
        title = f"{model.config.task.type} of {', '.join(kind.type for kind in kinds)}"
        tags = [kind.type for kind in kinds]
    elif isinstance(model, PretrainedEncoder):
        hierarchies, tags = {SINGLE: model.encoder.hierarchy.config}, [model.modality.type]
        title = f"Encoder of {model.modality.type}"
    else:
        hierarchies, tags, title = {SINGLE: model.config}, [], "Hierarchy"
    header = {"library_name": LIBRARY, **({"license": license} if license else {}), "tags": [LIBRARY, *tags]}
    parts = [f"---\n{yaml.safe_dump(header, sort_keys=False)}---\n", f"# {title}\n"]
    parts.append(f"A hierarchical transformer, trained with [{LIBRARY}](https://pypi.org/project/{LIBRARY}/).\n")
    parts.append(_use(model))
    parts.append("## Model\n")
    for tower, config in hierarchies.items():
        rows = [
            f"| {tower + '.' if tower else ''}{level.name} | {level.dim} | {level.depth} | {level.window or 'all'} "
            f"| {level.group.type if level.group else ''} |"
            for level in config.levels
        ]
        parts.append("\n".join(["| level | width | blocks | window | groups |", "|---|---|---|---|---|", *rows]) + "\n")
    if isinstance(model, TrainedRun):
        parts.append(_training(model))
    parts.append(f"## License\n\n{license or 'Not stated.'}\n")
    return "\n".join(parts)


def _use(model: TrainedRun | PretrainedEncoder | Hierarchy) -> str:
    if isinstance(model, TrainedRun):
        lines = ["from hrt_mm.inference import load_run", "", 'run = load_run("hub:OWNER/NAME")  # or a folder']
    elif isinstance(model, PretrainedEncoder):
        lines = [
            "from hrt_mm.inference import from_pretrained",
            "",
            'model = from_pretrained("OWNER/NAME")  # or a folder',
            "pyramid = model.encoder(model.tokenizer(values))",
        ]
    else:
        lines = ["from hrt_mm.inference import from_pretrained", "", 'hierarchy = from_pretrained("OWNER/NAME")']
    return "## Use\n\n```python\n" + "\n".join(lines) + "\n```\n"


def _training(run: TrainedRun) -> str:
    """Data, command, figures and versions, as far as the run has them."""
    lines = [
        f"## Training\n\nData: `{run.config.data.type}`; all settings are in `config.yaml`.\n",
        "```sh\nhrt-mm train config.yaml\n```\n",
    ]
    if run.classes is not None:
        shown = ", ".join(run.classes[:20]) + (f" and {len(run.classes) - 20} more" if len(run.classes) > 20 else "")
        lines.append(f"{len(run.classes)} classes: {shown}.\n")
    try:
        summary = read_summary(run.folder / "summary.json")
    except UserError:
        return "\n".join([*lines, f"Step {run.checkpoint.step}; the run has no summary.\n"])
    figures = {name: value for name, value in summary["metrics"].items() if value is not None}
    rows = [f"| {name} | {value:.4g} |" for name, value in figures.items()]
    lines.append("\n".join([f"Step {run.checkpoint.step}:\n", "| metric | value |", "|---|---|", *rows]) + "\n")
    versions = ", ".join(f"{name} {version}" for name, version in summary.get("versions", {}).items())
    lines.append(f"{summary['seconds']:.0f} s on {summary['device']}; {versions}.\n")
    return "\n".join(lines)


def _version() -> str:
    try:
        return metadata.version(LIBRARY)
    except metadata.PackageNotFoundError:
        return "not installed"
