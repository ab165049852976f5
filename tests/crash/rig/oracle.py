"""The one oracle of the fault campaign: what must be true of a store after any fault.

:func:`judge` looks at a store as a fault left it, :func:`settle` finishes the interrupted
command and collects. Both raise :class:`BrokenPromiseError` with everything that is wrong.
They know the public reading side of the store and the command line, nothing of how
bytes are kept, so that they judge whatever writes them.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from layerstore.errors import LayerstoreError
from layerstore.image.trees.export_layer import export_layer, export_rootfs
from layerstore.store.check.check import check
from layerstore.store.collect.gc import plan_gc
from layerstore.store.locks.leases import live_leases, lock_file_ids
from layerstore.store.rebuild.rebuild import rebuild_catalog
from layerstore.store.store import Store

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from tests.crash.rig.launcher import Launcher

SIZE_SLACK = 0.01
"""A store that went through a fault and gc may be this much larger than one that did not."""

_UNCOUNTED = ("quarantine", "locks", "reserve")
# names.log and the catalog's files grow with history, not with content.
_INDEX_NAMES = ("catalog.sqlite", "catalog.sqlite-wal", "catalog.sqlite-shm", "names.log")

Names = dict[str, str]
"""Every name of a store with what it stands for: image id and digest of the exported tar."""


class BrokenPromiseError(AssertionError):
    """A store is not what was promised."""


class Expectation(NamedTuple):
    """What a store may look like.

    Attributes:
        states: Any one of these sets of names is right: before and after an atomic verb.
            None at all leaves names to the caller.
        harmed: Names whose content was damaged on purpose; they may fail with our error.
        damaged: Whether findings of ``check`` are expected.
        may_lack_store: Whether "no store" is right too: it was being made.
    """

    states: Sequence[Names]
    harmed: Collection[str] = ()
    damaged: bool = False
    may_lack_store: bool = False


class _Hash:
    """A stream that keeps only the digest of what is written."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self._digest.update(data)
        return len(data)

    def hexdigest(self) -> str:
        return self._digest.hexdigest()


def content_of(store: Store, name: str) -> str:
    """Return image id and digest of an image, every layer and the root file system read whole."""
    image = store.resolve(name)
    store.get_blob(image.manifest_digest)
    store.get_blob(image.image_id)
    for diff_id in image.layers:
        export_layer(store, diff_id, _Hash())  # type: ignore[arg-type]
    out = _Hash()
    export_rootfs(store, image.layers, out)  # type: ignore[arg-type]
    return f"{image.image_id} {out.hexdigest()}"


def names_of(root: Path, harmed: Collection[str] = ()) -> Names:
    """Return every name of a store with its content."""
    with Store.open(root) as store:
        return {
            name: "harmed" if name in harmed else content_of(store, name) for name in store.tags()
        }


def judge(
    root: Path, expected: Expectation, *, rebuild_in: Path | None = None, read_data: bool = True
) -> Names | None:
    """Judge a store as a fault left it; return the state it is in, None where there is no store.

    Args:
        rebuild_in: A directory for a copy of the store whose catalog is deleted and made
            again: what comes out must be one of the expected states as well.

    Raises:
        BrokenPromiseError: Something that was promised does not hold.
    """
    if expected.may_lack_store and not (root / "config.toml").exists():
        return None
    try:
        state = _look(root, expected, read_data=read_data)
    except LayerstoreError as err:
        raise BrokenPromiseError(f"the store does not open or read: {err!r}") from err
    if rebuild_in is not None:
        _judge_rebuilt(root, expected, rebuild_in)
    return state


def _look(root: Path, expected: Expectation, *, read_data: bool) -> Names:
    with Store.open(root) as store:
        report = check(store, read_data=read_data)
        if not report.ok and not expected.damaged:
            raise BrokenPromiseError(f"check: {[f for f in report.findings if f.is_error]}")
        harmless = {
            image.image_id
            for image in store.images()
            if all(image.image_id not in finding.images for finding in report.findings)
        }
        found: Names = {}
        for name, image_id in store.tags().items():
            try:
                found[name] = content_of(store, name)
            except LayerstoreError as err:
                if name not in expected.harmed:
                    raise BrokenPromiseError(f"{name} cannot be read: {err!r}") from err
                if image_id in harmless:
                    raise BrokenPromiseError(
                        f"{name} cannot be read, check did not say so"
                    ) from err
                found[name] = "harmed"
        _require_state(found, expected)
        dangling = plan_gc(store).dangling
        if dangling and not expected.damaged:
            raise BrokenPromiseError(f"dangling: {dangling}")
    return found


