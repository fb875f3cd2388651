// The map that says what is where in the picture, for a cascade that was trained with maps.

import { $ } from "./dom.js";
import { model } from "./model.js";
import { base64Of, bitmapOf, remember } from "./upload.js";

export let map; // {base64, src: for its thumbnail, told: in words}; {} if the map of the job that is used again is gone
export const maps = new Map(); // by job of this tab; the server does not keep them

export const offerMap = () => ($("map-field").hidden = !model.maps);

// Sent as it is: the server resizes it to each stage, and wants the proportions of the result.
export async function takeMap(file) {
  if (!file) return;
  const bitmap = await bitmapOf(file);
  const { width, height } = bitmap;
  bitmap.close();
  const most = model.limits.upload_pixels;
  if (width * height > most) throw new Error(`${file.name} has ${width}×${height} px; a map has at most ${most.toLocaleString("en")} pixels`);
  const base64 = await base64Of(file);
  map = { base64, src: `data:${file.type};base64,${base64}`, told: `${file.name}: ${width}×${height} px` };
  showMap();
}

export function dropMap() {
  map = undefined;
  $("map").value = "";
  showMap();
}

// The API's `map`.
export const sent = (given) => given && { map: given.base64 };

// What the form has.
export function mapHere() {
  if (map && !map.base64) throw new Error("Choose the map once more, or leave it out: it is not kept");
  return map;
}

// The map of a job, to go on from it. line: the job, its parent, the parent of that, ...
export function mapOf(line) {
  if (!line[0].map) return undefined;
  const found = known(line) ?? map;
  if (!found?.base64) throw new Error("Choose the map that this job was made with once more, in the form: it is not kept");
  return found;
}

const known = (line) => line.map(({ id }) => maps.get(id)).find(Boolean);

export const keepMap = (id, given) => given && remember(maps, id, given);

// Puts the map of a job back into the form, or none.
export function takeMapAgain(line) {
  map = model.maps && line[0].map ? (known(line) ?? {}) : undefined;
  $("map").value = "";
  showMap();
}

function showMap() {
  const none = map ? "The map is not kept: choose it once more" : "Drop a map here, or choose one";
  $("map-name").textContent = map?.told ?? none;
  $("map-shown").hidden = !map?.src;
  $("map-icon").toggleAttribute("hidden", Boolean(map?.src)); // SVG has no property for it
  if (map?.src) $("map-shown").src = map.src;
  else $("map-shown").removeAttribute("src");
  $("unmap").hidden = !map;
}
