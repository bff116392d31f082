// The page of istvt serve: upload, progress, verdict, and a score curve that moves the video and its heatmaps.
"use strict";

const FRAMES_A_SECOND = 4; // of an explanation's MP4
const $ = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
const defaults = document.querySelector("main").dataset;
const state = { job: null, events: null, request: null, person: 0, clip: 0, shown: "" };

// Requests

async function ask(method, address, body) {
  const options = { method, headers: body ? { "Content-Type": "application/json" } : {} };
  const answer = await fetch(address, { ...options, body: body && JSON.stringify(body) });
  const data = answer.status === 204 ? null : await answer.json();
  if (!answer.ok) throw new Error(data.detail || answer.statusText);
  return data;
}

function upload(file) {
  reset();
  if (file.size > Number(defaults.maxBytes)) {
    fail(`${file.name} is larger than ${Number(defaults.maxBytes) / 1048576} MiB, the most that this server takes.`);
    return;
  }
  const form = new FormData();
  if ($("first-method").value) form.append("method", $("first-method").value);
  if ($("person").value) form.append("person", $("person").value);
  form.append("file", file, file.name);
  const request = new XMLHttpRequest();
  const began = performance.now();
  state.request = request;
  show("working");
  $("working-name").textContent = file.name;
  progress("uploading", 0, null);
  request.upload.addEventListener("progress", (event) => {
    const fraction = event.lengthComputable ? event.loaded / event.total : 0;
    const seconds = (performance.now() - began) / 1000;
    progress(fraction < 1 ? "uploading" : "checking the file", fraction, seconds > 1 && fraction && fraction < 1 ? (seconds * (1 - fraction)) / fraction : null);
  });
  request.addEventListener("load", () => {
    state.request = null;
    let data = {};
    try { data = JSON.parse(request.responseText); } catch { /* no JSON: the sentence below */ }
    if (request.status === 202) follow(data.id);
    else fail(data.detail || `The server answered ${request.status}.`);
  });
  request.addEventListener("error", () => fail("The connection to the server was lost."));
  request.open("POST", "/v1/videos");
  request.send(form);
}

function follow(id) {
  history.replaceState(null, "", `#job=${id}`);
  state.events?.close();
  const events = new EventSource(`/v1/jobs/${encodeURIComponent(id)}/events`);
  state.events = events;
  events.addEventListener("job", (event) => update(JSON.parse(event.data)));
  events.addEventListener("end", () => events.close());
  events.addEventListener("error", async () => {
    if (events.readyState !== EventSource.CLOSED || state.events !== events) return;
    try { update(await ask("GET", `/v1/jobs/${encodeURIComponent(id)}`)); } catch (error) { fail(error.message); }
  });
}

// What is shown

function show(name) {
  for (const id of ["choose", "working", "result"]) $(id).hidden = id !== name && !(id === "working" && name === "both");
  if (name === "both") $("result").hidden = false;
  if (name !== "choose") $("problem").hidden = true;
}

function reset() {
  state.events?.close();
  Object.assign(state, { job: null, events: null, request: null, person: 0, clip: 0, shown: "" });
  for (const id of ["source", "heat-a", "heat-b"]) { $(id).removeAttribute("src"); $(id).load(); }
  $("method-b").value = "";
  $("view").value = "panels";
  history.replaceState(null, "", location.pathname);
  $("file").value = "";
  show("choose");
}

function fail(sentence) {
  reset();
  $("problem").hidden = false;
  $("problem-text").textContent = sentence;
  $("file").focus();
}

function timeLeft(seconds) {
  if (seconds === null) return "";
  if (seconds < 90) return `about ${Math.max(1, Math.round(seconds))} s left`;
  return `about ${Math.round(seconds / 60)} min left`;
}

function progress(stage, fraction, seconds, ahead) {
  const sentence = ahead ? `${stage}: ${ahead} before this one` : stage;
  if ($("stage").textContent !== sentence) $("stage").textContent = sentence;
  $("bar").value = fraction;
  $("left").textContent = [`${Math.round(100 * fraction)} %`, timeLeft(seconds)].filter(Boolean).join(", ");
}

function update(job) {
  state.job = job;
  if (job.status === "failed") { fail(job.problem.detail); return; }
  const busy = job.status === "waiting" || job.status === "running";
  if (!job.result) {
    show("working");
  } else {
    const first = state.shown !== job.id;
    show(busy ? "both" : "result");
    if (first) begin(job);
    renderPerson();
  }
  $("working-name").textContent = job.video.name;
  if (busy) progress(job.progress.stage, job.progress.fraction, job.progress.seconds_left, job.progress.ahead);
  if (job.result) heatmaps();
}

