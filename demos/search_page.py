"""A search page over any index: ``python -m demos.search_page INDEX``. Type, draw, record or drop a file."""

from __future__ import annotations

import argparse
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from hrt_mm.cli.process import as_process, ending_on_sigterm
from hrt_mm.core.errors import Stopped, UserError
from hrt_mm.core.extras import needs_extra
from hrt_mm.data.capabilities import Lasting
from hrt_mm.retrieval.index import Index
from hrt_mm.retrieval.query import Query
from hrt_mm.retrieval.search import Searcher
from hrt_modalities.vision.images import read_image

from .answers import STYLE, note, page
from .uploads import ending_with_the_terminal, upload_folder

MAX_UPLOAD = 16 << 20
"""Bytes of an upload; larger ones are refused before they are kept."""
MAX_SECONDS = 60.0
"""Of a sound or a video."""
MAX_WAIT = 30.0
"""Seconds that an answer may take."""
MAX_WORDS = 2_000
"""Characters of a query."""
WHOLE = "whole"
"""What whole samples are called, beside the levels of pieces."""
MOST = 60
"""Answers that a page shows."""


def answer(
    searcher: Searcher, kind: str, query: str | Path | None, find: str | None, count: int, level: str = ""
) -> str:
    """The answers to a query as HTML; a message where it cannot be read.

    Args:
        searcher: index and model.
        kind: of the query.
        query: a text, or an uploaded file.
        find: the tower to search.
        count: answers at most.
        level: of the answers; whole samples when empty.
    """
    if query is None:
        return note(f"Give {kind} to search by.")
    if isinstance(query, Path) and query.is_file() and query.stat().st_size > MAX_UPLOAD:
        return note(f"The file has {query.stat().st_size >> 20} MB; a query may have {MAX_UPLOAD >> 20} MB.")
    if isinstance(query, str) and len(query) > MAX_WORDS:
        return note(f"The query has {len(query):,} characters; it may have {MAX_WORDS:,}.")
    try:
        if isinstance(query, Path) and (long := _too_long(searcher, kind, query)):
            return note(long)
        inside = 3 if searcher.index.levels else 0
        return page(
            searcher.search(Query.of(kind, query), max(1, min(int(count), MOST)), find=find, level=level, inside=inside)
        )
    except UserError as error:
        return note(_without_folder(f"This query cannot be read: {error}", query))


def _too_long(searcher: Searcher, kind: str, query: Path) -> str:
    """What is said of a file that lasts too long; its length is found before it is decoded."""
    if kind not in searcher.embedder.towers:
        return ""
    modality = searcher.embedder.modality(kind)
    seconds = modality.seconds(query) if issubclass(modality, Lasting) else 0.0
    if seconds <= MAX_SECONDS:
        return ""
    return f"The {kind} lasts {seconds:,.0f} s; a query may last {MAX_SECONDS:g} s: cut out the part that you look for."


class Patience:
    """Answers queries one after another, and tells those who would wait too long.

    A search that has begun cannot be stopped: it ends in its own time, and its answer is dropped.

    Args:
        searcher: index and model.
        seconds: that a query may wait.
    """

    def __init__(self, searcher: Searcher, seconds: float = MAX_WAIT) -> None:
        self.searcher, self.seconds = searcher, seconds
        self._worker = ThreadPoolExecutor(1)

    def answer(self, kind: str, query: str | Path | None, find: str | None, count: int, level: str = "") -> str:
        """The answers as :func:`answer` gives them, or a message that they take too long."""
        asked = self._worker.submit(answer, self.searcher, kind, query, find, count, level)
        if wait([asked], self.seconds).done:
            return asked.result()
        if asked.cancel():
            return note(f"Another query has been answered for more than {self.seconds:g} s; try again in a moment.")
        return note(f"The answer takes more than {self.seconds:g} s; try a shorter or a smaller query.")


def _without_folder(text: str, query: str | Path) -> str:
    """A message that does not say where uploads lie."""
    return text.replace(str(query.parent) + os.sep, "") if isinstance(query, Path) else text


def build(searcher: Searcher, title: str = "Search") -> Any:
    """The page, a ``gradio.Blocks``.

    Args:
        searcher: index and model.
        title: of the page.

    Raises:
        UserError: gradio is not installed.
    """
    with needs_extra("demo", "the search page"):
        import gradio

    towers = list(searcher.index.towers) or list(searcher.embedder.towers)
    with gradio.Blocks(title=title, analytics_enabled=False) as blocks:
        gradio.HTML(f"<style>{STYLE}</style>")
        gradio.Markdown(f"# {title}\n{_about(searcher)}")
        with gradio.Row():
            find = gradio.Radio(towers, value=searcher.answering(searcher.embedder.towers[-1]), label="find")
            levels = [WHOLE, *levels_of(searcher)]
            level = gradio.Radio(levels, value=WHOLE, label="as", visible=len(levels) > 1)
            count = gradio.Slider(1, MOST, value=12, step=1, label="answers")
        results_panel = gradio.HTML(label="answers", elem_id="found", render=False)

        patience = Patience(searcher)

        def ask(kind: str, file: bool) -> Callable[[Any, str, str, float], str]:
            def run(query: Any, find: str, level: str, count: float) -> str:
                try:
                    given = drawn(query) if isinstance(query, dict) else query
                except UserError as error:
                    return note(str(error))
                asked = Path(given) if file and given else given
                return patience.answer(kind, asked, find, int(count), "" if level == WHOLE else level)

            return run

        for kind in searcher.embedder.towers[::-1]:
            with gradio.Tab(kind), gradio.Row():
                for make, file in _boxes(gradio, kind):
                    with gradio.Column():
                        box = make()
                        button = gradio.Button("Search", variant="primary")
                    button.click(ask(kind, file), [box, find, level, count], results_panel, api_visibility="private")
                    if not file:
                        box.submit(ask(kind, file), [box, find, level, count], results_panel, api_name=kind)
        results_panel.render()
    blocks.queue(max_size=32, default_concurrency_limit=1)
    return blocks


