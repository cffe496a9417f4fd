"""The style sheet that every report shares: light, dark and print."""

STYLE = """
:root { color-scheme: light dark; --back: #fff; --panel: #f4f5f7; --ink: #1b1f24; --soft: #59636e; --line: #d1d9e0;
  --float: #0072b2; --bundle: #d55e00; --good: #1a7f37; --bad: #b3261e; --note: #8a5a00; }
@media (prefers-color-scheme: dark) { :root { --back: #14171a; --panel: #1e2327; --ink: #e6e9ec; --soft: #9aa4ae;
  --line: #353c43; --float: #56b4e9; --bundle: #f0a04b; --good: #4ac26b; --bad: #ff8078; --note: #e3b341; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1000px; padding: 20px; background: var(--back); color: var(--ink);
  font: 15px/1.5 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
h1 { font-size: 22px; margin: 0 0 4px; } h2 { font-size: 18px; margin: 36px 0 10px; }
h2 { border-bottom: 1px solid var(--line); padding-bottom: 4px; } p { margin: 6px 0; } .soft { color: var(--soft); }
.banner { border-left: 8px solid var(--soft); background: var(--panel); padding: 14px 18px; border-radius: 6px;
  overflow-wrap: anywhere; }
.banner.holds { border-color: var(--good); } .banner.broken { border-color: var(--bad); }
.verdict { font-size: 26px; font-weight: 700; } .holds .verdict { color: var(--good); }
.broken .verdict { color: var(--bad); }
.banner ul { margin: 8px 0 0; padding-left: 20px; } .banner li { margin: 6px 0; }
.try { color: var(--soft); display: block; } .found { color: var(--note); display: block; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(118px, 1fr)); gap: 10px; margin: 16px 0; }
.card { background: var(--panel); border-radius: 6px; padding: 10px 12px; font-size: 13.5px; }
.card b { display: block; font-size: 19px; font-variant-numeric: tabular-nums; } .card span { color: var(--soft); }
.card b.bad { color: var(--bad); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: 4px 10px; text-align: right; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; overflow-wrap: anywhere; }
th { color: var(--soft); font-weight: 600; }
table.about td { text-align: left; overflow-wrap: anywhere; vertical-align: top; }
table.about td:first-child { white-space: nowrap; color: var(--soft); } table.about thead { display: none; }
td.down { color: var(--bad); } td.up { color: var(--good); }
.pair { display: flex; flex-wrap: wrap; gap: 20px; } .pair > * { flex: 1 1 440px; min-width: 0; }
svg { max-width: 100%; height: auto; display: block; } svg text { fill: var(--ink); font-size: 12px; }
svg .tick { fill: var(--soft); } svg .value { fill: var(--soft); font-size: 11.5px; }
svg .grid { stroke: var(--line); stroke-width: 1; } svg .join { stroke: var(--soft); stroke-width: 2; }
svg .ideal { stroke: var(--soft); stroke-dasharray: 5 4; } svg .marker { stroke: var(--bad); stroke-width: 2; }
svg .whisker { stroke-width: 3; opacity: .5; } svg circle { stroke: var(--back); stroke-width: 1; }
svg circle.float, svg rect.float { fill: var(--float); } svg circle.bundle, svg rect.bundle { fill: var(--bundle); }
svg rect.p0 { fill: #0072b2; } svg rect.p1 { fill: #8c8c8c; } svg rect.p2 { fill: #56b4e9; }
svg rect.p3 { fill: #009e73; } svg rect.p4 { fill: #f0e442; } svg rect.p5 { fill: #d55e00; }
svg rect.p6 { fill: #cc79a7; } svg rect.p7 { fill: #e69f00; } svg rect.p8 { fill: #7a5195; }
svg rect.p9 { fill: var(--line); }
.p0::before { background: #0072b2; } .p1::before { background: #8c8c8c; } .p2::before { background: #56b4e9; }
.p3::before { background: #009e73; } .p4::before { background: #f0e442; } .p5::before { background: #d55e00; }
.p6::before { background: #cc79a7; } .p7::before { background: #e69f00; } .p8::before { background: #7a5195; }
.p9::before { background: var(--line); }
svg text.inside { fill: #000; font-weight: 600; }
svg .line, svg .whisker { fill: none; } svg .line { stroke-width: 2; }
svg .line.float, svg .whisker.float { stroke: var(--float); }
svg .line.bundle, svg .whisker.bundle { stroke: var(--bundle); }
.key::before { content: ""; display: inline-block; width: 11px; height: 11px; border-radius: 50%; margin: 0 5px 0 0; }
.key.float::before { background: var(--float); } .key.bundle::before { background: var(--bundle); }
.key { margin-right: 18px; } .swatch { display: inline-block; width: 12px; height: 12px; margin: 0 5px -1px 12px; }
details { margin: 8px 0; } summary { cursor: pointer; color: var(--soft); }
@media print { :root { color-scheme: light; --back: #fff; --panel: #fff; --ink: #000; --soft: #444; --line: #bbb;
    --float: #0072b2; --bundle: #d55e00; --good: #1a7f37; --bad: #b3261e; --note: #8a5a00; }
  body { max-width: none; padding: 0; font-size: 11px; }
  h2 { margin-top: 18px; } h2, p { break-after: avoid; }
  svg, tr, .card, .banner { break-inside: avoid; } .banner, .card { border: 1px solid var(--line); }
  .banner { border-left-width: 8px; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
"""
