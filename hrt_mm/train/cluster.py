"""Which rank of a run a process is, and where its ranks meet, from the environment variables of its launcher.

Variables are documented by PyTorch (``torch.distributed``, ``env://``), SLURM (``man srun``, "OUTPUT ENVIRONMENT
VARIABLES") and Open MPI (``man mpirun``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import Literal

from ..core.errors import ConfigError

HIGH_PORTS = range(61_440, 65_536)
"""Ports for jobs of SLURM: above those that Linux gives to outgoing connections."""
DEFAULT_PORT = 29_500


@dataclass(frozen=True)
class ClusterEnvironment:
    """Rank, launcher and address of a process, as its cluster gives them.

    Args:
        launcher: what started the ranks; ``env`` where ``RANK`` and ``WORLD_SIZE`` are set without torchrun, as by
            operators of Kubernetes.
        rank: of this process.
        world_size: number of ranks.
        local_rank: of this process among those of its machine.
        address: host of rank 0.
        port: on which rank 0, or torchrun, serves the store where the ranks meet.
    """

    launcher: Literal["none", "torchrun", "env", "slurm", "mpi"] = "none"
    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    address: str = "127.0.0.1"
    port: int = DEFAULT_PORT

    @property
    def serves(self) -> bool:
        """Whether this process serves the store. torchrun has one of its own, which outlives the ranks."""
        return self.rank == 0 and self.launcher != "torchrun"


def cluster_environment(variables: Mapping[str, str]) -> ClusterEnvironment:
    """The rank of the process with these environment variables.

    ``RANK`` and ``WORLD_SIZE`` go first, since torchrun may run inside a step of SLURM; then come Open MPI's, as
    ``mpirun`` starts its daemons by ``srun``; then those of a SLURM step.

    Args:
        variables: the environment.

    Raises:
        ConfigError: variables are missing or contradict each other; names them.
    """
    if (size := _number(variables, "WORLD_SIZE", least=1)) is not None:
        return _from_env(variables, size)
    if _number(variables, "RANK"):
        raise ConfigError(
            f"RANK is {variables['RANK']}, and WORLD_SIZE is not set; start with torchrun, set WORLD_SIZE, MASTER_ADDR "
            "and MASTER_PORT too, or unset RANK"
        )
    if (size := _number(variables, "OMPI_COMM_WORLD_SIZE", least=1)) is not None and size > 1:
        return _from_mpi(variables, size)
    if (size := srun_tasks(variables)) > 1:
        return _from_slurm(variables, size)
    return ClusterEnvironment(local_rank=_number(variables, "LOCAL_RANK") or 0)


def _from_env(variables: Mapping[str, str], size: int) -> ClusterEnvironment:
    local_rank = _number(variables, "LOCAL_RANK") or 0
    launcher: Literal["torchrun", "env"] = (
        "torchrun" if variables.get("TORCHELASTIC_USE_AGENT_STORE") == "True" else "env"
    )
    if size == 1:
        return ClusterEnvironment(launcher, local_rank=local_rank)
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if not variables.get(name)]
    if missing:
        raise ConfigError(
            f"WORLD_SIZE is {size}, and {' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not set; start "
            "with torchrun, set all of them, or unset WORLD_SIZE"
        )
    rank = _rank(variables, "RANK", size, "WORLD_SIZE")
    port = _port(variables, DEFAULT_PORT)
    return ClusterEnvironment(launcher, rank, size, local_rank, variables["MASTER_ADDR"], port)


def _from_mpi(variables: Mapping[str, str], size: int) -> ClusterEnvironment:
    address = variables.get("MASTER_ADDR")
    if address is None:
        if _number(variables, "OMPI_COMM_WORLD_LOCAL_SIZE") != size:
            raise ConfigError(
                f"mpirun started {size} ranks on several machines, and MASTER_ADDR is not set; give the host of rank "
                "0: mpirun -x MASTER_ADDR=HOST"
            )
        address = "127.0.0.1"
    rank = _rank(variables, "OMPI_COMM_WORLD_RANK", size, "OMPI_COMM_WORLD_SIZE")
    local_rank = _number(variables, "OMPI_COMM_WORLD_LOCAL_RANK") or 0
    return ClusterEnvironment("mpi", rank, size, local_rank, address, _port(variables, DEFAULT_PORT))


def srun_tasks(variables: Mapping[str, str]) -> int:
    """Number of tasks that ``srun`` started together with this process; 1 without ``srun``.

    The shell of ``sbatch`` and ``salloc`` has ``SLURM_NTASKS`` and ``SLURM_PROCID`` too, but belongs to no step. A
    shell of ``srun --pty`` is a step, and a terminal: what is started there by hand runs alone.
    """
    if "SLURM_STEP_ID" not in variables or "SLURM_PTY_PORT" in variables:
        return 1
    return _number(variables, "SLURM_STEP_NUM_TASKS", least=1) or _number(variables, "SLURM_NTASKS", least=1) or 1


def tasks_without_srun(variables: Mapping[str, str]) -> int:
    """Number of tasks of a SLURM job in whose batch script this process was started without ``srun``; else 1."""
    if "SLURM_JOB_ID" not in variables or "SLURM_STEP_ID" in variables:
        return 1
    return _number(variables, "SLURM_NTASKS", least=1) or 1


def _from_slurm(variables: Mapping[str, str], size: int) -> ClusterEnvironment:
    rank = _rank(variables, "SLURM_PROCID", size, "SLURM_STEP_NUM_TASKS")
    address = variables.get("MASTER_ADDR")
    if address is None:
        name = "SLURM_STEP_NODELIST" if variables.get("SLURM_STEP_NODELIST") else "SLURM_JOB_NODELIST"
        if not variables.get(name):
            raise ConfigError(
                f"srun started {size} tasks, and neither SLURM_STEP_NODELIST nor SLURM_JOB_NODELIST is set; set "
                "MASTER_ADDR to the host of task 0"
            )
        try:
            hosts = expand_hostlist(variables[name])
        except ValueError as error:
            raise ConfigError(f"{name}: {error}; set MASTER_ADDR to the host of task 0") from error
        # The host's own name may not resolve on a single machine.
        address = hosts[0] if len(hosts) > 1 else "127.0.0.1"
    # Jobs that share a machine, and steps of a job, must not meet on one port.
    job, step = _number(variables, "SLURM_JOB_ID") or 0, _number(variables, "SLURM_STEP_ID") or 0
    port = _port(variables, HIGH_PORTS[(16 * job + step % 16) % len(HIGH_PORTS)])
    return ClusterEnvironment("slurm", rank, size, _number(variables, "SLURM_LOCALID") or 0, address, port)


_ITEM = re.compile(r"(?:[^\[\],]|\[[^\[\]]*\])+")
_RANGE = re.compile(r"(\d+)(?:-(\d+))?")


def expand_hostlist(text: str) -> list[str]:
    """The hosts of a list as SLURM writes it: ``node[001-003,007],login`` names five.

    Raises:
        ValueError: it is no such list.
    """
    items = _ITEM.findall(text)
    if not items or ",".join(items) != text:
        raise ValueError(f"{text!r} is no list of hosts")
    return [host for item in items for host in _expand(item)]


def _expand(item: str) -> list[str]:
    """The hosts of one item; several ranges count like digits, the last one fastest."""
    parts = []
    for part in re.split(r"(\[[^\[\]]*\])", item):
        if not part.startswith("["):
            parts.append([part])
            continue
        numbers: list[str] = []
        for span in part[1:-1].split(","):
            if not (match := _RANGE.fullmatch(span)) or int(match[2] or match[1]) < int(match[1]):
                raise ValueError(f"{item!r} has no range of numbers in {part}")
            first, last = match[1], match[2] or match[1]
            numbers += [f"{number:0{len(first)}}" for number in range(int(first), int(last) + 1)]
        parts.append(numbers)
    return ["".join(host) for host in product(*parts)]


def started_again(variables: Mapping[str, str]) -> bool:
    """Whether torchrun started the ranks again (``--max-restarts``), or SLURM the job (requeued by whomever)."""
    return any(_number(variables, name) for name in ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT"))


def _rank(variables: Mapping[str, str], name: str, size: int, size_name: str) -> int:
    rank = _number(variables, name)
    if rank is None:
        raise ConfigError(f"{size_name} is {size}, and {name} is not set")
    if rank >= size:
        raise ConfigError(f"{name} is {rank}, and {size_name} is {size}; ranks are 0 to {size - 1}")
    return rank


def _port(variables: Mapping[str, str], default: int) -> int:
    port = _number(variables, "MASTER_PORT", least=1)
    if port is not None and port > 65_535:
        raise ConfigError(f"MASTER_PORT is {port}; it must be 65535 or less")
    return default if port is None else port


def _number(variables: Mapping[str, str], name: str, *, least: int = 0) -> int | None:
    text = variables.get(name, "").strip()
    if not text:
        return None
    if not (text.isascii() and text.isdigit()) or int(text) < least:
        raise ConfigError(f"environment variable {name} is {text!r}; it must be a whole number of {least} or more")
    return int(text)
