// The page: takes a picture, sends it to be restored, and shows the result. The server keeps nothing between requests.

import { Compare } from "./compare.js";
import { describe, drawRoute, gmacs } from "./route.js";

const part = (id) => document.getElementById(id);
const SAMPLE_NOISE = 25; // samples are clean, so without noise there is nothing to restore
const PATIENCE = 300; // ms that a slider must rest before the picture is updated

const compare = new Compare(part);
let settings = null;
let source = null; // {blob, name}
let before = null; // {url}: the picture, degraded as the sliders say
let result = null; // {url, shown, report, name}: the file, and a picture of it that browsers show
let busy = null; // the AbortController of the request in progress

// ---- settings and samples ------------------------------------------------------------------------------------------

async function start() {
  for (let pause = 500; ; pause = Math.min(pause * 2, 5000)) {
    try {
      const answer = await fetch("settings");
      if (!answer.ok) throw new Error(answer.statusText);
      settings = await answer.json();
      break;
    } catch {
      fail("The server does not answer. The page continues when the server is back.");
      await new Promise((resolve) => setTimeout(resolve, pause));
    }
  }
  clearError();
  part("version").textContent = settings.version;
  part("limits").textContent = `JPEG, PNG, TIFF, WebP, AVIF and more; up to ${megabytes(settings.max_bytes)}`
    + (settings.max_pixels ? ` and ${settings.max_pixels / 1e6} megapixels.` : ".");
  part("file").accept = ["image/*", ...settings.reads].join(",");
  for (const name of settings.samples) {
    const button = document.createElement("button");
    button.type = "button";
    const title = name.replace(/\.\w+$/, "").replace(/_left$/, "").replace(/^chelsea$/, "cat");
    button.setAttribute("aria-label", `Sample: ${title}`);
    const image = document.createElement("img");
    image.src = `samples/${name}`;
    image.alt = "";
    image.loading = "lazy";
    button.append(image);
    button.addEventListener("click", () => takeSample(name));
    const item = document.createElement("li");
    item.append(button);
    part("samples").append(item);
  }
  for (const format of settings.writes) part("format").append(new Option(format.toUpperCase(), format));
  const experts = settings.experts_gmacs;
  const count = experts.length ? experts[0].length : 0;
  for (let expert = 0; expert < count; expert++) {
    part("expert").append(new Option(`expert ${expert} in every layer`, String(expert)));
  }
  // One step beyond the most expensive route means no limit.
  const dearest = experts.reduce((sum, layer) => sum + Math.max(...layer), settings.base_gmacs);
  const budget = part("budget");
  budget.min = String(Math.ceil(settings.cheapest_gmacs * 10) / 10);
  budget.step = "0.1";
  budget.max = String(Math.ceil(dearest * 10) / 10 + 0.1);
  budget.value = String(settings.mac_budget || budget.max);
  part("routing").hidden = !count;
  tellValues();
}

async function takeSample(name) {
  try {
    const answer = await fetch(`samples/${name}`);
    if (!answer.ok) throw new Error(answer.statusText);
    const blob = await answer.blob();
    const degraded = ["noise", "blur", "jpeg"].some((id) => Number(part(id).value));
    if (!degraded) part("noise").value = String(SAMPLE_NOISE);
    tellValues();
    await take(blob, name);
    await restore();
  } catch (error) {
    if (error.name !== "AbortError") fail(`The sample could not be loaded. ${explain(error)}`);
  }
}

// ---- a picture -------------------------------------------------------------------------------------------------------

async function take(blob, name) {
  stop();
  if (!settings) return;
  if (blob.size > settings.max_bytes) {
    fail(`${name} has ${megabytes(blob.size)}; the server takes up to ${megabytes(settings.max_bytes)}.`);
    return;
  }
  const previous = source;
  source = { blob, name };
  try {
    await showBefore();
  } catch (error) {
    source = previous;
    throw error;
  }
}

async function takeFile(file) {
  if (!file) return;
  for (const id of ["noise", "blur", "jpeg"]) part(id).value = "0";
  tellValues();
  try {
    await take(file, file.name || "pasted.png");
  } catch (error) {
    if (error.name !== "AbortError") fail(explain(error));
  }
}

const degradations = () => {
  const chosen = new URLSearchParams();
  for (const id of ["noise", "blur"]) if (Number(part(id).value)) chosen.set(id, part(id).value);
  if (Number(part("jpeg").value)) chosen.set("jpeg", String(100 - Number(part("jpeg").value)));
  const suffix = /\.(\w{1,8})$/.exec(source.name);
  if (suffix) chosen.set("suffix", suffix[1]);
  return chosen;
};

const wishes = () => {
  const chosen = degradations();
  for (const id of ["strength", "texture", "expert", "format"]) if (part(id).value !== "") chosen.set(id, part(id).value);
  if (!part("routing").hidden) chosen.set("mac_budget", String(budget()));
  if (part("filter").checked) chosen.set("filter", "1");
  return chosen;
};

