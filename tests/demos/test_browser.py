"""The page in a real headless Chromium, where Playwright and Chromium are installed."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from demos.search_page import serving
from hrt_mm.retrieval.index import Index
from hrt_mm.retrieval.search import Searcher
from tests.modalities.video.films import film

pytest.importorskip("starlette", reason="the extra demo is not installed")
sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed"),
    pytest.mark.filterwarnings("ignore"),
]

MICROPHONE = ["--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]
"""A microphone that beeps, and that pages may listen to."""
HEARD = """async () => {
  const stream = await navigator.mediaDevices.getUserMedia({audio: true});
  const context = new AudioContext();
  const analyser = new AnalyserNode(context, {fftSize: 32768});
  context.createMediaStreamSource(stream).connect(analyser);
  const samples = new Float32Array(analyser.fftSize);
  do {
    await new Promise((resolve) => setTimeout(resolve, 10));
    analyser.getFloatTimeDomainData(samples);
  } while (samples.every((sample) => Math.abs(sample) < 0.01));
  await context.close();
}"""
"""Waits until the microphone has beeped."""
PHONE = {"width": 390, "height": 844}

CONTRASTS = """() => {
  const channels = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([red, green, blue]) => [red, green, blue].map((value) => value / 255)
    .map((value) => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4)
    .reduce((sum, value, index) => sum + value * [0.2126, 0.7152, 0.0722][index], 0);
  const behind = (node) => {
    for (; node; node = node.parentElement) {
      const colour = channels(getComputedStyle(node).backgroundColor);
      if (colour.length < 4 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  const found = [];
  for (const node of document.querySelectorAll("h1, h2, h3, p, dt, dd, button, summary, label, input, .symbol")) {
    if (!node.checkVisibility() || !node.textContent.trim()) continue;
    const pair = [light(channels(getComputedStyle(node).color)), light(behind(node))].sort((one, other) => other - one);
    found.push([(pair[0] + 0.05) / (pair[1] + 0.05), node.tagName + " " + node.textContent.trim().slice(0, 30)]);
  }
  return found.sort((one, other) => one[0] - other[0]);
}"""
"""The contrast ratio of each visible text with what lies behind it (WCAG 2.2), the lowest first."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", *MICROPHONE])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def address(searcher: Searcher) -> Iterator[str]:
    with serving(searcher, "Braille", examples=["dots-12", "dots-1245"]) as address:
        yield address


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    yield opened(context, address)
    context.close()


def opened(context: Any, address: str) -> Any:
    page = context.new_page()
    # A loaded machine may need minutes; the time limit of the test ends what hangs.
    page.set_default_timeout(0)
    page.errors = []
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    page.on("console", lambda message: message.type == "error" and page.errors.append(message.text))
    page.goto(address)
    page.get_by_role("tab", name="Words").wait_for()
    return page


def ask(page: Any, words: str) -> Any:
    page.get_by_label("Words to search by").fill(words)
    page.get_by_label("Words to search by").press("Enter")
    return answers(page)


def answers(page: Any) -> Any:
    page.locator("#answers > li, #error:visible").first.wait_for()
    return page.locator("#answers > li")


def test_words_find_symbols_below_the_question(page: Any) -> None:
    shown = ask(page, "braille pattern dots-1245")
    assert shown.count() == 24
    heading = page.get_by_role("heading", name="Answers to “braille pattern dots-1245”")
    assert heading.bounding_box()["y"] < shown.first.bounding_box()["y"]
    symbol = shown.first.locator(".symbol")
    assert len(symbol.inner_text()) == 1
    assert symbol.evaluate("node => parseFloat(getComputedStyle(node).fontSize)") > 60
    assert page.evaluate("document.fonts.check('84px \"Symbols Sans\"', '⠛')")
    assert shown.first.locator("dt").all_inner_texts()[:1] == ["code"]
    assert page.get_by_role("status").inner_text().startswith("24 answers, and more")
    assert page.errors == []


def test_answers_go_when_the_question_changes(page: Any) -> None:
    assert ask(page, "dots-12").count() == 24
    page.get_by_label("Words to search by").fill("dots-123")
    assert page.locator("#answers > li").count() == 0
    assert page.locator("#results").is_hidden()
    assert page.get_by_role("status").inner_text() == ""


def test_symbols_are_copied(page: Any) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    shown = ask(page, "dots-12")
    shown.first.get_by_role("button", name="Copy").click()
    page.get_by_text("Copied", exact=True).wait_for()
    assert page.evaluate("navigator.clipboard.readText()") == shown.first.locator(".symbol").inner_text()


def test_similar_answers_and_more_of_them(page: Any) -> None:
    shown = ask(page, "dots-12")
    title = shown.first.locator("h3").inner_text()
    shown.first.get_by_role("button", name="Similar").click()
    page.get_by_role("heading", name=f"Similar to {title}").wait_for()
    answers(page)
    assert title not in page.locator("#answers h3").all_inner_texts()
    page.get_by_role("button", name="More answers").click()
    page.locator("#answers > li").nth(47).wait_for()
    titles = page.locator("#answers h3").all_inner_texts()
    assert len(set(titles)) == 48
    # The keyboard goes on at the first of the new answers.
    assert (
        page.evaluate("[...document.querySelectorAll('#answers > li')].indexOf(document.activeElement.closest('li'))")
        == 24
    )


def test_examples_of_the_index_are_asked_by_a_click(page: Any) -> None:
    assert page.locator("#texts .chip").all_inner_texts() == ["dots-12", "dots-1245"]
    page.get_by_role("button", name="dots-1245", exact=True).click()
    assert answers(page).count() == 24
    page.reload()
    page.locator(".chip.picture").first.click()
    page.get_by_role("heading", name="Similar to braille pattern").wait_for()
    assert answers(page).count() == 24


def test_filters_leave_answers_out_and_are_explained(page: Any) -> None:
    page.locator("summary").click()
    page.get_by_label("Filter over").fill("code=U+2801")
    shown = ask(page, "dots-12")
    assert shown.count() == 1
    assert "code=U+2801" in page.locator("#question").inner_text()
    for wrong, message in (("colour=red", "no row has a column 'colour'"), ("code=", "expected a value")):
        page.get_by_label("Filter over").fill(wrong)
        page.get_by_label("Filter over").press("Enter")
        page.get_by_role("alert").filter(has_text=message).wait_for()
        assert page.locator("#answers > li").count() == 0


def test_a_picture_finds_pictures_and_words_on_demand(page: Any, tmp_path: Path) -> None:
    Image.new("L", (50, 50), 255).save(tmp_path / "white.png")
    page.get_by_role("tab", name="Picture").click()
    page.locator("#panel-image input[type=file]").set_input_files(tmp_path / "white.png")
    page.locator("#panel-image .drop img").wait_for()
    page.locator("#panel-image").get_by_role("button", name="Search").click()
    assert answers(page).count() == 24
    page.get_by_role("heading", name="Answers to white.png").wait_for()
    # White is the pattern without dots.
    assert page.locator("#answers h3").first.inner_text() == "braille pattern blank"
    page.locator("summary").click()
    assert page.locator("#find option").first.inner_text() == "automatic (image)"
    page.get_by_label("Find").select_option("text")
    page.get_by_role("heading", name="Answers to white.png · find text").wait_for()
    assert answers(page).count() == 24


def test_a_drawing_finds_symbols(page: Any) -> None:
    page.get_by_role("tab", name="Drawing").click()
    panel = page.locator("#panel-drawing")
    panel.get_by_role("button", name="Search").click()
    page.get_by_role("alert").filter(has_text="The pad is empty").wait_for()
    box = panel.locator("canvas").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 3)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] * 2 / 3, steps=10)
    page.mouse.up()
    ink = "canvas => canvas.getContext('2d').getImageData(240, 240, 1, 1).data[0]"
    assert panel.locator("canvas").evaluate(ink) < 50
    assert page.get_by_role("alert").is_hidden()
    panel.get_by_role("button", name="Search").click()
    assert answers(page).count() == 24
    panel.get_by_role("button", name="Undo").click()
    assert panel.locator("canvas").evaluate(ink) == 255
    assert page.locator("#answers > li").count() == 0


