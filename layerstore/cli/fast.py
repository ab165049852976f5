"""The commands that container runtimes call in loops, parsed without typer.

Options of these commands are declared here only; the root's help lists them through
pass-through commands. Modules are imported inside the functions that need them, so
that ``mounts`` does not pay for the catalog nor ``images`` for mounting.
"""

from __future__ import annotations

import contextlib

from layerstore.cli.failure import describe, show, tell_all
from layerstore.cli.output import (
    age,
    short_id,
    write_json,
    write_line,
    write_note,
    write_table,
)
from layerstore.cli.settings import COMMANDS_WITH_COMMANDS, current_root
from layerstore.errors import InputError, LayerstoreError, NotFoundError
from layerstore.light_typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator, Sequence

    from fuse_mount.lazy_lowers import LazySource
    from fuse_mount.mounts import ListedMount
    from fuse_mount.plan import ViewPlan
    from fuse_mount.records import MountRecord, UnreadableRecordError
    from layerstore.cli.light_parser import LightParser
    from layerstore.linux.idmaps import IdMap
    from layerstore.progress import Progress
    from layerstore.store.catalog import Catalog
    from layerstore.store.catalog_rows import ImageRecord

USAGE = 125
"""docker's status for words that are no command line."""

_AS_DOCKERS = ("run", "create", "exec")
Command = tuple[
    "Callable[[argparse.ArgumentParser], None]",
    "Callable[[argparse.Namespace, str], int]",
    str,
]
"""Declares options; does the work; one line of help."""


def run(command: str, arguments: Sequence[str], store: str | None) -> int:
    """Run one fast command and return its exit code.

    Raises:
        LayerstoreError: The command failed.
    """
    try:
        options = parse(command, arguments)
    except SystemExit as err:  # after printing its help
        return int(err.code or 0)
    except InputError as err:
        if command not in _AS_DOCKERS:
            raise
        show(describe(err), err)
        return USAGE
    return execute(command, options, store)


def execute(command: str, options: argparse.Namespace, store: str | None) -> int:
    """Run one fast command with its parsed options and return its exit code.

    Raises:
        LayerstoreError: The command failed.
    """
    return _command(command)[1](options, current_root(store or getattr(options, "store", None)))


def parse(command: str, arguments: Sequence[str]) -> argparse.Namespace:
    """Return the options in a fast command's arguments.

    Raises:
        InputError: They are none of the command's.
    """
    if command in ("run", "create", "exec"):
        from layerstore.cli.light_parser import LightParser

        light = LightParser()
        declare(command, light)
        plain = light.parse(arguments)
        if plain is not None:
            return plain
    parser = parser_of(command)
    if command not in COMMANDS_WITH_COMMANDS:
        return parser.parse_args(arguments)
    from layerstore.cli.container_commands import split_command_line

    own, rest = split_command_line(parser, arguments)
    options = parser.parse_args(own)
    options.command = rest
    return options


def _command(name: str) -> Command:
    if name in _COMMANDS:
        return _COMMANDS[name]
    from layerstore.cli.container_commands import COMMANDS

    return COMMANDS[name]


def parser_of(command: str) -> argparse.ArgumentParser:
    """Return the parser of a fast command, which also formats its help."""
    from layerstore.cli.parsers import make_parser

    has_help = command not in COMMANDS_WITH_COMMANDS
    parser = make_parser(command, summary_of(command), has_help=has_help)
    declare(command, parser)
    return parser


def declare(command: str, parser: argparse.ArgumentParser | LightParser) -> None:
    """Declare the options of a fast command."""
    if command in COMMANDS_WITH_COMMANDS:  # where -h is --hostname
        parser.add_argument("--help", action="help", help="show this help message and exit")
        parser.add_argument("--store", metavar="DIR", help="the store, unless it stands in front")
    _command(command)[0](parser)  # type: ignore[arg-type]  # a light one takes the same


def summary_of(command: str) -> str:
    """Return a fast command's one line of help."""
    return _command(command)[2]


# -- images


