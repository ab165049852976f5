"""Users written into an image's files."""

from __future__ import annotations

import pytest

from layerstore.build.accounts import Databases
from layerstore.build.graph import NewUser
from layerstore.errors import BuildError

PASSWD = b"root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/:/bin/false\n"
GROUP = b"root:x:0:\ndaemon:x:1:\nadm:x:4:daemon\nold:x:1000:\n"


def user(name: str = "app", **fields: object) -> NewUser:
    plain = {
        "uid": None, "gid": None, "group": "", "groups": (), "home": f"/home/{name}",
        "shell": "/bin/sh", "comment": "",
    }  # fmt: skip
    return NewUser(name=name, **{**plain, **fields})  # type: ignore[arg-type]


def databases(
    passwd: bytes = PASSWD, group: bytes = GROUP, shadow: bytes | None = b""
) -> Databases:
    return Databases(passwd, group, shadow)


def test_a_user_gets_the_next_number_that_is_free_in_both_files():
    files = databases()
    account = files.add(user())
    assert (account.uid, account.gid) == (1001, 1001)
    assert files.passwd == PASSWD + b"app:x:1001:1001::/home/app:/bin/sh\n"
    assert files.group == GROUP + b"app:x:1001:\n"
    assert files.shadow == b"app:!:::::::\n"
    assert files.add(user("b")).uid == 1002


@pytest.mark.parametrize(
    ("fields", "uid", "gid"),
    [
        ({"uid": 5}, 5, 5),
        ({"uid": 4}, 4, 1001),
        ({"uid": 5, "gid": 6}, 5, 6),
        ({"gid": 6}, 1001, 6),
        ({"group": "old"}, 1000, 1000),
        ({"group": "adm", "uid": 7}, 7, 4),
    ],
)
def test_numbers(fields, uid, gid):
    account = databases().add(user(**fields))
    assert (account.uid, account.gid) == (uid, gid)


def test_more_groups():
    files = databases()
    files.add(user(groups=("adm", "old")))
    assert b"adm:x:4:daemon,app\n" in files.group
    assert b"old:x:1000:app\n" in files.group


def test_a_user_that_is_there_stays():
    files = databases()
    assert files.add(user("daemon")) is None
    assert files.add(user("daemon", uid=1)) is None
    assert (files.passwd, files.group, files.shadow) == (PASSWD, GROUP, b"")


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"name": "daemon", "uid": 9}, "has a user 'daemon' already, with uid 1 and gid 1"),
        ({"uid": 1}, "the uid 1 of the user 'app' is taken"),
        ({"gid": 4}, "the gid 4 of the user 'app' is taken"),
        ({"group": "none"}, "knows no group 'none'"),
        ({"groups": ("none",)}, "knows no group 'none', which the user 'app' is to be in"),
        ({"name": "old"}, "has a group 'old' already"),
    ],
)
def test_what_cannot_be(fields, reason):
    with pytest.raises(BuildError, match=reason):
        databases().add(user(**fields))


def test_empty_and_strange_files():
    files = databases(b"", b"", None)
    assert files.add(user()).uid == 1000
    assert files.shadow is None
    strange = databases(b"no newline:x:1000", b"\n\nx\nbroken:x:abc:\n:::\n" + b"a" * 5000)
    assert strange.add(user()).uid == 1001
    assert strange.passwd.startswith(b"no newline:x:1000\napp:x:1001:")


def test_all_numbers_taken():
    passwd = b"".join(b"u%d:x:%d:1::/:/\n" % (each, each) for each in range(1000, 60_000))
    with pytest.raises(BuildError, match="all ids from 1000 to 59999 are taken"):
        databases(passwd).add(user())
