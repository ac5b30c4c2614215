"""How ranks meet, and what each says of the others; here ranks are threads around a store in memory."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore

import hrt_mm
from hrt_mm.core.errors import UserError
from hrt_mm.train import peers
from hrt_mm.train.cluster import ClusterEnvironment
from hrt_mm.train.peers import Peers, RankError, RankInfo, connect, is_collective_error, meet

CODE = ("0.1.0", "2.14", "ab12")
SOON = 0.2 / 60
"""Minutes."""


def member(rank: int, world_size: int = 2) -> RankInfo:
    return RankInfo(rank, world_size, f"host{rank}", 100 + rank, CODE)


def messages(*members: RankInfo, minutes: float = 1.0) -> list[str]:
    """What each of some ranks that meet is told: nothing, or an error."""
    store = HashStore()

    def join(mine: RankInfo) -> str:
        try:
            meet(store, mine, minutes)
        except RankError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(len(members)) as pool:
        return list(pool.map(join, members))


def test_ranks_meet_again_in_the_same_store() -> None:
    store = HashStore()
    prefixes = []
    for _ in range(2):
        with ThreadPoolExecutor(3) as pool:
            met = list(pool.map(lambda rank: meet(store, member(rank, 3), 1.0), range(3)))
        assert all(members == [member(rank, 3) for rank in range(3)] for _, members in met)
        prefixes.append({prefix for prefix, _ in met})
    assert all(len(prefix) == 1 for prefix in prefixes)
    assert prefixes[0] != prefixes[1]


def test_a_rank_of_an_earlier_round_is_not_waited_for() -> None:
    store = HashStore()
    # It asked, and was killed before rank 0 came.
    store.add("asked/1", 1)
    with ThreadPoolExecutor(2) as pool:
        assert len({prefix for prefix, _ in pool.map(lambda rank: meet(store, member(rank), 1.0), range(2))}) == 1


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (replace(member(1), world_size=3), r"rank 0 \(host host0, process 100\) expects 2 ranks, and rank 1 .* exp"),
        (replace(member(1), code=("0.2.0", *CODE[1:])), r"another version of hrt-mm: rank 0 .* has 0.1.0, rank 1"),
        (replace(member(1), code=(*CODE[:2], "cd34")), r"another code of hrt-mm \(digest\): rank 0 .* has ab12, rank"),
    ],
)
def test_ranks_that_do_not_fit(other: RankInfo, message: str) -> None:
    first, second = messages(member(0), other)
    with pytest.raises(RankError, match=message):
        raise RankError(first)
    assert second


def test_a_rank_that_is_there_twice() -> None:
    assert any("rank 1 (host host1, process 101) is there twice" in text for text in messages(
        member(0, 3), member(1, 3), member(1, 3), minutes=10 * SOON
    ))  # fmt: skip


def test_two_ranks_on_one_gpu() -> None:
    same = [replace(member(rank), host="a", gpu="GPU-1") for rank in range(2)]
    assert all("use the same GPU" in text for text in messages(*same))
    assert messages(same[0], replace(same[1], gpu="GPU-2")) == ["", ""]


def test_ranks_that_do_not_come() -> None:
    first = messages(member(0, 4), member(2, 4), minutes=SOON)[0]
    # On a busy machine rank 2 may be late as well.
    assert re.search(r"ranks 1,( 2,)? 3 of 4 did not join within 0\.2 s", first)
    assert "got no answer from rank 0" in messages(member(1), minutes=SOON)[0]


def test_nobody_serves_the_store() -> None:
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        cluster = ClusterEnvironment("env", 1, 2, port=busy.getsockname()[1])
        with pytest.raises(RankError, match=r"rank 1 could not reach rank 0 at 127\.0\.0\.1:\d+ within 0\.2 s"):
            connect(cluster, SOON, serve=False)
        busy.listen()
        with pytest.raises(RankError, match=r"rank 0 cannot serve 127\.0\.0\.1:\d+.*[Ss]et MASTER_PORT"):
            connect(replace(cluster, rank=0), 1.0, serve=True)


class Others:
    """Ranks of three that answer in this process."""

    def __init__(self) -> None:
        self.store = HashStore()
        self.ended = threading.Event()
        self.started: list[Peers] = []

    def start(self, rank: int) -> Peers:
        """A rank whose main thread is the one that calls this."""
        cluster = ClusterEnvironment("torchrun", rank, 3)
        self.started.append(Peers(self.store, [member(each, 3) for each in range(3)], cluster, 0.5))
        return self.started[-1]

    def stand_in(self, rank: int, module: str) -> None:
        """Starts a rank whose main thread stands in a function of some module."""
        ready = threading.Event()
        scope = {"__name__": module, "wait": self.ended.wait}
        exec("def read_slowly():\n    wait()", scope)

        def main() -> None:
            self.start(rank)
            ready.set()
            # Python code of the module, whatever it is.
            eval("read_slowly()", scope)

        threading.Thread(target=main).start()
        ready.wait()


@pytest.fixture
def others(monkeypatch: pytest.MonkeyPatch) -> Iterator[Others]:
    monkeypatch.setattr(peers, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(peers, "ANSWER_SECONDS", 2.0)
    ranks = Others()
    yield ranks
    ranks.ended.set()
    for each in ranks.started:
        each.close()


TIMED_OUT = RuntimeError("[gloo] Timed out waiting 30000ms for recv operation to complete")
CLOSED = RuntimeError("[gloo] Connection closed by peer [10.0.0.3]:4000")


def test_another_rank_failed(others: Others) -> None:
    first, second = others.start(0), others.start(1)
    second.report(UserError("run.dir /x cannot be written"))
    first.step = 4
    assert str(first.explain(CLOSED)).startswith(
        "rank 1 (host host1, process 101) failed: run.dir /x cannot be written. rank 0 (host host0, process 100) waited"
    )
    assert str(first.explain(CLOSED)).endswith(", step 4")


def test_another_rank_was_killed(others: Others) -> None:
    first = others.start(0)
    others.stand_in(1, "torch.distributed.fake")
    text = str(first.explain(CLOSED))
    assert "rank 2 (host host2, process 102) ended without a message: killed, out of memory" in text
    assert "rank 1" not in text


def test_another_rank_hangs(others: Others) -> None:
    first = others.start(0)
    others.stand_in(1, "torch.distributed.fake")
    others.stand_in(2, "somewhere.data")
    text = str(first.explain(TIMED_OUT))
    assert "rank 2 (host host2, process 102) did not take part within 30 s (train.collective_timeout): it is in" in text
    assert "somewhere.data.read_slowly, step 0" in text
    assert "rank 1" not in text
    # What the rank that hangs prints, before it is ended.
    (hanging,) = (each for each in others.started if each.rank == 2)
    assert str(hanging.explain(None)) == (
        "rank 2 (host host2, process 102) hangs in somewhere.data.read_slowly, step 0; the other ranks gave it up "
        "after 30 s (train.collective_timeout)"
    )


def test_all_ranks_wait(others: Others) -> None:
    first = others.start(0)
    for rank in (1, 2):
        others.stand_in(rank, "torch.distributed.fake")
    text = str(first.explain(TIMED_OUT))
    assert text.startswith("a collective did not end within 30 s (train.collective_timeout): rank 1 in ")


def test_the_store_is_lost(others: Others, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(*values: object) -> None:
        raise dist.DistNetworkError("Broken pipe")

    monkeypatch.setattr(others, "store", type("Lost", (), {"set": lost, "check": lost, "get": lost})())
    first = others.start(1)
    assert str(first.explain(CLOSED)).startswith("torchrun no longer answers: it was killed")


def test_errors_of_collectives_are_told_from_others() -> None:
    assert is_collective_error(CLOSED)
    assert is_collective_error(dist.DistBackendError("NCCL"))
    assert not is_collective_error(RuntimeError("shapes differ"))
    assert not is_collective_error(OSError("gloo"))


def test_code_has_a_digest() -> None:
    version, _, digest = peers.code_version()
    assert version == hrt_mm.__version__
    assert len(digest) == 16
