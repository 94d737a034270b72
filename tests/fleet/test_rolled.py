"""Rollouts over fake servers whose controller is killed: a sample of `make rollouts`, and that it sees what is wrong."""

import random
from collections import Counter

from tests.fleet.fakes import KEYS, Fakes, file
from tests.fleet.rolled import ORDERS, Killed, misses, story


def test_a_controller_killed_in_a_rollout_forgets_no_server(tmp_path):
    with Fakes(3) as fakes:
        product = Killed(tmp_path / "home")
        try:
            # Killed as soon as it is ordered, so not all can be through: a later controller has to open what was given.
            seen = story(product, fakes.servers, kills=2, each_phase=0, chance=random.Random(0), longest_seconds=0)
            assert misses(product, fakes.servers, seen) == []
            assert (seen.kills, seen.opened > 0) == (2, True)
            # And what is otherwise than it was promised is seen.
            first, second, third = fakes.servers
            # (The first rollout may be over by the second kill, and then the last one has unbound.)
            ((line,),) = product.rows("SELECT public_key FROM keypairs WHERE name = 'rolled'")
            bound = len(seen.rollouts) % len(ORDERS) == 1
            first.world.put(KEYS, file(f"{line}\n{line}\n", 0o600))
            second.world.put("/var/lib/kps/nonce", file("left"))
            third.world.put(KEYS, file("" if bound else f"{line}\n", 0o600))
            with product.database() as connection, connection:
                connection.execute("UPDATE events SET kind = 'task_finished' WHERE kind = 'task_running' AND id ="
                                   " (SELECT max(id) FROM events WHERE kind = 'task_running')")  # fmt: skip
            found = Counter(each.partition(" ")[0] for each in misses(product, fakes.servers, seen))
            assert found == {"task": 1, "fake-0:": 1, "fake-1:": 1, "fake-2:": 1}
        finally:
            product.end()
