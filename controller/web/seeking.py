"""What somebody typed to find servers, as the store is asked for it."""

from collections.abc import Mapping
from urllib.parse import urlencode

from controller.errors import Invalid
from controller.service.standing import Sought

MOST = 10_000  # servers of one order
_MOST_WORDS = 10
_PASSWORD = {"on", "off", "unknown"}


def sought_by(fields: Mapping[str, str]) -> Sought:
    """Return which servers are meant by the fields of the search. Invalid where there are too many words."""
    words = fields.get("q", "").split()
    if len(words) > _MOST_WORDS or len(fields.get("q", "")) > 300:
        raise Invalid("invalid", f"at most {_MOST_WORDS} words to search for")
    password, bound = fields.get("password", ""), fields.get("bound", "")
    return Sought(
        words=words,
        password_login=password if password in _PASSWORD else None,  # type: ignore[arg-type]
        bound={"yes": True, "no": False}.get(bound),
        failed=bool(fields.get("failed")),
    )


def path(base: str, fields: Mapping[str, str], **more: str) -> str:
    """Return a path with the fields of a search that say anything."""
    kept = {name: value for name, value in {**fields, **more}.items() if value}
    return f"{base}?{urlencode(kept)}" if kept else base
