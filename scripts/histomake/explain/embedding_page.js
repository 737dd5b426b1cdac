// The embedding page: draws the map, colours it, shows the patch under the pointer, selects patches.
// Everything is drawn on a 2-D canvas, also the map of three dimensions, so that no browser needs WebGL.
"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const NONE = "rgb(170,170,170)";
const VIRIDIS = ["#440154", "#482878", "#3e4a89", "#31688e", "#26828e", "#1f9e89", "#35b779", "#6ece58", "#b5de2b", "#fde725"];
const DEPTHS = 64; // Steps from back to front: near points cover far ones.
const NEAR = 8; // Pixels from the pointer to a point that it shows.
const $ = (id) => document.getElementById(id);
const canvas = $("plot");

function floats(text) {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  return new Float32Array(bytes.buffer);
}

// Coordinates around 0. The map of two dimensions has a third one that is 0.
function centred(axes) {
  const ends = axes.map((values) => values.reduce(([low, high], v) => [Math.min(low, v), Math.max(high, v)], [Infinity, -Infinity]));
  const half = Math.max(...ends.map(([low, high]) => (high - low) / 2), 1e-6);
  return axes.map((values, i) => values.map((v) => (v - (ends[i][0] + ends[i][1]) / 2) / half));
}

const raw = { plane: data.plane.map(floats), space: data.space.map(floats) };
const count = raw.plane[0].length;
const maps = { 2: [...centred(raw.plane), new Float32Array(count)], 3: centred(raw.space) };
const numbers = Object.fromEntries(Object.entries(data.numbers).map(([name, text]) => [name, floats(text)]));
const size = count > 10000 ? 3 : count > 2000 ? 4 : 6;

const view = { turn: 0.6, tilt: 0.4, zoom: 1, x: 0, y: 0 };
const screen = { x: new Float32Array(count), y: new Float32Array(count), depth: new Float32Array(count) };
let colours = [];
let hidden = new Set();
let selected = [];
let pinned = null;
let lasso = null;

const checked = (name) => document.querySelector(`input[name=${name}]:checked`).value;
const dimensions = () => Number(checked("map"));

// --- colours -------------------------------------------------------------------------------------------------------

function legendOf(by) {
  if (!(by in numbers)) {
    const { names, codes } = data.categories[by];
    const colour = (code) => (code < 0 ? NONE : data.palette[code % data.palette.length]);
    colours = codes.map(colour);
    return [...new Set(codes)].sort((a, b) => a - b).map((code) => [colour(code), code < 0 ? "none" : names[code], code]);
  }
  const values = numbers[by];
  const known = Array.from(values).filter((v) => !Number.isNaN(v));
  const share = known.every((v) => v >= 0 && v <= 1);
  const low = share ? 0 : Math.min(...known);
  const high = share ? 1 : Math.max(...known);
  const step = (v) => Math.max(0, Math.min(VIRIDIS.length - 1, Math.floor(((v - low) / (high - low || 1)) * VIRIDIS.length)));
  colours = Array.from(values, (v) => (Number.isNaN(v) ? NONE : VIRIDIS[step(v)]));
  const from = (i) => (low + ((high - low) * i) / VIRIDIS.length).toPrecision(3);
  return VIRIDIS.map((colour, i) => [colour, `from ${from(i)}`, null]);
}

// Groups can be hidden by a click on their name.
function showLegend() {
  hidden = new Set();
  $("legend").replaceChildren(...legendOf($("colour").value).map(([colour, name, code]) => {
    const line = document.createElement("div");
    line.append(Object.assign(document.createElement("i"), { style: `background:${colour}` }), name);
    if (code !== null) {
      line.className = "group";
      line.addEventListener("click", () => {
        if (!hidden.delete(code)) hidden.add(code);
        line.classList.toggle("off", hidden.has(code));
        draw();
      });
    }
    return line;
  }));
  draw();
}

function isHidden(i) {
  return hidden.size > 0 && hidden.has(data.categories[$("colour").value].codes[i]);
}

// --- drawing -------------------------------------------------------------------------------------------------------

