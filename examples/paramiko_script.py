"""paramiko over the servers of a kps controller: python paramiko_script.py web-1 db-1

What to install: docs/scripts.md.
"""

import sys

from controller.paramiko import connect
from controller.scripts import Controller


def main(names: list[str]) -> None:
    """Print which kernel each server runs."""
    controller = Controller()  # each private key is opened once, however many servers it opens
    for name in names:
        with connect(name, controller=controller) as ssh:
            _, printed, _ = ssh.exec_command("uname -r")
            print(f"{name}: {printed.read().decode().strip()}")


if __name__ == "__main__":
    main(sys.argv[1:])
