"""A roofline estimate: the least time of a bundle's layers on a device that is not here, and how far off that is.

Each layer takes at least its operations over the device's rate, and at least its bytes over the memory's; the sum of
the larger ones is the least time of a tile. No engine is as fast; how much slower one is, this processor shows.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from lpcnet_edge.backends.engine import open_engine
from lpcnet_edge.bench.devices import THIS_CPU, Device, device_called
from lpcnet_edge.bench.opening import CPU_BACKENDS, Bench, header, not_measured, opened
from lpcnet_edge.bench.options import Options
from lpcnet_edge.bench.roofline import Layer, layers_of
from lpcnet_edge.bench.stages import STAGES, StageRun, filled_slots, measure_rate
from lpcnet_edge.bench.timing import best_seconds
from lpcnet_edge.bundle.read import Bundle
from lpcnet_edge.errors import UsageError
from lpcnet_edge.types import Dataset

ASSUMPTIONS = (
    "every layer runs at the data sheet's full rate, or at the full rate of memory, whichever takes longer",
    "everything elementwise is fused into the layer before it; every other tensor goes to memory once and comes back "
    "once for each reader; caches save nothing",
    "starting a layer, the pipeline, other work and thermal limits cost nothing",
)
_MB_COPIED = 256
_CONV = (256, 56)  # channels and side of the convolution that rates of this processor are measured with


def measure_estimate(
    bundle: Bundle,
    data: Dataset | Path | None,
    options: Options,
    name: str,
    *,
    size_px: tuple[int, int] | None = None,
    progress: Callable[[str, int, int], None] = lambda phase, done, total: None,
) -> dict[str, Any]:
    """The record of an estimate, validated on this processor where the backend is one of it."""
    if name != THIS_CPU:
        device_called(name)  # a wrong name is told before anything is opened
    with opened(bundle, data, options, size_px=size_px) as bench:
        progress("measuring this processor", 0, 1)
        found = estimate(bundle, name, max(options.batches or (bench.tuning.batch,)), bench)
        record = header(bench) | bench.stability({})
    return {**record, **not_measured(), "readings": bench.readings(), "estimate": found}


def estimate(bundle: Bundle, name: str, batch: int, bench: Bench | None) -> dict[str, Any]:
    """The estimate for a device by its short name; ``bench``, where given, measures this processor beside it.

    Raises ``UsageError`` for an unknown device, or ``this-cpu`` without a processor's backend.
    """
    own = _own_device(bench) if bench is not None and bench.backend.name in CPU_BACKENDS else None
    if name == THIS_CPU:
        if own is None:
            raise UsageError("this-cpu is estimated with a backend of the processor", mend="--backend openvino")
        device = own
    else:
        device = device_called(name)
    found = _on(bundle, device, batch)
    validation = None
    if own is not None and bench is not None:
        validation = _validate(bundle, own, batch, bench)
    return {
        "device": name,
        "device_name": device.name,
        "batch": batch,
        "rates": {
            "int8_ops_per_s": device.int8_ops,
            "float_ops_per_s": device.float_ops,
            "vector_ops_per_s": device.vector_ops,
            "bytes_per_s": device.bytes_per_s,
            "float_bytes": device.float_bytes,
        },
        "sources": list(device.sources),
        "assumptions": [_own_rates(text) if name == THIS_CPU else text for text in ASSUMPTIONS],
        **found,
        "validation": validation,
    }


def _own_rates(assumption: str) -> str:
    return assumption.replace("the data sheet's full rate", "the rate measured here")


def _on(bundle: Bundle, device: Device, batch: int) -> dict[str, Any]:
    stages, rows = {}, []
    for stage in STAGES:
        layers = layers_of(bundle.read(bundle.manifest.stages[stage].file), stage, batch, device.float_bytes)
        rows += [_row(stage, layer, device, batch) for layer in layers]
        seconds = sum(layer.seconds(device)[0] for layer in layers)
        stages[stage] = {
            "gflop": sum(layer.ops for layer in layers) / batch / 1e9,
            "mb": sum(layer.read_bytes + layer.written_bytes for layer in layers) / batch / 1e6,
            "ms_a_tile": 1e3 * seconds / batch,
            "tiles_per_s": batch / seconds,
        }
    return {"stages": stages, "layers": rows}


def _row(stage: str, layer: Layer, device: Device, batch: int) -> dict[str, Any]:
    seconds, bound = layer.seconds(device)
    return {
        "stage": stage,
        "layer": layer.name,
        "kind": layer.kind,
        "precision": "int8" if layer.quantised else "float",
        "mflop": layer.ops / batch / 1e6,
        "kb": (layer.read_bytes + layer.written_bytes) / batch / 1e3,
        "us": 1e6 * seconds / batch,
        "bound": bound,
    }


def _validate(bundle: Bundle, device: Device, batch: int, bench: Bench) -> dict[str, Any]:
    """The same estimate for this processor beside what its backend does."""
    found = _on(bundle, device, batch)["stages"]
    tiles = bench.frames.tiles(batch, bundle.manifest.tile_px, bench.options.framing)
    slots = filled_slots(bench.backend, tiles, bench.tuning.streams + 1)
    stages = {}
    for stage in STAGES:
        run = StageRun(stage, batch)
        for _ in range(bench.options.rounds):
            with bench.sampler.phase(f"{stage} batch {batch}"):
                measure_rate(bench.backend, run, slots, bench.options.seconds)
        measured, guessed = float(np.median(run.tiles_per_s)), found[stage]["tiles_per_s"]
        stages[stage] = {
            "estimated_tiles_per_s": guessed,
            "measured_tiles_per_s": measured,
            "measured_of_estimated": measured / guessed,
            "error": guessed / measured - 1,
        }
    return {
        "device_name": device.name,
        "backend": bench.backend.about,
        "sources": list(device.sources),
        "stages": stages,
    }


def _own_device(bench: Bench) -> Device:
    """This processor's rates, by measurement: one large convolution in each precision, and a copy in memory."""
    threads, backend, seconds = bench.tuning.threads, bench.backend.name, min(bench.options.seconds, 1.0)
    with bench.sampler.phase("rates of this processor"):
        rates = {}
        for precision in ("int8", "float"):
            model, feeds, ops = _convolution(precision == "int8")
            engine = open_engine(backend, model, threads=threads, shapes={k: v.shape for k, v in feeds.items()})
            rates[precision] = ops / best_seconds(partial(engine.run, feeds), seconds)
            engine.close()
        source = np.ones(_MB_COPIED * 1_000_000 // 4, np.float32)
        target = np.empty_like(source)
        copied = 2 * source.nbytes / best_seconds(lambda: np.copyto(target, source), seconds)
    channels, side = _CONV
    what = (
        f"a {channels}-channel 3x3 convolution of {side} x {side} px on {backend}, {threads} thread(s), the fastest run"
    )
    return Device(
        "this processor",
        int8_ops=rates["int8"],
        float_ops=rates["float"],
        vector_ops=rates["float"],
        bytes_per_s=copied,
        float_bytes=4,
        sources=(
            f"{rates['int8'] / 1e9:.0f} GOP/s in INT8 and {rates['float'] / 1e9:.0f} in float32: measured here, {what}",
            f"{copied / 1e9:.1f} GB/s: measured here, copying {_MB_COPIED} MB with one thread",
        ),
    )


def _convolution(quantised: bool) -> tuple[bytes, dict[str, NDArray[Any]], int]:
    """A model of one convolution, its input, and the operations in it."""
    channels, side = _CONV
    rng = np.random.default_rng(0)
    weight = rng.integers(-127, 128, (channels, channels, 3, 3), dtype=np.int8)
    constants: dict[str, Any] = {"scale": np.float32(0.02), "zero8": np.int8(0), "zero": np.uint8(0)}
    nodes = []
    data, weights = "x", "w"
    if quantised:
        constants["w8"] = weight
        nodes = [
            helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["x8"]),
            helper.make_node("DequantizeLinear", ["x8", "scale", "zero"], ["xd"]),
            helper.make_node("DequantizeLinear", ["w8", "scale", "zero8"], ["wd"]),
        ]
        data, weights = "xd", "wd"
    else:
        constants = {"w": weight.astype(np.float32) * np.float32(0.02)}
    nodes.append(helper.make_node("Conv", [data, weights], ["y"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]))
    nodes.append(helper.make_node("ReduceMax", ["y"], ["largest"], keepdims=0))  # so that no time goes into the output
    shape = [1, channels, side, side]
    graph = helper.make_graph(
        nodes,
        "convolution",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("largest", TensorProto.FLOAT, [])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    feeds: dict[str, NDArray[Any]] = {"x": rng.random(shape, np.float32)}
    return model.SerializeToString(), feeds, 2 * side * side * channels * channels * 9
