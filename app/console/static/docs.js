import { el, table } from "./page.js";

const METHODS = ["get", "put", "post", "delete"];
const json = (value) => el("pre", {}, typeof value === "string" ? value : JSON.stringify(value, null, 2));

function paragraphs(text) {
  // `code` is the only mark-up that descriptions use.
  const parts = (text ?? "").split("`").map((part, index) => (index % 2 ? el("code", {}, part) : part));
  return el("p", {}, ...parts);
}

function examples(content) {
  return Object.entries(content ?? {}).flatMap(([type, media]) => {
    const named = Object.entries(media.examples ?? {}).map(([name, one]) => [one.summary ?? name, one.value]);
    const all = media.example === undefined ? named : [["", media.example]];
    return all.map(([name, value]) => el("div", {}, el("p", { class: "soft" }, `${type} ${name}`), json(value)));
  });
}

function call(path, method, operation) {
  const parameters = (operation.parameters ?? []).map((one) => ({
    cells: [el("code", {}, one.name), `${one.in}${one.required ? ", required" : ""}`, one.description ?? ""],
  }));
  const answers = Object.entries(operation.responses).map(([status, response]) =>
    el("details", {}, el("summary", {}, `${status}: ${response.description}`), ...examples(response.content)));
  return el("details", {},
    el("summary", {}, el("span", { class: "method" }, method.toUpperCase()), el("code", {}, path), ` ${operation.summary}`),
    paragraphs(operation.description),
    parameters.length ? table("Parameters", ["Name", "In", "Meaning"], parameters) : "",
    ...(operation.requestBody ? [el("h3", {}, "Request"), ...examples(operation.requestBody.content)] : []),
    el("h3", {}, "Answers"), ...answers);
}

function render(api) {
  const tags = new Map(api.tags.map((tag) => [tag.name, { description: tag.description, calls: [] }]));
  for (const [path, item] of Object.entries(api.paths)) {
    for (const method of METHODS.filter((name) => item[name])) {
      tags.get(item[method].tags[0]).calls.push(call(path, method, item[method]));
    }
  }
  const sections = [...tags].map(([name, { description, calls }]) =>
    el("section", {}, el("h2", {}, name), paragraphs(description), ...calls));
  const introduction = api.info.description.split("\n\n").map(paragraphs);
  document.getElementById("reference").replaceChildren(...introduction, ...sections);
}

try {
  render(await (await fetch("/openapi.json")).json());
} catch (error) {
  document.getElementById("problem").textContent = `The reference could not be read: ${error.message}`;
}
