// The page: asks for pictures, shows them sharpen stage by stage, lets some be picked and refined.
//
// Nouns are those of the API: a job has stages; picture k of a job is the same in every stage and in the jobs refined from it.
// What a user or the server says enters the page by textContent only.

const $ = (id) => document.getElementById(id);
const copyOf = (id) => $(id).content.firstElementChild.cloneNode(true);
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

const HOME = new URL(".", location).pathname; // a proxy may have several servers under one name: all addresses are relative to it
const KEY = `key ${HOME}`;
const OVER = ["held", "finished", "failed", "cancelled"];
const TINY = 48; // px: pictures up to here are shown as the squares that they are
const MANY = 4; // pictures: of more, the status says how many are done; their stages take turns
const BEHIND = 63; // jobs that are followed but not shown: as many as a key may have open
const PAGE = 50; // jobs of the history that are asked for at once
const MAX_SEED = 2n ** 63n - 1n;
const SENT_BYTES = 512 * 1024; // of a picture that was made small here: proxies take 1 MB, and base64 adds a third
const BLOBS = 400; // pictures in memory
const UPLOADS = 20; // the same of those that were sent
const SURE_MS = 4000; // for the second click that deletes
const SLIP_MS = 500; // one that comes sooner is no answer
const KINDS = ["image/png", "image/jpeg", "image/webp"];
const SILENT_MS = 60_000; // nothing for so long, not even a heartbeat: the connection is dead

// ---------------------------------------------------------------- the server

class ApiError extends Error {
  constructor(status, message, retryAfter) {
    super(message);
    Object.assign(this, { status, retryAfter });
  }
}

async function call(path, { headers, ...options } = {}) {
  const key = localStorage.getItem(KEY);
  const response = await fetch(path, { ...options, headers: { ...(key && { Authorization: `Bearer ${key}` }), ...headers } }).catch((error) => {
    throw options.signal?.aborted ? error : new Error("The server cannot be reached");
  });
  if (response.ok || response.status === 304) return response;
  const { error } = await response.json().catch(() => ({}));
  if (response.status === 401) {
    const now = localStorage.getItem(KEY);
    if (now && now !== key) throw new ApiError(401, ""); // another one was entered meanwhile
    askForKey();
    throw new ApiError(401, key ? "This key is not valid" : ""); // without one, the form for it says enough
  }
  const words = error?.code === "too_large" ? undefined : error?.message;
  throw new ApiError(response.status, words ?? wordsFor(response.status, options.body?.length), Number(response.headers.get("Retry-After")));
}

// What stands between may answer without a word.
function wordsFor(status, sent = 0) {
  if (status === 413) return `${(sent / 1e6).toFixed(1)} MB are more than the server, or what stands before it, takes at once; choose a smaller picture`;
  if ([502, 503, 504].includes(status)) return "The server does not answer at the moment; try again later";
  return `The server answers ${status}`;
}

// Seeds go up to 2^63, numbers of JavaScript to 2^53: here they are text. Inside of a string "seed" would have its quotes escaped.
const parseJson = (text) => JSON.parse(text.replace(/"seed":\s*(\d+)/g, '"seed":"$1"'));
const writeJson = ({ seed, ...rest }) => (seed === undefined ? JSON.stringify(rest) : `{"seed":${BigInt(seed)},${JSON.stringify(rest).slice(1)}`);

const readJson = async (response) => parseJson(await response.text());
const getJson = async (path) => readJson(await call(path));
const postJson = async (path, body) =>
  readJson(await call(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: writeJson(body) }));

// The address of a stored picture as it is from here; the server's own says where it believes that it is mounted.
const pictureAt = (job, stage, k) => `v1/jobs/${job}/stages/${encodeURIComponent(stage)}/${k}.png`;

// An <img> sends no key: with one, pictures are fetched and shown from memory.
const blobs = new Map(); // the one that was not asked for longest is first
async function pictureUrl(url) {
  if (!localStorage.getItem(KEY) || url.startsWith("data:")) return url;
  const found = blobs.get(url) ?? call(url).then((answer) => answer.blob()).then(URL.createObjectURL);
  blobs.delete(url);
  blobs.set(url, found);
  found.catch(() => blobs.delete(url));
  if (blobs.size > BLOBS) revokeOldest();
  return found;
}

const revokeOldest = () => forget(blobs.keys().next().value);

function forget(url) {
  blobs.get(url)?.then(URL.revokeObjectURL, () => {});
  blobs.delete(url);
}

// Server-sent events, https://html.spec.whatwg.org/multipage/server-sent-events.html; EventSource could not send the key.
async function* parseEvents(body, heard) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let event = { type: "message", data: [] };
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    heard();
    const lines = (rest + value).split(/\r\n|\n|\r(?!$)/);
    rest = lines.pop();
    for (const line of lines) {
      const [, field, text] = /^([^:]*)(?::[ ]?(.*))?$/s.exec(line);
      if (!line) {
        if (event.data.length) yield { ...event, data: JSON.parse(event.data.join("\n")) };
        event = { type: "message", data: [] };
      } else if (field === "event") event.type = text;
      else if (field === "id") event.id = text;
      else if (field === "data") event.data.push(text ?? "");
    }
  }
}

// The jobs that this page follows, all over one connection: a browser has six for a server, over HTTP/1.1, for all its tabs. A hidden
// tab keeps listening: the server ends jobs that nobody watches any more.
const followed = new Map(); // by id: {number: of the last event, on(type, data), lost(), end(error)}
let listening = new AbortController(); // of the newest stream

function followJob(id, how) {
  followed.set(id, { number: 0, ...how });
  listen();
}

function unfollow(id) {
  if (followed.delete(id)) listen();
}

