"""An index over HTTP: JSON in, JSON out, with the model loaded once.

Requests are bounded before they are read: the body by its size, the work by the number of requests at a time and by the
seconds that a client waits. Uploads lie in a private temporary folder while they are answered.

Shapes: D width.
"""

# FastAPI evaluates annotations where the endpoints are defined, so they must not be strings.

import asyncio
import logging
import re
import shutil
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import reduce
from importlib.metadata import version
from operator import add
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..core.errors import BadSample, UserError
from ..core.extras import needs_extra
from ..data.capabilities import Lasting, Textual
from ..data.storage import first_mistake
from .query import Query, tower_of
from .results import Results
from .rows import IndexUnavailable
from .search import Searcher

if TYPE_CHECKING:
    from fastapi import FastAPI

log = logging.getLogger(__name__)

RETRY = {"Retry-After": "1"}
MAX_K = 1_000
"""Maximum number of results of a request."""
MAX_OFFSET = 100_000
"""Maximum number of results to skip."""
MAX_INSIDE = 100
"""Maximum number of pieces within each result."""
MAX_TEXTS = 256
"""Maximum number of texts to embed in a request."""
MULTIPART_BYTES = 1 << 16
"""Size of an upload's form beside the file."""
MAX_JSON_BYTES = 1 << 20
"""Maximum size of a request that is not an upload."""
MEDIA_TYPES = {
    ".gif": "image/gif",
    ".jpg": "image/jpeg",
    ".mp4": "video/mp4",
    ".png": "image/png",
    ".wav": "audio/wav",
    ".webp": "image/webp",
}
"""Types of the media files that a browser shows. Others are sent as data to be saved."""


@dataclass(frozen=True)
class ServerLimits:
    """ServerLimits of a server.

    Args:
        upload_bytes: maximum size of an upload.
        media_seconds: maximum duration of an upload of sound or video, which is checked before it is decoded.
        seconds: time after which a request is answered with status 503.
        threads: number of requests that are computed at once.
        waiting: number of requests that wait for a thread; more are answered with status 503.

    Raises:
        UserError: a limit is not positive.
    """

    upload_bytes: int = 16 << 20
    media_seconds: float = 60.0
    seconds: float = 30.0
    threads: int = 2
    waiting: int = 16

    def __post_init__(self) -> None:
        if min(self.upload_bytes, self.media_seconds, self.seconds, self.threads) <= 0 or self.waiting < 0:
            raise UserError(f"limits of a server must be positive, got {self}")


class RequestOptions(BaseModel):
    """What to search, and which results to return."""

    model_config = ConfigDict(extra="forbid")

    find: str | None = None
    """Tower to search; by default another one than the query's."""
    k: Annotated[int, Field(ge=1, le=MAX_K)] = 10
    """Maximum number of results."""
    offset: Annotated[int, Field(ge=0, le=MAX_OFFSET)] = 0
    """Number of best results to skip."""
    level: str = ""
    """Level of the results; samples if empty."""
    inside: Annotated[int, Field(ge=0, le=MAX_INSIDE)] = 0
    """Number of finer pieces to return within each result."""
    min_score: float | None = None
    """Leaves out results with a lower score."""
    rerank: str = ""
    """Level to rerank by late interaction with; none if empty."""
    candidates: Annotated[int, Field(ge=1, le=MAX_K)] = 100
    """Number of results to rerank."""
    by_pieces: bool = False
    """Search by late interaction with all pieces."""
    where: str | None = None
    """Filter by columns: ``year >= 2010 and colour = red``."""
    hybrid: bool = True
    """Rank by the words of the rows' texts too."""
    exact: bool = False
    """Compare the query with all rows, whatever the size of the index."""


class TextTerm(BaseModel):
    """A text that is part of a query."""

    model_config = ConfigDict(extra="forbid")

    text: str
    tower: str = "text"
    """Name of a tower of text, or ``text``."""
    weight: float = 1.0
    """Weight of its vector in the sum; negative to move away from it."""


class SearchRequest(RequestOptions):
    """A query of texts. ``text`` is short for one term of weight 1."""

    text: str | None = None
    terms: list[TextTerm] = []


