// The dots: as many as requests were given to each instance since the last look, spread over the second until the next.
// A dot's context and generation instance are drawn by the measured shares; which pair served which request is not measured.

import { reducedMotion, s, set } from "./dom.js";

const MOST_PER_S = 14;
const TRAVEL_MS = { in: 750, over: 1000, out: 850 };
let flying = [];
let waiting = [];
let layer = null;
let each = 1;
let running = false;

/** How many requests a dot stands for. */
export const stands = () => each;

/** Hand over what was seen in the last second. */
export function feed(picture, ctx, gen) {
  if (layer !== picture.dots) {
    layer = picture.dots;
    flying = [];
    waiting = [];
  }
  const fresh = Math.max(total(ctx), total(gen));
  const dots = Math.min(MOST_PER_S, fresh);
  each = dots ? Math.max(1, Math.round(fresh / dots)) : 1;
  if (reducedMotion.matches || document.hidden || !dots) return;
  const begin = performance.now();
  for (let i = 0; i < dots; i++) {
    const way = { ctx: drawnFrom(ctx), gen: drawnFrom(gen), picture };
    waiting.push({ ...way, at: begin + ((i + 0.5) / dots) * 1000 });
  }
  if (!running) {
    running = true;
    requestAnimationFrame(move);
  }
}

const total = (ones) => ones.reduce((sum, one) => sum + one.fresh, 0);

/** One of them, by its share; null if none of them had anything to do. */
function drawnFrom(ones) {
  let left = Math.random() * total(ones);
  return ones.find((one) => one.fresh && (left -= one.fresh) <= 0) ?? null;
}

function move(now) {
  const due = waiting.filter((one) => one.at <= now);
  waiting = waiting.filter((one) => one.at > now);
  for (const one of due) flying.push({ ...one, dot: layer.appendChild(s("circle", { class: "dot", r: 4.5 })) });
  flying = flying.filter((one) => place(one, now - one.at));
  running = flying.length > 0 || waiting.length > 0;
  if (running) requestAnimationFrame(move);
}

/** Put a dot where it is after so many milliseconds; false once it has arrived. */
function place(one, age) {
  for (const leg of legs(one)) {
    if (age <= leg.ms) {
      const t = age / leg.ms;
      const [x, y] = along(leg.from, leg.to, t * t * (3 - 2 * t));
      set(one.dot, "cx", x.toFixed(1));
      set(one.dot, "cy", y.toFixed(1));
      set(one.dot, "class", `dot ${leg.colour}`);
      one.dot.style.fill = leg.colour ? "var(--strong)" : "var(--edge)";
      return true;
    }
    age -= leg.ms;
  }
  one.dot.remove();
  return false;
}

function legs({ ctx, gen, picture }) {
  const { x, middle, wide, meet, ends } = picture;
  const out = [];
  let from = { x: x.in + wide * 0.42, y: middle };
  if (ctx) {
    const end = ends.get(ctx.name);
    out.push({ from, to: { x: end.left, y: end.y }, ms: TRAVEL_MS.in, colour: ctx.colour });
    out.push({ from: { x: end.right, y: end.y }, to: { x: meet.left, y: middle }, ms: TRAVEL_MS.over / 2, colour: ctx.colour });
    from = { x: meet.right, y: middle };
  }
  if (gen) {
    const end = ends.get(gen.name);
    out.push({ from, to: { x: end.left, y: end.y }, ms: ctx ? TRAVEL_MS.over / 2 : TRAVEL_MS.in, colour: ctx ? ctx.colour : gen.colour });
    out.push({ from: { x: end.right, y: end.y }, to: { x: x.out - wide * 0.42, y: middle }, ms: TRAVEL_MS.out, colour: gen.colour });
  }
  return out;
}

/** On the curve that flow.js draws between two points: level at both ends. */
function along(a, b, t) {
  const u = 1 - t;
  const mid = (a.x + b.x) / 2;
  const x = u * u * u * a.x + 3 * u * u * t * mid + 3 * u * t * t * mid + t * t * t * b.x;
  const y = u * u * u * a.y + 3 * u * u * t * a.y + 3 * u * t * t * b.y + t * t * t * b.y;
  return [x, y];
}