def _images_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "name",
        nargs="?",
        metavar="NAME",
        help="only this repository or name, or a pattern: 'app/*'",
    )
    parser.add_argument("-a", "--all", action="store_true", help="docker's; all are listed anyway")
    parser.add_argument("-q", "--quiet", action="store_true", help="print ids only")
    parser.add_argument("-v", "--verbose", action="store_true", help="print last uses and pins too")
    parser.add_argument("--no-trunc", action="store_true", help="print whole ids")
    parser.add_argument("--digests", action="store_true", help="print manifest digests")
    parser.add_argument(
        "-f", "--filter", action="append", default=[], metavar="NAME=VALUE",
        help="only these: reference=PATTERN, dangling=true, label=KEY[=VALUE], before=IMAGE, "
        "since=IMAGE; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--of", metavar="docker|podman", help="list those of a running engine, not of the store"
    )
    parser.add_argument(
        "--host", metavar="ADDRESS", help="of the engine: unix:///path or tcp://host:port"
    )
    parser.add_argument(
        "--format", default="table", metavar="table|json|TEMPLATE",
        help="json, or a template: '{{.Repository}}:{{.Tag}} {{.Size}}'",
    )  # fmt: skip
    _same_as_json(parser)


def _images(options: argparse.Namespace, root: str) -> int:
    if options.of is not None or options.host is not None:
        from layerstore.cli.engines import list_images

        list_images(options)
        return 0
    from layerstore.cli.image_table import Shown, named, show_images
    from layerstore.store.pins import pins
    from layerstore.store.usage import image_uses

    with contextlib.closing(_open_catalog(root)) as catalog:
        tags, images, pinned = catalog.tags(), catalog.images(), pins(catalog)
        shown = images if options.verbose or options.format == "json" else ()
        uses = image_uses(catalog.paths, [image.image_id for image in shown])
        images, names = named(images, tags, options.name)
        if options.filter:
            from layerstore.cli.image_filters import filtered

            images, names = filtered(images, names, options.filter, catalog)
    show_images(images, names, Shown(uses, pinned), options)
    return 0


def _inspect_options(parser: argparse.ArgumentParser) -> None:
    from layerstore.cli.inspecting import inspect_options

    inspect_options(parser)


def _inspect(options: argparse.Namespace, root: str) -> int:
    from layerstore.cli.inspecting import inspect

    return inspect(options, root)


# -- import


def _import_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source",
        metavar="FILE|DIR|-",
        help="a tar (gzip, zstd, xz, bzip2 or plain), a directory, or stdin",
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="name of the image, as --tag")
    parser.add_argument(
        "-t", "--tag", action="append", metavar="NAME", help="name of the image; may be repeated"
    )
    parser.add_argument(
        "-c",
        "--change",
        action="append",
        metavar="INSTRUCTION",
        help="Dockerfile instruction, such as 'CMD [\"bash\"]'; may be repeated",
    )
    parser.add_argument(
        "-m", "--message", default="", metavar="TEXT", help="comment for the history"
    )
    parser.add_argument(
        "--reread",
        action="store_true",
        help="read every file, even if the directory did not change since last time",
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="print ids only")
    _json_option(parser)


def _import(options: argparse.Namespace, root: str) -> int:
    from layerstore.cli.importing import import_rootfs

    return import_rootfs(options, root)


# -- mount


def _mount_options(parser: argparse.ArgumentParser) -> None:
    from layerstore.cli import lazy

    parser.add_argument("image", metavar="IMAGE", help="name or id")
    parser.add_argument("target", metavar="DIR", help="an existing directory")
    parser.add_argument(
        "--rw", action="store_true", help="give the view a writable layer of its own"
    )
    parser.add_argument(
        "--backend",
        choices=("auto", "kernel", "kernel-packs", "fuse", "fusepy"),
        default="auto",
        help="kernel: EROFS and overlayfs, with every file unpacked once; kernel-packs: the "
        "same over compressed packs, with next to nothing unpacked; fuse: a server of ours; "
        "fusepy: one through libfuse 2; auto: the kernel where it can, over packs where there "
        "is no room, else fuse (default: auto)",
    )
    parser.add_argument(
        "-o",
        "--options",
        action="append",
        default=[],
        metavar="WORDS",
        help="suid, dev: let programs of the image set ids, its device files open; noexec; "
        "separated by commas; may be repeated",
    )
    parser.add_argument(
        "--idmap",
        action="append",
        default=[],
        metavar="CONTAINER:HOST:SIZE",
        help="show the owners of files under other ids, without copying; with u: or g: before "
        "it of users or groups only; may be repeated",
    )
    parser.add_argument(
        "--userns",
        metavar="PATH|auto",
        help="map owners as a user namespace does (/proc/PID/ns/user), or onto this user's "
        "subordinate ids (/etc/subuid)",
    )
    parser.add_argument(
        "--print",
        action="store_true",
        help="prepare the view and print what to mount; DIR may be missing, umount gives it up",
    )
    parser.add_argument(
        "--foreground",
        action="store_true",
        help="stay and show what the server logs until Ctrl-C, then unmount",
    )
    lazy.add_options(parser)
    _json_option(parser)


