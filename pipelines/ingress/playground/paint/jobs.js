// Paintings as jobs: submitted, listed, followed while any is under way, called off. The server keeps them, so they are there again after the page
// was loaded anew; what was asked for is remembered in this tab.

import { act, fetchImage, get, submit } from "../api.js";
import { $, showError } from "../dom.js";
import { JobRow } from "./job_row.js";

const PATH = "v1/images/jobs";
const ASKED = "triptych.jobs"; // in sessionStorage: id -> request, files by their names
const MAX_ASKED = 50;
const LOOK_MS = 1000;
const PAGE = 10;

const rows = new Map(); // id -> JobRow
const originals = new Map(); // id -> the picture that is painted over
let show = null;
let looking = null; // timer
let listed = PAGE;

// `shown`: what is to be done with a picture that is to be seen: (file, sentence, told, original).
export function startJobs(shown) {
  show = shown;
  $("jobs-more").addEventListener("click", () => {
    listed += PAGE;
    lookAtJobs();
  });
  document.addEventListener("visibilitychange", () => !document.hidden && rows.size && lookAtJobs());
}

// `request`: a painting's or an edit's. Raises ApiError.
export async function submitJob({ body, files }, original) {
  const request = { path: PATH, body, files };
  const job = await submit(request);
  remember(job.id, { ...request, files: named(files) });
  if (original) originals.set(job.id, original);
  await lookAtJobs();
}

function named(files) {
  return Object.fromEntries(Object.entries(files ?? {}).map(([name, file]) => [name, file.name || `${name}.png`]));
}

// Shows the list as it is now, and again while any is under way.
export async function lookAtJobs() {
  clearTimeout(looking);
  try {
    const { data, has_more: hasMore } = await get(`${PATH}?limit=${Math.min(listed, 100)}`);
    draw(data);
    $("jobs-more").hidden = !hasMore || listed >= 100;
    $("jobs-error").hidden = true;
    if (data.some((job) => ["queued", "in_progress"].includes(job.status))) lookAgain();
  } catch (error) {
    showError($("jobs-error"), `Jobs: ${error.message}`);
    $("jobs").hidden = false;
    if (rows.size) lookAgain();
  }
}

function lookAgain() {
  looking = setTimeout(() => !document.hidden && lookAtJobs(), LOOK_MS);
}

function draw(jobs) {
  const ids = new Set(jobs.map((job) => job.id));
  for (const id of rows.keys()) if (!ids.has(id)) rows.delete(id);
  const places = jobs.map((job) => {
    if (!rows.has(job.id)) rows.set(job.id, new JobRow(recalled(job.id), { cancel, remove, image, see }));
    rows.get(job.id).draw(job);
    return rows.get(job.id).place;
  });
  if (places.some((place, at) => place !== $("job-list").children[at]) || places.length !== $("job-list").children.length) {
    $("job-list").replaceChildren(...places);
  }
  $("jobs").hidden = !jobs.length;
  $("jobs-note").hidden = jobs.every((job) => job.survives);
}

async function tried(path, method) {
  try {
    await act(method, path);
  } catch (error) {
    showError($("jobs-error"), error.message);
  }
  await lookAtJobs();
}

const cancel = (job) => tried(`${PATH}/${job.id}/cancel`, "POST");
const remove = (job) => tried(`${PATH}/${job.id}`, "DELETE");

// Its first picture, as a file.
async function image(job) {
  const blob = await fetchImage(`${PATH}/${job.id}/content`);
  return new File([blob], `triptych.${job.output_format}`, { type: blob.type });
}

function see(file, sentence, told, job) {
  show(file, sentence, told, originals.get(job.id) ?? null);
}

// What was asked for, in this tab.
function recalled(id) {
  return all()[id] ?? null;
}

function remember(id, request) {
  const kept = [[id, request], ...Object.entries(all())].slice(0, MAX_ASKED);
  try {
    sessionStorage.setItem(ASKED, JSON.stringify(Object.fromEntries(kept)));
  } catch {
    // no room, or none allowed: the job is there all the same
  }
}

function all() {
  try {
    return JSON.parse(sessionStorage.getItem(ASKED)) ?? {};
  } catch {
    return {};
  }
}
