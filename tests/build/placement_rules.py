"""The rules of where Q/DQ stands (docs/building.md), each as a function from a stage to what breaks it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

import numpy as np
import onnx_graphsurgeon as gs

FLOAT = ("stage1/head", "stage2/encoder/context/", "stage2/pcm/", "output/")
"""Where nodes begin that compute in float: the heatmap, pooled vectors, PCM with its softmax, final resize, arg max."""

CLASSIFIER = "stage2/decoder/classify"
"""INT8 in, float out: nothing follows it that an INT8 result would serve."""

FLOOR = 2.0**-24

Rule = Callable[[gs.Graph], Iterator[str]]


def nodes(graph: gs.Graph, op: str) -> list[gs.Node]:
    return [node for node in graph.nodes if node.op == op]


def producer(tensor: gs.Variable | gs.Constant) -> gs.Node | None:
    return tensor.inputs[0] if tensor.inputs else None


def made_by(tensor: gs.Variable | gs.Constant, op: str) -> gs.Node | None:
    node = producer(tensor)
    return node if node is not None and node.op == op else None


def source(dequantiser: gs.Node) -> gs.Node | None:
    """The QuantizeLinear that a DequantizeLinear reads; None for a weight's."""
    return made_by(dequantiser.inputs[0], "QuantizeLinear")


def dequantisers(graph: gs.Graph, *, weights: bool) -> list[gs.Node]:
    return [n for n in nodes(graph, "DequantizeLinear") if isinstance(n.inputs[0], gs.Constant) is weights]


def int8_convs(graph: gs.Graph) -> list[gs.Node]:
    return [n for n in nodes(graph, "Conv") if made_by(n.inputs[1], "DequantizeLinear")]


def one_q_for_a_tensor(graph: gs.Graph) -> Iterator[str]:
    readers = Counter(node.inputs[0].name for node in nodes(graph, "QuantizeLinear"))
    yield from (f"{name} has {count} Q" for name, count in readers.items() if count > 1)


def a_dq_for_every_reader(graph: gs.Graph) -> Iterator[str]:
    for node in nodes(graph, "QuantizeLinear"):
        if any(reader.op != "DequantizeLinear" for reader in node.outputs[0].outputs) or not node.outputs[0].outputs:
            yield f"{node.name} is read by something else than a DQ"
    for node in dequantisers(graph, weights=False):
        if len(node.outputs[0].outputs) != 1:
            yield f"{node.name} has {len(node.outputs[0].outputs)} readers"


def zero_points_are_zero(graph: gs.Graph) -> Iterator[str]:
    for node in [*nodes(graph, "QuantizeLinear"), *nodes(graph, "DequantizeLinear")]:
        zero = node.inputs[2].values
        if zero.dtype != np.int8 or np.any(zero):
            yield f"{node.name} has the zero point {zero} of {zero.dtype}"


def a_scale_for_a_tensor(graph: gs.Graph) -> Iterator[str]:
    for node in [*nodes(graph, "QuantizeLinear"), *dequantisers(graph, weights=False)]:
        if node.inputs[1].values.shape != ():
            yield f"{node.name} has scales of shape {node.inputs[1].values.shape}"


def q_and_dq_agree(graph: gs.Graph) -> Iterator[str]:
    for node in dequantisers(graph, weights=False):
        quantiser = source(node)
        if quantiser is None or not np.array_equal(quantiser.inputs[1].values, node.inputs[1].values):
            yield f"{node.name} has another scale than its Q"


def weights_are_int8_by_channel(graph: gs.Graph) -> Iterator[str]:
    for node in dequantisers(graph, weights=True):
        stored, scales = node.inputs[0].values, node.inputs[1].values
        if stored.dtype != np.int8 or stored.ndim != 4 or np.any(stored == -128):
            yield f"{node.name} holds {stored.dtype} of shape {stored.shape}"
        if scales.shape != (len(stored),) or node.attrs.get("axis") != 0:
            yield f"{node.name} has scales of shape {scales.shape}"
    for conv in nodes(graph, "Conv"):
        by_weight = made_by(conv.inputs[1], "DequantizeLinear") is not None
        by_input = made_by(conv.inputs[0], "DequantizeLinear") is not None
        if by_weight != by_input:
            yield f"{conv.name} has INT8 on one side only"


def biases_are_float(graph: gs.Graph) -> Iterator[str]:
    for conv in int8_convs(graph):
        bias = conv.inputs[2] if len(conv.inputs) > 2 else None
        if not isinstance(bias, gs.Constant) or bias.values.dtype != np.float32:
            yield f"{conv.name} has a bias that is no float32 constant"


def scales_are_float32_above_the_floor(graph: gs.Graph) -> Iterator[str]:
    for node in [*nodes(graph, "QuantizeLinear"), *nodes(graph, "DequantizeLinear")]:
        scales = node.inputs[1].values
        if scales.dtype != np.float32 or not np.isfinite(scales).all() or np.any(scales < FLOOR):
            yield f"{node.name} has scales of {scales.dtype} from {scales.min()}"


def q_stands_behind_a_relu_or_an_input(graph: gs.Graph) -> Iterator[str]:
    """Never between a convolution and its addition or ReLU."""
    for node in nodes(graph, "QuantizeLinear"):
        maker = producer(node.inputs[0])
        if maker is None or not (maker.op == "Relu" or maker.name.startswith("preprocess/")):
            yield f"{node.name} stands behind {maker.name if maker else 'nothing'}"


def no_dq_between_conv_and_relu(graph: gs.Graph) -> Iterator[str]:
    for conv in int8_convs(graph):
        if conv.name == CLASSIFIER:
            continue
        readers = list(conv.outputs[0].outputs)
        if len(readers) == 1 and readers[0].op == "Add":
            readers = list(readers[0].outputs[0].outputs)
        if len(readers) != 1 or readers[0].op != "Relu":
            yield f"{conv.name} has no ReLU behind it"


