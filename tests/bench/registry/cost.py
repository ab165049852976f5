"""What layers cost in every scheme, from the samples: own bytes, and bytes beside what is there.

Packages that were sampled cost what was measured. Debian's others are extrapolated from their
Installed-Size by one ratio for each scheme; libraries of the invented tail have the sizes of a
sampled one each. A further version of a package adds the part that sampled pairs of versions
added. What is in layers but in no package (dpkg's lists, caches that installing rewrites) is fitted
to the training builds (:mod:`calibrate`) and given here as constants.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.bench.registry.contents import SCHEMES, Sizes
from tests.bench.registry.model import stable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from tests.bench.registry.index import Package
    from tests.bench.registry.model import Atom, Image, Layer

NOTHING: Sizes = (0,) * len(SCHEMES)
STORED = SCHEMES.index("stored")
IN_BLOCKS = (STORED, SCHEMES.index("optimized"))
ALL_SCHEMES = ("full_copies", *SCHEMES)

BINARY = frozenset({"java", "native"})
"""Languages whose code is archives or machine code; the others' is text."""


@dataclass
class Constants:
    """What no package accounts for, by scheme: fitted on builds, see :mod:`calibrate`.

    Attributes:
        base: Of a base layer.
        apt: Of a layer that apt made.
        library: Of a layer of libraries.
        code: Bytes by a byte of code, by language; "text" for those not named.
        packed: What first versions take in images, as a part of what they took in the sample. It
            is 1 but where files share blocks: there they are compressed with what lies beside
            them, and in the sample that is dozens of other packages.
    """

    base: list[float] = field(default_factory=lambda: [0.0] * 6)
    apt: list[float] = field(default_factory=lambda: [0.0] * 6)
    library: list[float] = field(default_factory=lambda: [0.0] * 6)
    code: dict[str, list[float]] = field(default_factory=lambda: {"text": [1.0] * 6})
    packed: list[float] = field(default_factory=lambda: [1.0] * 6)


class Costs:
    """Sizes of packages.

    Args:
        samples: What :mod:`sample` learned.
        index: Debian's packages, for those not sampled.
    """

    def __init__(self, samples: Mapping[str, Any], index: Mapping[str, Package]) -> None:
        self._index = index
        self._rows: dict[tuple[str, str], dict[str, Any]] = {}
        for row in samples["packages"]:
            # The oldest comes first and is stored whole; later ones are differences against it.
            # Optimizing keeps one of them whole, whichever.
            key = row["ecosystem"], row["name"]
            first = self._rows.get(key, row)
            optimized = max(first["sizes"][-1], row["sizes"][-1])
            sizes = [*first["sizes"][:-1], optimized]
            whole = {"sizes": sizes, "entries": first["entries"]}
            self._rows[key] = {**row, **whole}
        self._by_ecosystem = {
            eco: [row for (own, _), row in sorted(self._rows.items()) if own == eco]
            for eco in ("deb", "pip", "npm")
        }
        self.shared = samples["shared"]
        self.meta = samples["metadata_per_entry"]
        self.renewed = {eco: renewed(samples["pairs"], eco) for eco in ("deb", "pip", "npm")}
        self._own_pairs: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
        for pair in samples["pairs"]:
            self._own_pairs.setdefault((pair["ecosystem"], pair["name"]), []).append(pair)
        self._renewed_of: dict[tuple[str, str], list[float]] = {}
        self.recompiled = samples["recompiled"]
        self._ratios, self._entries = self._extrapolation()
        self.constants = Constants()

    def _extrapolation(self) -> tuple[list[float], float]:
        rows = [row for row in self._by_ecosystem["deb"] if row["name"] in self._index]
        installed = sum(self._index[row["name"]].installed for row in rows)
        ratios = [sum(r["sizes"][s] for r in rows) / installed for s in range(len(SCHEMES))]
        return ratios, sum(row["entries"] for row in rows) / installed

    def is_sampled(self, atom: Atom) -> bool:
        """Return whether a package's own files were read."""
        return (atom.ecosystem, atom.name) in self._rows

    def row(self, atom: Atom) -> dict[str, Any]:
        """Return what is known or taken to be of a package."""
        row = self._rows.get((atom.ecosystem, atom.name))
        if row is None and atom.ecosystem == "deb":
            installed = self._index[atom.name].installed
            row = {
                "sizes": [ratio * installed for ratio in self._ratios],
                "entries": self._entries * installed,
            }
        elif row is None:
            known = self._by_ecosystem[atom.ecosystem]
            row = known[int(stable("size", atom.ecosystem, atom.name) * len(known))]
        return row

    def renewed_of(self, atom: Atom) -> list[float]:
        """Return what a further version of a package renews: its own pairs', else all pairs'."""
        key = atom.ecosystem, atom.name
        found = self._renewed_of.get(key)
        if found is None:
            own = self._own_pairs.get(key)
            found = renewed(own, atom.ecosystem) if own else self.renewed[atom.ecosystem]
            self._renewed_of[key] = found
        return found

    def leave_one_out(self) -> dict[str, dict[str, float]]:
        """Return the errors of extrapolating each sampled package of Debian from the others.

        Relative to what was measured: the median of single packages, and of sums of 50.
        """
        rows = [
            (self._index[row["name"]].installed, row["sizes"])
            for row in self._by_ecosystem["deb"]
            if row["name"] in self._index and self._index[row["name"]].installed
        ]
        found = {}
        total = sum(size for size, _ in rows)
        for place, scheme in enumerate(SCHEMES):
            all_bytes = sum(sizes[place] for _, sizes in rows)
            single, sums = [], []
            guesses = []
            for installed, sizes in rows:
                guess = installed * (all_bytes - sizes[place]) / (total - installed)
                guesses.append((guess, sizes[place]))
                if sizes[place]:
                    single.append(abs(guess - sizes[place]) / sizes[place])
            for start in range(50):
                some = [guesses[(start * 37 + n * 7) % len(guesses)] for n in range(50)]
                real = sum(size for _, size in some)
                if real:
                    sums.append(abs(sum(guess for guess, _ in some) - real) / real)
            if single and sums:
                found[scheme] = {
                    "one_package": statistics.median(single),
                    "fifty_packages": statistics.median(sums),
                }
        return found


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 1.0


