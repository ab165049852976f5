"""What a package set is as a step: the command, its environment and its mounts.

The commands run in the image with the image's own apt, pip and npm. Downloads and indexes lie
in cache mounts, never in a layer. What a run would leave that differs from time to time (logs,
copies of databases, caches) is removed, so that with SOURCE_DATE_EPOCH two runs give one layer.

Every step may read secrets that a host behind a mirror needs, by these ids and never required:
``pip.conf``, ``npmrc``, ``apt-auth.conf`` and ``ca-certificates``.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple

from layerstore.build.graph import MountSpec, RunOp
from layerstore.build.native.packages import npm_parts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from layerstore.build.native.lockfile import AptPackage, PipPackage
    from layerstore.build.native.packages import PackageSet

RESOLVED = "/run/layerstore-resolved"
"""File that a resolving step leaves for us to read."""

FIXED_EPOCH = "315532800"
"""1980: what pip and its compiled files take for the time, so that they are the same each time.
With any value Python writes bytecode that is checked by content instead of by time."""

_CACHE = "/run/layerstore"
_INPUT = "/run/layerstore-input"
_LOCK = "/run/layerstore-lock"
_CERTIFICATES = "/run/secrets/ca-certificates.crt"
_CERTIFICATE_ENV = (
    f"if [ -f {_CERTIFICATES} ]; then\n"
    f"  export SSL_CERT_FILE={_CERTIFICATES} PIP_CERT={_CERTIFICATES}"
    f" NODE_EXTRA_CA_CERTS={_CERTIFICATES} REQUESTS_CA_BUNDLE={_CERTIFICATES}\n"
    "fi\n"
)

# Lists of other sources stay: images with other sources share the cache.
_APT = rf"""set -eu
apt() {{
  command=$1; shift
  certificates=
  if [ -f {_CERTIFICATES} ]; then certificates="-oAcquire::https::CaInfo={_CERTIFICATES}"; fi
  "$command" -q=1 -oDir::Cache={_CACHE}/apt \
    -oDir::State::lists={_CACHE}/lists -oAPT::Get::List-Cleanup=0 \
    -oAPT::Keep-Downloaded-Packages=1 -oAcquire::ForceHash=SHA256 \
    -oAPT::Install-Recommends=0 -oDpkg::Use-Pty=0 -oDpkg::Options::=--force-confold \
    $certificates "$@"
}}
if ! command -v apt-get >/dev/null; then
  echo "packages.apt needs a base with apt: Debian, Ubuntu or the like" >&2; exit 127
