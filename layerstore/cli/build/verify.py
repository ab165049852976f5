"""``build --verify``: builds twice, and shows people where two builds begin to differ."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from layerstore.build.verify import NotReproducibleError, require_repeatable, verify
from layerstore.cli.build.elsewhere import elsewhere, told
from layerstore.cli.output import write_json, write_line

if TYPE_CHECKING:
    from layerstore.build.request import BuildRequest
    from layerstore.build.ui import BuildUi
    from layerstore.build.verify import Difference
    from layerstore.store.store import Store


def verified(store: Store, request: BuildRequest, ui: BuildUi, *, as_json: bool) -> BuildRequest:
    """Return the request that makes the verified image from the cache.

    Raises:
        NotReproducibleError: Two builds differ; where was printed.
    """
    require_repeatable(request)
    ui.message(f"verify: the second build gets {told()}")
    found = verify(store, request, ui, elsewhere=elsewhere)
    if found.difference is None:
        ui.message(f"verified: two builds without the cache made {found.result.image_id}")
        return msgspec.structs.replace(found.request, no_cache=False, no_cache_stages=())
    if as_json:
        write_json({"reproducible": False, **_as_json(found.difference)})
    else:
        for line in report(found.difference):
            write_line(line)
    difference = found.difference
    where = f"{difference.place}: " if difference.place else ""
    path = difference.path or "whether it changes anything"
    raise NotReproducibleError(
        f"{where}two builds of {difference.step} differ in {path}",
        hint=difference.hint,
    )


def report(difference: Difference) -> list[str]:
    """Return the lines that tell a difference."""
    lines = [
        f"step   {difference.step}",
        f"place  {difference.place or 'none'}",
        f"layers {difference.first_layer or 'none'}",
        f"       {difference.second_layer or 'none'}",
    ]
    if difference.path:
        lines.append(f"path   {difference.path}")
    for field in difference.fields:
        at = f" from byte {field.offset}" if field.offset is not None else ""
        lines += [f"  {field.field}{at}", f"    first  {field.first}", f"    second {field.second}"]
    if difference.other_paths:
        lines.append(f"{difference.path_count - 1} more files differ:")
        lines += [f"  {path}" for path in difference.other_paths]
    return lines


def _as_json(difference: Difference) -> dict[str, object]:
    return {
        "step": difference.step,
        "place": difference.place,
        "layers": [difference.first_layer, difference.second_layer],
        "path": difference.path,
        "fields": [
            {
                "field": field.field,
                "first": field.first,
                "second": field.second,
                **({"offset": field.offset} if field.offset is not None else {}),
            }
            for field in difference.fields
        ],
        "other_paths": list(difference.other_paths),
        "count": difference.path_count,
        "hint": difference.hint,
    }
