// Addresses of stored pictures, and a cache of those that were fetched with a key.

import { call } from "./api.js";
import { KEY } from "./key.js";

export const TINY = 48; // px: pictures up to this side are shown with hard pixels
const BLOBS = 400; // pictures in the cache

// The address of a stored picture, relative to the page; the server's own holds the path where it believes to be mounted.
export const pictureAt = (job, stage, k) => `v1/jobs/${job}/stages/${encodeURIComponent(stage)}/${k}.png`;

// An <img> sends no Authorization header, so with a key pictures are fetched and shown from memory.
export const blobs = new Map(); // least recently used first
export async function pictureUrl(url) {
  if (!localStorage.getItem(KEY) || url.startsWith("data:")) return url;
  const found = blobs.get(url) ?? call(url).then((answer) => answer.blob()).then(URL.createObjectURL);
  blobs.delete(url);
  blobs.set(url, found);
  found.catch(() => blobs.delete(url));
  if (blobs.size > BLOBS) revokeOldest();
  return found;
}

const revokeOldest = () => forget(blobs.keys().next().value);

export function forget(url) {
  blobs.get(url)?.then(URL.revokeObjectURL, () => {});
  blobs.delete(url);
}
