"""ONNX models as graphs that may be changed, and the way back to a checked model."""

from __future__ import annotations

import onnx
import onnx_graphsurgeon as gs

from lpcnet_edge.errors import BuildFailed

OPSET = 20
IR_VERSION = 10
"""The newest that ONNX Runtime 1.18 and TensorRT 10.3 both read."""


def to_model(graph: gs.Graph) -> onnx.ModelProto:
    """The graph as a checked ONNX model with inferred shapes; raises ``BuildFailed`` where ONNX refuses it."""
    model = gs.export_onnx(graph, do_type_check=False)
    model.ir_version = IR_VERSION
    model.producer_name = "lpcnet-edge"
    model.producer_version = ""
    del model.metadata_props[:]
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    del model.graph.value_info[:]
    del model.opset_import[:]
    model.opset_import.append(onnx.helper.make_opsetid("", OPSET))
    del model.functions[:]
    try:
        model = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as exc:
        raise BuildFailed(
            f"the {graph.name} graph is not valid ONNX: {str(exc).splitlines()[0]}",
            mend="the export is at fault and no setting: please report it",
        ) from exc
    return model


def from_model(model: onnx.ModelProto) -> gs.Graph:
    """A copy of the model as a graph that may be changed."""
    return gs.import_onnx(onnx.ModelProto.FromString(model.SerializeToString()))
