// The search page. It asks its own server alone, and shows everything that the index says as text.
import {Drawing} from "./drawing.js";
import {Recorder} from "./recorder.js";
import {Card, element} from "./card.js";

const byId = (id) => document.getElementById(id);
const plural = (count, noun) => `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;
const LABELS = {text: "Words", image: "Picture", audio: "Sound", video: "Film", file: "File"};
const ACCEPT = {image: "image/*", audio: "audio/*", video: "video/*"};

let facts = null;
let ways = [];      // How one can ask: {id, label, tower, panel, question()}.
let way = null;
let current = null; // The question whose answers are shown: {label, url, symbol, parameters, body}.
let shown = 0;
let request = null;

start();

async function start() {
  try {
    facts = await (await fetch("api/about")).json();
  } catch {
    fail("The server does not answer. Start it again, then reload this page.");
    return;
  }
  document.title = facts.title;
  byId("title").textContent = facts.title;
  const rows = Object.entries(facts.rows).map(([tower, count]) => `${tower} ${count.toLocaleString("en")}`);
  byId("about").textContent = rows.length ? `In the index: ${rows.join(", ")}` : "The index is empty.";
  buildWays();
  buildOptions();
  buildExamples();
  byId("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    submit();
  });
  byId("more").addEventListener("click", () => load(shown));
  document.addEventListener("paste", pasted);
  select(ways[0]);
}

// Ways of asking

function buildWays() {
  const kinds = facts.towers.map((tower) => tower.kind);
  for (const tower of facts.towers) {
    const several = kinds.filter((kind) => kind === tower.kind).length > 1;
    const label = several ? `${LABELS[tower.kind]}: ${tower.name}` : LABELS[tower.kind];
    ways.push(tower.kind === "text" ? wordsWay(tower, label) : fileWay(tower, label));
    if (tower.kind === "image" && !ways.some((one) => one.id === "drawing")) ways.push(drawingWay(tower));
  }
  const tabs = byId("tabs");
  for (const one of ways) {
    one.tab = element("button", {type: "button", role: "tab", id: `tab-${one.id}`, "aria-controls": `panel-${one.id}`}, one.label);
    one.tab.addEventListener("click", () => select(one));
    one.tab.addEventListener("keydown", (event) => {
      const step = {ArrowRight: 1, ArrowLeft: -1}[event.key];
      if (!step) return;
      const next = ways[(ways.indexOf(one) + step + ways.length) % ways.length];
      select(next);
      next.tab.focus();
      event.preventDefault();
    });
    tabs.append(one.tab);
    one.panel.id = `panel-${one.id}`;
    one.panel.setAttribute("role", "tabpanel");
    one.panel.setAttribute("aria-labelledby", one.tab.id);
    byId("panels").append(one.panel);
  }
  tabs.hidden = ways.length < 2;
}

function select(one) {
  if (way !== one) clear();
  way = one;
  for (const other of ways) {
    other.tab.setAttribute("aria-selected", String(other === one));
    other.tab.tabIndex = other === one ? 0 : -1;
    other.panel.hidden = other !== one;
  }
  byId("find")?.dispatchEvent(new Event("way"));
  if (!matchMedia("(pointer: coarse)").matches) one.focus?.();
}

const searchButton = () => element("button", {type: "submit", class: "main"}, "Search");

function wordsWay(tower, label) {
  const input = element("input", {
    type: "search", id: `words-${tower.name}`, autocomplete: "off", autocapitalize: "off", spellcheck: "false",
    enterkeyhint: "search", placeholder: facts.examples.length ? `for example: ${facts.examples[0]}` : "what to look for",
  });
  input.addEventListener("input", clear);
  const panel = element("div", {},
    element("div", {class: "asking words"},
      element("label", {class: "hidden-label", for: input.id}, "Words to search by"), input, searchButton()));
  const question = () => ({label: `“${input.value.trim()}”`, body: input.value, parameters: {tower: tower.name}});
  return {id: tower.name, label, tower, panel, question, focus: () => input.focus(), fill: (text) => { input.value = text; }};
}

function fileWay(tower, label) {
  const id = `file-${tower.name}`, noun = LABELS[tower.kind].toLowerCase();
  const accept = tower.suffixes.length ? tower.suffixes.join(",") : ACCEPT[tower.kind] ?? "";
  const input = element("input", {type: "file", id, class: "hidden-label", ...(accept ? {accept} : {})});
  const text = element("span", {}, `Choose a ${noun}, or drop it here${tower.kind === "image" ? "; or paste one" : ""}.`);
  const drop = element("label", {class: "drop", for: id}, input, text);
  const line = element("div", {class: "asking"}, drop);
  const one = {id: tower.name, label, tower, panel: element("div", {}, line), file: null, url: ""};
  one.take = (file) => {
    clear();
    if (one.url) URL.revokeObjectURL(one.url);
    one.file = file;
    one.url = URL.createObjectURL(file);
    const preview = element(tower.kind === "image" ? "img" : tower.kind === "audio" ? "audio" : "video", {alt: ""});
    if (tower.kind === "audio") preview.controls = true;
    // A file that the browser cannot show may still be one that the server can read.
    preview.addEventListener("error", () => preview.remove());
    preview.src = one.url;
    drop.replaceChildren(input, ...(tower.kind === "file" ? [] : [preview]), element("span", {}, file.name));
  };
  input.addEventListener("change", () => input.files[0] && one.take(input.files[0]));
  for (const name of ["dragover", "dragleave", "drop"]) {
    drop.addEventListener(name, (event) => {
      event.preventDefault();
      drop.classList.toggle("over", name === "dragover");
      if (name === "drop" && event.dataTransfer.files[0]) one.take(event.dataTransfer.files[0]);
    });
  }
  if (tower.kind === "audio" && navigator.mediaDevices?.getUserMedia) line.append(recorder(one));
  line.append(searchButton());
  one.question = () => one.file && {
    label: one.file.name, url: one.url, kind: tower.kind, body: one.file, parameters: {tower: tower.name, name: one.file.name},
  };
  one.empty = `Choose a ${noun} first.`;
  one.focus = () => input.focus();
  return one;
}

function recorder(one) {
  const button = element("button", {type: "button"}, "Record");
  const device = new Recorder();
  button.addEventListener("click", async () => {
    try {
      if (device.running) {
        button.textContent = "Record again";
        one.take(await device.stop());
        say("Recorded. Press Search.");
      } else {
        clear();
        await device.start();
        button.textContent = "Stop";
        say("Recording.");
      }
    } catch (error) {
      button.textContent = "Record";
      fail(error.name === "NotAllowedError" ? "The browser does not let this page use the microphone." : `Recording failed: ${error.message}`);
    }
  });
  return button;
}

function drawingWay(tower) {
  const canvas = element("canvas", {width: 480, height: 480, role: "img", "aria-label": "Drawing pad. Without a pointer, use Picture."});
  const drawing = new Drawing(canvas, clear);
  const undo = element("button", {type: "button"}, "Undo"), wipe = element("button", {type: "button"}, "Clear");
  undo.addEventListener("click", () => drawing.undo());
  wipe.addEventListener("click", () => drawing.clear());
  const panel = element("div", {},
    element("div", {class: "asking drawing"}, canvas,
      element("div", {class: "beside"}, element("p", {class: "hint"}, "Draw with the mouse, a pen or a finger."),
        element("div", {class: "tools"}, undo, wipe), searchButton())));
  const question = async () => {
    if (drawing.empty) return null;
    const body = await drawing.picture();
    return {label: "your drawing", url: canvas.toDataURL ? URL.createObjectURL(body) : "", kind: "image", body, parameters: {tower: tower.name, name: "drawing.png"}};
  };
  return {id: "drawing", label: "Drawing", tower, panel, question, empty: "The pad is empty: draw something first."};
}

function pasted(event) {
  const file = [...(event.clipboardData?.files ?? [])].find((one) => one.type.startsWith("image/"));
  const target = ways.find((one) => one.take && one.tower.kind === "image");
  if (!file || !target) return;
  select(target);
  target.take(file);
}

// Options

function buildOptions() {
  const choices = byId("choices"), towers = Object.keys(facts.rows);
  if (towers.length > 1) {
    const find = element("select", {id: "find"}, element("option", {value: ""}, ""), ...towers.map((name) => element("option", {value: name}, name)));
    find.addEventListener("way", () => { find.options[0].textContent = `automatic (${way.tower.find})`; });
    choices.append(element("label", {}, "Find", find));
  }
  if (facts.levels.length) {
    const whole = element("option", {value: ""}, "whole samples");
    choices.append(element("label", {}, "Answer with", element("select", {id: "level"}, whole, ...facts.levels.map((name) => element("option", {value: name}, name)))));
  }
  const columns = Object.entries(facts.columns);
  for (const [name, values] of columns.filter(([, found]) => found.length).slice(0, 4)) {
    const box = element("select", {"data-column": name}, element("option", {value: ""}, "any"), ...values.map((value) => element("option", {value}, value)));
    choices.append(element("label", {}, name, box));
  }
  if (columns.length) {
    const [name, values] = columns.find(([, found]) => found.length) ?? columns[0];
    const example = values.length ? `${name}=${quoted(values[0])}` : `${name}=…`;
    const where = element("input", {type: "text", id: "where", placeholder: example, autocomplete: "off", spellcheck: "false"});
    choices.append(element("label", {class: "wide"}, `Filter over ${columns.map(([one]) => one).join(", ")}`, where));
    where.addEventListener("input", clear);
    where.addEventListener("keydown", (event) => {
      if (event.key === "Enter") { event.preventDefault(); submit(); }
    });
  }
  byId("options").hidden = !choices.children.length;
  choices.addEventListener("change", (event) => {
    byId("chosen").textContent = summary();
    if (current && event.target.tagName === "SELECT") ask(current);
  });
}

const quoted = (value) => /^[\w.-]+$/.test(value) ? value : `'${value.replaceAll("'", "''")}'`;

