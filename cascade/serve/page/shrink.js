const SENT_BYTES = 512 * 1024; // limit for a PNG that was made here: proxies take 1 MB, and base64 adds a third

// Shrinks to a shorter side of `short` px by halving, each pixel the mean of four; in one step most pixels would be ignored.
export async function shrunk(bitmap, short) {
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
