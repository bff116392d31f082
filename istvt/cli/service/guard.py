"""Guard of the HTTP interface: Host, Origin and token of a request, headers of the answer, request log and metrics.

A page of another site may send requests to a service on localhost, and with DNS rebinding read the answers. So the Host
header must be a name of this server; a request that a browser marks as another site's is refused; no answer allows
another origin; and where a token is set, it must come in the Authorization header or in a cookie that the browser sends
from this server's own pages only (SameSite=Strict).

The log has method, route, status, bytes and time: no address of a client, no name or number of a file or job.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import time
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from istvt.cli.service.schemas import PROBLEM_JSON, Problem
from istvt.cli.service.uploads import drain
from istvt.config import LOCAL_HOSTS

log = logging.getLogger("istvt.serve")
COOKIE = "istvt_session"
# Without a token "/" is the form that asks for it; /health says nothing of videos.
OPEN_ROUTES = ("/", "/login", "/health")
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_NOTHING = "default-src 'none'; frame-ancestors 'none'"


class Metrics:
    """Prometheus metrics of one server."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter("istvt_requests", "HTTP requests", ["method", "route", "status"], registry=registry)
        self.uploaded = Counter("istvt_uploaded_bytes", "Bytes of the videos taken", registry=registry)
        self.tasks = Counter("istvt_tasks", "Videos scored and explanations made", ["outcome"], registry=registry)
        buckets = (0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000)
        self.seconds = Histogram(
            "istvt_stage_seconds", "Time of a stage of a task", ["stage"], buckets=buckets, registry=registry
        )
        self.waiting = Gauge("istvt_waiting", "Uploads and tasks that wait", registry=registry)
        self.jobs = Gauge("istvt_jobs", "Jobs whose files are kept", registry=registry)

    def observe(self, outcome: str, seconds: dict[str, float]) -> None:
        """Count a task and the time of its stages."""
        self.tasks.labels(outcome).inc()
        for stage, value in seconds.items():
            self.seconds.labels(stage).observe(value)

    def text(self) -> bytes:
        """Return all of them in Prometheus' text format."""
        return generate_latest(self.registry)


def problem_response(problem: Problem) -> JSONResponse:
    """Return the answer for a problem."""
    headers = dict(problem.headers)
    if problem.kind == "wrong-token":
        headers["WWW-Authenticate"] = 'Bearer realm="istvt"'
    return JSONResponse(problem.to_dict(), problem.status, headers, media_type=PROBLEM_JSON)


class Guard:
    """ASGI middleware; see the module."""

    def __init__(
        self, app: ASGIApp, *, metrics: Metrics, token: str | None, hosts: Sequence[str], any_host: bool
    ) -> None:
        """Guard `app`.

        Args:
            app: the service.
            metrics: counts requests.
            token: that they have to bring; None for none.
            hosts: names in the Host header that are answered, beside those of this machine.
            any_host: answers all names, as with a token and on an address of the network.
        """
        self.app, self.metrics, self.any_host = app, metrics, any_host
        self.hosts = {host.lower() for host in (*LOCAL_HOSTS, *hosts)}
        self.session = session_of(token) if token else None
        self.token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check a request, pass it on, and log and count it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status, size = time.monotonic(), 500, 0

        async def guarded_send(message: Message) -> None:
            nonlocal status, size
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
                headers.setdefault("Content-Security-Policy", _NOTHING)
            elif message["type"] == "http.response.body":
                size += len(message.get("body", b""))
            await send(message)

        request = Request(scope, receive)
        try:
            self._check(request)
        except Problem as problem:
            await drain(request)
            await problem_response(problem)(scope, receive, guarded_send)
        else:
            await self.app(scope, receive, guarded_send)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            method = scope["method"] if scope["method"] in ("GET", "POST", "DELETE", "HEAD") else "other"
            self.metrics.requests.labels(method, route, status).inc()
            seconds = time.monotonic() - began
            log.info("%s %s %d, %d bytes, %.0f ms", method, route, status, size, 1000 * seconds)

    def _check(self, request: Request) -> None:
        host = request.headers.get("host", "")
        name = urlsplit(f"//{host}").hostname or "" if _is_plain(host) else ""
        if not self.any_host and name.lower() not in self.hosts:
            raise Problem("wrong-host", "The Host header is none of this server's names (--hosts adds some).")
        foreign = request.headers.get("sec-fetch-site") in ("cross-site", "same-site")
        opened = request.headers.get("sec-fetch-mode") == "navigate" and request.method == "GET"
        origin = request.headers.get("origin")
        if origin is not None and request.method not in ("GET", "HEAD"):
            foreign = foreign or urlsplit(origin).netloc.lower() != host.lower() if _is_plain(origin) else True
        if foreign and not opened:
            raise Problem("foreign-page", "A page of another site may not send requests to this server.")
        known = self.token is None or self.is_known(request)
        request.scope["istvt.known"] = known
        if not known and request.url.path not in OPEN_ROUTES:
            raise Problem("wrong-token", "Expected the server's token, as in Authorization: Bearer TOKEN.")

    def is_known(self, request: Request) -> bool:
        """Return whether a request brings the token, or the cookie of a page that has brought it."""
        kind, _, token = request.headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and is_same(token.strip(), self.token):
            return True
        return is_same(request.cookies.get(COOKIE, ""), self.session)


def _is_plain(text: str) -> bool:
    """Return whether a URL can be split: brackets that do not match make it raise."""
    try:
        urlsplit(text if "//" in text else f"//{text}").port  # noqa: B018
    except ValueError:
        return False
    return True


def session_of(token: str) -> str:
    """Return the value of the cookie: of the token, which it does not show."""
    return hmac.new(token.encode(), b"istvt serve session", hashlib.sha256).hexdigest()


def is_same(given: str, expected: str) -> bool:
    """Compare two secrets in a time that does not depend on where they differ."""
    return hmac.compare_digest(given.encode("utf-8", "replace"), expected.encode())


def state_of(jobs: Any, metrics: Metrics) -> None:
    """Set the gauges of the queue."""
    metrics.waiting.set(jobs.waiting)
    metrics.jobs.set(len(jobs.jobs))
