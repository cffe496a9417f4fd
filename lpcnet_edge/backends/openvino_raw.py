"""A stage as OpenVINO's own ``benchmark_app`` takes it: the very graphs that the backend compiles, as files."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lpcnet_edge.backends.openvino import PRECISION, slot_parts
from lpcnet_edge.backends.quiet import silence_libraries
from lpcnet_edge.backends.signal_stack import signal_stack_kept

silence_libraries()

import openvino  # noqa: E402

VERSION = openvino.__version__.split("-")[0]


@dataclass(frozen=True)
class RawPart:
    """One graph with static shapes: its file, the plugin's settings as ``-load_config`` takes them, inputs as .npy,
    their types as ``-iop`` takes them, and what it computes in, for ``-infer_precision``."""

    model: Path
    config: Path
    inputs: dict[str, Path]
    types: str
    precision: str


@signal_stack_kept()
def write_parts(
    model: bytes, stage: str, precision: str, feeds: dict[str, NDArray[Any]], folder: Path
) -> list[RawPart]:
    """Write the graphs of a stage for the batch of ``feeds``, with what goes into each.

    ``feeds`` are as the ONNX file has them, the ``embedding`` (M, E, S/16, S/16) among them for stage 2, which takes
    only tiles to compute; the files are as the backend has them.
    """
    if "embedding" in feeds:
        feeds = {**feeds, "embedding": np.ascontiguousarray(np.moveaxis(feeds["embedding"], 1, 3))}
    core = openvino.Core()
    parts = []
    for number, (part, extra) in enumerate(slot_parts(model, stage, precision)):
        graph = core.read_model(part.SerializeToString())
        graph.reshape({name: list(array.shape) for name, array in feeds.items()})
        feeds = {_plain_name(graph, name): array for name, array in feeds.items()}
        base = folder / f"{stage}-b{len(next(iter(feeds.values())))}-{number}"
        openvino.save_model(graph, base.with_suffix(".xml"), compress_to_fp16=False)
        settings = {PRECISION: "f32", **extra}
        base.with_suffix(".json").write_text(json.dumps({"CPU": extra}))
        inputs = {}
        for place, (name, array) in enumerate(feeds.items()):
            inputs[name] = base.with_name(f"{base.name}-in{place}.npy")
            np.save(inputs[name], array)
        # benchmark_app would take a float input of three channels for an image, and feed it bytes.
        types = ",".join(f"{name}:{'u8' if array.dtype == np.uint8 else 'f32'}" for name, array in feeds.items())
        parts.append(RawPart(base.with_suffix(".xml"), base.with_suffix(".json"), inputs, types, settings[PRECISION]))
        request = core.compile_model(graph, "CPU", settings).create_infer_request()
        request.infer(feeds)
        feeds = {output.any_name: np.array(request.get_tensor(output).data) for output in graph.outputs}
    return parts


def _plain_name(graph: Any, name: str) -> str:
    """Rename an input so that benchmark_app, which takes ``/`` for a path, can be told what goes into it."""
    plain = name.replace("/", "_")
    tensor = graph.input(name)
    tensor.get_tensor().set_names({plain})
    tensor.get_node().set_friendly_name(plain)
    return plain
