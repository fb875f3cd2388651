// Deletion of a job, in this tab and in the others.

import { showNothing } from "./address.js";
import { call } from "./api.js";
import { showError } from "./error.js";
import { focusForm } from "./form.js";
import { past, refreshHistory, showHistory } from "./history.js";
import { maps } from "./map.js";
import { notes } from "./next.js";
import { blobs, forget } from "./picture.js";
import { behind, view } from "./shown.js";
import { tabs } from "./tabs.js";
import { uploads } from "./upload.js";

export async function deleteJob() {
  const { id } = view.job;
  await call(`v1/jobs/${id}/pictures`, { method: "DELETE" });
  forgetJob(id);
  focusForm();
  tabs.postMessage({ deleted: id });
}

// Removes all traces of a deleted job from this tab; a job refined from it is read again, and shows its own pictures alone.
export function forgetJob(id) {
  for (const each of [past, notes, uploads, maps]) each.delete(id);
  if (view?.job.id === id) {
    showNothing();
    history.replaceState(null, "", location.pathname);
  }
  for (const each of [view, ...behind]) if (each?.line.some((one) => one.id === id)) each.readAgain().catch(showError);
  for (const url of [...blobs.keys()]) if (url.startsWith(`v1/jobs/${id}/`)) forget(url);
  showHistory();
  refreshHistory();
}
