"""Whether Ray can be used here, asked in a process of its own: ``autotune.probing.ask("autotune.runner.probe", ...)``."""

from __future__ import annotations

import warnings

from autotune.probing import Facts, answer
from autotune.runner.session import knock, ray_environment


def ray_facts(address: str = "") -> Facts:
    """version. Or error: Ray cannot be imported, or nobody listens at the address of a cluster. Starts nothing."""
    with ray_environment(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            import ray
            from ray import tune
        except ImportError as error:
            return {"error": f"Ray cannot be imported: {error}"}
    if address:
        try:
            knock(_running() if address == "auto" else address)
        except (OSError, ValueError) as error:
            return {"version": ray.__version__, "error": f"No Ray cluster answers at {address!r}: {error}"}
    return {"version": ray.__version__, "tune": tune.__name__}


def _running() -> str:
    """host:port of the cluster that "auto" means, found as ``ray.init`` finds it.

    Raises:
        OSError: none runs on this machine, or several do.
    """
    from ray._private.services import canonicalize_bootstrap_address_or_die  # no public name tells without joining it

    return str(canonicalize_bootstrap_address_or_die("auto"))


if __name__ == "__main__":
    answer({"ray": ray_facts})
