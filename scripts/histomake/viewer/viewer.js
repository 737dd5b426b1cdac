// The viewer's page: deep zoom of a slide, overlays that follow it, and what is known of a patch that is clicked.
"use strict";

const PALETTE = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#5a5a5a"];
const TISSUE = [0, 158, 115];
const VIRIDIS = ["#440154", "#46327e", "#365c8d", "#277f8e", "#1fa187", "#4ac16d", "#a0da39", "#fde725"];
const $ = (id) => document.getElementById(id);

const state = { slide: null, viewer: null, store: null, overlay: null, tissue: null, annotation: null, chosen: null };
window.histomake = state;

async function json(url) {
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${url}: ${await response.text()}`);
  return response.json();
}

function currentSlide() {
  const parts = location.pathname.split("/").filter(Boolean);
  return parts[0] === "slide" && parts[1] ? decodeURIComponent(parts[1]) : null;
}

async function listSlides() {
  const slides = await json("/api/slides");
  for (const slide of slides) {
    const link = Object.assign(document.createElement("a"), {
      href: `/slide/${encodeURIComponent(slide.slide_id)}`,
      textContent: slide.status === "ok" ? slide.slide_id : `${slide.slide_id} (${slide.reason})`,
      className: slide.slide_id === currentSlide() ? "current" : slide.status === "ok" ? "" : "lost",
    });
    $("list").append(link);
  }
  return slides;
}

async function openSlide(id) {
  const slide = await json(`/api/slides/${encodeURIComponent(id)}`);
  state.slide = slide;
  document.title = $("title").textContent = slide.slide_id;
  if (slide.status !== "ok") {
    $("message").textContent = `In quarantine: ${slide.detail}. ${slide.remedy}`;
    return;
  }
  state.store = new SlideStore(slide);
  state.viewer = OpenSeadragon({
    element: $("slide"), tileSources: new StoreTileSource(state.store), showNavigationControl: false,
    showNavigator: true, navigatorPosition: "TOP_RIGHT", navigatorSizeRatio: 0.14, maxZoomPixelRatio: 4, animationTime: 0.4,
    drawer: "canvas", imageSmoothingEnabled: true, immediateRender: true, gestureSettingsMouse: { clickToZoom: false },
  });
  state.viewer.addHandler("update-viewport", drawOverlay);
  state.viewer.addHandler("canvas-click", (event) => event.quick && clicked(event.position));
  state.viewer.addHandler("open", drawOverlay);
  await loadOverlays(slide);
}

async function loadOverlays(slide) {
  slide.predictions.forEach(({ task, fold }, i) => $("task").append(new Option(`${task}, fold ${fold}`, i)));
  $("task").addEventListener("change", loadPredictions);
  for (const id of ["tissue", "annotation", "prediction", "shown"]) $(id).addEventListener("input", drawOverlay);
  if (slide.tissue) state.tissue = await tissueCanvas(slide.tissue.image);
  if (slide.annotation) state.annotation = (await json(`/${slide.annotation}`)).features;
  if (slide.predictions.length) await loadPredictions();
  drawOverlay();
}

async function tissueCanvas(url) {
  const image = await createImageBitmap(await (await fetch(`/${url}`)).blob());
  const canvas = Object.assign(document.createElement("canvas"), { width: image.width, height: image.height });
  const context = canvas.getContext("2d");
  context.drawImage(image, 0, 0);
  const pixels = context.getImageData(0, 0, image.width, image.height);
  for (let i = 0; i < pixels.data.length; i += 4) pixels.data.set([...TISSUE, pixels.data[i] ? 255 : 0], i);
  context.putImageData(pixels, 0, 0);
  return canvas;
}

async function loadPredictions() {
  const { task, fold } = state.slide.predictions[Number($("task").value || 0)];
  const found = await json(`/api/overlay/${encodeURIComponent(state.slide.slide_id)}/${task}/${fold}`);
  const scores = new Float32Array(decodeBase64(found.scores).buffer);
  state.overlay = {
    ...found, task, fold, scores,
    x: new Int32Array(decodeBase64(found.x).buffer),
    y: new Int32Array(decodeBase64(found.y).buffer),
    id: new Uint32Array(decodeBase64(found.patch_id).buffer),
  };
  $("shown").replaceChildren(new Option("class", "class"), ...found.classes.map((c, i) => new Option(`score of ${c}`, i)));
  drawOverlay();
}

function largest(i) {
  const { scores, count, classes } = state.overlay;
  let best = 0;
  for (let c = 1; c < classes.length; c += 1) if (scores[c * count + i] > scores[best * count + i]) best = c;
  return best;
}

function colourOf(i) {
  const shown = $("shown").value;
  if (shown === "class") return PALETTE[largest(i) % PALETTE.length];
  const score = state.overlay.scores[Number(shown) * state.overlay.count + i];
  return VIRIDIS[Math.min(VIRIDIS.length - 1, Math.floor(score * VIRIDIS.length))];
}

// From level-0 pixels to pixels of the stage, as the image is drawn at this moment.
function transform() {
  const item = state.viewer.world.getItemAt(0);
  const at = (x, y) => state.viewer.viewport.pixelFromPoint(item.imageToViewportCoordinates(x, y, true), true);
  const origin = at(0, 0);
  return { x: origin.x, y: origin.y, scale: (at(state.slide.width, 0).x - origin.x) / state.slide.width };
}

function drawOverlay() {
  if (!state.viewer || !state.viewer.world.getItemCount()) return;
  const canvas = $("overlay");
  const ratio = window.devicePixelRatio;
  const { clientWidth: width, clientHeight: height } = $("stage");
  if (canvas.width !== Math.round(width * ratio)) canvas.width = Math.round(width * ratio);
  if (canvas.height !== Math.round(height * ratio)) canvas.height = Math.round(height * ratio);
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  const context = canvas.getContext("2d");
  const view = transform();
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.clearRect(0, 0, canvas.width, canvas.height);
  context.setTransform(ratio * view.scale, 0, 0, ratio * view.scale, ratio * view.x, ratio * view.y);
  drawTissue(context);
  drawPredictions(context);
  drawAnnotation(context, view);
  drawChosen(context, view);
  drawBar(view);
  drawLegend();
}

function opacity(id) { return Number($(id).value) / 100; }

function drawTissue(context) {
  if (!state.tissue || !opacity("tissue")) return;
  const [dx, dy] = state.slide.tissue.downsample;
  context.globalAlpha = opacity("tissue");
  context.imageSmoothingEnabled = false;
  context.drawImage(state.tissue, 0, 0, state.tissue.width * dx, state.tissue.height * dy);
}

function drawPredictions(context) {
  if (!state.overlay || !opacity("prediction")) return;
  const { x, y, span, count } = state.overlay;
  context.globalAlpha = opacity("prediction");
  for (let i = 0; i < count; i += 1) {
    context.fillStyle = colourOf(i);
    context.fillRect(x[i], y[i], span, span);
  }
}

function drawAnnotation(context, view) {
  if (!state.annotation || !opacity("annotation")) return;
  const names = [...new Set(state.annotation.map((f) => f.properties.classification.name))].sort();
  context.globalAlpha = opacity("annotation");
  context.lineWidth = 3 / view.scale;
  for (const { geometry, properties } of state.annotation) {
    context.strokeStyle = PALETTE[names.indexOf(properties.classification.name) % PALETTE.length];
    const polygons = geometry.type === "Polygon" ? [geometry.coordinates] : geometry.coordinates;
    context.beginPath();
    for (const ring of polygons.flat()) ring.forEach(([x, y], i) => (i ? context.lineTo(x, y) : context.moveTo(x, y)));
    context.stroke();
  }
}

function drawChosen(context, view) {
  if (state.chosen === null) return;
  const { x, y, span } = state.overlay;
  context.globalAlpha = 1;
  context.strokeStyle = "#000";
  context.lineWidth = 2 / view.scale;
  context.strokeRect(x[state.chosen], y[state.chosen], span, span);
}

function drawBar(view) {
  const target = (150 * state.slide.mpp) / view.scale;
  const power = 10 ** Math.floor(Math.log10(target));
  const length = Math.max(...[1, 2, 5].map((s) => s * power).filter((l) => l <= target));
  $("bar").firstChild.style.width = `${(length / state.slide.mpp) * view.scale}px`;
  $("bar").lastChild.textContent = length >= 1000 ? `${length / 1000} mm` : `${length} µm`;
}

function drawLegend() {
  if (!state.overlay) return;
  const shown = $("shown").value;
  const entries = shown === "class" ? state.overlay.classes.map((name, i) => [PALETTE[i % PALETTE.length], name])
    : VIRIDIS.map((colour, i) => [colour, `${(i / 8).toFixed(2)} to ${((i + 1) / 8).toFixed(2)}`]);
  $("legend").replaceChildren(...entries.map(([colour, name]) => {
    const line = document.createElement("div");
    const swatch = Object.assign(document.createElement("span"), { className: "swatch" });
    swatch.style.background = colour;
    line.append(swatch, name);
    return line;
  }));
}

async function clicked(position) {
  if (!state.overlay) return;
  const view = transform();
  const [px, py] = [(position.x - view.x) / view.scale, (position.y - view.y) / view.scale];
  const { x, y, span, count, task, fold, id } = state.overlay;
  state.chosen = null;
  for (let i = 0; i < count; i += 1) {
    if (px >= x[i] && px < x[i] + span && py >= y[i] && py < y[i] + span) state.chosen = i;
  }
  drawOverlay();
  if (state.chosen === null) {
    $("patch").replaceChildren();
    return;
  }
  const slide = encodeURIComponent(state.slide.slide_id);
  showPatch(await json(`/api/patch/${slide}/${task}/${fold}/${id[state.chosen]}`));
}

function showPatch(patch) {
  $("patch").replaceChildren();
  for (const [title, values] of Object.entries(patch)) {
    $("patch").append(Object.assign(document.createElement("h2"), { textContent: title }));
    const table = document.createElement("table");
    for (const [name, value] of Object.entries(values)) {
      const row = table.insertRow();
      row.insertCell().textContent = name;
      row.insertCell().textContent = typeof value === "number" && !Number.isInteger(value) ? value.toFixed(4) : value ?? "–";
    }
    $("patch").append(table);
  }
}

async function start() {
  try {
    const slides = await listSlides();
    const id = currentSlide() ?? slides.find((slide) => slide.status === "ok")?.slide_id;
    if (id) await openSlide(id);
    else $("message").textContent = "This results folder has no usable slide.";
  } catch (error) {
    $("message").textContent = String(error);
  }
}

window.addEventListener("resize", drawOverlay);
start();