class EmbedRequest(BaseModel):
    """Texts to embed."""

    model_config = ConfigDict(extra="forbid")

    texts: Annotated[list[str], Field(min_length=1, max_length=MAX_TEXTS)]
    tower: str = "text"


class ErrorDetail(BaseModel):
    """What is wrong with a request."""

    type: str
    message: str


class ErrorResponse(BaseModel):
    """The body of every answer with a status of 400 or more."""

    error: ErrorDetail


class Busy(Exception):
    """The request cannot be answered now."""


class Service:
    """Answers requests in threads, at most :attr:`ServerLimits.threads` at once.

    Args:
        searcher: the index with its model.
        limits: of requests.
    """

    def __init__(self, searcher: Searcher, limits: ServerLimits) -> None:
        self.searcher, self.limits = searcher, limits
        self.pool = ThreadPoolExecutor(limits.threads, "search")
        self._slots = threading.BoundedSemaphore(limits.threads + limits.waiting)

    async def compute(self, work: Callable[[], Any], cleanup: Callable[[], None] = lambda: None) -> Any:
        """Runs a function in a thread.

        Args:
            work: the function.
            cleanup: to call when it has ended, or if it never starts.

        Raises:
            Busy: too many requests are waiting, or it takes too long. It then holds its thread until it ends.
        """
        if not self._slots.acquire(blocking=False):
            cleanup()
            raise Busy(f"{self.limits.threads + self.limits.waiting} requests are in progress; try again in a moment")

        def ended(future: Future[Any]) -> None:
            self._slots.release()
            cleanup()

        future = self.pool.submit(work)
        future.add_done_callback(ended)
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), self.limits.seconds)
        except TimeoutError as error:
            raise Busy(f"it takes longer than {self.limits.seconds:g} s; ask for less, or raise --timeout") from error

    def about(self) -> dict[str, Any]:
        """What the index holds."""
        index, embedder = self.searcher.index, self.searcher.embedder
        return {
            "vectors": len(index),
            "towers": index.towers,
            "levels": sorted(index.levels),
            "columns": sorted(index.columns),
            "recall": {tower: index.recall(tower) for tower in index.towers},
            "model": {
                "run": Path(index.model.run).name,
                "fingerprint": index.model.fingerprint,
                "dim": index.model.dim,
            },
            "queries": {tower: embedder.modality(tower).name for tower in embedder.towers},
        }

    def search(self, query: Query, options: RequestOptions) -> dict[str, Any]:
        """The results of a query, also in what was added since the index was opened."""
        self.searcher.index.refresh()
        results: Results = self.searcher.search(query, **{name: getattr(options, name) for name in OPTIONS})
        plain = results.plain()
        for term in plain["query"]:
            if UPLOADS in term["source"]:
                term["source"] = "the upload"
        for value, hit in zip(plain["results"], results, strict=True):
            _link(value, hit)
        return plain

    def text_query(self, request: SearchRequest) -> Query:
        """The query of a request.

        Raises:
            UserError: there is no text, or a tower reads files.
        """
        terms = [TextTerm(text=request.text)] if request.text is not None else []
        terms += request.terms
        if not terms:
            raise UserError("there is nothing to search for; give text, or terms with a text each")
        queries = [term.weight * Query.of(term.tower, term.text) for term in terms]
        for query in queries:
            # A string would be the path of a file on the server.
            tower = tower_of(query.terms[0], self.searcher.embedder)
            if not issubclass(self.searcher.embedder.modality(tower), Textual):
                raise UserError(f"tower {tower!r} reads files; send one to /search/file")
        return reduce(add, queries)

    def file_query(self, path: Path, tower: str, request: SearchRequest) -> Query:
        """The query of an upload and the texts of its request.

        Raises:
            BadSample: it lasts too long, or cannot be read.
        """
        query = Query.of(tower, path)
        modality = self.searcher.embedder.modality(tower_of(query.terms[0], self.searcher.embedder))
        if issubclass(modality, Lasting) and (seconds := modality.seconds(path)) > self.limits.media_seconds:
            raise BadSample(
                "the upload", f"lasts {seconds:.0f} s; the limit is {self.limits.media_seconds:g} s: cut it"
            )
        if request.text is None and not request.terms:
            return query
        texts = self.text_query(request).terms
        # In the order of `hrt-mm search`, as the first term decides which tower is searched.
        wanted = tuple(term for term in texts if term.weight > 0)
        return Query(wanted + query.terms + tuple(term for term in texts if term.weight <= 0))


