// The Views of this tab: the one that is shown, and those of jobs that run on behind it.

export let view; // undefined: none is shown
export let behind = []; // Views of jobs that still run, the oldest first

export const show = (next) => (view = next);

export const bringForward = (one) => (behind = behind.filter((each) => each !== one));
