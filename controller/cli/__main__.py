"""`python -m controller.cli`: the same as `kps`."""

from controller.cli import main

main()
