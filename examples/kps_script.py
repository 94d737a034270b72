"""The controller's own client, without asyncio: python kps_script.py stage=prod

Checks the servers that are selected, and says which of them their key does not open.
"""

import sys

from controller.client import ENDINGS, WAIT_SECONDS
from controller.scripts import client


def main(words: list[str]) -> int:
    """Return 1 where a server's key does not open it."""
    with client() as kps:
        waited = {task["id"] for task in kps.start({"operation": "check", "servers": words})}
        ids, after = sorted(waited), 0
        while waited:
            for event in kps.events(after, waited, wait_seconds=WAIT_SECONDS):
                after = event["id"]
                if event["kind"] in ENDINGS:
                    waited.discard(event["task_id"])
        tasks = kps.tasks(ids)
    for task in tasks:
        print(f"{task['server']}: {task['cause'] or 'the key logs in'}")
    return 1 if any(task["cause"] for task in tasks) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
