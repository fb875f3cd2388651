// The page of a vote: shows a ballot, sends the choice, shows the next.
//
// It knows pictures by opaque names and never a side. The token comes with the address, behind the #, so it is in no log.

const $ = (id) => document.getElementById(id);
const token = location.hash.slice(1);
const WORDS = {
  left: "Left", tie: "Equal", right: "Right", real: "Real", unsure: "Not sure", generated: "Generated",
  yes: "Yes", partly: "Partly", no: "No",
};
const PLACES = { ArrowLeft: 0, ArrowDown: 1, ArrowRight: 2, 1: 0, 0: 1, 2: 2 };
const KEPT = "voter"; // of this tab, so that two voters may sit at two tabs

let voter = "";
let current = null;
let isBusy = false;

async function call(path, body) {
  const answer = await fetch(path, {
    method: "POST",
    headers: { "content-type": "application/json", authorization: `Bearer ${token}` },
    body: JSON.stringify({ voter, ...body }),
  });
  const said = await answer.json();
  if (!answer.ok) throw new Error(said.error);
  return said;
}

function tell(error) {
  $("error").textContent = error instanceof TypeError ? "The vote has been ended in the terminal; what was voted is kept." : error.message;
  $("error").hidden = false;
}

async function go(path, body) {
  if (isBusy) return;
  isBusy = true;
  for (const button of document.querySelectorAll("#choices button, #undo")) button.disabled = true;
  try {
    const said = await call(path, body);
    $("error").hidden = true;
    if (said.notice) tell(new Error(said.notice));
    await show(said);
  } catch (error) {
    tell(error);
    if (current?.ballot && !current.isBroken) enable();
  } finally {
    isBusy = false;
  }
}

function enable() {
  for (const button of document.querySelectorAll("#choices button")) button.disabled = false;
  $("undo").disabled = false;
}

async function show(said) {
  current = said;
  $("name").hidden = true;
  $("question").textContent = said.question;
  $("count").textContent = `${said.done} of ${said.total} · ${voter}`;
  $("progress").hidden = false;
  $("progress").max = said.total;
  $("progress").value = said.done;
  $("undo").hidden = !said.can_undo;
  $("undo").disabled = false;
  $("ballot").hidden = !said.ballot;
  $("end").hidden = Boolean(said.ballot);
  if (!said.ballot) return;
  $("caption").textContent = said.caption;
  $("caption").hidden = !said.caption;
  $("keys").textContent = said.choices.map((choice, place) => `${["←", "↓", "→"][place]} or ${[1, 0, 2][place]}: ${WORDS[choice].toLowerCase()}`).join(" · ");
  $("choices").replaceChildren(...said.choices.map(button));
  const pictures = said.pictures.map(picture);
  $("pictures").className = pictures.length > 1 ? "two" : "one";
  $("pictures").replaceChildren(...pictures);
  try {
    await Promise.all(pictures.map((img) => img.decode()));
  } catch {
    current.isBroken = true;
    throw new Error("A picture cannot be shown: its file changed since the vote began. Start the command again.");
  }
  enable();
  for (const name of said.ahead) new Image().src = `pictures/${name}`;
}

function button(choice) {
  const made = document.createElement("button");
  made.type = "button";
  made.textContent = WORDS[choice];
  made.dataset.choice = choice;
  made.disabled = true;
  made.addEventListener("click", () => vote(choice));
  return made;
}

function picture(name, place, all) {
  const img = new Image();
  img.src = `pictures/${name}`;
  img.alt = all.length > 1 ? ["Left", "Right"][place] : "Picture";
  img.draggable = false;
  if (all.length > 1) img.addEventListener("click", () => vote(["left", "right"][place]));
  return img;
}

function vote(choice) {
  if (current?.ballot && !current.isBroken) go("vote", { ballot: current.ballot, choice });
}

document.addEventListener("keydown", (event) => {
  if (!current || event.repeat || event.ctrlKey || event.metaKey || event.altKey || event.target.tagName === "INPUT") return;
  if (event.key === "u" && current.can_undo) go("undo", {});
  else if (event.key in PLACES && current.ballot) vote(current.choices[PLACES[event.key]]);
  else return;
  event.preventDefault();
});
$("undo").addEventListener("click", () => go("undo", {}));
$("name").addEventListener("submit", (event) => {
  event.preventDefault();
  voter = $("voter").value.trim();
  sessionStorage.setItem(KEPT, voter);
  go("next", {});
});

async function begin() {
  try {
    voter = (await call("who", {})).voter || sessionStorage.getItem(KEPT) || "";
  } catch (error) {
    return tell(error);
  }
  if (voter) return go("next", {});
  $("name").hidden = false;
  $("voter").focus();
}

begin();