def renewed(pairs: Iterable[Mapping[str, Any]], ecosystem: str) -> list[float]:
    """Return which part of a version's bytes the version before did not have, by scheme."""
    own = [pair for pair in pairs if pair["ecosystem"] == ecosystem]
    return [
        _ratio(sum(p["added"][s] for p in own), sum(p["whole"][s] for p in own))
        for s in range(len(SCHEMES))
    ]


class Shelf:
    """A registry that fills up: what each scheme holds after each image.

    Attributes:
        totals: Bytes by scheme of ``ALL_SCHEMES``.
        sampled: Unpacked bytes of packages whose files were read, and of all, layer by layer.
    """

    def __init__(self, costs: Costs) -> None:
        self._costs = costs
        self._chains: dict[int, float] = {}
        self._versions: dict[tuple[str, str], set[int]] = {}
        self._compiled: set[Atom] = set()
        self.totals = [0.0] * len(ALL_SCHEMES)
        self.sampled = [0.0, 0.0]

    def add(self, image: Image) -> None:
        """Push an image."""
        chain = 0
        for layer in image.layers:
            chain = hash((chain, layer.key))
            if chain not in self._chains:
                added = self._added(layer, image.language)
                self._chains[chain] = added[0]
                for place, size in enumerate(added):
                    self.totals[place + 1] += size
            self.totals[0] += self._chains[chain]

    def _added(self, layer: Layer, language: str) -> list[float]:
        added = list(self.constants_of(layer, language))
        entries = 40.0
        for atom in layer.atoms:
            row = self._costs.row(atom)
            self._add_atom(added, atom, row["sizes"])
            entries += row["entries"]
            if "compiled" in row:
                entries += row["compiled_entries"]
                self._add_compiled(added, atom, row["compiled"])
            self.sampled[0] += row["sizes"][0] * self._costs.is_sampled(atom)
            self.sampled[1] += row["sizes"][0]
        for place, each in enumerate(self._costs.meta):
            added[STORED + place] += entries * each
        return added

    def _add_atom(self, added: list[float], atom: Atom, sizes: Sizes) -> None:
        costs = self._costs
        added[0] += sizes[0]
        versions = self._versions.setdefault((atom.ecosystem, atom.name), set())
        if atom.version in versions:
            return
        shared = costs.shared[atom.ecosystem]
        distance = min((abs(atom.version - other) for other in versions), default=0)
        versions.add(atom.version)
        renews = costs.renewed_of(atom) if distance else ()
        for place in range(1, len(sizes)):
            whole = costs.constants.packed[place]
            new = 1 - (1 - min(1.0, renews[place])) ** distance if distance else whole
            added[place] += sizes[place] * shared[place] * new

    def _add_compiled(self, added: list[float], atom: Atom, sizes: Sizes) -> None:
        again = atom in self._compiled
        self._compiled.add(atom)
        for place, size in enumerate(sizes):
            known = self._costs.recompiled if again and place else self._costs.constants.packed
            added[place] += size * known[place]

    def constants_of(self, layer: Layer, language: str) -> Iterator[float]:
        """Yield what a layer takes beside its packages, by scheme."""
        known = self._costs.constants
        for place in range(len(SCHEMES)):
            if layer.kind == "base":
                yield known.base[place]
            elif layer.kind == "apt":
                yield known.apt[place]
            elif layer.kind == "code":
                size, changed = layer.code
                each = known.code.get(language, known.code["text"])[place]
                yield size * each * (changed if place else 1.0)
            else:
                yield known.library[place]
