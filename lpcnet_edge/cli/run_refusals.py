"""What ``run`` refuses: outputs in each other's way, options that do not fit the session, a run that saw nothing."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from lpcnet_edge.errors import BadConfig, BadInput, CheckFailed, UsageError

if TYPE_CHECKING:
    from lpcnet_edge.runtime.running import Report
    from lpcnet_edge.runtime.session import Session
    from lpcnet_edge.runtime.settings import RunSettings

OUTPUTS = ("jsonl", "csv", "sqlite", "overlays", "masks")


def outputs_of(settings: RunSettings) -> dict[str, Path | None]:
    """Where the settings' sinks write, by name."""
    return {name: getattr(settings.sinks, name) for name in OUTPUTS}


def refuse_uninspected(session: Session, report: Report, settings: RunSettings, args: argparse.Namespace) -> None:
    """Raise ``BadInput`` where not one frame could be inspected, those before a resume included: none came, none can be
    read, or settings and frames do not fit each other (``BadConfig``); ``CheckFailed`` where all were late.
    """
    totals = session.pipeline.totals
    frames = totals.frames + report.resumed
    if not frames and not report.stopped:
        raise BadInput(
            f"{', '.join(session.source_names)} ended without a frame",
            mend="see that what feeds it runs and sends frames of the size stated",
        )
    if totals.frames and totals.refused["late"] == totals.frames:
        raise CheckFailed(
            f"none of {totals.frames} frame(s) was decided within {settings.live.deadline_ms:g} ms, all are rejects; "
            f"{report.shown[0].verdict.reasons[0]}",
            mend="see what a frame takes without --deadline-ms, then allow that and some room, or inspect fewer tiles",
        )
    if report.inspected or not frames:
        return
    reasons = [reason for result in report.shown for reason in result.verdict.reasons]
    unfit = [reason for reason in reasons if reason.startswith("not inspected")]
    first = (unfit or reasons or [f"{report.resumed} of them before this run (journal)"])[0]
    message = f"none of {frames} frame(s) was inspected, all are rejects; {first}"
    if totals.refused["not inspected"]:
        raise BadConfig(
            message,
            mend="correct framing or the rules' zones, or inspect the frames that they were made for (docs/framing.md)",
        )
    again = "; a journal keeps them as done: name another" if args.journal else ""
    raise BadInput(message, mend=f"mend the files, or name those that were meant{again}")


def refuse_memory_off_gpu(memory: str | None, session: Session) -> None:
    from lpcnet_edge.backends.choice import AUTO

    backend = session.pipeline.backend_name
    if memory is not None and backend in AUTO:
        session.close()
        raise UsageError(
            f"--memory {memory} is for a GPU, and {backend} computes on the processor",
            mend="leave it out, or name a GPU's --backend; cuda.memory in --config is read only where there is one",
        )


def refuse_deadline_in_bulk(deadline_ms: float | None, session: Session) -> None:
    if deadline_ms is not None and not session.live:
        session.close()
        raise UsageError("--deadline-ms is for live running", mend="add --live; a camera is live by itself")


def refuse_shared_outputs(args: argparse.Namespace, settings: RunSettings) -> None:
    """Two outputs in one file; masks and overlays may share a folder where the latter are no PNG, too."""
    found = {"parts": args.parts, "journal": args.journal, **outputs_of(settings)}
    if settings.sinks.overlay_format != "png":
        del found["masks"]
    seen: dict[Path, str] = {}
    for name, path in found.items():
        if path is None or (path.exists() and not (path.is_file() or path.is_dir())):  # a pipe takes any lines
            continue
        other = seen.setdefault(path.resolve(), name)
        if other != name:
            raise UsageError(f"{path} is named for {other} and for {name}", mend="give each output a place of its own")


def refuse_pictures_in_sources(args: argparse.Namespace, settings: RunSettings) -> None:
    """Masks or overlays where images are read: the next run would take them for frames, and replace those so named."""
    for text in args.source:
        pattern = not os.path.lexists(text) and any(sign in text for sign in "*?[")
        folder = Path(os.path.dirname(text) or "." if pattern else text)
        if not folder.is_dir():
            continue
        for out in filter(None, (settings.sinks.masks, settings.sinks.overlays)):
            within = settings.source.recursive and not pattern and folder.resolve() in out.resolve().parents
            if out.resolve() == folder.resolve() or within:
                raise UsageError(
                    f"{out} is where the images of {text} are read: the next run would inspect its pictures, too",
                    mend="name a folder beside it",
                )


def refuse_sources_alike(session: Session) -> None:
    names = session.source_names
    if len(set(names)) < len(names):
        session.close()
        raise UsageError(
            f"sources have the same name ({', '.join(names)}): one's pictures would replace the other's",
            mend="name them in --config: views: [left, right]",
        )
