"""A check as JUnit XML, which CI systems read: one test case for each limit."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from xml.etree import ElementTree

_NOT_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 cannot hold, even escaped; file names can."""


def junit_xml(report: Mapping[str, Any]) -> str:
    """The XML of a check's JSON form. Without a limit there is one case, ``measured``, which passes."""
    broken = {row["limit"]: row for row in report["limits_broken"]}
    names = list(report["limits"]) or ["measured"]
    suite = ElementTree.Element(
        "testsuite",
        name=f"lpcnet-edge check {report['bundle']['id']}",
        tests=str(len(names)),
        failures=str(len(broken)),
        errors="0",
        skipped="0",
    )
    about = ElementTree.SubElement(suite, "properties")
    for key in ("id", "precision", "candidate", "reference"):
        ElementTree.SubElement(about, "property", name=key, value=report["bundle"][key])
    for key in ("name", "digest", "images"):
        ElementTree.SubElement(about, "property", name=f"dataset.{key}", value=str(report["dataset"][key]))
    for name in names:
        case = ElementTree.SubElement(suite, "testcase", classname="lpcnet-edge.check", name=name)
        row = broken.get(name)
        if row is not None:
            failure = ElementTree.SubElement(case, "failure", type="limit", message=row["message"])
            failure.text = "\n".join([row["message"], *row["causes"], f"try: {row['try']}"])
    suites = ElementTree.Element("testsuites")
    suites.append(suite)
    ElementTree.indent(suites)
    text = ElementTree.tostring(suites, encoding="unicode")
    return f"<?xml version='1.0' encoding='utf-8'?>\n{_NOT_XML.sub('?', text)}\n"
