// Looks once a second, hands what it learnt to the parts of the page, and says so when the router no longer answers.

import { byId, h, put } from "./dom.js";
import * as dialogs from "./dialogs.js";
import * as flow from "./flow.js";
import * as head from "./head.js";
import * as log from "./log.js";
import * as map from "./map.js";
import { learn, model } from "./model.js";
import * as startup from "./startup.js";
import * as table from "./table.js";
import { read, token } from "./talk.js";
import * as traffic from "./traffic.js";
import { timeOf } from "./words.js";

const LOOK_MS = 1000;
const PATIENCE_MS = 5000;
const parts = [head, traffic, flow, map, startup, table, log];
let failures = 0;
let lastAt = 0;

async function look() {
  const since = model.series.at.at(-1) ?? 0;
  const now = await read(`now?since=${since}`, PATIENCE_MS);
  if (now.layout !== model.now?.layout || !model.layout) model.layout = await read("layout");
  if (now.timeline !== model.now?.timeline || !model.timeline) model.timeline = await read("timeline");
  learn(now);
  failures = 0;
  lastAt = now.at;
  byId("main").hidden = false;
  document.body.classList.remove("stale");
  paint();
}

function paint() {
  for (const part of parts) part.paint();
}

async function forever() {
  for (;;) {
    if (!document.hidden) {
      try {
        await look();
      } catch (problem) {
        if (problem.status === 401) {
          token.keepLook(await dialogs.tokenToLook(Boolean(token.toLook())));
          continue;
        }
        lost(problem);
      }
    }
    await rest(Math.min(LOOK_MS * 2 ** Math.min(failures, 3), 8000));
  }
}

/** Nobody answers: what is shown is old, and is said to be. One missed answer is nobody's worry. */
function lost(problem) {
  failures += 1;
  if (problem.status === undefined && !(problem instanceof TypeError) && problem.name !== "TimeoutError") console.error(problem);
  if (failures < 2) return;
  document.body.classList.toggle("stale", lastAt > 0);
  const said = problem.status ? `It says: ${problem.message}` : "The deployment may have been stopped. This page goes on trying.";
  const seen = lastAt ? `What you see is of ${timeOf(lastAt)}. ` : "";
  head.trouble("The router does not answer.", seen + said);
}

const rest = (ms) =>
  new Promise((resume) => {
    const timer = setTimeout(resume, ms);
    document.addEventListener("visibilitychange", () => { clearTimeout(timer); resume(); }, { once: true });
  });

/** Choose an instance everywhere, or with the same name again, none. */
export function choose(name) {
  model.chosen = model.chosen === name ? "" : name;
  paint();
  if (model.chosen) log.show(model.chosen);
}

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && model.chosen && !document.querySelector("dialog[open]")) choose(model.chosen);
});
document.addEventListener("choose", (event) => choose(event.detail));
for (const part of parts) part.begin?.();
forever();
