// Start, signing in and signing out.

import { openAddress } from "./address.js";
import { $ } from "./dom.js";
import { focusForm, takeModel } from "./form.js";
import { refreshHistory } from "./history.js";
import { KEY, askForKey } from "./key.js";
import { findModel, model } from "./model.js";
import { view } from "./shown.js";

let whose; // the key that everything shown was requested with; null: none; undefined: nothing is shown yet
const isEqual = (a, b) => JSON.stringify(a) === JSON.stringify(b);

export async function start(found) {
  whose = localStorage.getItem(KEY);
  $("sign-out").hidden = !whose;
  if (!model) takeModel(found);
  const id = location.hash.slice(1);
  await refreshHistory();
  if (id && !(view?.job.id === id && view.isWhole)) await openAddress();
}

// Signing in with the previous key restores the page, to the last slider; another key gets an empty page.
export async function takeKey() {
  const key = $("key").value;
  localStorage.setItem(KEY, key);
  const found = await findModel().catch((error) => {
    if (localStorage.getItem(KEY) === key) askForKey(); // an unconfirmed key is not kept
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

// Reloads without the job's address, so that nothing that the key gave access to stays.
function beginAnew() {
  history.replaceState(null, "", location.pathname);
  reloadEmpty();
}

export function reloadEmpty() {
  $("ask").reset(); // else a browser would fill it in again
  location.reload();
}
