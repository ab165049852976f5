"""The table of all benchmarks, in the order of the page."""

from __future__ import annotations

from tests.bench.suite.building import OF_BUILDING
from tests.bench.suite.growing import OF_GROWTH
from tests.bench.suite.showing import OF_SHOWING
from tests.bench.suite.storing import OF_STORING

BENCHMARKS = (*OF_STORING, *OF_SHOWING, *OF_BUILDING, *OF_GROWTH)
