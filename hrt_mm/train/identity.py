"""What a run's weights depend on beside its configuration: the classes in their order, and vocabularies from files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..data.capabilities import VocabularyFiles
from ..data.tokenizer import Tokenizer
from ..tasks.joint import JointTokenizer
from .checkpoint import Checkpoint, CheckpointError

SHOWN = 8
"""Classes that a message lists."""
MOVED = "samples may have changed sides where the splits are not those of the data, so that scores are too good"
"""What a changed number of samples may mean."""
_FIX = "resume with what the run was trained on, or start another run with another run.dir"


def check_same_classes(checkpoint: Checkpoint, classes: Sequence[str] | None) -> None:
    """Refuses to go on with other classes, or with the same in another order: the head's outputs would change meaning.

    Args:
        checkpoint: to go on from.
        classes: names of the training set's labels as they are now.

    Raises:
        CheckpointError: names both.
    """
    saved = checkpoint.state["classes"]
    if saved is None and classes is None:
        return
    before, now = list(saved or ()), list(classes or ())
    if before == now:
        return
    gone, new = [name for name in before if name not in now], [name for name in now if name not in before]
    changes = [f"{len(names)} {what}: {_listed(names)}" for names, what in ((gone, "gone"), (new, "new")) if names]
    raise CheckpointError(
        f"{checkpoint.folder} was trained on other classes ({'; '.join(changes) or 'the same in another order'}): "
        f"saved {_listed(before)}, now {_listed(now)}; {_FIX}"
    )


def vocabularies(tokenizer: Tokenizer) -> dict[str, str]:
    """Digests of the vocabularies that a tokenizer reads from files, by the key that names the file."""
    if not isinstance(tokenizer, JointTokenizer):
        return {f"modality.{name}": digest for name, digest in _digests(tokenizer).items()}
    return {
        f"towers.{tower}.modality.{name}": digest
        for tower, own in tokenizer.towers.items()
        for name, digest in _digests(own).items()
    }


def _digests(tokenizer: Tokenizer) -> Mapping[str, str]:
    return tokenizer.vocabularies() if isinstance(tokenizer, VocabularyFiles) else {}


def check_same_vocabularies(checkpoint: Checkpoint, tokenizer: Tokenizer, fix: str = _FIX) -> None:
    """Refuses weights that were trained with another vocabulary: their ids would change meaning.

    Args:
        checkpoint: of the weights.
        tokenizer: as it is now.
        fix: what to do about it.

    Raises:
        CheckpointError: names the key, and both digests.
    """
    saved, now = checkpoint.state.get("vocabularies"), vocabularies(tokenizer)
    if saved is None:
        return
    for name in sorted(saved.keys() & now.keys()):
        if saved[name] != now[name]:
            raise CheckpointError(
                f"{checkpoint.folder} was trained with another vocabulary: the file of {name} held {saved[name]}, "
                f"now {now[name]}; {fix}"
            )


def _listed(names: Sequence[str]) -> str:
    more = f", ... ({len(names)} in all)" if len(names) > SHOWN else ""
    return ", ".join(map(repr, names[:SHOWN])) + more if names else "none"