def test_words_for_every_error(page: Any, tmp_path: Path) -> None:
    page.get_by_label("Words to search by").press("Enter")
    page.get_by_role("alert").filter(has_text="Type something to search by").wait_for()
    assert ask(page, "dots-12").count() == 24
    ask(page, "x" * 10_500)
    page.get_by_role("alert").filter(has_text="has 10,500 characters; it may have 2,000").wait_for()
    assert page.locator("#answers > li").count() == 0
    (tmp_path / "notes.png").write_text("no picture")
    (tmp_path / "empty.png").touch()
    with (tmp_path / "large.png").open("wb") as file:
        file.truncate(80 << 20)
    page.get_by_role("tab", name="Picture").click()
    for name, message in (
        ("notes.png", "notes.png: not an image that can be read"),
        ("empty.png", "empty.png is empty"),
        ("large.png", "it may have 16 MB"),
    ):
        page.locator("#panel-image input[type=file]").set_input_files(tmp_path / name)
        page.locator("#panel-image").get_by_role("button", name="Search").click()
        page.get_by_role("alert").filter(has_text=message).wait_for()
        assert page.locator("#answers > li").count() == 0


def test_the_keyboard_reaches_everything(page: Any) -> None:
    page.get_by_role("tab", name="Words").focus()
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.id") == "tab-image"
    assert page.locator("#panel-image").is_visible()
    page.keyboard.press("ArrowLeft")
    ask(page, "dots-12")
    reached = set()
    for _ in range(12):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.textContent"))
    assert {"Search", "Options", "Copy", "Similar"} <= reached


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_answers_on_its_first_screen(browser: Any, address: str, scheme: str) -> None:
    context = browser.new_context(viewport=PHONE, color_scheme=scheme, has_touch=True, is_mobile=True)
    page = opened(context, address)
    low = [page.evaluate(CONTRASTS)[0]]
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    shown = ask(page, "braille pattern dots-1245")
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    box = shown.first.bounding_box()
    assert box["y"] + box["height"] / 2 < PHONE["height"]
    page.locator("summary").click()
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    low.append(page.evaluate(CONTRASTS)[0])
    assert min(low)[0] >= 4.5, min(low)
    context.close()


