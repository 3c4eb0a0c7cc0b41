// Five figures, each with its last ten minutes. Pointing at a curve, or arrow keys on it, tell the value at that time.

import { byId, h, put, s, set } from "./dom.js";
import { model } from "./model.js";
import { count, span, timeOf } from "./words.js";

const WIDE = 600; // units of the drawing
const SHORTEST_S = 60;
const HIGH = 56;
const plain = (value) => [count(value), ""];
const TILES = [
  { name: "requests_per_s", title: "Requests", unit: "per second", write: plain },
  { name: "tokens_per_s", title: "Tokens written", unit: "per second", write: plain },
  { name: "ttft_s", title: "First token after", unit: "typical", write: span },
  { name: "in_flight", title: "In progress", unit: "requests", write: plain },
  { name: "queued", title: "Waiting for a worker", unit: "requests", write: plain },
];

export function begin() {
  byId("tiles").replaceChildren(...TILES.map(made));
}

export function paint() {
  for (const tile of TILES) draw(tile);
}

function made(tile) {
  tile.value = h("span", {}, "–");
  tile.small = h("small", {}, tile.unit);
  tile.span = h("span", { class: "span" });
  tile.area = s("path", { class: "area" });
  tile.curve = s("path", { class: "curve" });
  tile.hair = s("line", { class: "hair", y1: 0, y2: HIGH, visibility: "hidden" });
  tile.svg = s("svg", { viewBox: `0 0 ${WIDE} ${HIGH}`, preserveAspectRatio: "none", role: "img", tabindex: 0 }, tile.area, tile.curve, tile.hair);
  tile.from = h("span", { class: "from" });
  tile.at = null;
  tile.svg.addEventListener("pointermove", (event) => {
    const box = tile.svg.getBoundingClientRect();
    point(tile, Math.round(((event.clientX - box.left) / box.width) * WIDE));
  });
  tile.svg.addEventListener("pointerleave", () => point(tile, null));
  tile.svg.addEventListener("blur", () => point(tile, null));
  tile.svg.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -10, ArrowRight: 10 }[event.key];
    if (!step) return;
    event.preventDefault();
    point(tile, Math.min(WIDE, Math.max(0, (tile.at ?? WIDE) + step)));
  });
  return h("figure", { class: "tile" }, h("figcaption", {}, h("span", {}, tile.title), tile.span), h("div", { class: "value" }, tile.value, tile.small), tile.svg, tile.from);
}

function point(tile, at) {
  tile.at = at;
  draw(tile);
}

function draw(tile) {
  const times = model.series.at;
  const values = model.series[tile.name] ?? [];
  const end = times.at(-1) ?? 0;
  const span_s = Math.max(SHORTEST_S, end - (times[0] ?? end));
  const x = (at) => WIDE - ((end - at) / span_s) * WIDE;
  const known = values.filter((value) => value !== null);
  const top = Math.max(...known, tile.name === "ttft_s" ? 0.001 : 1) * 1.15;
  const spots = times.map((at, i) => (values[i] === null ? null : [x(at), HIGH - 2 - (values[i] / top) * (HIGH - 6)]));
  set(tile.curve, "d", path(spots, false));
  set(tile.area, "d", path(spots, true));
  const near = tile.at === null ? times.length - 1 : nearest(times, end - span_s + (tile.at / WIDE) * span_s);
  const [number, unit] = tile.write(values[near] ?? null);
  put(tile.value, number);
  put(tile.small, unit ? `${unit} ${tile.unit}` : tile.unit);
  const most = known.length ? tile.write(Math.max(...known)).join(" ").trim() : "";
  put(tile.span, tile.at !== null && times.length ? timeOf(times[near]) : most && most !== "0" ? `up to ${most}` : "");
  set(tile.hair, "visibility", tile.at === null ? "hidden" : "visible");
  if (tile.at !== null && times.length) for (const name of ["x1", "x2"]) set(tile.hair, name, x(times[near]));
  const minutes = Math.max(1, Math.round(span_s / 60));
  put(tile.from, `${minutes} min ago`);
  set(tile.svg, "aria-label", `${tile.title}, ${[number, unit, tile.unit].filter(Boolean).join(" ")}${most ? `; at most ${most} in the last ${minutes} min` : ""}`);
}

/** A line through the spots, broken where there is none; closed to the floor as an area. */
function path(spots, closed) {
  let out = "";
  let from = null;
  spots.forEach((spot, i) => {
    if (!spot) return;
    const begins = i === 0 || !spots[i - 1];
    if (begins) from = spot[0];
    out += `${begins ? (closed ? `M${from} ${HIGH}L` : "M") : "L"}${spot[0].toFixed(1)} ${spot[1].toFixed(1)}`;
    const ends = i === spots.length - 1 || !spots[i + 1];
    if (ends && begins && !closed) out += "h2";
    if (ends && closed) out += `L${spot[0].toFixed(1)} ${HIGH}Z`;
  });
  return out;
}

function nearest(times, at) {
  let best = 0;
  times.forEach((time, i) => {
    if (Math.abs(time - at) < Math.abs(times[best] - at)) best = i;
  });
  return best;
}
