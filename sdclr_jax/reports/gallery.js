"use strict";
// The page's data: scores (names), classes, groups (of each class), shown (how many of the images have a tile; the
// others are neighbours only), images: [id, path, class or null, rank, [scores], [neighbours]]. Sprites are laid out by
// `columns` and `sheet` images a sheet.
const data = JSON.parse(document.getElementById("data").textContent);
const [ID, PATH, CLASS, RANK, SCORES, NEAR] = [0, 1, 2, 3, 4, 5];
const by = (id) => document.getElementById(id);
const form = by("filters"), grid = by("grid"), rack = by("rack"), detail = by("detail");
const WIDTH = 78, HEIGHT = 94; // of a tile and the gap to the next, in pixels

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

function picture(i) {
  const place = i % data.sheet;
  const made = element("span", { class: `picture s${Math.floor(i / data.sheet)}` });
  made.style.setProperty("--x", place % data.columns);
  made.style.setProperty("--y", Math.floor(place / data.columns));
  return made;
}

const className = (image) => (image[CLASS] === null ? "" : data.classes[image[CLASS]]);
const score = (image) => image[SCORES][+form.score.value];
const caption = (image) => element("span", { class: "caption" }, className(image) || `${image[RANK]}`);
const digits = (x) => x.toPrecision(3);
const words = (image) =>
  [className(image) && `class ${className(image)}`, `rank ${image[RANK]}`, image[ID]].filter(Boolean).join(", ");

let view = []; // indices of the images that pass the filters, in order
let place = new Map(); // index of such an image -> its place in `view`
let current = -1; // index of the image whose details are shown
let columns = 1;
const live = new Map(); // index of an image -> its tile, of those near what can be seen, and the current one

function tileOf(i) {
  const image = data.images[i];
  const tile = element("div", { class: "tile", role: "option", "aria-label": words(image) }, picture(i), caption(image));
  tile.dataset.image = i;
  return tile;
}

// Ten thousand tiles would take a second to lay out again at every key: only those near the window exist.
function draw() {
  columns = Math.max(1, Math.floor(grid.clientWidth / WIDTH));
  rack.style.height = `${Math.ceil(view.length / columns) * HEIGHT}px`;
  const first = Math.max(0, (Math.floor(grid.scrollTop / HEIGHT) - 2) * columns);
  const last = (Math.ceil((grid.scrollTop + grid.clientHeight) / HEIGHT) + 2) * columns;
  const wanted = new Set(view.slice(first, last));
  if (place.has(current)) wanted.add(current); // or the keyboard would lose its place
  for (const [i, tile] of live)
    if (!wanted.has(i)) {
      tile.remove();
      live.delete(i);
    }
  for (const i of wanted) {
    if (!live.has(i)) rack.append(live.set(i, tileOf(i)).get(i));
    const tile = live.get(i), at = place.get(i);
    tile.style.left = `${(at % columns) * WIDTH}px`;
    tile.style.top = `${Math.floor(at / columns) * HEIGHT}px`;
    tile.tabIndex = i === current ? 0 : -1; // one tile at a time is a stop of the Tab key; arrows move between them
    tile.setAttribute("aria-selected", i === current);
    tile.setAttribute("aria-posinset", at + 1);
    tile.setAttribute("aria-setsize", view.length);
  }
}

function filter() {
  const text = form.text.value.trim().toLowerCase();
  const bound = (field, without) => (field.value === "" || !Number.isFinite(+field.value) ? without : +field.value);
  const low = bound(form.low, -Infinity), high = bound(form.high, Infinity);
  const only = form.only ? form.only.value : "";
  const keep = (image) =>
    (only === "" || only === `class ${image[CLASS]}` || only === `group ${data.groups[image[CLASS]]}`) &&
    score(image) >= low && score(image) <= high &&
    (text === "" || image[ID].toLowerCase().includes(text) || image[PATH].toLowerCase().includes(text));
  view = [...Array(data.shown).keys()].filter((i) => keep(data.images[i]));
  const sign = form.order.value === "most" ? -1 : 1;
  view.sort((a, b) => sign * (score(data.images[a]) - score(data.images[b])) || a - b);
  place = new Map(view.map((i, at) => [i, at]));
  by("count").textContent = `${view.length} of ${data.shown} images`;
  by("none").hidden = view.length > 0;
  grid.scrollTop = 0;
  select(view.length ? view[0] : -1);
}

function select(i, focus = false) {
  if (current !== i || i < 0) show(i);
  current = i;
  if (place.has(i)) {
    const top = Math.floor(place.get(i) / columns) * HEIGHT;
    grid.scrollTop = Math.min(top, Math.max(grid.scrollTop, top + HEIGHT - grid.clientHeight));
  }
  draw();
  if (focus && live.has(i)) live.get(i).focus({ preventScroll: true });
}

function show(i) {
  detail.replaceChildren();
  if (i < 0) return;
  const image = data.images[i];
  const list = (facts) =>
    element("dl", {}, ...facts.filter(([, value]) => value).flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]));
  const large = picture(i);
  large.classList.add("large");
  large.setAttribute("role", "img");
  large.setAttribute("aria-label", words(image));
  const near = element("div", { class: "near" });
  for (const j of image[NEAR]) {
    const tag = j < data.shown ? "button" : "span"; // one without a tile is only looked at
    const other = element(tag, { class: "tile", title: words(data.images[j]) }, picture(j), caption(data.images[j]));
    other.setAttribute("aria-label", `neighbour: ${words(data.images[j])}`);
    if (tag === "button") other.addEventListener("click", () => visit(j));
    else other.setAttribute("role", "img");
    near.append(other);
  }
  detail.append(large, list([
    ["Class", className(image) && `${className(image)} (${data.groups[image[CLASS]]})`],
    ["Rank", `${image[RANK]} of ${data.total}`],
    ["Id", image[ID]],
    ["Path", image[PATH]],
  ]));
  if (image[NEAR].length) detail.append(element("h3", {}, "Nearest in feature space"), near);
  detail.append(element("h3", {}, "Scores"), list(data.scores.map((name, j) => [name, digits(image[SCORES][j])])));
}

function visit(i) {
  if (place.has(i)) return select(i, true);
  form.reset();
  setTimeout(() => select(i, true)); // after the filter that the reset asks for, which selects the first image
}

function move(event) {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  const page = Math.max(1, Math.floor(grid.clientHeight / HEIGHT)) * columns;
  const steps = {
    ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns, PageDown: page, PageUp: -page,
    Home: -Infinity, End: Infinity,
  };
  if (!(event.key in steps) || !view.length) return;
  event.preventDefault();
  select(view[Math.min(Math.max(place.get(current) + steps[event.key], 0), view.length - 1)], true);
}

form.addEventListener("input", filter);
form.addEventListener("submit", (event) => event.preventDefault());
form.addEventListener("reset", () => setTimeout(filter)); // once the fields are empty
grid.addEventListener("keydown", move);
grid.addEventListener("click", (event) => {
  const tile = event.target.closest(".tile");
  if (tile) select(+tile.dataset.image, true);
});
grid.addEventListener("scroll", () => requestAnimationFrame(draw));
new ResizeObserver(draw).observe(grid);
filter();
