"""A search page over any index: ``python -m demos.search_page INDEX``. Type, draw, record or drop a file."""

from __future__ import annotations

import argparse
import re
import socket
import tempfile
import threading
import time
import webbrowser
from asyncio import to_thread
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hrt_mm.cli.process import as_process, ending_on_sigterm
from hrt_mm.core.errors import Stopped, UserError
from hrt_mm.core.extras import needs_extra
from hrt_mm.data.capabilities import Lasting, Textual
from hrt_mm.retrieval.index import Index
from hrt_mm.retrieval.query import MAX_TEXT, MODALITIES, Query
from hrt_mm.retrieval.search import Searcher
from hrt_modalities.joint.fonts import FONTS, font_path

from .answers import answers
from .doubts import describes, notice
from .examples import Sampled, is_text
from .media import Media
from .uploads import ending_with_the_terminal, upload_folder

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request

Application = Callable[[Any, Any, Callable[[Any], Awaitable[None]]], Awaitable[None]]
"""See the ASGI specification."""

MAX_UPLOAD = 16 << 20
"""Bytes of an upload; larger ones are refused before they are kept."""
MAX_SECONDS = 60.0
"""Of a sound or a video."""
MAX_WAIT = 30.0
"""Seconds that an answer may take."""
PAGE = 24
"""Answers at a time."""
MOST = 2_000
"""Answers to one question that can be paged through."""
INSIDE = 3
"""Pieces that are marked within an answer."""
FIRST_PORT = 7860
"""The first free port from here on is used if none is given."""
STATIC = Path(__file__).with_name("page")
KEEP = {"Cache-Control": "private, max-age=3600"}
NUMBER = re.compile(r"\d{1,7}(\.\d{1,6})?", re.ASCII)
SUFFIX = re.compile(r"\.\w{1,8}", re.ASCII)
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; font-src 'self'; connect-src 'self'; "
        "img-src 'self' blob:; media-src 'self' blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


@dataclass(frozen=True)
class Question:
    """What a page asks.

    Args:
        tower: that reads the query, or of the row that others are to be similar to.
        source: a text, or an uploaded file.
        like: id of a row of the index to find similar ones to, instead.
        find: the tower to search; another one than the query's if absent.
        level: of the answers; whole samples if empty.
        where: a filter over the rows' texts.
        offset: answers that are on the page already.
        count: answers at most.
        name: what the file is called.
    """

    tower: str
    source: str | Path | None = None
    like: str = ""
    find: str | None = None
    level: str = ""
    where: str = ""
    offset: int = 0
    count: int = PAGE
    name: str = ""


def answer(searcher: Searcher, media: Media, question: Question, *, described: bool = False) -> dict[str, Any]:
    """The answers to a question, JSON-serializable.

    Args:
        searcher: index and model.
        media: takes the files that the page may load.
        question: to answer.
        described: whether the texts of rows are descriptions, so that words that match none of them are doubtful.

    Raises:
        UserError: the question cannot be read, is too large, or asks for what the index does not have.
    """
    count = max(1, min(question.count, PAGE))
    offset = max(0, min(question.offset, MOST - count))
    doubtful = described and not question.like and isinstance(question.source, str)
    if question.like:
        results = searcher.similar(
            question.like,
            count + 1,
            tower=question.tower,
            find=question.find,
            level=question.level,
            offset=offset,
            where=question.where.strip() or None,
        )
    else:
        source = _checked(searcher, question)
        try:
            results = searcher.search(
                Query.of(question.tower, source),
                count + 1,
                find=question.find or answering(searcher, question.tower),
                level=question.level,
                inside=INSIDE if searcher.index.levels else 0,
                offset=offset,
                where=question.where.strip() or None,
            )
        except UserError as error:
            raise UserError(_with_name(str(error), question)) from error
    return {
        "answers": answers(results[:count], searcher.index, media, offset + 1),
        "offset": offset,
        "more": len(results) > count and offset + count < MOST,
        "find": results.tower,
        "notice": notice(results) if doubtful and not offset else "",
    }


