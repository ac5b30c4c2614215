"""The page in a real headless Chromium, where Playwright and Chromium are installed."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from demos.search_page import serving
from hrt_mm.retrieval.index import Index
from hrt_mm.retrieval.search import Searcher

pytest.importorskip("gradio", reason="the extra demo is not installed")
sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed"),
    pytest.mark.filterwarnings("ignore"),
]


MICROPHONE = ["--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]
"""A microphone that beeps, and that pages may listen to."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", *MICROPHONE])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def page(searcher: Searcher, browser: Any) -> Iterator[Any]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    assert isinstance(searcher.index, Index)
    command = [sys.executable, "-m", "demos.search_page", str(searcher.index.folder), "--port", port]
    environment = os.environ | {"BROWSER": "true", "OMP_NUM_THREADS": "1"}
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    try:
        opened = _page(browser, f"http://127.0.0.1:{port}", server)
        opened.get_by_label("words").wait_for()
        yield opened
        opened.close()
    finally:
        server.terminate()
        try:
            assert server.wait(60) == 0
        finally:
            server.kill()


def _page(browser: Any, address: str, server: subprocess.Popen[bytes] | None = None) -> Any:
    page = browser.new_page(viewport={"width": 1100, "height": 900})
    # A loaded machine may need minutes; the time limit of the test ends what hangs.
    page.set_default_timeout(0)
    while True:
        try:
            page.goto(address)
            return page
        except sync_api.Error:
            assert server is None or server.poll() is None, "the server ended"
            time.sleep(0.5)


def test_typing_finds_pictures(page: Any, tmp_path: Path) -> None:
    page.get_by_label("words").fill("braille pattern dots-1245")
    page.get_by_label("words").press("Enter")
    page.locator(".answer img").first.wait_for()
    assert page.locator(".answer").count() == 12
    page.screenshot(path=tmp_path / "words.png")
    assert (tmp_path / "words.png").stat().st_size > 10_000


def test_a_picture_finds_words(page: Any, tmp_path: Path) -> None:
    Image.new("L", (50, 50), 255).save(tmp_path / "white.png")
    page.get_by_role("tab", name="image").click()
    page.get_by_label("text", exact=True).check()
    page.locator("input[type=file]").first.set_input_files(tmp_path / "white.png")
    page.locator("img:visible").first.wait_for()
    page.get_by_role("button", name="Search").locator("visible=true").first.click()
    page.wait_for_function("document.querySelectorAll('.answer').length && !document.querySelector('.answer img')")
    assert "braille pattern" in page.locator(".answer").first.inner_text()
    page.screenshot(path=tmp_path / "picture.png")


def test_a_drawing_finds_words(page: Any, tmp_path: Path) -> None:
    page.reload()
    page.get_by_role("tab", name="image").click()
    page.get_by_label("text", exact=True).check()
    canvas = page.locator("canvas:visible").first
    canvas.wait_for()
    page.get_by_role("button", name="Brush", exact=True).click()
    page.wait_for_timeout(2000)
    box = canvas.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 3)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] * 2 / 3, steps=10)
    page.mouse.up()
    page.wait_for_timeout(2000)
    page.screenshot(path=tmp_path / "drawn.png")
    page.get_by_role("button", name="Search").locator("visible=true").nth(1).click()
    page.locator(".answer, .note").first.wait_for()
    assert page.locator(".note").count() == 0, page.locator(".note").inner_text()
    assert "braille pattern" in page.locator(".answer").first.inner_text()


def test_a_sound_that_is_recorded_finds_sounds(sounds: Searcher, browser: Any, tmp_path: Path) -> None:
    with serving(sounds, "Sounds") as address:
        page = _page(browser, address)
        page.get_by_role("tab", name="audio").click()
        page.get_by_label("Record audio").click()
        page.get_by_role("button", name="Record", exact=True).click()
        page.wait_for_timeout(2500)
        page.get_by_role("button", name="Stop", exact=True).locator("visible=true").click()
        page.wait_for_timeout(2500)
        page.screenshot(path=tmp_path / "recorded.png")
        page.get_by_role("button", name="Search").locator("visible=true").first.click()
        page.locator(".answer, .note").first.wait_for()
        assert page.locator(".answer audio").count() == 4, page.locator(".note").inner_text()
        page.close()


def test_an_upload_that_is_no_picture_or_too_large_gets_a_message(page: Any, tmp_path: Path) -> None:
    (tmp_path / "notes.png").write_text("no picture")
    with (tmp_path / "large.png").open("wb") as file:
        file.truncate(80 << 20)
    for name in ("notes.png", "large.png"):
        page.reload()
        page.get_by_role("tab", name="image").click()
        page.locator("input[type=file]").first.set_input_files(tmp_path / name)
        page.wait_for_timeout(2500)
        page.get_by_role("button", name="Search").locator("visible=true").first.click()
        page.locator(".note, .toast-body, .error").first.wait_for()
        page.screenshot(path=tmp_path / f"{name}.png")
        assert page.locator(".answer").count() == 0
