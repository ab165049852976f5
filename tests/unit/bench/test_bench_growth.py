"""Growth: what a Dockerfile of a derived tree adds and removes, and the tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.bench.growth import contexts, differences, dockerfile, report
from tests.bench.manifest import manifest_of

if TYPE_CHECKING:
    from pathlib import Path


def _tree(place: Path, files: dict[str, str]) -> Path:
    for path, content in files.items():
        target = place / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(content)
    return place


def test_differences_are_what_is_new_or_changed_and_the_topmost_of_what_is_gone(
    tmp_path: Path,
) -> None:
    one = _tree(tmp_path / "1", {"same/a": "a", "old/b": "b", "old/c": "c", "etc/d": "1"})
    two = _tree(tmp_path / "2", {"same/a": "a", "etc/d": "2", "new/e": "e"})
    before, after = manifest_of(one), manifest_of(two)
    after[b"same/a"] = before[b"same/a"]  # its time, too
    assert differences(before, after) == ([b"etc/d", b"new", b"new/e"], [b"old"])
    assert differences({}, after)[1] == []


def test_a_dockerfile_removes_only_what_is_gone() -> None:
    assert dockerfile(None, []) == 'FROM scratch\nADD changes.tar /\nCMD ["sh"]\n'
    assert dockerfile("01-base", [b"etc/x y"]).splitlines() == [
        "FROM 01-base:1",
        "ADD changes.tar /",
        'RUN ["rm", "-rf", "--", "/etc/x y"]',
        'CMD ["sh"]',
    ]


def test_contexts_hold_the_changes_of_each_tree_to_the_one_it_is_made_of(tmp_path: Path) -> None:
    base = _tree(tmp_path / "related" / "01-base", {"a": "a" * 9000})
    app = _tree(tmp_path / "related" / "02-python", {"a": "a" * 9000, "b": "b"})
    (app / "a").unlink()
    (app / "a").hardlink_to(base / "a")
    (base / "c").hardlink_to(base / "a")
    (app / "c").hardlink_to(base / "a")
    made = contexts([base, app], tmp_path / "contexts")
    assert [place.name for place in made] == ["01-base", "02-python"]
    sizes = [(place / "changes.tar").stat().st_size for place in made]
    assert sizes[0] > 9000
    assert sizes[1] > 0
    assert (made[1] / "Dockerfile").read_text().startswith("FROM 01-base:1\n")


def test_tables_are_sorted_by_what_everybody_holds_at_the_end() -> None:
    figures = {
        "images": ["01-base", "02-python"],
        "trees": {
            "docker load": {"disk": [2e6, 4e6], "cpu_seconds": [1.0, 1.5]},
            "layerstore": {"disk": [1e6, 1.5e6], "cpu_seconds": [0.5, 0.5]},
            "layerstore, optimized": {"disk": [1e6], "cpu_seconds": [9.0]},
        },
        "builds": {},
    }
    lines = report(figures).splitlines()
    assert lines[0].split() == ["trees,", "MB", "01", "02", "CPU", "s"]
    assert [line.split()[0] for line in lines[1:4]] == ["layerstore,", "layerstore", "docker"]
    assert lines[1].split()[-3:] == ["-", "1", "9.0"]
