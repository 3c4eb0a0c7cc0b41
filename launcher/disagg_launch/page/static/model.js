// What the page knows: the newest answer of the router, what changed since the one before, and what the user has chosen.

import { standing } from "./words.js";

export const ROLES = { context: "ctx", generation: "gen" };
const KEEP_S = 600;

export const model = {
  now: null, // data/now
  layout: null, // data/layout: nodes, and the ranks of each instance
  timeline: null, // data/timeline
  series: { at: [] }, // columns of equal length
  instances: [], // of now, each with `key`, `word`, `colour`, `fresh` (requests since the last answer)
  byName: new Map(),
  chosen: "",
};

const before = new Map(); // requests by name

/** Take in an answer to data/now. */
export function learn(now) {
  model.now = now;
  const numbers = { context: 0, generation: 0 };
  model.byName.clear();
  model.instances = now.instances.map((one) => {
    const colour = `${one.role === "context" ? "c" : "g"}${numbers[one.role]++ % 5}`;
    const fresh = before.has(one.name) ? Math.max(0, one.requests - before.get(one.name)) : 0;
    before.set(one.name, one.requests);
    const known = { ...one, ...standing(one), colour, fresh };
    model.byName.set(one.name, known);
    return known;
  });
  extend(now.series);
}

export const ofRole = (role) => model.instances.filter((one) => one.role === role);

/** Where an instance runs, in words: hosts and how many GPUs. */
export function whereabouts(name) {
  const ranks = model.layout?.instances.find((one) => one.name === name)?.ranks ?? [];
  const hosts = [...new Set(ranks.map((rank) => rank.host))].filter(Boolean);
  return { hosts, ranks };
}

function extend(fresh) {
  const series = model.series;
  for (const [name, values] of Object.entries(fresh)) series[name] = (series[name] ?? []).concat(values);
  const first = series.at.findIndex((at) => at >= (series.at.at(-1) ?? 0) - KEEP_S);
  if (first > 0) for (const name of Object.keys(series)) series[name] = series[name].slice(first);
}
