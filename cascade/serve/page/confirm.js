// The button that deletes asks first.

import { $ } from "./dom.js";

const SURE_MS = 4000; // for the second click that deletes
const SLIP_MS = 500; // one that comes sooner is no answer

let unsure; // a timer: nobody said that a job is to be deleted for good
let askedAt; // ms: when that was asked

export function askDelete(sure) {
  $("delete").textContent = sure ? "Delete for good?" : "Delete";
  $("delete").classList.toggle("sure", sure);
}

// The first click asks, the next one does it; the second of a double click or of two quick Enters does nothing.
export const confirmed = (work) => async ({ detail, timeStamp }) => {
  if ($("delete").classList.contains("sure")) return detail < 2 && timeStamp - askedAt > SLIP_MS && work();
  askDelete(true);
  askedAt = timeStamp;
  clearTimeout(unsure);
  unsure = setTimeout(() => askDelete(false), SURE_MS);
};
