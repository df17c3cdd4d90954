"""What a machine without a GPU has, also inside control groups."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from autotune.cgroup import GroupMemory, group_memory
from autotune.memory import device as device_module
from autotune.memory.device import available_device

GB = 1_000_000_000


def _write(folder: Path, **files: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(f"{content}\n")


def _membership(tmp_path: Path, *lines: str) -> Path:
    file = tmp_path / "membership"
    file.write_text("\n".join(lines) + "\n")
    return file


def test_the_tightest_limit_on_the_way_up_binds(tmp_path: Path) -> None:
    root = tmp_path / "fs"
    _write(root / "a", memory__max=4 * GB, memory__current=3 * GB, memory__stat="anon 5\ninactive_file 1000000000")
    _write(root / "a" / "b", memory__max="max", memory__current=GB)
    _write(root / "a" / "c", memory__max=3 * GB, memory__current=GB, memory__stat="inactive_file 0")
    assert group_memory(_membership(tmp_path, "0::/a/b"), root) == GroupMemory(4 * GB, 2 * GB)
    assert group_memory(_membership(tmp_path, "0::/a/c"), root) == GroupMemory(3 * GB, 2 * GB)


def test_version_one_and_its_number_for_none(tmp_path: Path) -> None:
    root = tmp_path / "fs"
    _write(root / "memory" / "job", memory__limit_in_bytes=2 * GB, memory__usage_in_bytes=GB)
    _write(root / "memory", memory__limit_in_bytes=9223372036854771712, memory__usage_in_bytes=GB)
    membership = _membership(tmp_path, "4:cpu,memory:/job", "0::/")
    assert group_memory(membership, root, machine_bytes=64 * GB) == GroupMemory(2 * GB, GB)
    assert group_memory(_membership(tmp_path, "4:memory:/"), root, machine_bytes=64 * GB) is None


def test_inside_a_container_the_hosts_path_does_not_exist(tmp_path: Path) -> None:
    root = tmp_path / "fs"
    _write(root, memory__max=2 * GB, memory__current=GB)
    assert group_memory(_membership(tmp_path, "0::/system.slice/docker-1.scope"), root) == GroupMemory(2 * GB, GB)


def test_a_group_that_is_throttled_before_its_limit_ends_there(tmp_path: Path) -> None:
    root = tmp_path / "fs"
    _write(root / "a", memory__max=4 * GB, memory__high=3 * GB, memory__current=GB)
    _write(root / "b", memory__max="max", memory__high=3 * GB, memory__current=4 * GB)
    _write(root / "c", memory__max=4 * GB, memory__high="max", memory__current=GB)
    _write(root / "d", memory__max=2 * GB, memory__high=3 * GB, memory__current=GB)
    found = [group_memory(_membership(tmp_path, f"0::/{name}"), root) for name in "abcd"]
    assert found == [
        GroupMemory(3 * GB, 2 * GB),
        GroupMemory(3 * GB, 0),
        GroupMemory(4 * GB, 3 * GB),
        GroupMemory(2 * GB, GB),
    ]


def test_what_is_not_as_the_kernel_writes_it_is_unknown(tmp_path: Path) -> None:
    root = tmp_path / "fs"
    stat = "inactive_file\ninactive_file many\ninactive_file 500000000"
    _write(root / "a", memory__max=4 * GB, memory__high="\u00b2", memory__current=3 * GB, memory__stat=stat)
    _write(root / "b", memory__max="\u00b2", memory__current=GB)
    _write(root / "c", memory__max=GB, memory__current="")
    _write(root / "d", memory__max=4 * GB, memory__current=3 * GB, memory__stat="inactive_file many")
    known = GroupMemory(4 * GB, GB + GB // 2)
    assert group_memory(_membership(tmp_path, "", "no colon", "0:one", "0::/a", "0"), root) == known
    for nothing in ("0::/b", "0::/c", "one:line", ""):
        assert group_memory(_membership(tmp_path, nothing), root) is None
    assert group_memory(_membership(tmp_path, "0::/d"), root) == GroupMemory(4 * GB, GB)
    (root / "a" / "memory.max").write_bytes(b"\xff\xfe")
    assert group_memory(_membership(tmp_path, "0::/a"), root) is None
    broken = tmp_path / "broken"
    broken.write_bytes(b"0::/\xff\n0::/d\n")
    assert group_memory(broken, root) == GroupMemory(4 * GB, GB)


def test_without_groups_there_is_no_limit(tmp_path: Path) -> None:
    assert group_memory(tmp_path / "nowhere", tmp_path) is None
    assert group_memory(_membership(tmp_path, "0::/x"), tmp_path / "nowhere") is None


def test_this_machine() -> None:
    found = available_device({"CUDA_VISIBLE_DEVICES": ""})
    assert (found.kind, found.meter) == ("cpu", "process")
    assert 0 < found.free_bytes <= found.total_bytes <= psutil.virtual_memory().total
    assert found.name


def test_a_group_makes_the_machine_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_module, "group_memory", lambda machine_bytes: GroupMemory(machine_bytes // 4, 1000))
    found = available_device({"CUDA_VISIBLE_DEVICES": ""})
    assert found.total_bytes == psutil.virtual_memory().total // 4
    assert found.free_bytes == 1000
    assert "control group" in found.limited_by
