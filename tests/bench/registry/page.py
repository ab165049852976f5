# ruff: noqa: E501 -- lines of the page are as long as those of other pages
"""docs/simulation.md and its pictures, out of the kept result: no number there is typed by hand."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from layerstore.units import format_size
from tests.bench.registry.builds import APT_MAX_BYTES
from tests.bench.registry.contents import FIXED_BYTES, SCHEMES
from tests.bench.registry.cost import ALL_SCHEMES, STORED
from tests.bench.registry.model import LANGUAGES
from tests.bench.registry.sample import OPTIMIZE_LEVEL

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

NAMES = {
    "full_copies": "full copies",
    "plain_layers": "plain layers",
    "whole_files": "whole files",
    "fixed_chunks": f"fixed chunks of {FIXED_BYTES // 1024} KiB",
    "chunks": "our chunks, plain",
    "stored": "layerstore",
    "optimized": f"layerstore, optimized (level {OPTIMIZE_LEVEL})",
}
_SHOWN = (1, 10, 100, 1000, 10_000)
BOUND = 0.15
"""Errors of sums over the held-out images beyond which the page says so; chosen, not derived."""

_HEAD = """\
# A registry of {images:,} images, simulated

Nobody has room here for {images:,} images, and an answer for them is wanted: what would each scheme hold? So real packages
were taken apart, images composed from what they hold, and the composition held against real builds that it had not seen.
**This is a model** ([how far to trust it](#how-far-to-trust-it)). What is measured on real stores is in [measuring](measuring.md) and what many stores hold in [fleet](how-to/fleet.md); below stand the
errors first, then the curves.

    python -m tests.bench.registry errors CACHE
    python -m tests.bench.registry simulate CACHE --images {images} --json docs/simulation/registry.json
    python -m tests.bench.registry page docs/simulation/registry.json

The first one fetches packages, takes them apart, builds images and prints how far the model is from these (half an hour, 6 GB, as root; done once, its steps go on where they ended). The last one writes
this page and its pictures from [the kept result](simulation/registry.json), in which both curves are as they were measured and simulated: `python -m tests.bench.registry errors docs/simulation/registry.json` counts
the errors below from them again.
"""


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown, numbers to the right."""
    lines = ["| " + " | ".join(head) + " |", "|---|" + "--:|" * (len(head) - 1)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def percent(value: float) -> str:
    """Return a part of one as signed hundredths."""
    return f"{100 * value:+.1f} %"


def times_of(value: float) -> str:
    """Return a ratio, finer where it is below one."""
    return f"{value:.2f}" if value < 1 else f"{value:,.1f}"


def page(result: dict[str, Any]) -> str:
    """Return the page."""
    registry = result["registry"]
    parts = [
        _HEAD.format(images=registry["curve"][-1][0]),
        _calibration(result["calibration"]),
        _curves(registry),
        _sensitivity(result),
        _method(result),
        _limits(result),
    ]
    return "\n".join(parts)


def summary(result: dict[str, Any]) -> str:
    """Return what a terminal is shown of a result."""
    return _calibration(result["calibration"]) + "\n" + _curves(result["registry"])


def errors(schemes: dict[str, dict[str, float]]) -> str:
    """Return the errors of each scheme as a table."""
    rows = [
        (
            NAMES[scheme],
            format_size(round(row["real"])),
            format_size(round(row["simulated"])),
            percent(row["error"]),
            percent(row["median"])[1:],
            percent(row["worst"])[1:],
        )
        for scheme, row in schemes.items()
    ]
    return table(("scheme", "real", "simulated", "error", "median", "worst"), rows)


def _calibration(found: dict[str, Any]) -> str:
    held, training = found["held_out"], found["training"]
    part = held["overhead"] / held["schemes"]["stored"]["real"]
    failing = [NAMES[s] for s, row in held["schemes"].items() if abs(row["error"]) > BOUND]
    verdict = (
        f"Every sum is within {BOUND:.0%}, a bound of our choice."
        if not failing
        else f"Outside of {BOUND:.0%}, a bound of our choice, and so no more than a hint: {', '.join(failing)}."
    )
    ending = [
        NAMES[scheme]
        for scheme, row in held["schemes"].items()
        if abs(row["error"]) > 0.95 * row["worst"]
    ]
    growing = (
        f" Largest at the end, where updates come in, and so perhaps larger beyond it: {', '.join(ending)}."
        if ending
        else ""
    )
    return (
        "## How far to trust it\n\n"
        f"{held['images']} images of {held['services']} services were built by `layerstore build` from specs that the model drew, first versions "
        "of all and then second ones. **Nobody had looked at them**: `test` measures them only once, and only with a committed program (built they may be before), "
        f"here git's tree {held['frozen']['tree'][:12]}; the seed ({held['frozen']['seed']}) is one that no earlier run had used. All of them "
        "together, simulated and real; then the errors of the curve after each image, without sign:\n\n"
        + errors(held["schemes"])
        + f"\nThe last row is a copy of their store after `layerstore optimize --level {OPTIMIZE_LEVEL}`. A store is optimized when all builds are in it, and one version of each package is then kept whole, be it the last: what the optimized row says "
        "of the way there (median, worst) means little, its end does.\n"
        + f"\n{verdict}{growing} Framing, catalog, locks and slack of the "
        f"store are in neither, nor in layerstore's rows below: {format_size(held['overhead'])} for these builds, {part:.1%} of what they take beside, and they grow with it.\n"
        + _favour(held["schemes"])
        + f"\nThe model was fitted to {training['images']} other images, of {training['services']} services, in a store of their own. Left on these after the fit:\n\n"
        + errors(training["schemes"])
        + f"\nLanguages: {_languages(training)} (fitted to); {_languages(held)} (held out). The seed was chosen by them, before anything was built. "
        f"Services whose apt would have fetched {format_size(APT_MAX_BYTES)} of archives or more were passed over. Of few services a sum may be right by chance: "
        "what one draw says is no bound for the next.\n"
    )


def _languages(half: dict[str, Any]) -> str:
    return ", ".join(f"{n} {name}" for name, n in Counter(half["languages"]).items())


def _favour(schemes: dict[str, dict[str, float]]) -> str:
    """Return what the errors make of the ratio that people will quote."""
    plain, ours = schemes["plain_layers"], schemes["stored"]
    real, simulated = (plain[kind] / ours[kind] for kind in ("real", "simulated"))
    whom = "us" if simulated > real else "plain layers"
    return f"\n**The errors favour {whom}**: plain layers take {simulated:.1f} times layerstore's bytes here by the simulation, {real:.1f} times in truth.\n"


def _curves(registry: dict[str, Any]) -> str:
    by_count = {row[0]: row[1:] for row in registry["curve"]}
    shown = [count for count in _SHOWN if count in by_count]
    place = SCHEMES.index("stored") + 1
    rows = [
        (NAMES[scheme], *(format_size(by_count[count][number]) for count in shown))
        for number, scheme in enumerate(ALL_SCHEMES)
    ]
    times = [
        (NAMES[s], *(times_of(by_count[c][n] / by_count[c][place]) for c in shown))
        for n, s in enumerate(ALL_SCHEMES)
    ]
    head = [f"{count:,} image{'s' * (count > 1)}" for count in shown]
    return (
        "## The curves\n\n"
        "![bytes by scheme as images come](simulation/curves.svg)\n\n"
        + table(("scheme", *head), rows)
        + "\nTimes what layerstore takes:\n\n"
        + table(("scheme", *head), times)
        + f"\n{registry['services']} services over {registry['weeks']} weeks; {registry['cpu_s']:.0f} s of CPU and {registry['peak_mb']} MB. "
        f"{100 * registry['sampled_part']:.0f} % of the unpacked bytes of packages are of packages whose files were read.\n"
    )


def _sensitivity(result: dict[str, Any]) -> str:
    default = result["registry"]["parameters"]
    end = dict(zip(ALL_SCHEMES, result["registry"]["curve"][-1][1:], strict=True))
    rows = [("as above", "", *_ratios(end))]
    rows += [
        (
            f"`{row['parameter']}`",
            f"{row['value']:g} (not {default[row['parameter']]:g})",
            *_ratios(row["end"]),
        )
        for row in result["sensitivity"]
    ]
    others = [NAMES[scheme] for scheme in ALL_SCHEMES if scheme != "stored"]
    head = ("parameter", "value", "layerstore", *others)
    return (
        "## What moves them\n\n"
        "One parameter changed at a time; after all images: what layerstore takes, and how many times that the others do.\n\n"
        + table(head, rows)
    )


def _ratios(end: dict[str, float]) -> tuple[str, ...]:
    ours = end["stored"]
    others = (size for scheme, size in end.items() if scheme != "stored")
    return (format_size(round(ours)), *(times_of(size / ours) for size in others))


def _method(result: dict[str, Any]) -> str:
    sample, p = result["sample"], result["registry"]["parameters"]
    renewed = [
        (
            f"{label} ({sample['pairs'].get(eco, 0)} pairs)",
            *(f"{100 * part:.0f} %" for part in sample["renewed"][eco][1:]),
        )
        for eco, label in (
            ("deb", "Debian, an update"),
            ("pip", "pip, a release"),
            ("npm", "npm, a release"),
        )
    ]
    renewed.append(
        (
            "pip, compiled again",
            *(f"{100 * part:.0f} %" for part in sample["recompiled"][1:]),
        )
    )
    shared = [
        (label, *(f"{100 * part:.1f} %" for part in sample["shared"][eco][1:]))
        for eco, label in (("deb", "Debian"), ("pip", "pip"), ("npm", "npm"))
    ]
    schemes = [NAMES[scheme] for scheme in SCHEMES[1:]]
    guesses = [
        (NAMES[s], *(f"{100 * e[k]:.0f} %" for k in ("one_package", "fifty_packages")))
        for s, e in result["extrapolation"].items()
    ]
    languages = ", ".join(f"{name} {100 * part:.0f} %" for name, part in LANGUAGES.items())
    count = ", ".join(f"{n} of {eco}" for eco, n in sample["packages"].items())
    return f"""## Method

**Packages.** {count} ({format_size(sum(sample["bytes"].values()))} unpacked) were unpacked as their installers do, with
dpkg's files of each and Python's compiled ones, and imported dozens at a time into a store: its cutter, its compressor, its differences against earlier
versions. What each package takes is read off that store, by scheme, and off a copy of it after `optimize --level {OPTIMIZE_LEVEL}`. Of Debian those are sampled that the
model's images hold most bytes of, and some at random.

A further version adds what sampled pairs of versions added, as a part of the first one's whole, again for each step that versions lie apart. Releases of pip's and npm's were
imported one after another where the last one lay, for that is where differences are looked for; small wheels were also compiled twice, as two builds do:

{table(("version", *schemes), renewed)}
Packages share files with each other; so many of their bytes are left when all of a sample are kept together:

{table(("packages", *schemes), shared)}
**Debian's other packages** are extrapolated from Installed-Size by one ratio for each scheme. Each sampled package so guessed from the others, the median error of
one, and of sums of fifty:

{table(("scheme", "one", "fifty"), guesses)}
**What belongs to no package** (dpkg's status, caches that installing rewrites, certificates) is a constant for each kind of layer: the median of what the simulation lacks in the
builds that the model was fitted to. For layerstore's two rows, where files share blocks, it is a factor on what packages take instead, for the sums of these builds to be right:
{100 * sample["constants"]["packed"][STORED]:.1f} % of what the sample says, optimized {100 * sample["constants"]["packed"][STORED + 1]:.1f} %. In the sample a package's files lie in blocks with those of dozens of others, and compress with them. A version of a package renews what its own sampled pairs say, else what all pairs of its ecosystem do.

**Images.** {p["services"]} services appear over {p["spread"]} weeks; in each week one is rebuilt with a probability of {p["rebuild"]}. Languages: {languages}. Layers are in the order of
Dockerfiles: base, runtime, apt, libraries, code. {100 * p["shared_runtime"]:.0f} % of the services build on a shared image of their runtime, the others install it themselves.
Beside it apt installs 1.5 packages by name on average, libraries have a median of 6 and what they need; both are drawn by Zipf's law with exponent {p["zipf"]}. Popularity
is modelled, not measured: the head of the ranks is a list in `tests/bench/registry/catalogue.py`, its tail for Debian the number of dependants, for pip and npm {p["tail"]} invented names each, with
the sizes of sampled ones. Every {p["refresh"]} weeks the base is refreshed: packages have had as many updates by then as their version says they had since the release, evenly spread, and all
layers are made again; in between a rebuild finds its lower layers in the cache. A library is another release in {100 * p["bump"]:.0f} % of rebuilds, and {100 * p["changed_code"]:.0f} % of the code changes.

**Schemes.** Full copies: a file system for each image. Plain layers: unpacked, once for each chain of layers. The others keep once what is equal, wherever it is.
"""


def _limits(result: dict[str, Any]) -> str:
    held = result["calibration"]["held_out"]
    missing = ", ".join(name for name in LANGUAGES if name not in held["languages"])
    spread = [row["end"]["plain_layers"] / row["end"]["stored"] for row in result["sensitivity"]]
    return f"""## Limits

- Which packages real registries hold is not known here; the table above says what that can change: plain layers take between {min(spread):.1f} and {max(spread):.1f} times
  layerstore's bytes over all its rows.
- {held["services"]} services are few, and none of them is of {missing}.
- The real builds are two versions of each service, with libraries of the catalogue alone, whose releases and steps between them are in the sample. What many refreshes add, and what the
  packages add that no one read (extrapolated or invented), no real build has confirmed.
- How popular a package is was not measured: Zipf's law is an assumption, and so are its exponent and the rates of rebuilds.
- Plain layers are counted by our model of them (blocks of 4096 bytes, once for each chain); dockerd was not run.
- Debian's pairs of versions may be off: differences are looked for by creation time among else, and all groups of the sample carry the same one.
- Code of services is invented (text, archives, half-random machine code), in the real builds as in the model. It is a small part for interpreted languages, a large one for java and native.
- Versions of one package are taken to have one size, and equal steps between them. Fat jars, models, data sets and vendored trees are not modelled.
- One distribution, one architecture.
- Content that two layers make by different ways (a file compiled twice, a cache rewritten) is equal or not as it was in the training builds.
- Nothing here says what a scheme costs to write or read; [performance](performance.md) does.
"""


def draw(result: dict[str, Any], path: Path) -> None:
    """Draw the curves."""
    from tests.bench.plots import Line, draw_lines

    curve = result["registry"]["curve"]
    kinds = {"stored": "ours", "optimized": "variant"}
    lines = [
        Line(
            NAMES[scheme],
            [(row[0], row[number + 1]) for row in curve],
            kind=kinds.get(scheme, "peer"),  # type: ignore[arg-type]
        )
        for number, scheme in enumerate(ALL_SCHEMES)
    ]
    draw_lines(
        path,
        lines,
        title="A simulated registry: bytes by scheme",
        x_label="images",
        y_label="bytes",
        y_unit="B",
        log_x=True,
        log_y=True,
    )
