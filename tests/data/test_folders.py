from __future__ import annotations

import logging
import os
import socket
from pathlib import Path

import pytest

from hrt_mm.core.errors import BadSample, ConfigError
from hrt_mm.data.files import Home, check_regular, nearly, shown
from hrt_mm.data.folders import hidden, walk


def put(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


def test_files_come_in_order_by_suffix_in_any_case(tmp_path: Path) -> None:
    put(tmp_path, "b/2.PNG", "b/deep/1.png", "a.png", "b/1.png", "b/3.txt", "c.Jpg", "b/.png")
    result = walk(tmp_path, {".png", ".jpg"})
    assert result.files == ["a.png", "c.Jpg", "b/1.png", "b/2.PNG", "b/deep/1.png"]
    assert (result.folders, result.unread, result.hidden) == (["b", "b/deep"], ["b/3.txt"], 1)
    assert walk(tmp_path).files == ["a.png", "c.Jpg", "b/1.png", "b/2.PNG", "b/3.txt", "b/deep/1.png"]


@pytest.mark.parametrize(
    "name",
    [
        "._1.png", ".DS_Store", "Thumbs.db", "THUMBS.DB", "desktop.ini", "__MACOSX/1.png", ".ipynb_checkpoints/1.png",
        "@eaDir/1.png", "lost+found/1.png", "$RECYCLE.BIN/1.png", "System Volume Information/1.png", ".git/1.png",
        "__pycache__/1.png", "1.png~",
    ],
)  # fmt: skip
def test_hidden_and_system_files_are_left_out(tmp_path: Path, name: str) -> None:
    put(tmp_path, "a/1.png", name, f"a/{name}")
    result = walk(tmp_path)
    assert (result.files, result.folders, result.hidden) == (["a/1.png"], ["a"], 2)
    assert not result.left_out
    assert hidden(name.split("/")[0])


def test_links_that_lead_upwards_in_circles_or_nowhere_are_named(tmp_path: Path) -> None:
    root = put(tmp_path / "root", "a/1.png", "b/2.png")
    (root / "a" / "up").symlink_to("..")
    (root / "a" / "above").symlink_to(tmp_path)
    (root / "a" / "self").symlink_to(".")
    (root / "a" / "other").symlink_to("../b")
    (root / "b" / "other").symlink_to("../a")
    (root / "loop.png").symlink_to("loop.png")
    (root / "gone.png").symlink_to("nowhere.png")
    result = walk(root, {".png"}, follow_links=True)
    assert result.files == ["a/1.png", "b/2.png"]
    reasons = {item.name: item.reason for item in result.left_out}
    assert sorted(reasons) == ["a/above", "a/other", "a/self", "a/up", "b/other", "gone.png", "loop.png"]
    assert all("leads upwards" in reasons[f"a/{name}"] for name in ("up", "above", "self"))
    assert "read already" in reasons["a/other"] and "broken link" in reasons["gone.png"]
    assert "broken link" in reasons["loop.png"]


def test_many_folders_that_link_to_each_other_are_read_once(tmp_path: Path) -> None:
    outside, root = tmp_path / "outside", tmp_path / "root"
    for index in range(12):
        put(outside, f"{index}/{index}.png")
        for other in range(12):
            (outside / str(index) / f"to{other}").symlink_to(outside / str(other))
    put(root, "a/1.png")
    (root / "b").symlink_to(outside / "0")
    assert len(walk(root, {".png"}, follow_links=True).files) == 13
    closed = walk(root, {".png"})
    assert closed.files == ["a/1.png"]
    assert "data.follow_links: true" in closed.left_out[0].reason


def test_a_link_to_a_folder_inside_is_followed_and_files_that_are_links_count(tmp_path: Path) -> None:
    root = put(tmp_path / "root", ".store/cat/1.png", "dog/2.png")
    (root / "cat").symlink_to(".store/cat")
    (root / "dog" / "3.png").symlink_to("../.store/cat/1.png")
    assert walk(root, {".png"}).files == ["cat/1.png", "dog/2.png", "dog/3.png"]


def test_pipes_sockets_and_devices_are_named_and_never_opened(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = put(tmp_path / "root", "a/1.png")
    os.mkfifo(root / "a" / "2.png")
    (root / "a" / "3.png").symlink_to("/dev/zero")
    here = socket.socket(socket.AF_UNIX)
    try:
        here.bind(os.path.relpath(root / "a" / "4.png"))
        result = walk(root, {".png"})
    finally:
        here.close()
    assert result.files == ["a/1.png"]
    assert [item.reason for item in result.left_out] == ["a FIFO", "a link to a character device", "a socket"]
    with caplog.at_level(logging.WARNING):
        result.warn(logging.getLogger("x"), "data.root r")
        result.warn(logging.getLogger("x"), "data.root r")
    assert caplog.text.count("data.root r: left out a/2.png (a FIFO), a/3.png") == 1
    for name, kind in (("2.png", "is a FIFO, not a file"), ("3.png", "device"), ("4.png", "socket")):
        with pytest.raises(BadSample, match=kind):
            check_regular(root / "a" / name, name)
    with pytest.raises(BadSample, match="is a folder, not a file"):
        check_regular(root, "root")


def test_names_that_are_not_utf8_can_be_opened_and_printed(tmp_path: Path) -> None:
    raw = os.fsencode(tmp_path) + b"/caf\xe9"
    os.mkdir(raw)
    with open(raw + b"/\xff.png", "wb") as file:
        file.write(b"x")
    (name,) = walk(tmp_path, {".png"}).files
    assert Home(tmp_path).path(name).read_bytes() == b"x"
    assert shown(name) == "caf\\xe9/\\xff.png"
    assert str(BadSample(name, "is bad")) == "caf\\xe9/\\xff.png: is bad"
    assert str(ConfigError(f"{name} is bad")).encode() == b"caf\\xe9/\\xff.png is bad"
    assert shown("a\nb\x1b[31m") == "a\\x0ab\\x1b[31m"


@pytest.mark.parametrize("name", ["a\ud800.png", "\0", "x" * 300, "loop", "loop/1.png"])
def test_names_that_no_file_can_have_are_bad_samples_or_missing(tmp_path: Path, name: str) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises((BadSample, OSError)) as caught:
        Home(tmp_path).path(name).read_bytes()
    str(caught.value).encode()


def test_links_out_of_a_home(tmp_path: Path) -> None:
    put(tmp_path, "root/1.png", "secret.png")
    (tmp_path / "root" / "2.png").symlink_to(tmp_path / "secret.png")
    home = Home(tmp_path / "root")
    assert home.path("1.png").is_file()
    with pytest.raises(BadSample, match=r"2.png: a link leads out of .*data.follow_links: true"):
        home.path("2.png")
    with pytest.raises(BadSample, match="leads out"):
        home.path("../secret.png")
    assert Home(tmp_path / "root", follow_links=True).path("2.png").read_bytes() == b"x"


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("img\\Cat\\1.png", "'img/Cat/1.png' is there: paths use / here"),
        ("img/cat/1.PNG", "'img/Cat/1.png' is there: upper and lower case differ"),
        ("img/caf\u0065\u0301.png", "'img/caf\u00e9.png' is there: it is written in another Unicode form"),
        (" img/Cat/1.png ", "spaces around it"),
        ("img\\cat\\1.png", "'img/Cat/1.png' is there"),
        ("img/Cat/2.png", ""),
        ("nowhere/1.png", ""),
        ("", ""),
    ],
)
def test_a_hint_where_a_path_is_nearly_right(tmp_path: Path, name: str, hint: str) -> None:
    put(tmp_path, "img/Cat/1.png", "img/caf\u00e9.png")
    assert hint in nearly(tmp_path, name)
    assert bool(nearly(tmp_path, name)) == bool(hint)
    if hint:
        with pytest.raises(BadSample) as caught:
            Home(tmp_path).path(name)
        assert hint in str(caught.value)


def test_a_folder_that_cannot_be_listed(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere cannot be listed"):
        walk(tmp_path / "nowhere")
