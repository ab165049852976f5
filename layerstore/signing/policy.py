"""Which images may come in: the policy file that podman and skopeo read.

A policy says for a place, a host or a repository what an image from there must have; of all
that match the most specific counts alone. Known requirements: anything goes, nothing goes,
signed by a key (``sigstoreSigned``). What is not understood makes the file invalid, and an
image whose requirement cannot be checked here (GPG, Fulcio, Rekor) is refused, never let in.

Source: containers-policy.json(5).
"""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, NamedTuple

from layerstore.errors import FormatError, LayerstoreError, UnsafeContentError
from layerstore.formats import strict_json
from layerstore.formats._fields import Fields
from layerstore.formats.reference import Reference, ReferenceSyntaxError, parse_reference
from layerstore.signing.claims import decode_claim
from layerstore.signing.keys import PublicKey

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from layerstore.digest import Digest
    from layerstore.signing.attachments import Signature

POLICY_MAX_BYTES = 1 << 20
DOCKER = "docker"
"""The transport of registries."""

_IDENTITIES = {
    "matchExact": (),
    "matchRepoDigestOrExact": (),
    "matchRepository": (),
    "exactReference": ("dockerReference",),
    "exactRepository": ("dockerRepository",),
    "remapIdentity": ("prefix", "signedPrefix"),
}
_KEY_FIELDS = ("keyPath", "keyPaths", "keyData", "keyDatas")
_KEYLESS_FIELDS = ("fulcio", "rekorPublicKeyPath", "rekorPublicKeyData", "pki")


class SignatureRefusedError(UnsafeContentError):
    """The policy does not let this image in."""


class Identity(NamedTuple):
    """What name a signature must be for.

    Attributes:
        kind: ``matchRepoDigestOrExact`` and its like.
        words: What the kind needs: a reference, a repository, or two prefixes.
    """

    kind: str = "matchRepoDigestOrExact"
    words: tuple[str, ...] = ()


class Requirement(NamedTuple):
    """What an image must have.

    Attributes:
        kind: ``insecureAcceptAnything``, ``reject``, ``sigstoreSigned`` or another that is known
            and cannot be checked here.
        keys: Any of which must have signed.
        identity: What they must have signed it as.
        trouble: Why this cannot be checked, empty if it can.
    """

    kind: str
    keys: tuple[PublicKey, ...] = ()
    identity: Identity = Identity()
    trouble: str = ""


class Policy(NamedTuple):
    """Requirements by transport and scope.

    Attributes:
        default: Of what no scope matches.
        transports: By transport, by scope; the scope "" is a transport's own default.
        origin: Where it comes from, for who is refused.
    """

    default: tuple[Requirement, ...]
    transports: Mapping[str, Mapping[str, tuple[Requirement, ...]]]
    origin: str = (
        "the policy is --signature-policy FILE, ~/.config/containers/policy.json or "
        "/etc/containers/policy.json"
    )

    def requirements(self, transport: str, scopes: Sequence[str]) -> tuple[Requirement, ...]:
        """Return what counts for an image.

        Args:
            transport: ``docker``, ``oci``, ``docker-archive``...
            scopes: That the image lies in, the most specific first.
        """
        known = self.transports.get(transport, {})
        for scope in (*scopes, ""):
            if scope in known:
                return known[scope]
        return self.default


ACCEPT_ANYTHING = Policy((Requirement("insecureAcceptAnything"),), {})


class Candidate(NamedTuple):
    """An image that wants to come in.

    Attributes:
        transport: Where from.
        reference: Its name, None if the transport knows none.
        scopes: See :meth:`Policy.requirements`.
        digests: Of its manifest and of the indexes that led to it: a signature of any of them
            is one of the image.
    """

    transport: str
    reference: Reference | None
    scopes: tuple[str, ...]
    digests: tuple[Digest, ...]

    @property
    def name(self) -> str:
        """What messages call it."""
        if self.reference is None:
            return self.digests[0] if self.digests else self.transport
        return _whole(self.reference)


def registry_candidate(reference: Reference, digests: Sequence[Digest]) -> Candidate:
    """Return an image of a registry as a policy sees it."""
    return Candidate(DOCKER, reference, tuple(_registry_scopes(reference)), tuple(digests))


