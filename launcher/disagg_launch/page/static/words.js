// What is said about numbers, times, states and events.

const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });

export const timeOf = (at) => clock.format(new Date(at * 1000));

/** A count or a rate in at most four digits: 0.4, 12, 1,280, 12.4k. */
export function count(value) {
  if (value === null || value === undefined) return "–";
  if (value > 0 && value < 10 && value % 1) return value.toFixed(1);
  if (value >= 1e6) return `${(value / 1e6).toFixed(1)}M`;
  if (value >= 1e4) return `${(value / 1e3).toFixed(1)}k`;
  return Math.round(value).toLocaleString("en");
}

/** [number, unit] of a duration in seconds. */
export function span(seconds) {
  if (seconds === null || seconds === undefined) return ["–", ""];
  if (seconds < 0.9995) return [seconds < 0.00995 ? (seconds * 1000).toFixed(1) : Math.round(seconds * 1000).toString(), "ms"];
  if (seconds < 10) return [seconds.toFixed(1), "s"];
  if (seconds < 100) return [Math.round(seconds).toString(), "s"];
  if (seconds < 5400) return [Math.round(seconds / 60).toString(), "min"];
  if (seconds < 129600) return [Math.round(seconds / 3600).toString(), "h"];
  return [Math.round(seconds / 86400).toString(), "days"];
}

export const duration = (seconds) => span(seconds).join(" ").trim();
export const many = (number, one, more = `${one}s`) => `${count(number)} ${number === 1 ? one : more}`;

/** "a, b and 3 more" */
export function listed(names, most = 3) {
  const shown = names.length > most + 1 ? [...names.slice(0, most), `${names.length - most} more`] : names;
  return shown.length < 2 ? shown.join("") : `${shown.slice(0, -1).join(", ")} and ${shown.at(-1)}`;
}

const UP = new Set(["healthy", "proved", "routed"]);

/**
 * How an instance stands: {key, word}. `key` is one of ready, starting, waiting, draining, suspect, gone, resting.
 * What the gateway knows of the process goes before what the router knows of the server, while it is not up.
 */
export function standing(one) {
  if (one.stage === "resting") return { key: "resting", word: "Stopped" };
  if (one.stage === "ended") return { key: "gone", word: "Ended" };
  if (one.stage && !UP.has(one.stage)) return starting(one);
  if (one.worker_state === "gone") return { key: "gone", word: "Gone" };
  if (one.worker_state === "suspect") return { key: "suspect", word: "Failing" };
  if (one.worker_state === "draining") return { key: "draining", word: "Draining" };
  if (one.worker_state === "joining") return { key: "starting", word: "Joining" };
  return { key: "ready", word: "Ready" };
}

function starting(one) {
  if (one.stage === "scheduled") return { key: "waiting", word: "Waiting" };
  if (one.stage.startsWith("loading")) return { key: "starting", word: "Loading" + (one.percent ? ` ${Math.round(one.percent)} %` : "") };
  return { key: "starting", word: one.stage === "listening" ? "Warming up" : "Starting" };
}

const TOLD = new Set(["submitted", "allocated", "begun", "ended", "restart", "router", "proof", "change", "verdict", "stopped"]);

/** One event as a sentence, or "" for those that the timeline shows better. */
export function told(event) {
  const name = event.instance || "";
  const text = String(event.text || "");
  if (event.event === "stage") {
    const back = event.stage === "healthy" && event.rank === undefined && event.life > 1 && name !== "router";
    return back ? `${name} is healthy again` : "";
  }
  if (!TOLD.has(event.event)) return "";
  if (event.event === "begun") return `Started: ${many(event.instances, "instance")}, ${many(event.ranks, "rank")}`;
  if (event.event === "ended") return `${name} ended: ${text}`;
  if (event.event === "restart") return `${name} is started again${event.pause_s ? ` in ${duration(event.pause_s)}` : ""}`;
  if (event.event === "router") return "The router is open";
  if (event.event === "proof") return event.ok ? "" : `${event.context} to ${event.generation}: ${text || "no token came through"}`;
  if (event.event === "verdict") return `Verdict: ${event.state}${text ? `. ${text}` : ""}`;
  return text.startsWith(name) && text ? text : `${name}: ${text || event.event}`;
}

export const isBad = (event) => event.event === "ended" || (event.event === "proof" && !event.ok) || (event.event === "verdict" && event.state === "failed");
