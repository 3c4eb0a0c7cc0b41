// The first line: what this is and how it is, in one sentence; trouble in a banner; changes read out.

import { byId, h, put } from "./dom.js";
import { model } from "./model.js";
import { token } from "./talk.js";
import * as dialogs from "./dialogs.js";
import { listed, many } from "./words.js";

const WORDS = { gone: "down", suspect: "failing requests", starting: "starting", waiting: "waiting to start", draining: "draining", resting: "stopped on purpose" };
let before = null; // key by name
let said = "";

export function begin() {
  byId("unlock").addEventListener("click", () => dialogs.tokenToAct());
  document.addEventListener("unlocked", paint);
}

export function paint() {
  const now = model.now;
  if (!now) return;
  document.title = `${now.name || "router"}: ${now.state}`;
  put(byId("name"), now.name || "router");
  const [lamp, sentence] = judged(now);
  byId("lamp").className = `lamp ${lamp}`;
  put(byId("sentence"), sentence);
  facts(now);
  const locked = now.may.act && !token.toAct();
  byId("unlock").hidden = !now.may.act;
  put(byId("unlock"), locked ? "Unlock actions" : "Lock actions");
  verdict(now);
  tell(sentence);
}

/** Something is wrong with the page's own connection. */
export function trouble(what, more) {
  byId("lamp").className = "lamp bad";
  put(byId("sentence"), "No answer");
  banner("quiet", what, more);
}

function judged(now) {
  const groups = new Map();
  for (const one of model.instances) if (one.key !== "ready") groups.set(one.key, [...(groups.get(one.key) ?? []), one.name]);
  const all = model.instances.length;
  const ready = model.instances.filter((one) => one.key === "ready").length;
  const others = ["gone", "suspect", "starting", "waiting", "draining", "resting"]
    .filter((key) => groups.has(key))
    .map((key) => `${listed(groups.get(key))} ${groups.get(key).length === 1 ? "is" : "are"} ${WORDS[key]}`);
  const rest = others.length ? `; ${others.join("; ")}` : "";
  if (now.state === "ready") {
    const hurt = groups.has("gone") || groups.has("suspect");
    if (!rest) return ["good", `Serving. ${all === 1 ? "Its one instance is" : `All ${all} instances are`} ready.`];
    return [hurt ? "bad" : "wait", `Serving with ${ready} of ${many(all, "instance")}${rest}.`];
  }
  if (now.state === "starting") return ["wait", `Starting: ${ready} of ${many(all, "instance")} ready${rest}.`];
  return ["bad", `${now.state[0].toUpperCase()}${now.state.slice(1)}: ${ready} of ${many(all, "instance")} ready${rest}.`];
}

function facts(now) {
  const shown = [now.digest, now.url, now.job].join("\n");
  const place = byId("facts");
  if (place.dataset.shown === shown) return;
  place.dataset.shown = shown;
  place.replaceChildren(...(now.digest ? ["plan ", h("code", {}, now.digest), "  ·  "] : []), now.url, ...(now.job ? [`  ·  ${now.job}`] : []));
}

function verdict(now) {
  const found = now.verdict;
  if (!found) banner();
  else if (found.state === "ready") banner();
  else banner("", found.reason || found.state, [found.cause, found.remedy].filter(Boolean).join("; "));
}

function banner(kind = "", what = "", more = "") {
  const place = byId("banner");
  const shown = `${kind}|${what}|${more}`;
  if (place.dataset.shown === shown) return;
  place.dataset.shown = shown;
  place.hidden = !what;
  place.className = `banner ${kind}`;
  place.replaceChildren(h("p", {}, h("strong", {}, what)), more ? h("p", {}, more) : "");
}

/** For those who listen: who changed; with many at once, the sentence. */
function tell(sentence) {
  const keys = new Map(model.instances.map((one) => [one.name, one.key]));
  const changed = before ? model.instances.filter((one) => before.get(one.name) !== one.key) : [];
  before = keys;
  const words = changed.length && changed.length < 4 ? changed.map((one) => `${one.name}: ${one.word}`).join(", ") : changed.length ? sentence : "";
  if (words && words !== said) {
    said = words;
    put(byId("news"), words);
  }
}
