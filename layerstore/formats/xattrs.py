"""Extended attributes as layers carry them: which names may pass, and how values must look.

Source: xattr(7); linux/capability.h for security.capability; linux/posix_acl_xattr.h and
acl(5) for ACLs.
"""

from __future__ import annotations

import struct
from typing import Final

from layerstore.errors import FormatError
from layerstore.formats.tree import NAME_MAX_BYTES

ACL_NAMES: Final = (b"system.posix_acl_access", b"system.posix_acl_default")
OVERLAY_PREFIXES: Final = (b"trusted.overlay.", b"user.overlay.")
"""overlayfs's notes to itself: from an image they would steer the host's overlay mounts."""
_NAMESPACES: Final = (b"user.", b"security.", b"trusted.")

_CAPABILITY_BYTES = {0x01: 12, 0x02: 20, 0x03: 24}
_CAPABILITY_EFFECTIVE = 0x000001

_ACL_VERSION = 2
_ACL_ENTRY = struct.Struct("<HHI")
_NO_ID = 0xFFFF_FFFF
_USER_OBJ, _USER, _GROUP_OBJ, _GROUP, _MASK, _OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
_ACL_TAGS = {b"user": _USER, b"group": _GROUP, b"mask": _MASK, b"other": _OTHER}
_ACL_TAGS_SHORT = {b"u": _USER, b"g": _GROUP, b"m": _MASK, b"o": _OTHER}
_OBJECT_TAGS = {_USER: _USER_OBJ, _GROUP: _GROUP_OBJ, _MASK: _MASK, _OTHER: _OTHER}


def is_kept(name: bytes) -> bool:
    """Tell whether a layer keeps this attribute (of a well-formed name)."""
    if name.startswith(OVERLAY_PREFIXES):
        return False
    return name.startswith(_NAMESPACES) or name in ACL_NAMES


def check_xattr(name: bytes, value: bytes) -> bool:
    """Tell whether an attribute found in an archive is kept, having checked it.

    Raises:
        FormatError: A name without a namespace we know, not UTF-8, with a NUL or too
            long; a capability or ACL that the kernel would not take.
    """
    if not name or b"\0" in name or len(name) > NAME_MAX_BYTES:
        raise FormatError(f"xattr name {name[:100]!r} is empty, too long or has a NUL")
    try:
        name.decode()
    except UnicodeDecodeError as err:
        raise FormatError(f"xattr name {name[:100]!r} is not UTF-8") from err
    if name.startswith(OVERLAY_PREFIXES):
        return False
    if not is_kept(name) or name in _NAMESPACES:
        raise FormatError(f"xattr {name[:100]!r} is in no namespace that images may use")
    if name == b"security.capability":
        _check_capability(value)
    elif name in ACL_NAMES:
        _check_acl(name, value)
    return True


def _check_capability(value: bytes) -> None:
    magic = int.from_bytes(value[:4], "little")
    revision, flags = magic >> 24, magic & 0xFF_FFFF
    if _CAPABILITY_BYTES.get(revision) != len(value) or flags & ~_CAPABILITY_EFFECTIVE:
        raise FormatError(f"security.capability {value[:32].hex()} is malformed")


def _check_acl(name: bytes, value: bytes) -> None:
    body = value[4:]
    if int.from_bytes(value[:4], "little") != _ACL_VERSION or len(value) < 4:
        raise FormatError(f"{name.decode()} is not an ACL of version {_ACL_VERSION}")
    if len(body) % _ACL_ENTRY.size:
        raise FormatError(f"{name.decode()} has {len(body)} bytes of entries")
    before = (0, -1)
    seen = set()
    for tag, permissions, identity in _ACL_ENTRY.iter_unpack(body):
        named = tag in (_USER, _GROUP)
        place = (tag, identity if named else -1)
        if (
            tag not in (_USER_OBJ, _USER, _GROUP_OBJ, _GROUP, _MASK, _OTHER)
            or permissions > 7
            or place <= before
            or (named and identity == _NO_ID)
        ):
            raise FormatError(f"{name.decode()} has a bad entry {tag:#x}:{permissions}:{identity}")
        before = place
        seen.add(tag)
    if body and not _is_complete(seen):
        raise FormatError(f"{name.decode()} lacks an owner, group, other or mask entry")


