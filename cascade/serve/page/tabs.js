// What the tabs of this server share: an address, and the news that jobs have changed.

export const HOME = new URL(".", location).pathname; // a proxy may have several servers under one name: all addresses are relative to it
export const tabs = new BroadcastChannel(`jobs ${HOME}`);
export const tell = () => tabs.postMessage({});
