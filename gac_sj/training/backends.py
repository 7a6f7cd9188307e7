"""The backends of joblib that distribute jobs, and how to reach a cluster."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from gac_sj._utils.errors import UsageError, first_sentence

__all__ = ["LOCAL", "TIME_LIMIT", "job_backend"]

#: joblib's backend for this machine: a thread for each job is enough, because a job only waits.
LOCAL = "threading"
#: Seconds that a cluster has to answer.
TIME_LIMIT = 30.0


class _Cluster(NamedTuple):
    """A connection to a cluster: joblib's keywords, and what ends it."""

    options: dict[str, Any]
    disconnect: Callable[[], object]


def _connect_dask(address: str) -> _Cluster:
    from distributed import Client

    client = Client(address, timeout=TIME_LIMIT, set_as_default=False)
    return _Cluster({"client": client, "wait_for_workers_timeout": TIME_LIMIT}, client.close)


def _connect_ray(address: str) -> _Cluster:
    import ray
    from ray.util.joblib import register_ray

    register_ray()
    ray.init(address=address)
    return _Cluster({}, ray.shutdown)


#: Backends that take the address of a cluster, and what connects to it.
_CONNECT = {"dask": _connect_dask, "ray": _connect_ray}
_PACKAGES = {"dask": "distributed", "ray": "ray"}


@contextmanager
def job_backend(name: str, address: str | None = None) -> Iterator[int]:
    """Have jobs done by a backend of joblib inside the block.

    Args:
        name: :data:`LOCAL`, "dask", "ray", or another one that is registered with joblib.
        address: of the cluster.

    Yields:
        The number of its cores.

    Raises:
        UsageError: joblib or the backend is not installed, the name is unknown, the address is missing or not needed,
            or nothing answers there in :data:`TIME_LIMIT` seconds.
    """
    try:
        import joblib
    except ImportError as error:
        raise UsageError(
            "needs the package joblib, which is not installed", "pip install 'gac_sj[benchmark]'", argument="jobs"
        ) from error
    cluster = _cluster(name, address)
    try:
        try:
            context = joblib.parallel_config(backend=name, **cluster.options)
        except ValueError as error:
            known = sorted({*joblib.parallel.BACKENDS, *_CONNECT})
            raise UsageError(
                f"must be a backend of joblib, got {name!r}", argument="backend", options=known, given=name
            ) from error
        with context:
            try:
                cores = joblib.effective_n_jobs(-1)
            except Exception as error:  # a cluster without machines
                raise UsageError(
                    f"{name!r} has no workers ({first_sentence(error)})", "start some", argument="backend"
                ) from error
            yield cores
    finally:
        cluster.disconnect()


def _cluster(name: str, address: str | None) -> _Cluster:
    """The cluster of a backend at an address; one without keywords for a backend that takes no address."""
    connect = _CONNECT.get(name)
    if connect is None:
        if address is not None:
            raise UsageError(
                f"cannot be used with backend={name}", f"leave it out, or name the backend {' or '.join(_CONNECT)}",
                argument="address",
            )  # fmt: skip
        return _Cluster({}, lambda: None)
    if address is None:
        raise UsageError(f"is needed by backend={name}", "give the address of your cluster", argument="address")
    found: list[_Cluster | Exception] = []

    def attempt() -> None:
        try:
            found.append(connect(address))
        except Exception as error:  # whatever a package raises
            found.append(error)

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(TIME_LIMIT)
    cluster = found[0] if found else TimeoutError(f"no answer in {TIME_LIMIT:g} seconds")
    if isinstance(cluster, ImportError):
        raise UsageError(
            f"{name!r} needs a package that is not installed ({first_sentence(cluster)})",
            f"pip install {_PACKAGES[name]}", argument="backend",
        ) from cluster  # fmt: skip
    if isinstance(cluster, Exception):
        raise UsageError(
            f"{address!r} cannot be reached by {name} ({first_sentence(cluster)})", "give that of a running cluster",
            argument="address",
        ) from cluster  # fmt: skip
    return cluster