function project() {
  const [x, y, z] = maps[dimensions()];
  const flat = dimensions() === 2;
  const [ct, st, cp, sp] = flat ? [1, 0, 1, 0] : [Math.cos(view.turn), Math.sin(view.turn), Math.cos(view.tilt), Math.sin(view.tilt)];
  const scale = (Math.min(canvas.clientWidth, canvas.clientHeight) / (flat ? 2.1 : 3)) * view.zoom;
  const [left, top] = [canvas.clientWidth / 2 + view.x, canvas.clientHeight / 2 + view.y];
  for (let i = 0; i < count; i += 1) {
    const across = ct * x[i] + st * z[i];
    const away = ct * z[i] - st * x[i];
    screen.x[i] = left + scale * across;
    screen.y[i] = top - scale * (cp * y[i] - sp * away);
    screen.depth[i] = cp * away + sp * y[i];
  }
}

// Indices of the points, the farthest first.
function order() {
  if (dimensions() === 2) return Array.from({ length: count }, (_, i) => i);
  const steps = Array.from({ length: DEPTHS }, () => []);
  for (let i = 0; i < count; i += 1) {
    steps[Math.max(0, Math.min(DEPTHS - 1, Math.floor(((screen.depth[i] + 1.8) / 3.6) * DEPTHS)))].push(i);
  }
  return steps.reverse().flat();
}

function draw() {
  const ratio = window.devicePixelRatio || 1;
  canvas.width = canvas.clientWidth * ratio;
  canvas.height = canvas.clientHeight * ratio;
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  project();
  const chosen = new Set(selected);
  for (const i of order()) {
    if (isHidden(i)) continue;
    context.globalAlpha = chosen.size && !chosen.has(i) ? 0.15 : 0.85;
    context.fillStyle = colours[i];
    const edge = dimensions() === 3 ? size * (1 - 0.3 * screen.depth[i]) : size;
    context.fillRect(screen.x[i] - edge / 2, screen.y[i] - edge / 2, edge, edge);
  }
  context.globalAlpha = 1;
  context.strokeStyle = "#000";
  if (pinned !== null) context.strokeRect(screen.x[pinned] - 6, screen.y[pinned] - 6, 12, 12);
  if (lasso) {
    context.beginPath();
    for (const [x, y] of lasso) context.lineTo(x, y);
    context.stroke();
  }
}

// --- the patch under the pointer -----------------------------------------------------------------------------------

function nearest(x, y) {
  let best = null;
  let least = NEAR * NEAR;
  for (let i = 0; i < count; i += 1) {
    const away = (screen.x[i] - x) ** 2 + (screen.y[i] - y) ** 2;
    // Of points in one place, the front one.
    if (!isHidden(i) && (away < least || (best !== null && away === least && screen.depth[i] < screen.depth[best]))) {
      best = i;
      least = away;
    }
  }
  return best;
}

function facts(i) {
  const rows = Object.entries(data.categories).map(([name, c]) => [name, c.codes[i] < 0 ? "none" : c.names[c.codes[i]]]);
  for (const name of ["patch_id", "x", "y"]) rows.push([name, data.ids[name][i]]);
  for (const [name, values] of Object.entries(numbers)) {
    rows.push([name, Number.isNaN(values[i]) ? "none" : values[i].toFixed(3)]);
  }
  return rows;
}

// Address of a patch in the viewer, in the middle of a view three patches wide.
function address(i) {
  const { names, codes } = data.categories.slide_id;
  const { x, y, span } = data.ids;
  const place = [x[i] - span[i], y[i] - span[i], 3 * span[i], 3 * span[i]].map(Math.round).join(",");
  return `${$("viewer").value.replace(/\/+$/, "")}/slide/${encodeURIComponent(names[codes[i]])}#${place}`;
}

function show(i) {
  const { px, columns, rows, images } = data.atlas;
  const sheet = Math.floor(i / (columns * rows));
  const place = i % (columns * rows);
  const zoom = 160 / px;
  const thumb = $("thumb");
  thumb.style.backgroundImage = `url(${images[sheet]})`;
  thumb.style.backgroundSize = `${columns * px * zoom}px auto`;
  thumb.style.backgroundPosition = `-${(place % columns) * px * zoom}px -${Math.floor(place / columns) * px * zoom}px`;
  $("facts").replaceChildren();
  for (const [name, value] of facts(i)) {
    $("facts").append(Object.assign(document.createElement("dt"), { textContent: name }));
    $("facts").append(Object.assign(document.createElement("dd"), { textContent: value }));
  }
  $("open").href = address(i);
  $("card").style.display = "block";
}

// --- selection -----------------------------------------------------------------------------------------------------

