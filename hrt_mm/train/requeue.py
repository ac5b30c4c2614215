"""Queuing a SLURM job again when a signal announces its end."""

from __future__ import annotations

import logging
import re
import signal
import subprocess
import sys
from collections.abc import Mapping

from ..core.errors import Stopped

log = logging.getLogger(__name__)

_SECONDS = 60
"""For the controller of SLURM to answer."""


def requeue_wanted(stop: Stopped, variables: Mapping[str, str]) -> bool:
    """Whether a signal asks for the job to be queued again.

    Only SIGUSR1 does, which ``#SBATCH --signal=USR1@120`` sends ahead of the time limit. SIGTERM also comes from
    ``scancel``, and before a preemption that queues the job again by itself.
    """
    return sys.platform != "win32" and stop.number == signal.SIGUSR1 and "SLURM_JOB_ID" in variables


def requeue(variables: Mapping[str, str]) -> bool:
    """Queues this process's job again (``scontrol requeue``), if it is a batch job that allows it.

    Args:
        variables: the environment.

    Returns:
        Whether it was queued; if not, a warning says why.
    """
    job = variables["SLURM_JOB_ID"]
    if "SLURM_ARRAY_JOB_ID" in variables and "SLURM_ARRAY_TASK_ID" in variables:
        # The plain id of one task of an array may be that of the whole array.
        job = f"{variables['SLURM_ARRAY_JOB_ID']}_{variables['SLURM_ARRAY_TASK_ID']}"
    try:
        shown = _scontrol("show", "job", job)
        for field, reason in (("BatchFlag", "it was not submitted by sbatch"), ("Requeue", "of --no-requeue")):
            if re.search(rf"\b{field}=0\b", shown):
                log.warning("SLURM job %s is not queued again, because %s", job, reason)
                return False
        _scontrol("requeue", job)
    except subprocess.CalledProcessError as error:
        log.warning("SLURM job %s is not queued again: scontrol: %s", job, error.stderr.strip() or error.returncode)
        return False
    except (OSError, subprocess.TimeoutExpired) as error:
        log.warning("SLURM job %s is not queued again: %s", job, error)
        return False
    log.warning("SLURM job %s is queued again, and continues from this checkpoint", job)
    return True


def _scontrol(*arguments: str) -> str:
    command = ["scontrol", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=_SECONDS).stdout