// A stream of what is followed now. The one before is closed when this one is open, so that nobody goes unwatched.
async function listen() {
  const before = listening;
  const own = (listening = new AbortController());
  own.signal.addEventListener("abort", () => before.abort(), { once: true });
  await sleep(0); // more may change at once
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
      if (response.status === 204) for (const id of ids) endFollowing(id); // over, and everything was told
      else
        for await (const event of parseEvents(response.body, heard)) {
          wait = 500;
          hear(event);
        }
    } catch (error) {
      if (error.status === 429) before.abort(); // no room for both
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
  const number = id ? Number(id.split(",").find((part) => part.startsWith(`${job}:`)).slice(job.length + 1)) : Infinity; // by whoever knows no numbers
  if (!each || number <= each.number) return; // told by the stream before
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

// ---------------------------------------------------------------- messages

function showError(error) {
  if (!error.message) return;
  $("error").firstElementChild.textContent = error.message.replace(/\s+/g, " ");
  $("error").hidden = false;
}

const clearError = () => ($("error").hidden = true);

// Runs what a user asked for; what goes wrong is said in the one line for it.
const guarded = (work) => async (event) => {
  event?.preventDefault?.();
  clearError();
  try {
    await work(event);
  } catch (error) {
    showError(error);
  }
};

// The same for a button that makes a job: one click, one job. Until it is there others do nothing, nor does the second of a double click.
const once = (button, work) =>
  guarded(async ({ detail }) => {
    if (detail > 1 || button.ariaDisabled) return;
    button.ariaDisabled = "true"; // not `disabled`: that would take the focus away
    try {
      await work();
    } finally {
      button.ariaDisabled = null;
    }
  });

function askForKey() {
  localStorage.removeItem(KEY);
  $("sign-out").hidden = true;
  $("key-form").hidden = false;
  $("key").focus();
}

let whose; // the key that all that is shown was asked for with; null: none, undefined: there is nothing yet

// The key of before shows what was there, to the last slider; whoever has another one sees nothing of it.
async function takeKey() {
  const key = $("key").value;
  localStorage.setItem(KEY, key);
  const found = await findModel().catch((error) => {
    if (localStorage.getItem(KEY) === key) askForKey(); // one that nobody has found valid is not kept
    throw error;
  });
  if (whose !== undefined && (key !== whose || !isEqual(found, model))) return beginAnew();
  $("key-form").hidden = true;
  await start(found);
  $("key").value = "";
  focusForm();
}

function signOut() {
  localStorage.removeItem(KEY);
  beginAnew();
}

// Nothing of what the key gave stays in the page.
function beginAnew() {
  history.replaceState(null, "", location.pathname);
  reloadEmpty();
}

function reloadEmpty() {
  $("ask").reset(); // a browser would fill it in again
  location.reload();
}

// ---------------------------------------------------------------- settings

const KNOBS = {
  guidance_scale: ["Guidance", "1 is off; more holds to the prompt"],
  aug_sigma: ["Freedom (aug_sigma)", "invents detail"],
  num_steps: ["Steps", "more is slower and finer"],
};

const TOPS = { num_steps: 64, guidance_scale: 12 }; // of sliders; what is typed beside them may be larger

// What these stages are set to, as `said` before. What has no control here (sigma_max, a stage of another cascade) is named and kept
// until somebody takes it out. Returns {read(all), reset()}: what is shown as the API's `settings`, all of it or what is unusual.
function buildSettings(place, stages, said = {}) {
  const read = [];
  const usuals = [];
  place.replaceChildren();
  const strange = Object.keys(said).filter((name) => !model.stages.some((stage) => stage.name === name));
  for (const stage of [...stages, ...strange.map((name) => ({ name, ranges: {}, settings: {} }))]) {
    const group = document.createElement("fieldset");
    group.dataset.stage = stage.name;
    const title = [stage.name, stage.side && `${stage.side} px`].filter(Boolean).join(" · ");
    group.append(Object.assign(document.createElement("legend"), { textContent: title }));
    const given = { ...said[stage.name] };
    for (const [key, words] of Object.entries(KNOBS)) {
      const range = stage.ranges[key];
      if (!range || range[0] >= range[1]) continue;
      const usual = stage.settings[key];
      usuals.push([`${place.id}-${stage.name}-${key}-value`, usual]);
      const value = slider(group, { id: `${place.id}-${stage.name}-${key}`, key, words, range, usual, value: given[key] ?? usual });
      read.push((all) => (all || value() !== usual) && [stage.name, key, value()]);
      delete given[key];
    }
    if (stage.ranges.sampler?.length > 1) {
      const usual = stage.settings.sampler;
      usuals.push([`${place.id}-${stage.name}-sampler`, usual]);
      const value = chooser(group, { id: `${place.id}-${stage.name}-sampler`, options: stage.ranges.sampler, value: given.sampler ?? usual });
      read.push((all) => (all || value() !== usual) && [stage.name, "sampler", value()]);
      delete given.sampler;
    }
    for (const [key, value] of Object.entries(given)) {
      const there = chip(group, settingWords(key, value));
      read.push(() => there() && [stage.name, key, value]);
    }
    if (group.childElementCount > 1) place.append(group);
  }
  return {
    read(all) {
      const settings = {};
      for (const [stage, key, value] of read.map((each) => each(all)).filter(Boolean)) (settings[stage] ??= {})[key] = value;
      return settings;
    },
    reset() {
      for (const [id, usual] of usuals) {
        $(id).value = usual;
        $(id).dispatchEvent(new Event("input", { bubbles: true }));
      }
      for (const out of place.querySelectorAll(".chip button")) out.click();
    },
  };
}

const settingWords = (key, value) => `${key} ${[value].flat().join(" to ")}`; // an interval has two

// A slider for most values beside a field that takes and shows any, to the last digit; returns a function that reads it.
function slider(group, { id, key, words: [title, hint], range: [min, max], usual, value }) {
  const node = copyOf("t-slider");
  const [label, field, explained, input] = node.children;
  const whole = key === "num_steps";
  const top = clamp(TOPS[key] ?? max, usual, max);
  input.id = label.htmlFor = id;
  label.textContent = title;
  explained.textContent = hint;
  explained.id = `${id}-hint`;
  field.id = `${id}-value`;
  field.setAttribute("aria-label", `${title}, ${group.firstElementChild.textContent}`);
  for (const each of [input, field]) each.setAttribute("aria-describedby", explained.id);
  Object.assign(input, { min, max: top, step: whole ? 1 : top > 2 ? 0.1 : 0.01, value });
  Object.assign(field, { min, max, step: whole ? 1 : "any", value });
  input.addEventListener("input", () => (field.value = input.value));
  field.addEventListener("input", () => (input.value = field.value));
  group.append(node);
  return () => Number(field.value);
}

function chooser(group, { id, options, value }) {
  const node = copyOf("t-choice");
  const [label, select] = node.children;
  select.id = label.htmlFor = id;
  select.append(...[...new Set([...options, value])].map((name) => new Option(name, name)));
  select.value = value;
  group.append(node);
  return () => select.value;
}

// A thing that is kept, with a button that takes it out; returns whether it is there.
function chip(place, text) {
  const node = copyOf("t-chip");
  const [words, out] = node.children;
  words.textContent = text;
  out.setAttribute("aria-label", `Leave out ${text}`);
  out.addEventListener("click", () => node.remove());
  place.append(node);
  return () => node.isConnected;
}

// ---------------------------------------------------------------- asking

let model; // {id, conditioning: "text" | "class" | "none", classes, stages: [{name, side, settings, ranges}], limits}
let askedSettings;
let upload; // {entry: number of the stage, base64, fit: shrunk first, told}; of a job whose picture is not here any more: {entry}
const uploads = new Map(); // by job that was made of one in this tab: the server does not keep it

async function findModel() {
  const { data } = await getJson("v1/models");
  const { id, cascade } = data[0];
  return { id, ...cascade };
}

const isEqual = (a, b) => JSON.stringify(a) === JSON.stringify(b);

function takeModel(found) {
  model = found;
  document.title = model.id;
  $("name").textContent = model.id;
  $("chain").textContent = `${model.stages.map((stage) => stage.side).join(" → ")} px`;
  $("text-field").hidden = model.conditioning !== "text";
  $("class-field").hidden = model.conditioning !== "class";
  $("classes").replaceChildren(...model.classes.map((name) => new Option(name, name)));
  $("num").max = model.limits.images;
  $("hold-field").hidden = model.stages.length < 2;
  $("drop").hidden = model.stages.length < 2;
  askedSettings = buildSettings($("settings"), model.stages);
  $("ask").hidden = false;
}

let kept = { more: [] }; // of the job that is used again, what its fields cannot hold: {prompts, promptText, labels, labelText, more: [{key, value, there()}]}

function asked() {
  const body = { num: Number($("num").value), seed: $("seed").value, settings: askedSettings.read() };
  const prompt = $("prompt").value;
  const said = $("class").value.trim();
  if (model.conditioning === "text") body.prompts = prompt === kept.promptText ? kept.prompts : linesOf(prompt);
  if (model.conditioning === "class" && said) body.labels = said === kept.labelText ? kept.labels : [labelOf(said)];
  if (upload && !upload.base64) throw new Error("Choose the picture to upscale once more, or leave it out: it is not kept");
  if (upload) Object.assign(body, { image: upload.base64, fit: upload.fit });
  else {
    for (const { key, value, there } of kept.more) if (there()) body[key] = value;
    if ($("hold").checked && model.stages.length > 1) body.until = model.stages[0].name;
  }
  return body;
}

const linesOf = (text) => text.split("\n").map((line) => line.trim()).filter(Boolean);
const labelOf = (said) => (/^\d+$/.test(said) && !model.classes.includes(said) ? Number(said) : said);

// The form as it was for a job, to the last digit. root: what it was refined from in the first place, or itself.
function useAgain(job, root) {
  dropFile();
  $("prompt").value = job.prompts.join("\n");
  $("class").value = job.labels.map((label) => model.classes[label] ?? label).join(", ");
  kept = { prompts: job.prompts, promptText: $("prompt").value, labels: job.labels, labelText: $("class").value.trim(), more: [] };
  $("num").value = job.num;
  $("seed").value = job.seed;
  lockSeed(true);
  $("hold").checked = model.stages.length > 1 && job.until === model.stages[0].name;
  askedSettings = buildSettings($("settings"), model.stages, job.settings);
  $("kept").replaceChildren();
  const keep = (key, value, text) => kept.more.push({ key, value, there: chip($("kept"), text) });
  const size = job.size ?? root.size;
  if (size) keep("size", size, `${size.join("×")} px`);
  if (job.until && !$("hold").checked && job.until !== model.stages.at(-1).name) keep("until", job.until, `until ${job.until}`);
  if (isUpload(root)) {
    upload = uploads.get(root.id) ?? { entry: model.stages.findIndex(({ name }) => name === root.stages[0].name) };
    showUpload();
  }
  $("ask").scrollIntoView({ block: "nearest" });
  focusForm();
}

// Whatever the model is asked by.
function focusForm() {
  const id = { text: "prompt", class: "class", none: "num" }[model.conditioning];
  $(id).focus({ preventScroll: true });
}

function rollSeed() {
  $("seed").value = crypto.getRandomValues(new Uint32Array(1))[0] % 1_000_000;
  checkSeed();
}

// A locked seed stays; else each Paint has another one.
const seedIsLocked = () => $("lock").getAttribute("aria-pressed") === "true";
function lockSeed(on) {
  $("lock").setAttribute("aria-pressed", on);
  $("lock").firstElementChild.firstElementChild.setAttribute("href", on ? "#i-locked" : "#i-unlocked");
  $("lock").title = on ? "This seed is kept; unlock it for another one at each Paint" : "Another seed at each Paint; lock it to keep this one";
}

function checkSeed() {
  const { value } = $("seed");
  const fine = /^\d{1,19}$/.test(value) && BigInt(value) <= MAX_SEED;
  $("seed").setCustomValidity(fine ? "" : `A whole number from 0 to ${MAX_SEED}`);
}

// A picture enters at the stage that loses least of it; as it is, if the result is not larger than the server allows.
async function takeFile(file) {
  if (!file) return;
  if (!KINDS.includes(file.type)) throw new Error(`${file.name} is no picture of a kind that is taken: PNG, JPEG or WebP`);
  const bitmap = await createImageBitmap(file).catch(() => undefined);
  if (!bitmap) throw new Error(`${file.name} is no picture that this browser can read`);
  const { width, height } = bitmap; // as its EXIF turns it
  const able = model.stages.filter(({ low_res: side }) => side && side <= Math.min(width, height));
  const entry = able.at(-1) ?? model.stages.find(({ low_res: side }) => side);
  const { side } = model.stages.at(-1);
  const factor = side / entry.low_res;
  const fit = factor * Math.max(width, height) > model.limits.scale * side;
  const held = `${file.name} has ${width}×${height} px`;
  if (fit && !able.length) throw new Error(`${held}; that is too narrow`);
  if (fit && Math.max(width, height) > model.limits.scale * Math.min(width, height))
    throw new Error(`${held}; at most ${model.limits.scale} times as long as wide is taken`);
  // The server makes it small by its own rule, from twice the size that it wants: more would be sent for nothing.
  const content = fit && Math.min(width, height) > 2 * entry.low_res ? await shrunk(bitmap, 2 * entry.low_res) : file;
  bitmap.close();
  const base64 = await base64Of(content).catch(() => {
    throw new Error(`${file.name} cannot be read`);
  });
  const result = side > Math.min(width, height) ? `and from there ${side} px` : `first; the result, ${side} px, will not be larger than it was`;
  const told = fit ? `more than is enlarged here as it is; made ${entry.low_res} px small ${result}` : `becomes ${width * factor}×${height * factor} px`;
  upload = { entry: model.stages.indexOf(entry), base64, fit, told: `${file.name}: ${width}×${height} px, ${told}` };
  showUpload();
}

function base64Of(content) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result.slice(reader.result.indexOf(",") + 1));
    reader.onerror = reject;
    reader.readAsDataURL(content);
  });
}

