// A picture's link, with a file name that tells its job.

export function offerDownload(link, href, view, k, stage) {
  const words = view.captionOf(k).toLowerCase().replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "").slice(0, 40);
  link.href = href;
  link.download = `${words || "picture"}-${view.job.seed}-${k}-${view.sides[stage]}px.png`;
}
