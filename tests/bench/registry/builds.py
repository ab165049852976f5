"""Real images of the very specs that the model draws: what calibration compares with.

    python -m tests.bench.registry build CACHE     # the training half
    python -m tests.bench.registry test CACHE      # the held-out half, once the model is frozen

Two versions of each service: the first over a Debian as released, with libraries one
release old where there is one, the second over the same Debian with its updates and current
libraries. Every image is built by ``layerstore build`` out of a Dockerfile, each half into a
store of its own. Libraries come from the cache of fetched packages; apt's from where apt gets
them. Needs root.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Literal

from layerstore.store.store import Store
from tests.bench import debian
from tests.bench.harness import say
from tests.bench.registry.catalogue import NPM, PIP
from tests.bench.registry.code import write_code
from tests.bench.registry.ecosystems import Needs, wheels
from tests.bench.registry.index import Resolver, read_index
from tests.bench.registry.model import Atom, Image, Parameters, Registry
from tests.bench.registry.packages import apt_rank

if TYPE_CHECKING:
    from pathlib import Path

    from tests.bench.registry.model import Layer, Service

Half = Literal["training", "held-out"]
CALIBRATION = Parameters(seed=271137, tail=0)
SERVICES = 10
TRAINING = 4
"""The first services are the training half: the model is fitted to their images alone."""
APT_MAX_BYTES = 70_000_000
"""Of archives a service's apt may fetch here; services that want more are passed over."""


def drawn_images(cache: Path, half: Half) -> list[Image]:
    """Return the images of a half in the order they are built: version 1 of all, then 2."""
    index = read_index()
    resolver = Resolver(index)
    registry = Registry(CALIBRATION, index, resolver, apt_rank(index), Needs(cache))
    chosen: list[Service] = []
    number = 0
    while len(chosen) < SERVICES:
        service = registry.service(number)
        image = _version(registry, service, 1)
        asked = {
            atom.name
            for layer in image.layers[1:]
            for atom in layer.atoms
            if atom.ecosystem == "deb"
        }
        if sum(index[name].size for name in asked) < APT_MAX_BYTES:
            chosen.append(service)
        number += 1
    # A team's later layers follow from its earlier ones: those of the other half are drawn too.
    halves: dict[Half, list[Image]] = {}
    parts: dict[Half, list[Service]]
    parts = {"training": chosen[:TRAINING], "held-out": chosen[TRAINING:]}
    for name, part in parts.items():
        halves[name] = [_version(registry, service, v) for v in (1, 2) for service in part]
    return halves[half]


def _version(registry: Registry, service: Service, version: int) -> Image:
    updated = version == 2
    index = registry._index

    def debian_atom(name: str) -> Atom:
        return Atom("deb", name, int(updated and index[name].version != index[name].released))

    releases = {}
    for name in service.libraries:
        known = {**PIP, **NPM}[name].split()
        releases[name] = len(known) - 1 if updated else max(0, len(known) - 2)
    return registry.layered(service, version, version, (version,), debian_atom, releases)


def build_half(cache: Path, half: Half) -> None:
    """Build what is not built yet of a half, into the store ``cache/half``."""
    store, context = cache / half, cache / f"{half}-context"
    (cache / "builds").mkdir(parents=True, exist_ok=True)
    images = drawn_images(cache, half)
    for epoch in (1, 2):
        _base(cache, store, epoch)
    with Store.open(store) as opened:
        there = set(opened.tags())
    for number, image in enumerate(images, 1):
        name = name_of(image)
        if name in there:
            continue
        shutil.rmtree(context, ignore_errors=True)
        context.mkdir()
        begun = time.monotonic()
        (context / "Dockerfile").write_text(_dockerfile(cache, image, context))
        run_layerstore(store, "build", "--quiet", "-t", name, os.fspath(context))
        say(
            f"{number}/{len(images)} {name} {[(y.kind, len(y.atoms)) for y in image.layers]} "
            f"{time.monotonic() - begun:.0f} s"
        )
    shutil.rmtree(context, ignore_errors=True)


