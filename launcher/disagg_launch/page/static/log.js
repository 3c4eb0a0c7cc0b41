// What happened, in sentences, and the end of one log as it grows. Lines are text, whatever they hold.

import { byId, h } from "./dom.js";
import { model } from "./model.js";
import { read } from "./talk.js";
import { isBad, timeOf, told } from "./words.js";

const KEPT = 500;
const STAMP = /^(\[[^\]]*\] )?(\d{4}-\d\d-\d\dT([\d:]{8})[\d.]*Z) /;
const BAD = /\b(error|critical|fatal|traceback|exception|killed|refused|failed)\b/i;
let of = "gateway";
let next = -1; // where the next piece begins; -1 is near the end
let asking = false;
let seen = "";
let names = "";

export function begin() {
  byId("log-of").addEventListener("change", () => show(byId("log-of").value));
}

export function paint() {
  happenings();
  const there = ["gateway", "router", ...model.instances.map((one) => one.name)];
  if (there.join() !== names) {
    names = there.join();
    byId("log-of").replaceChildren(...there.map((name) => h("option", { value: name, ...(name === of ? { selected: "" } : {}) }, name)));
  }
  byId("log").hidden = !model.now.may.read;
  if (model.now.may.read && byId("log-follow").checked) grow();
}

/** Turn to the log of that name. */
export function show(name) {
  of = name;
  next = -1;
  byId("log-of").value = name;
  byId("log-lines").replaceChildren();
  grow();
}

function happenings() {
  const shown = model.now.events.map((event) => [event, told(event)]).filter(([, text]) => text);
  byId("happened").hidden = !model.now.may.read;
  const key = JSON.stringify(shown.map(([event, text]) => [event.at, text]));
  if (key === seen) return;
  seen = key;
  const lines = shown.reverse().map(([event, text]) => h("li", { class: isBad(event) ? "bad" : null }, h("time", {}, timeOf(event.at)), h("span", {}, text)));
  byId("happenings").replaceChildren(...(lines.length ? lines : [h("li", { class: "none" }, "Nothing yet.")]));
}

async function grow() {
  if (asking) return;
  asking = true;
  const asked = of;
  try {
    const piece = await read(`log?of=${encodeURIComponent(of)}&from=${next}`);
    if (asked === of) add(piece);
  } catch {
    // the next look tries again, and whoever asks for everything says what is wrong
  } finally {
    asking = false;
  }
  if (asked !== of) grow();
}

function add({ lines, next: end }) {
  const place = byId("log-lines");
  const below = place.scrollHeight - place.scrollTop - place.clientHeight < 40;
  if (next === -1) place.replaceChildren();
  next = end;
  place.append(...lines.map(line));
  while (place.childElementCount > KEPT) place.firstChild.remove();
  if (!place.childElementCount) place.append(h("p", { class: "none" }, "Nothing is written there yet."));
  if (lines.length && (below || place.dataset.of !== of)) place.scrollTop = place.scrollHeight;
  place.dataset.of = of;
}

function line(text) {
  const stamp = STAMP.exec(text);
  const rest = stamp ? text.slice(stamp[0].length) : text;
  const kind = BAD.test(rest) ? "bad" : null;
  return h("p", { class: kind }, ...(stamp ? [h("span", { class: "when", title: stamp[2] }, stamp[3]), ` ${stamp[1] ?? ""}${rest}`] : [text]));
}
