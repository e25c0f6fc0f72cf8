"""Who calls, and what the key allows: scopes, and the environments that it can see."""

import hmac
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated
from urllib.parse import quote

from fastapi import Depends, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Send
from starlette.types import Scope as AsgiScope

from app.api.problems import domain_problem
from app.api.services import Services
from app.api.validation import quoted
from app.domain import ApiKey, DomainError, NotFoundError, PermissionDeniedError, Scope, UnauthenticatedError
from app.store import actor

_BOOTSTRAP = ApiKey(
    id="bootstrap",
    name="from the settings",
    scopes=frozenset(Scope),
    environments=None,
    created_at=datetime(2026, 1, 1, tzinfo=UTC),
)


PROTECTED = ("/v1/", "/v2/", "/compat/", "/personalizer/")

LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "[::1]", "::1"})
"""Whom a service that is open to all answers, and as whom: also not the page of a foreign name that leads here."""

_IN_PATH = re.compile(r"/compat/keys/(?P<secret>[^/]+)(?P<rest>/.+)")
"""Training frameworks post rewards' questions to an address and nothing else."""

AZURE_HEADER = "ocp-apim-subscription-key"
"""Where clients of Azure's services put their key."""


class Authentication:
    """Refuses calls of the API without a valid key, before their bodies are read.

    A key in the path is taken out of it, so that nothing behind this layer can log or repeat it. What a key may ask in
    a minute is counted here too, and whose deeds the audit log tells of is noted.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].startswith(PROTECTED):
            state = scope["state"]
            try:
                key = await _key_of_request(scope)
                allowance, refused = scope["app"].state.services.rates.spend(key)
                if allowance is not None:
                    state["allowance"] = allowance
                if refused is not None:
                    raise refused
            except DomainError as error:
                await domain_problem(scope, error)(scope, receive, send)
                return
            state["key"] = key
            actor.set((key.id, state["request_id"]))
        await self._app(scope, receive, send)


async def _key_of_request(scope: AsgiScope) -> ApiKey:
    services: Services = scope["app"].state.services
    if services.open_to_all:
        check_loopback(scope)
    in_path = _IN_PATH.fullmatch(scope["path"])
    if in_path is not None:
        scope["path"] = "/compat" + in_path["rest"]
        scope["raw_path"] = quote(scope["path"]).encode()
        key = await _key_of(services, f"Bearer {in_path['secret']}")
        if not services.open_to_all and key.scopes != {Scope.READ}:
            held = ", ".join(sorted(key.scopes))
            raise PermissionDeniedError(f"a key in the path may have the scope read and no other; this one has {held}.")
        return key
    headers = Headers(scope=scope)
    header = headers.get("authorization")
    if header is None and scope["path"].startswith("/personalizer/") and AZURE_HEADER in headers:
        header = f"Bearer {headers[AZURE_HEADER]}"
    return await _key_of(services, header)


def check_loopback(scope: AsgiScope) -> None:
    """However the process was started, and whatever it listens on.

    Raises
    ------
    PermissionDeniedError
        The connection came in from elsewhere, or asks for a name that is not this machine's own.
    """
    server = scope.get("server") or ("127.0.0.1", None)
    host = Headers(scope=scope).get("host", "localhost")
    name = host if host.endswith("]") else host.rpartition(":")[0] or host
    if server[1] is not None and server[0] not in LOOPBACK_HOSTS | {"::ffff:127.0.0.1"}:
        raise PermissionDeniedError("PSHARELORA_AUTH=off is for this machine alone: set it to keys.")
    if name.lower() not in LOOPBACK_HOSTS:
        raise PermissionDeniedError(
            f"PSHARELORA_AUTH=off answers only as localhost or 127.0.0.1; the request is for {quoted(host)}."
        )


async def _key_of(services: Services, header: str | None) -> ApiKey:
    if services.open_to_all:
        return _BOOTSTRAP
    if header is None:
        raise UnauthenticatedError("an API key is needed: send the header Authorization: Bearer <key>.")
    scheme, _, secret = header.partition(" ")
    secret = secret.strip()
    if scheme.lower() != "bearer" or not secret:
        raise UnauthenticatedError("the Authorization header must be Bearer <key>.")
    if services.admin_key is not None and hmac.compare_digest(secret.encode(), services.admin_key.encode()):
        return _BOOTSTRAP
    return await services.current.key(secret)


async def key_if_sent(request: Request) -> ApiKey | None:
    """For addresses that answer everybody, and more to those who have a key."""
    services: Services = request.app.state.services
    if request.headers.get("authorization") is None and not services.open_to_all:
        return None
    return await _key_of_request(request.scope)


_bearer = HTTPBearer(auto_error=False, scheme_name="ApiKey", description="An API key, as `Bearer <key>`.")


def requires(needed: Scope) -> Callable[..., ApiKey]:
    """A dependency: the caller's key, which has the scope and can see the environment in the path."""

    def check(request: Request, _: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)] = None) -> ApiKey:
        key: ApiKey = request.state.key
        environment = request.path_params.get("environment")
        if needed is Scope.ADMIN:
            mark_audited(request, environment)
        check_scope(key, needed)
        if environment is not None:
            check_visible(key, environment)
        return key

    return check


def defines(request: Request, _: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)] = None) -> ApiKey:
    """A dependency: the caller's key, which may define the environment in the path."""
    key: ApiKey = request.state.key
    mark_audited(request, request.path_params["environment"])
    check_scope(key, Scope.ADMIN)
    if key.environments is not None and request.path_params["environment"] not in key.environments:
        listed = ", ".join(sorted(key.environments))
        raise PermissionDeniedError(f"this API key may define only these environments: {listed}.")
    return key


Reader = Annotated[ApiKey, Depends(requires(Scope.READ))]
Feeder = Annotated[ApiKey, Depends(requires(Scope.FEEDBACK))]
Admin = Annotated[ApiKey, Depends(requires(Scope.ADMIN))]
Definer = Annotated[ApiKey, Depends(defines)]


def mark_audited(request: Request, environment: str | None) -> None:
    """Should this call of an administrator fail, the audit log tells of it; what succeeds notes itself."""
    if request.method != "GET":
        action = f"{request.method} {request.scope['route'].path}"
        request.scope["state"]["audited"] = (action, environment)


def check_acts(key: ApiKey, user: str | None) -> None:
    """The key may name this user in a header, if it named one."""
    if user is not None:
        check_scope(key, Scope.ACT_AS_USER)


def check_feeds(key: ApiKey, environment: str) -> None:
    """The key may record preferences in this environment."""
    check_scope(key, Scope.FEEDBACK)
    check_visible(key, environment)


def check_scope(key: ApiKey, needed: Scope) -> None:
    """The scope `admin` has the others in it."""
    if needed in key.scopes or Scope.ADMIN in key.scopes:
        return
    held = ", ".join(sorted(key.scopes))
    raise PermissionDeniedError(f"this call needs the scope {needed}; the API key has {held}.")


def check_visible(key: ApiKey, environment: str) -> None:
    """To a key of another tenant an environment isn't there."""
    if not can_see(key, environment):
        raise unknown_environment(environment)


def unknown_environment(name: str) -> NotFoundError:
    """In the store's own words, so that nobody can tell a hidden environment from none."""
    return NotFoundError(f"There is no environment {name!r}.")


def can_see(key: ApiKey, environment: str) -> bool:
    return key.environments is None or environment in key.environments
