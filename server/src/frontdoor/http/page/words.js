// Figures as words for a person. Nothing here touches the page.

const WHOLE = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const SHORT = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });

/** What stands where a figure is not known. */
export const NONE = "–";

export function count(number) {
  if (number === null || number === undefined) return NONE;
  return number < 1e6 ? WHOLE.format(number) : SHORT.format(number);
}

/** "1 change", "2 changes". */
export function counted(number, noun) {
  return `${count(number)} ${noun}${number === 1 ? "" : "s"}`;
}

/** 0 to 1 as a percentage; what is not all is never shown as 100. */
export function share(ratio) {
  if (ratio === null || ratio === undefined) return NONE;
  if (ratio === 0 || ratio === 1) return `${ratio * 100} %`;
  const percent = Math.min(Math.max(ratio * 100, 0.1), 99.9);
  return `${percent.toFixed(1)} %`;
}

export function rate(perSecond) {
  if (perSecond === null || perSecond === undefined) return NONE;
  return `${perSecond >= 10 || perSecond === 0 ? count(perSecond) : digits(perSecond)}/s`;
}

/** Two digits that mean something: percentiles are estimates within a bucket. */
function digits(number) {
  if (number >= 10) return WHOLE.format(number);
  return number >= 1 ? number.toFixed(1) : number.toFixed(2);
}

/** A latency. */
export function duration(seconds) {
  if (seconds === null || seconds === undefined) return NONE;
  if (seconds < 1e-6) return "under 1 µs";
  if (seconds < 0.9995e-3) return `${digits(seconds * 1e6)} µs`;
  if (seconds < 0.9995) return `${digits(seconds * 1e3)} ms`;
  return seconds < 120 ? `${digits(seconds)} s` : span(seconds);
}

/** A stretch of time, in its two largest units. */
export function span(seconds) {
  let whole = Math.max(Math.floor(seconds), 0);
  const parts = [];
  for (const [unit, length] of [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]]) {
    if (whole >= length || (unit === "s" && parts.length === 0)) {
      parts.push(`${Math.floor(whole / length)} ${unit}`);
      whole %= length;
    } else if (parts.length > 0) {
      break;
    }
    if (parts.length === 2) break;
  }
  return parts.join(" ");
}

export function bytes(number) {
  if (number === null || number === undefined) return NONE;
  let [size, unit] = [number, "B"];
  for (const next of ["KiB", "MiB", "GiB", "TiB"]) {
    if (size < 1024) break;
    [size, unit] = [size / 1024, next];
  }
  return `${unit === "B" || size >= 100 ? Math.round(size) : digits(size)} ${unit}`;
}

/** An instant, in the reader's time zone; the day only when it is another. */
export function clock(millis, now) {
  const at = new Date(millis);
  const two = (number) => String(number).padStart(2, "0");
  const time = [at.getHours(), at.getMinutes(), at.getSeconds()].map(two).join(":");
  const day = [at.getFullYear(), at.getMonth() + 1, at.getDate()].map(two).join("-");
  return new Date(now).toDateString() === at.toDateString() ? time : `${day} ${time}`;
}
