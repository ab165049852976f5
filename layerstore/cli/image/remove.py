"""The command rm: names go, and with its last name an image; what that frees is said before."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from layerstore.cli.common import DryRun, Json, settings_of
from layerstore.cli.failure import tell_all
from layerstore.cli.output import short_id, write_json, write_line, write_note, write_table

if TYPE_CHECKING:
    from layerstore.errors import LayerstoreError
    from layerstore.measure.removing import RemovalShare
    from layerstore.store.catalog.rows import ImageRecord
    from layerstore.store.collect.removal import RemovalEffect
    from layerstore.store.store import Store

_Images = Annotated[list[str], typer.Argument(metavar="IMAGE...", help="Names or ids.")]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("rm")(remove)
    app.command("rmi", hidden=True)(remove)


def remove(
    context: typer.Context,
    images: _Images,
    *,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            "-f",
            help="Remove all names of an image given by its id, and pinned ones; "
            "what is not there is no failure.",
        ),
    ] = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Remove names of images, and images without names.

    The bytes go with the next gc; --dry-run says how many.
    """
    from layerstore.cli.rootless.containers_namespace import join_to_read_for
    from layerstore.errors import LayerstoreError
    from layerstore.store.failures import ImageNotFoundError

    failures: list[LayerstoreError] = []
    settings = settings_of(context)
    if dry_run:
        join_to_read_for(settings)
    with settings.open_store() as store:
        gone: set[str] = set()
        removals: list[_Removal] = []
        for reference in images:
            try:
                planned = _plan_removal(store, reference, gone, force=force)
                if not dry_run:
                    for removal in planned:
                        _execute_removal(store, removal, force=force)
            except LayerstoreError as err:
                if force and isinstance(err, ImageNotFoundError):  # as docker's
                    write_note(f"note: {err.message}")
                else:
                    failures.append(err)
                continue
            gone.update(name for removal in planned for name in removal.names)
            removals += planned
            if not as_json:
                for removal in planned:
                    _tell_removal(removal, dry_run=dry_run)
        freed = _freed(store, removals, force=force) if dry_run else None
    if as_json:
        write_json(_to_json(removals, freed))
    elif freed is not None:
        _tell_freed(freed)
    tell_all(failures)


def _tell_removal(removal: _Removal, *, dry_run: bool) -> None:
    for name in removal.told:
        write_line(f"{'would be untagged' if dry_run else 'Untagged'}: {name}")
    if removal.is_last:
        write_line(f"{'would be deleted' if dry_run else 'Deleted'}: {removal.image.image_id}")


class _Removal(NamedTuple):
    """Names to take from an image; with the last one the image goes."""

    image: ImageRecord
    names: list[str]
    is_last: bool

    @property
    def told(self) -> list[str]:
        """The names that people know: not what a tag's index is made of."""
        from layerstore.formats.reference import is_index_name

        return [name for name in self.names if not is_index_name(name)]


def _plan_removal(store: Store, reference: str, gone: set[str], *, force: bool) -> list[_Removal]:
    """Return what removing ``reference`` means once the names in ``gone`` are gone.

    With a tag that means an index the other images of that go, too.
    """
    from layerstore.formats.reference import lookup_form, names_that_go
    from layerstore.store.failures import ImageNotFoundError
    from layerstore.store.names.pins import refuse_pinned

    image = store.resolve(reference)
    had = [name for name, image_id in store.tags().items() if image_id == image.image_id]
    names = [name for name in had if name not in gone]
    form = lookup_form(reference)
    # A dry run takes nothing away: what was named before is gone for it as it would be.
    if not gone.isdisjoint({form, f"{form}:latest"}) or (had and not names):
        raise ImageNotFoundError(
            f"image {reference!r} goes with what is named before it", hint="name it once"
        )
    doomed = names_that_go(_doomed_names(reference, image, names, force=force), names)
    if not force:
        _refuse_part(image, doomed)
    removals = [_Removal(image, doomed, len(doomed) == len(names))]
    removals += _others_that_go(store, image, doomed, gone)
    for each in removals:
        if not force:
            targets = [*each.names, each.image.image_id] if each.is_last else each.names
            refuse_pinned(store.catalog, targets)
        if each.is_last:
            _refuse_mounted(store, each.image)
    return removals


def _refuse_part(image: ImageRecord, doomed: list[str]) -> None:
    """Refuse to take an image out of an index whose tag stays."""
    from layerstore.errors import ConflictError
    from layerstore.formats.reference import is_index_name

    tags = {name.partition("@")[0] for name in doomed if is_index_name(name)}.difference(doomed)
    if tags:
        tag = min(tags)
        raise ConflictError(
            f"image {short_id(image.image_id)} is one of the index that {tag} means",
            hint=f"layerstore rm {tag} removes all of it; with --force {tag} means one image then",
        )


def _others_that_go(
    store: Store, image: ImageRecord, doomed: list[str], gone: set[str]
) -> list[_Removal]:
    """Return what goes of other images with the tags among ``doomed``: their part of an index."""
    tags = store.tags()
    named: dict[str, list[str]] = {}
    for name, image_id in tags.items():
        if image_id != image.image_id and name.partition("@")[0] in doomed:
            named.setdefault(image_id, []).append(name)
    had: dict[str, int] = {}
    for name, image_id in tags.items():
        had[image_id] = had.get(image_id, 0) + (name not in gone)
    return [
        _Removal(store.image(tags[names[0]]), names, len(names) == had[image_id])
        for image_id, names in named.items()
    ]


