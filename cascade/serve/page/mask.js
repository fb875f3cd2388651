// A mask of a picture, a pixel each: which are painted anew. Strokes can be taken back.

const UNDO = 30; // strokes
const SHADES = [[40, 60, 255, 170], [255, 255, 255, 120]]; // of the stripes that show it: seen on any picture

export class Mask {
  past = [];

  constructor(width, height) {
    Object.assign(this, { width, height, marked: new Uint8Array(width * height) });
  }

  // Share of the picture that is marked, in [0, 1].
  get share() {
    return this.marked.reduce((a, b) => a + b, 0) / this.marked.length;
  }

  // What follows until the next call is one step for `undo`.
  begin() {
    this.past.push(this.marked.slice());
    if (this.past.length > UNDO) this.past.shift();
  }

  undo() {
    this.marked = this.past.pop() ?? this.marked;
  }

  clear() {
    this.begin();
    this.marked.fill(0);
  }

  invert() {
    this.begin();
    this.marked = this.marked.map((on) => 1 - on);
  }

  // Marks, or with `value` 0 unmarks, what a disc covers on its way, at least the pixel under its middle. Places and size in px.
  stroke([x0, y0], [x1, y1], size, value) {
    const steps = Math.max(1, Math.ceil(Math.hypot(x1 - x0, y1 - y0)));
    for (let i = 0; i <= steps; i++) this.disc(x0 + ((x1 - x0) * i) / steps, y0 + ((y1 - y0) * i) / steps, size / 2, value);
  }

  disc(x, y, radius, value) {
    const put = (column, row) => {
      if (column >= 0 && row >= 0 && column < this.width && row < this.height) this.marked[row * this.width + column] = value;
    };
    put(Math.floor(x), Math.floor(y));
    for (let row = Math.floor(y - radius); row <= y + radius; row++)
      for (let column = Math.floor(x - radius); column <= x + radius; column++)
        if (Math.hypot(column + 0.5 - x, row + 0.5 - y) < radius) put(column, row);
  }

  // Shows it on a canvas of its size, in stripes.
  show(canvas) {
    const band = Math.max(1, Math.round(Math.min(this.width, this.height) / 32));
    this.paint(canvas, (on, x, y) => (on ? SHADES[Math.floor((x + y) / band) % 2] : [0, 0, 0, 0]));
  }

  // As the server takes it: a PNG, white where to paint.
  png() {
    const canvas = Object.assign(document.createElement("canvas"), { width: this.width, height: this.height });
    this.paint(canvas, (on) => [255 * on, 255 * on, 255 * on, 255]);
    return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  }

  paint(canvas, shade) {
    const pixels = new ImageData(this.width, this.height);
    this.marked.forEach((on, i) => pixels.data.set(shade(on, i % this.width, Math.floor(i / this.width)), 4 * i));
    canvas.getContext("2d").putImageData(pixels, 0, 0);
  }
}
