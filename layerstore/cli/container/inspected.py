"""What ``inspect`` says of containers, as docker's JSON has it."""

from __future__ import annotations

from layerstore.cli.container.ps import docker_time, status_of
from layerstore.containers.lifecycle import settle
from layerstore.containers.records import directory_of, upper_of
from layerstore.containers.states import PAUSED, RESTARTING, RUNNING, health_of
from layerstore.light_typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from layerstore.containers.records import Container
    from layerstore.containers.settings import HealthCheck
    from layerstore.containers.states import State


def inspect_container(root: str, container: Container) -> dict[str, Any]:
    """Return what docker's ``inspect`` says of a container, as far as it means something here."""
    state = settle(root, container)
    status = status_of(container, state)
    settings = container.settings
    return {
        "Id": container.container_id,
        "Created": docker_time(container.created),
        "Path": settings.args[0],
        "Args": list(settings.args[1:]),
        "State": {
            "Status": status,
            "Running": state.status == RUNNING,
            "Paused": status == PAUSED,
            "Restarting": state.status == RESTARTING,
            "OOMKilled": state.oom_killed,
            "Dead": False,
            "Pid": state.pid,
            "ConmonPid": state.monitor,
            "ExitCode": state.exit_code,
            "Error": state.error,
            "StartedAt": docker_time(state.started),
            "FinishedAt": docker_time(state.finished),
            **_inspect_health(container, state),
        },
        "Image": container.image_id,
        "ImageName": container.image,
        "Name": f"/{container.name}",
        "RestartCount": state.restarts,
        "LogPath": f"{directory_of(root, container.container_id)}/log",
        "HostConfig": _host_config(container),
        "GraphDriver": {
            "Name": "layerstore",
            "Data": {"UpperDir": f"{upper_of(root, container.container_id)}/upper"},
        },
        "Mounts": [
            {
                "Type": mount.kind,
                "Name": mount.source if mount.kind == "volume" else "",
                "Source": f"{root}/volumes/{mount.source}/_data"
                if mount.kind == "volume"
                else mount.source,
                "Destination": mount.target,
                "RW": "ro" not in mount.options,
            }
            for mount in settings.mounts
        ],
        "Config": {
            "Hostname": settings.hostname,
            "User": settings.user,
            "Tty": settings.tty,
            "OpenStdin": settings.interactive,
            "Env": list(settings.env),
            "Cmd": list(settings.args),
            "Image": container.image,
            "WorkingDir": settings.cwd,
            "Labels": dict(settings.labels),
            "StopSignal": str(settings.stop_signal),
            "StopTimeout": settings.stop_timeout_s,
            **_inspect_check(settings.health),
        },
    }


def _inspect_health(container: Container, state: State) -> dict[str, Any]:
    health = health_of(container) if state.status == RUNNING else None
    if health is None:
        return {}
    checks = [
        {
            "Start": docker_time(check["start"]),
            "End": docker_time(check["end"]),
            "ExitCode": check["exit_code"],
            "Output": check["output"],
        }
        for check in health.checks
    ]
    found = {"Status": health.status, "FailingStreak": health.failures, "Log": checks}
    return {"Health": found}


def _inspect_check(check: HealthCheck | None) -> dict[str, Any]:
    if check is None:
        return {}
    return {
        "Healthcheck": {
            "Test": ["CMD", *check.args],
            "Interval": int(check.interval_s * 1e9),
            "Timeout": int(check.timeout_s * 1e9),
            "StartPeriod": int(check.start_period_s * 1e9),
            "StartInterval": int(check.start_interval_s * 1e9),
            "Retries": check.retries,
        }
    }


def _host_config(container: Container) -> dict[str, Any]:
    settings = container.settings
    limits = settings.limits
    return {
        "NetworkMode": settings.network,
        "RestartPolicy": {"Name": settings.restart, "MaximumRetryCount": settings.restart_max},
        "AutoRemove": settings.auto_remove,
        "Privileged": settings.privileged,
        "ReadonlyRootfs": settings.read_only,
        "CapAdd": list(settings.cap_add),
        "CapDrop": list(settings.cap_drop),
        "ExtraHosts": [f"{name}:{address}" for name, address in settings.extra_hosts],
        "Dns": list(settings.dns),
        "UsernsMode": settings.userns,
        "Init": bool(settings.init),
        "Memory": limits.memory,
        "MemorySwap": limits.memory_swap,
        "MemoryReservation": limits.memory_reservation,
        "MemorySwappiness": None if limits.memory_swappiness < 0 else limits.memory_swappiness,
        "BlkioWeight": limits.blkio_weight,
        "IpcMode": settings.ipc,
        "CpuPeriod": limits.cpu_period,
        "CpuQuota": limits.cpu_quota,
        "CpuShares": limits.cpu_shares,
        "CpusetCpus": limits.cpuset_cpus,
        "CpusetMems": limits.cpuset_mems,
        "PidsLimit": settings.pids,
        "ShmSize": limits.shm_size or 64 << 20,
        "CgroupParent": limits.cgroup_parent,
        "Runtime": settings.runtime,
        "LogConfig": {
            "Type": "k8s-file" if settings.log_max_bytes >= 0 else "none",
            "Config": {
                "max-size": str(settings.log_max_bytes or -1), "max-file": str(settings.log_files)
            },
        },
    }  # fmt: skip
