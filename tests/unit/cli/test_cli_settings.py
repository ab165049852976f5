"""Where the store is."""

import os

import pytest

from layerstore.cli.settings import store_root, take_store_option
from layerstore.errors import InputError


@pytest.mark.parametrize(
    ("option", "environ", "is_root", "root"),
    [
        (None, {}, True, "/var/lib/layerstore"),
        (None, {"HOME": "/home/a"}, False, "/home/a/.local/share/layerstore"),
        (None, {"HOME": "/home/a", "XDG_DATA_HOME": "/data"}, False, "/data/layerstore"),
        (None, {"HOME": "/h", "XDG_DATA_HOME": "data"}, False, "/h/.local/share/layerstore"),
        (None, {"LAYERSTORE_ROOT": "/s"}, True, "/s"),
        ("/o", {"LAYERSTORE_ROOT": "/s"}, True, "/o"),
        ("rel", {}, True, os.path.abspath("rel")),
    ],
)
def test_store_root(option, environ, is_root, root):
    assert store_root(option, environ, is_root=is_root) == root


def test_a_link_is_followed_once(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    option = str(tmp_path / "link" / "store")
    assert store_root(option, {}, is_root=True) == str(tmp_path / "disk" / "store")


def test_without_home_nothing_is_guessed():
    with pytest.raises(InputError, match="HOME"):
        store_root(None, {}, is_root=False)


@pytest.mark.parametrize(
    ("arguments", "store", "rest"),
    [
        (["images"], None, ["images"]),
        (["--store", "/s", "images"], "/s", ["images"]),
        (["images", "--store=/s", "-q"], "/s", ["images", "-q"]),
        (["rm", "a", "--store", "/s"], "/s", ["rm", "a"]),
        (["rm", "--", "--store", "/s"], None, ["rm", "--", "--store", "/s"]),
        (["--store", "/a", "x", "--store", "/b"], "/b", ["x"]),
    ],
)
def test_store_option_stands_anywhere(arguments, store, rest):
    assert take_store_option(arguments) == (store, rest)


@pytest.mark.parametrize("arguments", [["--store"], ["images", "--store="]])
def test_store_option_needs_a_directory(arguments):
    with pytest.raises(InputError):
        take_store_option(arguments)
