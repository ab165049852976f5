"""Rules about what a collection may remove although something names it.

Pure: from names, uses and rules to the names and build steps that lose their place.
Rules only ever take away a *name* or a *remembered step*; whatever else still needs an
image (another name, a view, a running command, a pin) keeps it.

- Without rules nothing that has a name goes, and of remembered steps only layers of pulls that
  did not end and to which nobody came back for a day.
- A name is removed only if ``keep_last`` or ``keep_within_s`` was given and no rule keeps
  it: pinned or in use, matching ``keep_tags``, among the last of its repository, or used lately.
- With ``max_size`` such names go only as far as the cap asks for, the longest unused first,
  and after all of the build cache; build steps go without any further rule.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from math import inf
from typing import TYPE_CHECKING, NamedTuple

from layerstore.formats.reference import is_digest_name, split_name
from layerstore.store.collect import received

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from layerstore.digest import ImageId
    from layerstore.store.names.usage import Reference


class KeepRules(NamedTuple):
    """What a person wants kept.

    Attributes:
        max_size: Bytes of packs and blobs to come down to, by giving up what may go.
        keep_last: Names kept of each repository, those used last.
        keep_within_s: Names used within so many seconds before the last use are kept.
        keep_tags: Patterns of names (``app:v*``) or of tags (``v*``) that are kept.
        keep_cache_within_s: Build steps not used for longer are forgotten.
        trust_clock: Believe the clock even if the records look as if it had jumped.
    """

    max_size: int | None = None
    keep_last: int | None = None
    keep_within_s: float | None = None
    keep_tags: tuple[str, ...] = ()
    keep_cache_within_s: float | None = None
    trust_clock: bool = False

    @property
    def removes_names(self) -> bool:
        """Whether names may be removed at all."""
        return self.keep_last is not None or self.keep_within_s is not None


class NamedUse(NamedTuple):
    """A name, the image it means, and when that was last used.

    Attributes:
        held: Whether either is pinned, or the image is mounted or held by a running command.
        others: Further images of the index that a tag means; what is said of one counts for all.
    """

    name: str
    image_id: ImageId
    used: float | None
    held: bool
    others: tuple[ImageId, ...] = ()


def unkept_names(
    rules: KeepRules, names: Sequence[NamedUse], reference: Reference
) -> list[NamedUse]:
    """Return the names that no rule keeps, the one used last first.

    A name with a digest beside a tag of its repository and image stays and goes with that.
    """
    if not rules.removes_names:
        return []
    kept = {named.name for named in names if named.held or _matches(named.name, rules.keep_tags)}
    if rules.keep_within_s is not None:
        kept |= {n.name for n in names if reference.age_of(n.used) <= rules.keep_within_s}
    if rules.keep_last is not None:
        for members in _by_repository(_of_their_own(names), reference).values():
            kept |= {named.name for named in members[: rules.keep_last]}
    kept |= _names_that_follow(names, kept)
    return [named for named in _latest_first(names, reference) if named.name not in kept]


def _names_that_follow(names: Sequence[NamedUse], kept: set[str]) -> set[str]:
    """Return names with digests that stay because a tag of their repository and image does."""
    staying = {(split_name(n.name)[0], n.image_id) for n in names if n.name in kept}
    return {
        named.name
        for named in names
        if is_digest_name(named.name) and (split_name(named.name)[0], named.image_id) in staying
    }


def unkept_steps(rules: KeepRules, uses: Mapping[str, float], reference: Reference) -> list[str]:
    """Return keys of build steps, and of layers of failed pulls, not used for too long."""
    limit = inf if rules.keep_cache_within_s is None else rules.keep_cache_within_s
    received_limit = min(limit, received.KEPT_S)
    return sorted(
        key
        for key, used in uses.items()
        if reference.age_of(used) > (received_limit if received.is_received(key) else limit)
    )


def steps_latest_first(uses: Mapping[str, float], reference: Reference) -> list[str]:
    """Return keys of build steps, those used last first."""
    return sorted(uses, key=lambda key: (reference.age_of(uses[key]), key))


def _matches(name: str, patterns: Iterable[str]) -> bool:
    tag = split_name(name)[1]
    return any(fnmatchcase(name if ":" in p else tag, p) for p in patterns)


def _by_repository(names: Sequence[NamedUse], reference: Reference) -> dict[str, list[NamedUse]]:
    found: dict[str, list[NamedUse]] = {}
    for named in _latest_first(names, reference):
        found.setdefault(split_name(named.name)[0], []).append(named)
    return found


def _of_their_own(names: Sequence[NamedUse]) -> list[NamedUse]:
    """Return names without those with digests beside a tag of their repository and image."""
    tagged = {(split_name(n.name)[0], n.image_id) for n in names if not is_digest_name(n.name)}
    return [
        named
        for named in names
        if not is_digest_name(named.name)
        or (split_name(named.name)[0], named.image_id) not in tagged
    ]


def _latest_first(names: Sequence[NamedUse], reference: Reference) -> list[NamedUse]:
    return sorted(names, key=lambda named: (reference.age_of(named.used), named.name))