function options() {
  const conditions = [...document.querySelectorAll("[data-column]")].filter((box) => box.value).map((box) => `${box.dataset.column}=${quoted(box.value)}`);
  const typed = byId("where")?.value.trim();
  if (typed) conditions.push(conditions.length ? `(${typed})` : typed);
  const chosen = {find: byId("find")?.value, level: byId("level")?.value, where: conditions.join(" and ")};
  return Object.fromEntries(Object.entries(chosen).filter(([, value]) => value));
}

const summary = () => Object.entries(options()).map(([name, value]) => ` · ${name === "where" ? value : `${name} ${value}`}`).join("");

// Examples

function buildExamples() {
  const words = ways.find((one) => one.fill);
  for (const text of words ? facts.examples : []) {
    const chip = element("button", {type: "button", class: "chip"}, text);
    chip.addEventListener("click", () => {
      select(words);
      words.fill(text);
      submit();
    });
    byId("texts").append(chip);
  }
  for (const picture of facts.pictures) {
    const face = picture.symbol ? element("span", {class: "symbol"}, picture.symbol) : element("img", {src: picture.url, alt: ""});
    const name = `Similar to ${picture.title}`;
    const chip = element("button", {type: "button", class: "chip picture", title: name, "aria-label": name}, face);
    chip.addEventListener("click", () => similar(picture));
    byId("pictures").append(chip);
  }
  for (const list of document.querySelectorAll(".chips")) list.parentElement.hidden = !list.children.length;
  showExamples();
}

