// The confirmation of the Delete button.

import { $ } from "./dom.js";

const SURE_MS = 4000; // time for the second click, which deletes
const SLIP_MS = 500; // a second click that comes sooner does not count

let unsure; // timer that resets the button
let askedAt; // ms, of the first click

export function askDelete(sure) {
  $("delete").textContent = sure ? "Delete for good?" : "Delete";
  $("delete").classList.toggle("sure", sure);
}

// A listener that runs `work` at the second click; the second of a double click or of two quick Enters does nothing.
export const confirmed = (work) => async ({ detail, timeStamp }) => {
  if ($("delete").classList.contains("sure")) return detail < 2 && timeStamp - askedAt > SLIP_MS && work();
  askDelete(true);
  askedAt = timeStamp;
  clearTimeout(unsure);
  unsure = setTimeout(() => askDelete(false), SURE_MS);
};
