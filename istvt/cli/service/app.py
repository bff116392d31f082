"""Routes of the service: the page, videos, jobs, their events, explanations and removal, health and metrics."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import logging
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from istvt.cli.service import schemas
from istvt.cli.service.analysis import Analyzer, probe_upload
from istvt.cli.service.guard import COOKIE, Guard, Metrics, is_same, problem_response, session_of, state_of
from istvt.cli.service.jobs import Explanation, Job, Jobs, job_status
from istvt.cli.service.schemas import PROBLEM_JSON, PROBLEMS, Problem
from istvt.cli.service.uploads import drain, receive, too_large
from istvt.config import METHODS, Method, ServeSettings, __version__
from istvt.report.html import render

log = logging.getLogger("istvt.serve")
TEMPLATES = Path(__file__).parent / "templates"
EVENT_SECONDS = 0.25  # between two looks at the progress
PING_SECONDS = 15.0  # without an event
SWEEP_SECONDS = 5.0
_FORM_BYTES = 4096  # of a form beside its file
_PROBES = 2  # at a time
_PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; img-src 'self' data:; media-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'; style-src {style}"
)
_EXPLANATION_POLICY = (
    "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'; sandbox; frame-ancestors 'none'"
)
_MEDIA = {"html": "text/html; charset=utf-8", "json": "application/json", "mp4": "video/mp4", "pdf": "application/pdf"}
_VIDEO_TYPES = {".mp4": "video/mp4", ".m4v": "video/mp4", ".mov": "video/quicktime", ".webm": "video/webm"}
_DESCRIPTION = """Judges uploaded videos, one after another: real or fake, for every person in them, and explains why.

1. `POST /v1/videos` takes a video and answers with a job.
2. `GET /v1/jobs/{id}` is its state; `GET /v1/jobs/{id}/events` sends it whenever it changes.
3. `GET /v1/jobs/{id}/explanation` is the explanation, as page, JSON, MP4 or PDF.
4. `DELETE /v1/jobs/{id}` cancels it and removes all of it, which otherwise happens after a time that is set.

