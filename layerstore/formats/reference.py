"""Names of images: ``[host[:port]/]path[:tag][@digest]``.

A name is parsed once, here, and stored in docker's familiar form:
``docker.io/library/debian`` and ``debian`` are one name. Pure, and imported by
the commands that runtimes call in loops, so nothing heavy is imported.

Source: the grammar of the distribution project's ``reference`` package; OCI
distribution spec, "Pulling manifests".
"""

from __future__ import annotations

from layerstore.digest import Digest, parse_digest
from layerstore.errors import FormatError, InputError
from layerstore.light_re import DIGITS, HEX, LETTERS, LOWER, Pattern, only
from layerstore.light_typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

DEFAULT_HOST = "docker.io"
DEFAULT_TAG = "latest"
MAX_NAME_CHARACTERS = 255
"""Host and path together (the distribution project's ``NameTotalLengthMax``)."""

NAMES_SHOWN = 3
"""Of an image in a table; JSON has all of them."""

BETWEEN_NAMES = ", "
"""Where one text tells several names of an image; no name has it."""

PREFIX_MIN_HEX = 4
"""Digits that the beginning of an id has at least."""

_DEFAULT_HOSTS = (DEFAULT_HOST, "index.docker.io", "registry-1.docker.io")
_LABEL = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_HOST = Pattern(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9a-fA-F:]+\])(?::[0-9]{{1,5}})?")
_COMPONENT = Pattern(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*")
_TAG_MAX = 128
_ID_HEX = 64
_WORD = LETTERS + DIGITS + "_"


class ReferenceSyntaxError(InputError):
    """What was given cannot be the name of an image."""


class Reference(NamedTuple):
    """A parsed name.

    Attributes:
        host: Registry, with its port; ``docker.io`` when none was written.
        path: Repository on that host; ``library/debian`` for ``debian``.
        tag: None when none was written.
        digest: Of a manifest; None when none was written.
    """

    host: str
    path: str
    tag: str | None
    digest: Digest | None

    @property
    def repository(self) -> str:
        """Host and path as people write them: ``debian``, ``quay.io/a/b``."""
        if self.host != DEFAULT_HOST:
            return f"{self.host}/{self.path}"
        short = self.path.removeprefix("library/")
        # Read again, these would mean something else.
        return self.path if "/" in short or _is_hex_id(short) else short

    @property
    def digest_name(self) -> str:
        """Repository and digest, whatever tag was written; a digest must have been."""
        return f"{self.repository}@{self.digest}"

    @property
    def name(self) -> str:
        """Repository and tag as people write them, with ``latest`` when no tag was given."""
        return f"{self.repository}:{self.tag or DEFAULT_TAG}"


def _is_plain(component: str) -> bool:
    """Tell at once of most components that they are some; of others it takes a pattern."""
    return bool(component) and only(component, LOWER + DIGITS)


def _is_hex_id(text: str) -> bool:
    return len(text) == _ID_HEX and only(text, HEX)


def parse_reference(text: str) -> Reference:
    """Return the parts of a name.

    Raises:
        ReferenceSyntaxError: Not a name; the message says which part is wrong.
    """
    rest, at, digest_text = text.partition("@")
    digest = _digest(text, digest_text) if at else None
    rest, tag = _split_tag(rest)
    host, path = _split_host(rest)
    if len(rest) > MAX_NAME_CHARACTERS:
        raise _wrong(text, f"it has {len(rest)} characters, at most {MAX_NAME_CHARACTERS} are")
    if host != DEFAULT_HOST and not _HOST.fullmatch(host):
        raise _wrong(text, f"{_short(host)} is not a host name")
    for component in path.split("/"):
        if not (_is_plain(component) or _COMPONENT.fullmatch(component)):
            raise _wrong(text, _component_trouble(component))
    if host == DEFAULT_HOST and "/" in path and _is_host(path.partition("/")[0]):
        raise _wrong(text, f"{_short(path)} on {host} would be stored like that on another host")
    if tag is not None and not is_tag(tag):
        raise _wrong(text, f"{_short(tag)} is not a tag (letters, digits, _ . -; at most 128)")
    if host == DEFAULT_HOST and _is_hex_id(path):
        raise _wrong(text, "64 hex digits are an image id, not a name")
    if host == DEFAULT_HOST and "/" not in path:
        path = f"library/{path}"
    return Reference(host, path, tag, digest)


def is_tag(text: str) -> bool:
    """Return whether a text can be a tag."""
    return 1 <= len(text) <= _TAG_MAX and text[0] in _WORD and only(text, _WORD + ".-")


def parse_tag_name(text: str) -> str:
    """Return the familiar ``repository:tag`` under which an image is to be stored.

    Raises:
        ReferenceSyntaxError: Not a name, or one with a digest, which nobody can choose.
    """
    reference = parse_reference(text)
    if reference.digest is not None:
        raise _wrong(text, "a digest cannot be given to an image")
    return reference.name


def parse_stored_name(text: str) -> str:
    """Return the familiar name under which a store lists an image: with a tag, or a digest.

    Raises:
        ReferenceSyntaxError: Not a name.
    """
    reference = parse_reference(text)
    return reference.name if reference.digest is None else reference.digest_name


def is_digest_name(name: str) -> bool:
    """Tell whether a stored name is that of a repository and a digest, with a tag or without."""
    return "@" in name


def is_index_name(name: str) -> bool:
    """Tell whether a stored name says what the index under a tag has: ``web:1@sha256:...``."""
    before, at, _ = name.partition("@")
    return bool(at) and ":" in before.rpartition("/")[2]


def without_index_names(names: Iterable[str]) -> list[str]:
    """Return an image's names as people know them; what indexes call it if it has no others."""
    listed = list(names)
    return [name for name in listed if not is_index_name(name)] or listed


def told_names(names: Iterable[str]) -> list[str]:
    """Return those of an image's names that tables have room for: its tags, all if it has none."""
    listed = list(names)
    return [name for name in listed if not is_digest_name(name)] or listed


def names_in_cell(names: Iterable[str]) -> str:
    """Return what of an image's names one cell of a table says: the first few, how many more.

    An image that every build tags anew has hundreds, and the column is as wide as its widest cell.
    """
    told = told_names(names)
    more = len(told) - NAMES_SHOWN
    shown = BETWEEN_NAMES.join(told[:NAMES_SHOWN])
    return f"{shown} and {more} more" if more > 0 else shown


def shortened_names(told: str) -> str:
    """Return names that one text tells as a cell says them."""
    return names_in_cell(told.split(BETWEEN_NAMES))


def names_that_go(names: Iterable[str], of_image: Collection[str]) -> list[str]:
    """Return names of an image that go when some do: with a repository's last tag its digests.

    With a tag goes what says of its index that the image is in it.

    Args:
        names: That are to go.
        of_image: All stored names of the image.
    """
    going = list(dict.fromkeys(names))
    staying = {split_name(n)[0] for n in of_image if n not in going and not is_digest_name(n)}
    gone = {split_name(n)[0] for n in going if not is_digest_name(n)} - staying
    for name in of_image:
        before, at, _ = name.partition("@")
        if at and name not in going and before in (going if is_index_name(name) else gone):
            going.append(name)
    return going


def full_name(text: str) -> str:
    """Return a name with everything that a familiar one leaves out: ``docker.io/library/a:1``.

    Raises:
        ReferenceSyntaxError: Not a name.
    """
    reference = parse_reference(text)
    return f"{reference.host}/{reference.path}:{reference.tag}"


def lookup_form(text: str) -> str:
    """Return what to ask a store for: an id or its beginning as it is, a name as it is stored.

    Raises:
        ReferenceSyntaxError: Neither an id nor a name.
    """
    if may_be_id(text):
        return text
    return parse_stored_name(text)


def is_id(form: str) -> bool:
    """Tell whether a lookup form is an id or its beginning, even if a name could be called so."""
    return form.startswith("sha256:") or _is_hex_id(form)


def may_be_id(form: str) -> bool:
    """Tell whether a lookup form is the beginning of an id if it is not a name."""
    digits = form.removeprefix("sha256:")
    return PREFIX_MIN_HEX <= len(digits) <= _ID_HEX and only(digits, HEX)


def split_name(name: str) -> tuple[str, str]:
    """Return repository and tag of a stored familiar name; the tag is "" where it has a digest."""
    before, at, _ = name.partition("@")
    if at and not is_index_name(name):
        return before, ""
    repository, _, tag = before.rpartition(":")
    return repository, "" if at else tag


def _digest(text: str, digest: str) -> Digest:
    if "@" in digest or "/" in digest:
        shown = "***@" + text.rpartition("@")[2]  # never repeat a secret
        raise _wrong(shown, "credentials do not belong into a name")
    try:
        return parse_digest(digest)
    except FormatError as err:
        raise _wrong(text, err.message) from err


def _split_tag(rest: str) -> tuple[str, str | None]:
    # A colon before a slash is a port: host:5000/path.
    head, slash, last = rest.rpartition("/")
    last, colon, tag = last.partition(":")
    return head + slash + last, tag if colon else None


def _split_host(rest: str) -> tuple[str, str]:
    first, slash, path = rest.partition("/")
    if not slash or not _is_host(first):
        return DEFAULT_HOST, rest
    return (DEFAULT_HOST if first in _DEFAULT_HOSTS else first), path


def _is_host(first: str) -> bool:
    return "." in first or ":" in first or first == "localhost" or first != first.lower()


def _component_trouble(component: str) -> str:
    if not component:
        return "a part of it is empty"
    if component != component.lower():
        return f"{_short(component)} has upper-case letters"
    return f"{_short(component)} holds more than lower-case letters, digits and single . _ -"


def _short(part: str) -> str:
    return ascii(part if len(part) <= 64 else part[:61] + "...")


def _wrong(text: str, why: str) -> ReferenceSyntaxError:
    return ReferenceSyntaxError(
        f"{_short(text)} is not an image name: {why}",
        hint="write [host/]path[:tag], for example debian:bookworm or quay.io/team/app:1",
    )
