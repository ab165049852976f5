"""The build command."""

from __future__ import annotations

import os
from pathlib import Path  # noqa: TC003 -- typer reads the annotations
from typing import Annotated

import msgspec
import typer

from layerstore.cli.build import cache_options, run_options, ssh_options
from layerstore.cli.build.request import NETWORKS, new_request, with_results
from layerstore.cli.build.values import with_values
from layerstore.cli.common import Json, Quiet, settings_of
from layerstore.cli.parsing.limit_values import parse_extra_hosts, parse_limits
from layerstore.cli.rootless.own_namespace import become_root
from layerstore.errors import InputError

PROGRESS = "auto|plain|tty|quiet|json"

_Many = list[str] | None


def register(app: typer.Typer) -> None:
    """Add this noun's commands."""
    app.command("build")(build_image)


def build_image(
    context: typer.Context,
    directory: Annotated[
        str,
        typer.Argument(
            metavar="CONTEXT",
            help="What COPY and ADD take from: a directory, a git or HTTP URL, - for a tar or a "
            "Dockerfile on stdin.",
        ),
    ],
    *,
    tags: Annotated[
        _Many, typer.Option("--tag", "-t", metavar="NAME", help="Name of the image; repeatable.")
    ] = None,
    file: Annotated[
        str | None,
        typer.Option(
            "--file",
            "-f",
            metavar="FILE",
            help="The Dockerfile, - for stdin, or an HTTP URL; or a native spec, FILE.toml. By "
            "default CONTEXT/Dockerfile, else CONTEXT/layerstore.toml.",
        ),
    ] = None,
    named_contexts: Annotated[
        _Many,
        typer.Option(
            "--build-context",
            metavar="NAME=VALUE",
            help="Put in the place of a stage's or image's name: a directory, a git or HTTP URL, "
            "docker-image://NAME, oci-layout://DIR:TAG, target:STAGE. Repeatable.",
        ),
    ] = None,
    build_args: Annotated[
        _Many,
        typer.Option(
            "--build-arg",
            metavar="NAME[=VALUE]",
            help="Value of an ARG; without a value the environment's. Repeatable.",
        ),
    ] = None,
    target: Annotated[
        str | None, typer.Option(metavar="STAGE", help="Stage to build; the last by default.")
    ] = None,
    platform: Annotated[
        _Many,
        typer.Option(
            metavar="OS/ARCH[/VARIANT],...",
            help="What the image is for, this host by default; an image for each of several.",
        ),
    ] = None,
    pull: Annotated[
        str,
        typer.Option(
            metavar="always|missing|never",
            help="Whether base images come from a registry; --pull alone means always.",
        ),
    ] = "missing",
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Run every step.")] = False,
    cache_from: cache_options.From = None,
    cache_to: cache_options.To = None,
    no_cache_filter: Annotated[
        _Many,
        typer.Option(
            "--no-cache-filter",
            metavar="STAGE[,STAGE]",
            help="Run every step of these stages. Repeatable.",
        ),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(metavar="N", help="Steps to run at the same time; the number of CPUs."),
    ] = None,
    secrets: Annotated[
        _Many,
        typer.Option(
            "--secret",
            metavar="id=ID[,src=FILE|,env=NAME]",
            help="For RUN --mount=type=secret; ends in no layer. Repeatable.",
        ),
    ] = None,
    ssh: ssh_options.Ssh = None,
    labels: Annotated[
        _Many, typer.Option("--label", metavar="NAME[=VALUE]", help="Label; repeatable.")
    ] = None,
    annotations: Annotated[
        _Many,
        typer.Option(
            "--annotation", metavar="NAME=VALUE", help="Of the image's manifest; repeatable."
        ),
    ] = None,
    network: Annotated[
        str, typer.Option(metavar="|".join(NETWORKS), help="Of RUN: the host's, or none.")
    ] = "default",
    allow: run_options.Allow = None,
    add_hosts: run_options.AddHost = None,
    memory: run_options.Memory = None,
    memory_swap: run_options.MemorySwap = None,
    cpus: run_options.Cpus = None,
    cpu_period: run_options.CpuPeriod = None,
    cpu_quota: run_options.CpuQuota = None,
    cpu_shares: run_options.CpuShares = None,
    cpuset_cpus: run_options.CpusetCpus = None,
    cpuset_mems: run_options.CpusetMems = None,
    shm_size: run_options.ShmSize = None,
    ulimits: run_options.Ulimits = None,
    cgroup_parent: run_options.CgroupParent = None,
    security_opts: run_options.SecurityOpt = None,
    isolation: run_options.Isolation = None,
    runtime: run_options.RuntimeName = None,
    check: Annotated[
        bool, typer.Option("--check", help="Check the Dockerfile instead of building it.")
    ] = False,
    call: Annotated[
        str,
        typer.Option(
            metavar="build|check|outline|targets",
            help="What to do with the Dockerfile: build it, check it, list what a target takes, or "
            "its targets.",
        ),
    ] = "build",
    plan: Annotated[
        str,
        typer.Option(
            metavar="text|dot|json",
            help="Print the build's graph instead of building; without a value as text.",
        ),
    ] = "",
    progress: Annotated[str, typer.Option(metavar=PROGRESS, help="How steps are shown.")] = "auto",
    explain: Annotated[
        bool, typer.Option("--explain", help="Say why each step that runs is not cached.")
    ] = False,
    outputs: Annotated[
        _Many,
        typer.Option(
            "--output",
            "-o",
            metavar="type=TYPE[,dest=PATH]",
            help="Where the result goes: image (the store), registry, oci, docker, tar, local. DIR "
            "alone is local, - a tar on stdout. Repeatable.",
        ),
    ] = None,
    squash: Annotated[
        bool, typer.Option("--squash", help="One layer instead of all new ones.")
    ] = False,
    squash_all: Annotated[
        bool, typer.Option("--squash-all", help="One layer, the base's included.")
    ] = False,
    provenance: Annotated[
        str | None,
        typer.Option(
            metavar="true|mode=min|mode=max", help="Attest how the image was made (SLSA)."
        ),
    ] = None,
    sbom: Annotated[
        str | None, typer.Option(metavar="true", help="Attest what packages it holds (SPDX).")
    ] = None,
    attest: Annotated[
        _Many,
        typer.Option(metavar="type=TYPE[,...]", help="provenance or sbom; repeatable."),
    ] = None,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify", help="Build twice without the cache; fail and show where if they differ."
        ),
    ] = False,
    variants: Annotated[
        _Many,
        typer.Option(
            "--variant",
            metavar="AXIS=VALUE[,...]",
            help="Of a native spec with a matrix: build these variants only. Repeatable.",
        ),
    ] = None,
    locked: Annotated[
        bool, typer.Option("--locked", help="Fail if the native spec's lock file is out of date.")
    ] = False,
    update_lock: Annotated[
        bool, typer.Option("--update-lock", help="Write the native spec's lock file first.")
    ] = False,
    iidfile: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where to write the image's id.")
    ] = None,
    metadata_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Where to write digests and names as JSON."),
    ] = None,
    push: run_options.Push = False,
    docker_habits: run_options.Habits = False,  # noqa: ARG001 -- scripts pass them
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Build an image from a Dockerfile or a native spec."""
    from layerstore.cli.build import again, told
    from layerstore.cli.build.attest_options import with_attestations
    from layerstore.cli.build.bases import registry_puller, with_bases
    from layerstore.cli.build.context import parse_named_contexts
    from layerstore.cli.build.output_options import uses_stdout
    from layerstore.cli.build.step_options import with_steps
    from layerstore.cli.build.ui import check_progress, watching
    from layerstore.cli.build.without_typer import build_and_remember
    from layerstore.cli.warm import fresh_images

    settings = settings_of(context)
    become_root(settings)
    request = new_request(directory, file, tags, target, no_cache=no_cache, network=network)
    request = plain = with_values(request, build_args, labels, secrets)
    limits = parse_limits(
        memory=memory,
        memory_swap=memory_swap,
        cpus=cpus,
        cpu_period=cpu_period,
        cpu_quota=cpu_quota,
        cpu_shares=cpu_shares,
        cpuset_cpus=cpuset_cpus,
        cpuset_mems=cpuset_mems,
        shm_size=shm_size,
        cgroup_parent=cgroup_parent,
        ulimits=ulimits or (),
    )
    request = msgspec.structs.replace(
        request,
        named_contexts=parse_named_contexts(named_contexts or ()),
        explain=explain,
        variants=tuple(variants or ()),
        locked=locked,
        cache_from=cache_options.parse_from(cache_from or (), settings.root),
        cache_to=cache_options.parse_to(cache_to or (), settings.root),
        allow=run_options.parse_allow(allow or ()),
        ssh=ssh_options.parse_ssh(ssh or (), os.environ),
        extra_hosts=parse_extra_hosts(add_hosts or ()),
        run=run_options.parse_run_options(limits, security_opts or (), isolation, runtime),
    )
    request = with_bases(request, platform or (), pull)
    request = with_attestations(request, attest or (), provenance, sbom)
    request = with_steps(request, no_cache_filter, jobs)
    request = with_results(
        request, outputs, annotations, push=push, squash=squash, squash_all=squash_all
    )
    check_progress(progress)
    if check or call != "build":
        from layerstore.cli.build import calls

        method, wants_json = calls.parse_call(call, check=check)
        if method != "build":
            code = calls.run_call(
                settings_of(context), request, method, as_json=as_json or wants_json
            )
            raise typer.Exit(code)
    if plan:
        from layerstore.cli.build import graph

        graph.print_plan(settings, request, "json" if as_json else plan)
        return
    request = msgspec.structs.replace(request, puller=registry_puller())
    is_stdout_taken = uses_stdout(outputs or ())
    if is_stdout_taken and as_json:
        raise InputError("--json needs stdout, which the output has", hint="--metadata-file FILE")
    told.forget(iidfile, metadata_file)
    with settings.open_store(create=True) as store, watching(progress, quiet=quiet) as ui:
        if verify:
            from layerstore.cli.build.verify import verified

            request = verified(store, request, ui, as_json=as_json)
        if update_lock:
            from layerstore.cli.build.native import write_lock

            write_lock(store, request, ui, quiet=quiet)
        asked = again.Asked(
            str(directory), tuple(tags or ()), tuple(build_args or ()), tuple(labels or ()),
            tuple(secrets or ()), file or "", target or "", network,
        )  # fmt: skip
        built = build_and_remember(store, request, plain, asked, ui)
    if any(each.pushes for each in request.outputs):
        from layerstore.cli.build.push import pushed

        built = pushed(settings, built, request.outputs, quiet=quiet)
    told.leave_files(built, iidfile, metadata_file)
    told.tell(built, progress=progress, quiet=quiet, as_json=as_json, id_too=not is_stdout_taken)
    fresh_images.tell(settings.root, told.stored(built))
