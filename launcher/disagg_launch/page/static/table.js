// The instances as a table, a page of it at a time; draining, putting back and restarting.

import { byId, h, put, set } from "./dom.js";
import * as dialogs from "./dialogs.js";
import { model, ofRole, whereabouts } from "./model.js";
import { act, token } from "./talk.js";
import { count, duration, many } from "./words.js";

const PAGE = 15;
const TROUBLE = ["gone", "suspect", "starting", "waiting", "draining", "resting", "ready"];
const HEADS = [["Instance"], ["State"], ["Running", "number"], ["Requests", "number"], ["Errors", "number"], ["Restarts", "number"], ["Where", "where"], ["", "why"], ["Actions"]];
const rows = new Map(); // by name: {row, cells}
const busy = new Set(); // names for which something is being done
let page = 0;
let body = null;
let actions = null;

export function begin() {
  body = h("tbody");
  const heads = HEADS.map(([word, kind]) => (word ? h("th", { scope: "col", class: kind ?? null }, word === "Actions" ? h("span", { class: "visually-hidden" }, word) : word) : h("th", { scope: "col" }, h("span", { class: "visually-hidden" }, "Details"))));
  actions = heads.at(-1);
  byId("table").replaceChildren(h("table", {}, h("thead", {}, h("tr", {}, ...heads)), body));
  for (const id of ["find", "order"]) byId(id).addEventListener("input", () => { page = 0; paint(); });
  const back = h("button", { type: "button", onclick: () => turn(-1) }, "Back");
  const on = h("button", { type: "button", onclick: () => turn(1) }, "Next");
  byId("pager").replaceChildren(h("span", { id: "pager-words" }), back, on);
  document.addEventListener("unlocked", paint);
}

function turn(by) {
  page += by;
  paint();
  byId("table").scrollIntoView({ block: "nearest" });
}

export function paint() {
  if (!model.now) return;
  const all = wanted();
  const pages = Math.max(1, Math.ceil(all.length / PAGE));
  page = Math.min(pages - 1, Math.max(0, page));
  const shown = all.slice(page * PAGE, (page + 1) * PAGE);
  shown.forEach((one, i) => {
    const { row } = filled(one);
    if (body.children[i] !== row) body.insertBefore(row, body.children[i] ?? null);
  });
  while (body.children.length > shown.length) body.lastChild.remove();
  actions.hidden = !model.now.may.act;
  put(byId("instances-caption"), `${many(ofRole("context").length, "context", "context")}, ${many(ofRole("generation").length, "generation", "generation")}`);
  const [back, on] = byId("pager").querySelectorAll("button");
  byId("pager").hidden = pages < 2;
  put(byId("pager-words"), `${page * PAGE + 1}–${page * PAGE + shown.length} of ${all.length}`);
  set(back, "disabled", page === 0);
  set(on, "disabled", page === pages - 1);
}

/** Those that match what was typed, in the order asked for. */
function wanted() {
  const word = byId("find").value.trim().toLowerCase();
  const found = model.instances.filter((one) => !word || [one.name, one.role, one.word, ...whereabouts(one.name).hosts].join(" ").toLowerCase().includes(word));
  const order = byId("order").value;
  const rank = { trouble: (one) => TROUBLE.indexOf(one.key), busy: (one) => -one.active, name: () => 0 }[order];
  return found.map((one, i) => [rank(one), i, one]).sort((a, b) => a[0] - b[0] || a[1] - b[1]).map((triple) => triple[2]);
}

