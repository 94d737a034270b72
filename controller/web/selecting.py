"""Which failed tasks a page is about: read from its address or from its form, and written into both."""

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Self
from urllib.parse import urlencode

from starlette.datastructures import FormData, QueryParams

from controller.errors import Invalid
from controller.model import now
from controller.store.failures import Which
from controller.web.asking import Form

SINCE = {"hour": timedelta(hours=1), "day": timedelta(days=1), "week": timedelta(days=7)}
_WORDS = ("cause", "rollout", "label", "server", "since")
_LONGEST = 300  # characters of one of them
_MOST = 1000  # tasks that are named one by one


@dataclass(frozen=True, slots=True)
class Selected:
    """Which failed tasks are meant, in words."""

    words: dict[str, str] = field(default_factory=dict)
    tasks: tuple[str, ...] = ()

    @classmethod
    def of(cls, form: Form) -> Self:
        """Return what a form says."""
        words = {name: form.text(name, most=_LONGEST) for name in _WORDS}
        tasks = form.all("task")
        if len(tasks) > _MOST or any(len(each) > 36 for each in tasks):
            raise Invalid("invalid", f"task: at most {_MOST} ids")
        return cls({name: word for name, word in words.items() if word}, tuple(tasks))

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
        )

    def but(self, **words: str) -> "Selected":
        """Return it with other words; "" takes one away."""
        return Selected({name: word for name, word in (self.words | words).items() if word}, self.tasks)

    def query(self, **more: object) -> str:
        """Return it as the query of an address, with the "?" before it; "" where it says nothing."""
        pairs = [*self.words.items(), *(("task", each) for each in self.tasks), *more.items()]
        return "?" + urlencode(pairs) if pairs else ""

    @property
    def hidden(self) -> dict[str, str | list[str]]:
        """It as hidden fields."""
        return {**self.words, **({"task": list(self.tasks)} if self.tasks else {})}
