"""``copy``, from place to place past the store, and ``referrers``, what belongs to an image."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from layerstore.cli.common import Json, Quiet  # noqa: TC001 - typer reads them
from layerstore.cli.output import write_json, write_line
from layerstore.cli.progress import terminal_progress
from layerstore.cli.transfer.registries import TlsVerify  # noqa: TC001 - typer reads it
from layerstore.cli.transfer.signatures import (  # noqa: TC001 - typer reads them
    PassphraseFile,
    PolicyFile,
    SignKey,
)
from layerstore.errors import InputError, StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from layerstore.cli.transfer.transports import Place
    from layerstore.formats import oci
    from layerstore.formats.oci import Platform as OciPlatform
    from layerstore.image.exchange.copying import Copied

Platform = Annotated[
    str,
    typer.Option(
        "--platform", metavar="OS/ARCH[/VARIANT]", help="Of several images; this host's by default."
    ),
]
DigestFile = Annotated[
    Path | None,
    typer.Option("--digestfile", metavar="FILE", help="Write the manifest's digest to a file."),
]


def register(app: typer.Typer) -> None:
    """Add this noun's commands."""
    app.command("copy")(copy)
    app.command("referrers")(referrers)


def copy(
    source: Annotated[str, typer.Argument(metavar="FROM", help="Where the image is.")],
    target: Annotated[str, typer.Argument(metavar="TO", help="Where it goes.")],
    *,
    platform: Platform = "",
    every: Annotated[
        bool,
        typer.Option(
            "--all", "-a", "--all-platforms", help="All platforms of an index, and the index."
        ),
    ] = False,
    with_referrers: Annotated[
        bool,
        typer.Option(
            "--referrers", help="Copy what refers to the image, too: signatures, attestations."
        ),
    ] = False,
    digestfile: DigestFile = None,
    tls_verify: TlsVerify = None,
    policy_file: PolicyFile = None,
    sign_key: SignKey = None,
    passphrase_file: PassphraseFile = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Copy an image from one place to another, byte for byte, without storing it.

    Places are docker://NAME (or NAME alone), oci:DIR[:TAG], oci-archive:FILE[:TAG],
    docker-daemon:NAME, containers-storage:NAME (podman's, by its socket), and, to copy from,
    docker-archive:FILE.
    """
    from functools import partial

    from layerstore.cli.transfer.registries import registry_client
    from layerstore.cli.transfer.signatures import attach_signature, policy_gate, signing_key
    from layerstore.cli.transfer.transports import destination, open_source, parse_place
    from layerstore.image.exchange.copying import PARALLEL, Copier
    from layerstore.image.exchange.registry_places import RegistrySource
    from layerstore.registry.referrers import attached_tags

    if every and platform:
        raise InputError("--all and --platform exclude each other")
    here, there = parse_place(source), parse_place(target)
    if with_referrers and here.transport != "docker":
        raise InputError(f"only a registry can be asked what refers to an image, not {here.text}")
    gate = policy_gate(policy_file)
    key = signing_key(sign_key, passphrase_file) if sign_key is not None else None
    with (
        contextlib.ExitStack() as stack,
        registry_client(tls_verify) as client,
        terminal_progress(quiet=quiet) as progress,
    ):
        from_, reference = open_source(here, client, progress, stack)
        to = stack.enter_context(destination(there, client, progress, here))
        # Files are written one after the other.
        parallel = PARALLEL if there.transport == "docker" else 1
        copier = Copier(from_, to, progress, parallel)
        # A policy of images that are not a registry's would go by their paths.
        permit = partial(gate, here.name, from_) if here.name is not None else lambda _: None
        serves = None if every else serving(platform)
        copied = copier.copy(reference, there.reference, serves, permit)
        taken: Sequence[str] = ()
        if with_referrers and isinstance(from_, RegistrySource):
            taken = copier.copy_referrers(from_.referrers, attached_tags)
        if key is not None and there.name is not None:
            there_again = RegistrySource(client.repository(there.name).without_mirrors())
            attach_signature(there.name, copied.digest, there_again, to, key)
    write_digest(digestfile, copied.digest)
    if as_json:
        write_json(_row(here, there, copied) | {"referrers": list(taken)})
    elif not quiet:
        write_line(copied.digest)


def _row(here: Place, there: Place, copied: Copied) -> dict[str, object]:
    return {
        "source": here.text,
        "target": there.text,
        "digest": copied.digest,
        "blobs_sent": copied.blobs,
        "bytes_sent": copied.sent_bytes,
    }


def referrers(
    image: Annotated[str, typer.Argument(metavar="NAME", help="An image of a registry.")],
    *,
    artifact_type: Annotated[
        str, typer.Option("--artifact-type", metavar="TYPE", help="Only artefacts of this type.")
    ] = "",
    platform: Platform = "",
    tls_verify: TlsVerify = None,
    as_json: Json = False,
) -> None:
    """List what refers to an image in its registry: signatures, attestations, other artefacts.

    Of an index, what refers to the index; --platform asks for one of its images. Copy one of
    them, or look into it, by its digest: layerstore copy NAME@DIGEST oci:DIR.
    """
    from layerstore.cli.transfer.registries import registry_client
    from layerstore.cli.transfer.transports import named_reference
    from layerstore.formats.reference import DEFAULT_TAG
    from layerstore.image.exchange.copying import chosen_documents
    from layerstore.image.exchange.registry_places import RegistrySource

    name = named_reference(image)
    with registry_client(tls_verify) as client:
        source = RegistrySource(client.repository(name))
        document = source.document(name.digest or name.tag or DEFAULT_TAG)
        if platform:
            document = chosen_documents(source, document, serving(platform))[0]
        found = source.referrers(document.digest, artifact_type)
    _print_referrers(document.digest, found, as_json=as_json)


def _print_referrers(subject: str, found: Sequence[oci.Descriptor], *, as_json: bool) -> None:
    from layerstore.cli.output import write_table
    from layerstore.registry.referrers import artifact_type_of
    from layerstore.units import format_size

    if as_json:
        rows = [
            {
                "digest": each.digest,
                "media_type": each.media_type,
                "artifact_type": artifact_type_of(each),
                "size": each.size,
                "annotations": dict(each.annotations),
            }
            for each in found
        ]
        write_json({"subject": subject, "referrers": rows})
        return
    write_table(
        ["DIGEST", "TYPE", "SIZE"],
        [[each.digest, artifact_type_of(each) or "-", format_size(each.size)] for each in found],
    )


def serving(platform: str) -> Callable[[OciPlatform], bool]:
    """Return what tells whether an image is for a platform; for this host's if none is named.

    Raises:
        InputError: Not a platform.
    """
    from layerstore.build.platforms import native_platform, normalized, platform_of

    native = native_platform()
    wanted = platform_of(platform, native) if platform else native

    def serves(offered: OciPlatform) -> bool:
        found = normalized(offered.os, offered.architecture, offered.variant)
        return found.serves(wanted)

    return serves


def write_digest(path: Path | None, digest: str) -> None:
    """Write a manifest's digest where somebody wants it.

    Raises:
        StorageError: The file cannot be written.
    """
    if path is None:
        return
    try:
        path.write_text(digest)
    except OSError as err:
        raise StorageError(f"{path} cannot be written: {err.strerror}") from err
