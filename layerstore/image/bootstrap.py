"""Debian base images made from Debian packages, where no registry is at hand.

mmdebstrap builds the root file system and streams it as a tar straight into the
store; nothing of it is unpacked by us. Mirror, proxies and keys are those that
mmdebstrap and apt find on the host, and the sources it writes stay in the image, so
that apt keeps working in containers. A failed or killed bootstrap leaves no image;
what was already stored is garbage until gc.

The command is found on PATH and started with an argument list; every word that
comes from a person is checked first, so that none can be an option.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import threading
from collections import deque
from typing import IO, TYPE_CHECKING, BinaryIO, NamedTuple, cast

from layerstore.errors import (
    BuildError,
    InputError,
    IntegrityError,
    UnsupportedError,
)
from layerstore.formats.oci_config import ContainerConfig, History, ImageConfig
from layerstore.formats.reference import parse_reference
from layerstore.image.images import create_image, host_platform
from layerstore.image.layers.ingest_tar import ingest_tar
from layerstore.progress import Progress, Silent

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from layerstore.store.catalog.rows import ImageRecord
    from layerstore.store.store import Store
    from layerstore.store.writing.putting import SessionStats

TOOL = "mmdebstrap"
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
VARIANTS = ("essential", "apt", "required", "minbase", "buildd", "important", "standard")
SUITES: Mapping[str, str] = {
    "11": "bullseye",
    "12": "bookworm",
    "13": "trixie",
    "14": "forky",
    "latest": "stable",
    **{
        suite: suite
        for suite in (
            "bullseye",
            "bookworm",
            "trixie",
            "forky",
            "sid",
            "oldoldstable",
            "oldstable",
            "stable",
            "testing",
            "unstable",
        )
    },
}
"""Tag of the ``debian`` image and the suite it is bootstrapped from."""

STOP_GRACE_S = 20.0
"""How long mmdebstrap may take to unmount what it mounted before it is killed."""

_TAIL_LINES = 20
_SUITE = re.compile(r"[a-z][a-z0-9.-]{0,63}", re.ASCII)
_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]*(?::[a-z0-9-]+)?(?:=[\w.+:~-]+)?", re.ASCII)
_COMPONENT = re.compile(r"[a-z][a-z0-9-]*", re.ASCII)
_MIRROR = re.compile(r"(?:https?|file|copy)://[\x21-\x7e]+", re.ASCII)

# mmdebstrap copies these from the host, whose names and resolvers are no business of an image.
_NOTHING_OF_THE_HOST = 'rm -f "$1/etc/hostname" "$1/etc/resolv.conf"'

# apt's binary caches are 50 MB in every layer that installs something, and downloaded packages
# are dead weight there: docker's images switch both off, and Dockerfiles count on it.
_NO_CACHES = (
    "printf '%s\\n' 'Dir::Cache::pkgcache \"\";' 'Dir::Cache::srcpkgcache \"\";' "
    "'APT::Keep-Downloaded-Packages \"false\";' "
    '> "$1/etc/apt/apt.conf.d/50no-caches-in-layers" '
    '&& rm -f "$1"/var/cache/apt/*.bin'  # with them off, mmdebstrap's clean-up passes them by
)

# Without it a package's installation in a RUN step starts daemons (docker's images have it too).
_NO_SERVICES = (
    'printf "#!/bin/sh\\nexit 101\\n" > "$1/usr/sbin/policy-rc.d" '
    '&& chmod 755 "$1/usr/sbin/policy-rc.d"'
)


class BootstrapFailedError(BuildError):
    """mmdebstrap ended with an error; the message ends with its last lines."""


class BootstrapSpec(NamedTuple):
    """What to bootstrap.

    Attributes:
        source: ``debian:SUITE``.
        variant: mmdebstrap's package set.
        include: Packages on top of the variant's.
        mirror: Where from; empty for mmdebstrap's default.
        components: Of the archive: main, contrib, ...
    """

    source: str
    variant: str = "minbase"
    include: tuple[str, ...] = ()
    mirror: str = ""
    components: tuple[str, ...] = ("main",)


class BootstrappedImage(NamedTuple):
    """A base image, its names, and what it cost; ``stats`` is None if it was there before."""

    image: ImageRecord
    names: tuple[str, ...]
    stats: SessionStats | None


def bootstrap(
    store: Store,
    spec: BootstrapSpec,
    *,
    created: str,
    names: Sequence[str] = (),
    replace: bool = False,
    progress: Progress | None = None,
) -> BootstrappedImage:
    """Make a base image and name it; durable when this returns.

    An image that has the first of the names is kept and returned as it is.

    Args:
        store: Where to.
        spec: What to make.
        created: RFC 3339 time for the config.
        names: Familiar names; by default the spec's source.
        replace: Make it although the name is taken; it then moves to the new image.
        progress: Hears of mmdebstrap's phases and of bytes stored.

    Raises:
        InputError: The spec is wrong.
        UnsupportedError: mmdebstrap is not installed.
        BootstrapFailedError: mmdebstrap failed.
    """
    command = command_of(spec)
    chosen = tuple(names) or (parse_reference(spec.source).name,)
    present = store.tags().get(chosen[0])
    if present is not None and not replace:
        return BootstrappedImage(store.image(present), chosen, None)
    progress = progress or Silent()
    with store.begin(f"bootstrap {spec.source}") as session:
        with _running(command, progress) as output:
            layer = ingest_tar(session, output, progress=progress, rootfs=True)
        image = create_image(
            session,
            _config(),
            [layer.diff_id],
            [History(created=created, created_by=f"layerstore bootstrap {spec.source}")],
            names=chosen,
            created=created,
        )
        return BootstrappedImage(image, chosen, session.stats)


def _config() -> ImageConfig:
    architecture, variant = host_platform()
    return ImageConfig(
        architecture=architecture,
        variant=variant,
        config=ContainerConfig(env=(f"PATH={DEFAULT_PATH}",), cmd=("bash",)),
    )


def command_of(spec: BootstrapSpec) -> list[str]:
    """Return the command that writes the root file system as a tar to its stdout.

    Raises:
        InputError: A suite, variant, package, mirror or component that cannot be one.
    """
    suite = _suite(spec)
    if spec.variant not in VARIANTS:
        raise InputError(f"{spec.variant!r} is not a variant", hint="one of " + ", ".join(VARIANTS))
    _check_words(spec.include, _PACKAGE, "the name of a package")
    _check_words(spec.components, _COMPONENT, "a component of an archive")
    if spec.mirror and not _MIRROR.fullmatch(spec.mirror):
        raise InputError(
            f"{spec.mirror!r} is not a mirror", hint="for example http://mirror.example.org/debian"
        )
    command = [
        TOOL,
        f"--variant={spec.variant}",
        "--format=tar",
        "--components=" + ",".join(spec.components),
        "--dpkgopt=force-unsafe-io",  # a layer is made durable as a whole, not per package
        '--aptopt=Acquire::Languages "none"',
        # mmdebstrap's own policy would be gone at the end: ours works from here on.
        "--skip=chroot/policy-rc.d",
        f"--extract-hook={_NO_SERVICES}",
        f"--customize-hook={_NO_CACHES}",
        f"--customize-hook={_NOTHING_OF_THE_HOST}",
    ]
    if spec.include:
        command.append("--include=" + ",".join(spec.include))
    return [*command, suite, "-", *([spec.mirror] if spec.mirror else [])]


def _suite(spec: BootstrapSpec) -> str:
    reference = parse_reference(spec.source)
    tag = reference.tag or "latest"
    if reference.repository != "debian":
        raise InputError(
            f"cannot bootstrap {spec.source!r}: only debian is made from packages",
            hint="layerstore bootstrap debian:bookworm",
        )
    if spec.mirror and _SUITE.fullmatch(tag):
        return SUITES.get(tag, tag)  # a mirror of one's own may have suites of its own
    if tag not in SUITES:
        raise InputError(
            f"{tag!r} is not a Debian suite",
            hint="one of " + ", ".join(sorted(SUITES)) + "; with --mirror any name passes",
        )
    return SUITES[tag]


def _check_words(words: Sequence[str], pattern: re.Pattern[str], what: str) -> None:
    for word in words:
        if not pattern.fullmatch(word):
            raise InputError(f"{word!r} is not {what}")


@contextlib.contextmanager
def _running(command: Sequence[str], progress: Progress) -> Iterator[BinaryIO]:
    """Start mmdebstrap, give its output, and turn its failure into an error.

    When it fails, its tar ends early and the reader fails first: mmdebstrap's own
    words are the cause then, and the reader's error is only the consequence.
    """
    process = _start(command)
    output = cast("BinaryIO", process.stdout)
    listener = _Listener(process, progress)
    cause: IntegrityError | None = None
    try:
        yield output
        output.read()  # whatever follows the archive's end
    except IntegrityError as err:
        if _wait(process) == 0:
            raise
        cause = err
    except BaseException:
        process.terminate()
        raise
    finally:
        output.close()
        status = _wait(process)
        listener.join()
    if status != 0:
        tail = "\n".join(listener.tail) or "it said nothing"
        raise BootstrapFailedError(
            f"{TOOL} failed with status {status}; its last lines:\n{tail}",
            hint="check the suite, the mirror and the network",
        ) from cause


def _start(command: Sequence[str]) -> subprocess.Popen[bytes]:
    tool, *arguments = command
    path = shutil.which(tool)
    if path is None:
        raise UnsupportedError(f"{TOOL} is not installed", hint=f"apt-get install {TOOL}")
    return subprocess.Popen(
        [*_guards(), path, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # When it is stopped, mmdebstrap hangs up its whole process group: not ours.
        process_group=0,
    )


def _guards() -> list[str]:
    """Return what to run mmdebstrap under, where the host has it.

    It is told to stop when this process dies in whatever way, and mounts of its own that
    it leaves behind end with it instead of staying on the host.
    """
    guards: list[str] = []
    setpriv, unshare = shutil.which("setpriv"), shutil.which("unshare")
    if setpriv is not None:
        guards += [setpriv, "--pdeathsig", "TERM"]
    if unshare is not None and os.geteuid() == 0:
        private = [unshare, "--mount"]
        trial = subprocess.run([*private, "true"], capture_output=True, check=False)
        guards += private if trial.returncode == 0 else []
    return guards


def _wait(process: subprocess.Popen[bytes]) -> int:
    """Return the exit status; a process that outlives its reader is stopped."""
    try:
        return process.wait(STOP_GRACE_S)
    except subprocess.TimeoutExpired:
        process.terminate()
    try:
        return process.wait(STOP_GRACE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


class _Listener:
    """Reads a process's stderr in a thread: keeps the end, passes phases on."""

    def __init__(self, process: subprocess.Popen[bytes], progress: Progress) -> None:
        assert process.stderr is not None
        self.tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self._progress = progress
        self._thread = threading.Thread(target=self._read, args=(process.stderr,), daemon=True)
        self._thread.start()

    def join(self) -> None:
        self._thread.join()

    def _read(self, stream: IO[bytes]) -> None:
        with stream:
            for raw in stream:
                # Progress bars end in carriage returns: only the last state counts.
                line = raw.decode("utf-8", "replace").rstrip().rpartition("\r")[2]
                if line.startswith("I: "):
                    self._progress.start(f"{TOOL}: {line[3:]}", None)
                if line:
                    self.tail.append(line)
