// The picture to upscale.

import { $ } from "./dom.js";
import { model } from "./model.js";
import { shrunk } from "./shrink.js";

const UPLOADS = 20; // sent pictures kept in memory
const KINDS = ["image/png", "image/jpeg", "image/webp"];

export let upload; // {file, entry: number of the stage, base64, fit: whether it is shrunk first, told: in words}; {entry} if the picture is gone
export const uploads = new Map(); // by job of this tab; the server does not keep them

// A picture enters at the stage that loses least of it, unchanged if the result is not larger than the server allows.
export async function takeFile(file) {
  if (!file) return;
  const bitmap = await bitmapOf(file);
  const { width, height } = bitmap; // after its EXIF orientation
  const able = model.stages.filter(({ low_res: side }) => side && side <= Math.min(width, height));
  const entry = able.at(-1) ?? model.stages.find(({ low_res: side }) => side);
  const { side } = model.stages.at(-1);
  const factor = side / entry.low_res;
  const fit = factor * Math.max(width, height) > model.limits.scale * side;
  const held = `${file.name} has ${width}×${height} px`;
  if (fit && !able.length) throw new Error(`${held}; that is too narrow`);
  if (fit && Math.max(width, height) > model.limits.scale * Math.min(width, height))
    throw new Error(`${held}; at most ${model.limits.scale} times as long as wide is taken`);
  // The server shrinks by its own rule; twice the side that it needs is enough to send.
  const content = fit && Math.min(width, height) > 2 * entry.low_res ? await shrunk(bitmap, 2 * entry.low_res) : file;
  bitmap.close();
  const base64 = await base64Of(content).catch(() => {
    throw new Error(`${file.name} cannot be read`);
  });
  const result = side > Math.min(width, height) ? `and from there ${side} px` : `first; the result, ${side} px, will not be larger than it was`;
  const told = fit ? `more than is enlarged here as it is; made ${entry.low_res} px small ${result}` : `becomes ${width * factor}×${height * factor} px`;
  upload = { file, entry: model.stages.indexOf(entry), base64, fit, told: `${file.name}: ${width}×${height} px, ${told}` };
  showUpload();
}

// The pixels of a chosen file; an Error says what it is instead.
export async function bitmapOf(file) {
  if (!KINDS.includes(file.type)) throw new Error(`${file.name} is no picture of a kind that is taken: PNG, JPEG or WebP`);
  const bitmap = await createImageBitmap(file).catch(() => undefined);
  if (!bitmap) throw new Error(`${file.name} is no picture that this browser can read`);
  return bitmap;
}

export function base64Of(content) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result.slice(reader.result.indexOf(",") + 1));
    reader.onerror = reject;
    reader.readAsDataURL(content);
  });
}

export function dropFile() {
  upload = undefined;
  $("file").value = "";
  showUpload();
}

// Puts the picture of a job back; if it is gone, the stage at which it entered. root: the job at the start of the line.
export function takeAgain(root) {
  upload = uploads.get(root.id) ?? { entry: model.stages.findIndex(({ name }) => name === root.stages[0].name) };
  showUpload();
}

export const keepUpload = (id, given) => remember(uploads, id, given);

// Keeps what was sent with a job; of many the oldest goes.
export function remember(kept, id, given) {
  kept.set(id, given);
  if (kept.size > UPLOADS) kept.delete(kept.keys().next().value);
}

function showUpload() {
  const none = upload ? "The picture is not kept: choose it once more" : "Drop a picture to upscale, or choose one";
  $("file-name").textContent = upload?.told ?? none;
  $("unfile").hidden = !upload;
  $("paint-over").hidden = !upload?.file;
  $("hold").disabled = $("kept").hidden = Boolean(upload);
  model.stages.forEach(({ name }, at) => {
    const group = $("settings").querySelector(`[data-stage="${CSS.escape(name)}"]`);
    if (group) group.hidden = at < (upload?.entry ?? 0);
  });
  $("go").textContent = upload ? "Upscale" : "Paint";
}
