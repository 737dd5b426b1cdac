// The viewer's page: deep zoom of a slide, overlays on it, and details of a clicked patch.
"use strict";

const PALETTE = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#5a5a5a"];
const TISSUE = [0, 158, 115];
const VIRIDIS = ["#440154", "#46327e", "#365c8d", "#277f8e", "#1fa187", "#4ac16d", "#a0da39", "#fde725"];
const NONE = "#969696";
// Of patches without annotation there is none.
const ERRORS = [["#009e73", "as annotated"], ["#d55e00", "not as annotated"]];
const $ = (id) => document.getElementById(id);

const ANNOTATED = "-";

const state = {
  slide: null, viewer: null, store: null, overlay: null, tissue: null, outlines: null, masks: new Map(), virtual: new Map(), chosen: null,
};
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
  state.viewer.addHandler("open", () => { openVirtual(slide); openMasks(slide); openOutlines(slide); goTo(location.hash.slice(1)); drawOverlay(); });
  state.viewer.addHandler("animation-finish", rememberPlace);
  $("place").addEventListener("change", () => goTo($("place").value));
  window.addEventListener("hashchange", () => goTo(location.hash.slice(1)));
  openRegions();
  await loadOverlays(slide);
}

// Show a part of the slide: x, y and, optionally, width and height in level-0 pixels.
function goTo(place) {
  const [x, y, width, height] = place.split(",").map(Number);
  if (!Number.isFinite(x) || !Number.isFinite(y)) return;
  const around = 1000;
  const [left, top, w, h] = width > 0 && height > 0 ? [x, y, width, height]
    : [x - around / 2, y - around / 2, around, around];
  const item = state.viewer.world.getItemAt(0);
  state.viewer.viewport.fitBounds(item.imageToViewportRectangle(left, top, w, h), true);
}

function shownPart() {
  const { x, y, width, height } = state.viewer.world.getItemAt(0).viewportToImageRectangle(
    state.viewer.viewport.getBounds(true));
  return { x, y, width, height };
}

// The address contains the place, so that it can be shared.
function rememberPlace() {
  const { x, y, width, height } = shownPart();
  const place = [x, y, width, height].map(Math.round).join(",");
  $("place").value = place;
  history.replaceState(null, "", `#${place}`);
}

const maskKey = (task, fold) => `${task}/${fold}`;

// Add tiles that the server draws as a hidden overlay; hidden overlays fetch nothing.
function layOver(name, { width, height, tile, levels }, pixel, success) {
  state.viewer.addTiledImage({
    x: 0, y: 0, width: (width * pixel) / state.slide.width, opacity: 0,
    tileSource: {
      width, height, tileSize: tile, minLevel: 0, maxLevel: levels - 1,
      getTileUrl: (level, x, y) => `${name}/${levels - 1 - level}/${y}/${x}`,
    },
    success: ({ item }) => { success(item); showMasks(); },
  });
}

// Virtual slides lie on the scanned one and under all other layers.
function openVirtual(slide) {
  $("transfers").hidden = !slide.virtual.length;
  $("transfer").append(...slide.virtual.map(({ transfer, mark }) => new Option(mark, transfer)));
  for (const virtual of slide.virtual) {
    state.viewer.addTiledImage({
      x: 0, y: 0, width: 1, opacity: 0, index: 1, tileSource: new StoreTileSource(new SlideStore(virtual)),
      success: ({ item }) => { state.virtual.set(virtual.transfer, item); showMasks(); },
    });
  }
}

// What is in silico is never shown without its mark, which zooming and moving leave in place.
function showVirtual() {
  for (const [transfer, item] of state.virtual) item.setOpacity(transfer === $("transfer").value ? opacity("silico") : 0);
  const shown = opacity("silico") > 0 && state.slide.virtual.find(({ transfer }) => transfer === $("transfer").value);
  $("mark").hidden = !shown;
  if (shown) $("mark").textContent = `${shown.mark}. Not as scanned`.replace("in silico", "IN SILICO");
}

function openMasks(slide) {
  const cascades = slide.masks.filter((mask) => mask.title);
  $("cascades").hidden = !cascades.length;
  $("cascade").append(new Option("none", ""), ...cascades.map(({ title, task, fold }) => new Option(title, maskKey(task, fold))));
  for (const mask of slide.masks) {
    const key = maskKey(mask.task, mask.fold);
    const name = `/label/${encodeURIComponent(slide.slide_id)}/${key}`;
    layOver(name, mask, mask.pixel, (item) => state.masks.set(key, item));
  }
}

