// Putting figures on the page. Names and reasons come from callers and from Redis: whatever is
// shown goes through textContent or an attribute, never through markup. Elements are kept from one
// poll to the next and changed only where something is new, so that focus, selection and open
// details stay where they are.

const SVG = "http://www.w3.org/2000/svg";

export function byId(id) {
  return document.getElementById(id);
}

export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export function setAttribute(element, name, value) {
  if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value);
}

/** An element with attributes and children; strings become text. */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** A state in words, with a sign that does not need colour. */
export function setState(element, state, words) {
  setAttribute(element, "data-state", state);
  setText(element, words);
}

/**
 * Makes the children of `parent` one per item, in order. `create` makes an element for a new key;
 * `update` brings it up to date.
 */
export function keyed(parent, items, keyOf, create, update) {
  const focused = parent.contains(document.activeElement) ? document.activeElement : null;
  const known = new Map();
  for (const child of [...parent.children]) known.set(child.dataset.key, child);
  let place = parent.firstElementChild;
  for (const item of items) {
    const key = keyOf(item);
    let element = known.get(key);
    known.delete(key);
    if (!element) {
      element = create(item);
      element.dataset.key = key;
    }
    update(element, item);
    if (element === place) place = place.nextElementSibling;
    else parent.insertBefore(element, place);
  }
  for (const left of known.values()) left.remove();
  // What is moved loses the focus.
  if (focused?.isConnected && document.activeElement !== focused) {
    focused.focus({ preventScroll: true });
  }
}

/** Term and figure, side by side; `null` entries are left out. A third item is a warning's state. */
export function facts(list, entries) {
  keyed(list, entries.filter((it) => it), ([term]) => term,
    ([term]) => make("div", {}, make("dt", {}, term), make("dd", {})),
    (row, [, figure, state]) => {
      setText(row.lastChild, figure);
      setAttribute(row.lastChild, "data-state", state ?? "plain");
    });
}

/**
 * Rows of a table. A column has `name`, `text` (of an item), and perhaps `bar` (0 to 1), `range`
 * ([p50, p99] in seconds), `state`, `words` (left-aligned). The first column heads its row.
 */
export function rows(table, columns, items, keyOf) {
  keyed(table.tBodies[0], items, keyOf,
    () => make("tr", { role: "row" }, ...columns.map((column, index) => {
      const cell = index === 0
        ? make("th", { scope: "row", role: "rowheader" })
        : make("td", { role: "cell", "data-label": column.name });
      if (column.words) cell.classList.add("words");
      if (column.whole) cell.classList.add("whole");
      cell.append(make("span", { class: "figure" }));
      if (column.bar) cell.append(make("span", { class: "bar", "aria-hidden": "true" }, make("i")));
      if (column.range) cell.append(rangeMark());
      return cell;
    })),
    (row, item) => columns.forEach((column, index) => {
      const cell = row.cells[index];
      const text = column.text(item);
      setText(cell.firstChild, text);
      cell.classList.toggle("muted", text === "0" || text === "0/s");
      if (column.state) setAttribute(cell, "data-state", column.state(item));
      if (column.bar) setWidth(cell.lastChild.firstChild, column.bar(item) ?? 0);
      if (column.range) setRange(cell.lastChild, column.range(item));
    }));
}

/** The header of a table without sorting. */
export function head(table, columns) {
  table.tHead.replaceChildren(make("tr", { role: "row" }, ...columns.map((column) =>
    make("th", { scope: "col", role: "columnheader", class: column.words ? "words" : "" },
      column.name))));
}

function setWidth(element, ratio) {
  // By CSSOM: the policy allows no style attributes.
  element.style.width = `${(Math.min(Math.max(ratio, 0), 1) * 100).toFixed(1)}%`;
}

/** Parts of a whole: [[class, weight], …]. */
export function split(element, parts) {
  const sum = parts.reduce((all, [, weight]) => all + weight, 0);
  keyed(element, parts, ([name]) => name, ([name]) => make("i", { class: name }),
    (part, [, weight]) => setWidth(part, sum > 0 ? weight / sum : 0));
  setAttribute(element, "data-empty", sum === 0);
}

