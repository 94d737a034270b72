"""How many of something: a number, or a share in percent."""

import re
from dataclasses import dataclass

from controller.errors import Invalid

_FORM = re.compile(r"(?P<number>\d{1,9})(?P<hundredths>\.\d{1,2})?(?P<percent>\s?%)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Amount:
    """A number of things, or a share of as many as there are; the share in hundredths of a percent."""

    number: int = 0
    share: int | None = None

    def at_most(self, whole: int) -> int:
        """Return how many of whole that is, rounded down: for what must not be exceeded."""
        return min(self.number, whole) if self.share is None else whole * self.share // 10_000

    def at_least_one(self, whole: int) -> int:
        """Return how many of whole that is, but at least one: for what is to be done at a time."""
        return max(1, self.at_most(whole))

    def __str__(self) -> str:
        if self.share is None:
            return str(self.number)
        return f"{self.share // 100}{f'.{self.share % 100:02}'.rstrip('0') if self.share % 100 else ''}%"


def amount(text: str, what: str) -> Amount:
    """Return the amount that a text means, as 5 or 2.5%. Invalid(amount_unusable) names what it was for."""
    found = _FORM.fullmatch(text.strip())
    if found is not None and found["percent"]:
        share = int(found["number"]) * 100 + int((found["hundredths"] or ".0")[1:].ljust(2, "0"))
        if share <= 10_000:
            return Amount(share=share)
    elif found is not None and not found["hundredths"]:
        return Amount(int(found["number"]))
    raise Invalid("amount_unusable", f"{what}: {text[:40]!r} is no number (5) and no share up to 100% (2.5%)")