const budget = () => (Number(part("budget").value) >= Number(part("budget").max) ? 0 : Number(part("budget").value));

// The server need not convert a picture that the browser can show.
const shown = (type) => ["image/jpeg", "image/png", "image/webp", "image/avif"].includes(type);

async function showBefore() {
  clearError();
  const query = degradations();
  const plain = !["noise", "blur", "jpeg"].some((id) => query.has(id));
  let url = plain && shown(source.blob.type) ? URL.createObjectURL(source.blob) : null;
  if (url && !(await canShow(url))) url = null; // the server reports what is wrong with it
  if (!url) {
    const answer = await ask("degrade", query, source.blob, plain ? "Opening" : "Making it worse");
    url = URL.createObjectURL(await answer.blob());
  }
  dropResult();
  if (before) URL.revokeObjectURL(before.url);
  before = { url };
  openViewer();
  await compare.show(url, null);
  part("name").textContent = `${source.name}, ${compare.size[0]}×${compare.size[1]}`;
  part("restore").disabled = false;
}

function openViewer() {
  part("welcome").hidden = true;
  part("viewer").hidden = false;
  part("another").hidden = false;
}

function canShow(url) {
  return new Promise((resolve) => {
    const image = new Image();
    image.onload = () => resolve(true);
    image.onerror = () => resolve(false);
    image.src = url;
  });
}

function dropResult() {
  if (result) {
    URL.revokeObjectURL(result.url);
    if (result.shown !== result.url) URL.revokeObjectURL(result.shown);
  }
  result = null;
  part("result").hidden = true;
  setDownload();
}

function setDownload() {
  const link = part("download");
  if (result) {
    link.href = result.url;
    link.download = result.name;
    link.removeAttribute("aria-disabled");
  } else {
    link.removeAttribute("href");
    link.removeAttribute("download");
    link.setAttribute("aria-disabled", "true");
  }
}

// ---- restoring -------------------------------------------------------------------------------------------------------

async function restore() {
  if (!source) return;
  clearError();
  openViewer();
  const query = wishes();
  try {
    const answer = await ask("restore", query, source.blob, "Restoring");
    const report = JSON.parse(answer.headers.get("Moceir-Report"));
    const blob = await answer.blob();
    const url = URL.createObjectURL(blob);
    let seen = url;
    if (!shown(blob.type)) {
      const picture = await ask("degrade", new URLSearchParams({ suffix: report.format }), blob, "Opening");
      seen = URL.createObjectURL(await picture.blob());
    }
    dropResult();
    const stem = source.name.replace(/\.\w{1,8}$/, "");
    result = { url, shown: seen, report, name: `${stem}_restored.${report.format}` };
    await compare.show(before.url, seen);
    tellResult();
  } catch (error) {
    if (error.name === "AbortError") tell("Cancelled.");
    else fail(explain(error));
  }
}

function tellResult() {
  const { report } = result;
  setDownload();
  const facts = [
    ["Took", `${report.seconds < 10 ? report.seconds.toFixed(1) : Math.round(report.seconds)} s`],
    ["Cost at 1280×720", gmacs(report.gmacs)],
    ["Picture", `${report.width}×${report.height}${report.frames > 1 ? `, ${report.frames} pictures` : ""}`],
    ["File", `${report.format.toUpperCase()}, ${report.depth}`],
  ];
  if (report.psnr) {
    const decibels = (value) => (value === null ? "∞" : value.toFixed(2));
    facts.unshift(["PSNR to the clean one", `${decibels(report.psnr.degraded)} → ${decibels(report.psnr.restored)} dB`]);
  }
  part("facts").replaceChildren(...facts.map(([term, value]) => {
    const pair = document.createElement("div");
    const [dt, dd] = [document.createElement("dt"), document.createElement("dd")];
    dt.textContent = term;
    dd.textContent = value;
    pair.append(dt, dd);
    return pair;
  }));
  part("warnings").replaceChildren(...report.warnings.map((warning) => {
    const item = document.createElement("li");
    item.textContent = warning;
    return item;
  }));
  part("result").hidden = false;
  const layers = settings.experts_gmacs.length;
  // The server may have been started again with another network since the page was opened.
  part("route-figure").hidden = layers === 0 || report.experts.length !== layers;
  if (!part("route-figure").hidden) {
    const limit = part("expert").value === "" ? budget() : 0;
    part("route-text").textContent = describe(report, limit);
    part("route").replaceChildren(drawRoute(report, settings, limit, part("route").clientWidth));
  }
  tell(`Restored in ${report.seconds.toFixed(1)} seconds. ${gmacs(report.gmacs)}.`);
}

// ---- requests to the server ------------------------------------------------------------------------------------------

