"""The style sheet and the script of a check's report; both stand in the page itself."""

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
svg .line, svg .whisker { fill: none; } svg .line { stroke-width: 2; }
svg .line.float, svg .whisker.float { stroke: var(--float); }
svg .line.bundle, svg .whisker.bundle { stroke: var(--bundle); }
.key::before { content: ""; display: inline-block; width: 11px; height: 11px; border-radius: 50%; margin: 0 5px 0 0; }
.key.float::before { background: var(--float); } .key.bundle::before { background: var(--bundle); }
.key { margin-right: 18px; } .swatch { display: inline-block; width: 12px; height: 12px; margin: 0 5px -1px 12px; }
.tools { display: flex; flex-wrap: wrap; gap: 8px 24px; align-items: center; margin: 10px 0; }
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(290px, 1fr)); gap: 18px; }
figure { margin: 0; background: var(--panel); border-radius: 6px; padding: 10px; --cut: 50%; }
.stack { position: relative; aspect-ratio: 1; overflow: hidden; border-radius: 4px; background: #000; }
.stack img { position: absolute; inset: 0; width: 100%; height: 100%; image-rendering: auto; }
.stack .reference { clip-path: inset(0 calc(100% - var(--cut)) 0 0); }
.stack .candidate { clip-path: inset(0 0 0 var(--cut)); }
.stack .truth { display: none; } .with-truth .stack .truth { display: block; } .no-masks .mask { visibility: hidden; }
.stack i { position: absolute; top: 0; bottom: 0; left: var(--cut); width: 2px; margin-left: -1px; background: #fff;
  box-shadow: 0 0 3px #000; }
.stack em { position: absolute; bottom: 4px; padding: 0 6px; background: #000b; color: #fff; font: 12px/1.6 inherit;
  font-style: normal; border-radius: 3px; } .stack em.l { left: 4px; } .stack em.r { right: 4px; }
input[type=range] { width: 100%; margin: 8px 0 2px; accent-color: var(--bundle); }
figcaption { font-size: 13px; overflow-wrap: anywhere; } figcaption b.wrong { color: var(--bad); }
figcaption b.right { color: var(--good); } details { margin: 8px 0; } summary { cursor: pointer; color: var(--soft); }
@media print { :root { color-scheme: light; --back: #fff; --panel: #fff; --ink: #000; --soft: #444; --line: #bbb;
    --float: #0072b2; --bundle: #d55e00; --good: #1a7f37; --bad: #b3261e; --note: #8a5a00; }
  body { max-width: none; padding: 0; font-size: 11px; } .tools, input[type=range] { display: none; }
  .gallery { grid-template-columns: repeat(3, 1fr); gap: 8px; } h2 { margin-top: 18px; } h2, p { break-after: avoid; }
  figure, svg, tr, .card, .banner { break-inside: avoid; } .banner, .card, figure { border: 1px solid var(--line); }
  .banner { border-left-width: 8px; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
"""

SCRIPT = """
"use strict";
const figures = Array.from(document.querySelectorAll("figure"));
function cut(figure, value) {
  figure.style.setProperty("--cut", value + "%");
  figure.querySelector("input").value = value;
}
for (const figure of figures) {
  const slider = figure.querySelector("input");
  slider.addEventListener("input", () => cut(figure, slider.value));
  const stack = figure.querySelector(".stack");
  const drag = (event) => {
    if (event.type === "pointermove" && !event.buttons) return;
    const box = stack.getBoundingClientRect();
    cut(figure, Math.round(Math.min(100, Math.max(0, 100 * (event.clientX - box.left) / box.width))));
  };
  stack.addEventListener("pointerdown", drag);
  stack.addEventListener("pointermove", drag);
}
const all = document.getElementById("all");
if (all) {
  all.addEventListener("input", () => figures.forEach((figure) => cut(figure, all.value)));
  const toggle = (id, name, on) => document.getElementById(id).addEventListener("change", (event) =>
    document.body.classList.toggle(name, event.target.checked === on));
  toggle("truth", "with-truth", true);
  toggle("masks", "no-masks", false);
}
"""
