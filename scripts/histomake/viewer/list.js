// The list of slides: search, scores of tasks, pictures, and keys to go from one slide to the next.
"use strict";

const listed = { slides: [], scores: [], shown: [] };

async function readList() {
  [listed.slides, listed.scores] = await Promise.all([json("/api/slides"), json("/api/scores")]);
  $("score").append(...listed.scores.map(({ title }, i) => new Option(title, i)));
  $("score").hidden = !listed.scores.length;
  $("search").addEventListener("input", fillList);
  $("score").addEventListener("change", fillList);
}

// Slides whose name or state contains the text that is searched for; by a task's score, highest first, if one is chosen.
function fillList() {
  const wanted = $("search").value.trim().toLowerCase();
  const score = listed.scores[Number($("score").value || NaN)]?.slides;
  listed.shown = listed.slides.filter((slide) => `${slide.slide_id} ${slide.reason ?? ""}`.toLowerCase().includes(wanted));
  if (score) listed.shown.sort((a, b) => (score[b.slide_id] ?? -Infinity) - (score[a.slide_id] ?? -Infinity));
  $("list").replaceChildren(...listed.shown.map((slide) => entry(slide, score)));
  const lost = listed.slides.filter((slide) => slide.status !== "ok").length;
  $("count").textContent = `${listed.shown.length} of ${listed.slides.length}${lost ? `, ${lost} in quarantine` : ""}`;
}

const addressOf = (slide) => `/slide/${encodeURIComponent(slide.slide_id)}`;

function entry(slide, score) {
  const usable = slide.status === "ok";
  const link = Object.assign(document.createElement("a"), { href: addressOf(slide), className: usable ? "" : "lost" });
  if (slide.slide_id === currentSlide()) {
    link.classList.add("current");
    link.setAttribute("aria-current", "page");
  }
  const picture = document.createElement(usable ? "img" : "span");
  if (usable) Object.assign(picture, { loading: "lazy", alt: "", src: `/preview/${encodeURIComponent(slide.slide_id)}` });
  const text = document.createElement("span");
  const below = usable ? (score ? score[slide.slide_id]?.toFixed(3) ?? "not predicted" : sizeOf(slide)) : slide.reason;
  text.append(slide.slide_id, Object.assign(document.createElement("small"), { textContent: below }));
  link.append(picture, text);
  return link;
}

function sizeOf({ width, height, mpp }) {
  const mm = (pixels) => ((pixels * mpp) / 1000).toPrecision(3);
  return `${mm(width)} × ${mm(height)} mm`;
}

// "n" and "p" open the next and the previous slide of the list, "/" searches.
function listKey(event) {
  const step = { n: 1, p: -1 }[event.key];
  if (event.key === "/") {
    $("search").focus();
    event.preventDefault();
  } else if (step) {
    const place = listed.shown.findIndex((slide) => slide.slide_id === currentSlide());
    const next = listed.shown[place + step];
    if (next) location.href = addressOf(next);
  }
}

// Letters that are typed into a field are not commands.
const typing = (event) => event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName);
window.addEventListener("keydown", (event) => { if (!typing(event)) { listKey(event); regionKey(event); } });
