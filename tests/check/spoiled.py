"""Bundles spoiled on purpose, each of them valid: digests, calibration and interfaces hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from lpcnet_edge.build.calibration_file import calibration_json, read_calibration
from lpcnet_edge.bundle.manifest import GateSpec
from lpcnet_edge.bundle.read import Bundle
from lpcnet_edge.bundle.write import write_bundle

STAGES = ("localization.onnx", "confidence.onnx")
Edit = Callable[[onnx.ModelProto], None]


def rewritten(
    bundle: Bundle, out: Path, files: Mapping[str, bytes] | None = None, without: tuple[str, ...] = (), **manifest: Any
) -> Bundle:
    """A copy of a bundle with some files and some of its manifest changed."""
    kept: dict[str, bytes | Path] = {
        name: bundle.read(name) for name in bundle.manifest.files if not name.startswith(without or ("\0",))
    }
    return write_bundle(out, replace(bundle.manifest, name=out.name, **manifest), {**kept, **(files or {})})


def edited(bundle: Bundle, name: str, edit: Edit) -> bytes:
    """An ONNX file of the bundle after an edit."""
    model = onnx.load_model_from_string(bundle.read(name))
    before = model.SerializeToString()
    edit(model)
    assert model.SerializeToString() != before
    return model.SerializeToString()


def scaled(factor: float, *names: str) -> Edit:
    """Multiply scales; without names, those of every activation but the pixels."""

    def edit(model: onnx.ModelProto) -> None:
        wanted = set(names) or {n.input[1] for n in model.graph.node if n.op_type == "QuantizeLinear"}
        for constant in model.graph.initializer:
            if constant.name in wanted - {"preprocess/normalise.scale"}:
                value = numpy_helper.to_array(constant) * np.float32(factor)
                constant.CopyFrom(numpy_helper.from_array(np.asarray(value, np.float32), constant.name))

    return edit


def swap_channels(model: onnx.ModelProto) -> None:
    """Turn the input channels of the first layer round, as an export in RGB would."""
    for constant in model.graph.initializer:
        if constant.name.endswith("stem.conv.weight.int8"):
            turned = np.ascontiguousarray(numpy_helper.to_array(constant)[:, ::-1])
            constant.CopyFrom(numpy_helper.from_array(turned, constant.name))


def wrong_range(bundle: Bundle, out: Path, factor: float) -> Bundle:
    """Calibrated on other images: every range off by a factor, in the files and in calibration.json alike."""
    calibration = read_calibration(bundle.file("calibration.json"))
    tensors = {
        name: replace(tensor, ranges={method: factor * value for method, value in tensor.ranges.items()})
        for name, tensor in calibration.tensors.items()
    }
    files = {name: edited(bundle, name, scaled(factor)) for name in STAGES}
    files["calibration.json"] = calibration_json(replace(calibration, tensors=tensors)).encode()
    return rewritten(bundle, out, files)


def swapped_channels(bundle: Bundle, out: Path) -> Bundle:
    """Made for RGB."""
    return rewritten(bundle, out, {name: edited(bundle, name, swap_channels) for name in STAGES})


def wrong_weights(bundle: Bundle, out: Path, layer: str = "stage2.encoder.level8.down.conv.weight") -> Bundle:
    """One layer's weight scale x 4."""
    return rewritten(bundle, out, {STAGES[1]: edited(bundle, STAGES[1], scaled(4, f"{layer}.scale"))})


def wrong_scale(bundle: Bundle, out: Path, tensor: str) -> Bundle:
    """One activation's scale x 4."""
    return rewritten(bundle, out, {STAGES[1]: edited(bundle, STAGES[1], scaled(4, f"{tensor}.scale"))})


def raised_gate(bundle: Bundle, out: Path, threshold: float) -> Bundle:
    """A gate that clears too much; its promise is that of 60 parts."""
    return rewritten(bundle, out, gate=GateSpec("threshold", threshold, 0.05, 60))
