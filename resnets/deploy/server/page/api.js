// Requests to the server that this page came from.

const STORE = "resnets-token";

export class Refused extends Error {
  constructor(status, problem) {
    super([problem.detail || problem.title || `status ${status}`, problem.mend].filter(Boolean).join("; "));
    this.status = status;
  }
}

export function setToken(word) {
  sessionStorage.setItem(STORE, word);
}

async function request(path, options = {}) {
  const token = sessionStorage.getItem(STORE);
  const headers = { ...options.headers };
  if (token) headers.Authorization = `Bearer ${token}`;
  let answer;
  try {
    answer = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, { detail: "The server cannot be reached", mend: "is it still running?" });
  }
  const document = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Refused(answer.status, document);
  return document;
}

export const facts = () => request("/v1/models");
export const samples = async () => (await request("/v1/samples")).samples;

function ask(verb, model, file, signal, query = {}) {
  const words = new URLSearchParams({ model, ...query });
  const headers = { "Content-Type": "application/octet-stream" };
  return request(`/v1/${verb}?${words}`, { method: "POST", body: file, headers, signal });
}

export const predict = (model, file, signal) => ask("predict", model, file, signal);
export const explain = (model, file, signal, index) =>
  ask("explain", model, file, signal, index === null ? {} : { class: index });