def needs_signatures(policy: Policy, candidate: Candidate) -> bool:
    """Return whether a policy looks at signatures of this image at all."""
    found = policy.requirements(candidate.transport, candidate.scopes)
    return any(each.kind == "sigstoreSigned" for each in found)


def require_allowed(
    policy: Policy, candidate: Candidate, signatures: Callable[[Digest], Sequence[Signature]]
) -> None:
    """Return if a policy lets an image in.

    Args:
        policy: Of the user.
        candidate: The image; its digests are those of the bytes that were read.
        signatures: Of a manifest, unverified. Not asked where none are wanted.

    Raises:
        SignatureRefusedError: It does not; the message says what is missing.
    """
    for requirement in policy.requirements(candidate.transport, candidate.scopes):
        if requirement.kind == "insecureAcceptAnything":
            continue
        why = _why_refused(requirement, candidate, signatures)
        if why:
            raise SignatureRefusedError(f"{candidate.name} is refused: {why}", hint=policy.origin)


def _why_refused(
    requirement: Requirement,
    candidate: Candidate,
    signatures: Callable[[Digest], Sequence[Signature]],
) -> str:
    """Return what an image lacks, empty for nothing."""
    if requirement.kind == "reject":
        return "the policy rejects every image from there"
    if requirement.trouble:
        return requirement.trouble
    troubles: list[str] = []
    for digest in candidate.digests:
        for signature in signatures(digest):
            trouble = _trouble_with(signature, digest, requirement, candidate)
            if not trouble:
                return ""
            troubles.append(trouble)
    return "; ".join(dict.fromkeys(troubles)) or "it has no signature"


def _trouble_with(
    signature: Signature, digest: Digest, requirement: Requirement, candidate: Candidate
) -> str:
    """Return why a signature does not count, empty if it does. Its key is looked at first."""
    if not any(key.verifies(signature.signature, signature.payload) for key in requirement.keys):
        return "a signature is by none of the keys that the policy names"
    try:
        claim = decode_claim(signature.payload)
    except LayerstoreError as err:
        return f"what was signed cannot be read: {err.message}"
    if claim.digest != digest:
        return f"a signature is of {claim.digest}, not of this image"
    if not _is_identity(requirement.identity, claim.reference, candidate.reference):
        return f"a signature is for {claim.reference[:200]!r}, which the policy does not accept"
    return ""


# -- which name was signed


def _is_identity(identity: Identity, signed: str, wanted: Reference | None) -> bool:
    try:
        claimed = parse_reference(signed)
        match identity.kind:
            case "exactReference":
                return _whole(claimed) == _whole(parse_reference(identity.words[0]))
            case "exactRepository":
                return _repository(claimed) == _repository(parse_reference(identity.words[0]))
        if wanted is None:
            return False
        match identity.kind:
            case "matchRepository":
                return _repository(claimed) == _repository(wanted)
            case "matchExact":
                return wanted.digest is None and _whole(claimed) == _whole(wanted)
            case "remapIdentity":
                wanted = _remapped(wanted, *identity.words)
        if wanted.digest is not None and wanted.tag is None:
            return _repository(claimed) == _repository(wanted)
        return _is_tagged(claimed) and _tagged(claimed) == _tagged(wanted)
    except ReferenceSyntaxError:
        return False


def _is_tagged(reference: Reference) -> bool:
    return reference.tag is not None


def _repository(reference: Reference) -> str:
    return f"{reference.host}/{reference.path}"


def _tagged(reference: Reference) -> str:
    return f"{_repository(reference)}:{reference.tag or 'latest'}"


def _whole(reference: Reference) -> str:
    if reference.digest is not None:
        return f"{_repository(reference)}@{reference.digest}"
    return f"{_repository(reference)}:{reference.tag}" if reference.tag else _repository(reference)


def _remapped(reference: Reference, prefix: str, signed_prefix: str) -> Reference:
    name = _repository(reference)
    if name != prefix and not name.startswith(f"{prefix}/"):
        return reference
    renamed = parse_reference(signed_prefix + name.removeprefix(prefix))
    return renamed._replace(tag=reference.tag, digest=reference.digest)


