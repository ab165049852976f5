"""A build for programs: one JSON object a line, as docs/reference/cli.md describes them.

Names, once given, stay; new members may come, so readers pass over what they do not know.
Lines are ASCII, so nothing in them acts on a terminal.
"""

from __future__ import annotations

import contextlib
import json
import time
from typing import TYPE_CHECKING, TextIO

from layerstore.cli.build.ui import StepLog
from layerstore.errors import LayerstoreError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from layerstore.build.dockerfile.syntax import Notice
    from layerstore.build.ui import Reason, StepOutcome

FETCHED_S = 0.5
"""Between two events of one download, at least."""


class JsonUi:
    """See the module."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._logs: dict[int, StepLog] = {}
        self._told: dict[int, float] = {}

    @contextlib.contextmanager
    def telling_errors(self) -> Iterator[JsonUi]:
        """Write an event of an error that leaves the block, too."""
        try:
            yield self
        except LayerstoreError as err:
            span = getattr(err, "span", None)
            place = {} if span is None else _place(span)
            status = getattr(err, "status", None)
            extra = {} if status is None else {"status": status}
            self._write(
                "error", message=err.message, hint=err.hint, exit_code=err.exit_code,
                **place, **extra,
            )  # fmt: skip
            raise

    def planned(self, total: int) -> None:
        """Write how many steps there are."""
        self._write("planned", steps=total)

    def started(self, number: int, label: str) -> None:
        """Write that a step begins."""
        self._logs[number] = StepLog()
        self._write("started", step=number, label=label)

    def explained(self, number: int, label: str, reasons: Sequence[Reason]) -> None:
        """Write why a step runs."""
        self._write(
            "explained", step=number, label=label, reasons=[each._asdict() for each in reasons]
        )

    def finished(self, number: int, label: str, outcome: StepOutcome) -> None:
        """Write how a step ended."""
        self._flush(number)
        self._write(
            "finished", step=number, label=label, cached=outcome.cached,
            seconds=round(outcome.seconds, 3), new_bytes=outcome.new_bytes,
            reused_bytes=outcome.reused_bytes,
        )  # fmt: skip

    def failed(self, number: int, label: str) -> None:
        """Write that a step failed."""
        self._flush(number)
        self._write("failed", step=number, label=label)

    def canceled(self, number: int, label: str) -> None:
        """Write that a step was given up."""
        self._flush(number)
        self._write("canceled", step=number, label=label)

    def output(self, number: int, data: bytes) -> None:
        """Write the lines that are complete."""
        for line in self._logs.setdefault(number, StepLog()).feed(data):
            self._write("output", step=number, line=line)

    def fetched(self, number: int, done: int, total: int | None) -> None:
        """Write how many bytes there are, now and then and when all are there."""
        now = time.monotonic()
        if done != total and now - self._told.get(number, 0.0) < FETCHED_S:
            return
        self._told[number] = now
        self._write("fetched", step=number, bytes=done, total=total)

    def warning(self, notice: Notice) -> None:
        """Write a warning."""
        self._write("warning", message=notice.message, **_place(notice.span))

    def message(self, text: str) -> None:
        """Write a message."""
        self._write("message", message=text)

    def waiting(self, what: str) -> None:
        """Write that a step waits."""
        self._write("waiting", what=what)

    def done(self, **members: object) -> None:
        """Write what came of the build."""
        self._write("done", **members)

    def _flush(self, number: int) -> None:
        log = self._logs.pop(number, None)
        for line in log.finish() if log is not None else ():
            self._write("output", step=number, line=line)

    def _write(self, event: str, **members: object) -> None:
        line = {"event": event, "time": round(time.time(), 3), **members}
        self._stream.write(json.dumps(line, ensure_ascii=True) + "\n")
        self._stream.flush()


def _place(span: object) -> dict[str, object]:
    return {name: getattr(span, name) for name in ("file", "line", "column")}
