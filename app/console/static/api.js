// The public API, as any other client calls it.
const KEY = "psharelora-key";

export const key = () => sessionStorage.getItem(KEY) ?? "";
export const useKey = (text) => sessionStorage.setItem(KEY, text);

export class Problem extends Error {
  constructor(status, document) {
    super(document.detail ?? `The server answered ${status}.`);
    this.status = status;
    this.code = document.code;
  }
}

async function request(path, { method = "GET", body, signal } = {}) {
  const headers = {};
  if (key()) headers.Authorization = `Bearer ${key()}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const response = await fetch(path, { method, headers, signal, body: body && JSON.stringify(body) });
  if (!response.ok) throw new Problem(response.status, await response.json().catch(() => ({})));
  return response;
}

export async function call(path, options) {
  const response = await request(path, options);
  return response.status === 204 ? null : response.json();
}

// What may not be there, or not for this key: null, so that the rest of a page is shown.
export async function optional(path, options) {
  try {
    return await call(path, options);
  } catch (problem) {
    if (problem instanceof Problem && [403, 404, 409, 422, 503].includes(problem.status)) return null;
    throw problem;
  }
}

// Server-sent events by fetch: EventSource cannot send the key.
export async function* follow(path, signal) {
  const response = await request(path, { signal });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    text = (text + value).replaceAll("\r\n", "\n");
    for (let end = text.indexOf("\n\n"); end >= 0; end = text.indexOf("\n\n")) {
      const data = text.slice(0, end).split("\n").filter((line) => line.startsWith("data: "));
      text = text.slice(end + 2);
      if (data.length) yield JSON.parse(data.map((line) => line.slice(6)).join("\n"));
    }
  }
}

export const environmentPath = (name) => `/v1/environments/${encodeURIComponent(name)}`;
export const adminPath = (name) => `/v1/admin/environments/${encodeURIComponent(name)}`;
export const userPath = (name, user) => `${environmentPath(name)}/users/${encodeURIComponent(user)}`;

// A catalogue's titles or texts by id, as far as a page can show them.
export async function titles(name) {
  const found = new Map();
  let after = "";
  do {
    const page = await call(`${environmentPath(name)}/items?limit=1000${after && `&after=${encodeURIComponent(after)}`}`);
    for (const item of page.items) found.set(item.id, item.title ?? item.text ?? item.id);
    after = found.size < 5000 ? page.next ?? "" : "";
  } while (after);
  return found;
}
