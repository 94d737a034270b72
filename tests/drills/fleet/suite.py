"""The order in which a server of a flavour is led through the scenarios: each finds it as the one before has left it."""

import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.drills.fleet.boxes import Boxes
from tests.drills.fleet.flavours import Flavour
from tests.drills.fleet.line import Line
from tests.drills.fleet.scenarios import (
    BIND,
    DEADLINE,
    DISABLE,
    ENABLE,
    FAILS,
    KILLED,
    OPERATIONS,
    REBOOTED,
    REFUSED,
    REPLACE,
    RESET,
    SILENT,
    SUCCEEDS,
    UNBIND,
    Broken,
    Row,
    Story,
)
from tests.fleet import judge
from tests.fleet.product import Json, Product

MANY = 10


def play(boxes: Boxes, flavour: Flavour, home: Path, told: Callable[[Row], None]) -> list[Row]:
    """Lead one server of a flavour through all scenarios. What follows one that failed is not tried."""
    box = boxes.start(flavour)
    try:
        with Product(home, deadline_seconds=DEADLINE, connect_timeout_seconds=8) as product, Line(box) as line:
            story = Story(boxes, box, product, line, told)
            product.add(line.place, flavour.login)
            try:
                story.run("server", SUCCEEDS, lambda: _is_as_expected(story))
                for operation in (_bind, _switch, _replace, _unbind, _many_unbinds, _reset):
                    operation(story)
            except Broken:
                pass
            return story.rows
    finally:
        boxes.remove(box)


def scenarios(flavour: Flavour) -> int:
    """How many rows a flavour gives when all goes well: one of the server itself, and those of the operations."""
    return 1 + sum(scenarios_of(flavour, operation) for operation in OPERATIONS)


def scenarios_of(flavour: Flavour, operation: str) -> int:
    """How many of them are an operation's."""
    if operation in flavour.refuses:
        return 1
    switches = DISABLE not in flavour.refuses
    return {BIND: 4 + 2 * switches, RESET: 2 + switches, UNBIND: 4 + flavour.has_penalties}.get(operation, 4)


def _is_as_expected(story: Story) -> None:
    flavour = story.flavour
    greeting = story.box.await_greeting()
    assert flavour.greets in greeting, f"it greets with {greeting}"
    said = story.box.run(["sh", "-c", "python3 --version || true"]).stdout.strip()
    assert said.startswith(f"Python {flavour.python}.") if flavour.python else not said, f"its Python is {said!r}"
    first = Path(f"/proc/{story.box.pid}/exe").resolve().name
    assert (first == "systemd") == flavour.systemd, f"its process 1 is {first}"
    story.judged()


def _refused_here(story: Story, operation: str, **more: object) -> bool:
    """Where the flavour cannot have this operation: see it refused for the cause that is expected; True then."""
    refusal = story.flavour.refuses.get(operation)
    if refusal is not None:
        story.run(operation, REFUSED, lambda: story.refused(refusal.cause, operation, **more))
    return refusal is not None


def _closes(story: Story) -> bool:
    return DISABLE not in story.flavour.refuses


# -- bind --------------------------------------------------------------------------------------------------------------


def _bind(story: Story) -> None:
    pair = story.product.keypair()
    if _refused_here(story, BIND, keypair=pair):
        raise Broken
    story.gone.append(pair)
    keep = {} if _closes(story) else {"keep_password_login": True}
    order = {"keypair": pair, **keep}
    stands = story.has_block if _closes(story) else lambda: story.holds(pair)
    if _closes(story):
        # Somebody else has a password and no key: binding this one would lock him out.
        story.run(BIND, REFUSED, lambda: story.refused("others_locked_out", BIND, accept_lockout=[], **order))
    else:
        wrong = story.password + "x"
        story.run(BIND, REFUSED, lambda: story.refused("wrong_password", BIND, **{**order, "password": wrong}))
    story.run(BIND, FAILS, lambda: story.fails(BIND, stands, **order))
    story.run(BIND, KILLED, lambda: story.lost(BIND, stands, story.kill_controller, **order))
    if _closes(story):
        story.run(BIND, SILENT, lambda: story.lost(BIND, stands, story.freeze_and_kill, **order))
        story.run(BIND, REBOOTED, lambda: story.lost(BIND, stands, story.reboot, **order))

    def bound_by_its_users_command() -> None:
        words = ["bind", story.box.name, "--keypair", pair["name"], "--login", story.login, "--password-stdin"]
        words += [word for login in story.flavour.others for word in ("--accept-lockout", login)] if _closes(story) else []
        other = story.flavour.others[0]
        with judge.OpenSession(story.box, other, password=story.box.passwords[other], method=story.flavour.method) as session:
            story.product.kps(*words, *(["--keep-password-login"] if keep else []), given=story.password + "\n")
            assert session.lives(), "a session that was open before has ended"
        _bound(story, pair)
        story.closed = _closes(story)
        if story.closed:
            assert not judge.password_login_works(story.box, story.login, story.password), "its password still gets in"
        story.judged()

    story.run(BIND, SUCCEEDS, bound_by_its_users_command)


