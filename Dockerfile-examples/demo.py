"""The main job of layerstore on real input: build, mount shared, measure.

Bootstraps Debian, builds the examples beside this file, mounts each of them as ten
writable root file systems at once, runs a command in every one, shows that none sees
another's files, and prints what all of it costs as full copies, as plain layers, and here.

It drives the ``layerstore`` command as a person would and prints each command it runs.
Run it with ``make demo``; run it again and the builds come from the cache. However it ends, it
takes its views away; what a killed one left, the next one takes away first.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from types import FrameType

HERE = Path(__file__).resolve().parent
LAYERSTORE = Path(sys.executable).parent / "layerstore"
BASE = "debian:bookworm"
CA_BUNDLES = ("SSL_CERT_FILE", "PIP_CERT", "NODE_EXTRA_CA_CERTS", "REQUESTS_CA_BUNDLE")
CA_DEFAULT = Path("/etc/ssl/certs/ca-certificates.crt")
CA_IN_BUILD = "/run/secrets/ca-certificates.crt"
SCRATCH = "layerstore-demo-"
"""How the names of temporary directories begin."""

STORE_LINK = "store"
"""In a directory of views: which store they are of."""


class Example(NamedTuple):
    """An image to build, and a command that shows it works."""

    name: str
    command: tuple[str, ...]


EXAMPLES = (
    Example("python-flask", ("/opt/venv/bin/python", "-c", "import web; print(web.app.name)")),
    Example("node-express", ("/usr/bin/node", "-e", "console.log(require('express').name)")),
    Example("nginx-static", ("/usr/sbin/nginx", "-v")),
    Example("c-static", ("/hello",)),
)


ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PATIENCE_S = 3.0
VIEW_ENVIRONMENT = {
    "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    "PYTHONPATH": "/srv/app",
    "NODE_PATH": "/srv/app/node_modules",
}


class View(NamedTuple):
    """One mounted root file system and the example it shows."""

    example: Example
    root: Path


def main() -> int:
    """Run the whole demonstration; returns the exit status."""
    options = parse_arguments()
    if os.geteuid() != 0:
        print("the demo mounts writable views, which needs root: sudo make demo", file=sys.stderr)
        return 2
    os.environ["LAYERSTORE_ROOT"] = str(options.store)
    take_away_left_behind()
    started = time.monotonic()
    build_everything()
    with mounted_views(options.store, options.copies) as views:
        run_in_every_view(views)
        show_isolation(views)
        heading("What it costs, and what it would cost otherwise")
        report = options.store.parent / "demo-report.html"
        layerstore(
            "savings",
            *(example.name for example in EXAMPLES),
            *("--copies", str(options.copies), "--html", str(report), "--memory"),
        )
        print(f"the same with pictures, to open in a browser: {report}")
        layerstore("df")
    print(f"\ndone in {time.monotonic() - started:.0f} s; the store stays in {options.store}")
    print("run it again and every step comes from the cache")
    return 0


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    default_store = HERE.parent / ".cache" / "demo-store"
    parser.add_argument("--store", type=Path, default=default_store, help="where the store lies")
    parser.add_argument("--copies", type=int, default=10, help="root file systems of each image")
    return parser.parse_args()


def build_everything() -> None:
    """Bootstrap the base and build the examples."""
    heading(f"A base image from Debian's packages: {BASE}")
    layerstore("bootstrap", BASE)
    with host_configuration() as secrets:
        for example in EXAMPLES:
            heading(f"Build {example.name}")
            layerstore("build", *secrets, "-t", example.name, str(HERE / example.name))
    layerstore("images")


@contextlib.contextmanager
def mounted_views(store: Path, copies: int) -> Iterator[list[View]]:
    """Mount every example ``copies`` times; unmount whatever was mounted on the way out."""
    heading(f"Mount each image {copies} times, every view with its own writable layer")
    views: list[View] = []
    with scratch_directory("views") as top:
        (top / STORE_LINK).symlink_to(store.absolute())
        started = time.monotonic()
        for example in EXAMPLES:
            for number in range(copies):
                root = top / f"{example.name}-{number}"
                root.mkdir()
                layerstore("mount", "--rw", example.name, str(root), quiet=bool(number))
                views.append(View(example, root))
        print(f"{len(views)} root file systems in {time.monotonic() - started:.1f} s")
        yield views
        heading("Unmount everything")
    print(f"{len(views)} views unmounted")


def run_in_every_view(views: list[View]) -> None:
    """Run each example's command with the view as its root."""
    heading("Run a command in every one")
    started = time.monotonic()
    for view in views:
        command = ["chroot", str(view.root), *view.example.command]
        status, output = run(command, env=VIEW_ENVIRONMENT, stdout=subprocess.PIPE)
        if status:
            raise SystemExit(f"{shlex.join(command)} failed with exit status {status}: {output}")
        if view.root.name.endswith("-0"):
            print(f"{view.example.name}: {shlex.join(view.example.command)} -> {output.strip()}")
    print(f"{len(views)} commands ran in {time.monotonic() - started:.1f} s")


