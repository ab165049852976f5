"""Names of images: what they mean and which are refused."""

import pytest

from layerstore.errors import InputError
from layerstore.formats.reference import lookup_form, parse_reference, parse_tag_name, split_name

DIGEST = "sha256:" + "0" * 64


@pytest.mark.parametrize(
    ("text", "host", "path", "tag", "name"),
    [
        ("debian", "docker.io", "library/debian", None, "debian:latest"),
        ("debian:bookworm", "docker.io", "library/debian", "bookworm", "debian:bookworm"),
        ("docker.io/debian", "docker.io", "library/debian", None, "debian:latest"),
        ("docker.io/library/debian:1", "docker.io", "library/debian", "1", "debian:1"),
        ("index.docker.io/library/debian", "docker.io", "library/debian", None, "debian:latest"),
        ("library/debian", "docker.io", "library/debian", None, "debian:latest"),
        ("library/library/x", "docker.io", "library/library/x", None, "library/library/x:latest"),
        ("team/app:V1.0_x-y", "docker.io", "team/app", "V1.0_x-y", "team/app:V1.0_x-y"),
        ("localhost/app", "localhost", "app", None, "localhost/app:latest"),
        ("localhost:5000/app", "localhost:5000", "app", None, "localhost:5000/app:latest"),
        ("quay.io/a/b/c:2", "quay.io", "a/b/c", "2", "quay.io/a/b/c:2"),
        ("HOST/app", "HOST", "app", None, "HOST/app:latest"),
        ("[::1]:5000/app", "[::1]:5000", "app", None, "[::1]:5000/app:latest"),
        ("a__b/c--d", "docker.io", "a__b/c--d", None, "a__b/c--d:latest"),
    ],
)
def test_parts(text, host, path, tag, name):
    reference = parse_reference(text)
    assert (reference.host, reference.path, reference.tag) == (host, path, tag)
    assert reference.name == name
    assert parse_reference(reference.name).name == name


def test_digest():
    reference = parse_reference(f"debian:1@{DIGEST}")
    assert (reference.tag, reference.digest) == ("1", DIGEST)
    with pytest.raises(InputError, match="digest cannot be given"):
        parse_tag_name(f"debian@{DIGEST}")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "empty"),
        (":tag", "empty"),
        ("a//b", "empty"),
        ("/a", "empty"),
        ("a/", "empty"),
        ("../x", "host name"),
        ("x/../y", "lower-case letters, digits"),
        ("x:../y", "is not a"),
        ("x:", "not a tag"),
        ("x:.y", "not a tag"),
        ("x:a b", "not a tag"),
        ("x:é", "not a tag"),
        ("x:" + "t" * 129, "not a tag"),
        ("Upper", "upper-case"),
        ("team/Upper", "upper-case"),
        ("a b", "lower-case letters, digits"),
        ("a\n", "lower-case letters, digits"),
        ("x:tag\n", "not a tag"),
        ("a\x1b[31m", "lower-case letters, digits"),
        ("dé", "lower-case letters, digits"),
        ("a..b", "lower-case letters, digits"),
        ("-a", "lower-case letters, digits"),
        ("user:secret@quay.io/app", "credentials"),
        ("docker.io/docker.io/library/debian", "another host"),
        ("docker.io/a.b/c", "another host"),
        ("index.docker.io/localhost/c", "another host"),
        ("a@md5:" + "0" * 32, "not a digest"),
        ("a@sha256:" + "A" * 64, "not a digest"),
        ("a@", "not a digest"),
        ("f" * 64, "image id"),
        ("a" * 256, "255"),
        ("bad_host.:1/app", "host name"),
        ("quay.io:123456/app", "host name"),
    ],
)
def test_refused(text, why):
    with pytest.raises(InputError, match=why) as caught:
        parse_reference(text)
    assert "\x1b" not in caught.value.message
    assert "\n" not in caught.value.message
    assert caught.value.hint


def test_a_secret_in_a_name_is_not_repeated():
    with pytest.raises(InputError) as caught:
        parse_reference("user:secret@quay.io/app")
    assert "secret" not in caught.value.message


def test_tag_may_have_128_characters():
    assert parse_tag_name("x:" + "t" * 128)


def test_split_name():
    assert split_name("localhost:5000/app:1") == ("localhost:5000/app", "1")


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("docker.io/library/web", "web:latest"),
        ("deadbeef", "deadbeef"),
        ("sha256:dead", "sha256:dead"),
        ("f" * 64, "f" * 64),
        (f"web:1@{DIGEST}", f"web@{DIGEST}"),
        ("abc", "abc:latest"),
    ],
)
def test_lookup_form(text, form):
    assert lookup_form(text) == form
