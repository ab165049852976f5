"""Config files of docker and podman, helpers, challenges, and rules for registries."""

from __future__ import annotations

import base64
import json
import os
import ssl
import stat
from typing import TYPE_CHECKING

import pytest

from layerstore.registry import credentials
from layerstore.registry.challenge import parse_challenges
from layerstore.registry.credentials import Credentials, Kept, Keychain
from layerstore.registry.errors import RegistryConfigError
from layerstore.registry.hosts import HostRules, Registries, is_local, read_registries
from tests.support.http_server import certificate

if TYPE_CHECKING:
    from pathlib import Path

HELPER = """#!/bin/sh
env > "$HOME/environment.$1"
cat > "$HOME/input.$1"
case $1 in
get) if grep -q known "$HOME/input.get"; then echo '{"ServerURL":"x","Username":"me","Secret":"pw"}'
     elif grep -q token "$HOME/input.get"; then echo '{"Username":"<token>","Secret":"refresh"}'
     elif grep -q odd "$HOME/input.get"; then echo 'nonsense'
     else echo 'credentials not found in native keychain'; exit 1; fi;;
esac
"""


def auth(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def keychain(tmp_path: Path, document: object | None, *others: Path) -> Keychain:
    config = tmp_path / "docker" / "config.json"
    if document is not None:
        config.parent.mkdir(exist_ok=True)
        config.write_text(json.dumps(document))
    environ = {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "HOME": str(tmp_path),
               "AWS_PROFILE": "p", "MY_SECRET": "canary"}  # fmt: skip
    return Keychain([*others, config], config, environ)


def helper(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "docker-credential-test"
    program.write_text(HELPER)
    program.chmod(0o755)


def test_dockers_entries(tmp_path: Path) -> None:
    keys = keychain(tmp_path, {"auths": {
        "https://index.docker.io/v1/": {"auth": auth("hub:a:b")},
        "https://old.example/v1/": {"auth": auth("old:pw")},
        "plain.example:5000": {"username": "u", "password": "p"},
        "token.example": {"auth": auth("u:"), "identitytoken": "refresh"},
        "kept-by-helper.example": {},
    }})  # fmt: skip
    assert keys.get("docker.io") == Credentials("hub", "a:b")
    assert keys.get("old.example") == Credentials("old", "pw")
    assert keys.get("plain.example:5000") == Credentials("u", "p")
    assert keys.get("token.example") == Credentials("u", "", "refresh")
    for absent in ("kept-by-helper.example", "plain.example", "example", "ld.example"):
        assert keys.get(absent) is None


def test_podmans_namespaces_and_order(tmp_path: Path) -> None:
    first = tmp_path / "auth.json"
    first.write_text(json.dumps({"auths": {
        "quay.example/team/app": {"auth": auth("app:1")},
        "quay.example/team": {"auth": auth("t:2")},
    }}))  # fmt: skip
    keys = keychain(tmp_path, {"auths": {"quay.example": {"auth": auth("all:3")}}}, first)
    assert keys.get("quay.example", "team/app") == Credentials("app", "1")
    assert keys.get("quay.example", "team/other") == Credentials("t", "2")
    assert keys.get("quay.example", "other") == Credentials("all", "3")


def test_login_and_logout_write_the_file(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        keys = keychain(tmp_path, None)
        kept = keys.put("docker.io", Credentials("me", "pw"))
    finally:
        os.umask(old)
    config = tmp_path / "docker" / "config.json"
    assert kept == Kept(str(config), is_helper=False)
    assert stat.S_IMODE(config.stat().st_mode) == 0o600
    document = json.loads(config.read_text())
    assert document == {"auths": {"https://index.docker.io/v1/": {"auth": auth("me:pw")}}}
    config.write_text(json.dumps({**document, "psFormat": "x"}))
    keys.put("b.example", Credentials("", "", "refresh"))
    assert keys.get("b.example") == Credentials("", "", "refresh")
    assert keys.remove("docker.io")
    assert not keys.remove("docker.io")
    assert json.loads(config.read_text())["psFormat"] == "x"
    assert keys.get("docker.io") is None
    assert sorted(path.name for path in config.parent.iterdir()) == ["config.json"]


def test_a_config_among_dotfiles_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "dotfiles").mkdir()
    (tmp_path / "docker").mkdir()
    target = tmp_path / "dotfiles" / "config.json"
    target.write_text("{}")
    (tmp_path / "docker" / "config.json").symlink_to(target)
    keychain(tmp_path, None).put("a.example", Credentials("u", "p"))
    assert "a.example" in target.read_text()
    assert (tmp_path / "docker" / "config.json").is_symlink()


@pytest.mark.parametrize(
    "text",
    ["[]", "{", '{"auths": []}', '{"auths": {"a.example": 5}}', '{"credsStore": "../x"}',
     '{"auths": {"a.example": {"auth": "%%%"}}}', '{"auths": {"a.example": {"auth": "bm9uZQ=="}}}',
     '{"credHelpers": {"a.example": 7}}', "[" * 100_000],
)  # fmt: skip
def test_files_that_are_wrong(tmp_path: Path, text: str) -> None:
    keys = keychain(tmp_path, {})
    (tmp_path / "docker" / "config.json").write_text(text)
    with pytest.raises(RegistryConfigError):
        keys.get("a.example")


def test_helpers(tmp_path: Path) -> None:
    helper(tmp_path)
    keys = keychain(tmp_path, {"credsStore": "test", "credHelpers": {"other.example": "absent"}})
    assert keys.get("known.example") == Credentials("me", "pw")
    assert keys.get("token.example") == Credentials("", "", "refresh")
    assert keys.get("nobody.example") is None
    with pytest.raises(RegistryConfigError, match="protocol"):
        keys.get("odd.example")
    with pytest.raises(RegistryConfigError, match="docker-credential-absent is not installed"):
        keys.get("other.example")
    environment = (tmp_path / "environment.get").read_text()
    assert "AWS_PROFILE=p" in environment
    assert "canary" not in environment


@pytest.mark.parametrize(
    ("does", "said"),
    [("exec cat /dev/zero", "says more than"), ("sleep 5 & sleep 5", "does not end")],
)
def test_helpers_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, does: str, said: str
) -> None:
    helper(tmp_path)
    program = next(tmp_path.rglob("docker-credential-test"))
    program.write_text(f"#!/bin/sh\n{does}\n")
    monkeypatch.setattr(credentials, "_HELPER_S", 0.5)
    keys = keychain(tmp_path, {"credsStore": "test"})
    with pytest.raises(RegistryConfigError, match=said):
        keys.get("known.example")


def test_helpers_keep_what_login_got(tmp_path: Path) -> None:
    helper(tmp_path)
    keys = keychain(tmp_path, {"credsStore": "test"})
    assert keys.put("known.example", Credentials("me", "pw")) == Kept("test", is_helper=True)
    assert json.loads((tmp_path / "input.store").read_text()) == {
        "ServerURL": "known.example", "Username": "me", "Secret": "pw",
    }  # fmt: skip
    config = (tmp_path / "docker" / "config.json").read_text()
    assert json.loads(config)["auths"] == {"known.example": {}}
    assert keys.remove("known.example")
    assert (tmp_path / "input.erase").read_text() == "known.example"


def test_challenges() -> None:
    header = 'Bearer realm="https://a/token",service="s, t",scope="x:y:pull,push", Basic realm="b"'
    assert parse_challenges([header, "Negotiate", 'Basic realm="\\"q\\""']) == [
        ("bearer", {"realm": "https://a/token", "service": "s, t", "scope": "x:y:pull,push"}),
        ("basic", {"realm": "b"}),
        ("negotiate", {}),
        ("basic", {"realm": '"q"'}),
    ]


@pytest.mark.parametrize(
    "header", ["", ",,,", "=", 'Bearer realm="a', 'Bearer realm="a",realm="b"', "Bearer " * 9000]
)
def test_challenges_that_say_nothing(header: str) -> None:
    assert all(not parameters.get("realm") for _, parameters in parse_challenges([header]))


def test_rules_from_files(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path)
    own = tmp_path / "registries.toml"
    own.write_text(
        '[registry."docker.io"]\nmirrors = ["m.example/hub"]\n'
        f'[registry."a.example"]\nca = "{cert}"\ncert = "{cert}"\nkey = "{key}"\n'
        'realms = ["auth.example"]\n'
    )
    containers = tmp_path / "registries.conf"
    containers.write_text(
        'unqualified-search-registries = ["docker.io"]\n'
        '[[registry]]\nprefix = "p.example"\nlocation = "l.example/x"\ninsecure = true\n'
        '[[registry]]\nlocation = "b.example"\nblocked = true\n'
        '[[registry.mirror]]\nlocation = "m.example"\n'
        '[[registry]]\nlocation = "docker.io"\ninsecure = true\n'
        '[[registry.mirror]]\nlocation = "n.example"\ninsecure = true\n'
    )
    directory = tmp_path / "certs.d" / "c.example:5000"
    directory.mkdir(parents=True)
    (directory / "ca.crt").write_bytes(cert.read_bytes())
    registries = read_registries([tmp_path / "absent", own], [containers], [tmp_path / "certs.d"])
    assert registries.of("docker.io").mirrors == ("m.example/hub",)
    assert registries.of("docker.io").realms == ("auth.docker.io",)
    assert not registries.of("docker.io").insecure  # ours names it, and so theirs does not count
    assert registries.of("n.example").insecure
    assert registries.of("p.example").location == "l.example/x"
    assert registries.of("p.example").mirrors == ()
    assert registries.of("l.example").insecure
    assert registries.of("b.example").blocked
    assert registries.of("b.example").mirrors == ()
    assert registries.of("a.example").client == (str(cert), str(key))
    assert registries.tls("a.example").cert_store_stats()["x509"]
    assert registries.of("c.example:5000").ca_files == (str(directory / "ca.crt"),)
    assert registries.of("localhost:5000").insecure
    assert not registries.of("localhost.example").insecure


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[registry", "is not TOML"),
        ("registry = 5", "is not a table"),
        ('[registry."a"]\nmirror = []', "'mirror' is not known"),
        ('[registry."a"]\nmirrors = "x"', "not a list of texts"),
        ('[registry."a"]\ninsecure = 1', "neither true nor false"),
        ('[registry."a"]\ncert = "x"', "belong together"),
        ("[other]", "'other' is not known"),
    ],
)
def test_rules_that_are_wrong(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "registries.toml"
    path.write_text(text)
    with pytest.raises(RegistryConfigError, match=why) as caught:
        read_registries([path], [], [])
    assert str(path) in caught.value.message


def test_certificates_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "registries.toml"
    path.write_text('[registry."a.example"]\nca = "/nonexistent/ca.crt"\n')
    with pytest.raises(RegistryConfigError, match=r"certificates for a.example cannot be used"):
        read_registries([path], [], []).tls("a.example")


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("localhost", True), ("localhost:5000", True), ("127.0.0.1:5000", True),
        ("127.1.2.3", True), ("[::1]:5000", True), ("[::1]", True),
        ("127.0.0.1.evil.example", False), ("127.evil.example:5000", False),
        ("localhost.evil.example", False), ("[::2]:5000", False), ("registry.example", False),
    ],
)  # fmt: skip
def test_who_is_trusted_without_tls(host: str, local: bool) -> None:
    assert is_local(host) is local
    assert Registries().of(host).insecure is local


def test_a_config_that_cannot_be_read_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = keychain(tmp_path, {"auths": {"a.example": {"auth": auth("u:p")}}})

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.open", refuse)  # root reads everything
        assert keys.get("a.example") is None
        with pytest.raises(RegistryConfigError, match="cannot be read: Permission denied"):
            keys.put("b.example", Credentials("me", "pw"))
        with pytest.raises(RegistryConfigError, match="cannot be read: Permission denied"):
            keys.remove("a.example")
    assert "a.example" in (tmp_path / "docker/config.json").read_text()


def test_rules_for_a_name_with_the_port_of_https() -> None:
    registries = Registries(rules={"a.example:443": HostRules(insecure=True)})
    assert registries.tls("a.example").verify_mode == ssl.CERT_NONE
    assert registries.tls("b.example").verify_mode == ssl.CERT_REQUIRED
    both = Registries(rules={**registries.rules, "a.example": HostRules()})
    assert both.tls("a.example").verify_mode == ssl.CERT_REQUIRED
