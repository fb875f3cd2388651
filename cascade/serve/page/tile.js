// One picture of a job that is shown: in the newest of its stages, with its buttons.

import { copyOf } from "./dom.js";
import { offerDownload } from "./download.js";
import { guarded } from "./error.js";
import { saidOf } from "./job.js";
import { openLarge } from "./large.js";
import { TINY, pictureUrl } from "./picture.js";

export class Tile {
  stage = -1; // the one that is under way or done, as a number of the view's
  part = 0; // of that stage, from 0 to 1
  urls = {}; // of whole pictures, by stage
  order = 0; // of what was shown last

  // place: its number for people, who count from one; k is the server's.
  constructor(view, k, place) {
    const node = copyOf("t-tile");
    const pick = node.querySelector(".pick");
    pick.addEventListener("click", guarded(() => view.next.press(k)));
    pick.addEventListener("focus", () => view.focus(k, false));
    pick.addEventListener("keydown", (event) => view.key(event, k));
    const large = node.querySelector(".open");
    large.setAttribute("aria-label", `Enlarge picture ${place}`);
    large.addEventListener("click", guarded(() => openLarge(view, k)));
    node.querySelector(".save").setAttribute("aria-label", `Download picture ${place}`);
    const caption = node.querySelector(".caption");
    caption.textContent = caption.title = view.captionOf(k);
    caption.hidden = saidOf(view.job).length < 2;
    node.dataset.k = k;
    Object.assign(this, { view, k, node, place, pick, large, img: node.querySelector("img") });
  }

  // A picture of a stage takes the place of the one before; `whole` ones are kept under their address.
  async show(name, source, whole) {
    const { view, k } = this;
    const order = ++this.order;
    if (whole) this.urls[name] = source;
    const src = await pictureUrl(source).catch(() => undefined);
    if (!src || order !== this.order) return; // a newer one overtook it
    this.img.src = src;
    this.img.hidden = this.large.hidden = false;
    this.img.alt = `${view.captionOf(k)}, picture ${this.place}, ${view.sides[name]} px`;
    this.img.classList.toggle("pixels", view.sides[name] <= TINY);
    this.node.querySelector(".side").textContent = `${view.sides[name]} px`;
    this.node.classList.toggle("rough", !whole);
    this.pick.setAttribute("aria-label", `Picture ${this.place}, ${view.sides[name]} px`);
    const at = view.names.indexOf(name);
    if (whole && at >= 0) view.advance(k, at, 1);
    if (whole) offerDownload(this.node.querySelector(".save"), src, view, k, name);
  }

  // Whether the Tab key comes to its controls.
  set isStop(on) {
    for (const control of this.node.querySelectorAll("button, a")) control.tabIndex = on ? 0 : -1;
  }
}
