"""Drills: long runs against real servers that print figures, each against its goal, and fail where one is missed.

`make fleet | faults | causes | fuzz`, by hand the whole, in CI samples. Tests hold what may never break; drills measure how much
of what may go wrong was tried.
"""