Errors are `application/problem+json` (RFC 9457)."""
_UPLOAD_FORM = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {
                        "file": {"type": "string", "format": "binary", "description": "the video"},
                        "person": {
                            "type": "integer",
                            "minimum": 1,
                            "maximum": 100_000,
                            "description": "judge one person alone: 1 is the largest and longest seen",
                        },
                        "method": {"type": "string", "enum": list(METHODS), "description": "of the explanation"},
                        "clips": {
                            "type": "integer",
                            "minimum": 1,
                            "maximum": 100,
                            "description": "clips that are explained a person",
                        },
                    },
                },
                "example": {"file": "interview.mp4", "person": 1, "method": "lrp"},
            }
        },
    }
}


def create_app(analyzer: Analyzer, settings: ServeSettings | None = None, token: str | None = None) -> FastAPI:
    """Return the service as an ASGI application, whose lifespan starts and ends the thread that works.

    Args:
        analyzer: the model.
        settings: the defaults, if None; of which host and port are not read here, but for the Host header.
        token: that requests have to bring; None for none.
    """
    settings, metrics = settings or ServeSettings(), Metrics()
    jobs = Jobs(analyzer, settings, metrics.observe)
    probes = asyncio.Semaphore(_PROBES)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async def sweep() -> None:
            while True:
                await asyncio.sleep(SWEEP_SECONDS)
                jobs.sweep()

        jobs.start()
        sweeping = asyncio.create_task(sweep())
        try:
            yield
        finally:
            sweeping.cancel()
            await asyncio.to_thread(jobs.close)

    app = FastAPI(
        title="ISTVT",
        version=__version__,
        description=_DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,  # they load scripts from elsewhere
        redoc_url=None,
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
    )
    app.state.jobs = jobs
    any_host = token is not None and not settings.is_local
    app.add_middleware(Guard, metrics=metrics, token=token, hosts=settings.hosts, any_host=any_host)
    _handle_errors(app)

    @app.get("/", include_in_schema=False)
    async def page(request: Request) -> Response:
        if not request.scope["istvt.known"]:
            return _page("login.html.j2", HTTPStatus.UNAUTHORIZED)
        return _page("page.html.j2", service=_service(analyzer, settings))

    @app.get("/page.js", include_in_schema=False)
    async def script() -> Response:
        return FileResponse(TEMPLATES / "page.js", media_type="text/javascript; charset=utf-8")

    @app.post("/login", include_in_schema=False)
    async def login(request: Request) -> Response:
        if int(request.headers.get("content-length", _FORM_BYTES + 1)) > _FORM_BYTES:
            raise Problem("too-large", "The form is too large; expected a token.")
        async with request.form() as form:
            given = form.get("token", "")
        if token is None or not isinstance(given, str) or not is_same(given.strip(), token):
            return _page("login.html.j2", HTTPStatus.UNAUTHORIZED, wrong=True)
        answer = RedirectResponse("/", HTTPStatus.SEE_OTHER)
        secure = request.url.scheme == "https"
        answer.set_cookie(COOKIE, session_of(token), httponly=True, samesite="strict", secure=secure)
        return answer

    @app.get("/health", summary="State of the service", tags=["service"], responses=_problems("stopping"))
    async def health() -> schemas.Health:
        if not jobs.is_working:
            raise Problem("stopping", "The thread that works has ended or is ending.")
        return schemas.Health(status="ok", waiting=jobs.waiting, queue=settings.queue)

    @app.get(
        "/metrics",
        summary="Prometheus metrics",
        tags=["service"],
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}} | _problems("wrong-token"),
    )
    async def metrics_text() -> Response:
        state_of(jobs, metrics)
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get(
        "/v1/service", summary="What the service is and takes", tags=["service"], responses=_problems("wrong-token")
    )
    async def service() -> schemas.Service:
        return _service(analyzer, settings)

    @app.post(
        "/v1/videos",
        status_code=HTTPStatus.ACCEPTED,
        summary="Upload a video",
        tags=["videos"],
        openapi_extra=_UPLOAD_FORM,
        responses=_problems(
            "not-a-form", "wrong-token", "foreign-page", "upload-stalled", "too-large", "not-a-video", "too-long",
            "queue-full", "stopping", "disk-full",
        ),
    )  # fmt: skip
    async def upload_video(request: Request, response: Response) -> schemas.Job:
        """Take a video, check its size while it arrives and its length before it is decoded, and queue it.

        The answer has the job's address in `Location`."""
        try:
            with jobs.reserved() as folder:
                length = request.headers.get("content-length", "")
                if length.isdecimal() and int(length) > settings.max_bytes + 2 * _FORM_BYTES:
                    raise Problem("too-large", too_large(settings.max_bytes))
                upload = await receive(request, folder, settings.max_bytes)
                options = _options(upload.fields, settings, analyzer)
                async with probes:
                    about = await asyncio.to_thread(probe_upload, upload.path, upload.name, 60 * settings.max_minutes)
                job = jobs.submit(folder, upload, about, **options)
        except Problem:
            await drain(request)
            raise
        except ClientDisconnect:
            raise Problem("not-a-form", "The upload was broken off.") from None
        metrics.uploaded.inc(upload.size)
        response.headers["Location"] = f"/v1/jobs/{job.id}"
        return _job(jobs, job)

    of_a_job = ("wrong-token", "unknown-job")

    @app.get("/v1/jobs/{job_id}", summary="State of a job", tags=["jobs"], responses=_problems(*of_a_job))
    async def job_state(job_id: str) -> schemas.Job:
        """Return a job: its progress, its result as soon as it is scored, and its explanations."""
        return _job(jobs, jobs.get(job_id))

    @app.get(
        "/v1/jobs/{job_id}/events",
        summary="Events of a job",
        tags=["jobs"],
        response_class=StreamingResponse,
        responses={200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}} | _problems(*of_a_job),
    )
    async def job_events(job_id: str) -> StreamingResponse:
        """Send the job as server-sent events.

        `event: job` whenever it changes, with the job as JSON, and `event: end` when nothing of it is waiting or
        running any more, or when it is deleted."""
        jobs.get(job_id)
        return StreamingResponse(_events(jobs, job_id), media_type="text/event-stream")

    @app.get(
        "/v1/jobs/{job_id}/explanation",
        summary="Explanation of a job",
        tags=["jobs"],
        response_class=FileResponse,
        responses={
            200: {"content": {kind.partition(";")[0]: {} for kind in _MEDIA.values()}},
            206: {"description": "A range of the file", "content": {"video/mp4": {}}},
        }
        | _problems(*of_a_job, "unknown-person", "not-explained", "not-ready", "not-scored", "failed"),
    )
    async def explanation(
        job_id: str,
        format: Annotated[
            Literal["html", "json", "mp4", "pdf"], Query(description="page, data, video or one-page report")
        ] = "html",
        method: Annotated[Method | None, Query(description="by default that of the upload")] = None,
        person: Annotated[int | None, Query(ge=0, description="of an MP4; by default the most suspicious")] = None,
        view: Annotated[
            Literal["panels", "in_frame"], Query(description="of an MP4: crop and maps, or maps in the picture")
        ] = "panels",
        download: Annotated[bool, Query(description="as an attachment")] = False,
    ) -> FileResponse:
        """Return the files that `istvt explain` writes, and the one-page report."""
        job = jobs.get(job_id)
        if job.problem:
            raise job.problem
        found = _explanation(job, method)
        file = _file_of(found, format, person, view)
        stem = Path(job.upload.name).stem
        name = f"{stem}-{found.method}{'-in_frame' if format == 'mp4' and view == 'in_frame' else ''}.{format}"
        headers = {"Content-Security-Policy": _EXPLANATION_POLICY} if format == "html" else {}
        disposition = "attachment" if download else "inline"
        kind = _MEDIA[format]
        return FileResponse(file, 200, headers, kind, filename=name, content_disposition_type=disposition)

    @app.post(
        "/v1/jobs/{job_id}/explanations",
        status_code=HTTPStatus.ACCEPTED,
        summary="Explain a job by another method",
        tags=["jobs"],
        responses=_problems(
            *of_a_job, "not-a-form", "foreign-page", "not-ready", "not-explainable", "queue-full", "failed", "stopping"
        ),
    )
    async def explain(job_id: str, wanted: schemas.ExplanationRequest) -> schemas.Explanation:
        """Queue another explanation of a scored video; one that is there already is returned as it is."""
        job = jobs.get(job_id)
        if not analyzer.explainable:
            architecture = analyzer.info.config.architecture
            raise Problem("not-explainable", f"There are no explanations of the architecture {architecture}.")
        if wanted.method not in analyzer.methods:
            raise Problem("not-explainable", _expected_method(wanted.method, analyzer))
        return _explanation_state(jobs, jobs.explain(job, wanted.method, wanted.clips or settings.clips))

    @app.get(
        "/v1/jobs/{job_id}/video",
        summary="The uploaded video",
        tags=["jobs"],
        response_class=FileResponse,
        responses={200: {"content": {"video/mp4": {}, "application/octet-stream": {}}}, 206: {"description": "A range"}}
        | _problems(*of_a_job),
    )
    async def uploaded_video(job_id: str) -> FileResponse:
        """Return the video itself, for the page."""
        upload = jobs.get(job_id).upload
        return FileResponse(
            upload.path, media_type=_VIDEO_TYPES.get(upload.path.suffix.lower(), "application/octet-stream")
        )

    @app.delete(
        "/v1/jobs/{job_id}",
        status_code=HTTPStatus.NO_CONTENT,
        summary="Cancel and remove a job",
        tags=["jobs"],
        responses=_problems(*of_a_job, "foreign-page"),
    )
    async def delete_job(job_id: str) -> Response:
        """End the work on a job, and remove the video and everything made from it."""
        jobs.delete(jobs.get(job_id))
        return Response(status_code=HTTPStatus.NO_CONTENT)

    return app


