// What all pages use: elements without innerHTML, so that no name can become markup.
export function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children.flat().map((child) => child ?? ""));
  return node;
}

export function table(caption, heads, rows) {
  const numeric = heads.map((head) => head.startsWith("#"));
  const cell = (tag, content, index) => el(tag, { class: numeric[index] ? "number" : null, scope: tag === "th" ? "col" : null }, content);
  return el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": caption },
    el("table", {},
      el("caption", {}, caption),
      el("thead", {}, el("tr", {}, ...heads.map((head, index) => cell("th", head.replace(/^#/, ""), index)))),
      el("tbody", {}, ...rows.map((row) => el("tr", row.attributes ?? {}, ...row.cells.map((c, i) => cell("td", c, i)))))));
}

// A number, its unit, and a sentence that explains it.
export function fact(name, value, unit, sentence) {
  return el("div", { class: "fact" },
    el("dt", {}, name),
    el("dd", {}, el("strong", {}, value), unit ? ` ${unit}` : ""),
    el("dd", { class: "soft" }, sentence));
}

export const facts = (...all) => el("dl", { class: "facts" }, ...all);

// A chart, what it shows in a sentence, and its numbers for those who would rather read.
export function figure(caption, chart, ...numbers) {
  return el("figure", {}, el("figcaption", {}, caption), chart,
    numbers.length ? el("details", {}, el("summary", {}, "The numbers"), ...numbers) : "");
}

// A button that asks once more, in the page's own dialog.
export function confirmed(text, question, deed) {
  return el("button", {
    type: "button",
    onclick: () => {
      const dialog = el("dialog", { "aria-label": question },
        el("p", {}, question),
        el("form", { method: "dialog" }, el("button", { value: "yes" }, text), el("button", { value: "no" }, "Not now")));
      dialog.addEventListener("close", () => {
        dialog.remove();
        if (dialog.returnValue === "yes") deed();
      });
      document.body.append(dialog);
      dialog.showModal();
    },
  }, text);
}

export function section(title, ...children) {
  return el("section", {}, el("h2", {}, title), ...children);
}

export const decimal = (value, digits = 3) => (typeof value === "number" ? value.toFixed(digits) : "not measured");
export const signed = (value, digits = 2) => (typeof value === "number" ? (value > 0 ? "+" : "") + value.toFixed(digits) : "not measured");
export const percent = (value, digits = 0) => (typeof value === "number" ? `${(100 * value).toFixed(digits)}%` : "not measured");
export const count = (value) => (typeof value === "number" ? value.toLocaleString("en") : "none");
export const when = (time) => (time ? new Date(time).toLocaleString() : "never");
export const short = (text, most = 44) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);

export function age(time) {
  const seconds = Math.max(0, (Date.now() - new Date(time).getTime()) / 1000);
  for (const [unit, size] of [["day", 86400], ["hour", 3600], ["minute", 60]]) {
    if (seconds >= size) return `${Math.floor(seconds / size)} ${unit}${seconds >= 2 * size ? "s" : ""}`;
  }
  return `${Math.floor(seconds)} seconds`;
}
