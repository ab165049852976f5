"""When Python looks for cycles of objects that nobody needs."""

from __future__ import annotations

import gc


def collect_rarely() -> None:
    """Let the cycle collector run seldom.

    Commands hold tens of thousands of records that live to their end and make next to no
    cycles; walking them again and again cost 4 % of an import's CPU.
    """
    gc.freeze()
    gc.set_threshold(500_000, 50, 100)
    gc.enable()
