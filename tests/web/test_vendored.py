"""What pages are made with is what is written down of it, and every part of it comes from here."""

import hashlib
import re
from importlib.resources import files

from controller.web.files import contents

STATIC = files("controller.web").joinpath("static")


def test_each_vendored_file_is_the_one_that_is_written_down() -> None:
    rows = re.findall(r"^\| (\S+\.js) \|.*\| ([0-9a-f]{64}) \|$", STATIC.joinpath("VENDORED.md").read_text(), re.MULTILINE)
    assert {name: hashlib.sha256(contents()[name]).hexdigest() for name, _ in rows} == dict(rows)
    assert {name for name, _ in rows} == {name for name in contents() if name.endswith(".min.js")}


def test_no_page_asks_another_host_and_none_has_a_script_or_style_in_it() -> None:
    folders = [files("controller.web").joinpath("templates")]
    seen = 0
    while folders:
        for each in folders.pop().iterdir():
            if each.is_dir():
                folders.append(each)
                continue
            text, seen = each.read_text(), seen + 1
            assert not re.search(r"(src|href|action)=[\"'](https?:)?//", text), each
            assert not re.search(r"<style|\sstyle=|\son[a-z]+=|<script(?![^>]*\ssrc=)|javascript:|hx-on|hx-vals='js:", text), each
            assert "|safe" not in text.replace(" ", ""), each
    assert seen > 5
