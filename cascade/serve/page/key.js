// The API key, in storage that all tabs of one server share.

import { $ } from "./dom.js";
import { HOME } from "./tabs.js";

export const KEY = `key ${HOME}`;

export function askForKey() {
  localStorage.removeItem(KEY);
  $("sign-out").hidden = true;
  $("key-form").hidden = false;
  $("key").focus();
}
