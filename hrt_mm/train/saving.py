"""Writing the checkpoints of a run: by the first rank, or by each its shard; at once, or while training goes on."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from ..data.storage import Sum
from .checkpoint import commit, discard, prepare, shard_file, single_file, write_files
from .distributed import ProcessGroup
from .saved_tensors import Shard
from .sharding import Sharding
from .store import CheckpointStore
from .weights import is_sharded, local, local_rows


@dataclass
class _Job:
    """A checkpoint that is being written.

    Args:
        folder: of the checkpoint.
        state: the content of ``state.json``.
        files: of this rank, by name.
    """

    folder: Path
    state: Mapping[str, Any]
    files: dict[str, bytes]
    sums: dict[str, Sum] = field(default_factory=dict)
    error: Exception | None = None
    thread: threading.Thread | None = None

    def write(self, aside: Path) -> None:
        try:
            self.sums = write_files(aside, self.files)
        except (OSError, MemoryError) as error:
            self.error = error
        finally:
            self.files = {}


class Saver:
    """Writes checkpoints. All ranks call its methods together.

    A checkpoint gets its name from the first rank, after every rank has written and flushed its files. If one fails, it
    fails on all, and what was written of it is removed.

    Args:
        store: of the run.
        ranks: the process group.
        sharding: of the task; each rank then writes its shard. Otherwise the first rank writes everything.
        background: write in a thread. :meth:`finish` completes the checkpoint.
    """

    def __init__(
        self, store: CheckpointStore, ranks: ProcessGroup, sharding: Sharding | None, *, background: bool
    ) -> None:
        self.store, self.ranks, self.sharding, self.background = store, ranks, sharding, background
        self._job: _Job | None = None

    @property
    def pending(self) -> bool:
        """Whether a checkpoint was started and not finished; the same on all ranks."""
        return self._job is not None

    @property
    def step(self) -> int:
        """Of the pending checkpoint."""
        assert self._job is not None
        return int(self._job.state["step"])

    @property
    def writing(self) -> bool:
        """Whether this rank is still writing its files."""
        return self._job is not None and self._job.thread is not None and self._job.thread.is_alive()

    def start(
        self, state: Mapping[str, Any], parts: Mapping[str, Mapping[str, Tensor]], error: OSError | None = None
    ) -> None:
        """Copies tensors to the host and starts to write them.

        Args:
            state: the content of ``state.json``, of the first rank.
            parts: tensors by name, of each part; the same ones on all ranks.
            error: why the first rank cannot write.
        """
        assert not self.pending
        folder = self.store.path(state["step"])
        aside = folder.with_name(f".{folder.name}.tmp")
        if self.ranks.is_main and error is None:
            try:
                prepare(folder)
            except OSError as reason:
                error = reason
        # Other ranks write into the folder that the first one makes.
        error = self.ranks.gather(error)[0]
        self._job = job = _Job(folder, state, {} if error else self._files(parts), error=error)
        if error is not None:
            return
        if self.background:
            job.thread = threading.Thread(target=job.write, args=(aside,), name="checkpoint")
            job.thread.start()
        else:
            job.write(aside)

    def _files(self, parts: Mapping[str, Mapping[str, Tensor]]) -> dict[str, bytes]:
        files: dict[str, bytes] = {}
        sharding = self.sharding
        if sharding is None:
            if self.ranks.is_main:
                for part, tensors in parts.items():
                    files |= single_file(part, tensors)
        elif sharding.replica == 0:
            for part, tensors in parts.items():
                files |= shard_file(part, _shards(tensors, sharding.index), sharding.index, sharding.count)
        return files

    def finish(self) -> Exception | None:
        """Waits until all ranks have written their files, and completes the checkpoint.

        Returns:
            Why there is none, on all ranks.
        """
        job, self._job = self._job, None
        if job is None:
            return None
        if job.thread is not None:
            job.thread.join()
        answers = self.ranks.gather((job.sums, job.error))
        error = next((error for _, error in answers if error is not None), None)
        if self.ranks.is_main:
            try:
                if error is None:
                    commit(job.folder, job.state, {name: value for sums, _ in answers for name, value in sums.items()})
                    self.store.prune()
            except OSError as reason:
                error = reason
            finally:
                discard(job.folder)
        failed: Exception | None = self.ranks.gather(error)[0]
        return failed


def _shards(tensors: Mapping[str, Tensor], index: int) -> dict[str, Shard]:
    """What a rank writes of a part: its rows of what is sharded, and the first one what all ranks have."""
    shards = {}
    for name, value in tensors.items():
        if not is_sharded(value):
            if index == 0:
                shards[name] = Shard(value)
            continue
        first, count = local_rows(value)
        if count or (index == 0 and not len(value)):
            shards[name] = Shard(local(value), first)
    return shards