def _mount(options: argparse.Namespace, root: str) -> int:
    from fuse_mount.plan import ViewPlan
    from layerstore.cli.lazy import lazy_source

    if options.print and options.foreground:
        raise InputError("give either --print or --foreground")
    source = lazy_source(options, root)
    if source is not None:
        made = _make_view(options, root, source, None)
    else:
        made = _make_view_of_own(options, root)
    if isinstance(made, ViewPlan):
        _print_plan(root, made, as_json=options.format == "json")
    elif options.format == "json":
        write_json(made._asdict())
    if options.foreground and not isinstance(made, ViewPlan):
        from fuse_mount.foreground import attend

        attend(root, made, write_note)
    return 0


def _make_view_of_own(options: argparse.Namespace, root: str) -> MountRecord | ViewPlan:
    """Show an image of this store."""
    from layerstore.store.names import resolve
    from layerstore.store.usage import note_image_use

    with contextlib.closing(_open_catalog(root)) as catalog:
        image = resolve(catalog, options.image)

        def confirm() -> None:
            if catalog.image_after_writers(image.image_id) is None:
                raise NotFoundError(f"image {options.image} was removed while it was mounted")

        made = _make_view(options, root, image, confirm)
        note_image_use(catalog.paths, image.image_id)
    return made


def _make_view(
    options: argparse.Namespace,
    root: str,
    image: ImageRecord | LazySource,
    confirm: Callable[[], object] | None,
) -> MountRecord | ViewPlan:
    from fuse_mount import mounts
    from fuse_mount.records import FORBIDDEN
    from layerstore.linux.planned import flags_of

    words = [word for text in options.options for word in text.split(",")]
    flags = flags_of(words, FORBIDDEN)
    idmap = _id_map(options)
    make = mounts.prepare if options.print else mounts.mount
    with _unpacking(options.backend) as progress:
        return make(
            root,
            image,
            options.target,
            rw=options.rw,
            name=options.image,
            backend=options.backend,
            flags=flags,
            idmap=idmap,
            confirm=confirm,
            progress=progress,
            tell=lambda became, err: write_note(f"note: shown by {became}: {err.message}"),
        )


def _id_map(options: argparse.Namespace) -> IdMap:
    if not options.idmap and options.userns is None:
        return ()
    from layerstore.linux import idmaps

    if options.userns is None:
        return idmaps.parse_id_map(options.idmap)
    if options.idmap:
        raise InputError("give either --idmap or --userns")
    if options.userns == "auto":
        from fuse_mount.unshare import map_onto_subordinate_ids

        return map_onto_subordinate_ids()
    return idmaps.map_of_user_namespace(options.userns)


def _print_plan(root: str, plan: ViewPlan, *, as_json: bool) -> None:
    from fuse_mount.mounts import unmount
    from fuse_mount.plan import plan_commands, plan_to_json

    if as_json:
        write_json(plan_to_json(plan))
        return
    from shlex import join

    try:
        commands = plan_commands(plan)
    except LayerstoreError:
        unmount(root, plan.view_id)  # nobody was told of it
        raise
    for command in commands:
        write_line(join(command))


@contextlib.contextmanager
def _unpacking(backend: str) -> Iterator[Progress | None]:
    """Show how unpacking for the kernel moves; FUSE has nothing to show and imports nothing."""
    if backend in ("fuse", "fusepy"):
        yield None
        return
    from layerstore.cli.progress import terminal_progress

    with terminal_progress() as progress:
        yield progress


# -- mounts


def _mounts_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-q", "--quiet", action="store_true", help="print directories only")
    parser.add_argument(
        "--restore",
        action="store_true",
        help="first show again what a restart of the host or the death of a server took away; "
        "writable layers are kept",
    )
    _json_option(parser)


def _mounts(options: argparse.Namespace, root: str) -> int:
    from fuse_mount.mounts import mounts

    _require_store(root)
    failures: list[LayerstoreError] = []
    if options.restore:
        from fuse_mount.recovering import restore

        with _unpacking("auto") as progress:
            restored = restore(root, failures, progress)
        for record in restored:
            write_note(f"shown again: {record.image or record.image_id} at {record.target}")
    unreadable: list[UnreadableRecordError] = []
    listed = mounts(root, unreadable)
    if options.quiet:  # what umount takes
        for view in listed:
            write_line(view.record.target)
    else:
        _show_mounts(root, listed, failures, as_json=options.format == "json")
    tell_all([*failures, *unreadable])
    return 0


