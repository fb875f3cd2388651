// The API key, in the storage that all tabs of this server share.

import { $ } from "./dom.js";
import { HOME } from "./tabs.js";

export const KEY = `key ${HOME}`;

export function askForKey() {
  localStorage.removeItem(KEY);
  $("sign-out").hidden = true;
  $("key-form").hidden = false;
  $("key").focus();
}
