"""What a check has found, and what is made of it once a login was tried: that is the judge, whatever the agent thinks.

told(...)      findings as they are kept, shown and sent: with cause and repair from the closed list
believed(...)  those that the login, tried for real, does not contradict
outside(...)   what can be known of a server into which nothing gets
"""

from typing import Any

from controller import findings
from controller.findings import FINDINGS
from controller.transport import proof
from controller.transport.connect import Target

Json = dict[str, Any]

# A failed operation of any of these causes is looked at once more, for the reason.
EXPLAINED = frozenset(
    {"new_key_refused", "key_refused", "session_disturbed", "login_missing", "login_locked", "login_expired", "login_not_allowed"}
    | {"path_permissions", "path_unsafe", "authorized_keys_elsewhere", "authorized_keys_unreadable", "key_type_refused"}
    | {"authentication_methods", "sshd_config_invalid", "setting_pending"}
)

# Doubts about what comes once the key was taken; all others are about whether it is.
_ONCE_TAKEN = ("pam_rule", "shadow_line_missing")
_REASON_ENOUGH = ("setting_pending", "sshd_replaced", "sshd_config_invalid")


def told(found: list[Json], **place: Any) -> list[Json]:
    """Return the findings of an agent that the closed list knows, each with its cause and what mends it.

    place: SERVER and LOGIN, in our own words.
    """
    known = []
    for each in found:
        code = str(each.get("code"))
        if code not in FINDINGS:
            continue
        where = place | {"PATH": each.get("path"), "LINE": each.get("line"), "ADDRESS": (each.get("seen") or {}).get("address")}
        known.append(
            {
                "code": code,
                "kind": each["kind"],
                "cause": FINDINGS[code].cause,
                "message": each["message"],
                "path": each.get("path", ""),
                "line": each.get("line", 0),
                "seen": each.get("seen") or {},
                "repair": findings.repair(code, **where),
                "safe": FINDINGS[code].safe,
            }
        )
    return known


def believed(found: list[Json], method: str) -> list[Json]:
    """Return the findings that hold where the login ended so: by a proof's method, "let_in" to run nothing, "taken" where sshd
    would have the key and then went away, or "refused".

    What was accepted without a login may still end at once. What only some sshds mind did not matter where the key was taken.
    Where the configuration waits to be read, what it will do is told as a warning.
    """
    warnings = [each for each in found if each["kind"] == "warning"]
    session = [each for each in found if each["kind"] == "session"]
    if method == "logged_in":
        pending = any(each["code"] == "setting_pending" for each in warnings)
        return warnings + [dict(each, kind="warning") for each in found if pending and each["kind"] in ("key", "session")]
    doubts = [each for each in found if each["kind"] == "doubt"]
    if method == "taken":
        return session + [each for each in doubts if each["code"] in _ONCE_TAKEN] + warnings
    if method in ("accepted", "let_in"):
        return session + warnings
    reasons = [each for each in found if each["kind"] == "key"] or [each for each in doubts if each["code"] not in _ONCE_TAKEN]
    return reasons + session + warnings


def ended(evidence: Json) -> str:
    """Return how a login ended that a proof tried in vain, as believed() has it."""
    return next((each for each in ("let_in", "taken") if evidence.get(each)), "refused")


def keeps_out(found: list[Json]) -> list[Json]:
    """Return those that keep the key from logging in and running a command."""
    return [each for each in found if each["kind"] != "warning"]


def explained(found: list[Json], method: str, **place: Any) -> list[Json]:
    """Return the findings for a login that failed, never none: where no reason was found, that is said."""
    kept = believed(found, method)
    # What was written since sshd read its configuration may be what keeps the key out no longer.
    if keeps_out(kept) or any(each["code"] in _REASON_ENOUGH for each in kept):
        return kept
    code, kind = ("session_fails", "session") if method in ("let_in", "taken") else ("unexplained", "key")
    return told([{"code": code, "kind": kind, "message": FINDINGS[code].meaning}], **place) + kept


async def outside(target: Target, login: str) -> tuple[list[Json], Json]:
    """Return the findings, and what was seen, of a server that refused all that is known."""
    place = {"SERVER": target.name, "LOGIN": login}
    seen = await proof.methods_offered(target, login)
    if "cause" in seen:
        return [], {}
    offers, banner = seen["offers"], seen["banner"]
    facts: Json = {"offers": offers, "host_key": "as on record"} | ({"banner": banner} if banner else {})
    way = (
        "give a password (--password-stdin), and the check looks inside"
        if {"password", "keyboard-interactive"} & set(offers)
        else "sshd takes no passwords here: give another key that opens the server (--identity), or look at its console"
    )
    if "publickey" not in offers:
        message = f"sshd offers {login} from here {', '.join(offers) or 'nothing'}, and no keys; {way}"
        return told([{"code": "keys_off", "kind": "key", "message": message, "seen": facts}], **place), facts
    message = f"sshd refuses the key of {login}, and nothing that is known gets in to see why; {way}"
    return told([{"code": "refused_unseen", "kind": "key", "message": message, "seen": facts}], **place), facts