def test_a_sound_that_is_recorded_finds_sounds(sounds: Searcher, browser: Any) -> None:
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    with serving(sounds, "Sounds") as address:
        page = context.new_page()
        page.set_default_timeout(0)
        page.goto(address)
        page.get_by_role("tab", name="Sound").click()
        page.get_by_role("button", name="Record").click()
        page.get_by_role("button", name="Stop").wait_for()
        page.evaluate(HEARD)
        page.get_by_role("button", name="Stop").click()
        page.get_by_role("button", name="Record again").wait_for()
        page.locator("#panel-audio").get_by_role("button", name="Search").click()
        page.locator("#answers > li").first.wait_for()
        assert page.locator("#answers audio").count() == 4
    context.close()


def test_films_have_posters_and_moments_to_click(films: Searcher, browser: Any, tmp_path: Path) -> None:
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    query = film(tmp_path / "query.mp4", 8, size=(64, 64), rate=8)
    with serving(films, "Films") as address:
        page = context.new_page()
        page.set_default_timeout(0)
        page.goto(address)
        page.get_by_role("tab", name="Film").click()
        page.locator("#panel-video input[type=file]").set_input_files(query)
        page.locator("#panel-video").get_by_role("button", name="Search").click()
        card = page.locator("#answers > li").first
        card.wait_for()
        poster = page.request.get(f"{address}/{card.locator('video').get_attribute('poster')}")
        assert poster.ok and poster.headers["content-type"] == "image/jpeg"
        moments = card.locator(".moments button")
        assert moments.count() == card.locator(".track button").count() == 3
        seconds = re.fullmatch(r"tubes (\d\.\d).(\d\.\d) s", moments.first.inner_text())
        assert seconds is not None
        start = card.locator("video").evaluate("""(video) => new Promise((resolve) => {
            video.addEventListener("seeked", () => resolve(video.currentTime), {once: true});
            document.querySelector(".moments button").click();
        })""")
        assert f"{start:.1f}" == seconds[1]
        # Marks lie within the time line.
        track, mark = (card.locator(name).first.bounding_box() for name in (".track", ".track button"))
        assert track["x"] <= mark["x"] <= track["x"] + track["width"]
    context.close()


def test_an_index_and_a_server_that_are_gone_are_told(searcher: Searcher, browser: Any, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    assert isinstance(searcher.index, Index)
    index = tmp_path / "index"
    shutil.copytree(searcher.index.folder, index)
    command = [sys.executable, "-m", "demos.search_page", str(index), "--port", port]
    environment = os.environ | {"BROWSER": "true", "OMP_NUM_THREADS": "1"}
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment, text=True)
    try:
        assert server.stdout is not None
        assert f"http://127.0.0.1:{port}" in server.stdout.readline()
        context = browser.new_context()
        page = opened(context, f"http://127.0.0.1:{port}")
        assert ask(page, "dots-12").count() == 24
        index.rename(tmp_path / "elsewhere")
        assert ask(page, "dots-123").count() == 0
        assert f"{index} is gone" in page.get_by_role("alert").inner_text()
        (tmp_path / "elsewhere").rename(index)
        assert ask(page, "dots-12").count() == 24
        server.terminate()
        assert server.wait() == 0
        page.get_by_label("Words to search by").press("Enter")
        page.get_by_role("alert").filter(has_text="The server does not answer").wait_for()
        assert page.locator("#answers > li").count() == 0
        # Nothing but the address was printed.
        assert server.stdout.read() == ""
        context.close()
    finally:
        server.kill()
        server.wait()
        assert server.stdout is not None
        server.stdout.close()
