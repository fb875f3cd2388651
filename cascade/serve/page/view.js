// One job as it is shown: its pictures, how far they are, and what the status says.

import { askDelete } from "./confirm.js";
import { $ } from "./dom.js";
import { showError } from "./error.js";
import { followJob, followed, unfollow } from "./feed.js";
import { past, refreshHistory } from "./history.js";
import { OVER, across, loadLine, saidOf, titleOf, unusual } from "./job.js";
import { closeLarge } from "./large.js";
import { model } from "./model.js";
import { Next } from "./next.js";
import { pictureAt } from "./picture.js";
import { Rail } from "./rail.js";
import { behind, bringForward, show, view } from "./shown.js";
import { tell } from "./tabs.js";
import { Tile } from "./tile.js";
import { count, duration } from "./words.js";

const MANY = 4; // pictures: with more, whose stages take turns, the status counts those that are done
const MOST_ACROSS = 6; // columns of a table, where there is room
const BEHIND = 63; // jobs followed in the background: with the shown one, as many as a key may have open

// A View lives on while another one is shown; until it is shown again, it changes only the nodes of its own tiles and rail.
export class View {
  showsUnsure = false; // maps of how unsure pixels are stand in place of the pictures, where there are some

  // line: [job, its parent, the parent of that, ...]
  constructor(line) {
    const [job, parent] = line;
    Object.assign(this, { line, job, parent, root: line.at(-1) });
    const below = line.slice(1).flatMap((each) => each.stages.filter(({ name }) => !job.stages.some((own) => own.name === name)));
    const made = [...below.reverse(), ...job.stages];
    const at = model.stages.findIndex(({ name }) => name === job.stages.at(-1).name);
    this.chain = [...made, ...(at < 0 ? [] : model.stages.slice(at + 1))]; // a job may cover a part of the cascade
    this.names = this.chain.map(({ name }) => name);
    this.sides = Object.fromEntries(this.chain.map(({ name, side }) => [name, side]));
    this.first = this.names.indexOf(job.stages[0].name);
    this.last = this.names.indexOf(job.stages.at(-1).name);
    this.tiles = new Map(job.images.map((k, i) => [k, new Tile(this, k, `${i + 1} of ${job.images.length}`)]));
    this.rail = new Rail(this.chain);
    this.next = new Next(this);
    this.said = { text: "", left: "" };
    for (const { name, pictures } of made)
      for (const { k, url } of pictures) this.tiles.get(k)?.show(name, url, true);
    this.focus(job.images[0], false);
    this.setState(job.state);
  }

  get shown() {
    return view === this;
  }

  mount() {
    $("empty").hidden = true;
    $("job").hidden = false;
    const columns = across(this.job);
    $("grid").classList.toggle("table", columns > 1 && columns <= MOST_ACROSS);
    $("grid").style.setProperty("--across", columns);
    $("grid").replaceChildren(...[...this.tiles.values()].map((tile) => tile.node));
    $("rail").replaceChildren(...this.rail.items);
    this.showHead();
    this.offerUnsure();
    this.showSaid(true);
    this.showState();
  }

  showHead() {
    const { job } = this;
    $("title").textContent = $("title").title = titleOf(job, this.root);
    const meta = [`seed ${job.seed}`, count(job.images.length, "picture"), unusual(job, this.root)];
    $("meta").firstElementChild.textContent = meta.filter(Boolean).join(" · ");
    $("parent").hidden = !this.parent;
    $("parent").href = `#${job.parent ?? ""}`;
    $("parent").textContent = this.parent ? `← all ${this.parent.images.length}` : "";
  }

  captionOf(k) {
    return saidOf(this.job)[Math.floor(k / this.job.num)] ?? titleOf(this.job, this.root);
  }

  advance(k, stage, part) {
    const tile = this.tiles.get(k);
    if (stage < tile.stage) return;
    Object.assign(tile, { stage, part });
    tile.node.querySelector(".bar").style.setProperty("--part", (stage + part) / (this.last + 1));
    this.rail.show([...this.tiles.values()]);
    this.showPart();
  }

  // The window's title shows the progress, for whoever looks at another window meanwhile.
  showPart() {
    if (!this.shown) return;
    const own = this.last + 1 - this.first; // stages
    const parts = [...this.tiles.values()].map(({ stage, part }) => Math.min(Math.max((stage + part - this.first) / own, 0), 1));
    const percent = Math.floor((100 * parts.reduce((a, b) => a + b, 0)) / parts.length);
    document.title = this.job.state === "running" ? `${percent}% · ${model.id}` : model.id;
  }

  get alive() {
    return followed.has(this.job.id);
  }

  // Whether the job is over and all its pictures are shown, so that nothing needs to be read again.
  get isWhole() {
    return OVER.includes(this.job.state) && [...this.tiles.values()].every(({ img }) => !img.hidden);
  }

  watch() {
    const end = (error) => {
      bringForward(this);
      if (!error) return;
      this.setState("lost");
      if (this.shown) showError(error);
    };
    followJob(this.job.id, { on: (type, data) => this.on(type, data), lost: () => this.say("Connection lost; trying again"), end });
  }