def levels_of(searcher: Searcher) -> list[str]:
    """The levels whose pieces the index holds, coarse to fine, of all towers."""
    index_levels, embedder = searcher.index.levels, searcher.embedder
    levels = [level for tower in embedder.towers for level in embedder.levels(tower) if level in index_levels]
    return list(dict.fromkeys(levels))


def _boxes(gradio: Any, kind: str) -> list[tuple[Callable[[], Any], bool]]:
    """What makes the boxes that take queries of a kind, and whether those give files."""
    if kind == "text":
        words = {"placeholder": "black chess knight", "max_length": MAX_WORDS, "autofocus": True}
        return [(partial(gradio.Textbox, label="words", **words), False)]
    if kind == "image":
        upload = {"sources": ["upload", "clipboard"], "height": 300}
        # With its transparency: what is clear is put over white where it is read, in every version of gradio alike.
        canvas = {"canvas_size": (240, 240), "height": 300, "image_mode": "RGBA", "format": "png", "layers": False}
        return [
            (partial(gradio.Image, label="a picture", type="filepath", **upload), True),
            (partial(gradio.Sketchpad, label="or a drawing", type="filepath", **canvas), True),
        ]
    if kind == "audio":
        return [(partial(gradio.Audio, label="a sound", type="filepath", sources=["upload", "microphone"]), True)]
    return [(partial(gradio.File, label=f"a file of {kind}", type="filepath"), True)]


def drawn(canvas: Mapping[str, Any]) -> Path | None:
    """The picture that was drawn, as a file.

    Args:
        canvas: what a ``gradio.Sketchpad`` gives: files by ``background`` and ``composite``, and ``layers``, which the
            composite shows together.

    Returns:
        Nothing where there is no picture.

    Raises:
        BadSample: the file is no picture.
        UserError: nothing is drawn on it.
    """
    file = canvas.get("composite") or canvas.get("background")
    if not file:
        return None
    picture_CHW = read_image(Path(file), "the drawing")
    if picture_CHW.min() == picture_CHW.max():
        raise UserError("The drawing is empty: draw something, then search.")
    return Path(file)


def _about(searcher: Searcher) -> str:
    towers = ", ".join(f"{count:,} of {tower}" for tower, count in searcher.index.towers.items())
    return f"{towers}. Search by {' or '.join(searcher.embedder.towers)}."


@contextmanager
def serving(searcher: Searcher, title: str, *, port: int | None = None, browser: bool = False) -> Iterator[str]:
    """The page, on this machine alone, inside the ``with``. Uploads stay in a folder of their own, which goes with it.

    Args:
        searcher: index and model.
        title: of the page.
        port: where; the first free one from 7860 on when absent.
        browser: open a browser window.

    Yields:
        The address.
    """
    with upload_folder():
        blocks = build(searcher, title)
        try:
            _, address, _ = blocks.launch(
                server_name="127.0.0.1",
                server_port=port,
                max_file_size=MAX_UPLOAD,
                inbrowser=browser,
                prevent_thread_lock=True,
                show_error=False,
                footer_links=[],
            )
            yield str(address)
        finally:
            blocks.close()


def stay(searcher: Searcher, title: str, *, port: int | None = None) -> None:
    """Opens the page in a browser, and stays until Ctrl-C or SIGTERM, its normal end; uploads are gone then."""
    with (
        ending_on_sigterm(),
        ending_with_the_terminal(),
        suppress(KeyboardInterrupt, Stopped),
        serving(searcher, title, port=port, browser=True) as address,
    ):
        print(f"{address} (Ctrl-C ends it)")
        threading.Event().wait()


def main() -> int:
    """Serves an index."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("index", type=Path, help="an index that hrt-mm index build made")
    parser.add_argument("--run", type=Path, help="the run folder; the one that the index names when absent")
    parser.add_argument("--port", type=int)
    args = parser.parse_args()

    def run() -> int:
        stay(Searcher.of(Index(args.index), args.run), f"Search {args.index.name}", port=args.port)
        return 0

    return as_process(run)


if __name__ == "__main__":
    raise SystemExit(main())
