"""Bars as people see them on a terminal."""

from __future__ import annotations

import io

from rich.console import Console

from layerstore.cli import progress


def test_a_bar_says_how_long_it_will_take_and_fits_a_terminal() -> None:
    now = 0
    bars = progress._bars()
    bars.get_time = lambda: now
    task = bars.add_task("compressing layers", total=3_000_000_000)
    for now in range(1, 11):  # noqa: B007 -- the clock
        bars.advance(task, 100_000_000)
    out = io.StringIO()
    Console(width=80, file=out).print(bars.make_tasks_table(bars.tasks))
    (line,) = out.getvalue().splitlines()
    assert "0:00:20" in line
    assert "1.0/3.0 GB" in line
    assert "…" not in line