const showExamples = () => { byId("examples").hidden = !document.querySelector(".chip"); };

// Questions and answers

async function submit() {
  const question = await way.question();
  if (!question || (typeof question.body === "string" && !question.body.trim())) {
    clear();
    fail(way.empty ?? "Type something to search by first.");
    return;
  }
  ask(question);
}

function similar(row) {
  ask({label: row.title, like: true, symbol: row.symbol, url: row.symbol ? "" : row.url, kind: row.kind ?? "image", parameters: {tower: row.tower, like: row.id}});
}

function ask(question) {
  clear();
  current = question;
  const heading = byId("question");
  const face = question.symbol ? element("span", {class: "symbol"}, question.symbol)
    : question.url && question.kind === "image" ? element("img", {src: question.url, alt: ""}) : "";
  heading.replaceChildren(face, element("span", {}, `${question.like ? "Similar to" : "Answers to"} ${question.label}${summary()}`));
  heading.hidden = false;
  byId("examples").hidden = true;
  load(0);
}

async function load(offset) {
  const question = current;
  request?.abort();
  const own = request = new AbortController();
  const results = byId("results");
  results.setAttribute("aria-busy", "true");
  const slow = setTimeout(() => say("Searching…"), 250);
  const parameters = new URLSearchParams({...question.parameters, ...options(), offset: String(offset)});
  try {
    if (question.body?.size > facts.limits.bytes) {
      throw new Error(`The file has ${(question.body.size / 2 ** 20).toFixed(0)} MB; it may have ${facts.limits.bytes / 2 ** 20} MB.`);
    }
    const response = await fetch(`api/search?${parameters}`, {method: "POST", body: question.body ?? "", headers: {"Content-Type": "application/octet-stream"}, signal: own.signal});
    const reply = await response.json().catch(() => ({error: `The server failed (status ${response.status}).`}));
    if (own !== request) return;
    if (!response.ok) throw new Error(reply.error ?? `The server failed (status ${response.status}).`);
    show(reply);
  } catch (error) {
    if (error.name === "AbortError" || own !== request) return;
    const gone = error instanceof TypeError;
    clear();
    fail(gone ? "The server does not answer. Start it again, then repeat the search." : error.message);
  } finally {
    clearTimeout(slow);
    if (own === request) results.removeAttribute("aria-busy");
  }
}

