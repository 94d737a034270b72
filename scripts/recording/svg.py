"""A recording as one SVG that plays: each screen is a picture of letters, all of them on one film that a style sheet moves.

Whoever wants no movement (prefers-reduced-motion), or cannot show it, sees the last screen.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby
from xml.etree import ElementTree as xml

import pyte

from scripts.recording.terminal import Recording

LETTER, LINE, SIZE = 8.4, 18, 14  # of one letter: width and height of its cell, and its size in px
LEFT, TOP, BAR = 16, 12, 30  # around the screen, and the height of the title above it
FRAME_SECONDS, LAST_SECONDS = 0.25, 6.0  # a screen is shown so long at least, and the last one
_PAPER, _FRAME, _INK, _FAINT = "#0d1117", "#161b22", "#e6edf3", "#8d96a0"
_COLOURS = {
    "default": _INK, "black": "#6e7681", "red": "#ff7b72", "green": "#3fb950", "brown": "#d29922", "blue": "#79c0ff",
    "magenta": "#d2a8ff", "cyan": "#56d4dd", "white": "#e6edf3",
}  # fmt: skip

Run = tuple[int, str, str, bool]  # column, letters, colour, bold
Picture = tuple[tuple[Run, ...], ...]  # of each row its runs


def frames(recording: Recording, speed: float) -> list[tuple[float, Picture]]:
    """Return the screens and the second at which each begins, played so many times as fast; none comes sooner than it may."""
    screen = pyte.Screen(recording.columns, recording.rows)
    stream = pyte.Stream(screen)
    found: list[tuple[float, Picture]] = []
    for at, text in recording.shown:
        stream.feed(text)
        picture, second = _picture(screen), at / speed
        if found and found[-1][1] == picture:
            continue
        if found and second - found[-1][0] < FRAME_SECONDS:
            found[-1] = (found[-1][0], picture)
        else:
            found.append((second, picture))
    return found


def _picture(screen: pyte.Screen) -> Picture:
    return tuple(tuple(_runs(screen, row)) for row in range(screen.lines))


def _runs(screen: pyte.Screen, row: int) -> Iterator[Run]:
    cells = [screen.buffer[row][column] for column in range(screen.columns)]
    column = 0
    for (colour, bold, blank), group in groupby(cells, lambda cell: (cell.fg, cell.bold, cell.data == " ")):
        letters = "".join(cell.data for cell in group)
        if not blank:
            yield column, letters, _COLOURS.get(colour, f"#{colour}"), bold
        column += len(letters)


def drawn(recording: Recording, title: str, speed: float) -> str:
    """Return the SVG of a recording."""
    film = frames(recording, speed)
    wide, high = recording.columns * LETTER + 2 * LEFT, recording.rows * LINE + 2 * TOP + BAR
    seconds = film[-1][0] + LAST_SECONDS
    step = recording.rows * LINE
    svg = xml.Element("svg", {"xmlns": "http://www.w3.org/2000/svg", "viewBox": f"0 0 {wide:g} {high}", "role": "img"})
    xml.SubElement(svg, "title").text = title
    xml.SubElement(svg, "style").text = _style(film, seconds, step)
    _add(svg, "rect", width=f"{wide:g}", height=high, rx=8, fill=_PAPER)
    _add(svg, "path", d=f"M0 {BAR}V8a8 8 0 0 1 8-8H{wide - 8:g}a8 8 0 0 1 8 8V{BAR}z", fill=_FRAME)
    _add(svg, "text", x=f"{wide / 2:g}", y=20, fill=_FAINT, **{"text-anchor": "middle"}).text = title
    window = _add(svg, "svg", x=LEFT, y=BAR + TOP, width=f"{recording.columns * LETTER:g}", height=step, overflow="hidden")
    _add_film(xml.SubElement(svg, "defs"), _add(window, "g", id="film"), film, step)
    return xml.tostring(svg, encoding="unicode") + "\n"


def _style(film: Sequence[tuple[float, Picture]], seconds: float, step: int) -> str:
    at = "".join(
        f"{100 * second / seconds:.3f}%{{transform:translateY({-number * step}px)}}" for number, (second, _) in enumerate(film)
    )
    last = f"transform:translateY({-(len(film) - 1) * step}px)"
    return (
        f"text{{font:{SIZE}px 'DejaVu Sans Mono',ui-monospace,Menlo,Consolas,monospace;white-space:pre}}"
        f"b,.b{{font-weight:700}}#film{{{last}}}@keyframes play{{{at}100%{{{last}}}}}"
        f"@media (prefers-reduced-motion:no-preference){{#film{{animation:play {seconds:.2f}s step-end infinite}}}}"
    )


def _add_film(defs: xml.Element, strip: xml.Element, film: Sequence[tuple[float, Picture]], step: int) -> None:
    """Draw every line once, and put it where it is seen."""
    known: dict[tuple[Run, ...], str] = {}
    for number, (_, picture) in enumerate(film):
        for row, runs in enumerate(picture):
            if not runs:
                continue
            if runs not in known:
                known[runs] = f"l{len(known)}"
                _add_line(_add(defs, "text", id=known[runs]), runs)
            _add(strip, "use", href=f"#{known[runs]}", y=number * step + row * LINE + SIZE)


def _add_line(line: xml.Element, runs: Sequence[Run]) -> None:
    for column, letters, colour, bold in runs:
        # A reader's letters may be narrower or wider than these cells.
        place = {"x": f"{column * LETTER:.1f}", "textLength": f"{len(letters) * LETTER:.1f}", "lengthAdjust": "spacingAndGlyphs"}
        _add(line, "tspan", **place, fill=colour, **({"class": "b"} if bold else {})).text = letters


def _add(parent: xml.Element, tag: str, **attributes: object) -> xml.Element:
    return xml.SubElement(parent, tag, {name: str(value) for name, value in attributes.items()})
