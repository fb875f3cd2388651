// Calls of the server, in JSON.

import { KEY, askForKey } from "./key.js";

export class ApiError extends Error {
  constructor(status, message, retryAfter) {
    super(message);
    Object.assign(this, { status, retryAfter });
  }
}

export async function call(path, { headers, ...options } = {}) {
  const key = localStorage.getItem(KEY);
  const response = await fetch(path, { ...options, headers: { ...(key && { Authorization: `Bearer ${key}` }), ...headers } }).catch((error) => {
    throw options.signal?.aborted ? error : new Error("The server cannot be reached");
  });
  if (response.ok || response.status === 304) return response;
  const { error } = await response.json().catch(() => ({}));
  if (response.status === 401) {
    const now = localStorage.getItem(KEY);
    if (now && now !== key) throw new ApiError(401, ""); // another key was entered meanwhile
    askForKey();
    throw new ApiError(401, key ? "This key is not valid" : ""); // without a key, its form says enough
  }
  const words = error?.code === "too_large" ? undefined : error?.message;
  throw new ApiError(response.status, words ?? wordsFor(response.status, options.body?.length), Number(response.headers.get("Retry-After")));
}

// The message for an answer without one, which a proxy may send. sent: bytes of the request's body.
function wordsFor(status, sent = 0) {
  if (status === 413) return `${(sent / 1e6).toFixed(1)} MB are more than the server, or what stands before it, takes at once; choose a smaller picture`;
  if ([502, 503, 504].includes(status)) return "The server does not answer at the moment; try again later";
  return `The server answers ${status}`;
}

// Seeds go up to 2^63, numbers of JavaScript to 2^53: here they are strings. Within a JSON string, the quotes of "seed" would be escaped.
const parseJson = (text) => JSON.parse(text.replace(/"seed":\s*(\d+)/g, '"seed":"$1"'));
const writeJson = ({ seed, ...rest }) => (seed === undefined ? JSON.stringify(rest) : `{"seed":${BigInt(seed)},${JSON.stringify(rest).slice(1)}`);

export const readJson = async (response) => parseJson(await response.text());
export const getJson = async (path) => readJson(await call(path));
export const postJson = async (path, body) =>
  readJson(await call(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: writeJson(body) }));
