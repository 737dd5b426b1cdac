// Regions that are drawn in the viewer: kept in this browser, saved as GeoJSON, copied for the configuration.
"use strict";

const REGION = "#d55e00";
const LEAST = 4; // screen pixels; what is smaller was a click

const regions = { all: [], drawing: null };

const regionsKey = () => `regions of ${state.slide.slide_id} ${state.slide.sha256}`;

function openRegions() {
  regions.all = JSON.parse(localStorage.getItem(regionsKey()) ?? "[]");
  $("classes").append(...state.slide.class_order.map((name) => new Option(name)));
  state.viewer.addHandler("canvas-press", pressed);
  state.viewer.addHandler("canvas-drag", dragged);
  state.viewer.addHandler("canvas-release", released);
  $("draw").addEventListener("click", () => toggleDrawing());
  $("save").addEventListener("click", () => download(`${state.slide.slide_id}.geojson`, JSON.stringify(asGeoJson(), null, 1)));
  $("copy").addEventListener("click", copyRegions);
  listRegions();
}

function toggleDrawing(on = $("draw").getAttribute("aria-pressed") !== "true") {
  $("draw").setAttribute("aria-pressed", on);
  $("stage").classList.toggle("drawing", on);
}

// "r" starts or ends drawing, Escape ends it.
function regionKey(event) {
  if (!state.viewer) return;
  if (event.key === "r") toggleDrawing();
  if (event.key === "Escape") { regions.drawing = null; toggleDrawing(false); drawOverlay(); }
}

function toSlide({ x, y }) {
  const view = transform();
  return [(x - view.x) / view.scale, (y - view.y) / view.scale];
}

function pressed(event) {
  if ($("draw").getAttribute("aria-pressed") === "true") regions.drawing = [toSlide(event.position)];
}

function dragged(event) {
  if (!regions.drawing) return;
  event.preventDefaultAction = true;
  regions.drawing.push(toSlide(event.position));
  drawOverlay();
}

function released(event) {
  const path = regions.drawing;
  regions.drawing = null;
  if (!path) return;
  const ring = outlineOf([...path, toSlide(event.position)]);
  const { width, height } = boxOf(ring);
  if (Math.min(width, height) * transform().scale >= LEAST) {
    regions.all.push({ class: $("class").value.trim() || "region", ring });
    keepRegions();
  }
  drawOverlay();
}

const within = (value, end) => Math.round(Math.max(0, Math.min(end, value)));

// Corners of what was drawn, in whole level-0 pixels within the slide: of a rectangle, or of the path itself.
function outlineOf(path) {
  const points = path.map(([x, y]) => [within(x, state.slide.width), within(y, state.slide.height)]);
  const [[x0, y0], [x1, y1]] = [points[0], points.at(-1)];
  const ring = $("shape").value === "rectangle" ? [[x0, y0], [x1, y0], [x1, y1], [x0, y1]] : points;
  return ring.filter(([x, y], i) => !i || x !== ring[i - 1][0] || y !== ring[i - 1][1]);
}

function boxOf(ring) {
  const [xs, ys] = [ring.map(([x]) => x), ring.map(([, y]) => y)];
  const [x, y] = [Math.min(...xs), Math.min(...ys)];
  return { x, y, width: Math.max(...xs) - x, height: Math.max(...ys) - y };
}

function keepRegions() {
  localStorage.setItem(regionsKey(), JSON.stringify(regions.all));
  listRegions();
}

function listRegions() {
  $("regions").replaceChildren(...regions.all.map((region, i) => {
    const line = document.createElement("div");
    const { x, y, width, height } = boxOf(region.ring);
    const place = [x, y, width, height].join(",");
    const link = Object.assign(document.createElement("a"), { href: `#${place}`, textContent: `${region.class}: ${place}` });
    const remove = Object.assign(document.createElement("button"), { textContent: "×", title: `remove ${region.class}` });
    remove.setAttribute("aria-label", `remove ${region.class} ${place}`);
    remove.addEventListener("click", () => { regions.all.splice(i, 1); keepRegions(); drawOverlay(); });
    line.append(link, remove);
    return line;
  }));
  $("save").disabled = $("copy").disabled = !regions.all.length;
}

function drawRegions(context, view) {
  const rings = [...regions.all.map(({ ring }) => ring), ...(regions.drawing ? [outlineOf(regions.drawing)] : [])];
  context.globalAlpha = 1;
  context.strokeStyle = REGION;
  context.lineWidth = 2 / view.scale;
  for (const ring of rings) {
    context.beginPath();
    for (const [x, y] of ring) context.lineTo(x, y);
    context.closePath();
    context.stroke();
  }
}

// As QuPath writes annotations: level-0 pixels, rings closed, the class by name.
function asGeoJson() {
  return {
    type: "FeatureCollection",
    features: regions.all.map(({ class: name, ring }) => ({
      type: "Feature",
      geometry: { type: "Polygon", coordinates: [[...ring, ring[0]]] },
      properties: { objectType: "annotation", classification: { name } },
    })),
  };
}

// Lines for explain.regions in config.yaml; of an outline, the box around it.
function asConfig() {
  const lines = regions.all.map(({ ring }) => {
    const { x, y, width, height } = boxOf(ring);
    return `    - [${JSON.stringify(state.slide.slide_id)}, ${x}, ${y}, ${width}, ${height}]`;
  });
  return ["explain:", "  regions:", ...lines, ""].join("\n");
}

async function copyRegions() {
  await navigator.clipboard.writeText(asConfig());
  $("copy").textContent = "copied";
  setTimeout(() => { $("copy").textContent = "copy for explain.regions"; }, 1500);
}

function download(name, text) {
  const url = URL.createObjectURL(new Blob([text], { type: "application/geo+json" }));
  Object.assign(document.createElement("a"), { href: url, download: name }).click();
  URL.revokeObjectURL(url);
}
