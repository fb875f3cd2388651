// A job as the server tells it, and the words for it.

import { getJson } from "./api.js";
import { model } from "./model.js";
import { pictureAt } from "./picture.js";
import { settingWords } from "./words.js";

export const OVER = ["held", "finished", "failed", "cancelled"];

async function loadJob(id) {
  return ownJob(await getJson(`v1/jobs/${encodeURIComponent(id)}`));
}

// The server's job, with its pictures by stage.
export function ownJob(job) {
  for (const stage of job.stages) stage.pictures = stage.done.map((k) => ({ k, url: pictureAt(job.id, stage.name, k) }));
  return job;
}

// The job, the one that it refines, the one which that refines, ...
export async function loadLine(id) {
  const line = [await loadJob(id)];
  while (line.at(-1)?.parent) line.push(await loadJob(line.at(-1).parent).catch(() => undefined)); // which may have expired
  return line.filter(Boolean);
}

export function rootOf(job, jobs) {
  while (jobs.has(job.parent)) job = jobs.get(job.parent);
  return job;
}

export const saidOf = (job) => [...job.prompts, ...job.labels.map((label) => model.classes[label] ?? `class ${label}`)];
export const isUpload = (job) => !job.parent && job.stages[0].name !== model.stages[0].name;

// root: what the job was refined from in the first place, or itself.
export function titleOf(job, root) {
  const said = saidOf(job).join(", ");
  if (isUpload(root)) return said ? `Upscaled: ${said}` : "Upscaled picture";
  return said || "No prompt";
}

// The settings that differ from the model's usual ones, of the stages that were asked for.
export function unusual(job, root) {
  const at = (name) => model.stages.findIndex((stage) => stage.name === name);
  const end = job.until ? at(job.until) + 1 : model.stages.length;
  const stages = model.stages.slice(isUpload(root) ? at(root.stages[0].name) : 0, end);
  const said = stages.map(({ name, side, settings }) => {
    const pairs = Object.entries(job.settings[name] ?? {}).filter(([key, value]) => String(value) !== String(settings[key]));
    return pairs.length && `${side} px: ${pairs.map((pair) => settingWords(...pair)).join(", ")}`;
  });
  const size = job.size ?? root.size;
  return [size && `${size.join("×")} px`, ...said].filter(Boolean).join(" · ");
}
