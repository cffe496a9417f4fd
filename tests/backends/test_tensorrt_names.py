"""Every name that our source takes from TensorRT exists in every version served, or is declared in the one table.

The names of each version are those of its real bindings (scripts/tensorrt_names.py).
"""

from __future__ import annotations

import importlib
import re
from dataclasses import replace
from pathlib import Path

import pytest
from api_names import Reading, read_sources, versions

from lpcnet_edge.backends.tensorrt_versions import BRANCHES, Branch, branch_of
from lpcnet_edge.errors import MissingLibrary, UsageError

PACKAGE = Path(__file__).parents[2] / "lpcnet_edge"

REFUSED = [("tensorrt", "8.6.1"), ("tensorrt", "10.2.9"), ("tensorrt", "12.0.1"), ("tensorrt_rtx", "1.6")]


def our_reading() -> Reading:
    files = [path for path in sorted(PACKAGE.rglob("*.py")) if "tensorrt" in path.read_text("utf-8")]
    return read_sources({path.relative_to(PACKAGE).as_posix(): path.read_text("utf-8") for path in files})


def absent(reading: Reading, branches: tuple[Branch, ...] = BRANCHES) -> list[str]:
    """What the source takes and a version lacks, but for the names declared as another branch's own."""
    found = []
    for module, version, classes in versions():
        here = next(b for b in branches if b.module == module and b.since <= numbers(version) < b.below)
        elsewhere = {name for branch in branches if branch is not here for name in branch.own_names} - here.own_names
        for owner, member, where in sorted(reading.uses):
            name = f"{owner}.{member}" if member else owner
            exists = owner in classes and (not member or member in classes[owner])
            if not exists and not {name, owner} & elsewhere:
                found.append(f"{where}: {name} is not in {module} {version}")
    return found


def numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def test_the_versions_are_the_ones_promised() -> None:
    have = {(module, ".".join(version.split(".")[:2])) for module, version, _ in versions()}
    assert have >= {("tensorrt", v) for v in ("10.3", "10.16", "11.0", "11.4")} | {("tensorrt_rtx", "1.7")}


def test_every_name_exists_in_every_version() -> None:
    reading = our_reading()
    assert not reading.faults, "\n".join(reading.faults)
    used = {(owner, member) for owner, member, _ in reading.uses}
    # The reading must have followed the objects through the code; these are of many classes.
    assert used >= {
        ("Builder", "create_network"),
        ("Builder", "build_serialized_network"),
        ("IBuilderConfig", "set_memory_pool_limit"),
        ("IBuilderConfig", "progress_monitor"),
        ("IOptimizationProfile", "set_shape"),
        ("INetworkDefinition", "get_output"),
        ("ITensor", "dtype"),
        ("ParserError", "node_name"),
        ("IProgressMonitor", "step_complete"),
        ("ILogger", "log"),
        ("NetworkDefinitionCreationFlag", "STRONGLY_TYPED"),
        ("BuilderFlag", "REQUIRE_USER_ALLOCATION"),
        ("Runtime", "deserialize_cuda_engine"),
        ("Runtime", "error_recorder"),
        ("IErrorRecorder", "report_error"),
        ("ICudaEngine", "create_execution_context"),
        ("ICudaEngine", "device_memory_size_v2"),
        ("TensorIOMode", "name"),
        ("TensorLocation", "name"),
        ("IRuntimeConfig", "set_execution_context_allocation_strategy"),
        ("IRuntimeConfig", "dynamic_shapes_kernel_specialization_strategy"),
        ("IRuntimeCache", "serialize"),
        ("IExecutionContext", "set_optimization_profile_async"),
        ("IExecutionContext", "set_device_memory"),
        ("IExecutionContext", "execute_async_v3"),
    }
    assert absent(reading) == []


def branch_beside(branch: Branch) -> str:
    """The module of the other branch."""
    return next(other.module for other in BRANCHES if other is not branch)


def test_what_one_branch_alone_has_must_be_declared() -> None:
    reading = our_reading()
    undeclared = tuple(replace(branch, own_names=frozenset()) for branch in BRANCHES)
    missing = "\n".join(absent(reading, undeclared))
    for branch in BRANCHES:
        for name in branch.own_names:
            needed = re.search(rf" {re.escape(name)}(\.\w+)? is not in {branch_beside(branch)} ", missing)
            assert needed, f"{name} is declared without need"


