"use strict";
// The page's data: scores (names), classes, groups (of each class), shown (how many of the images have a tile; the
// others are neighbours only), images: [id, path, class or null, rank, [scores], [neighbours]]. Sprites are laid out by
// `columns` and `sheet` images a sheet.
const data = JSON.parse(document.getElementById("data").textContent);
const [ID, PATH, CLASS, RANK, SCORES, NEAR] = [0, 1, 2, 3, 4, 5];
const by = (id) => document.getElementById(id);
const form = by("filters"), grid = by("grid"), detail = by("detail");

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
const digits = (x) => x.toPrecision(3);
const words = (image) =>
  [className(image) && `class ${className(image)}`, `rank ${image[RANK]}`, image[ID]].filter(Boolean).join(", ");

// Tiles are made once; filters and order only choose among them.
const tiles = data.images.slice(0, data.shown).map((image, i) => {
  const caption = element("span", { class: "caption" }, className(image) || `${image[RANK]}`);
  const tile = element("div", { class: "tile", role: "option", tabindex: "-1", "aria-selected": "false" }, picture(i), caption);
  tile.setAttribute("aria-label", words(image));
  tile.dataset.image = i;
  return tile;
});
let view = []; // indices of the images shown, in order
let current = -1; // index of the image whose details are shown

function filter() {
  const text = form.text.value.trim().toLowerCase();
  const bound = (field, without) => (field.value === "" || !Number.isFinite(+field.value) ? without : +field.value);
  const low = bound(form.low, -Infinity), high = bound(form.high, Infinity);
  const only = form.only ? form.only.value : "";
  const keep = (image) =>
    (only === "" || only === `class ${image[CLASS]}` || only === `group ${data.groups[image[CLASS]]}`) &&
    score(image) >= low && score(image) <= high &&
    (text === "" || image[ID].toLowerCase().includes(text) || image[PATH].toLowerCase().includes(text));
  view = [...tiles.keys()].filter((i) => keep(data.images[i]));
  const sign = form.order.value === "most" ? -1 : 1;
  view.sort((a, b) => sign * (score(data.images[a]) - score(data.images[b])) || a - b);
  const fragment = document.createDocumentFragment();
  for (const i of view) fragment.append(tiles[i]);
  grid.replaceChildren(fragment);
  grid.scrollTop = 0;
  by("count").textContent = `${view.length} of ${tiles.length} images`;
  by("none").hidden = view.length > 0;
  select(view.includes(current) ? current : view.length ? view[0] : -1);
}

// One tile at a time is a stop of the Tab key; arrows move between them.
function select(i, focus = false) {
  const before = tiles[current];
  if (before) before.setAttribute("aria-selected", "false"), (before.tabIndex = -1);
  current = i;
  show(i);
  const tile = tiles[i];
  if (!tile) return;
  tile.setAttribute("aria-selected", "true");
  tile.tabIndex = 0;
  if (focus) tile.focus();
}

function show(i) {
  detail.replaceChildren();
  if (i < 0) return;
  const image = data.images[i];
  const facts = element("dl");
  const fact = (name, value) => value && facts.append(element("dt", {}, name), element("dd", {}, value));
  fact("Class", className(image) && `${className(image)} (${data.groups[image[CLASS]]})`);
  fact("Rank", `${image[RANK]} of ${data.total}`);
  fact("Id", image[ID]);
  fact("Path", image[PATH]);
  data.scores.forEach((name, j) => fact(name, digits(image[SCORES][j])));
  const large = picture(i);
  large.classList.add("large");
  large.setAttribute("role", "img");
  large.setAttribute("aria-label", words(image));
  const near = element("div", { class: "near" });
  for (const j of image[NEAR]) {
    const tag = j < tiles.length ? "button" : "span"; // one without a tile is only looked at
    const other = element(tag, { class: "tile", title: words(data.images[j]) });
    other.append(picture(j), element("span", { class: "caption" }, className(data.images[j]) || `${data.images[j][RANK]}`));
    other.setAttribute("aria-label", `neighbour: ${words(data.images[j])}`);
    if (tag === "button") other.addEventListener("click", () => visit(j));
    else other.setAttribute("role", "img");
    near.append(other);
  }
  detail.append(large, facts);
  if (image[NEAR].length) detail.append(element("h3", {}, "Nearest in feature space"), near);
}

function visit(i) {
  if (!view.includes(i)) {
    form.reset();
    filter();
  }
  select(i, true);
}

function move(event) {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  const columns = getComputedStyle(grid).gridTemplateColumns.split(" ").length;
  const rows = Math.max(1, Math.floor(grid.clientHeight / tiles[current]?.offsetHeight || 1));
  const steps = {
    ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns, PageDown: rows * columns,
    PageUp: -rows * columns, Home: -Infinity, End: Infinity,
  };
  if (!(event.key in steps) || !view.length) return;
  event.preventDefault();
  const place = view.indexOf(current) + steps[event.key];
  select(view[Math.min(Math.max(place, 0), view.length - 1)], true);
}

form.addEventListener("input", filter);
form.addEventListener("submit", (event) => event.preventDefault());
form.addEventListener("reset", () => setTimeout(filter));
grid.addEventListener("keydown", move);
grid.addEventListener("click", (event) => {
  const tile = event.target.closest(".tile");
  if (tile) select(+tile.dataset.image, true);
});
filter();
