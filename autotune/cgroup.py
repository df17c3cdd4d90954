"""The memory limit of the control group that this process runs in (a container's, a batch system's), versions 1 and 2."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath


@dataclass(frozen=True)
class GroupMemory:
    """limit_bytes: the tightest limit on the way to the root; where version 2 throttles a group before it reaches its limit
    (``memory.high``), that is the limit: a process beyond it hardly gets on. free_bytes: what is left under it; page cache that the
    kernel would drop counts as free."""

    limit_bytes: int
    free_bytes: int


def group_memory(
    membership: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup"), machine_bytes: int | None = None
) -> GroupMemory | None:
    """The limit that binds this process, or None where there is none.

    membership: the file that names this process's groups. root: where the hierarchy is mounted. machine_bytes: limits
    at or above this bind nothing and are left out (version 1 writes a huge number for "none").

    What cannot be read as the kernel writes it is unknown: a line or a limit of that kind is left out, and such a statistic
    frees nothing.
    """
    found: list[GroupMemory] = []
    for line in _lines(membership):
        _, _, rest = line.partition(":")
        controllers, told, path = rest.partition(":")
        if not told:
            continue
        if controllers == "":
            found += _limits(root, path, ("memory.max", "memory.high"), "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            mount = root / "memory"
            found += _limits(mount, path, ("memory.limit_in_bytes",), "memory.usage_in_bytes", "total_inactive_file")
    found = [group for group in found if machine_bytes is None or group.limit_bytes < machine_bytes]
    if not found:
        return None
    return GroupMemory(min(group.limit_bytes for group in found), min(group.free_bytes for group in found))


def _limits(
    mount: Path, path: str, limit_names: tuple[str, ...], usage_name: str, cache_name: str
) -> list[GroupMemory]:
    """Limits of a group and of all groups above it. Inside a container the path is the host's and does not exist here;
    the mount's own root is the container's group then."""
    found = []
    group = PurePosixPath(path.lstrip("/"))
    for folder in dict.fromkeys([group, *group.parents, PurePosixPath(".")]):
        here = mount / folder
        limits = [limit for name in limit_names if (limit := _number(here / name)) is not None]
        usage = _number(here / usage_name)
        if not limits or usage is None:
            continue
        limit = min(limits)
        found.append(GroupMemory(limit, max(0, limit - usage + _statistic(here / "memory.stat", cache_name))))
    return found


def _number(file: Path) -> int | None:
    """None where there is no such file or no number in it: "max" means no limit."""
    lines = _lines(file)
    return _count(lines[0]) if lines else None


def _statistic(file: Path, name: str) -> int:
    told = (line.removeprefix(name + " ") for line in _lines(file) if line.startswith(name + " "))
    return next((count for text in told if (count := _count(text)) is not None), 0)


def _count(text: str) -> int | None:
    text = text.strip()
    return int(text) if text.isascii() and text.isdigit() else None


def _lines(file: Path) -> list[str]:
    """No line where it cannot be read."""
    try:
        return file.read_text(errors="replace").splitlines()
    except OSError:
        return []
