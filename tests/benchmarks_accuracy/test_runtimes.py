"""The comparison of runtimes: every loop decides as ours does, and the report says what the rounds say."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import runtimes
from local_bundle import SIDE, frame_of, write_local
from onnx import TensorProto, helper, numpy_helper
from runtimes_graph import host_normalised, joined
from runtimes_inputs import jobs_of
from runtimes_loops import Job
from runtimes_peers import letterbox
from runtimes_report import agreement
from runtimes_worker import Contender, Worker, WorkerFailed, open_loop

from lpcnet_edge.backends.engine import open_engine
from lpcnet_edge.bundle.read import Bundle
from lpcnet_edge.datasets import open_dataset
from lpcnet_edge.errors import LpcnetError

FRAMES = 6
PEERS = [
    Contender(kind, "int8", kind, batch)
    for kind, batch in (
        ("onnxruntime", 1), ("onnxruntime", 4), ("openvino", 1), ("openvino", 4), ("openvino-async", 4),
        ("anomalib", 1), ("ultralytics", 1),
    )
]  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LPCNET_EDGE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_local(tmp_path_factory.mktemp("runtimes") / "local", quantised=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Frames of one tile and, last, one that is cut into tiles; every other one has defects."""
    folder = tmp_path_factory.mktemp("frames")
    for number in range(FRAMES):
        size = (4 * SIDE + 9, 4 * SIDE + 30) if number == FRAMES - 1 else (SIDE, SIDE)
        cv2.imwrite(f"{folder}/{number:05}.png", frame_of(number, *size, defects=2 * (number % 2)))
    return folder


