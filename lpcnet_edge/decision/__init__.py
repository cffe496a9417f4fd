"""From a class map to a verdict: pure functions of arrays and rules; ``docs/verdicts.md`` defines them."""

from lpcnet_edge.decision.rules import ClassRule, Rules, Zone
from lpcnet_edge.decision.verdict import ask_review, counting_map, decide, find_defects, join_views

__all__ = ["ClassRule", "Rules", "Zone", "ask_review", "counting_map", "decide", "find_defects", "join_views"]