function begin(job) {
  state.shown = job.id;
  const result = job.result;
  const words = { real: "Real", fake: "Fake", "not sure": "Not sure" };
  $("verdict").textContent = `${words[result.verdict]}: ${job.video.name}`;
  $("verdict").className = `verdict ${result.verdict === "not sure" ? "" : result.verdict}`;
  const several = result.people.length > 1;
  const whose = several ? `, that of person ${result.person}, the most suspicious of ${result.people.length}` : "";
  $("probability").textContent = `Probability of fake ${result.probability_fake.toFixed(3)}${whose}.`;
  const band = result.not_sure;
  const doubts = [result.remark, ...result.not_scored, ...result.notes];
  if (band && band.between[0] < band.between[1]) {
    const [low, high] = band.between.map((value) => value.toFixed(3));
    doubts.unshift(`Between ${low} and ${high} there is no verdict: with one, more than ${100 * band.max_error} % of all could be wrong.`);
  }
  $("doubts").replaceChildren(...doubts.filter(Boolean).map((text) => element("p", sentence(text), "soft")));
  state.person = Math.max(0, result.people.findIndex((person) => person.person === result.person));
  const choices = result.people.map((person, place) => {
    const label = element("label", "");
    const input = element("input");
    Object.assign(input, { type: "radio", name: "who", value: place, checked: place === state.person });
    input.addEventListener("change", () => { state.person = place; state.clip = surest(); renderPerson(); heatmaps(); go(); });
    const about = `${person.verdict}, ${person.probability_fake.toFixed(3)}, seen ${person.seconds_seen.toFixed(1)} s`;
    label.append(input, ` Person ${person.person}: ${about}`);
    return label;
  });
  $("people").replaceChildren($("people").querySelector("legend"), ...choices);
  $("people").hidden = !several;
  $("source").src = `/v1/jobs/${job.id}/video`;
  $("unplayable").hidden = true;
  $("source").hidden = false;
  const video = job.video;
  $("about").textContent = `${video.name}, ${video.bytes.toLocaleString("en")} bytes, ${video.width}×${video.height} ${video.codec}, ${video.frames} frames, ${video.seconds.toFixed(2)} s.`;
  $("sha").textContent = `SHA-256 ${video.sha256}`;
  if (job.explanations.length) $("method-a").value = job.explanations[0].method;
  $("heatmaps").hidden = !job.explanations.length;
  state.clip = surest();
  $("verdict").focus({ preventScroll: true });
}

function sentence(text) { return `${text[0].toUpperCase()}${text.slice(1).replace(/\.$/, "")}.`; }

function element(name, text, kind) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (kind) made.className = kind;
  return made;
}

function person() { return state.job.result.people[state.person]; }

function fps() { return state.job.result.fps || 25; }

function middle(frames) { return (frames.reduce((sum, frame) => sum + frame, 0) / frames.length + 0.5) / fps(); }

function surest() {
  const { clip_probabilities: scores, verdict } = person();
  const best = verdict === "real" ? Math.min(...scores) : Math.max(...scores);
  return scores.indexOf(best);
}

function explanation(method) { return state.job.explanations.find((found) => found.method === method); }

function explained(method) {
  const found = explanation(method);
  const number = person().person;
  return found?.status === "done" ? found.explained.find((one) => one.person === number)?.clip_frames || [] : [];
}

function isExplained(frames) { return explained($("method-a").value).some((clip) => clip[0] === frames[0]); }

function renderPerson() {
  const { clip_probabilities: scores, clip_frames: clips } = person();
  $("clip").max = clips.length - 1;
  $("clip").value = state.clip;
  const low = Math.min(...scores).toFixed(3);
  const high = Math.max(...scores).toFixed(3);
  $("curve-text").textContent = `${clips.length} clips over ${(state.job.result.frames / fps()).toFixed(1)} s, from ${low} to ${high}.`;
  $("clips").replaceChildren(...clips.map((frames, place) => {
    const row = element("tr");
    const cells = [middle(frames).toFixed(2), `${frames[0]} to ${frames.at(-1)}`, scores[place].toFixed(3), isExplained(frames) ? "yes" : "no"];
    const head = element("th", String(place + 1));
    head.scope = "row";
    row.append(head, ...cells.map((text) => element("td", text)));
    return row;
  }));
  draw();
  where();
}

// The curve

function place(seconds, probability) {
  const width = $("curve").clientWidth || 600;
  const length = state.job.result.frames / fps() || 1;
  return [34 + (seconds / length) * (width - 46), 150 - 138 * probability];
}

function shape(name, attributes, kind, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (kind) made.setAttribute("class", kind);
  if (text) made.textContent = text;
  return made;
}

