"""``doctor``: what this machine can do."""

from __future__ import annotations

import argparse
from typing import Any

from lpcnet_edge.cli.console import add_json_option, print_json


def add_verbs(verbs: Any) -> None:
    """Add this module's verb to the command."""
    parser = verbs.add_parser("doctor", help="what this machine can do, and the mend for each thing missing")
    add_json_option(parser)
    parser.set_defaults(run=run_doctor)


def run_doctor(args: argparse.Namespace) -> int:
    """``lpcnet-edge doctor``"""
    from lpcnet_edge.check.doctor import examine, require_an_engine

    report = examine()
    if args.json:
        print_json(report.to_json())
    else:
        width = max(len(finding.name) for finding in report.findings())
        for finding in report.findings():
            said = ": ".join(filter(None, (finding.value or "missing", finding.problem)))
            print(f"{finding.name:<{width}}  {said}")
            if finding.mend:
                print(f"{'':<{width}}  mend: {finding.mend}")
        print(f"{'engines':<{width}}  {', '.join(report.engines) or 'none can run here'}")
    require_an_engine(report)
    return 0
