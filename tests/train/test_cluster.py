from __future__ import annotations

import pytest

from hrt_mm.core.errors import ConfigError
from hrt_mm.train.cluster import (
    ClusterEnvironment,
    cluster_environment,
    expand_hostlist,
    started_again,
    tasks_without_srun,
)

TORCHRUN = {
    "RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "MASTER_ADDR": "node1", "MASTER_PORT": "29400",
    "TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0",
}  # fmt: skip
SLURM_JOB = {
    "SLURM_JOB_ID": "4711", "SLURM_JOB_NODELIST": "gpu[03-04]", "SLURM_NTASKS": "8", "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
}  # fmt: skip
"""What the shell of ``sbatch --ntasks=8`` has."""
SLURM_STEP = SLURM_JOB | {
    "SLURM_STEP_ID": "2", "SLURM_STEP_NUM_TASKS": "8", "SLURM_STEP_NODELIST": "gpu[03-04]", "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
}  # fmt: skip
MPI = {"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_LOCAL_RANK": "1"}
ALONE = ClusterEnvironment()
PORT = 61_440 + (16 * 4711 + 2) % 4096


@pytest.mark.parametrize(
    ("variables", "place"),
    [
        ({}, ALONE),
        ({"RANK": "0"}, ALONE),
        ({"LOCAL_RANK": "2"}, ClusterEnvironment(local_rank=2)),
        ({"WORLD_SIZE": "1", "RANK": "0"}, ClusterEnvironment("env")),
        (TORCHRUN, ClusterEnvironment("torchrun", 5, 8, 1, "node1", 29_400)),
        # torchrun in a step of SLURM.
        (SLURM_STEP | TORCHRUN, ClusterEnvironment("torchrun", 5, 8, 1, "node1", 29_400)),
        # Kubeflow's PyTorchJob, one process in each pod.
        (
            {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "job-master-0", "MASTER_PORT": "23456"},
            ClusterEnvironment("env", 1, 2, 0, "job-master-0", 23_456),
        ),
        (SLURM_STEP, ClusterEnvironment("slurm", 5, 8, 1, "gpu03", PORT)),
        # The step runs on one of the job's machines.
        (
            SLURM_STEP | {"SLURM_STEP_NODELIST": "gpu04"},
            ClusterEnvironment("slurm", 5, 8, 1, "127.0.0.1", PORT),
        ),
        (
            SLURM_STEP | {"MASTER_ADDR": "10.0.0.3", "MASTER_PORT": "12345"},
            ClusterEnvironment("slurm", 5, 8, 1, "10.0.0.3", 12_345),
        ),
        # The batch shell, the shells of salloc and `srun --pty`, and a step of one task are no ranks.
        (SLURM_JOB, ALONE),
        (SLURM_JOB | {"SLURM_STEP_ID": "4294967290", "SLURM_STEP_NUM_TASKS": "1"}, ALONE),
        (SLURM_STEP | {"SLURM_PTY_PORT": "40000"}, ALONE),
        (SLURM_STEP | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}, ALONE),
        # mpirun starts its daemons by srun, one on each machine.
        (
            SLURM_STEP | {"SLURM_STEP_NUM_TASKS": "2"} | MPI | {"MASTER_ADDR": "gpu03"},
            ClusterEnvironment("mpi", 3, 4, 1, "gpu03", 29_500),
        ),
        (MPI | {"OMPI_COMM_WORLD_LOCAL_SIZE": "4"}, ClusterEnvironment("mpi", 3, 4, 1, "127.0.0.1", 29_500)),
    ],
)
def test_place_of_a_process(variables: dict[str, str], place: ClusterEnvironment) -> None:
    assert cluster_environment(variables) == place


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"WORLD_SIZE": "2", "RANK": "0", "MASTER_PORT": "1"}, r"WORLD_SIZE is 2, and MASTER_ADDR is not set; start w"),
        ({"WORLD_SIZE": "2"}, r"WORLD_SIZE is 2, and RANK and MASTER_ADDR and MASTER_PORT are not set"),
        ({"RANK": "1"}, r"RANK is 1, and WORLD_SIZE is not set; start with torchrun"),
        (TORCHRUN | {"RANK": "8"}, r"RANK is 8, and WORLD_SIZE is 8; ranks are 0 to 7"),
        (TORCHRUN | {"WORLD_SIZE": "two"}, r"WORLD_SIZE is 'two'; it must be a whole number of 1 or more"),
        (TORCHRUN | {"WORLD_SIZE": "0"}, r"WORLD_SIZE is '0'; it must be a whole number of 1 or more"),
        (TORCHRUN | {"RANK": "-1"}, r"RANK is '-1'; it must be a whole number of 0 or more"),
        (TORCHRUN | {"MASTER_PORT": "70000"}, r"MASTER_PORT is 70000; it must be 65535 or less"),
        (
            SLURM_STEP | {"SLURM_STEP_NODELIST": "gpu[03-"},
            r"SLURM_STEP_NODELIST: 'gpu\[03-' is no list of hosts; set M",
        ),
        ({"SLURM_STEP_ID": "0", "SLURM_NTASKS": "2", "SLURM_PROCID": "0"}, r"neither SLURM_STEP_NODELIST nor SLURM_JO"),
        (MPI, r"mpirun started 4 ranks on several machines, and MASTER_ADDR is not set"),
    ],
)
def test_variables_that_contradict_each_other(variables: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        cluster_environment(variables)


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        ("login", ["login"]),
        ("node[001-003,007]", ["node001", "node002", "node003", "node007"]),
        ("a1,node[9-11],b[2]-ib", ["a1", "node9", "node10", "node11", "b2-ib"]),
        ("rack[1-2]n[08-09]", ["rack1n08", "rack1n09", "rack2n08", "rack2n09"]),
        ("node[098-101].example.org", [f"node{number}.example.org" for number in ("098", "099", "100", "101")]),
    ],
)
def test_hostlists(text: str, hosts: list[str]) -> None:
    assert expand_hostlist(text) == hosts


@pytest.mark.parametrize("text", ["", "a,,b", "node[1-2", "node[]", "node[2-1]", "node[a-b]", "node[1-2]]"])
def test_no_hostlists(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no list of hosts|has no range of numbers"):
        expand_hostlist(text)


def test_tasks_that_nobody_started() -> None:
    assert tasks_without_srun(SLURM_JOB) == 8
    assert tasks_without_srun(SLURM_STEP) == tasks_without_srun({}) == tasks_without_srun({"SLURM_NTASKS": "4"}) == 1


def test_restarts() -> None:
    assert started_again({"TORCHELASTIC_RESTART_COUNT": "1"})
    assert started_again({"SLURM_RESTART_COUNT": "2"})
    assert not started_again({"TORCHELASTIC_RESTART_COUNT": "0"})
    assert not started_again({})
