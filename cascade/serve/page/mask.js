// A mask of a picture, a pixel each: which are painted anew. Strokes can be taken back.

const UNDO = 30; // strokes
const UNDO_BYTES = 64 * 2 ** 20; // of large pictures fewer
const shade = (...rgba) => new Uint32Array(Uint8Array.from(rgba).buffer)[0];
const STRIPES = [shade(40, 60, 255, 170), shade(255, 255, 255, 120)]; // seen on any picture
const [BLACK, WHITE] = [shade(0, 0, 0, 255), shade(255, 255, 255, 255)];

export class Mask {
  past = [];

  constructor(width, height) {
    Object.assign(this, { width, height, marked: new Uint8Array(width * height) });
  }

  // Share of the picture that is marked, in [0, 1].
  get share() {
    let sum = 0;
    for (const on of this.marked) sum += on;
    return sum / this.marked.length;
  }

  // What follows until the next call is one step for `undo`.
  begin() {
    this.past.push(this.marked.slice());
    if (this.past.length > UNDO || this.past.length * this.marked.length > UNDO_BYTES) this.past.shift();
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
    const steps = Math.max(1, Math.ceil(Math.hypot(x1 - x0, y1 - y0) / Math.max(1, size / 8)));
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
    this.paint(canvas, (on, x, y) => (on ? STRIPES[Math.floor((x + y) / band) % 2] : 0));
  }

  // As the server takes it: a PNG, white where to paint.
  png() {
    const canvas = Object.assign(document.createElement("canvas"), { width: this.width, height: this.height });
    this.paint(canvas, (on) => (on ? WHITE : BLACK));
    return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  }

  paint(canvas, shadeOf) {
    const pixels = new ImageData(this.width, this.height);
    const whole = new Uint32Array(pixels.data.buffer);
    for (let y = 0, i = 0; y < this.height; y++) for (let x = 0; x < this.width; x++, i++) whole[i] = shadeOf(this.marked[i], x, y);
    canvas.getContext("2d").putImageData(pixels, 0, 0);
  }
}
