"""The methods of both clients: each call of the contract bound to who carries it out."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, overload

from app.client import calls
from app.client.wire import Call, Steps

if TYPE_CHECKING:
    from app.client.client import AsyncClient, Client

P = ParamSpec("P")
T = TypeVar("T")


class Method(Generic[P, T]):
    """A function that makes a call, as a method that makes it and answers: at once, or to be awaited."""

    def __init__(self, build: Callable[P, Call[T] | Steps[T]]) -> None:
        self._build = build
        self.__doc__ = build.__doc__

    @overload
    def __get__(self, client: None, owner: type) -> Method[P, T]: ...
    @overload
    def __get__(self, client: Client, owner: type) -> Callable[P, T]: ...
    @overload
    def __get__(self, client: AsyncClient, owner: type) -> Callable[P, Awaitable[T]]: ...
    def __get__(self, client: Any, owner: type) -> Any:
        if client is None:
            return self

        @functools.wraps(self._build)
        def method(*args: P.args, **kwargs: P.kwargs) -> Any:
            return client.carry_out(self._build(*args, **kwargs))

        return method


class Methods:
    put_environment = Method(calls.put_environment)
    environment = Method(calls.environment)
    environments = Method(calls.environments)
    delete_environment = Method(calls.delete_environment)
    put_items = Method(calls.put_items)
    items = Method(calls.items)
    delete_item = Method(calls.delete_item)
    record = Method(calls.record)
    import_preferences = Method(calls.import_preferences)
    import_lines = Method(calls.import_lines)
    user = Method(calls.user)
    users = Method(calls.users)
    export_user = Method(calls.export_user)
    erase_user = Method(calls.erase_user)
    rewards = Method(calls.rewards)
    rank = Method(calls.rank)
    actions = Method(calls.actions)
    actions_at = Method(calls.actions_at)
    slate = Method(calls.slate)
    explain_action = Method(calls.explain_action)
    policy = Method(calls.policy)
    queries = Method(calls.queries)
    explain = Method(calls.explain)
    adapter = Method(calls.adapter)
    retrain = Method(calls.retrain)
    refit = Method(calls.refit)
    refits = Method(calls.refits)
    cancel_refit = Method(calls.cancel_refit)
    wait_for_refit = Method(calls.wait_for_refit)
    models = Method(calls.models)
    model = Method(calls.model)
    promote = Method(calls.promote)
    create_key = Method(calls.create_key)
    keys = Method(calls.keys)
    rotate_key = Method(calls.rotate_key)
    revoke_key = Method(calls.revoke_key)
    audit = Method(calls.audit)
    health = Method(calls.health)
