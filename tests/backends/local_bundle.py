"""A bundle whose network is known in closed form and sees one pixel at a time, so that tiling must not show.

Stage 1's heatmap is the largest grey value / 255 of each 16 x 16 px, and its score the largest of these. Stage 2 says
class 1 where a pixel is above 200, with the heatmap's cell around it as the confidence, which comes by way of the
embedding.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from lpcnet_edge.backends.base import Backend
from lpcnet_edge.backends.choice import open_backend
from lpcnet_edge.backends.tuning import Tuning
from lpcnet_edge.bundle.manifest import GateSpec, Manifest, StageSpec
from lpcnet_edge.bundle.model import tensor_specs
from lpcnet_edge.bundle.read import Bundle
from lpcnet_edge.bundle.write import write_bundle

SIDE = 32
LIMIT = 200
_LOGITS = "stage2/decoder/classify"  # where OpenVINO's backend cuts a quantised stage in two


def heat_of(tiles: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(N, S/16, S/16) what stage 1 says."""
    cells = tiles.reshape(len(tiles), SIDE // 16, 16, SIDE // 16, 16)
    return cells.max(axis=(2, 4)).astype(np.float32) / 255


def local_network(quantised: bool) -> dict[str, onnx.ModelProto]:
    """Both stages; quantised, pixels pass through Q/DQ, which keeps on which side of the limit they are."""
    node, cells = helper.make_node, SIDE // 16
    constants = {
        "byte": np.float32(255),
        "axes1": np.array([1], np.int64),
        "heat_axes": np.array([1, 2, 3], np.int64),
        "one": np.float32(1),
        "limit": np.float32((LIMIT + 0.5) / 255),
        "zoom": np.array([1, 1, 16, 16], np.float32),
        "scale": np.float32(1 / 127),
        "zero": np.int8(0),
    }
    values = {name: numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()}

    def model(name: str, nodes: list[Any], inputs: list[Any], outputs: list[Any]) -> onnx.ModelProto:
        used = {text for n in nodes for text in n.input}
        weights = [value for key, value in values.items() if key in used]
        graph = helper.make_graph(nodes, name, inputs, outputs, weights)
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        onnx.checker.check_model(made)
        return made

    def info(name: str, kind: int, *shape: int | str) -> Any:
        return helper.make_tensor_value_info(name, kind, shape)

    grey = [
        node("Cast", ["pixels"], ["floats"], name="cast", to=TensorProto.FLOAT),
    ]
    localization = model(
        "localization",
        [
            *grey,
            node("Unsqueeze", ["floats", "axes1"], ["planes"], name="planes"),
            node("Div", ["planes", "byte"], ["x"], name="x"),
            node("MaxPool", ["x"], ["heatmap"], name="pool", kernel_shape=[16, 16], strides=[16, 16]),
            node("Sub", ["one", "heatmap"], ["cold"], name="cold"),
            node("Concat", ["heatmap", "cold"], ["embedding"], name="embedding", axis=1),
            node("ReduceMax", ["heatmap", "heat_axes"], ["score"], name="score", keepdims=0),
        ],
        [info("pixels", TensorProto.UINT8, "N", SIDE, SIDE)],
        [
            info("heatmap", TensorProto.FLOAT, "N", 1, cells, cells),
            info("embedding", TensorProto.FLOAT, "N", 2, cells, cells),
            info("score", TensorProto.FLOAT, "N"),
        ],
    )
    rounded = [
        node("Relu", ["y"], ["positive"], name="relu"),
        node("QuantizeLinear", ["positive", "scale", "zero"], ["bytes8"], name="q"),
        node("DequantizeLinear", ["bytes8", "scale", "zero"], ["z"], name="dq"),
    ]
    confidence = model(
        "confidence",
        [
            *grey,
            node("Gather", ["floats", "picked"], ["mine"], name="pick_pixels", axis=0),
            node("Gather", ["embedding", "picked"], ["heat"], name="pick_embedding", axis=0),
            node("Unsqueeze", ["mine", "axes1"], ["planes"], name="planes"),
            node("Div", ["planes", "byte"], ["y"], name="y"),
            *(rounded if quantised else [node("Relu", ["y"], ["z"], name="relu")]),
            node("Resize", ["heat", "", "zoom"], ["wide"], name="wide", mode="nearest"),
            node("Concat", ["z", "wide"], [_LOGITS], name="logits", axis=1),
            node("Split", [_LOGITS], ["shade", "warm", "cold"], name="split", axis=1, num_outputs=3),
            node("Greater", ["shade", "limit"], ["defect"], name="defect"),
            node("Squeeze", ["defect", "axes1"], ["flat"], name="flat"),
            node("Cast", ["flat"], ["classes"], name="classes", to=TensorProto.UINT8),
            node("Mul", ["warm", "byte"], ["scaled"], name="scaled"),
            node("Squeeze", ["scaled", "axes1"], ["level"], name="level"),
            node("Round", ["level"], ["whole"], name="whole"),
            node("Cast", ["whole"], ["confidence"], name="confidence", to=TensorProto.UINT8),
        ],
        [
            info("pixels", TensorProto.UINT8, "N", SIDE, SIDE),
            info("embedding", TensorProto.FLOAT, "N", 2, cells, cells),
            info("picked", TensorProto.INT32, "M"),
        ],
        [
            info("classes", TensorProto.UINT8, "M", SIDE, SIDE),
            info("confidence", TensorProto.UINT8, "M", SIDE, SIDE),
        ],
    )
    return {"localization": localization, "confidence": confidence}


def write_local(out: Path, *, quantised: bool = False, gate: GateSpec | None = None, **changes: Any) -> Bundle:
    """Write the bundle; ``changes`` go into its manifest."""
    models = local_network(quantised)
    precision: Any = "int8" if quantised else "fp32"
    stages: dict[str, Any] = {
        name: StageSpec(f"{name}.onnx", precision, tensor_specs(m.graph.input), tensor_specs(m.graph.output))
        for name, m in models.items()
    }
    manifest = Manifest(
        name="local",
        classes=("background", "bright"),
        channels=1,
        tile_px=SIDE,
        precision=precision,
        gate=gate or GateSpec("threshold", 0.6, 0.1, 99),
        **stages,
        **changes,
    )
    return write_bundle(out, manifest, {f"{name}.onnx": m.SerializeToString() for name, m in models.items()})


def onnxruntime_of(bundle: Bundle) -> Backend:
    """The bundle on ONNX Runtime, which opens fastest; the contract makes the backends alike."""
    return open_backend(bundle, "onnxruntime", tuning=Tuning(1, batch=4), use_cache=False)


def frame_of(seed: int, height: int = SIDE, width: int = SIDE, defects: int = 0) -> NDArray[np.uint8]:
    """A dark frame, (height, width) uint8, with that many bright squares of 5 x 5 px that may touch each other."""
    rng = np.random.default_rng(seed)
    frame = rng.integers(0, 100, (height, width), dtype=np.uint8)
    for _ in range(defects):
        y, x = rng.integers(0, height - 5), rng.integers(0, width - 5)
        frame[y : y + 5, x : x + 5] = rng.integers(LIMIT + 10, 256)
    return frame