def _checked(searcher: Searcher, question: Question) -> str | Path:
    """The source of a question, if it may be searched for.

    Raises:
        UserError: there is none, or it is too large or too long.
    """
    source = question.source
    if source is None or (isinstance(source, str) and not source.strip()):
        raise UserError("There is no question yet: type, draw or choose something to search by.")
    if isinstance(source, str) and len(source) > MAX_TEXT:
        raise UserError(f"The question has {len(source):,} characters; it may have {MAX_TEXT:,}: shorten it.")
    if isinstance(source, Path) and source.is_file():
        if source.stat().st_size == 0:
            raise UserError(f"{question.name or 'The file'} is empty.")
        if (seconds := _seconds(searcher, question.tower, source)) > MAX_SECONDS:
            raise UserError(
                f"The {question.tower} lasts {seconds:,.0f} s; a question may last {MAX_SECONDS:g} s: cut out the part "
                "that you look for."
            )
    return source


def _seconds(searcher: Searcher, tower: str, source: Path) -> float:
    """How long a file lasts, which is read before it is decoded."""
    modality = searcher.embedder.modality(tower)
    return modality.seconds(source) if issubclass(modality, Lasting) else 0.0


def _with_name(message: str, question: Question) -> str:
    """A message that calls an upload by its own name, not by that of its copy."""
    if not isinstance(question.source, Path):
        return message
    name = question.name or "the file"
    return message.replace(str(question.source), name).replace(question.source.name, name)


class Patience:
    """Answers questions one after another, and tells those who would wait too long.

    A search that has begun cannot be stopped: it ends in its own time, and its answer is dropped.

    Args:
        searcher: index and model.
        media: takes the files that the page may load.
        seconds: that a question may wait.
        described: as in :func:`answer`.
    """

    def __init__(self, searcher: Searcher, media: Media, seconds: float = MAX_WAIT, *, described: bool = False) -> None:
        self.searcher, self.media, self.seconds = searcher, media, seconds
        self._answer = partial(answer, described=described)
        self._worker = ThreadPoolExecutor(1, "search")

    def answer(self, question: Question) -> dict[str, Any]:
        """The answers as :func:`answer` gives them. An upload is removed once it was read.

        Raises:
            UserError: as :func:`answer`.
            TimeoutError: the answer takes too long; says what helps.
        """
        future = self._worker.submit(self._answer, self.searcher, self.media, question)
        if isinstance(question.source, Path):
            upload = question.source
            future.add_done_callback(lambda done: upload.unlink(missing_ok=True))
        if wait([future], self.seconds).done:
            return future.result()
        if future.cancel():
            raise TimeoutError(f"Another question has taken more than {self.seconds:g} s; try again in a moment.")
        raise TimeoutError(f"The answer takes more than {self.seconds:g} s; try a shorter or a smaller question.")


def answering(searcher: Searcher, tower: str) -> str:
    """The tower that answers queries of a tower unless one is chosen.

    Words find what is not text. A picture finds pictures where there is nothing but text beside them.
    """
    towers = [name for name in searcher.index.towers if name in searcher.embedder.towers]
    others = [name for name in towers if name != tower and not is_text(searcher, name)]
    if others:
        return others[0]
    return tower if tower in towers else searcher.answering(tower)


def about(searcher: Searcher, media: Media, title: str, examples: Sequence[str], sampled: Sampled) -> dict[str, Any]:
    """What the page shows before the first question, JSON-serializable.

    Args:
        searcher: index and model.
        media: takes the files of examples.
        title: of the page.
        examples: questions to click; chosen from the index if there are none.
        sampled: rows of the index.
    """
    embedder = searcher.embedder
    kinds = {modality: kind for kind, modality in MODALITIES.items()}
    towers = []
    for tower in sorted(embedder.towers, key=lambda name: not issubclass(embedder.modality(name), Textual)):
        suffixes = embedder.suffixes(tower)[0]
        kind = kinds.get(embedder.modality(tower).name, "file")
        find = answering(searcher, tower)
        towers.append({"name": tower, "kind": kind, "suffixes": sorted(suffixes or ()), "find": find})
    levels = [level for tower in embedder.towers for level in embedder.levels(tower) if level in searcher.index.levels]
    return {
        "title": title,
        "towers": towers,
        "rows": searcher.index.towers,
        "levels": list(dict.fromkeys(levels)),
        "columns": sampled.columns(),
        "examples": list(examples) or sampled.questions(searcher),
        "pictures": sampled.pictures(media),
        "limits": {"bytes": MAX_UPLOAD, "characters": MAX_TEXT},
    }