// By halves, each pixel the mean of four, down to a shorter side of `short`: in one step most pixels would not count.
async function shrunk(bitmap, short) {
  const scale = short / Math.min(bitmap.width, bitmap.height);
  const [width, height] = [bitmap.width, bitmap.height].map((side) => Math.round(side * scale));
  let from = bitmap;
  while (from.width !== width || from.height !== height) {
    const isLast = from.width <= 2 * width;
    const side = (now, end) => (isLast ? end : Math.ceil(now / 2));
    const canvas = Object.assign(document.createElement("canvas"), { width: side(from.width, width), height: side(from.height, height) });
    const context = canvas.getContext("2d");
    context.imageSmoothingQuality = "high";
    context.drawImage(from, 0, 0, canvas.width, canvas.height);
    from = canvas;
  }
  const packed = (kind, quality) => new Promise((resolve) => from.toBlob(resolve, kind, quality));
  const whole = await packed("image/png");
  return whole.size > SENT_BYTES ? packed("image/webp", 0.95) : whole;
}

function dropFile() {
  upload = undefined;
  $("file").value = "";
  showUpload();
}

function showUpload() {
  const none = upload ? "The picture is not kept: choose it once more" : "Drop a picture to upscale, or choose one";
  $("file-name").textContent = upload?.told ?? none;
  $("unfile").hidden = !upload;
  $("hold").disabled = $("kept").hidden = Boolean(upload);
  model.stages.forEach(({ name }, at) => {
    const group = $("settings").querySelector(`[data-stage="${CSS.escape(name)}"]`);
    if (group) group.hidden = at < (upload?.entry ?? 0);
  });
  $("go").textContent = upload ? "Upscale" : "Paint";
}

