"""What the labels of steps say: ``[builder 2/5] RUN make``."""

from __future__ import annotations


def stage_of(label: str) -> str:
    """Return the stage that a label names; empty when it names none."""
    return _head(label).rpartition(" ")[0]


def place_of(label: str) -> str:
    """Return the ``2`` of ``[builder 2/5] RUN make``; empty when the label has none."""
    return _head(label).rpartition(" ")[2].partition("/")[0]


def text_of(label: str) -> str:
    """Return the instruction in a label, which has no passwords of URLs."""
    return label.partition("] ")[2] if label.startswith("[") else label


def _head(label: str) -> str:
    return label[1:].partition("]")[0] if label.startswith("[") else ""
