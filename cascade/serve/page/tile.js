// One picture of a job, in its newest stage, with its buttons.

import { copyOf } from "./dom.js";
import { offerDownload } from "./download.js";
import { guarded } from "./error.js";
import { saidOf } from "./job.js";
import { openLarge } from "./large.js";
import { TINY, pictureUrl } from "./picture.js";

export class Tile {
  stage = -1; // index in the view's chain of the stage that is under way or done
  part = 0; // share done of that stage, in [0, 1]
  urls = {}; // addresses of whole pictures, by stage
  order = 0; // number of the last call of `paint`
  newest = {}; // {name, source, whole} of the last call of `show`
  unsure = {}; // {name, source}: the newest map of how unsure a stage was at a preview

  // place: "1 of 4", for people; k: the server's number.
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

  // Replaces the picture by one of a stage, once it is loaded. whole: a stored picture, not a preview; its address is kept. unsure: the
  // preview's map of how unsure it is.
  show(name, source, whole, unsure) {
    if (whole) this.urls[name] = source;
    if (unsure) this.unsure = { name, source: unsure };
    this.newest = { name, source, whole };
    return this.paint();
  }

  // Whether the stage that is shown told at a preview how unsure it was.
  get hasUnsure() {
    return Boolean(this.unsure.name) && this.unsure.name === this.newest.name;
  }

  // Shows the newest picture, or in its place the map.
  async paint() {
    const { view, k } = this;
    const { name, source, whole } = this.newest;
    const order = ++this.order;
    const isMap = view.showsUnsure && this.hasUnsure;
    const src = await pictureUrl(source).catch(() => undefined);
    if (!src || order !== this.order) return; // a newer call overtook this one
    this.img.src = isMap ? this.unsure.source : src;
    this.img.hidden = this.large.hidden = false;
    const side = `${view.sides[name]} px${isMap ? ", uncertainty" : ""}`;
    this.img.alt = `${view.captionOf(k)}, picture ${this.place}, ${side}`;
    this.img.classList.toggle("pixels", view.sides[name] <= TINY);
    this.node.querySelector(".side").textContent = side;
    this.node.classList.toggle("rough", !whole);
    this.pick.setAttribute("aria-label", `Picture ${this.place}, ${side}`);
    const at = view.names.indexOf(name);
    if (whole && at >= 0) view.advance(k, at, 1);
    if (whole) offerDownload(this.node.querySelector(".save"), src, view, k, name);
  }

  // Whether the Tab key stops at its controls.
  set isStop(on) {
    for (const control of this.node.querySelectorAll("button, a")) control.tabIndex = on ? 0 : -1;
  }
}
