// Nodes x GPUs. A table to those who listen; arrow keys walk over it, Enter chooses an instance.

import { byId, h, put, set } from "./dom.js";
import { model } from "./model.js";

const ROOMY = 96; // GPUs up to which each has its name written on it
const TINY = 1000; // GPUs from which the squares are as small as they may be
const HINT = "Point at a square, or walk with the arrow keys, to see who is there; choose it to follow it everywhere.";
let shown = "";
let cells = new Map(); // cells by instance
let grid = []; // cells by node and GPU

export function paint() {
  const { layout } = model;
  if (shown !== model.now.layout) {
    shown = model.now.layout;
    build(layout);
  }
  for (const one of model.instances) for (const cell of cells.get(one.name) ?? []) mark(cell, one);
  byId("map-grid").classList.toggle("chosen", model.chosen !== "");
  byId("map").hidden = layout.nodes.length === 0;
}

function build(layout) {
  const gpus = layout.nodes.reduce((sum, node) => sum + node.gpus, 0);
  const dense = gpus > ROOMY;
  const size = gpus > TINY ? [8, 11, 30] : [11, 14, 44]; // of a square, and what stands before the first
  cells = new Map();
  grid = layout.nodes.map((node) => new Array(node.gpus).fill(null));
  for (const { name, ranks } of layout.instances) {
    cells.set(name, ranks.map((rank) => (grid[rank.node][rank.gpu] = made(name, rank, layout.nodes[rank.node]))));
  }
  const rows = layout.nodes.map((node) => {
    const row = grid[node.node].map((cell, gpu) => (grid[node.node][gpu] = cell ?? free(gpu)));
    join(row);
    const host = h("span", { class: "host", role: "rowheader", title: node.host || `node ${node.node}` }, dense ? String(node.node) : node.host || `node ${node.node}`);
    return h("div", { class: "node", role: "row" }, host, h("div", { class: `cells${node.gpus > 8 ? " more" : ""}`, role: "presentation" }, ...row));
  });
  const table = h("div", { class: `nodes ${dense ? "dense" : "roomy"}`, role: "table", "aria-label": "Nodes and GPUs; arrow keys move, Enter chooses an instance" });
  const most = Math.max(1, ...layout.nodes.map((node) => node.gpus));
  table.style.setProperty("--card-px", `${size[2] + most * (size[0] + 0.5) + 4}px`);
  ["--wide", "--high", "--before"].forEach((name, i) => table.style.setProperty(name, `${size[i]}px`));
  table.append(...rows);
  table.addEventListener("keydown", walk);
  table.addEventListener("pointerover", (event) => tell(event.target.closest(".cell")));
  table.addEventListener("focusin", (event) => tell(event.target.closest(".cell")));
  table.addEventListener("click", (event) => choose(event.target.closest(".cell")));
  const first = rows[0]?.querySelector(".cell");
  if (first) first.tabIndex = 0;
  byId("map-grid").replaceChildren(table);
  table.addEventListener("pointerleave", () => tell(null));
  tell(null);
  legend();
}

function made(name, rank, node) {
  const cell = h("div", { role: "cell", tabindex: -1 }, h("b", {}, name), h("small", {}, `TP${rank.tp} PP${rank.pp}`));
  const where = `${node.host || `node ${node.node}`}, GPU ${rank.gpu}`;
  cell.known = { name, words: `rank ${rank.rank}, TP ${rank.tp}, PP ${rank.pp}, on ${where}${rank.pid ? `, process ${rank.pid}` : ""}` };
  return cell;
}

function free(gpu) {
  return h("div", { role: "cell", class: "cell free", tabindex: -1, "aria-label": `GPU ${gpu}: free` });
}

/** Neighbours of one instance look like one piece. */
function join(row) {
  row.forEach((cell, i) => {
    const name = cell.known?.name;
    cell.joins = name ? (row[i - 1]?.known?.name === name ? " joined" : "") + (row[i + 1]?.known?.name === name ? " goes-on" : "") : "";
  });
}

function mark(cell, one) {
  set(cell, "class", `cell dims ${one.colour} ${one.key}${cell.joins}${one.name === model.chosen ? " is-chosen" : ""}`);
  set(cell, "aria-label", `${one.name}, ${cell.known.words}: ${one.word}`);
  if (one.key === "starting") cell.style.setProperty("--part", `${Math.max(8, one.percent ?? 0)}%`);
}

function tell(cell) {
  put(byId("map-readout"), cell?.getAttribute("aria-label") ?? HINT);
}

function choose(cell) {
  if (cell?.known) document.dispatchEvent(new CustomEvent("choose", { detail: cell.known.name }));
}

function walk(event) {
  const steps = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
  const here = event.target.closest(".cell");
  if (!here) return;
  if (event.key === "Enter" || event.key === " ") {
    event.preventDefault();
    choose(here);
  }
  if (!(event.key in steps)) return;
  event.preventDefault();
  const node = grid.findIndex((row) => row.includes(here));
  const [down, right] = steps[event.key];
  const row = grid[Math.min(grid.length - 1, Math.max(0, node + down))];
  const next = row[Math.min(row.length - 1, Math.max(0, grid[node].indexOf(here) + right))];
  here.tabIndex = -1;
  next.tabIndex = 0;
  next.focus();
}

function legend() {
  const items = [["c0", "context"], ["g0", "generation"], ["cell c0 starting", "starting"], ["cell c0 draining", "draining"], ["cell gone", "down"], ["", "free"]];
  byId("map-legend").replaceChildren(...items.map(([kind, word]) => h("li", {}, h("i", { class: kind }), word)));
}
