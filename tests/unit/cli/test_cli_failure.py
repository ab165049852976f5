"""Errors become words and exit codes in one place."""

import errno

import pytest

from layerstore import errors
from layerstore.cli.failure import Terminated, describe, guarded


def raiser(error):
    def run():
        raise error

    return run


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.LayerstoreError("x"), 1),
        (errors.InputError("x"), 2),
        (errors.NotFoundError("x"), 3),
        (errors.ConflictError("x"), 4),
        (errors.IntegrityError("x"), 10),
        (errors.UnsupportedVersionError("x"), 10),
        (errors.LimitExceededError("x"), 11),
        (errors.StorageError("x"), 12),
        (errors.RegistryError("x"), 13),
        (errors.BuildError("x"), 14),
        (errors.UnsupportedError("x"), 15),
        (OSError(errno.ENOSPC, "full"), 12),
        (MemoryError(), 12),
        (RuntimeError("can't start new thread"), 12),
        (ImportError("/x.so: failed to map segment from shared object"), 12),
        (SystemError("error return without exception set"), 12),
        (RuntimeError("x"), 70),
        (ImportError("no module named x"), 70),
        (ValueError("x"), 70),
        (KeyboardInterrupt(), 130),
        (Terminated(), 143),
    ],
)
def test_exit_codes(error, code):
    assert guarded(raiser(error)) == code


def test_message_and_hint(capsys):
    guarded(raiser(errors.ConflictError("it is taken", hint="choose another")))
    assert capsys.readouterr().err == "layerstore: error: it is taken\nhint: choose another\n"


def test_later_lines_are_set_off_and_controls_shown(capsys):
    guarded(raiser(errors.BuildError("failed:\nline \x1b[1m two\n")))
    assert capsys.readouterr().err == "layerstore: error: failed:\n  line \\x1b[1m two\n"


def test_full_disk_has_a_remedy(capsys):
    guarded(raiser(OSError(errno.ENOSPC, "No space left on device", "/x/y")))
    assert capsys.readouterr().err == (
        "layerstore: error: /x/y: No space left on device\n"
        "hint: free some space and run it again; what was stored before is unharmed\n"
    )


def test_our_own_mistake_asks_for_a_report(capsys, monkeypatch):
    monkeypatch.delenv("LAYERSTORE_DEBUG", raising=False)
    guarded(raiser(ValueError("oops")))
    text = capsys.readouterr().err
    assert text.startswith("layerstore: error: internal error: ValueError: oops\nhint: ")
    assert "LAYERSTORE_DEBUG=1" in text


def test_debugging_shows_the_traceback(capsys, monkeypatch):
    monkeypatch.setenv("LAYERSTORE_DEBUG", "1")
    guarded(raiser(ValueError("oops")))
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_interrupts_are_silent(capsys):
    guarded(raiser(KeyboardInterrupt()))
    assert capsys.readouterr() == ("", "")


def test_every_family_has_a_code_of_its_own():
    families = [
        family
        for family in errors.LayerstoreError.__subclasses__()
        if family.__module__ == errors.__name__
    ]
    codes = [family.exit_code for family in families]
    assert len(set(codes)) == len(codes)
    assert describe(errors.LayerstoreError("x")).exit_code not in codes
