"""The controller is restarted while clients submit and poll: no task is lost, and each comes to exactly one end."""

import pytest

from tests.fleet.restarts import ENDS, Restarted, misses, story


def test_a_controller_restarted_under_its_clients_loses_no_task(tmp_path, make_server):
    servers = [make_server() for _ in range(3)]
    product = Restarted(tmp_path / "home", concurrency=2, stop_seconds=1)
    try:
        seen = story(product, servers, clients=4, restarts=len(ENDS), between_seconds=1)
        assert misses(product, servers, seen) == []
        assert len(seen.accepted) >= 2 * len(ENDS)
        assert seen.followed.total() == len(seen.accepted)
    finally:
        product.end()


@pytest.mark.parametrize("lost", ["row", "second end"])
def test_what_is_lost_or_ends_twice_is_found(tmp_path, make_server, lost):
    product = Restarted(tmp_path / "home")
    try:
        seen = story(product, [make_server()], clients=1, restarts=0, between_seconds=0)
        assert misses(product, [], seen) == []
        with product.database() as connection, connection:
            task_id = connection.execute("SELECT id FROM tasks LIMIT 1").fetchone()[0]
            if lost == "row":
                seen.accepted["gone"] = "nobody"
            else:
                connection.execute(
                    "UPDATE events SET kind = 'task_finished' WHERE kind = 'task_running' AND task_id = ?", (task_id,)
                )
        assert len(misses(product, [], seen)) == 1
    finally:
        product.end()
