"""Writes docs/cli.md from the commands themselves: python -m controller.cli.reference > docs/cli.md"""

import sys
from collections.abc import Iterator
from typing import Any

from typer.main import get_command

from controller.cli import app, exits
from controller.cli.command import COMMON

INTRODUCTION = """\
# kps

The commands, as `kps COMMAND --help` tells them. This page is made from them: `python -m controller.cli.reference`.

Every command takes `--json`, `--home DIR` and `--profile NAME`, before or after its name. The home is `--home`, else `KPS_HOME`,
else `~/.local/share/kps`. While `kps serve` runs there, commands are carried out by it; otherwise by the command itself. With
`--profile`, `KPS_URL` or `KPS_PROFILE` they go to a controller [on the network](remote.md).

`SERVER...` takes names of servers, selections as in `env=prod`, or `--all` stands in their place; several servers are
worked on at the same time. Tables go to stdout, progress and errors to stderr.

Passwords come from stdin only. For one server that is one line; for several, each line is the server's name, a tab and
its password. A password is never tried on a server that it was not given for. At a terminal each is asked for instead.
"""

JSON = """\
With `--json` a command prints one JSON document on stdout, ASCII only, and an error as one object on one line of stderr:
`{"error": {"code": "...", "message": "..."}}`. Lists are bare arrays. Times are RFC 3339 in UTC. The fields below stay;
more may be added.
"""

