"""Each command of kps is where the tree says, and for one nothing of the others is read."""

import pkgutil
import subprocess
import sys
from importlib import import_module
from types import ModuleType

import typer

import controller.cli
from controller.cli.tree import PLACES, Commands

READ = """
import sys
from controller.cli import app
from typer.main import get_command
get_command(app).commands["audit"]
print(*sorted(name.removeprefix("controller.cli.") for name in sys.modules if name.startswith("controller.cli.")))
"""


def modules() -> list[ModuleType]:
    found = pkgutil.walk_packages(controller.cli.__path__, "controller.cli.")
    return [import_module(each.name) for each in found if not each.name.endswith("__main__")]


def within(group: typer.Typer) -> set[int]:
    inner = [each.typer_instance for each in group.registered_groups if each.typer_instance is not None]
    return {id(group)}.union(*map(within, inner))


def test_every_group_and_every_command_of_a_module_is_in_the_tree() -> None:
    commands = Commands()
    places = {place.partition(":")[::2] for place in PLACES.values()}
    reached = {id(controller.cli.app)}.union(
        *(within(getattr(import_module(f"controller.cli.{module}"), group)) for module, group in places if group)
    )
    for module in modules():
        groups = {name: value for name, value in vars(module).items() if isinstance(value, typer.Typer)}
        assert {name for name, value in groups.items() if id(value) not in reached} == set(), module.__name__
        if hasattr(module, "register"):
            own = typer.Typer()
            module.register(own)
            place = module.__name__.removeprefix("controller.cli.")
            assert [each.name for each in own.registered_commands] == [name for name in PLACES if PLACES[name] == place]
    assert [commands[name].name for name in PLACES] == list(PLACES)


def test_for_one_command_the_modules_of_the_others_are_not_read() -> None:
    read = subprocess.run([sys.executable, "-c", READ], capture_output=True, text=True, check=True).stdout.split()
    others = {place.partition(":")[0] for place in PLACES.values()} - {"audit"}
    assert "audit" in read
    assert others.intersection(read) == set()