  // Another View is shown. The server ends a job that nobody watches any more, so one that runs is followed further.
  stepBack() {
    if (!this.alive) return;
    behind.push(this);
    if (behind.length > BEHIND) unfollow(behind.shift().job.id);
  }

  // Replaces this View by a new one, after a job that it was refined from was deleted.
  async readAgain() {
    if (this.shown) closeLarge();
    const now = new View(await loadLine(this.job.id));
    const at = behind.indexOf(this);
    if (at >= 0) behind[at] = now;
    else if (!this.shown) return; // another one was opened meanwhile
    if (this.shown) {
      show(now);
      now.mount();
    }
    if (!OVER.includes(now.job.state)) now.watch();
  }

  on(type, data) {
    if (type === "stage_started") {
      this.setState("running");
      this.say(this.done() ?? `${this.sides[data.stage]} px begins`);
    } else if (type === "preview") {
      for (const { k, data: picture, uncertainty } of data.pictures) {
        if (!this.tiles.has(k) || this.tiles.get(k).urls[data.stage]) continue;
        this.tiles.get(k).show(data.stage, picture, false, uncertainty);
        this.advance(k, this.names.indexOf(data.stage), data.step / data.nfe);
      }
      this.offerUnsure();
      const left = data.eta_s > 0 ? `· ${duration(data.eta_s)} left` : "";
      this.say(this.done() ?? `${this.sides[data.stage]} px, step ${data.step} of ${data.nfe}`, { spoken: false, left });
    } else if (type === "stage_finished") {
      for (const { k } of data.pictures) {
        if (!this.tiles.has(k)) continue;
        this.tiles.get(k).show(data.stage, pictureAt(this.job.id, data.stage, k), true);
        this.advance(k, this.names.indexOf(data.stage), 1);
      }
      this.offerUnsure();
      this.say(this.done() ?? `${this.sides[data.stage]} px is there`, { left: this.said.left });
    } else if (OVER.includes(type)) {
      this.setState(type, data.message);
      if (past.has(this.job.id)) past.get(this.job.id).state = type;
      refreshHistory();
      tell();
    }
  }

  // "2 of 8 done", after the first stage that is not complete and its share; undefined with few pictures.
  done() {
    const tiles = [...this.tiles.values()];
    if (tiles.length <= MANY) return undefined;
    const done = `${tiles.filter(({ urls }) => urls[this.names[this.last]]).length} of ${tiles.length} done`;
    const { shares } = this.rail;
    const at = shares.findIndex((share, i) => i >= this.first && i <= this.last && share < 1);
    return at < 0 ? done : `${this.sides[this.names[at]]} px: ${Math.floor(100 * shares[at])}% · ${done}`;
  }

  // Shows a status; screen readers speak milestones only. left: the time to the end, where known.
  say(text, { spoken = true, left = "" } = {}) {
    this.said = { text, left };
    this.showSaid(spoken);
  }

  showSaid(spoken) {
    if (!this.shown) return;
    $("status").setAttribute("aria-live", spoken ? "polite" : "off");
    $("status").textContent = this.said.text;
    $("eta").textContent = this.said.left;
  }

  offerUnsure() {
    if (!this.shown) return;
    $("show-unsure").hidden = ![...this.tiles.values()].some((tile) => tile.hasUnsure);
    $("show-unsure").setAttribute("aria-pressed", this.showsUnsure);
  }

  turnUnsure() {
    this.showsUnsure = !this.showsUnsure;
    this.offerUnsure();
    for (const tile of this.tiles.values()) if (tile.hasUnsure) tile.paint();
  }

  setState(state, message = this.job.error?.message) {
    this.job.state = state;
    const words = {
      queued: "Waiting for a place",
      held: "Pick the ones worth sharpening",
      finished: "Done",
      failed: `Failed: ${message ?? "the server does not say why"}`,
      cancelled: "Cancelled",
      lost: "Not followed any more", // its outcome is unknown here
    };
    if (words[state]) this.say(words[state]);
    this.showState();
  }

  showState() {
    if (!this.shown) return;
    const over = OVER.includes(this.job.state);
    $("job").dataset.state = this.job.state;
    $("cancel").hidden = over || this.job.state === "lost";
    $("reuse").hidden = !over;
    $("delete").hidden = !over;
    askDelete(false);
    this.next.offer();
    this.showPart();
  }

  key(event, k) {
    const order = [...this.tiles.keys()];
    const at = order.indexOf(k);
    const columns = getComputedStyle($("grid")).gridTemplateColumns.split(" ").length;
    const move = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns, Home: -at, End: order.length - 1 - at }[event.key];
    if (move !== undefined) {
      event.preventDefault();
      if (order[at + move] !== undefined) this.focus(order[at + move]);
    } else if (event.key === "Enter" && this.next.note.picked.size && !$("next").hidden) {
      event.preventDefault();
      $("refine").click();
    }
  }

  // One tab stop for the whole grid; arrows move it.
  focus(k, really = true) {
    for (const [each, tile] of this.tiles) tile.isStop = each === k;
    if (really) this.tiles.get(k).pick.focus();
  }
}
