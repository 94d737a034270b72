"""Whether a controller of many that share a store has what opens secrets: it is looked again, and not all the time."""

import asyncio

import pytest

from controller.errors import Away, Problem, Unavailable
from controller.service.opens import AGAIN_SECONDS, Opens

MISSING = Unavailable("root_key_missing", "there is no root key")
AWAY = Away("store_unusable", "the server is away")


@pytest.mark.parametrize(
    ("found", "says"),
    [
        ([None], [True]),
        ([MISSING], [False]),
        ([MISSING, None], [False, True]),
        ([None, MISSING], [True, False]),
        # Whether the key opens is not told by a store that is away.
        ([None, AWAY, MISSING], [True, True, False]),
        ([AWAY, None], [False, True]),
    ],
)
def test_it_says_what_was_found_last(found: list[Problem | None], says: list[bool]) -> None:
    at, looks = 0.0, iter(found)

    def open_root() -> None:
        if (problem := next(looks)) is not None:
            raise problem

    async def story() -> None:
        nonlocal at
        opens = Opens(open_root)
        asyncio.get_running_loop().time = lambda: at  # type: ignore[method-assign]
        for each, wanted in zip(says, found, strict=True):
            assert await opens() is each
            assert await opens() is each  # that was not asked once more
            assert opens.why is wanted
            at += AGAIN_SECONDS

    asyncio.run(story())