/** What is used of a limit, as an item of a list. */
export function meters(list, entries) {
  keyed(list, entries, (it) => it.name,
    (it) => make("li", {},
      make("span", { class: "name" }, it.name),
      make("span", { class: "figure" }),
      make("span", { class: "meter", role: "meter", "aria-label": it.name, "aria-valuemin": "0" },
        make("i"))),
    (item, it) => {
      const [, figure, meter] = item.children;
      const ratio = it.limit > 0 ? it.used / it.limit : 0;
      setText(figure, `${it.words(it.used)} of ${it.words(it.limit)}`);
      setAttribute(meter, "aria-valuemax", it.limit);
      setAttribute(meter, "aria-valuenow", Math.min(it.used, it.limit));
      setAttribute(meter, "aria-valuetext", figure.textContent);
      setAttribute(item, "data-state", it.warn && ratio >= it.warn ? "warn" : "plain");
      setWidth(meter.firstChild, ratio);
    });
}

function svg(tag, attributes) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

/** A line through the values, 0 at the bottom; null leaves a gap. `top` is at least its height. */
export function trend(element, values, top) {
  const highest = Math.max(top, ...values.map((it) => it ?? 0)) || 1;
  const step = 100 / Math.max(values.length - 1, 1);
  let path = "";
  let drawing = false;
  values.forEach((value, index) => {
    if (value === null) {
      drawing = false;
      return;
    }
    const [x, y] = [index * step, 23 - (value / highest) * 22];
    path += `${drawing ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`;
    drawing = true;
  });
  if (!element.firstChild) {
    setAttribute(element, "viewBox", "0 0 100 24");
    setAttribute(element, "preserveAspectRatio", "none");
    element.append(svg("path", { class: "base", d: "M0 23.5H100" }), svg("path", { class: "line" }));
  }
  setAttribute(element.lastChild, "d", path || "M0 0");
}

/** Stretches of time side by side: [[begin, end, class], …] between `from` and `to`. */
export function strip(element, stretches, from, to) {
  setAttribute(element, "viewBox", "0 0 100 8");
  setAttribute(element, "preserveAspectRatio", "none");
  const length = Math.max(to - from, 1);
  // What is short is drawn last, on top.
  const ordered = [...stretches].sort((one, other) => (one[2] === "away") - (other[2] === "away"));
  element.replaceChildren(...ordered.map(([begin, end, kind]) => {
    const x = ((begin - from) / length) * 100;
    // A short outage must still be seen.
    const width = Math.max(((end - begin) / length) * 100, kind === "away" ? 1.5 : 0);
    const at = Math.min(x, 100 - width).toFixed(2);
    return svg("rect", { x: at, y: 0, width: width.toFixed(2), height: 8, class: kind });
  }));
}

/** Place of a latency between 1 µs and 10 s, by its logarithm. */
function decade(seconds) {
  return Math.min(Math.max((Math.log10(Math.max(seconds, 1e-9)) + 6) / 7, 0), 1) * 100;
}

function rangeMark() {
  const mark = svg("svg", { class: "range", viewBox: "0 0 100 8", "aria-hidden": "true",
    preserveAspectRatio: "none" });
  for (let power = 0; power <= 7; power++) {
    mark.append(svg("path", { class: "base", d: `M${(power * 100) / 7} 2.5V5.5` }));
  }
  mark.append(svg("rect", { y: 2, height: 4, rx: 1 }));
  return mark;
}

function setRange(mark, [p50, p99]) {
  const [from, to] = [decade(p50 ?? 0), decade(p99 ?? 0)];
  setAttribute(mark.lastChild, "x", from.toFixed(1));
  setAttribute(mark.lastChild, "width", p50 === null ? 0 : Math.max(to - from, 2).toFixed(1));
}
