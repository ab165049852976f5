"""Users, modes, seccomp rules and the runtime's config: pure parts of the builder."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layerstore.build.modes import parse_mode
from layerstore.errors import BuildError, InputError, LimitExceededError
from layerstore.runtime.oci_spec import (
    DEFAULT_CAPABILITIES,
    ContainerProcess,
    ExtraMount,
    Isolation,
    container_config,
)
from layerstore.runtime.seccomp import profile
from layerstore.runtime.users import RunUser, UserDatabase, resolve_owner, resolve_run_user
from layerstore.units import rfc3339

PASSWD = b"""\
root:x:0:0:root:/root:/bin/sh
# comment
app:x:1000:2000::/home/app:/bin/sh
broken:x:notanumber:0::/:/bin/sh
huge:x:99999999999:0::/:/bin/sh
short
noshell:x:1001:2001::/srv
"""
GROUP = b"root:x:0:\nstaff:x:50:app,other\nadm:x:4:app\nempty:x:7:\n"
USERS = UserDatabase(passwd=lambda: PASSWD, group=lambda: GROUP)
NOBODY = UserDatabase(passwd=lambda: None, group=lambda: None)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1", (1, 1)), ("1:2", (1, 2)), ("app", (1000, 2000)), ("app:adm", (1000, 4)),
        ("5:staff", (5, 50)), ("0", (0, 0)), ("4294967294", (4294967294, 4294967294)),
    ],
)  # fmt: skip
def test_owners(text: str, expected: tuple[int, int]) -> None:
    assert resolve_owner(USERS, text) == expected


@pytest.mark.parametrize("text", ["ghost", "app:ghost", "4294967295", "1:99999999999", "broken"])
def test_owners_that_are_none(text: str) -> None:
    with pytest.raises(BuildError):
        resolve_owner(USERS, text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", RunUser(0, 0, (), "/root")),
        ("app", RunUser(1000, 2000, (4, 50), "/home/app")),
        ("1000", RunUser(1000, 2000, (4, 50), "/home/app")),
        ("app:empty", RunUser(1000, 7, (), "/home/app")),
        ("77", RunUser(77, 0, (), "/")),
        ("77:88", RunUser(77, 88, (), "/")),
        ("noshell", RunUser(1001, 2001, (), "/srv")),
    ],
)
def test_what_a_step_runs_as(text: str, expected: RunUser) -> None:
    assert resolve_run_user(USERS, text) == expected


def test_an_image_without_users_has_root() -> None:
    assert resolve_run_user(NOBODY, "") == RunUser(0, 0, (), "/root")
    with pytest.raises(BuildError, match="knows no user 'app'"):
        resolve_run_user(NOBODY, "app")


def test_a_huge_passwd_is_a_limit() -> None:
    huge = UserDatabase(passwd=lambda: b"x" * (5 << 20), group=lambda: None)
    with pytest.raises(LimitExceededError):
        resolve_owner(huge, "app")


@pytest.mark.parametrize(
    ("text", "mode", "is_directory", "expected"),
    [
        ("755", 0o600, False, 0o755),
        ("07755", 0o600, False, 0o7755),
        ("u+x", 0o644, False, 0o744),
        ("+x", 0o644, False, 0o755),
        ("go-rwx", 0o777, False, 0o700),
        ("u=rw,go=r", 0o777, False, 0o644),
        ("a=rX", 0o600, False, 0o444),
        ("a=rX", 0o700, False, 0o555),
        ("a=rX", 0o600, True, 0o555),
        ("g=u", 0o740, False, 0o770),
        ("u+s,g+s,+t", 0o755, False, 0o7755),
        ("u-s", 0o4755, False, 0o755),
        ("u+rw-x", 0o100, False, 0o600),
    ],
)
def test_modes(text: str, mode: int, is_directory: bool, expected: int) -> None:
    assert parse_mode(text).apply(mode, is_directory=is_directory) == expected


@pytest.mark.parametrize("text", ["", "8", "10000", "u", "u+q", "u+x,", "x+u", "+"])
def test_modes_that_are_none(text: str) -> None:
    if text == "+":  # chmod(1) takes it, and it changes nothing
        assert parse_mode(text).apply(0o644, is_directory=False) == 0o644
        return
    with pytest.raises(InputError):
        parse_mode(text)


def allowed(rules: dict[str, object]) -> set[str]:
    names: set[str] = set()
    for rule in rules["syscalls"]:  # type: ignore[attr-defined]
        if rule["action"] == "SCMP_ACT_ALLOW" and not rule.get("args"):
            names |= set(rule["names"])
    return names


def test_the_default_profile_keeps_dangerous_calls_away() -> None:
    rules = profile(frozenset(DEFAULT_CAPABILITIES), "x86_64")
    names = allowed(rules)
    assert {"read", "execve", "chroot", "arch_prctl", "openat2"} <= names
    forbidden = {
        "mount", "umount2", "unshare", "setns", "kexec_load", "bpf", "init_module", "reboot",
        "io_uring_setup", "userfaultfd", "open_by_handle_at", "clone", "clone3", "swapon",
    }  # fmt: skip
    assert not forbidden & names
    clone3 = [r for r in rules["syscalls"] if r["names"] == ["clone3"]]  # type: ignore[attr-defined]
    assert clone3[0]["errnoRet"] == 38
    assert "mount" in allowed(profile(frozenset({"CAP_SYS_ADMIN"}), "x86_64"))


def test_the_container_s_config() -> None:
    process = ContainerProcess(("/bin/true",), ("A=1",), "/w", 5, 6, (7,))
    mount = ExtraMount("/m", "/host/m", ("bind", "ro"))
    config = container_config("/r", process, (mount,), Isolation(True, "/cg", "x86_64"))
    linux = config["linux"]
    kinds = {each["type"] for each in linux["namespaces"]}  # type: ignore[index]
    assert kinds == {"pid", "ipc", "uts", "mount"}
    assert config["process"]["noNewPrivileges"] is False  # type: ignore[index]
    assert config["process"]["user"] == {"uid": 5, "gid": 6, "additionalGids": [7]}  # type: ignore[index]
    assert "/proc/sys" in linux["readonlyPaths"]  # type: ignore[index]
    assert "/proc/kcore" in linux["maskedPaths"]  # type: ignore[index]
    assert config["mounts"][-1]["destination"] == "/m"  # type: ignore[index]
    alone = container_config("/r", process, (), Isolation(False, "/cg", "x86_64"))
    assert {"type": "network"} in alone["linux"]["namespaces"]  # type: ignore[index]


def test_sockets_of_moby_s_families_and_no_others() -> None:
    """Runs of families are told by masks; expanded, they are the list."""
    rules = profile(frozenset(), "x86_64")["syscalls"]
    tests = [rule["args"][0] for rule in rules if rule["names"] == ["socket"]]  # type: ignore[attr-defined]
    assert {test["op"] for test in tests} == {"SCMP_CMP_MASKED_EQ"}
    allowed = {
        family
        for family in (*range(70), 1 << 32, (1 << 32) + 2, (1 << 64) - 1)
        if any(family & test["value"] == test["valueTwo"] for test in tests)
    }
    refused = {12, 19, 20, 23, 25, 34, 37, 38, 40}
    assert allowed == set(range(46)) - refused
    assert len(tests) < 20


@given(seconds=st.floats(min_value=0, max_value=4e9))
def test_times_survive_a_cache_that_travels(seconds):
    travelled = round(seconds * 1_000_000) / 1_000_000
    assert rfc3339(travelled) == rfc3339(seconds)


def test_times_carry_into_the_next_second():
    assert rfc3339(1_700_000_000.9999999) == "2023-11-14T22:13:21Z"
    assert rfc3339(1_700_000_000.25) == "2023-11-14T22:13:20.250000Z"
