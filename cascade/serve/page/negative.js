// The field for what is to be left out of the picture, folded away until it is asked for.

import { $ } from "./dom.js";

const HINT = "Words that the prompt has, too, would take its subject away";
const SHORT = 3; // letters: "a" and "of" say nothing

const wordsOf = (text) => text.toLowerCase().match(/[\p{L}\p{N}]+/gu)?.filter((word) => word.length >= SHORT) ?? [];

export const negative = () => $("negative").value.trim();

export function takeNegative(text) {
  $("negative").value = text;
  $("not").open = Boolean(text);
  checkNegative();
}

// Warns of words that are in both.
export function checkNegative() {
  const prompt = new Set(wordsOf($("prompt").value));
  const both = [...new Set(wordsOf(negative()))].filter((word) => prompt.has(word));
  $("negative-hint").textContent = both.length ? `“${both.join("”, “")}” ${both.length > 1 ? "are" : "is"} in the prompt, too: its subject may go` : HINT;
  $("negative-hint").classList.toggle("bad", both.length > 0);
}