// Whether a point lies in a polygon, by the even-odd rule.
function within(polygon, x, y) {
  let inside = false;
  for (let i = 0, j = polygon.length - 1; i < polygon.length; j = i, i += 1) {
    const [[ax, ay], [bx, by]] = [polygon[i], polygon[j]];
    if (ay > y !== by > y && x < ((bx - ax) * (y - ay)) / (by - ay) + ax) inside = !inside;
  }
  return inside;
}

function select(indices) {
  selected = indices;
  $("count").textContent = selected.length ? `${selected.length} patches selected` : "";
  $("save").disabled = !selected.length;
  draw();
}

function csv() {
  const axes = [["umap2_x", raw.plane[0]], ["umap2_y", raw.plane[1]], ["umap3_x", raw.space[0]], ["umap3_y", raw.space[1]],
    ["umap3_z", raw.space[2]]];
  const header = [...facts(0).map(([name]) => name), ...axes.map(([name]) => name)];
  const quoted = (value) => (/[",\r\n]/.test(value) ? `"${String(value).replaceAll('"', '""')}"` : value);
  const lines = selected.map((i) => [...facts(i).map(([, value]) => quoted(value)), ...axes.map(([, v]) => v[i])].join(","));
  return [header.map(quoted).join(","), ...lines].join("\n") + "\n";
}

// --- events --------------------------------------------------------------------------------------------------------

let start = null;

canvas.addEventListener("pointerdown", (event) => {
  start = { x: event.offsetX, y: event.offsetY, last: [event.offsetX, event.offsetY], moved: false };
  canvas.setPointerCapture(event.pointerId);
});

canvas.addEventListener("pointermove", (event) => {
  const [x, y] = [event.offsetX, event.offsetY];
  if (!start) {
    const found = nearest(x, y);
    if (found !== null && pinned === null) show(found);
    return;
  }
  start.moved ||= Math.hypot(x - start.x, y - start.y) > 3;
  const [dx, dy] = [x - start.last[0], y - start.last[1]];
  start.last = [x, y];
  if (checked("drag") === "lasso") {
    lasso ??= [[start.x, start.y]];
    lasso.push([x, y]);
  } else if (dimensions() === 3 && !event.shiftKey) {
    view.turn += dx / 150;
    view.tilt = Math.max(-Math.PI / 2, Math.min(Math.PI / 2, view.tilt + dy / 150));
  } else {
    view.x += dx;
    view.y += dy;
  }
  draw();
});

canvas.addEventListener("pointerup", (event) => {
  if (!start) return;
  if (lasso && start.moved) {
    const polygon = lasso;
    lasso = null;
    select(Array.from({ length: count }, (_, i) => i).filter((i) => !isHidden(i) && within(polygon, screen.x[i], screen.y[i])));
  } else if (!start.moved) {
    lasso = null;
    pinned = nearest(event.offsetX, event.offsetY);
    if (pinned === null) {
      $("card").style.display = "none";
      select([]);
    } else show(pinned);
    draw();
  }
  start = null;
});

canvas.addEventListener("wheel", (event) => {
  event.preventDefault();
  const factor = Math.exp(-event.deltaY / 500);
  const [x, y] = [event.offsetX - canvas.clientWidth / 2, event.offsetY - canvas.clientHeight / 2];
  view.x = x - (x - view.x) * factor;
  view.y = y - (y - view.y) * factor;
  view.zoom *= factor;
  draw();
}, { passive: false });

canvas.addEventListener("dblclick", () => {
  Object.assign(view, { zoom: 1, x: 0, y: 0 });
  draw();
});

$("save").addEventListener("click", () => {
  const url = URL.createObjectURL(new Blob([csv()], { type: "text/csv" }));
  Object.assign(document.createElement("a"), { href: url, download: "patches.csv" }).click();
  URL.revokeObjectURL(url);
});
$("viewer").addEventListener("change", () => { if (pinned !== null) show(pinned); });
for (const name of [...Object.keys(data.categories), ...Object.keys(numbers)]) $("colour").append(new Option(name, name));
$("colour").value = ["predicted", "label", "slide_id"].find((name) => name in data.categories) ?? Object.keys(numbers)[0];
$("colour").addEventListener("change", showLegend);
for (const radio of document.querySelectorAll("input[name=map], input[name=drag]")) radio.addEventListener("change", draw);
window.addEventListener("resize", draw);
showLegend();
