"""Commands that ask once more, with what has to be given again: credentials are never kept."""

from controller.cli.output import Known

# What is kept of a credential (controller/service/tasks.py), and the option with which it is given.
_OPTIONS = {
    "identity": "--identity FILE",
    "passphrase": "--passphrase-stdin",
    "agent": "--agent KEY",
    "certificate": "--certificate FILE",
}
PASSWORD_HELPS = frozenset({"wrong_password", "credential_needed"})


def retry(task: Known) -> str:
    """Return the command that retries a failed task."""
    return " ".join(["kps task retry", str(task["id"]), *credentials(task)])


def repair(task: Known) -> str:
    """Return the command that repairs what a check has found, for the same key and by the same way in."""
    request = task.get("request", {})
    words = ["kps server check", str(task["server"]), "--login", str(task["login"]), "--repair"]
    if request.get("keypair"):
        words += ["--keypair", str(request["keypair"])]
    if request.get("public_key"):
        words.append("--public-key FILE")
    return " ".join(words + credentials(task))


def credentials(task: Known) -> list[str]:
    """Return the options with which a task's credentials are given again."""
    request = task.get("request", {})
    given = request.get("given", [])
    words = [option for name, option in _OPTIONS.items() if name in given]
    if "password" in given or task.get("cause") in PASSWORD_HELPS:
        words.append("--password-stdin")
        if request.get("password_of"):
            words += ["--password-of", str(request["password_of"])]
    return words
