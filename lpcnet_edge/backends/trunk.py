"""Which nodes of a stage compute in float16 where a runtime has it: the convolutional trunk and what quantises it.

Preprocessing, the heads' outputs, the PCM and the arg max stay in float32: they cost little, and rounding there would
move decisions.
"""

from __future__ import annotations

_TRUNK = ("stage1/", "stage2/encoder/", "stage2/decoder/")


def in_trunk(op: str, name: str) -> bool:
    """Whether a node of this ONNX operator and name is in the trunk; Q/DQ of its weights and inputs belongs to it."""
    name = name.replace(".", "/") if op == "DequantizeLinear" else name
    return name.startswith(_TRUNK) or (name.startswith("preprocess/") and op in ("QuantizeLinear", "DequantizeLinear"))