def show_isolation(views: list[View]) -> None:
    """Write a different file in each view and check that no other view has it."""
    heading("Write in every one; none sees another's")
    for view in views:
        (view.root / f"only-in-{view.root.name}").write_text(f"{view.root.name}\n")
    for view in views:
        own = sorted(path.name for path in view.root.iterdir() if path.name.startswith("only-in-"))
        if own != [f"only-in-{view.root.name}"]:
            raise SystemExit(f"{view.root} sees {own}: views are not isolated")
    print(f"{len(views)} files written, each seen in its own view and in no other")


@contextlib.contextmanager
def host_configuration() -> Iterator[list[str]]:
    """Yield ``--secret`` options with the host's pip, npm and certificate configuration.

    Behind a package mirror the steps that run pip and npm need what the host needs. A
    secret is mounted for one RUN step and never stored.
    """
    with scratch_directory("secrets") as folder:
        bundle = certificate_bundle()
        files = {
            "pip.conf": pip_configuration(bundle),
            "npmrc": npm_configuration(bundle),
        }
        options = []
        for name, text in files.items():
            if text:
                path = folder / name
                path.write_text(text)
                options += ["--secret", f"id={name},src={path}"]
        if bundle:
            options += ["--secret", f"id=ca-certificates,src={bundle}"]
        yield options


def certificate_bundle() -> Path | None:
    """Return the host's bundle of trusted certificates, if it has one."""
    named = [Path(os.environ[name]) for name in CA_BUNDLES if os.environ.get(name)]
    return next((path for path in (*named, CA_DEFAULT) if path.is_file()), None)


def pip_configuration(bundle: Path | None) -> str:
    """Return a pip.conf with those of the host's settings that mean something in a build.

    Paths of the host (local indexes, constraint files) do not exist there and are left out.
    """
    pip = [sys.executable, "-m", "pip", "config", "list"]
    listed = subprocess.run(pip, capture_output=True, text=True, check=False).stdout
    wanted = {"index-url", "extra-index-url", "trusted-host", "proxy", "timeout", "retries"}
    settings = {}
    for line in listed.splitlines():
        key, _, quoted = line.partition("=")
        name = key.rpartition(".")[2].replace("default-", "")
        words = [word for word in quoted.strip("'").split() if not word.startswith("file:")]
        if name in wanted and words:
            settings[name] = " ".join(words)
    if bundle:
        settings["cert"] = CA_IN_BUILD
    lines = [f"{name} = {value}" for name, value in sorted(settings.items())]
    return "\n".join(["[global]", *lines, ""]) if lines else ""


def npm_configuration(bundle: Path | None) -> str:
    """Return an .npmrc with the host's registry, proxies and certificates."""
    wanted = ("registry", "proxy", "https-proxy", "noproxy", "strict-ssl")
    settings = {}
    for path in (Path("/etc/npmrc"), Path("/usr/etc/npmrc"), Path.home() / ".npmrc"):
        for line in path.read_text().splitlines() if path.is_file() else ():
            key, equals, value = line.partition("=")
            name = key.strip()
            # "//host/:_authToken" and the like travel too: a private mirror needs them.
            if equals and (name in wanted or name.startswith(("@", "//"))):
                settings[name] = value.strip()
    for name in wanted:
        from_environment = os.environ.get(f"npm_config_{name.replace('-', '_')}")
        if from_environment:
            settings[name] = from_environment
    if bundle:
        settings["cafile"] = CA_IN_BUILD
    return "".join(f"{name}={value}\n" for name, value in sorted(settings.items()))


