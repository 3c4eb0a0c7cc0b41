// How a request travels: router, a context instance, its KV cache over to a generation instance, the answer.
// Few instances are drawn one by one, many as a field of grains. What moves is in particles.js.

import { byId, put, s, set } from "./dom.js";
import { model, ofRole } from "./model.js";
import * as particles from "./particles.js";
import { count, many } from "./words.js";

const FEW = 10; // instances of a role that are drawn one by one
const HEAD = 52;
const BOX = { wide: 168, high: 46, gap: 12 };
const STEPS = [
  ["Requests", "arrive at the router"],
  ["Context", "reads the prompt"],
  ["Generation", "writes the answer"],
  ["Answers", "go back, word by word"],
];
let shape = "";
let drawn = null;

export function begin() {
  new ResizeObserver(() => { if (model.now) paint(); }).observe(byId("flow-picture"));
}

export function paint() {
  const width = byId("flow-picture").clientWidth;
  if (!width) return;
  const ctx = ofRole("context");
  const gen = ofRole("generation");
  const key = [width, ...model.instances.map((one) => one.name)].join(" ");
  if (key !== shape) {
    shape = key;
    drawn = draw(width, ctx, gen);
    byId("flow-picture").replaceChildren(drawn.svg);
  }
  for (const one of model.instances) drawn.marks.get(one.name)(one);
  for (const link of drawn.links) strengthen(link);
  set(drawn.svg, "aria-label", spoken(ctx, gen));
  byId("flow-picture").classList.toggle("chosen", model.chosen !== "");
  particles.feed(drawn, ctx, gen);
  caption(ctx, gen);
}

function caption(ctx, gen) {
  const fresh = Math.max(sum(ctx, "fresh"), sum(gen, "fresh"));
  const running = model.now.router.in_flight;
  const words = running || fresh ? `${many(fresh, "request")} in the last second, ${count(running)} on the way now` : "no request on the way";
  put(byId("flow-caption"), words + (particles.stands() > 1 ? `; a dot stands for about ${particles.stands()}` : ""));
}

const sum = (ones, field) => ones.reduce((total, one) => total + one[field], 0);

function spoken(ctx, gen) {
  const part = (ones, word) => `${many(ones.length, `${word} instance`)} with ${many(sum(ones, "active"), "request")}`;
  return `Requests go through the router to ${part(ctx, "context")}, whose KV cache goes to ${part(gen, "generation")}, which write the answers.`;
}

/** The picture for these instances: {svg, marks by name, links, lanes for particles}. */
function draw(width, ctx, gen) {
  const narrow = width < 760;
  const wide = Math.min(BOX.wide, (width - 40) / 4.6);
  const x = { in: wide * 0.42, ctx: width * (narrow ? 0.36 : 0.37), gen: width * (narrow ? 0.68 : 0.67), out: width - wide * 0.42 };
  const room = x.gen - x.ctx - 12; // for what stands at either
  const high = HEAD + Math.max(height(ctx, room), height(gen, room), 96) + 6;
  const middle = HEAD + (high - HEAD) / 2;
  const svg = s("svg", { viewBox: `0 0 ${width} ${high}`, height: high, role: "img" });
  const layers = { links: s("g"), boxes: s("g"), dots: s("g") };
  const out = { svg, marks: new Map(), links: [], dots: layers.dots, ends: new Map(), x, middle, wide, room };
  [x.in, x.ctx, x.gen, x.out].forEach((at, i) => {
    svg.append(s("text", { class: "step", x: at, y: 16, "text-anchor": "middle" }, STEPS[i][0]));
    if (!narrow) svg.append(s("text", { class: "says", x: at, y: 34, "text-anchor": "middle" }, STEPS[i][1]));
  });
  svg.append(layers.links, layers.boxes, layers.dots);
  door(layers.boxes, x.in, middle, wide * 0.84, "router");
  door(layers.boxes, x.out, middle, wide * 0.84, "clients");
  for (const [ones, at] of [[ctx, x.ctx], [gen, x.gen]]) (ones.length > FEW ? field : boxes)(out, layers.boxes, ones, at, middle);
  link(out, layers.links, ctx, gen);
  return out;
}

const height = (ones, room) => (ones.length > FEW ? grains(ones, room).high : ones.length * (BOX.high + BOX.gap) - BOX.gap);

function door(layer, x, y, wide, word) {
  layer.append(s("rect", { class: "door", x: x - wide / 2, y: y - 26, width: wide, height: 52, rx: 26 }));
  layer.append(s("text", { x, y: y + 4.5, "text-anchor": "middle" }, word));
}

