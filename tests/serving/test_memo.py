import asyncio
from collections.abc import Awaitable, Callable
from typing import NoReturn, TypeVar

import pytest

from app.serving.memo import Memo

pytestmark = pytest.mark.anyio

V = TypeVar("V")


async def test_what_several_ask_for_at_once_is_computed_once() -> None:
    memo = Memo[str, int](10)
    computed = []

    async def compute() -> int:
        computed.append(1)
        await asyncio.sleep(0.01)
        return 7

    assert await asyncio.gather(*(memo.get("key", compute) for _ in range(20))) == [7] * 20
    assert await memo.get("key", compute) == 7
    assert len(computed) == 1


async def test_the_value_used_longest_ago_makes_room() -> None:
    memo = Memo[str, bytes](10, size=len)
    for key in ("a", "b"):
        await memo.get(key, value_of(bytes(5)))
    await memo.get("a", never)
    await memo.get("c", value_of(bytes(4)))
    assert len(memo) == 2
    assert await memo.get("a", never) == bytes(5)
    assert await memo.get("b", value_of(b"anew")) == b"anew"


async def test_a_value_larger_than_everything_is_still_answered() -> None:
    memo = Memo[str, bytes](10, size=len)
    assert await memo.get("a", value_of(bytes(50))) == bytes(50)
    await memo.get("b", value_of(b"b"))
    assert await memo.get("a", value_of(b"anew")) == b"anew"


async def test_a_failure_reaches_everybody_who_waits_and_is_not_kept() -> None:
    memo = Memo[str, int](10)

    async def fail() -> int:
        await asyncio.sleep(0.01)
        raise ValueError("not today")

    outcomes = await asyncio.gather(*(memo.get("key", fail) for _ in range(3)), return_exceptions=True)
    assert [str(one) for one in outcomes] == ["not today"] * 3
    assert await memo.get("key", value_of(1)) == 1


async def test_a_caller_who_goes_away_leaves_the_others_waiting() -> None:
    memo = Memo[str, int](10)
    begun = asyncio.Event()

    async def compute() -> int:
        begun.set()
        await asyncio.sleep(0.02)
        return 7

    first = asyncio.create_task(memo.get("key", compute))
    await begun.wait()
    second = asyncio.create_task(memo.get("key", never))
    await asyncio.sleep(0)
    first.cancel()
    assert await second == 7
    assert first.cancelled()


async def test_closing_waits_for_what_is_being_computed() -> None:
    memo = Memo[str, int](10)
    done = []

    async def compute() -> int:
        await asyncio.sleep(0.02)
        done.append(1)
        return 7

    caller = asyncio.create_task(memo.get("key", compute))
    await asyncio.sleep(0)
    await memo.close()
    assert (done, len(memo)) == ([1], 0)
    assert await caller == 7


async def test_dropped_keys_are_computed_anew() -> None:
    memo = Memo[int, int](10)
    for key in range(4):
        await memo.get(key, value_of(key))
    memo.drop(lambda key: key < 2)
    assert len(memo) == 2
    assert await memo.get(0, value_of(100)) == 100


def value_of(value: V) -> Callable[[], Awaitable[V]]:
    async def compute() -> V:
        return value

    return compute


async def never() -> NoReturn:
    raise AssertionError("it is kept, so nobody computes it")
