"""A rollout over time as a picture: SVG for light and dark pages, made of the report and nothing else."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING
from xml.etree import ElementTree as xml

from controller.plain import plain

if TYPE_CHECKING:
    from controller import answers as a

WIDTH, HEIGHT = 920, 420
LEFT, RIGHT, TOP, BOTTOM = 64, 24, 96, 52  # around the field
_LABEL = 12  # the size of small text, and of a character twice its width
_NEAREST = 16  # marks that are nearer than this to the one before have no text of their own
# A step from one to the next that people read easily, in seconds.
_STEPS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600, 43_200, 86_400, 172_800, 604_800)
# Each colour for a light page, and for a dark one. Spelt out for each: not everything that shows SVG knows var().
_FILLS = {
    "paper": ("#ffffff", "#0d1117"), "ink": ("#1f2328", "#e6edf3"), "faint": ("#656d76", "#8d96a0"),
    "halt": ("#fff1c7", "#3b2e0a"), "under": ("#1a7f37", "#3fb950"),
    "of-begun": ("#57606a", "#9198a1"), "of-done": ("#1a7f37", "#3fb950"), "of-failed": ("#cf222e", "#f85149"),
}  # fmt: skip
_STROKES = {
    "grid": ("#d0d7de", "#30363d"), "mark": ("#656d76", "#8d96a0"),
    "begun": ("#57606a", "#9198a1"), "done": ("#1a7f37", "#3fb950"), "failed": ("#cf222e", "#f85149"),
}  # fmt: skip
_SHAPES = """text { font-family: system-ui, 'DejaVu Sans', sans-serif; font-size: 12px }
.title { font-size: 16px; font-weight: 600 }
.mark { stroke-dasharray: 3 3 } .begun, .done, .failed { fill: none; stroke-width: 2; stroke-linejoin: round }
.begun { stroke-dasharray: 6 3 } .under { opacity: .12 }"""


def picture(report: "a.RolloutReport", in_page: bool = False) -> str:
    """Return the picture: servers begun, as asked and failed over time, with canary, batches, pauses and stops.

    in_page: without style and ground, for a page that has both for what is in svg.run.
    """
    over = report["over_time"]
    field = _Field(max(over["seconds"], 0.001), max(report["servers"], 1))
    state = f"{report['state']}: {report['reason']}" if report["reason"] else report["state"]
    what = f"{report['operation']}{' (plan)' if report['plans'] else ''} on {report['servers']} servers"
    svg = xml.Element("svg", _attributes(xmlns="http://www.w3.org/2000/svg", viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img"))
    if in_page:
        svg.set("class", "run")
    _text_of(xml.SubElement(svg, "title"), f"{what}: {state}")
    if not in_page:
        xml.SubElement(svg, "style").text = f"{_SHAPES}\n{_colours(0)}\n@media (prefers-color-scheme: dark) {{ {_colours(1)} }}"
        _add(svg, "rect", "paper", width=WIDTH, height=HEIGHT)
    _say(svg, LEFT, 30, what, "ink title")
    _say(svg, LEFT, 50, _short(state, 110), "faint")
    _legend(svg, over["points"])
    for pause in over["pauses"]:
        _pause(svg, field, pause, over["seconds"])
    _grid(svg, field)
    _marks(svg, field, over["marks"])
    _lines(svg, field, over["points"], over["seconds"])
    xml.indent(svg, " ")
    return xml.tostring(svg, encoding="unicode") + "\n"


def _colours(dark: int) -> str:
    fills = [f".{name} {{ fill: {of[dark]} }}" for name, of in _FILLS.items()]
    return " ".join(fills + [f".{name} {{ stroke: {of[dark]} }}" for name, of in _STROKES.items()])


class _Field:
    """Where a moment and a number of servers are in the picture."""

    def __init__(self, seconds: float, servers: int) -> None:
        self.seconds, self.servers = seconds, servers

    def x(self, seconds: float) -> float:
        return round(LEFT + (WIDTH - LEFT - RIGHT) * min(seconds, self.seconds) / self.seconds, 1)

    def y(self, servers: float) -> float:
        return round(HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * servers / self.servers, 1)


def _grid(svg: xml.Element, field: _Field) -> None:
    for number in _numbers(field.servers):
        _add(svg, "line", "grid", x1=LEFT, x2=WIDTH - RIGHT, y1=field.y(number), y2=field.y(number))
        _say(svg, LEFT - 8, field.y(number) + 4, str(number), "faint", anchor="end")
    step = next((each for each in _STEPS if field.seconds / each <= 8), _STEPS[-1])
    count = int(field.seconds / step)
    for number in range(min(count, 40) + 1):
        _say(svg, field.x(number * step), HEIGHT - BOTTOM + 18, _time(number * step, step), "faint", anchor="middle")
    _say(svg, WIDTH - RIGHT, HEIGHT - 12, "since it was asked for", "faint", anchor="end")
    _say(svg, LEFT - 8, TOP - 12, "servers", "faint", anchor="end")


def _numbers(most: int) -> Iterator[int]:
    """Give some four whole numbers up to most, and that."""
    step = max(1, most // 4)
    yield from (number for number in range(0, most, step) if number == 0 or most - number >= step / 2)
    yield most


def _marks(svg: xml.Element, field: _Field, marks: Sequence["a.Mark"]) -> None:
    free = 0.0  # where the text of the last mark has ended
    for mark in marks:
        x = field.x(mark["seconds"])
        _add(svg, "line", "mark", x1=x, x2=x, y1=TOP - 6, y2=HEIGHT - BOTTOM)
        words = mark["what"]
        width = len(words) * _LABEL * 0.55
        start = min(x, WIDTH - RIGHT - width)
        if start >= free:
            _say(svg, start, TOP - 12, words, "faint")
            free = start + width + _NEAREST


def _pause(svg: xml.Element, field: _Field, pause: "a.Pause", seconds: float) -> None:
    begins, ends = field.x(pause["seconds"]), field.x(seconds if pause["until"] is None else pause["until"])
    told = f"{pause['what']}: {pause['reason']}" if pause["reason"] else pause["what"]
    _add(svg, "rect", "halt", x=begins, y=TOP, width=max(2.0, ends - begins), height=HEIGHT - TOP - BOTTOM)
    _text_of(xml.SubElement(svg[-1], "title"), told)
    room = int((ends - begins - 8) / (_LABEL * 0.6))
    if room >= len(pause["what"]):
        _say(svg, begins + 4, TOP + 16, _short(told, room), "ink")


def _lines(svg: xml.Element, field: _Field, points: Sequence["a.Moment"], seconds: float) -> None:
    done = _steps(field, [(each["seconds"], each["done"]) for each in points], seconds)
    _add(svg, "path", "under", d=f"{done} V {field.y(0)} H {field.x(0)} Z")
    _add(svg, "path", "begun", d=_steps(field, [(each["seconds"], each["begun"]) for each in points], seconds))
    _add(svg, "path", "done", d=done)
    _add(svg, "path", "failed", d=_steps(field, [(each["seconds"], each["failed"]) for each in points], seconds))


def _steps(field: _Field, moments: Sequence[tuple[float, int]], seconds: float) -> str:
    """Return a line of steps: a number holds until the next one."""
    line = [f"M {field.x(0)} {field.y(0)}"]
    height = field.y(0)
    for at, number in moments:
        if field.y(number) != height:
            height = field.y(number)
            line.append(f"H {field.x(at)} V {height}")
    return " ".join([*line, f"H {field.x(seconds)}"])


def _legend(svg: xml.Element, points: Sequence["a.Moment"]) -> None:
    begun, done, failed = (points[-1]["begun"], points[-1]["done"], points[-1]["failed"]) if points else (0, 0, 0)
    x = float(WIDTH - RIGHT)
    for kind, words in (("failed", f"failed {failed}"), ("done", f"as asked {done}"), ("begun", f"begun {begun}")):
        x -= len(words) * _LABEL * 0.6 + 24
        _add(svg, "rect", f"of-{kind}", x=x, y=22, width=10, height=10, rx=2)
        _say(svg, x + 15, 31, words, "ink")


def _time(seconds: int, step: int) -> str:
    """Return a time after the beginning, in the unit of the steps: 45 s, 1:15 min, 2:30 h, 3 d."""
    if step >= 86_400:
        return f"{seconds // 86_400} d"
    if step >= 60 and seconds >= 3600:
        return f"{seconds // 3600}:{seconds % 3600 // 60:02} h"
    return f"{seconds} s" if seconds < 60 else f"{seconds // 60}:{seconds % 60:02} min"


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: max(0, most - 1)] + "\N{HORIZONTAL ELLIPSIS}"


def _say(svg: xml.Element, x: float, y: float, words: str, style: str, anchor: str = "start") -> None:
    element = xml.SubElement(svg, "text", _attributes(x=round(x, 1), y=round(y, 1), **{"class": style, "text-anchor": anchor}))
    _text_of(element, words)


def _add(svg: xml.Element, tag: str, style: str, **attributes: object) -> None:
    xml.SubElement(svg, tag, _attributes(**{"class": style}, **attributes))


def _text_of(element: xml.Element, words: str) -> None:
    # What a server or a user wrote: XML has no way to spell control characters.
    element.text = plain(words)


def _attributes(**named: object) -> dict[str, str]:
    return {name: str(value) for name, value in named.items()}
