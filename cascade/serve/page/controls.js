// Controls that are made from templates; each function appends one and returns a function that reads it.

import { copyOf } from "./dom.js";

const TOPS = { num_steps: 64, guidance_scale: 12, guidance_text: 12, guidance_label: 12 }; // upper ends of sliders; the field beside one takes larger values
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

// A slider for the usual range, beside a field that takes and shows any value, to the last digit.
export function slider(group, { id, key, words: [title, hint], range: [min, max], usual, value }) {
  const node = copyOf("t-slider");
  const [label, field, explained, input] = node.children;
  const whole = key === "num_steps";
  const top = clamp(TOPS[key] ?? max, usual, max);
  input.id = label.htmlFor = id;
  label.textContent = title;
  explained.textContent = hint;
  explained.id = `${id}-hint`;
  field.id = `${id}-value`;
  field.setAttribute("aria-label", `${title}, ${group.firstElementChild.textContent}`);
  for (const each of [input, field]) each.setAttribute("aria-describedby", explained.id);
  Object.assign(input, { min, max: top, step: whole ? 1 : top > 2 ? 0.1 : 0.01, value });
  Object.assign(field, { min, max, step: whole ? 1 : "any", value });
  input.addEventListener("input", () => (field.value = input.value));
  field.addEventListener("input", () => (input.value = field.value));
  group.append(node);
  return () => Number(field.value);
}

export function chooser(group, { id, options, value }) {
  const node = copyOf("t-choice");
  const [label, select] = node.children;
  select.id = label.htmlFor = id;
  select.append(...[...new Set([...options, value])].map((name) => new Option(name, name)));
  select.value = value;
  group.append(node);
  return () => select.value;
}

// A setting without a control, with a button that removes it; the function returns whether it is still there.
export function chip(place, text) {
  const node = copyOf("t-chip");
  const [words, out] = node.children;
  words.textContent = text;
  out.setAttribute("aria-label", `Leave out ${text}`);
  out.addEventListener("click", () => node.remove());
  place.append(node);
  return () => node.isConnected;
}