FIELDS: dict[str, dict[str, str]] = {
    "init": {
        "tenant_id": "the tenant",
        "project_id": "its project",
        "user_id": "its administrator",
        "access_key": "the administrator's access key",
        "secret_key": "the secret of that access key; null when `kps init` is repeated",
    },
    "moved table": {
        "table": "the table",
        "rows": "how many rows it holds, there as here",
        "digest": "the SHA-256 over all of them in order, there as here",
    },
    "whoami": {
        "controller": "the URL, or the home",
        "said_by": "the option or variable that says so",
        "user": "as whom you are taken, by name; and `user_id`",
        "role": "`administrator`, `operator`, `auditor`",
        "kind": "`local`, `federated`, `delegated`",
        "tenant": "by name; and `tenant_id`",
        "project_id": "for which you ask",
        "at_home": "whether it is by the home of this machine",
    },
    "finding": {
        "home": "the home",
        "served": "whether the controller that serves it has looked; else the command itself",
        "status": "of the gravest finding: `ok`, `warning`, `error`",
        "findings": "a list of {about, status, code, seen, next_step}; `code` is empty where it is well: "
        "[the doctor](kps-doctor.md#findings)",
    },
    "profile": {
        "name": "what it is called",
        "file": "where it is",
        "url": "of the controller; this and the rest not from `list` and `remove`",
        "access_key": "the access key's id",
        "ca_certificate": "the file by which the controller's certificate is known, or null",
        "fingerprint": "the fingerprint by which it is, or null",
    },
    "server": {
        "id": "UUID",
        "name": "what it is called here",
        "host": "address, or name in the DNS",
        "port": "of its sshd",
        "login": "its default login",
        "labels": "an object: name to value",
        "keypair": "name of the key pair bound to the default login, or null; also where that is another user's private one",
        "bindings": "a list of {login, keypair, another_users, proof, closed_password_login, task_id, created_at}; `keypair` is "
        "null where it is another user's private one",
        "password_login": "of the default login, as last seen: `on`, `off`, `unknown`",
        "host_key": "the key that its sshd must show, or null while it is not known",
        "trust_on_first_use": "whether the first host key seen is recorded and insisted on",
        "after_reset": "what waits for the first online proof after a reset, or null",
        "jump": "names of the jump servers that lead there, the nearest to us first",
        "reset_root": "where its disk is mounted while it is shut down; null: it runs",
        "old_algorithms": "algorithms that it is allowed although they are not safe any more",
    },
    "key pair": {
        "name": "what it is called",
        "type": "`ed25519`, `ecdsa-nistp256`, `ecdsa-nistp384`, `ecdsa-nistp521`, `rsa-2048`, `rsa-3072`, `rsa-4096`; "
        "by import also `rsa-BITS` and `dsa`",
        "scope": "`private` (one user's) or `account` (the whole tenant's)",
        "managed": "whether the private half is kept here",
        "master_key_id": "the customer master key that it is sealed under; null where it is not kept",
        "public_key": "one line, as in authorized_keys",
        "fingerprint": "`SHA256:...`, as ssh-keygen -l prints it",
        "fingerprint_md5": "the older form, `aa:bb:...`",
        "warnings": "a list of sentences: what to know of keys of this type",
        "created_at": "when it was made or taken in",
        "id": "UUID",
        "private_key": "the private key, OpenSSH's or as `--format` says; only from `create --unmanaged` (null with `--out`: "
        "it is in that file) and from `export` without `--out`",
    },
    "user": {
        "name": "what they are called in the tenant",
        "role": "`administrator`, `operator`, `auditor`: [roles](roles.md)",
        "kind": "`local`, `federated`, `delegated`",
        "external_id": "by which an identity provider knows a federated user, or null",
        "enabled": "whether they are let in",
        "source_networks": "a list of networks from which they may ask; empty: from everywhere",
        "created_at": "when they were taken in, or null for the first user of an old home",
        "id": "32 hexadecimal digits",
    },
    "access key": {
        "access_key": "its id",
        "user": "whose it is",
        "project_id": "for what it asks",
        "enabled": "whether it is taken",
        "created_at": "when it was made",
        "expires_at": "when it ends by itself, or null",
        "last_used_at": "when it was last used, to the minute, or null",
        "secret_key": "the secret; only from `create`, `rotate` and `kps tenant access-key`, in this answer and nowhere else",
    },
    "temporary access key": {
        "access_key": "its id",
        "user": "whose it is",
        "parent": "the access key that it stands on, and ends with",
        "created_at": "when it was made",
        "expires_at": "when it ends by itself",
        "project_id": "only from `create`: for what it asks; so are the next two, in this answer and nowhere else",
        "secret_key": "the secret",
        "security_token": "what goes with it in each request",
    },
    "console link": {
        "user": "whom it lets in",
        "code": "what it carries; in this answer and nowhere else",
        "path": "of the page that takes the code",
        "url": "the whole link, or null where nobody serves the console",
        "expires_at": "when it ends by itself",
    },
    "token": {
        "id": "32 hexadecimal digits; not the token",
        "user": "whose it is",
        "project_id": "for what it asks",
        "description": "what it is for",
        "created_at": "when it was made",
        "expires_at": "when it ends by itself",
        "last_used_at": "when it was last shown, to the minute, or null",
        "token": "the token itself; only from `create`, in this answer and nowhere else",
    },
    "quota": {
        "name": "`private_keypairs` (of each user), `account_keypairs`, `users`",
        "used": "how many there are; of what is counted for each user, 0 where no user was named",
        "limit": "how many there may be",
        "set": "whether somebody has set it; else it is the default",
    },
    "tenant": {
        "name": "what it is called",
        "id": "32 hexadecimal digits",
        "projects": "the ids of its projects",
        "account_keypairs_since": "when its first account key pair came, or null; from then on operators make them too",
        "v3_accepts_lockout": "whether calls of the v3 API may lock other logins out",
        "administrator": "only from `create`; so are `user_id`, `access_key` and `secret_key` of that user",
    },
    "secret": {
        "id": "UUID",
        "name": "what it is called",
        "kind": "`text`, or `password` of a login",
        "scope": "`private` or `account`",
        "description": "what it is for",
        "server": "of which it is the password, or null",
        "login": "whose password it is, or null",
        "version": "the newest, or null",
        "works": "of a password: the version that the server is known to have, or null",
        "rotates_every": "as in 30d, or null: by hand only",
        "rotates_at": "when it is rotated by itself next, or null",
        "created_at": "RFC 3339, UTC",
        "updated_at": "RFC 3339, UTC, or null",
        "versions": "only from `versions`: a list, the oldest first",
    },
    "secret version": {
        "version": "as in v3",
        "stages": "a list",
        "binary": "whether it is bytes, and no text",
        "sealed": "false while it waits for the key service",
        "created_at": "RFC 3339, UTC",
        "expires_at": "RFC 3339, UTC, or null",
    },
    "secret rotation": {
        "id": "UUID",
        "secret": "by name",
        "version": "that is on its way to the server",
        "by": "`hand`, `schedule`, `emergency`",
        "state": "`running`, `done`, `failed`",
        "tries": "how often it was tried",
        "proved": "whether somebody has logged in with it",
        "cause": "why it failed, or null",
        "message": "the same in a sentence",
        "task_id": "the newest of its tasks",
        "created_at": "RFC 3339, UTC",
        "ended_at": "RFC 3339, UTC, or null",
        "again_at": "when it is tried again by itself, or null",
    },
    "task": {
        "id": "UUID",
        "number": "its place in the order in which the tasks of all tenants were asked for",
        "server": "the server's name",
        "login": "the login it is about",
        "operation": "`bind`, `replace`, `unbind`, `reset`, `password-login-enable`, `password-login-disable`, "
        "`password-login-status`, `check`, `password-set`, `door-open`, `door-extend`, `door-close`, `door-status`",
        "status": "`ready`, `running`, `succeeded`, `unchanged`, `failed`, `cancelled`",
        "server_state": "`as_asked`, `as_before`, `reverted`, `partial`, `unknown`",
        "phase": "how far it came: `queued`, `connect`, `look`, `decide`, `widen`, `prove`, `narrow`, `commit`, `undo`, `done`",
        "cause": "why it failed, one of a closed list of codes, or null",
        "message": "the same for a person, with server, file and line",
        "evidence": "an object: what was seen",
        "proof": "a list of {way: `key` or `password`, login, method: `logged_in`, `accepted`, `password_offered`, "
        "`refused`, `not_applicable`}",
        "handling": "what to do about it, or null",
        "retryable": "whether a retry can help as things are",
        "created_at": "when it was asked for",
        "started_at": "when it began, or null",
        "finished_at": "when it ended, or null",
        "retry_of": "the task that this one asks for again, or null",
        "rollout_id": "the rollout that it is part of, or null",
        "request": "an object: its options, none of them secret (of another user's private key pair without what would tell "
        "it); `given` lists what came with it: `password`, `identity`, "
        "`agent`; `password_of` is the login whose password it was said to be",
    },
    "event": {
        "number": "its place in the tenant's trail: 1, 2, 3 and so on",
        "at": "when, to the microsecond",
        "kind": "what happened: docs/events.md",
        "user_id": "who did it, or asked for the task that did; null: the controller by itself",
        "task_id": "the task, or null",
        "server_id": "the server, or null",
        "keypair_id": "the key pair, or null",
        "phase": "of the task, or null",
        "detail": "an object: what else there is to say",
        "id": "its place among the events of all tenants",
        "tenant_id": "the tenant",
        "digest": "SHA-256 of all this and of the digest before it, in hex: docs/audit.md",
        "signature": "Ed25519 of the digest, in Base64; null where the key was not there",
    },
    "door": {
        "id": "32 hexadecimal digits",
        "server": "the server's name; and `server_id`",
        "login": "for which password login is opened",
        "network": "from which, in CIDR notation; null: from everywhere",
        "seconds": "for how long it was asked for",
        "state": "`asked` (a second user has to agree), `opening`, `open`, `closing`, `closed`, `failed`, `refused`, `lapsed`",
        "confirmed": "whether how it ended is known; of one that is `closing`, its server has not said yet that it is closed",
        "reason": "why, as whoever asked has said",
        "user_id": "who asked",
        "order_id": "what it was asked for with: what a second user agrees to",
        "task_id": "the task that opens it; there is one once the order is given",
        "last_task_id": "the last task that closes or extends it, or asks whether it is closed, or null",
        "created_at": "when it was asked for",
        "opened_at": "when it came open, or null",
        "deadline": "when its server closes it, or null",
        "left_seconds": "until then; 0 where it is not open",
        "closed_at": "when it was over, or null",
        "closed_by": "as its server says: `order`, `deadline`, `boot` or `damage`, or null",
        "note": "why it stands so, where that needs saying",
        "order": "only from `show`: the order that asked for it",
    },
    "order for doors": {
        "id": "UUID",
        "does": "`open` or `extend`",
        "state": "`given` (nobody else has to agree), `asked`, `approved`, `refused`, `lapsed`",
        "reason": "why",
        "seconds": "for how long",
        "doors": "a list of the ids of its doors",
        "user_id": "who asked",
        "created_at": "when",
        "rules": "a list of the `label=value` by which a second user has to agree",
        "approve_until": "until when they can, or null",
        "decided_by": "who agreed, or refused, or null; and `decided_at`",
    },
    "door rule": {
        "servers": "`label=value`: for these a second user has to agree",
        "minutes": "within so many",
        "user_id": "who set it",
        "created_at": "when",
    },
    "drill": {
        "servers": "a list with, of each: `server`, `login`, `opened_seconds` and `closed_seconds` (from the order to the end "
        "of its task, or null), `proof`, `state`, `why_not`",
        "seconds": "the whole drill",
    },
    "operation": {
        "task_id": "the same as `id`",
        "logins": "only from `password-login`: an object, login to `on`, `off` or `unknown`",
        "password": "only from `reset --set-password`: the one-time password, in this answer and nowhere else",
    },
    "master key": {
        "id": "UUID",
        "alias": "what it is called",
        "spec": "`AES_256`, `HMAC_256`, `HMAC_384`, `HMAC_512`, `HMAC_SM3`, `RSA_2048`, `RSA_3072`, `RSA_4096`, `EC_P256`, "
        "`EC_P384`",
        "usage": "`ENCRYPT_DECRYPT`, `SIGN_VERIFY`, `GENERATE_VERIFY_MAC`",
        "origin": "`kms` (made here) or `external` (imported)",
        "state": "`enabled`, `disabled`, `pending_deletion`, `pending_import`",
        "default": "whether it is a service's own",
        "description": "what it is for, in words",
        "version": "the newest; 0 before the first material came",
        "created_at": "when it was made",
        "deletes_at": "when it is destroyed, or null",
        "material_expires_at": "when its imported material is taken away, or null",
        "rotation": "an object: `every_days` (null: not by itself), `next_at`, `last_at`, `count`",
        "versions": "only from `show`: a list of {version, created_at}",
        "tags": "only from `show`: an object: name to value",
        "aliases": "only from `show`: a list of its further aliases",
    },
    "grant": {
        "id": "64 hexadecimal digits",
        "key_id": "of the master key",
        "grantee": "a user's id, or the tenant's for all its users",
        "operations": "a list of what is granted",
        "issuer": "id of the user who gave it",
        "name": "what it is called, perhaps empty",
        "retiring": "id of the user who may retire it too, or null",
        "created_at": "when it was given",
    },
    "further alias": {
        "alias": "the name",
        "key_id": "of the master key that it means",
        "created_at": "when it was made",
        "updated_at": "when it came to mean this key",
    },
    "use of a master key": {
        "key_id": "the master key",
        "algorithm": "how it was done",
        "ciphertext": "Base64; not with `--out`: it is in that file. So with `plaintext`, `signature` and `mac`",
        "plaintext": "Base64",
        "source_key_id": "only from `re-encrypt`: the master key before",
        "source_algorithm": "only from `re-encrypt`: how it was encrypted before",
        "length": "of a data key, in bytes",
        "digest": "Base64: the SHA-256 of a data key",
        "spec": "only from `create-data-key-pair`",
        "public_key": "only from `create-data-key-pair` and `import-parameters` (Base64 of DER), and from `public-key` (PEM)",
        "private_key": "only from `create-data-key-pair`: Base64 of PKCS#8 in DER",
        "signature": "Base64",
        "mac": "Base64",
        "valid": "only from `verify` and `verify-mac`: whether it is good",
        "random": "only from `random`: Base64",
        "token": "only from `import-parameters`: Base64",
        "expires_at": "only from `import-parameters`: until when the material may come",
    },
    "root key": {
        "uri": "where it is",
        "check_value": "by which it is known again",
        "wraps_new": "whether it wraps new master keys; else it is needed for older ones until `kps root rotate` is through",
        "master_keys": "how many versions of master keys it has wrapped",
    },
    "certificate": {
        "fingerprint": "SHA-256 of it, as `AB:CD:...`",
        "public_key": "SHA-256 of its public key, Base64: what `curl --pinnedpubkey sha256//...` takes",
        "names": "a list of the names and addresses that it is for",
        "begins_at": "from when it holds",
        "ends_at": "until when",
    },
    "rotation": {
        "uri": "the root key now",
        "check_value": "by which it is known again",
        "rewrapped": "how many versions of master keys were wrapped anew",
        "no_longer_needed": "a list of the URIs of the root keys before",
    },
    "ssh configuration": {
        "directory": "where it is",
        "config": "the file for `ssh -F`",
        "servers": "a list of the names of the servers in it",
        "left_out": "a list of the names of those whose host key is not known",
    },
    "ssh-agent": {
        "socket": "where it listens",
        "keypairs": "a list of the names of the key pairs in it",
        "minutes": "so long at most",
    },
    "backup": {
        "made_at": "when",
        "kps": "by which version of kps",
        "counts": "by name, how many there are: tenants, users, servers, keypairs, managed, secrets, bindings, tasks, events",
        "root_keys": "a list of `uri` and `check` of the root keys that open it",
        "with_root_key": "whether the root key is in it",
        "out": "the file; only from `create`",
        "opened": "only from `verify`: `master_keys`, `private_halves` and `secrets` (versions), how many opened, and "
        "`unopenable`, by name what is wrong",
        "home": "the home that was made, or goes on; only from `restore` and `after-restore`, as are the next two",
        "root_key": "the URI of its root key; not from `after-restore`",
        "tasks_ended": "ids of tasks that had not ended in the backup",
    },
}