async function submit() {
  const given = upload;
  const { id } = await postJson("v1/jobs", asked());
  if (given) uploads.set(id, given);
  if (uploads.size > UPLOADS) uploads.delete(uploads.keys().next().value);
  if (!seedIsLocked()) rollSeed();
  await open(id, { scroll: true, focus: true });
}

// ---------------------------------------------------------------- one job

let view; // the job that is shown
const notes = new Map(); // by job, for the life of the tab: {picked, from, isOpen, settings: by the stage to go on from}
let behind = []; // Views of jobs that still run, the oldest first

// A View lives on behind another one: what it does with the nodes outside its tiles and its rail waits until it is shown.
class View {
  // line: the job, the one that it refines, the one which that refines, ...
  constructor(line) {
    const [job, parent] = line;
    Object.assign(this, { line, job, parent, root: line.at(-1) });
    const below = line.slice(1).flatMap((each) => each.stages.filter(({ name }) => !job.stages.some((own) => own.name === name)));
    const made = [...below.reverse(), ...job.stages];
    const at = model.stages.findIndex(({ name }) => name === job.stages.at(-1).name);
    this.chain = [...made, ...(at < 0 ? [] : model.stages.slice(at + 1))]; // a job may do a part of it
    this.names = this.chain.map(({ name }) => name);
    this.sides = Object.fromEntries(this.chain.map(({ name, side }) => [name, side]));
    this.first = this.names.indexOf(job.stages[0].name);
    this.last = this.names.indexOf(job.stages.at(-1).name);
    this.tiles = new Map(job.images.map((k, i) => [k, this.tile(k, `${i + 1} of ${job.images.length}`)]));
    this.rail = this.chain.map(railItem);
    if (!notes.has(job.id)) notes.set(job.id, { picked: new Set(), settings: {} });
    this.note = notes.get(job.id);
    this.said = { text: "", left: "" };
    for (const { name, pictures } of made)
      for (const { k, url } of pictures) if (this.tiles.has(k)) this.show(k, name, url, true);
    this.focus(job.images[0], false);
    this.setState(job.state);
  }

  get shown() {
    return view === this;
  }

  mount() {
    $("empty").hidden = true;
    $("job").hidden = false;
    $("grid").replaceChildren(...[...this.tiles.values()].map((tile) => tile.node));
    $("rail").replaceChildren(...this.rail.map(({ item }) => item));
    this.showHead();
    this.showSaid(true);
    this.showState();
  }

  showHead() {
    const { job } = this;
    $("title").textContent = $("title").title = titleOf(job, this.root);
    const meta = [`seed ${job.seed}`, count(job.images.length, "picture"), unusual(job, this.root)];
    $("meta").firstElementChild.textContent = meta.filter(Boolean).join(" · ");
    $("parent").hidden = !this.parent;
    $("parent").href = `#${job.parent ?? ""}`;
    $("parent").textContent = this.parent ? `← all ${this.parent.images.length}` : "";
  }

  // place: its number for people, who count from one; k is the server's.
  tile(k, place) {
    const node = copyOf("t-tile");
    const pick = node.querySelector(".pick");
    pick.addEventListener("click", guarded(() => this.press(k)));
    pick.addEventListener("focus", () => this.focus(k, false));
    pick.addEventListener("keydown", (event) => this.key(event, k));
    const large = node.querySelector(".open");
    large.setAttribute("aria-label", `Enlarge picture ${place}`);
    large.addEventListener("click", guarded(() => openLarge(this, k)));
    node.querySelector(".save").setAttribute("aria-label", `Download picture ${place}`);
    const caption = node.querySelector(".caption");
    caption.textContent = caption.title = this.captionOf(k);
    caption.hidden = saidOf(this.job).length < 2;
    node.dataset.k = k;
    return { node, place, pick, large, img: node.querySelector("img"), stage: -1, part: 0, urls: {} };
  }