function draw() {
  if (!state.job?.result) return;
  const { clip_probabilities: scores, clip_frames: clips, shots } = person();
  const length = state.job.result.frames / fps() || 1;
  const [left] = place(0, 0);
  const [right] = place(length, 0);
  const shapes = [];
  for (const clip of explained($("method-a").value)) {
    const [from] = place(clip[0] / fps(), 0);
    const [to] = place((clip.at(-1) + 1) / fps(), 0);
    shapes.push(shape("rect", { x: from, y: 12, width: Math.max(2, to - from), height: 138 }, "span"));
  }
  for (const value of [0, 0.5, 1]) {
    const [, y] = place(0, value);
    shapes.push(shape("line", { x1: left, x2: right, y1: y, y2: y }, value === 0.5 ? "half" : "grid"));
    shapes.push(shape("text", { x: left - 8, y: y + 4, "text-anchor": "end" }, "", String(value)));
  }
  for (const shot of shots.slice(1)) {
    const [x] = place(shot.first_frame / fps(), 0);
    shapes.push(shape("line", { x1: x, x2: x, y1: 12, y2: 150 }, "cut"));
  }
  shapes.push(shape("text", { x: left, y: 170 }, "", "0 s"), shape("text", { x: right, y: 170, "text-anchor": "end" }, "", `${length.toFixed(1)} s`));
  const points = clips.map((frames, number) => place(middle(frames), scores[number]));
  const shotOf = (frames) => shots.findIndex((shot) => frames[0] >= shot.first_frame && frames[0] <= shot.last_frame);
  let path = "";
  points.forEach(([x, y], number) => {
    const joined = number && shotOf(clips[number]) === shotOf(clips[number - 1]);
    path += `${joined ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`;
  });
  shapes.push(shape("path", { d: path }, "line"));
  points.forEach(([x, y], number) => {
    shapes.push(shape("circle", { cx: x, cy: y, r: 5 }, isExplained(clips[number]) ? "dot explained" : "dot"));
  });
  const [x, y] = points[state.clip] || [left, 0];
  shapes.push(shape("circle", { cx: x, cy: y, r: 10 }, "chosen"));
  const now = place($("source").currentTime || 0, 0)[0];
  shapes.push(shape("line", { x1: now, x2: now, y1: 12, y2: 150, id: "cursor" }, "here"));
  $("curve").replaceChildren(...shapes);
}

function where() {
  const { clip_probabilities: scores, clip_frames: clips } = person();
  const frames = clips[state.clip];
  const about = `Clip ${state.clip + 1} of ${clips.length}, at ${middle(frames).toFixed(2)} s: ${scores[state.clip].toFixed(3)}`;
  const done = explanation($("method-a").value)?.status === "done";
  const inIt = isExplained(frames);
  const nearest = done && !inIt ? nearestExplained(frames) : null;
  const rest = nearest ? `; it is not explained, so the heatmaps show the nearest clip that is, at ${middle(nearest).toFixed(2)} s` : "";
  const sentence = `${about}${rest}.`;
  if ($("where").textContent !== sentence) $("where").textContent = sentence;
  $("clip").setAttribute("aria-valuetext", `${about}${inIt ? ", explained" : ""}`);
  $("more").hidden = !(done && !inIt && explanation($("method-a").value).clips < Math.min(100, clips.length));
}

function nearestExplained(frames) {
  const clips = explained($("method-a").value);
  const distance = (clip) => Math.abs(middle(clip) - middle(frames));
  return clips.reduce((best, clip) => (best === null || distance(clip) < distance(best) ? clip : best), null);
}

// Video and heatmaps

function go() {
  const frames = person().clip_frames[state.clip];
  const frame = frames[Math.floor(frames.length / 2)];
  $("source").currentTime = (frame + 0.5) / fps();
  $("clip").value = state.clip;
  where();
  draw();
  seekHeat(frame);
}

function seekHeat(frame) {
  for (const letter of ["a", "b"]) {
    const clips = explained($(`method-${letter}`).value);
    let before = 0;
    let found = null;
    for (const clip of clips) {
      const at = clip.indexOf(frame);
      if (at >= 0) found = before + at;
      before += clip.length;
    }
    if (found === null) {
      const nearest = nearestExplained(person().clip_frames[state.clip]);
      before = 0;
      for (const clip of clips) {
        if (nearest && clip[0] === nearest[0]) found = before;
        before += clip.length;
      }
    }
    if (found !== null) $(`heat-${letter}`).currentTime = (found + 0.5) / FRAMES_A_SECOND;
  }
}

function heatmaps() {
  const two = Boolean($("method-b").value);
  $("methods").classList.toggle("two", two);
  $("panel-b").hidden = !two;
  for (const letter of two ? ["a", "b"] : ["a"]) heatmap(letter);
  downloads();
}

