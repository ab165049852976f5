"""What ``optimize`` would make of a store, found out by doing it to a copy.

A prediction would be a guess: what resembles what shows when it is compressed. The copy has the
store's packs as further names of the same files where it can (they are never written
again), so that it takes the room of what optimizing writes anew.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from typing import TYPE_CHECKING

import msgspec

from layerstore.image.optimize import contents_in_order
from layerstore.measure.savings import compare
from layerstore.measure.survey import take_survey
from layerstore.store.collect.gc import execute, plan_gc
from layerstore.store.config import create_store
from layerstore.store.paths import StorePaths
from layerstore.store.rebuild.rebuild import rebuild_catalog
from layerstore.store.rewriting.optimize import OPTIMIZE_LEVEL, optimize
from layerstore.store.store import Store

if TYPE_CHECKING:
    from layerstore.measure.savings import Savings
    from layerstore.measure.survey import Survey
    from layerstore.progress import Progress


def optimized_savings(
    store: Store, survey: Survey, root: str, progress: Progress, level: int = OPTIMIZE_LEVEL
) -> Savings:
    """Return the same comparison as of an optimized copy of a store.

    Takes as long as ``optimize`` does: minutes of processor time a gigabyte, at level 9 a tenth.

    Args:
        store: The store; gc is kept from what the selection needs meanwhile.
        survey: The selection.
        root: Where the copy is made; nothing may be there. The caller removes it.
        progress: Told plain bytes that are written anew.
        level: Of zstd.

    Raises:
        IntegrityError: The store is damaged.
        StorageError: No room for the copy.
    """
    with store.begin("savings of an optimized copy") as session:
        layers = (diff_id for image in survey.inventory.images for diff_id in image.layers)
        session.hold_layers(list(dict.fromkeys(layers)))
        _copy(store.paths, root)
    rebuild_catalog(root, progress)
    with Store.open(root) as copy:
        names = copy.tags()
        for number, image in enumerate(survey.chosen):  # gc goes by names
            if image.image_id not in names.values():
                copy.tag(f"savings:{number}", image.image_id)
        _collect(copy, progress)
        optimize(copy, contents_in_order(copy), level=level, progress=progress)
        _collect(copy, progress)
    with Store.open(root) as copy:  # anew, without the log of who wrote
        chosen = [image.image_id for image in survey.chosen]
        again = take_survey(copy, chosen) if chosen else survey
    return msgspec.structs.replace(compare(again), optimize_level=level)


def _collect(copy: Store, progress: Progress) -> None:
    progress.start("collecting what is not needed", None)
    execute(plan_gc(copy, measure=False))
    progress.finish()


def _copy(paths: StorePaths, root: str) -> None:
    new = StorePaths(os.path.abspath(root))
    create_store(new)
    os.unlink(new.catalog)  # else the rebuild keeps it beside the new one, and it counts
    shutil.copyfile(paths.config, new.config)
    for old, there in ((paths.packs, new.packs), (paths.blobs, new.blobs)):
        _link_tree(old, there)
    with contextlib.suppress(FileNotFoundError):  # nothing was ever named
        shutil.copyfile(paths.names_log, new.names_log)


def _link_tree(old: str, new: str) -> None:
    """Give the files below a directory further names below another, or copy them."""
    for top, _, files in os.walk(old):
        target = os.path.normpath(f"{new}/{os.path.relpath(top, old)}")
        os.makedirs(target, mode=0o700, exist_ok=True)
        for name in files:
            with contextlib.suppress(FileNotFoundError):  # gc took it: nothing needs it
                _link(f"{top}/{name}", f"{target}/{name}")


def _link(old: str, new: str) -> None:
    try:
        os.link(old, new)
    except FileNotFoundError:
        raise
    except OSError:  # another file system, or one without links
        shutil.copyfile(old, new)
