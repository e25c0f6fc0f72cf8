"""What happens around every request: its id, its log line, its metrics, the headers of every answer."""

import re
import secrets
import time

import structlog
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.problems import problem_response
from app.domain import StoreUnavailableError
from app.observability import HttpMetrics, is_tracing, span
from app.store import note_failure

log = structlog.get_logger()

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")

_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
}
"""Answers are personal and never cached; pages load nothing from elsewhere."""

_RAW_HEADERS = [(name.lower().encode(), value.encode()) for name, value in _HEADERS.items()]

_OVER_TLS = [(b"strict-transport-security", b"max-age=31536000")]
"""Only where the connection (or the proxy in front, by X-Forwarded-Proto) is encrypted; for a year."""

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Requests:
    """The outermost layer: whatever happens inside, the client has an answer with the request's id."""

    def __init__(self, app: ASGIApp, *, metrics: HttpMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
        request_id = given.decode() if _REQUEST_ID.fullmatch(given) else secrets.token_hex(16)
        scope.setdefault("state", {})["request_id"] = request_id
        with structlog.contextvars.bound_contextvars(request_id=request_id):
            answer = self._traced if is_tracing() else self._answer
            await answer(scope, receive, _Sender(send, scope, request_id))

    async def _traced(self, scope: Scope, receive: Receive, sender: "_Sender") -> None:
        """Below the caller's own span, if it sent one; named by the route, which holds no user's name."""
        parent = next((value for name, value in scope["headers"] if name == b"traceparent"), b"")
        with span(scope["method"], kind="server", parent=parent.decode("latin-1") or None) as opened:
            await self._answer(scope, receive, sender)
            route = getattr(scope.get("route"), "path", "unmatched")
            opened.update_name(f"{scope['method']} {route}")
            opened.set_attributes(
                {
                    "http.request.method": scope["method"],
                    "http.route": route,
                    "http.response.status_code": sender.status or 499,
                    "psharelora.request_id": sender.request_id,
                }
            )

    async def _answer(self, scope: Scope, receive: Receive, sender: "_Sender") -> None:
        begun = time.perf_counter()
        try:
            await self._app(scope, receive, sender)
        except ClientDisconnect:
            log.info("client_disconnected")
        except Exception:
            log.exception("request_failed")
            if sender.status is None:
                response = problem_response(scope, "internal", "the request could not be answered; the log has why.")
                await response(scope, receive, sender)
        finally:
            seconds = time.perf_counter() - begun
            route = getattr(scope.get("route"), "path", "unmatched")
            method = scope["method"] if scope["method"] in _METHODS else "other"
            status = sender.status or 499
            self._metrics.count_request(route, method, status, seconds)
            if "audited" in scope["state"] and status >= 400:
                await _note_failure(scope, status)
            log.info("request", route=route, method=method, status=status, milliseconds=round(seconds * 1000, 2))


async def _note_failure(scope: Scope, status: int) -> None:
    """Tell the audit log of an administrator's call that was refused or failed."""
    action, environment = scope["state"]["audited"]
    try:
        await note_failure(scope["app"].state.services.db, action, environment, str(status))
    except StoreUnavailableError:
        log.exception("failure_not_audited", action=action, environment=environment, status=status)


class _Sender:
    """Adds the headers of every answer, and remembers its status."""

    def __init__(self, send: Send, scope: Scope, request_id: str) -> None:
        self._send = send
        self._scope = scope
        self.request_id = request_id
        self.status: int | None = None

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = list(message.get("headers", ()))
            present = {name for name, _ in headers}
            headers.append((b"x-request-id", self.request_id.encode()))
            headers.extend(one for one in _RAW_HEADERS if one[0] not in present)
            if self._scope["scheme"] == "https":
                headers.extend(_OVER_TLS)
            allowance = self._scope["state"].get("allowance")
            if allowance is not None:
                headers.extend(allowance.headers)
            message["headers"] = headers
        await self._send(message)
