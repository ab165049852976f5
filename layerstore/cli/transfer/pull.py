"""Commands that bring images out of registries and into them: pull and push."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from layerstore.cli.common import Json, Quiet, settings_of
from layerstore.cli.failure import tell_all
from layerstore.cli.output import write_json, write_line, write_note
from layerstore.cli.progress import terminal_progress
from layerstore.cli.transfer.copy_images import DigestFile, Platform, serving, write_digest
from layerstore.cli.transfer.originals import OriginalsOption, originals_of
from layerstore.cli.transfer.registries import TlsVerify, registry_client
from layerstore.cli.transfer.signatures import (
    PassphraseFile,
    PolicyFile,
    SignKey,
    attach_signature,
    policy_gate,
    signing_key,
)
from layerstore.cli.transfer.transports import named_reference
from layerstore.cli.warm import fresh_images
from layerstore.errors import InputError, LayerstoreError

if TYPE_CHECKING:
    from layerstore.formats.oci import Descriptor
    from layerstore.formats.reference import Reference
    from layerstore.image.exchange.registry_places import RegistryDestination
    from layerstore.image.exchange.sending import Policy, Sent
    from layerstore.image.pulling import Pulled
    from layerstore.progress import Progress
    from layerstore.registry.client import RegistryClient
    from layerstore.registry.repository import Repository
    from layerstore.signing.keys import PrivateKey
    from layerstore.store.catalog.rows import ImageRecord
    from layerstore.store.store import Store


def register(app: typer.Typer) -> None:
    """Add this noun's commands."""
    app.command("pull")(pull)
    app.command("push")(push)


def pull(
    context: typer.Context,
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="With a tag or a digest.")],
    *,
    platform: Platform = "",
    all_platforms: Annotated[
        bool, typer.Option("--all-platforms", help="Every image of an index, not this host's.")
    ] = False,
    all_tags: Annotated[
        bool, typer.Option("--all-tags", "-a", help="Every tag of the repository.")
    ] = False,
    delta: Annotated[
        bool,
        typer.Option(
            "--delta/--no-delta",
            help="Whether only what is new is fetched, where 'push --delta' made that possible.",
        ),
    ] = True,
    originals: OriginalsOption = "auto",
    policy_file: PolicyFile = None,
    digestfile: DigestFile = None,
    tls_verify: TlsVerify = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Bring images out of registries into the store; one that fails does not stop the others."""
    from functools import partial

    from layerstore.image.exchange.registry_places import RegistrySource
    from layerstore.image.pulling import Puller

    if all_platforms and platform:
        raise InputError("--all-platforms and --platform exclude each other")
    keeping, gate, serves = originals_of(originals), policy_gate(policy_file), serving(platform)
    wanted = [named_reference(name) for name in names]
    rows: list[dict[str, object]] = []
    failures: list[LayerstoreError] = []
    with (
        registry_client(tls_verify) as client,
        settings_of(context).open_store(create=True) as store,
        terminal_progress(quiet=quiet) as progress,
    ):

        def pull_one(name: Reference) -> None:
            repository = client.repository(name)
            for each in _tags_of(name, client) if all_tags else [name]:
                puller = Puller(
                    store, repository, serves, originals=keeping, progress=progress,
                    permit=partial(gate, each, RegistrySource(repository)), parcels=delta,
                    note=write_note,
                )  # fmt: skip
                if not (quiet or as_json):
                    _tell_begin(each)
                pulled = puller.pull(each, every=all_platforms)
                rows.append(_row(each, pulled))
                if not as_json:
                    _tell(each, pulled, quiet=quiet)

        for name in wanted:
            try:
                pull_one(name)
            except LayerstoreError as err:
                failures.append(err)
    if rows:
        write_digest(digestfile, str(rows[-1]["digest"]))
    if as_json and (rows or not failures):
        write_json(rows)
    fresh_images.tell(settings_of(context).root, [str(r["image_id"]) for r in rows if r["is_new"]])
    tell_all(failures)


def push(
    context: typer.Context,
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="Name or id.")],
    target: Annotated[
        str | None,
        typer.Argument(metavar="[NAME]", help="What to call it there; its own name without it."),
    ] = None,
    *,
    compression: Annotated[
        str,
        typer.Option(
            metavar="original|gzip|zstd|none",
            help="Of the layers; what was pulled leaves as it came.",
        ),
    ] = "original",
    all_tags: Annotated[
        bool, typer.Option("--all-tags", "-a", help="Every tag of the repository.")
    ] = False,
    delta: Annotated[
        bool,
        typer.Option(
            "--delta",
            help="Send beside the image what lets other layerstores fetch only what is new.",
        ),
    ] = False,
    sign_key: SignKey = None,
    passphrase_file: PassphraseFile = None,
    digestfile: DigestFile = None,
    tls_verify: TlsVerify = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Send an image to a registry; what the registry has is not sent."""
    if all_tags and target:
        raise InputError("--all-tags pushes images under their own names")
    policy = policy_of(compression)
    key = signing_key(sign_key, passphrase_file) if sign_key is not None else None
    rows = []
    with (
        registry_client(tls_verify) as client,
        settings_of(context).open_store() as store,
        terminal_progress(quiet=quiet) as progress,
    ):
        for name in _stored_tags(store, image) if all_tags else [image]:
            there = named_reference(target or name)
            if there.digest is not None:
                raise InputError("a digest cannot be chosen", hint="give the image a tag")
            if not (quiet or as_json):
                write_line(f"The push refers to repository [{there.host}/{there.path}]")
            sent = push_one(store, client, name, there, policy, progress, key, delta=delta)
            digest, size = sent.descriptor.digest, sent.descriptor.size
            rows.append({
                "name": there.name, "digest": digest, "size": size, "original": sent.is_original,
            })  # fmt: skip
            if not as_json:
                _tell_pushed(there, sent, quiet=quiet)
    write_digest(digestfile, str(rows[-1]["digest"]))
    if as_json:
        write_json(rows)


