// The page: asks for pictures, shows them sharpen stage by stage, lets some be picked and refined.
//
// Nouns are those of the API: a job has stages; picture k of a job is the same in every stage and in the jobs refined from it.
// What a user or the server says enters the page by textContent only.

import { open, openAddress } from "./address.js";
import { call } from "./api.js";
import { breakBoard, changeMask, closeBrush, keyBoard, keyBrush, lift, moveBoard, placeRing, pressBoard, sendMask, takeTool } from "./brush.js";
import { confirmed } from "./confirm.js";
import { deleteJob, forgetJob } from "./deletion.js";
import { $ } from "./dom.js";
import { clearError, guarded, once } from "./error.js";
import { askedSettings, submit, useAgain } from "./form.js";
import { loadOlder, refreshHistory } from "./history.js";
import { KEY } from "./key.js";
import { stepLarge } from "./large.js";
import { dropMap, takeMap } from "./map.js";
import { findModel, model } from "./model.js";
import { checkNegative } from "./negative.js";
import { paintOver, redoPart } from "./region.js";
import { checkSeed, lockSeed, rollSeed, seedIsLocked } from "./seed.js";
import { reloadEmpty, signOut, start, takeKey } from "./session.js";
import { view } from "./shown.js";
import { tabs } from "./tabs.js";
import { dropFile, takeFile } from "./upload.js";

$("ask").addEventListener("submit", once($("go"), submit));
$("go").addEventListener("click", (event) => event.detail > 1 && event.preventDefault()); // a submit does not tell
const makesLine = (event) => ["prompt", "negative", "brush-prompt"].includes(event.target.id) && (event.shiftKey || matchMedia("(pointer: coarse)").matches); // a phone has no Shift+Enter
document.addEventListener(
  "keydown",
  (event) => {
    if (event.key !== "Enter" || !event.repeat || makesLine(event)) return; // what is held down is meant once
    event.preventDefault();
    event.stopPropagation();
  },
  true,
);
const enters = (id, act) =>
  $(id).addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || makesLine(event) || event.isComposing) return;
    event.preventDefault();
    act();
  });
for (const id of ["prompt", "negative"]) enters(id, () => $("ask").requestSubmit());
enters("brush-prompt", () => $("brush-go").click());
for (const id of ["prompt", "negative"]) $(id).addEventListener("input", checkNegative);
$("dice").addEventListener("click", rollSeed);
$("lock").addEventListener("click", () => lockSeed(!seedIsLocked()));
$("seed").addEventListener("input", () => {
  checkSeed();
  lockSeed(true); // who writes a seed means it
});
$("older").addEventListener("click", guarded(loadOlder));
document.addEventListener("invalid", ({ target }) => target.closest("details")?.setAttribute("open", ""), true); // what is wrong must be seen
$("cancel").addEventListener("click", guarded(() => call(`v1/jobs/${view.job.id}`, { method: "DELETE" })));
$("delete").addEventListener("click", guarded(confirmed(deleteJob)));
$("reuse").addEventListener("click", () => useAgain(view.line));
$("refine").addEventListener(
  "click",
  once($("refine"), async () => {
    const id = await view.next.refine();
    if (id) await open(id, { scroll: true, focus: true });
  }),
);
$("all").addEventListener("click", () => view.next.pickAll());
$("from").addEventListener("change", () => view.next.takeFrom());
for (const type of ["input", "click"]) $("next-settings").addEventListener(type, () => view.next.keepSettings());
$("again").addEventListener("toggle", () => view && (view.next.note.isOpen = $("again").open));
$("next-defaults").addEventListener("click", () => view.next.settings.reset());
$("defaults").addEventListener("click", () => askedSettings.reset());
$("error").lastElementChild.addEventListener("click", clearError);
$("large-close").addEventListener("click", () => $("large").close());
$("large-back").addEventListener("click", guarded(() => stepLarge(-1)));
$("large-on").addEventListener("click", guarded(() => stepLarge(1)));
$("large").addEventListener("click", (event) => event.target === $("large") && $("large").close()); // all but the backdrop is in a div
$("large").addEventListener("keydown", (event) => {
  const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (by) guarded(() => stepLarge(by))(event);
});
$("large-brush").addEventListener("click", guarded(redoPart));
$("paint-over").addEventListener("click", guarded(paintOver));
$("brush-go").addEventListener("click", once($("brush-go"), sendMask));
$("brush-close").addEventListener("click", closeBrush);
$("brush").addEventListener("keydown", keyBrush);
for (const id of ["brush-on", "brush-off"]) $(id).addEventListener("click", () => takeTool(id));
for (const how of ["undo", "clear", "invert"]) $(`brush-${how}`).addEventListener("click", ({ currentTarget }) => currentTarget.ariaDisabled || changeMask(how));
$("brush-size").addEventListener("input", placeRing);
const onBoard = { pointerdown: pressBoard, pointermove: moveBoard, pointerup: lift, pointercancel: breakBoard, keydown: keyBoard, blur: lift };
for (const [type, act] of Object.entries(onBoard)) $("board").addEventListener(type, act);
addEventListener("resize", placeRing);
$("file").addEventListener("change", guarded(() => takeFile($("file").files[0])));
$("unfile").addEventListener("click", dropFile);
$("map").addEventListener("change", guarded(() => takeMap($("map").files[0])));
$("unmap").addEventListener("click", dropMap);
$("show-unsure").addEventListener("click", () => view.turnUnsure());
$("key-form").addEventListener("submit", guarded(takeKey));
$("sign-out").addEventListener("click", signOut);
addEventListener("storage", (event) => event.key === KEY && reloadEmpty()); // another tab signed in or out

const carriesFile = (event) => event.dataTransfer?.types.includes("Files");
const isForMap = ({ target }) => Boolean(model?.maps && ($("drop").hidden || target.closest?.("#map-field")));
function showDrop(shown, forMap) {
  $("veil").hidden = !shown || forMap;
  $("map-drop").classList.toggle("over", shown && forMap);
}
addEventListener("dragover", (event) => {
  if (!carriesFile(event)) return;
  event.preventDefault();
  showDrop(true, isForMap(event));
});
addEventListener("dragleave", (event) => event.relatedTarget || showDrop(false));
addEventListener("drop", (event) => {
  if (!carriesFile(event)) return;
  event.preventDefault();
  showDrop(false);
  const take = isForMap(event) ? takeMap : takeFile;
  guarded(() => take(event.dataTransfer.files[0]))();
});
addEventListener("hashchange", guarded(() => model && openAddress({ scroll: true })));
document.addEventListener("visibilitychange", () => refreshHistory());
tabs.addEventListener("message", ({ data }) => (data.deleted ? forgetJob(data.deleted) : refreshHistory()));
addEventListener("pageshow", (event) => event.persisted && location.reload()); // it was put by, and may show what is gone since

$("knobs").open = matchMedia("(min-width: 761px)").matches;
lockSeed(false);
rollSeed();
guarded(async () => start(await findModel()))();
