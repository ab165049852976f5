"""The doctor command: what this host can do for views and builds, and how to get the rest."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING, Annotated

import typer

from layerstore.cli.common import Json, settings_of
from layerstore.cli.output import counted, write_json, write_line
from layerstore.cli.settings import chosen_runtime
from layerstore.errors import LayerstoreError

if TYPE_CHECKING:
    from layerstore.linux.probe import Finding

SQLITE_SOUND = (3, 51, 3)
"""Before it a write and a checkpoint that meet can corrupt a WAL; the store then locks them apart.

Source: SQLite release notes, 3.51.3, "WAL-reset bug".
"""


def register(app: typer.Typer) -> None:
    """Add this noun's commands."""
    app.command("doctor")(examine)


def examine(
    context: typer.Context,
    *,
    as_json: Json = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with 15 if anything is missing.")
    ] = False,
) -> None:
    """Tell what works on this host, by trying."""
    from layerstore.linux.probe import probe_all

    root = settings_of(context).root
    findings = [
        *probe_all(_file_system_of(root), _image()),
        _packs(root),
        _lazy(),
        *_runtimes(),
        *_fixes(),
        _bootstrapper(),
        _containerd(),
        _go_layers(),
        _sqlite(),
        _store(root),
    ]
    if as_json:
        write_json([finding._asdict() for finding in findings])
    else:
        _print(findings)
    if strict and not all(finding.works for finding in findings):
        raise typer.Exit(15)


def _file_system_of(root: str) -> str | None:
    """Return a directory on the store's file system to try things in, or None if there is none."""
    from layerstore.store.paths import StorePaths

    place = StorePaths(os.path.abspath(root)).tmp
    while not os.path.isdir(place):
        place = os.path.dirname(place)
    return place if os.access(place, os.W_OK | os.X_OK) else None


def _image() -> bytes:
    """Return a metadata image as views have them, of nothing but a root."""
    import io
    import stat

    from layerstore.formats.erofs import Inode, write_image

    out = io.BytesIO()
    write_image([Inode(stat.S_IFDIR | 0o755, 0, 0, 0, 2)], out)
    return out.getvalue()


def _packs(root: str) -> Finding:
    """Try to read a tiny pack in place, as ``mount --backend kernel-packs`` does."""
    from layerstore.linux.probe import Finding
    from layerstore.store.objects.pack_trial import pack_problem

    name = "packs mounted in place"
    problem = pack_problem(_file_system_of(root) or tempfile.gettempdir())
    if problem is None:
        return Finding(name, True, "a trial worked")
    return Finding(
        name,
        False,
        problem,
        "Linux 6.15 or newer with EROFS and its zstd (CONFIG_EROFS_FS_ZIP_ZSTD), as root; until "
        "then files are unpacked, or views are FUSE's",
    )


def _lazy() -> Finding:
    """Try to have content fetched as it is looked for, as ``mount --from`` does."""
    from fuse_mount.lazy_trial import lazy_problem
    from layerstore.linux.probe import Finding

    name = "lazy views by the kernel"
    problem = lazy_problem()
    if problem is None:
        return Finding(name, True, "a trial worked")
    return Finding(
        name,
        False,
        problem,
        "Linux 6.9 or newer, root, /dev/fuse, and what kernel views need; until then lazy views "
        "are FUSE's",
    )


def _print(findings: list[Finding]) -> None:
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        verdict = "missing" if not finding.works else "warning" if finding.warns else "ok"
        write_line(f"{verdict:8} {finding.name:{width}}  {finding.reason}")
        if finding.remedy:
            write_line(f"{'':8} {'':{width}}  -> {finding.remedy}")


def _runtimes() -> list[Finding]:
    """Try every OCI runtime that is installed; which one builds use stands first."""
    from layerstore.build.run.trial import try_runtimes
    from layerstore.linux.probe import Finding

    name = "OCI runtime"
    try:
        verdicts = try_runtimes(chosen_runtime(os.environ))
    except LayerstoreError as err:
        return [Finding(name, False, err.message, err.hint or "")]
    works = [verdict for verdict in verdicts if not verdict.problem]
    fails = [verdict for verdict in verdicts if verdict.problem]
    if not works:
        return [
            Finding(name, False, verdict.problem, "apt-get install runc, or another version of it")
            for verdict in fails
        ]
    others = "".join(f"; {verdict.problem}" for verdict in fails)
    return [Finding(name, True, f"builds use {works[0].path}, a trial worked{others}")]


