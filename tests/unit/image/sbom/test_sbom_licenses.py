"""Licenses of packages: Debian's copyright files and what others say, as expressions of SPDX."""

import json

import pytest

from layerstore.image.sbom import debian_copyright, licenses
from layerstore.image.sbom.debian_copyright import declared_licenses
from layerstore.image.sbom.expressions import spdx_expression
from tests.unit.image.sbom.test_sbom import file, link, listed, store

__all__ = ["store"]

HEADER = "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n\n"


def expression(*names):
    text = HEADER + "\n".join(f"Files: {n}\nLicense: {name}\n" for n, name in enumerate(names))
    return declared_licenses(text).expression


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("Expat", "MIT"),
        ("GPL-2", "GPL-2.0-only"),
        ("GPL-2+", "GPL-2.0-or-later"),
        ("GPLv3+", "GPL-3.0-or-later"),
        ("LGPL-2.1+", "LGPL-2.1-or-later"),
        ("gpl-3.0+", "GPL-3.0-or-later"),
        ("GFDL-NIV-1.3+", "GFDL-1.3-no-invariants-or-later"),
        ("BSD-3-clause", "BSD-3-Clause"),
        ("ZLIB", "Zlib"),
        ("Apache-2", "Apache-2.0"),
        ("MPL-1.1", "MPL-1.1"),
        ("GPL-2+ with Texinfo exception", "GPL-2.0-or-later WITH Texinfo-exception"),
        ("GPL-2 with Linux-syscall-note exception", "GPL-2.0-only WITH Linux-syscall-note"),
        ("GPL-3+ with Odd exception", "LicenseRef-GPL-3-or-later-with-Odd-exception"),
        ("GPL-3 with Odd exception", "LicenseRef-GPL-3-with-Odd-exception"),
        ("public-domain", "LicenseRef-public-domain"),
        ("GPL", "LicenseRef-GPL"),
        ("MIT/X11", "LicenseRef-MIT-X11"),
        ("GPL-2+ or Artistic", "Artistic-1.0 OR GPL-2.0-or-later"),
        ("ISC and/or Expat", "ISC OR MIT"),
        ("ISC and Expat", "ISC AND MIT"),
        ("ISC or Expat and Zlib", "(MIT AND Zlib) OR ISC"),
        ("GPL-1+ or Artistic, and Expat", "(Artistic-1.0 OR GPL-1.0-or-later) AND MIT"),
        ("ISC, Expat", "ISC AND MIT"),
        ("ISC, or Expat", "ISC OR MIT"),
        ("", "LicenseRef-unnamed"),
        ("(((((", "LicenseRef-unnamed"),
        ("AND OR ,", "LicenseRef-AND OR LicenseRef-unnamed"),
    ],
)
def test_names_of_debian(name, told):
    assert expression(name) == told


def test_all_that_files_are_under_is_declared():
    assert expression("Expat", "ISC or Zlib", "Expat and X11") == "(ISC OR Zlib) AND MIT AND X11"
    assert expression("ISC or Zlib", "Zlib or ISC") == "ISC OR Zlib"


def test_paragraphs_that_give_a_text_name_nothing_more():
    text = HEADER + "Files: *\nLicense: Expat\n\nLicense: GPL-2\n It says\n .\n License: ISC\n"
    assert declared_licenses(text).expression == "MIT"
    assert declared_licenses(HEADER + "License: GPL-2\n text\n").expression == "GPL-2.0-only"


def test_what_is_not_machine_readable_declares_nothing():
    assert declared_licenses("This package was made by hand.\n\nLicense: GPL-2\n") is None
    assert declared_licenses("Format: something else\nLicense: GPL-2\n") is None
    assert declared_licenses(HEADER) is None
    assert declared_licenses("") is None


def test_names_are_bounded(monkeypatch):
    monkeypatch.setattr(debian_copyright, "MAX_NAMES", 2)
    assert expression("a", "b") == "LicenseRef-a AND LicenseRef-b"
    many = HEADER + "".join(f"Files: *\nLicense: x{n}\n\n" for n in range(3))
    assert declared_licenses(many) is None


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("mit", "MIT"),
        ("(MIT OR apache-2.0) and ISC", "(MIT OR Apache-2.0) AND ISC"),
        ("GPL-2.0+ WITH classpath-exception-2.0", "GPL-2.0+ WITH Classpath-exception-2.0"),
        ("BSD", None),
        ("MIT ISC", None),
        ("(MIT", None),
        ("MIT)", None),
        ("MIT AND", None),
        ("OR MIT", None),
        ("()", None),
        ("MIT WITH MIT", None),
        ("(MIT) WITH Classpath-exception-2.0", None),
        ("LicenseRef-x", None),
        ("", None),
        ("(" * 300, None),
    ],
)
def test_expressions(text, told):
    assert spdx_expression(text) == told


def status(*names):
    return file(
        b"var/lib/dpkg/status", "\n\n".join(f"Package: {name}\nVersion: 1" for name in names)
    )


def copyright_of(name, text):
    return file(f"usr/share/doc/{name}/copyright".encode(), text)


def declared(sbom):
    packages = json.loads(sbom.text)["packages"]
    return {package["name"]: package["licenseDeclared"] for package in packages}


def test_a_document_tells_them(store):
    odd = HEADER + "Files: *\nLicense: Expat and odd_one\n"
    sbom = listed(
        store,
        status("a", "b", "c", "../../etc"),
        copyright_of("a", odd),
        link(b"usr/share/doc/b", b"a"),
        file(b"etc/copyright", odd),
        file(
            b"x/node_modules/n/package.json",
            '{"name":"n","version":"1","license":"(mit OR isc)"}',
        ),
        file(
            b"x/node_modules/o/package.json",
            '{"name":"o","version":"1","license":"SEE LICENSE IN x"}',
        ),
    )
    assert declared(sbom) == {
        "web:1": "NOASSERTION",
        "a": "LicenseRef-odd-one AND MIT",
        "b": "LicenseRef-odd-one AND MIT",
        "c": "NOASSERTION",
        "../../etc": "NOASSERTION",
        "n": "(MIT OR ISC)",
        "o": "NOASSERTION",
    }
    document = json.loads(sbom.text)
    (other,) = document["hasExtractedLicensingInfos"]
    assert (other["licenseId"], other["name"]) == ("LicenseRef-odd-one", "odd_one")
    comments = {p["name"]: p.get("licenseComments") for p in document["packages"]}
    assert comments["b"] == "as /usr/share/doc/b/copyright names them"
    assert comments["o"] == "declared as: SEE LICENSE IN x"


@pytest.mark.parametrize("bound", ["MAX_READ_BYTES", "MAX_TOLD_CHARACTERS"])
def test_what_is_read_and_told_is_bounded(store, monkeypatch, bound):
    text = HEADER + "Files: *\nLicense: odd\n"
    per_package = {"MAX_READ_BYTES": len(text), "MAX_TOLD_CHARACTERS": 500}
    monkeypatch.setattr(licenses, bound, per_package[bound])
    names = [f"p{n:02}" for n in range(12)]
    sbom = listed(store, status(*names), *(copyright_of(name, text) for name in names))
    told = declared(sbom)
    assert told["p00"] == "LicenseRef-odd"
    assert told["p11"] == "NOASSERTION"
    (why,) = sbom.left_out
    assert why.endswith("/copyright: licenses of this package and those after it")