def layerstore(*arguments: str, quiet: bool = False) -> None:
    """Run one layerstore command as a user would, showing it; stop when it fails."""
    if not quiet:
        print(f"\n$ layerstore {shlex.join(arguments)}", flush=True)
    status, _ = run([str(LAYERSTORE), *arguments], stdout=subprocess.DEVNULL if quiet else None)
    if status:
        raise SystemExit(f"layerstore {arguments[0]} failed with exit status {status}")


def run(
    command: Sequence[str], *, stdout: int | None, env: Mapping[str, str] | None = None
) -> tuple[int, str]:
    """Run a command; return its exit status and what it printed into a pipe, if it has one.

    If we are to end, so is it, and we wait for that: a mount that is killed halfway helps nobody.
    """
    stderr = subprocess.STDOUT if stdout == subprocess.PIPE else None
    with subprocess.Popen(command, stdout=stdout, stderr=stderr, env=env, text=True) as process:
        try:
            output, _ = process.communicate()
        except BaseException:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(PATIENCE_S)  # a terminal's Ctrl-C has reached it, too
            process.terminate()
            process.wait()
            raise
    return process.returncode, output or ""


@contextlib.contextmanager
def scratch_directory(kind: str) -> Iterator[Path]:
    """Yield a new directory, held as long as we live; it and views in it go however we end."""
    top, lock = new_scratch_directory(kind)
    try:
        yield top
    finally:
        with undisturbed():
            is_gone = take_away(top)
            os.close(lock)
    if not is_gone:
        raise SystemExit(1)


def new_scratch_directory(kind: str) -> tuple[Path, int]:
    """Make a directory and lock it: without its lock it is one that was left behind."""
    while True:
        top = Path(tempfile.mkdtemp(prefix=f"{SCRATCH}{kind}-")).resolve()
        lock = lock_directory(top)
        if lock is not None:
            return top, lock


def lock_directory(top: Path) -> int | None:
    """Return a lock of a directory of ours; None if another has it, or it is not there any more."""
    try:
        lock = os.open(top, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(lock).st_uid == os.geteuid() and os.path.samestat(os.fstat(lock), top.lstat()):
            return lock
    except OSError:
        pass
    os.close(lock)
    return None


def take_away_left_behind() -> None:
    """Take away what demonstrations left that were killed."""
    for top in sorted(Path(tempfile.gettempdir()).resolve().glob(f"{SCRATCH}*")):
        lock = lock_directory(top)
        if lock is not None:
            print(f"a killed run left {top}; it is taken away", flush=True)
            with undisturbed():
                take_away(top)
                os.close(lock)


def take_away(top: Path) -> bool:
    """Unmount the views in a directory, and remove it; return whether it is gone."""
    link = top / STORE_LINK
    if link.is_symlink():
        store = str(link.readlink())
        for target in views_below(top, store):
            subprocess.run([LAYERSTORE, "--store", store, "umount", "--lazy", target], check=False)
    try:
        # The link last: whoever tries again needs it. Never what is below a directory: were it
        # still mounted, files of its view would go.
        for path in sorted(top.iterdir(), key=Path.is_symlink):
            if path.is_dir() and not path.is_symlink():
                path.rmdir()
            else:
                path.unlink()
        top.rmdir()
    except OSError as err:
        print(f"{top} stays: {err}", file=sys.stderr)
        return False
    return True


def views_below(top: Path, store: str) -> list[str]:
    """Return where a store's views are in a directory, by the store and not by what we remember.

    A mount that we were interrupted in may have been made.
    """
    listing = [LAYERSTORE, "--store", store, "mounts", "--json"]
    listed = subprocess.run(listing, stdout=subprocess.PIPE, check=False).stdout
    views = json.loads(listed) if listed else []
    targets = [str(view.get("target", "")) for view in views]
    return [target for target in targets if Path(target).parent == top]


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Let signals wait, for us and for the commands that we run, which inherit it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end(number: int, _frame: FrameType | None) -> None:
    """Unwind at a signal: a handler of signals."""
    raise SystemExit(128 + number)


def heading(text: str) -> None:
    """Print what comes next."""
    print(f"\n== {text}", flush=True)


if __name__ == "__main__":
    for ending in ENDING:
        if signal.getsignal(ending) is not signal.SIG_IGN:  # as nohup has it
            signal.signal(ending, end)
    sys.exit(main())
