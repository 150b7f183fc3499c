// Requests to the server that this page came from, which may be below any path: addresses are relative.

let token = storedToken();

export class RequestError extends Error {
  constructor(status, problem) {
    super([problem.detail || problem.title || `status ${status}`, problem.hint].filter(Boolean).join("; "));
    this.status = status;
  }

  /** Whether the same request may succeed later. */
  get temporary() {
    return [0, 408, 429, 503, 504].includes(this.status);
  }

  /** Whether the cause is the file, not the server. */
  get concernsFile() {
    return [413, 415, 422].includes(this.status);
  }
}

const unreachable = () => new RequestError(0, { detail: "The server cannot be reached", hint: "is it still running?" });

// A browser may forbid storage; the token is then forgotten with the page.
function storedToken() {
  try {
    return sessionStorage.getItem("resnets-token");
  } catch {
    return null;
  }
}

export function setToken(word) {
  token = word;
  try {
    sessionStorage.setItem("resnets-token", word);
  } catch { /* see above */ }
}

async function request(path, options = {}) {
  const headers = { ...options.headers };
  if (token) headers.Authorization = `Bearer ${token}`;
  let answer;
  try {
    answer = await fetch(path, { ...options, headers });
  } catch (error) {
    throw error.name === "AbortError" ? error : unreachable();
  }
  if (answer.status === 401) {
    throw new RequestError(401, { detail: token ? "The server does not accept this token" : "The server requires a token" });
  }
  if (!answer.ok) throw new RequestError(answer.status, await answer.json().catch(() => ({})));
  return answer;
}

async function json(path, options) {
  const answer = await request(path, options);
  try {
    return await answer.json();
  } catch (error) {
    throw error.name === "AbortError" ? error : unreachable();
  }
}

export const facts = () => json("v1/models");
export const samples = async () => (await json("v1/samples")).samples;
export const sample = async (url, signal) => (await request(url, { signal })).blob();

function post(verb, model, file, signal, query = {}) {
  const parameters = new URLSearchParams({ model, ...query });
  const headers = { "Content-Type": "application/octet-stream" };
  return json(`v1/${verb}?${parameters}`, { method: "POST", body: file, headers, signal });
}

export const predict = (model, file, signal) => post("predict", model, file, signal);
export const explain = (model, file, signal, index) => post("explain", model, file, signal, { class: index });
export const detect = (model, file, signal) => post("detect", model, file, signal, { score: 0, limit: 100 });