/** One box for each instance, with its name, what it does now, and how busy it is. */
function boxes(out, layer, ones, x, middle) {
  const top = middle - height(ones, out.room) / 2;
  ones.forEach((one, i) => {
    const y = top + i * (BOX.high + BOX.gap);
    const left = x - out.wide / 2;
    const now = s("text", { class: "now", x: left + out.wide - 12, y: y + 22, "text-anchor": "end" });
    const load = s("rect", { class: "load", x: left + 12, y: y + 32, width: 0, height: 4, rx: 2 });
    const rail = s("rect", { class: "rail", x: left + 12, y: y + 32, width: out.wide - 24, height: 4, rx: 2 });
    const body = s("rect", { class: "body", x: left, y, width: out.wide, height: BOX.high, rx: 11 });
    const name = s("text", { class: "name", x: left + 12, y: y + 22 }, one.name);
    const group = s("g", { class: "box" }, body, name, now, rail, load);
    group.addEventListener("click", () => document.dispatchEvent(new CustomEvent("choose", { detail: one.name })));
    layer.append(group);
    out.ends.set(one.name, { left, right: left + out.wide, y: y + BOX.high / 2 });
    out.marks.set(one.name, (fresh) => {
      set(group, "class", `box dims ${fresh.colour} ${fresh.key}${fresh.name === model.chosen ? " is-chosen" : ""}`);
      put(now, fresh.key === "ready" ? (fresh.active ? `${fresh.active}${out.wide < 140 ? "" : " running"}` : "idle") : fresh.word.toLowerCase());
      const busiest = Math.max(4, ...ones.map((each) => model.byName.get(each.name)?.active ?? 0));
      set(load, "width", ((out.wide - 24) * fresh.active) / busiest);
    });
  });
}

function grains(ones, room) {
  const size = room < 180 ? 6 : ones.length > 120 ? 9 : 14;
  const across = Math.min(26, Math.ceil(Math.sqrt(ones.length * 1.6)), Math.floor((room - 14) / size));
  return { across, size, high: Math.ceil(ones.length / across) * size + 46 };
}

/** Many instances as a field, each a grain that is brighter when it is busy. */
function field(out, layer, ones, x, middle) {
  const { across, size, high } = grains(ones, out.room);
  const left = x - (across * size) / 2;
  const top = middle - high / 2;
  const words = s("text", { class: "now", x, y: top + high - 12, "text-anchor": "middle" });
  const half = Math.min(out.room / 2, Math.max((across * size) / 2 + 14, 104)); // there is room for the words
  layer.append(s("rect", { class: "pit", x: x - half, y: top, width: 2 * half, height: high, rx: 14 }), words);
  ones.forEach((one, i) => {
    const at = { x: left + (i % across) * size + 1, y: top + 14 + Math.floor(i / across) * size };
    const grain = s("rect", { x: at.x, y: at.y, width: size - 2, height: size - 2, rx: 2 });
    grain.addEventListener("click", () => document.dispatchEvent(new CustomEvent("choose", { detail: one.name })));
    layer.append(grain);
    out.ends.set(one.name, { left: x - half, right: x + half, y: middle });
    out.marks.set(one.name, (fresh) => {
      set(grain, "class", `grain dims ${fresh.colour} ${fresh.key}${fresh.active ? " busy" : ""}${fresh.name === model.chosen ? " is-chosen" : ""}`);
      if (i) return;
      const ready = ones.filter((each) => model.byName.get(each.name)?.key === "ready").length;
      const active = ones.reduce((total, each) => total + (model.byName.get(each.name)?.active ?? 0), 0);
      put(words, half < 104 ? `${ready} of ${ones.length}` : `${ready} of ${ones.length} ready, ${many(active, "request")}`);
    });
  });
}

/** Lines: one for each instance on either side; between the roles they run together, since any may hand over to any. */
function link(out, layer, ctx, gen) {
  const { x, middle, wide } = out;
  const meet = (x.ctx + x.gen) / 2;
  const kv = Math.min(88, (x.gen - x.ctx - wide) * 0.6);
  out.meet = { left: meet - kv / 2, right: meet + kv / 2, y: middle };
  const seen = new Set();
  const add = (name, path) => {
    const one = s("path", { class: "link", d: path });
    if (!seen.has(path)) layer.append(one);
    seen.add(path);
    out.links.push({ one, name });
  };
  for (const { name } of ctx) {
    const end = out.ends.get(name);
    add(name, curve(x.in + wide * 0.42, middle, end.left, end.y));
    add(name, curve(end.right, end.y, out.meet.left, middle));
  }
  for (const { name } of gen) {
    const end = out.ends.get(name);
    add(name, curve(out.meet.right, middle, end.left, end.y));
    add(name, curve(end.right, end.y, x.out - wide * 0.42, middle));
  }
  if (kv < 60) return;
  layer.append(s("rect", { class: "kv", x: out.meet.left, y: middle - 14, width: kv, height: 28, rx: 8 }));
  layer.append(s("text", { class: "says", x: meet, y: middle + 4.5, "text-anchor": "middle" }, "KV cache"));
}

/** A smooth way from one point to another, leaving and arriving level. */
export const curve = (x1, y1, x2, y2) => `M${x1} ${y1}C${(x1 + x2) / 2} ${y1} ${(x1 + x2) / 2} ${y2} ${x2} ${y2}`;

function strengthen({ one, name }) {
  const known = model.byName.get(name);
  const open = known.key === "ready" || known.key === "draining";
  set(one, "class", `link dims${open ? "" : " off"}${name === model.chosen ? " is-chosen" : ""}`);
  set(one, "stroke-width", open ? 1.4 + Math.min(3, Math.log2(1 + known.fresh) * 0.8) : 1.2);
}
