"""The routes. Nothing here computes: the worker generates, the four functions of `Service` answer the rest."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from fastapi import FastAPI, HTTPException
from fastapi import Request as HttpRequest
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException as AnyHttpError
from starlette.types import Receive, Scope, Send

from picollm.conversation import Part, PartKind, write_part
from picollm.errors import BusyError, MissingError, PicoError
from picollm.infer.engine import Request, Token
from picollm.infer.spoken import Spoken, parts_of
from picollm.serve.api import ChatRequest, IdsIn, PlanIn, TextIn, TextRequest
from picollm.serve.guard import error_body
from picollm.serve.shapes import DONE, Json, Shape, event
from picollm.serve.speech import End, Piece, chat_request, pieces, text_request
from picollm.serve.worker import RETRY_SECONDS, EngineFailed, Job, Worker
from picollm.tok.tokenizer import Tokenizer

POLL_SECONDS = 0.5  # between two looks at a run's log
REFUSALS: dict[int | str, dict[str, Any]] = {
    400: {"description": "the request cannot be understood or answered; the message says why"},
    401: {"description": "the token is missing or wrong"},
    403: {"description": "asked by another site"},
    404: {"description": "no such run, topic or page"},
    408: {"description": "the body took over ten seconds"},
    413: {"description": "the body is over 256 KiB"},
    415: {"description": "the body is not application/json"},
    421: {"description": "asked by another host name"},
    431: {"description": "over 64 header fields"},
    429: {"description": "the line is full; Retry-After says when to come back"},
    500: {"description": "the model failed on this request"},
}
STREAMED: dict[int | str, dict[str, Any]] = {
    200: {"description": "whole, or event by event", "content": {"text/event-stream": {}}}
}
PAGE_FILES = {"app.js": "text/javascript; charset=utf-8", "style.css": "text/css; charset=utf-8"}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
PAGE_HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


@dataclass(frozen=True)
class Service:
    """What the server serves. about: the facts of the model that the page shows; beside: another model to compare with.

    runs() → their summaries; metrics(run, since) → lines of its log from that number on; plan(words) → what
    `picollm plan --json` prints; explain(topic) → what `picollm explain --json` prints. They raise PicoError.
    """

    worker: Worker
    tokenizer: Tokenizer
    name: str
    chats: bool
    about: Json
    runs: Callable[[], list[Json]]
    metrics: Callable[[str, int], list[Json]]
    plan: Callable[[list[str]], Json]
    explain: Callable[[str], Json]
    beside: "Service | None" = None

    def named(self, model: str | None) -> "Service":
        """Who is asked: the other model by its name, this one by any."""
        return self.beside if self.beside is not None and model == self.beside.name else self

    @property
    def busy(self) -> int:
        """Requests that run or wait."""
        return self.worker.busy + (self.beside.busy if self.beside else 0)

    def close(self) -> None:
        self.worker.close()
        if self.beside is not None:
            self.beside.close()


def make_app(service: Service) -> FastAPI:
    """The application, to be put behind a `Guard`."""
    app = FastAPI(title="picollm", docs_url=None, redoc_url=None, responses=REFUSALS)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(AnyHttpError, http_error)
    app.add_exception_handler(PicoError, pico_error)
    app.add_exception_handler(EngineFailed, engine_failed)
    add_model_routes(app, service)
    add_run_routes(app, service)
    add_page(app)
    return app


def post_paths(app: FastAPI) -> frozenset[str]:
    """The paths that take a body."""
    return frozenset(path for path, methods in app.openapi()["paths"].items() if "post" in methods)


def add_model_routes(app: FastAPI, service: Service) -> None:
    """What OpenAI's clients ask, and the tokenizer."""
    worker, tokenizer = service.worker, service.tokenizer

    @app.get("/health")
    async def health() -> Json:
        return {"status": "ok", "busy": service.busy}

    @app.get("/v1/models")
    async def models() -> Json:
        names = [one.name for one in (service, service.beside) if one is not None]
        return {
            "object": "list",
            "data": [{"id": name, "object": "model", "created": 0, "owned_by": "picollm"} for name in names],
        }

    @app.get("/api/about")
    async def about() -> Json:
        other = service.beside
        beside = {"name": other.name, "chats": other.chats} if other else None
        return {**service.about, "name": service.name, "chats": service.chats, "context": worker.engine.context,
                "beside": beside}  # fmt: skip

    @app.post("/v1/chat/completions", responses=STREAMED)
    async def chat(said: ChatRequest, http: HttpRequest) -> Response:
        who = service.named(said.model)
        if not who.chats:
            raise HTTPException(400, "this is a base model: it continues text; ask /v1/completions")
        reply = Reply(who, chat_request(said, who.tokenizer), said.stops, chat=True, logprobs=said.logprobs)
        return reply.streamed() if said.stream else await reply.whole(http)

    @app.post("/v1/completions", responses=STREAMED)
    async def completions(said: TextRequest, http: HttpRequest) -> Response:
        if said.echo:
            raise HTTPException(400, "echo is not offered: the prompt is yours already")
        wanted = said.logprobs is not None
        who = service.named(said.model)
        reply = Reply(who, text_request(said, who.tokenizer), said.stops, chat=False, logprobs=wanted)
        return reply.streamed() if said.stream else await reply.whole(http)

    @app.post("/tokenize")
    def tokenize(said: TextIn) -> Json:
        ids = tokenizer.encode(said.text)
        tokens = [{"id": i, "bytes": list(tokenizer.token_bytes(i)), "text": tokenizer.decode([i])} for i in ids]
        return {"count": len(ids), "bytes": len(said.text.encode()), "tokens": tokens}

    @app.post("/detokenize")
    def detokenize(said: IdsIn) -> Json:
        if any(token >= tokenizer.vocab_size for token in said.ids):
            raise HTTPException(400, f"ids end at {tokenizer.vocab_size - 1}")
        return {"text": tokenizer.decode(said.ids)}


