// The one line for what went wrong, and what guards the listeners of buttons and forms.

import { $ } from "./dom.js";

export function showError(error) {
  if (!error.message) return;
  $("error").firstElementChild.textContent = error.message.replace(/\s+/g, " ");
  $("error").hidden = false;
}

export const clearError = () => ($("error").hidden = true);

// Runs what a user asked for; what goes wrong is said in the one line for it.
export const guarded = (work) => async (event) => {
  event?.preventDefault?.();
  clearError();
  try {
    await work(event);
  } catch (error) {
    showError(error);
  }
};

// The same for a button that makes a job: one click, one job. Until it is there others do nothing, nor does the second of a double click.
export const once = (button, work) =>
  guarded(async ({ detail }) => {
    if (detail > 1 || button.ariaDisabled) return;
    button.ariaDisabled = "true"; // not `disabled`: that would take the focus away
    try {
      await work();
    } finally {
      button.ariaDisabled = null;
    }
  });