def _execute_removal(store: Store, removal: _Removal, *, force: bool) -> None:
    if not removal.is_last and not removal.told:
        return  # what it was in an index has gone with the tag
    if removal.is_last:
        store.remove_image(removal.image.image_id, force=force, names=removal.names)
        return
    store.untag(removal.names[0], force=force)  # the others are digests that go with it


class _Freed(NamedTuple):
    """What is attributed to what goes, image by image, and what collecting would then free."""

    shares: list[RemovalShare]
    effect: RemovalEffect

    @property
    def attributed_bytes(self) -> int:
        """What only the images need that go."""
        return sum(share.added_bytes for share in self.shares)


def _freed(store: Store, removals: list[_Removal], *, force: bool) -> _Freed:
    from layerstore.measure.attribution import attribute
    from layerstore.measure.inventory import ChunkReader
    from layerstore.measure.removing import removal_shares
    from layerstore.measure.summary import take_summarised
    from layerstore.store.collect.removal import removal_effect

    gone = {name for removal in removals for name in removal.names}
    tags = store.tags()
    staying = {image_id for name, image_id in tags.items() if name not in gone}
    nameless = dict.fromkeys(
        removal.image.image_id for removal in removals if removal.image.image_id not in staying
    )
    inventory = take_summarised(store)
    attribution = attribute(inventory, ChunkReader(store, inventory))
    shares = removal_shares(inventory, attribution, list(nameless))
    unpinned = [removal.image.image_id for removal in removals if removal.is_last and force]
    return _Freed(shares, removal_effect(store, gone, unpinned))


def _to_json(removals: list[_Removal], freed: _Freed | None) -> dict[str, object]:
    plain: dict[str, object] = {
        "dry_run": freed is not None,
        "untagged": [name for removal in removals for name in removal.told],
        "deleted": [removal.image.image_id for removal in removals if removal.is_last],
        "freed": None,
    }
    if freed is not None:
        plain["freed"] = {
            "attributed_bytes": freed.attributed_bytes,
            **freed.effect._asdict(),
            "images": [share._asdict() for share in freed.shares],
        }
    return plain


def _tell_freed(freed: _Freed) -> None:
    from layerstore.units import format_size

    effect = freed.effect
    if len(freed.shares) > 1:
        rows = [
            [short_id(s.image_id), format_size(s.alone_bytes), format_size(s.added_bytes)]
            for s in freed.shares
        ]
        write_table(["IMAGE ID", "ALONE", "IN THIS ORDER"], rows)

    def say(what: str, size: int) -> None:
        write_line(f"{what} {format_size(size)} ({size} bytes)")

    say("only what goes needs", freed.attributed_bytes)
    say("gc would then free", effect.freed_bytes)
    say("  of this, without the removal", effect.freed_anyway_bytes)
    if effect.unpacked_bytes:
        say("and evict of files unpacked for views", effect.unpacked_bytes)
    if effect.deferred_bytes:
        say("  and when running commands have ended", effect.deferred_bytes)
    if effect.compact_bytes > effect.freed_bytes:
        say("gc --compact would then free at least", effect.compact_bytes)


def _doomed_names(
    reference: str, image: ImageRecord, names: list[str], *, force: bool
) -> list[str]:
    """Return the names that removing ``reference`` takes away."""
    from layerstore.errors import ConflictError
    from layerstore.formats.reference import (
        is_digest_name,
        is_index_name,
        lookup_form,
        names_in_cell,
        told_names,
    )

    form = lookup_form(reference)
    if form in names or f"{form}:latest" in names:
        return [form if form in names else f"{form}:latest"]
    tags = [name for name in names if not is_digest_name(name)]
    if len(tags or [name for name in names if not is_index_name(name)]) > 1 and not force:
        raise ConflictError(
            f"image {short_id(image.image_id)} has {len(told_names(names))} names: "
            f"{names_in_cell(names)}",
            hint="remove them by name, or pass --force to remove all of them",
        )
    return names


def _refuse_mounted(store: Store, image: ImageRecord) -> None:
    from fuse_mount.mounts import mounts
    from layerstore.containers.records import all_containers
    from layerstore.errors import ConflictError

    for container in all_containers(str(store.root), []):
        if container.image_id == image.image_id:
            raise ConflictError(
                f"image {short_id(image.image_id)} is used by container {container.name}",
                hint=f"layerstore container rm {container.name}",
            )
    # A record that cannot be read keeps gc from deleting anything; the name may go.
    for view in mounts(str(store.root), []):
        if view.record.image_id == image.image_id:
            from layerstore.peers.podman_store import store_around

            place = view.record.target
            shown = store_around(place)
            raise ConflictError(
                f"image {short_id(image.image_id)} is mounted at {place}",
                hint=f"layerstore podman-store {shown} --rm {view.record.image}"
                if shown
                else f"layerstore umount {place}",
            )
