"""Commands about signatures of images, and the options of those that sign or want signatures."""

from __future__ import annotations

import contextlib
import getpass
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from layerstore.cli.common import Json, Quiet  # noqa: TC001 - typer reads them
from layerstore.cli.output import write_json, write_line
from layerstore.cli.transfer.registries import TlsVerify, registry_client
from layerstore.errors import (
    ConflictError,
    InputError,
    LimitExceededError,
    NotFoundError,
    StorageError,
)
from layerstore.linux.files import fsync_directory, write_all

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from layerstore.digest import Digest
    from layerstore.formats.reference import Reference
    from layerstore.image.exchange.exchange import ImageDestination, ImageSource
    from layerstore.signing.keys import PrivateKey
    from layerstore.signing.policy import Policy

    Gate = Callable[[Reference, ImageSource, Sequence[Digest]], None]
    """Returns if an image of a registry may come in: its name there, where to look for
    signatures, digests of its manifest and of what led to it."""

PASSWORD_VARIABLE = "COSIGN_PASSWORD"  # noqa: S105 - the variable's name, which is cosign's

PolicyFile = Annotated[
    Path | None,
    typer.Option(
        "--signature-policy",
        metavar="FILE",
        help="Which images may come in (containers-policy.json(5)); by default "
        "~/.config/containers/policy.json or /etc/containers/policy.json.",
    ),
]
SignKey = Annotated[
    Path | None,
    typer.Option(
        "--sign-by-sigstore-private-key",
        metavar="FILE",
        help="Sign the image there with this key.",
    ),
]
PassphraseFile = Annotated[
    Path | None,
    typer.Option(
        "--sign-passphrase-file",
        metavar="FILE",
        help="Holds the key's passphrase; else $COSIGN_PASSWORD, else it is asked for.",
    ),
]
_Name = Annotated[
    str, typer.Argument(metavar="NAME", help="An image of a registry: HOST/REPOSITORY:TAG.")
]


def register(app: typer.Typer) -> None:
    """Add this noun's commands."""
    app.command("generate-key-pair")(generate)
    app.command("sign")(sign)
    app.command("verify")(verify)


