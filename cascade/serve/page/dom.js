// Nodes of the document, by id and from templates.

export const $ = (id) => document.getElementById(id);
export const copyOf = (id) => $(id).content.firstElementChild.cloneNode(true);