function openOutlines(slide) {
  if (!slide.outlines) return;
  const pixel = slide.width / slide.outlines.width;
  layOver(`/outline/${encodeURIComponent(slide.slide_id)}`, slide.outlines, pixel, (item) => { state.outlines = item; });
}

// A segmentation is shown per pixel unless a score of its patches is selected.
function showMasks() {
  showVirtual();
  if (state.outlines) state.outlines.setOpacity(opacity("annotation"));
  const current = state.overlay && maskKey(state.overlay.task, state.overlay.fold);
  for (const [key, item] of state.masks) {
    if (key === maskKey(ANNOTATED, 0)) item.setOpacity(opacity("annotation"));
    else if (key.includes(".")) item.setOpacity(key === $("cascade").value ? opacity("cascaded") : 0);
    else item.setOpacity(key === current && $("shown").value === "pixels" ? opacity("prediction") : 0);
  }
}

function colourOfClass(name) {
  const place = state.slide.class_order.indexOf(name);
  return place < 0 ? NONE : PALETTE[place % PALETTE.length];
}

async function loadOverlays(slide) {
  $("predictions").hidden = !slide.predictions.length;
  slide.predictions.forEach(({ task, fold }, i) => $("task").append(new Option(`${task}, fold ${fold}`, i)));
  $("task").addEventListener("change", loadPredictions);
  for (const id of ["tissue", "annotation", "prediction", "shown", "cascade", "cascaded", "transfer", "silico"]) {
    $(id).addEventListener("input", () => { showMasks(); drawOverlay(); });
  }
  $("searches").hidden = !slide.encoders.length;
  $("encoder").append(...slide.encoders.map((name) => new Option(name, name)), new Option("none", ""));
  if (slide.tissue) state.tissue = await tissueCanvas(slide.tissue.image);
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
    ...found, task, fold, scores, called: decodeBase64(found.called), wrong: decodeBase64(found.wrong),
    x: new Int32Array(decodeBase64(found.x).buffer),
    y: new Int32Array(decodeBase64(found.y).buffer),
    id: new Uint32Array(decodeBase64(found.patch_id).buffer),
  };
  $("shown").replaceChildren(...overlaysOf(state.overlay).map(([text, value]) => new Option(text, value)));
  state.chosen = null;
  showMasks();
  drawOverlay();
}

// Overlays of the task's patches, [title, value] as in histomake.pictures.kinds, and of its pixels where it has a mask.
function overlaysOf({ overlays, task, fold }) {
  const masked = state.slide.masks.some((mask) => mask.task === task && mask.fold === fold);
  return masked ? [["pixels", "pixels"], ...overlays] : overlays;
}

// The colour of a patch; null if it is not coloured.
function colourOf(i) {
  const { called, count, classes, scores, range, wrong } = state.overlay;
  const [shown, one] = $("shown").value.split(" ");
  if (shown === "pixels") return null;
  if (shown === "errors") return ERRORS[wrong[i]]?.[0] ?? null;
  if (shown === "called") {
    const wanted = one === undefined ? classes.map((_, c) => c) : [Number(one)];
    const found = wanted.find((c) => called[c * count + i]);
    return found === undefined ? null : colourOfClass(classes[found]);
  }
  const score = (scores[Number(shown) * count + i] - range[0]) / (range[1] - range[0] || 1);
  return VIRIDIS[Math.max(0, Math.min(VIRIDIS.length - 1, Math.floor(score * VIRIDIS.length)))];
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
  drawChosen(context, view);
  drawRegions(context, view);
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
  const { x, y, count, middle: { offset, span } } = state.overlay;
  const part = shownPart();
  context.globalAlpha = opacity("prediction");
  for (let i = 0; i < count; i += 1) {
    const [left, top] = [x[i] + offset, y[i] + offset];
    if (left > part.x + part.width || top > part.y + part.height || left + span < part.x || top + span < part.y) continue;
    const colour = colourOf(i);
    if (colour === null) continue;
    context.fillStyle = colour;
    context.fillRect(left, top, span, span);
  }
}

