"""Charts of what was measured."""

import xml.etree.ElementTree as ET

from benchmarks.reporting.plot import Bar, Line, Lines, Panel, svg

SVG = "{http://www.w3.org/2000/svg}"


def test_lines_share_their_axes_and_rise_with_their_values() -> None:
    chart = svg([Lines("a < b", "x", "y", [Line("low", [(0, 1), (2, 1)]), Line("high", [(0, 2), (2, 4.5)])])])
    root = ET.fromstring(chart)
    low, high = (path for path in root.iter(f"{SVG}path") if path.get("fill") == "none")
    ends = [[float(part) for part in str(path.get("d")).split("L")[-1].split()] for path in (low, high)]
    assert ends[0][0] == ends[1][0]
    assert ends[0][1] > ends[1][1]  # an SVG's y goes downwards
    assert "5" in [text.text for text in root.iter(f"{SVG}text")]  # the axis ends at a round number


def test_panels_stand_under_each_other() -> None:
    root = ET.fromstring(
        svg([Panel("bars", [Bar("one", 1.0, "1")]), Lines("lines", "x", "y", [Line("one", [(0, 0), (1, 0)])])])
    )
    heights = [float(str(text.get("y"))) for text in root.iter(f"{SVG}text") if text.get("font-weight")]
    assert heights == sorted(set(heights))
    assert float(str(root.get("height"))) > heights[-1]
