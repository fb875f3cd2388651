// The served cascade, as /v1/models describes it.

import { getJson } from "./api.js";

export let model; // {id, conditioning: "text" | "class" | "none", num_classes, classes, maps: their channels, stages: [{name, side, uncertainty, settings, ranges}], limits}

export const setModel = (found) => (model = found);

export async function findModel() {
  const { data } = await getJson("v1/models");
  const { id, cascade } = data[0];
  return { id, ...cascade };
}