  captionOf(k) {
    return saidOf(this.job)[Math.floor(k / this.job.num)] ?? titleOf(this.job, this.root);
  }

  // A picture of a stage takes the place of the one before; `whole` ones are kept under their address.
  async show(k, name, source, whole) {
    const tile = this.tiles.get(k);
    const order = (tile.order = (tile.order ?? 0) + 1);
    if (whole) tile.urls[name] = source;
    const src = await pictureUrl(source).catch(() => undefined);
    if (!src || order !== tile.order) return; // a newer one overtook it
    tile.img.src = src;
    tile.img.hidden = tile.large.hidden = false;
    tile.img.alt = `${this.captionOf(k)}, picture ${tile.place}, ${this.sides[name]} px`;
    tile.img.classList.toggle("pixels", this.sides[name] <= TINY);
    tile.node.querySelector(".side").textContent = `${this.sides[name]} px`;
    tile.node.classList.toggle("rough", !whole);
    tile.pick.setAttribute("aria-label", `Picture ${tile.place}, ${this.sides[name]} px`);
    const at = this.names.indexOf(name);
    if (whole && at >= 0) this.advance(k, at, 1);
    if (whole) setLink(tile.node.querySelector(".save"), src, fileName(this, k, name));
  }

  advance(k, stage, part) {
    const tile = this.tiles.get(k);
    if (stage < tile.stage) return;
    Object.assign(tile, { stage, part });
    tile.node.querySelector(".bar").style.setProperty("--part", (stage + part) / (this.last + 1));
    this.rail.forEach(({ item, bar }, i) => {
      const parts = [...this.tiles.values()].map((each) => (each.stage > i ? 1 : each.stage === i ? each.part : 0));
      bar.value = parts.reduce((a, b) => a + b, 0) / parts.length;
      item.classList.toggle("done", bar.value === 1);
    });
    this.showPart();
  }

  // The title of the window tells how far the job is, for whoever looks at another one meanwhile.
  showPart() {
    if (!this.shown) return;
    const parts = [...this.tiles.values()].map(({ stage, part }) => clamp((stage + part - this.first) / (this.last + 1 - this.first), 0, 1));
    const percent = Math.floor((100 * parts.reduce((a, b) => a + b, 0)) / parts.length);
    document.title = this.job.state === "running" ? `${percent}% · ${model.id}` : model.id;
  }

  // ---- events

  get alive() {
    return followed.has(this.job.id);
  }

  // Nothing more is to come: what was picked and set here may stay.
  get isWhole() {
    return OVER.includes(this.job.state) && [...this.tiles.values()].every(({ img }) => !img.hidden);
  }

  watch() {
    const end = (error) => {
      behind = behind.filter((each) => each !== this);
      if (!error) return;
      this.setState("lost");
      if (this.shown) showError(error);
    };
    followJob(this.job.id, { on: (type, data) => this.on(type, data), lost: () => this.say("Connection lost; trying again"), end });
  }

  // Another one is shown. The server ends a job that was watched and is no longer, so one that runs is followed on.
  stepBack() {
    if (!this.alive) return;
    behind.push(this);
    if (behind.length > BEHIND) unfollow(behind.shift().job.id);
  }

  // As it is now, for a job that it was refined from is gone.
  async readAgain() {
    if (this.shown) closeLarge();
    const now = new View(await loadLine(this.job.id));
    const at = behind.indexOf(this);
    if (at >= 0) behind[at] = now;
    else if (!this.shown) return; // it has been left meanwhile
    if (this.shown) {
      view = now;
      now.mount();
    }
    if (!OVER.includes(now.job.state)) now.watch();
  }

  on(type, data) {
    if (type === "stage_started") {
      this.setState("running");
      this.say(this.done() ?? `${this.sides[data.stage]} px begins`);
    } else if (type === "preview") {
      for (const { k, data: picture } of data.pictures) {
        if (!this.tiles.has(k) || this.tiles.get(k).urls[data.stage]) continue;
        this.show(k, data.stage, picture, false);
        this.advance(k, this.names.indexOf(data.stage), data.step / data.nfe);
      }
      const left = data.eta_s > 0 ? `· ${duration(data.eta_s)} left` : "";
      this.say(this.done() ?? `${this.sides[data.stage]} px, step ${data.step} of ${data.nfe}`, { spoken: false, left });
    } else if (type === "stage_finished") {
      for (const { k } of data.pictures) {
        if (!this.tiles.has(k)) continue;
        this.show(k, data.stage, pictureAt(this.job.id, data.stage, k), true);
        this.advance(k, this.names.indexOf(data.stage), 1);
      }
      this.say(this.done() ?? `${this.sides[data.stage]} px is there`, { left: this.said.left });
    } else if (OVER.includes(type)) {
      this.setState(type, data.message);
      if (past.has(this.job.id)) past.get(this.job.id).state = type;
      refreshHistory();
      tell();
    }
  }

  // With the stage that not all have behind them, and its share. Nothing where there are few pictures.
  done() {
    const tiles = [...this.tiles.values()];
    if (tiles.length <= MANY) return undefined;
    const done = `${tiles.filter(({ urls }) => urls[this.names[this.last]]).length} of ${tiles.length} done`;
    const at = this.rail.findIndex(({ bar }, i) => i >= this.first && i <= this.last && bar.value < 1);
    return at < 0 ? done : `${this.sides[this.names[at]]} px: ${Math.floor(100 * this.rail[at].bar.value)}% · ${done}`;
  }

  // Each step is shown, but only milestones are spoken. left: the time until the end, where it is known.
  say(text, { spoken = true, left = "" } = {}) {
    this.said = { text, left };
    this.showSaid(spoken);
  }

  showSaid(spoken) {
    if (!this.shown) return;
    $("status").setAttribute("aria-live", spoken ? "polite" : "off");
    $("status").textContent = this.said.text;
    $("eta").textContent = this.said.left;
  }

  setState(state, message = this.job.error?.message) {
    this.job.state = state;
    const words = {
      queued: "Waiting for a place",
      held: "Pick the ones worth sharpening",
      finished: "Done",
      failed: `Failed: ${message ?? "the server does not say why"}`,
      cancelled: "Cancelled",
      lost: "Not followed any more", // what became of it is not known here
    };
    if (words[state]) this.say(words[state]);
    this.showState();
  }

