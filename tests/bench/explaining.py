"""What it costs that builds can be explained: CPU time inside of the notes, beside the whole build.

    python -m tests.bench.explaining [--files N] [--steps N] [--json FILE]

Builds one COPY of many small files, and a Dockerfile of many steps: first, again when every step
is cached, and once more explained, with one file changed. Needs neither root nor a runtime.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layerstore.build import notes
from layerstore.build.api import build
from layerstore.build.request import BuildRequest
from layerstore.build.ui import SilentUi
from layerstore.store.store import Store
from tests.bench.harness import say
from tests.bench.result import Result

if TYPE_CHECKING:
    from collections.abc import Callable

_METHODS = ("planned", "hit", "missed", "made", "finish")


class Meter:
    """CPU seconds inside of the methods of notes."""

    def __init__(self) -> None:
        self.seconds = 0.0
        for name in _METHODS:
            setattr(notes.Notes, name, self._timed(getattr(notes.Notes, name)))

    def _timed(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **options: Any) -> Any:
            begun = time.process_time()
            try:
                return method(*arguments, **options)
            finally:
                self.seconds += time.process_time() - begun

        return timed


def main() -> None:
    """Build, and print a line for each build."""
    parser = argparse.ArgumentParser(description="What it costs that builds can be explained.")
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep every run there")
    options = parser.parse_args()
    meter = Meter()
    result = Result()
    with tempfile.TemporaryDirectory() as directory:
        for what, context in (
            (f"one COPY of {options.files} files", _many_files(Path(directory), options.files)),
            (f"{options.steps} steps", _many_steps(Path(directory), options.steps)),
        ):
            with Store.open(Path(directory) / f"store of {context.name}", create=True) as store:
                for how in ("first", "cached", "cached again", "one file changed, explained"):
                    if how.startswith("one"):
                        (context / "f0").write_text("changed")
                    inside, whole = _measure(meter, store, context, f"{what}, {how}")
                    result.add(f"{what}, {how}", "layerstore", "CPU of notes", "s", [inside])
                    result.add(f"{what}, {how}", "layerstore", "CPU of the build", "s", [whole])
    if options.json:
        result.write(options.json)


def _measure(meter: Meter, store: Store, context: Path, what: str) -> tuple[float, float]:
    meter.seconds = 0.0
    begun = time.process_time()
    build(store, BuildRequest(context=context, explain="explained" in what), SilentUi())
    total = time.process_time() - begun
    print(f"{what}: {1000 * meter.seconds:.1f} ms of {1000 * total:.1f} ms")
    return meter.seconds, total


def _many_files(directory: Path, count: int) -> Path:
    say(f"writing {count} files")
    context = directory / "files"
    for number in range(count):
        folder = context / f"d{number % 100}" if number else context
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"f{number}").write_text(f"{number}\n" * 20)
    (context / "Dockerfile").write_text("FROM scratch\nCOPY . /\n")
    return context


def _many_steps(directory: Path, count: int) -> Path:
    context = directory / "steps"
    context.mkdir()
    lines = []
    for number in range(count):
        (context / f"f{number}").write_text(f"{number}\n")
        lines.append(f"COPY f{number} /")
    (context / "Dockerfile").write_text("\n".join(["FROM scratch", *lines, ""]))
    return context


if __name__ == "__main__":
    main()