def _bound(story: Story, pair: Json) -> None:
    """From now on this is the key that gets in, and the one before is not."""
    if story.bound is not None:
        story.gone.append(story.bound)
    story.gone = [each for each in story.gone if each["name"] != pair["name"]]
    story.bound = pair


# -- password login ----------------------------------------------------------------------------------------------------


def _switch(story: Story) -> None:
    if _refused_here(story, DISABLE) | _refused_here(story, ENABLE):
        return
    reopened = lambda: not story.has_block()  # noqa: E731 - what stands in the middle of it

    def owners_word() -> None:
        """The owner's own configuration says no to passwords: that is not ours to change unless told so."""
        text = story.text(story.flavour.owners_config)
        try:
            _configured(
                story, text + f"\nMatch User {story.login}\n  PasswordAuthentication no\n  KbdInteractiveAuthentication no\n"
            )
            task = story.product.run(ENABLE, story.line.place, **story.order(ENABLE))
            assert (task["status"], task["cause"]) == ("failed", "password_off_by_owner"), task
        finally:
            _configured(story, text)
        story.judged()

    story.run(ENABLE, REFUSED, owners_word)
    story.run(ENABLE, FAILS, lambda: story.fails(ENABLE, reopened))
    story.run(ENABLE, KILLED, lambda: story.lost(ENABLE, reopened, story.kill_controller))

    def enabled() -> None:
        story.product.kps("password-login", "enable", story.box.name, "--login", story.login)
        story.closed = False
        story.judged()

    story.run(ENABLE, SUCCEEDS, enabled)
    story.run(DISABLE, REFUSED, lambda: story.refused("others_locked_out", DISABLE, accept_lockout=[]))
    story.run(DISABLE, FAILS, lambda: story.fails(DISABLE, story.has_block))
    story.run(DISABLE, KILLED, lambda: story.lost(DISABLE, story.has_block, story.kill_controller))

    def disabled() -> None:
        words = [word for login in story.flavour.others for word in ("--accept-lockout", login)]
        story.product.kps("password-login", "disable", story.box.name, "--login", story.login, *words)
        story.closed = True
        assert not judge.password_login_works(story.box, story.login, story.password), "its password still gets in"
        story.judged()

    story.run(DISABLE, SUCCEEDS, disabled)


def _configured(story: Story, text: str) -> None:
    """Write sshd's configuration as its owner does, and have it read."""
    story.box.write(story.flavour.owners_config, text)
    story.box.reload()


# -- replace, unbind ---------------------------------------------------------------------------------------------------


def _replace(story: Story) -> None:
    old, new = story.bound, story.product.keypair(type="ecdsa-nistp256")
    assert old is not None
    if _refused_here(story, REPLACE, keypair=new):
        return
    story.gone.append(new)
    order = {"keypair": new}
    replaced = lambda: not story.holds(old)  # noqa: E731 - what stands in the middle of it
    story.run(REPLACE, REFUSED, lambda: story.refused("not_bound", REPLACE, login="bob", **order))
    story.run(REPLACE, FAILS, lambda: story.fails(REPLACE, replaced, **order))
    story.run(REPLACE, KILLED, lambda: story.lost(REPLACE, replaced, story.kill_controller, **order))

    def new_for_old() -> None:
        story.product.kps("replace", story.box.name, "--keypair", new["name"], "--login", story.login)
        _bound(story, new)
        story.judged()

    story.run(REPLACE, SUCCEEDS, new_for_old)


