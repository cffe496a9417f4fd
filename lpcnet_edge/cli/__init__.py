"""The command line: parse, call, print. Nothing heavy is imported before a verb needs it."""

from lpcnet_edge.cli.command import main

__all__ = ["main"]
