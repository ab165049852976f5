"""Many views of a few images: what a view costs does not grow with how many there are.

The shape of `tests/bench/views.py` with fewer views. Capabilities: root; fuse for FUSE.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support.views import (
    BACKENDS,
    image_of,
    loop_devices_below,
    needs_root,
    undo_all_mounts,
)

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [*needs_root, pytest.mark.parametrize("backend", BACKENDS)]

IMAGES = 5
VIEWS = 40

LIFE = """
import json, os, sys
opened, starts = [], []
def heard(event, arguments):
    if event == "open" and isinstance(arguments[0], (str, bytes)):
        opened.append(os.fsdecode(arguments[0]))
    elif event in ("os.posix_spawn", "subprocess.Popen", "os.fork"):
        starts.append(event)
sys.addaudithook(heard)

from fuse_mount import mounts
from layerstore.linux.mounts import identify
from layerstore.store.store import Store

root, backend, base, views, images = *sys.argv[1:4], *map(int, sys.argv[4:])
with Store.open(root) as store:
    shown = [store.resolve(f"image-{number}:1") for number in range(images)]
targets = [f"{base}/{number}" for number in range(views)]

def mount(number):
    image = shown[number % images]
    mounts.mount(root, image, targets[number], rw=True, backend=backend)

for number in range(images):
    mount(number)
def asked():
    return [path for path in opened if path.endswith(("/mountinfo", "/mounts", "/mtab"))]
first = asked()
del opened[:], starts[:]
for number in range(images, views):
    mount(number)
contents = [open(f"{target}/own").read() for target in targets]
states = [item.state for item in mounts.mounts(root)]
for target in targets[: views // 2]:
    with open(f"{target}/new", "w") as file:
        file.write(target)
for target in targets[: views - images]:
    mounts.unmount(root, target)
told = {
    "contents": contents,
    "states": states,
    "tables": asked(),
    "starts": starts,
    "left": [target for target in targets if identify(target).is_root],
    "table": open("/proc/self/mountinfo").read().count(root),
    "reads": len(opened),
}
for target in targets[views - images :]:
    mounts.unmount(root, target)
told["table_after"] = open("/proc/self/mountinfo").read().count(root)
told["listed_after"] = len(mounts.mounts(root))
print(json.dumps(told))
"""


def test_no_operation_reads_the_mount_table(tmp_path: Path, backend: str) -> None:
    store = tmp_path / "store"
    for number in range(IMAGES):
        tree = tmp_path / f"tree-{number}"
        tree.mkdir()
        (tree / "own").write_text(str(number))
        (tree / "shared").write_bytes(b"in every image" * 1000)
        image_of(store, tree, f"image-{number}:1")
    base = tmp_path / "views"
    for number in range(VIEWS):
        (base / str(number)).mkdir(parents=True)
    command = [sys.executable, "-c", LIFE, str(store), backend, str(base)]
    try:
        done = subprocess.run(
            [*command, str(VIEWS), str(IMAGES)], capture_output=True, check=True, text=True
        )
        devices = loop_devices_below(tmp_path)
    finally:
        undo_all_mounts(store)
    told = json.loads(done.stdout)
    assert told["contents"] == [str(number % IMAGES) for number in range(VIEWS)]
    assert told["states"] == ["mounted"] * VIEWS
    assert told["tables"] == []
    assert told["starts"] == []
    assert devices == []
    assert told["left"] == [str(base / str(number)) for number in range(VIEWS - IMAGES, VIEWS)]
    assert told["table"] > 0
    assert (told["table_after"], told["listed_after"]) == (0, 0)
    assert os.listdir(store / "uppers") == []
    assert [os.listdir(base / str(number)) for number in range(VIEWS)] == [[]] * VIEWS
