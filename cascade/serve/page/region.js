// A part of a picture anew: of a stored one, or of one that the form has.

import { open } from "./address.js";
import { call, postJson } from "./api.js";
import { closeBrush, openBrush } from "./brush.js";
import { $ } from "./dom.js";
import { describedHere } from "./form.js";
import { closeLarge, enlarged } from "./large.js";
import { keepMap, map, mapOf, sent } from "./map.js";
import { model } from "./model.js";
import { pictureUrl } from "./picture.js";
import { newSeed, rollSeed, seedIsLocked } from "./seed.js";
import { shrunk } from "./shrink.js";
import { uncertaintyOf } from "./uncertainty.js";
import { base64Of, upload } from "./upload.js";

async function follow({ id }) {
  closeBrush();
  await open(id, { scroll: true, focus: true });
}

// The picture of the large view, at the stage that it shows: by a refinement where the prompt stays, else by a job that is given the
// picture. Only the last stage's can have another prompt: those of other stages go on as their job would have.
export async function redoPart() {
  const { of, k, name } = enlarged;
  const { job } = of;
  const at = Math.floor(k / job.num); // its description
  const isTop = name === model.stages.at(-1).name;
  const prompt = model.conditioning === "text" && isTop ? (job.prompts[at % job.prompts.length] ?? "") : undefined;
  const url = of.tiles.get(k).urls[name];
  const owner = of.line.find((each) => each.stages.some((stage) => stage.name === name));
  closeLarge();
  await openBrush({
    src: await pictureUrl(url),
    title: `Picture ${of.tiles.get(k).place}, ${of.sides[name]} px`,
    prompt,
    note: isTop ? "" : "The larger sizes follow from it.",
    send: async (mask, said) => {
      const given = mapOf(of.line);
      const also = { mask, seed: newSeed(), ...sent(given), ...uncertaintyOf(model.stages) };
      if (said === (prompt ?? "").trim()) return follow(await postJson(`v1/jobs/${owner.id}/refine`, { from: name, pick: [k], ...also }));
      const image = await base64Of(await (await call(url)).blob());
      const made = await postJson("v1/jobs", { ...sameButFor(said, job, at), image, ...also });
      keepMap(made.id, given);
      return follow(made);
    },
  });
}

// What a job says of one of its descriptions, with another prompt.
function sameButFor(prompt, job, at) {
  const own = (list) => (list?.length ? [list[at % list.length]] : []);
  const [[negative], [composed]] = [own(job.negative), own(job.composed)];
  return {
    prompts: prompt ? [prompt] : [],
    labels: own(job.labels),
    settings: job.settings,
    ...(negative && { negative_prompt: negative }),
    ...(composed?.length && { composed: composed.map(([text, weight]) => ({ text, weight })) }),
    ...(job.guidance && { guidance: Object.fromEntries(Object.entries(job.guidance).map(([name, scales]) => [name, own(scales)])) }),
  };
}

// The chosen file, shrunk to the size of the cascade's pictures, under what the form says.
export async function paintOver() {
  const { file } = upload;
  const { side } = model.stages.at(-1);
  const bitmap = await createImageBitmap(file);
  const { width, height } = bitmap;
  if (Math.min(width, height) < side) throw new Error(`${file.name} has ${width}×${height} px; to be painted over it needs ${side} px at its shorter side`);
  const picture = Math.min(width, height) > 2 * side ? await shrunk(bitmap, 2 * side) : file; // as for an upload: the server shrinks by its own rule
  bitmap.close();
  const image = await base64Of(picture);
  const src = URL.createObjectURL(picture);
  try {
    await openBrush({
      src,
      title: file.name,
      prompt: model.conditioning === "text" ? $("prompt").value : undefined,
      note: "Count and settings are those of the form.",
      send: async (mask, said) => {
        const given = map;
        const job = await postJson("v1/jobs", { ...describedHere(said), ...uncertaintyOf(model.stages), image, mask, fit: true });
        keepMap(job.id, given);
        if (!seedIsLocked()) rollSeed();
        await follow(job);
      },
    });
  } finally {
    URL.revokeObjectURL(src);
  }
}
