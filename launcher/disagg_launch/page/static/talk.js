// Talking with the router. Tokens stay in this tab (sessionStorage) and travel in a header, never in an address.

const LOOK = "disagg-launch.look";
const ACT = "disagg-launch.act";

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export const token = {
  toLook: () => sessionStorage.getItem(LOOK) || sessionStorage.getItem(ACT) || "",
  toAct: () => sessionStorage.getItem(ACT) || "",
  keepLook: (text) => sessionStorage.setItem(LOOK, text),
  keepAct: (text) => sessionStorage.setItem(ACT, text),
  forgetAct: () => sessionStorage.removeItem(ACT),
};

/** What the router answers to a GET below data/. Refused with its status, TypeError or AbortError when nobody answers. */
export function read(path, timeoutMs = 10000) {
  return ask(`data/${path}`, { headers: bearer(token.toLook()), signal: AbortSignal.timeout(timeoutMs) });
}

/** Have something done: what (drain, undrain, restart, nothing) with the instance of that name. */
export function act(what, instance = "") {
  const headers = { ...bearer(token.toAct()), "content-type": "application/json" };
  return ask("do", { method: "POST", headers, body: JSON.stringify({ what, instance }) });
}

const bearer = (text) => (text ? { authorization: `Bearer ${text}` } : {});

async function ask(path, options) {
  const answer = await fetch(path, { ...options, cache: "no-store", credentials: "omit", referrerPolicy: "no-referrer" });
  const body = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Refused(answer.status, body.error?.message || `status ${answer.status}`);
  return body;
}