def _tell_pushed(there: Reference, sent: Sent, *, quiet: bool) -> None:
    tag = there.tag or "latest"
    if quiet:
        write_line(f"{there.host}/{there.path}:{tag}")
    else:
        write_line(f"{tag}: digest: {sent.descriptor.digest} size: {sent.descriptor.size}")


def push_one(
    store: Store,
    client: RegistryClient,
    image: str,
    there: Reference,
    policy: Policy,
    progress: Progress,
    key: PrivateKey | None = None,
    *,
    delta: bool = False,
) -> Sent:
    """Send an image, or the index of that name; see :func:`push`."""
    from layerstore.formats.reference import DEFAULT_TAG
    from layerstore.image.exchange.indexes import find_index
    from layerstore.image.exchange.registry_places import RegistryDestination, RegistrySource
    from layerstore.image.pushing import Pusher, sibling_paths
    from layerstore.store.names.usage import note_image_use

    record = store.resolve(image)
    note_image_use(store.paths, record.image_id)
    beside = sibling_paths(store, record, there.host)
    repository = client.repository(there).without_mirrors()
    destination = RegistryDestination(repository, beside)
    before = repository.head_manifest(there.tag or DEFAULT_TAG) if delta else None
    pusher = Pusher(store, destination, policy, progress)
    index = find_index(store, image)
    sent = pusher.push(record, there) if index is None else pusher.push_index(index, there)
    if delta:
        _push_parcels(store, record, sent, repository, destination, before, progress)
    if key is not None:
        source = RegistrySource(repository)
        attach_signature(there, sent.descriptor.digest, source, destination, key)
    return sent


def _push_parcels(
    store: Store,
    image: ImageRecord,
    sent: Sent,
    repository: Repository,
    destination: RegistryDestination,
    before: Descriptor | None,
    progress: Progress,
) -> None:
    """Put an image's parcels beside it, over those of images that the repository had before."""
    from layerstore.image.transfer.earlier import earlier_manifests, pushed_manifest
    from layerstore.image.transfer.publishing import publish_parcels
    from layerstore.units import format_size

    published = publish_parcels(
        store,
        image,
        pushed_manifest(repository, sent, image.image_id),
        sent.manifest,
        repository,
        destination,
        earlier=earlier_manifests(store, repository, before.digest if before else None),
        progress=progress,
    )
    write_note(
        f"parcels: {format_size(published.new_bytes)} in {published.new_packs} new packs, "
        f"{published.reused_packs} were there"
    )


def policy_of(compression: str) -> Policy:
    """Return how images leave.

    Raises:
        InputError: Not a compression.
    """
    from layerstore.image.exchange.sending import Policy

    match compression:
        case "original":
            return Policy()
        case "gzip" | "zstd" | "none":
            return Policy(form=compression, anew=compression)
        case _:
            raise InputError(
                f"{compression!r} is not a compression", hint="one of original, gzip, zstd, none"
            )


def _tags_of(name: Reference, client: RegistryClient) -> list[Reference]:
    if name.tag or name.digest:
        raise InputError("tag can't be used with --all-tags/-a")
    from layerstore.registry.referrers import is_of_a_manifest

    tags = client.repository(name).tags()
    return [name._replace(tag=tag) for tag in tags if not is_of_a_manifest(tag)]


def _stored_tags(store: Store, text: str) -> list[str]:
    from layerstore.formats.reference import is_digest_name, split_name

    name = named_reference(text)
    if name.tag or name.digest:
        raise InputError("tag can't be used with --all-tags/-a")
    found = [
        each
        for each in store.tags()
        if not is_digest_name(each) and split_name(each)[0] == name.repository
    ]
    if not found:
        raise InputError(f"no image of the store has a tag of {name.repository}")
    return sorted(found)


def _tell_begin(name: Reference) -> None:
    if name.tag is None and name.digest is None:
        write_line("Using default tag: latest")
    write_line(f"{name.digest or name.tag or 'latest'}: Pulling from {_remote_path(name)}")


def _remote_path(name: Reference) -> str:
    return name.path if name.host == "docker.io" else f"{name.host}/{name.path}"


def _tell(name: Reference, pulled: Pulled, *, quiet: bool) -> None:
    whole = f"{name.host}/{name.path}"
    whole += f"@{name.digest}" if name.digest else f":{name.tag or 'latest'}"
    if quiet:
        write_line(whole)
        return
    familiar = name.digest_name if name.digest else name.name
    write_line(f"Digest: {pulled.digest}")
    what = "Downloaded newer image" if pulled.is_new else "Image is up to date"
    write_line(f"Status: {what} for {familiar}")
    write_line(whole)


def _row(name: Reference, pulled: Pulled) -> dict[str, object]:
    return {
        "name": name.digest_name if name.digest else name.name,
        "digest": pulled.digest,
        "image_id": pulled.image.image_id,
        "is_new": pulled.is_new,
        "new_bytes": pulled.new_bytes,
        "reused_bytes": pulled.reused_bytes,
        "kept_bytes": pulled.kept_bytes,
    }
