"""Starts commands of layerstore cheaply, and under a plan of faults if asked.

The test's side of :mod:`tests.crash.rig.helper`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Self

from tests.crash.rig import campaign

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.crash.rig import tracer

_TOP = Path(__file__).parents[3]


class Done(NamedTuple):
    """A command that ended: its exit code (negative: the signal), output, and what was seen."""

    code: int
    out: str
    err: str
    fired: bool
    seen: list[str]
    where: str
    log: list[tuple[str, str, str]]
    held: list[dict[str, object]]

    @property
    def typed(self) -> bool:
        """Whether it ended as commands may: success, or an error of ours in words."""
        known = self.code in {0, 1, 2, 3, 4, 10, 11, 12, 13, 14, 15}
        told = self.code == 0 or "layerstore: error: " in self.err
        return known and told and "Traceback" not in self.err


class Launcher:
    """One helper process; close it when done."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        scratch.mkdir(parents=True, exist_ok=True)
        self._count = 0
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.crash.rig.helper"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=_TOP,
            # A fixed time: the same command gives the same image id.
            env={
                **os.environ,
                "SOURCE_DATE_EPOCH": "1700000000",
                "COLUMNS": "80",
                "PYTHONDONTWRITEBYTECODE": "1",
                # The order of sets decides that of system calls: a seed must mean the same.
                "PYTHONHASHSEED": str(campaign.SEED % (1 << 32)),
            },
        )

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(60)
        self._process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(
        self,
        store: Path,
        *argv: str | Path,
        plan: tracer.Plan | None = None,
        scope: Sequence[Path] = (),
        held: Sequence[Sequence[str]] = (),
        mutant: str | None = None,
        env: dict[str, str] | None = None,
        limits: dict[str, int] | None = None,
    ) -> Done:
        """Run one command; with a plan, calls below ``store`` and ``scope`` count.

        Args:
            limits: ``files`` and ``more_memory``, see the helper.
        """
        self._count += 1
        out, err = (str(self._scratch / f"{self._count}.{name}") for name in ("out", "err"))
        prefix = ["--store", str(store)]
        request = {
            "argv": [*prefix, *map(str, argv)],
            "out": out,
            "err": err,
            "scope": [str(store), *map(str, scope)],
            "held": [[*prefix, *words] for words in held],
            "mutant": mutant,
            "env": env,
            "limits": limits,
            "plan": {**plan._asdict(), "calls": sorted(plan.calls)} if plan else None,
        }
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(request), file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        assert line, "the helper died"
        answer = json.loads(line)
        done = Done(
            answer["code"],
            _take(out),
            _take(err),
            answer["fired"],
            answer["seen"],
            answer["where"],
            [(name, place, new_name) for name, place, new_name in answer["log"]],
            answer.get("held", []),
        )
        for number in range(len(held)):
            for path in (f"{out}.{number}", f"{err}.{number}"):
                Path(path).unlink(missing_ok=True)
        return done


def _take(path: str) -> str:
    try:
        text = Path(path).read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""
    os.unlink(path)
    return text
