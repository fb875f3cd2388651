// Download links, with a file name from prompt, seed, number and side of the picture.

export function offerDownload(link, href, view, k, stage) {
  const words = view.captionOf(k).toLowerCase().replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "").slice(0, 40);
  link.href = href;
  link.download = `${words || "picture"}-${view.job.seed}-${k}-${view.sides[stage]}px.png`;
}