def _is_complete(tags: set[int]) -> bool:
    needed = {_USER_OBJ, _GROUP_OBJ, _OTHER}
    if tags & {_USER, _GROUP}:
        needed.add(_MASK)
    return needed <= tags


def without_minimal_acl(
    xattrs: tuple[tuple[bytes, bytes], ...], mode: int
) -> tuple[tuple[bytes, bytes], ...]:
    """Leave out an access ACL that says no more than the mode, as the kernel does.

    Raises:
        FormatError: Such an ACL contradicts the mode.
    """
    for pair in xattrs:
        name, value = pair
        if name != ACL_NAMES[0] or len(value) > 4 + 3 * _ACL_ENTRY.size:
            continue
        bits = [permissions for _, permissions, _ in _ACL_ENTRY.iter_unpack(value[4:])]
        if bits and bits != [(mode >> 6) & 7, (mode >> 3) & 7, mode & 7]:
            raise FormatError(f"ACL contradicts the mode {mode:o}")
        return tuple(other for other in xattrs if other is not pair)
    return xattrs


def acl_from_text(text: bytes) -> bytes:
    """Return the kernel's form of an ACL in text with numeric ids, as GNU tar and star write.

    Entries are ``tag:qualifier:rwx`` with an optional numeric id in a fourth field,
    separated by commas or newlines.

    Raises:
        FormatError: Not such a text, or a user or group named without a number.
    """
    entries = []
    for part in text.replace(b"\n", b",").split(b","):
        part = part.partition(b"#")[0].strip(b" \t\0")
        if part:
            entries.append(_acl_entry(part))
    entries.sort(key=lambda entry: (entry[0], entry[2]))
    packed = b"".join(_ACL_ENTRY.pack(*entry) for entry in entries)
    value = struct.pack("<I", _ACL_VERSION) + packed
    _check_acl(ACL_NAMES[0], value)
    return value


def _acl_entry(part: bytes) -> tuple[int, int, int]:
    fields = part.split(b":")
    tag = _ACL_TAGS.get(fields[0]) or _ACL_TAGS_SHORT.get(fields[0])
    if tag is not None and tag in (_MASK, _OTHER) and len(fields) == 2:
        fields.insert(1, b"")  # star leaves the empty qualifier out
    if tag is None or not 3 <= len(fields) <= 4:
        raise FormatError(f"ACL entry {part[:100]!r} is malformed")
    qualifier, permissions = fields[1], fields[2]
    if len(fields) == 4 and fields[3]:
        qualifier = fields[3]
    bits = _acl_permissions(permissions, part)
    if not qualifier:
        return _OBJECT_TAGS[tag], bits, _NO_ID
    if tag in (_MASK, _OTHER):
        raise FormatError(f"ACL entry {part[:100]!r} names somebody where nobody can be named")
    if qualifier == b"root":
        qualifier = b"0"  # the one name whose number is the same everywhere
    if not qualifier.isdigit() or len(qualifier) > 10 or int(qualifier) >= _NO_ID:
        raise FormatError(f"ACL entry {part[:100]!r} names somebody without a number")
    return tag, bits, int(qualifier)


def _acl_permissions(text: bytes, part: bytes) -> int:
    bits = 0
    for letter, value in ((b"r", 4), (b"w", 2), (b"x", 1)):
        bits |= value if letter in text else 0
    if text.strip(b"rwx-") or len(text) > 3:
        raise FormatError(f"ACL entry {part[:100]!r} has odd permissions")
    return bits
