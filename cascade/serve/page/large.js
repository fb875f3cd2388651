// The large view of one picture, in each of its stages.

import { $ } from "./dom.js";
import { offerDownload } from "./download.js";
import { guarded } from "./error.js";
import { model } from "./model.js";
import { TINY, pictureUrl } from "./picture.js";

export let enlarged; // {of: View, k, name: of the stage that is shown, undefined for a preview}

export function closeLarge() {
  if ($("large").open) $("large").close();
  $("large-picture").removeAttribute("src");
}

export async function openLarge(of, k) {
  enlarged = { of, k };
  const { urls, img } = of.tiles.get(k);
  const names = of.names.filter((name) => urls[name]);
  const there = besides(of);
  const at = there.indexOf(k);
  $("large-place").textContent = `${at + 1} of ${there.length}`;
  $("large-title").textContent = of.captionOf(k);
  $("large-back").ariaDisabled = at === 0 ? "true" : null;
  $("large-on").ariaDisabled = at === there.length - 1 ? "true" : null;
  const buttons = names.map((name) => Object.assign(document.createElement("button"), { type: "button", textContent: `${of.sides[name]} px` }));
  const choose = async (i) => {
    const src = i < 0 ? img.src : await pictureUrl(urls[names[i]]);
    $("large-picture").src = src;
    $("large-picture").alt = img.alt;
    $("large-picture").classList.toggle("pixels", i < 0 || of.sides[names[i]] <= TINY);
    buttons.forEach((button, j) => button.setAttribute("aria-pressed", i === j));
    enlarged.name = names[i];
    $("large-save").hidden = i < 0;
    $("large-brush").hidden = !model.stages.some(({ name }) => name === names[i]);
    if (i >= 0) offerDownload($("large-save"), src, of, k, names[i]);
  };
  buttons.forEach((button, i) => button.addEventListener("click", guarded(() => choose(i))));
  $("large-stages").replaceChildren(...buttons);
  await choose(names.length - 1);
  if (!$("large").open) $("large").showModal();
}

// Numbers of the pictures that can be enlarged.
const besides = (of) => [...of.tiles.keys()].filter((each) => !of.tiles.get(each).img.hidden);

export async function stepLarge(by) {
  const { of, k } = enlarged;
  const there = besides(of);
  const next = there[there.indexOf(k) + by];
  if (next === undefined) return;
  if ($("large-stages").contains(document.activeElement)) $("large-close").focus(); // the focused stage button may disappear
  await openLarge(of, next);
}
