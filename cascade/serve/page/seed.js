// The seed field and its lock.

import { $ } from "./dom.js";

const MAX_SEED = 2n ** 63n - 1n;

export const newSeed = () => crypto.getRandomValues(new Uint32Array(1))[0] % 1_000_000;

export function rollSeed() {
  $("seed").value = newSeed();
  checkSeed();
}

// A locked seed stays; otherwise each Paint rolls a new one.
export const seedIsLocked = () => $("lock").getAttribute("aria-pressed") === "true";
export function lockSeed(on) {
  $("lock").setAttribute("aria-pressed", on);
  $("lock").firstElementChild.firstElementChild.setAttribute("href", on ? "#i-locked" : "#i-unlocked");
  $("lock").title = on ? "This seed is kept; unlock it for another one at each Paint" : "Another seed at each Paint; lock it to keep this one";
}

export function checkSeed() {
  const { value } = $("seed");
  const fine = /^\d{1,19}$/.test(value) && BigInt(value) <= MAX_SEED;
  $("seed").setCustomValidity(fine ? "" : `A whole number from 0 to ${MAX_SEED}`);
}