ABOUT: dict[str, str] = {
    "init": "`kps init`.",
    "moved table": "`kps migrate-store` prints a list of them.",
    "whoami": "`kps whoami`.",
    "finding": "`kps doctor`.",
    "profile": "`kps profile add` and `show`; `list` prints a list of them; `remove` also prints `removed`.",
    "server": "`kps server add` and `show`; `list` and `import` print a list of them. `import --plan` prints "
    "`servers`, a list of what would be added, and `notes`.",
    "key pair": "`kps keypair create`, `import` and `show`; `list` prints a list of them.",
    "user": "`kps user create`, `show`, `set`, `disable` and `enable`; `list` prints a list of them.",
    "access key": "`kps access-key create`, `rotate`, `disable` and `enable`; `list` prints a list of them.",
    "temporary access key": "`kps temporary-key create`; `list` prints a list of them.",
    "token": "`kps token create`; `list` prints a list of them.",
    "console link": "`kps console link`.",
    "quota": "`kps quota show` and `set` print a list of them.",
    "tenant": "`kps tenant create`; `list` prints a list of them.",
    "secret": "`kps secret create`, `versions`, `describe`, `rotation every` and `rotation off`; `list` prints a list of them.",
    "secret version": "`kps secret store`; `show` adds `name` and `value`, or `value_base64`, or `out`.",
    "secret rotation": "`kps secret rotation list` prints a list of them.",
    "task": "`kps task show`; `list` prints a list of them.",
    "event": "`kps audit list` prints a list of them, the newest last; `--follow` and `export` one a line.",
    "door": "`kps emergency show`; `open`, `extend`, `close` and `approve` print an object with lists of these (`doors`), of "
    "what waits for a second user (`orders`) and of the tasks (`tasks`), with `--set-password` also `passwords`; "
    "`list` prints `doors` and `orders`.",
    "order for doors": "See there.",
    "door rule": "`kps emergency rule add`; `list` prints a list of them.",
    "drill": "`kps emergency drill`.",
    "operation": "`kps bind`, `replace`, `unbind`, `reset`, `password-login`, `server check` and `task retry` print a list "
    "with one of these for each server: all fields of a task, and",
    "master key": "`kps kms key create`, `show` and all that change one; `list` prints a list of them.",
    "grant": "`kps kms grant create`, `revoke` and `retire`; `list` and `retirable` print a list of them.",
    "further alias": "`kps kms alias add` and `move`; `list` prints a list of them.",
    "use of a master key": "`kps kms encrypt`, `decrypt`, `sign` and the like: those of the fields that belong to it.",
    "root key": "`kps root show` prints a list of them.",
    "certificate": "`kps certificate show` and `renew`.",
    "ssh configuration": "`kps ssh-config`.",
    "ssh-agent": "`kps ssh-agent`, before it waits. With a command it prints nothing of its own, nor does `kps ssh`.",
    "backup": "`kps backup`, `kps restore` and `kps after-restore`.",
    "rotation": "`kps root rotate`. `kps root check` prints `opened`, the number of versions of master keys.",
}