function drawChosen(context, view) {
  if (state.searched && state.chosen === null) {
    context.globalAlpha = 1;
    context.strokeStyle = "#000";
    context.lineWidth = 2 / view.scale;
    context.strokeRect(state.searched.x, state.searched.y, state.searched.span, state.searched.span);
  }
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
  if (!state.overlay) {
    legend(state.slide.class_order.map((name) => [colourOfClass(name), name]));
    return;
  }
  const { range: [low, high] } = state.overlay;
  const end = (i) => (low + (i / VIRIDIS.length) * (high - low)).toPrecision(3);
  const scored = /^\d+$/.test($("shown").value);
  const layer = state.slide.masks.find((mask) => mask.title && maskKey(mask.task, mask.fold) === $("cascade").value);
  const coded = scored || $("shown").value === "errors";
  const classes = coded ? (layer && !layer.colours ? layer.classes : []) : state.slide.class_order;
  const entries = scored ? VIRIDIS.map((colour, i) => [colour, `${end(i)} to ${end(i + 1)}`]) : [];
  if ($("shown").value === "errors") entries.push(...ERRORS);
  entries.push(...classes.map((name) => [colourOfClass(name), name]));
  if (layer?.colours) entries.push(...layer.classes.map((name, i) => [layer.colours[i], name]));
  legend(entries);
}

function legend(entries) {
  $("legend").replaceChildren(...entries.map(([colour, name]) => {
    const line = document.createElement("div");
    const swatch = Object.assign(document.createElement("span"), { className: "swatch" });
    swatch.style.background = colour;
    line.append(swatch, name);
    return line;
  }));
}

async function clicked(position) {
  const view = transform();
  const [px, py] = [(position.x - view.x) / view.scale, (position.y - view.y) / view.scale];
  searchSimilar(px, py);
  if (!state.overlay) return;
  const { x, y, span, count, task, fold, id } = state.overlay;
  // Of overlapping patches, the one whose centre is nearest: its colour is the visible one.
  const away = (i) => Math.max(Math.abs(px - x[i] - span / 2), Math.abs(py - y[i] - span / 2));
  state.chosen = null;
  for (let i = 0; i < count; i += 1) {
    if (away(i) <= span / 2 && (state.chosen === null || away(i) < away(state.chosen))) state.chosen = i;
  }
  drawOverlay();
  if (state.chosen === null) {
    $("patch").replaceChildren();
    return;
  }
  const slide = encodeURIComponent(state.slide.slide_id);
  showPatch(await json(`/api/patch/${slide}/${task}/${fold}/${id[state.chosen]}`));
}

// The patches of the cohort that are most similar to the one at a place, as thumbnails with links.
async function searchSimilar(x, y) {
  const column = $("encoder").value;
  $("similar").replaceChildren();
  state.searched = null;
  if (!column) return;
  const say = (text) => $("similar").replaceChildren(Object.assign(document.createElement("p"), { textContent: text }));
  say("searching …");
  const number = state.searches = (state.searches ?? 0) + 1;
  const slide = encodeURIComponent(state.slide.slide_id);
  const response = await fetch(`/api/similar/${slide}/${encodeURIComponent(column)}/${x.toFixed(1)}/${y.toFixed(1)}`);
  if (number !== state.searches) return; // another patch was clicked meanwhile
  if (response.status === 404) { say("no patch with features here"); return; }
  if (!response.ok) { say(await response.text()); return; }
  const { asked, found } = await response.json();
  state.searched = asked;
  say(`most similar to patch ${asked.patch_id}, by ${column}:`);
  for (const patch of found) {
    const id = encodeURIComponent(patch.slide);
    const place = [patch.x - patch.span, patch.y - patch.span, 3 * patch.span, 3 * patch.span].map(Math.round).join(",");
    const link = Object.assign(document.createElement("a"), { href: `/slide/${id}#${place}` });
    link.title = `patch ${patch.patch_id} at x=${patch.x} y=${patch.y}`;
    const picture = `/thumb/${id}/${encodeURIComponent(column)}/${patch.patch_id}`;
    link.append(Object.assign(document.createElement("img"), { src: picture, alt: "" }));
    link.append(`${patch.slide}, ${patch.similarity.toFixed(3)}`);
    $("similar").append(link);
  }
  drawOverlay();
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
    await readList();
    const first = listed.slides.find((slide) => slide.status === "ok");
    if (!currentSlide() && first) history.replaceState(null, "", addressOf(first));
    fillList();
    document.querySelector("#list .current")?.scrollIntoView({ block: "nearest", inline: "center" });
    if (currentSlide()) await openSlide(currentSlide());
    else $("message").textContent = "This results folder has no usable slide.";
  } catch (error) {
    $("message").textContent = String(error);
  }
}

window.addEventListener("resize", drawOverlay);
start();
