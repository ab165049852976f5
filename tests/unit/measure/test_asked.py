"""What images ask pip for, in words and files, and the versions that all of them allow."""

from __future__ import annotations

import pytest

from layerstore.measure.asked import agreed, asked_of, with_directory


def asked(*steps, **files):
    """What steps ask for over files; ``a_txt`` stands for ``/a.txt``."""
    known = {f"/{name.replace('_', '.')}": text.encode() for name, text in files.items()}
    found = asked_of(steps, known.get)
    return {name: ",".join(sorted(map(str, some))) for name, some in found.items()}


@pytest.mark.parametrize(
    "step",
    [
        "RUN pip install 'Flask>=3' rich==15",
        "RUN set -e; /opt/venv/bin/pip3.11 install --no-cache-dir 'Flask>=3' rich==15 && rm x",
        "RUN python3 -m pip install -i https://x/simple 'Flask >=3' ./local rich==15",
        "RUN pip install -r a.txt",
        "RUN pip install --requirement=a.txt",
        "RUN cd / && pip install -ra.txt",
        "RUN (pip install -c a.txt)",
    ],
)
def test_requirements_are_found_however_pip_is_called(step):
    text = "# ours\nFlask >= 3  # web\nrich==15 \\\n    --hash=sha256:00\n--no-binary :all:\n"
    assert asked("WORKDIR /srv", "WORKDIR /", step, a_txt=text) == {"flask": ">=3", "rich": "==15"}


def test_files_that_files_name_are_read_and_all_that_is_said_of_a_package_counts():
    found = asked("RUN pip install -r a.txt x!=2", a_txt="-r b.txt\nx<9\n", b_txt="X_y\nx>1\n")
    assert found == {"x": "!=2,<9,>1", "x-y": ""}


@pytest.mark.parametrize(
    "step",
    [
        "RUN pip install -r none.txt x==1",
        "RUN pip install -r loop.txt",
        "RUN pip install 'x==1",
        "RUN pip install -r",
        "RUN pip download x==1",
        "COPY pip install x==1",
        "RUN apt-get install x==1 python3-pip",
    ],
)
def test_what_is_not_understood_says_nothing(step):
    assert asked(step, loop_txt="-r loop.txt\nx==1\n") == {}


def test_a_file_that_was_mounted_is_read_in_the_directory_of_the_spec(tmp_path):
    (tmp_path / "a.txt").write_text("x<3\n")
    (tmp_path / "link.txt").symlink_to("/etc/passwd")
    read = with_directory(lambda _: None, tmp_path)
    assert list(asked_of(["RUN pip install -r /tmp/a.txt"], read)) == ["x"]
    for name in ("none.txt", "link.txt", ".", "a\0"):
        assert read(f"/tmp/{name}") is None
    assert with_directory(lambda _: b"y", tmp_path)("/tmp/a.txt") == b"y"


def test_the_highest_version_that_all_allow():
    one, two = (asked_of([f"RUN pip install '{word}'"], {}.get) for word in ("x<=2.31", "X>=2"))
    assert agreed("x", ["2.9", "2.31", "2.32"], [one, two]) == "2.31"
    assert agreed("x", ["2.32", "1.0"], [one, two]) == ""
    assert agreed("x", ["2.31"], [one, {}]) == ""  # who has it by way of another package
    assert agreed("x", ["no version", "2.31"], [one, two]) == ""
