// The start-up: one bar for each instance, from the beginning to healthy, and when the router opened.

import { byId, h, put, s, set } from "./dom.js";
import { model } from "./model.js";
import { duration, many } from "./words.js";

const PHASES = ["not started yet", "starting", "loading", "warming up"];
const OF_STAGE = { scheduled: 0, started: 1, "role taken": 1, "engine starting": 1, loading: 2, listening: 3 };
const UP = new Set(["healthy", "proved", "routed"]);
const LABEL = 64;
const FOOT = 24;
let shown = "";

export function begin() {
  new ResizeObserver(() => { if (model.now) paint(); }).observe(byId("startup-picture"));
  byId("startup-legend").replaceChildren(...PHASES.map((word, i) => h("li", {}, h("i", { class: `phase p${i}` }), word)));
}

export function paint() {
  const { timeline } = model;
  const width = byId("startup-picture").clientWidth;
  byId("startup").hidden = timeline.rows.length === 0;
  const busy = timeline.opened_at === null ? model.now.at : 0;
  const key = [width, model.now.timeline, busy].join(" ");
  if (key === shown || byId("startup").hidden || !width) return;
  shown = key;
  const end = Math.max(timeline.opened_at ?? 0, busy, ...timeline.rows.map((row) => row.done ?? 0));
  draw(timeline, width, Math.max(0.5, end - timeline.began_at));
}

function draw(timeline, width, total) {
  const rows = [...timeline.rows].sort((a, b) => (a.done ?? Infinity) - (b.done ?? Infinity));
  const few = rows.length <= 16;
  const pitch = few ? 26 : Math.max(1, Math.min(14, 340 / rows.length));
  const left = few ? LABEL : 0;
  const high = rows.length * pitch;
  const x = (at) => left + ((at - timeline.began_at) / total) * (width - left - 8);
  const svg = s("svg", { viewBox: `0 0 ${width} ${high + FOOT + 16}`, height: high + FOOT + 16, role: "img" });
  for (const at of ticks(total)) {
    const place = x(timeline.began_at + at);
    svg.append(s("line", { class: "tick", x1: place, x2: place, y1: 16, y2: high + 16 }));
    svg.append(s("text", { x: place, y: high + 34, "text-anchor": !at ? "start" : place > width - 24 ? "end" : "middle" }, duration(at) === "0.0 ms" ? "0" : duration(at)));
  }
  rows.forEach((row, i) => bar(svg, row, 16 + i * pitch, few ? 14 : Math.max(1, pitch - (pitch > 4 ? 2 : 0)), few, x, timeline.began_at + total));
  if (timeline.opened_at) opened(svg, x(timeline.opened_at), high + 16, width);
  const took = timeline.opened_at ? timeline.opened_at - timeline.began_at : null;
  put(byId("startup-caption"), took === null ? "under way" : `${duration(took)} until the router opened`);
  set(svg, "aria-label", spoken(rows, timeline));
  byId("startup-picture").replaceChildren(svg);
}

function bar(svg, row, y, thick, few, x, end) {
  const colour = model.byName.get(row.name)?.colour ?? "";
  const group = s("g", { class: `dims ${colour}` });
  if (few) group.append(s("text", { class: "name", x: 0, y: y + thick - 2.5 }, row.name));
  row.stages.forEach(([stage, at], i) => {
    if (!(stage in OF_STAGE)) return;
    const until = Math.min(end, row.stages[i + 1]?.[1] ?? row.done ?? end);
    if (at >= end) return;
    const wide = Math.max(0.5, x(until) - x(at));
    group.append(s("rect", { class: `phase p${OF_STAGE[stage]}`, x: x(at), y, width: wide, height: thick, rx: few ? 3 : 0 }));
  });
  svg.append(group);
}

function opened(svg, at, bottom, width) {
  svg.append(s("line", { class: "open", x1: at, x2: at, y1: 14, y2: bottom }));
  svg.append(s("text", { class: "open", x: at < width / 2 ? at - 4 : Math.min(at + 4, width), y: 10, "text-anchor": at < width / 2 ? "start" : "end" }, "router open"));
}

/** Round times, four or five of them. */
function ticks(total) {
  const rough = total / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= rough);
  return Array.from({ length: Math.floor(total / step) + 1 }, (_, i) => i * step);
}

function spoken(rows, timeline) {
  const done = rows.filter((row) => row.done !== null);
  const last = done.at(-1);
  const slow = last ? `; ${last.name} was the last, after ${duration(last.done - timeline.began_at)}` : "";
  return `${done.length} of ${many(rows.length, "instance")} became healthy${slow}.`;
}
