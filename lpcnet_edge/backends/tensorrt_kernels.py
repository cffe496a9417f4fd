"""TensorRT-RTX's runtime cache: kernels compiled on this machine, kept in its cache between starts."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

from lpcnet_edge.backends.tensorrt_versions import HostMemory, RuntimeCache, RuntimeConfig
from lpcnet_edge.bundle.cache import get_artifact, put_artifact
from lpcnet_edge.errors import LpcnetError

log = logging.getLogger(__name__)


class Kernels:
    """One stage's kernels. The library itself refuses those of another driver, version or card, and compiles anew.

    Raises
    ------
    StaleCache, UnsafeCache
        What is kept was changed: kernels are native code, so nothing is taken from it.
    """

    _cache: RuntimeCache

    def __init__(self, config: RuntimeConfig, folder: Path, stage: str) -> None:
        self._folder, self._name = folder, f"{stage}.kernels"
        cache: RuntimeCache = config.create_runtime_cache()
        kept = get_artifact(folder, self._name)
        if kept is not None and not cache.deserialize(kept):
            log.info("%s: the kernels kept are for another driver; compiling anew", stage)
            kept = None
        config.set_runtime_cache(cache)
        self._cache = cache
        self._stored = hashlib.sha256(kept).digest() if kept is not None else b""

    def store(self) -> None:
        """Keep what was compiled, if anything was since the last time; a folder that cannot be written is a warning."""
        cache: RuntimeCache = self._cache
        try:
            memory: HostMemory = cache.serialize()
        except RuntimeError as exc:  # as on a device that is lost, while the rest must still be given back
            log.warning("compiled kernels are not kept for the next start: %s", exc)
            return
        if memory is None:
            return
        data = bytes(memory)
        digest = hashlib.sha256(data).digest()
        if digest == self._stored:
            return
        try:
            put_artifact(self._folder, self._name, data)
        except (OSError, LpcnetError) as exc:
            log.warning("compiled kernels are not kept for the next start: %s", exc)
        self._stored = digest
