"""A small bundle of two tiny networks, and ways to make one bad."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from lpcnet_edge.bundle.manifest import Manifest, StageSpec
from lpcnet_edge.bundle.model import tensor_specs
from lpcnet_edge.bundle.plans import plan_files
from lpcnet_edge.bundle.read import Bundle
from lpcnet_edge.bundle.write import write_bundle
from lpcnet_edge.config import dump_yaml
from lpcnet_edge.yamlfile import load_yaml

HERE = ("tensorrt-rtx", "1.7.1.116", "sm89")
PLAN_FOLDER = "plans/tensorrt-rtx-1.7.1.116-sm89"


def tiny_model(weight: float = 1.0) -> onnx.ModelProto:
    """pixels (N, 32, 32) uint8 -> score (N, 32, 32) float32, times a weight."""
    pixels = helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["N", 32, 32])
    score = helper.make_tensor_value_info("score", TensorProto.FLOAT, ["N", 32, 32])
    nodes = [
        helper.make_node("Cast", ["pixels"], ["x"], name="cast", to=TensorProto.FLOAT),
        helper.make_node("Mul", ["x", "w"], ["score"], name="mul"),
    ]
    weights = [numpy_helper.from_array(np.float32([weight]), "w")]
    graph = helper.make_graph(nodes, "tiny", [pixels], [score], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def stage(file: str, model: onnx.ModelProto, precision: Any = "int8") -> StageSpec:
    """The spec of a model's stage."""
    return StageSpec(file, precision, tensor_specs(model.graph.input), tensor_specs(model.graph.output), ("mul",))


def tiny_manifest(**changes: Any) -> Manifest:
    """A manifest for :func:`tiny_files`."""
    values: dict[str, Any] = {
        "name": "tiny",
        "classes": ("background", "crack"),
        "channels": 1,
        "tile_px": 32,
        "precision": "int8",
        "localization": stage("localization.onnx", tiny_model()),
        "confidence": stage("confidence.onnx", tiny_model()),
        "provenance": {"weights": "tiny", "versions": {"onnx": onnx.__version__}},
        "accuracy": {"mean_iou": 81.25},
    }
    return Manifest(**{**values, **changes})


def tiny_files() -> dict[str, bytes | Path]:
    """Two stages, two JSON files, a golden tile and a folder of plans."""
    first, second = tiny_model(1).SerializeToString(), tiny_model(2).SerializeToString()
    return {
        "localization.onnx": first,
        "confidence.onnx": second,
        "reference/localization.onnx": tiny_model(3).SerializeToString(),
        "calibration.json": json.dumps({"ranges": {"x": 1.5}}).encode(),
        "accuracy.json": json.dumps({"mean_iou": 81.25, "restored": []}).encode(),
        "golden/tile-0.bin": bytes(range(256)),
        **plan_files(*HERE, {"localization": (b"plan one", first), "confidence": (b"plan two", second)}),
    }


def write_tiny(out: Path, **kwargs: Any) -> Bundle:
    """Write the small bundle."""
    return write_bundle(out, tiny_manifest(), tiny_files(), **kwargs)


def edit_manifest(root: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Rewrite ``bundle.yaml`` as someone would who knows what it must hold."""
    path = root / "bundle.yaml"
    mapping = load_yaml(path)
    change(mapping)
    path.write_text(dump_yaml(mapping))


def plant(root: Path, name: str, data: bytes) -> None:
    """Put a file into the bundle and its true digest into the manifest."""
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_bytes(data)
    record = {"sha256": hashlib.sha256(data).hexdigest(), "size_bytes": len(data)}
    edit_manifest(root, lambda mapping: mapping["files"].update({name: record}))
