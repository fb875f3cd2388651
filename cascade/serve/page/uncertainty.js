// The switch for previews that tell how unsure each pixel is yet, of stages that can tell it.

import { $ } from "./dom.js";
import { model } from "./model.js";

export const offerUncertainty = () => ($("unsure-field").hidden = !model.stages.some(({ uncertainty }) => uncertainty));

// The API's `uncertainty` for a request of these stages: where none of them can tell it, it would be refused.
export const uncertaintyOf = (stages) => $("unsure").checked && stages.some(({ uncertainty }) => uncertainty) && { uncertainty: true };