  showState() {
    if (!this.shown) return;
    const over = OVER.includes(this.job.state);
    $("job").dataset.state = this.job.state;
    $("cancel").hidden = over || this.job.state === "lost";
    $("reuse").hidden = !over;
    $("delete").hidden = !over;
    askDelete(false);
    this.offerNext();
    this.showPart();
  }

  // ---- picking

  // Whether a pick leads anywhere: to the stages above one that all pictures have, or will have.
  get canPick() {
    return OVER.includes(this.job.state) ? this.whole().length > 0 : this.names.length > 1;
  }

  press(k) {
    if (!this.canPick) return this.tiles.get(k).img.hidden ? undefined : openLarge(this, k);
    if (!this.note.picked.delete(k)) this.note.picked.add(k);
    this.showPicked();
  }

  showPicked() {
    if (!this.canPick) this.note.picked.clear();
    for (const [k, { pick }] of this.tiles) {
      if (this.canPick) pick.setAttribute("aria-pressed", this.note.picked.has(k));
      else pick.removeAttribute("aria-pressed");
    }
    const some = this.note.picked.size > 0;
    const redo = this.job.state === "finished";
    const which = some ? `${this.note.picked.size} picked` : redo ? "all" : "picked";
    $("refine").textContent = `${redo ? "Redo" : "Refine"} ${which}`;
    if (some && !$("next").hidden) $("again").open = true; // its sliders count, those of the form do not
    $("refine").disabled = !some && !redo;
    $("all").textContent = this.note.picked.size === this.tiles.size ? "Pick none" : "Pick all";
  }

  key(event, k) {
    const order = [...this.tiles.keys()];
    const at = order.indexOf(k);
    const columns = getComputedStyle($("grid")).gridTemplateColumns.split(" ").length;
    const move = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns, Home: -at, End: order.length - 1 - at }[event.key];
    if (move !== undefined) {
      event.preventDefault();
      if (order[at + move] !== undefined) this.focus(order[at + move]);
    } else if (event.key === "Enter" && this.note.picked.size && !$("next").hidden) {
      event.preventDefault();
      $("refine").click();
    }
  }

  // One tab stop for the whole grid; arrows move it.
  focus(k, really = true) {
    for (const [each, { node }] of this.tiles)
      for (const control of node.querySelectorAll("button, a")) control.tabIndex = each === k ? 0 : -1;
    if (really) this.tiles.get(k).pick.focus();
  }

  // ---- refining: what a job lacks that was held, cancelled or failed, or the top of a finished one again

  offerNext() {
    const choices = OVER.includes(this.job.state) ? this.whole() : [];
    $("next").hidden = !choices.length;
    $("hint").hidden = this.job.state === "finished" || !choices.length;
    if (!choices.length) return this.showPicked();
    $("from").replaceChildren(...choices.map((name) => new Option(`${this.sides[name]} px`, name)));
    $("from").value = choices.includes(this.note.from) ? this.note.from : choices.at(-1);
    $("from-field").hidden = choices.length < 2;
    this.offerSettings();
    $("again").open = this.note.isOpen ?? false;
    this.showPicked();
  }

  // Stages below the top that every tile has a picture of.
  whole() {
    const tiles = [...this.tiles.values()];
    return model.stages.slice(0, -1).map((stage) => stage.name).filter((name) => tiles.every((tile) => tile.urls[name]));
  }

  offerSettings() {
    this.from = $("from").value;
    const above = model.stages.slice(model.stages.findIndex((stage) => stage.name === this.from) + 1);
    this.next = buildSettings($("next-settings"), above, this.note.settings[this.from] ?? this.job.settings);
    const sides = above.map((stage) => `${stage.side} px`).join(", ");
    $("again").querySelector("summary").textContent = this.job.state === "finished" ? `Redo ${sides} with other settings` : `Settings for ${sides}`;
  }

  // What is set here is there again after a look at another job.
  keepSettings() {
    this.note.settings[this.from] = this.next.read(true);
  }

  // With what the controls show, all of it: the job that has the pictures may have been made with other settings.
  async refine() {
    if (![...$("next-settings").querySelectorAll("input")].every((input) => input.reportValidity())) return;
    const from = $("from").value;
    const pick = [...(this.note.picked.size ? this.note.picked : this.tiles.keys())].sort((a, b) => a - b);
    const owner = this.line.find((each) => each.stages.some((stage) => stage.name === from));
    const { id } = await postJson(`v1/jobs/${owner.id}/refine`, { from, pick, settings: this.next.read(true) });
    await open(id, { scroll: true, focus: true });
  }
}

function railItem(stage) {
  const item = document.createElement("li");
  const bar = Object.assign(document.createElement("progress"), { max: 1, value: 0 });
  const label = Object.assign(document.createElement("span"), { textContent: `${stage.side} px` });
  bar.setAttribute("aria-label", `${stage.name}, ${stage.side} px`);
  item.append(label, bar);
  return { item, bar };
}

const count = (n, word) => `${n} ${word}${n === 1 ? "" : "s"}`;
const saidOf = (job) => [...job.prompts, ...job.labels.map((label) => model.classes[label] ?? `class ${label}`)];
const isUpload = (job) => !job.parent && job.stages[0].name !== model.stages[0].name;

// root: what the job was refined from in the first place, or itself.
function titleOf(job, root) {
  const said = saidOf(job).join(", ");
  if (isUpload(root)) return said ? `Upscaled: ${said}` : "Upscaled picture";
  return said || "No prompt";
}

// The settings that differ from the model's usual ones, of the stages that were asked for.
function unusual(job, root) {
  const at = (name) => model.stages.findIndex((stage) => stage.name === name);
  const end = job.until ? at(job.until) + 1 : model.stages.length;
  const stages = model.stages.slice(isUpload(root) ? at(root.stages[0].name) : 0, end);
  const said = stages.map(({ name, side, settings }) => {
    const pairs = Object.entries(job.settings[name] ?? {}).filter(([key, value]) => String(value) !== String(settings[key]));
    return pairs.length && `${side} px: ${pairs.map((pair) => settingWords(...pair)).join(", ")}`;
  });
  const size = job.size ?? root.size;
  return [size && `${size.join("×")} px`, ...said].filter(Boolean).join(" · ");
}

