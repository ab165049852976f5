"""The command line as users run it: a subprocess over a private store."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path


class Result(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()

    def json(self) -> object:
        return json.loads(self.out)


class Cli:
    """Runs ``layerstore`` over one store."""

    def __init__(self, store: Path) -> None:
        self.store = store

    def __call__(
        self,
        *arguments: str | Path,
        stdin: bytes = b"",
        env: dict[str, str] | None = None,
        timeout_s: float = 120,
    ) -> Result:
        """Run a command whatever comes of it."""
        done = subprocess.run(
            self.command(*arguments),
            input=stdin,
            capture_output=True,
            env=self.environment(env),
            timeout=timeout_s,
            check=False,
        )
        return Result(done.returncode, done.stdout.decode(), done.stderr.decode())

    def ok(self, *arguments: str | Path, stdin: bytes = b"", **env: str) -> Result:
        """Run a command that must succeed."""
        result = self(*arguments, stdin=stdin, env=env)
        assert result.code == 0, f"{arguments}: {result}"
        return result

    def fails(self, code: int, *arguments: str | Path, stdin: bytes = b"", **env: str) -> str:
        """Run a command that must fail with this exit code; return what it said."""
        result = self(*arguments, stdin=stdin, env=env)
        assert result.code == code, f"{arguments}: {result}"
        assert "Traceback" not in result.err, result.err
        assert result.err.startswith("layerstore: error: "), result.err
        return result.err

    def command(self, *arguments: str | Path) -> list[str]:
        return [sys.executable, "-m", "layerstore", *map(str, arguments)]

    def environment(self, extra: dict[str, str] | None = None) -> dict[str, str]:
        own = {"LAYERSTORE_ROOT": str(self.store), "PYTHONWARNINGS": "error", "COLUMNS": "80"}
        inherited = {k: v for k, v in os.environ.items() if k != "SOURCE_DATE_EPOCH"}
        return {**inherited, **own, **(extra or {})}

    def interrupted_environment(self, extra: dict[str, str] | None = None) -> dict[str, str]:
        """Return the environment for a command that a signal ends.

        The signal may come in the middle of an import, whose file the interpreter then closes
        with a warning: no fault of the command.
        """
        warnings = {"PYTHONWARNINGS": "error,ignore::ResourceWarning"}
        return self.environment({**warnings, **(extra or {})})
