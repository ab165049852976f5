"""What tells squashed layers apart that are remembered."""

from __future__ import annotations

from typing import TYPE_CHECKING

from layerstore.build.squash import Squash
from tests.support.build import BASE_TIME_S, add_base, builder  # noqa: F401

if TYPE_CHECKING:
    from tests.support.build import Builder


def test_times_of_the_base_are_held_to_the_epoch_of_each_build(builder: Builder) -> None:  # noqa: F811
    """The steps below make the same layers with either epoch: none."""
    add_base(builder.store)

    def time_s(**options: object) -> int:
        built = builder.build("FROM box\nWORKDIR /bin\n", squash=Squash.ALL_LAYERS, **options)
        return builder.files(built)["bin/busybox"].mtime_ns // 10**9

    assert time_s() == BASE_TIME_S
    assert time_s(source_date_epoch=1000) == 1000
    assert time_s(source_date_epoch=2000) == 2000
    assert time_s() == BASE_TIME_S
