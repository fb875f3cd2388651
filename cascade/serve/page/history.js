// The jobs of before, the newest first; more are read when the end comes into sight.

import { call, getJson, readJson } from "./api.js";
import { card, cards, dropCard } from "./card.js";
import { $ } from "./dom.js";
import { showError } from "./error.js";
import { OVER, ownJob, rootOf } from "./job.js";
import { whenSeen } from "./sight.js";

const PAGE = 50; // jobs of the history that are asked for at once

export const past = new Map(); // jobs that are listed, by id
let newest = { tag: "", ids: [] }; // the first page, as it was when it was told last
let further = null; // where the list goes on, for the server
let isLong = false; // more than the first page is listed
let again;

// The first page, and nothing but "as it was" where it is.
export async function refreshHistory() {
  clearTimeout(again);
  if (document.hidden) return;
  const response = await call(`v1/jobs?limit=${PAGE}`, { headers: newest.tag ? { "If-None-Match": newest.tag } : {} }).catch(() => undefined);
  if (!$("key-form").hidden) return; // signing in goes on with it
  if (response && response.status !== 304) takeNewest(await readJson(response), response.headers.get("ETag"));
  clearTimeout(again); // of another call meanwhile
  showHistory();
  if (newest.ids.some((id) => past.has(id) && !OVER.includes(past.get(id).state))) again = setTimeout(refreshHistory, 3000);
}

function takeNewest({ jobs, next }, tag) {
  const ids = jobs.map(({ id }) => id);
  const isGap = next && !ids.some((id) => past.has(id)); // others lie between these and what is listed
  const oldest = jobs.at(-1)?.created ?? -Infinity;
  for (const [id, { created }] of past) if (!next || isGap || (created >= oldest && !ids.includes(id))) past.delete(id);
  for (const job of jobs) past.set(job.id, ownJob(job));
  if (!next || isGap) isLong = false;
  if (!isLong) further = next;
  newest = { tag, ids };
}

export async function loadOlder() {
  if (!further || $("older").disabled) return;
  $("older").disabled = true;
  try {
    const from = further;
    const { jobs, next } = await getJson(`v1/jobs?limit=${PAGE}&before=${encodeURIComponent(from)}`);
    if (from !== further) return; // the list began anew meanwhile
    for (const job of jobs) past.set(job.id, ownJob(job));
    further = next;
    isLong = true;
  } finally {
    $("older").disabled = false;
  }
  showHistory();
}

export function showHistory() {
  $("past").hidden = past.size === 0;
  for (const id of cards.keys()) if (!past.has(id)) dropCard(id);
  const order = [...past.values()].sort((a, b) => b.created - a.created || (a.id < b.id ? 1 : -1));
  order.forEach((job, i) => {
    const item = card(job, rootOf(job, past));
    const there = $("history").children[i];
    if (there !== item) $("history").insertBefore(item, there ?? null);
  });
  $("older").hidden = !further;
  if (further) whenSeen($("older"), () => loadOlder().catch(showError));
}
