"""The agent: everything that runs on a server. Standard library of python3-minimal only, syntax of Python 3.6."""

VERSION = 1