def _problems(*kinds: str) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI description of these problems, and of a wrong Host header, by status."""
    found: dict[int | str, dict[str, Any]] = {}
    for kind in (*kinds, "invalid-request", "wrong-host"):
        status, title = PROBLEMS[kind]
        before = found.get(status, {}).get("description")
        example = Problem(kind, f"{title}.").to_dict()
        reference = {"$ref": "#/components/schemas/ProblemDetails"}
        found[status] = {
            "model": schemas.ProblemDetails,
            "description": f"{before}; {title[0].lower()}{title[1:]}" if before else title,
            "content": {PROBLEM_JSON: {"schema": reference, "example": example}},
        }
    return found


def _handle_errors(app: FastAPI) -> None:
    @app.exception_handler(Problem)
    async def on_problem(_: Request, problem: Problem) -> Response:
        return problem_response(problem)

    @app.exception_handler(RequestValidationError)
    async def on_invalid(_: Request, error: RequestValidationError) -> Response:
        found = [f"{'.'.join(map(str, item['loc'][1:])) or item['loc'][0]}: {item['msg']}" for item in error.errors()]
        return problem_response(Problem("invalid-request", f"{'; '.join(found)[:500]}."))

    @app.exception_handler(HTTPException)
    async def on_http(_: Request, error: HTTPException) -> Response:
        kind = {404: "not-found", 405: "wrong-method"}.get(error.status_code, "not-a-form")
        return problem_response(Problem(kind, f"{PROBLEMS[kind][1]}.", dict(error.headers or {})))

    @app.exception_handler(Exception)
    async def on_failure(_: Request, error: Exception) -> Response:
        log.error("a request failed", exc_info=error)
        return problem_response(Problem("failed", f"The service has failed ({type(error).__name__})."))

    described = app.openapi

    def openapi() -> dict[str, Any]:
        """Return the description; FastAPI's own form of an invalid parameter is not in use."""
        if app.openapi_schema is None:
            document = described()
            for path in document["paths"].values():
                for operation in path.values():
                    for status, answer in operation["responses"].items():
                        if status.isdecimal() and int(status) >= HTTPStatus.BAD_REQUEST:
                            answer["content"].pop("application/json", None)
            for name in ("HTTPValidationError", "ValidationError"):
                document["components"]["schemas"].pop(name, None)
            document["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
            document["security"] = [{"token": []}, {}]
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi


def _expected_method(method: str, analyzer: Analyzer) -> str:
    return f"method is {method!r:.40}; expected one of {', '.join(analyzer.methods)}."


def _options(fields: dict[str, str], settings: ServeSettings, analyzer: Analyzer) -> dict[str, Any]:
    """Return the options of an upload from the fields of its form."""
    found: dict[str, Any] = {"person": None, "method": analyzer.method(settings), "clips": settings.clips}
    for name, value in fields.items():
        if name not in found:
            raise Problem("invalid-request", f"There is no field {name!r:.40}; expected file, person, method, clips.")
        if name == "method":
            if value not in analyzer.methods:
                raise Problem("invalid-request", _expected_method(value, analyzer))
            found[name] = value
            continue
        most = {"person": 100_000, "clips": 100}[name]
        if not re.fullmatch(r"[0-9]{1,6}", value) or not 1 <= int(value) <= most:
            raise Problem("invalid-request", f"{name} is {value!r:.40}; expected a whole number from 1 to {most:,}.")
        found[name] = int(value)
    return found


def _service(analyzer: Analyzer, settings: ServeSettings) -> schemas.Service:
    config, band = analyzer.info.config, analyzer.band
    model = schemas.Model(
        name=analyzer.name,
        architecture=config.architecture,
        checksum=analyzer.info.checksum,
        frames=config.frames,
        explainable=analyzer.explainable,
    )
    return schemas.Service(
        version=__version__,
        model=model,
        methods=list(analyzer.methods) if analyzer.explainable else [],
        method=analyzer.method(settings),
        clips=settings.clips,
        max_bytes=settings.max_bytes,
        max_seconds=60 * settings.max_minutes,
        keep_seconds=60 * settings.keep_minutes,
        not_sure=str(band) if band else None,
        notes=analyzer.notes,
        isolated=not analyzer.unenforced,
    )


def _job(jobs: Jobs, job: Job) -> schemas.Job:
    upload = job.upload
    return schemas.Job(
        id=job.id,
        status=job_status(job),
        video={"name": upload.name, "bytes": upload.size, "sha256": upload.sha256, **job.about},
        progress=jobs.progress(job),
        person=job.person,
        result=job.result,
        problem=job.problem and job.problem.to_dict(),
        explanations=[_explanation_state(jobs, found) for found in list(job.explanations.values())],
        expires=jobs.expires(job),
    )


def _explanation_state(jobs: Jobs, found: Explanation) -> schemas.Explanation:
    people = found.written.people if found.written else []
    return schemas.Explanation(
        method=found.method,
        clips=found.clips,
        status=found.status,
        progress=jobs.progress(found),
        problem=found.problem and found.problem.to_dict(),
        explained=[
            {
                "person": person.score.number,
                "target": person.target,
                "clip_frames": [[int(number) for number in clip.clip.frames] for clip in person.clips],
            }
            for person in people
        ],
    )


def _explanation(job: Job, method: str | None) -> Explanation:
    """Return the explanation by a method, once it is done."""
    found = job.explanations.get(method) if method else next(iter(job.explanations.values()), None)
    if found is None and job.scored is None:
        raise Problem("not-ready", "The video is not scored yet; follow the job's events.")
    if found is None:
        known = ", ".join(job.explanations) or "no method"
        raise Problem("not-explained", f"The video is explained by {known}; POST .../explanations adds others.")
    if found.problem:
        raise found.problem
    if found.written is None:
        raise Problem("not-ready", "The explanation is not made yet; follow the job's events.")
    return found


def _file_of(found: Explanation, kind: str, number: int | None, view: str) -> Path:
    """Return the file of an explanation."""
    if kind in ("html", "json"):
        return found.written.files["page" if kind == "html" else "data"]
    if kind == "pdf":
        return found.folder / "report.pdf"
    people = {person.score.number or 0: person for person in found.written.people}
    person = found.written.most_suspicious if number is None else people.get(number)
    if person is None:
        raise Problem("unknown-person", f"person is {number}; expected one of {', '.join(map(str, people))}.")
    if not person.files:
        raise Problem("not-explained", "No clip of this person could be explained.")
    return person.files["panels" if view == "panels" else "pasted"]


async def _events(jobs: Jobs, job_id: str) -> AsyncIterator[str]:
    sent, quiet = "", 0.0
    while True:
        try:
            state = _job(jobs, jobs.get(job_id))
        except Problem as problem:
            yield f"event: end\ndata: {json.dumps(problem.to_dict())}\n\n"
            return
        data = state.model_dump_json()
        if data != sent:
            sent, quiet = data, 0.0
            yield f"event: job\ndata: {data}\n\n"
        tasks = [state.status, *(found.status for found in state.explanations)]
        if not {"waiting", "running"} & set(tasks):
            yield "event: end\ndata: {}\n\n"
            return
        if not jobs.is_working:
            return
        await asyncio.sleep(EVENT_SECONDS)
        quiet += EVENT_SECONDS
        if quiet >= PING_SECONDS:
            quiet = 0.0
            yield ": still there\n\n"


def _page(template: str, status: int = 200, **values: Any) -> HTMLResponse:
    """Return a page; its style sheet is named by its hash, so that no other can be put into it."""
    html = render(template, folder=TEMPLATES, **{"wrong": False} | values)
    [style] = re.findall(r"<style>(.*?)</style>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return HTMLResponse(html, status, {"Content-Security-Policy": _PAGE_POLICY.format(style=f"'sha256-{digest}'")})
