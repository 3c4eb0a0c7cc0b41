// Asking: for a token, and whether a disruptive thing is really wanted.

import { byId, put } from "./dom.js";
import { Refused, act, read, token } from "./talk.js";

/** A token that lets one look; asked for until the router takes it. */
export function tokenToLook(wasRefused) {
  const why = "The router can be reached from other machines, so looking needs a token. It lies in the run folder, in state/ui-token.";
  return asked("Token to look at this page", why, wasRefused ? "That token was not taken." : "", false, async (text) => {
    token.keepLook(text);
    await read("now?since=0");
  });
}

/** Have a token that lets one act, or forget the one there is. True if there is one now. */
export async function tokenToAct() {
  if (token.toAct()) {
    token.forgetAct();
    document.dispatchEvent(new Event("unlocked"));
    return false;
  }
  const why = "Draining and restarting needs the deployment's own token. It lies in the run folder, in state/token, and stays in this tab.";
  const text = await asked("Token to act", why, "", true, async (tried) => {
    token.keepAct(tried);
    try {
      await act("nothing");
    } catch (problem) {
      token.forgetAct();
      throw problem;
    }
  });
  document.dispatchEvent(new Event("unlocked"));
  return Boolean(text);
}

/** Whether it is really wanted. */
export function sure(title, why, word) {
  const dialog = byId("sure");
  put(byId("sure-title"), title);
  put(byId("sure-why"), why);
  put(byId("sure-go"), word);
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resume) => dialog.addEventListener("close", () => resume(dialog.returnValue === "yes"), { once: true }));
}

/** Say something that must not be overlooked. */
export function said(title, why) {
  return sure(title, why, "Well");
}

/** The text that `check` did not throw at; "" if the user gave up, which `may` allow. */
function asked(title, why, wrong, may, check) {
  const dialog = byId("token");
  const field = byId("token-text");
  put(byId("token-title"), title);
  put(byId("token-why"), why);
  put(byId("token-wrong"), wrong);
  byId("token-cancel").hidden = !may;
  field.value = "";
  dialog.showModal();
  return new Promise((resume) => {
    const end = (text) => {
      dialog.close();
      byId("token-cancel").onclick = dialog.oncancel = dialog.querySelector("form").onsubmit = null;
      resume(text);
    };
    byId("token-cancel").onclick = () => end("");
    dialog.oncancel = (event) => {
      event.preventDefault();
      if (may) end("");
    };
    dialog.querySelector("form").onsubmit = async (event) => {
      event.preventDefault();
      const text = field.value.trim();
      try {
        await check(text);
        end(text);
      } catch (problem) {
        put(byId("token-wrong"), problem instanceof Refused && problem.status === 401 ? "That token was not taken." : problem.message);
        field.select();
      }
    };
  });
}