def _registry_scopes(reference: Reference) -> Iterator[str]:
    if reference.digest is not None:
        yield f"{_repository(reference)}@{reference.digest}"
    else:
        yield _tagged(reference)
    scope = _repository(reference)
    while scope:
        yield scope
        scope = scope.rpartition("/")[0]
    labels = reference.host.partition(":")[0].split(".")
    for above in range(1, len(labels)):
        yield "*." + ".".join(labels[above:])


# -- the file


def decode_policy(raw: bytes, where: str, read_key: Callable[[str], bytes]) -> Policy:
    """Return the policy in a file.

    Args:
        raw: Its bytes.
        where: What messages call it.
        read_key: Reads the key file of a path.

    Raises:
        FormatError: Not a policy, or one with something in it that is not understood.
        LayerstoreError: A key cannot be read.
    """
    fields = Fields(strict_json.decode(raw, where, limit_bytes=POLICY_MAX_BYTES), where)
    default = _requirements(fields.items("default"), f"{where}.default", read_key)
    transports = {
        transport: {
            scope: _requirements(items, f"{where}.transports.{transport}[{scope!r}]", read_key)
            for scope, items in Fields(scopes, where).rest().items()
        }
        for transport, scopes in fields.members("transports").items()
    }
    _refuse_unknown(fields)
    return Policy(default, transports)


def _requirements(
    value: object, where: str, read_key: Callable[[str], bytes]
) -> tuple[Requirement, ...]:
    if not isinstance(value, list) or not value:
        raise FormatError(
            f"{where} is no list of requirements", hint='[{"type": "insecureAcceptAnything"}]'
        )
    return tuple(_requirement(item, f"{where}[{n}]", read_key) for n, item in enumerate(value))


def _requirement(value: object, where: str, read_key: Callable[[str], bytes]) -> Requirement:
    fields = Fields(value, where)
    kind = fields.required_text("type")
    match kind:
        case "insecureAcceptAnything" | "reject":
            _refuse_unknown(fields)
            return Requirement(kind)
        case "sigstoreSigned":
            return _sigstore_signed(fields, where, read_key)
        case "signedBy" | "signedBaseLayer":
            return Requirement(kind, trouble=f"{kind} wants GPG, which is not checked here")
        case _:
            raise FormatError(f"{where}.type is {kind[:100]!r}, which is no requirement")


def _sigstore_signed(fields: Fields, where: str, read_key: Callable[[str], bytes]) -> Requirement:
    keyless = [name for name in _KEYLESS_FIELDS if fields.present(name)]
    if keyless:
        trouble = f"sigstoreSigned with {keyless[0]} is not checked here, only with keys"
        return Requirement("sigstoreSigned", trouble=trouble)
    given = [name for name in _KEY_FIELDS if fields.present(name)]
    if len(given) != 1:
        raise FormatError(f"{where} must have one of {', '.join(_KEY_FIELDS)}")
    paths = fields.words("keyPath" if given[0] == "keyPath" else "keyPaths") or ()
    embedded = fields.words("keyData" if given[0] == "keyData" else "keyDatas") or ()
    keys = [PublicKey(read_key(path), path) for path in paths]
    keys += [PublicKey(_embedded(text, where), f"{where}.{given[0]}") for text in embedded]
    identity = fields.part("signedIdentity", _identity) or Identity()
    _refuse_unknown(fields)
    return Requirement("sigstoreSigned", tuple(keys), identity)


def _embedded(text: str, where: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as err:
        raise FormatError(f"{where}: a key in it is not base64") from err


def _identity(value: object, where: str) -> Identity:
    fields = Fields(value, where)
    kind = fields.required_text("type")
    names = _IDENTITIES.get(kind)
    if names is None:
        raise FormatError(f"{where}.type is {kind[:100]!r}, which is no way to match identities")
    words = tuple(fields.required_text(name) for name in names)
    _refuse_unknown(fields)
    return Identity(kind, words)


def _refuse_unknown(fields: Fields) -> None:
    unknown = sorted(fields.rest())
    if unknown:
        raise FormatError(f"{fields.where}.{unknown[0][:100]} is not understood")
