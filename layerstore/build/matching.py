"""Which step of an earlier build is which of a later one, of a Dockerfile that was edited."""

from __future__ import annotations

from difflib import SequenceMatcher
from typing import TYPE_CHECKING

from layerstore.build.labels import stage_of

if TYPE_CHECKING:
    from collections.abc import Sequence

STEPS_MAX = 2000
"""Steps of a build that are compared: matching takes quadratic time at worst."""


def match_steps(
    before: Sequence[tuple[str, str]], now: Sequence[tuple[str, str]]
) -> dict[int, int]:
    """Return, for positions of ``now``, the positions in ``before`` of the same step.

    Equal instructions of a stage, in order, are the same step. What stands between two of
    them on both sides is paired by the kind of instruction and by its place: an edited
    instruction. What is left over is new. Both lists may be in the order of any walk
    through the graph; each stage is matched by itself.

    Args:
        before: Label and instruction of each step.
        now: As ``before``.
    """
    pairs: dict[int, int] = {}
    stages = {stage_of(label) for label, _ in now}
    for stage in sorted(stages):
        old = [index for index, (label, _) in enumerate(before) if stage_of(label) == stage]
        new = [index for index, (label, _) in enumerate(now) if stage_of(label) == stage]
        old, new = old[:STEPS_MAX], new[:STEPS_MAX]
        old_texts = [before[index][1] for index in old]
        new_texts = [now[index][1] for index in new]
        matcher = SequenceMatcher(None, old_texts, new_texts, autojunk=False)
        for tag, i1, i2, j1, j2 in matcher.get_opcodes():
            if tag == "equal":
                pairs.update(zip(new[j1:j2], old[i1:i2], strict=True))
            elif tag == "replace":
                _pair_edited(pairs, before, now, old[i1:i2], new[j1:j2])
    return pairs


def _pair_edited(
    pairs: dict[int, int],
    before: Sequence[tuple[str, str]],
    now: Sequence[tuple[str, str]],
    old: Sequence[int],
    new: Sequence[int],
) -> None:
    left = list(old)
    for index in new:
        word = _word(now[index][1])
        found = next((each for each in left if _word(before[each][1]) == word), None)
        if found is not None:
            pairs[index] = found
            left = [each for each in left if each > found]  # the order stays


def _word(text: str) -> str:
    return text.partition(" ")[0].upper()
