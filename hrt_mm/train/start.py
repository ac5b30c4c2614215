"""How a run starts: its folder, the checkpoint that it goes on from, and weights from another run."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Set
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..core.component import with_current_keys
from ..core.errors import ConfigError
from ..data.atomic_files import LOCK, replace_file
from ..data.tokenizer import Tokenizer
from ..tasks.base import Task
from .checkpoint import Checkpoint, CheckpointError
from .folder import PRETRAIN, run_dir
from .identity import check_same_vocabularies
from .resolved import resolved_yaml
from .store import CheckpointStore, open_store
from .weights import differing, named_weights, refuse

if TYPE_CHECKING:
    from .run_config import RunConfig

log = logging.getLogger(__name__)

FREE = {
    "data.root",
    "train.clock",
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
    held = _held(folder) - ({PRETRAIN} if config.train.pretrain is not None else set())
    if held and "config.yaml" not in held:
        raise ConfigError(f"run.dir {folder} is not empty and not a run folder: it holds {min(held)}; choose another")
    if held and not resume:
        raise _in_use(folder, store)
    checkpoint = store.newest() if resume else None
    if checkpoint is not None:
        check_same_run(config, checkpoint)
    elif held:
        log.warning("%s holds no checkpoint, so the run starts anew", folder)
    return checkpoint


def check_unused(folder: Path) -> None:
    """Refuses a run folder that is there and not empty.

    Raises:
        ConfigError: it is; says what it holds.
    """
    held = _held(folder) if folder.is_dir() else set()
    if PRETRAIN in held and "config.yaml" not in held:
        raise _in_use(folder / PRETRAIN, CheckpointStore(folder / PRETRAIN))
    if held:
        raise _in_use(folder, CheckpointStore(folder))


def _held(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir() if entry.name != LOCK}


def _in_use(folder: Path, store: CheckpointStore) -> ConfigError:
    steps = store.steps()
    reached = f"with a checkpoint of step {steps[-1]}" if steps else "without a checkpoint"
    return ConfigError(
        f"run.dir {folder} holds a run already, {reached}; go on with it with resume (--resume), choose another "
        "run.dir, or remove it"
    )


def write_config(config: RunConfig) -> None:
    """Writes the resolved configuration into the run folder, which is then a run's."""
    replace_file(run_dir(config) / "config.yaml", resolved_yaml(config).encode())


def check_same_run(config: RunConfig, checkpoint: Checkpoint) -> None:
    """Refuses to go on from a checkpoint of another configuration.

    Raises:
        CheckpointError: names the keys that differ, and both values.
    """
    saved, now = dict(_flat(_with_younger_keys(checkpoint, config))), dict(_flat(config.model_dump(mode="json")))
    changed = [key for key in sorted(saved.keys() | now.keys()) if saved.get(key) != now.get(key) and not _free(key)]
    lines = [f"  {key}: saved with {_said(saved, key)}, now {_said(now, key)}" for key in changed]
    towers, before = list(config.towers or ()), list(checkpoint.state["config"].get("towers") or ())
    if towers != before and set(towers) == set(before):
        # Fused tasks read the towers in this order.
        lines.append(f"  towers: saved in the order {', '.join(before)}, now {', '.join(towers)}")
    if lines:
        listed = "\n".join(lines)
        raise CheckpointError(
            f"{checkpoint.folder} is of another configuration:\n{listed}\nresume with the saved values, or start "
            "another run with another run.dir"
        )


def _with_younger_keys(checkpoint: Checkpoint, config: RunConfig) -> dict[str, Any]:
    """The configuration of a checkpoint, with what the keys of ``data`` mean that are younger than it."""
    saved: dict[str, Any] = with_current_keys(checkpoint.state["config"], config)
    if saved.get("data", {}).get("type") != config.data.type:
        return saved
    kind = type(config.data)
    # Without validation, so that the keys without a default may be missing.
    defaults = kind.model_construct(type=config.data.type).model_dump(mode="json")
    return saved | {"data": {**defaults, **kind.before, **saved["data"]}}


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


def load_encoder(task: Task, source: Path, tokenizer: Tokenizer) -> str:
    """Starts a task's encoder from the best weights of another run: the moving average where it kept one.

    The runs may differ in parts, such as a path down that only one of them has. What the source has not starts fresh,
    with a warning.

    Args:
        task: whose encoder it is.
        source: the run folder.
        tokenizer: of the task.

    Returns:
        What was loaded, in a line.

    Raises:
        UserError: the source has no checkpoint, nothing of this encoder, other shapes, or another vocabulary.
    """
    checkpoint = open_store(source).read("best")
    check_same_vocabularies(checkpoint, tokenizer, "train with the same file, or without train.init_from")
    found = _encoder(checkpoint.tensors("ema" if "ema" in checkpoint else "model"))
    own = _encoder(named_weights(task))
    common = {name: value for name, value in own.items() if name in found}
    if not common:
        raise CheckpointError(
            f"train.init_from {source}: none of its {len(found)} encoder weights are among the {len(own)} of this model"
        )
    refuse(differing(common, {name: found[name] for name in common}), f"the encoder of {source}")
    for names, what in (
        (own.keys() - common.keys(), "weights start fresh, as they are not in it"),
        (found.keys() - common.keys(), "of its weights have no place here"),
    ):
        if names:
            log.warning("train.init_from %s: %d %s: %s", source, len(names), what, _some(names))
    with torch.no_grad():
        for name, value in common.items():
            value.copy_(found[name])
    average = ", its moving average" if "ema" in checkpoint else ""
    return f"{len(common)} of {len(own)} encoder weights from step {checkpoint.step} of {source}{average}"


def _encoder(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in weights.items() if name.startswith(("encoder.", "encoders."))}


def _some(names: Set[str]) -> str:
    return ", ".join(sorted(names)[:3]) + (", ..." if len(names) > 3 else "")