const duration = (s) => (s < 60 ? `${Math.ceil(s)} s` : `${Math.ceil(s / 60)} min`);

function setLink(link, href, name) {
  link.href = href;
  link.download = name;
}

function fileName(view, k, stage) {
  const words = view.captionOf(k).toLowerCase().replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "").slice(0, 40);
  return `${words || "picture"}-${view.job.seed}-${k}-${view.sides[stage]}px.png`;
}

// What the address says: a job, or none. One that is not there leaves what is shown, and its address.
async function openAddress(how) {
  const id = location.hash.slice(1);
  if (!id) return closeJob();
  try {
    await open(id, how);
  } catch (error) {
    if (location.hash.slice(1) === id) history.replaceState(null, "", view ? `#${view.job.id}` : location.pathname);
    throw [404, 410].includes(error.status) ? new Error(`There is no job #${id} here: it was deleted, has expired, or is of another key`) : error;
  }
}

function closeJob() {
  opened++; // what was asked for before is not wanted any more
  view?.stepBack();
  showNothing();
  showHistory();
}

async function loadJob(id) {
  return ownJob(await getJson(`v1/jobs/${encodeURIComponent(id)}`));
}

// The server's job, with its pictures by stage.
function ownJob(job) {
  for (const stage of job.stages) stage.pictures = stage.done.map((k) => ({ k, url: pictureAt(job.id, stage.name, k) }));
  return job;
}

let opened = 0;
let unsure; // a timer: nobody said that a job is to be deleted for good
let askedAt; // ms: when that was asked

// focus: on the first tile, where what had it may be gone.
async function open(id, { scroll = false, focus = false } = {}) {
  const turn = ++opened;
  const next = [view, ...behind].find((each) => each?.alive && each.job.id === id) ?? new View(await loadLine(id));
  if (turn !== opened) return; // another one was asked for meanwhile
  if (next !== view) {
    behind = behind.filter((each) => each !== next);
    view?.stepBack();
    closeLarge();
    view = next;
    view.mount();
  }
  if (location.hash !== `#${id}`) history.pushState(null, "", `#${id}`);
  if (view.alive) listen(); // its previews first
  else if (!OVER.includes(view.job.state)) view.watch();
  if (focus) view.tiles.get(view.job.images[0]).pick.focus({ preventScroll: true });
  const { top } = $("job").getBoundingClientRect();
  if (scroll && (top < 0 || top > innerHeight / 2)) $("job").scrollIntoView({ behavior: "smooth" });
  refreshHistory();
  tell();
}

async function deleteJob() {
  const { id } = view.job;
  await call(`v1/jobs/${id}/pictures`, { method: "DELETE" });
  forgetJob(id);
  focusForm();
  tabs.postMessage({ deleted: id });
}

// Nothing of a deleted job stays in this page, either; what was refined from it shows its own pictures alone.
function forgetJob(id) {
  for (const each of [past, notes, uploads]) each.delete(id);
  if (view?.job.id === id) {
    showNothing();
    history.replaceState(null, "", location.pathname);
  }
  for (const each of [view, ...behind]) if (each?.line.some((one) => one.id === id)) each.readAgain().catch(showError);
  for (const url of [...blobs.keys()]) if (url.startsWith(`v1/jobs/${id}/`)) forget(url);
  showHistory();
  refreshHistory();
}

function showNothing() {
  closeLarge();
  view = undefined;
  document.title = model.id;
  $("job").hidden = true;
  $("grid").replaceChildren();
  $("empty").hidden = false;
}

function askDelete(sure) {
  $("delete").textContent = sure ? "Delete for good?" : "Delete";
  $("delete").classList.toggle("sure", sure);
}

// The first click asks, the next one does it; the second of a double click or of two quick Enters does nothing.
async function clickDelete({ detail, timeStamp }) {
  if ($("delete").classList.contains("sure")) return detail < 2 && timeStamp - askedAt > SLIP_MS && deleteJob();
  askDelete(true);
  askedAt = timeStamp;
  clearTimeout(unsure);
  unsure = setTimeout(() => askDelete(false), SURE_MS);
}

async function loadLine(id) {
  const line = [await loadJob(id)];
  while (line.at(-1)?.parent) line.push(await loadJob(line.at(-1).parent).catch(() => undefined)); // which may have expired
  return line.filter(Boolean);
}

// ---------------------------------------------------------------- large view

let enlarged; // {of: View, k}

function closeLarge() {
  if ($("large").open) $("large").close();
  $("large-picture").removeAttribute("src");
}

async function openLarge(of, k) {
  enlarged = { of, k };
  const { urls, img } = of.tiles.get(k);
  const names = of.names.filter((name) => urls[name]);
  const there = besides(of);
  const at = there.indexOf(k);
  $("large-place").textContent = `${at + 1} of ${there.length}`;
  $("large-title").textContent = of.captionOf(k);
  $("large-back").ariaDisabled = at === 0 ? "true" : null;
  $("large-on").ariaDisabled = at === there.length - 1 ? "true" : null;
  const buttons = names.map((name) => Object.assign(document.createElement("button"), { type: "button", textContent: `${of.sides[name]} px` }));
  const choose = async (i) => {
    const src = i < 0 ? img.src : await pictureUrl(urls[names[i]]);
    $("large-picture").src = src;
    $("large-picture").alt = img.alt;
    $("large-picture").classList.toggle("pixels", i < 0 || of.sides[names[i]] <= TINY);
    buttons.forEach((button, j) => button.setAttribute("aria-pressed", i === j));
    $("large-save").hidden = i < 0;
    if (i >= 0) setLink($("large-save"), src, fileName(of, k, names[i]));
  };
  buttons.forEach((button, i) => button.addEventListener("click", guarded(() => choose(i))));
  $("large-stages").replaceChildren(...buttons);
  await choose(names.length - 1);
  if (!$("large").open) $("large").showModal();
}

// The pictures that can be enlarged.
const besides = (of) => [...of.tiles.keys()].filter((each) => !of.tiles.get(each).img.hidden);

async function stepLarge(by) {
  const { of, k } = enlarged;
  const there = besides(of);
  const next = there[there.indexOf(k) + by];
  if (next === undefined) return;
  if ($("large-stages").contains(document.activeElement)) $("large-close").focus(); // the stage that had it may go
  await openLarge(of, next);
}

