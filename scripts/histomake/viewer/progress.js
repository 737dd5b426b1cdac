// The page of a run: asks the server every few seconds how far it has come.
"use strict";

const EVERY = 3000;
const QUIET = 600; // seconds without news after which the page says so
const $ = (id) => document.getElementById(id);

function element(tag, text, className = "") {
  return Object.assign(document.createElement(tag), { textContent: text, className });
}

function span(seconds) {
  if (seconds < 60) return `${Math.round(seconds)} s`;
  if (seconds < 3600) return `${Math.round(seconds / 60)} min`;
  return `${Math.floor(seconds / 3600)} h ${Math.round((seconds % 3600) / 60)} min`;
}

function row(tag, cells) {
  const line = document.createElement("tr");
  line.append(...cells.map((cell) => (cell instanceof Node ? cell : element(tag, cell, typeof cell === "number" ? "number" : ""))));
  return line;
}

const STATES = { running: "A run is in progress", finished: "The last run has finished", failed: "The last run has failed" };

function show(run) {
  const now = Date.now() / 1000;
  $("state").textContent = document.title = STATES[run.state];
  $("all").max = run.jobs || 1;
  $("all").value = run.done;
  const parts = [`${run.done.toLocaleString()} of ${run.jobs.toLocaleString()} jobs are done`];
  if (run.state === "running") {
    parts.push(`started ${span(now - run.started)} ago`);
    if (run.left !== null) parts.push(`about ${span(run.left)} left${run.unknown.length ? `, without ${run.unknown.join(", ")}` : ""}`);
  } else parts.push(`took ${span(run.news - run.started)}`);
  $("summary").textContent = `${parts.join("; ")}.`;
  const quiet = run.state === "running" && now - run.news > QUIET;
  $("warning").textContent = quiet ? `No job has started or ended for ${span(now - run.news)}: a job takes long, or the run was killed.` : "";
  $("failed").replaceChildren(...failures(run));
  $("running").replaceChildren(...jobs(run, now));
  const head = row("th", ["rule", "done", "jobs", "mean time", ""]);
  $("rules").replaceChildren(head, ...run.rules.map((rule) => {
    const bar = document.createElement("td");
    bar.append(Object.assign(document.createElement("progress"), { max: rule.jobs || 1, value: rule.done }));
    return row("td", [rule.rule, rule.done, rule.jobs, rule.mean === null ? "–" : `${rule.mean.toPrecision(3)} s`, bar]);
  }));
}

function failures({ failed, failures: count }) {
  if (!count) return [];
  const shown = failed.flatMap(({ rule, wildcards, log, time }) => [
    element("p", `${rule} ${wildcards}, ${new Date(time * 1000).toLocaleTimeString()}`),
    element("pre", log || "no log"),
  ]);
  return [element("h2", `${count} failed`), ...shown];
}

function jobs({ running, state }, now) {
  if (state !== "running" || !running.length) return [];
  const table = document.createElement("table");
  table.append(...running.map(({ rule, wildcards, time }) => row("td", [rule, wildcards, span(now - time)])));
  return [element("h2", "Running"), table];
}

async function ask() {
  try {
    const response = await fetch("/api/progress");
    if (response.ok) show(await response.json());
    else $("summary").textContent = await response.text();
  } catch (error) {
    $("summary").textContent = `The viewer does not answer: ${error}`;
  }
  setTimeout(ask, EVERY);
}

ask();