def _require_state(found: Names, expected: Expectation) -> None:
    def same(state: Mapping[str, str]) -> bool:
        return state.keys() == found.keys() and all(
            state[name] == found[name] or (name in expected.harmed and found[name] == "harmed")
            for name in found
        )

    if expected.states and not any(same(state) for state in expected.states):
        differences = [
            {name for name in state.keys() | found.keys() if state.get(name) != found.get(name)}
            for state in expected.states
        ]
        raise BrokenPromiseError(f"names differ from every expected state: {differences}")


def require_names(found: Mapping[str, str], acknowledged: Mapping[str, str]) -> None:
    """Refuse a store that lacks, or has otherwise, a name that was acknowledged.

    Raises:
        BrokenPromiseError: It does.
    """
    lost = {name for name, content in acknowledged.items() if found.get(name) != content}
    if lost:
        raise BrokenPromiseError(f"acknowledged and not there: {sorted(lost)}")


def _judge_rebuilt(root: Path, expected: Expectation, scratch: Path) -> None:
    copy = scratch / "rebuilt"
    shutil.copytree(root, copy, symlinks=True)
    try:
        for suffix in ("", "-wal", "-shm"):
            (copy / f"catalog.sqlite{suffix}").unlink(missing_ok=True)
        rebuild_catalog(str(copy))
        found = names_of(copy, expected.harmed)
        harmed = dict.fromkeys(expected.harmed, "harmed")
        _require_state(found, expected._replace(states=[{**s, **harmed} for s in expected.states]))
    except LayerstoreError as err:
        raise BrokenPromiseError(f"the catalog cannot be rebuilt: {err!r}") from err
    finally:
        shutil.rmtree(copy)


def settle(
    root: Path,
    launcher: Launcher,
    rerun: Sequence[str],
    after: Names,
    *,
    fresh_bytes: int | None,
    accepted: Collection[int] = (0,),
) -> None:
    """Run the interrupted command again, collect, and judge the result.

    Args:
        after: The only right set of names.
        fresh_bytes: Size of a store that went through the same without a fault.
        accepted: Exit codes of the second run: a name that is gone cannot be removed again.

    Raises:
        BrokenPromiseError: The command fails, gives something else, or leaves something behind.
    """
    done = launcher.run(root, *rerun)
    if done.code not in accepted or not done.typed:
        raise BrokenPromiseError(f"the command run again ended with {done.code}: {done.err}")
    for _ in range(2):
        done = launcher.run(root, "gc")
        if done.code != 0:
            raise BrokenPromiseError(f"gc ended with {done.code}: {done.err}")
    judge(root, Expectation([after]))
    left = leftovers(root)
    if left:
        raise BrokenPromiseError(f"gc left behind: {left}")
    if fresh_bytes is not None:
        size = content_bytes(root)
        if size > fresh_bytes * (1 + SIZE_SLACK):
            raise BrokenPromiseError(f"the store has {size} bytes, a fresh one {fresh_bytes}")


def leftovers(root: Path) -> list[str]:
    """Return what no idle store has: temporary files, leases, mounts of its own."""
    found = [f"tmp/{name}" for name in os.listdir(root / "tmp")]
    with Store.open(root) as store:
        found += [f"locks/lease-{name}" for name in lock_file_ids(store.paths)]
        found += [f"lease {lease.purpose}" for lease in live_leases(store.catalog)]
        rows = store.catalog.query("SELECT purpose FROM leases")
        found += [f"lease row {purpose}" for (purpose,) in rows]
    found += mounts_below(root)
    return found


def mounts_below(root: Path) -> list[str]:
    """Return mount points below a directory."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as table:
        points = [line.split(" ")[4] for line in table]
    return [point for point in points if point.startswith(f"{os.path.realpath(root)}/")]


def content_bytes(root: Path) -> int:
    """Return the bytes of all files that hold content: packs, blobs, views, leftovers."""
    return sum(status.st_size for status in _content_files(root))


def _content_files(root: Path) -> Iterable[os.stat_result]:
    for directory, names, files in os.walk(root):
        if Path(directory) == root:
            names[:] = [name for name in names if name not in _UNCOUNTED]
        for name in files:
            if name not in _INDEX_NAMES:
                yield os.lstat(f"{directory}/{name}")