def _show_mounts(
    root: str, listed: Sequence[ListedMount], failures: list[LayerstoreError], *, as_json: bool
) -> None:
    """Print views, and containerd's snapshots if the store has any."""
    from fuse_mount.records import has_snapshots

    rows: list[list[str]] = []
    shown = [_view_to_json(view) for view in listed] if as_json else []
    if has_snapshots(root):
        import time

        from layerstore.cli import snapshot_list

        for snapshot in snapshot_list.snapshots(root, failures):
            if as_json:
                shown.append(snapshot_list.snapshot_to_json(root, snapshot))
            else:
                rows.append(snapshot_list.snapshot_row(root, snapshot, time.time()))
    if as_json:
        write_json(shown)
    else:
        heads = ["VIEW", "KIND", "IMAGE", "MODE", "BACKEND", "DIRECTORY", "MOUNTED", "STATE"]
        write_table(heads, [*_view_rows(listed), *rows])


def _view_rows(listed: Sequence[ListedMount]) -> list[list[str]]:
    import time

    from layerstore.units import rfc3339

    now_s = time.time()
    rows = []
    for view in listed:
        record = view.record
        state = f"{view.state}: {view.reason}" if view.reason else view.state
        created = age(rfc3339(record.created), now_s)
        image = record.image or short_id(record.image_id)
        backend = f"{record.backend}, lazy" if record.remote else record.backend
        row = [record.view_id, "view", image, record.mode, backend, record.target, created, state]
        rows.append(row)
    return rows


def _view_to_json(view: ListedMount) -> dict[str, object]:
    shown = {**view.record._asdict(), "state": view.state, "reason": view.reason}
    if view.record.remote:
        from fuse_mount.lazy_lowers import fetched

        shown["fetched"] = fetched(view.record.lower)
    return shown


# -- umount


def _umount_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("target", nargs="*", metavar="DIR", help="directory or id of a view")
    parser.add_argument("--all", action="store_true", help="every view of the store")
    parser.add_argument(
        "--lazy", action="store_true", help="detach busy views; they end with their last user"
    )
    parser.add_argument(
        "--keep-upper", action="store_true", help="keep the writable layer and print where it is"
    )
    parser.add_argument(
        "-f", "--force", action="store_true",
        help="views that podman is shown as layers, too; its containers lose their files",
    )  # fmt: skip


def _umount(options: argparse.Namespace, root: str) -> int:
    from layerstore.cli.umount import take_views_away

    if bool(options.target) == options.all:
        raise InputError("give directories to unmount, or --all", hint="layerstore mounts")
    _require_store(root)
    take_views_away(root, options)
    return 0


# -- df


def _df_options(parser: argparse.ArgumentParser) -> None:
    from layerstore.cli import disk_usage

    disk_usage.add_options(parser)
    _json_option(parser)


def _df(options: argparse.Namespace, root: str) -> int:
    from layerstore.cli.disk_usage import show_disk_usage

    show_disk_usage(options, root)
    return 0


# -- shared


def _json_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--format", choices=("table", "json"), default="table", help="json for machines"
    )
    _same_as_json(parser)


def _same_as_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--json",
        dest="format",
        action="store_const",
        const="json",
        help="the same as --format json",
    )


def _require_store(root: str) -> None:
    from layerstore.store.config import load_config
    from layerstore.store.paths import StorePaths

    load_config(StorePaths(root))


def _open_catalog(root: str) -> Catalog:
    from layerstore.store.catalog import Catalog
    from layerstore.store.paths import StorePaths

    _require_store(root)
    return Catalog(StorePaths(root))


_COMMANDS: dict[str, Command] = {
    "df": (_df_options, _df, "Show what the store holds on disk, and what gc could free."),
    "images": (_images_options, _images, "List images, newest first."),
    "import": (_import_options, _import, "Make an image from a root file system."),
    "inspect": (
        _inspect_options,
        _inspect,
        "Print everything about images and containers, as docker's JSON.",
    ),
    "mount": (_mount_options, _mount, "Show an image at a directory."),
    "mounts": (
        _mounts_options,
        _mounts,
        "List views and snapshots, and their state.",
    ),
    "umount": (
        _umount_options,
        _umount,
        "Take views away, with their writable layers.",
    ),
}
