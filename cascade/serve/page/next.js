// How a job goes on: the picked pictures, refined by the stages that it lacks (held, cancelled or failed), or by the top stages of a
// finished one once more.

import { postJson } from "./api.js";
import { $ } from "./dom.js";
import { OVER } from "./job.js";
import { openLarge } from "./large.js";
import { mapOf, sent } from "./map.js";
import { model } from "./model.js";
import { buildSettings } from "./settings.js";
import { uncertaintyOf } from "./uncertainty.js";

export const notes = new Map(); // by job, for the life of the tab: {picked, from, isOpen, settings: by the stage to go on from}

export class Next {
  constructor(view) {
    const { id } = view.job;
    if (!notes.has(id)) notes.set(id, { picked: new Set(), settings: {} });
    Object.assign(this, { view, note: notes.get(id) });
  }

  get isOver() {
    return OVER.includes(this.view.job.state);
  }

  // Whether a pick leads anywhere: to the stages above one that all pictures have, or will have.
  get canPick() {
    return this.isOver ? this.whole().length > 0 : this.view.names.length > 1;
  }

  press(k) {
    const { view, note } = this;
    if (!this.canPick) return view.tiles.get(k).img.hidden ? undefined : openLarge(view, k);
    if (!note.picked.delete(k)) note.picked.add(k);
    this.showPicked();
  }

  // Picks all; none if all are picked.
  pickAll() {
    const { tiles } = this.view;
    this.note.picked = new Set(this.note.picked.size === tiles.size ? [] : tiles.keys());
    this.showPicked();
  }

  showPicked() {
    const { tiles, job } = this.view;
    if (!this.canPick) this.note.picked.clear();
    for (const [k, { pick }] of tiles) {
      if (this.canPick) pick.setAttribute("aria-pressed", this.note.picked.has(k));
      else pick.removeAttribute("aria-pressed");
    }
    const some = this.note.picked.size > 0;
    const redo = job.state === "finished";
    const which = some ? `${this.note.picked.size} picked` : redo ? "all" : "picked";
    $("refine").textContent = `${redo ? "Redo" : "Refine"} ${which}`;
    if (some && !$("next").hidden) $("again").open = true; // its sliders apply here, not those of the form
    $("refine").disabled = !some && !redo;
    $("all").textContent = this.note.picked.size === tiles.size ? "Pick none" : "Pick all";
  }

  offer() {
    const { job, sides } = this.view;
    const choices = this.isOver ? this.whole() : [];
    $("next").hidden = !choices.length;
    $("hint").hidden = job.state === "finished" || !choices.length;
    if (!choices.length) return this.showPicked();
    $("from").replaceChildren(...choices.map((name) => new Option(`${sides[name]} px`, name)));
    $("from").value = choices.includes(this.note.from) ? this.note.from : choices.at(-1);
    $("from-field").hidden = choices.length < 2;
    this.offerSettings();
    $("again").open = this.note.isOpen ?? false;
    this.showPicked();
  }

  // Names of the stages below the top of which every tile has a picture.
  whole() {
    const tiles = [...this.view.tiles.values()];
    const from = model.stages.findIndex(({ name }) => name === this.view.job.source); // stages before saw a picture that is not kept
    return model.stages.slice(Math.max(from, 0), -1).map((stage) => stage.name).filter((name) => tiles.every((tile) => tile.urls[name]));
  }

  takeFrom() {
    this.note.from = $("from").value;
    this.offerSettings();
  }

  offerSettings() {
    const { job } = this.view;
    this.from = $("from").value;
    const { above } = this;
    this.settings = buildSettings($("next-settings"), above, this.note.settings[this.from] ?? job.settings);
    const sides = above.map((stage) => `${stage.side} px`).join(", ");
    $("again").querySelector("summary").textContent = job.state === "finished" ? `Redo ${sides} with other settings` : `Settings for ${sides}`;
  }

  // The stages that are to follow.
  get above() {
    return model.stages.slice(model.stages.findIndex((stage) => stage.name === this.from) + 1);
  }

  // Keeps these settings for when the job is shown again.
  keepSettings() {
    this.note.settings[this.from] = this.settings.read(true);
  }

  // Creates a job with all settings that the controls show, since the job that owns the pictures may have had others. Returns the id
  // of the new job, or undefined if a control holds an invalid value.
  async refine() {
    if (![...$("next-settings").querySelectorAll("input")].every((input) => input.reportValidity())) return undefined;
    const from = $("from").value;
    const pick = [...(this.note.picked.size ? this.note.picked : this.view.tiles.keys())].sort((a, b) => a - b);
    const owner = this.view.line.find((each) => each.stages.some((stage) => stage.name === from));
    const also = { ...sent(mapOf(this.view.line)), ...uncertaintyOf(this.above) };
    const { id } = await postJson(`v1/jobs/${owner.id}/refine`, { from, pick, settings: this.settings.read(true), ...also });
    return id;
  }
}
