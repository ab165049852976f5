"""docker and podman: where they listen, and what load, save and images do with them."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Annotated

import typer

from layerstore.cli.output import (
    age,
    short_id,
    write_json,
    write_line,
    write_note,
    write_table,
)
from layerstore.errors import InputError
from layerstore.formats.reference import (
    lookup_form,
    parse_reference,
    parse_tag_name,
    split_name,
)

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence

    from layerstore.formats.oci import Platform
    from layerstore.peers.engine import Engine, EngineImage
    from layerstore.store.store import Store

ENGINES = ("docker", "podman")

EngineHost = Annotated[
    str | None,
    typer.Option(
        "--host",
        metavar="ADDRESS",
        help="Of the engine: unix:///path or tcp://host:port; by default $DOCKER_HOST, docker's "
        "context or $CONTAINER_HOST, else its usual socket. TLS as $DOCKER_TLS_VERIFY says.",
    ),
]


def open_engine(name: str | None, host: str | None) -> Engine:
    """Return the engine that is meant, greeted.

    Raises:
        InputError: There is no such engine, or its address is none.
        EngineError: Nobody answers.
    """
    from layerstore.peers.engine import Engine

    if name not in ENGINES:
        raise InputError(f"{name or ''!r} is no engine", hint="docker or podman")
    if name == "docker":
        from layerstore.peers.engine_place import docker_place

        place = docker_place(os.environ, host, _usual_socket("/var/run", "docker.sock"))
        return Engine(place.address, name, tls=place.tls)
    usual = _usual_socket("/run", "podman/podman.sock")
    return Engine(host or os.environ.get("CONTAINER_HOST") or usual, name)


def _usual_socket(folder: str, path: str) -> str:
    """Return where an engine listens when nobody says: a user's own socket before the host's."""
    own = os.environ.get("XDG_RUNTIME_DIR", "")
    if own and os.geteuid() != 0 and os.path.exists(f"{own}/{path}"):
        return f"unix://{own}/{path}"
    return f"unix://{folder}/{path}"


def load_from_engine(
    store: Store,
    name: str | None,
    host: str | None,
    images: Sequence[str],
    serves: Callable[[Platform], bool],
    *,
    quiet: bool,
    as_json: bool,
) -> None:
    """Take images from an engine, telling each when it is there."""
    from layerstore.cli.progress import terminal_progress
    from layerstore.cli.warm import fresh_images
    from layerstore.peers.engine_images import take_images

    if not images:
        raise InputError("name the images to load", hint=f"layerstore images --of {name}")
    told = []
    with open_engine(name, host) as engine, terminal_progress(quiet=quiet) as progress:
        for taken in take_images(store, engine, images, serves, progress):
            told.append(
                {
                    "id": taken.image.image_id,
                    "names": list(taken.names),
                    "size": taken.image.size,
                    "was_here": taken.was_here,
                }
            )
            if as_json:
                continue
            for full in taken.names:
                write_line(f"Loaded image: {full}")
            if not taken.names:
                write_line(f"Loaded image ID: {taken.image.image_id}")
                write_note("it has no name: the next gc removes it; 'layerstore tag' gives it one")
    if as_json:
        write_json({"images": told})
    fresh_images.tell(store.paths.root, [str(each["id"]) for each in told if not each["was_here"]])


def list_images(options: argparse.Namespace) -> None:
    """List the images of an engine, as ``images`` lists those of the store.

    Raises:
        InputError: An option asks for what engines are not asked.
        EngineError: Nobody answers.
    """
    for option in ("filter", "digests", "verbose"):
        if getattr(options, option):
            raise InputError(f"--{option} is about images of the store", hint="leave out --of")
    with open_engine(options.of, options.host) as engine:
        images = engine.images()
    if options.name is not None:
        images = [each for each in images if _is_called(each.names, options.name)]
    if options.format == "json":
        write_json([each._asdict() for each in images])
        return
    if options.quiet:
        for each in images:
            write_line(each.image_id if options.no_trunc else short_id(each.image_id))
        return
    rows = [
        _fields(each, name, cut=not options.no_trunc)
        for each in images
        for name in each.names or ("<none>:<none>",)
    ]
    if options.format != "table":
        from layerstore.cli.parsing.templates import print_rows

        print_rows(options.format, rows, {"ID": "IMAGE ID", "CreatedSince": "CREATED"})
        return
    columns = ("Repository", "Tag", "ID", "CreatedSince", "Size")
    titles = ["REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE"]
    write_table(titles, [[row[column] for column in columns] for row in rows])


def _fields(image: EngineImage, name: str, *, cut: bool) -> dict[str, str]:
    """Return a row by docker's names, as templates ask for them."""
    import time
    from datetime import UTC, datetime

    from layerstore.units import format_size

    repository, _, tag = name.rpartition(":")
    created = datetime.fromtimestamp(image.created, UTC).isoformat()
    return {
        "ID": short_id(image.image_id) if cut else image.image_id,
        "Repository": repository,
        "Tag": tag,
        "CreatedSince": age(created, time.time()),
        "CreatedAt": created,
        "Size": format_size(image.size),
    }


def _is_called(names: Sequence[str], wanted: str) -> bool:
    """Whether one of an engine's names is meant; what is no name of ours is none."""
    reference = parse_reference(wanted)
    for name in names:
        with contextlib.suppress(InputError):
            repository, tag = split_name(parse_tag_name(name))
            if repository == reference.repository and reference.tag in (None, tag):
                return True
    return False


def save_to_engine(
    store: Store,
    name: str | None,
    host: str | None,
    images: Sequence[str],
    *,
    quiet: bool,
    as_json: bool,
) -> None:
    """Give images to an engine, those and the layers that it lacks."""
    from layerstore.cli.progress import terminal_progress
    from layerstore.peers.engine_images import give_images
    from layerstore.store.names.usage import note_image_use
    from layerstore.units import format_size

    wanted = []
    for text in images:
        record = store.resolve(text)
        note_image_use(store.paths, record.image_id)
        wanted.append((record, _names_of(store, text, record.image_id)))
    with open_engine(name, host) as engine, terminal_progress(quiet=quiet) as progress:
        given = give_images(store, engine, wanted, progress)
    if as_json:
        write_json([each._asdict() for each in given])
        return
    for each in given:
        what = ", ".join(each.names) or each.image_id
        write_line(what if quiet else f"{what}: {short_id(each.image_id)}, "
                   f"{format_size(each.sent_bytes)} sent")  # fmt: skip


def _names_of(store: Store, text: str, image_id: str) -> list[str]:
    """Return the names that an image has there: the one that was asked for, or all of an id's."""
    names = [name for name, named in store.tags().items() if named == image_id and "@" not in name]
    form = lookup_form(text)
    return [form] if form in names else names
