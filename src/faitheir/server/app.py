"""The REST interface and the page, over a `Service`. Everything that is refused is refused with one sentence."""

import asyncio
import base64
import contextlib
import hashlib
import hmac
import json
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, MutableMapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import resources
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, TypeVar, get_args
from urllib.parse import urlsplit

from faitheir.errors import ConfigError, FaithEIRError, one_line
from faitheir.images import Picture, encode_picture
from faitheir.server import problem
from faitheir.server.errand import Errand, Slots, Stopped
from faitheir.server.problem import Problem, as_problem
from faitheir.server.rivals import Rival
from faitheir.server.service import MEDIA_TYPES, Made, PictureFormat, Service
from faitheir.thumbnail import DEFAULT_FORMAT, ThumbnailFormat
from faitheir.version import __version__

T = TypeVar("T")

#: Of the page. What it shows comes from here, or from what its own script makes (blob:).
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "worker-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".wasm": "application/wasm",
    ".onnx": "application/octet-stream",
    ".css": "text/css; charset=utf-8",
    ".jpg": "image/jpeg",
    ".svg": "image/svg+xml",
}
#: Of the page that restores pictures itself: WebAssembly, and threads for it.
_ISOLATED = {
    "Content-Security-Policy": POLICY.replace("script-src 'self'", "script-src 'self' 'wasm-unsafe-eval'"),
    "Cross-Origin-Embedder-Policy": "require-corp",
}
#: What the page has in common with the report.
_SHARED = ("slider.js", "slider.css")
#: Answered without a token: nothing here says what was sent, or works for anyone.
_OPEN = ("/v1/alive", "/v1/ready", "/v1/openapi.json")
_SAID = ("ETag", "FaithEIR-Model", "FaithEIR-Size", "FaithEIR-Original-Size", "FaithEIR-Warning", "Server-Timing")
_NDJSON = "application/x-ndjson"

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGI = Callable[[Scope, Receive, Send], Awaitable[None]]


@dataclass(frozen=True)
class Access:
    """Who may ask. ``token``: what they must show, if anything. ``origins``: other sites whose pages may ask.

    ``hosts``: names by which this server may be addressed, any if None: a page elsewhere that has its own name resolve
    to this machine is refused by it.
    """

    token: str | None = None
    origins: Collection[str] = ()
    hosts: Collection[str] | None = None


