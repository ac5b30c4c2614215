"""``metrics.jsonl`` and the TensorBoard events of a run."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..core.extras import install_command

log = logging.getLogger(__name__)


class MetricsLog:
    """A line of JSON for each logged step. Lines that a full disk rejects are kept in memory and written later.

    Args:
        path: the file.
        keep: number of lines to keep, those from before the checkpoint that the run resumes from.
    """

    def __init__(self, path: Path, keep: int = 0) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        lines = path.read_bytes().splitlines(keepends=True)[:keep]
        self._size = sum(map(len, lines))
        os.ftruncate(self._file, self._size)
        self.lines = len(lines)
        self._pending = b""
        self._failed = False
        if len(lines) < keep:
            log.warning("%s has %d lines, the checkpoint was saved after %d; the rest is lost", path, len(lines), keep)

    def write(self, values: Mapping[str, Any]) -> None:
        """Appends a line. Non-finite numbers become null, as JSON has no others."""
        plain = {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in values.items()
        }
        self._pending += json.dumps(plain, allow_nan=False).encode() + b"\n"
        self.lines += 1
        try:
            self._write_pending()
        except OSError as error:
            if not self._failed:
                log.warning("metrics.jsonl cannot be written (%s); its lines are kept until it can", error)
            self._failed = True

    def sync(self) -> None:
        """Flushes every line to disk.

        Raises:
            OSError: the disk is full or fails.
        """
        self._write_pending()
        os.fsync(self._file)

    def close(self) -> None:
        """Closes the file."""
        os.close(self._file)

    def _write_pending(self) -> None:
        try:
            # From the end of the last whole line, over what a full disk may have cut short.
            os.lseek(self._file, self._size, os.SEEK_SET)
            remaining = memoryview(self._pending)
            while remaining:
                remaining = remaining[os.write(self._file, remaining) :]
        except OSError:
            # Readers never see half a line.
            os.ftruncate(self._file, self._size)
            raise
        self._size += len(self._pending)
        self._pending = b""


class TensorBoard:
    """TensorBoard event files, if the package is installed.

    Args:
        folder: of the files.
        step: that the run resumes from; later events in existing files are purged.
    """

    def __init__(self, folder: Path, step: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            fix = install_command("tensorboard")
            log.warning("tensorboard is not installed, so only metrics.jsonl is written: %s", fix)
            self._writer = None
            return
        self._writer = SummaryWriter(str(folder), purge_step=step + 1 if step else None)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Writes the metrics of a step."""
        if self._writer is None:
            return
        try:
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)
        except OSError as error:
            log.warning("TensorBoard events cannot be written any more: %s", error)
            self._writer = None

    def close(self) -> None:
        """Flushes and closes the files."""
        if self._writer is not None:
            self._writer.close()
