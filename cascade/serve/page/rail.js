// The progress of a job's pictures: one bar per stage.

export class Rail {
  constructor(stages) {
    this.steps = stages.map(step);
  }

  get items() {
    return this.steps.map(({ item }) => item);
  }

  // Share done of each stage, in [0, 1].
  get shares() {
    return this.steps.map(({ bar }) => bar.value);
  }

  show(tiles) {
    this.steps.forEach(({ item, bar }, i) => {
      const parts = tiles.map((each) => (each.stage > i ? 1 : each.stage === i ? each.part : 0));
      bar.value = parts.reduce((a, b) => a + b, 0) / parts.length;
      item.classList.toggle("done", bar.value === 1);
    });
  }
}

function step(stage) {
  const item = document.createElement("li");
  const bar = Object.assign(document.createElement("progress"), { max: 1, value: 0 });
  const label = Object.assign(document.createElement("span"), { textContent: `${stage.side} px` });
  bar.setAttribute("aria-label", `${stage.name}, ${stage.side} px`);
  item.append(label, bar);
  return { item, bar };
}
