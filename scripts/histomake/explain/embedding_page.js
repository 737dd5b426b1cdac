// The embedding page: draws and colours the map, shows the patch under the pointer, saves a lasso selection.
"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const NONE = "rgb(170,170,170)";
const plot = document.getElementById("plot");
const chooser = document.getElementById("colour");

function floats(text) {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  return new Float32Array(bytes.buffer);
}

const plane = data.plane.map(floats);
const space = data.space.map(floats);
const numbers = Object.fromEntries(Object.entries(data.numbers).map(([name, text]) => [name, floats(text)]));
const count = plane[0].length;
const size = count > 10000 ? 2 : count > 2000 ? 3 : 4;
// Plotly draws every point as many triangles. Small points can be squares, which have an eighth of the triangles of a
// disc and a quarter of the pixels. Otherwise the map cannot be rotated without a graphics card.
const many = count > 2000;
let selected = [];

function dimensions() {
  return Number(document.querySelector("input[name=map]:checked").value);
}

function trace(indices, name, marker) {
  const three = dimensions() === 3;
  const axes = three ? space : plane;
  const pick = (values) => indices.map((i) => values[i]);
  const result = {
    type: three ? "scatter3d" : "scattergl", mode: "markers", name, hoverinfo: "none",
    x: pick(axes[0]), y: pick(axes[1]), customdata: indices,
    marker: { size: three ? size : size + 2, symbol: three && many ? "square" : "circle", ...marker },
  };
  if (three) result.z = pick(axes[2]);
  return result;
}

function traces() {
  const by = chooser.value;
  const all = Array.from({ length: count }, (_, i) => i);
  if (by in numbers) {
    const known = all.filter((i) => !Number.isNaN(numbers[by][i]));
    const color = known.map((i) => numbers[by][i]);
    const share = color.every((value) => value >= 0 && value <= 1);
    const ends = share ? { cmin: 0, cmax: 1 } : {};
    return [trace(known, by, { color, colorscale: "Viridis", ...ends, colorbar: { title: { text: by } } })];
  }
  const { names, codes } = data.categories[by];
  const groups = new Map();
  for (const i of all) {
    if (!groups.has(codes[i])) groups.set(codes[i], []);
    groups.get(codes[i]).push(i);
  }
  return [...groups.keys()].sort((a, b) => a - b).map((code) => trace(
    groups.get(code), code < 0 ? "none" : names[code],
    { color: code < 0 ? NONE : data.palette[code % data.palette.length] }));
}

function draw() {
  const bare = { showticklabels: false, title: { text: "" }, zeroline: false };
  const layout = {
    margin: { l: 0, r: 0, t: 0, b: 0 }, showlegend: true, legend: { itemsizing: "constant", x: 0, y: 1 },
    scene: { xaxis: bare, yaxis: bare, zaxis: bare, aspectmode: "cube" }, xaxis: bare, yaxis: { ...bare, scaleanchor: "x" },
    dragmode: dimensions() === 3 ? "orbit" : "lasso", uirevision: dimensions(),
  };
  Plotly.react(plot, traces(), layout, { responsive: true, displaylogo: false, plotGlPixelRatio: many ? 1 : 2 });
}

function facts(i) {
  const rows = Object.entries(data.categories).map(([name, c]) => [name, c.codes[i] < 0 ? "none" : c.names[c.codes[i]]]);
  for (const name of ["patch_id", "x", "y"]) rows.push([name, data.ids[name][i]]);
  for (const [name, values] of Object.entries(numbers)) {
    rows.push([name, Number.isNaN(values[i]) ? "none" : values[i].toFixed(3)]);
  }
  return rows;
}

function show(i) {
  const { px, columns, rows, images } = data.atlas;
  const sheet = Math.floor(i / (columns * rows));
  const place = i % (columns * rows);
  const zoom = 160 / px;
  const thumb = document.getElementById("thumb");
  thumb.style.backgroundImage = `url(${images[sheet]})`;
  thumb.style.backgroundSize = `${columns * px * zoom}px auto`;
  thumb.style.backgroundPosition = `-${(place % columns) * px * zoom}px -${Math.floor(place / columns) * px * zoom}px`;
  const list = document.getElementById("facts");
  list.replaceChildren();
  for (const [name, value] of facts(i)) {
    list.append(Object.assign(document.createElement("dt"), { textContent: name }));
    list.append(Object.assign(document.createElement("dd"), { textContent: value }));
  }
  document.getElementById("card").style.display = "block";
}

function csv() {
  const axes = [["umap2_x", plane[0]], ["umap2_y", plane[1]], ["umap3_x", space[0]], ["umap3_y", space[1]],
    ["umap3_z", space[2]]];
  const header = [...facts(0).map(([name]) => name), ...axes.map(([name]) => name)];
  const lines = selected.map((i) => [...facts(i).map(([, value]) => value), ...axes.map(([, v]) => v[i])].join(","));
  return [header.join(","), ...lines].join("\n") + "\n";
}

function listen() {
  plot.on("plotly_hover", (event) => show(event.points[0].customdata));
  plot.on("plotly_selected", (event) => {
    selected = event ? event.points.map((point) => point.customdata) : [];
    document.getElementById("count").textContent = selected.length ? `${selected.length} patches selected` : "";
    document.getElementById("save").disabled = !selected.length;
  });
}

document.getElementById("save").addEventListener("click", () => {
  const url = URL.createObjectURL(new Blob([csv()], { type: "text/csv" }));
  Object.assign(document.createElement("a"), { href: url, download: "patches.csv" }).click();
  URL.revokeObjectURL(url);
});
for (const name of [...Object.keys(data.categories), ...Object.keys(numbers)]) chooser.append(new Option(name, name));
chooser.value = "predicted" in data.categories ? "predicted" : Object.keys(numbers)[0];
chooser.addEventListener("change", draw);
for (const radio of document.querySelectorAll("input[name=map]")) radio.addEventListener("change", draw);
draw();
listen();
