"""The kept kernels of TensorRT-RTX, where the real cache needs a GPU."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lpcnet_edge.backends.tensorrt_kernels import Kernels
from lpcnet_edge.bundle.cache import get_artifact, machine_cache


def config_of(serialize: Any) -> Any:
    cache = SimpleNamespace(serialize=serialize, deserialize=lambda data: True)
    return SimpleNamespace(create_runtime_cache=lambda: cache, set_runtime_cache=lambda cache: None)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LPCNET_EDGE_CACHE", str(tmp_path / "cache"))
    return machine_cache("fabric-int8-0123456789ab", "tensorrt-rtx", "1.2", "a card")


def test_a_lost_device_keeps_no_kernels_and_stops_nobody(cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    """They are stored while a stage closes, and all that comes after it must still be given back."""

    def lost() -> bytes:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    with caplog.at_level(logging.WARNING):
        Kernels(config_of(lost), cache, "confidence").store()
    assert "compiled kernels are not kept" in caplog.text
    assert get_artifact(cache, "confidence.kernels") is None


def test_what_was_compiled_is_kept(cache: Path) -> None:
    Kernels(config_of(lambda: b"code"), cache, "confidence").store()
    assert get_artifact(cache, "confidence.kernels") == b"code"