function show(reply) {
  const list = byId("answers");
  const cards = reply.answers.map((answer) => new Card(answer, {similar, say}).node);
  list.append(...cards);
  byId("results").hidden = !list.children.length;
  shown = reply.offset + reply.answers.length;
  const kinds = new Set(reply.answers.map((answer) => answer.symbol ? "symbols" : answer.media?.kind ?? "plain"));
  list.classList.toggle("films", kinds.has("video"));
  list.classList.toggle("plain", !kinds.has("video") && (kinds.has("plain") || kinds.has("audio")));
  byId("more").hidden = !reply.more;
  byId("notice").textContent = reply.notice ?? "";
  byId("notice").hidden = !reply.notice;
  if (!shown) {
    say("Nothing was found. Change the question or the filter.");
    return;
  }
  // The names of the first ones are for those who hear the page.
  const names = reply.offset ? "" : ` First: ${reply.answers.slice(0, 3).map((answer) => answer.title).join(", ")}.`;
  say(`${plural(shown, "answer")}${reply.more ? ", and more" : ""}.`, names);
  if (reply.offset) cards[0].querySelector("button, video, audio")?.focus();
}

function clear() {
  request?.abort();
  request = current = null;
  shown = 0;
  byId("results").hidden = true;
  byId("results").removeAttribute("aria-busy");
  byId("answers").replaceChildren();
  byId("question").replaceChildren();
  byId("question").hidden = true;
  byId("more").hidden = true;
  byId("error").hidden = true;
  byId("notice").hidden = true;
  showExamples();
  say("");
}

function say(text, aloud = "") {
  byId("status").replaceChildren(text, element("span", {class: "hidden-label"}, aloud));
}

function fail(text) {
  byId("error").textContent = text;
  byId("error").hidden = false;
}
