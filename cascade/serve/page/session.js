// From signing in to signing out.

import { openAddress } from "./address.js";
import { $ } from "./dom.js";
import { focusForm, takeModel } from "./form.js";
import { refreshHistory } from "./history.js";
import { KEY, askForKey } from "./key.js";
import { findModel, model } from "./model.js";
import { view } from "./shown.js";

let whose; // the key that all that is shown was asked for with; null: none, undefined: there is nothing yet
const isEqual = (a, b) => JSON.stringify(a) === JSON.stringify(b);

export async function start(found) {
  whose = localStorage.getItem(KEY);
  $("sign-out").hidden = !whose;
  if (!model) takeModel(found);
  const id = location.hash.slice(1);
  await refreshHistory();
  if (id && !(view?.job.id === id && view.isWhole)) await openAddress();
}

// The key of before shows what was there, to the last slider; whoever has another one sees nothing of it.
export async function takeKey() {
  const key = $("key").value;
  localStorage.setItem(KEY, key);
  const found = await findModel().catch((error) => {
    if (localStorage.getItem(KEY) === key) askForKey(); // one that nobody has found valid is not kept
    throw error;
  });
  if (whose !== undefined && (key !== whose || !isEqual(found, model))) return beginAnew();
  $("key-form").hidden = true;
  await start(found);
  $("key").value = "";
  focusForm();
}

export function signOut() {
  localStorage.removeItem(KEY);
  beginAnew();
}

// Nothing of what the key gave stays in the page.
function beginAnew() {
  history.replaceState(null, "", location.pathname);
  reloadEmpty();
}

export function reloadEmpty() {
  $("ask").reset(); // a browser would fill it in again
  location.reload();
}
