"""Options of build that say which steps run, and how many at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from layerstore.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from layerstore.build.request import BuildRequest


def with_steps(
    request: BuildRequest, no_cache_filter: Sequence[str] | None, jobs: int | None
) -> BuildRequest:
    """Return a request with ``--no-cache-filter`` and ``--jobs``.

    Raises:
        InputError: An option has a value that it cannot have.
    """
    if jobs is not None and jobs < 1:
        raise InputError(f"--jobs {jobs}: a build needs to run one step at a time at least")
    return msgspec.structs.replace(
        request, no_cache_stages=parse_stages(no_cache_filter or ()), jobs=jobs
    )


def parse_stages(words: Sequence[str]) -> tuple[str, ...]:
    """Return the names in lists that commas separate, as docker takes them.

    Raises:
        InputError: A name is empty.
    """
    names = tuple(name.strip() for word in words for name in word.split(","))
    if not all(names):
        raise InputError(
            "--no-cache-filter names an empty stage", hint="--no-cache-filter STAGE[,STAGE]"
        )
    return names
