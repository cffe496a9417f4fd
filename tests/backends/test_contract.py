"""The contract on every backend of the processor, and what is theirs alone."""

from __future__ import annotations

import errno
import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from contract import Contract, filled, some_tiles
from local_bundle import heat_of, write_local
from numpy.typing import NDArray

from lpcnet_edge.backends import choice, openvino_slots, tuning
from lpcnet_edge.backends.base import Backend
from lpcnet_edge.backends.choice import AUTO, BACKENDS, open_backend, tuning_cache
from lpcnet_edge.backends.isolated import IsolatedBackend
from lpcnet_edge.backends.null import NullBackend
from lpcnet_edge.backends.trials import candidates, tune
from lpcnet_edge.backends.tuning import Tuning, load_tuning, save_tuning
from lpcnet_edge.bundle.cache import made_for, put_artifact
from lpcnet_edge.bundle.read import Bundle
from lpcnet_edge.errors import BackendFailed, MissingLibrary, StaleCache, UnsafeCache, UsageError

TUNING = Tuning(threads=1, batch=4)

COMPUTING = list(AUTO)
ON_A_GPU = {"torch-cuda", "tensorrt", "tensorrt-rtx"}  # cuda/ and test_*_gpu.py put them to the same contract


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_local(tmp_path_factory.mktemp("bundle") / "local", quantised=True)


ISOLATED = "isolated "

OPENINGS = [(name, kind) for name in [*COMPUTING, f"{ISOLATED}openvino"] for kind in ("float", "quantised")]


