"""Everything that a report tells, taken from a store."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from layerstore.measure.forms import compressed_layers, take_forms
from layerstore.measure.memory import Memory, take_memory
from layerstore.measure.packages_held import PackageHeld, take_packages
from layerstore.measure.places import Place, take_places
from layerstore.measure.savings import Savings, compare
from layerstore.measure.savings_report import image_name
from layerstore.measure.sharing import Sharing, take_sharing
from layerstore.measure.steps import no_places
from layerstore.measure.survey import take_survey
from layerstore.measure.transfers import Transfers, take_transfers
from layerstore.measure.waste import CauseTotal, take_waste
from layerstore.measure.waste_steps import StepTotal  # noqa: TC001 - msgspec reads it
from layerstore.store.failures import ReadOnlyStoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from layerstore.measure.steps import Places
    from layerstore.measure.survey import Survey
    from layerstore.measure.transfers import Hosts
    from layerstore.measure.waste import Waste
    from layerstore.progress import Progress
    from layerstore.store.store import Store

WIDE_ROWS = 60
NARROW_ROWS = 22


class Report(Savings, frozen=True):
    """The comparison, and what else was asked.

    Attributes:
        sharing: Images by images.
        places: Where the stored bytes are.
        packages: Whose they are.
        transfers: What pulls carry; None if nobody asked.
        memory: What running views hold in memory; None if nobody asked.
        waste: What the images could do without, by cause, as ``layerstore waste`` tells it image by
            image; None if nobody asked.
        waste_steps: The same by the steps that made it; None if nobody asked.
    """

    sharing: Sharing | None = None
    places: tuple[Place, ...] = ()
    transfers: Transfers | None = None
    memory: Memory | None = None
    waste: tuple[CauseTotal, ...] | None = None
    waste_steps: tuple[StepTotal, ...] | None = None
    packages: tuple[PackageHeld, ...] = ()


class Wishes(NamedTuple):
    """What a report is to tell.

    Attributes:
        copies: Containers of each image; None counts the mounted views.
        reads_content: Whether all content is read for the schemes that only it tells.
        hosts: Gives the hosts whose pulls are counted; None for none.
        memory: Whether the kernel is asked what running views hold in memory.
        details: Whether sharing, places and packages are told as well; trees are read once more
            for each of the latter.
        waste: Whether what images could do without is looked for.
        places: Gives where the steps of a store's images stand; None for nowhere.
    """

    copies: int | None = 1
    reads_content: bool = False
    hosts: Callable[[Store, Survey], Sequence[Hosts]] | None = None
    memory: bool = False
    details: bool = True
    waste: bool = False
    places: Callable[[Store], Places] | None = None


class Collected(NamedTuple):
    """A report, and what only a page shows.

    Attributes:
        narrow_sharing: What narrow screens get instead of the matrix.
    """

    report: Report
    narrow_sharing: Sharing | None


def collect(
    store: Store,
    references: Sequence[str],
    wishes: Wishes,
    progress: Progress,
    optimized: Callable[[Survey], Savings] | None = None,
) -> Collected:
    """Take a report of some images of a store.

    Args:
        store: Where they are; written to only where pulls are counted, for what waits.
        references: Names or ids in order; none for all named images, oldest first.
        wishes: What is wanted.
        progress: Told bytes, where content is read.
        optimized: Gives the same selection of an optimized copy.

    Raises:
        NotFoundError: A reference names nothing.
        InputError: A negative number of copies.
        IntegrityError: The catalog, a tree or content is damaged.
        StorageError: No room for what waits.
        UnsupportedError: The kernel does not tell what is in memory.
    """
    survey = take_survey(store, references, copies=wishes.copies)
    if not (wishes.reads_content or wishes.waste or wishes.hosts):
        return _collected(store, survey, wishes, progress, optimized)
    with _held(store, survey):  # reading takes minutes, and gc may come meanwhile
        return _collected(store, survey, wishes, progress, optimized)


@contextlib.contextmanager
def _held(store: Store, survey: Survey) -> Iterator[None]:
    """Keep the images of a survey from gc, where the store may be written to."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(ReadOnlyStoreError):
            session = stack.enter_context(store.begin("savings"))
            session.hold_images([image.image_id for image in survey.chosen])
        yield


def _collected(
    store: Store,
    survey: Survey,
    wishes: Wishes,
    progress: Progress,
    optimized: Callable[[Survey], Savings] | None,
) -> Collected:
    hosts = wishes.hosts(store, survey) if wishes.hosts is not None else None
    memory = None
    if wishes.memory:
        memory = take_memory(store, [image.image_id for image in survey.chosen])
    forms = take_forms(store, survey, progress) if wishes.reads_content else None
    savings = compare(survey, forms, optimized(survey) if optimized is not None else None)
    transfers = None
    if hosts is not None:
        sizes = forms.layer_sizes if forms else compressed_layers(store, survey, progress)
        transfers = take_transfers(store, survey, sizes, hosts, progress)
    report = Report(
        **{name: getattr(savings, name) for name in Savings.__struct_fields__},
        transfers=transfers,
        memory=memory,
    )
    if not wishes.details:
        return Collected(report, None)
    progress.start("reading trees", None)
    waste = _waste(store, survey, wishes) if wishes.waste else None
    names = [image_name(image) for image in savings.images]
    detailed = msgspec.structs.replace(
        report,
        sharing=take_sharing(survey, names, WIDE_ROWS),
        places=take_places(survey),
        packages=take_packages(store, survey),
        waste=waste.causes if waste is not None else None,
        waste_steps=waste.steps if waste is not None else None,
    )
    progress.finish()
    return Collected(detailed, take_sharing(survey, names, NARROW_ROWS))


def _waste(store: Store, survey: Survey, wishes: Wishes) -> Waste:
    places = no_places if wishes.places is None else wishes.places(store)
    return take_waste(store, survey.chosen, places, packages=True)


def to_builtins(report: Report) -> object:
    """Return a report as JSON has it; docs/reference/reports.schema.json."""
    return msgspec.to_builtins(report)
