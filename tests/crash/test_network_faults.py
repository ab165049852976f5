"""F14: a registry that breaks, lies and dawdles while images are pulled from it and pushed to it.

Whatever it does, a pull ends with the image that was meant or with an error in words, never with
another image; a push ends with the image in the registry or with an error, and no manifest names
what is not there. Without the fault the same command succeeds with the same digest. Everything
takes place in this process, against the stub of ``tests/support/registry_stub.py``.
"""

from __future__ import annotations

import hashlib
import json
import random
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from layerstore.errors import LayerstoreError
from layerstore.formats import oci
from layerstore.formats.reference import parse_reference
from layerstore.image.exchange.copying import Copier
from layerstore.image.exchange.originals import Originals
from layerstore.image.exchange.registry_places import RegistryDestination, RegistrySource
from layerstore.image.exchange.sending import Policy
from layerstore.image.pulling import Puller
from layerstore.image.pushing import Pusher
from layerstore.progress import Silent
from layerstore.registry.credentials import Credentials
from layerstore.store.check.check import check
from layerstore.store.store import Store
from tests.crash.rig import campaign
from tests.support.layouts import COMPRESSORS, tar_of
from tests.support.registry_stub import (
    SECRET,
    USER,
    StubRegistry,
    World,
    altered,
    cut_at,
    says,
    slow,
    stub_registry,
)
from tests.support.store import noise, read_image

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.registry_stub import Stub

    Act = Callable[[Stub], bool | None]

LAYERS = [{f"f{n}": noise(n, 20_000 * (n + 1))} for n in range(3)]
FILES = [{path.encode(): data for path, data in layer.items()} for layer in LAYERS]
WHERE = ("manifests", "blobs", "blobs", "blobs", "token")


class Image(NamedTuple):
    """The image that is meant."""

    blobs: list[bytes]
    manifest: bytes

    @property
    def digest(self) -> str:
        return f"sha256:{hashlib.sha256(self.manifest).hexdigest()}"

    def put(self, stub: StubRegistry) -> None:
        stub.repositories.clear()
        for blob in self.blobs:
            stub.put_blob("a", blob)
        stub.put_manifest("a", self.manifest, "v1", oci.MANIFEST_TYPE)


def made_image() -> Image:
    tars = [tar_of(layer) for layer in LAYERS]
    packed = [COMPRESSORS["gzip"](tar) for tar in tars]
    config = json.dumps({
        "architecture": "amd64", "os": "linux",
        "rootfs": {"type": "layers",
                   "diff_ids": [f"sha256:{hashlib.sha256(tar).hexdigest()}" for tar in tars]},
    }).encode()  # fmt: skip
    manifest = oci.Manifest(
        config=oci.describe(config, oci.CONFIG_TYPE),
        layers=tuple(oci.describe(blob, oci.LAYER_GZIP_TYPE) for blob in packed),
    )
    return Image([config, *packed], oci.encode_manifest(manifest))


def lie(source: random.Random, body: bytes) -> bytes:
    """Return a body with one bit flipped."""
    if not body:
        return body
    data = bytearray(body)
    data[source.randrange(len(data))] ^= 1 << source.randrange(8)
    return bytes(data)


def forget_tokens(stub: Stub) -> bool:
    """Every token ends now; then answer."""
    stub.server.tokens[:] = ["-"] * (len(stub.server.tokens) + 1)
    return False


def act_of(source: random.Random, bait: StubRegistry) -> tuple[str, Act]:
    """Return something that goes wrong, and what to call it."""
    elsewhere = f"http://{bait.name}/v2/a/blobs/{'sha256:' + '0' * 64}"
    realm = f'Bearer realm="http://{bait.name}/token",service="stub"'
    kinds: list[tuple[str, Act]] = [
        ("cut", cut_at(source.choice((0, 5, 100, 200, source.randrange(200, 60_000))))),
        ("digest lie", altered(partial(lie, source), Docker_Content_Digest="")),
        ("short", altered(lambda body: body[: source.randrange(len(body) + 1)])),
        ("long", altered(lambda body: body + b"x")),
        ("5xx", says(source.choice((500, 502, 503, 504)))),
        ("429", says(429, Retry_After=source.choice(("0", "3", "1000000000", "never")))),
        ("4xx", says(source.choice((400, 403, 404, 410)))),
        ("one byte a second", slow(0.01)),
        ("elsewhere", says(307, Location=elsewhere)),
        ("circle", lambda stub: stub.answer(307, b"", {"Location": stub.path})),
        ("token expiry", forget_tokens),
        ("realm bait", says(401, WWW_Authenticate=realm)),
        ("basic bait", says(401, WWW_Authenticate='Basic realm="x"')),
        ("garbage", lambda stub: (stub.wfile.write(source.randbytes(300)), stub.hang_up())),
        ("range", says(206, b"x" * 10, Content_Range="bytes 0-9/10")),
    ]
    return source.choice(kinds)


def pulled(stub: StubRegistry, store: Store) -> str:
    """Pull, and return the digest that the image came under."""
    with World().client(Credentials(USER, SECRET), window_s=0.05, silence_s=30.0) as client:
        name = parse_reference(f"{stub.name}/a:v1")
        puller = Puller(
            store, client.repository(name), lambda _: True,
            originals=Originals.AUTO, progress=Silent(),
        )  # fmt: skip
        return puller.pull(name).digest