def merges(graph: gs.Graph) -> Iterator[tuple[gs.Node, gs.Node, gs.Variable]]:
    """(Add, the INT8 convolution, the other input) of the additions behind INT8 convolutions."""
    chosen = {conv.name for conv in int8_convs(graph)}
    for add in nodes(graph, "Add"):
        for index in (0, 1):
            conv = made_by(add.inputs[index], "Conv")
            if conv is not None and conv.name in chosen and conv.name != CLASSIFIER:
                yield add, conv, add.inputs[1 - index]


def the_skip_is_int8(graph: gs.Graph) -> Iterator[str]:
    for add, conv, other in merges(graph):
        if made_by(other, "Resize"):
            continue
        dequantiser = made_by(other, "DequantizeLinear")
        if dequantiser is None or source(dequantiser) is None:
            yield f"{add.name} reads its skip in float beside {conv.name}"


def an_identity_skip_has_its_blocks_q(graph: gs.Graph) -> Iterator[str]:
    for add, conv, other in merges(graph):
        dequantiser = made_by(other, "DequantizeLinear")
        quantiser = source(dequantiser) if dequantiser is not None else None
        if quantiser is None:
            continue
        before = _quantisers_before(conv, depth=2)
        same = [q for q in before if q.inputs[0].name == quantiser.inputs[0].name]
        if any(q is not quantiser for q in same):
            yield f"{add.name} has a Q of its own for {quantiser.inputs[0].name}"
        if add.name.rpartition("/")[0].rpartition("/")[2].startswith("block") and not same:
            yield f"{add.name} does not read its block's input"


def _quantisers_before(conv: gs.Node, depth: int) -> list[gs.Node]:
    found: list[gs.Node] = []
    while depth and conv is not None:
        dequantiser = made_by(conv.inputs[0], "DequantizeLinear")
        quantiser = source(dequantiser) if dequantiser is not None else None
        if quantiser is None:
            break
        found.append(quantiser)
        relu = made_by(quantiser.inputs[0], "Relu")
        conv = made_by(relu.inputs[0], "Conv") if relu is not None else None
        depth -= 1
    return found


def a_merge_is_quantised_before_its_resize(graph: gs.Graph) -> Iterator[str]:
    """Coarse -> ReLU -> Q/DQ -> Resize (nearest, doubling) -> Add <- lateral Conv; then ReLU."""
    for resize in nodes(graph, "Resize"):
        if resize.name.startswith(FLOAT):
            continue
        dequantiser = made_by(resize.inputs[0], "DequantizeLinear")
        quantiser = source(dequantiser) if dequantiser is not None else None
        if quantiser is None or not made_by(quantiser.inputs[0], "Relu"):
            yield f"{resize.name} does not read a ReLU through Q/DQ"
        readers = resize.outputs[0].outputs
        if [reader.op for reader in readers] != ["Add"] or not any(made_by(t, "Conv") for t in readers[0].inputs):
            yield f"{resize.name} does not meet a convolution in one addition"
        elif [reader.op for reader in readers[0].outputs[0].outputs] != ["Relu"]:
            yield f"{readers[0].name} has no ReLU behind it"
        if resize.attrs["mode"] != "nearest":
            yield f"{resize.name} is {resize.attrs['mode']}"


def float_parts_are_float(graph: gs.Graph) -> Iterator[str]:
    for node in graph.nodes:
        makers = [maker for tensor in node.inputs if (maker := producer(tensor)) is not None]
        int8 = [maker.name for maker in makers if maker.op in ("QuantizeLinear", "DequantizeLinear")]
        allowed = ("Conv", "Add", "Resize") if not node.name.startswith(FLOAT) else ()
        if int8 and node.op not in ("DequantizeLinear", *allowed):
            yield f"{node.name} is a {node.op} that reads {int8[0]}"


def only_what_must_be_is_float(graph: gs.Graph) -> Iterator[str]:
    for conv in nodes(graph, "Conv"):
        if not conv.name.startswith(FLOAT) and conv not in int8_convs(graph):
            yield f"{conv.name} is in float"


def pixels_lose_nothing(graph: gs.Graph) -> Iterator[str]:
    found = [n for n in nodes(graph, "QuantizeLinear") if n.inputs[0].name == "preprocess/normalise"]
    if len(found) != 1 or found[0].inputs[1].values != np.float32(1 / 127):
        yield "the pixels' scale is not 1/127"


def no_operator_that_does_not_fuse(graph: gs.Graph) -> Iterator[str]:
    banned = ("Concat", "ConvTranspose", "BatchNormalization", "HardSwish")
    yield from (f"{node.name} is a {node.op}" for node in graph.nodes if node.op in banned)
    yield from (f"{n.name} is grouped" for n in int8_convs(graph) if n.attrs.get("group", 1) != 1)


RULES: tuple[Rule, ...] = (
    one_q_for_a_tensor,
    a_dq_for_every_reader,
    zero_points_are_zero,
    a_scale_for_a_tensor,
    q_and_dq_agree,
    weights_are_int8_by_channel,
    biases_are_float,
    scales_are_float32_above_the_floor,
    q_stands_behind_a_relu_or_an_input,
    no_dq_between_conv_and_relu,
    the_skip_is_int8,
    an_identity_skip_has_its_blocks_q,
    a_merge_is_quantised_before_its_resize,
    float_parts_are_float,
    only_what_must_be_is_float,
    pixels_lose_nothing,
    no_operator_that_does_not_fuse,
)
