"""What a check's report needs beside the shared style sheet: its gallery's, and the script."""

STYLE = """
.tools { display: flex; flex-wrap: wrap; gap: 8px 24px; align-items: center; margin: 10px 0; }
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(290px, 1fr)); gap: 18px; }
figure { margin: 0; background: var(--panel); border-radius: 6px; padding: 10px; --cut: 50%; }
.stack { position: relative; aspect-ratio: 1; overflow: hidden; border-radius: 4px; background: #000;
  touch-action: pan-y; user-select: none; }
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
figcaption b.right { color: var(--good); }
@media print { .tools, input[type=range] { display: none; }
  .gallery { grid-template-columns: repeat(3, 1fr); gap: 8px; }
  figure { break-inside: avoid; border: 1px solid var(--line); } }
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
  stack.addEventListener("dragstart", (event) => event.preventDefault());  // the picture itself, which ends the moves
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
