// A job as the server describes it, and its title.

import { getJson } from "./api.js";
import { nameOf } from "./label.js";
import { model } from "./model.js";
import { pictureAt } from "./picture.js";
import { usual } from "./settings.js";
import { settingWords } from "./words.js";

export const OVER = ["held", "finished", "failed", "cancelled"];

async function loadJob(id) {
  return ownJob(await getJson(`v1/jobs/${encodeURIComponent(id)}`));
}

// Adds `pictures`, [{k, url}], to each stage of the server's job.
export function ownJob(job) {
  for (const stage of job.stages) stage.pictures = stage.done.map((k) => ({ k, url: pictureAt(job.id, stage.name, k) }));
  return job;
}

// [job, its parent, the parent of that, ...], as far as they exist.
export async function loadLine(id) {
  const line = [await loadJob(id)];
  while (line.at(-1)?.parent) line.push(await loadJob(line.at(-1).parent).catch(() => undefined)); // a parent may have expired
  return line.filter(Boolean);
}

export function rootOf(job, jobs) {
  while (jobs.has(job.parent)) job = jobs.get(job.parent);
  return job;
}

// What each description says: a prompt, a label, or a pair.
export function saidOf({ prompts, labels }) {
  const one = (list, i) => list.slice(list.length > 1 ? i : 0)[0];
  const pair = (i) => [one(prompts, i), one(labels.map(nameOf), i)].filter((said) => said !== undefined).join(" · ");
  return [...Array(Math.max(prompts.length, labels.length)).keys()].map(pair);
}

export const isUpload = (job) => !job.parent && job.stages[0].name !== model.stages[0].name;

// The labels of a job of pairs, in words, for where its title has room for the prompts alone.
export const labelsOf = ({ prompts, labels }) => (prompts.length ? [...new Set(labels.map(nameOf))].join(", ") : "");

// Columns of a job that is a table of single pictures, each prompt with each of several labels; else 0.
export function across({ prompts, labels, num, images }) {
  if (num > 1 || labels.length < 2 || !prompts.length || images.length < labels.length) return 0;
  const at = prompts.findIndex((prompt) => prompt !== prompts[0]);
  return prompts.length === 1 || at < 0 ? labels.length : labels.length % at ? 0 : at;
}

// root: the job at the start of its line, perhaps itself.
export function titleOf(job, root) {
  const said = [job.prompts, job.labels.map(nameOf)].map((each) => [...new Set(each)].join(", ")).filter(Boolean).join(" · ");
  if (isUpload(root)) return said ? `Upscaled: ${said}` : "Upscaled picture";
  return said || "No prompt";
}

// The settings that differ from the model's own, of the requested stages, in words.
export function unusual(job, root) {
  const at = (name) => model.stages.findIndex((stage) => stage.name === name);
  const end = job.until ? at(job.until) + 1 : model.stages.length;
  const stages = model.stages.slice(isUpload(root) ? at(root.stages[0].name) : 0, end);
  const said = stages.map(({ name, side, settings }) => {
    const pairs = Object.entries(job.settings[name] ?? {}).filter(([key, value]) => String(value) !== String(usual(settings, key)));
    return pairs.length && `${side} px: ${pairs.map((pair) => settingWords(...pair)).join(", ")}`;
  });
  const size = job.size ?? root.size;
  const not = [...new Set(job.negative ?? [])].join(", ");
  return [not && `not: ${not}`, job.map && "with a map", job.source && "a part painted anew", size && `${size.join("×")} px`, ...said].filter(Boolean).join(" · ");
}
