// The address in the browser's bar names the job that is shown.

import { $ } from "./dom.js";
import { listen } from "./feed.js";
import { refreshHistory, showHistory } from "./history.js";
import { OVER, loadLine } from "./job.js";
import { closeLarge } from "./large.js";
import { model } from "./model.js";
import { behind, bringForward, show, view } from "./shown.js";
import { tell } from "./tabs.js";
import { View } from "./view.js";

let opened = 0;

// Shows the job that the address names, or none. If it does not exist, the view and its address stay.
export async function openAddress(how) {
  const id = location.hash.slice(1);
  if (!id) return closeJob();
  try {
    await open(id, { ...how, push: false });
  } catch (error) {
    if (location.hash.slice(1) === id) history.replaceState(null, "", view ? `#${view.job.id}` : location.pathname);
    throw [404, 410].includes(error.status) ? new Error(`There is no job #${id} here: it was deleted, has expired, or is of another key`) : error;
  }
}

function closeJob() {
  opened++; // cancels an `open` that still loads
  view?.stepBack();
  showNothing();
  showHistory();
}

// focus: moves the focus to the first tile, since the element that had it may be gone. push: whether the address follows the job; else
// the job follows the address, which may have moved on before its event comes (Back or Forward pressed twice).
export async function open(id, { scroll = false, focus = false, push = true } = {}) {
  const turn = ++opened;
  const next = [view, ...behind].find((each) => each?.alive && each.job.id === id) ?? new View(await loadLine(id));
  if (turn !== opened || (!push && location.hash.slice(1) !== id)) return; // another job was opened meanwhile, or will be
  if (next !== view) {
    bringForward(next);
    view?.stepBack();
    closeLarge();
    show(next);
    view.mount();
  }
  if (push && location.hash !== `#${id}`) history.pushState(null, "", `#${id}`);
  if (view.alive) listen(); // reconnects, so that its previews come first
  else if (!OVER.includes(view.job.state)) view.watch();
  if (focus) view.tiles.get(view.job.images[0]).pick.focus({ preventScroll: true });
  const { top } = $("job").getBoundingClientRect();
  if (scroll && (top < 0 || top > innerHeight / 2)) $("job").scrollIntoView({ behavior: "smooth" });
  refreshHistory();
  tell();
}

export function showNothing() {
  closeLarge();
  show(undefined);
  document.title = model.id;
  $("job").hidden = true;
  $("grid").replaceChildren();
  $("empty").hidden = false;
}
