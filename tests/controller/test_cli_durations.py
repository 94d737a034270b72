import pytest

from controller.cli import durations
from controller.cli.exits import USAGE, Declined

MEANT = {
    "90": 90, "90s": 90, "30m": 1800, "1h": 3600, "1h30m": 5400, "1h5s": 3605, "7d": 604_800, "1d12h": 129_600,
    "2d3h4m5s": 183_845, "0m": 0, "999999h": 3_599_996_400,
}  # fmt: skip
WRONG = (
    "", " ", "m", "h30m", "-1h", "+1h", "1.5h", "1,5h", "1h30", "30m1h", "1h1h", "1h 30m", "1H", "1w", "30min", " 30m", "30m\n",
    "٣٠m", "٣٠", "9999999h", "999999999", "0x10",
)  # fmt: skip


@pytest.mark.parametrize("text", MEANT)
def test_a_duration_is_read(text: str) -> None:
    assert durations.seconds("--for", text) == MEANT[text]


@pytest.mark.parametrize("text", WRONG)
def test_what_is_no_duration_is_refused_and_the_option_named(text: str) -> None:
    with pytest.raises(Declined, match=r"(?s)^--for .*write how long as 90s, 30m, 1h30m or 7d$") as refused:
        durations.seconds("--for", text)
    assert (refused.value.exit_code, refused.value.code) == (USAGE, "usage")