function filled(one) {
  const known = rows.get(one.name) ?? made(one);
  const { row, cells } = known;
  const { hosts, ranks } = whereabouts(one.name);
  set(row, "class", one.name === model.chosen ? "is-chosen" : null);
  set(cells.name.querySelector("button"), "aria-pressed", String(one.name === model.chosen));
  set(cells.swatch, "class", `swatch ${one.colour}`);
  set(cells.state, "class", `state ${one.key}`);
  put(cells.state, one.word);
  // what is known is since when the process has been in its stage, not since when the router thinks of it as it does
  put(cells.since, one.since_s === null || ["draining", "suspect"].includes(one.key) ? "" : `for ${duration(one.since_s)}`);
  put(cells.active, count(one.active));
  put(cells.requests, count(one.requests));
  put(cells.errors, count(one.errors));
  put(cells.restarts, count(one.restarts));
  put(cells.where, ranks.length ? `${hosts.length > 2 ? `${hosts.length} hosts` : hosts.join(", ")} · ${many(ranks.length, "GPU")}` : one.url.replace("http://", ""));
  put(cells.why, one.key === "ready" ? "" : one.ended || one.detail || (one.key === "starting" ? one.last_line : "") || "");
  deeds(known, one);
  return known;
}

function made(one) {
  const cells = {};
  for (const name of ["active", "requests", "errors", "restarts"]) cells[name] = h("td", { class: "number" });
  cells.swatch = h("span", { class: "swatch" });
  const choose = h("button", { type: "button", class: "plain", title: "Show only this one above", onclick: () => document.dispatchEvent(new CustomEvent("choose", { detail: one.name })) }, one.name);
  cells.name = h("th", { scope: "row" }, cells.swatch, choose);
  cells.state = h("span", { class: "state" });
  cells.since = h("span", { class: "since" });
  cells.where = h("td", { class: "where" });
  cells.why = h("td", { class: "why" });
  cells.drain = h("button", { type: "button", onclick: () => drain(one.name) });
  cells.restart = h("button", { type: "button", "aria-label": `Restart ${one.name}`, onclick: () => restart(one.name) }, "Restart");
  cells.deeds = h("td", { class: "deeds" }, cells.drain, cells.restart);
  const row = h("tr", {}, cells.name, h("td", {}, cells.state, " ", cells.since), cells.active, cells.requests, cells.errors, cells.restarts, cells.where, cells.why, cells.deeds);
  rows.set(one.name, { row, cells });
  return rows.get(one.name);
}

function deeds({ cells }, one) {
  const { may } = model.now;
  const drained = one.key === "draining";
  cells.deeds.hidden = !may.act;
  cells.restart.hidden = !may.restart;
  put(cells.drain, drained ? "Put back" : "Drain");
  set(cells.drain, "aria-label", `${drained ? "Put back" : "Drain"} ${one.name}`);
  set(cells.drain, "disabled", busy.has(one.name) || !["ready", "draining", "suspect"].includes(one.key));
  set(cells.restart, "disabled", busy.has(one.name) || !["ready", "draining", "suspect", "gone"].includes(one.key));
}

function drain(name) {
  const back = model.byName.get(name).key === "draining";
  return carryOut(name, back ? "undrain" : "drain");
}

async function restart(name) {
  const one = model.byName.get(name);
  const alone = ofRole(one.role).filter((each) => each.key === "ready" && each.name !== name).length === 0;
  const why = `It takes no new requests, finishes the ${one.active || "few"} it has (60 s at most), is stopped and started again.` + (alone ? ` No other ${one.role} instance is ready: requests wait until it is back.` : " The others go on serving.");
  if (await dialogs.sure(`Restart ${name}?`, why, "Restart")) await carryOut(name, "restart");
}

/** Do it, asking for the token first if there is none yet; what goes wrong is said where everything is said. */
async function carryOut(name, what) {
  if (!token.toAct() && !(await dialogs.tokenToAct())) return;
  busy.add(name);
  paint();
  try {
    await act(what, name);
    put(byId("news"), `${name}: ${what} asked for`);
  } catch (problem) {
    if (problem.status === 401) token.forgetAct();
    await dialogs.said(`${name}: not done`, problem.message);
  } finally {
    busy.delete(name);
    paint();
  }
}