OPTIONS = tuple(RequestOptions.model_fields)
"""Names of the options, which :meth:`Searcher.search` has too."""
UPLOADS = "hrt-mm-upload-"
"""Prefix of the temporary folder of an upload, which only its owner can read."""


def _options(text: str) -> SearchRequest:
    try:
        return SearchRequest.model_validate_json(text)
    except ValidationError as error:
        raise UserError(f"options: {first_mistake(error)}") from error


def _suffix(name: str | None) -> str:
    """The suffix of an upload's name, if it is a plain one."""
    suffix = Path(name or "").suffix.lower()
    return suffix if re.fullmatch(r"\.[a-z0-9]{1,8}", suffix) else ""


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


def _embedded(service: Service, request: EmbedRequest) -> dict[str, Any]:
    query = service.text_query(
        SearchRequest(terms=[TextTerm(text=text, tower=request.tower) for text in request.texts])
    )
    tower = tower_of(query.terms[0], service.searcher.embedder)
    return {"tower": tower, "vectors": service.searcher.embedder.embed(request.texts, tower).tolist()}


def _link(value: dict[str, Any], hit: Any) -> None:
    """Replaces the paths of media files by addresses on the server."""
    if hit.media is not None:
        value["media"] = f"/media/{hit.row.key:016x}"
    for inner_value, inner in zip(value.get("inside", ()), hit.inside, strict=True):
        _link(inner_value, inner)