def build(searcher: Searcher, title: str, folder: Path, examples: Sequence[str] = ()) -> Starlette:
    """The page with what it asks for, as an application.

    Args:
        searcher: index and model.
        title: of the page.
        folder: takes uploads until they are answered.
        examples: questions to click; chosen from the index if there are none.

    Raises:
        UserError: Starlette is not installed.
    """
    with needs_extra("demo", "the search page"):
        from starlette.applications import Starlette
        from starlette.exceptions import HTTPException
        from starlette.middleware import Middleware
        from starlette.middleware.trustedhost import TrustedHostMiddleware
        from starlette.responses import FileResponse, JSONResponse, Response
        from starlette.routing import Mount, Route
        from starlette.staticfiles import StaticFiles

    media = Media()
    sampled = Sampled.of(searcher)
    patience = Patience(searcher, media, described=describes(sampled.hits))
    facts = about(searcher, media, title, examples, sampled)

    async def search(request: Request) -> Response:
        try:
            question = await _question(request, searcher, folder)
            return JSONResponse(await to_thread(patience.answer, question))
        except UserError as error:
            return JSONResponse({"error": str(error)}, 422)
        except TimeoutError as error:
            return JSONResponse({"error": str(error)}, 503)

    def load(request: Request) -> Response:
        if (entry := media.file(request.path_params["token"])) is None:
            raise HTTPException(404)
        return FileResponse(entry[0], media_type=entry[1], headers=KEEP)

    def poster(request: Request) -> Response:
        at = request.query_params.get("at", "0")
        data = media.poster(request.path_params["token"], float(at)) if NUMBER.fullmatch(at) else None
        if data is None:
            raise HTTPException(404)
        return Response(data, media_type="image/jpeg", headers=KEEP)

    def font(request: Request) -> Response:
        if (name := request.path_params["name"]) not in FONTS:
            raise HTTPException(404)
        return FileResponse(font_path(name), media_type="font/ttf", headers=KEEP)

    app = Starlette(
        routes=[
            Route("/", lambda request: FileResponse(STATIC / "index.html", media_type="text/html")),
            Route("/api/about", lambda request: JSONResponse(facts)),
            Route("/api/search", search, methods=["POST"]),
            Route("/media/{token}", load),
            Route("/media/{token}/poster", poster),
            Route("/fonts/{name}.ttf", font),
            Mount("/page", StaticFiles(directory=STATIC)),
        ],
        # A page of another site cannot reach this one under a name of its own (DNS rebinding).
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost"]), Middleware(Secure)],
    )
    return app


