"""Which failed tasks a page is about: read from its address or from its form, and written into both; and which it showed."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Self
from urllib.parse import urlencode

from starlette.datastructures import FormData, QueryParams

from controller.errors import Conflict, Invalid
from controller.model import now
from controller.store.failures import Failing, Which
from controller.web.asking import Form

SINCE = {"hour": timedelta(hours=1), "day": timedelta(days=1), "week": timedelta(days=7)}
_WORDS = ("cause", "rollout", "label", "server", "since")
_LONGEST = 300  # characters of one of them
_MOST = 1000  # tasks that are named one by one


@dataclass(frozen=True, slots=True)
class Shown:
    """What a page told of failures when it was made. Its form says it again; what failed since is left alone."""

    tasks: int
    ended: datetime  # the last of them
    until: int | None = None  # the highest place of one of them in the order (seq), where the page knew it

    @classmethod
    def of(cls, form: Form, places: bool = True) -> Self:
        """Return what a form says. places: that it has to say `until` too. Invalid(form_incomplete) where it does not."""
        tasks, until = form.number("shown"), form.number("until")
        try:
            ended = datetime.fromisoformat(form.text("ended", most=40))
        except ValueError:
            ended = None
        if tasks is None or ended is None or ended.tzinfo is None or (places and until is None):
            raise Invalid(
                "form_incomplete", "the form does not say which failures were shown; open the page again, send it there"
            )
        return cls(tasks, ended, until)

    @classmethod
    def by(cls, causes: Sequence[Failing]) -> Self:
        """Return what a page tells that tells of these."""
        ended = max((each.last for each in causes if each.last is not None), default=now())
        return cls(sum(each.tasks for each in causes), ended, max((each.newest for each in causes), default=0))

    def refuse_more(self, found: int) -> None:
        """Conflict(selection_outdated) where more would be done than was shown: an older failure stands again, or came late."""
        if found > self.tasks:
            raise Conflict("selection_outdated", f"{self.tasks} were shown, {found} are meant by now; open the page again")

    @property
    def hidden(self) -> dict[str, str | int]:
        """It as hidden fields."""
        places = {} if self.until is None else {"until": self.until}
        return {"shown": self.tasks, "ended": self.ended.isoformat(), **places}


@dataclass(frozen=True, slots=True)
class Selected:
    """Which failed tasks are meant, in words; of a form, only those that its page showed."""

    words: dict[str, str] = field(default_factory=dict)
    tasks: tuple[str, ...] = ()
    shown: Shown | None = None

    @classmethod
    def of(cls, form: Form) -> Self:
        """Return what a form says."""
        words = {name: form.text(name, most=_LONGEST) for name in _WORDS}
        tasks = form.all("task")
        if len(tasks) > _MOST or any(len(each) > 36 for each in tasks):
            raise Invalid("invalid", f"task: at most {_MOST} ids")
        return cls({name: word for name, word in words.items() if word}, tuple(tasks))

    @classmethod
    def sent(cls, form: Form) -> Self:
        """Return what a form says that changes something: tasks by their ids, or those of a kind that were shown.

        Invalid(form_incomplete): neither; nothing said is never all there are.
        """
        found = cls.of(form)
        return found if found.tasks else cls(found.words, shown=Shown.of(form))

    @classmethod
    def asked(cls, query: QueryParams) -> Self:
        """Return what the address of a page says."""
        return cls.of(Form(FormData([*query.multi_items()])))

    @property
    def which(self) -> Which:
        """The same as the services take it. Invalid for a label without a value, or a time that is none of SINCE."""
        words = self.words
        name, equals, value = words.get("label", "").partition("=")
        if words.get("label") and not (name and equals):
            raise Invalid("selection_unusable", f"{words['label']}: give a label as name=value")
        since = words.get("since")
        if since is not None and since not in SINCE:
            raise Invalid("selection_unusable", f"since: one of {', '.join(SINCE)}")
        return Which(
            ids=self.tasks,
            cause=words.get("cause"),
            rollout_id=words.get("rollout"),
            label=(name, value) if equals else None,
            server=words.get("server", ""),
            since=None if since is None else now() - SINCE[since],
            ended_by=None if self.shown is None else self.shown.ended,
            until=None if self.shown is None else self.shown.until,
        )

    def but(self, **words: str) -> "Selected":
        """Return it with other words; "" takes one away."""
        return Selected({name: word for name, word in (self.words | words).items() if word}, self.tasks, self.shown)

    def query(self, **more: object) -> str:
        """Return it as the query of an address, with the "?" before it; "" where it says nothing."""
        pairs = [*self.words.items(), *(("task", each) for each in self.tasks), *more.items()]
        return "?" + urlencode(pairs) if pairs else ""

    @property
    def hidden(self) -> dict[str, str | list[str]]:
        """It as hidden fields."""
        return {**self.words, **({"task": list(self.tasks)} if self.tasks else {})}
