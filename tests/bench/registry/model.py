"""The model of a registry: services of teams, their images, rebuilt over weeks.

A service has a language, packages that apt installs beside the runtime, libraries, and code of
its own. Its image is layered as Dockerfiles are: base, runtime, apt, libraries, code; teams that
build on a shared runtime image share its layer, others install the runtime themselves. Bases
are refreshed every few weeks with the updates of then, and everything above is made again; in
between a rebuild finds its lower layers in the build cache. All of it follows from the seed.
Nothing here knows sizes: :mod:`cost` does.
"""

from __future__ import annotations

import random
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from tests.bench.registry.catalogue import NPM, PIP, RUNTIMES
from tests.bench.registry.index import RELEASE_WEEKS
from tests.bench.registry.packages import Zipf

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tests.bench.registry.index import Package, Resolver


@dataclass(frozen=True)
class Parameters:
    """What the registry is like. Each is a judgement; docs/simulation.md varies them.

    Attributes:
        zipf: Exponent of the popularity of packages and libraries.
        services: How many there are in the end; they appear at an even pace over ``spread``.
        spread: Weeks over which services appear.
        rebuild: Probability that a service is rebuilt in a week.
        refresh: Weeks between refreshed bases.
        shared_runtime: Part of the services that build on a shared image of the runtime.
        bump: Probability that a library is another release in the next rebuild.
        tail: Libraries of each ecosystem beside those in the catalogue: invented ones.
        changed_code: Part of the code that a rebuild changes.
    """

    seed: int = 1
    zipf: float = 1.2
    services: int = 400
    spread: int = 52
    rebuild: float = 0.35
    refresh: int = 4
    shared_runtime: float = 0.7
    bump: float = 0.03
    tail: int = 1500
    changed_code: float = 0.1


LANGUAGES = {
    "python": 0.30,
    "node": 0.25,
    "java": 0.12,
    "native": 0.12,
    "web": 0.09,
    "php": 0.06,
    "ruby": 0.04,
    "perl": 0.02,
}
"""Language → part of the services."""

LIBRARIES = {"python": "pip", "node": "npm"}
CODE_MEDIAN_BYTES = {"java": 12_000_000, "native": 8_000_000}
_CODE_BYTES = 400_000
_CODE_SPREAD = 1.0  # standard deviation of the logarithm
_MANY = 40


class Atom(NamedTuple):
    """One package in one version; versions are numbers, a higher one is newer."""

    ecosystem: str
    name: str
    version: int


class Layer(NamedTuple):
    """One layer.

    Attributes:
        kind: base, apt, pip, npm or code.
        key: What makes it the same layer as another one on the same parent.
        atoms: What it holds.
        installed: Packages that dpkg lists afterwards.
        code: Bytes of code, and the part of it that is new since the version before.
    """

    kind: str
    key: tuple[object, ...]
    atoms: tuple[Atom, ...]
    installed: int = 0
    code: tuple[int, float] = (0, 1.0)


class Image(NamedTuple):
    """One image: a version of a service."""

    service: int
    language: str
    version: int
    week: int
    layers: tuple[Layer, ...]


class Service(NamedTuple):
    """What stays the same over a service's versions."""

    number: int
    language: str
    shared_runtime: bool
    apt: tuple[str, ...]
    libraries: tuple[str, ...]
    code: int
    born: int


def stable(*words: object) -> float:
    """Return a number in [0, 1) that depends on the words alone."""
    return zlib.crc32(repr(words).encode()) / (1 << 32)


