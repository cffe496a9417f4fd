"""How a CPU backend uses this machine: threads, streams and batches, measured by ``lpcnet-edge tune`` or by default."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from lpcnet_edge.bundle.cache import get_artifact, put_artifact
from lpcnet_edge.config import from_mapping
from lpcnet_edge.errors import BadConfig, StaleCache
from lpcnet_edge.machine import ROOT, cgroup_cpus

_NAME = "tuning.json"


def allowed_cpus(root: Path = ROOT) -> int:
    """Cores that this process may use: those it may run on, and not more than control groups leave it whole time of.

    More threads than that would use up the time of a period (of 0.1 s, mostly) and then all stand still until the next.
    """
    cpus, limit = len(os.sched_getaffinity(0)), cgroup_cpus(root)
    return cpus if limit is None else max(1, min(cpus, int(limit)))


@dataclass(frozen=True, slots=True)
class Tuning:
    """The use of a machine.

    Attributes
    ----------
    threads
        Of all streams together.
    streams
        Batches computed side by side.
    batch
        The largest batch, a power of two; all smaller powers are prepared too.
    cpus
        Cores that the process was allowed when this was chosen.
    measured
        Whether it was measured, or is the default.
    """

    threads: int
    streams: int = 1
    batch: int = 8
    cpus: int = 0
    measured: bool = False

    def __post_init__(self) -> None:
        if self.threads < 1 or not 1 <= self.streams <= self.threads:
            raise ValueError(f"{self.threads} threads in {self.streams} streams; a stream has one at least")
        if self.batch < 1 or self.batch & (self.batch - 1) or self.batch > 64:
            raise ValueError(f"batch is {self.batch}; it is a power of two up to 64")

    def __str__(self) -> str:
        said = "tuned here" if self.measured else "not tuned"
        return f"{self.streams} stream(s), {self.threads} thread(s) in all, batches up to {self.batch} ({said})"

    @property
    def sizes(self) -> tuple[int, ...]:
        """The batch sizes that are prepared."""
        return tuple(1 << power for power in range(self.batch.bit_length()))


def default_tuning() -> Tuning:
    """All allowed cores in one stream."""
    cpus = allowed_cpus()
    return Tuning(threads=cpus, cpus=cpus)


def save_tuning(cache: Path, tuning: Tuning) -> None:
    """Keep a choice in the machine's cache of a bundle and backend."""
    put_artifact(cache, _NAME, json.dumps(asdict(tuning)).encode())


def load_tuning(cache: Path) -> Tuning | None:
    """The choice kept, or None where there is none or the process now has another number of cores.

    Raises ``StaleCache`` where it is damaged.
    """
    raw = get_artifact(cache, _NAME)
    if raw is None:
        return None
    try:
        found = from_mapping(Tuning, json.loads(raw), _NAME)
    except (ValueError, BadConfig) as exc:
        raise StaleCache(f"{cache}: the tuning kept cannot be read: {exc}", mend="run lpcnet-edge tune again") from exc
    return found if found.cpus == allowed_cpus() else None