function heatmap(letter) {
  const method = $(`method-${letter}`).value;
  const found = explanation(method);
  const video = $(`heat-${letter}`);
  const clips = explained(method);
  $(`name-${letter}`).textContent = method;
  video.setAttribute("aria-label", `Heatmaps by ${method}`);
  let says = "";
  if (found?.status === "failed") says = found.problem.detail;
  else if (found?.status !== "done") {
    const how = found?.progress;
    says = how ? [`${how.stage}, ${Math.round(100 * how.fraction)} %`, timeLeft(how.seconds_left)].filter(Boolean).join(", ") : "asked for";
  } else if (!clips.length) says = "No clip of this person could be explained.";
  if ($(`state-${letter}`).textContent !== says) $(`state-${letter}`).textContent = says;
  video.hidden = !clips.length;
  if (!clips.length) return;
  const number = person().person || 0;
  const address = `/v1/jobs/${state.job.id}/explanation?format=mp4&method=${method}&person=${number}&view=${$("view").value}#${found.clips}`;
  if (video.getAttribute("src") !== address) {
    video.src = address;
    video.addEventListener("loadedmetadata", () => go(), { once: true });
  }
}

async function wanted(letter, clips) {
  const method = $(`method-${letter}`).value;
  if (!method) { heatmaps(); return; }
  const found = explanation(method);
  if (!found || found.status === "failed" || clips) {
    try {
      await ask("POST", `/v1/jobs/${state.job.id}/explanations`, { method, ...(clips ? { clips } : {}) });
      follow(state.job.id);
    } catch (error) {
      $(`name-${letter}`).textContent = method;
      $(`state-${letter}`).textContent = error.message;
      return;
    }
  }
  renderPerson();
  heatmaps();
  go();
}

function downloads() {
  const method = $("method-a").value;
  const made = [];
  if (explanation(method)?.status === "done") {
    const base = `/v1/jobs/${state.job.id}/explanation?method=${method}`;
    const kinds = [["Explanation page (HTML)", "html"], ["Data (JSON)", "json"], ["Heatmaps (MP4)", `mp4&person=${person().person || 0}`], ["One-page report (PDF)", "pdf"]];
    for (const [name, kind] of kinds) made.push([name, `${base}&format=${kind}&download=true`]);
    made.unshift(["Open the explanation page", `${base}&format=html`]);
  }
  $("downloads").replaceChildren(...made.map(([name, address]) => {
    const item = element("li");
    const link = element("a", name, "button");
    link.href = address;
    if (!address.includes("download")) link.target = "_blank";
    item.append(link);
    return item;
  }));
}

// Events

$("file").addEventListener("change", () => { if ($("file").files.length) upload($("file").files[0]); });
for (const kind of ["dragenter", "dragover"]) {
  document.addEventListener(kind, (event) => { event.preventDefault(); $("drop").classList.add("over"); });
}
document.addEventListener("dragleave", () => $("drop").classList.remove("over"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  $("drop").classList.remove("over");
  if (event.dataTransfer.files.length && !$("choose").hidden) upload(event.dataTransfer.files[0]);
});
async function stop() {
  const { job, request } = state;
  request?.abort();
  reset();
  $("file").focus();
  if (job) await ask("DELETE", `/v1/jobs/${job.id}`).catch(() => {});
}
$("cancel").addEventListener("click", stop);
$("remove").addEventListener("click", stop);
$("another").addEventListener("click", () => { reset(); $("file").focus(); });
$("clip").addEventListener("input", () => { state.clip = Number($("clip").value); go(); });
$("curve").addEventListener("click", (event) => {
  const x = event.clientX - $("curve").getBoundingClientRect().left;
  const distances = person().clip_frames.map((frames) => Math.abs(place(middle(frames), 0)[0] - x));
  state.clip = distances.indexOf(Math.min(...distances));
  go();
});
$("source").addEventListener("timeupdate", () => {
  if (!state.job?.result) return;
  const frame = Math.floor($("source").currentTime * fps());
  const now = place($("source").currentTime, 0)[0];
  for (const end of ["x1", "x2"]) document.getElementById("cursor")?.setAttribute(end, now);
  if (!$("source").paused && explained($("method-a").value).some((clip) => clip.includes(frame))) seekHeat(frame);
});
$("source").addEventListener("error", () => {
  if (!$("source").getAttribute("src")) return;
  $("source").hidden = true;
  $("unplayable").hidden = false;
});
for (const letter of ["a", "b"]) $(`method-${letter}`).addEventListener("change", () => wanted(letter));
$("view").addEventListener("change", heatmaps);
$("more").addEventListener("click", () => wanted("a", Math.min(100, person().clip_frames.length)));
new ResizeObserver(draw).observe($("curve"));

const known = /^#job=([\w-]+)$/.exec(location.hash);
if (known) follow(known[1]);
else if ($("file").files.length) upload($("file").files[0]);  // chosen before this script ran, or kept by a reload
