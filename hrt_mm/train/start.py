"""How a run starts: its folder, the checkpoint that it goes on from, and weights from another run."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..errors import ConfigError
from ..tasks.base import Task
from .checkpoint import Checkpoint, CheckpointError
from .evaluate import open_store
from .files import replace_file
from .store import CheckpointStore
from .weights import differing, named_weights, refuse

if TYPE_CHECKING:
    from ..config import RunConfig

log = logging.getLogger(__name__)

FREE = {
    "data.root",
    "train.compile",
    "train.device",
    "train.eval_batches",
    "train.eval_every",
    "train.init_from",
    "train.keep_last",
    "train.log_every",
    "train.max_bad_share",
    "train.num_threads",
    "train.save_every",
    "train.steps",
    "train.tensorboard",
    "train.test",
    "train.time_limit",
    "train.workers",
}
"""Keys that may change when a run is resumed; with all others it would be another run. ``run`` is free as well."""


def run_dir(config: RunConfig) -> Path:
    """The run folder: ``run.dir``, or ``runs/DATA-TASK``."""
    return config.run.dir or Path("runs") / f"{config.data.type}-{config.task.type}"


def open_folder(config: RunConfig, store: CheckpointStore, *, resume: bool) -> Checkpoint | None:
    """Finds the checkpoint to go on from, if any, in a run folder that exists.

    Args:
        config: of the run.
        store: the folder's checkpoints.
        resume: go on with what is there, if anything is.

    Raises:
        ConfigError: the folder is in use, or holds another run.
    """
    folder = run_dir(config)
    held = sorted(entry.name for entry in folder.iterdir() if entry.name != ".lock")
    if held and "config.yaml" not in held:
        raise ConfigError(f"run.dir {folder} is not empty and not a run folder: it holds {held[0]}; choose another")
    if held and not resume:
        steps = store.steps()
        reached = f"with a checkpoint of step {steps[-1]}" if steps else "without a checkpoint"
        raise ConfigError(
            f"run.dir {folder} holds a run already, {reached}; go on with it with resume (--resume), choose another "
            "run.dir, or remove it"
        )
    checkpoint = store.newest() if resume else None
    if checkpoint is not None:
        check_same_run(config, checkpoint)
    elif held:
        log.warning("%s holds no checkpoint, so the run starts anew", folder)
    return checkpoint


def write_config(config: RunConfig) -> None:
    """Writes the resolved configuration into the run folder, which is then a run's."""
    from ..config import resolved_yaml

    replace_file(run_dir(config) / "config.yaml", resolved_yaml(config).encode())


def check_same_run(config: RunConfig, checkpoint: Checkpoint) -> None:
    """Refuses to go on from a checkpoint of another configuration.

    Raises:
        CheckpointError: names the keys that differ, and both values.
    """
    saved, now = dict(_flat(checkpoint.state["config"])), dict(_flat(config.model_dump(mode="json")))
    changed = [key for key in sorted(saved.keys() | now.keys()) if saved.get(key) != now.get(key) and not _free(key)]
    if changed:
        listed = "\n".join(f"  {key}: saved with {_said(saved, key)}, now {_said(now, key)}" for key in changed)
        raise CheckpointError(
            f"{checkpoint.folder} is of another configuration:\n{listed}\nresume with the saved values, or start "
            "another run with another run.dir"
        )


def config_digest(config: RunConfig) -> str:
    """Fingerprint of what makes a run this run: the configuration without what may change when it is resumed."""
    kept = {key: value for key, value in _flat(config.model_dump(mode="json")) if not _free(key)}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def _free(key: str) -> bool:
    return key in FREE or key.startswith("run.")


def _said(values: Mapping[str, Any], key: str) -> str:
    return repr(values[key]) if key in values else "no value"


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and plain values; empty maps and lists are values."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    children = [child for key, inner in pairs for child in _flat(inner, f"{prefix}.{key}" if prefix else str(key))]
    yield from children or [(prefix, value)]


def load_encoder(task: Task, source: Path) -> None:
    """Starts a task's encoder from the best weights of another run.

    Raises:
        CheckpointError: that run has none, or not all that this encoder needs; names them.
    """
    checkpoint = open_store(source).read("best")
    found = checkpoint.tensors("ema" if "ema" in checkpoint else "model")
    found = {name: value for name, value in found.items() if name.startswith("encoder.")}
    own = {name: value for name, value in named_weights(task).items() if name.startswith("encoder.")}
    if not own:
        raise CheckpointError(f"train.init_from {source}: {type(task).__name__} has no weights under encoder. to start")
    unused = found.keys() - own.keys()
    refuse(
        differing(own, {name: value for name, value in found.items() if name not in unused}), f"the encoder of {source}"
    )
    if unused:
        log.warning("train.init_from %s: %d weights find no place here: %s", source, len(unused), min(unused))
    with torch.no_grad():
        for name, value in own.items():
            value.copy_(found[name])
