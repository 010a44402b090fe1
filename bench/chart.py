"""The chart: grouped horizontal bars on a log scale, SVG by hand."""

from __future__ import annotations

import math
from xml.sax.saxutils import escape

from .loops import OURS
from .report import Line, number

COLOURS = {  # told apart in greyscale and with colour blindness too
    "asyncio": "#9aa0a6",
    "uvloop": "#56b4e9",
    "rloop": "#e69f00",
    "zuvloop": "#009e73",
    "pyloop": "#b3174f",
}
BAR, GAP, LABEL, PLOT, RIGHT = 9, 14, 265, 540, 60
TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)
FONT = "font-family='system-ui, sans-serif'"


def svg(table: list[Line], names: list[str], base: str, caption: str) -> str:
    """Each loop's ratio to base ("asyncio" or "best peer"), row by row."""
    groups = []
    for line in table:
        under = line.best_peer if base == "best peer" else base
        bars = [
            (name, ratio, line.median(name))
            for name in names
            if name != base and (ratio := line.ratio(under, name))
        ]
        if bars:
            groups.append((line, bars))
    ratios = [ratio for _, bars in groups for _, ratio, _ in bars] or [1]
    low = math.log10(max(0.01, min(0.8, min(ratios) * 0.75)))
    high = math.log10(max(2, max(ratios) * 1.1))

    def x(ratio: float) -> float:
        share = (math.log10(max(ratio, 0.01)) - low) / (high - low)
        return LABEL + PLOT * share

    top = 82
    height = top + sum(len(bars) * BAR + GAP for _, bars in groups) + 40
    width = LABEL + PLOT + RIGHT
    out = [
        f"<svg xmlns='http://www.w3.org/2000/svg' width='{width}' "
        f"height='{height}' viewBox='0 0 {width} {height}' {FONT} "
        "font-size='11' fill='#24292f'>",
        f"<rect width='{width}' height='{height}' fill='#ffffff'/>",
        "<text x='16' y='24' font-size='16' font-weight='600'>"
        f"Event loops against {escape(base)}</text>",
        f"<text x='16' y='41' fill='#57606a'>{escape(caption)}</text>",
    ]
    at = 16
    for name in names:
        if name != base:
            out.append(
                f"<rect x='{at}' y='52' width='11' height='11' rx='2' "
                f"fill='{COLOURS.get(name, '#444')}'/>"
                f"<text x='{at + 16}' y='61'>{escape(name)}</text>"
            )
            at += 34 + 7 * len(name)
    bottom = height - 34
    for tick in TICKS:
        if low <= math.log10(tick) <= high:
            strong = tick == 1
            out.append(
                f"<line x1='{x(tick):.1f}' x2='{x(tick):.1f}' y1='{top - 6}' "
                f"y2='{bottom}' stroke='{'#24292f' if strong else '#d0d7de'}' "
                f"stroke-width='{1.2 if strong else 0.7}'/>"
                f"<text x='{x(tick):.1f}' y='{bottom + 15}' "
                f"text-anchor='middle' fill='#57606a'>{tick:g}×</text>"
            )
    out.append(
        f"<text x='{LABEL + PLOT}' y='{bottom + 28}' fill='#57606a' "
        "text-anchor='end'>log scale; further right is better</text>"
    )
    y = float(top)
    for line, bars in groups:
        middle = y + len(bars) * BAR / 2 + 4
        out.append(
            f"<text x='{LABEL - 10}' y='{middle:.1f}' "
            f"text-anchor='end'>{escape(line.row.title)}</text>"
        )
        for name, ratio, median in bars:
            left, right = sorted((x(1), x(ratio)))
            out.append(
                f"<rect x='{left:.1f}' y='{y:.1f}' "
                f"width='{max(right - left, 1.5):.1f}' height='{BAR - 1}' "
                f"fill='{COLOURS.get(name, '#444')}'><title>{escape(name)} "
                f"{number(median)} {escape(line.row.unit)}, {ratio:.2f}×"
                "</title></rect>"
            )
            end, anchor = (
                (right + 3, "start") if ratio >= 1 else (left - 3, "end")
            )
            style = (
                f"fill='{COLOURS[OURS]}' font-weight='700'"
                if name == OURS
                else "fill='#57606a'"
            )
            out.append(
                f"<text x='{end:.1f}' y='{y + BAR - 1.5:.1f}' font-size='8' "
                f"text-anchor='{anchor}' {style}>{ratio:.2f}</text>"
            )
            y += BAR
        y += GAP
    out.append("</svg>\n")
    return "\n".join(out)