fi
mkdir -p {_CACHE}/apt/archives/partial {_CACHE}/lists/partial
"""
_APT_CLEAN = r"""
rm -f /var/log/apt/* /var/log/dpkg.log /var/log/alternatives.log /var/log/fontconfig.log \
  /var/cache/ldconfig/aux-cache /var/cache/debconf/*-old /var/lib/dpkg/*-old \
  /etc/passwd- /etc/shadow- /etc/group- /etc/gshadow- /etc/subuid- /etc/subgid-
"""
_APT_INSTALL = f'{_APT}apt apt-get update\napt apt-get install --yes "$@"{_APT_CLEAN}'
_APT_LOCKED = rf"""{_APT}
requested=$1; shift
count=$(($# / 3)); files= missing=
while [ "$count" -gt 0 ]; do
  uri=$1 sum=$2 file={_CACHE}/apt/archives/$3; shift 3; count=$((count - 1))
  files="$files $file"
  if ! echo "$sum  $file" | sha256sum --check --status 2>/dev/null; then
    rm -f "$file"
    missing="$missing $uri $file SHA256:$sum"
  fi
done
if [ -n "$missing" ]; then apt /usr/lib/apt/apt-helper download-file $missing; fi
if [ -n "$files" ]; then
  apt apt-get install --yes --no-download $files
  apt apt-mark auto $(for file in $files; do dpkg-deb --field "$file" Package; done) >/dev/null
fi
apt apt-mark manual $requested >/dev/null
{_APT_CLEAN}"""
# What lies in the cache already would not be listed: it looks into an empty one.
_APT_RESOLVE = rf"""{_APT}apt apt-get update
mkdir -p {RESOLVED}.archives/partial
apt apt-get install --yes --print-uris -oDir::Cache::archives={RESOLVED}.archives "$@" \
  > {RESOLVED}.uris
sed -n "s/^'\(.*\)' \([^ ]*\) \([0-9]*\) SHA256:\([0-9a-f]*\)$/\1 \2 \3 \4/p" \
  {RESOLVED}.uris > {RESOLVED}
"""

_PIP = rf"""set -eu
{_CERTIFICATE_ENV}venv=$1 python=$2; shift 2
if ! [ -x "$venv/bin/pip" ]; then
  if ! "$python" -c 'import ensurepip' 2>/dev/null; then
    echo "packages.pip needs Python and venv in the image: on Debian add \"python3-venv\"" \
      "to packages.apt" >&2
    exit 127
  fi
  "$python" -m venv "$venv"
fi
export PIP_CACHE_DIR={_CACHE}/pip PIP_DISABLE_PIP_VERSION_CHECK=1 \
  PIP_NO_INPUT=1 PIP_PROGRESS_BAR=off
"""
_PIP_INSTALL = f'{_PIP}"$venv/bin/pip" install "$@" -r {_INPUT}/requirements.txt\n'
_PIP_RESOLVE = (
    f'{_PIP}"$venv/bin/pip" install --dry-run --quiet --report {RESOLVED}'
    f" -r {_INPUT}/requirements.txt\n"
)

_NPM = rf"""set -eu
{_CERTIFICATE_ENV}dest=$1; shift
if ! command -v npm >/dev/null; then
  echo "packages.npm needs npm in the image: on Debian add \"npm\" to packages.apt" >&2
  exit 127
fi
export npm_config_cache={_CACHE}/npm npm_config_update_notifier=false npm_config_fund=false
export npm_config_audit=false npm_config_logs_max=0 npm_config_omit=dev
mkdir -p "$dest"; cd "$dest"
cp {_INPUT}/package.json package.json
"""
_NPM_INSTALL = f"{_NPM}npm install\n"
_NPM_LOCKED = f"{_NPM}cp {_LOCK}/package-lock.json package-lock.json\nnpm ci\n"
_NPM_RESOLVE = f"{_NPM}npm install --package-lock-only\ncp package-lock.json {RESOLVED}\n"


class Site(NamedTuple):
    """Where package steps run.

    Attributes:
        env: ``NAME=value`` of the base image.
        network: Whether there is any.
        extra_hosts: For /etc/hosts.
        one_id: There is no user but root.
        epoch: SOURCE_DATE_EPOCH, None for none.
    """

    env: tuple[str, ...]
    network: bool
    extra_hosts: tuple[tuple[str, str], ...]
    one_id: bool
    epoch: int | None


def apt_install(site: Site, packages: PackageSet, locked: Sequence[AptPackage] | None) -> RunOp:
    """Return the step that installs a set; ``locked`` names the exact packages."""
    if locked is None:
        return _apt(site, _APT_INSTALL, packages)
    words = [" ".join(name.partition("=")[0].partition("/")[0] for name in packages)]
    for each in locked:
        words += [each.uri, each.sha256, each.file]
    return _apt(site, _APT_LOCKED, words)


def apt_resolve(site: Site, packages: Sequence[str]) -> RunOp:
    """Return the step that writes what installing ``packages`` would download."""
    return _apt(site, _APT_RESOLVE, packages)


def pip_install(
    site: Site, venv: str, python: str, requirements: str, locked: Sequence[PipPackage] | None
) -> RunOp:
    """Return the step that installs requirements into an environment, made if missing."""
    options: tuple[str, ...] = ()
    if locked is not None:
        options = ("--require-hashes", "--no-deps")
        requirements = "".join(
            f"{each.name}=={each.version} --hash=sha256:{each.sha256}\n" for each in locked
        )
    return _pip(site, _PIP_INSTALL, (venv, python, *options), requirements)


def pip_resolve(site: Site, venv: str, python: str, requirements: str) -> RunOp:
    """Return the step that writes what pip would install."""
    return _pip(site, _PIP_RESOLVE, (venv, python), requirements)


def npm_install(site: Site, dest: str, manifest: str, lock: str | None) -> RunOp:
    """Return the step that installs what a package.json wants; with ``npm ci`` if it is locked."""
    if lock is None:
        return _npm(site, _NPM_INSTALL, dest, manifest, ())
    document = _document(_LOCK, "package-lock.json", lock)
    return _npm(site, _NPM_LOCKED, dest, manifest, (document,))


def npm_resolve(site: Site, dest: str, manifest: str) -> RunOp:
    """Return the step that writes the package-lock.json of a package.json."""
    return _npm(site, _NPM_RESOLVE, dest, manifest, ())


def npm_manifest(packages: Sequence[str]) -> str:
    """Return the package.json that wants a set."""
    wanted = dict(npm_parts(each) for each in packages)
    manifest = {"name": "packages", "private": True, "version": "0.0.0", "dependencies": wanted}
    return json.dumps(manifest, indent=2, sort_keys=True) + "\n"


def _apt(site: Site, script: str, words: Sequence[str]) -> RunOp:
    mounts = (
        _cache(f"{_CACHE}/apt", "layerstore-apt"),
        _cache(f"{_CACHE}/lists", "layerstore-apt-lists"),
        _secret("apt-auth.conf", "/etc/apt/auth.conf.d/layerstore.conf"),
        _secret("ca-certificates", _CERTIFICATES),
    )
    env = ("DEBIAN_FRONTEND=noninteractive", "LC_ALL=C.UTF-8", *_epoch_of(site))
    return _run(site, script, words, env, mounts)


def _pip(site: Site, script: str, words: Sequence[str], requirements: str) -> RunOp:
    mounts = (
        _cache(f"{_CACHE}/pip", "layerstore-pip", sharing="shared"),
        _document(_INPUT, "requirements.txt", requirements),
        _secret("pip.conf", "/etc/pip.conf"),
        _secret("ca-certificates", _CERTIFICATES),
    )
    env = (f"SOURCE_DATE_EPOCH={FIXED_EPOCH}", "PYTHONHASHSEED=0")
    return _run(site, script, words, env, mounts)


def _npm(
    site: Site, script: str, dest: str, manifest: str, documents: tuple[MountSpec, ...]
) -> RunOp:
    mounts = (
        _cache(f"{_CACHE}/npm", "layerstore-npm", sharing="shared"),
        _document(_INPUT, "package.json", manifest),
        *documents,
        _secret("npmrc", "/root/.npmrc"),
        _secret("ca-certificates", _CERTIFICATES),
    )
    return _run(site, script, (dest,), ("HOME=/root", *_epoch_of(site)), mounts)


def _run(
    site: Site,
    script: str,
    words: Sequence[str],
    env: tuple[str, ...],
    mounts: tuple[MountSpec, ...],
) -> RunOp:
    return RunOp(
        args=("/bin/sh", "-c", script, "packages", *words),
        env=(*site.env, *env),
        cwd="/",
        user="",
        network=site.network,
        mounts=mounts,
        extra_hosts=site.extra_hosts,
        one_id=site.one_id,
    )


def _epoch_of(site: Site) -> tuple[str, ...]:
    return () if site.epoch is None else (f"SOURCE_DATE_EPOCH={site.epoch}",)


def _cache(target: str, identity: str, *, sharing: str = "locked") -> MountSpec:
    return MountSpec(type="cache", target=target, readonly=False, id=identity, sharing=sharing)


def _document(target: str, name: str, content: str) -> MountSpec:
    return MountSpec(type="document", target=target, source=name, content=content)


def _secret(identity: str, target: str) -> MountSpec:
    return MountSpec(type="secret", target=target, id=identity, mode=0o444)
