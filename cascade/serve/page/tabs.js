// The channel on which tabs of one server tell each other that jobs have changed.

export const HOME = new URL(".", location).pathname; // a proxy may serve several servers under one name: all addresses are relative to this path
export const tabs = new BroadcastChannel(`jobs ${HOME}`);
export const tell = () => tabs.postMessage({});
