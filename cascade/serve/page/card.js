// One job in the history, as a card.

import { copyOf } from "./dom.js";
import { labelsOf, titleOf, unusual } from "./job.js";
import { TINY, pictureUrl } from "./picture.js";
import { view } from "./shown.js";
import { whenSeen } from "./sight.js";
import { ago, count } from "./words.js";

export const cards = new Map(); // by job; reused, so that a card keeps the focus

export function dropCard(id) {
  cards.get(id).remove();
  cards.delete(id);
}

export function card(job, root) {
  if (!cards.has(job.id)) cards.set(job.id, copyOf("t-card"));
  const item = cards.get(job.id);
  const [link] = item.children;
  const [stack, what, how, when] = link.children;
  link.href = `#${job.id}`;
  link.ariaCurrent = job.id === view?.job.id ? "true" : null;
  const labels = labelsOf(job);
  what.textContent = titleOf(labels ? { ...job, labels: [] } : job, root);
  how.textContent = [labels, `seed ${job.seed}`, unusual(job, root)].filter(Boolean).join(" · ");
  when.textContent = [job.state === "finished" ? "" : job.state, count(job.images.length, "picture"), ago(job.created)].filter(Boolean).join(" · ");
  link.title = [what.textContent, how.textContent, new Date(1000 * job.created).toLocaleString("en")].join("\n");
  const best = job.stages.findLast((stage) => stage.pictures.length);
  const urls = best?.pictures.slice(0, 4).map(({ url }) => url) ?? [];
  link.classList.toggle("bare", !urls.length);
  if (stack.dataset.urls !== urls.join()) {
    stack.dataset.urls = urls.join();
    whenSeen(stack, () => fill(stack, urls, best?.side));
  }
  return item;
}

async function fill(stack, urls, side) {
  const found = (await Promise.all(urls.map((url) => pictureUrl(url).catch(() => "")))).filter(Boolean);
  const images = found.map((src) => Object.assign(document.createElement("img"), { alt: "", src }));
  for (const img of images) img.classList.toggle("pixels", side <= TINY);
  if (stack.dataset.urls === urls.join()) stack.replaceChildren(...images);
}
