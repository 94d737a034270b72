"""How a task is run. From the ground up: means, job, keys, preparing and road, showing, carrying, aftermath, course, runner."""

from controller.run.runner import Runner

__all__ = ["Runner"]