class Secure:
    """Adds :data:`HEADERS` to every response.

    Args:
        app: the application.
    """

    def __init__(self, app: Application) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Callable[[Any], Awaitable[None]]) -> None:
        """Answers a request; see the ASGI specification."""

        async def with_headers(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                added = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
                message = {**message, "headers": [*message["headers"], *added]}
            await send(message)

        await self.app(scope, receive, with_headers)


async def _question(request: Request, searcher: Searcher, folder: Path) -> Question:
    """Reads a question: its options are in the query string, and its text or file is the body.

    Raises:
        UserError: an option is no number, there is no such tower, or the file is too large.
    """
    options = request.query_params
    tower, name, like = options.get("tower", ""), options.get("name", ""), options.get("like", "")
    textual = issubclass(searcher.embedder.modality(tower), Textual)
    source: str | Path | None = None
    if not like and textual:
        source = (b"".join([part async for part in _bounded(request)])).decode(errors="replace")
    elif not like:
        suffix = Path(name).suffix.lower()
        suffix = suffix if SUFFIX.fullmatch(suffix) else ""
        with tempfile.NamedTemporaryFile(dir=folder, suffix=suffix, delete=False) as file:
            try:
                async for part in _bounded(request):
                    file.write(part)
            except BaseException:
                Path(file.name).unlink()
                raise
        source = Path(file.name)
    return Question(
        tower,
        source,
        like,
        options.get("find") or None,
        options.get("level", ""),
        options.get("where", ""),
        _integer(options.get("offset", "0")),
        _integer(options.get("count", str(PAGE))),
        name,
    )


async def _bounded(request: Request) -> AsyncIterator[bytes]:
    """The body of a request.

    Raises:
        UserError: it is too large; raised before the rest is read.
    """
    size = 0
    announced = request.headers.get("content-length", "0")
    if announced.isdecimal() and int(announced) > MAX_UPLOAD:
        raise _too_large(int(announced))
    async for part in request.stream():
        size += len(part)
        if size > MAX_UPLOAD:
            raise _too_large(size)
        yield part


def _too_large(size: int) -> UserError:
    return UserError(f"The file has {size >> 20} MB; it may have {MAX_UPLOAD >> 20} MB.")


def _integer(text: str) -> int:
    if not text.isdecimal() or len(text) > 9:
        raise UserError(f"{text!r:.40} is not a number of answers.")
    return int(text)


@contextmanager
def serving(searcher: Searcher, title: str, *, port: int | None = None, examples: Sequence[str] = ()) -> Iterator[str]:
    """Serves the page on this machine alone, inside the ``with``.

    Uploads stay in a folder of their own, which goes with the page.

    Args:
        searcher: index and model.
        title: of the page.
        port: to serve at; the first free one from 7860 on if absent.
        examples: questions to click; chosen from the index if there are none.

    Yields:
        The address.

    Raises:
        UserError: the port is in use, or Starlette or uvicorn is not installed.
    """
    with needs_extra("demo", "the search page"):
        import uvicorn

    with upload_folder() as folder, _listening(port) as listener:
        app = build(searcher, title, folder, examples)
        config = uvicorn.Config(
            app, log_level="warning", access_log=False, server_header=False, timeout_graceful_shutdown=1
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listener],), name="page", daemon=True)
        thread.start()
        try:
            while not server.started and thread.is_alive():
                time.sleep(0.01)
            yield "http://{}:{}".format(*listener.getsockname())
        finally:
            server.should_exit = True
            thread.join(10)


@contextmanager
def _listening(port: int | None) -> Iterator[socket.socket]:
    candidates = range(FIRST_PORT, FIRST_PORT + 100) if port is None else [port]
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        for candidate in candidates:
            try:
                listener.bind(("127.0.0.1", candidate))
                break
            except (OSError, OverflowError) as error:
                reason = error
        else:
            raise UserError(f"port {candidates[0]} cannot be used ({reason}); choose another with --port")
        yield listener


def stay(searcher: Searcher, title: str, *, port: int | None = None, examples: Sequence[str] = ()) -> None:
    """Opens the page in a browser, and stays until Ctrl-C or SIGTERM, its normal end; uploads are gone then."""
    with (
        ending_on_sigterm(),
        ending_with_the_terminal(),
        suppress(KeyboardInterrupt, Stopped),
        serving(searcher, title, port=port, examples=examples) as address,
    ):
        print(f"{address} (Ctrl-C ends it)", flush=True)
        webbrowser.open(address)
        threading.Event().wait()


def main() -> int:
    """Serves an index."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("index", type=Path, help="an index that hrt-mm index build made")
    parser.add_argument("--run", type=Path, help="the run folder; the one that the index names if absent")
    parser.add_argument("--port", type=int, help="the first free one from 7860 on if absent")
    args = parser.parse_args()

    def run() -> int:
        stay(Searcher.of(Index(args.index), args.run), f"Search {args.index.name}", port=args.port)
        return 0

    return as_process(run)


if __name__ == "__main__":
    raise SystemExit(main())
