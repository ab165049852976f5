"""Frozen bytes of what names images: a change here changes every image id."""

from layerstore.digest import DiffId, sha256_digest
from layerstore.formats import oci
from layerstore.formats.oci_config import (
    ContainerConfig,
    History,
    ImageConfig,
    encode_config,
)

CONFIG = ImageConfig(
    architecture="amd64",
    created="2026-11-23T00:00:00Z",
    config=ContainerConfig(
        env=("PATH=/usr/bin:/bin",),
        cmd=("bash",),
        labels={"z": "<&>", "a": "é"},
        exposed_ports=("80/tcp",),
    ),
    diff_ids=(DiffId(sha256_digest(b"layer")),),
    history=(History(created="2026-11-23T00:00:00Z", created_by="layerstore import"),),
)

CONFIG_TEXT = (
    '{"architecture":"amd64","config":{"Cmd":["bash"],"Env":["PATH=/usr/bin:/bin"],'
    '"ExposedPorts":{"80/tcp":{}},"Labels":{"a":"é","z":"<&>"}},'
    '"created":"2026-11-23T00:00:00Z",'
    '"history":[{"created":"2026-11-23T00:00:00Z","created_by":"layerstore import"}],'
    '"os":"linux","rootfs":{"diff_ids":['
    '"sha256:dac1d7cfa95021764849fd102524e141488c5e3a90f861dbb5a12d9ac8584f85"],'
    '"type":"layers"}}'
)


def test_config_bytes():
    assert encode_config(CONFIG).decode() == CONFIG_TEXT


def test_image_id():
    assert sha256_digest(encode_config(CONFIG)) == (
        "sha256:7de40019a3f189bb384ff41debea0af060f1ef1f8d40f2295c75b02a50601529"
    )


def test_manifest_bytes():
    config = oci.describe(encode_config(CONFIG), oci.CONFIG_TYPE)
    layer = oci.Descriptor(media_type=oci.LAYER_TAR_TYPE, digest=CONFIG.diff_ids[0], size=10240)
    manifest = oci.encode_manifest(oci.Manifest(config=config, layers=(layer,)))
    assert sha256_digest(manifest) == (
        "sha256:b1b9b726ff1ea8b84eff21293b6bba32952604ad762112256c0b5babc6322c78"
    )
