"""What ``lpcnet-edge run`` says of a run: before it, after it, and as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lpcnet_edge.cli.console import text_console

if TYPE_CHECKING:
    from lpcnet_edge.runtime.running import Report
    from lpcnet_edge.runtime.session import Session
    from lpcnet_edge.runtime.sinks import Sinks


def print_beginning(session: Session, backend: str) -> None:
    """What is about to be done, and with what; ``backend`` is the one asked for."""
    auto = " (auto)" if backend == "auto" else ""
    print(f"bundle   {session.bundle.id}, {session.bundle.manifest.precision}")
    print(f"backend  {session.about}{auto}")
    print(f"gate     {session.gate_in_words}")
    print(f"frames   {', '.join(session.source_names)}; {'live' if session.live else 'bulk'}", flush=True)


def to_json(session: Session, sinks: Sinks, report: Report) -> dict[str, Any]:
    """The object that docs/json.md describes."""
    totals, latency = session.pipeline.totals, report.latency_ms
    frames = totals.frames
    return {
        "bundle": session.bundle.id,
        "backend": session.pipeline.backend_name,
        "about": session.about,
        "mode": "live" if session.live else "bulk",
        "gate": {"threshold": session.pipeline.threshold, "says": session.gate_in_words},
        "frames": frames,
        "counts": dict(totals.outcomes),
        "refused": dict(totals.refused),
        "parts": dict(report.parts),
        "tiles": totals.tiles,
        "picked": totals.picked,
        "seconds": report.seconds,
        "frames_per_s": frames / report.seconds if report.seconds else None,
        "tiles_per_s": totals.tiles / report.seconds if report.seconds else None,
        "latency_ms": {
            "p50": latency.at(0.5),
            "p99": latency.at(0.99),
            "p999": latency.at(0.999),
            "largest": latency.largest,
        },
        "stage_ms": {name: total / frames for name, total in report.stage_ms.items()} if frames else {},
        "resumed": report.resumed,
        "stopped": report.stopped,
        "reopened": session.reopened,
        "sources": session.counters(),
        "sinks": {name: dict(counts) for name, counts in sinks.counters().items()},
    }


def print_report(session: Session, sinks: Sinks, report: Report) -> None:
    """The first frames that do not pass, counts, rates and latencies, what sinks did."""
    from rich.table import Table
    from rich.text import Text

    totals, console = session.pipeline.totals, text_console()
    if report.shown:
        table = Table(title="frames that do not pass", title_justify="left")
        for column in ("frame", "part", "verdict", "reasons", "ms"):
            table.add_column(column, justify="right" if column == "ms" else "left")
        for result in report.shown:
            verdict = result.verdict
            cells = (result.item.name, verdict.part_id, verdict.outcome, "; ".join(verdict.reasons))
            table.add_row(*map(Text, cells), f"{verdict.latency_ms['total']:.1f}")
        console.print(table)
        more = totals.frames - totals.outcomes["pass"] - len(report.shown)
        if more > 0:
            print(f"and {more} more")
    counts = ", ".join(f"{count} {name}" for name, count in totals.outcomes.items())
    refused = ", ".join(f"{count} {name}" for name, count in totals.refused.items() if count)
    print(f"{totals.frames} frames: {counts}{f' ({refused})' if refused else ''}")
    if report.parts:
        print(f"{report.parts.total()} parts: {', '.join(f'{n} {name}' for name, n in report.parts.items())}")
    if report.resumed:
        print(f"{report.resumed} more had been done before (journal)")
    if report.seconds and totals.frames:
        share = totals.picked / totals.tiles if totals.tiles else 0.0
        latency = report.latency_ms
        print(
            f"{report.seconds:.2f} s: {totals.frames / report.seconds:.1f} frames/s, "
            f"{totals.tiles / report.seconds:.1f} tiles/s, {100 * share:.1f} % of {totals.tiles} tiles to stage 2"
        )
        print(f"from taken to decided: p50 {latency.at(0.5):.1f} ms, p99 {latency.at(0.99):.1f} ms, "
              f"largest {latency.largest:.1f} ms")  # fmt: skip
    for name, counters in sinks.counters().items():
        odd = {key: count for key, count in counters.items() if count and key != "written"}
        print(f"{name}: {counters['written']} written{''.join(f', {n} {key}' for key, n in odd.items())}")
    if report.stopped:
        print("stopped: what had been taken was decided")
