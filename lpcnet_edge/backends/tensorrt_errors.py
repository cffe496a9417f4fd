"""What TensorRT's parser and builder complain of, as errors of this package: node, reason and mend."""

from __future__ import annotations

import re
from collections.abc import Sequence

from lpcnet_edge.backends.tensorrt import Library
from lpcnet_edge.backends.tensorrt_versions import ErrorCode, OnnxParser, ParserError
from lpcnet_edge.errors import BuildFailed, LpcnetError, MissingDevice

# cudaError_t: no driver or one too old, a stub, no device, a driver library that the kernel's driver does not fit.
NO_DEVICE = {34, 35, 36, 38, 100, 803, 804}
_CUDA = re.compile(r"(?:cudaError |CUDA initialization failure with error: ?)(\d+)")
_WRAPPED = re.compile(r"Error Code \d+: [\w ]+? \((?P<reason>.+?)\.?(?: In \w+ at [^()]*)?\)\s*$", re.DOTALL)
_ASSERTION = re.compile(r"Assertion failed: .*?\)?: (?P<reason>[A-Z].*)$", re.DOTALL)
_QUOTED = re.compile(r'&& "(?P<reason>[^"]+)"')
_NODE = re.compile(r"(?:implementation for|for node|Invalid Node -) (?:node )?(?P<node>\S+?)[.:]?(?:\s|$)")

_MENDS = (
    ("Non-zero zero point", "quantise symmetrically, every zero point 0, as lpcnet-edge build --int8 does"),
    ("must all be positive", "give the channel a scale above 0: a dead channel's scale is floored, not 0"),
    ("type Int32 but must have type FP8", "keep biases in float: no DequantizeLinear on an int32 bias"),
    ("type UInt8 but must", "cast first: a uint8 tensor may feed only a Cast, and any other operator its output"),
    ("UINT8 types for intermediate", "let the Cast to uint8 be the last operator before the network's output"),
    ("of same type", "put a Cast where float16 meets float32: types are taken as the file writes them"),
    ("same input types", "put a Cast where float16 meets float32: types are taken as the file writes them"),
    ("Plugin not found", "use operators of ONNX's own opset 19 or 20"),
    ("emory", "build with a larger workspace, or a smaller largest batch"),
)
_ANY_MEND = "open the ONNX file in Netron at that place; on a CPU, --backend openvino serves"


def parse_error(library: Library, parser: OnnxParser) -> LpcnetError:
    """The error of a parser that refused a file, naming the first node it refused."""
    if parser.num_errors == 0:
        return build_error(library, "when it is parsed")
    error: ParserError = parser.get_error(0)
    code: ErrorCode = error.code()
    if code.name == "MODEL_DESERIALIZE_FAILED":
        return _failed(library, "", "the bytes are no ONNX model")
    missing = _missing_device(library, str(error.desc()).splitlines())
    return missing or _failed(library, _place(error), reason_of(str(error.desc())))


def build_error(library: Library, doing: str) -> LpcnetError:
    """The error of a step that gave nothing back, from what the library logged while ``doing`` it."""
    logged = library.messages.errors
    missing = _missing_device(library, logged)
    if missing:
        return missing
    reasons = [line for line in logged if not _CUDA.search(line)] or logged or ["it gave no reason"]
    named = _NODE.search(reasons[0])
    return _failed(library, f" at node '{named['node']}'" if named else f" {doing}", reason_of(reasons[0]))


def _missing_device(library: Library, lines: Sequence[str]) -> MissingDevice | None:
    """Without a GPU every complaint is followed by one of CUDA's; only where there is no other is it the cause."""
    code = cuda_code(lines)
    if code not in NO_DEVICE:
        return None
    ahead = library.branch.compute_capabilities
    mend = f"name the card to build for: {', '.join(ahead)}" if ahead else "run this on the station that has the GPU"
    return MissingDevice(
        f"{library.module} {library.version} finds no NVIDIA GPU to build for (CUDA error {code})", mend=mend
    )


def cuda_code(lines: Sequence[str]) -> int | None:
    """The ``cudaError_t`` that all of these complaints come from; None where one of them is of another kind."""
    codes = [_CUDA.search(line) for line in lines if line.strip()]
    return int(codes[0][1]) if codes and codes[0] and all(codes) else None


def _failed(library: Library, place: str, reason: str) -> BuildFailed:
    mend = next((mend for part, mend in _MENDS if part in reason), _ANY_MEND)
    return BuildFailed(f"{library.module} {library.version} refuses the network{place}: {reason}", mend=mend)


def _place(error: ParserError) -> str:
    number, name, operator = int(error.node()), str(error.node_name()), str(error.node_operator())
    if number < 0 and not name:
        return ""
    return f" at node '{name or number}'" + (f" ({operator})" if operator else "")


def reason_of(text: str) -> str:
    """The sentence in a complaint that is meant for people, without source lines of the library and CUDA's echo."""
    lines = [line for line in text.splitlines() if not _CUDA.search(line) and not line.startswith("Invalid Node - ")]
    first = (lines or text.splitlines() or [text])[0].strip()
    for pattern in (_WRAPPED, _ASSERTION, _QUOTED):
        found = pattern.search(first)
        if found:
            return found["reason"].strip()
    return first
