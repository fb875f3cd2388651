// The Views of this tab: the one that is shown, and those whose jobs run on in the background.

export let view; // undefined if none is shown
export let behind = []; // Views of other jobs that still run, oldest first

export const show = (next) => (view = next);

export const bringForward = (one) => (behind = behind.filter((each) => each !== one));
