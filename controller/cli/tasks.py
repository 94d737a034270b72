"""Tasks: kps task."""

from typing import TYPE_CHECKING, Annotated

import typer

from controller.cli import completion, options, output
from controller.cli.command import command, group
from controller.cli.exits import usage
from controller.cli.following import begin, explain, follow, proofs
from controller.cli.operations import credentials, key_of
from controller.cli.session import Session

if TYPE_CHECKING:
    from controller.answers import StartedTask

tasks = group(
    "Tasks: what was asked for on each server, and how it ended.",
    "kps task list --failed",
    "kps task retry 0192f0c1-7c1e-7b6e-9d0a-2f1f3f0a9b11",
)


@command(tasks, "list", "kps task list", "kps task list --failed", "kps task list --running --json")
async def list_(
    session: Session,
    *,
    failed: Annotated[bool, typer.Option("--failed", metavar="", help="Only those that failed.")] = False,
    running: Annotated[bool, typer.Option("--running", metavar="", help="Only those that wait or run.")] = False,
) -> None:
    """List tasks, the oldest first."""
    if failed and running:
        raise usage("--failed and --running exclude each other")
    async with session.client() as client:
        found = await client.tasks(failed=failed, running=running)
    if session.json:
        output.as_json(found)
        return
    output.table(
        ("ID", "SERVER", "LOGIN", "OPERATION", "STATUS", "CAUSE", "WHEN"),
        [
            (
                one["id"],
                one["server"],
                one["login"],
                one["operation"],
                one["status"],
                one["cause"] or "-",
                output.seconds(one["created_at"]),
            )
            for one in found
        ],
        whole="ID",
        empty="no tasks",
    )


@command(
    tasks,
    "show",
    "kps task show 0192f0c1-7c1e-7b6e-9d0a-2f1f3f0a9b11",
    "kps task show 0192f0c1-7c1e-7b6e-9d0a-2f1f3f0a9b11 --json",
)
async def show(
    session: Session,
    id_: Annotated[str, typer.Argument(metavar="ID", help="The task's id.", autocompletion=completion.tasks)],
) -> None:
    """Show all that is known of a task; of a failed one also how to handle it."""
    async with session.client() as client:
        task = await client.task(id_)
    if session.json:
        output.as_json(task)
        return
    output.facts(
        {
            "task": task["id"],
            "server": task["server"],
            "login": task["login"],
            "operation": task["operation"],
            "status": task["status"],
            "server state": task["server_state"],
            "phase": task["phase"],
            "proof": proofs(task["proof"]),
            "created": output.seconds(task["created_at"]),
            "started": output.seconds(task["started_at"]),
            "finished": output.seconds(task["finished_at"]),
        }
        | ({"retry of": task["retry_of"]} if task["retry_of"] else {})
    )
    if task["status"] == "failed":
        output.say("")
        explain(task)
    elif task["message"]:
        output.say("")
        output.say(task["message"])


@command(
    tasks,
    "retry",
    "kps task retry 0192f0c1-7c1e-7b6e-9d0a-2f1f3f0a9b11",
    "kps task retry 0192f0c1-7c1e-7b6e-9d0a-2f1f3f0a9b11 --password-stdin < password",
)
async def retry(
    session: Session,
    id_: Annotated[str, typer.Argument(metavar="ID", help="The failed task's id.", autocompletion=completion.failed_tasks)],
    *,
    password_stdin: options.PasswordStdin = False,
    password_of: options.PasswordOf = None,
    identity: options.Identity = None,
    passphrase_stdin: options.PassphraseStdin = False,
    agent: options.SshAgent = None,
    certificate: options.Certificate = None,
) -> int:
    """Ask once more for what failed, with the same options. Credentials are never kept: give them again."""
    if agent:
        session.at_home("--agent")
    key = key_of(identity, agent, certificate, password_stdin, passphrase_stdin)
    async with session.client() as client:
        server = str((await client.task(id_))["server"])
        credential = key | credentials([server], password_stdin, password_of).get(server, {})

        async def again() -> "list[StartedTask]":
            return [await client.retry(id_, credential or None)]

        return await follow(session, client, await begin(session, again()), identity)


@command(tasks, "delete", "kps task delete 0192f0c1-7c1e-7b6e-9d0a-2f1f3f0a9b11", "kps task delete --all")
async def delete(
    session: Session,
    id_: Annotated[
        str | None,
        typer.Argument(metavar="[ID]", help="The task's id.", autocompletion=completion.failed_tasks),
    ] = None,
    *,
    every: Annotated[bool, typer.Option("--all", metavar="", help="Every failed task.")] = False,
) -> None:
    """Take failed tasks off the list, or cancel a task that nobody has begun. What happened stays in the events.

    One that may have left its key as the only one stays until that is known: `kps server check` asks the server.
    """
    if every == bool(id_):
        raise usage("which tasks? give one ID, or --all for every failed one")
    async with session.client() as client:
        done = await client.delete_task(id_) if id_ else {"deleted": await client.delete_failed_tasks()}
    deleted = done["deleted"]
    if session.json:
        output.as_json(done)
    elif done.get("cancelled"):
        output.say("the task is cancelled; nobody had begun it")
    else:
        output.say(f"{deleted} failed {'task is' if deleted == 1 else 'tasks are'} deleted")
