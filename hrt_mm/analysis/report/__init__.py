"""``hrt-mm diagnose``: a report on a trained run, with figures."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...core.errors import UserError
from ...core.extras import needs_extra
from ...data.hub import PREFIX, is_repository, output_path
from ...inference.trained import load_task
from ...tasks.encoding import TowerTask
from ...train.distributed import ProcessGroup, choose_device
from ...train.precision import numerics
from .attending import attention_section
from .confusion import confusion_section
from .curves import curves_section
from .cuts import cuts_section
from .gates import gates_section
from .groups import groups_section
from .masks import masks_section
from .outputs import outputs_section
from .overview import overview_section
from .page import REPORT, Page
from .reconstruction import reconstruction_section
from .recovery import recovery_section
from .retrieval import retrieval_section
from .style import style
from .subject import Subject
from .texts import texts_section

__all__ = ["Report", "diagnose", "write_report"]

Section = Callable[[Subject, Page], None]

SECTIONS: tuple[Section, ...] = (
    overview_section,
    curves_section,
    confusion_section,
    outputs_section,
    masks_section,
    retrieval_section,
    texts_section,
    reconstruction_section,
)
"""Sections of every run."""
ENCODER_SECTIONS: tuple[Section, ...] = (
    groups_section,
    cuts_section,
    attention_section,
    gates_section,
    recovery_section,
)
"""Sections of each encoder: that of the run, or one for each tower."""


@dataclass(frozen=True)
class Report:
    """A written report.

    Args:
        folder: with ``report.md`` and the figures.
        summary: lines of text.
    """

    folder: Path
    summary: tuple[str, ...]


def write_report(run_dir: str | Path, overrides: Sequence[str] = ()) -> Path:
    """Writes the report of a run; see :func:`diagnose`.

    Returns:
        Its folder.
    """
    return diagnose(run_dir, overrides).folder


def diagnose(run_dir: str | Path, overrides: Sequence[str] = (), out: Path | None = None) -> Report:
    """Writes a report on the best weights of a run, replacing an earlier one.

    Args:
        run_dir: the run folder, or a repository, ``hub:owner/name``.
        overrides: changes to the run's configuration, each ``a.b.c=value``: another data root, another device.
        out: folder of the report; ``report/`` in the run folder if absent.

    Raises:
        ConfigError: the folder is not a run folder, or its data is missing.
        CheckpointError: there is no intact checkpoint.
        MissingLibrary: matplotlib is not installed.
        UserError: ``out`` holds something else, or is missing for a repository.
    """
    folder = output_path(run_dir, "report", "--out") if out is None else out
    if folder.exists() and not (folder / REPORT).is_file():
        raise UserError(f"{folder} exists and is not a report; choose another folder, or remove it")
    with needs_extra("report", "the report"):
        import matplotlib  # noqa: F401

    run = load_task(run_dir, overrides=overrides)
    options = run.config.train
    # Written aside and moved into place as a whole: a report that fails leaves the earlier one.
    aside = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    name = str(run_dir).removeprefix(PREFIX) if is_repository(run_dir) else run.folder.resolve().name
    page = Page(aside, f"Report of {name}")
    try:
        ranks = ProcessGroup(choose_device(options.device, 0))
        with numerics(ranks.device, options.num_threads), style():
            subject = Subject.of(run, ranks)
            for section in SECTIONS:
                section(subject, page)
            for tower in subject.towers:
                page.set_tower(tower.tower)
                if tower.missing():
                    page.say(f"no sample of the {tower.split} split has it, so there is nothing to report")
                    continue
                for section in ENCODER_SECTIONS if isinstance(run.task, TowerTask) else ():
                    section(tower, page)
        page.write()
        shutil.rmtree(folder, ignore_errors=True)
        aside.rename(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return Report(folder, tuple(page.summary))
