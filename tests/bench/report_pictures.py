"""Takes the pictures out of a savings report, each a file of its own, for the documentation.

    layerstore savings --html report.html
    python -m tests.bench.report_pictures report.html docs/pictures

They are those of wide windows, with the style sheet that the page has for all of them, so
that they are light or dark as their reader likes it.
"""

from __future__ import annotations

import argparse
import re
import xml.etree.ElementTree as ET
from pathlib import Path

from layerstore.measure.report.style import picture_style

_WIDE = re.compile(r'<figure class="wide">(<svg.*?</svg>)</figure>', re.DOTALL)
_IDENT = re.compile(r'aria-labelledby="([a-z]+)-w-t')
_SIZE = re.compile(r'viewBox="0 0 ([0-9.]+) ([0-9.]+)"')


def pictures(page: str) -> dict[str, str]:
    """Return the pictures of a page by what they are called in it."""
    found = {}
    for svg in _WIDE.findall(page):
        width, height = _SIZE.search(svg).groups()
        size = f'width="{width}" height="{height}" role="img"'
        background = (
            f'<style>{picture_style()}</style><rect width="100%" height="100%" class="paper"/>'
        )
        alone = svg.replace('role="img"', size, 1).replace("</desc>", f"</desc>{background}", 1)
        ET.fromstring(alone)
        found[_IDENT.search(svg).group(1)] = alone + "\n"
    return found


def main() -> None:
    """Write them."""
    parser = argparse.ArgumentParser("tests.bench.report_pictures", description=__doc__)
    parser.add_argument("report", type=Path, help="what 'layerstore savings --html' wrote")
    parser.add_argument("directory", type=Path, help="where the pictures go")
    args = parser.parse_args()
    args.directory.mkdir(parents=True, exist_ok=True)
    for name, svg in pictures(args.report.read_text()).items():
        path = args.directory / f"savings-{name}.svg"
        path.write_text(svg)
        print(path)


if __name__ == "__main__":
    main()