class Registry:
    """Draws services and their images.

    Args:
        parameters: What it is like.
        index: Debian's packages.
        resolver: Of the index.
        rank: What apt is asked for by name, most frequent first.
        needs: Ecosystem and library → all libraries that come with it, itself too.
    """

    def __init__(
        self,
        parameters: Parameters,
        index: dict[str, Package],
        resolver: Resolver,
        rank: Sequence[str],
        needs: Callable[[str, str], frozenset[str]],
    ) -> None:
        self.parameters = parameters
        self._index = index
        self._resolver = resolver
        self._rank = rank
        self._needs = needs
        self._apt = Zipf(len(rank), parameters.zipf)
        self._named = {"pip": list(PIP), "npm": list(NPM)}
        self._library = {
            eco: Zipf(len(names) + parameters.tail, parameters.zipf)
            for eco, names in self._named.items()
        }
        self.base = resolver.base()
        # Layers of each service's latest image: most of them are in its next one, too.
        self._latest: dict[object, Layer] = {}
        self._closures: dict[tuple[tuple[str, ...], frozenset[str]], frozenset[str]] = {}

    def service(self, number: int) -> Service:
        """Return one service."""
        p = self.parameters
        source = random.Random(f"{p.seed}/{number}")
        language = source.choices(list(LANGUAGES), list(LANGUAGES.values()))[0]
        extras = 0
        while extras < _MANY and source.random() < 0.6:
            extras += 1
        apt = tuple(self._rank[rank] for rank in self._apt.several(source, extras))
        libraries: tuple[str, ...] = ()
        if language in LIBRARIES:
            eco = LIBRARIES[language]
            count = min(_MANY, 1 + int(source.lognormvariate(1.6, 0.7)))
            ranks = self._library[eco].several(source, count)
            named = self._named[eco]
            libraries = tuple(named[r] if r < len(named) else f"~{r}" for r in ranks)
        median = CODE_MEDIAN_BYTES.get(language, _CODE_BYTES)
        code = int(median * source.lognormvariate(0, _CODE_SPREAD))
        shared = source.random() < p.shared_runtime
        born = number * p.spread // p.services
        return Service(number, language, shared, apt, libraries, code, born)

    def images(self, count: int) -> Iterator[Image]:
        """Yield images in the order they are built."""
        p = self.parameters
        services = [self.service(number) for number in range(p.services)]
        versions = [0] * p.services
        week = made = 0
        while made < count:
            for service in services:
                if service.born > week:
                    break
                again = stable(p.seed, "rebuild", service.number, week) < p.rebuild
                if not again and versions[service.number]:
                    continue
                versions[service.number] += 1
                yield self.image(service, versions[service.number], week)
                made += 1
                if made == count:
                    return
            week += 1

    def image(self, service: Service, version: int, week: int) -> Image:
        """Return a version of a service."""
        epoch = week // self.parameters.refresh

        def debian(name: str) -> Atom:
            return Atom("deb", name, self._updates(name, epoch))

        releases = {name: self._release(service, name, version) for name in service.libraries}
        return self.layered(service, version, week, (epoch,), debian, releases)

    def layered(
        self,
        service: Service,
        version: int,
        week: int,
        epoch: tuple[object, ...],
        debian: Callable[[str], Atom],
        releases: dict[str, int],
    ) -> Image:
        """Return an image whose versions of packages are given."""
        layers = [self._kept("base", ("base", *epoch), debian, self.base, self.base)]
        there = self.base
        runtime = RUNTIMES[service.language]
        steps: list[tuple[object, tuple[str, ...]]]
        steps = [(f"shared {service.language}", runtime), (service.number, service.apt)]
        if not service.shared_runtime:
            steps = [(service.number, (*runtime, *service.apt))]
        for owner, asked in steps:
            new = self._resolved(asked, there)
            if not new:
                continue
            there = there | new
            layers.append(self._kept(owner, ("apt", owner, asked, *epoch), debian, new, there))
        if service.libraries:
            layers.append(self._library_layer(service, releases))
        changed = self.parameters.changed_code if version > 1 else 1.0
        layers.append(Layer("code", (service.number, version), (), 0, (service.code, changed)))
        return Image(service.number, service.language, version, week, tuple(layers))

    def _resolved(self, asked: tuple[str, ...], there: frozenset[str]) -> frozenset[str]:
        key = asked, there
        if key not in self._closures:
            self._closures[key] = self._resolver.closure(asked, there)
        return self._closures[key]

    def _kept(
        self,
        owner: object,
        key: tuple[object, ...],
        debian: Callable[[str], Atom],
        names: frozenset[str],
        there: frozenset[str],
    ) -> Layer:
        """Return a layer of Debian's packages: the owner's latest one if it is the same."""
        latest = self._latest.get(owner)
        if latest is None or latest.key != key:
            kind = str(key[0])
            latest = Layer(kind, key, tuple(map(debian, sorted(names))), len(there))
            self._latest[owner] = latest
        return latest

    def _library_layer(self, service: Service, releases: dict[str, int]) -> Layer:
        eco = LIBRARIES[service.language]
        key = (eco, service.number, tuple(sorted(releases.items())))
        latest = self._latest.get((eco, service.number))
        if latest is None or latest.key != key:
            atoms = {Atom(eco, name, release) for name, release in releases.items()}
            for name in service.libraries:
                atoms.update(Atom(eco, n, 0) for n in self._needs(eco, name) - releases.keys())
            latest = Layer(eco, key, tuple(sorted(atoms)))
            self._latest[eco, service.number] = latest
        return latest

    def _updates(self, name: str, epoch: int) -> int:
        """Return how many updates a package has had when a base was refreshed."""
        rate = self._index[name].updates / RELEASE_WEEKS
        return int(rate * epoch * self.parameters.refresh + stable("phase", name))

    def _release(self, service: Service, name: str, version: int) -> int:
        """Return which release of a library a version of a service has."""
        bump = self.parameters.bump
        steps = sum(stable("bump", service.number, name, v) < bump for v in range(version))
        # Services that appear later begin with a newer release.
        return steps + int(service.born * bump)
