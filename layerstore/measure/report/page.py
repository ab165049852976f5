"""The savings as one page of HTML: pictures, the numbers beside each, and how they are counted.

One file that asks for nothing: no script, no font, no picture from elsewhere, and a policy
in it (Content-Security-Policy) that forbids what somebody might smuggle in through a name. It works
from a disk, on a telephone, in the dark and on paper; every picture is there twice, wide
and narrow, and the reader's screen chooses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from layerstore.measure.report import sections
from layerstore.measure.report.style import page_style
from layerstore.measure.report.svg import shown
from layerstore.measure.report.wasted import waste
from layerstore.measure.savings_report import image_label

if TYPE_CHECKING:
    from layerstore.measure.report.collect import Collected

POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def page(collected: Collected, made: str) -> str:
    """Return the whole page.

    Args:
        collected: What it tells.
        made: By what and when, as people write it; may be empty.
    """
    report = collected.report
    wide, narrow = report.sharing, collected.narrow_sharing
    names = {image.image_id: image_label(image) for image in report.images}
    parts = [
        sections.schemes(report),
        sections.growth(report),
        sections.sharing(wide, narrow) if wide and narrow else "",
        sections.places(report.places),
        sections.packages(report.packages),
        waste(report.waste or (), report.waste_steps or (), names),
        sections.transfers(report.transfers) if report.transfers else "",
        sections.memory(report.memory) if report.memory else "",
        sections.images(report),
    ]
    head = sections.headline(report, report.transfers)
    title = f"layerstore savings: {sections.summary(report)}"
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        '<meta name="referrer" content="no-referrer">\n'
        f"<title>{shown(title)}</title>\n<style>{page_style()}</style>\n</head>\n<body>\n"
        f"<header>{head}</header>\n<main>\n" + "\n".join(filter(None, parts)) + "\n</main>\n"
        f"<footer>{sections.footer(report, made)}</footer>\n</body>\n</html>\n"
    )
