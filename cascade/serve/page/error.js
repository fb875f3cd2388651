// The line that shows errors, and wrappers of listeners that report to it.

import { $ } from "./dom.js";

export function showError(error) {
  if (!error.message) return;
  $("error").firstElementChild.textContent = error.message.replace(/\s+/g, " ");
  $("error").hidden = false;
}

export const clearError = () => ($("error").hidden = true);

// A listener that shows what `work` throws in the error line.
export const guarded = (work) => async (event) => {
  event?.preventDefault?.();
  clearError();
  try {
    await work(event);
  } catch (error) {
    showError(error);
  }
};

// A guarded listener of a button that creates a job: clicks while one is being created do nothing, nor does the second of a double click.
export const once = (button, work) =>
  guarded(async ({ detail }) => {
    if (detail > 1 || button.ariaDisabled) return;
    button.ariaDisabled = "true"; // not `disabled`, which would take the focus away
    try {
      await work();
    } finally {
      button.ariaDisabled = null;
    }
  });
