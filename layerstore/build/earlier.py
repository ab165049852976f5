"""What earlier builds of a spec knew of a step, when an instruction was edited since."""

from __future__ import annotations

from typing import TYPE_CHECKING

from layerstore.build.cache_value import alias_of
from layerstore.build.explain import COLLECTED, LOST, NEVER, reasons
from layerstore.build.facts import decode_facts
from layerstore.build.matching import match_steps
from layerstore.build.records import TEXT_MAX
from layerstore.build.ui import Reason

if TYPE_CHECKING:
    from collections.abc import Sequence

    from layerstore.build.facts import Facts
    from layerstore.build.records import BuildNote, StepNote
    from layerstore.store.records import CacheRecord
    from layerstore.store.store import Store


class Earlier:
    """The earlier builds of a spec, asked about the steps of a later one.

    Args:
        store: Of the builds.
        builds: The last one first.
        steps: Label and instruction of each step of the later build.
    """

    def __init__(
        self, store: Store, builds: Sequence[BuildNote], steps: Sequence[tuple[str, str]]
    ) -> None:
        self._store = store
        self._steps = steps
        self._builds = builds
        self._matched: dict[int, dict[int, int]] = {}

    def unchanged(self, position: int, keys: Sequence[str]) -> tuple[int | None, int | None]:
        """Return the oldest build that had the same step, and the one before that had another.

        Args:
            position: Of the step among the later build's, from 0.
            keys: Its keys.

        Returns:
            Indexes among the earlier builds, None where there is none.
        """
        same: int | None = None
        for index in range(len(self._builds)):
            step = self._same_step(index, position)
            if step is None or not step.keys:
                continue
            if not set(step.keys) & set(keys):
                return same, index
            same = index
        return same, None

    def why(
        self, position: int, facts: Facts, keys: Sequence[str], *, start: int = 0
    ) -> list[Reason]:
        """Return why a step was not cached.

        Args:
            position: Of the step among the later build's, from 0.
            facts: What goes into it.
            keys: Its keys.
            start: The first of the earlier builds to compare with.
        """
        failed: list[Reason] = []
        for index in range(start, len(self._builds)):
            step = self._same_step(index, position)
            if step is None:
                continue
            if not step.keys:
                failed = [Reason("failed", "", "the last build ended before it was done")]
                continue
            if set(step.keys) & set(keys):
                return [COLLECTED]
            record = self._store.cache_get(step.keys[-1])
            if record is None:
                return [*failed, COLLECTED]
            before = facts_of_record(self._store, record)
            return [*failed, *(reasons(before, facts) if before else [LOST])]
        return failed or [NEVER]

    def _same_step(self, index: int, position: int) -> StepNote | None:
        if index not in self._matched:
            before = [(step.label, step.text) for step in self._builds[index].steps]
            self._matched[index] = match_steps(
                before, [(label, text[:TEXT_MAX]) for label, text in self._steps]
            )
        found = self._matched[index].get(position)
        return None if found is None else self._builds[index].steps[found]


def facts_of_record(store: Store, record: CacheRecord) -> Facts | None:
    """Return the facts of a remembered step, None if none are known."""
    alias = alias_of(record.value)
    with_facts = record if alias is None else store.cache_get(alias)
    return None if with_facts is None else decode_facts(with_facts.value)