def _fixes() -> list[Finding]:
    """Say which known holes of the runtimes are mended; builds use the first that works."""
    from layerstore.linux.probe import Finding
    from layerstore.runtime.holes import described, fixes_of, mended_by
    from layerstore.runtime.runtimes import installed_runtimes

    try:
        runtimes = installed_runtimes(chosen_runtime(os.environ), rootless=os.geteuid() != 0)
    except LayerstoreError:
        return []  # told by the trial
    findings = []
    for runtime in runtimes:
        fixes = fixes_of(runtime.path, runtime.name)
        said = f"{runtime.path} {fixes.version or 'of an unknown version'}"
        newer = f"{runtime.name} {mended_by(runtime.name)}"
        lacking = described(fixes.holes)
        if not fixes.version:
            reason = f"{said}: what holes it has is not known"
        elif not fixes.holes:
            reason = f"{said}: no holes are known"
        elif not fixes.is_certain:
            reason = f"{said}: unless its package mended them, which it does not tell: {lacking}"
        else:
            reason = f"{said}: lacks what {newer} mended: {lacking}"
        remedy = f"install {newer}; until then build only what you trust" if fixes.severe else ""
        warns = not remedy and bool(fixes.holes or not fixes.version)
        findings.append(Finding(f"fixes of {runtime.name}", not remedy, reason, remedy, warns))
    return findings


def _bootstrapper() -> Finding:
    from layerstore.linux.probe import Finding

    path = shutil.which("mmdebstrap")
    if path is None:
        return Finding("mmdebstrap", False, "it is not installed", "apt-get install mmdebstrap")
    return Finding("mmdebstrap", True, path)


def _containerd() -> Finding:
    """Say whether ``layerstore snapshotter`` can start; what it shows images by is tried above."""
    from importlib.metadata import PackageNotFoundError, version

    from layerstore.linux.probe import Finding

    name = "containerd's snapshots"
    try:
        versions = f"grpcio {version('grpcio')}, protobuf {version('protobuf')}"
    except PackageNotFoundError as err:
        remedy = "pip install 'layerstore[containerd]'"
        return Finding(name, False, f"{err.name} is not installed", remedy)
    daemon = shutil.which("containerd")
    return Finding(name, True, f"{versions}; {daemon or 'there is no containerd here'}")


def _go_layers() -> Finding:
    """Say whether originals of layers that Go compressed are made again, which numba does.

    Another process loads it: one of another machine's kind ends whoever does.
    """
    from importlib.metadata import PackageNotFoundError, version

    from layerstore.linux.probe import Finding

    name = "Go's gzip layers made again"
    remedy = "pip install 'layerstore[go]'; until then their originals are kept"
    try:
        installed = f"numba {version('numba')}"
    except PackageNotFoundError:
        return Finding(name, False, "numba is not installed", remedy)
    words = [sys.executable, "-P", "-c", "import layerstore.formats.goflate.encoder"]
    imports = [path for path in sys.path if os.path.isabs(path)]  # what we can import it can
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(imports)}
    done = subprocess.run(words, capture_output=True, check=False, env=env)
    if done.returncode == 0:
        return Finding(name, True, f"{installed}, which loads")
    said = done.stderr.decode("utf-8", "replace").strip().splitlines()
    problem = said[-1] if said else f"exit status {done.returncode}"
    return Finding(name, False, f"{installed} cannot be loaded: {problem}", remedy)


def _sqlite() -> Finding:
    from layerstore.linux.probe import Finding

    sound = sqlite3.sqlite_version_info >= SQLITE_SOUND
    how = "" if sound else "; writes and checkpoints are locked apart"
    return Finding("SQLite", True, sqlite3.sqlite_version + how)


def _store(root: str) -> Finding:
    from layerstore.linux.probe import Finding
    from layerstore.store.store import Store

    if not os.path.exists(root):
        return Finding("store", True, f"none at {root} yet: the first import or build makes it")
    try:
        with Store.open(root) as store:
            images = len(store.images())
    except LayerstoreError as err:
        return Finding("store", False, err.message, err.hint or "")
    return Finding("store", True, f"{root}: {counted(images, 'image')}")