def add_run_routes(app: FastAPI, service: Service) -> None:
    """Runs and their logs, plans, explanations: the files of this disk and pure functions."""

    @app.get("/api/runs")
    def runs() -> Json:
        return {"runs": service.runs()}

    @app.get("/api/runs/{name}/metrics")
    def metrics(name: str, since: int = 0) -> Json:
        lines = service.metrics(name, bounded(since))
        return {"lines": lines, "next": bounded(since) + len(lines)}

    @app.get("/api/events", responses=STREAMED)
    async def events(run: str, since: int = 0) -> Response:
        first = await asyncio.to_thread(service.metrics, run, bounded(since))
        return StreamingResponse(follow(service, run, bounded(since), first), media_type="text/event-stream")

    @app.post("/api/plan")
    def plan(said: PlanIn) -> Json:
        return service.plan(said.words)

    @app.get("/api/explain/{topic}")
    def explain(topic: str) -> Json:
        return service.explain(topic[:100])


def bounded(since: int) -> int:
    return min(max(since, 0), 2**53)


async def follow(service: Service, run: str, since: int, lines: list[Json]) -> AsyncIterator[str]:
    """A run's log as it grows, from a line on; a comment every look keeps dead connections from staying."""
    while True:
        since += len(lines)
        if lines:
            yield event({"lines": lines, "next": since})
        else:
            yield ": still here\n\n"
        await asyncio.sleep(POLL_SECONDS)
        try:
            lines = await asyncio.to_thread(service.metrics, run, since)
        except PicoError as error:
            yield event({"error": error.message})
            return


def add_page(app: FastAPI) -> None:
    """One static page and its two files, from the package."""
    page = files("picollm.serve") / "page"

    @app.get("/", include_in_schema=False)
    def index() -> Response:
        return Response((page / "index.html").read_bytes(), media_type="text/html; charset=utf-8", headers=PAGE_HEADERS)

    @app.get("/page/{name}", include_in_schema=False)
    def part(name: str) -> Response:
        if name not in PAGE_FILES:
            raise HTTPException(404, "no such file")
        return Response((page / name).read_bytes(), media_type=PAGE_FILES[name], headers=PAGE_HEADERS)