class Visit:
    """One request while it is served: its place in the queue, its body, its errand."""

    def __init__(self, service: Service, scope: Scope, receive: Receive) -> None:
        self.errand = Errand()
        self._service = service
        self._scope = scope
        self._receive = receive
        self._held = 0
        self._tasks: set[asyncio.Future[Any]] = set()
        self._timer: asyncio.TimerHandle | None = None

    def open(self) -> None:
        """Take a place. Raises Problem (429, 503)."""
        service = self._service
        service.check_ready()
        if len(service.errands) >= service.limits.queue:
            raise Problem(429, "This server has all the work that it can take; try again later.", retry_after=5)
        service.errands.add(self.errand)
        self.start_time()

    def start_time(self) -> None:
        """Begin the time limit, of the request or of the next file of a batch."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(self._service.limits.seconds, self.errand.stop, "late")

    def close(self) -> None:
        """Give the place back, and the work up where it is not done."""
        self.errand.stop("gone")
        if self._timer is not None:
            self._timer.cancel()
        for task in self._tasks:
            task.cancel()
        self._service.held -= self._held
        self._held = 0
        self._service.errands.discard(self.errand)

    def __enter__(self) -> "Visit":
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def header(self, name: bytes) -> str:
        """A header's value, empty where there is none."""
        return next((value.decode("latin-1") for key, value in self._scope["headers"] if key == name), "")

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body, as it comes. Raises Problem (400, 408, 413, 429), Stopped."""
        limits, service = self._service.limits, self._service
        length = self.header(b"content-length")
        if length.isdecimal() and int(length) > limits.body_bytes:
            raise self._too_large()
        loop = asyncio.get_running_loop()
        started, received, more = loop.time(), 0, True
        with service.metrics.stage("receive"):
            while more:
                message = asyncio.ensure_future(self._receive())
                left = started + limits.grace + received / limits.rate - loop.time()
                late = loop.call_later(max(0.0, left), message.cancel)
                try:
                    event = await self.errand.unless_stopped(message)
                except asyncio.CancelledError:
                    if not message.cancelled():  # it is the request that was cancelled
                        raise
                    raise Problem(408, "The request's body came too slowly; send it again.") from None
                finally:
                    late.cancel()
                if event["type"] == "http.disconnect":
                    self.errand.stop("gone")
                    self.errand.check()
                chunk = event.get("body", b"")
                more = event.get("more_body", False)
                received += len(chunk)
                service.held += len(chunk)
                self._held += len(chunk)
                if received > limits.body_bytes:
                    raise self._too_large()
                if service.held > limits.held_bytes:
                    raise Problem(429, "This server holds all the files that it can take; try later.", retry_after=5)
                if chunk:
                    yield chunk
        self._watch()

    async def file(self) -> bytes:
        """The one file that was sent, as the body or as the one file of a form. Raises Problem as ``chunks`` does."""
        if self._is_form():
            files = await self.files()
            if len(files) != 1:
                raise Problem(400, f"One file is wanted here, and {len(files)} were sent; see /v1/batches for several.")
            return files[0][1]
        data = b"".join([chunk async for chunk in self.chunks()])
        if not data:
            raise Problem(400, "The request has no body; send the file as it is, or as multipart/form-data.")
        return data

    async def files(self) -> list[tuple[str, bytes]]:
        """(name, bytes) of the files of a form. Raises Problem as ``chunks`` does."""
        from starlette.datastructures import Headers, UploadFile
        from starlette.formparsers import MultiPartException, MultiPartParser

        if not self._is_form():
            raise Problem(415, "Several files are wanted as multipart/form-data.")
        limits = self._service.limits
        parser = MultiPartParser(
            Headers(scope=self._scope),
            self.chunks(),  # type: ignore[arg-type]  # any iterator does
            max_files=limits.files,
            max_fields=limits.files,
        )
        parser.spool_max_size = limits.body_bytes + 1  # in memory: nothing that was sent is on disk, ever
        try:
            form = await parser.parse()
        except MultiPartException as error:
            if "Too many" in error.message:
                raise Problem(413, f"At most {limits.files} files are taken at once; send the others later.") from None
            text = one_line(error.message).rstrip(".")
            raise Problem(400, f"The form that was sent cannot be read ({text}); send it again.") from None
        try:
            items = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
            files = [(item.filename or "", await item.read()) for item in items]
        finally:
            await form.close()
        if not files:
            raise Problem(400, "The form that was sent has no file in it; send each as a part with a file's name.")
        return files

    def _is_form(self) -> bool:
        return self.header(b"content-type").partition(";")[0].strip().lower() == "multipart/form-data"

    def _too_large(self) -> Problem:
        limit = self._service.limits.body_bytes
        return Problem(413, f"At most {limit:,} bytes are taken in one request; send less at once.")

    def _watch(self) -> None:
        """From now on, notice where the client goes away."""

        async def watch() -> None:
            while (await self._receive())["type"] != "http.disconnect":
                pass
            self.errand.stop("gone")

        self._tasks.add(asyncio.ensure_future(watch()))

    async def run(self, work: Callable[[float], T], slots: Slots | None = None) -> T:
        """What ``work`` gives in a thread, in its turn; it gets the seconds that it waited. Raises Stopped."""
        if self._service.closing:
            self.errand.stop("closing")
        loop = asyncio.get_running_loop()
        asked = loop.time()
        metrics = self._service.metrics

        def begin() -> T:
            waited = loop.time() - asked
            metrics.took("wait", waited)
            self.errand.running = True
            self.errand.check()
            try:
                return work(waited)
            except Exception as error:
                refusal = as_problem(error)
                if refusal.status == 500:
                    raise
                raise refusal from None  # without what the error holds of the picture

        try:
            return await (slots or self._service.slots).run(self.errand, begin)
        finally:
            self.errand.running = False

    def matches(self, tag: str) -> bool:
        """Whether the client has what is asked for, as If-None-Match says."""
        given = [part.strip().removeprefix("W/") for part in self.header(b"if-none-match").split(",")]
        return tag in given or given == ["*"]


class _Gate:
    """What every request passes: who may ask, what every answer carries, and that it is counted."""

    def __init__(self, app: ASGI, service: Service, access: Access) -> None:
        self._app = app
        self._service = service
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 500

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *_EVERYWHERE]
                if self._service.closing:
                    message["headers"].append((b"connection", b"close"))
            await send(message)

        try:
            refusal = self._refusal(scope)
            if refusal is None:
                await self._app(scope, receive, answer)
            else:
                await _problem_response(refusal)(scope, receive, answer)
        finally:
            route = scope.get("route")
            path = getattr(route, "path", "other")
            self._service.metrics.answered(path, scope["method"] if path != "other" else "any", status)

    def _refusal(self, scope: Scope) -> Problem | None:
        headers = {key: value.decode("latin-1") for key, value in scope["headers"]}
        host = headers.get(b"host", "")
        path, method, access = scope["path"], scope["method"], self._access
        if access.hosts is not None and (urlsplit(f"//{host}").hostname or "") not in access.hosts:
            return Problem(403, "This server is not to be addressed by that name; use 127.0.0.1 or localhost.")
        origin = headers.get(b"origin")
        if method not in ("GET", "HEAD", "OPTIONS") and origin is not None:
            same = urlsplit(origin).netloc == host
            if not same and origin not in access.origins:
                return Problem(403, "Pages of other sites may not use this server; name theirs with --origin.")
        open_to_all = path in _OPEN or not path.startswith(("/v1/", "/metrics")) or method == "OPTIONS"
        if access.token is not None and not open_to_all:
            kind, _, shown = headers.get(b"authorization", "").partition(" ")
            if kind.lower() != "bearer" or not hmac.compare_digest(shown.strip().encode(), access.token.encode()):
                return Problem(401, "This server wants its token: send Authorization: Bearer TOKEN.")
        return None


_EVERYWHERE = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
]


def _problem_response(refusal: Problem) -> Any:
    from starlette.responses import Response

    return Response(json.dumps(refusal.body), refusal.status, headers=dict(refusal.headers))


def create_app(
    service: Service, access: Access | None = None, *, example: bool = False, browser: Path | None = None
) -> Any:
    """The ASGI application.

    ``example``: have what the page shows of it ready before it is asked for. ``browser``: a folder that
    `npx faitheir-img` filled, with what pages restore by themselves with. Raises ConfigError where it is not.
    """
    from fastapi import Depends, FastAPI, Header, Query, Request, Response
    from fastapi.exceptions import RequestValidationError
    from starlette.exceptions import HTTPException
    from starlette.middleware.cors import CORSMiddleware
    from starlette.responses import FileResponse, StreamingResponse

    access = access or Access()

    files = _assets()
    restoring = {} if browser is None else _restoring(browser)
    security = _ISOLATED if restoring else {"Content-Security-Policy": POLICY}
    if restoring:
        data, media_type, _ = files["index.html"]
        files["index.html"] = _entry(data.replace(b'id="here-control" hidden', b'id="here-control"'), media_type)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        preparing = asyncio.ensure_future(service.prepare(files["example.jpg"][0])) if example else None
        yield
        if preparing is not None:
            preparing.cancel()
        service.end()

    app = FastAPI(
        title="FaithEIR",
        version="1",
        summary="Photographs to thumbnail files 16 or 32 times smaller per side, and back from those alone.",
        description=(
            "The detail that comes back is generated: it is plausible, not recorded. Do not use it as evidence, for "
            "documents, or to identify anyone. Nothing that is sent is kept."
        ),
        openapi_url="/v1/openapi.json",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        servers=[{"url": "/"}],
    )
    if access.origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(access.origins),
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type", "If-None-Match"],
            expose_headers=list(_SAID),
        )
    app.add_middleware(_Gate, service=service, access=access)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:]) or "request"
        return _problem_response(Problem(422, f"{where}: {one_line(first['msg'])[:300]}."))  # type: ignore[no-any-return]

    @app.exception_handler(HTTPException)
    async def refused(_: Request, error: HTTPException) -> Response:
        text = {
            404: "There is nothing at this address; see /v1/openapi.json.",
            405: "This address is not for this method; see /v1/openapi.json.",
        }.get(error.status_code, str(error.detail))
        response = _problem_response(Problem(error.status_code, text))
        response.headers.update(error.headers or {})
        return response  # type: ignore[no-any-return]

    async def failed(_: Request, error: Exception) -> Response:
        return _problem_response(as_problem(error))  # type: ignore[no-any-return]

    for kind in (FaithEIRError, MemoryError, Exception):
        app.add_exception_handler(kind, failed)

    # What is documented of every answer.

    says = {
        "description": "One sentence that says what is wrong and what to do.",
        "content": {problem.MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }

    def answers(*statuses: int, **media: Any) -> dict[int | str, dict[str, Any]]:
        known: dict[int | str, dict[str, Any]] = dict.fromkeys((401, 403, *statuses), says)
        known[200] = {"description": "Done.", "content": media["content"]} if media else {"description": "Done."}
        if 304 in statuses:
            known[304] = {"description": "The client has it, as If-None-Match says."}
        return known

    binary = {"schema": {"type": "string", "format": "binary"}}
    work = (400, 408, 413, 422, 429, 500, 503)
    form = {"schema": {"type": "object", "required": ["file"], "properties": {"file": binary["schema"]}}}
    one = {
        "requestBody": {
            "required": True,
            "description": "The file as it is, or as the one file of a form.",
            "content": {"application/octet-stream": binary, "image/*": binary, "multipart/form-data": form},
        }
    }
    uploads = {"type": "array", "items": binary["schema"], "maxItems": service.limits.files}
    many = {
        "requestBody": {
            "required": True,
            "content": {
                "multipart/form-data": {
                    "schema": {"type": "object", "required": ["file"], "properties": {"file": uploads}}
                }
            },
        }
    }

    def of(*formats: str) -> dict[str, Any]:
        return {MEDIA_TYPES[name]: binary for name in formats}

    Small = Annotated[ThumbnailFormat, Query(alias="format", description="Of the thumbnail.")]
    Large = Annotated[PictureFormat, Query(alias="format", description="Of the picture.")]
    Model = Annotated[str | None, Query(max_length=200, description="A model's name, as /v1/models lists it.")]
    Fidelity = Annotated[
        float | None,
        Query(ge=0, le=1, description="From 0, the most natural picture, to 1, the most accurate."),
    ]
    Loss = Annotated[int | None, Query(ge=0, le=100, description="Of webp, avif or jpg; png is lossless.")]
    Quality = Annotated[int | None, Query(ge=1, le=100, description="Of jpg (default 95) and webp (default lossless).")]
    Known = Annotated[str | None, Header(alias="If-None-Match", description="An ETag that was given before.")]

    @dataclass(frozen=True)
    class Task:
        """What the address and its query ask for of each file; ``make`` takes its bytes, an errand, and seconds."""

        settings: tuple[object, ...]
        make: Callable[[bytes, Errand, float], Made]

    async def thumbnails(
        model: Model = None, suffix: Small = DEFAULT_FORMAT, quality: Loss = None, _known: Known = None
    ) -> Task:
        service.check_ready()
        pipeline = service.pipeline(model)
        make = partial(service.make_thumbnail, pipeline=pipeline, suffix=suffix, quality=quality)
        return Task(("thumbnail", pipeline.name, suffix, quality), make)

    async def pictures(
        model: Model = None,
        suffix: Large = "png",
        quality: Quality = None,
        fidelity: Fidelity = None,
        _known: Known = None,
    ) -> Task:
        if quality is not None and suffix not in ("jpg", "webp"):
            raise Problem(422, f"quality is for jpg and webp, not for {suffix}; leave it out.")
        service.check_ready()
        if model is not None:
            service.pipeline(model)
        make = partial(service.make_picture, model=model, suffix=suffix, quality=quality, fidelity=fidelity)
        return Task(("picture", model, suffix, quality, fidelity), make)

    def visit(request: Request) -> Visit:
        return Visit(service, request.scope, request.receive)

    def file(made: Made, tag: str) -> Response:
        timing = ", ".join(f"{stage};dur={1000 * seconds:.1f}" for stage, seconds in made.timings.items())
        headers = {**made.about, "ETag": tag, "Cache-Control": "private, no-cache", "Server-Timing": timing}
        return Response(made.data, media_type=made.media_type, headers=headers)

    def unchanged(tag: str) -> Response:
        return Response(status_code=304, headers={"ETag": tag, "Cache-Control": "private, no-cache"})

    async def single(request: Request, task: Task) -> Response:
        with visit(request) as here:
            data = await here.file()
            tag = service.etag(data, *task.settings)
            if here.matches(tag):
                return unchanged(tag)

            def make(waited: float) -> Made:
                return service.prepared.get(tag) or task.make(data, here.errand, waited)

            made = service.prepared.get(tag)
            return file(await here.run(make) if made is None else made, tag)

    @app.post(
        "/v1/thumbnails/describe",
        summary="What a thumbnail file says",
        responses=answers(*work, content={"application/json": {"schema": {"type": "object"}}}),
        openapi_extra=one,
    )
    async def describe(request: Request) -> dict[str, Any]:
        with visit(request) as here:
            data = await here.file()
            return await here.run(lambda _: service.describe(data), service.reading)

    # Several results, each as a line as soon as it is there.

    class Lines(StreamingResponse):
        """Lines of JSON; the visit is over when they are."""

        def __init__(self, here: Visit, lines: AsyncIterator[dict[str, Any]], headers: dict[str, str]) -> None:
            self._here = here
            super().__init__((json.dumps(line).encode() + b"\n" async for line in lines), media_type=_NDJSON)
            self.headers.update(headers)

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            try:
                await super().__call__(scope, receive, send)
            finally:
                self._here.close()

    @contextlib.contextmanager
    def kept(request: Request) -> Iterator[Visit]:
        """A visit that is closed here only where it fails: `Lines` closes it otherwise."""
        here = visit(request)
        here.open()
        try:
            yield here
        except BaseException:
            here.close()
            raise

    async def each(here: Visit, files: Sequence[tuple[str, bytes]], task: Task) -> AsyncIterator[dict[str, Any]]:
        for index, (name, data) in enumerate(files):
            line: dict[str, Any] = {"index": index, "name": PurePosixPath(name.replace("\\", "/")).name[:255]}
            here.start_time()
            try:
                made = await here.run(partial(task.make, data, here.errand))
            except Stopped as stopped:
                if stopped.why == "gone":
                    return
                yield line | {"problem": as_problem(stopped).body}
            except Exception as error:  # a broken file does not stop the others
                yield line | {"problem": as_problem(error).body}
            else:
                encoded = base64.b64encode(made.data).decode()
                yield line | {"type": made.media_type, "bytes": len(made.data), "about": made.about, "data": encoded}

    lines_of = {_NDJSON: {"schema": {"type": "string", "description": "One JSON object a line."}}}

    async def several(request: Request, task: Task) -> Response:
        with kept(request) as here:
            files = await here.files()
            tag = service.etag(_flat(files), "batch", *task.settings)
            if here.matches(tag):
                here.close()
                return unchanged(tag)
            return Lines(here, each(here, files, task), {"ETag": tag})

    for asked, what, of_what, formats in (
        (thumbnails, "thumbnail file", "photograph", get_args(ThumbnailFormat)),
        (pictures, "picture", "thumbnail file", get_args(PictureFormat)),
    ):
        answered = answers(304, *work, content=of(*formats))
        listed = answers(304, 415, *work, content=lines_of)

        @app.post(
            f"/v1/{asked.__name__}",
            summary=f"The {what} of a {of_what}",
            response_class=Response,
            responses=answered,
            openapi_extra=one,
        )
        async def of_one(request: Request, task: Annotated[Task, Depends(asked)]) -> Response:
            return await single(request, task)

        @app.post(
            f"/v1/batches/{asked.__name__}",
            summary=f"The {what}s of several {of_what}s, each as a line as soon as it is made",
            response_class=Response,
            responses=listed,
            openapi_extra=many,
        )
        async def of_many(request: Request, task: Annotated[Task, Depends(asked)]) -> Response:
            return await several(request, task)

    @app.post(
        "/v1/comparisons",
        summary="What bicubic, WebP and AVIF give for as many bytes, each as a line as soon as it is there",
        response_class=Response,
        responses=answers(*work, content=lines_of),
        openapi_extra=one,
    )
    async def comparisons(
        request: Request,
        budget: Annotated[int, Query(alias="bytes", ge=100, le=2**24, description="What the thumbnail takes.")],
        model: Model = None,
    ) -> Response:
        with kept(request) as here:
            pipeline = service.pipeline(model)
            data = await here.file()
            systems = service.compare(data, pipeline.scale, budget, here.errand)

            async def lines() -> AsyncIterator[dict[str, Any]]:
                while True:
                    try:
                        line = await here.run(lambda _: next((_rival(rival) for rival in systems), None), service.aside)
                    except Exception as error:
                        yield {"problem": as_problem(error).body}
                        return
                    if line is None:
                        return
                    yield line

            return Lines(here, lines(), {})

    # What is asked about the server.

    @app.get(
        "/v1/models", summary="The models, the default first", responses=answers(503, content=_json("array", "object"))
    )
    async def models() -> list[dict[str, Any]]:
        service.check_ready()
        return service.models()

    @app.get("/v1/alive", summary="Whether the server answers at all", responses=answers(content=_json("object")))
    async def alive() -> dict[str, str]:
        return {"status": "alive", "version": __version__}

    @app.get("/v1/ready", summary="Whether it takes work", responses=answers(503, content=_json("object")))
    async def ready() -> dict[str, str]:
        service.check_ready()
        return {"status": "ready"}

    @app.get("/v1/limits", summary="What one request may ask for", responses=answers(content=_json("object")))
    async def limits() -> dict[str, float]:
        names = ("body_bytes", "pixels", "files", "seconds")
        return {name: getattr(service.limits, name) for name in names}

    @app.get(
        "/metrics",
        summary="Figures for Prometheus",
        response_class=Response,
        responses=answers(content={"text/plain": {"schema": {"type": "string"}}}),
    )
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    # The page.

    def asset(request: Request, name: str) -> Response:
        if name not in files:
            raise Problem(404, "There is nothing at this address; the page is at /.")
        data, media_type, tag = files[name]
        headers = {"ETag": tag, "Cache-Control": "no-cache", **security}
        if visit(request).matches(tag):
            return Response(status_code=304, headers=headers)
        return Response(data, media_type=media_type, headers=headers)

    @app.get("/", include_in_schema=False)
    async def page(request: Request) -> Response:
        return asset(request, "index.html")

    @app.get("/assets/{name}", include_in_schema=False)
    async def part(request: Request, name: str) -> Response:
        return asset(request, name)

    @app.get("/browser/{path:path}", include_in_schema=False)
    async def restorer(request: Request, path: str) -> Response:
        if path not in restoring:
            raise Problem(404, "There is nothing at this address; the page is at /.")
        file, media_type, tag = restoring[path]
        headers = {"ETag": tag, "Cache-Control": "no-cache", **security}
        if visit(request).matches(tag):
            return Response(status_code=304, headers=headers)
        return FileResponse(file, media_type=media_type, headers=headers)

    document = app.openapi

    def openapi() -> dict[str, Any]:
        described = document()
        described.setdefault("components", {}).setdefault("schemas", {})["Problem"] = problem.SCHEMA
        return described

    app.openapi = openapi  # type: ignore[method-assign]
    return app


def _json(kind: str, items: str | None = None) -> dict[str, Any]:
    return {"application/json": {"schema": {"type": kind, **({"items": {"type": items}} if items else {})}}}


def _flat(files: Sequence[tuple[str, bytes]]) -> list[bytes]:
    return [part for name, data in files for part in (name.encode(errors="replace"), data)]


def _rival(rival: Rival) -> dict[str, Any]:
    """What is said of a rival, and what it gives as a picture to look at."""
    if rival.restored is None:
        return {"system": rival.system, "problem": Problem(422, problem.sentence(rival.error)).body}
    data = encode_picture(Picture(rival.restored), "jpg")
    return {
        "system": rival.system,
        "bytes": rival.bytes,
        "factor": rival.factor,
        "quality": rival.quality,
        "psnr": rival.psnr if math.isfinite(rival.psnr) else None,
        "ssim": rival.ssim if math.isfinite(rival.ssim) else None,
        "type": "image/jpeg",
        "data": base64.b64encode(data).decode(),
    }


def _assets() -> dict[str, tuple[bytes, str, str]]:
    """What the page is made of, by name: bytes, media type, entity tag."""
    found = {}
    for package in ("faitheir.server", "faitheir.comparison"):
        for file in (resources.files(package) / "page").iterdir():
            media_type = _MEDIA_TYPES.get(PurePosixPath(file.name).suffix)
            if media_type and (package == "faitheir.server" or file.name in _SHARED):
                found[file.name] = _entry(file.read_bytes(), media_type)
    return found


def _entry(data: bytes, media_type: str) -> tuple[bytes, str, str]:
    return data, media_type, f'"{hashlib.sha256(data).hexdigest()[:32]}"'


def _restoring(folder: Path) -> dict[str, tuple[Path, str, str]]:
    """What pages restore by themselves with, by its path in the folder: file, media type, entity tag."""
    for name in ("faitheir-img.js", "models/index.json"):
        if not (folder / name).is_file():
            raise ConfigError(f"{folder} holds no {name}; fill it by `npx faitheir-img {folder} MODELS`.")
    found = {}
    for file in folder.rglob("*"):
        media_type = _MEDIA_TYPES.get(file.suffix)
        if media_type:
            stat = file.stat()
            tag = f'"{stat.st_size:x}-{stat.st_mtime_ns:x}"'
            found[file.relative_to(folder).as_posix()] = (file, media_type, tag)
    return found
