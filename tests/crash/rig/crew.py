"""Processes that work in one store at once, and tell what was acknowledged to them.

``python -m tests.crash.rig.crew KIND NUMBER STORE BOX`` repeats commands until it is
killed. After each one that ended well it prints a line of JSON on stdout, so what its
reader has got was acknowledged before: ``{"name": ..., "content": ...}``, content null
when a name was removed. A command that ends badly prints ``{"failed": ..., "err": ...}``.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.crash.rig import oracle
from tests.crash.rig.scenes import write_tree
from tests.support.store import noise, text

if TYPE_CHECKING:
    from collections.abc import Iterator

_TOP = Path(__file__).parents[3]


def tree_of(box: Path, worker: int, turn: int) -> Path:
    """Write the tree of one image: some of it is shared by all, some its own."""
    key = worker * 1000 + turn
    return write_tree(
        box / f"tree-{worker}-{turn}",
        {f"shared/{n}": text(n, 5_000) for n in range(turn % 4, turn % 4 + 4)}
        | {"own/a": noise(key, 20_000), "own/b": text(key, 9_000)},
    )


def _tell(**words: object) -> None:
    sys.stdout.write(json.dumps(words) + "\n")
    sys.stdout.flush()


def _command(store: str, *argv: str) -> tuple[int, str]:
    """Run one command in this process, as its own ``main`` does."""
    from layerstore.cli import failure
    from layerstore.cli.main import dispatch

    err = io.StringIO()
    with contextlib.redirect_stderr(err), contextlib.redirect_stdout(io.StringIO()):
        code = failure.guarded(lambda: dispatch(["--store", store, *argv]))
    return code, err.getvalue()


def _must(store: str, *argv: str, fine: tuple[int, ...] = (0,)) -> bool:
    code, err = _command(store, *argv)
    if code not in fine:
        _tell(failed=argv, code=code, err=err)
        return False
    return code == 0


def _content(store: str, name: str) -> str:
    from layerstore.store.store import Store

    with Store.open(store) as opened:
        return oracle.content_of(opened, name)


def build(number: int, store: str, box: Path) -> None:
    """Import, tag, look, remove every third name."""
    turn = 0
    while True:
        turn += 1
        tree = tree_of(box, number, turn)
        name = f"w{number}:{turn}"
        if _must(store, "import", str(tree), "-t", name):
            _tell(name=name, content=_content(store, name))
            if turn % 3 == 0 and _must(store, "tag", name, f"t{number}:{turn}"):
                _tell(name=f"t{number}:{turn}", content=_content(store, name))
        if turn % 3 == 1 and turn > 3:
            gone = f"w{number}:{turn - 3}"
            _tell(removing=gone)
            if _must(store, "rm", gone):
                _tell(name=gone, content=None)


def collect(number: int, store: str, box: Path) -> None:
    """Collect; another collector or a check may be quicker, which is conflict 4."""
    while True:
        _must(store, "gc", fine=(0, 4))
        _tell(turn="gc")


def inspect(number: int, store: str, box: Path) -> None:
    """Check everything, and list."""
    while True:
        _must(store, "check", "--read-data", fine=(0, 4))
        _must(store, "images")
        _tell(turn="check")


class Worker:
    """One process of the crew; what it tells is read as it comes."""

    def __init__(self, kind: str, number: int, store: Path, box: Path, **env: str) -> None:
        self.kind = kind
        self.acknowledged: dict[str, str | None] = {}
        self.unsure: set[str] = set()
        self.failures: list[dict[str, Any]] = []
        self.turns = 0
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "tests.crash.rig.crew"),
                *(kind, str(number), str(store), str(box)),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=_TOP,
            env={**os.environ, "SOURCE_DATE_EPOCH": "1700000000", **env},
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.error = b""

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with contextlib.suppress(ValueError):  # a line that a kill cut off
                self._take(json.loads(line))

    def _take(self, words: dict[str, Any]) -> None:
        self.turns += 1
        if "failed" in words:
            self.failures.append(words)
        elif "removing" in words:
            self.unsure.add(words["removing"])
        elif "name" in words:
            self.acknowledged[words["name"]] = words["content"]
            self.unsure.discard(words["name"])

    def stop(self) -> None:
        """Kill it and read what it had told."""
        self.process.kill()
        self.process.wait()
        self._reader.join(60)
        assert self.process.stderr is not None
        self.error = self.process.stderr.read()
        self.process.stderr.close()
        assert self.process.stdout is not None
        self.process.stdout.close()


@contextlib.contextmanager
def crew(store: Path, box: Path, kinds: list[str], **env: str) -> Iterator[list[Worker]]:
    """Start workers of these kinds; all are killed when the block is left."""
    workers = [Worker(kind, number, store, box, **env) for number, kind in enumerate(kinds, 1)]
    try:
        yield workers
    finally:
        for worker in workers:
            worker.stop()


def promised(workers: list[Worker]) -> tuple[dict[str, str], set[str]]:
    """Return names that must be there with their content, and names that must not."""
    there: dict[str, str] = {}
    gone: set[str] = set()
    for worker in workers:
        for name, content in worker.acknowledged.items():
            if content is None:
                gone.add(name)
            elif name not in worker.unsure:
                there[name] = content
    return there, gone


if __name__ == "__main__":
    if os.environ.get("CREW_MUTANT"):
        from tests.crash.rig import mutants

        mutants.apply(os.environ["CREW_MUTANT"])
    {"build": build, "gc": collect, "check": inspect}[sys.argv[1]](
        int(sys.argv[2]), sys.argv[3], Path(sys.argv[4])
    )