@pytest.fixture(scope="module")
def job(bundle: Bundle, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Job:
    made = jobs_of(bundle, tmp_path_factory.mktemp("jobs"))
    assert list(made) == ["int8"]  # it has no reference/ pair
    return dataclasses.replace(made["int8"], files=tuple(sorted(folder.glob("*.png"))), threads=1)


@pytest.fixture(scope="module")
def ours(job: Job) -> Any:
    loop = open_loop(Contender("ours", "int8", "ours"), job)
    try:
        yield loop.run(1, keep=True)
    finally:
        loop.close()


@pytest.mark.parametrize("one", PEERS, ids=lambda one: f"{one.kind}-{one.batch}")
def test_every_loop_says_what_ours_says(one: Contender, job: Job, ours: Any) -> None:
    loop = open_loop(one, job)
    found = loop.run(1, keep=True)
    same = agreement((ours.maps, ours.outcomes), (found.maps, found.outcomes))
    assert same == {"pixels": 1.0, "defects": 1.0, "verdicts_differ": 0}
    assert found.outcomes == ["pass", "reject"] * (FRAMES // 2)
    assert [found.shape for found in found.maps] == [*[(SIDE, SIDE)] * (FRAMES - 1), (4 * SIDE + 9, 4 * SIDE + 30)]
    again = loop.run(2)
    assert len(again.latency_ms) == 2 * FRAMES
    assert again.tiles == 2 * ours.tiles
    assert again.maps == []


def test_live_has_one_frame_in_flight(job: Job, ours: Any) -> None:
    loop = open_loop(Contender("live", "int8", "live", gate=0.6), job)
    try:
        found = loop.run(1, keep=True)
    finally:
        loop.close()
    assert found.outcomes == ours.outcomes
    assert found.picked < found.tiles == ours.tiles  # free frames are cleared
    assert found.seconds is not None
    assert sum(found.latency_ms) <= 1e3 * found.seconds


def test_a_joined_graph_says_what_the_stages_say(bundle: Bundle) -> None:
    pair = [bundle.read(f"{stage}.onnx") for stage in ("localization", "confidence")]
    tiles = np.stack([frame_of(seed, defects=seed) for seed in range(3)])
    first, second = (open_engine("onnxruntime", model, threads=1) for model in pair)
    embedding = first.run({"pixels": tiles})["embedding"]
    wanted = second.run({"pixels": tiles, "embedding": embedding, "picked": np.arange(3, dtype=np.int32)})
    model = joined(*pair)
    assert [value.name for value in model.graph.input] == ["pixels"]
    found = open_engine("onnxruntime", model.SerializeToString(), threads=1).run({"pixels": tiles})
    hosted = open_engine("onnxruntime", host_normalised(model).SerializeToString(), threads=1)
    from_host = hosted.run({"images": tiles[:, None].astype(np.float32) / 255})
    for name in ("classes", "confidence"):
        np.testing.assert_array_equal(found[name], wanted[name])
        np.testing.assert_array_equal(from_host[name], wanted[name])


def test_colour_from_the_host_is_rgb_in_planes() -> None:
    weights = numpy_helper.from_array(np.array([1, 10, 100], np.float32), "weights")
    nodes = [
        helper.make_node("Cast", ["pixels"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["floats", "weights"], ["weighted"]),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "colours",
        [value("pixels", TensorProto.UINT8, ["N", 4, 4, 3])],
        [value("weighted", TensorProto.FLOAT, ["N", 4, 4, 3])],
        [weights],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3), dtype=np.uint8)
    images = np.ascontiguousarray(pixels[..., ::-1].transpose(0, 3, 1, 2)).astype(np.float32) / 255
    engine = open_engine("onnxruntime", host_normalised(model).SerializeToString(), threads=1)
    np.testing.assert_allclose(engine.run({"images": images})["weighted"], pixels * [1.0, 10.0, 100.0], rtol=1e-5)


@pytest.mark.parametrize("size", [(20, 60), (60, 20), (32, 32), (1, 300), (31, 33)])
def test_a_letterbox_keeps_proportions(size: tuple[int, int]) -> None:
    boxed, (rows, columns) = letterbox(np.full(size, 200, np.uint8), SIDE)
    assert boxed.shape == (SIDE, SIDE)
    assert (boxed[rows, columns] == 200).all()
    high, wide = rows.stop - rows.start, columns.stop - columns.start
    assert max(high, wide) == SIDE
    assert min(high, wide) == max(1, round(SIDE * min(size) / max(size)))
    assert (boxed == 114).sum() == SIDE * SIDE - high * wide


def test_agreement_counts_defects_apart() -> None:
    ours = np.zeros((10, 10), np.uint8)
    ours[:2] = 1
    theirs = ours.copy()
    theirs[1, :5], theirs[9, 9] = 2, 1  # five of another class, one more
    found = agreement(([ours], ["reject"]), ([theirs], ["pass"]))
    assert found == {"pixels": 0.94, "defects": pytest.approx(15 / 21), "verdicts_differ": 1}
    larger = np.kron(ours, np.ones((2, 2), np.uint8))
    assert agreement(([ours], [""]), ([larger], [""]))["pixels"] == 1.0
    assert agreement(([ours * 0], [""]), ([ours * 0], [""]))["defects"] is None


def test_a_runtime_that_fails_says_why(job: Job, tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no model")
    with pytest.raises(WorkerFailed, match="onnx"):
        Worker(Contender("onnxruntime", "int8", "onnxruntime"), dataclasses.replace(job, model=broken), tmp_path)


def test_a_quick_run_leaves_a_record_and_a_table(bundle: Bundle, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(LpcnetError):
        open_dataset(str(folder))  # any folder of images serves
    out = tmp_path / "record.json"
    command = [str(bundle.path), "--data", str(folder), "--quick", "--only", "gate on, int8", "anomalib"]
    assert runtimes.main([*command, "--record", str(out)]) == 0
    record = json.loads(out.read_text())
    found = record["workloads"]["frames"]
    assert found["missing"] == {}
    assert found["frames"]["count"] == FRAMES
    rows = found["rows"]
    assert [row["kind"] for row in rows.values()] == ["ours", "ours", "live", "anomalib", "decode"]
    off, on = list(rows)[:2]
    assert rows[off]["picked_share"] == 1 > rows[on]["picked_share"]
    for key, row in rows.items():
        assert len(row["rounds_images_per_s"]) == found["rounds"] == 2
        assert row["cpu_ms"] > 0
        assert row["peak_memory_mb"] > 10
        assert (row["agreement"] is None) == (row["kind"] == "decode" or key == off)
        assert set(row["ours_over_it"]) == {off, on} - {key}
    peer = rows["anomalib's loop, int8"]
    assert peer["agreement"] == {"pixels": 1.0, "defects": 1.0, "verdicts_differ": 0}
    assert peer["latency_ms"]["count"] == 2 * FRAMES
    assert 0 < peer["latency_ms"]["p50"] <= peer["latency_ms"]["largest"]
    ratios = np.divide(rows[off]["rounds_images_per_s"], peer["rounds_images_per_s"])
    assert peer["ours_over_it"][off]["ratio"] == pytest.approx(np.exp(np.log(ratios).mean()))
    text = out.with_suffix(".md").read_text()
    assert "its figures mean nothing" in text
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len(table) == 2 + len(rows)
    assert len({line.count("|") for line in table}) == 1


def test_without_data_only_carbon_fabric_is_measured(bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    assert runtimes.main([str(bundle.path), "--quick"]) == 2
    assert "give --data" in capsys.readouterr().err


def test_no_rounds_are_refused_before_anything_is_measured(bundle: Bundle) -> None:
    with pytest.raises(SystemExit):
        runtimes.main([str(bundle.path), "--rounds", "0"])
