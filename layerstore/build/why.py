"""Questions about an image that was built earlier: which steps made it, when, and why they ran.

Answers come from the records of builds and the facts beside the cache's rows; what gc took
is said to be gone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from layerstore.build.earlier import Earlier, facts_of_record
from layerstore.build.explain import COLLECTED, LOST, NEVER
from layerstore.build.labels import place_of, stage_of, text_of
from layerstore.build.records import BuildRecords, is_time
from layerstore.digest import DiffId, Digest
from layerstore.errors import InputError, NotFoundError
from layerstore.store.failures import LayerNotFoundError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from layerstore.build.facts import Facts
    from layerstore.build.records import BuildNote, StepNote
    from layerstore.build.ui import Reason
    from layerstore.store.store import Store

CANDIDATES_SHOWN = 5


class StepHistory(NamedTuple):
    """What is known of one step of a build.

    Attributes:
        number: As the progress counted it.
        ran: When it was made, in seconds since the epoch; None when that is not remembered: its
            layer's date may be SOURCE_DATE_EPOCH.
        size: Logical bytes of its layer's files, None without a layer.
        seconds: That making it took; None when that is not remembered any more.
        new_bytes: Plain bytes that it added to the store then, None likewise.
        reused_bytes: Those that were there.
        unchanged_since: When the oldest remembered build ended that has the same step without
            a different one between; None if the build itself is the first.
        compared_with: When the build ended that had it differently; None if none is remembered.
        reasons: Why it is not what it was in that build.
    """

    number: int
    step: StepNote
    ran: float | None
    size: int | None
    seconds: float | None
    new_bytes: int | None
    reused_bytes: int | None
    unchanged_since: float | None
    compared_with: float | None
    reasons: Sequence[Reason]


def builds_of(store: Store, image_id: str) -> tuple[BuildNote, ...]:
    """Return the build that made an image, and then the builds of its Dockerfile before it.

    Raises:
        NotFoundError: None is remembered.
    """
    for builds in BuildRecords(store.paths).all():
        for index, build in enumerate(builds):
            if image_id in build.images:
                return builds[index:]
    raise NotFoundError(
        f"no build of the image {image_id} is remembered",
        hint="it was imported, or built long ago; see 'layerstore history'",
    )


def find_step(build: BuildNote, words: str) -> int:
    """Return the position of the step that somebody means.

    Args:
        build: The build.
        words: Its number, ``STAGE/NUMBER`` as in ``[builder 3/5]``, or the beginning of its
            instruction.

    Raises:
        InputError: No step, or several.
    """
    steps = build.steps
    if words.isascii() and words.isdigit():
        if 1 <= int(words) <= len(steps):
            return int(words) - 1
        raise InputError(f"there is no step {words}: the build had {len(steps)}")
    stage, slash, place = words.rpartition("/")
    if slash and place.isdigit():
        for index, step in enumerate(steps):
            if (stage_of(step.label), place_of(step.label)) == (stage, place):
                return index
    wanted = " ".join(words.split()).casefold()
    found = [
        index
        for index, step in enumerate(steps)
        if " ".join(text_of(step.label).split()).casefold().startswith(wanted)
    ]
    if len(found) == 1:
        return found[0]
    listed = [f"{index + 1} {steps[index].label}" for index in found or range(len(steps))]
    more = ["..."] if len(listed) > CANDIDATES_SHOWN else []
    raise InputError(
        f"{len(found) or 'no'} steps begin with {words!r}",
        hint="name one by its number: " + "; ".join([*listed[:CANDIDATES_SHOWN], *more]),
    )


def step_history(store: Store, builds: Sequence[BuildNote], position: int) -> StepHistory:
    """Return what is known of a step.

    Args:
        store: Of the image.
        builds: As :func:`builds_of` returns them.
        position: Of the step in the first one, from 0.
    """
    step = builds[0].steps[position]
    facts, lost = _facts_of(store, step)
    steps = [(each.label, each.text) for each in builds[0].steps]
    earlier = Earlier(store, builds[1:], steps)
    unchanged, other = earlier.unchanged(position, step.keys)
    if other is None:
        reasons = [] if unchanged is not None else [NEVER]
    elif facts is None:
        reasons = [lost]
    else:
        reasons = earlier.why(position, facts, step.keys, start=other)
    return StepHistory(
        number=position + 1,
        step=step,
        ran=_ran(step, facts),
        size=_size(store, step),
        seconds=facts.seconds if facts is not None else None,
        new_bytes=facts.new_bytes if facts is not None else None,
        reused_bytes=facts.reused_bytes if facts is not None else None,
        unchanged_since=None if unchanged is None else builds[1 + unchanged].finished,
        compared_with=None if other is None else builds[1 + other].finished,
        reasons=reasons,
    )


def _ran(step: StepNote, facts: Facts | None) -> float | None:
    """Return when a step was made; a layer's date says so unless a build was told another."""
    if facts is None:
        return None
    if facts.ran:
        return facts.ran if is_time(facts.ran) else None
    return step.created if facts.epoch is None else None


def is_dated(store: Store, image_id: str) -> bool:
    """Return whether a remembered build of an image gave its steps a date that it was told."""
    try:
        build = builds_of(store, image_id)[0]
    except NotFoundError:
        return False
    return any(
        facts is not None and facts.epoch is not None
        for facts, _ in (_facts_of(store, step) for step in build.steps)
    )


def _facts_of(store: Store, step: StepNote) -> tuple[Facts | None, Reason]:
    """Return what is remembered of making a step, and why it is nothing if it is."""
    record = store.cache_get(step.keys[-1]) if step.keys else None
    if record is None:
        return None, COLLECTED
    return facts_of_record(store, record), LOST


def _size(store: Store, step: StepNote) -> int | None:
    if step.layer is None:
        return None
    try:
        return store.layer(DiffId(Digest(step.layer))).content_size
    except LayerNotFoundError:
        return None