class BodyLimit:
    """ASGI middleware that refuses bodies that are too large, or arrive too slowly, before they are read whole.

    Args:
        app: the application.
        limits: of requests.
    """

    def __init__(self, app: Any, limits: ServerLimits) -> None:
        self.app, self.limits = app, limits

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serves a request."""
        from starlette.exceptions import HTTPException
        from starlette.responses import JSONResponse

        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        upload = scope["path"] == "/search/file"
        limit = self.limits.upload_bytes + MULTIPART_BYTES if upload else MAX_JSON_BYTES
        option = "; start the server with a larger --max-upload-mb" if upload else ""
        message = f"the body is larger than {limit:,} bytes{option}"
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if not declared.isdigit() or int(declared) > limit:
            await JSONResponse({"error": {"type": "TooLarge", "message": message}}, 413)(scope, receive, send)
            return
        received, complete = 0, False

        async def bounded() -> Any:
            nonlocal received, complete
            if complete:
                return await receive()
            try:
                part = await asyncio.wait_for(receive(), self.limits.seconds)
            except TimeoutError as error:
                raise HTTPException(408, f"nothing was received for {self.limits.seconds:g} s") from error
            received += len(part.get("body", b""))
            complete = not part.get("more_body", False)
            if received > limit:
                raise HTTPException(413, message)
            return part

        await self.app(scope, bounded, send)


def create_app(searcher: Searcher, limits: ServerLimits | None = None, *, hosts: tuple[str, ...] = ("*",)) -> "FastAPI":
    """The application: endpoints, limits and error messages.

    Args:
        searcher: the index with its model.
        limits: of requests.
        hosts: names that requests may address the server by. On a loopback address this keeps pages of the web from
            reading it under another name.

    Raises:
        UserError: FastAPI is not installed.
    """
    with needs_extra("serve", "hrt-mm serve"):
        from fastapi import FastAPI, Form, Request, UploadFile
        from fastapi.exceptions import RequestValidationError
        from fastapi.responses import FileResponse, JSONResponse, Response
        from starlette.exceptions import HTTPException
        from starlette.middleware.trustedhost import TrustedHostMiddleware
        from starlette.requests import ClientDisconnect

    limits = limits or ServerLimits()
    service = Service(searcher, limits)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        service.pool.shutdown(wait=False, cancel_futures=True)

    errors: dict[int | str, dict[str, Any]] = {
        400: {"model": ErrorResponse, "description": "The request cannot be answered; the message names the fix"},
        413: {"model": ErrorResponse, "description": "The body is too large"},
        422: {"model": ErrorResponse, "description": "The request is malformed"},
        503: {"model": ErrorResponse, "description": "Too many requests, or it takes too long"},
    }
    app = FastAPI(
        title="hrt-mm", summary="Search of an index", version=version("hrt-mm"), lifespan=lifespan, responses=errors
    )
    app.add_middleware(BodyLimit, limits=limits)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts))

    def failed(status: int, kind: str, message: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
        return JSONResponse({"error": {"type": kind, "message": message}}, status, dict(headers or {}))

    @app.exception_handler(IndexUnavailable)
    async def unavailable(request: Request, error: Exception) -> Response:
        log.error("%s", error)
        return failed(503, "IndexUnavailable", "the index cannot be reached; the server's log has the reason", RETRY)

    @app.exception_handler(UserError)
    async def user_error(request: Request, error: Exception) -> Response:
        return failed(400, type(error).__name__, str(error))

    @app.exception_handler(RequestValidationError)
    async def malformed(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part != "body")
        return failed(422, "MalformedRequest", f"{where}: {first['msg']}" if where else str(first["msg"]))

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return failed(error.status_code, "HTTPError", str(error.detail), error.headers)

    @app.exception_handler(Busy)
    async def busy(request: Request, error: Exception) -> Response:
        return failed(503, "Busy", str(error), RETRY)

    @app.exception_handler(ClientDisconnect)
    async def gone(request: Request, error: Exception) -> Response:
        return Response(status_code=499)

    @app.exception_handler(Exception)
    async def internal(request: Request, error: Exception) -> Response:
        return failed(500, "InternalError", "the server failed; its log has the reason")

    @app.get("/health")
    async def health() -> dict[str, Any]:
        """Whether the server answers."""
        return {"status": "ok", "vectors": len(service.searcher.index)}

    @app.get("/index")
    async def index() -> dict[str, Any]:
        """Towers, levels, columns and the model of the index."""
        about: dict[str, Any] = await service.compute(service.about)
        return about

    @app.post("/search")
    async def search(request: SearchRequest) -> dict[str, Any]:
        """Searches by one text or several."""
        answer: dict[str, Any] = await service.compute(lambda: service.search(service.text_query(request), request))
        return answer

    @app.post("/search/file")
    async def search_file(
        file: UploadFile, options: Annotated[str, Form()] = "{}", tower: Annotated[str, Form()] = ""
    ) -> dict[str, Any]:
        """Searches by an image, a sound or a video.

        ``options`` is JSON with the fields of ``/search``; texts among them are added to the query. ``tower`` reads the
        file; by default it is found by the suffix of the file's name.
        """
        settings = _options(options)
        folder = Path(tempfile.mkdtemp(prefix=UPLOADS))
        path = folder / f"upload{_suffix(file.filename)}"
        try:
            with path.open("wb") as copy:
                while block := await file.read(1 << 20):
                    copy.write(block)
        except BaseException:
            _remove(folder)
            raise
        answer: dict[str, Any] = await service.compute(
            lambda: service.search(service.file_query(path, tower, settings), settings), lambda: _remove(folder)
        )
        return answer

    @app.post("/embed")
    async def embed(request: EmbedRequest) -> dict[str, Any]:
        """The vectors of texts."""
        answer: dict[str, Any] = await service.compute(lambda: _embedded(service, request))
        return answer

    @app.get("/media/{key}", response_class=FileResponse)
    async def media(key: Annotated[str, Field(pattern="^[0-9a-f]{16}$")]) -> Response:
        """The media file of a row, by the address in an answer."""
        path = await service.compute(lambda: service.searcher.index.media(int(key, 16)))
        if path is None:
            raise HTTPException(404, "the index has no such media file")
        media_type = MEDIA_TYPES.get(path.suffix.lower())
        headers = {"X-Content-Type-Options": "nosniff", "Content-Security-Policy": "sandbox"}
        if media_type is None:
            headers["Content-Disposition"] = "attachment"
        return FileResponse(path, media_type=media_type or "application/octet-stream", headers=headers)

    return app