async function ask(path, query, body, what) {
  stop();
  const controller = new AbortController();
  busy = controller;
  const begun = performance.now();
  const clock = () => { part("busy-text").textContent = `${what} … ${((performance.now() - begun) / 1000).toFixed(0)} s`; };
  clock();
  const ticking = setInterval(clock, 500);
  part("busy").hidden = false;
  part("view").setAttribute("aria-busy", "true");
  tell(`${what} …`);
  try {
    for (let attempt = 0; ; attempt++) {
      const answer = await fetch(`${path}?${query}`, {
        method: "POST", body, signal: controller.signal, headers: { "Content-Type": "application/octet-stream" },
      });
      if (answer.status === 429 && attempt < 20) { // the queue is full
        const seconds = Math.max(1, Number(answer.headers.get("Retry-After")) || 1);
        tell("The server is busy with others; waiting …");
        await pause(seconds * 1000, controller.signal);
        continue;
      }
      if (!answer.ok) throw new Error((await answer.json().catch(() => ({}))).error || `error ${answer.status}`);
      tell("");
      return answer;
    }
  } finally {
    clearInterval(ticking);
    if (busy === controller) {
      busy = null;
      part("busy").hidden = true;
      part("view").removeAttribute("aria-busy");
    }
  }
}

function pause(time, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, time);
    signal.addEventListener("abort", () => { clearTimeout(timer); reject(signal.reason); }, { once: true });
  });
}

function stop() {
  if (busy) busy.abort();
}

// ---- words -----------------------------------------------------------------------------------------------------------

function megabytes(bytes) { return `${(bytes / 1e6).toLocaleString("en", { maximumFractionDigits: 1 })} MB`; }

function explain(error) {
  if (error instanceof TypeError) return "The server does not answer. Is it running? Try again when it is.";
  const text = String(error.message || error).replace(/^picture(\.\w+)?: /, "");
  return text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");
}

function tell(text) { part("status").textContent = text; }

function fail(text) {
  tell("");
  part("error").textContent = text;
  part("error").hidden = false;
  part("error").scrollIntoView({ block: "nearest" });
}

function clearError() { part("error").hidden = true; }

function tellValues() {
  const value = (id) => Number(part(id).value);
  const texts = {
    noise: value("noise") ? `σ ${value("noise")}` : "none",
    blur: value("blur") ? `${value("blur")} px` : "none",
    jpeg: value("jpeg") ? `quality ${100 - value("jpeg")}` : "none",
    strength: `${Math.round(value("strength") * 100)} %`,
    texture: `${Math.round(value("texture") * 100)} %`,
  };
  if (settings) texts.budget = budget() ? `${budget().toFixed(1)} GMACs` : "no limit";
  for (const [id, text] of Object.entries(texts)) {
    part(`${id}-value`).textContent = text;
    part(id).setAttribute("aria-valuetext", text);
  }
}

// ---- events ----------------------------------------------------------------------------------------------------------

part("controls").addEventListener("submit", (event) => { event.preventDefault(); restore(); });
part("controls").addEventListener("input", tellValues);
part("cancel").addEventListener("click", stop);
part("file").addEventListener("change", () => { takeFile(part("file").files[0]); part("file").value = ""; });
part("another").addEventListener("click", () => {
  stop();
  part("welcome").hidden = false;
  part("viewer").hidden = true;
  part("result").hidden = true;
  part("another").hidden = true;
  clearError();
  part("samples").querySelector("button")?.focus();
});

// After the first restoration, apply every change at once.
let resting = 0;
let again = false;
function follow(worse) {
  clearTimeout(resting);
  if (!source) return;
  again ||= result !== null;
  resting = setTimeout(async () => {
    try {
      if (worse) await showBefore();
      if (again) await restore();
      again = false;
    } catch (error) {
      if (error.name !== "AbortError") fail(explain(error));
    }
  }, PATIENCE);
}
part("degrading").addEventListener("input", () => follow(true));
part("restoring").addEventListener("input", (event) => { if (event.target.id) follow(false); });

let depth = 0; // number of nested elements that a dragged file is over
const carriesFile = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
document.addEventListener("dragenter", (event) => { if (carriesFile(event)) { depth++; part("drop").hidden = false; } });
document.addEventListener("dragleave", (event) => {
  if (carriesFile(event) && --depth <= 0) { depth = 0; part("drop").hidden = true; }
});
document.addEventListener("dragover", (event) => { if (carriesFile(event)) event.preventDefault(); });
document.addEventListener("drop", (event) => {
  if (!carriesFile(event)) return;
  event.preventDefault();
  depth = 0;
  part("drop").hidden = true;
  takeFile(event.dataTransfer.files[0]);
});
document.addEventListener("paste", (event) => {
  const file = [...(event.clipboardData?.files ?? [])][0];
  if (file) takeFile(file);
});

start();
