// Controls for the settings of stages.

import { chip, chooser, slider } from "./controls.js";
import { $ } from "./dom.js";
import { model } from "./model.js";
import { settingWords } from "./words.js";

const PARTS = ["guidance_text", "guidance_label"]; // where a stage has both, they stand for guidance_scale, which sets both

// What a stage's own setting is, where it may stand for another.
export const usual = (settings, key) => settings[key] ?? (PARTS.includes(key) ? settings.guidance_scale : undefined);

const KNOBS = {
  guidance_scale: ["Guidance", "1 is off; more holds to the prompt"],
  guidance_text: ["Guidance of the prompt", "1 is off"],
  guidance_label: ["Guidance of the label", "1 is off"],
  aug_sigma: ["Freedom (aug_sigma)", "invents detail"],
  num_steps: ["Steps", "more is slower and finer"],
};

// Builds controls for these stages, set to `said`, else to the model's own values. What has no control (sigma_max, a stage of another
// cascade) is listed by name and kept until it is removed. Returns {read(all), reset()}; read returns the API's `settings`: all of
// them, or those that differ from the model's.
export function buildSettings(place, stages, said = {}) {
  const read = [];
  const usuals = [];
  place.replaceChildren();
  const strange = Object.keys(said).filter((name) => !model.stages.some((stage) => stage.name === name));
  for (const stage of [...stages, ...strange.map((name) => ({ name, ranges: {}, settings: {} }))]) {
    const group = document.createElement("fieldset");
    group.dataset.stage = stage.name;
    const title = [stage.name, stage.side && `${stage.side} px`].filter(Boolean).join(" · ");
    group.append(Object.assign(document.createElement("legend"), { textContent: title }));
    const given = { ...said[stage.name] };
    const [own, ranges] = [{ ...stage.settings }, { ...stage.ranges }];
    if (PARTS.every((key) => ranges[key])) {
      for (const key of PARTS) {
        own[key] = usual(own, key);
        if (given.guidance_scale !== undefined) given[key] ??= given.guidance_scale;
      }
      delete given.guidance_scale;
      delete ranges.guidance_scale;
    }
    for (const [key, words] of Object.entries(KNOBS)) {
      const range = ranges[key];
      if (!range || range[0] >= range[1]) continue;
      const before = own[key];
      usuals.push([`${place.id}-${stage.name}-${key}-value`, before]);
      const value = slider(group, { id: `${place.id}-${stage.name}-${key}`, key, words, range, usual: before, value: given[key] ?? before });
      read.push((all) => (all || value() !== before) && [stage.name, key, value()]);
      delete given[key];
    }
    if (stage.ranges.sampler?.length > 1) {
      const before = stage.settings.sampler;
      usuals.push([`${place.id}-${stage.name}-sampler`, before]);
      const value = chooser(group, { id: `${place.id}-${stage.name}-sampler`, options: stage.ranges.sampler, value: given.sampler ?? before });
      read.push((all) => (all || value() !== before) && [stage.name, "sampler", value()]);
      delete given.sampler;
    }
    for (const [key, value] of Object.entries(given)) {
      const there = chip(group, settingWords(key, value));
      read.push(() => there() && [stage.name, key, value]);
    }
    if (group.childElementCount > 1) place.append(group);
  }
  return {
    read(all) {
      const settings = {};
      for (const [stage, key, value] of read.map((each) => each(all)).filter(Boolean)) (settings[stage] ??= {})[key] = value;
      return settings;
    },
    reset() {
      for (const [id, usual] of usuals) {
        $(id).value = usual;
        $(id).dispatchEvent(new Event("input", { bubbles: true }));
      }
      for (const out of place.querySelectorAll(".chip button")) out.click();
    },
  };
}
