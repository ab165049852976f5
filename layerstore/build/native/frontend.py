"""A native spec on its way to targets of a build: read, expanded for each variant, lowered."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from layerstore.build.dockerfile.errors import SpecError
from layerstore.build.dockerfile.syntax import Notice
from layerstore.build.frontends import Target, warn_of_unused
from layerstore.build.graph import topological
from layerstore.build.lower_options import PROXY_ARGS, Plan
from layerstore.build.native.checks import AssumedSources, spec_findings
from layerstore.build.native.decoding import decode
from layerstore.build.native.includes import Root, merged_document
from layerstore.build.native.limits import MAX_LOCK_BYTES
from layerstore.build.native.lockfile import FileLocks, NoLocks
from layerstore.build.native.lockfile import decode as decode_lock
from layerstore.build.native.lowering import Graph, Lowering
from layerstore.build.native.matrix import argument_defaults, chosen, variants
from layerstore.build.native.reader import Node, read_toml
from layerstore.build.native.spec import Spec
from layerstore.build.native.templates import Expander
from layerstore.build.platforms import platform_args
from layerstore.build.spec_file import lock_path
from layerstore.errors import InputError
from layerstore.formats.reference import parse_tag_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from layerstore.build.contexts import MainContext
    from layerstore.build.dockerfile.syntax import SourceSpan
    from layerstore.build.lint.meaning import Surroundings
    from layerstore.build.lint.rules import Finding
    from layerstore.build.lower_options import Images, LowerOptions
    from layerstore.build.native.bases import Sources
    from layerstore.build.native.lockfile import Locks
    from layerstore.build.native.matrix import Variant
    from layerstore.build.spec_file import SpecFile
    from layerstore.build.ui import BuildUi

HISTORY_COMMENT = "layerstore.toml.v1"
_UNEXPANDED = ("args", "matrix")


class Choice(NamedTuple):
    """What the command line says about a native spec.

    Attributes:
        tags: Names instead of the spec's own.
        variants: Which to build; all by default.
        locked: The lock file must answer everything.
    """

    tags: tuple[str, ...] = ()
    variants: tuple[str, ...] = ()
    locked: bool = False


class LoweredTargets(NamedTuple):
    """What a spec came to.

    Attributes:
        notices: What was accepted with a remark.
        findings: What the checks say.
    """

    targets: list[Target]
    notices: list[Notice]
    findings: list[Finding]


class Document:
    """A spec and what it includes, read and checked as far as no variant matters.

    Attributes:
        file: The spec's name, for messages.
        node: Everything merged.
        args: Declared arguments with their defaults.
        variants: All of them.
        include_span: Where it names other files.

    Args:
        data: The spec's bytes.
        file: Its name.
        root: Where included files may lie; None for a spec that is in no file.
    """

    def __init__(self, data: bytes, file: str, root: Root | None) -> None:
        self.file = file
        own = read_toml(data, file)
        self.include_span = own.span_of("include")
        self.node = merged_document(own, root)
        self.args = argument_defaults(self.node.get("args"))
        self.variants = variants(self.node.get("matrix"), self.args)

    def span(self) -> SourceSpan:
        """Return the place that stands for the whole spec."""
        return self.node.span

    def unused_args(self, options: LowerOptions) -> tuple[str, ...]:
        """Return build arguments that the spec does not declare and that mean nothing else."""
        known = {
            *self.args,
            *platform_args(options.build_platform or options.platform, options.platform),
            "SOURCE_DATE_EPOCH",
        }
        return tuple(
            name
            for name in sorted(options.build_args)
            if name not in known and name.lower() not in PROXY_ARGS
        )

    def expanded(self, variant: Variant, options: LowerOptions) -> tuple[Node, Expander]:
        """Return the spec of one variant, and what expanded it.

        Raises:
            SpecError: Something is named that nothing defines.
        """
        values = (
            platform_args(options.build_platform or options.platform, options.platform) | self.args
        )
        values |= {name: value for name, value in options.build_args.items() if name in values}
        values |= dict(variant.values)
        expander = Expander(values)
        assert isinstance(self.node.value, dict)
        table = {
            key: item if key in _UNEXPANDED else expander.node(item, in_environment=key == "env")
            for key, item in self.node.value.items()
        }
        return Node(table, self.node.span, self.node.key_span), expander


def lower_targets(
    document: Document,
    options: LowerOptions,
    images: Images,
    sources: Sources,
    locks: Locks,
    *,
    epoch: int | None,
    tags: Sequence[str] = (),
    wanted: Sequence[str] = (),
) -> LoweredTargets:
    """Return the images that a spec describes, and what is worth a word.

    Args:
        document: The spec.
        options: What the command line says.
        images: Finds base images.
        sources: What is in them, and files.
        locks: What packages were resolved to.
        epoch: SOURCE_DATE_EPOCH.
        tags: Names instead of the spec's own; ``{{name}}`` is expanded in them, too.
        wanted: Variants, as ``--variant`` has them; all of them by default.

    Raises:
        SpecError: The spec is wrong; has file, line and column.
        InputError: The tags or the wanted variants are.
    """
    graph = Graph()
    targets: list[Target] = []
    notices: list[Notice] = []
    used: set[str] = set()
    stages: set[str] = set()
    for variant in chosen(document.variants, wanted):
        node, expander = document.expanded(variant, options)
        spec = decode(Spec, node, "the spec")
        lowering = Lowering(spec, node, options, epoch, images, sources, locks, graph)
        lowered = lowering.run()
        notices += [notice for notice in lowered.notices if notice not in notices]
        names = _names(spec, node, expander, tags)
        plan = Plan(
            lowered.state,
            document.unused_args(options),
            history_comment=HISTORY_COMMENT,
        )
        targets.append(Target(variant.label, names, plan))
        used |= expander.used
        stages |= lowering.needed
    _label_variants(targets)
    _refuse_equal_names(targets)
    chose = bool(options.target or wanted)
    findings = list(spec_findings(document.node, used, None if chose else stages))
    return LoweredTargets(targets, notices, findings)


class NativeFrontend:
    """A native spec and its lock file.

    Args:
        document: The spec.
        sources: What is in images, and files.
        lock: Content of the lock file, None if there is none.
        choice: What the command line says about it.
        epoch: SOURCE_DATE_EPOCH.
    """

    def __init__(
        self,
        document: Document,
        sources: Sources,
        lock: tuple[bytes, str] | None,
        choice: Choice,
        epoch: int | None,
    ) -> None:
        self._document = document
        self._sources = sources
        self._lock = lock
        self._choice = choice
        self._epoch = epoch
        self._findings: list[Finding] = []

    def targets(self, options: LowerOptions, images: Images, ui: BuildUi) -> list[Target]:
        """Return the chosen variants.

        Raises:
            SpecError: The spec is wrong, or its lock file is out of date and must not be.
        """
        locks = self._locks()
        lowered = self._lowered(options, images, locks)
        for notice in lowered.notices:
            ui.warning(notice)
        self._findings = lowered.findings
        if isinstance(locks, FileLocks):
            self._tell_missing(locks, ui)
        warn_of_unused(self._document.unused_args(options), self._document.file, "[args]", ui)
        return lowered.targets

    def findings(
        self,
        around: Surroundings,  # noqa: ARG002 -- the protocol's
        targets: Sequence[Target],  # noqa: ARG002
    ) -> list[Finding]:
        """Return what was found while lowering."""
        return self._findings

    def check(self, options: LowerOptions, images: Images) -> list[Finding]:
        """Return what is doubtful in the spec, whatever the store has.

        A place in an included file is told in words, and the place is that of ``include``.

        Raises:
            SpecError: The spec is wrong.
        """
        document = self._document
        lowered = lower_targets(
            document, options, images, AssumedSources(self._sources), NoLocks(),
            epoch=self._epoch, tags=self._choice.tags, wanted=self._choice.variants,
        )  # fmt: skip
        return [
            finding
            if finding.span.file == document.file
            else finding._replace(
                detail=f"{finding.span}: {finding.detail}", span=document.include_span
            )
            for finding in lowered.findings
        ]

    def resolve(self, options: LowerOptions, images: Images, locks: Locks) -> None:
        """Lower everything with locks that find out what package sets are today."""
        self._lowered(options, images, locks)

    def _lowered(self, options: LowerOptions, images: Images, locks: Locks) -> LoweredTargets:
        return lower_targets(
            self._document,
            options,
            images,
            self._sources, locks,
            epoch=self._epoch, tags=self._choice.tags, wanted=self._choice.variants,
        )  # fmt: skip

    def _locks(self) -> FileLocks | NoLocks:
        if self._lock is not None:
            data, name = self._lock
            return FileLocks(decode_lock(data, name))
        if self._choice.locked:
            raise SpecError(
                "there is no lock file", self._document.span(), hint="make it: layerstore lock"
            )
        return NoLocks()

    def _tell_missing(self, locks: FileLocks, ui: BuildUi) -> None:
        for reason, span in locks.missing.items():
            if self._choice.locked:
                raise SpecError(reason, span, hint="bring it up to date: layerstore lock")
            ui.warning(Notice(f"{reason}; layerstore lock brings it up to date", span))


def open_spec(
    spec: SpecFile,
    path: Path | None,
    main: MainContext,
    sources: Sources,
    choice: Choice,
    epoch: int | None,
) -> NativeFrontend:
    """Return a spec that was read, with what it includes and its lock file.

    Args:
        spec: The spec.
        path: Its file, if it is one of this host; only then it may include others.
        main: The build context.
        sources: What is in images, and files.
        choice: What the command line says.
        epoch: SOURCE_DATE_EPOCH.

    Raises:
        SpecError: It is wrong before any variant is looked at.
    """
    root = None
    if path is not None:
        root = root_of(path, main.directory or path.parent)
        place = lock_path(path)
        data = _read_lock(place)
    else:
        place = lock_path(Path(spec.filename))
        data = main.read(str(place))
    lock = None if data is None else (data, str(place))
    return NativeFrontend(Document(spec.text, spec.filename, root), sources, lock, choice, epoch)


def _read_lock(path: Path) -> bytes | None:
    try:
        if not path.is_file():
            return None
        with path.open("rb") as file:
            return file.read(MAX_LOCK_BYTES + 1)  # too long is told by who reads it
    except OSError as err:
        raise InputError(f"cannot read {path}: {err.strerror}") from err


def root_of(path: Path, context: Path) -> Root:
    """Return where the files lie that a spec may include: the context, or beside the spec.

    Args:
        path: The spec's file.
        context: The build context.
    """
    directory = Path(os.path.realpath(path.parent))
    top = Path(os.path.realpath(context))
    if directory == top or top in directory.parents:
        below = os.fspath(directory.relative_to(top) / path.name)
        return Root(top, below, os.fspath(context))
    return Root(directory, path.name, os.fspath(path.parent))


def _names(spec: Spec, node: Node, expander: Expander, tags: Sequence[str]) -> tuple[str, ...]:
    if tags:
        span = node.span
        try:
            return tuple(parse_tag_name(expander.text(tag, span)) for tag in tags)
        except SpecError as err:
            raise InputError(err.reason, hint=err.hint) from err
    names = []
    for index, tag in enumerate(spec.tags):
        try:
            names.append(parse_tag_name(tag))
        except InputError as err:
            raise SpecError(err.message, node.span_of("tags", index), hint=err.hint) from err
    return tuple(names)


def _label_variants(targets: Sequence[Target]) -> None:
    """Put a variant's name into the labels of the steps that it alone has."""
    needed = [topological(target.plan.state.vertex) for target in targets]
    users = Counter(id(vertex) for vertices in needed for vertex in vertices)
    for target, vertices in zip(targets, needed, strict=True):
        for vertex in vertices if len(targets) > 1 else ():
            if users[id(vertex)] == 1 and vertex.label:
                head, bracket, tail = vertex.label.partition("]")
                vertex.label = f"{head} {target.label}{bracket}{tail}"


def _refuse_equal_names(targets: Sequence[Target]) -> None:
    taken: dict[str, str] = {}
    for target in targets:
        for name in dict.fromkeys(target.names):
            if name in taken:
                axes = target.label.split(",")[0].partition("=")[0]
                raise InputError(
                    f"the variants {taken[name]} and {target.label} would both be {name}",
                    hint=f"put what differs into the tag: {name.partition(':')[0]}:{{{{{axes}}}}}",
                )
            taken[name] = target.label
