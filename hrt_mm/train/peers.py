"""How the ranks of a run meet, and what became of those that no longer answer.

Each rank has a thread that answers for it, so that a rank which waits for the others can be told from one that hangs,
and from one that was killed.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import timedelta
from functools import cache
from hashlib import blake2b
from pathlib import Path
from types import FrameType, TracebackType

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore, Store, TCPStore

from ..core.errors import Stopped, UserError
from ..data.progress import span
from .cluster import ClusterEnvironment

ANSWER_SECONDS = 6.0
"""Time that ranks have to say where they are, after one of them failed."""
POLL_SECONDS = 1.0
_RETRY_SECONDS = 0.1
_STORE_TIMEOUT = timedelta(seconds=20)
_COLLECTIVES = "hrt_mm.train.distributed"
"""Module whose calls wait for other ranks."""


class RankError(UserError):
    """Ranks do not fit together, or one of them failed, hangs or was killed."""


@dataclass(frozen=True)
class RankInfo:
    """What ranks tell each other when they meet.

    Args:
        rank: of the process.
        world_size: number of ranks that it expects.
        host: its machine.
        pid: its process.
        code: version of the package, PyTorch's, and a digest of the package's files.
        gpu: unique id of its GPU, if any.
    """

    rank: int
    world_size: int
    host: str
    pid: int
    code: tuple[str, str, str]
    gpu: str = ""

    def __str__(self) -> str:
        return f"rank {self.rank} (host {self.host}, process {self.pid})"


def connect(cluster: ClusterEnvironment, minutes: float, *, serve: bool) -> TCPStore:
    """Connects to the store where the ranks meet.

    Args:
        cluster: of this rank.
        minutes: to wait for the store, and later for each value in it.
        serve: serve it in this process.

    Raises:
        RankError: the port is in use, or nothing answers in time.
    """
    where = f"{cluster.address}:{cluster.port}"
    if not serve:
        _wait_for_port(cluster, minutes)
    try:
        return TCPStore(
            cluster.address,
            cluster.port,
            is_master=serve,
            timeout=timedelta(minutes=minutes),
            wait_for_workers=False,
            multi_tenant=serve,
        )
    except RuntimeError as error:
        if serve:
            raise RankError(
                f"rank 0 cannot serve {where}, where the ranks meet: {_first_line(error)}; another run may use the "
                "port, or MASTER_ADDR is another machine's. Set MASTER_PORT, the same for all ranks"
            ) from error
        raise RankError(f"rank {cluster.rank} cannot connect to rank 0 at {where}: {_first_line(error)}") from error


@cache
def served(cluster: ClusterEnvironment, minutes: float) -> TCPStore:
    """The store that this process serves as long as it lives, since others may still ask."""
    return connect(cluster, minutes, serve=True)


def _wait_for_port(cluster: ClusterEnvironment, minutes: float) -> None:
    """Tries to connect until something answers. Between tries, signals are handled."""
    deadline = time.monotonic() + 60 * minutes
    while True:
        try:
            socket.create_connection((cluster.address, cluster.port), 5).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise RankError(
                    f"rank {cluster.rank} could not reach rank 0 at {cluster.address}:{cluster.port} within "
                    f"{span(minutes)} (train.collective_timeout): {error}; start all ranks together, and check "
                    "MASTER_ADDR, MASTER_PORT and the firewall"
                ) from error
            time.sleep(_RETRY_SECONDS)


def meet(store: Store, mine: RankInfo, minutes: float) -> tuple[str, list[RankInfo]]:
    """Waits for all ranks, and checks that they fit together.

    torchrun's store outlives the ranks, and its count of restarts may differ between machines. Rank 0 therefore opens a
    round, and tells its number to every rank that asks; nobody asks for ranks that have ended.

    Args:
        store: of torchrun, or of rank 0.
        mine: this rank.
        minutes: to wait.

    Returns:
        A prefix for what these ranks store, and all ranks, in order.

    Raises:
        RankError: ranks are missing, or differ in what they run; names them.
    """
    deadline = time.monotonic() + 60 * minutes
    if mine.rank == 0:
        prefix = f"round-{store.add('rounds', 1)}"
    else:
        key = f"reply/{mine.rank}/{store.add(f'asked/{mine.rank}', 1)}"
        while not store.check([key]):
            if time.monotonic() > deadline:
                raise RankError(
                    f"{mine} got no answer from rank 0 within {span(minutes)} (train.collective_timeout); start all "
                    "ranks, or give them more time"
                )
            time.sleep(_RETRY_SECONDS)
        prefix = store.get(key).decode()
    group = PrefixStore(prefix, store)
    twice = group.add(f"joined/{mine.rank}", 1) > 1
    if not twice:
        group.set(f"member/{mine.rank}", json.dumps(asdict(mine)))
    members: dict[int, RankInfo] = {}
    replied = [0] * mine.world_size
    while len(members) < mine.world_size:
        for rank in range(mine.world_size) if mine.rank == 0 else ():
            for number in range(replied[rank] + 1, store.add(f"asked/{rank}", 0) + 1):
                store.set(f"reply/{rank}/{number}", prefix)
                replied[rank] = number
        for rank in range(mine.world_size):
            if rank not in members and group.check([f"member/{rank}"]):
                stored = json.loads(group.get(f"member/{rank}"))
                members[rank] = RankInfo(**(stored | {"code": tuple(stored["code"])}))
                _compare(mine, members[rank])
        if twice and mine.rank in members:
            raise RankError(
                f"{mine} is there twice, also as {members[mine.rank]}; each process needs a RANK of its own, from 0 to "
                f"{mine.world_size - 1}"
            )
        if len(members) == mine.world_size:
            break
        if time.monotonic() > deadline:
            missing = [str(rank) for rank in range(mine.world_size) if rank not in members]
            raise RankError(
                f"rank{'s' if len(missing) > 1 else ''} {', '.join(missing)} of {mine.world_size} did not join within "
                f"{span(minutes)} (train.collective_timeout); there are {', '.join(map(str, members.values()))}. Start "
                "all ranks, or give them more time"
            )
        time.sleep(_RETRY_SECONDS)
    ordered = [members[rank] for rank in range(mine.world_size)]
    _check_gpus(ordered)
    return prefix, ordered


def _compare(mine: RankInfo, other: RankInfo) -> None:
    if mine.world_size != other.world_size:
        raise RankError(
            f"{mine} expects {mine.world_size} ranks, and {other} expects {other.world_size}; start all with the same "
            "WORLD_SIZE"
        )
    for what, ours, theirs in zip(
        ("version of hrt-mm", "version of PyTorch", "code of hrt-mm (digest)"), mine.code, other.code, strict=True
    ):
        if ours != theirs:
            raise RankError(
                f"ranks run another {what}: {mine} has {ours}, {other} has {theirs}; install the same on all machines"
            )


def _check_gpus(members: list[RankInfo]) -> None:
    users: dict[tuple[str, str], RankInfo] = {}
    for member in members:
        if member.gpu and (first := users.setdefault((member.host, member.gpu), member)) is not member:
            raise RankError(
                f"{first} and {member} use the same GPU; start as many ranks on a machine as it has GPUs (with srun: "
                "--gpus-per-task=1, or --gpus-per-node with as many --ntasks-per-node)"
            )


@cache
def code_version() -> tuple[str, str, str]:
    """Versions of the package and of PyTorch, and a digest of the files of the package."""
    from .. import __version__

    digest = blake2b(digest_size=8)
    package = Path(__file__).parents[1]
    for path in sorted(package.rglob("*.py")):
        digest.update(path.relative_to(package).as_posix().encode() + path.read_bytes())
    return __version__, torch.__version__, digest.hexdigest()


class Peers:
    """The other ranks, as seen from one of them.

    Args:
        store: connected for this alone, since calls of another connection may block.
        members: all ranks, in order.
        cluster: of this rank.
        minutes: limit of a collective.
    """

    def __init__(self, store: Store, members: list[RankInfo], cluster: ClusterEnvironment, minutes: float) -> None:
        self.store, self.members, self.cluster, self.minutes = store, members, cluster, minutes
        self.rank = cluster.rank
        self.step = 0
        """Of training, that is being taken."""
        self._main = threading.get_ident()
        self._answered = threading.Lock()
        self._failures: dict[int, str] = {}
        self._answers: dict[int, dict[str, object]] = {}
        self._lost = False
        self._asked, self._ended = threading.Event(), threading.Event()
        self._answering = threading.Thread(target=self._answer, daemon=True, name="hrt_mm.peers")
        self._answering.start()

    def close(self) -> None:
        """Stops answering."""
        self._ended.set()
        self._answering.join()

    def _answer(self) -> None:
        """Waits until a rank fails, says where this one is, and asks the others.

        It does so while the main thread may be blocked, in a collective that ends only with the other rank's process.
        A rank that still hangs after the limit of a collective is ended.
        """
        try:
            while not self.store.check(["alarm"]):
                if self._ended.wait(POLL_SECONDS):
                    return
            self._say(sys._current_frames().get(self._main))
            self._ask()
            self.store.set(f"left/{self.rank}", "")
        except RuntimeError:
            # The process that served the store has ended.
            self._lost = True
        self._asked.set()
        if not self._ended.wait(60 * self.minutes + 2 * ANSWER_SECONDS):
            print(f"error: {self.explain(None)}", file=sys.stderr, flush=True)
            os._exit(2)

    def _say(self, frame: FrameType | None) -> dict[str, object]:
        """Tells the others where this rank is, once."""
        position = self._position(frame)
        if self._answered.acquire(blocking=False):
            self.store.set(f"answer/{self.rank}", json.dumps(position))
        return position

    def _position(self, frame: FrameType | None) -> dict[str, object]:
        """Where a thread is: the function, and whether it waits for other ranks there."""
        waiting, where = False, ""
        while frame is not None and not where:
            module = frame.f_globals.get("__name__", "")
            waiting |= module == _COLLECTIVES or module.startswith(("torch.distributed.", "torch.autograd."))
            if module.partition(".")[0] not in ("torch", "threading", "contextlib") and module != _COLLECTIVES:
                where = f"{module}.{frame.f_code.co_qualname}"
            frame = frame.f_back
        return {"step": self.step, "where": where, "waiting": waiting}

    def report(self, error: BaseException) -> None:
        """Tells the other ranks why this one ends."""
        self._answered.acquire(blocking=False)
        text = str(error) if isinstance(error, UserError | Stopped) else f"{type(error).__name__}: {error}"
        with suppress(RuntimeError):
            self.store.set(f"error/{self.rank}", text)
            self.store.set("alarm", "")
            self._linger()

    def explain(self, error: BaseException | None) -> RankError:
        """What became of the others, after a collective failed.

        Args:
            error: of the collective; ``None`` where it still waits.
        """
        frame = _innermost(error.__traceback__) if error is not None else sys._current_frames().get(self._main)
        timed_out = error is None or "timed out" in str(error).lower()
        position = self._position(frame)
        with suppress(RuntimeError):
            self._say(frame)
            self.store.set("alarm", "")
        self._asked.wait(3 * ANSWER_SECONDS)
        if error is not None:
            with suppress(RuntimeError):
                self._linger()
        if error is None and not position["waiting"]:
            return RankError(
                f"{self.members[self.rank]} hangs in {position['where']}, step {self.step}; the other ranks gave it up "
                f"after {span(self.minutes)} (train.collective_timeout)"
            )
        lines = [f"{self.members[rank]} failed: {text}" for rank, text in self._failures.items()]
        lines = lines or self._silent(timed_out=timed_out)
        where = f" in {position['where']}" if position["where"] else ""
        return RankError(f"{'; '.join(lines)}. {self.members[self.rank]} waited{where}, step {self.step}")

    def _ask(self) -> None:
        """Reads the errors of other ranks, or where they are."""
        others = [member.rank for member in self.members if member.rank != self.rank]
        deadline = time.monotonic() + ANSWER_SECONDS
        while True:
            for rank in others:
                if rank not in self._failures and self.store.check([f"error/{rank}"]):
                    self._failures[rank] = self.store.get(f"error/{rank}").decode()
                if rank not in self._answers and self.store.check([f"answer/{rank}"]):
                    self._answers[rank] = json.loads(self.store.get(f"answer/{rank}"))
            if self._failures or len(self._answers) == len(others) or time.monotonic() > deadline:
                return
            time.sleep(_RETRY_SECONDS)

    def _linger(self) -> None:
        """Where the store ends with this process, waits until the other ranks have read from it."""
        deadline = time.monotonic() + ANSWER_SECONDS
        everyone = [f"left/{member.rank}" for member in self.members]
        while self.cluster.serves and not self.store.check(everyone) and time.monotonic() < deadline:
            time.sleep(_RETRY_SECONDS)

    def _silent(self, *, timed_out: bool) -> list[str]:
        """The ranks to blame where none gave a reason."""
        answers = dict(sorted(self._answers.items()))
        again = "resume the run (--resume), or let torchrun do so (--max-restarts)"
        if self._lost:
            server = "torchrun" if self.cluster.launcher == "torchrun" else self.members[0]
            return [f"{server} no longer answers: it was killed, or its connection was lost; {again}"]
        missing = [str(member) for member in self.members if member.rank not in answers and member.rank != self.rank]
        if missing:
            return [
                f"{', '.join(missing)} {'ended' if len(missing) == 1 else 'ended, all'} without a message: killed, "
                f"out of memory, or its connection was lost; {again}"
            ]
        limit = f"within {span(self.minutes)} (train.collective_timeout)"
        busy = [
            f"{self.members[rank]} did not take part {limit}: it is in {answer['where']}, step {answer['step']}"
            for rank, answer in answers.items()
            if not answer["waiting"]
        ]
        if busy:
            return busy
        positions = [f"rank {rank} in {answer['where']} of step {answer['step']}" for rank, answer in answers.items()]
        cause = f"a collective did not end {limit}" if timed_out else "the connection to another rank was lost"
        return [f"{cause}: {', '.join(positions)}"]


def is_collective_error(error: BaseException) -> bool:
    """Whether an exception comes from communication between ranks."""
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and any(word in str(error).lower() for word in ("gloo", "nccl", "xccl"))
    )


def _innermost(trace: TracebackType | None) -> FrameType | None:
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace.tb_frame if trace is not None else None


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
