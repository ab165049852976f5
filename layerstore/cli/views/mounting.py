"""The commands ``mount`` and ``mounts``: views that are made, and those that are there.

On the fast path: container runtimes call both in loops.
"""

from __future__ import annotations

import contextlib

from layerstore.cli.failure import tell_all
from layerstore.cli.output import age, short_id, write_json, write_line, write_note, write_table
from layerstore.cli.parsing.parsers import json_option
from layerstore.cli.settings import open_catalog, require_store
from layerstore.errors import InputError, LayerstoreError, NotFoundError
from layerstore.light_typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator, Sequence

    from fuse_mount.lazy_lowers import LazySource
    from fuse_mount.mounts import ListedMount
    from fuse_mount.plan import ViewPlan
    from fuse_mount.records import MountRecord, UnreadableRecordError
    from layerstore.linux.idmaps import IdMap
    from layerstore.progress import Progress
    from layerstore.store.catalog.rows import ImageRecord


# -- mount


def mount_options(parser: argparse.ArgumentParser) -> None:
    """Declare what ``mount`` takes."""
    from layerstore.cli.views import lazy

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
    json_option(parser)


def mount(options: argparse.Namespace, root: str) -> int:
    """Show an image at a directory."""
    from fuse_mount.plan import ViewPlan
    from layerstore.cli.views.lazy import lazy_source

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
    from layerstore.store.names.names import resolve
    from layerstore.store.names.usage import note_image_use

    with contextlib.closing(open_catalog(root)) as catalog:
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


def mounts_options(parser: argparse.ArgumentParser) -> None:
    """Declare what ``mounts`` takes."""
    parser.add_argument("-q", "--quiet", action="store_true", help="print directories only")
    parser.add_argument(
        "--restore",
        action="store_true",
        help="first show again what a restart of the host or the death of a server took away; "
        "writable layers are kept",
    )
    json_option(parser)


def list_mounts(options: argparse.Namespace, root: str) -> int:
    """List views and snapshots, after showing them again if that is wanted."""
    from fuse_mount.mounts import mounts

    require_store(root)
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

        from layerstore.cli.views import snapshot_list

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
