"""How long something is to last, as people write it: 90s, 30m, 1h30m, 7d."""

import re

from controller.cli.exits import usage

_FORM = re.compile(r"(?:([0-9]{1,6})d)?(?:([0-9]{1,6})h)?(?:([0-9]{1,6})m)?(?:([0-9]{1,8})s)?")
_UNITS = (86_400, 3600, 60, 1)


def seconds(option: str, text: str) -> int:
    """Return how many seconds are meant: 30m, 1h30m, or a number of seconds; the larger unit first, each once.

    Whether it may last so long is for whoever is asked to say. Declined(usage), which names the option.
    """
    if re.fullmatch(r"[0-9]{1,8}", text):
        return int(text)
    found = _FORM.fullmatch(text)
    if found is None or not text:
        raise usage(f"{option} {text}: write how long as 90s, 30m, 1h30m or 7d")
    return sum(int(number or 0) * unit for number, unit in zip(found.groups(), _UNITS, strict=True))
