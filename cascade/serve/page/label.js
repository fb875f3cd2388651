// The menu of classes beside the prompt, for a model that takes both.

import { $ } from "./dom.js";
import { model } from "./model.js";

const ALL = "all"; // every prompt with every class
const KEPT = "kept"; // the labels of a job that is used again, which no other choice says
let keptLabels = [];

export const hasMenu = () => model.conditioning === "text" && model.num_classes > 0;
const numbers = () => [...Array(model.num_classes).keys()];
const inTurn = (labels) => labels.length % model.num_classes === 0 && labels.every((label, i) => label === i % model.num_classes);
export const nameOf = (label) => model.classes[label] ?? `class ${label}`;
export const chosenLabel = () => $("label").value;

export function buildLabels() {
  $("label-field").hidden = !hasMenu();
  if (!hasMenu()) return;
  const all = model.num_classes > 1 ? [new Option(`every one of the ${model.num_classes}`, ALL)] : [];
  $("label").replaceChildren(new Option("any", ""), ...numbers().map((label) => new Option(nameOf(label), label)), ...all);
}

// Chooses what says the labels of a job, and returns the prompts that the choice goes with, each once.
export function takeLabels({ prompts, labels }) {
  buildLabels();
  const [first, size] = [labels[0], model.num_classes];
  const isTable = size > 1 && labels.length > 1 && inTurn(labels);
  const groups = prompts.length === labels.length && prompts.every((prompt, i) => prompt === prompts[i - (i % size)]);
  if (!hasMenu()) return prompts;
  if (!labels.length) $("label").value = "";
  else if (isTable && (groups || (prompts.length < 2 && labels.length === size))) {
    $("label").value = ALL;
    if (groups) return prompts.filter((prompt, i) => i % size === 0);
  } else if (first < size && labels.every((label) => label === first) && labels.length <= Math.max(prompts.length, 1)) $("label").value = first;
  else {
    keptLabels = labels;
    $("label").append(new Option(labels.map(nameOf).join(", "), KEPT, true, true));
  }
  return prompts;
}

// The API's `prompts` and `labels` for what is chosen.
export function described(prompts) {
  const chosen = chosenLabel();
  if (!hasMenu() || !chosen) return { prompts };
  if (chosen === KEPT) return { prompts, labels: keptLabels };
  if (chosen !== ALL) return { prompts, labels: [Number(chosen)] };
  if (prompts.length < 2) return { prompts, labels: numbers() };
  return { prompts: prompts.flatMap((prompt) => numbers().map(() => prompt)), labels: prompts.flatMap(numbers) };
}
