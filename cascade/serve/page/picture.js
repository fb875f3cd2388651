// Addresses of stored pictures, and what was fetched from there.

import { call } from "./api.js";
import { KEY } from "./key.js";

export const TINY = 48; // px: pictures up to here are shown as the squares that they are
const BLOBS = 400; // pictures in memory

// The address of a stored picture as it is from here; the server's own says where it believes that it is mounted.
export const pictureAt = (job, stage, k) => `v1/jobs/${job}/stages/${encodeURIComponent(stage)}/${k}.png`;

// An <img> sends no key: with one, pictures are fetched and shown from memory.
export const blobs = new Map(); // the one that was not asked for longest is first
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
