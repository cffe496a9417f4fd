"""Write the names that TensorRT's bindings have, version by version, for tests/backends/test_tensorrt_names.py.

    python scripts/tensorrt_names.py tensorrt_rtx          # of the module installed here
    python scripts/tensorrt_names.py --all tensorrt        # every public class, to standard output
    python scripts/tensorrt_names.py tensorrt-10.3.0.json  # out of what --all printed where that version is installed

A file of tests/data/tensorrt-api/ holds the public members of the classes in CLASSES that the version has, no more.
Add a class here when the code begins to use it, and run this again for every version.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1] / "tests" / "data" / "tensorrt-api"
CLASSES = (
    "Builder",
    "BuilderFlag",
    "ComputeCapability",
    "DataType",
    "DynamicShapesKernelSpecializationStrategy",
    "ErrorCode",
    "ErrorCodeTRT",
    "ExecutionContextAllocationStrategy",
    "IBuilderConfig",
    "ICudaEngine",
    "IErrorRecorder",
    "IExecutionContext",
    "IHostMemory",
    "ILogger",
    "INetworkDefinition",
    "IOptimizationProfile",
    "IProgressMonitor",
    "IRuntimeCache",
    "IRuntimeConfig",
    "ITensor",
    "ITimingCache",
    "MemoryPoolType",
    "NetworkDefinitionCreationFlag",
    "OnnxParser",
    "ParserError",
    "Runtime",
    "TensorIOMode",
    "TensorLocation",
)


def names_of(module: str) -> dict[str, Any]:
    """Version and public members of every public class of an installed module."""
    library = importlib.import_module(module)
    classes = {name: item for name, item in vars(library).items() if inspect.isclass(item) and name[0] != "_"}
    members = {name: sorted(m for m in dir(item) if m[0] != "_") for name, item in sorted(classes.items())}
    return {"version": library.__version__, "members": members}


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the names that TensorRT's bindings have.")
    parser.add_argument("source", help="tensorrt, tensorrt_rtx, or a file <module>-<version>.json that --all printed")
    parser.add_argument("--all", action="store_true", help="print every public class instead of writing the few")
    chosen = parser.parse_args()
    path = Path(chosen.source)
    found = json.loads(path.read_text("utf-8")) if path.suffix == ".json" else names_of(chosen.source)
    if chosen.all:
        print(json.dumps(found, indent=0, sort_keys=True))
        return
    module = path.stem.rpartition("-")[0] if path.suffix == ".json" else chosen.source
    classes = {name: found["members"][name] for name in CLASSES if name in found["members"]}
    kept = {"module": module, "version": found["version"], "classes": classes}
    target = FOLDER / f"{module}-{found['version']}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    print(f"{target.relative_to(FOLDER.parents[2])}: {len(classes)} classes")


if __name__ == "__main__":
    main()
