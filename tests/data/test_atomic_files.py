from __future__ import annotations

import errno
import multiprocessing
import os
import threading
import time
from collections.abc import Callable
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import pytest

from hrt_mm.core.errors import UserError
from hrt_mm.data.atomic_files import LOCK, check_replaceable, drafting, exclusive_lock

# Forked processes are ready at once.
_processes = multiprocessing.get_context("fork")


def in_processes(count: int, target: Callable[..., None], *args: Any) -> list[Any]:
    """What ``target(number, answers, *args)`` puts into the queue, over all processes."""
    answers = _processes.SimpleQueue()
    running = [_processes.Process(target=target, args=(number, answers, *args)) for number in range(count)]
    for process in running:
        process.start()
    for process in running:
        process.join(30)
        assert process.exitcode == 0
    return [answers.get() for _ in running]


def _enter_often(number: int, answers: Any, folder: Path) -> None:
    entered = met = 0
    while entered < 100:
        try:
            with exclusive_lock(folder, create=True):
                entered += 1
                try:
                    os.close(os.open(folder / "inside", os.O_CREAT | os.O_EXCL))
                except FileExistsError:
                    met += 1
                (folder / "inside").unlink(missing_ok=True)
        except UserError:
            time.sleep(0)
    answers.put(met)


def test_of_many_processes_one_at_a_time_is_in_a_folder(tmp_path: Path) -> None:
    assert in_processes(4, _enter_often, tmp_path / "folder") == [0] * 4


def _enter_late(held: Any, go: Event, end: Event, folder: Path) -> None:
    real = os.open

    def late(path: Any, *args: Any) -> int:
        descriptor = real(path, *args)
        held.put("opened")
        go.wait(20)
        return descriptor

    os.open = late  # type: ignore[assignment]
    with exclusive_lock(folder):
        held.put("holds")
        end.wait(20)


@pytest.mark.parametrize("renewed", [False, True])
def test_a_process_that_opened_the_lock_before_it_was_released_shares_it_with_no_one(
    tmp_path: Path, renewed: bool
) -> None:
    held, go, end = _processes.SimpleQueue(), _processes.Event(), _processes.Event()
    with exclusive_lock(tmp_path):
        process = _processes.Process(target=_enter_late, args=(held, go, end, tmp_path))
        process.start()
        assert held.get() == "opened"
        if renewed:
            # As when the whole folder is removed and made anew.
            (tmp_path / LOCK).unlink()
    go.set()
    if renewed:
        assert held.get() == "opened", "the file that it locked is no longer there, so it opens the new one"
    assert held.get() == "holds"
    with pytest.raises(UserError, match="is being written by another process"), exclusive_lock(tmp_path):
        pass
    end.set()
    process.join(30)
    with exclusive_lock(tmp_path):
        pass


def _try_to_enter(number: int, answers: Any, folder: Path) -> None:
    try:
        with exclusive_lock(folder):
            answers.put("entered")
    except UserError as error:
        answers.put(str(error))


def test_threads_of_one_process_exclude_each_other_and_do_not_lose_its_lock(tmp_path: Path) -> None:
    refused: list[str] = []

    def enter() -> None:
        try:
            with exclusive_lock(tmp_path):
                pass
        except UserError as error:
            refused.append(str(error))

    with exclusive_lock(tmp_path):
        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()
        assert len(refused) == 1
        (other,) = in_processes(1, _try_to_enter, tmp_path)
        assert "is being written" in other
    assert in_processes(1, _try_to_enter, tmp_path) == ["entered"]


def test_a_file_system_without_locks_is_no_other_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(os, "lockf", refuse)
    with pytest.raises(UserError, match=r"cannot be locked \(No locks available\); choose a folder on another disk"):
        exclusive_lock(tmp_path).__enter__()


def _draft_all(number: int, answers: Any, parent: Path) -> None:
    made = []
    for index in range(20):
        fails = 2
        while True:
            try:
                with drafting(parent / f"folder-{index}") as draft:
                    assert os.listdir(draft) == [LOCK]
                    for name in ("a", "b", "c"):
                        (draft / name).write_text(str(number))
                    if fails:
                        fails -= 1
                        raise KeyError("it does not come to an end")
                made.append(index)
                break
            except KeyError:
                continue
            except UserError as error:
                if "is there already" in str(error):
                    break
    answers.put((number, made))


def test_of_many_that_make_a_folder_one_does_and_it_is_whole(tmp_path: Path) -> None:
    makers = {index: number for number, made in in_processes(3, _draft_all, tmp_path) for index in made}
    assert sorted(makers) == list(range(20))
    assert sorted(entry.name for entry in tmp_path.iterdir()) == sorted(f"folder-{index}" for index in range(20))
    for index, number in makers.items():
        folder = tmp_path / f"folder-{index}"
        assert {entry.name: entry.read_text() for entry in folder.iterdir()} == dict.fromkeys("abc", str(number))


def test_what_is_no_file_where_one_will_be_written_is_named(tmp_path: Path) -> None:
    names = ("a", "b")
    check_replaceable(tmp_path, names)
    (tmp_path / "a").write_text("")
    check_replaceable(tmp_path, names)
    (tmp_path / "b").mkdir()
    with pytest.raises(UserError, match=r"/b is a folder, and a file of that name will be written; move it away"):
        check_replaceable(tmp_path, names)
    (tmp_path / "b").rmdir()
    os.mkfifo(tmp_path / "b")
    with pytest.raises(UserError, match=r"/b is a FIFO"):
        check_replaceable(tmp_path, names)
