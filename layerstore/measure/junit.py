"""Verdicts on images as a JUnit report: a suite for each image, a case for each check. Pure.

Source: the schema of Jenkins' xUnit plugin (junit-10.xsd), to which reports keep. They have not the
host name, properties and output of every suite that the strict schema of Ant's reports asks for.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape, quoteattr

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from layerstore.measure.gate import Verdict

CLASS_PREFIX = "layerstore.waste"

# What XML 1.0 cannot hold, be it escaped or not, and what acts on terminals that show reports.
_UNFIT = re.compile("[^\t\n\x20-\x7e\u00a1-\u061b\u061d-\u1fff\u2010-\u2027\u2030-\u205f"
                    "\u2070-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")  # fmt: skip


def junit_xml(verdicts: Mapping[str, Sequence[Verdict]], *, created: str) -> bytes:
    """Return the report.

    Args:
        verdicts: By the names of images.
        created: Time of the run, ISO 8601 without a zone, as the schema has it.
    """
    suites = [_suite(name, found, created) for name, found in verdicts.items()]
    tests = sum(len(found) for found in verdicts.values())
    failures = sum(not each.is_kept for found in verdicts.values() for each in found)
    head = f'<testsuites name="layerstore waste" tests="{tests}" failures="{failures}" errors="0">'
    lines = ['<?xml version="1.0" encoding="UTF-8"?>', head, *suites, "</testsuites>", ""]
    return "\n".join(lines).encode()


def _suite(name: str, verdicts: Sequence[Verdict], created: str) -> str:
    failures = sum(not each.is_kept for each in verdicts)
    cases = [_case(name, verdict) for verdict in verdicts]
    head = (
        f'  <testsuite name={_attribute(name)} tests="{len(verdicts)}" failures="{failures}" '
        f'errors="0" skipped="0" time="0" timestamp="{created}">'
    )
    return "\n".join([head, *cases, "  </testsuite>"])


def _case(name: str, verdict: Verdict) -> str:
    head = (
        f"    <testcase classname={_attribute(f'{CLASS_PREFIX}.{name}')} "
        f'name={_attribute(verdict.check)} time="0">'
    )
    text = "\n".join([verdict.words, *verdict.lines])
    if verdict.is_kept:
        body = f"      <system-out>{_text(text)}</system-out>"
    else:
        body = (
            f'      <failure message={_attribute(verdict.words)} type="limit">'
            f"{_text(text)}</failure>"
        )
    return f"{head}\n{body}\n    </testcase>"


def _attribute(text: str) -> str:
    return quoteattr(_fit(text).replace("\n", " "))


def _text(text: str) -> str:
    return escape(_fit(text))


def _fit(text: str) -> str:
    return _UNFIT.sub(lambda match: f"\\u{ord(match.group()):04x}", text)
