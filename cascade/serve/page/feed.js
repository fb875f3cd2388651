// The jobs that this page follows, all over one connection: a browser has six for a server, over HTTP/1.1, for all its tabs. A hidden
// tab keeps listening: the server ends jobs that nobody watches any more.

import { ApiError, call } from "./api.js";
import { OVER } from "./job.js";
import { view } from "./shown.js";
import { parseEvents } from "./sse.js";

const SILENT_MS = 60_000; // without any byte, even a heartbeat, for so long the connection is dead
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

export const followed = new Map(); // by id: {number: of the last event, on(type, data), lost(), end(error)}
let listening = new AbortController(); // aborts the newest stream

export function followJob(id, how) {
  followed.set(id, { number: 0, ...how });
  listen();
}

export function unfollow(id) {
  if (followed.delete(id)) listen();
}

// Opens a stream of all followed jobs. The previous one is closed once this one is open, so that no job goes unwatched.
export async function listen() {
  const before = listening;
  const own = (listening = new AbortController());
  own.signal.addEventListener("abort", () => before.abort(), { once: true });
  await sleep(0); // several changes in a row share one stream
  let wait = 500;
  while (listening === own && followed.size) {
    const one = new AbortController();
    const stop = () => one.abort();
    let silence = setTimeout(stop, SILENT_MS);
    const heard = () => {
      clearTimeout(silence);
      silence = setTimeout(stop, SILENT_MS);
    };
    own.signal.addEventListener("abort", stop);
    try {
      const shown = view?.job.id;
      const ids = [...followed.keys()].sort((a, b) => (b === shown) - (a === shown)); // previews of the first come most often
      const jobs = ids.map((id) => `${id}:${followed.get(id).number}`);
      const response = await call(`v1/events?jobs=${jobs}`, { headers: { Accept: "text/event-stream" }, signal: one.signal, cache: "no-store" });
      before.abort();
      if (response.status === 204) for (const id of ids) endFollowing(id); // all ended, and all events were received
      else
        for await (const event of parseEvents(response.body, heard)) {
          wait = 500;
          hear(event);
        }
    } catch (error) {
      if (error.status === 429) before.abort(); // no room for two streams
      else if (error instanceof ApiError && error.status < 500) for (const id of [...followed.keys()]) endFollowing(id, error);
    } finally {
      clearTimeout(silence);
      own.signal.removeEventListener("abort", stop);
    }
    if (listening !== own || !followed.size) break;
    for (const { lost } of followed.values()) lost();
    await sleep(wait * (0.5 + Math.random()));
    wait = Math.min(wait * 2, 15_000);
  }
  if (listening === own) own.abort();
}

function hear({ type, data, id }) {
  const { job, ...rest } = data;
  const each = followed.get(job);
  const number = id ? Number(id.split(",").find((part) => part.startsWith(`${job}:`)).slice(job.length + 1)) : Infinity; // a server without numbers
  if (!each || number <= each.number) return; // received from the previous stream
  each.number = number;
  if (type === "gone") return endFollowing(job, new Error(data.message));
  each.on(type, rest);
  if (OVER.includes(type)) endFollowing(job);
}

function endFollowing(id, error) {
  const each = followed.get(id);
  followed.delete(id);
  each?.end(error);
}
