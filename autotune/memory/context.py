"""What a CUDA context takes of a GPU beside torch's allocator: measured bytes where there are any, else one stated figure.

The context, torch's kernels once they are loaded and the libraries' own memory stand outside the allocator and count in
the device's figure. How much that is depends on torch (how many kernels it brings), on the device and on the driver.
A measurement is the device figure of a trial less its reserved bytes, after its rehearsal.
"""

from __future__ import annotations

# A CUDA context with torch's kernels loaded takes 300 to 600 MB; the upper end, where none was measured.
DEFAULT_CONTEXT_BYTES = 600_000_000

# (torch's major and minor version, device, driver's major version): bytes. None has been measured yet. An empty string
# stands for any.
MEASURED: dict[tuple[str, str, str], int] = {}


def context_bytes(torch_version: str = "", device_name: str = "", driver: str = "") -> int:
    """Bytes outside the allocator: of the most telling entry that fits, else :data:`DEFAULT_CONTEXT_BYTES`.

    torch_version, driver: as they call themselves (``2.13.0+cu130``, ``580.65.06``); only the leading numbers count. device_name:
    as NVML shows it. What is left empty is not known, and then only entries that hold for any fit.
    """
    version = ".".join(torch_version.split("+")[0].split(".")[:2])
    major = driver.split(".")[0]
    for wanted in (
        (version, device_name, major),
        (version, device_name, ""),
        ("", device_name, major),
        ("", device_name, ""),
        (version, "", ""),
    ):
        if any(wanted) and wanted in MEASURED:
            return MEASURED[wanted]
    return DEFAULT_CONTEXT_BYTES
