"""Debian root file systems as directories: bootstrap, copy, install, upgrade.

mmdebstrap and the host's apt get the packages, dpkg runs inside the tree. Mirror, proxies and
keys are what apt on this machine is set up with; nothing here names one. Commands run in mount
namespaces of their own, so nothing they mount stays behind. Needs root.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# Caches and lists are rewritten by every installation and belong to no image.
_NO_CACHES = (
    "printf '%s\\n' 'Dir::Cache::pkgcache \"\";' 'Dir::Cache::srcpkgcache \"\";' "
    '> "$1/etc/apt/apt.conf.d/50no-caches" '
    '&& rm -f "$1"/var/cache/apt/*.bin'
)
_NO_SERVICES = (
    'printf "#!/bin/sh\\nexit 101\\n" > "$1/usr/sbin/policy-rc.d" '
    '&& chmod 755 "$1/usr/sbin/policy-rc.d"'
)
_NOTHING_OF_THE_HOST = 'rm -f "$1/etc/hostname" "$1/etc/resolv.conf"'
# mmdebstrap writes the suite's sources, then those of its updates: runs before apt-get update.
_AS_RELEASED = (
    'cp "$1/etc/apt/sources.list" "$1/etc/apt/sources.updates" '
    "&& sed -i -e '/-security/d' -e '/-updates/d' \"$1/etc/apt/sources.list\""
)
_IN_TREE = 'mount -t proc proc "$0/proc" && exec chroot "$0" "$@"'

_APT = """\
Dir "{tree}";
Dir::Etc::Trusted "{trusted}";
Dir::Etc::TrustedParts "{parts}";
Dir::Bin::dpkg "/usr/bin/dpkg";
DPkg::Chroot-Directory "{tree}";
DPkg::Options {{ "--force-unsafe-io"; "--force-confdef"; "--force-confold"; }};
APT::Sandbox::User "root";
APT::Install-Recommends "false";
Acquire::Languages "none";
"""


def bootstrap_tree(
    suite: str, tree: Path, *, include: Sequence[str] = (), as_released: bool = False
) -> None:
    """Make the new directory ``tree`` a minimal Debian.

    Args:
        suite: Code name.
        tree: Where; must not exist.
        include: Packages on top of mmdebstrap's ``minbase``.
        as_released: Without the suite's security and other updates; :func:`upgrade` brings them.
    """
    command = ["mmdebstrap", "--quiet", "--variant=minbase", "--format=directory"]
    command += ["--dpkgopt=force-unsafe-io", '--aptopt=Acquire::Languages "none"']
    command += ["--skip=chroot/policy-rc.d", f"--extract-hook={_NO_SERVICES}"]
    command += [f"--customize-hook={_NO_CACHES}", f"--customize-hook={_NOTHING_OF_THE_HOST}"]
    if as_released:
        command.append(f"--setup-hook={_AS_RELEASED}")
    if include:
        command.append("--include=" + ",".join(include))
    _run([*command, suite, str(tree)])


def derive(base: Path, tree: Path) -> None:
    """Copy a tree with everything it holds, as a container's build begins with its base."""
    _run(["cp", "-a", "--sparse=always", str(base), str(tree)])


def install(tree: Path, packages: Sequence[str]) -> None:
    """Install packages into a tree."""
    with _apt(tree) as apt:
        apt("update")
        apt("install", *packages)


def upgrade(tree: Path) -> None:
    """Apply all updates of the suite to a tree that was made as released."""
    etc = tree / "etc" / "apt"
    (etc / "sources.updates").rename(etc / "sources.list")
    with _apt(tree) as apt:
        apt("update")
        apt("dist-upgrade")


def run_in(tree: Path, *command: str) -> None:
    """Run a command with the tree as its root."""
    _run(["unshare", "--mount", "sh", "-c", _IN_TREE, str(tree), *command])


def packages_of(tree: Path) -> list[str]:
    """Return ``name version`` of each package in a tree, sorted."""
    ask = ["dpkg-query", f"--admindir={tree}/var/lib/dpkg", "-W", "-f", "${Package} ${Version}\\n"]
    return sorted(
        subprocess.run(ask, check=True, capture_output=True, text=True).stdout.split("\n")
    )[1:]


class _Apt:
    """apt-get of the host, working on a tree."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._environment = environment

    def __call__(self, *words: str) -> None:
        # dpkg's triggers want /proc; the chroot is apt's own (DPkg::Chroot-Directory).
        tree = self._environment["TREE"]
        script = 'mount -t proc proc "$0/proc" && exec apt-get --yes --quiet "$@"'
        _run(["unshare", "--mount", "sh", "-c", script, tree, *words], env=self._environment)


@contextlib.contextmanager
def _apt(tree: Path) -> Iterator[_Apt]:
    """Give apt-get for a tree; afterwards its downloads and lists are gone."""
    keys = "/etc/apt/trusted.gpg", "/etc/apt/trusted.gpg.d"
    for keyring in Path("/usr/share/keyrings").glob("debian-archive-*.gpg"):
        if not any(Path(keys[1]).iterdir()):
            keys = str(keyring), keys[1]
    settings = subprocess.run(["apt-config", "dump"], check=True, capture_output=True, text=True)
    with tempfile.NamedTemporaryFile("w", suffix=".conf") as config:
        # How this machine gets at packages (proxies, retries): only that is the host's.
        config.writelines(
            line for line in settings.stdout.splitlines(keepends=True) if line.startswith("Acquire")
        )
        config.write(_APT.format(tree=tree, trusted=keys[0], parts=keys[1]))
        config.flush()
        yield _Apt(
            {
                **os.environ,
                "APT_CONFIG": config.name,
                "DEBIAN_FRONTEND": "noninteractive",
                "LC_ALL": "C.UTF-8",
                "TREE": str(tree),
            }
        )
    for leftover in ("var/lib/apt/lists", "var/cache/apt/archives"):
        shutil.rmtree(tree / leftover, ignore_errors=True)
        for made in (leftover, f"{leftover}/partial"):
            (tree / made).mkdir()


def _run(command: Sequence[str], *, env: dict[str, str] | None = None) -> None:
    """Run a command to its end; what it said is shown only if it fails."""
    done = subprocess.run(
        command,
        check=False,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=env,
    )
    if done.returncode != 0:
        tail = done.stdout.decode("utf-8", "replace")[-3000:]
        raise RuntimeError(f"{' '.join(command[:8])} ...: exit {done.returncode}\n{tail}")