def generate(
    prefix: Annotated[
        str,
        typer.Option(
            "--output-key-prefix", metavar="PREFIX", help="Files are PREFIX.key and PREFIX.pub."
        ),
    ] = "layerstore",
    *,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Make a key to sign images with, as cosign's; the private half is sealed."""
    from layerstore.signing.keys import generate_key_pair

    private, public = generate_key_pair(_passphrase(passphrase_file, is_new=True))
    for suffix, mode, raw in ((".key", 0o600, private), (".pub", 0o644, public)):
        _write_new(Path(prefix + suffix), mode, raw)
    write_line(f"Private key written to {prefix}.key")
    write_line(f"Public key written to {prefix}.pub")


def sign(
    name: _Name,
    *,
    key: Annotated[Path, typer.Option("--key", metavar="FILE", help="The private key.")],
    passphrase_file: PassphraseFile = None,
    tls_verify: TlsVerify = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Sign an image of a registry: what its name means now."""
    from layerstore.cli.transfer.transports import named_reference
    from layerstore.image.exchange.registry_places import RegistryDestination, RegistrySource

    reference = named_reference(name)
    private = signing_key(key, passphrase_file)
    with registry_client(tls_verify) as client:
        repository = client.repository(reference).without_mirrors()
        source = RegistrySource(repository)
        digest = source.document(reference.digest or reference.tag or "").digest
        attach_signature(reference, digest, source, RegistryDestination(repository), private)
    _tell("signed", name, digest, quiet=quiet, as_json=as_json)


def verify(
    name: _Name,
    *,
    key: Annotated[
        Path | None, typer.Option("--key", metavar="FILE", help="The public key that must have.")
    ] = None,
    policy_file: PolicyFile = None,
    tls_verify: TlsVerify = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Say whether an image of a registry is signed, by a key or as the policy wants it."""
    from layerstore.cli.transfer.transports import named_reference
    from layerstore.image.exchange.registry_places import RegistrySource

    if key is not None and policy_file is not None:
        raise InputError("--key and --signature-policy exclude each other")
    reference = named_reference(name)
    gate = _key_gate(key) if key is not None else policy_gate(policy_file)
    with registry_client(tls_verify) as client:
        source = RegistrySource(client.repository(reference))
        digest = source.document(reference.digest or reference.tag or "").digest
        gate(reference, source, [digest])
    _tell("verified", name, digest, quiet=quiet, as_json=as_json)


# -- what other commands use


def policy_gate(path: Path | None) -> Gate:
    """Return what lets images in as the policy says: everything where there is no policy.

    Raises:
        FormatError: The policy cannot be understood.
        NotFoundError: ``path`` or a key that the policy names is not there.
    """
    return _gate(_policy(path))


def parts_gate(path: Path | None) -> Gate:
    """Return what lets images be shown in parts as the policy says; those it wants signed, never.

    A signature is of manifest, config and whole layers. What is in a layer before all of it is
    here is said by the image's parcels alone, which anybody may replace who may push.

    Raises:
        FormatError: The policy cannot be understood.
        NotFoundError: ``path`` or a key that the policy names is not there.
    """
    from layerstore.signing.policy import (
        SignatureRefusedError,
        needs_signatures,
        registry_candidate,
    )

    policy = _policy(path)
    gate = _gate(policy)

    def check(reference: Reference, source: ImageSource, digests: Sequence[Digest]) -> None:
        gate(reference, source, digests)
        candidate = registry_candidate(reference, digests)
        if needs_signatures(policy, candidate):
            raise SignatureRefusedError(
                f"{candidate.name} is not shown in parts: the policy wants it signed, and no "
                "signature covers its parcels",
                hint="pull it: whole layers are compared with what was signed",
            )

    return check


def signing_key(path: Path, passphrase_file: Path | None) -> PrivateKey:
    """Return the private key in a file.

    Raises:
        NotFoundError: No such file.
        InputError: The passphrase is wrong, or there is nobody to ask for it.
    """
    from layerstore.signing.keys import PrivateKey

    return PrivateKey(_read(path), str(path), lambda: _passphrase(passphrase_file))


def attach_signature(
    reference: Reference,
    digest: Digest,
    source: ImageSource,
    destination: ImageDestination,
    key: PrivateKey,
) -> None:
    """Sign a manifest that a registry has, under the name that it has there."""
    import time
    from importlib import metadata

    from layerstore.signing.attachments import sign as attach
    from layerstore.signing.claims import Claim

    tag = f":{reference.tag or 'latest'}" if reference.digest is None else ""
    claim = Claim(
        digest,
        f"{reference.host}/{reference.path}{tag}",
        f"layerstore {metadata.version('layerstore')}",
        int(os.environ.get("SOURCE_DATE_EPOCH") or time.time()),
    )
    attach(source, destination, claim, key)


def _policy(path: Path | None) -> Policy:
    from layerstore.signing.policy import ACCEPT_ANYTHING, decode_policy

    found = path or _default_policy()
    if found is None:
        return ACCEPT_ANYTHING
    return decode_policy(_read(found), str(found), lambda name: _read(Path(name)))


def _gate(policy: Policy) -> Gate:
    from layerstore.signing.attachments import read_signatures
    from layerstore.signing.policy import registry_candidate, require_allowed

    def check(reference: Reference, source: ImageSource, digests: Sequence[Digest]) -> None:
        candidate = registry_candidate(reference, digests)
        require_allowed(policy, candidate, lambda digest: read_signatures(source, digest))

    return check


def _key_gate(path: Path) -> Gate:
    """Return what lets in what a key has signed under any tag of its repository."""
    from layerstore.signing.keys import PublicKey
    from layerstore.signing.policy import Identity, Policy, Requirement

    key = PublicKey(_read(path), str(path))
    wanted = Requirement("sigstoreSigned", (key,), Identity("matchRepository"))
    origin = f"wanted is a signature by the key {path}, of any tag of the repository"
    return _gate(Policy((wanted,), {}, origin))


def _default_policy() -> Path | None:
    home = os.environ.get("HOME", "")
    places = [Path(home) / ".config/containers/policy.json"] if os.path.isabs(home) else []
    for place in (*places, Path("/etc/containers/policy.json")):
        try:
            os.lstat(place)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError:
            pass  # one that cannot be read is an error, which reading it tells, and not none
        return place
    return None


def _read(path: Path) -> bytes:
    from layerstore.signing.policy import POLICY_MAX_BYTES

    try:
        with path.open("rb") as file:
            raw = file.read(POLICY_MAX_BYTES + 1)
    except FileNotFoundError as err:
        raise NotFoundError(f"{path} does not exist") from err
    except OSError as err:
        raise StorageError(f"{path} cannot be read: {err.strerror}") from err
    if len(raw) > POLICY_MAX_BYTES:
        raise LimitExceededError(f"{path} has more than {POLICY_MAX_BYTES} bytes")
    return raw


def _passphrase(path: Path | None, *, is_new: bool = False) -> bytes:
    if path is not None:
        return _read(path).rstrip(b"\r\n")
    given = os.environ.get(PASSWORD_VARIABLE)
    if given is not None:
        return os.fsencode(given)
    if not sys.stdin.isatty():
        raise InputError(
            "the key has a passphrase, and stdin is no terminal to ask at",
            hint=f"--sign-passphrase-file FILE, or {PASSWORD_VARIABLE} in the environment",
        )
    given = getpass.getpass("Passphrase of the key: ", sys.stderr)
    if is_new and getpass.getpass("Again: ", sys.stderr) != given:
        raise InputError("the two passphrases differ")
    return given.encode()


def _write_new(path: Path, mode: int, raw: bytes) -> None:
    """Write a key where nothing is: a key that is lost cannot be made again."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    except FileExistsError as err:
        raise ConflictError(
            f"{path} exists and is not replaced", hint="choose another --output-key-prefix"
        ) from err
    except OSError as err:
        raise StorageError(f"{path} cannot be written: {err.strerror}") from err
    with contextlib.closing(os.fdopen(fd, "wb")):
        write_all(fd, raw)
        os.fsync(fd)
    fsync_directory(str(path.parent))


def _tell(what: str, name: str, digest: Digest, *, quiet: bool, as_json: bool) -> None:
    if as_json:
        write_json({"image": name, "digest": digest, "result": what})
    elif quiet:
        write_line(digest)
    else:
        write_line(f"{what.capitalize()}: {name} is {digest}")
