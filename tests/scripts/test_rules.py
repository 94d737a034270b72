"""The rules for Prometheus that we give: they name what there is, and alert when they should."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RULES = ROOT / "examples/prometheus/kps.rules.yml"
CASES = Path(__file__).with_name("kps.rules.test.yml")
PROMTOOL = shutil.which("promtool")


def test_the_rules_name_metrics_that_there_are() -> None:
    told = set(re.findall(r"`(kps_\w+)`", (ROOT / "docs/metrics.md").read_text()))
    named = set(re.findall(r"\bkps_\w+", RULES.read_text()))
    assert {each.removesuffix("_bucket") for each in named} <= told
    assert len(named) > 10


# Its package brings and starts a whole Prometheus, so it is no package of the tests: where it is not there, CI does without.
if PROMTOOL or os.environ.get("CI") != "true":

    @pytest.mark.parametrize("words", [("check", "rules", RULES), ("test", "rules", CASES)], ids=["check", "test"])
    def test_prometheus_reads_the_rules_and_alerts_when_it_should(words: tuple[str, ...]) -> None:
        if PROMTOOL is None:
            pytest.skip("no promtool here: apt-get install prometheus, or its program alone in PATH")
        ran = subprocess.run([PROMTOOL, *words], capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stdout + ran.stderr
