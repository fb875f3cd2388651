// Counts, times and settings in words.

export const count = (n, word) => `${n} ${word}${n === 1 ? "" : "s"}`;
export const percent = (share) => (share < 0.01 ? "less than 1 %" : `${Math.floor(100 * share)} %`);
export const duration = (s) => (s < 60 ? `${Math.ceil(s)} s` : `${Math.ceil(s / 60)} min`);
export const settingWords = (key, value) => `${key} ${[value].flat().join(" to ")}`; // an interval has two

export function ago(seconds) {
  const past = Math.max(0, Date.now() / 1000 - seconds);
  const words = new Intl.RelativeTimeFormat("en", { numeric: "auto", style: "short" });
  for (const [unit, size] of [["day", 86400], ["hour", 3600], ["minute", 60]]) if (past >= size) return words.format(-Math.floor(past / size), unit);
  return "just now";
}