def page() -> str:
    """Return docs/cli.md."""
    return "\n".join([INTRODUCTION, *_exit_codes(), *_json(), *_commands(get_command(app), ["kps"])]).rstrip("\n") + "\n"


def _exit_codes() -> Iterator[str]:
    yield "## Exit codes\n"
    yield from _table(("code", "meaning"), [(str(code), meaning) for code, meaning in exits.MEANING.items()])


def _json() -> Iterator[str]:
    yield "## JSON\n"
    yield JSON
    for kind, fields in FIELDS.items():
        yield f"### JSON: {kind}\n"
        yield ABOUT[kind] + "\n"
        yield from _table(("field", "meaning"), [(f"`{name}`", meaning) for name, meaning in fields.items()])


def _commands(command: Any, words: list[str]) -> Iterator[str]:
    if hasattr(command, "commands"):
        for name, one in command.commands.items():
            yield from _commands(one, [*words, name])
        return
    arguments = [one for one in command.params if one.param_type_name == "argument"]
    options = [one for one in command.params if one.param_type_name == "option" and one.rich_help_panel != COMMON]
    needed = [f"{one.opts[0]} {one.metavar}" for one in options if one.required]
    optional = ["[OPTIONS]"] if len(options) > len(needed) else []
    yield f"## {' '.join(words)}\n"
    yield f"    {' '.join([*words, *(one.metavar for one in arguments), *needed, *optional])}\n"
    yield f"{command.help.strip()}\n"
    if arguments or options:
        yield from _table(("", "meaning"), [(f"`{_called(one)}`", _told(one)) for one in [*arguments, *options]])
    if command.end:
        yield f"{command.end}\n"
    yield "```sh"
    yield from command.examples
    yield "```\n"


def _called(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return str(parameter.metavar)
    choices = parameter.type_descriptor.choices
    kind = parameter.metavar if parameter.metavar is not None else "N" if choices is None else "|".join(choices)
    return f"{parameter.opts[0]} {kind}".strip()


def _told(parameter: Any) -> str:
    shown = parameter.default not in (None, False) and not parameter.required
    told = str(parameter.help).replace("<TAB>", "`<TAB>`")
    return f"{told} Default: `{parameter.default}`." if shown else told


def _table(headings: tuple[str, str], rows: list[tuple[str, str]]) -> Iterator[str]:
    yield f"| {headings[0]} | {headings[1]} |".replace("|  |", "| |")
    yield "|---|---|"
    for name, meaning in rows:
        yield f"| {name.replace('|', chr(92) + '|')} | {meaning.replace('|', chr(92) + '|')} |"
    yield ""


if __name__ == "__main__":
    sys.stdout.write(page())
