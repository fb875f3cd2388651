// The form that asks for pictures.

import { open } from "./address.js";
import { postJson } from "./api.js";
import { chip } from "./controls.js";
import { $ } from "./dom.js";
import { showError } from "./error.js";
import { isUpload } from "./job.js";
import { buildLabels, chosenLabel, described, hasMenu, takeLabels } from "./label.js";
import { keepMap, map, mapHere, offerMap, sent, takeMapAgain } from "./map.js";
import { model, setModel } from "./model.js";
import { negative, takeNegative } from "./negative.js";
import { lockSeed, rollSeed, seedIsLocked } from "./seed.js";
import { buildSettings } from "./settings.js";
import { offerUncertainty, uncertaintyOf } from "./uncertainty.js";
import { dropFile, keepUpload, takeAgain, upload } from "./upload.js";

export let askedSettings;
let kept = { more: [] }; // what the fields cannot hold of a job that is used again: {prompts, promptText, once, chosen, labels, labelText, more: [{key, value, there()}]}; once: its prompts without repetition

export function takeModel(found) {
  setModel(found);
  document.title = model.id;
  $("name").textContent = model.id;
  $("chain").textContent = `${model.stages.map((stage) => stage.side).join(" → ")} px`;
  $("text-field").hidden = model.conditioning !== "text";
  $("class-field").hidden = model.conditioning !== "class";
  buildLabels();
  $("classes").replaceChildren(...model.classes.map((name) => new Option(name, name)));
  $("num").max = model.limits.images;
  $("hold-field").hidden = model.stages.length < 2;
  $("drop").hidden = model.stages.length < 2;
  offerMap();
  offerUncertainty();
  askedSettings = buildSettings($("settings"), model.stages);
  $("ask").hidden = false;
}

// What the fields say, of whatever is painted or enlarged. prompt: another than the field's.
export function describedHere(prompt = $("prompt").value) {
  const body = { num: Number($("num").value), seed: $("seed").value, settings: askedSettings.read(), ...sent(mapHere()) };
  const said = $("class").value.trim();
  if (model.conditioning === "text") Object.assign(body, describedBy(prompt), negative() && { negative_prompt: negative() });
  if (model.conditioning === "class" && said) body.labels = said === kept.labelText ? kept.labels : [labelOf(said)];
  if ($("seconds").value) body.seconds = Number($("seconds").value);
  return body;
}

function asked() {
  const body = describedHere();
  if (upload && !upload.base64) throw new Error("Choose the picture to upscale once more, or leave it out: it is not kept");
  if (upload) Object.assign(body, { image: upload.base64, fit: upload.fit });
  else {
    for (const { key, value, there } of kept.more) if (there()) body[key] = value;
    if ($("hold").checked && model.stages.length > 1) body.until = model.stages[0].name;
  }
  const end = model.stages.findIndex(({ name }) => name === (body.until ?? model.stages.at(-1).name));
  return { ...body, ...uncertaintyOf(model.stages.slice(upload?.entry ?? 0, end + 1)) };
}

// The prompts and labels; those of a job that is used again exactly, as long as neither was changed.
function describedBy(prompt) {
  const isSame = prompt === kept.promptText;
  if (isSame && chosenLabel() === kept.chosen) return { prompts: kept.prompts, ...(hasMenu() && { labels: kept.labels }) };
  return described(isSame ? kept.once : linesOf(prompt));
}

const linesOf = (text) => text.split("\n").map((line) => line.trim()).filter(Boolean);
const labelOf = (said) => (/^\d+$/.test(said) && !model.classes.includes(said) ? Number(said) : said);

const alsoSaid = (texts) => texts.map(([text, weight]) => `also: ${text} (${weight})`).join(", ");

// Fills the form with a job's request, to the last digit. line: the job, its parent, the parent of that, ...
export function useAgain(line) {
  const [job, root] = [line[0], line.at(-1)];
  dropFile();
  takeMapAgain(line);
  const once = takeLabels(job);
  $("prompt").value = once.join("\n");
  $("class").value = job.labels.map((label) => model.classes[label] ?? label).join(", ");
  const texts = { promptText: $("prompt").value, labelText: $("class").value.trim() };
  kept = { prompts: job.prompts, labels: job.labels, once, chosen: chosenLabel(), ...texts, more: [] };
  $("num").value = job.num;
  $("seed").value = job.seed;
  lockSeed(true);
  $("hold").checked = model.stages.length > 1 && job.until === model.stages[0].name;
  askedSettings = buildSettings($("settings"), model.stages, job.settings);
  $("kept").replaceChildren();
  const keep = (key, value, text) => kept.more.push({ key, value, there: chip($("kept"), text) });
  const size = job.size ?? root.size;
  if (size) keep("size", size, `${size.join("×")} px`);
  if (job.until && !$("hold").checked && job.until !== model.stages.at(-1).name) keep("until", job.until, `until ${job.until}`);
  takeNegative(job.negative?.[0] ?? "");
  $("seconds").value = ""; // its settings have the steps that were chosen
  if (job.composed?.length === 1) keep("composed", job.composed[0].map(([text, weight]) => ({ text, weight })), alsoSaid(job.composed[0]));
  if (job.guidance) keep("guidance", job.guidance, "guidance of each");
  if (job.same_noise) keep("same_noise", true, "the same noise");
  if (isUpload(root)) takeAgain(root);
  if (job.source) showError(new Error("The picture that this job painted over is not kept: with this form a new one is painted"));
  $("ask").scrollIntoView({ block: "nearest" });
  focusForm();
}

// Focuses the field for the model's conditioning.
export function focusForm() {
  const id = { text: "prompt", class: "class", none: "num" }[model.conditioning];
  $(id).focus({ preventScroll: true });
}

export async function submit() {
  const [given, givenMap] = [upload, map];
  const { id } = await postJson("v1/jobs", asked());
  if (given) keepUpload(id, given);
  keepMap(id, givenMap);
  if (!seedIsLocked()) rollSeed();
  await open(id, { scroll: true, focus: true });
}
