"""``run``: frames to verdicts."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lpcnet_edge.cli.console import add_json_option, phases, print_json, progress_bar
from lpcnet_edge.cli.options import add_rules_option, is_stdout, number, open_rules, refuse_in_bundles
from lpcnet_edge.cli.run_refusals import (
    OUTPUTS,
    outputs_of,
    refuse_deadline_in_bulk,
    refuse_memory_off_gpu,
    refuse_pictures_in_sources,
    refuse_shared_outputs,
    refuse_sources_alike,
    refuse_uninspected,
)
from lpcnet_edge.cli.run_report import print_beginning, print_report, to_json
from lpcnet_edge.errors import CheckFailed, SinkFailed, UsageError

if TYPE_CHECKING:
    from lpcnet_edge.bundle.read import Bundle
    from lpcnet_edge.runtime.settings import RunSettings


def add_verbs(verbs: Any) -> None:
    """Add this module's verb to the command."""
    parser = verbs.add_parser("run", help="verdicts on the frames of a folder, camera or stream")
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="its folder")
    parser.add_argument(
        "source", nargs="+", metavar="SOURCE", help="folder, file, glob, camera or stream; several share the engines"
    )
    parser.add_argument(
        "--backend",
        default="auto",
        metavar="NAME",
        help="auto, openvino, onnxruntime, tensorrt, tensorrt-rtx or torch-cuda",
    )
    parser.add_argument("--isolate", action="store_true", help="the engines in a process of their own")
    parser.add_argument(
        "--memory", choices=("auto", "staged", "mapped"), help="on a GPU: copies, or the host's memory in place"
    )
    parser.add_argument("--config", type=Path, metavar="YAML", help="settings of the run (docs/running.md)")
    parser.add_argument("--gate", metavar="off|auto|T", help="tiles for stage 2: all, as the bundle says, or from T on")
    parser.add_argument("--framing", choices=("resize", "tile"), help="default: large frames are cut into tiles")
    add_rules_option(parser, "the bundle's")
    parser.add_argument("--live", action="store_true", help="one frame at a time, as for a camera")
    parser.add_argument("--deadline-ms", type=number, metavar="MS", help="live: a later verdict is a reject")
    parser.add_argument("--jsonl", type=Path, metavar="FILE", help="verdict lines")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="one row a frame")
    parser.add_argument("--sqlite", type=Path, metavar="FILE", help="a database of verdicts and defects")
    parser.add_argument("--overlays", type=Path, metavar="DIR", help="images with what was found drawn in")
    parser.add_argument("--masks", type=Path, metavar="DIR", help="class maps as PNG")
    parser.add_argument("--parts", type=Path, metavar="FILE", help="verdict lines of parts, where the config has views")
    parser.add_argument("--journal", type=Path, metavar="FILE", help="go on after a kill; for image files")
    parser.add_argument("--key", type=Path, metavar="PUBLIC", help="demand the bundle's signature by this public key")
    add_json_option(parser)
    parser.set_defaults(run=run_run)


def run_run(args: argparse.Namespace) -> int:
    """``lpcnet-edge run``"""
    settings = _settings(args)
    there = next(filter(is_stdout, (args.parts, *outputs_of(settings).values())), None)
    if there is None:
        return _run(args, settings)
    if args.json:
        raise UsageError(
            f"{there} is standard output, where --json prints its object", mend="leave --json out, or name a file"
        )
    with contextlib.redirect_stdout(sys.stderr):  # text among the lines, or over them, would spoil them
        return _run(args, settings)