// ---------------------------------------------------------------- history

const tabs = new BroadcastChannel(`jobs ${HOME}`);
const tell = () => tabs.postMessage({});
const past = new Map(); // jobs that are listed, by id
const cards = new Map(); // by job; a card that stays where it is keeps the focus
let newest = { tag: "", ids: [] }; // the first page, as it was when it was told last
let further = null; // where the list goes on, for the server
let isLong = false; // more than the first page is listed
let again;

// The first page, and nothing but "as it was" where it is.
async function refreshHistory() {
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

async function loadOlder() {
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

function showHistory() {
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

function dropCard(id) {
  cards.get(id).remove();
  cards.delete(id);
}

function rootOf(job, jobs) {
  while (jobs.has(job.parent)) job = jobs.get(job.parent);
  return job;
}

function card(job, root) {
  if (!cards.has(job.id)) cards.set(job.id, copyOf("t-card"));
  const item = cards.get(job.id);
  const [link] = item.children;
  const [stack, what, how, when] = link.children;
  link.href = `#${job.id}`;
  link.ariaCurrent = job.id === view?.job.id ? "true" : null;
  what.textContent = titleOf(job, root);
  how.textContent = [`seed ${job.seed}`, unusual(job, root)].filter(Boolean).join(" · ");
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

// Pictures are asked for when they come into sight: there may be hundreds.
const toDo = new WeakMap();
const sight = new IntersectionObserver(
  (entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      sight.unobserve(target);
      toDo.get(target)();
    }
  },
  { rootMargin: "300px" },
);

function whenSeen(node, act) {
  toDo.set(node, act);
  sight.unobserve(node); // or it would not be told that it is in sight already
  sight.observe(node);
}

function ago(seconds) {
  const past = Math.max(0, Date.now() / 1000 - seconds);
  const words = new Intl.RelativeTimeFormat("en", { numeric: "auto", style: "short" });
  for (const [unit, size] of [["day", 86400], ["hour", 3600], ["minute", 60]]) if (past >= size) return words.format(-Math.floor(past / size), unit);
  return "just now";
}

// ---------------------------------------------------------------- start

async function start(found) {
  whose = localStorage.getItem(KEY);
  $("sign-out").hidden = !whose;
  if (!model) takeModel(found);
  const id = location.hash.slice(1);
  await refreshHistory();
  if (id && !(view?.job.id === id && view.isWhole)) await openAddress();
}

$("ask").addEventListener("submit", once($("go"), submit));
$("go").addEventListener("click", (event) => event.detail > 1 && event.preventDefault()); // a submit does not tell
const makesLine = (event) => event.target.id === "prompt" && (event.shiftKey || matchMedia("(pointer: coarse)").matches); // a phone has no Shift+Enter
document.addEventListener(
  "keydown",
  (event) => {
    if (event.key !== "Enter" || !event.repeat || makesLine(event)) return; // what is held down is meant once
    event.preventDefault();
    event.stopPropagation();
  },
  true,
);
$("prompt").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || makesLine(event) || event.isComposing) return;
  event.preventDefault();
  $("ask").requestSubmit();
});
$("dice").addEventListener("click", rollSeed);
$("lock").addEventListener("click", () => lockSeed(!seedIsLocked()));
$("seed").addEventListener("input", () => {
  checkSeed();
  lockSeed(true); // who writes a seed means it
});
$("older").addEventListener("click", guarded(loadOlder));
document.addEventListener("invalid", ({ target }) => target.closest("details")?.setAttribute("open", ""), true); // what is wrong must be seen
$("cancel").addEventListener("click", guarded(() => call(`v1/jobs/${view.job.id}`, { method: "DELETE" })));
$("delete").addEventListener("click", guarded(clickDelete));
$("reuse").addEventListener("click", () => useAgain(view.job, view.root));
$("refine").addEventListener("click", once($("refine"), () => view.refine()));
$("all").addEventListener("click", () => {
  const { note, tiles } = view;
  note.picked = new Set(note.picked.size === tiles.size ? [] : tiles.keys());
  view.showPicked();
});
$("from").addEventListener("change", () => {
  view.note.from = $("from").value;
  view.offerSettings();
});
for (const type of ["input", "click"]) $("next-settings").addEventListener(type, () => view.keepSettings());
$("again").addEventListener("toggle", () => view && (view.note.isOpen = $("again").open));
$("next-defaults").addEventListener("click", () => view.next.reset());
$("defaults").addEventListener("click", () => askedSettings.reset());
$("error").lastElementChild.addEventListener("click", clearError);
$("large-close").addEventListener("click", () => $("large").close());
$("large-back").addEventListener("click", guarded(() => stepLarge(-1)));
$("large-on").addEventListener("click", guarded(() => stepLarge(1)));
$("large").addEventListener("click", (event) => event.target === $("large") && $("large").close()); // all but the backdrop is in a div
$("large").addEventListener("keydown", (event) => {
  const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (by) guarded(() => stepLarge(by))(event);
});
$("file").addEventListener("change", guarded(() => takeFile($("file").files[0])));
$("unfile").addEventListener("click", dropFile);
$("key-form").addEventListener("submit", guarded(takeKey));
$("sign-out").addEventListener("click", signOut);
addEventListener("storage", (event) => event.key === KEY && reloadEmpty()); // another tab signed in or out

const carriesFile = (event) => event.dataTransfer?.types.includes("Files");
addEventListener("dragover", (event) => {
  if (!carriesFile(event)) return;
  event.preventDefault();
  $("veil").hidden = false;
});
addEventListener("dragleave", (event) => !event.relatedTarget && ($("veil").hidden = true));
addEventListener("drop", (event) => {
  if (!carriesFile(event)) return;
  event.preventDefault();
  $("veil").hidden = true;
  guarded(() => takeFile(event.dataTransfer.files[0]))();
});
addEventListener("hashchange", guarded(() => model && openAddress({ scroll: true })));
document.addEventListener("visibilitychange", () => refreshHistory());
tabs.addEventListener("message", ({ data }) => (data.deleted ? forgetJob(data.deleted) : refreshHistory()));
addEventListener("pageshow", (event) => event.persisted && location.reload()); // it was put by, and may show what is gone since

$("knobs").open = matchMedia("(min-width: 761px)").matches;
lockSeed(false);
rollSeed();
guarded(async () => start(await findModel()))();