def test_a_declared_name_exists_in_its_own_branch() -> None:
    for branch in BRANCHES:
        for module, version, classes in versions():
            if branch is branch_of(module, version):
                for name in branch.own_names:
                    owner, _, member = name.partition(".")
                    assert owner in classes, (name, version)
                    assert not member or member in classes[owner], (name, version)


def test_compute_capabilities_are_all_that_the_library_lists() -> None:
    for module, version, classes in versions():
        listed = set(classes.get("ComputeCapability", ())) - {"NONE", "CURRENT", "name", "value"}
        assert {f"SM{c.replace('.', '')}" for c in branch_of(module, version).compute_capabilities} == listed


@pytest.mark.parametrize(
    ("body", "name"),
    [
        ("def f(trt: Module):\n    trt.BuilderFlag.FP16", "BuilderFlag.FP16 is not in"),
        ("def f(b: Builder):\n    return b.platform_has_fast_int8", "Builder.platform_has_fast_int8 is not in"),
        ("def f(trt: Module):\n    trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH", "EXPLICIT_BATCH is not in"),
        ("def f(c: BuilderConfig):\n    c.int8_calibrator = None", "IBuilderConfig.int8_calibrator is not in"),
        ("def f(trt: Module):\n    trt.Builder(0).max_batch_size", "Builder.max_batch_size is not in"),
        ("def f(n: Network):\n    x: Tensor = n.get_input(0)\n    x.dynamic_range", "ITensor.dynamic_range is not in"),
        ("def f(t: Sequence[Tensor]):\n    for x in t:\n        x.location", "ITensor.location is not in"),
        ("class A:\n    b: Builder\ndef f(a: A):\n    a.b.nope", "Builder.nope is not in"),
        ("def g() -> Builder: ...\ndef f():\n    g().nope", "Builder.nope is not in"),
        ("def f(trt: Module):\n    class M(trt.ILogger):\n        def shout(self): ...", "ILogger.shout is not in"),
        ("import tensorrt\ntensorrt.Nope", "Nope is not in"),
        ("def f(trt: Module):\n    return [lambda: trt.Nope]", "Nope is not in"),
    ],
)
def test_an_absent_name_is_found(body: str, name: str) -> None:
    assert name in "\n".join(absent(read_sources({"x.py": body})))


@pytest.mark.parametrize(
    "body",
    [
        "def f(b: Builder):\n    n = b.create_network(1)\n    n.get_input(0)",
        "def f(b: Builder):\n    b.create_network(1).get_input(0)",
        "def f(b: Builder):\n    n, m = b.create_network(1), 0\n    n.get_input(0)",
        "def f(n: Network):\n    for t in [n.get_input(i) for i in range(2)]:\n        t.dtype",
        "def f(n: Network):\n    return [n.get_input(i).dtype for i in range(2)]",
        "def f(b: Builder):\n    return getattr(b, 'platform_has_fast_int8')",
        "def f(b: Builder):\n    return hasattr(b, 'platform_has_fast_int8')",
        "class A:\n    def f(self, b: Builder):\n        self.kept = b",
        "from tensorrt import Builder",
    ],
)
def test_what_cannot_be_followed_is_a_fault(body: str) -> None:
    assert read_sources({"x.py": body}).faults


@pytest.mark.parametrize(("module", "version"), [(module, version) for module, version, _ in versions()])
def test_the_listing_is_that_of_the_library(module: str, version: str) -> None:
    try:
        library = importlib.import_module(module)
    except ImportError:
        pytest.skip(f"{module} is not installed")
    if library.__version__ != version:
        pytest.skip(f"{module} {library.__version__} is installed, not {version}")
    for name, members in next(c for m, v, c in versions() if (m, v) == (module, version)).items():
        assert members == sorted(member for member in dir(getattr(library, name)) if member[0] != "_")


def test_versions_outside_the_table_are_refused() -> None:
    for module, version in REFUSED:
        with pytest.raises(MissingLibrary, match=f"{module} {version} is installed, and .* is served"):
            branch_of(module, version)
    assert branch_of("tensorrt", "10.3.0").cache == branch_of("tensorrt", "11.4.0.106").cache == "timing"
    assert branch_of("tensorrt_rtx", "1.7.1.116").cache == "runtime"
    with pytest.raises(UsageError, match="'torch' is no module that builds plans"):
        branch_of("torch", "2.13")