def _run(args: argparse.Namespace, settings: RunSettings) -> int:
    from lpcnet_edge.bundle.read import open_bundle
    from lpcnet_edge.runtime.running import PartLines, Report, run_session
    from lpcnet_edge.runtime.session import Session
    from lpcnet_edge.runtime.sinks import open_sinks

    if args.backend == "null":
        raise UsageError("the backend null computes nothing: every frame would pass", mend="it is for bench alone")
    refuse_in_bundles(args.parts, args.journal, *outputs_of(settings).values())
    refuse_shared_outputs(args, settings)
    refuse_pictures_in_sources(args, settings)
    if args.journal and len(args.source) > 1:
        raise UsageError(
            "--journal is for one source: it knows frames by their names, and those of several sources may be alike",
            mend="run them in turn, each with a journal of its own",
        )
    if args.parts and not settings.views:
        raise UsageError("--parts is for views, and none are named", mend="name them in --config: views: [left, right]")
    bundle = open_bundle(args.bundle, trusted_key=args.key)
    if args.framing:
        from lpcnet_edge.runtime.pipeline import framing_for

        framing = settings.framing or framing_for(0, 0, bundle.manifest.tile_px)
        settings = replace(settings, framing=replace(framing, mode=args.framing))
    if settings.build_at_first_use:
        _make_ready(bundle, args)
    report = Report()
    journal = None
    ended, unwritten = False, None
    parts = PartLines(args.parts, report)
    try:
        if args.journal:
            from lpcnet_edge.runtime.journal import Journal

            journal = Journal(args.journal, _identity(args, settings, bundle.id), settings.sinks)
        outputs = settings.sinks
        session = Session(
            bundle,
            args.source,
            settings,
            backend=args.backend,
            live=True if args.live else None,
            keep_maps=outputs.masks is not None or outputs.overlays is not None,
            skip=(journal.done or {""}) if journal else (),  # not empty: a source that cannot skip is refused at once
            on_part=parts.add,
        )
        asked = settings.framing
        region = asked.region if asked is not None and asked.mode == "resize" else None
        refuse_memory_off_gpu(args.memory, session)
        refuse_deadline_in_bulk(args.deadline_ms, session)
        several = len(args.source) > 1
        if several and (outputs.masks or outputs.overlays):
            refuse_sources_alike(session)
        with session, open_sinks(outputs, bundle.manifest.classes, region=region, by_source=several) as sinks:
            if journal:
                journal.attach(sinks)
            if not args.json:
                print_beginning(session, args.backend)
            with progress_bar("inspecting") as progress:
                run_session(session, sinks, report, journal=journal, progress=progress)
            ended = True
        parts.close()
    except SinkFailed as exc:
        if not ended:
            raise
        unwritten = exc  # told after the report on what was decided
    finally:
        with contextlib.suppress(SinkFailed):  # what ended the run goes on up
            parts.close()
        if journal:
            journal.close()
    if args.json:
        print_json(to_json(session, sinks, report))
    else:
        print_report(session, sinks, report)
    if unwritten is not None:
        raise unwritten
    failed = session.pipeline.totals.refused["engine failed"]
    if failed:
        raise CheckFailed(f"{failed} frame(s) were rejected because the engines failed", mend="see their reasons above")
    refuse_uninspected(session, report, settings, args)
    return 0


def _make_ready(bundle: Bundle, args: argparse.Namespace) -> None:
    """This machine's plans, where the config allows to build them."""
    from lpcnet_edge.check.first_use import make_ready

    with phases() as progress:
        made = make_ready(bundle, args.backend, progress)
    if made is not None and not args.json:
        for line in made.lines():
            print(line)


def _settings(args: argparse.Namespace) -> RunSettings:
    """The config's settings, with what the options say in their place."""
    from lpcnet_edge.config import load_config
    from lpcnet_edge.runtime.settings import RunSettings

    settings = load_config(args.config, RunSettings) if args.config else RunSettings()
    outputs = {name: getattr(args, name) for name in OUTPUTS if getattr(args, name) is not None}
    settings = replace(settings, sinks=replace(settings.sinks, **outputs))
    if args.gate is not None:
        settings = replace(settings, gate=gate_of(args.gate))
    if args.memory is not None:
        settings = replace(settings, cuda=replace(settings.cuda, memory=args.memory))
    if args.rules:
        settings = replace(settings, rules=open_rules(args))
    if args.isolate:
        settings = replace(settings, isolate=True)
    if args.deadline_ms is not None:
        try:
            settings = replace(settings, live=replace(settings.live, deadline_ms=args.deadline_ms))
        except ValueError as exc:
            raise UsageError(str(exc), mend="give milliseconds above 0, 1e9 at most") from exc
    return settings


def gate_of(text: str) -> Any:
    """What ``--gate`` means: ``off``, ``auto`` or a threshold; raises ``UsageError``."""
    if text in ("off", "auto"):
        return text
    try:
        threshold = float(text)
    except ValueError:
        threshold = -1.0
    if not 0 <= threshold <= 1:
        raise UsageError(f"--gate {text}: neither off, nor auto, nor a score", mend="give a score from 0 to 1")
    return threshold


def _identity(args: argparse.Namespace, settings: RunSettings, bundle_id: str) -> dict[str, Any]:
    """What must be the same for a run to go on with a journal."""
    from lpcnet_edge.config import to_mapping

    said = to_mapping(settings)
    outputs = {name: path and os.path.abspath(path) for name in OUTPUTS for path in (said["sinks"][name],)}
    read = {
        "framing.inspect_mask": settings.framing and settings.framing.inspect_mask,
        "source.correction.dark": settings.source.correction.dark,
        "source.correction.flat": settings.source.correction.flat,
    }
    kept = ("framing", "gate", "budget_tiles", "uncertain", "rules")
    return {
        "bundle": bundle_id,
        "source": [os.path.abspath(text) for text in args.source],  # image files: others keep no journal
        "source settings": _plain(said["source"]),
        "outputs": outputs,
        **{f"SHA-256 of {name}": _sha256(path) for name, path in read.items() if path},
        **{key: _plain(said[key]) for key in kept},
    }


def _sha256(path: Path) -> str | None:
    """None where it cannot be read, which the session then says."""
    import hashlib

    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return None


def _plain(value: Any) -> Any:
    import json

    return json.loads(json.dumps(value))
