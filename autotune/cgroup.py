"""The memory limit of the control group that this process runs in (a container's, a batch system's), versions 1 and 2."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath


@dataclass(frozen=True)
class GroupMemory:
    """limit_bytes: the tightest limit on the way to the root. free_bytes: what is left under it; page cache that the
    kernel would drop counts as free."""

    limit_bytes: int
    free_bytes: int


def group_memory(
    membership: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup"), machine_bytes: int | None = None
) -> GroupMemory | None:
    """The limit that binds this process, or None where there is none.

    membership: the file that names this process's groups. root: where the hierarchy is mounted. machine_bytes: limits
    at or above this bind nothing and are left out (version 1 writes a huge number for "none").
    """
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return None
    found: list[GroupMemory] = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            found += _limits(root, path, "memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            mount = root / "memory"
            found += _limits(mount, path, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    found = [group for group in found if machine_bytes is None or group.limit_bytes < machine_bytes]
    if not found:
        return None
    return GroupMemory(min(group.limit_bytes for group in found), min(group.free_bytes for group in found))


def _limits(mount: Path, path: str, limit_name: str, usage_name: str, cache_name: str) -> list[GroupMemory]:
    """Limits of a group and of all groups above it. Inside a container the path is the host's and does not exist here;
    the mount's own root is the container's group then."""
    found = []
    group = PurePosixPath(path.lstrip("/"))
    for folder in dict.fromkeys([group, *group.parents, PurePosixPath(".")]):
        here = mount / folder
        limit = _number(here / limit_name)
        usage = _number(here / usage_name)
        if limit is None or usage is None:
            continue
        found.append(GroupMemory(limit, max(0, limit - usage + _statistic(here / "memory.stat", cache_name))))
    return found


def _number(file: Path) -> int | None:
    try:
        text = file.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None  # "max" means no limit


def _statistic(file: Path, name: str) -> int:
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(name + " ")), 0)
