"""Whether a checkpoint can be continued: the same configuration, classes, vocabularies and data."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..core.component import with_current_keys
from ..core.errors import ConfigError
from ..data.capabilities import VocabularyFiles
from ..data.tokenizer import SINGLE, Tokenizer
from .build import Data, path_of
from .checkpoint import Checkpoint, CheckpointError
from .distributed import ProcessGroup

if TYPE_CHECKING:
    from .run_config import RunConfig

log = logging.getLogger(__name__)

MAX_LISTED = 8
"""Classes that a message lists."""
NAMES_COMPARED = 64
"""Samples of a split whose names ranks compare."""
SPLITS_MAY_DIFFER = (
    "samples may have moved from one split to another where the data does not fix its splits, so scores may be too good"
)
"""What a changed number of samples may mean."""
_FIX = "resume with what the run was trained on, or start another run with another run.dir"

MAY_CHANGE = {
    "data.root",
    "data.shard_cache",
    "data.shards",
    "train.callbacks",
    "train.clock",
    "train.collective_timeout",
    "train.compile",
    "train.device",
    "train.eval_batches",
    "train.eval_every",
    "train.init_from",
    "train.early_stopping",
    "train.keep_last",
    "train.log_every",
    "train.loggers",
    "train.max_bad_share",
    "train.num_threads",
    "train.parallel",
    "train.save_async",
    "train.save_every",
    "train.shard_size",
    "train.steps",
    "train.tensorboard",
    "train.test",
    "train.time_limit",
    "train.workers",
}
"""Keys that may differ when a run is resumed, beside those of ``run``. Any other change makes it another run."""

ADDED = {"optim.type": "adamw", "group.signal": "difference"}
"""Keys that were added since the first release and whose default is not null, with the former behavior."""


def check_same_run(config: RunConfig, checkpoint: Checkpoint) -> None:
    """Refuses to resume from a checkpoint of another configuration.

    Raises:
        CheckpointError: names the keys that differ, and both values.
    """
    saved = dict(_flatten(_with_new_data_keys(checkpoint, config)))
    current = dict(_flatten(config.model_dump(mode="json")))
    lines = [
        f"  {key}: saved with {_value(saved, key)}, now {_value(current, key)}"
        for key in sorted(saved.keys() | current.keys())
        if saved.get(key, _before(key)) != current.get(key) and not _may_change(key)
    ]
    towers, saved_towers = list(config.towers), list(checkpoint.state["config"].get("towers", (SINGLE,)))
    if towers != saved_towers and set(towers) == set(saved_towers):
        # Fused tasks concatenate the towers in this order.
        lines.append(f"  towers: saved in the order {', '.join(saved_towers)}, now {', '.join(towers)}")
    if lines:
        listed = "\n".join(lines)
        raise CheckpointError(
            f"{checkpoint.folder} is of another configuration:\n{listed}\nresume with the saved values, or start "
            "another run with another run.dir"
        )


def _before(key: str) -> Any:
    """The value that a configuration had before a key existed."""
    return next((value for suffix, value in ADDED.items() if f".{key}".endswith(f".{suffix}")), None)


def _with_new_data_keys(checkpoint: Checkpoint, config: RunConfig) -> dict[str, Any]:
    """The saved configuration, with the former behavior of ``data`` keys that were added since."""
    saved: dict[str, Any] = with_current_keys(checkpoint.state["config"], config.sections)
    if saved.get("data", {}).get("type") != config.data.type:
        return saved
    kind = type(config.data)
    # Without validation, as required keys are missing here.
    defaults = kind.model_construct(type=config.data.type).model_dump(mode="json")
    return saved | {"data": {**defaults, **kind.before, **saved["data"]}}


def config_digest(config: RunConfig) -> str:
    """SHA-256 of the configuration without the keys that may differ when it is resumed."""
    fixed = {key: value for key, value in _flatten(config.model_dump(mode="json")) if not _may_change(key)}
    # The order of keys is that of the file, and means nothing.
    return hashlib.sha256(json.dumps(fixed, sort_keys=True).encode()).hexdigest()


def _may_change(key: str) -> bool:
    return key in MAY_CHANGE or key.startswith(("run.", "train.early_stopping.", "train.init_from."))


def _value(values: Mapping[str, Any], key: str) -> str:
    return repr(values[key]) if key in values else "no value"


def _flatten(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys with their values. Empty maps and lists count as values."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    children = [child for key, inner in pairs for child in _flatten(inner, f"{prefix}.{key}" if prefix else str(key))]
    yield from children or [(prefix, value)]


MAY_DIFFER_BETWEEN_RANKS = ("data.root", "data.shard_cache", "run.dir", "train.num_threads", "train.workers")
"""Keys that may differ from one machine of a run to another."""


def check_same_config(config: RunConfig, ranks: ProcessGroup) -> None:
    """Checks that all ranks were started with the same configuration.

    Raises:
        ConfigError: names the keys that differ, and both values.
    """
    mine = {
        key: value
        for key, value in _flatten(config.model_dump(mode="json"))
        if not f"{key}.".startswith(tuple(f"{name}." for name in MAY_DIFFER_BETWEEN_RANKS))
    }
    _refuse_differences(ranks, mine, "configurations", "start all ranks with the same one")


def check_same_samples(data: Data, ranks: ProcessGroup) -> None:
    """Checks that all ranks read the same data: numbers of samples, some of their names, classes and vocabularies.

    Raises:
        ConfigError: names what differs.
    """
    if ranks.world_size == 1:
        return
    mine: dict[str, Any] = {f"number of {split} samples": count for split, count in data.counts.items()}
    mine |= {f"file of {name}": digest for name, digest in vocabularies(data.tokenizers).items()}
    mine["classes"] = list(data.classes or ())
    for split, count in data.counts.items():
        dataset = data.splits[split]
        # The folder may be another on each machine.
        names = [dataset.name(index).rpartition("/")[2] for index in range(0, count, max(1, count // NAMES_COMPARED))]
        mine[f"names of {split} samples"] = hashlib.sha256("\n".join(names).encode("utf-8", "replace")).hexdigest()[:16]
    _refuse_differences(ranks, mine, "data", "give all machines the same files")


def _refuse_differences(ranks: ProcessGroup, mine: Mapping[str, Any], what: str, fix: str) -> None:
    first, *others = ranks.gather(mine)
    for rank, other in enumerate(others, start=1):
        lines = [
            f"  {key}: rank 0 has {_value(first, key)}, rank {rank} has {_value(other, key)}"
            for key in sorted(first.keys() | other.keys())
            if first.get(key) != other.get(key)
        ]
        if lines:
            raise ConfigError(f"ranks have different {what}; {fix}:\n" + "\n".join(lines[:MAX_LISTED]))


def check_same_data(checkpoint: Checkpoint, config: RunConfig, data: Data, ranks: ProcessGroup) -> None:
    """Refuses to resume with other classes, vocabularies or batches, and warns of another number of samples.

    Args:
        checkpoint: to resume from.
        config: of the run.
        data: as it is now.
        ranks: the process group.

    Raises:
        UserError: names what differs.
    """
    state = checkpoint.state
    if config.task.labelled:
        check_same_classes(checkpoint, data.classes)
    check_same_vocabularies(checkpoint, data.tokenizers)
    if config.train.batch_tokens is not None and state["world_size"] > 1 and "token_batches" not in state:
        log.warning(
            "%s was saved by an earlier version, whose batches by tokens depended on the number of ranks: some samples "
            "of this epoch are read twice, and others not; later epochs are complete", checkpoint.folder,
        )  # fmt: skip
    if state["counts"] != data.counts and ranks.is_main:
        saved, current = (
            ", ".join(f"{count:,} {split}" for split, count in counts.items())
            for counts in (state["counts"], data.counts)
        )
        log.warning(
            "the data changed since %s: %s samples, now %s; %s", checkpoint.folder, saved, current, SPLITS_MAY_DIFFER
        )


def check_same_classes(checkpoint: Checkpoint, classes: Sequence[str] | None, fix: str = _FIX) -> None:
    """Refuses other classes, or the same in another order, which would change the meaning of the head's outputs.

    Args:
        checkpoint: to resume from.
        classes: names of the training set's labels as they are now.
        fix: what to do about it, for the message.

    Raises:
        CheckpointError: names both.
    """
    if checkpoint.state["classes"] is None and classes is None:
        return
    saved, current = list(checkpoint.state["classes"] or ()), list(classes or ())
    if saved == current:
        return
    removed = [name for name in saved if name not in current]
    added = [name for name in current if name not in saved]
    changes = [
        f"{len(names)} {what}: {_listed(names)}" for names, what in ((removed, "removed"), (added, "new")) if names
    ]
    raise CheckpointError(
        f"{checkpoint.folder} was trained on other classes ({'; '.join(changes) or 'the same in another order'}): "
        f"saved {_listed(saved)}, now {_listed(current)}; {fix}"
    )


def vocabularies(tokenizers: Mapping[str, Tokenizer]) -> dict[str, str]:
    """Digests of the vocabularies that tokenizers read from files, by the key that names the file."""
    return {
        f"{path_of(tower)}modality.{name}": digest
        for tower, tokenizer in tokenizers.items()
        if isinstance(tokenizer, VocabularyFiles)
        for name, digest in tokenizer.vocabularies().items()
    }


def check_same_vocabularies(checkpoint: Checkpoint, tokenizers: Mapping[str, Tokenizer], fix: str = _FIX) -> None:
    """Refuses weights that were trained with another vocabulary, whose ids have other meanings.

    Args:
        checkpoint: of the weights.
        tokenizers: by tower, as they are now.
        fix: what to do about it, for the message.

    Raises:
        CheckpointError: names the key, and both digests.
    """
    saved, current = checkpoint.state.get("vocabularies"), vocabularies(tokenizers)
    if saved is None:
        return
    for name in sorted(saved.keys() & current.keys()):
        if saved[name] != current[name]:
            raise CheckpointError(
                f"{checkpoint.folder} was trained with another vocabulary: the file of {name} held "
                f"{saved[name]}, now {current[name]}; {fix}"
            )


def _listed(names: Sequence[str]) -> str:
    more = f", ... ({len(names)} in all)" if len(names) > MAX_LISTED else ""
    return ", ".join(map(repr, names[:MAX_LISTED])) + more if names else "none"
