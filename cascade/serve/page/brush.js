// The dialog in which a part of a picture is marked, to be painted anew.

import { $ } from "./dom.js";
import { Mask } from "./mask.js";
import { TINY } from "./picture.js";
import { base64Of } from "./upload.js";
import { percent } from "./words.js";

let work; // {mask, send(mask in base64, prompt), at: place of the brush in px, last: of a stroke that goes on, value}

// src: address of the picture; prompt: what to begin with, undefined: it cannot be changed here; send: makes a job of the mask and the prompt.
export async function openBrush({ src, title, prompt, note = "", send }) {
  const img = $("brush-picture");
  img.src = src;
  await img.decode();
  const [width, height] = [img.naturalWidth, img.naturalHeight];
  work = { mask: new Mask(width, height), send, at: [width / 2, height / 2] };
  Object.assign($("brush-mask"), { width, height });
  img.classList.toggle("pixels", Math.min(width, height) <= 2 * TINY);
  $("board").style.setProperty("--aspect", width / height);
  $("brush-title").textContent = title;
  $("brush-prompt-field").hidden = prompt === undefined;
  $("brush-prompt").value = prompt ?? "";
  $("brush-note").textContent = note;
  Object.assign($("brush-size"), { max: Math.max(2, Math.round(Math.min(width, height) / 2)), value: Math.max(1, Math.round(Math.min(width, height) / 6)) });
  takeTool("brush-on");
  tellBrush("");
  showMask();
  if (!$("brush").open) $("brush").showModal();
  $("board").focus();
  placeRing();
}

export function closeBrush() {
  $("brush").close();
}

export async function sendMask() {
  tellBrush("");
  const { share } = work.mask;
  if (share === 0) return tellBrush("Nothing is marked: paint over what is to be made anew");
  if (share === 1) return tellBrush("Everything is marked: leave something of the picture, or paint a new one");
  try {
    await work.send(await base64Of(await work.mask.png()), $("brush-prompt").value.trim());
  } catch (error) {
    tellBrush(error.message);
  }
}

function tellBrush(words) {
  $("brush-error").textContent = words;
  $("brush-error").hidden = !words;
}

export function takeTool(id) {
  for (const each of ["brush-on", "brush-off"]) $(each).setAttribute("aria-pressed", each === id);
}

const marks = () => ($("brush-on").getAttribute("aria-pressed") === "true" ? 1 : 0);
const size = () => Number($("brush-size").value);

function showMask() {
  const { mask } = work;
  const { share } = mask;
  mask.show($("brush-mask"));
  $("brush-undo").ariaDisabled = mask.past.length ? null : "true";
  $("brush-clear").ariaDisabled = share ? null : "true";
  $("brush-said").textContent = share ? `${percent(share)} is painted anew` : "Nothing is marked yet";
}

// What the buttons do: undo, clear, invert.
export function changeMask(how) {
  lift();
  work.mask[how]();
  tellBrush("");
  showMask();
}

export function placeRing() {
  if (!work) return;
  const { width } = work.mask;
  const scale = $("board").clientWidth / width;
  const [x, y] = work.at.map((each) => each * scale);
  $("brush-size-said").textContent = `${size()} px`;
  Object.assign($("ring").style, { left: `${x}px`, top: `${y}px`, width: `${size() * scale}px` });
  $("ring").classList.toggle("down", work.last !== undefined);
}

// The place of a pointer, in px of the picture.
function placeOf({ clientX, clientY }) {
  const { left, top, width, height } = $("board").getBoundingClientRect();
  return [((clientX - left) * work.mask.width) / width, ((clientY - top) * work.mask.height) / height];
}

const ERASER = 5; // the button of a pen's other end

export function pressBoard(event) {
  if (!event.isPrimary || ![0, ERASER].includes(event.button)) return;
  event.preventDefault(); // else a touch would select text
  $("board").focus({ preventScroll: true });
  $("board").setPointerCapture(event.pointerId);
  put(placeOf(event), event.button === ERASER ? 0 : marks());
}

export function moveBoard(event) {
  if (!event.isPrimary) return;
  const places = event.getCoalescedEvents?.() ?? [];
  for (const each of places.length ? places : [event]) moveTo(placeOf(each));
  showMoved();
}

// What a broken stroke had marked goes, too: a second finger or the system took the pointer.
export function breakBoard() {
  if (work.last === undefined) return;
  lift();
  changeMask("undo");
}

export function lift() {
  work.last = undefined;
  placeRing();
}

// Puts the brush down: a stroke begins.
function put(place, value) {
  work.mask.begin();
  Object.assign(work, { last: place, value });
  tellBrush("");
  draw(place);
}

// Moves the brush; where it is down, it marks.
function moveTo(place) {
  work.at = place;
  if (work.last === undefined) return;
  work.mask.stroke(work.last, place, size(), work.value);
  work.last = place;
}

function showMoved() {
  if (work.last !== undefined) showMask();
  placeRing();
}

function draw(place) {
  moveTo(place);
  showMoved();
}

// Arrows move the brush by a quarter of its size (with Shift by one pixel), Space puts it down or lifts it, so that arrows draw.
export function keyBoard(event) {
  const { width, height } = work.mask;
  const by = event.shiftKey ? 1 : Math.max(1, Math.round(size() / 4));
  const move = { ArrowLeft: [-by, 0], ArrowRight: [by, 0], ArrowUp: [0, -by], ArrowDown: [0, by] }[event.key];
  if (move) {
    event.preventDefault();
    const within = (at, most) => Math.min(Math.max(at, 0.5), most - 0.5);
    draw([within(work.at[0] + move[0], width), within(work.at[1] + move[1], height)]);
  } else if (event.key === " ") {
    event.preventDefault();
    if (event.repeat) return;
    if (work.last === undefined) put(work.at, marks());
    else lift();
  }
}

export function keyBrush(event) {
  if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "z" && event.target.id !== "brush-prompt") {
    event.preventDefault();
    changeMask("undo");
  }
}