def _unbind(story: Story) -> None:
    bound = story.bound
    assert bound is not None
    if _refused_here(story, UNBIND):
        return
    removed = lambda: not story.holds(bound)  # noqa: E731 - what stands in the middle of it
    wrong = story.password + "x"
    story.run(UNBIND, REFUSED, lambda: story.refused("not_bound", UNBIND, login="bob", password=wrong))
    order = {"password": story.password}
    story.run(UNBIND, FAILS, lambda: story.fails(UNBIND, removed, **order))
    story.run(UNBIND, KILLED, lambda: story.lost(UNBIND, removed, story.kill_controller, **order))

    def unbound() -> None:
        words = ["unbind", story.box.name, "--login", story.login, "--password-stdin"]
        story.product.kps(*words, given=story.password + "\n")
        story.gone.append(bound)
        story.bound, story.closed = None, False
        story.judged()

    story.run(UNBIND, SUCCEEDS, unbound)


def _many_unbinds(story: Story) -> None:
    """Where sshd makes an address wait that fails often (OpenSSH 9.8 and later): our proofs of a removal are no failures."""
    if not story.flavour.has_penalties:
        return

    def one_after_another() -> None:
        source = "127.0.0.1"  # from which the controller comes, over the line too
        for _ in range(MANY):
            pair = story.product.keypair()
            story.succeeds(BIND, keypair=pair, keep_password_login=True, accept_lockout=[])
            story.succeeds(UNBIND, password=story.password)
            assert judge.password_login_works(story.box, story.login, story.password, source=source), "refused after an unbind"
        # That it would have noticed: somebody else's failures are punished.
        strange = judge.new_key_pair()[0]
        try:
            for _ in range(MANY):
                judge.key_login_works(story.box, story.login, strange, source="127.99.0.1")
        except judge.Puzzled:
            return
        raise AssertionError("this sshd punishes nobody")

    story.run(UNBIND, f"{MANY} in a row", one_after_another)


# -- reset -------------------------------------------------------------------------------------------------------------


def _reset(story: Story) -> None:
    """The server is shut down, and its disk is mounted on this machine."""
    new = story.product.keypair()
    box = story.box

    def ordered(**more: object) -> Json:
        order = {"keypair": new, "login": story.login, "root": str(box.mounted_root()), **more}
        return story.product.run(RESET, story.line.place, **order)

    if RESET in story.flavour.refuses:
        refusal = story.flavour.refuses[RESET]
        story.run(RESET, REFUSED, lambda: _nothing_on_the_disk(story, lambda: ordered(), refusal.cause, "as_before"))
        return
    story.run(
        RESET, REFUSED, lambda: _nothing_on_the_disk(story, lambda: ordered(login="nobody-here"), "login_missing", "as_before")
    )

    def with_a_shadow_that_cannot_be_replaced() -> Json:
        shadow = box.mounted_root() / "etc/shadow"
        subprocess.run(["mount", "--bind", str(shadow), str(shadow)], check=True)
        try:
            return ordered(set_password=True)
        finally:
            subprocess.run(["umount", str(shadow)], check=True)

    if _closes(story):  # else a key is all that a reset writes there
        story.run(RESET, FAILS, lambda: _nothing_on_the_disk(story, with_a_shadow_that_cannot_be_replaced, None, "reverted"))

    def reset() -> None:
        private = story.product.private(new)
        assert not judge.key_login_works(box, story.login, private)
        box.stop()
        words = ["--keypair", new["name"], "--login", story.login, "--root", str(box.mounted_root())]
        story.product.kps("reset", box.name, *words)
        box.start()
        assert judge.key_login_works(box, story.login, private), "the key of the reset is refused"
        # The first proof closes passwords too, or is refused where that cannot be; the key gets in either way.
        if _closes(story):
            story.succeeds("check", accept_lockout=story.flavour.others)
        else:
            cause = story.flavour.refuses[DISABLE].cause
            story.product.fails(cause, "check", story.line.place, login=story.login)
        _bound(story, new)
        story.closed = _closes(story)
        story.judged()

    story.run(RESET, SUCCEEDS, reset)


def _nothing_on_the_disk(story: Story, act: Callable[[], Json], cause: str | None, state: str) -> None:
    """A reset that ends in this way leaves the disk as it was, and the server that boots from it."""
    with story.as_before():
        story.box.stop()
        task = act()
        story.box.start()
        assert (task["status"], task["server_state"]) == ("failed", state), task
        assert cause in (None, task["cause"]), task
