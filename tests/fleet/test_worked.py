"""Workers that are stopped, killed, or left without PostgreSQL: a sample of `make workers`, and that it sees what is wrong."""

import random
from collections import Counter
from contextlib import ExitStack

import psycopg
import pytest

from tests.fleet.cable import Turnstile
from tests.fleet.fakes import KEYS, Fakes, file
from tests.fleet.worked import Shared, Story, misses, refusals


@pytest.fixture
def stack():
    with ExitStack() as stack:
        yield stack


def test_workers_that_are_stopped_or_killed_or_without_their_database_end_each_task_once(
    tmp_path, make_server, postgresql, stack
):
    url = stack.enter_context(postgresql.database())
    real, fakes = make_server(), stack.enter_context(Fakes(4))
    behind = [stack.enter_context(Turnstile(real))]
    servers = [real, *fakes]
    product = stack.enter_context(Shared(tmp_path / "home", postgresql, url))
    story = Story(product, servers, behind, random.Random(0))
    story.first_stop()
    story.killed(0.5)
    story.restarted(0.5)
    story.over()
    missed = misses(product, servers, story.seen)
    assert not missed, "\n".join(missed)
    assert refusals(servers)[0] == 1
    assert (story.seen.stops, story.seen.kills.total(), story.seen.restarts.total()) == (1, 1, 1)
    # And what is otherwise than it was promised is seen.
    first, second, _, _ = fakes
    first.world.put(KEYS, file("", 0o600))
    second.world.put("/var/lib/kps/nonce", file("left"))
    late = max(story.seen.dead, key=story.seen.dead.__getitem__)
    with psycopg.connect(url) as connection:
        connection.execute("UPDATE tasks SET status = 'running' WHERE seq = (SELECT max(seq) FROM tasks)")
        ((newest,),) = connection.execute("SELECT max(id) FROM events WHERE kind = 'task_phase'").fetchall()
        connection.execute("UPDATE events SET task_id = %s WHERE id = %s", [late, newest])
    found = Counter(each.partition(" ")[0] for each in misses(product, servers, story.seen))
    # The trail, too, says that somebody has changed an event.
    assert found == {"task": 1, "task_phase": 1, "xfake-0:": 1, "xfake-1:": 1, "the": 1}