def name_of(image: Image) -> str:
    """Return what an image is called in the store."""
    return f"service-{image.service}:{image.version}"


def _base(cache: Path, store: Path, epoch: int) -> None:
    tree = cache / "builds" / f"base-{epoch}"
    if not (tree / "usr").exists():
        shutil.rmtree(tree, ignore_errors=True)
        debian.bootstrap_tree("bookworm", tree, as_released=epoch == 1)
    run_layerstore(store, "import", "--quiet", "-t", f"base:{epoch}", os.fspath(tree))


def run_layerstore(store: Path, *words: str) -> None:
    """Run a command on a store; end with what it said if it fails."""
    program = os.path.join(os.path.dirname(sys.executable), "layerstore")
    done = subprocess.run(
        [program, "--store", os.fspath(store), *words], check=False, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}: exit {done.returncode}\n{done.stderr[-3000:]}")


def _dockerfile(cache: Path, image: Image, context: Path) -> str:
    lines = [f"FROM base:{image.version}"]
    for layer in image.layers:
        if layer.kind == "apt":
            lines.append(_apt(layer, image.version))
        elif layer.kind == "pip":
            lines.append(_pip(cache, layer, context))
        elif layer.kind == "npm":
            _npm(cache, layer, context)
            lines.append("COPY node_modules /srv/app/node_modules")
        elif layer.kind == "code":
            write_code(
                context / "app",
                image.service,
                image.language,
                layer.code[0],
                image.version,
                CALIBRATION.changed_code,
            )
            lines.append("COPY app /srv/app")
    return "\n".join(lines) + "\n"


def _apt(layer: Layer, epoch: int) -> str:
    """Return the step: lists and archives are kept beside, dpkg's logs go."""
    _, _, asked, *_ = layer.key
    mounts = (
        f"--mount=type=cache,id=archives,target=/var/cache/apt,sharing=locked "
        f"--mount=type=cache,id=lists-{epoch},target=/var/lib/apt/lists,sharing=locked"
    )
    names = " ".join(asked)
    return (
        f"RUN {mounts} apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y "
        f"--no-install-recommends -o DPkg::Options::=--force-unsafe-io {names} "
        "&& rm -rf /var/log/apt /var/log/dpkg.log /var/cache/ldconfig"
    )


def _pip(cache: Path, layer: Layer, context: Path) -> str:
    current, older = wheels(cache / "pip" / "current"), wheels(cache / "pip" / "older")
    files = {**older, **current}
    latest = {key.partition("==")[0]: path for key, path in current.items()}
    folder = context / "wheels"
    folder.mkdir()
    for atom in layer.atoms:
        versions = PIP.get(atom.name, "").split()
        wanted = f"{atom.name}=={versions[atom.version]}" if versions else ""
        path = files.get(wanted) or latest[atom.name]
        shutil.copy(path, folder / path.name)
    return (
        "RUN --mount=type=bind,source=wheels,target=/wheels python3 -m pip install --quiet "
        "--break-system-packages --root-user-action=ignore --no-cache-dir --no-index --no-deps "
        "/wheels/*.whl"
    )


def _npm(cache: Path, layer: Layer, context: Path) -> None:
    for atom in layer.atoms:
        copy_module(module_of(cache, atom), context / "node_modules" / atom.name)


def module_of(cache: Path, atom: Atom) -> Path:
    """Return the directory that npm installed of a package in a release."""
    versions = NPM.get(atom.name, "").split()
    if versions and atom.version < len(versions) - 1:
        one = f"{atom.name.replace('/', '+')}@{versions[atom.version]}"
        return cache / "npm" / "older" / one / "node_modules" / atom.name
    return cache / "npm" / "current" / "node_modules" / atom.name


def copy_module(source: Path, target: Path) -> None:
    """Copy a package without those installed inside of it: they are atoms of their own."""
    shutil.copytree(
        source,
        target,
        symlinks=True,
        dirs_exist_ok=True,
        ignore=lambda host, names: ["node_modules"] if host == os.fspath(source) else [],
    )
