"""What --output, --annotation and the files for scripts mean."""

import contextlib
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layerstore.build.outputs import OutputKind
from layerstore.cli.build.output_options import parse_annotations, parse_outputs, uses_stdout
from layerstore.cli.build.told import forget, write_whole
from layerstore.errors import InputError


def parsed(*words, epoch=False):
    return [
        (each.kind, each.stream is not None, each.directory, each.names, each.compression)
        for each in parse_outputs(words, epoch=epoch)
    ]


def test_words_of_buildx(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    image = (OutputKind.IMAGE, False, None, (), "gzip")
    assert parsed() == parsed("type=image") == parsed("type=image,push=false") == [image]
    assert (
        parsed("out")
        == parsed("type=local,dest=out")
        == [(OutputKind.LOCAL, False, Path("out"), (), "gzip")]
    )
    assert parsed("-") == parsed("type=tar") == [(OutputKind.TAR, True, None, (), "gzip")]
    assert parsed("type=oci,dest=x.tar,compression=zstd,name=a:1") == [
        (OutputKind.OCI, True, None, ("a:1",), "zstd")
    ]
    assert parsed('type=docker,"name=a,b:2",dest=x.tar,compression=uncompressed') == [
        (OutputKind.DOCKER, True, None, ("a:latest", "b:2"), "none")
    ]
    assert parsed("type=oci,tar=false,dest=d") == [(OutputKind.OCI, False, Path("d"), (), "gzip")]
    assert parsed("type=cacheonly") == [(OutputKind.CACHE_ONLY, False, None, (), "gzip")]
    assert len(parsed("type=image,name=a", "type=tar,dest=a.tar", "dir")) == 3
    parsed("type=oci,dest=a,rewrite-timestamp=true,oci-mediatypes=true", epoch=True)
    parsed("type=oci,dest=a,rewrite-timestamp=false")


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("type=ocii,dest=x", "did you mean type=oci?"),
        ("type=registri", "did you mean type=registry?"),
        ("dest=x", "one of type=cacheonly, type=docker, type=image"),
    ],
)
def test_a_wrong_type_names_the_ones_there_are(word, hint):
    with pytest.raises(InputError) as caught:
        parse_outputs([word], epoch=False)
    assert caught.value.hint.startswith(hint)


def test_what_is_pushed():
    def pushes(*words, push=False):
        return [each.pushes for each in parse_outputs(words, epoch=False, push=push)]

    assert pushes() == pushes("type=image") == pushes("type=registry,push=false") == [False]
    assert pushes("type=registry,name=a") == pushes("type=image,name=a,push=true") == [True]
    assert pushes(push=True) == pushes("type=image,name=a", push=True) == [True]
    assert pushes("type=cacheonly", push=True) == [False, True]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["type=oci", "-"], "only one output"),
        (["type=nothing"], "no type of an output"),
        (["dest=x"], "no type of an output"),
        (["type=registry,push=perhaps"], "neither true nor false"),
        (["type=oci,dest=a,push=true"], "is not supported"),
        (["type=image,dest=x"], "has no dest"),
        (["type=image,name=Bad"], "is not an image name"),
        (["type=tar,name=a"], "has no names"),
        (["type=tar,dest=a,compression=zstd"], "no layers"),
        (["type=image,compression=zstd"], "no layers"),
        (["type=oci,dest=a,compression=estargz"], "is not a compression"),
        (["type=local"], "does not say where to"),
        (["type=oci,tar=false"], "does not say where to"),
        (["type=local,dest=-"], "a directory, not stdout"),
        (["type=tar,tar=false,dest=a"], "means nothing"),
        (["type=local,dest=a,platform-split=maybe"], "neither true nor false"),
        (["type=oci,dest=a,platform-split=true"], "no attribute of an output"),
        (["type=local,dest=a,attestation-prefix=b/"], "beginning of a file's name"),
        (["type=oci,dest=a,oci-mediatypes=false"], "is not supported"),
        (["type=oci,dest=a,frob=1"], "no attribute of an output"),
        (["type=oci,dest=a,dest=b"], "not a part of an output"),
        (["type=oci,x"], "not a part of an output"),
        (['type=oci,"dest'], "is not an output"),
        (["type=oci,dest=a,rewrite-timestamp=true"], "needs a time"),
        (["type=oci,dest=a,rewrite-timestamp=often"], "neither true nor false"),
        (["type=oci,dest=nowhere/a"], "there is no directory"),
        (["type=oci,dest=."], "is a directory"),
    ],
)
def test_outputs_refused_before_anything_is_built(words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        parse_outputs(words, epoch=False)


@given(st.text(alphabet="type=oci,dtarslmg-\"'/x", max_size=40))
def test_any_text_is_an_output_or_refused(word):
    with contextlib.suppress(InputError):
        parse_outputs([word], epoch=False)
    with contextlib.suppress(InputError):
        parse_annotations([word])


def test_times_of_layers_follow_the_epoch():
    with pytest.raises(InputError, match="always rewritten"):
        parse_outputs(["type=image,rewrite-timestamp=false"], epoch=True)


def test_stdout_is_no_terminal(monkeypatch):
    assert uses_stdout(["type=docker"])
    assert not uses_stdout(["type=docker,dest=x", "out"])
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    with pytest.raises(InputError, match="to a terminal"):
        parse_outputs(["-"], epoch=False)


def test_annotations():
    assert parse_annotations(["a=b=c", "manifest:d=", "manifest[linux/amd64]:e=f", "x:y=z"]) == {
        "a": "b=c", "d": "", "e": "f", "x:y": "z",
    }  # fmt: skip
    for word in (
        "a",
        "=b",
        "index:a=b",
        "manifest-descriptor:a=b",
        "index-descriptor[x]:a=b",
        "layerstore.attestation/x=y",
    ):
        with pytest.raises(InputError):
            parse_annotations([word])


def test_files_for_scripts_are_whole(tmp_path):
    target = tmp_path / "id"
    write_whole(target, "one")
    write_whole(target, "two")
    assert target.read_text() == "two"
    assert os.listdir(tmp_path) == ["id"]
    forget(target, None)
    forget(target)
    assert os.listdir(tmp_path) == []
