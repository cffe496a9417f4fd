"""A station makes no connection that its config does not name, whatever its libraries would like to send.

Each test runs a fresh interpreter, outside CI as a station is, with a fresh home. Python's own look-ups and connections
are written down and refused; beneath them the kernel kills any process that opens an internet socket, so that native
code is caught too.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "lpcnet_edge"

# Imported by every Python process of a test before anything else. The filter is classic BPF over seccomp_data:
# number of the system call at 0, architecture at 4, first argument at 16.
WATCH = """
import ctypes, os, platform, struct, sys

def refuse(event, arguments):
    if event in ("socket.connect", "socket.sendto", "socket.getaddrinfo", "socket.gethostbyname"):
        with open(os.environ["WATCH_FILE"], "a") as file:
            file.write(f"{event} {arguments[1] if event == 'socket.connect' else arguments[0]}\\n")
        raise OSError("no connections in this test")

sys.addaudithook(refuse)

LOAD, EQUAL, RETURN = 0x20, 0x15, 0x06
KILL, ALLOW = 0x80000000, 0x7FFF0000
ARCHITECTURE, SOCKET = {"x86_64": (0xC000003E, 41), "aarch64": (0xC00000B7, 198)}[platform.machine()]
AF_INET, AF_INET6 = 2, 10
program = b"".join(
    struct.pack("HBBI", *line)
    for line in (
        (LOAD, 0, 0, 4), (EQUAL, 0, 6, ARCHITECTURE), (LOAD, 0, 0, 0), (EQUAL, 0, 4, SOCKET),
        (LOAD, 0, 0, 16), (EQUAL, 1, 0, AF_INET), (EQUAL, 0, 1, AF_INET6), (RETURN, 0, 0, KILL), (RETURN, 0, 0, ALLOW),
    )
)
buffer = ctypes.create_string_buffer(program, len(program))
filter = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(buffer))
prctl = ctypes.CDLL(None, use_errno=True).prctl
assert prctl(38, 1, 0, 0, 0) == 0 and prctl(22, 2, filter, 0, 0) == 0, "no filter of system calls here"
"""

RUN_A_MODEL = """
import numpy, onnx, onnxruntime, openvino, time
x, y = (onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [1, 3]) for n in "xy")
graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])
opset = onnx.helper.make_opsetid("", 20)
data = onnx.helper.make_model(graph, opset_imports=[opset], ir_version=10).SerializeToString()
tile = numpy.float32([[1, -1, 2]])
assert onnxruntime.InferenceSession(data).run(None, {"x": tile})[0].tolist() == [[1, 0, 2]]
core = openvino.Core()
assert core.compile_model(core.read_model(data), "CPU")(tile)[0].tolist() == [[1, 0, 2]]
time.sleep(2)
"""

QUIET = "from lpcnet_edge.backends.quiet import silence_libraries; silence_libraries()\n"


class Run:
    """A watched run: how it ended, the connections that Python tried, and the files it left in its home."""

    def __init__(self, code: str, folder: Path) -> None:
        home, watched = folder / "home", folder / "watched"
        home.mkdir()
        watched.touch()
        (folder / "sitecustomize.py").write_text(WATCH, encoding="utf-8")
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "PYTHONPATH": os.pathsep.join([str(folder), str(PACKAGE.parent)]),
            "WATCH_FILE": str(watched),
        }
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120
        )
        self.code, self.errors = done.returncode, done.stderr
        self.tried = watched.read_text(encoding="utf-8").splitlines()
        self.left = sorted(path.name for path in home.rglob("*") if path.is_file())

    @property
    def killed(self) -> bool:
        return self.code == -signal.SIGSYS


def is_installed(distribution: str, least: str = "0") -> bool:
    """Whether a distribution is there, of at least this version (major.minor)."""
    try:
        found = version(distribution)
    except PackageNotFoundError:
        return False
    return [int(n) for n in found.split(".")[:2]] >= [int(n) for n in least.split(".")]


def test_the_watch_sees_connections_of_python(tmp_path: Path) -> None:
    run = Run("import socket; socket.getaddrinfo('station.test', 80)", tmp_path)
    assert run.tried == ["socket.getaddrinfo station.test"]
    assert "no connections in this test" in run.errors


@pytest.mark.parametrize("family", ["AF_INET", "AF_INET6"])
def test_the_watch_sees_sockets_of_native_code(family: str, tmp_path: Path) -> None:
    code = f"import ctypes, socket; ctypes.CDLL(None).socket(socket.{family}, socket.SOCK_STREAM, 0)"
    assert Run(code, tmp_path).killed
    (tmp_path / "again").mkdir()
    local = "import ctypes, socket; ctypes.CDLL(None).socket(socket.AF_UNIX, socket.SOCK_STREAM, 0)"
    assert Run(local, tmp_path / "again").code == 0


def test_silenced_libraries_send_and_leave_nothing(tmp_path: Path) -> None:
    run = Run(QUIET + QUIET + RUN_A_MODEL, tmp_path)
    assert run.code == 0, run.errors
    assert (run.tried, run.left) == ([], [])


def test_the_command_silences_them(tmp_path: Path) -> None:
    run = Run("from lpcnet_edge.cli import main; main(['doctor', '--json'])\n" + RUN_A_MODEL, tmp_path)
    assert run.code == 0, run.errors
    assert (run.tried, run.left) == ([], [])


@pytest.mark.skipif(not is_installed("openvino-telemetry"), reason="OpenVINO came without its telemetry")
def test_openvino_left_alone_would_report(tmp_path: Path) -> None:
    run = Run("import openvino, time; time.sleep(1)", tmp_path)
    assert run.tried, "if OpenVINO stops reporting, its half of backends/quiet.py can go"


@pytest.mark.skipif(not is_installed("onnxruntime", "1.29"), reason="this ONNX Runtime has no telemetry on Linux")
def test_onnxruntime_left_alone_would_report(tmp_path: Path) -> None:
    run = Run("import onnxruntime, time; time.sleep(5)", tmp_path)
    assert run.killed or run.left, "if ONNX Runtime stops reporting, its half of backends/quiet.py can go"


@pytest.mark.skipif(not is_installed("openvino-telemetry"), reason="OpenVINO came without its telemetry")
def test_openvino_imported_first_sends_no_more(tmp_path: Path) -> None:
    run = Run(
        "import os, openvino, openvino_telemetry, time; time.sleep(1); open(os.environ['WATCH_FILE'], 'w').close()\n"
        + QUIET
        + "openvino_telemetry.Telemetry().send_event('a', 'b', 'c', force_send=True)\n"
        "openvino_telemetry.Telemetry().start_session('a'); time.sleep(1)\n",
        tmp_path,
    )
    assert (run.code, run.tried) == (0, [])


def test_files_that_import_them_silence_them_first() -> None:
    for file in PACKAGE.rglob("*.py"):
        text = file.read_text(encoding="utf-8")
        at = re.search(r"^\s*(?:import|from) (openvino|onnxruntime)\b", text, re.MULTILINE)
        if at:
            assert "silence_libraries()" in text[: at.start()], f"{file.name} imports {at[1]} before silencing it"