@pytest.fixture(scope="module", params=OPENINGS, ids="-".join)
def backend(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    name, kind = request.param
    bundle = write_local(tmp_path_factory.mktemp("bundle") / "local", quantised=kind == "quantised")
    opener = IsolatedBackend if name.startswith(ISOLATED) else open_backend
    opened = opener(bundle, name.removeprefix(ISOLATED), tuning=TUNING, use_cache=False)
    yield opened
    opened.close()


def test_every_backend_is_tested_and_auto_never_takes_null() -> None:
    assert {*COMPUTING, "null"} <= set(BACKENDS) <= {*COMPUTING, "null", *ON_A_GPU}
    assert "null" not in AUTO


class TestOnTheProcessor(Contract):
    """Each of them, on a float and a quantised bundle, by the fixture ``backend``."""


@pytest.mark.parametrize(
    "backend", [opening for opening in OPENINGS if ISOLATED not in opening[0]], indirect=True, ids="-".join
)
@pytest.mark.parametrize("where", ["_start", "_wait"])
def test_a_failure_is_told_once_and_the_slot_serves_again(
    backend: Any, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiles = some_tiles(8)
    slot = filled(backend, tiles)
    real: Callable[..., Any] = getattr(backend, where)
    calls = []

    def fail_the_second(*args: Any) -> Any:
        calls.append(args)
        if len(calls) == 2:
            raise RuntimeError("out of luck")
        return real(*args)

    monkeypatch.setattr(backend, where, fail_the_second)
    with pytest.raises(BackendFailed, match=r"localization stage: out of luck"):
        _ = backend.submit(slot, 8), backend.collect(slot)
    backend.submit(slot, 8)
    assert backend.collect(slot)
    np.testing.assert_allclose(slot.score[:8], heat_of(tiles).max(axis=(1, 2)), rtol=1e-6)


@pytest.mark.parametrize("name", COMPUTING)
def test_close_waits_and_may_be_called_twice(bundle: Bundle, name: str) -> None:
    backend = open_backend(bundle, name, tuning=Tuning(1, batch=1), use_cache=False)
    slot = backend.make_slot(16)
    backend.submit(slot, 16)
    backend.close()
    backend.close()


def test_it_says_what_it_is(backend: Backend) -> None:
    assert backend.name in BACKENDS
    assert backend.name in backend.about


def test_null_picks_its_share(bundle: Bundle) -> None:
    backend = NullBackend(bundle.manifest, picked_share=0.25)
    slot = backend.make_slot(100)
    backend.submit(slot, 100)
    assert backend.collect(slot)
    assert slot.score.sum() == 25
    backend.submit_picked(slot, np.arange(3, dtype=np.int32))
    assert backend.collect_picked(slot)
    assert not slot.classes.any()


def test_a_name_that_is_unknown_or_missing_is_an_error(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="no backend is called 'opnvino'") as caught:
        open_backend(bundle, "opnvino")
    assert "openvino" in (caught.value.mend or "")
    real = importlib.util.find_spec
    monkeypatch.setattr(choice, "find_spec", lambda name: None if name == "openvino" else real(name))
    with pytest.raises(MissingLibrary, match="asked for and is not installed"):
        open_backend(bundle, "openvino")
    other = open_backend(bundle, tuning=TUNING, use_cache=False)
    assert other.name == "onnxruntime"
    other.close()
    monkeypatch.setattr(choice, "find_spec", lambda name: None)
    with pytest.raises(MissingLibrary, match="none of"):
        open_backend(bundle)


def test_openvino_imports_what_it_compiled_before(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LPCNET_EDGE_CACHE", str(tmp_path / "cache"))
    tiles = some_tiles(3)

    def scores() -> NDArray[np.float32]:
        backend = open_backend(bundle, "openvino", tuning=Tuning(1, batch=2))
        slot = filled(backend, tiles)
        backend.submit(slot, 3)
        backend.collect(slot)
        backend.close()
        return slot.score[:3].copy()

    first = scores()
    blobs = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.blob")}
    assert len(blobs) == 6  # stage 1 and the two parts of stage 2, for two sizes
    np.testing.assert_array_equal(scores(), first)
    assert {path: path.stat().st_mtime_ns for path in blobs} == blobs
    for path in blobs:
        path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(StaleCache):
        scores()


def test_what_openvino_refuses_of_the_cache_is_compiled_anew(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What another processor of the same name left there was a reason to build the bundle again."""
    monkeypatch.setenv("LPCNET_EDGE_CACHE", str(tmp_path / "cache"))
    open_backend(bundle, "openvino", tuning=TUNING).close()
    cache = tuning_cache(bundle, "openvino")
    assert cache is not None
    ((*_, names),) = made_for(bundle.id)
    first = next(name for name in names if name.endswith(".blob"))
    put_artifact(cache, first, b"of another processor")
    open_backend(bundle, "openvino", tuning=TUNING).close()
    assert f"{first} of the machine's cache is compiled anew" in caplog.text
    caplog.clear()
    open_backend(bundle, "openvino", tuning=TUNING).close()
    assert caplog.text == "", "it was kept in the place of the other"


def full_disk(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_does_not_keep_openvino_from_opening(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("LPCNET_EDGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(openvino_slots, "put_artifact", full_disk)
    open_backend(bundle, "openvino", tuning=TUNING).close()
    assert "is not kept for the next start: [Errno 28] No space left on device" in caplog.text


def test_a_tuning_is_kept_for_the_cores_it_was_made_on(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LPCNET_EDGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tuning, "allowed_cpus", lambda: 3)
    cache = tuning_cache(bundle, "onnxruntime")
    assert cache is not None
    assert load_tuning(cache) is None
    save_tuning(cache, Tuning(3, 1, 2, 3, measured=True))
    assert load_tuning(cache) == Tuning(3, 1, 2, 3, measured=True)
    backend = open_backend(bundle, "onnxruntime")
    assert "batches up to 2" in backend.about
    assert "tuned" in backend.about
    backend.close()
    monkeypatch.setattr(tuning, "allowed_cpus", lambda: 5)
    assert load_tuning(cache) is None


@pytest.mark.parametrize(("limit", "threads"), [("250000", 2), ("50000", 1), ("6400000", 8), ("max", 8)])
def test_a_container_gets_no_more_threads_than_its_limit_keeps_at_work(
    limit: str, threads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`docker run --cpus` leaves the affinity as it is: 64 threads in the time of 2 cores stand still most of it."""
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(8)))
    group = tmp_path / "sys/fs/cgroup/job"
    group.mkdir(parents=True)
    (group / "cpu.max").write_text(f"{limit} 100000\n")
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/job\n")
    assert tuning.allowed_cpus(tmp_path) == threads


def test_tune_keeps_the_best(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LPCNET_EDGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("lpcnet_edge.backends.trials.allowed_cpus", lambda: 1)
    monkeypatch.setattr(tuning, "allowed_cpus", lambda: 1)
    name, trials, best, kept = tune(bundle, "onnxruntime", seconds=0.01)
    assert name == "onnxruntime"
    assert best.tiles_per_s == max(trial.tiles_per_s for trial in trials if trial in trials[:4])
    assert kept is not None
    assert load_tuning(kept) == best.tuning
    with pytest.raises(UsageError, match="cannot be tuned"):
        tune(bundle, "null")
    with pytest.raises(UsageError, match="measure nothing"):
        tune(bundle, "onnxruntime", seconds=0)
    assert load_tuning(kept) == best.tuning
    (tmp_path / "cache").chmod(0o777)
    with pytest.raises(UnsafeCache):  # before anything is measured
        tune(bundle, "onnxruntime", seconds=1e9)


def test_what_was_measured_is_told_where_it_cannot_be_kept(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("LPCNET_EDGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("lpcnet_edge.backends.trials.candidates", lambda cpus: [TUNING])
    monkeypatch.setattr("lpcnet_edge.backends.trials.save_tuning", full_disk)
    _, _, best, kept = tune(bundle, "onnxruntime", seconds=0.01)
    assert best.tuning == TUNING
    assert kept is None
    assert "the tuning is not kept: [Errno 28] No space left on device" in caplog.text


@pytest.mark.parametrize("cpus", [1, 2, 6, 64])
def test_candidates_never_take_more_than_the_cores(cpus: int) -> None:
    tried = list(candidates(cpus))
    assert tried
    assert len(set(tried)) == len(tried)
    assert all(1 <= choice.streams <= choice.threads <= cpus for choice in tried)