class Reply:
    """One answer under way, whole or as a stream. The place in line is given back when the response ends."""

    def __init__(
        self, service: Service, request: Request, stops: tuple[str, ...], *, chat: bool, logprobs: bool | None
    ) -> None:
        self.service = service
        self.request = request
        self.stops = stops
        self.logprobs = bool(logprobs)
        self.job = service.worker.submit(request)
        name = secrets.token_hex(12)
        self.shape = Shape(service.tokenizer, chat=chat, model=service.name, name=name, created=int(time.time()))

    def streamed(self) -> Response:
        return JobResponse(
            self.job, self.events(), media_type="text/event-stream", headers={"Cache-Control": "no-store"}
        )

    def pieces(self) -> AsyncIterator[Piece | End]:
        return pieces(self.job, Spoken(self.service.tokenizer, calls=self.shape.chat), self.stops)

    def said(self, tokens: Sequence[Token]) -> list[Token]:
        """Those that the model chose: only they have a probability."""
        return [token for token in tokens if token.said]

    async def events(self) -> AsyncIterator[str]:
        shape, offset, written = self.shape, 0, 0
        if shape.chat:
            yield event(shape.chunk("", first=True))
        try:
            async for piece in self.pieces():
                if isinstance(piece, End):
                    usage = shape.usage(len(self.request.prompt), written)
                    yield event({**shape.chunk(None, reason=piece.reason), "usage": usage})
                    continue
                written += len(piece.tokens)
                told = self.said(piece.tokens) if self.logprobs else []
                found = shape.logprobs(told, offset) if told else None
                words = piece.text if piece.kind is PartKind.TEXT else ""
                offset += len(words)
                part = write_part(Part(piece.kind, piece.text)) if piece.text and not words else None
                if piece.text or found:
                    yield event(shape.chunk(words, logprobs=found, part=part))
        except EngineFailed as error:
            yield event(error_body(500, f"the model failed: {error}"))
        yield DONE

    async def whole(self, http: HttpRequest) -> Response:
        heard, tokens, reason = list[tuple[PartKind, str]](), list[Token](), "length"
        with self.job:
            async for piece in self.pieces():
                if isinstance(piece, End):
                    reason = piece.reason
                    break
                if piece.text:
                    heard.append((piece.kind, piece.text))
                tokens += piece.tokens
                if await http.is_disconnected():
                    break
        found = self.shape.logprobs(self.said(tokens)) if self.logprobs else None
        prompt = len(self.request.prompt)
        return JSONResponse(self.shape.whole(parts_of(heard), reason, found, prompt, len(tokens)))


class JobResponse(StreamingResponse):
    """A stream whose job is left when the response ends, also if the generator never began."""

    def __init__(self, job: Job, content: AsyncIterator[str], **options: Any) -> None:
        super().__init__(content, **options)
        self.job = job

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self.job:
            await super().__call__(scope, receive, send)


async def invalid(request: HttpRequest, error: Exception) -> Response:
    """What pydantic refused: where and why, never the value."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"] if part != "body")
    return JSONResponse(error_body(400, f"{where}: {first['msg']}" if where else str(first["msg"])), 400)


async def http_error(request: HttpRequest, error: Exception) -> Response:
    assert isinstance(error, AnyHttpError)
    return JSONResponse(error_body(error.status_code, str(error.detail)), error.status_code, error.headers)


async def pico_error(request: HttpRequest, error: Exception) -> Response:
    """Ours: a full line is 429, what is missing 404, all else the client's 400."""
    assert isinstance(error, PicoError)
    said = error.message if error.hint is None else f"{error.message}: {error.hint}"
    if isinstance(error, BusyError):
        return JSONResponse(error_body(429, said), 429, {"Retry-After": str(RETRY_SECONDS)})
    status = 404 if isinstance(error, MissingError) else 400
    return JSONResponse(error_body(status, said), status)


async def engine_failed(request: HttpRequest, error: Exception) -> Response:
    return JSONResponse(error_body(500, f"the model failed: {error}"), 500)
