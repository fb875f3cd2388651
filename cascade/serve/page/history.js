// The list of jobs, newest first; further pages are loaded when its end comes into sight.

import { call, getJson, readJson } from "./api.js";
import { card, cards, dropCard } from "./card.js";
import { $ } from "./dom.js";
import { showError } from "./error.js";
import { OVER, ownJob, rootOf } from "./job.js";
import { whenSeen } from "./sight.js";

const PAGE = 50; // jobs per request

export const past = new Map(); // listed jobs, by id
let newest = { tag: "", ids: [] }; // the first page at the last answer
let further = null; // the server's cursor for the next page; null at the end
let isLong = false; // more than the first page is listed
let again;

// Reads the first page again (304 if it has not changed).
export async function refreshHistory() {
  clearTimeout(again);
  if (document.hidden) return;
  const response = await call(`v1/jobs?limit=${PAGE}`, { headers: newest.tag ? { "If-None-Match": newest.tag } : {} }).catch(() => undefined);
  if (!$("key-form").hidden) return; // `start` does so after signing in
  if (response && response.status !== 304) takeNewest(await readJson(response), response.headers.get("ETag"));
  clearTimeout(again); // set by a concurrent call
  showHistory();
  if (newest.ids.some((id) => past.has(id) && !OVER.includes(past.get(id).state))) again = setTimeout(refreshHistory, 3000);
}

function takeNewest({ jobs, next }, tag) {
  const ids = jobs.map(({ id }) => id);
  const isGap = next && !ids.some((id) => past.has(id)); // jobs between these and the listed ones are missing
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
