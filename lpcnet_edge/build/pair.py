"""The two stages of a network as ONNX models."""

from __future__ import annotations

from dataclasses import dataclass

import onnx


@dataclass(frozen=True)
class OnnxPair:
    """The two stages as ONNX models of one precision."""

    localization: onnx.ModelProto
    confidence: onnx.ModelProto