def test_a_pull_ends_right_or_in_words(tmp_path: Path) -> None:
    image = made_image()
    source = random.Random(f"{campaign.SEED} pull")
    with (
        stub_registry("bearer") as stub,
        stub_registry() as bait,
        campaign.tally("F14", "pull") as tally,
    ):
        image.put(stub)
        for number in range(campaign.amount(60, 1200, 6000)):
            path = source.choice(WHERE)
            name, act = act_of(source, bait)
            times = source.choice((1, 1, 2, 99))
            with tally.trial(f"{number} {name} of {path}, {times} times") as wanted:
                if wanted:
                    stub.faults.clear()
                    stub.tokens.clear()
                    stub.break_(path, act, times=times)
                    _judge_pull(tmp_path / str(number), stub, image)
                    assert stub.faults[0].times < times, "it was not asked for"
                tally.fired += 1
        assert not any(seen.authorization for seen in bait.requests)


def _judge_pull(root: Path, stub: StubRegistry, image: Image) -> None:
    name = f"{stub.name}/a:v1"
    with Store.open(root, create=True) as store:
        said = ""
        try:
            assert pulled(stub, store) == image.digest
        except LayerstoreError as err:
            said = str(err)
        assert SECRET not in said
        if said:
            assert name not in store.tags()
        else:
            assert read_image(store, name) == FILES
        fault = stub.faults[0]
        spent, fault.times = fault.times, 0
        assert pulled(stub, store) == image.digest
        assert read_image(store, name) == FILES
        assert check(store, read_data=False).ok
        fault.times = spent


def test_a_push_leaves_the_image_or_none(tmp_path: Path) -> None:
    image = made_image()
    source = random.Random(f"{campaign.SEED} push")
    with (
        stub_registry("bearer") as stub,
        stub_registry() as bait,
        Store.open(tmp_path / "store", create=True) as store,
        campaign.tally("F14", "push") as tally,
    ):
        image.put(stub)
        pulled(stub, store)
        for number in range(campaign.amount(30, 600, 3000)):
            path = source.choice(("uploads", "uploads", "manifests", "blobs", "token"))
            name, act = act_of(source, bait)
            times = source.choice((1, 1, 2, 99))
            with tally.trial(f"{number} {name} of {path}, {times} times") as wanted:
                if wanted:
                    stub.repositories.clear()
                    stub.faults.clear()
                    stub.tokens.clear()
                    stub.break_(path, act, times=times)
                    _judge_push(stub, store, image)
                tally.fired += 1
        assert not any(seen.authorization for seen in bait.requests)


def _judge_push(stub: StubRegistry, store: Store, image: Image) -> None:
    def push() -> str:
        with World().client(Credentials(USER, SECRET), window_s=0.05, silence_s=30.0) as client:
            there = parse_reference(f"{stub.name}/b:v1")
            destination = RegistryDestination(client.repository(there))
            pusher = Pusher(store, destination, Policy(), Silent())
            return pusher.push(store.resolve(f"{stub.name}/a:v1"), there).descriptor.digest

    said = ""
    try:
        assert push() == image.digest
        assert stub.repository("b").tags == {"v1": image.digest}
    except LayerstoreError as err:
        said = str(err)
    assert SECRET not in said
    _assert_consistent(stub, image)
    stub.faults[0].times = 0
    assert push() == image.digest
    assert stub.repository("b").tags == {"v1": image.digest}
    _assert_consistent(stub, image)


def _assert_consistent(stub: StubRegistry, image: Image) -> None:
    """Nothing in the registry names what is not there, or is not what it is called."""
    there = stub.repository("b")
    for digest, blob in there.blobs.items():
        assert f"sha256:{hashlib.sha256(blob).hexdigest()}" == digest
    for raw, _ in there.manifests.values():
        assert raw == image.manifest
        manifest = oci.decode_manifest(raw)
        assert {each.digest for each in (manifest.config, *manifest.layers)} <= set(there.blobs)


def test_a_copy_between_registries_that_break(tmp_path: Path) -> None:
    image = made_image()
    source = random.Random(f"{campaign.SEED} copy")
    with (
        stub_registry("bearer") as here,
        stub_registry("bearer") as there,
        stub_registry() as bait,
        campaign.tally("F14", "copy") as tally,
    ):
        image.put(here)
        for number in range(campaign.amount(10, 200, 1000)):
            name, act = act_of(source, bait)
            where = source.choice((here, there))
            with tally.trial(f"{number} {name}") as wanted:
                if wanted:
                    for stub in (here, there):
                        stub.faults.clear()
                        stub.tokens.clear()
                    there.repositories.clear()
                    where.break_(source.choice(WHERE), act, times=source.choice((1, 2, 99)))
                    _judge_copy(here, there, image)
                tally.fired += 1


def _judge_copy(here: StubRegistry, there: StubRegistry, image: Image) -> None:
    def copy() -> str:
        with World().client(Credentials(USER, SECRET), window_s=0.05, silence_s=30.0) as client:
            origin = RegistrySource(client.repository(parse_reference(f"{here.name}/a")))
            target = RegistryDestination(client.repository(parse_reference(f"{there.name}/b")))
            return Copier(origin, target, Silent()).copy("v1", "v1").digest

    said = ""
    try:
        assert copy() == image.digest
    except LayerstoreError as err:
        said = str(err)
    assert SECRET not in said
    _assert_consistent(there, image)
    for stub in (here, there):
        stub.faults.clear()
    assert copy() == image.digest
    _assert_consistent(there, image)
